# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands of a ClickHouse ALTER TABLE, and which of them a Distributed table has to follow."""

from __future__ import annotations

from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_tokens import edited

_MOVES_PARTITIONS = frozenset((
    "ATTACH", "DETACH", "FREEZE", "UNFREEZE", "MOVE", "REPLACE", "FETCH", "FORGET", "UNLOCK",
))
_BEGIN = _MOVES_PARTITIONS | frozenset((
    "ADD", "DROP", "MODIFY", "ALTER", "RENAME", "COMMENT", "CLEAR", "MATERIALIZE", "UPDATE", "DELETE", "RESET",
    "REMOVE", "APPLY", "REWRITE", "EXECUTE",
))
_PARTS = ("COLUMN", "INDEX", "PROJECTION", "CONSTRAINT", "STATISTICS")
_BEHIND_TTL = ("FIRST", "AFTER", "PRIMARY", "SETTINGS")


class Command:
    """One command. Only what these attributes say is known of it.

    words: its first two in upper case. behind_words: the index of the token behind them. start, end: its place in the
    statement. partition: whether it works on partitions.
    guard: (position, "IF EXISTS" or "IF NOT EXISTS") where it needs one to be able to run again, else None.
    visible: its form for a Distributed table, or None where that has nothing to do with it.
    """

    def __init__(self, reader, tokens):
        self._text, self._tokens = reader.text, tokens
        self.behind_words = reader.tokens.index(tokens[0]) + 2
        self.start, self.end = tokens[0].start, tokens[-1].end
        self._upper = [token.upper if token.kind == "word" else "" for token in tokens]
        self.words = " ".join(filter(None, self._upper[:2]))
        self.partition = self._upper[0] in _MOVES_PARTITIONS or (
            self._upper[0] == "DROP" and self._upper[1:2] in (["PARTITION"], ["PART"], ["DETACHED"])
        )
        self.guard = self._guard()
        self.visible = self._visible()

    def _guard(self):
        action, part = (self._upper + ["", ""])[:2]
        if part not in _PARTS or len(self._tokens) < 3 or self._upper[2] == "IF":
            return None
        if action == "ADD":
            return self._tokens[1].end, " IF NOT EXISTS"
        if action in ("DROP", "RENAME"):
            return self._tokens[1].end, " IF EXISTS"
        return None

    def _visible(self):
        """A Distributed table has columns with a type, a default and a comment; it refuses a TTL."""
        action, part = (self._upper + ["", ""])[:2]
        if (action, part) == ("MODIFY", "COMMENT"):
            return self._text[self.start:self.end]
        if part != "COLUMN" or action in ("CLEAR", "MATERIALIZE"):
            return None
        edits = [(self.guard[0], self.guard[0], self.guard[1])] if self.guard else []
        if action in ("ADD", "MODIFY", "ALTER"):
            begin = 2
            while self._upper[begin:begin + 1] in (["IF"], ["NOT"], ["EXISTS"]):
                begin += 1
            rest = self._upper[begin + 1:]  # behind the column's name
            if rest[:1] == ["REMOVE"] and rest[1:2] not in (["DEFAULT"], ["MATERIALIZED"], ["ALIAS"], ["COMMENT"]):
                return None
            if rest[:2] in (["MODIFY", "SETTING"], ["RESET", "SETTING"]):
                return None
            ttl = self._clause("TTL", begin + 1) if rest[:1] != ["REMOVE"] else None
            if ttl:
                if ttl[0] == begin + 1 and ttl[1] == len(self._tokens):  # nothing else is said of the column
                    return None
                edits.append((self._tokens[ttl[0]].start, self._tokens[ttl[1] - 1].end, ""))
        text = edited(self._text, edits)
        return text[self.start:self.end + len(text) - len(self._text)].rstrip()

    def _clause(self, word, begin):
        """(first, behind) of the tokens of a column's clause, or None."""
        depth = self._tokens[0].depth
        for first in range(begin, len(self._tokens)):
            if self._upper[first] == word and self._tokens[first].depth == depth:
                behind = first + 1
                while behind < len(self._tokens) and not (
                    self._tokens[behind].depth == depth and self._upper[behind] in _BEHIND_TTL
                ):
                    behind += 1
                return first, behind
        return None


def split_alter(reader):
    """The commands behind the reader's position, that is behind the table's name."""
    tokens, commands, current = reader.tokens[reader.at:], [], []
    depth = tokens[0].depth if tokens else 0
    if tokens and tokens[0].text == "(":  # as the server itself writes them: (ADD COLUMN …), (DROP COLUMN …)
        for token in tokens:
            if token.depth == depth:
                if current:
                    commands.append(current)
                current = []
            else:
                current.append(token)
        return [Command(reader, command) for command in commands]
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        behind = tokens[index + 2] if index + 2 < len(tokens) else None
        if token.text == "," and token.depth == depth and following and following.upper in _BEGIN and (
            following.kind == "word" and current and behind is not None and behind.kind in ("word", "quoted")
            and current[1:2] and current[1].upper != "QUERY"
        ):
            commands.append(current)
            current = []
        else:
            current.append(token)
    return [Command(reader, command) for command in [*commands, current] if command]
