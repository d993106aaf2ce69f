# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ledger in a ClickHouse database: its tables, its lease."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import secrets
import threading
import time

from .clickhouse import ClickHouseError, ConnectionFailed, ServerError, quote_identifier, quote_string
from .schema_plan import ALTERED, COLUMNS, LEASE, Entry, LedgerError, LockTaken, from_ledger, position

TABLE = "schema_ledger"
_UNKNOWN_COLUMN, _UNKNOWN_TABLE, _UNKNOWN_DATABASE = 47, 60, 81
_REMOVED = "removed"  # the status of an entry that is none any more
_NUMBERS = ("statements", "completed", "duration_ms")
_MOMENTS = ("started_at", "finished_at")
_DEFINITIONS = {
    "_lease":
        "(id String, owner String, expires_at DateTime64(3, 'UTC'), revision UInt64) "
        "ENGINE = ReplacingMergeTree(revision) ORDER BY id TTL toDateTime(expires_at) + INTERVAL 1 DAY",
    "_fingerprint":
        "(taken_at DateTime64(3, 'UTC'), position String, objects String, one UInt8) "
        "ENGINE = ReplacingMergeTree(taken_at) ORDER BY one",
    "":
        "(set_name String, script String, kind LowCardinality(String), version String, checksum String, "
        "statements UInt32, completed UInt32, completed_checksum String, status LowCardinality(String), "
        "started_at DateTime64(3, 'UTC'), finished_at Nullable(DateTime64(3, 'UTC')), duration_ms UInt64, "
        "applied_by String, tool_version String, error String, marker String, revision UInt64) "
        "ENGINE = ReplacingMergeTree(revision) ORDER BY (set_name, script)",
}


class NoDatabase(ConnectionFailed):
    """The server is there, the database is not."""


class ClickHouseLedger:
    """The ledger of `set_name` in `database`."""

    def __init__(self, client, database, set_name, place):
        self.client, self.database, self.set_name, self.place = client, database, set_name, place
        self._revision = 0

    def table(self, suffix=""):
        """The full name of one of the ledger's tables, quoted."""
        return f"{quote_identifier(self.database)}.{quote_identifier(TABLE + suffix)}"

    def rows(self, sql, suffix=""):
        """The rows of a query on one of the ledger's tables."""
        self.place.sync(self.client, self.table(suffix))
        return self.client.rows(sql)

    def read(self):
        """(entries of the set by script name, position of the whole ledger); (None, None) where there is no ledger.

        Raises LedgerError where it cannot be read.
        """
        rows = self._select(*COLUMNS)
        if rows is None:
            return None, None
        return {row["script"]: _entry(row) for row in rows if row["set_name"] == self.set_name}, _position(rows)

    def position(self):
        """The second half of what read() returns."""
        rows = self._select("script", "checksum", "completed", "status")
        return None if rows is None else _position(rows)

    def _select(self, *columns):
        try:
            rows = self.rows(
                f"SELECT set_name, revision, {', '.join(columns)} FROM {self.table()} FINAL ORDER BY set_name, script"
            )
        except ServerError as error:
            if error.code == _UNKNOWN_TABLE:
                return None
            if error.code == _UNKNOWN_DATABASE:
                raise NoDatabase(f"There is no database {self.database}: create it first") from None
            remedy = ALTERED if error.code == _UNKNOWN_COLUMN else "What to do: the user needs SELECT on it"
            raise LedgerError(
                f"The ledger {self.table()} cannot be read, so nothing is known about what is applied: {error}. "
                f"{remedy}"
            ) from None
        # Of removed entries too: a row with a lower one would not come before theirs.
        self._revision = max([row["revision"] for row in rows], default=0)
        return [row for row in rows if row["status"] != _REMOVED]

    def create(self):
        """Create what is missing of the ledger.

        Not by IF NOT EXISTS alone: a cluster passes that on to all hosts, and waits for one that is down.
        """
        there = {row["name"] for row in self.client.rows(
            f"SELECT name FROM system.tables WHERE database = {quote_string(self.database)} "
            f"AND startsWith(name, '{TABLE}')"
        )}
        for suffix, definition in _DEFINITIONS.items():
            if TABLE + suffix in there:
                continue
            statements, settings = self.place.everywhere(
                f"CREATE TABLE IF NOT EXISTS {self.table(suffix)} {definition}"
            )
            for statement in statements:
                self.client.execute(statement, settings)

    def write(self, entry, marker_sql=None, query_id=None):
        """Write `entry`. marker_sql: an expression in the place of its marker, which the server works out.

        query_id: what the server's log shall call it.
        """
        self.client.execute(
            f"{self._insert()} SELECT {self._values(entry, marker_sql)}", {"query_id": query_id} if query_id else None
        )

    def write_all(self, entries):
        """Write `entries` as one block, which the server takes whole or not at all."""
        rows = ", ".join(f"({self._values(entry)})" for entry in entries)
        self.client.execute(f"{self._insert()} VALUES {rows}", {"async_insert": 0})

    def _insert(self):
        return f"INSERT INTO {self.table()} (set_name, revision, {', '.join(COLUMNS)})"

    def _values(self, entry, marker_sql=None):
        """An expression for each column of the row of `entry`."""
        self._revision += 1
        values = []
        for name in COLUMNS:
            value = getattr(entry, name)
            if name == "marker" and marker_sql:
                values.append(marker_sql)
            elif name in _MOMENTS:
                values.append(_moment(value))
            elif name in _NUMBERS:
                values.append(str(value or 0))
            else:
                values.append(quote_string(value or ""))
        return f"{quote_string(self.set_name)}, {self._revision}, {', '.join(values)}"

    def remove(self, script):
        """Forget `script`."""
        moment = datetime.datetime.now(datetime.timezone.utc)
        self.write(Entry(script=script, status=_REMOVED, started_at=moment))

    def fingerprint(self):
        """(objects, position) as recorded last, (None, None) where none was. Raises LedgerError."""
        rows = self._fingerprint("objects, position")
        return (_objects(rows[0], self.table("_fingerprint")), rows[0]["position"]) if rows else (None, None)

    def fingerprint_position(self):
        """The position() that the recorded fingerprint belongs to, or None. Raises LedgerError."""
        rows = self._fingerprint("position")
        return rows[0]["position"] if rows else None

    def _fingerprint(self, columns):
        try:
            return self.rows(f"SELECT {columns} FROM {self.table('_fingerprint')} FINAL", "_fingerprint")
        except ServerError as error:
            if error.code == _UNKNOWN_TABLE:
                return None
            raise LedgerError(f"{self.table('_fingerprint')} cannot be read: {error}") from None

    def recorded_elsewhere(self):
        """The names of the objects that the ledgers of other databases have recorded, as far as they can be read."""
        name, found = f"{TABLE}_fingerprint", set()
        for row in self.client.rows(
            f"SELECT database FROM system.tables WHERE name = '{name}' AND database != {quote_string(self.database)}"
        ):
            with contextlib.suppress(ServerError, LedgerError):
                table = f"{quote_identifier(row['database'])}.{name}"
                for recorded in self.client.rows(f"SELECT objects FROM {table} FINAL"):
                    found.update(_objects(recorded, table))
        return found

    def record_fingerprint(self, objects, at):
        """Record `objects` as what the schema looks like at the ledger's position `at`."""
        statement = (
            f"INSERT INTO {self.table('_fingerprint')} (taken_at, position, objects, one) "
            f"SELECT now64(3), {quote_string(at)}, {quote_string(json.dumps(objects, sort_keys=True))}, 1"
        )
        self.client.execute(statement, {"max_query_size": len(statement.encode()) + 1})


