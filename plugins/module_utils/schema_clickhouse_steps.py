# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A ClickHouse script statement by statement, so recorded that a run that was cut off at any point can be taken up.

ClickHouse has no transactions and its ledger costs a write for each row. So before a statement a marker is written:
what could tell afterwards whether the statement has taken effect. Statements that create something, and fail where it
is there already, tell it themselves; one marker does for many of them.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time

from .clickhouse import ACCESS_DENIED, ClickHouseError, ServerError, quote_string
from .schema_clickhouse_state import HEAD, created, differs, state
from .schema_plan import Refused, now
from .schema_scan import ScriptFailed

WINDOW = 256  # statements that create something, for which one marker does
_CREATES = re.compile(
    r"CREATE\s+(?:TABLE|VIEW|MATERIALIZED\s+VIEW|DICTIONARY|DATABASE|FUNCTION)\s", re.I
)
_FILLS = re.compile(r"\bPOPULATE\b|^CREATE\s+TABLE\b.*\bAS\s*\(?\s*(?:SELECT|WITH)\b|\bCLONE\s+AS\b", re.I | re.S)
_THERE_ALREADY = (57, 82, 387, 609)  # a table, database, dictionary, function of this name
_FUNCTION = re.compile(r"\bFUNCTION\b", re.I)
_NO_DATABASE = (81,)
_SESSION = re.compile(r"SET\s+(?!DEFAULT\s+ROLE\b)", re.I)
_FINISHED, _FAILED = "QueryFinish", "ExceptionWhileProcessing"  # in system.query_log; with QueryStart, what has begun
_BEGUN = {"QueryStart", _FINISHED, _FAILED}
_MARK = "-mark"  # the end of the query_id that the log has for a marker
CLOCK = 3  # seconds by which two looks at the server's start may differ
_LOOKS = "SELECT ON system.parts, SELECT ON system.mutations, SELECT ON system.processes"
_LINE = re.compile(r"\(line (\d+), col \d+\)")


class _CutOff(ClickHouseError):
    """A statement of an earlier run was ended by the server before it was done, and has left something."""


