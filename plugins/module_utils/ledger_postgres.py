# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ledger in a PostgreSQL or YugabyteDB database: its tables, its lock."""

from __future__ import annotations

import json
import secrets
import threading
import time

from . import postgres
from .schema_plan import ALTERED, COLUMNS, LEASE, Entry, LedgerError, LockTaken, from_ledger, position

SCHEMA = "schema_ledger"
LOCK, PSQL_LOCK = "schema_apply", "schema_apply's psql"
_UNDEFINED = ("42P01", "3F000")
REMEDIES = {
    "42501": f". Log in as its owner; or GRANT USAGE ON SCHEMA {SCHEMA} TO …; "
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO …",
    "42703": f". {ALTERED}",
}
_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {SCHEMA}.lease (
  name text PRIMARY KEY, token text NOT NULL, owner text NOT NULL, expires_at timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS {SCHEMA}.fingerprint (
  only_row boolean PRIMARY KEY DEFAULT true, taken_at timestamptz NOT NULL, position text NOT NULL,
  objects text NOT NULL
);
CREATE TABLE IF NOT EXISTS {SCHEMA}.scripts (
  set_name text NOT NULL, script text NOT NULL, kind text NOT NULL, version text, checksum text NOT NULL,
  statements integer, completed integer NOT NULL, completed_checksum text, status text NOT NULL,
  started_at timestamptz NOT NULL, finished_at timestamptz, duration_ms bigint, applied_by text NOT NULL,
  tool_version text NOT NULL, error text, marker text, PRIMARY KEY (set_name, script)
)
"""
_HERE = f"{SCHEMA}.scripts"
_UPSERT = (
    f"INSERT INTO {_HERE} (set_name, {', '.join(COLUMNS)}) VALUES (%s, {', '.join(['%s'] * len(COLUMNS))}) "
    f"ON CONFLICT (set_name, script) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[1:])}"
)


class PostgresLedger:
    """The ledger of `set_name` in the database behind `connection`, a psycopg2 connection in autocommit mode."""

    def __init__(self, connection, set_name):
        self.connection, self.set_name = connection, set_name

    def _execute(self, sql, values=None):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def read(self):
        """(entries of the set by script name, position of the whole ledger); (None, None) where there is no ledger.

        Raises LedgerError where it cannot be read.
        """
        rows = self._select(*COLUMNS)
        if rows is None:
            return None, None
        entries = {row[1]: Entry(**dict(zip(COLUMNS, row[1:]))) for row in rows if row[0] == self.set_name}
        return entries, position([row[0], row[1], row[4], row[6]] for row in rows)

    def position(self):
        """The second half of what read() returns."""
        rows = self._select("script", "checksum", "completed")
        return None if rows is None else position(rows)

    def _select(self, *columns):
        return self._read(
            f"SELECT set_name, {', '.join(columns)} FROM {_HERE} ORDER BY set_name, script",
            f"The ledger {_HERE} cannot be read, so nothing is known about what is applied",
        )

    def _read(self, sql, unreadable):
        """The rows, None where there is no such table. Raises LedgerError, which begins with `unreadable`."""
        try:
            return self._execute(sql)
        except postgres.psycopg2.Error as error:
            if error.pgcode in _UNDEFINED:
                return None
            raise LedgerError(f"{unreadable}: {str(error).strip()}{REMEDIES.get(error.pgcode, '')}") from None

    def create(self):
        """Create what is missing of the ledger."""
        for statement in _TABLES.split(";"):
            self._execute(statement)

    def upsert_sql(self, entry):
        """The statement that writes `entry`, complete with its values."""
        with self.connection.cursor() as cursor:
            return cursor.mogrify(_UPSERT, [self.set_name, *(getattr(entry, name) for name in COLUMNS)]).decode()

    def write(self, entry):
        """Write `entry`, on its own or in the transaction that is open."""
        self._execute(self.upsert_sql(entry))

    def remove(self, script):
        """Forget `script`."""
        self._execute(f"DELETE FROM {_HERE} WHERE set_name = %s AND script = %s", (self.set_name, script))

    def fingerprint(self):
        """(objects, position) as recorded last, (None, None) where none was. Raises LedgerError."""
        rows = self._fingerprint("objects, position")
        if not rows:
            return None, None
        advice = "drop it, and the next run records the schema as it finds it"
        return from_ledger(rows[0][0], f"The table {SCHEMA}.fingerprint", advice), rows[0][1]

    def fingerprint_position(self):
        """The position() that the recorded fingerprint belongs to, or None. Raises LedgerError."""
        rows = self._fingerprint("position")
        return rows[0][0] if rows else None

    def _fingerprint(self, columns):
        return self._read(f"SELECT {columns} FROM {SCHEMA}.fingerprint", f"{SCHEMA}.fingerprint cannot be read")

    def record_fingerprint(self, objects, at):
        """Record `objects` as what the schema looks like at the ledger's position `at`."""
        self._execute(
            f"INSERT INTO {SCHEMA}.fingerprint (taken_at, position, objects) VALUES (now(), %s, %s) ON CONFLICT "
            "(only_row) DO UPDATE SET taken_at = excluded.taken_at, position = excluded.position, "
            "objects = excluded.objects",
            (at, json.dumps(objects, sort_keys=True)),
        )


class AdvisoryLock:
    """PostgreSQL's own lock: it lasts as long as the connection that the scripts run on.

    A psql that a run starts has a connection, and a lock, of its own. Both have to be free for a run to begin.
    """

    def __init__(self, connection, owner):
        self.connection = connection

    def take(self, seconds):
        """Take it, waiting up to `seconds`. Raises LockTaken, whose text names the holder."""
        deadline = time.monotonic() + seconds
        self._lock(LOCK, seconds)
        self.wait_for_psql(max(0, round(deadline - time.monotonic())))

    def _lock(self, name, seconds):
        try:
            postgres.take_advisory_lock(self.connection, name, seconds)
        except postgres.LockTaken as error:
            raise LockTaken(str(error)) from None

    def psql_lock(self):
        """What waits in psql until it has the lock, to the end of its session."""
        return f"SELECT pg_catalog.pg_advisory_lock({postgres.lock_key(PSQL_LOCK)})"

    def psql_check(self, name):
        """What tells psql, as the column `name`, whether the run that has started it still has the lock."""
        return postgres.lock_check(LOCK, self.connection.info.backend_pid, name)

    def wait_for_psql(self, seconds):
        """Wait until psql's session is over. Raises LockTaken."""
        self._lock(PSQL_LOCK, seconds)
        postgres.release_advisory_lock(self.connection, PSQL_LOCK)

    def holder(self):
        """Who holds it, for a sentence, or None."""
        return postgres.advisory_lock_holder(self.connection, LOCK, PSQL_LOCK)

    def check(self):
        """Nothing to check: without the lock there is no connection either."""

    def release(self):
        """The end of the connection does it."""


class Lease:
    """A row of the ledger with an owner and an expiry, renewed by a thread on a connection of its own.

    `connect` opens another connection. check() raises LockTaken as soon as the lease may be somebody else's.
    """

    seconds = LEASE

    def __init__(self, connection, owner, connect):
        self.connection, self.owner = connection, owner
        self._connect, self._token, self._end, self._renewer = connect, secrets.token_hex(8), threading.Event(), None
        self._valid_until = 0.0

    def _execute(self, connection, sql, *values):
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchone() if cursor.description else None

    def _claim(self, connection):
        """Take or renew the row; whether it is ours now."""
        asked = time.monotonic()
        row = self._execute(
            connection,
            f"INSERT INTO {SCHEMA}.lease AS l (name, token, owner, expires_at) "
            "VALUES (%s, %s, %s, clock_timestamp() + make_interval(secs => %s)) ON CONFLICT (name) DO UPDATE "
            "SET token = excluded.token, owner = excluded.owner, expires_at = excluded.expires_at "
            "WHERE l.token = excluded.token OR l.expires_at < clock_timestamp() RETURNING token",
            LOCK, self._token, self.owner, self.seconds,
        )
        if row:
            self._valid_until = asked + self.seconds
        return bool(row)

    def take(self, seconds):
        """Take it, waiting up to `seconds`. Raises LockTaken, whose text names the holder."""
        deadline = time.monotonic() + seconds
        while not self._claim(self.connection):
            if time.monotonic() >= deadline:
                raise LockTaken(
                    f"After {seconds} s {self.holder()} still holds the lease: wait for its end, then run again."
                )
            time.sleep(0.2)
        self._renewer = threading.Thread(target=self._renew, daemon=True)
        self._renewer.start()

    def _renew(self):
        connection = None
        while not self._end.wait(self.seconds / 6):
            try:
                connection = connection or self._connect()
                if not self._claim(connection):
                    self._valid_until = 0.0
                    break
            except (postgres.psycopg2.Error, postgres.PostgresError):
                connection = None  # try again; check() says when it is too late
        if connection:
            connection.close()

    def holder(self):
        """Who holds it, for a sentence, or None."""
        try:
            row = self._execute(
                self.connection, f"SELECT owner, date_trunc('second', expires_at)::text FROM {SCHEMA}.lease "
                "WHERE name = %s AND expires_at > clock_timestamp()", LOCK,
            )
        except postgres.psycopg2.Error as error:
            if error.pgcode in _UNDEFINED:
                return None
            raise
        return f"{row[0]} (unless renewed, until {row[1]})" if row else None

    def check(self):
        """Raises LockTaken where the lease could not be renewed in time."""
        if time.monotonic() > self._valid_until:
            raise LockTaken("The lease on the ledger was lost before the end: run again.")

    def release(self):
        """Give it back."""
        self._end.set()
        if self._renewer:
            self._renewer.join()
        self._execute(self.connection, f"DELETE FROM {SCHEMA}.lease WHERE name = %s AND token = %s", LOCK, self._token)
