"""A double of a ClickHouse cluster: it answers the questions that clickhouse_cluster asks, from a table, over HTTP and
the Keepers' port. Nothing of ClickHouse is inside; what it says is what a server's system tables say.
"""

import json
import re
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TABLE = {
    "database": "d", "table": "t_local", "zookeeper_path": "", "replica_name": "", "is_readonly": 0,
    "is_session_expired": 0, "absolute_delay": 0, "total_replicas": 2, "active_replicas": 2, "lost_part_count": 0,
    "queue_size": 0, "zookeeper_exception": "", "replica_is_active": {},
}


class Host:
    """One ClickHouse host of the double, at an address of loopback. Change its attributes, and it answers so."""

    def __init__(self, address, port, members):
        self.version, self.members, self.tables, self.databases = "25.8.3.66", members, [], []
        self.sessions = [{"host": "keeper", "port": 9181, "is_expired": 0}]
        self.broken = None  # a text with which every question about Keeper fails
        self.queue = []  # {"database", "table", "source_replica"} of parts that it has yet to fetch
        self.peers = []  # all hosts of the double
        self.replicas = []  # [shard, replica] of its Replicated database `d`, as Keeper has them
        self.statements = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                query = self.rfile.read(int(self.headers["Content-Length"])).decode()
                rows = host.answer(query)
                body = json.dumps({"meta": [{"name": name, "type": "String"} for name in (rows[0] if rows else {})],
                                   "data": rows}).encode() if isinstance(rows, list) else rows.encode()
                self.send_response(200 if isinstance(rows, list) else 500)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments):
                pass

        self.server = ThreadingHTTPServer((address, port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def drop(self, query):
        """What SYSTEM DROP REPLICA and SYSTEM DROP DATABASE REPLICA do and refuse. They act on this host's tables."""
        self.statements.append(query)
        database = re.fullmatch(
            r"SYSTEM DROP DATABASE REPLICA '([^']+)' FROM SHARD '([^']+)' FROM DATABASE `d`", query
        )
        if database:
            name = [database.group(2), database.group(1)]
            if name not in self.replicas:
                return f"Code: 36. DB::Exception: Replica {name} does not exist. (BAD_ARGUMENTS)"
            self.replicas.remove(name)
            return []
        table = re.fullmatch(r"SYSTEM DROP REPLICA '([^']+)' FROM TABLE `(\w+)`.`(\w+)`", query)
        name, database, table = table.groups()
        row = next((row for row in self.tables if (row["database"], row["table"]) == (database, table)), None)
        if row is None or name not in row["replica_is_active"]:
            return f"Code: 60. DB::Exception: {database}.{table} has no replica {name} here. (UNKNOWN_TABLE)"
        if name == row["replica_name"] or row["replica_is_active"][name]:
            return f"Code: 305. DB::Exception: Can't drop replica: {name}: it is active. (TABLE_WAS_NOT_DROPPED)"
        for peer in self.peers:
            for other in peer.tables:
                if other["zookeeper_path"] == row["zookeeper_path"]:
                    other["replica_is_active"] = {
                        one: active for one, active in other["replica_is_active"].items() if one != name
                    }
        return []

    def answer(self, query):
        """The rows for one of the module's queries, or the text of an error."""
        if query.startswith("SYSTEM DROP"):
            return self.drop(query)
        asked = re.search(r"database_shard_name = '(\d+)' AND database_replica_name = '([^']+)'", query)
        if asked:
            return [{"cluster": "d"}] if list(asked.groups()) in self.replicas else []
        if "system.replication_queue" in query:
            names = re.findall(r"'([^']+)'", query.split(" IN ", 1)[1])
            parts = [(row["database"], row["table"]) for row in self.queue if row["source_replica"] in names]
            return [{"database": one[0], "table": one[1], "parts": parts.count(one)} for one in sorted(set(parts))]
        if "version()" in query:
            return [{"version": self.version, "uptime": 60, "known": ["zookeeper_connection", "database_replicas"]}]
        if "system.clusters" in query:
            # A Replicated database is a cluster of its name, by the names that its hosts give themselves.
            database = [] if "database_shard_name = ''" in query else [{"host": "itself.localdomain", "shard": 1}]
            return self.members + database
        if "system.replicas" in query:
            return self.tables
        if "system.database_replicas" in query:
            return self.databases
        return f"Code: 999. DB::Exception: {self.broken} (KEEPER_EXCEPTION)" if self.broken else self.sessions

    def close(self):
        """Stop."""
        self.server.shutdown()
        self.server.server_close()


class KeeperDouble:
    """A Keeper of the double: `facts` are mntr's lines, or a text that is its whole answer."""

    def __init__(self, address, port, context=None, **facts):
        self.facts = {"zk_version": "v25.8.3.66-abc", **facts}
        keeper = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                connection = self.request
                if context:
                    try:
                        connection = context.wrap_socket(connection, server_side=True)
                    except OSError:
                        return
                with connection:
                    if connection.recv(4) == b"mntr":
                        connection.sendall(keeper.text().encode())

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads = True, True

        self.server = Server((address, port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def text(self):
        """The answer to mntr."""
        if isinstance(self.facts, str):
            return self.facts
        return "".join(f"{name}\t{value}\n" for name, value in self.facts.items())

    def close(self):
        """Stop."""
        self.server.shutdown()
        self.server.server_close()


class ClusterDouble:
    """Two shards of two replicas and three Keepers, all well, on addresses of loopback.

    hosts: address to Host. keepers: address to KeeperDouble.
    """

    def __init__(self, port, keeper_port):
        self.port, self.keeper_port = port, keeper_port
        self.shards = {f"127.0.1.{number}": 1 + (number > 2) for number in range(1, 5)}
        members = [{"host": host, "shard": shard} for host, shard in self.shards.items()]
        self.hosts, self.keepers = {}, {}
        for host, shard in self.shards.items():
            self.hosts[host] = Host(host, port, list(members))
            active = {other: 1 for other, number in self.shards.items() if number == shard}
            self.hosts[host].tables = [{
                **TABLE, "zookeeper_path": f"/clickhouse/tables/u/{shard}", "replica_name": host,
                "replica_is_active": active,
            }]
            self.hosts[host].databases = [{"database": "d", "is_readonly": 0, "max_log_ptr": 9, "log_ptr": 9}]
        known = [[str(shard), host] for host, shard in self.shards.items()]  # of all hosts, as it is in Keeper
        for host in self.hosts.values():
            host.peers, host.replicas = list(self.hosts.values()), known
        self.ensemble = [f"127.0.1.{number}" for number in range(1, 4)]
        for number in range(1, 4):
            facts = {"zk_server_state": "follower"}
            if number == 1:
                facts = {"zk_server_state": "leader", "zk_followers": 2, "zk_synced_followers": 2}
            self.keepers[f"127.0.1.{number}"] = KeeperDouble(f"127.0.1.{number}", keeper_port, **facts)

    def arguments(self, **more):
        """The module's options for it."""
        return {
            "cluster": "fw", "login_port": self.port, "timeout": 5,
            "nodes": [{"host": host, "shard": shard} for host, shard in self.shards.items()],
            "keepers": [f"{host}:{self.keeper_port}" for host in self.ensemble], **more,
        }

    def stop(self, host):
        """ClickHouse and Keeper on a host are down; the other hosts know it."""
        for part in (self.hosts.pop(host, None), self.keepers.pop(host, None)):
            if part:
                part.close()
        for other in self.hosts.values():
            for table in other.tables:
                if host in table["replica_is_active"]:
                    table["replica_is_active"] = {**table["replica_is_active"], host: 0}

    def close(self):
        """Stop all of it."""
        for part in [*self.hosts.values(), *self.keepers.values()]:
            part.close()