class _Run:
    """One script on its way."""

    def __init__(self, backend, step, scan):
        self.backend, self.step, self.script, self.scan = backend, step, step.script, scan
        self.client, self.placeholders = backend.client, backend.context.placeholders
        self.digest = hashlib.sha256()
        entry = step.resumable
        self.behind = entry.completed if entry else 0
        self.behind_checksum = entry.completed_checksum if entry else None
        self.marker = step.marker()
        self.started, self.name = now(), f"schema_apply-{secrets.token_hex(8)}"
        self.number, self.completed, self.completed_checksum = 0, self.behind, self.behind_checksum
        self.window = 0
        self.database, self.moved = backend.context.database, False  # the current one; whether a USE chose it
        self.absent = None  # a USE that could not be repeated yet
        self.unlogged = False  # whether the script itself says what the server logs

    def row(self, status, **more):
        """The ledger's row for where the run is."""
        return self.backend.context.entry(
            self.script, self.scan, status, self.completed, self.started,
            completed_checksum=self.completed_checksum or hashlib.sha256().hexdigest(), **more,
        )

    def one(self, statement):
        """Bring one statement behind us, whatever an earlier run did of it."""
        self.number += 1
        self.digest.update(statement.text.encode() + b"\0")
        self.unlogged = self.unlogged or "log_queries" in statement.text
        if self.number <= self.behind:
            self._skip(statement)
            return
        self.backend.lock.check()
        if self.absent:
            self._use(self.absent, forgive=_NO_DATABASE)
        creates = bool(_CREATES.match(statement.text) and not _FILLS.search(statement.text))
        if self.marker.get("upto", 0) >= self.number and creates:
            self._create_again(statement)
        elif self.marker.get("number") == self.number and not self.backend.place.can_run_again(
            statement.text
        ) and self._taken_effect(statement):
            pass
        elif statement.word == "USE":
            self._use(statement)
        elif _SESSION.match(statement.text):
            self._execute(statement)
        else:
            self.marker = {}
            self._mark(statement, creates)
            self._execute(statement)
        self.completed, self.completed_checksum = self.number, self.digest.hexdigest()

    def _skip(self, statement):
        if statement.word == "USE":
            self._use(statement, forgive=_NO_DATABASE)  # a later one may have dropped the database, and make it again
        elif _SESSION.match(statement.text):
            self._execute(statement)
        if self.number == self.behind and self.digest.hexdigest() != self.behind_checksum:
            raise self.step.edited()

    def end(self):
        """All statements are behind us. Raises Refused where an earlier run has completed more of them."""
        if self.number < self.behind:
            raise self.step.edited()

    def _mark(self, statement, creates):
        """Write down that this statement is about to run, and how to tell afterwards whether it did."""
        if creates:
            if self.number > self.window:
                self.window = self.number + WINDOW - 1
                self._write_marker({"run": self.name, "upto": self.window}, "at", "toString(toUnixTimestamp(now()))")
            return
        self.window = 0
        self._write_marker({"run": self.name, "number": self.number}, "state", self._state(statement))

    def _write_marker(self, marker, name, expression):
        """Write `marker` with, as `name`, what the server makes of `expression`, which is JSON."""
        known = json.dumps(marker)[:-1] + f', "{name}": '
        marker_sql = f"concat({quote_string(known)}, {expression}, '}}')"
        self.backend.ledger.write(self.row("running"), marker_sql, f"{self.name}-{self.number}{_MARK}")

    def _create_again(self, statement):
        """Execute a statement that may have been executed: then what it creates is there, made since the marker."""
        try:
            self._execute(statement)
        except ServerError as error:
            if error.code not in _THERE_ALREADY or self._older(statement):
                raise

    def _older(self, statement):
        """Whether what a statement wants to create was there before its marker. False where the server cannot tell."""
        name = created(self.placeholders.fill(statement.text[:HEAD]))
        if name is None or "at" not in self.marker:
            return False
        made = self.client.rows(
            "SELECT toUnixTimestamp(metadata_modification_time) AS made FROM system.tables "
            f"WHERE database = {quote_string(name[0] or self.database)} AND name = {quote_string(name[1])}"
        )
        return bool(made) and 0 < made[0]["made"] < self.marker["at"] - CLOCK

    def _execute(self, statement, forgive=()):
        self.backend.lock.check()  # the marker may have waited for room on the server
        if _FUNCTION.search(statement.text[:HEAD]):
            self.backend.functions_change()
        try:
            for part, text in enumerate(self.backend.place.statements(self.placeholders.fill(statement.text))):
                self.client.execute(
                    text,
                    {
                        **self._where(), "query_id": f"{self.name}-{self.number}" + (f"-{part}" if part else ""),
                        **self.backend.place.settings,
                    },
                    session=self.name, before_retry=self.backend.lock.check,
                )
        except ServerError as error:
            if error.code not in forgive:
                raise

    def _where(self):
        """The parameters for where a statement's names are looked up: `database` would overrule a USE.

        Behind a USE the session must still be the one that it was executed in.
        """
        return {"session_timeout": 300, **({"session_check": 1} if self.moved else {"database": self.database})}

    def _use(self, statement, forgive=()):
        try:
            self.client.execute(self.placeholders.fill(statement.text), self._where(), session=self.name)
        except ServerError as error:
            if error.code not in forgive:
                raise
            self.absent = statement
            return
        self.absent, self.moved = None, True
        self.database = self.client.rows(
            "SELECT currentDatabase() AS name", self._where(), session=self.name
        )[0]["name"]

    def _taken_effect(self, statement):
        """Whether a statement that was begun, and cut off, is done. Raises _CutOff where it may be so in part."""
        if self.marker.get("failed"):
            return False
        before, after = self.marker["state"], self._live(statement)
        said = self._logged(f"{self.marker['run']}-{self.number}")
        if _FINISHED in said:
            return True
        complete = "marked" in said and before.get("logs") and not self.unlogged
        if (complete or "ExceptionBeforeStart" in said) and not said & _BEGUN:
            return False
        if not differs(before, after):
            return False
        restarted = abs(after["start"] - before.get("start", after["start"])) > CLOCK
        if (_FAILED in said or restarted) and (statement.word == "INSERT" or _FILLS.search(statement.text)):
            raise _CutOff(
                "an earlier run was cut off at this statement, and the server ended it too before it was done"
            )
        return True

    def _logged(self, query_id):
        """What the server's log says of a statement: types of system.query_log, and `marked` where it has its marker.

        That it has only where everything was written down: all of it, and since the server's start. Empty where the
        log says nothing, or may not be read.
        """
        statement, mark, flushed = quote_string(query_id), quote_string(query_id + _MARK), True
        try:
            self.client.execute("SYSTEM FLUSH LOGS")
        except ServerError:
            flushed = False  # no right to
        try:
            said = self.client.execute(
                f"SELECT DISTINCT if(query_id = {mark}, 'marked', toString(type)) FROM system.query_log "
                f"WHERE event_date >= today() - 30 AND (query_id = {statement} "
                f"OR (query_id = {mark} AND {flushed:d} AND event_time > now() - uptime())) FORMAT TSVRaw"
            )
        except ServerError:
            said = ""  # no right, or no such table: then the tables themselves have to tell
        return set(said.split())

    def half_done(self, statement):
        """Whether a statement that the server refused has changed something, like an INSERT's first block."""
        if self.window or not statement:
            return False
        row = self.client.rows(
            f"SELECT marker FROM {self.backend.ledger.table()} FINAL WHERE script = {quote_string(self.script.name)} "
            f"AND set_name = {quote_string(self.backend.context.set_name)}"
        )
        marker = json.loads(row[0]["marker"] or "{}") if row else {}
        if marker.get("number") != self.number or "state" not in marker:
            return False
        return differs(marker["state"], self._live(statement))

    def _state(self, statement):
        return state(self.database, self.placeholders.fill(statement.text[:HEAD]))

    def _live(self, statement):
        return json.loads(self.client.execute(f"SELECT {self._state(statement)} FORMAT TSVRaw"))


