"""schema_apply with `cluster`: the ledger, the rewriting and the refusals, on two real engines that are the shards.

A double where the embedded engine has no Keeper: DDL is passed on by the test, Replicated engines are taken for what
they replicate, and SYSTEM SYNC REPLICA finds nothing to do.
"""

import re

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import clickhouse as clickhouse_module
from support.clickhouse import ClickHouseServer
from support.modules import ModuleFailed
from support.schema import CLICKHOUSE_INIT
from support.scripts import ScriptSet

OPTIONS = {"name": "fw", "sharding_key": "cityHash64(tenant_id)"}
_ARGUMENTS = re.compile(r"\(\s*'[^']*everywhere[^']*', '[^']*',?\s*")


@pytest.fixture(scope="module")
def shards():
    """Two engines that know each other as the shards of the cluster fw."""
    servers = [ClickHouseServer(), ClickHouseServer()]
    cluster = "".join(
        f"<shard><replica><host>127.0.0.1</host><port>{server.tcp_port}</port></replica></shard>" for server in servers
    )
    try:
        for server in servers:
            config = server.directory / "config.xml"
            config.write_text(config.read_text().replace(
                "</clickhouse>", f"<remote_servers><fw><secret>s</secret>{cluster}</fw></remote_servers></clickhouse>",
            ))
            server.start()
        yield servers
    finally:
        for server in servers:
            server.close()


@pytest.fixture
def cluster(shards, unique, monkeypatch):
    """The servers, with an empty database each and a client that passes DDL on. `cluster.sent` is what was executed."""
    class Cluster:
        servers, database, sent, fail = shards, unique, [], {}

    def execute(self, sql, settings=None, session=None, data=None, before_retry=None):
        Cluster.sent.append(sql)
        if sql.startswith("SYSTEM SYNC REPLICA"):
            sql = f"EXISTS TABLE {sql.split()[-1]}"
            if original(self, sql).strip() == "0":
                raise clickhouse_module.ServerError(60, "no such table")
            return ""
        for part, error in Cluster.fail.items():
            if part in sql:
                raise error
        if "FROM system.databases" in sql:
            sql = sql.replace("engine", "'Replicated' AS engine", 1)
        plain = re.sub(r"\bReplicated(?=\w*MergeTree)", "", _ARGUMENTS.sub("(", sql))
        if re.match(r"(CREATE|DROP) FUNCTION\b.* ON CLUSTER", plain, re.S):
            if not (settings or {}).get("ignore_on_cluster_for_replicated_udf_queries"):
                message = "ON CLUSTER is not allowed because used-defined functions are replicated automatically"
                raise clickhouse_module.ServerError(80, message)
            plain = plain.replace(" ON CLUSTER `fw`", "")
        known = {
            name: value for name, value in (settings or {}).items()
            if name != "database_replicated_allow_replicated_engine_arguments"
        }
        answer = original(self, plain, known, session, data)
        if re.match(r"(CREATE|ALTER|DROP|TRUNCATE)\b", plain) and "schema_ledger" not in plain:
            for other in shards[1:]:
                other.query(plain, database=unique)
        return answer

    original = clickhouse_module.Client.execute
    monkeypatch.setattr(clickhouse_module.Client, "execute", execute)
    for server in shards:
        server.query(f"CREATE DATABASE {unique}")
    yield Cluster
    monkeypatch.undo()
    for server in shards:
        server.query(f"DROP DATABASE {unique} SYNC")


def scripts(double, folder, **options):
    """A ScriptSet for the cluster's database."""
    return ScriptSet(folder, engine="clickhouse", database=double.database, **{
        **double.servers[0].login(), "cluster": OPTIONS, **options,
    })


def test_the_platforms_schema_is_applied_once_for_the_cluster(cluster, tmp_path):
    made = scripts(cluster, tmp_path)
    made.write(init=CLICKHOUSE_INIT.read_text())
    assert made.apply()["applied"] == ["init.sql"]
    for server in cluster.servers:
        engines = dict(line.split("\t") for line in server.query(
            f"SELECT name, engine FROM system.tables WHERE database = '{cluster.database}' AND name NOT LIKE 'schema%'"
        ).splitlines())
        assert engines["viewer_metrics"] == "Distributed" and engines["viewer_metrics_local"] == "MergeTree"
        assert engines["viewer_metrics_5m_mv"] == "MaterializedView" and len(engines) == 19
    assert not made.apply()["changed"]


def test_the_ledger_is_made_for_every_host(cluster, tmp_path):
    made = scripts(cluster, tmp_path)
    made.write(init="CREATE TABLE t (tenant_id UUID) ENGINE = MergeTree ORDER BY tenant_id")
    made.apply()
    ledger = [sql for sql in cluster.sent if sql.startswith("CREATE TABLE") and "schema_ledger" in sql]
    assert len(ledger) == 3 and all(f"/everywhere/{cluster.database}/schema_ledger" in sql for sql in ledger)
    assert all("'{shard}-{replica}'" in sql for sql in ledger)
    assert any(sql.startswith("SYSTEM SYNC REPLICA") and "schema_ledger_lease" in sql for sql in cluster.sent)


