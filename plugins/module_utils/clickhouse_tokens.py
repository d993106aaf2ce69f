# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One ClickHouse statement as tokens, a reader of them, and edits that leave the rest of the text as it was written."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"(?P<blank>[ \t\n\r\f\v\u00a0\ufeff]+|--[^\n]*|//[^\n]*|\#[ !][^\n]*)|(?P<comment>/\*)"
    r"|(?P<string>'(?:[^'\\]|\\.|'')*'|(?P<tag>\$\w*\$).*?(?P=tag))"
    r'|(?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")'
    r"|(?P<word>[A-Za-z_][\w$]*)|(?P<number>\d\w*(?:\.\w*)?)|(?P<sign>.)", re.S | re.A,
)
_COMMENT = re.compile(r"/\*|\*/")
_OPEN, _CLOSE = "([{", ")]}"
_UNESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0"}


class Token:
    """kind: word, quoted, string, number or sign. upper: the word in upper case, else the text. depth: of brackets."""

    __slots__ = ("depth", "end", "kind", "start", "text", "upper")

    def __init__(self, kind, text, start, depth):
        self.kind, self.text, self.start, self.end, self.depth = kind, text, start, start + len(text), depth
        self.upper = text.upper() if kind == "word" else text

    @property
    def name(self):
        """The identifier that the token is, or None."""
        if self.kind == "word":
            return self.text
        if self.kind == "quoted":
            quote = self.text[0]
            return re.sub(
                rf"\\(.)|{quote}{quote}",
                lambda found: _UNESCAPED.get(found.group(1), found.group(1)) if found.group(1) else quote,
                self.text[1:-1], flags=re.S,
            )
        return None


def tokenize(text):
    """The tokens of `text`, without blanks and comments. A bracket has the depth of what is outside of it."""
    tokens, position, depth = [], 0, 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        kind = found.lastgroup if found.lastgroup != "tag" else "string"
        position = found.end()
        if kind == "comment":
            position = _comment_end(text, position)
        elif kind != "blank":
            if found.group() in _CLOSE:
                depth -= 1
            tokens.append(Token(kind, found.group(), found.start(), depth))
            if found.group() in _OPEN:
                depth += 1
    return tokens


def _comment_end(text, position):
    """Comments nest."""
    nested = 1
    while nested:
        found = _COMMENT.search(text, position)
        if not found:
            return len(text)
        position, nested = found.end(), nested + (1 if found.group() == "/*" else -1)
    return position


class Reader:
    """Read the tokens of a statement from left to right."""

    def __init__(self, text):
        self.text, self.tokens, self.at = text, tokenize(text), 0

    def peek(self, ahead=0):
        """The token at the position, or None behind the last one."""
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else None

    def word(self, ahead=0):
        """The word at the position in upper case, a sign as it is; empty for anything else and at the end."""
        token = self.peek(ahead)
        return token.upper if token and token.kind in ("word", "sign") else ""

    def accept(self, *words):
        """Step over these words where they are next; whether they were."""
        if any(self.word(ahead) != word for ahead, word in enumerate(words)):
            return False
        self.at += len(words)
        return True

    @property
    def end(self):
        """Where the token before the position ends in the text."""
        return self.tokens[self.at - 1].end if self.at else 0

    def table(self):
        """Step over `[database.]name`. Returns (database or None, name, start, end), or None where there is no name."""
        first = self.peek()
        if first is None or first.name is None:
            return None
        self.at += 1
        if self.word() == "." and self.peek(1) and self.peek(1).name is not None:
            self.at += 2
            return first.name, self.tokens[self.at - 1].name, first.start, self.end
        return None, first.name, first.start, first.end

    def find(self, *words, depth=0, stop=()):
        """The index of the first of `words` from the position on at this depth, before one of `stop`; or None."""
        for index in range(self.at, len(self.tokens)):
            token = self.tokens[index]
            if token.depth < depth or (token.depth == depth and token.kind == "word" and token.upper in stop):
                return None
            if token.depth == depth and token.kind == "word" and token.upper in words:
                return index
        return None


def edited(text, edits):
    """`text` with each (start, end, replacement) of `edits` carried out; those at one place in the list's order."""
    parts, position = [], 0
    for start, end, replacement in sorted(edits, key=lambda edit: edit[:2]):
        parts += [text[position:start], replacement]
        position = end
    return "".join([*parts, text[position:]])
