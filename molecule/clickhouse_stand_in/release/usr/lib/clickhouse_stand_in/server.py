# Stand-in for clickhouse-server. Not ClickHouse: the embedded engine executes statements, which is real; what that
# cannot do -- TLS, users by SQL, Keeper, replication, a Replicated database -- is pretended here.
"""A server by its real configuration: ports, certificates, users, macros, remote_servers, zookeeper.

Replicated tables are the engine's MergeTree; what is written to one goes into the Keepers' log, which all hosts follow.
A host without a session with Keeper is read-only.
"""

import base64
import binascii
import contextlib
import hashlib
import json
import logging
import re
import socket
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from . import access, config, keeper
from .config import version
from .engine import Engine

POLL, SOON, STALE = 0.8, 0.2, 5.0
AUTHENTICATION, DENIED, READ_ONLY, NO_KEEPER, TIMEOUT, UNKNOWN_TABLE = 516, 497, 242, 999, 159, 60
NOT_IMPLEMENTED, BAD_ARGUMENTS, REPLICA_EXISTS, OTHER_DATABASE, OTHER_TABLE = 48, 36, 253, 607, 608
_REPLICATED = re.compile(r"\bReplicated(?=\w*MergeTree\b)")
_ARGUMENTS = re.compile(r"(\bReplicated\w*MergeTree\()\s*'[^']*'\s*,\s*'[^']*'\s*,?\s*")
_DATABASE = re.compile(r"\s*CREATE\s+DATABASE\s+(?:IF\s+NOT\s+EXISTS\s+)?`?(\w+)`?\s+ENGINE\s*=\s*Replicated\(", re.I)
_DDL = re.compile(
    r"\s*(?:CREATE|ALTER|DROP|RENAME|TRUNCATE|EXCHANGE)\s+(?:OR\s+REPLACE\s+)?(?:MATERIALIZED\s+)?(?:TABLE|VIEW|DICTIONARY)\s+"
    r"(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(?:`?(\w+)`?\.)?`?\w+", re.I
)
_FORGET = re.compile(
    r"\s*SYSTEM\s+DROP\s+(?:DATABASE\s+REPLICA\s+'(?P<replica>[^']+)'\s+FROM\s+SHARD\s+'(?P<shard>[^']+)'\s+FROM\s+DATABASE"
    r"\s+`?(?P<database>\w+)`?|REPLICA\s+'(?P<name>[^']+)'\s+FROM\s+TABLE\s+`?(?P<in>\w+)`?\.`?(?P<table>\w+)`?)\s*$",
    re.I,
)
_READS = re.compile(r"\s*(?:SELECT|WITH|SHOW|EXISTS|DESC)", re.I)
_SYNC = re.compile(r"\s*SYSTEM\s+SYNC\s+REPLICA\s+(\S+)", re.I)
_MOVE = re.compile(
    r"\s*(?:RENAME|EXCHANGE)\s+TABLES?\s+(?:`?(\w+)`?\.)?`?\w+`?\s+(?:TO|AND)\s+(?:`?(\w+)`?\.)?`?\w+`?", re.I
)
_BACKUP = re.compile(r"\s*BACKUP\s+DATABASE\s+`?(\w+)`?\s", re.I)
_RESTORE = re.compile(r"\s*RESTORE\s+(?:DATABASE|TABLE)\s+`?(\w+)`?(?:\.\S+)?(?:\s+AS\s+`?(\w+)`?)?\s+FROM\s", re.I)
_INSERT = re.compile(r"\s*INSERT\s+INTO\s+(?:TABLE\s+)?(?:`?(\w+)`?\.)?`?(\w+)`?", re.I)
# Questions of clickhouse_cluster and clickhouse_forget. The engine knows the cluster as of its last start.
_ABOUT_THE_CLUSTER = re.compile(
    r"host_name AS host.* FROM system\.(clusters)\b"
    r"|FROM system\.(clusters(?= WHERE database_shard_name)|replicas|replication_queue|database_replicas"
    r"|zookeeper_connection)\b"
)
_ENGINE = re.compile(r"(?<=ENGINE = )(\w*MergeTree)(\(?)")
log = logging.getLogger("clickhouse")


