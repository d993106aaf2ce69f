# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Back up and restore ClickHouse databases with the server's own BACKUP and RESTORE."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time

from .backup_folder import BackupError, human
from .backup_run import Different
from .clickhouse import ClickHouseError, ServerError, quote_identifier, quote_string
from .clickhouse_engines import of_one_host

MINIMUM_VERSION = (23, 8)
DATA = "data"  # the server's part of a backup's folder
_VIEWS = ("View", "MaterializedView", "LiveView", "WindowView", "Dictionary")
# Of these BACKUP takes the definition and leaves out the rows, without a word.
_ROWLESS = ("File", "Join", "Set", "Buffer")
# They hold no rows for good and name the database that they read from: the original's own stay where they are.
_REFERRING = (*_VIEWS, *_ROWLESS, "Merge", "Distributed")
_REPLICATED = "Replicated"  # the engine of a database, and how those of its tables begin
_UNKNOWN_TABLE = 60


def ledger(client, database):
    """{set: {applied, unfinished}} of the schema ledger, {} where there is none. Raises ClickHouseError."""
    try:
        found = client.rows(
            "SELECT set_name, countIf(status IN ('applied', 'adopted')) AS applied, "
            "groupArrayIf(script, status NOT IN ('applied', 'adopted')) AS unfinished "
            f"FROM {quote_identifier(database)}.schema_ledger FINAL WHERE status != 'removed' GROUP BY set_name"
        )
    except ServerError as error:
        if error.code == _UNKNOWN_TABLE:
            return {}
        raise
    return {row["set_name"]: {"applied": row["applied"], "unfinished": row["unfinished"]} for row in found}


def _alone(engine):
    """What the table's engine is where no other host shares it."""
    return engine[len(_REPLICATED):] if engine.startswith(_REPLICATED) else engine


