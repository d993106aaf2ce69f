# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Statements of a PostgreSQL script, split where psql splits them."""

from __future__ import annotations

import re

from .sql_script import ScriptError, Splitter

_LETTER = "A-Za-z_\u0080-\U0010ffff"
_BLANK = r"[ \t\n\r\f\v]"
# What cannot end a statement and holds no word that matters: taken in one step. A word before a quote may be a prefix.
_PLAIN = re.compile(
    rf"(?:[^{_LETTER}'\"$\-/;()\\]+|[{_LETTER}][{_LETTER}0-9$]*(?![{_LETTER}0-9$'])|'[^']*'|\"[^\"]*\"|-(?!-)|/(?!\*))+"
)
_TOKEN = re.compile(
    rf"(?P<blank>{_BLANK}+)|(?P<line>--)|(?P<word>[{_LETTER}][{_LETTER}0-9$]*)|(?P<dollar>\$(?:[{_LETTER}][{_LETTER}0-9]*)?\$)"
    r"|(?P<comment>/\*)|(?P<parameter>\$[0-9]+)|(?P<sign>[^\w])|(?P<digits>[0-9]+)",
    re.S,
)
_ESCAPED = re.compile(r"(?:[^'\\]+|\\.|'')*", re.S)
_STANDARD_STRINGS = re.compile(
    r"SET\s+(?:SESSION\s+|LOCAL\s+)?standard_conforming_strings(?:\s*=|\s+TO\s)\s*'?(\w+)"
    r"|RESET\s+(?:standard_conforming_strings|ALL)\b", re.I
)
# What must be looked at word by word: bodies with BEGIN ATOMIC, COPY's rows, and SET's effect on strings.
_WATCHED = ("CREATE", "COPY", "SET")
_END_OF_LINE = re.compile(r"[ \t\r\f\v]*(?:--[^\n]*)?(?:\n|$)")
# pg_dump's brackets around its output: between them psql refuses meta-commands, which here is so anyway.
_RESTRICT = re.compile(r"\\(?:un)?restrict[ \t]+\S+[ \t\r]*(?:\n|$)")


