# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scripts into a PostgreSQL or YugabyteDB database."""

from __future__ import annotations

import os
import re
import time

from . import postgres
from .drift_postgres import as_restored, as_seen_now, postgres_fingerprint, role_names, usual_grants
from .drift_postgres_more import MARK
from .ledger_postgres import REMEDIES, AdvisoryLock, Lease, PostgresLedger
from .schema_plan import LedgerError, Refused, now
from .schema_postgres_steps import OUTSIDE, apply_stepwise
from .schema_psql import apply_with_psql, check_for_psql
from .schema_scan import ScriptFailed
from .sql_postgres import PostgresSplitter
from .sql_script import ScriptError

_NO_CREATE = {"42501": ". The role that owns the objects needs CREATE on the database (its owner has it)"}
_REMEDIES = {
    **REMEDIES,
    "25006": ". Name the primary in login_host if this is a standby; else look where default_transaction_read_only is "
    "set: the server, the database or the login's role",
}
_WAITED = ("55P03", "57014")  # for a lock, or for longer than statement_timeout allows
# Who is in a transaction with locks on tables of these names; of others' sessions not every login sees all.
_HOLDERS = """
SELECT 'server process ' || a.pid || concat(' (user ' || a.usename, ', ' || nullif(a.application_name, ''),
    ', ' || a.state, ' since ' || date_trunc('second', a.state_change)) || ') on '
    || string_agg(DISTINCT l.relation::regclass::text, ', ')
FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a USING (pid)
WHERE l.granted AND l.pid <> pg_catalog.pg_backend_pid() AND l.relation IN (
  SELECT c.oid FROM pg_catalog.pg_class AS c WHERE lower(c.relname) = ANY(%s)
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
) GROUP BY a.pid, a.usename, a.application_name, a.state, a.state_change, a.xact_start ORDER BY a.xact_start LIMIT 5
"""
_NEW_IN_ENUM = "55P04"  # a value that the transaction itself has added to a type
_EVERYWHERE = ("schema ", "extension ", "grants ", "settings on extension ", MARK)
_COLLISIONS = ("23505", "42P06", "42P07", "42710", "XX000")


