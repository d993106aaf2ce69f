"""What the role yugabyte_db decides: which flags it sets, each documented in data/yugabyte_flags.json, and when."""

import json
from pathlib import Path

import pytest
from support.yugabyte_role import VARS, configuration, evaluate, member, named, passes, refused, service, text, trusted

ROOT = Path(__file__).parents[2]
FLAGS = json.loads((ROOT / "tests/unit/data/yugabyte_flags.json").read_text())
SETS = {
    "yb-master": ("common", "master_only", "tls", "broadcast"),
    "yb-tserver": ("common", "tserver_only", "tls", "ycql", "broadcast"),
}


@pytest.mark.parametrize(
    ("program", "flag"),
    [(program, flag) for program, sets in SETS.items() for one in sets for flag in VARS[f"__yugabyte_db_{one}_flags"]],
)
def test_every_flag_that_the_role_sets_is_documented(program, flag):
    assert flag in FLAGS[program], f"{flag} is not in tests/unit/data/yugabyte_flags.json: look it up and add its page"
    assert FLAGS[program][flag]["page"] in FLAGS["pages"]


def test_no_set_of_flags_is_forgotten_here():
    kinds = {name[len("__yugabyte_db_"):-len("_flags")] for name in VARS if name.endswith("_flags")} - {""}
    assert kinds == {one for sets in SETS.values() for one in sets} | {"runtime", "shared"}


def test_only_documented_runtime_flags_are_set_without_a_restart():
    documented = {name for program in SETS for name, flag in FLAGS[program].items() if not flag["restart"]}
    assert set(VARS["__yugabyte_db_runtime_flags"]) == documented


# -- decisions --------------------------------------------------------------------------------------------------------

def test_a_runtime_flag_needs_a_restart_only_where_it_is_taken_out_or_new():
    with_flag = configuration(yugabyte_db_tserver_flags={"logbufsecs": 5})
    assert configuration(yugabyte_db_tserver_flags={"logbufsecs": 6}) == with_flag
    assert configuration()["tserver"] != with_flag["tserver"]
    assert configuration()["master"] == with_flag["master"]
    assert configuration(yugabyte_db_callhome=True) == configuration()


def test_another_undefok_does_not_take_the_place_of_the_roles_own():
    more = {"yugabyte_db_master_flags": {"undefok": "a,b"}, "yugabyte_db_tserver_flags": {"undefok": "c"}}
    assert evaluate("[__yugabyte_db_flags.master.undefok, __yugabyte_db_flags.tserver.undefok]", **more) == [
        "master_join_existing_universe,a,b", "start_redis_proxy,c",
    ]
    assert evaluate("__yugabyte_db_flags.tserver.undefok") == "start_redis_proxy"


def test_a_running_server_is_told_what_differs_and_what_it_knows():
    wanted = {"logbufsecs": 5, "logtostderr": True, "minloglevel": 1}
    right = configuration(yugabyte_db_tserver_flags=wanted)["tserver"]
    flags = {"logbufsecs": "30", "logtostderr": "true", "callhome_enabled": "true"}

    def untold(of):
        services = {"master": service(configuration="of before"), "tserver": service(configuration=of, flags=flags)}
        return evaluate("dict(__yugabyte_db_untold)", {"services": services}, yugabyte_db_tserver_flags=wanted)

    told = [("callhome_enabled", "false"), ("logbufsecs", "5")]
    found = untold(right)
    assert [(one["flag"], one["declared"]) for one in found["tserver"]] == told and found["master"] == []
    assert untold("of before")["tserver"] == []  # it is restarted anyway


@pytest.mark.parametrize(("flag", "value", "more", "stale"), [
    ("ysql_enable_auth", "true", {}, []),
    ("ysql_enable_auth", "true", {"yugabyte_db_tserver_flags": {"ysql_enable_auth": 1}}, []),  # as gflags reads it
    ("ysql_enable_auth", "false", {}, ["tserver"]),
    ("ysql_enable_auth", "false", {"yugabyte_db_tserver_flags": {"ysql_enable_auth": False}}, []),
    ("allow_insecure_connections", "true", {}, []),  # which is the vendor's own value, and without TLS not the role's
    ("allow_insecure_connections", "true", {"yugabyte_db_tls": True}, ["tserver"]),
    ("logbufsecs", "30", {"yugabyte_db_tserver_flags": {"logbufsecs": 5}}, []),  # it is told
])
def test_a_server_that_was_started_with_its_doors_open_is_restarted(flag, value, more, stale):
    right = configuration(**more)

    def services(**flags):
        return {"services": {
            "master": service(configuration=right["master"]),
            "tserver": service(configuration=right["tserver"], flags=flags),
        }}

    assert evaluate("__yugabyte_db_stale", services(), **more) == []
    assert evaluate("__yugabyte_db_stale", services(**{flag: value}), **more) == stale


