# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A ClickHouse cluster's health as its hosts tell it, and whether it can do without one of them."""

from __future__ import annotations

from .clickhouse import ClickHouseError, Client, ServerError, quote_string
from .clickhouse_keeper import majority

# A host of a cluster as the modules' options name it.
HOST_SPEC = {
    "host": {"type": "str", "required": True}, "shard": {"type": "int", "required": True}, "replica": {"type": "str"},
}

_REPLICAS = (
    "SELECT database, table, zookeeper_path, replica_name, is_readonly, is_session_expired, absolute_delay, "
    "total_replicas, active_replicas, lost_part_count, queue_size, zookeeper_exception, replica_is_active "
    "FROM system.replicas ORDER BY database, table"
)
_DATABASES = "SELECT database, is_readonly, max_log_ptr, log_ptr FROM system.database_replicas ORDER BY database"
_CONNECTION = "SELECT host, port, is_expired FROM system.zookeeper_connection"
_KNOWN = (
    "SELECT version() AS version, uptime() AS uptime, (SELECT groupArray(name) FROM system.tables WHERE "
    "database = 'system' AND name IN ('zookeeper_connection', 'database_replicas')) AS known"
)


def replica_names(replica, shard):
    """The names of a host's replicas: of its shard's tables, and of those that all shards share, as the ledger is."""
    return replica, f"{shard}-{replica}"


class Node:
    """One ClickHouse host at one moment.

    host, shard, replica: as declared. error: why nothing else is known, or empty. version: text. uptime: seconds.
    members: [{"host", "shard"}] of the cluster by this host's configuration. tables, databases: rows of system.replicas
    and system.database_replicas. keeper_error: why it has no session with a Keeper, or empty.
    """

    def __init__(self, host, shard=None, replica=None):
        self.host, self.shard, self.replica = host, shard, replica or host
        self.error, self.keeper_error = "", ""
        self.version, self.uptime, self.members, self.tables, self.databases = "", 0, [], [], []

    @property
    def name(self):
        """For a sentence."""
        return self.host if self.shard is None else f"{self.host} (shard {self.shard})"

    def summary(self):
        """For a task's result."""
        return {
            "host": self.host, "shard": self.shard, "error": self.error, "version": self.version, "uptime": self.uptime,
            "tables": len(self.tables), "delay": max((row["absolute_delay"] for row in self.tables), default=0),
            "queue": sum(row["queue_size"] for row in self.tables),
        }


def read_members(client, cluster):
    """[{"host", "shard"}] of `cluster` by the configuration of the client's server. Raises ClickHouseError.

    A database with the engine Replicated is a cluster of its name as well, by the names that its hosts give themselves.
    """
    return client.rows(
        "SELECT host_name AS host, shard_num AS shard FROM system.clusters "
        f"WHERE cluster = {quote_string(cluster)} AND database_shard_name = '' ORDER BY shard_num, replica_num"
    )


def read_node(params, cluster, host, shard=None, replica=None):
    """A Node, by login with `params` to that host; what stands in the way is its `error`."""
    node = Node(host, shard, replica)
    try:
        client = Client({**params, "login_host": host})
        first = client.rows(_KNOWN)[0]
        node.version, node.uptime = first["version"], first["uptime"]
        node.members = read_members(client, cluster)
        node.tables = client.rows(_REPLICAS)
        if "database_replicas" in first["known"]:
            node.databases = client.rows(_DATABASES)
        if "zookeeper_connection" in first["known"]:
            node.keeper_error = _keeper_error(client)
    except ClickHouseError as error:
        node.error = str(error)
    return node


def _keeper_error(client):
    try:
        sessions = client.rows(_CONNECTION)
    except ServerError as error:
        return str(error)
    if not sessions:
        return "no session"
    expired = [row for row in sessions if row["is_expired"]]
    return f"the session with {expired[0]['host']}:{expired[0]['port']} has expired" if expired else ""


