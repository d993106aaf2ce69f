"""clickhouse_cluster before a double of a cluster: each trouble is named, and none is taken for health."""

import ssl
import subprocess
import threading

import pytest
from support.clickhouse_cluster import ClusterDouble, KeeperDouble
from support.modules import ModuleFailed, run_module
from support.ports import free_port

ONE, TWO, THREE = "127.0.1.1", "127.0.1.2", "127.0.1.3"


@pytest.fixture
def cluster():
    """A ClusterDouble."""
    double = ClusterDouble(free_port(), free_port())
    yield double
    double.close()


def look(cluster, check=False, **options):
    """The module's result."""
    return run_module("clickhouse_cluster", cluster.arguments(**options), check=check)


def test_a_healthy_cluster_is_healthy_and_can_do_without_any_host(cluster):
    result = look(cluster)
    assert result["healthy"] and not result["problems"] and not result["changed"]
    assert result["versions"] == ["25.8.3.66"] and len(result["nodes"]) == 4
    assert [keeper["state"] for keeper in result["keepers"]] == ["leader", "follower", "follower"]
    for host in cluster.hosts:
        assert look(cluster, take_down=host)["safe"]


def only(rows, **changes):
    """Change the first row."""
    rows[0] = {**rows[0], **changes}


TROUBLES = {
    "is read-only lost it": lambda double: only(
        double.hosts[TWO].tables, is_readonly=1, zookeeper_exception="lost it"
    ),
    "d.t_local has lost its session with Keeper": lambda double: only(double.hosts[TWO].tables, is_session_expired=1),
    "d.t_local is 31 s behind, with 7 entries": lambda double: only(
        double.hosts[TWO].tables, absolute_delay=31, queue_size=7
    ),
    "d.t_local has lost 2 parts": lambda double: only(double.hosts[TWO].tables, lost_part_count=2),
    "the replica gone of d.t_local": lambda double: only(
        double.hosts[TWO].tables, replica_is_active={ONE: 1, TWO: 1, "gone": 0}
    ),
    "the database d is read-only": lambda double: only(double.hosts[TWO].databases, is_readonly=1),
    "the database d is 3 DDL statements behind": lambda double: only(double.hosts[TWO].databases, log_ptr=6),
    "127.0.1.2 (shard 1) has no replica of d.t_local": lambda double: double.hosts[TWO].tables.clear(),
    "lacks 127.0.1.4 as shard 2": lambda double: double.hosts[TWO].members.pop(),
    "still has old as shard 1": lambda double: double.hosts[TWO].members.append({"host": "old", "shard": 1}),
    "lacks 127.0.1.1 as shard 1": lambda double: only(double.hosts[TWO].members, shard=2),
    "no cluster fw in its configuration": lambda double: double.hosts[TWO].members.clear(),
    "Keeper cannot be reached: no session": lambda double: double.hosts[TWO].sessions.clear(),
    "the session with keeper:9181 has expired": lambda double: only(double.hosts[TWO].sessions, is_expired=1),
    "All connection tries failed": lambda double: setattr(double.hosts[TWO], "broken", "All connection tries failed"),
    "it runs, but is not part of a quorum": lambda double: setattr(
        double.keepers[TWO], "facts", "This instance is not currently serving requests"
    ),
    "does not answer mntr like a Keeper ('mntr is not": lambda double: setattr(
        double.keepers[TWO], "facts", "mntr is not executed because it is not in the white list."
    ),
    "like a Keeper ('nothing')": lambda double: setattr(double.keepers[TWO], "facts", ""),
    "Keeper has nobody as its leader": lambda double: double.keepers[ONE].facts.update(zk_server_state="follower"),
    "Keeper has 127.0.1.1 and 127.0.1.2 as its leader": lambda double: double.keepers[TWO].facts.update(
        zk_server_state="leader", zk_synced_followers=2
    ),
    "Keeper: the ensemble that 127.0.1.1 leads has 4 members, and should have 3": lambda double: (
        double.keepers[ONE].facts.update(zk_followers=3)
    ),
    "Keeper: 1 of 2 followers are in step": lambda double: double.keepers[ONE].facts.update(zk_synced_followers=1),
}