@pytest.mark.parametrize(("data", "joins"), [
    ({"master": "absent", "tserver": "absent"}, "false"),
    ({"master": "unformed", "tserver": "absent"}, "false"),
    ({"master": "formed", "tserver": "absent"}, "true"),
    ({"master": "absent", "tserver": "present"}, "true"),  # a node without a master
])
def test_masters_may_found_a_cluster_only_while_there_is_none(data, joins):
    flag = "__yugabyte_db_flags.master.master_join_existing_universe"
    assert evaluate(flag, {"data": data}) == joins
    # It is set on a cluster that runs, so it asks for no restart.
    assert configuration(found={"data": data}) == configuration()


def test_each_zone_is_in_its_own_cloud_and_region():
    west = {"yugabyte_db_region": "west", "yugabyte_db_zone": "b"}
    hosts = {"db1": {}, "db2": west, "db3": {"yugabyte_db_cloud": "c"}}
    assert evaluate("__yugabyte_db_zones", hostvars=hosts, yugabyte_db_region="of the host that evaluates") == [
        "c.datacenter1.rack1", "cloud1.datacenter1.rack1", "cloud1.west.b",
    ]


@pytest.mark.parametrize(
    ("quorum", "old", "new"),
    [
        (["db1", "db2", "db3"], "db3", ["db1", "db2", "db4"]),
        (["db1", "db2"], "db3", ["db1", "db2", "db4"]),  # the dead one has gone, the new one has not come
        (["db1", "db2", "db4"], "db3", ["db1", "db2", "db4"]),
        (["db1", "db2", "db3", "db4"], "db3", ["db1", "db2", "db4"]),  # a living one goes last
    ],
    ids=["at first", "between the two", "at the end", "between the two, alive"],
)
def test_an_exchange_goes_on_wherever_it_was_interrupted(quorum, old, new):
    task = named("replace", "Work out who is a master from now on")
    expression = task["ansible.builtin.set_fact"]["yugabyte_db_masters"].strip()[3:-3]
    assert evaluate(
        expression, {"cluster": {"masters": [member(host, "FOLLOWER") for host in quorum]}},
        yugabyte_db_nodes=["db1", "db2", "db3", "db4"], yugabyte_db_leaving=[old], yugabyte_db_new="db4",
        **trusted(task["vars"]),
    ) == new


@pytest.mark.parametrize(("quorum", "master", "starts"), [
    (["db1", "db2", "db3"], "formed", True),
    (["db1", "db2", "db3"], "absent", False),
    (["db2", "db3", "db4"], "absent", True),  # not this one's any more
    (None, "formed", True),
    (None, "absent", False),  # all are down, and this one would found another cluster
])
def test_a_master_of_a_cluster_is_not_started_without_its_data(quorum, master, starts):
    found = {
        "cluster": quorum and {"masters": [member(host, "FOLLOWER") for host in quorum]},
        "data": {"master": master, "tserver": "present"},
    }
    assert ("nothing of a master" not in refused("node", found, yugabyte_db_address="db1")) is starts


@pytest.mark.parametrize(("flags", "more", "goes"), [
    ({}, {}, True),
    ({"fs_data_dirs": "/var/lib/yugabyte", "use_node_to_node_encryption": "true"}, {"yugabyte_db_tls": True}, True),
    ({"fs_data_dirs": "/var/lib/yugabyte", "use_node_to_node_encryption": "true"}, {}, False),
    ({"fs_data_dirs": "/var/lib/yugabyte", "use_node_to_node_encryption": "true"},
     {"yugabyte_db_restart_at_once": True}, True),
    ({"fs_data_dirs": "/data"}, {}, False),
])
def test_tls_is_not_switched_one_server_at_a_time_and_data_stays_where_it_is(flags, more, goes):
    tls = {"yugabyte_db_pki_dir": "/nowhere", "yugabyte_db_ca_passphrase": "a passphrase"}
    assert (not refused("node", {"flags": {"tserver": flags}}, **tls, **more)) is goes


def test_an_address_is_no_ipv6_literal():
    """Whose colons would be taken for those before the port, in flags and in yb-admin's words."""
    good = {
        "yugabyte_db_build": "b60", "yugabyte_db_superuser_password": "sixteen letters!",
        "hostvars": {name: {} for name in ("db1", "db2", "db3")}, "ansible_play_hosts": ["db1", "db2", "db3"],
    }
    assert not refused("cluster", **good)
    good["hostvars"]["db2"] = {"yugabyte_db_address": "2001:db8::2"}
    assert "2001:db8::2 has to be a name or an IPv4 address" in refused("cluster", **good)


def test_a_master_that_is_no_node_does_not_keep_the_probe_from_saying_so():
    assert evaluate("__yugabyte_db_master_hosts", yugabyte_db_masters=["db2", "elsewhere", "db1"]) == ["db1", "db2"]


@pytest.mark.parametrize(("record", "back"), [
    (None, False),
    ({"from": "2025.2.7.0", "to": "2025.2.8.0"}, True),
    ({"from": "2025.2.6.0", "to": "2025.2.8.0"}, False),  # no longer installed
    ({"from": "2025.2.7.0", "to": "2025.2.8.0", "final": True}, False),
])
def test_there_is_no_way_back_once_finalizing_has_begun(record, back):
    task = named("rollback_check", "There is something to go back to")
    assert passes(task, {"upgrade": record, "releases": {"yugabyte-2025.2.7.0": True}}) is back