def test_later_scripts_know_the_tables_of_earlier_ones(cluster, tmp_path):
    made = scripts(cluster, tmp_path)
    made.write(init="CREATE TABLE t (tenant_id UUID) ENGINE = MergeTree ORDER BY tenant_id")
    made.apply()
    made.write(V1__more="ALTER TABLE t ADD COLUMN x Int; CREATE TABLE u AS t; INSERT INTO t (x) VALUES (1), (2)")
    made.apply()
    for server in cluster.servers:
        for table in ("t", "t_local", "u", "u_local"):
            assert server.query(
                f"SELECT count() FROM system.columns WHERE database = '{cluster.database}' AND table = '{table}'"
            ) == "2\n"
        assert server.query(f"SELECT sum(x) FROM {cluster.database}.t") == "3\n"


def test_functions_are_made_where_keeper_passes_them_on(cluster, tmp_path):
    """As in a cluster of the role: there, ClickHouse refuses a function ON CLUSTER unless it is told to ignore that."""
    made, function = scripts(cluster, tmp_path), f"f_{cluster.database}"
    made.write(V1__f=f"CREATE FUNCTION {function} AS x -> x + 1; SELECT {function}(1)")
    made.apply()
    assert any(sql.startswith(f"CREATE FUNCTION {function} ON CLUSTER `fw`") for sql in cluster.sent)
    made.write(V2__g=f"DROP FUNCTION {function}")
    made.apply()
    for server in cluster.servers:
        assert server.query(f"SELECT count() FROM system.functions WHERE name = '{function}'") == "0\n"


def test_a_statement_without_a_place_on_a_cluster_is_refused_before_anything_is_applied(cluster, tmp_path):
    made = scripts(cluster, tmp_path)
    made.write(init="CREATE TABLE t (x Int) ENGINE = MergeTree ORDER BY x;\nCREATE TABLE l (x Int) ENGINE = Log")
    with pytest.raises(ModuleFailed, match=r"init.sql, line 2: ENGINE = Log keeps its rows on one host"):
        made.apply()
    assert cluster.servers[0].query(f"SELECT count() FROM system.tables WHERE database = '{cluster.database}' "
                                    "AND name NOT LIKE 'schema_ledger%'") == "0\n"


def test_a_host_that_is_down_is_named_and_the_next_run_goes_on(cluster, tmp_path):
    made = scripts(cluster, tmp_path)
    made.write(init="CREATE TABLE t (tenant_id UUID) ENGINE = MergeTree ORDER BY tenant_id;\n"
               "ALTER TABLE t ADD COLUMN x Int32;\nALTER TABLE t ADD COLUMN y Int32")
    late = clickhouse_module.ServerError(159, "DDL task is not finished on 1 of 4 hosts (analytics4)")
    cluster.fail["ALTER TABLE `t_local`"] = late
    with pytest.raises(ModuleFailed, match="(?s)analytics4.*has not executed it within 120 s.*then run again"):
        made.apply()
    # It was executed all the same, as a host of the cluster that comes back does.
    cluster.fail.clear()
    for server in cluster.servers:
        server.query("ALTER TABLE t_local ADD COLUMN x Int32", database=cluster.database)
    assert made.apply()["applied"] == ["init.sql"]
    assert cluster.servers[1].query(
        f"SELECT count() FROM system.columns WHERE database = '{cluster.database}' AND table = 't'"
    ) == "3\n"


def test_a_ledger_that_is_there_waits_for_no_host_and_a_new_one_says_whom_it_waits_for(cluster, tmp_path):
    made = scripts(cluster, tmp_path)
    made.write(init="CREATE TABLE t (tenant_id UUID) ENGINE = MergeTree ORDER BY tenant_id")
    late = clickhouse_module.ServerError(159, "DDL task is not finished on 1 of 4 hosts (analytics4)")
    cluster.fail["CREATE TABLE IF NOT EXISTS"] = late
    with pytest.raises(ModuleFailed, match="(?s)analytics4.*has not executed it within 120 s.*then run again"):
        made.apply()
    cluster.fail.clear()
    made.apply()
    made.write(V1__more="ALTER TABLE t ADD COLUMN x Int")
    cluster.fail["CREATE TABLE IF NOT EXISTS"] = late
    assert made.apply()["applied"] == ["V1__more.sql"]


def test_declarations_that_do_not_fit_the_server_are_refused(cluster, tmp_path):
    made = scripts(cluster, tmp_path, cluster={"name": "other", "sharding_key": "1"})
    made.write(init="SELECT 1")
    with pytest.raises(ModuleFailed, match="the server knows no cluster 'other'"):
        made.apply()
    made = scripts(cluster, tmp_path, cluster={"name": "fw"})
    with pytest.raises(ModuleFailed, match="fw has 2 shards; say by what rows are spread"):
        made.apply()
    made = scripts(cluster, tmp_path, cluster={**OPTIONS, "replicated_database": False})
    with pytest.raises(ModuleFailed, match="replicated_database is false, but the database .* the engine Replicated"):
        made.apply()