@pytest.mark.parametrize("sentence", TROUBLES)
def test_each_trouble_is_named_and_forbids_to_take_down_another_host(cluster, sentence):
    TROUBLES[sentence](cluster)
    with pytest.raises(ModuleFailed) as failure:
        look(cluster)
    assert sentence in str(failure.value) and failure.value.result["problems"]
    if "leader" not in sentence and "followers" not in sentence and "leads" not in sentence:
        assert all(TWO in problem for problem in failure.value.result["problems"])
    with pytest.raises(ModuleFailed, match="cannot do without 127.0.1.3"):
        look(cluster, take_down=THREE)
    gathered = look(cluster, state="gathered")
    assert not gathered["healthy"] and look(cluster, check=True)["problems"] == gathered["problems"]


@pytest.mark.parametrize("sentence", [name for name in TROUBLES if "Keeper" not in name and "gone" not in name])
def test_the_troubles_of_the_host_itself_do_not_keep_it_up(cluster, sentence):
    TROUBLES[sentence](cluster)
    assert look(cluster, take_down=TWO)["safe"]


def test_a_host_that_is_down_may_be_taken_down_but_no_other(cluster):
    cluster.stop(THREE)
    assert look(cluster, take_down=THREE)["safe"]
    with pytest.raises(ModuleFailed) as failure:
        look(cluster, take_down="127.0.1.4")
    assert "nothing listens on 127.0.1.3" in str(failure.value)
    assert "d.t_local has no other active replica than that on 127.0.1.4" in str(failure.value)
    assert f"Keeper on {THREE}: nothing listens on port" in str(failure.value)


def test_the_quorum_of_keepers_is_kept(cluster):
    cluster.keepers.pop(THREE).close()
    cluster.keepers[ONE].facts.update(zk_synced_followers=1)
    assert look(cluster, state="gathered")["problems"] == [
        f"Keeper on {THREE}: nothing listens on port {cluster.keeper_port}"
    ]
    with pytest.raises(ModuleFailed, match="without the Keeper on 127.0.1.2, 1 of 3 Keepers serve; 2 have to"):
        look(cluster, take_down=TWO)
    cluster.keepers.pop(TWO).close()
    result = look(cluster, state="gathered")
    assert "Keeper has no quorum: 1 of 3 serve, 2 have to" in result["problems"]


def test_a_host_that_is_server_and_keeper_can_lose_one_of_them(cluster):
    only(cluster.hosts[TWO].tables, absolute_delay=99)
    with pytest.raises(ModuleFailed, match="99 s behind"):
        look(cluster, take_down=TWO, part="keeper")
    assert look(cluster, take_down=TWO, part="server")["safe"]
    only(cluster.hosts[TWO].tables, absolute_delay=0)
    cluster.keepers[TWO].facts = "This instance is not currently serving requests"
    with pytest.raises(ModuleFailed, match="not part of a quorum"):
        look(cluster, take_down=TWO, part="server")
    cluster.keepers[ONE].facts.update(zk_synced_followers=1)
    assert look(cluster, take_down=TWO, part="keeper")["safe"]


def test_while_a_keeper_comes_the_others_are_counted_as_they_are(cluster):
    cluster.keepers[ONE].facts.update(zk_followers=3)
    assert look(cluster, keeper_members=4)["healthy"]
    # Of four, three have to serve.
    with pytest.raises(ModuleFailed, match="2 of 3 Keepers serve; 3 have to|without the Keeper on 127.0.1.2, 2 of 4"):
        look(cluster, keeper_members=4, take_down=TWO)


def test_one_that_leaves_may_be_there_or_not(cluster):
    staying = [{"host": host, "shard": shard} for host, shard in cluster.shards.items() if host != TWO]
    leaving = [{"host": TWO, "shard": 1}]
    with pytest.raises(ModuleFailed, match="still has 127.0.1.2 as shard 1"):
        look(cluster, nodes=staying)
    assert look(cluster, nodes=staying, leaving=leaving)["healthy"]
    cluster.stop(TWO)
    options = {"nodes": staying, "keepers": [f"{host}:{cluster.keeper_port}" for host in (ONE, THREE)]}
    cluster.keepers[ONE].facts.update(zk_synced_followers=1)
    with pytest.raises(ModuleFailed, match="the replica 127.0.1.2 of d.t_local, .* is not active"):
        look(cluster, keeper_members=3, **options)
    assert look(cluster, keeper_members=3, leaving=leaving, **options)["healthy"]


def test_keepers_are_looked_at_before_there_are_servers(cluster):
    for host in list(cluster.hosts):
        cluster.hosts.pop(host).close()
    assert look(cluster, nodes=[])["healthy"]
    cluster.keepers.pop(TWO).close()
    with pytest.raises(ModuleFailed, match="Keeper on 127.0.1.2: nothing listens"):
        look(cluster, nodes=[])


