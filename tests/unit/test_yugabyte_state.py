"""module_utils/yugabyte.py without a cluster: what is healthy, what the pages' corner cases mean, how waiting ends."""

import json

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import yugabyte
from ansible_collections.frameworks.database.plugins.module_utils.yugabyte import (
    Admin,
    AdminFailed,
    Cluster,
    NoLeader,
    TimedOut,
    YugabyteError,
)


def master(host, role="FOLLOWER"):
    return {"host": host, "uuid": f"m-{host}", "role": role, "zone": "c.r.z"}


def tserver(host, **more):
    return {
        "host": host, "uuid": f"t-{host}", "alive": True, "silent": 0.2, "uptime": 60, "leaders": 4, "tablets": 12,
        "zone": "c.r.z", **more,
    }


def cluster(masters=None, tservers=None, under_replicated=0, leaderless=0, config=None):
    masters = masters or [master("a", "LEADER"), master("b"), master("c")]
    tservers = tservers or [tserver("a"), tserver("b"), tserver("c")]
    return Cluster(masters, tservers, under_replicated, leaderless, config or {})


ALL = ["a", "b", "c"]


def test_a_healthy_cluster_has_no_problems():
    assert cluster().problems(ALL, ALL) == []


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"masters": [master("a", "LEADER"), master("b")]}, "no yb-master on c is part of the quorum"),
        ({"masters": [master("a", "LEADER"), master("b"), master("c", "UNREACHABLE")]}, "on c does not answer"),
        ({"tservers": [tserver("a"), tserver("b")]}, "no yb-tserver on c has registered"),
        ({"tservers": [tserver("a"), tserver("b"), tserver("c", alive=False, silent=75)]}, "heartbeat was 75 s ago"),
        ({"under_replicated": 3}, "3 tablets are under-replicated"),
        ({"leaderless": 1}, "1 tablets have no leader"),
    ],
)
def test_each_problem_is_told(state, says):
    found = cluster(**state).problems(ALL, ALL)
    assert len(found) == 1 and says in found[0]


def test_a_server_that_may_be_down_is_no_problem_and_its_tablets_neither():
    dead = cluster(tservers=[tserver("a"), tserver("b"), tserver("c", alive=False)], under_replicated=12)
    assert dead.problems(ALL, ALL, {("tserver", "c")}) == []
    assert len(dead.problems(ALL, ALL, {("tserver", "b")})) == 2
    assert len(dead.problems(ALL, ALL, {("master", "c")})) == 2


def test_the_tablets_of_a_living_server_must_be_whole_before_it_goes():
    assert cluster(under_replicated=1).problems(ALL, ALL, {("tserver", "c")}) == ["1 tablets are under-replicated"]


def test_an_empty_dead_server_that_nobody_asks_for_is_no_problem():
    gone = [tserver("a"), tserver("b"), tserver("c"), tserver("old", alive=False, tablets=0)]
    assert cluster(tservers=gone).problems(ALL, ALL) == []


def test_the_latest_of_two_servers_at_an_address_counts():
    twice = cluster(tservers=[tserver("a", uuid="before", alive=False, silent=500), tserver("a", uuid="now")])
    assert twice.tserver("a")["uuid"] == "now"


def test_placement_and_blacklists_are_read():
    found = cluster(config={
        "replication_info": {"live_replicas": {"num_replicas": 3, "placement_blocks": [
            {"cloud_info": {"placement_cloud": "c", "placement_region": "r", "placement_zone": zone}} for zone in "zy"
        ]}},
        "server_blacklist": {"hosts": [{"host": "a", "port": 9100}]}, "leader_blacklist": {},
    })
    assert (found.placement, found.replicas) == (["c.r.y", "c.r.z"], 3)
    assert (found.blacklist, found.leader_blacklist) == (["a:9100"], [])


PAGES = {
    "/api/v1/tablet-servers": {"": {}}, "/api/v1/health-check": {"dead_nodes": [], "under_replicated_tablets": ["1"]},
    "/api/v1/tablet-replication": {"leaderless_tablets": []}, "/api/v1/cluster-config": {"version": 1},
    "/api/v1/tablet-under-replication": {"underreplicated_tablets": [{"tablet_uuid": "1"}, {"tablet_uuid": "2"}]},
    "/api/v1/masters": {"masters": [
        {"role": "LEADER", "instance_id": {"permanent_uuid": "1"},
         "registration": {"private_rpc_addresses": [{"host": "10.0.0.1", "port": 7100}],
                          "broadcast_addresses": [{"host": "a", "port": 7100}]}},
        {"error": {"code": "UNKNOWN_ERROR", "status": {
            "message": "Unable to get registration information for peer ([b:7100]) id (2): connection refused"}}},
        {"error": {"code": "UNKNOWN_ERROR"}},
    ]},
}


@pytest.fixture
def pages(monkeypatch):
    """The masters' pages, to be changed."""
    served = dict(PAGES)

    def get(host, port, path, timeout=5):
        if isinstance(served[path], Exception):
            raise served[path]
        return served[path]

    monkeypatch.setattr(yugabyte, "get", get)
    return served


def test_a_master_that_does_not_answer_is_named_by_its_registration(pages):
    at, known_as = [{"host": "10.0.0.3", "port": 7100}], [{"host": "c", "port": 7100}]
    for broadcast, host in ((known_as, "c"), ([], "10.0.0.3")):
        registration = {"private_rpc_addresses": at, "broadcast_addresses": broadcast}
        last = {"error": {"code": "UNKNOWN_ERROR"}, "registration": registration}
        pages["/api/v1/masters"] = {"masters": [*PAGES["/api/v1/masters"]["masters"][:2], last]}
        assert yugabyte.read(["a"]).master(host)["role"] == "UNREACHABLE"


