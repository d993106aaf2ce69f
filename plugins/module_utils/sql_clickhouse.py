# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Statements of a ClickHouse script, split where clickhouse-client splits them."""

from __future__ import annotations

import re

from .sql_script import Splitter

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
# What begins a statement or a comment rather than a row. Fields of a row are parted by tabs, words of SQL hardly ever.
_NO_ROW = re.compile(
    r"[ \t\f]*(?:;|\(|--|/[/*]|\#[ !]|"
    r"(?:ALTER|ATTACH|BACKUP|CHECK|CREATE|DELETE|DESC|DESCRIBE|DETACH|DROP|EXCHANGE|EXISTS|"
    r"EXPLAIN|GRANT|INSERT|KILL|OPTIMIZE|RENAME|REPLACE|RESTORE|REVOKE|SELECT|SET|SHOW|SYSTEM|TRUNCATE|UNDROP|UPDATE|USE|"
    r"WITH)(?:[ \r(][^\t\n]*)?$)", re.I | re.M,
)
# Behind these, FORMAT is the name of a column or table.
_NAME_FOLLOWS = re.compile(r"[-,.(\[{+*/%=<>!|?:]|INTO|TABLE|WHERE|PREWHERE|HAVING|AND|OR|NOT|BY|IN|LIKE|ON", re.I)


class ClickHouseSplitter(Splitter):
    """See Splitter. The rows of INSERT … FORMAT are part of its statement.

    For clickhouse-client they end at an empty line, for older ones at the line's end: one row with a statement right
    behind it is taken as those do, anything else as the client of today.
    """

    def _reset(self):
        super()._reset()
        self._format = False  # the word FORMAT of an INSERT has just been read
        self._before = ""  # the token before this one
        self._expects_rows = False
        self._select = self._input = False  # whether an INSERT has had them: one with SELECT has rows only for input()

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
            before, self._before = self._before, text
            if kind == "word":
                return self._word(found, before)
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
                self._input = self._input or (text == "(" and before.upper() == "INPUT")
        return None

    def _word(self, found, before):
        word = found.group().upper()
        self.pos = found.end()
        if not self.words:
            self.words.append(word)
            self._expects_rows = word == "INSERT"
        elif not self._expects_rows:
            return None
        elif word == "SELECT":
            self._select = True
        elif self.depth or (self._select and not self._input):
            return None
        elif self._format:
            self._format = False
            self._expects_rows = False
            if word != "VALUES":
                return self._data()
        elif word in ("VALUES", "INFILE"):
            self._expects_rows = False
        else:
            self._format = word == "FORMAT" and not _NAME_FOLLOWS.fullmatch(before)
        return None

    def _data(self):
        """Rows: the rest of the line, or the next line where nothing but blanks is left of it, and maybe more."""
        self.whole_line()
        self.pos = _DATA.match(self.text, self.pos).end()
        self.pos = end = self.whole_line()
        if end < len(self.text):
            self.pos += 1
            self.whole_line()
            if _NO_ROW.match(self.text, self.pos):
                return self._cut(self.finish(end, raw=True))
        empty = True  # what is read of the line so far
        while self.pos < len(self.text) or self.next_chunk():
            end = self.text.find("\n", self.pos)
            empty = empty and not self.text[self.pos:end if end >= 0 else None].strip("\r")
            if end < 0:
                self.pos = len(self.text)
            elif empty:
                return self._cut(self.finish(self.pos, raw=True))
            else:
                self.pos, empty = end + 1, True
        return self.finish(self.pos, raw=True)

    @staticmethod
    def _cut(statement):
        """`statement` without the line's end behind its last row; what else is blank may be a field."""
        for end in "\n\r":
            if statement.text.endswith(end):
                statement.text = statement.text[:-1]
        return statement