def settle(backend, script, entry):
    """Wait for what the server still does for the run that `entry` of the ledger tells of. Raises Refused.

    It finishes a statement whose client has died.
    """
    run = json.loads(entry.marker).get("run") if entry and entry.marker else None
    deadline = time.monotonic() + backend.params.get("lock_timeout", 60)
    while run and backend.client.rows(
        f"SELECT query_id FROM system.processes WHERE startsWith(query_id, {quote_string(run)})"
    ):
        if time.monotonic() > deadline:
            raise Refused(
                f"{script}: the server is still busy with a statement of an earlier run (query_id {run}-…): wait for "
                "its end or kill it, then run again"
            )
        time.sleep(0.2)


def apply_stepwise(backend, step, scan):
    """Apply step.script on `backend` from where an earlier run came to. Raises ScriptFailed, Refused."""
    settle(backend, step.script.name, step.entry)
    run = _Run(backend, step, scan)
    statement = None
    try:
        for statement in scan.statements():
            run.one(statement)
        statement = None
        run.end()
        backend.record(run.row("applied"))
    except ClickHouseError as error:
        failure = _failure(run, error, statement)
        if isinstance(error, (ServerError, _CutOff)):
            marker = json.dumps({"number": run.number, "failed": True})
            backend.record(run.row("failed", error=str(failure), marker=marker))
        raise failure from None


def _failure(run, error, statement):
    said = run.placeholders.mask(str(error))
    line = _LINE.search(said)
    remains = (
        f"Its first {run.completed} of {run.scan.count} statements are done and recorded. Correct the rest of the "
        "script, or the database, and run again: it goes on behind them."
    )
    advice = run.backend.place.advice(error)
    if advice:
        remains = advice
    elif isinstance(error, ServerError) and error.code == ACCESS_DENIED and "ON system." in said:
        remains = f"To tell later what a statement has done, the user needs {_LOOKS}. {remains}"
    elif isinstance(error, (ServerError, _CutOff)):
        if isinstance(error, _CutOff) or run.half_done(statement):
            remains = (
                "Part of what the failed statement does has happened all the same (some of an INSERT's rows, say): "
                f"take that back by hand first. {remains}"
            )
    else:
        remains = "The connection is gone. Run again: the ledger tells what was done."
    return ScriptFailed(
        run.script, said, run.completed, statement, run.number if statement else None, run.scan.count,
        statement.line + int(line.group(1)) - 1 if line and statement else None, remains,
    )