def test_a_shard_without_a_second_replica_says_so_and_can_be_accepted(cluster):
    nodes = [{"host": ONE, "shard": 1}, {"host": THREE, "shard": 2}]
    for host in (ONE, THREE):
        cluster.hosts[host].members = nodes
        only(cluster.hosts[host].tables, replica_is_active={host: 1})
    options = {"nodes": nodes, "take_down": ONE}
    with pytest.raises(ModuleFailed, match="is the only replica of its shard"):
        look(cluster, **options)
    assert look(cluster, accept_unavailable=True, **options)["safe"]
    only(cluster.hosts[THREE].tables, absolute_delay=99)
    with pytest.raises(ModuleFailed, match="99 s behind"):
        look(cluster, accept_unavailable=True, **options)


def test_what_is_known_and_accepted_is_no_trouble(cluster):
    only(cluster.hosts[TWO].tables, lost_part_count=2, absolute_delay=40)
    assert look(cluster, lost_parts=2, max_delay=40)["healthy"]


def test_the_members_come_from_the_server_where_they_are_not_declared(cluster):
    assert len(look(cluster, login_host=ONE, nodes=None)["nodes"]) == 4
    cluster.hosts[ONE].members.clear()
    with pytest.raises(ModuleFailed, match=f"{ONE} knows no cluster 'fw'"):
        look(cluster, login_host=ONE, nodes=None)
    with pytest.raises(ModuleFailed, match="nothing listens on 127.0.1.9"):
        look(cluster, login_host="127.0.1.9", nodes=None)


def test_strange_hosts_and_addresses_are_refused(cluster):
    with pytest.raises(ModuleFailed, match="elsewhere is none of the cluster's hosts"):
        look(cluster, take_down="elsewhere")
    for text in ("keeper", "keeper:", ":9181", "keeper:secure"):
        with pytest.raises(ModuleFailed, match=f"keepers: '{text}' is not host:port"):
            look(cluster, keepers=[text])


def test_it_waits_until_the_cluster_is_well_and_no_longer_than_told(cluster):
    only(cluster.hosts[TWO].tables, is_readonly=1)
    with pytest.raises(ModuleFailed, match="not healthy, after waiting for 1 s"):
        look(cluster, wait=1, interval=0.1)
    healer = threading.Timer(0.3, only, [cluster.hosts[TWO].tables], {"is_readonly": 0})
    healer.start()
    assert look(cluster, wait=30, interval=0.05)["healthy"]
    healer.join()


def test_a_keeper_is_asked_over_tls_and_its_certificate_is_checked(cluster, tmp_path):
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=keeper", "-addext", "subjectAltName=IP:127.0.1.5", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    port = free_port()
    secure = [KeeperDouble(f"127.0.1.{number}", port, context, zk_server_state="standalone") for number in (5, 6)]
    options = {"keeper_tls": True, "ca_cert": str(certificate)}
    try:
        assert look(cluster, keepers=[f"127.0.1.5:{port}"], **options)["healthy"]
        with pytest.raises(ModuleFailed, match="Keeper on 127.0.1.6: the certificate on port .* is not accepted"):
            look(cluster, keepers=[f"127.0.1.6:{port}"], **options)
        assert look(cluster, keepers=[f"127.0.1.6:{port}"], validate_certs=False, **options)["healthy"]
        with pytest.raises(ModuleFailed, match="on port .* is this its TLS port"):
            look(cluster, keepers=[f"127.0.1.1:{cluster.keeper_port}"], **options)
        with pytest.raises(ModuleFailed, match="no answer on port .* within 1 s: does it speak TLS"):
            look(cluster, keepers=[f"127.0.1.5:{port}"], timeout=1)
        with pytest.raises(ModuleFailed, match=f"{tmp_path}/none cannot be used: No such file"):
            look(cluster, keepers=[f"127.0.1.5:{port}"], keeper_tls=True, ca_cert=str(tmp_path / "none"))
        own = {"client_cert": str(certificate), "client_key": str(tmp_path / "none")}
        with pytest.raises(ModuleFailed, match=f"{certificate} with {tmp_path}/none cannot be used: No such file"):
            look(cluster, keepers=[f"127.0.1.5:{port}"], **options, **own)
        context.load_verify_locations(certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        with pytest.raises(ModuleFailed, match="after the handshake .*: has the certificate that is shown to it"):
            look(cluster, keepers=[f"127.0.1.5:{port}"], **options)
    finally:
        for keeper in secure:
            keeper.close()
