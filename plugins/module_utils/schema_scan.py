# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A script read once before any of it runs: what it holds, and whether it can be run at all."""

from __future__ import annotations

import re

from .sql_script import ScriptError

MASK = "********"
LEGIBLE = 3  # characters at the beginning of a secret that tell nothing
KEEP = 1 << 20  # bytes: shorter scripts are split only once
_CONNECT = re.compile(r"\\c(?:onnect)?(?:\s|$)")
_INCLUDE = re.compile(r"\\i(?:r|nclude|nclude_relative)?[ \t]+'?[^/:'`\s]")  # of a file without its whole path
_PLACEHOLDER = re.compile(r"\$\{([^{}\s]+)\}")
# PostgreSQL's words for beginning and ending a transaction; ROLLBACK TO a savepoint is none of them.
_OPENS = re.compile(r"(?:BEGIN|START\s+TRANSACTION)\b", re.I)
_PLAIN_OPENS = re.compile(r"(?:BEGIN(?:\s+(?:WORK|TRANSACTION))?|START\s+TRANSACTION)$", re.I)
CLOSES = re.compile(
    r"(?:COMMIT|END|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!(?:\s+(?:WORK|TRANSACTION))?\s+TO\b))\b", re.I
)
_UNLOCKS = re.compile(r"DISCARD\s+ALL\b|SELECT\s+(?:pg_catalog\.)?pg_advisory_unlock_all\b", re.I)
_DROPS_DATABASE = re.compile(r"(?:DROP|DETACH)\s+DATABASE\s+(?:IF\s+EXISTS\s+)?[`\"]?([^\s`\"]+)", re.I)
_CONTROL = ("BEGIN", "START", "COMMIT", "END", "ABORT", "ROLLBACK")
_PLAIN_CLOSES = re.compile(r"(?:COMMIT|END)(?:\s+(?:WORK|TRANSACTION))?$", re.I)


def _forms(value):
    """What may become of `value` between quotes: a server reads its escapes, and writes it with its own.

    A quote in it may end the string: the server takes the rest for SQL then, and names the word at which it fails.
    """
    forms = set(re.findall(rf"\w{{{LEGIBLE + 1},}}", value)) if re.search(r"['\"`]", value) else set()
    for text in (value, re.sub(r"\\(.)", r"\1", value.replace("''", "'"))):
        escaped = text.replace("\\", "\\\\")
        forms |= {text, escaped, escaped.replace("'", "\\'").replace("\n", "\\n"), text.replace("'", "''")}
    return forms


class Placeholders:
    """Values for `${name}` in scripts. Without any declared, nothing in a script is a placeholder.

    values: name to text. secrets: the same, for values that no message may show.
    """

    def __init__(self, values=None, secrets=None):
        self.values = {name: str(value) for name, value in {**(values or {}), **(secrets or {})}.items()}
        self._secrets = sorted(
            {form for value in (secrets or {}).values() if value for form in _forms(str(value))}, key=len, reverse=True
        )

    def mask(self, text):
        """`text` without the secrets, as they are or as a server writes them, or cuts them off with `...`."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        *cut, last = text.split("...")
        first, *rest = [*(self._masked_end(piece) for piece in cut), last]
        return "...".join([first, *(self._masked_begin(piece) for piece in rest)])

    def _masked_begin(self, text):
        for secret in self._secrets:
            for length in range(min(len(secret), len(text)), LEGIBLE, -1):
                if text.startswith(secret[-length:]):
                    return MASK + text[length:]
        return text

    def _masked_end(self, text):
        for secret in self._secrets:
            for length in range(min(len(secret), len(text)), LEGIBLE, -1):
                if text.endswith(secret[:length]):
                    return text[:-length] + MASK
        return text

    def check(self, statement):
        """Raises ScriptError where `statement` has an undeclared one."""
        if not self.values:
            return
        for found in _PLACEHOLDER.finditer(statement.text):
            if found.group(1) not in self.values:
                raise ScriptError(
                    f"the placeholder {found.group()} is not declared (declared: {', '.join(sorted(self.values))}); "
                    "to keep such a text as it is, declare it with itself as its value",
                    statement.line + statement.text.count("\n", 0, found.start()),
                )

    def fill(self, text):
        """`text` with the values in their places. Undeclared ones stay: check() lets them be in comments and rows."""
        if not self.values or "${" not in text:
            return text
        return _PLACEHOLDER.sub(lambda found: self.values.get(found.group(1), found.group()), text)


class Scan:
    """What a script holds.

    count: its statements. meta: the first psql meta-command, or None; connect: the first that goes to another database;
    include: the first that reads a file that is not named by its whole path.
    bracketed: whether one plain BEGIN … COMMIT encloses all of it. control: the first other statement that begins or
    ends a transaction, or None. unlocks: the first that gives the session's advisory locks back, or None.
    """

    def __init__(self, script, splitter, placeholders, keep=True):
        self._script, self._splitter = script, splitter
        self.count, self.meta, self.connect, self.control, self.bracketed = 0, None, None, None, False
        self.include = self.unlocks = None
        self.drops = []
        self._kept = [] if keep and script.size <= KEEP else None
        first = last = None
        controls = []
        with script.open() as stream:
            for statement in splitter(stream):
                self.count += 1
                placeholders.check(statement)
                first, last = first or statement, statement
                if statement.kind == "meta":
                    self.meta = self.meta or statement
                    if _CONNECT.match(statement.text):
                        self.connect = self.connect or statement
                    if _INCLUDE.match(statement.text):
                        self.include = self.include or statement
                    if len(controls) < 3 and statement.word in _CONTROL:  # as in COMMIT \g
                        controls.append(statement)
                elif len(controls) < 3 and (_OPENS.match(statement.text) or CLOSES.match(statement.text)):
                    controls.append(statement)
                elif not self.unlocks and _UNLOCKS.match(statement.text):
                    self.unlocks = statement
                elif statement.word in ("DROP", "DETACH"):
                    dropped = _DROPS_DATABASE.match(placeholders.fill(statement.text))
                    self.drops += [(statement, dropped.group(1))] if dropped else []
                if statement.kind != "sql":
                    self._kept = None  # COPY's rows can only be read while the script is
                elif self._kept is not None:
                    self._kept.append(statement)
        if not self.count:
            raise ScriptError("no statement in it, only comments or blanks")
        self.bracketed = (
            len(controls) == 2 and controls == [first, last]
            and bool(_PLAIN_OPENS.match(first.text) and _PLAIN_CLOSES.match(last.text))
        )
        if not self.bracketed:
            self.control = next(iter(controls), None)

    def statements(self):
        """The script's statements, from the start."""
        if self._kept is not None:
            yield from self._kept
            return
        with self._script.open() as stream:
            yield from self._splitter(stream)


def excerpt(text, length=300):
    """`text` short enough for an error message."""
    return text if len(text) <= length else text[:length].rstrip() + " …"


class ScriptFailed(Exception):
    """A statement failed. `completed`: how many of the script's statements stay done. Its text tells all."""

    def __init__(self, script, message, completed=0, statement=None, number=None, count=None, line=None, remains=""):
        line = line or (statement.line if statement else None)
        where = f"{script.name}, line {line}" if line else script.name
        which = f" (statement {number} of {count})" if number else ""
        text = f"\n  {excerpt(statement.text)}" if statement else ""
        super().__init__(f"{where}{which}: {message}{text}\n{remains}".rstrip())
        self.script, self.line, self.number, self.completed = script.name, line, number, completed
        self.statement = excerpt(statement.text) if statement else None
        self.server_message = message
