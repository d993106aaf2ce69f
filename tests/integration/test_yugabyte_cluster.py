"""The modules yugabyte_cluster and yugabyte_node, against the stand-in for YugabyteDB."""

import contextlib
import signal
import time

import pytest
from support.modules import ModuleFailed, run_module
from support.ports import wait_for
from support.yugabyte import StandInCluster

ZONES = [f"cloud1.datacenter1.z{number}" for number in (1, 2, 3)]


@pytest.fixture
def cluster():
    """A cluster of three nodes, to be broken."""
    with contextlib.closing(StandInCluster()) as running:
        yield running.start()


@pytest.fixture
def impatient():
    """A cluster of three nodes that notices what is dead or has no leader after seconds, not after a minute or two."""
    flags = {"master": {"tserver_unresponsive_timeout_ms": "6000", "leaderless_tablet_alert_delay_secs": "1"}}
    with contextlib.closing(StandInCluster(flags=lambda kind, _number: flags.get(kind, {}))) as running:
        yield running.start()


@pytest.fixture(scope="module")
def whole():
    """A cluster of three nodes that every test leaves whole."""
    with contextlib.closing(StandInCluster()) as running:
        yield running.start()


def see(condition, what):
    """Wait for what yb-admin has to be asked about: a process each time."""
    wait_for(condition, what, pause=0.25)


def everything(cluster, **more):
    return {**cluster.login(), "tservers": cluster.members, **more}


def node(cluster, number, service, state, **more):
    return run_module("yugabyte_node", {
        **everything(cluster), "service": service, "address": cluster.address[number], "state": state, **more,
    })


def seen(cluster):
    """The cluster as its leading master sees it."""
    return run_module("yugabyte_cluster", cluster.login())["cluster"]


def alive(cluster, number):
    """Whether the masters take the node's tablet server for alive."""
    return next(one["alive"] for one in seen(cluster)["tservers"] if one["host"] == cluster.address[number])


def lost(cluster, *numbers):
    """Whether the nodes' tablet servers are gone and took tablets with them, not merely late under load."""
    found = seen(cluster)
    silent = [one["silent"] for one in found["tservers"] if one["host"] in {cluster.address[one] for one in numbers}]
    return found["leaderless"] and min(silent) > 5


def leads(cluster):
    """The number of the node whose master leads."""
    host = next(one["host"] for one in seen(cluster)["masters"] if one["role"] == "LEADER")
    return next(number for number, address in cluster.address.items() if address == host)


def test_placement_is_set_once_and_again_when_it_differs(whole):
    arguments = everything(whole, placement=ZONES, replication_factor=3)
    planned = run_module("yugabyte_cluster", arguments, check=True)
    assert planned["changed"] and planned["cluster"]["placement"] == []
    first = run_module("yugabyte_cluster", arguments)
    assert first["changed"] and first["diff"]["after"]["placement"] == {"zones": ZONES, "replicas": 3}
    assert (first["cluster"]["placement"], first["cluster"]["replicas"]) == (ZONES, 3)
    assert not run_module("yugabyte_cluster", {**arguments, "placement": ZONES[::-1]})["changed"]
    whole.admin("modify_placement_info", ",".join(ZONES[:2]), "3")
    assert run_module("yugabyte_cluster", arguments)["changed"]


def test_leaders_left_off_a_node_come_back(whole):
    whole.admin("change_leader_blacklist", "ADD", f"{whole.address[2]}:9100", "10.9.9.9:9100")
    result = run_module("yugabyte_cluster", everything(whole))
    assert result["changed"] and result["cluster"]["leader_blacklist"] == ["10.9.9.9:9100"]  # not ours
    whole.admin("change_leader_blacklist", "REMOVE", "10.9.9.9:9100")


def test_an_unhealthy_cluster_is_named_server_by_server(cluster):
    cluster.stop("master", 3)
    see(cluster.dead_master_noticed, "the dead master is noticed")
    with pytest.raises(ModuleFailed, match=f"the yb-master on {cluster.address[3]} does not answer the others"):
        run_module("yugabyte_cluster", everything(cluster, timeout=1))
    cluster.stop("master", 2)
    see(cluster.leaderless, "the last master gives up leading")
    with pytest.raises(ModuleFailed, match="No master's leader was found"):
        run_module("yugabyte_cluster", everything(cluster, timeout=3))
    assert run_module("yugabyte_cluster", everything(cluster), check=True)["cluster"] == {}