@pytest.mark.parametrize("said", ["b:7100", "10.0.0.2:7100, b:7100"], ids=["one", "two"])
def test_a_master_that_does_not_answer_keeps_its_address(pages, said):
    masters = json.loads(json.dumps(pages["/api/v1/masters"]).replace("([b:7100])", f"([{said}])"))
    pages["/api/v1/masters"] = masters
    found = yugabyte.read(["a"])
    assert [(one["host"], one["role"]) for one in found.masters] == [
        ("a", "LEADER"), ("b", "UNREACHABLE"), ("", "UNREACHABLE"),
    ]
    assert found.under_replicated == 2  # of the two pages together


@pytest.mark.parametrize("page", ["health-check", "tablet-replication", "tablet-under-replication", "cluster-config"])
def test_a_page_that_could_not_be_worked_out_is_not_health(pages, page):
    pages[f"/api/v1/{page}"] = {"error": "Illegal state: catalog manager is not initialised"}
    with pytest.raises(NoLeader, match=f"could not tell {page}: Illegal state"):
        yugabyte.read(["a"])


def test_every_master_is_asked_and_quoted(pages):
    pages["/api/v1/masters"] = YugabyteError("http://x:7000/api/v1/masters: refused")
    with pytest.raises(NoLeader, match="refused; http"):
        yugabyte.read(["a", "b"])


def test_masters_without_a_leader(pages):
    pages["/api/v1/masters"] = {"masters": [{"role": "FOLLOWER"}]}
    with pytest.raises(NoLeader, match=r"the yb-master on a knows no leader \(\? FOLLOWER\)"):
        yugabyte.read(["a"])


def admin(*answers):
    """An Admin that gets these (status, out, err) one after the other, and the commands it ran."""
    ran, left = [], list(answers)

    def run(words):
        ran.append(words)
        return left.pop(0)

    return Admin(run, {"bin_dir": "/bin", "certs_dir": "/certs", "masters": ["a", "b"]}), ran


def test_yb_admin_is_given_masters_and_certificates():
    tool, ran = admin((0, "ok", ""))
    assert tool("list_all_masters") == "ok"
    assert ran == [["/bin/yb-admin", "--certs_dir_name", "/certs", "--master_addresses", "a:7100,b:7100",
                    "--timeout_ms", "60000", "list_all_masters"]]


@pytest.mark.parametrize(("said", "percent"), [
    ("Percent complete = 66.6", 66.6), ("Percent complete = 100 : 0 remaining out of 12", 100),
])
def test_percentages_in_both_forms(said, percent):
    assert admin((0, said, ""))[0].percent("get_load_move_completion") == percent


def test_an_answer_without_a_percentage_is_an_error():
    with pytest.raises(AdminFailed, match="without a percentage"):
        admin((0, "what?", ""))[0].percent("get_load_move_completion")


UNSAFE = "Error running are_nodes_safe_to_take_down: Illegal state: 1 tablet(s) would be under-replicated"


@pytest.mark.parametrize(
    ("answers", "unsafe"),
    [
        ([(0, "", "")], None),
        ([(1, "", UNSAFE)], UNSAFE),
        ([(1, "", "Usage: yb-admin are_nodes_safe_to_take_down …"), (0, "", "")], None),
        ([(1, "", "Usage: yb-admin are_nodes_safe_to_take_down …"), (1, "", UNSAFE)], UNSAFE),
        ([(1, "", "Invalid operation: are_nodes_safe_to_take_down")], None),
    ],
    ids=["safe", "unsafe", "older form, safe", "older form, unsafe", "no such command"],
)
def test_the_safety_check_in_all_its_forms(answers, unsafe):
    tool, ran = admin(*answers)
    assert tool.unsafe_to_stop("master", "m1") == unsafe
    assert len(ran) == len(answers)


@pytest.mark.parametrize("answer", [
    (1, "", "Invalid operation: get_load_balancer_state"), (0, "u1 \ta:7100 \tLEADER \tENABLED\n", ""),
    (0, "u1 \ta:7100 \tLEADER \tENABLED\nu2 \tb:7100 \tFOLLOWER \tDISABLED\n", ""),
])
def test_a_balancer_that_is_on_or_cannot_be_asked_is_no_hindrance(answer):
    admin(answer)[0].require_balancer("a")


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds


def test_waiting_ends_with_the_last_reason():
    clock = Clock()
    with pytest.raises(TimedOut, match=r"^this; that$"):
        yugabyte.wait(lambda: ["this", "that"], 5, clock=clock, sleep=clock.sleep)
    assert clock.time == 5


def test_health_has_to_last_without_a_break():
    clock = Clock()
    states = iter([[], [], ["bad"], [], [], [], []])
    assert yugabyte.wait(lambda: next(states), 60, steady=3, clock=clock, sleep=clock.sleep) == 7


def test_an_error_while_waiting_is_a_reason_to_wait():
    clock = Clock()
    answers = iter([NoLeader("No leader."), None])

    def condition():
        answer = next(answers)
        if answer:
            raise answer
        return []

    assert yugabyte.wait(condition, 5, clock=clock, sleep=clock.sleep) == 2