class Cluster:
    """All hosts at one moment. nodes: of Node. keepers: of clickhouse_keeper.Keeper, empty where none were asked.

    declared: whether the nodes are what should be, and not what a server's configuration says. leaving: of Node, those
    that may be there or not. keeper_members: how many Keepers their leader should know, by default all of `keepers`.
    """

    def __init__(self, name, nodes, keepers=(), declared=True, leaving=(), keeper_members=None):
        self.name, self.nodes, self.keepers, self.declared = name, list(nodes), list(keepers), declared
        self.leaving = list(leaving)
        self.keeper_members = keeper_members or len(self.keepers)

    def versions(self):
        """Every version that runs, sorted."""
        return sorted({node.version for node in self.nodes if node.version})

    def problems(self, max_delay=30, lost_parts=0, without=None, part="all"):
        """What is wrong, as sentences; none for a healthy cluster.

        max_delay: seconds that a replica may lag behind. lost_parts: how many of a table are known and accepted.
        without: a host whose troubles do not count, because it may be down; part: only its server, or its keeper.
        """
        found = []
        keeper, without = (None if part == "server" else without), (None if part == "keeper" else without)
        for node in self.nodes:
            if node.host == without:
                continue
            if node.error:
                found.append(f"{node.name}: {node.error}")
                continue
            found += self._membership(node) + self._keeper_session(node) + self._tables(node, max_delay, lost_parts)
        found += self._inactive(without)
        found += self._missing(without)
        return found + self._keepers(keeper)

    def risks(self, host, part="all"):
        """Why the cluster cannot do without `host`, or a part of it, besides what problems() says, as sentences."""
        node = next((node for node in self.nodes if node.host == host), None)
        found = []
        if node is None and host not in {keeper.host for keeper in self.keepers}:
            found.append(f"{host} is none of the cluster's hosts: {', '.join(one.host for one in self.nodes)}")
        if node is not None and part != "keeper":
            peers = [other for other in self.nodes if other.shard == node.shard and other is not node]
            if not peers:
                found.append(
                    f"{node.name} is the only replica of its shard: while it is down, nobody can read or write its rows"
                )
            for row in node.tables:
                others = [
                    name for name, active in row["replica_is_active"].items() if active and name != row["replica_name"]
                ]
                if peers and not others:
                    table = f"{row['database']}.{row['table']}"
                    found.append(f"{table} has no other active replica than that on {node.name}")
        left = [keeper for keeper in self.keepers if keeper.serves and keeper.host != host]
        needed = majority(self.keeper_members)
        if part != "server" and len(left) < needed and any(keeper.host == host for keeper in self.keepers):
            found.append(
                f"without the Keeper on {host}, {len(left)} of {len(self.keepers)} Keepers serve; {needed} have to, "
                "or all tables become read-only"
            )
        return found

    def _membership(self, node):
        if not node.members:
            return [f"{node.name}: no cluster {self.name} in its configuration (remote_servers)"]
        if not self.declared:
            return []
        wanted = {(other.host, other.shard) for other in self.nodes}
        parting = {other.host for other in self.leaving}
        configured = {(row["host"], row["shard"]) for row in node.members if row["host"] not in parting}
        if any(other.shard is None for other in self.nodes):
            wanted = {(host, None) for host, _shard in wanted}
            configured = {(host, None) for host, _shard in configured}
        found = []
        for text, difference in (("lacks", wanted - configured), ("still has", configured - wanted)):
            if difference:
                names = ", ".join(
                    host if shard is None else f"{host} as shard {shard}" for host, shard in sorted(difference, key=str)
                )
                found.append(f"{node.name}: its configuration of the cluster {self.name} {text} {names}")
        return found

    def _keeper_session(self, node):
        return [f"{node.name}: Keeper cannot be reached: {node.keeper_error}"] if node.keeper_error else []

    def _tables(self, node, max_delay, lost_parts):
        found = []
        for row in node.tables:
            what = f"{node.name}: {row['database']}.{row['table']}"
            if row["is_readonly"]:
                found.append(f"{what} is read-only {row['zookeeper_exception']}".rstrip())
            elif row["is_session_expired"]:
                found.append(f"{what} has lost its session with Keeper")
            elif row["absolute_delay"] > max_delay:
                found.append(
                    f"{what} is {row['absolute_delay']} s behind, with {row['queue_size']} entries in its queue"
                )
            if row["lost_part_count"] > lost_parts:
                found.append(
                    f"{what} has lost {row['lost_part_count']} parts. The count never goes down: find out why, then "
                    "accept it with lost_parts"
                )
        for row in node.databases:
            behind = row["max_log_ptr"] - row["log_ptr"]
            if row["is_readonly"]:
                found.append(f"{node.name}: the database {row['database']} is read-only")
            elif behind > 0:
                found.append(f"{node.name}: the database {row['database']} is {behind} DDL statements behind")
        return found

    def _inactive(self, without):
        """Replicas that Keeper knows and that are not active, each named once however many hosts tell of it."""
        spared = {node.replica for node in self.nodes if node.host == without}
        spared |= {row["replica_name"] for node in self.nodes if node.host == without for row in node.tables}
        spared |= {name for node in self.leaving for name in replica_names(node.replica, node.shard)}
        found = {}
        for node in self.nodes:
            for row in node.tables:
                for replica, active in row["replica_is_active"].items():
                    if not active and replica not in spared:
                        table = f"{row['database']}.{row['table']}"
                        found[row["zookeeper_path"], replica] = (
                            f"the replica {replica} of {table}, in the shard of {node.host}, is not active"
                        )
        return list(found.values())

    def _missing(self, without):
        """Tables that a host has not, or not yet, while others of its shard have them."""
        found = []
        for node in self.nodes:
            if node.error or node.host == without or node.shard is None:
                continue
            own = {(row["database"], row["table"]) for row in node.tables}
            others = {
                (row["database"], row["table"])
                for other in self.nodes if other.shard == node.shard for row in other.tables
            }
            lacking = sorted(".".join(table) for table in others - own)
            if lacking:
                found.append(f"{node.name} has no replica of {', '.join(lacking)}, which others of its shard have")
        return found

    def _keepers(self, without):
        found = []
        for keeper in self.keepers:
            if keeper.host != without and keeper.problem:
                found.append(f"Keeper on {keeper.host}: {keeper.problem}")
        serving = [keeper for keeper in self.keepers if keeper.serves]
        leaders = [keeper for keeper in serving if keeper.leads]
        needed = majority(self.keeper_members)
        if self.keepers and len(serving) < needed:
            found.append(f"Keeper has no quorum: {len(serving)} of {self.keeper_members} serve, {needed} have to")
        elif self.keepers and len(leaders) != 1:
            names = " and ".join(keeper.host for keeper in leaders) or "nobody"
            found.append(f"Keeper has {names} as its leader")
        for keeper in leaders:
            if keeper.members not in (None, self.keeper_members):
                found.append(
                    f"Keeper: the ensemble that {keeper.host} leads has {keeper.members} members, and should have "
                    f"{self.keeper_members}"
                )
            if keeper.synced + 1 < len(serving):
                found.append(f"Keeper: {keeper.synced} of {len(serving) - 1} followers are in step with {keeper.host}")
        return found
