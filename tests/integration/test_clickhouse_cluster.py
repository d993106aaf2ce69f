"""clickhouse_cluster before a real engine: its questions are understood, and its refusals passed on.

The embedded engine replicates nothing; the troubles of a cluster are on a double, in the unit tests.
"""

import pytest
from support.clickhouse import ClickHouseServer
from support.modules import ModuleFailed, run_module


@pytest.fixture(scope="module")
def member():
    """An engine that is a cluster of one host."""
    server = ClickHouseServer()
    config = server.directory / "config.xml"
    cluster = f"<shard><replica><host>127.0.0.1</host><port>{server.tcp_port}</port></replica></shard>"
    config.write_text(config.read_text().replace(
        "</clickhouse>", f"<remote_servers><fw>{cluster}</fw></remote_servers></clickhouse>",
    ))
    try:
        yield server.start()
    finally:
        server.close()


def look(server, **options):
    """The module's result."""
    return run_module("clickhouse_cluster", server.login(cluster="fw", timeout=10, **options))


@pytest.mark.parametrize("nodes", [None, [{"host": "127.0.0.1", "shard": 1}]])
def test_a_cluster_of_one_host_is_healthy_and_cannot_do_without_it(member, nodes):
    result = look(member, nodes=nodes)
    version = member.query("SELECT version()").strip()
    assert result["healthy"] and result["versions"] == [version]
    assert result["nodes"][0]["uptime"] >= 0 and result["nodes"][0]["tables"] == 0
    with pytest.raises(ModuleFailed, match="only replica of its shard"):
        look(member, nodes=nodes, take_down="127.0.0.1")


def test_every_question_about_replication_is_understood_by_the_real_parser(member):
    from ansible_collections.frameworks.database.plugins.module_utils import clickhouse_cluster as asked

    member.query(asked._REPLICAS)
    member.query(asked._DATABASES)
    member.query(f"SELECT formatQuery('{asked._CONNECTION}')")


def test_wrong_declarations_and_logins_are_named(member):
    with pytest.raises(ModuleFailed, match="its configuration of the cluster fw lacks other as shard 2"):
        look(member, nodes=[{"host": "127.0.0.1", "shard": 1}, {"host": "other", "shard": 2}])
    with pytest.raises(ModuleFailed, match=r"127.0.0.1 \(shard 1\): .*refuses user 'nobody'"):
        run_module("clickhouse_cluster", {
            **member.login(), "cluster": "fw", "login_user": "nobody", "nodes": [{"host": "127.0.0.1", "shard": 1}],
        })
    with pytest.raises(ModuleFailed, match="knows no cluster 'other'"):
        run_module("clickhouse_cluster", {**member.login(), "cluster": "other"})