def test_check_mode_succeeds_before_there_is_a_cluster(tmp_path):
    arguments = {"masters": ["127.0.0.254"], "bin_dir": str(tmp_path), "tservers": ["127.0.0.254"]}
    result = run_module("yugabyte_cluster", arguments, check=True)
    assert (result["changed"], result["cluster"]) == (False, {})


@pytest.mark.parametrize("number", [1, 3])
def test_a_tserver_loses_its_leaders_and_gets_them_back(whole, number):
    assert node(whole, number, "tserver", "drained")["changed"]
    drained = run_module("yugabyte_cluster", whole.login())["cluster"]
    mine = next(one for one in drained["tservers"] if one["host"] == whole.address[number])
    assert mine["leaders"] == 0 and mine["tablets"] > 0
    whole.stop("tserver", number, signal.SIGTERM)
    whole.serve("tserver", number)
    result = node(whole, number, "tserver", "serving")
    assert result["changed"] and result["server"]["alive"]
    assert not node(whole, number, "tserver", "serving")["changed"]
    assert run_module("yugabyte_cluster", whole.login())["cluster"]["leader_blacklist"] == []


def test_the_leading_master_steps_down_and_another_does_not(whole):
    leader = leads(whole)
    other = next(number for number in whole.numbers if number != leader)
    assert not node(whole, other, "master", "drained")["changed"]
    assert leads(whole) == leader
    assert node(whole, leader, "master", "drained")["changed"]
    assert leads(whole) != leader


def test_no_second_node_is_drained_while_one_is_down(cluster):
    cluster.stop("tserver", 1)
    with pytest.raises(ModuleFailed, match="cannot do without it after 3 s"):
        node(cluster, 2, "tserver", "drained", timeout=3)
    assert run_module("yugabyte_cluster", cluster.login())["cluster"]["leader_blacklist"] == []
    cluster.stop("master", 1)
    see(cluster.dead_master_noticed, "the dead master is noticed")
    with pytest.raises(ModuleFailed, match=f"the yb-master on {cluster.address[1]} does not answer"):
        node(cluster, 3, "master", "drained", timeout=2)


def test_the_node_that_is_down_may_be_restarted_at_once_and_no_other(cluster):
    def may_be_restarted(number):
        """At one look, without waiting for anything."""
        try:
            return not node(cluster, number, "tserver", "drained", timeout=0)["changed"]
        except ModuleFailed:
            return False

    cluster.stop("tserver", 2)
    assert may_be_restarted(2) and not may_be_restarted(3)
    # A new leader knows no replica of a server that has not called it, and takes the server for alive for a minute.
    cluster.admin("master_leader_stepdown")
    see(lambda: seen(cluster)["under_replicated"], "its tablets count as under-replicated")
    assert alive(cluster, 2)
    assert may_be_restarted(2) and not may_be_restarted(3)
    cluster.stop("tserver", 1)
    assert may_be_restarted(1) and may_be_restarted(2) and not may_be_restarted(3)


def test_a_node_that_does_not_come_back_is_named(whole):
    node(whole, 2, "tserver", "drained")
    whole.stop("tserver", 2)
    with pytest.raises(ModuleFailed, match=rf"yb-tserver on {whole.address[2]}: It is not back in service after 2 s"):
        node(whole, 2, "tserver", "serving", timeout=2)
    whole.serve("tserver", 2)
    node(whole, 2, "tserver", "serving")


def test_a_replica_that_is_still_catching_up_is_waited_for(whole):
    whole.stop("tserver", 1, signal.SIGTERM)
    whole.serve("tserver", 1)
    start = time.monotonic()
    node(whole, 2, "tserver", "drained")
    assert time.monotonic() - start > 0.5  # the stand-in's replicas need a second


def test_a_master_is_replaced(cluster):
    cluster.serve("master", 4, master_addresses=None, placement_zone="z1")
    assert not node(cluster, 4, "master", "absent")["changed"]
    cluster.stop("master", 1)
    see(cluster.dead_master_noticed, "the dead master is noticed")
    assert node(cluster, 1, "master", "absent")["changed"]
    assert node(cluster, 4, "master", "present", masters=[*cluster.members, cluster.address[4]])["changed"]
    assert not node(cluster, 4, "master", "present", masters=[*cluster.members, cluster.address[4]])["changed"]
    found = run_module("yugabyte_cluster", cluster.login(masters=[cluster.address[2]]), check=True)
    assert {one["host"] for one in found["cluster"]["masters"]} == {cluster.address[number] for number in (2, 3, 4)}


