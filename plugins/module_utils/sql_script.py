# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An SQL script as a stream of statements: what the splitters of both engines share."""

from __future__ import annotations

import codecs
import re

CHUNK = 1 << 18


class ScriptError(Exception):
    """A script cannot be used as it is. `line` counts from 1; None where the whole file is meant."""

    def __init__(self, message, line=None):
        super().__init__(message)
        self.line = line


class Statement:
    """One statement of a script.

    text: without the semicolon that ends it and the comments before it. line: where it begins, from 1.
    word: its first word in upper case. kind: sql, copy (rows follow, read them from `data`) or meta (psql's own).
    """

    __slots__ = ("data", "kind", "line", "text", "word")

    def __init__(self, text, line, word, kind="sql", data=None):
        self.text, self.line, self.word, self.kind, self.data = text, line, word, kind, data


def chunks(stream):
    """The text of a binary file in pieces that end with a newline or a semicolon, so that no short token is cut.

    Raises ScriptError, with the line, where it is not UTF-8 or holds a NUL character.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, line, first = "", 1, True
    while True:
        block = stream.read(CHUNK)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line += rest.count("\n") + error.object.count(b"\n", 0, error.start)
            raise ScriptError(
                f"not UTF-8 (byte 0x{error.object[error.start]:02x}): save the script as UTF-8", line
            ) from None
        if first and text:
            text, first = text.lstrip("\ufeff"), False
        if "\0" in text:
            line += rest.count("\n") + text.count("\n", 0, text.index("\0"))
            raise ScriptError("a NUL character: is this an SQL script, saved as UTF-8?", line)
        cut = max(text.rfind("\n"), text.rfind(";")) + 1
        if cut or not block:
            piece = rest + (text if not block else text[:cut])
            rest = "" if not block else text[cut:]
            line += piece.count("\n")
            if piece:
                yield piece
        else:
            rest += text
        if not block:
            return


class Splitter:
    """Iterate over the statements of `stream`, a file opened in binary mode, in constant memory.

    A subclass knows the tokens: token() handles what stands at self.pos and moves it on.
    """

    line_end = re.compile(r"\n")  # of a comment

    def __init__(self, stream):
        self.chunks = chunks(stream)
        self.text, self.pos = "", 0  # the current chunk
        self._counted, self._line = 0, 1  # the line number at a position of it
        self._inside = None  # a method that reads on inside a string or comment, and the line where that began
        self._reset()

    def _reset(self):
        self._begin = None  # where the statement begins in the chunk
        self._parts, self._first_line, self.words, self.depth = [], 0, [], 0

    def line_at(self, position):
        """The script's line number at `position` of the current chunk. Positions may only grow."""
        self._line += self.text.count("\n", self._counted, position)
        self._counted = position
        return self._line

    def begin(self):
        """A token that is part of a statement starts at self.pos."""
        if self._begin is None and not self._parts:
            self._begin = self.pos
            self._first_line = self.line_at(self.pos)

    @property
    def started(self):
        """Whether a statement has begun."""
        return self._begin is not None or bool(self._parts)

    @property
    def word(self):
        """The first word of the statement in upper case, empty before it is known."""
        return self.words[0] if self.words else ""

    def enter(self, inside, reader):
        """Go on at `inside` of the token at self.pos with `reader()`, which returns whether it ended in this chunk."""
        line = self.line_at(self.pos)
        self.pos = inside
        if not reader():
            self._inside = (reader, line)

    def find(self, close):
        """Move behind the next `close`; False, at the chunk's end, where there is none."""
        found = self.text.find(close, self.pos)
        self.pos = len(self.text) if found < 0 else found + len(close)
        return found >= 0

    def escaped(self, body, close):
        """Like find(), where `body` matches what cannot end the string: escapes and doubled quotes included."""
        self.pos = body.match(self.text, self.pos).end()
        if self.pos >= len(self.text):
            return False
        self.pos += len(close)
        return True

    def whole_line(self):
        """Make the line at self.pos complete, though a chunk may end with a semicolon; the index of its end."""
        end = self.text.find("\n", self.pos)
        while end < 0:
            following = next(self.chunks, None)
            if following is None:
                return len(self.text)
            self.text += following
            end = self.text.find("\n", self.pos)
        return end

    def line_comment(self):
        """Read a comment that ends before the line does. Raises ScriptError where another tool would stop there."""
        if _DOWN.match(self.text, self.pos):
            raise ScriptError(
                "the way back begins here, and would undo what is above: scripts only go forward, take it out",
                self.line_at(self.pos),
            )
        found = self.line_end.search(self.text, self.pos)
        self.pos = found.start() if found else len(self.text)
        return bool(found)

    def comment(self):
        """A reader for a nested comment; self.pos is behind its opening."""
        nested = 1

        def read():
            nonlocal nested
            while nested:
                found = _COMMENT.search(self.text, self.pos)
                if not found:
                    self.pos = len(self.text)
                    return False
                self.pos = found.end()
                nested += 1 if found.group() == "/*" else -1
            return True

        return read

    def finish(self, end, kind="sql", data=None, raw=False):
        """The statement that ends before `end` of the chunk, or None where there is none.

        raw: the blanks at its end are part of it.
        """
        if not self.started:
            self._reset()
            return None
        if self._begin is not None:
            self._parts.append(self.text[self._begin:end])
        text = "".join(self._parts)
        bare = text.rstrip()
        # For ClickHouse "# " is a comment and "#" is an error.
        statement = Statement(text if raw or bare.endswith("#") else bare, self._first_line, self.word, kind, data)
        self._reset()
        return statement

    def next_chunk(self):
        """Go on to the next chunk, keeping the statement so far; False at the end of the script."""
        self.line_at(len(self.text))
        if self._begin is not None:
            self._parts.append(self.text[self._begin:])
            self._begin = None
        following = next(self.chunks, None)
        self.text, self.pos, self._counted = following or "", 0, 0
        if self._parts:
            self._begin = 0
        return following is not None

    def __iter__(self):
        while self.next_chunk():
            while self.pos < len(self.text):
                if self._inside:
                    reader, line = self._inside
                    if not reader():
                        break
                    self._inside = None
                    continue
                statement = self.token()
                if statement is not None:
                    yield statement
        if self._inside and self._inside[0] != self.line_comment:
            raise ScriptError("a string or comment begins here and never ends", self._inside[1])
        last = self.at_end()
        if last is not None:
            yield last

    def token(self):
        """Handle what stands at self.pos; the Statement that it ends, or None."""
        raise NotImplementedError

    def at_end(self):
        """The statement that the script's end ends, or None."""
        return self.finish(len(self.text))


_COMMENT = re.compile(r"/\*|\*/")
# What dbmate, goose and sql-migrate have in one file with the way forward.
_DOWN = re.compile(r"[ \t]*(?:migrate:|\+goose[ \t]+|\+migrate[ \t]+)down\b", re.I)
