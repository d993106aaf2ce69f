# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A script statement by statement, each step recorded: where a script cannot be one transaction.

A statement that can share a transaction with the ledger's row does. What cannot gets a marker first, with what the
schema looked like, so that the next run can tell whether a statement that was cut off has taken effect.
"""

from __future__ import annotations

import hashlib
import json
import re

from . import postgres
from .schema_plan import Refused, now
from .schema_scan import ScriptFailed

# What only concerns the session is run again when a script is resumed.
_SESSION = re.compile(r"(?:SET|RESET)\b(?!\s+TRANSACTION)|SELECT\s+(?:pg_catalog\.)?set_config\s*\(", re.I)
# What never commits by itself, on YugabyteDB either.
_ROWS = ("INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "SELECT", "WITH", "VALUES", "TABLE", "SET", "RESET", "SHOW")
# The statement refuses to run inside a transaction (active_sql_transaction), or wants to end it itself.
_OUTSIDE = ("25001", "2D000")
# Objects that belong to the whole server, which no fingerprint of a schema holds, and how they say that all is done.
_GLOBAL = re.compile(r"(?:CREATE|DROP)\s+(?:DATABASE|ROLE|USER|GROUP|TABLESPACE)\b", re.I)
_DONE_ALREADY = ("42P04", "42710", "3D000", "42704")
_IN_TRANSACTION = 2  # of libpq's transaction states


class _Run:
    """One script on its way."""

    def __init__(self, backend, step, scan):
        self.backend, self.script, self.scan = backend, step.script, scan
        self.digest = hashlib.sha256()
        entry = step.resumable
        self.behind = entry.completed if entry else 0
        self.behind_checksum = entry.completed_checksum if entry else None
        self.marker = step.marker()
        self.started = now()
        self.number, self.completed, self.completed_checksum = 0, self.behind, self.behind_checksum
        self.open_marker = None  # of the statement that runs by itself just now

    @property
    def connection(self):
        return self.backend.connection

    def row(self, status, **more):
        """The ledger's statement for where the run is."""
        return self.backend.context.entry(
            self.script, self.scan, status, self.completed, self.started,
            completed_checksum=self.completed_checksum or "", **more,
        )

    def reached(self):
        """The statement that has just been run is done."""
        self.completed, self.completed_checksum = self.number, self.digest.hexdigest()

    def one(self, statement):
        """Bring one statement behind us, whatever an earlier run did of it."""
        self.number += 1
        self.digest.update(statement.text.encode() + b"\0")
        if statement.kind == "copy":
            statement.data.digest = self.digest
        if self.number <= self.behind:
            self._skip(statement)
            return
        self.backend.lock.check()
        begun = self.marker and self.marker["number"] == self.number
        if begun and self._taken_effect(statement, self.marker):
            self.reached()
            self.backend.record(self.row("running"))
            return
        self._execute(statement)

    def _skip(self, statement):
        if statement.kind == "copy":
            statement.data.drain()
        if _SESSION.match(statement.text):
            self.backend.execute(statement)
        if self.number == self.behind and self.digest.hexdigest() != self.behind_checksum:
            raise Refused(
                f"{self.script.name}: the first {self.behind} statements, which an earlier run has completed, are not "
                "the same any more: restore them, and change only what comes after; or name the script in repair to "
                "begin it again from its first statement"
            )

    def _execute(self, statement):
        if self.inside():
            self._in_block(statement)
        elif re.match(r"(?:BEGIN|START)\b", statement.text, re.I):
            self.backend.execute(statement)
        elif self.backend.dialect.transactional_ddl or statement.word in _ROWS:
            self._with_row(statement)
        else:
            self._alone(statement)

    def inside(self):
        return self.connection.info.transaction_status == _IN_TRANSACTION

    def _in_block(self, statement):
        """Inside the script's own BEGIN … COMMIT: what its COMMIT commits includes the ledger's row."""
        if re.match(r"(?:COMMIT|END)\b", statement.text, re.I):
            self.reached()
            self.backend.run(self.connection, self.backend.row_sql(self.row("running")))
            self.backend.execute(statement)
            return
        self.backend.execute(statement)
        if not self.inside():
            self.reached()
            self.backend.record(self.row("running"))

    def _with_row(self, statement):
        """The statement and the ledger's row in one transaction."""
        def attempt():
            self.backend.run(self.connection, "BEGIN")
            try:
                self.backend.execute(statement)
                self.reached()
                self.backend.run(self.connection, self.backend.row_sql(self.row("running")) + "; COMMIT")
            except BaseException:
                self.completed, self.completed_checksum = before
                self.backend.roll_back()
                raise

        before = self.completed, self.completed_checksum
        try:
            if statement.kind == "copy":
                attempt()  # its rows can be read only once
            else:
                self.backend.dialect.retry(attempt)
        except postgres.psycopg2.Error as error:
            if error.pgcode not in _OUTSIDE:
                raise
            self._alone(statement)

    def _alone(self, statement):
        """The statement commits by itself: a marker before, the row after."""
        marker = self.open_marker = {"number": self.number, **self._state()}
        self.backend.record(self.row("running", marker=json.dumps(marker)))

        def attempt():
            try:
                self.backend.execute(statement)
            except postgres.psycopg2.Error as error:
                if self.backend.dialect.is_transient(error) and self._taken_effect(statement, marker):
                    return
                raise

        self.backend.dialect.retry(attempt)
        self.open_marker = None
        self.reached()
        self.backend.record(self.row("running"))

    def _state(self):
        objects = json.dumps(self.backend.objects(), sort_keys=True)
        return {"schema": hashlib.sha256(objects.encode()).hexdigest(), "invalid": self._invalid_indexes()}

    def _invalid_indexes(self):
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), t.relname "
                "FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid "
                "JOIN pg_catalog.pg_class AS t ON t.oid = i.indrelid "
                "JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE NOT i.indisvalid ORDER BY 1"
            )
            return [list(row) for row in cursor.fetchall()]

    def _taken_effect(self, statement, marker):
        """Whether a statement that was begun, and cut off, is done. What is left of a half-built index is dropped."""
        left = [
            index for index, table in self._invalid_indexes()
            if [index, table] not in marker["invalid"]
            and (index.rpartition(".")[2].strip('"') in statement.text or table in statement.text)
        ]
        if left:
            concurrently = "CONCURRENTLY " if self.backend.dialect.transactional_ddl else ""
            for index in left if statement.word in ("CREATE", "REINDEX") else ():
                self.backend.run(self.connection, f"DROP INDEX {concurrently}{index}")
            return False
        if marker.get("failed"):  # the server refused it: whatever has changed since, it was not this statement
            return False
        if self._state()["schema"] != marker["schema"]:
            return True
        if not _GLOBAL.match(statement.text):
            return False
        try:
            self.backend.execute(statement)
        except postgres.psycopg2.Error as error:
            if error.pgcode not in _DONE_ALREADY:
                raise
        return True


def apply_stepwise(backend, step, scan):
    """Apply step.script on `backend` from where an earlier run came to. Raises ScriptFailed, Refused."""
    run = _Run(backend, step, scan)
    statement = None
    try:
        for statement in scan.statements():
            run.one(statement)
        if run.inside():
            raise ScriptFailed(step.script, "its BEGIN has no COMMIT", run.completed, statement, run.number, scan.count)
        statement = None
        backend.record(run.row("applied"))
    except postgres.psycopg2.Error as error:
        backend.roll_back()
        failure = backend.failure(step.script, error, run.completed, statement, run.number, scan, _remains(run, scan))
        _record_failure(backend, run, failure)
        raise failure from None
    except ScriptFailed as failure:
        backend.roll_back()
        _record_failure(backend, run, failure)
        raise


def _remains(run, scan):
    return (
        f"Its first {run.completed} of {scan.count} statements are done and recorded. Correct the rest of the script, "
        "or the database, and run again: it goes on behind them."
    )


def _record_failure(backend, run, failure):
    if not backend.connection.closed:
        marker = json.dumps({**run.open_marker, "failed": True}) if run.open_marker else None
        backend.record(run.row("failed", error=str(failure), marker=marker))