class PostgresSplitter(Splitter):
    """See Splitter. COPY … FROM STDIN yields a statement of kind `copy`, a psql meta-command one of kind `meta`."""

    line_end = re.compile(r"[\n\r]")

    def __init__(self, stream):
        super().__init__(stream)
        self._standard = True
        self._escape_string = False  # an E'' string has just ended: a further piece of it may follow
        self._newline = False
        self._rows = None

    def _reset(self):
        super()._reset()
        self._atomic = 0

    def __iter__(self):
        for statement in super().__iter__():
            yield statement
            if statement.kind == "copy":
                statement.data.drain()
            elif statement.word in ("SET", "RESET"):
                found = _STANDARD_STRINGS.match(statement.text)
                if found:
                    self._standard = (found.group(1) or "on").lower() in ("on", "true", "yes", "1", "default")

    def token(self):
        if self.words and self.word not in _WATCHED and self._standard and not self._escape_string:
            plain = _PLAIN.match(self.text, self.pos)
            if plain:
                self.pos = plain.end()
                return None
        found = _TOKEN.match(self.text, self.pos)
        kind, text = found.lastgroup, found.group()
        if kind == "blank":
            self._newline = self._newline or "\n" in text or "\r" in text
            self.pos = found.end()
            return None
        if kind == "line":
            self.enter(found.end(), self.line_comment)
            return None
        if kind == "comment":
            self.enter(found.end(), self.comment())
            return None
        continued = self._escape_string and self._newline
        self._escape_string = self._newline = False
        if text == "\\":
            return self._meta()
        if text == ";" and not self.depth and not self._atomic:
            return self._end()
        self.begin()
        if kind == "word":
            self._word(found)
        elif kind == "dollar":
            self.enter(found.end(), lambda: self.find(text))
        elif text == "'":
            self._string(self.pos, continued or not self._standard)
        elif text == '"':
            self.enter(found.end(), lambda: self.find('"'))
        else:
            self.pos = found.end()
            if text == "(":
                self.depth += 1
            elif text == ")":
                self.depth = max(0, self.depth - 1)
        return None

    def _string(self, quote, escapes):
        if not escapes:
            self.enter(quote + 1, lambda: self.find("'"))
            return

        def read():
            if not self.escaped(_ESCAPED, "'"):
                return False
            self._escape_string, self._newline = True, False
            return True

        self.enter(quote + 1, read)

    def _word(self, found):
        word = found.group().upper()
        self.pos = found.end()
        if word == "E" and self.text.startswith("'", self.pos):
            self._string(self.pos, True)
            return
        if len(self.words) < 4 or (self.word == "COPY" and not self.depth):
            self.words.append(word)
        if self.depth or not self._routine():
            return
        # As in psql: BEGIN opens the body of an SQL-standard routine, CASE only nests inside one.
        if word == "BEGIN" or (word == "CASE" and self._atomic):
            self._atomic += 1
        elif word == "END" and self._atomic:
            self._atomic -= 1

    def _routine(self):
        names = self.words[3:4] if self.words[1:3] == ["OR", "REPLACE"] else self.words[1:2]
        return self.word == "CREATE" and names in (["FUNCTION"], ["PROCEDURE"])

    def _end(self):
        end, line = self.pos, self.line_at(self.pos)
        self.pos += 1
        if self.word != "COPY" or not self._from_stdin():
            return self.finish(end)
        self.whole_line()
        rest = _END_OF_LINE.match(self.text, self.pos)
        if not rest:
            raise ScriptError("text behind COPY … FROM STDIN; its rows begin on the next line", line)
        data_start = rest.end()
        self.line_at(data_start)
        statement = self.finish(end, "copy", CopyData(self))
        self.pos = data_start
        return statement

    def _from_stdin(self):
        return any(pair == ("FROM", "STDIN") for pair in zip(self.words, self.words[1:]))

    def _meta(self):
        end = self.whole_line()
        if not self.started:
            restrict = _RESTRICT.match(self.text, self.pos)
            if restrict:
                self.pos = restrict.end()
                return None
        self.begin()
        self._first_line = self.line_at(self.pos)
        self._begin, self._parts = self.pos, []
        self.pos = end
        return self.finish(self.pos, "meta")


class CopyData:
    """The rows behind COPY … FROM STDIN up to the line `\\.`: a binary file to read from. It moves the splitter on."""

    def __init__(self, splitter):
        self._splitter, self._bytes, self._ended = splitter, b"", False
        self.digest = None  # a hashlib object that gets every row, where somebody sets one

    def _line(self):
        """The next line whole, though a chunk may end with a semicolon in the middle of it."""
        splitter, parts = self._splitter, []
        while not (parts and parts[-1].endswith("\n")):
            if splitter.pos >= len(splitter.text) and not splitter.next_chunk():
                break
            end = splitter.text.find("\n", splitter.pos) + 1 or len(splitter.text)
            parts.append(splitter.text[splitter.pos:end])
            splitter.pos = end
        return "".join(parts)

    def read(self, size=65536):
        """Up to `size` bytes of rows, empty at their end."""
        lines, length = [self._bytes], len(self._bytes)
        while length < size and not self._ended:
            line = self._line()
            if not line or line.rstrip("\r\n") == "\\.":
                self._ended = True
            else:
                lines.append(line.encode())
                length += len(lines[-1])
        rows = b"".join(lines)
        self._bytes = rows[size:]
        if self.digest:
            self.digest.update(rows[:size])
        return rows[:size]

    readline = read  # psycopg2 wants one and never calls it

    def drain(self):
        """Skip what nobody has read."""
        while self.read():
            pass
