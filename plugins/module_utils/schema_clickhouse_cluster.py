# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What differs for schema_apply where a ClickHouse database is one of a cluster."""

from __future__ import annotations

import re

from .clickhouse import ServerError, quote_string
from .clickhouse_engines import EngineError, Topology, everywhere, rewrite, sharded_tables
from .schema_clickhouse_server import OneServer
from .schema_plan import Refused
from .sql_script import ScriptError

TIMEOUT_EXCEEDED = 159
_CHANGES_TABLES = re.compile(r"\s*(?:CREATE|REPLACE|DROP)\b", re.I)
_ROWS = re.compile(r"\s*(?:INSERT|DELETE|UPDATE|SELECT|WITH)\b", re.I)


class Cluster(OneServer):
    """A database of a cluster. `options` are those of schema_apply's option `cluster`."""

    def __init__(self, options, database):
        self.topology = Topology(
            options["name"], database, options["replicated_database"], options["sharding_key"] or None
        )
        self.timeout = options["ddl_timeout"]
        self.settings = {
            "distributed_ddl_task_timeout": self.timeout, "distributed_ddl_output_mode": "throw",
            # A row that an INSERT has returned for is on its shard.
            "distributed_foreground_insert": 1,
            # Where functions are in Keeper, ClickHouse refuses to create one ON CLUSTER.
            "ignore_on_cluster_for_replicated_udf_queries": 1,
        }
        self._client, self._sharded = None, None

    def guard(self, client):
        """Raises Refused where the declaration does not fit the server."""
        self._client = client
        name, database = self.topology.cluster, self.topology.database
        shards = client.rows(
            f"SELECT uniqExact(shard_num) AS shards FROM system.clusters WHERE cluster = {quote_string(name)}"
        )[0]["shards"]
        if not shards:
            raise Refused(f"cluster.name: the server knows no cluster {name!r} (remote_servers)")
        if shards > 1 and not self.topology.sharding_key:
            raise Refused(
                f"cluster.sharding_key: {name} has {shards} shards; say by what rows are spread over them, for example "
                "cityHash64(tenant_id)"
            )
        engines = client.rows(f"SELECT engine FROM system.databases WHERE name = {quote_string(database)}")
        if engines and (engines[0]["engine"] == "Replicated") != self.topology.replicated:
            raise Refused(
                f"cluster.replicated_database is {str(self.topology.replicated).lower()}, but the database {database} "
                f"has the engine {engines[0]['engine']}"
            )

    def sharded(self):
        """Names of the tables that are spread over the shards, as the database has them now."""
        if self._sharded is None:
            self._sharded = frozenset(row["name"] for row in self._client.rows(
                "SELECT name FROM system.tables WHERE engine = 'Distributed' "
                f"AND database = {quote_string(self.topology.database)}"
            ))
        return self._sharded

    def statements(self, text):
        """The statements to execute for one of a script. Raises Refused."""
        try:
            found = rewrite(text, self.topology, sharded_tables([text], self.topology, self.sharded()))
        except EngineError as error:
            raise Refused(str(error)) from None
        if _CHANGES_TABLES.match(text):
            self._sharded = None
        return found

    def check(self, statements, fill):
        """Raises ScriptError for the first of a script's statements that has no place on a cluster."""
        known = self.sharded()
        for statement in statements:
            text = fill(statement.text)
            known = sharded_tables([text], self.topology, known)
            try:
                rewrite(text, self.topology, known)
            except EngineError as error:
                raise ScriptError(str(error), statement.line) from None

    def everywhere(self, text):
        """The ledger has to be the same whichever host is asked."""
        return everywhere(text, self.topology), {
            "distributed_ddl_task_timeout": self.timeout, "database_replicated_allow_replicated_engine_arguments": 3,
        }

    def sync(self, client, table):
        """Wait until this host has what the others have written. Raises ServerError where that takes too long."""
        client.execute(f"SYSTEM SYNC REPLICA {table}", {"receive_timeout": 30})

    def can_run_again(self, text):
        """What is rewritten can."""
        return not _ROWS.match(text)

    def advice(self, error):
        """What a statement that a host has not executed in time means."""
        if isinstance(error, ServerError) and error.code == TIMEOUT_EXCEEDED:
            return (
                f"A host of the cluster {self.topology.cluster} has not executed it within {self.timeout} s. It will, "
                "by itself, when it is back: bring it back, wait until the cluster is healthy "
                "(frameworks.database.clickhouse_cluster), then run again; the run goes on with this statement."
            )
        return ""