class Said(Exception):
    """An answer that is an error: ClickHouse's code and text."""

    def __init__(self, code, message, name="STAND_IN"):
        super().__init__(f"Code: {code}. DB::Exception: {message}. ({name}) (version {version()} (stand-in))")
        self.code = code


class Server:
    """One host."""

    def __init__(self, path):
        self.path = Path(path)
        self.lock, self.applying = threading.RLock(), threading.RLock()
        self.read_configuration()
        self.tls = config.Tls(self.root)
        self.data = Path(config.text(self.root, "path"))
        (self.data / "metadata").mkdir(exist_ok=True)  # by this one sees that a directory has a server's data
        self.engine = Engine(str(self.data / "stand_in"))
        self.saved = self.data / "stand_in.json"
        saved = json.loads(self.saved.read_text()) if self.saved.exists() else {}
        self.applied, self.databases = saved.get("applied", 0), saved.get("databases", [])
        self.access, self.dirty, self.log = access.Access(), True, []
        self.alive, self.heard = {}, 0.0
        self.started = time.time()

    # -- its configuration ------------------------------------------------------------------------------------------

    def read_configuration(self):
        """Read it anew where a file has changed, as ClickHouse does."""
        files = [self.path, self.path.with_name("users.xml")]
        files += [*self.path.parent.glob("config.d/*"), *self.path.parent.glob("users.d/*")]
        stamp = [(str(file), file.stat().st_mtime_ns) for file in files if file.exists()]
        if getattr(self, "stamp", None) == stamp:
            return
        first = not hasattr(self, "stamp")
        try:
            self.root = config.load(self.path)
            self.users = config.load(self.path.with_name("users.xml")).find("users")
        except config.Refused as error:
            if first:
                raise
            log.error("%s", error)
        self.stamp, self.dirty = stamp, True

    def macro(self, name):
        return config.text(self.root, f"macros/{name}", "")

    def clusters(self):
        """{name: (secret, [[host of each replica] of each shard])}."""
        return {
            cluster.tag: (config.text(cluster, "secret", ""), [
                [config.text(replica, "host") for replica in shard.findall("replica")]
                for shard in cluster.findall("shard")
            ]) for cluster in (self.root.find("remote_servers") or ())
        }

    def keepers(self):
        """[(host, port, secure)]."""
        return [
            (config.text(node, "host"), int(config.text(node, "port")), config.text(node, "secure", "0") == "1")
            for node in self.root.findall("zookeeper/node")
        ]

    # -- Keeper -----------------------------------------------------------------------------------------------------

    def ask_keeper(self, question):
        """The first answer of a Keeper. Raises Said."""
        if not self.keepers():
            return self.remember(question)
        said = ""
        for host, port, secure in self.keepers():
            try:
                answer = keeper.talk(host, port, question, self.tls.client() if secure else None)
            except (OSError, ValueError) as error:
                said = f"{host}:{port}: {error}"
                continue
            if "error" not in answer:
                return answer
            said = f"{host}:{port}: {answer['error']}"
        raise Said(NO_KEEPER, f"Coordination::Exception: All connection tries failed: {said}")

    def remember(self, question):
        """What a Keeper would answer, for a server of its own: it keeps its users in its own folder."""
        file = self.data / "access/stand_in.json"
        entries = json.loads(file.read_text()) if file.exists() else []
        if "append" in question:
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps([*entries, question["append"]]))
            return {"position": len(entries)}
        return {"alive": {self.replica: question["applied"]}, "entries": entries[question["read"]:]}

    @property
    def replica(self):
        """Its name among all."""
        return f"{self.macro('shard')}/{self.macro('replica')}"

    def connected(self):
        return time.monotonic() - self.heard < STALE

    def follow(self):
        """Take in what the others have written, for ever; more often for a while after there was something."""
        length, news = len(self.log), 0.0
        while True:
            try:
                self.read_configuration()
                self.catch_up()
            except Said:
                pass
            except Exception:
                log.exception("following the log")
            if len(self.log) > length:
                length, news = len(self.log), time.monotonic()
            time.sleep(SOON if time.monotonic() - news < 3 else POLL)

    def catch_up(self):
        with self.applying:
            answer = self.ask_keeper({"alive": self.replica, "applied": self.applied, "read": len(self.log)})
            self.alive, self.heard = answer["alive"], time.monotonic()
            start = len(self.log)
            self.log += answer["entries"]
            for entry in self.log[start:]:
                if entry["kind"] == "access":
                    self.access.apply(entry["sql"])
                    self.dirty = True
            while self.applied < len(self.log):
                self.apply(self.log[self.applied])
                self.applied += 1
                self.save()
            if answer["entries"]:
                self.ask_keeper({"alive": self.replica, "applied": self.applied, "read": len(self.log)})

    def save(self):
        self.saved.write_text(json.dumps({"applied": self.applied, "databases": self.databases}))

    def apply(self, entry, again=False):
        """Do what another host has done."""
        if entry["kind"] not in ("ddl", "insert") or entry["database"] not in self.databases:
            return
        if entry["origin"] == self.replica and not again:
            return
        if entry["kind"] == "insert" and entry["shard"] not in (None, self.macro("shard")):
            return
        self.ready()
        status, said = self.engine.query(self.plain(entry["sql"]), self.admin(), database=entry["database"])
        if status != 200 and "already exists" not in said:
            log.error("entry of the log: %s: %s", entry["sql"][:200], said)

    def append(self, **entry):
        """Write to the log. Returns the entry's position."""
        with self.applying:
            return self.ask_keeper({"append": {"origin": self.replica, **entry}})["position"]

    # -- the engine behind ------------------------------------------------------------------------------------------

    def admin(self):
        """A user who may do everything."""
        return next(user.tag for user in self.users if config.text(user, "access_management", "0") == "1")

    def ready(self):
        """Start the engine, or start it anew with other users or clusters."""
        with self.lock:
            status = self.engine.ended()
            if not self.dirty and status is None:
                return
            log.info("starting the engine: %s", "other settings" if status is None else f"it ended with {status}")
            self.dirty = False
            users = {
                user.tag: (None, 1, "default", "") for user in self.users
                if config.text(user, "access_management", "0") == "1"
            }
            for name, user in self.access.users.items():
                users[name] = (list(user["grants"]), len(user["methods"]), user["profile"], user["database"])
            macros = {one.tag: one.text for one in (self.root.find("macros") or ())}
            allowed = config.text(self.root, "backups/allowed_path", "")
            self.engine.start(users, self.access.profiles, self.clusters(), macros, allowed)

    @staticmethod
    def plain(sql):
        """A statement for an engine that replicates nothing."""
        return _REPLICATED.sub("", _ARGUMENTS.sub(r"\1", sql))

    # -- requests ---------------------------------------------------------------------------------------------------

    def login(self, user, password, address):
        """Raises Said unless the user may come in."""
        self.read_configuration()
        entry = self.users.find(user) if re.fullmatch(r"\w+", user) else None
        if entry is not None:
            digest = hashlib.sha256(password.encode()).hexdigest()
            good = config.text(entry, "password_sha256_hex") == digest
            good = good and config.admits(entry.find("networks"), address)
        else:
            good = self.access.admits(user, password)
        if not good:
            raise Said(
                AUTHENTICATION, f"{user}: Authentication failed: password is incorrect, or there is no such user",
                "AUTHENTICATION_FAILED",
            )

    def execute(self, user, sql, parameters, headers):
        """(status, headers, body) for a statement."""
        database = parameters.get("database", "default")
        told = self.system(sql)
        if told is not None:
            return 200, {}, json.dumps(told).encode()
        if access.is_about_access(sql):
            return self.change_access(user, sql)
        synced = _SYNC.match(sql)
        if synced:
            return self.sync(user, synced.group(1))
        forgotten = _FORGET.match(sql)
        if forgotten:
            return self.forget(forgotten)
        made = _DATABASE.match(sql)
        if made:
            return self.join(user, made.group(1))
        self.refuse(sql, database)
        changed = _DDL.match(sql)
        if changed and (changed.group(1) or database) in self.databases:
            return self.change_schema(user, sql, {**parameters, "database": changed.group(1) or database}, headers)
        return self.proxy(user, sql, parameters, headers)

    def refuse(self, sql, database):
        """Raises Said for what a Replicated database does not do: move tables elsewhere, be restored a second time."""
        moved, saved, restored = (pattern.match(sql) for pattern in (_MOVE, _BACKUP, _RESTORE))
        places = {place or database for place in moved.groups()} if moved else set()
        if len(places) > 1 and places & set(self.databases):
            raise Said(NOT_IMPLEMENTED, "Moving tables between databases is not supported for Replicated engine")
        if saved and saved.group(1) in self.databases and not self.connected():
            raise Said(NO_KEEPER, "Coordination::Exception: Session expired", "KEEPER_EXCEPTION")
        if restored and restored.group(1) in self.databases:
            self.refuse_restore(sql, restored.group(1), restored.group(2) or restored.group(1))

    def refuse_restore(self, sql, database, target):
        """Restored as they were, database and tables would want the places in Keeper that the original holds."""
        here, there = self.merge_trees(database), self.merge_trees(target)
        count = f"SELECT count() FROM system.databases WHERE name = '{target}'"
        _status, known = self.engine.query(count, self.admin())
        if target in self.databases or known.strip() != "1":
            raise Said(REPLICA_EXISTS, f"Replica {self.macro('replica')} of shard {self.macro('shard')} of replicated "
                       f"database at /clickhouse/… already exists", "REPLICA_ALREADY_EXISTS")
        if "allow_different_database_def = true" not in sql:
            raise Said(OTHER_DATABASE, "The database has a different definition", "CANNOT_RESTORE_DATABASE")
        if here - there:
            raise Said(BAD_ARGUMENTS, "Macro 'uuid' and empty arguments of ReplicatedMergeTree are supported only for "
                       f"ON CLUSTER queries with Atomic database engine: {', '.join(sorted(here - there))}",
                       "BAD_ARGUMENTS")
        if there and "allow_different_table_def = true" not in sql:
            raise Said(OTHER_TABLE, "The table has a different definition", "CANNOT_RESTORE_TABLE")

    def merge_trees(self, database):
        """Names of the tables of a database that are replicated, where it is."""
        self.ready()
        _status, names = self.engine.query(
            f"SELECT name FROM system.tables WHERE database = '{database}' AND engine LIKE '%MergeTree' FORMAT TSVRaw",
            self.admin(),
        )
        return set(names.split())

    def proxy(self, user, sql, parameters, headers):
        """Let the engine answer; rows of replicated tables go to the other hosts of the shard."""
        target = _INSERT.match(sql)
        database = parameters.get("database", "default")
        replicated = None
        if target and (target.group(1) or database) in self.databases:
            database = target.group(1) or database
            self.ready()
            _status, engine = self.engine.query(
                f"SELECT engine FROM system.tables WHERE database = '{database}' AND name = '{target.group(2)}'",
                self.admin(),
            )
            replicated = "MergeTree" in engine
            if replicated and not self.connected():
                raise Said(READ_ONLY, f"Table is in readonly mode since table metadata was not found in zookeeper: "
                           f"{database}.{target.group(2)}", "TABLE_IS_READ_ONLY")
        status, found, body = self.to_engine(user, sql, parameters, headers)
        if replicated and status == 200:
            everywhere = target.group(2).startswith("schema_ledger")
            self.append(
                kind="insert", database=database, sql=sql, shard=None if everywhere else self.macro("shard"),
            )
        return status, found, self.disguise(sql, body)

    def to_engine(self, user, sql, parameters, headers):
        known = {name: value for name, value in parameters.items() if name not in ("user", "password", "query")}
        known.pop("database_replicated_allow_replicated_engine_arguments", None)
        for last in (False, True):
            self.ready()
            try:
                status, found, body = self.engine.ask(
                    "POST", f"/?{urllib.parse.urlencode(known)}", self.plain(sql).encode(), user, headers
                )
                break
            except OSError as error:
                log.warning("the engine: %r: %s", error, sql[:200])
                if last or not _READS.match(sql):
                    raise
                time.sleep(1)  # it may be about to end
        kept = ("X-ClickHouse-Exception-Code", "X-ClickHouse-Format", "Content-Type")
        return status, {name: found[name] for name in kept if name in found}, body

    def disguise(self, sql, body):
        """What the engine says of itself, as the stand-in would say it."""
        if "version()" in sql and body.count(b"\n") <= 1 and b"{" not in body:
            return f"{version()}\n".encode()
        if b'"data"' not in body[:4000] or "system." not in sql and "version()" not in sql:
            return body
        answer = json.loads(body)
        for row in answer.get("data", ()):
            if row.get("storage") == "users_xml" and row.get("name") not in {user.tag for user in self.users}:
                row["storage"] = "replicated"
            about = row.get("name") or next((name for name in self.databases if f"'{name}'" in sql), None)
            if about in self.databases and row.get("engine") == "Atomic":
                row["engine"] = "Replicated"
            inside = next((name for name in self.databases if f"database = '{name}'" in sql), None)
            if inside and row.get("engine", "").endswith("MergeTree"):
                row["engine"] = f"Replicated{row['engine']}"
                if "query" in row:
                    row["query"] = _ENGINE.sub(replicated, row["query"], count=1)
            if "version" in row and "uptime" in row:
                row["version"] = version()
                if "known" in row:
                    row["known"] = ["zookeeper_connection", "database_replicas"]
        return json.dumps(answer).encode()

    def change_access(self, user, sql):
        if user not in {one.tag for one in self.users}:
            raise Said(DENIED, f"{user}: Not enough privileges", "ACCESS_DENIED")
        self.ready()
        status, said = self.engine.query("SELECT formatQuery({sql:String})", user, param_sql=sql)
        if status != 200:
            raise Said(62, said)
        position = self.append(kind="access", sql=sql)
        self.wait(lambda: len(self.log) > position, 10)
        return 200, {}, b""

    def sync(self, user, table):
        """The table has what was written elsewhere before."""
        self.ready()
        _status, there = self.engine.query(f"EXISTS TABLE {table}", user)
        if there.strip() != "1":
            raise Said(UNKNOWN_TABLE, f"Table {table} does not exist", "UNKNOWN_TABLE")
        self.catch_up()
        return 200, {}, b""

    def join(self, user, database):
        """A Replicated database is made here: all that was done to it elsewhere is done here too."""
        self.ready()
        if database not in self.databases and self.replica in self.joined(database):
            raise Said(253, f"Replica {self.replica} of {database} already exists in Keeper", "REPLICA_ALREADY_EXISTS")
        status, said = self.engine.query(f"CREATE DATABASE IF NOT EXISTS `{database}` ENGINE = Atomic", user)
        if status != 200:
            raise Said(62, said)
        with self.applying:
            if database not in self.databases:
                self.append(kind="join", database=database)
                self.catch_up()
                self.databases.append(database)
                for entry in self.log[:self.applied]:
                    self.apply(entry, again=True)
                self.save()
        return 200, {}, b""

    def forget(self, asked):
        """A database or a table without a replica; of a database the tables stay until they are told too."""
        if asked["database"]:
            name = f"{asked['shard']}/{asked['replica']}"
            known = self.joined(asked["database"])
            entry = {"kind": "forget", "database": asked["database"], "name": name}
        else:
            # Those that all shards share have the shard in the replica's name.
            shared = asked["table"].startswith("schema_ledger")
            name = asked["name"].replace("-", "/", 1) if shared else f"{self.macro('shard')}/{asked['name']}"
            known = self.holders(asked["in"], asked["table"])
            entry = {"kind": "forget", "database": asked["in"], "table": asked["table"], "name": name}
        if name not in known:
            raise Said(36, f"Replica {name} does not exist: {asked[0].strip()}", "BAD_ARGUMENTS")
        if name in self.alive:
            raise Said(305, f"Can't drop replica: {name}, because it's active", "TABLE_WAS_NOT_DROPPED")
        self.append(**entry)
        self.catch_up()
        return 200, {}, b""

    def holders(self, database, table):
        """Names of the hosts that have a replica of a table, as Keeper has it."""
        held = self.joined(database, None if table.startswith("schema_ledger") else self.macro("shard"), forgotten=True)
        last = {}
        for entry in self.log:
            if entry.get("database") == database and entry["kind"] == "join":
                last[entry["origin"]] = True
            elif entry.get("database") == database and entry["kind"] == "forget" and entry.get("table") == table:
                last[entry["name"]] = False
        return [name for name in held if last.get(name)]

    def change_schema(self, user, sql, parameters, headers):
        """First here, then in the log, then wait for the others."""
        if not self.connected():
            raise Said(NO_KEEPER, "Coordination::Exception: Session expired", "KEEPER_EXCEPTION")
        status, found, body = self.to_engine(user, sql, parameters, headers)
        if status != 200:
            return status, found, body
        database = parameters["database"]
        position = self.append(kind="ddl", database=database, sql=sql)
        patience = float(parameters.get("distributed_ddl_task_timeout", 180))
        joined = set(self.joined(database))

        def late():
            return sorted(name for name in joined if self.alive.get(name, 0) <= position and name != self.replica)

        if not self.wait(lambda: not late(), patience):
            raise Said(
                TIMEOUT, f"ReplicatedDatabase DDL task query-{position} is not finished on {len(late())} of "
                f"{len(joined)} hosts ({', '.join(late())}). They are going to execute the query in background",
                "TIMEOUT_EXCEEDED",
            )
        return 200, {}, b""

    def wait(self, condition, seconds):
        """Whether it came true in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
            with contextlib.suppress(Said):
                self.catch_up()
        return True

    # -- what it says of the cluster --------------------------------------------------------------------------------

    def system(self, sql):
        """The answer to a question about replication, or None for any other statement."""
        asked = _ABOUT_THE_CLUSTER.search(sql)
        if not asked:
            return None
        rows = getattr(self, f"show_{asked.group(1) or asked.group(2)}")(sql)
        kinds = {int: "UInt32", str: "String", dict: "Map(String, UInt8)"}
        meta = [{"name": name, "type": kinds[type(value)]} for name, value in (rows[0] if rows else {}).items()]
        return {"meta": meta, "data": rows}

    def show_clusters(self, sql):
        replica = re.search(r"database_shard_name = '(\w+)' AND database_replica_name = '([^']+)'", sql)
        if replica:
            return [{"cluster": name} for name in self.databases if "/".join(replica.groups()) in self.joined(name)]
        name = re.search(r"cluster = '(\w+)'", sql)
        _secret, shards = self.clusters().get(name.group(1) if name else "", ("", []))
        rows = [{"host": host, "shard": at} for at, shard in enumerate(shards, 1) for host in shard]
        if name and name.group(1) in self.databases and "database_shard_name = ''" not in sql:
            # A Replicated database is a cluster of its name, by the names that its hosts give themselves.
            rows += [{"host": f"{row['host']}.localdomain", "shard": row["shard"]} for row in rows]
        return rows

    def show_zookeeper_connection(self, _sql):
        if not self.connected():
            raise Said(NO_KEEPER, "Coordination::Exception: Session expired", "KEEPER_EXCEPTION")
        host, port, _secure = self.keepers()[0]
        return [{"host": host, "port": port, "is_expired": 0}]

    def joined(self, database, shard=None, forgotten=False):
        """Names of the replicas that have a Replicated database; with `forgotten`, also of those that had it."""
        names = set()
        for entry in self.log:
            about = entry["kind"], entry.get("database"), entry.get("table")
            if about == ("join", database, None):
                names.add(entry["origin"])
            elif about == ("forget", database, None) and not forgotten:
                names.discard(entry["name"])
        return sorted(name for name in names if shard in (None, name.split("/")[0]))

    def show_replicas(self, _sql):
        self.ready()
        rows = []
        for database in self.databases:
            _status, names = self.engine.query(
                f"SELECT name FROM system.tables WHERE database = '{database}' AND engine LIKE '%MergeTree' "
                "ORDER BY name FORMAT TSVRaw", self.admin(),
            )
            for table in names.split():
                shared = table.startswith("schema_ledger")
                active = {
                    name.replace("/", "-") if shared else name.split("/")[1]: int(name in self.alive)
                    for name in self.holders(database, table)
                }
                own = self.replica.replace("/", "-") if shared else self.macro("replica")
                rows.append({
                    "database": database, "table": table,
                    "zookeeper_path": f"/clickhouse/tables/{database}.{table}/{'' if shared else self.macro('shard')}",
                    "replica_name": own, "is_readonly": int(not self.connected() or own not in active),
                    "is_session_expired": 0, "absolute_delay": 0, "total_replicas": len(active),
                    "active_replicas": sum(active.values()),
                    "lost_part_count": 0, "queue_size": max(0, len(self.log) - self.applied), "zookeeper_exception": "",
                    "replica_is_active": active,
                })
        return rows

    def show_replication_queue(self, sql):
        """Rows that another host has taken and this one has yet to take: none once the log is applied."""
        return []

    def show_database_replicas(self, _sql):
        state = {"is_readonly": int(not self.connected()), "max_log_ptr": len(self.log), "log_ptr": self.applied}
        return [{"database": name, **state} for name in self.databases]

    # -- listeners --------------------------------------------------------------------------------------------------

    def run(self):
        """Serve for ever. Raises config.Refused."""
        self.ready()
        deadline = time.monotonic() + 60
        while True:
            try:
                self.catch_up()
                break
            except Said as error:
                if time.monotonic() > deadline:
                    raise config.Refused(str(error)) from None
                time.sleep(0.5)
        threading.Thread(target=self.follow, daemon=True).start()
        secure = {"https_port": True, "tcp_port_secure": True, "interserver_https_port": True}
        listening = []
        for name in ("http_port", "tcp_port", "interserver_http_port", *secure):
            port = config.text(self.root, name)
            if port:
                if name in secure:
                    self.tls.server()
                listening += [self.listen(host, int(port), name in secure) for host in config.hosts(self.root)]
        while any(thread.is_alive() for thread in listening):
            time.sleep(1)

    def listen(self, host, port, secure):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                if secure:
                    self.request.settimeout(10)
                    self.request = server.tls.server().wrap_socket(self.request, server_side=True)
                super().setup()

            def handle(self):
                with contextlib.suppress(OSError):
                    super().handle()

            def answer(self, status, headers, body):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                if self.path == "/ping":
                    self.answer(200, {}, b"Ok.\n")
                else:
                    self.do_POST()

            def do_POST(self):
                query = urllib.parse.urlsplit(self.path).query
                parameters = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                sql = "\n".join(part for part in (parameters.get("query", ""), body.decode()) if part)
                try:
                    user, password = credentials(self.headers, parameters)
                    server.login(user, password, self.client_address[0])
                    self.answer(*server.execute(user, sql, parameters, {}))
                except Said as error:
                    status = 403 if error.code == AUTHENTICATION else 500
                    self.answer(status, {"X-ClickHouse-Exception-Code": str(error.code)}, f"{error}\n".encode())
                except Exception as error:
                    log.exception("a request")
                    self.answer(500, {"X-ClickHouse-Exception-Code": "1002"}, f"Code: 1002. {error!r}\n".encode())

            def log_message(self, *_arguments):
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, request, client_address):
                pass  # a client that gave up

        thread = threading.Thread(target=Listener((host, port), Handler).serve_forever, daemon=True)
        thread.start()
        return thread


def replicated(engine):
    """A match of _ENGINE as a table of a Replicated database shows its engine."""
    place = "'/clickhouse/tables/{uuid}/{shard}', '{replica}'"
    return f"Replicated{engine.group(1)}({place}" + (", " if engine.group(2) else ")")


def credentials(headers, parameters):
    """(user, password) of a request."""
    user = headers.get("X-ClickHouse-User") or parameters.get("user")
    password = headers.get("X-ClickHouse-Key") or parameters.get("password") or ""
    if user is None and headers.get("Authorization", "").startswith("Basic "):
        try:
            user, _colon, password = base64.b64decode(headers["Authorization"][6:]).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = ""
    # http.client sends the bytes of UTF-8 as Latin-1.
    return (user or "default").encode("latin-1", "replace").decode(errors="replace"), password.encode(
        "latin-1", "replace").decode(errors="replace")