@pytest.mark.parametrize(("mark", "data", "starts"), [
    (None, "present", True), (None, "absent", True), ("a checksum", "absent", True), ("a checksum", "present", False),
])
def test_a_node_that_was_taken_out_is_not_started_with_its_data(mark, data, starts):
    found = {"files": {"/etc/yugabyte/taken-out": mark}, "data": {"master": "absent", "tserver": data}}
    assert ("was taken out of its cluster" not in refused("node", found)) is starts


def test_nodes_that_are_missing_are_restarted_first():
    tservers = [{"host": host, "alive": host != "db2"} for host in ("db1", "db2", "db3")]
    masters = [member("db1", "LEADER"), member("db2", "UNREACHABLE"), member("db3", "FOLLOWER")]
    probed = {"cluster": {"masters": masters, "tservers": tservers}, "upgrade": None}
    both = {"__yugabyte_db_pending": ["master", "tserver"]}
    waiting = [{"inventory_hostname": host, **both} for host in ("db1", "db2", "db3")]
    assert evaluate("__yugabyte_db_turns", probed, __yugabyte_db_waiting=waiting) == [
        ["master", "db2"], ["tserver", "db2"], ["master", "db3"], ["master", "db1"], ["tserver", "db1"],
        ["tserver", "db3"],
    ]


def test_a_host_that_could_not_be_probed_counts_as_little_as_one_that_was_not():
    hosts = {"db1": {"__yugabyte_db_probe": {"node": "found"}}, "db2": {"__yugabyte_db_probe": {"unreachable": True}}}
    all_ = {"hostvars": {**hosts, "db3": {}}, "ansible_play_hosts_all": ["db1", "db2", "db3"]}
    assert evaluate("__yugabyte_db_all_found", **all_) == ["found"]


def test_missing_nodes_are_those_that_the_cluster_does_without():
    living = [{"host": host, "alive": host != "db3"} for host in ("db1", "db2", "db3")]
    masters = [member("db1", "LEADER"), member("db2", "UNREACHABLE"), member("db3", "FOLLOWER")]
    assert evaluate("__yugabyte_db_missing", {"cluster": {"masters": masters, "tservers": living}}) == ["db3", "db2"]
    assert evaluate("__yugabyte_db_missing") == []


@pytest.mark.parametrize(("waited", "found"), [
    ({"rc": 0, "stdout_lines": ["try: 1, refid: 1, correction: 0.01"]}, True),
    ({"rc": 1, "stdout_lines": ["try: 120, refid: 0, correction: 0.00"]}, False),
    ({"rc": 127, "stdout_lines": []}, False),
])
def test_a_clock_that_was_not_set_right_is_refused(waited, found):
    task = named("install_chrony", "It has found the time")
    assert passes(task, __yugabyte_db_waited=waited) is found
    said = text(task["ansible.builtin.assert"]["fail_msg"], __yugabyte_db_waited=waited)
    assert "chrony on db1 has not found the time" in said and "UDP port 123" in said
    assert (waited["stdout_lines"] or ["chronyc waitsync said nothing"])[0] in said


@pytest.mark.parametrize(("server", "state", "written", "looks"), [
    ("master", "active", True, False),
    ("master", "inactive", False, True),
    ("tserver", "failed", False, True),
    ("master", "activating", True, True),  # what kept it from starting was mended by this run
    ("tserver", "activating", False, False),
])
def test_a_server_is_looked_at_again_once_it_was_started(server, state, written, looks):
    found = {"services": {"master": service(enabled=True), "tserver": service(enabled=True)}}
    found["services"][server]["state"] = state
    awaited = named("start", "Note what is waited for")["ansible.builtin.set_fact"]["__yugabyte_db_awaited"]
    noted = text(awaited, found, __yugabyte_db_written={"changed": written})
    look = named("validate", "Look at the result")
    assert evaluate(
        look["when"], found, __yugabyte_db_all=[{"__yugabyte_db_awaited": noted}, {"__yugabyte_db_pending": []}],
    ) is looks


@pytest.mark.parametrize(("file", "name"), [
    ("start", "Start the master"), ("start", "Start the tablet server"),
    ("exchange_master", "Start the new master"), ("replace", "Start the new tablet server"),
])
def test_a_check_starts_nothing_that_was_not_installed(file, name):
    """Which would fail: systemd does not know it."""
    conditions = named(file, name)["when"]
    bare = {"master": service(state="inactive", pid=0, present=False), "tserver": service(
        state="inactive", pid=0, present=False)}
    passed = {check: all(evaluate(
        one, {"services": bare}, ansible_check_mode=check, yugabyte_db_new="db1", __yugabyte_db_join=True,
        __yugabyte_db_to_start=["master", "tserver"],
    ) for one in conditions) for check in (False, True)}
    assert passed == {False: True, True: False}
