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
import time

from . import postgres
from .drift_postgres import postgres_fingerprint
from .schema_plan import Refused, now
from .schema_scan import CLOSES, ScriptFailed

# What only concerns the session is run again when a script is resumed.
_SESSION = re.compile(r"(?:SET|RESET)\b(?!\s+TRANSACTION)|SELECT\s+(?:pg_catalog\.)?set_config\s*\(", re.I)
# What never commits by itself, on YugabyteDB either.
_ROWS = ("INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "SELECT", "WITH", "VALUES", "TABLE", "SET", "RESET", "SHOW")
# The statement refuses to run inside a transaction (active_sql_transaction), or wants to end it itself.
OUTSIDE = ("25001", "2D000")
# Objects that belong to the whole server, which no fingerprint of a schema holds, and how they say that all is done.
_GLOBAL = re.compile(r"(?:CREATE|DROP)\s+(?:DATABASE|ROLE|USER|GROUP|TABLESPACE)\b", re.I)
# What may do anything, and commit more than once: whether all of it is done cannot be seen.
_OPAQUE = ("CALL", "DO", "EXECUTE")
# What changes grants or owners and little else. Of others they do not count: the inventory's may come and go meanwhile.
_GRANTS = re.compile(r"GRANT|REVOKE|REASSIGN|ALTER\s+DEFAULT|DROP\s+OWNED", re.I)
_UNNAMED = re.compile(r"create\s+(?:unique\s+)?index\s+(?:concurrently\s+)?on\b")
_BEGIN, _COMMIT = ("BEGIN", "START"), ("COMMIT", "END")
_PART = re.compile(r'"(?:[^"]|"")*"|[^\s."]+')  # of a name that the fingerprint has
_REBUILT = re.compile(r"_cc(?:new|old)\d*$")  # what REINDEX CONCURRENTLY calls its own
_DONE_ALREADY = ("42P04", "42710", "3D000", "42704")
_IN_TRANSACTION = 2  # of libpq's transaction states


class _Run:
    """One script on its way."""

    def __init__(self, backend, step, scan):
        self.backend, self.step, self.script, self.scan = backend, step, step.script, scan
        self.digest = hashlib.sha256()
        entry = step.resumable
        self.behind = entry.completed if entry else 0
        self.behind_checksum = entry.completed_checksum if entry else None
        self.marker = step.marker()
        self.started = now()
        self.number, self.completed, self.completed_checksum = 0, self.behind, self.behind_checksum
        self.block = None  # what a BEGIN … COMMIT that is skipped sets
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
        if begun:
            self._wait_for_server()
            self._stop_at_opaque(statement)
        if begun and self._taken_effect(statement, self.marker):
            self.reached()
            self.backend.record(self.row("running"))
            return
        self._execute(statement)

    def _skip(self, statement):
        if statement.kind == "copy":
            statement.data.drain()
        if statement.word in _BEGIN:
            self.block = []
        elif self.block is None and _SESSION.match(statement.text):
            self.backend.execute(statement)
        elif self.block is not None:
            self._skip_in_block(statement)
        if self.number == self.behind and self.digest.hexdigest() != self.behind_checksum:
            raise self.step.edited()

    def _skip_in_block(self, statement):
        """What a block sets lasts if it was committed."""
        if _SESSION.match(statement.text):
            self.block.append(statement)
        elif CLOSES.match(statement.text):
            for one in self.block if statement.word in _COMMIT else ():
                self.backend.execute(one)
            self.block = None

    def end(self):
        """All statements are behind us. Raises Refused where an earlier run has completed more of them."""
        if self.number < self.behind:
            raise self.step.edited()

    def _execute(self, statement):
        if self.inside():
            self._in_block(statement)
        elif statement.word in _BEGIN:
            self.backend.execute(statement)
        elif self.backend.dialect.transactional_ddl or statement.word in _ROWS:
            self._with_row(statement)
        else:
            self._alone(statement)

    def inside(self):
        return self.connection.info.transaction_status == _IN_TRANSACTION

    def _in_block(self, statement):
        """Inside the script's own BEGIN … COMMIT: what its COMMIT commits includes the ledger's row."""
        if statement.word in _COMMIT:
            before = self.completed, self.completed_checksum
            self.reached()
            try:
                self.backend.run(self.connection, self.backend.row_sql(self.row("running")))
                self.backend.execute(statement)
            except BaseException:  # a deferred constraint, say: nothing of the block is done
                self.completed, self.completed_checksum = before
                raise
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
            if error.pgcode not in OUTSIDE:
                raise
            self._alone(statement)

    def _alone(self, statement):
        """The statement commits by itself: a marker before, the row after."""
        marker = self.open_marker = {"number": self.number, "server": self._server(), **self._state(statement)}
        self.backend.record(self.row("running", marker=json.dumps(marker)))
        partly, refused = [], self.backend.dialect.transactional_ddl  # there what has failed has not been done

        def attempt():
            try:
                self.backend.execute(statement)
            except postgres.psycopg2.Error as error:
                if not self.backend.dialect.is_transient(error):
                    raise
                if statement.word in _OPAQUE and (refused or self._state(statement)["schema"] != marker["schema"]):
                    partly.append(error)
                    return
                if self._taken_effect(statement, {**marker, "failed": refused}):
                    return
                raise

        self.backend.dialect.retry(attempt)
        if partly:
            raise partly[0]
        self.open_marker = None
        self.reached()
        self.backend.record(self.row("running"))

    def _text(self, statement):
        return self.backend.context.placeholders.fill(statement.text).casefold()

    def _state(self, statement):
        """What the objects that the statement names look like, and all that hangs on a table of that name."""
        text, grants = self._text(statement), _GRANTS.match(statement.text)
        objects = {
            name: definition for name, definition in postgres_fingerprint(self.connection).items()
            if (grants or not name.startswith("grants on "))
            and (statement.word in _OPAQUE or _names(text, name, definition))
        }
        schema = hashlib.sha256(json.dumps(objects, sort_keys=True).encode()).hexdigest()
        return {"schema": schema, "invalid": self._invalid_indexes()}

    def _server(self):
        pid = self.connection.info.backend_pid
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT backend_start::text FROM pg_catalog.pg_stat_activity WHERE pid = %s", (pid,))
            return [pid, *(cursor.fetchone() or (None,))]

    def _wait_for_server(self):
        """The server finishes a statement whose client has died, and a lease does not wait for that."""
        pid, start = self.marker.get("server", (None, None))
        deadline = time.monotonic() + self.backend.params.get("lock_timeout", 60)
        while pid and pid != self.connection.info.backend_pid:
            with self.connection.cursor() as cursor:
                cursor.execute(
                    "SELECT FROM pg_catalog.pg_stat_activity WHERE pid = %s AND backend_start::text = %s", (pid, start)
                )
                if not cursor.rowcount:
                    return
            if time.monotonic() > deadline:
                raise Refused(
                    f"{self.script.name}: the server is still busy with statement {self.number} for an earlier run "
                    f"(server process {pid}): wait for its end or terminate it, then run again"
                )
            time.sleep(0.2)
            self.backend.lock.check()

    def _stop_at_opaque(self, statement):
        if statement.word in _OPAQUE and not self.marker.get("failed"):
            self.open_marker = self.marker
            raise ScriptFailed(
                self.script, "an earlier run was cut off at this statement, and what it has done of it cannot be seen",
                self.completed, statement, self.number, self.scan.count,
                remains="Take back what it has done, or take the statement out if that is all, and run again.",
            )

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
        text = self._text(statement)
        left = [
            index for index, table in self._invalid_indexes()
            if [index, table] not in marker["invalid"] and (
                _is_word(text, index.rpartition(".")[2].strip('"')) or (_UNNAMED.match(text) and _is_word(text, table))
                or (statement.word == "REINDEX" and _REBUILT.search(index.strip('"')))
            )
        ]
        if left:
            concurrently = "CONCURRENTLY " if self.backend.dialect.transactional_ddl else ""
            for index in left if statement.word in ("CREATE", "REINDEX") else ():
                self.backend.run(self.connection, f"DROP INDEX {concurrently}{index}")
            return False
        if marker.get("failed"):  # the server refused it: whatever has changed since, it was not this statement
            return False
        if self._state(statement)["schema"] != marker["schema"]:
            return True
        if not _GLOBAL.match(statement.text):
            return False
        try:
            self.backend.execute(statement)
        except postgres.psycopg2.Error as error:
            if error.pgcode not in _DONE_ALREADY:
                raise
        return True


def _is_word(text, name):
    return bool(re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", text))


def _names(text, name, definition):
    """Whether a statement's text has the name of an object of the fingerprint, or of the table that it hangs on."""
    _whole, on, target = name.rpartition(" on ")
    path = [part.strip('"') for part in _PART.findall((target if on else name).partition("(")[0])]
    if name.startswith("index ") and _UNNAMED.match(text):
        path = [part.strip('"') for part in _PART.findall(definition.partition(" USING ")[0])]
    return _is_word(text, path[-2 if "column" in path[:1] else -1])


def apply_stepwise(backend, step, scan):
    """Apply step.script on `backend` from where an earlier run came to. Raises ScriptFailed, Refused."""
    run = _Run(backend, step, scan)
    statement = None
    try:
        for statement in scan.statements():
            run.one(statement)
        run.end()
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