def test_the_last_majority_of_masters_is_not_removed(cluster):
    cluster.stop("master", 1)
    see(cluster.dead_master_noticed, "the dead master is noticed")
    with pytest.raises(ModuleFailed, match="would have no majority"):
        node(cluster, 2, "master", "absent")


def test_a_tserver_is_emptied_before_it_goes(cluster):
    cluster.serve("tserver", 4, placement_zone="z1")
    wait_for(lambda: cluster.socket(4).exists(), "the fourth node serves")
    assert node(cluster, 1, "tserver", "absent")["changed"]
    found = run_module("yugabyte_cluster", cluster.login())["cluster"]
    tablets = {one["host"]: one["tablets"] for one in found["tservers"]}
    assert tablets[cluster.address[1]] == 0 and tablets[cluster.address[4]] > 0 and found["under_replicated"] == 0
    assert not node(cluster, 1, "tserver", "absent")["changed"]


def test_a_tserver_that_has_left_is_forgotten_also_after_an_interruption(impatient):
    impatient.serve("tserver", 4, placement_zone="z1")
    wait_for(lambda: impatient.socket(4).exists(), "the fourth node serves")
    node(impatient, 1, "tserver", "absent")
    impatient.stop("tserver", 1)
    see(lambda: not alive(impatient, 1), "it counts as dead")
    # As a run leaves it that has cleared the blacklist and was cut off then.
    impatient.admin("change_blacklist", "REMOVE", f"{impatient.address[1]}:9100")
    assert node(impatient, 1, "tserver", "forgotten")["changed"]
    assert not node(impatient, 1, "tserver", "forgotten")["changed"]
    found = run_module("yugabyte_cluster", impatient.login())["cluster"]
    assert impatient.address[1] not in {one["host"] for one in found["tservers"]} and found["blacklist"] == []


def test_a_node_of_which_both_servers_ail_can_be_restarted_and_no_other(impatient):
    """The master goes first, while the tablet server is as dead as before."""
    impatient.stop("tserver", 2)
    see(lambda: not alive(impatient, 2), "it counts as dead")
    node(impatient, 2, "master", "drained")
    impatient.stop("master", 2)
    impatient.serve("master", 2)
    node(impatient, 2, "master", "serving")
    with pytest.raises(ModuleFailed, match=f"the yb-tserver on {impatient.address[2]} is dead"):
        node(impatient, 1, "master", "drained", timeout=2)


def test_masters_are_not_kept_waiting_by_tablet_servers_that_are_down(impatient):
    impatient.stop("tserver", 1)
    impatient.stop("tserver", 2)
    see(lambda: lost(impatient, 1, 2), "tablets have no leader")
    with pytest.raises(ModuleFailed, match="tablets have no leader"):
        run_module("yugabyte_cluster", everything(impatient, timeout=1))
    assert not run_module("yugabyte_cluster", impatient.login(timeout=1))["changed"]


def test_a_balancer_that_is_switched_off_is_named_at_once(whole):
    see(lambda: next(one for one in seen(whole)["tservers"] if one["host"] == whole.address[1])["leaders"], "it leads")
    whole.admin("set_load_balancer_enabled", "0")
    said = f"switched off, .* {whole.address[1]}. .* set_load_balancer_enabled 1"
    try:
        for state in ("drained", "absent"):
            with pytest.raises(ModuleFailed, match=said):
                node(whole, 1, "tserver", state, timeout=600)
        assert f"{whole.address[1]}:9100" not in seen(whole)["leader_blacklist"] + seen(whole)["blacklist"]
    finally:
        whole.admin("set_load_balancer_enabled", "1")
    node(whole, 1, "tserver", "drained")
    node(whole, 1, "tserver", "serving")


def test_a_tserver_that_cannot_be_emptied_is_an_error(whole):
    with pytest.raises(ModuleFailed, match=r"could not be emptied after 2 s: \d+ tablets are still on"):
        node(whole, 1, "tserver", "absent", timeout=2)
    whole.admin("change_blacklist", "REMOVE", f"{whole.address[1]}:9100")
