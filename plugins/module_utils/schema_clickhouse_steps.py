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

from .clickhouse import ClickHouseError, ServerError, quote_string
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
_SESSION = re.compile(r"SET\s+(?!.*\bROLE\b)", re.I)
_LINE = re.compile(r"\(line (\d+), col \d+\)")
HEAD = 2000  # characters of a statement in which the names of its tables are looked for


class _Run:
    """One script on its way."""

    def __init__(self, backend, step, scan):
        self.backend, self.script, self.scan = backend, step.script, scan
        self.client, self.placeholders = backend.client, backend.context.placeholders
        self.digest = hashlib.sha256()
        entry = step.resumable
        self.behind = entry.completed if entry else 0
        self.behind_checksum = entry.completed_checksum if entry else None
        self.marker = json.loads(entry.marker) if entry and entry.marker else {}
        self.started, self.name = now(), f"schema_apply-{secrets.token_hex(8)}"
        self.number, self.completed, self.completed_checksum = 0, self.behind, self.behind_checksum
        self.window = 0
        self.database, self.moved = backend.context.database, False  # the current one; whether a USE chose it
        self.absent = None  # a USE that could not be repeated yet
        if self.marker.get("run"):
            self._wait_for_the_earlier_run()

    def row(self, status, **more):
        """The ledger's row for where the run is."""
        return self.backend.context.entry(
            self.script, self.scan, status, self.completed, self.started,
            completed_checksum=self.completed_checksum or hashlib.sha256().hexdigest(), **more,
        )

    def _wait_for_the_earlier_run(self):
        """The server finishes a statement whose client has died."""
        deadline = time.monotonic() + self.backend.params.get("lock_timeout", 60)
        while self.client.rows(
            f"SELECT query_id FROM system.processes WHERE startsWith(query_id, {quote_string(self.marker['run'])})"
        ):
            if time.monotonic() > deadline:
                raise Refused(
                    f"{self.script.name}: the server is still busy with a statement of an earlier run "
                    f"(query_id {self.marker['run']}-…): wait for its end or kill it, then run again"
                )
            time.sleep(0.2)

    def one(self, statement):
        """Bring one statement behind us, whatever an earlier run did of it."""
        self.number += 1
        self.digest.update(statement.text.encode() + b"\0")
        if self.number <= self.behind:
            self._skip(statement)
            return
        self.backend.lock.check()
        if self.absent:
            self._use(self.absent, forgive=_NO_DATABASE)
        creates = bool(_CREATES.match(statement.text) and not _FILLS.search(statement.text))
        if self.marker.get("upto", 0) >= self.number and creates:
            self._execute(statement, forgive=_THERE_ALREADY)
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
            raise Refused(
                f"{self.script.name}: the first {self.behind} statements, which an earlier run has completed, are not "
                "the same any more: restore them, and change only what comes after; or name the script in repair to "
                "begin it again from its first statement"
            )

    def _mark(self, statement, creates):
        """Write down that this statement is about to run, and how to tell afterwards whether it did."""
        if creates:
            if self.number > self.window:
                self.window = self.number + WINDOW - 1
                self.backend.record(self.row("running", marker=json.dumps({"run": self.name, "upto": self.window})))
            return
        self.window = 0
        known = json.dumps({"run": self.name, "number": self.number})[:-1] + ', "state": '
        state = _state(self.database, self.placeholders.fill(statement.text[:HEAD]))
        self.backend.ledger.write(self.row("running"), f"concat({quote_string(known)}, {state}, '}}')")

    def _execute(self, statement, forgive=()):
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
                    session=self.name,
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
        """Whether a statement that was begun, and cut off, is done."""
        if self.marker.get("failed"):
            return False
        logged = self._logged(f"{self.marker['run']}-{self.number}")
        if logged is not None:
            return logged
        return differs(self.marker["state"], self._live(statement))

    def _logged(self, query_id):
        """What the server's log says of a query: True for done, False for failed, None where it says nothing."""
        for sql in (
            "SYSTEM FLUSH LOGS",
            f"SELECT type FROM system.query_log WHERE query_id = {quote_string(query_id)} AND type != 'QueryStart' "
            "AND event_date >= today() - 30 FORMAT TSVRaw",
        ):
            try:
                said = self.client.execute(sql).strip()
            except ServerError:
                said = ""  # no right, or no such table: then the tables themselves have to tell
        return said == "QueryFinish" if said else None

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

    def _live(self, statement):
        head = self.placeholders.fill(statement.text[:HEAD])
        return json.loads(self.client.execute(f"SELECT {_state(self.database, head)} FORMAT TSVRaw"))


def _state(database, head):
    """An expression for the state of the tables that a statement may name, as JSON."""
    text = quote_string(head)
    here = f"(database = {quote_string(database)} OR position({text}, database) > 0)"
    tables = (
        "SELECT database, name, toString(uuid) AS id, toString(cityHash64(create_table_query)) AS query, "
        "if(engine LIKE '%MergeTree', '', concat(toString(total_rows), '/', toString(total_bytes))) AS size "
        f"FROM system.tables WHERE {here} AND position({text}, name) > 0 ORDER BY database, name"
    )
    parts = (
        "SELECT concat(database, '.', table, '/', partition_id) AS place, toInt32(max(max_block_number)) AS block "
        f"FROM system.parts WHERE active AND {here} AND position({text}, table) > 0 GROUP BY place ORDER BY place"
    )
    mutations = (
        "SELECT concat(database, '.', table, '/', mutation_id) AS mutation FROM system.mutations "
        f"WHERE {here} AND position({text}, table) > 0 ORDER BY mutation"
    )
    return (
        f"concat('{{\"tables\":', (SELECT toJSONString(groupArray([database, name, id, query, ifNull(size, '')])) "
        f"FROM ({tables})), ',\"places\":', (SELECT toJSONString(groupArray(place)) FROM ({parts})), ',\"blocks\":', "
        f"(SELECT toJSONString(groupArray(block)) FROM ({parts})), ',\"mutations\":', "
        f"(SELECT toJSONString(groupArray(mutation)) FROM ({mutations})), '}}')"
    )


def differs(before, after):
    """Whether a statement took effect between two states: merges and the ends of TTLs do not count."""
    if before["tables"] != after["tables"] or set(after["mutations"]) - set(before["mutations"]):
        return True
    blocks = dict(zip(before["places"], before["blocks"]))
    return any(block > blocks.get(place, -1) for place, block in zip(after["places"], after["blocks"]))


def apply_stepwise(backend, step, scan):
    """Apply step.script on `backend` from where an earlier run came to. Raises ScriptFailed, Refused."""
    run = _Run(backend, step, scan)
    statement = None
    try:
        for statement in scan.statements():
            run.one(statement)
        statement = None
        backend.record(run.row("applied"))
    except ClickHouseError as error:
        failure = _failure(run, error, statement)
        if isinstance(error, ServerError):
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
    elif isinstance(error, ServerError):
        if run.half_done(statement):
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