class PostgresBackend:
    """One database. `context` has set_name, database, owner, placeholders, run_by and version, as texts mostly.

    Every method may raise psycopg2.Error when the connection dies.
    """

    splitter = PostgresSplitter
    errors = (postgres.PostgresError, LedgerError, *((postgres.psycopg2.Error,) if postgres.psycopg2 else ()))
    unreachable = (postgres.ConnectionFailed,)

    def __init__(self, params, context, engine):
        self.params, self.context, self.engine = params, context, engine
        self.connection = self.ledger = self.lock = self.dialect = None
        self._used = False

    def explains(self, error, check):
        """Whether one of `unreachable` means that the server is not there, or with `check` that something may come.

        That are the database and the owner, whom an earlier task of the same run would make; over TCP a user who is
        not there is told what a wrong password is. An administrator, who works for another owner, is made by none.
        """
        to_come = ["driver", "unreachable", *(["database", "owner"] if check else [])]
        if check and self.context.owner in (None, self.params["login_user"]):
            to_come += ["user", "password"]
        return error.reason in to_come

    def connect(self):
        """Another connection to the database, as the objects' owner. Raises postgres.PostgresError."""
        connection = postgres.connect(self.params, self.context.database)
        if self.context.owner:
            try:
                self.run(connection, self.become_owner())
            except postgres.psycopg2.Error as error:
                connection.close()
                raise postgres.ConnectionFailed(
                    f"{self.params['login_user']} cannot act as {self.context.owner}: {str(error).strip()}. Create the "
                    "role first, or log in as somebody who is a member of it", "owner",
                ) from None
        return connection

    def open(self):
        """Connect. Raises postgres.PostgresError and Refused."""
        self.connection = self.connect()
        self.dialect = postgres.dialect(self.connection)
        if self.dialect.name != self.engine:
            raise Refused(f"The server is {self.dialect.title}, the set is declared with engine {self.engine}")
        self.ledger = PostgresLedger(self.connection, self.context.set_name)
        if self.dialect.advisory_locks:
            self.lock = AdvisoryLock(self.connection, self.context.run_by)
        else:
            self.lock = Lease(self.connection, self.context.run_by, self.connect)

    def close(self):
        """Disconnect, which also gives an advisory lock back."""
        if self.connection is not None:
            self.connection.close()

    def create_ledger(self):
        """Create what is missing of the ledger, as its owner."""
        try:
            self.dialect.retry(self._create_ledger)
        except postgres.psycopg2.Error as error:
            raise LedgerError(
                f"The ledger cannot be created in {self.context.database}: {str(error).strip()}"
                + (_NO_CREATE.get(error.pgcode) or self.remedy(error))
            ) from None

    @staticmethod
    def remedy(error):
        """What to do about an error of the server's, for the end of its message; empty for any other."""
        return _REMEDIES.get(getattr(error, "pgcode", None), "")

    def _create_ledger(self, tries=20):
        # IF NOT EXISTS does not keep two that create the same at the same time from colliding in the catalogue.
        for left in reversed(range(tries)):
            try:
                self.ledger.create()
                return
            except postgres.psycopg2.Error as error:
                if error.pgcode not in _COLLISIONS or not left:
                    raise
            time.sleep(0.1)

    def before_lock(self):
        """A lease lies in the ledger, so it must be there first. Whether nothing of the ledger is missing now."""
        if not isinstance(self.lock, Lease):
            return False
        self.create_ledger()
        return True

    def objects(self):
        """The live schema: every object's name to its definition. Ends a script's effect on the session."""
        if self._used:
            self.run(self.connection, self.fresh_session())
        return postgres_fingerprint(self.connection)

    def empty(self):
        """Whether the database has nothing but what each new one has, and maybe the ledger."""
        return all(name.startswith(_EVERYWHERE) for name in self.objects())

    def expected(self, recorded, live):
        """`recorded` with what the grants that the inventory declares have changed since."""
        from .drift_grants import Declared  # takes its time, and is not needed otherwise

        return Declared(self.params["declared_grants"], self.context.database).expected(
            as_seen_now(recorded, live), live, lambda names: usual_grants(self.connection, names),
            lambda: role_names(self.connection),
        )

    def laid_out(self, definitions):
        """`definitions`, which have their lines already, as they are after a dump and restore, without secrets."""
        return [self.context.placeholders.mask(as_restored(definition)) for definition in definitions]

    @staticmethod
    def run(connection, sql):
        """Execute `sql` as it is."""
        with connection.cursor() as cursor:
            cursor.execute(sql)

    def become_owner(self):
        """What makes the session act as the owner of the objects, whatever a script made it act as."""
        owner = self.context.owner
        role = f"SET ROLE {postgres.quote_identifier(owner)}" if owner else "RESET ROLE"
        return f"SET SESSION AUTHORIZATION DEFAULT; {role}"

    def fresh_session(self):
        """What undoes an earlier script's effect on the session, as if this one had a session of its own."""
        used, self._used = self._used, True
        return f"RESET ALL; {self.become_owner()}; DISCARD TEMP; DEALLOCATE ALL; UNLISTEN *; " if used else ""

    def row_sql(self, entry):
        """What writes `entry` within a transaction, leaving the role that the script has chosen for what follows."""
        owner = self.context.owner
        role = postgres.quote_identifier(owner) if owner else "NONE"
        return f"SET LOCAL ROLE {role}; {self.ledger.upsert_sql(entry)}"

    def record(self, *entries):
        """Write `entries` in a transaction of their own."""
        sql = f"BEGIN; {'; '.join(map(self.row_sql, entries))}; COMMIT"
        self.dialect.retry(lambda: self._record(sql))

    def _record(self, sql):
        try:
            self.run(self.connection, sql)
        except postgres.psycopg2.Error:
            self.roll_back()
            raise

    def check(self, script, scan):
        """Whether `script` can be run here at all. Raises ScriptError."""
        transactional = self._transactional(script)
        if scan.meta and not transactional:
            raise ScriptError(
                f"{scan.meta.text.split()[0]} is a command of psql, and psql cannot go on from a failed statement: "
                "only scripts that are one transaction are handed to it. Write it in SQL", scan.meta.line,
            )
        if scan.unlocks and isinstance(self.lock, AdvisoryLock):
            raise ScriptError(
                "it would also give back the lock that keeps other runs out: write what you need of DISCARD ALL, such "
                "as RESET ALL, DISCARD TEMP and DEALLOCATE ALL", scan.unlocks.line,
            )
        if scan.meta:
            check_for_psql(scan)
        elif transactional and scan.control:
            raise ScriptError(
                f"{scan.control.word} in a script that is applied in one transaction: take it out, or make "
                "'-- no-transaction' the first line", scan.control.line,
            )

    def _transactional(self, script):
        return self.dialect.transactional_ddl and script.transactional()

    def forget(self, script, _entry):
        """Remove a script's entry."""
        self.ledger.remove(script)

    def apply(self, step, scan):
        """Apply one script and record it. Raises ScriptFailed, Refused."""
        if scan.meta or self._transactional(step.script):
            self._not_begun(step)
        if scan.meta:
            apply_with_psql(self, step.script, scan)
        elif self._transactional(step.script):
            self._apply_transaction(step.script, scan)
        else:
            reset = self.fresh_session()
            if reset:
                self.run(self.connection, reset)
            apply_stepwise(self, step, scan)

    @staticmethod
    def _not_begun(step):
        """Raises Refused where a script that is one transaction now has been done in part, statement by statement."""
        if step.marker() or (step.resumable and step.resumable.completed):
            raise Refused(
                f"{step.script.name}: its first {step.resumable.completed} statements are done, by a run that applied "
                "it statement by statement: make '-- no-transaction' its first line again; or name it in repair to "
                "begin it again from its first statement"
            )

    def execute(self, statement):
        """Execute a statement of a script, with COPY's rows where it has them; those of COPY … TO STDOUT go nowhere."""
        text = self.context.placeholders.fill(statement.text)
        with self.connection.cursor() as cursor:
            if statement.kind == "copy":
                cursor.copy_expert(text, statement.data)
            elif statement.word == "COPY":
                with open(os.devnull, "wb") as nowhere:
                    cursor.copy_expert(text, nowhere)
            else:
                cursor.execute(text)

    def _apply_transaction(self, script, scan):
        started = now()
        try:
            self.dialect.retry(lambda: self._transaction(script, scan, started))
        except (ScriptFailed, postgres.psycopg2.Error) as error:
            failure = error if isinstance(error, ScriptFailed) else error.__cause__  # transient, for too long
            if failure is None:
                raise
            if not self.connection.closed:
                self.record(self.context.entry(script, scan, "failed", 0, started, error=str(failure)))
            raise failure from None

    def _transaction(self, script, scan, started):
        self.run(self.connection, f"{self.fresh_session()}BEGIN")
        number, statement = 0, None
        try:
            for number, statement in enumerate(scan.statements(), 1):
                if not (scan.bracketed and number in (1, scan.count)):
                    self.execute(statement)
            number = statement = None
            row = self.ledger.upsert_sql(self.context.entry(script, scan, "applied", scan.count, started))
            self.run(self.connection, f"SET CONSTRAINTS ALL IMMEDIATE; {self.become_owner()}; {row}; COMMIT")
        except postgres.psycopg2.Error as error:
            self.roll_back()
            remains = "Nothing of the script remains in the database."
            if error.pgcode in (*OUTSIDE, _NEW_IN_ENUM):
                remains += " If it cannot be done in one: make '-- no-transaction' the script's first line."
            failure = self.failure(script, error, 0, statement, number, scan, remains)
            if self.dialect.is_transient(error):
                raise error from failure
            raise failure from None
        except BaseException:
            self.roll_back()
            raise

    def roll_back(self):
        """End the open transaction, if the connection is still there."""
        if not self.connection.closed:
            try:
                self.run(self.connection, "ROLLBACK")
            except postgres.psycopg2.Error:
                self.connection.close()

    def failure(self, script, error, completed, statement, number, scan, remains=""):
        """The ScriptFailed for a psycopg2 error."""
        if self.connection.closed or isinstance(error, postgres.psycopg2.InterfaceError):
            remains = "The connection is gone. Run again: the ledger tells what was done."
        line = None
        if statement and error.diag.statement_position:
            filled = self.context.placeholders.fill(statement.text)
            line = statement.line + filled.count("\n", 0, int(error.diag.statement_position) - 1)
        where = "" if statement else "at its end (deferred constraints and the commit): "
        said = self.context.placeholders.mask(describe(error))
        if statement and error.pgcode in _WAITED:
            said += self.holders(statement.text)
        return ScriptFailed(script, where + said, completed, statement, number, scan.count, line, remains)

    def holders(self, text):
        """Whose locks SQL may have waited for, as lines of an error; empty where nobody has any now."""
        words = sorted(set(re.findall(r"\w+", self.context.placeholders.fill(text).lower())))
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(_HOLDERS, (words,))
                found = [row[0] for row in cursor.fetchall()]
        except postgres.psycopg2.Error:
            return ""
        return "".join(f"\n  Locks are held by {one}" for one in found)


def describe(error):
    """A psycopg2 error in a few lines: message, SQLSTATE, detail, hint, where it came up."""
    diag = error.diag
    if not diag.message_primary:
        return str(error).strip() or type(error).__name__
    lines = [f"{diag.severity}: {diag.message_primary} (SQLSTATE {error.pgcode})"]
    for name, text in (("Detail", diag.message_detail), ("Hint", diag.message_hint), ("Context", diag.context)):
        if text:
            lines.append(f"{name}: {text}")
    return "\n  ".join(lines)