def _position(rows):
    return position([row["set_name"], row["script"], row["checksum"], row["completed"]] for row in rows)


def _objects(row, table):
    advice = "drop it, and the next run records the schema as it finds it"
    return from_ledger(row["objects"], f"The table {table}", advice)


def _entry(row):
    values = {name: row[name] for name in COLUMNS}
    values["completed_checksum"] = row["completed_checksum"] or None
    return Entry(**values)


def _moment(value):
    """An expression for a datetime, an answer's text, or None."""
    if value is None:
        return "CAST(NULL AS Nullable(DateTime64(3, 'UTC')))"
    if isinstance(value, datetime.datetime):
        value = value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return f"toDateTime64({quote_string(value)}, 3, 'UTC')"


class Lease:
    """Rows of the ledger with an owner and an expiry; ClickHouse has no lock and no compare-and-set.

    Whoever wants it writes a row of its own and then reads: it holds the lease only if no other row is alive.
    Of two that come at the same time at least one sees the other, and who sees another withdraws and tries again.
    """

    seconds = LEASE

    def __init__(self, ledger, owner, clone):
        self.ledger, self.owner = ledger, owner
        self._clone = clone  # makes a client of its own for the thread that renews
        self._id, self._revision, self._valid_until = secrets.token_hex(8), 0, 0.0
        self._end, self._renewer = threading.Event(), None

    def _write(self, client, seconds):
        """Write or renew the row, or let it expire with 0 seconds."""
        asked = time.monotonic()
        self._revision += 1
        client.execute(
            f"INSERT INTO {self.ledger.table('_lease')} (id, owner, expires_at, revision) SELECT "
            f"{quote_string(self._id)}, {quote_string(self.owner)}, "
            f"fromUnixTimestamp64Milli(toUnixTimestamp64Milli(now64(3)) + {round(seconds * 1000)}), {self._revision}"
        )
        self._valid_until = asked + seconds

    def _others(self):
        return self.ledger.rows(
            f"SELECT owner, toString(expires_at) AS until FROM {self.ledger.table('_lease')} FINAL "
            f"WHERE expires_at > now64(3) AND id != {quote_string(self._id)}", "_lease",
        )

    def take(self, seconds):
        """Take it, waiting up to `seconds`. Raises LockTaken, whose text names the holder."""
        deadline = time.monotonic() + seconds
        while True:
            others = self._others()
            if not others:
                self._write(self.ledger.client, self.seconds)
                others = self._others()
                if not others:
                    break
                self._write(self.ledger.client, 0)
            if time.monotonic() >= deadline:
                raise LockTaken(
                    f"After {seconds} s {_who(others)} still holds the lease: wait for its end, then run again."
                )
            time.sleep(random.uniform(0.05, 0.4))
        self._renewer = threading.Thread(target=self._renew, daemon=True)
        self._renewer.start()

    def _renew(self):
        client = None
        while not self._end.wait(self.seconds / 6):
            try:
                client = client or self._clone()
                if time.monotonic() < self._valid_until:  # past that it may be somebody else's
                    self._write(client, self.seconds)
            except ClickHouseError:
                pass  # try again; check() says when it is too late

    def holder(self):
        """Who holds it, for a sentence, or None."""
        try:
            others = self._others()
        except ServerError as error:
            if error.code == _UNKNOWN_TABLE:
                return None
            raise
        return _who(others) if others else None

    def check(self):
        """Raises LockTaken where the lease could not be renewed in time."""
        if time.monotonic() > self._valid_until:
            raise LockTaken("The lease on the ledger was lost before the end: run again.")

    def release(self):
        """Give it back."""
        self._end.set()
        if self._renewer:
            self._renewer.join()
        self._write(self.ledger.client, 0)


def _who(others):
    return f"{others[0]['owner']} (unless renewed, until {others[0]['until']} UTC)"
