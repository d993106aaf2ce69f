"""clickhouse_forget before a double of a cluster: by the right hosts, once, and never what is alive or needed."""

import pytest
from support.clickhouse_cluster import TABLE, ClusterDouble
from support.modules import ModuleFailed, run_module
from support.ports import free_port

ONE, TWO, THREE, FOUR = (f"127.0.1.{number}" for number in range(1, 5))
DATABASE = f"SYSTEM DROP DATABASE REPLICA '{TWO}' FROM SHARD '1' FROM DATABASE `d`"
DROP = f"SYSTEM DROP REPLICA '{TWO}' FROM TABLE `d`.`t_local`"
LEDGER = f"SYSTEM DROP REPLICA '1-{TWO}' FROM TABLE `d`.`ledger`"


@pytest.fixture
def cluster():
    """A ClusterDouble with a table that all shards share."""
    double = ClusterDouble(free_port(), free_port())
    names = {f"{shard}-{host}": 1 for host, shard in double.shards.items()}
    for host, shard in double.shards.items():
        double.hosts[host].tables.append({
            **TABLE, "table": "ledger", "zookeeper_path": "/ledger", "replica_name": f"{shard}-{host}",
            "replica_is_active": dict(names),
        })
    yield double
    double.close()


def stop(cluster):
    """The second host is gone, and the others see it."""
    cluster.stop(TWO)
    for host in cluster.hosts.values():
        for row in host.tables:
            row["replica_is_active"].update({name: 0 for name in row["replica_is_active"] if name == f"1-{TWO}"})


def forget(cluster, check=False, **options):
    """The module's result."""
    nodes = [{"host": host, "shard": shard} for host, shard in cluster.shards.items() if host != TWO]
    return run_module("clickhouse_forget", {
        "login_port": cluster.port, "timeout": 5, "nodes": nodes, "replica": TWO, "shard": 1, **options,
    }, check=check)


def test_tables_and_databases_forget_it_by_way_of_a_host_that_has_them(cluster):
    stop(cluster)
    assert forget(cluster, check=True)["forgotten"] == [DATABASE, DROP, LEDGER]
    assert not any(host.statements for host in cluster.hosts.values())
    result = forget(cluster)
    assert result["changed"] and result["forgotten"] == [DATABASE, DROP, LEDGER]
    assert cluster.hosts[ONE].statements == result["forgotten"]
    assert not forget(cluster)["changed"] and not forget(cluster, check=True)["changed"]
    rows = [row for host in cluster.hosts.values() for row in host.tables]
    assert not any(TWO in name for row in rows for name in row["replica_is_active"])


def test_a_replica_of_the_same_name_in_another_shard_stays(cluster):
    stop(cluster)
    for host in (THREE, FOUR):
        cluster.hosts[host].tables[0]["replica_is_active"][TWO] = 0
    forget(cluster)
    assert all(TWO in cluster.hosts[host].tables[0]["replica_is_active"] for host in (THREE, FOUR))


def test_what_is_alive_is_not_forgotten(cluster):
    assert forget(cluster, check=True)["changed"]
    with pytest.raises(ModuleFailed, match="127.0.1.2 of shard 1 is still active .*: stop it first"):
        forget(cluster)
    assert not any(host.statements for host in cluster.hosts.values())


def test_parts_that_nobody_else_has_are_given_up_on_request_only(cluster):
    stop(cluster)
    cluster.hosts[ONE].queue = [{"database": "d", "table": "t_local", "source_replica": TWO}] * 2
    with pytest.raises(ModuleFailed, match="2 parts of d.t_local, by 127.0.1.1. Start it again"):
        forget(cluster)
    assert not any(host.statements for host in cluster.hosts.values())
    assert forget(cluster, accept_lost_parts=True)["changed"]


def test_a_run_that_was_cut_off_is_completed(cluster):
    stop(cluster)
    cluster.hosts[ONE].drop(DATABASE)
    assert forget(cluster)["forgotten"] == [DROP, LEDGER]


def test_a_host_that_does_not_answer_is_named(cluster):
    stop(cluster)
    cluster.hosts.pop(FOUR).close()
    with pytest.raises(ModuleFailed, match="nothing listens on 127.0.1.4"):
        forget(cluster)