class ClickHouseBackup:
    """Backups of one server, which writes and reads the files itself. `folder`: the Store's."""

    def __init__(self, params, client, folder):
        self.params, self.client, self.folder = params, client, folder
        self._disk = None

    def begin(self, handle):
        """Refuse to go on while the server still writes a backup that a killed run has begun."""
        left = [
            row["name"] for row in self.client.rows("SELECT name FROM system.backups WHERE status = 'CREATING_BACKUP'")
            if f"{os.path.basename(self.folder)}/" in row["name"]
        ]
        if left:
            raise BackupError(f"The server still writes {left[0]}, which another run has begun: wait for its end.")

    def size(self, databases):
        """Bytes of the databases together. BackupError where one does not exist."""
        self.client.require(MINIMUM_VERSION, "backing it up")
        known = self._databases()
        missing = [name for name in databases if name not in known]
        if missing:
            raise BackupError(
                f"There is no database {', '.join(missing)} on {self.client.address}. "
                f"There are: {', '.join(sorted(known))}."
            )
        return sum(known[name] for name in databases)

    def _databases(self):
        return {row["name"]: row["size"] for row in self.client.rows(
            "SELECT d.name AS name, toUInt64(ifNull(sum(t.total_bytes), 0)) AS size FROM system.databases AS d "
            "LEFT JOIN system.tables AS t ON t.database = d.name GROUP BY d.name"
        )}

    def create(self, folder, databases, base):
        """Back `databases` up into `folder`, on top of the Backup `base` where there is one. Returns the manifest."""
        before, parts = ({name: look(name) for name in databases} for look in (self.contents, self._parts))
        settings = f" SETTINGS base_backup = {self._place(base.path)}" if base else ""
        what = ", ".join(f"DATABASE {quote_identifier(name)}" for name in databases)
        self._run(f"BACKUP {what} TO {self._place(folder)}{settings} ASYNC")
        if not os.path.exists(os.path.join(folder, DATA, ".backup")):
            raise BackupError(f"The server has written the backup, but not to {folder} here: run this on its own host.")
        entries = {}
        for name in databases:
            after, parts_after = self.contents(name), self._parts(name)
            for table, found in before[name].items():
                # Rows that come, and a merge that folds them, can end with the number that there was before.
                unchanged = parts[name].get(table) == parts_after.get(table)
                if found["engine"] in _ROWLESS or not unchanged or after.get(table, {}).get("rows") != found["rows"]:
                    found["rows"] = None  # written to in the meantime, they prove nothing
            size = sum(row["size"] for row in before[name].values())
            entries[name] = {
                "tables": before[name], "size": size, "ledger": ledger(self.client, name),
                "replicated": self._replicated(name),
                "rowless": sorted(table for table, found in before[name].items() if found["engine"] in _ROWLESS),
            }
        return {
            "server_version": ".".join(map(str, self.client.version)), "version": list(self.client.version),
            "base": base.name if base else None, "databases": entries,
        }

    def contents(self, database):
        """{table: {engine, columns (a hash), rows (None where the engine does not count them), size}}."""
        columns = {}
        for row in self.client.rows(
            f"SELECT table, name, type FROM system.columns WHERE database = {quote_string(database)} "
            "ORDER BY table, position"
        ):
            columns.setdefault(row["table"], []).append([row["name"], row["type"]])
        return {
            name: {
                "engine": row["engine"], "rows": row["total_rows"], "size": row["total_bytes"] or 0,
                "columns": hashlib.sha256(repr(columns.get(name)).encode()).hexdigest()[:12],
            } for name, row in self._tables(database).items() if not name.startswith(".inner")
        }

    def _replicated(self, database):
        """{table: CREATE TABLE} of those that hosts of a cluster share; None where they share nothing of it."""
        shared = {
            row["name"]: row["query"] for row in self.client.rows(
                "SELECT name, create_table_query AS query, engine FROM system.tables "
                f"WHERE database = {quote_string(database)}"
            ) if row["engine"].startswith(_REPLICATED)
        }
        [row] = self.client.rows(f"SELECT name, engine FROM system.databases WHERE name = {quote_string(database)}")
        return shared if shared or row["engine"] == _REPLICATED else None

    def _parts(self, database):
        """{table: names of its parts}; a name that is gone never comes back."""
        return {row["table"]: row["parts"] for row in self.client.rows(
            "SELECT table, arraySort(groupArray(name)) AS parts FROM system.parts "
            f"WHERE active AND database = {quote_string(database)} GROUP BY table"
        )}

    def _tables(self, database):
        return {row["name"]: row for row in self.client.rows(
            "SELECT name, engine, uuid, total_rows, total_bytes FROM system.tables "
            f"WHERE database = {quote_string(database)}"
        )}

    def _place(self, folder):
        """The backup in `folder` in the server's words."""
        path, disk = os.path.join(folder, DATA), self.params.get("disk")
        if not disk:
            return f"File({quote_string(path)})"
        if self._disk is None:
            found = self.client.rows(f"SELECT path FROM system.disks WHERE name = {quote_string(disk)}")
            if not found or not os.path.realpath(folder).startswith(os.path.realpath(found[0]["path"]) + os.sep):
                at = f"is at {found[0]['path']}" if found else "is not known to the server"
                raise BackupError(f"The disk {disk} {at}: path has to be a folder below it.")
            self._disk = os.path.realpath(found[0]["path"])
        return f"Disk({quote_string(disk)}, {quote_string(os.path.relpath(os.path.realpath(path), self._disk))})"

    def _run(self, statement):
        """Run BACKUP or RESTORE with ASYNC and wait for its end. BackupError with what the server said."""
        number = self.client.execute(statement).split("\t")[0].strip()
        pause, status = 0.05, {}
        try:
            while True:
                found = self.client.rows(f"SELECT status, error FROM system.backups WHERE id = {quote_string(number)}")
                if not found:
                    raise BackupError("The server was restarted meanwhile and has forgotten it: run it again.")
                status = found[0]
                if not status["status"].startswith(("CREATING", "RESTORING")):
                    break
                time.sleep(pause)
                pause = min(pause * 2, 2)
        except BaseException:
            self._cancel(number)
            raise
        if status["status"] not in ("BACKUP_CREATED", "RESTORED"):
            said = status["error"].split(", Stack trace")[0].split("DB::Exception: ")[-1].strip()
            raise BackupError(f"ClickHouse could not do it ({status['status']}): {said}")

    def _cancel(self, number):
        """Stop a backup that is no longer waited for, so that it does not go on writing."""
        with contextlib.suppress(ClickHouseError):
            self.client.execute(
                "KILL QUERY WHERE query_id IN "
                f"(SELECT query_id FROM system.backups WHERE id = {quote_string(number)}) SYNC"
            )

    def prepare(self, backup, copies, write):
        """See to it that databases of a backup can be restored as `copies`, {database: copy}. Raises BackupError.

        Returns a sentence on whatever will be left out.
        """
        self.client.require(MINIMUM_VERSION, "restoring to it")
        known = self._databases()
        for database, copy in copies.items():
            if copy in known:
                raise BackupError(
                    f"There is a database {copy} already, maybe from an interrupted restore: look into it, then "
                    "rename or drop it, or choose another suffix."
                )
            if self.params["replace"] and self._shared(backup, database) is not None:
                raise BackupError(
                    f"Database {database} is replicated: in a cluster no copy takes its place. Restore beside it on "
                    f"every host (replace=false), then insert on one replica of each shard what is missing from {copy}."
                )
            inner = [name for name in self._tables(database) if name.startswith(".inner")]
            if self.params["replace"] and inner:
                raise BackupError(
                    f"Database {database} has materialized views that store their rows themselves, without TO, and "
                    "ClickHouse cannot exchange these. Restore beside it, and copy what you need."
                )
        size = sum(backup.manifest["databases"][name]["size"] for name in copies)
        free = self.client.rows(  # of the disks that tables may be on, not of one that is for backups alone
            "SELECT toUInt64(max(unreserved_space)) AS free FROM system.disks "
            "WHERE name IN (SELECT arrayJoin(disks) FROM system.storage_policies)"
        )[0]["free"]
        if free < size + self.params["reserve_mb"] * 1048576:
            raise BackupError(
                f"The server's disks have {human(free)} free; the restored copy takes {human(size)}, and "
                f"{self.params['reserve_mb']} MB are to stay free. Make room, or lower reserve_mb."
            )
        return []

    def _tied(self, target):
        """Tables of a copy that name it in an expression, as for a dictionary: in another place they still would."""
        return [row["name"] for row in self.client.rows(
            f"SELECT name FROM system.tables WHERE database = {quote_string(target)} "
            f"AND engine NOT IN ({', '.join(map(quote_string, _REFERRING))}) "
            f"AND position(replaceRegexpOne(create_table_query, '^[^(]*', ''), {quote_string(target)}) > 0"
        )]

    def restore(self, backup, database, target, proof=False):
        """Restore `database` of a backup as the new database `target` and compare it with the manifest.

        proof: it is a scratch database. Returns (number of tables, number of rows).
        Raises Different, with the copy left for a look; after any other error nothing is left of it.
        """
        if target in self._databases():
            raise BackupError(f"There is a database {target} already.")
        try:
            settings = self._begin_apart(backup, database, target)
            self._run(self._statement(backup, database, target, "structure_only = true", *settings))
            # What merges drop (rows past their TTL, rows that collapse) would count as missing.
            merging = [
                f"{quote_identifier(target)}.{quote_identifier(name)}" for name, table in self._tables(target).items()
                if table["engine"].endswith("MergeTree")
            ]
            for table in merging:
                self.client.execute(f"SYSTEM STOP MERGES {table}")
            self._run(self._statement(backup, database, target, *settings))
            found, recorded = self._differences(backup, database, target), backup.manifest["databases"][database]
            for table in merging if not proof else ():
                self.client.execute(f"SYSTEM START MERGES {table}")
        except BaseException:
            self._drop(target)
            raise
        if found:
            raise Different(f"Database {target} is not what the backup {backup.name} was made of: {'; '.join(found)}.")
        tied = self._tied(target) if self.params["replace"] and not proof and target != database else ()
        if tied:
            raise BackupError(
                f"Nothing was replaced: in {target}, {', '.join(tied)} read from {target} itself, by a dictionary for "
                f"one, and would go on to in the original's place. Insert into {database} what is missing there."
            )
        return len(recorded["tables"]), sum(table["rows"] or 0 for table in recorded["tables"].values())

    @staticmethod
    def _shared(backup, database):
        return backup.manifest["databases"][database].get("replicated")

    def _begin_apart(self, backup, database, target):
        """Create what RESTORE must not create as it was; its settings.

        A copy of what the hosts of a cluster share would want the original's own places in Keeper, so it is one of
        this host alone: the rows are those that the host held.
        """
        shared = self._shared(backup, database)
        if shared is None:
            return ()
        self.client.execute(f"CREATE DATABASE {quote_identifier(target)} ENGINE = Atomic")
        for statement in shared.values():
            self.client.execute(of_one_host(statement, target))
        return "allow_different_database_def = true", "allow_different_table_def = true"

    def _statement(self, backup, database, target, *settings, what=None):
        """RESTORE for a database, or for `what`; an increment is told where the backup is now that it adds to."""
        what = what or f"DATABASE {quote_identifier(database)} AS {quote_identifier(target)}"
        base = backup.manifest.get("base")
        if base:
            settings += (f"base_backup = {self._place(os.path.join(os.path.dirname(backup.path), base))}",)
        ending = f" SETTINGS {', '.join(settings)}" if settings else ""
        return f"RESTORE {what} FROM {self._place(backup.path)}{ending} ASYNC"

    def _differences(self, backup, database, target):
        recorded, found = backup.manifest["databases"][database]["tables"], []
        live = self.contents(target)
        for table in sorted(set(recorded) | set(live)):
            before, after = recorded.get(table), live.get(table)
            if after is None:
                found.append(f"table {table} is missing")
            elif before is None:
                found.append(f"table {table} is not in the backup")
            elif (_alone(before["engine"]), before["columns"]) != (_alone(after["engine"]), after["columns"]):
                found.append(f"table {table} has another engine or other columns than the backup")
            elif before["rows"] is not None and before["rows"] != after["rows"]:
                found.append(f"table {table} has {after['rows']} rows, the backup {before['rows']}")
        return found

    def swap(self, backup, database, copy):
        """Let the compared `copy` take the place of `database`. What became of the latter, as the end of a sentence.

        Tables change places one by one. RENAME DATABASE would leave materialized views that read from the old name.
        """
        if database not in self._databases():
            self.restore(backup, database, database)
            self._drop(copy)
            return ""
        mine, theirs = self._tables(copy), self._tables(database)
        both = [f"{quote_identifier(database)}.{{0}}", f"{quote_identifier(copy)}.{{0}}"]
        holding = [name for name, table in mine.items() if table["engine"] not in _REFERRING]
        pairs = {name: [place.format(quote_identifier(name)) for place in both] for name in mine}
        exchanged = [name for name in holding if name in theirs]
        try:
            if exchanged:
                # One statement, which the server goes through even if this process ends.
                self.client.execute(f"EXCHANGE TABLES {', '.join(' AND '.join(pairs[name]) for name in exchanged)}")
            for name in holding:
                if name not in theirs:
                    self.client.execute("RENAME TABLE {1} TO {0}".format(*pairs[name]))
            for name in mine:
                if name not in theirs and name not in holding:
                    what = f"TABLE {pairs[name][0]}"
                    self._run(self._statement(backup, None, None, "structure_only = true", what=what))
        except BaseException:
            now = self._tables(database)
            back = [name for name in exchanged if now[name]["uuid"] == mine[name]["uuid"]]
            if back:
                self.client.execute(f"EXCHANGE TABLES {', '.join(' AND '.join(pairs[name]) for name in back)}")
            raise
        kept = sorted(name for name in mine if name in theirs and name not in holding)
        return f", and the tables that it replaced are kept in {copy}" + (
            f"; as they were stay {', '.join(kept)}, of which a backup has no rows" if kept else ""
        )

    def scratch(self, database):
        """The name under which `database` is restored for a proof."""
        return "backup_proof_" + hashlib.sha256(database.encode()).hexdigest()[:12]

    def drop_scratch(self, target):
        """Drop what a proof has made."""
        self._drop(target)

    def _drop(self, database):
        self.client.execute(f"DROP DATABASE IF EXISTS {quote_identifier(database)} SYNC")
