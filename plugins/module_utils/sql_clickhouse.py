# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Statements of a ClickHouse script, split where clickhouse-client splits them."""

from __future__ import annotations

import re

from .sql_script import ScriptError, Splitter

_ESCAPED = {quote: re.compile(rf"(?:[^{quote}\\]+|\\.|{quote}{quote})*", re.S) for quote in "'\"`"}
_TYPOGRAPHIC = {"\u2018": "\u2019", "\u201c": "\u201d"}  # newer servers take these for quotes
# What cannot end a statement and holds no word that matters: taken in one step.
_WORD = r"(?:[A-Za-z_][A-Za-z0-9_$]*|[0-9][A-Za-z0-9_]*)"
_PLAIN = re.compile(
    rf"(?:[^'\"`$\-/\#;\u2018\u201cA-Za-z0-9_]+|{_WORD}|'[^'\\]*'|-(?!-)|/(?![/*])|\#(?![ !]))+"
)
_TOKEN = re.compile(
    r"(?P<blank>[ \t\n\r\f\v\u00a0]+)|(?P<line>--|//|\#[ !])|(?P<comment>/\*)"
    rf"|(?P<word>{_WORD})|(?P<heredoc>\$[A-Za-z0-9_]*\$)|(?P<sign>.)", re.S,
)
_DATA = re.compile(r"[ \t\f]*\r?(?:\n|$)?")
# The first letter of a statement or of a comment; what else follows inline data is more of it.
_NOT_DATA = re.compile(r"[ \t\r\f]*(?:[A-Za-z;/\-#(]|\n|$)")


class ClickHouseSplitter(Splitter):
    """See Splitter. The data of INSERT … FORMAT is part of its statement, to the line's end as in clickhouse-client."""

    def _reset(self):
        super()._reset()
        self._format = False  # the word FORMAT of an INSERT has just been read
        self._rows = None  # the name of the format whose rows have to be read yet
        self._expects_rows = False

    def token(self):
        if self.words and not self._expects_rows:
            plain = _PLAIN.match(self.text, self.pos)
            if plain:
                self.pos = plain.end()
                return None
        found = _TOKEN.match(self.text, self.pos)
        kind, text = found.lastgroup, found.group()
        if kind == "blank":
            self.pos = found.end()
        elif kind == "line":
            self.enter(found.end(), self.line_comment)
        elif kind == "comment":
            self.enter(found.end(), self.comment())
        elif text == ";":
            self.pos += 1
            return self.finish(self.pos - 1)
        else:
            self.begin()
            if kind == "word":
                return self._word(found)
            self._format = False
            if kind == "heredoc":
                self.enter(found.end(), lambda: self.find(text))
            elif text in _ESCAPED:
                self.enter(found.end(), lambda: self.escaped(_ESCAPED[text], text))
            elif text in _TYPOGRAPHIC:
                self.enter(found.end(), lambda: self.find(_TYPOGRAPHIC[text]))
            else:
                self.pos = found.end()
                self.depth += (text == "(") - (text == ")")
        return None

    def _word(self, found):
        word = found.group().upper()
        self.pos = found.end()
        if not self.words:
            self.words.append(word)
            self._expects_rows = word == "INSERT"
        elif not self._expects_rows or self.depth:
            return None
        elif self._format:
            self._format = False
            self._expects_rows = False
            if word != "VALUES":
                return self._data(found.group())
        elif word in ("VALUES", "INFILE"):
            self._expects_rows = False
        else:
            self._format = word == "FORMAT"
        return None

    def _data(self, name):
        """The rest of the line is data, or the next line where nothing but blanks is left of this one."""
        self.whole_line()
        self.pos = _DATA.match(self.text, self.pos).end()
        self.pos = end = self.whole_line()
        statement = self.finish(end)
        if self.pos < len(self.text):
            self.pos += 1
        self.whole_line()
        if not _NOT_DATA.match(self.text, self.pos):
            raise ScriptError(
                f"inline data of FORMAT {name} ends with its first line, as in clickhouse-client, and what follows "
                "looks like more of it: write one INSERT a line, or INSERT … VALUES", self.line_at(self.pos),
            )
        return statement
