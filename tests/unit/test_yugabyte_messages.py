"""What the role yugabyte_db says to an operator: what is wrong here, and what to do about it."""

import pytest
from support.yugabyte_role import configuration, evaluate, member, named, passes, service, tasks, text


def test_a_flag_that_was_switched_by_hand_is_named_and_nothing_is_restarted():
    more = {"yugabyte_db_tserver_flags": {
        "ysql_log_statement": "none", "ysql_max_connections": 300, "ysql_num_shards_per_tserver": -1, "gone": 1,
    }}
    right = configuration(**more)
    flags = {
        "ysql_log_statement": "all", "ysql_max_connections": "300", "ysql_num_shards_per_tserver": "2",
        "ysql_hba_conf_csv": "***", "logbufsecs": "30", "enable_ysql": "true",
    }

    def found(configuration):
        tserver = service(configuration=configuration, flags=flags, own_flags=["ysql_num_shards_per_tserver"])
        # Of a master that is not this host's, nobody asks.
        return {"services": {"master": service(configuration=right["master"], flags={}), "tserver": tserver}}

    assert evaluate("__yugabyte_db_stale", found(right["tserver"]), **more) == []
    message = named("validate", "Say which flags were switched by hand")["ansible.builtin.debug"]["msg"]
    said = text(message, found(right["tserver"]), **more)
    assert "left so: ysql_log_statement of yb-tserver is all, declared is none. To keep it" in said
    assert "rolling_restart.yml -l db1" in said
    # Its restart is due anyway.
    assert evaluate("__yugabyte_db_switched", found("of before"), **more) == []


@pytest.mark.parametrize(("disk", "said"), [
    ({"free_gb": 0.3, "options": ["rw"]}, "other servers know it. /data has 0.3 GB free: make room or enlarge it. "),
    ({"free_gb": 90.0, "options": ["ro"]}, "know it. /data is mounted read-only: look into dmesg, and mount it"),
    ({"free_gb": 90.0, "options": ["rw"]}, "the other servers know it. Look at"),
])
def test_a_node_that_does_not_serve_is_named_with_what_ails_its_disk(disk, said):
    found = {
        "disks": [{"path": "/data", **disk}],
        "ysql": {"runs": False, "superuser": None, "md5_roles": None, "error": None, "opened": True},
    }
    assert said in text(named("validate", "The node serves as declared")["ansible.builtin.assert"]["fail_msg"], found)


@pytest.mark.parametrize(("said", "told"), [
    ("New AutoFlags were promoted\nNew config version: 2", False),
    ("New AutoFlags were promoted\nNew config version: 2\nAll yb-master and yb-tserver processes need to be restarted "
     "in order to apply the promoted AutoFlags", True),
])
def test_that_an_upgrade_ends_with_a_restart_is_said(said, told):
    task = named("finalize", "Say that some of them take a restart")
    assert evaluate(task["when"], __yugabyte_db_promoted={"stdout": said}) is told
    assert "rolling_restart.yml -l prod" in text(task["ansible.builtin.debug"]["msg"], ansible_limit="prod")


def asserted(file, **state):
    """What a file's first assertion has against a state of nodes and cluster; nothing where it holds."""
    nodes = state.pop("nodes", ["db1", "db2", "db3", "db4"])
    node = {
        "cluster": {"masters": [member(f"db{one}", "FOLLOWER") for one in (1, 2, 3)], "tservers": [],
                    "placement": ["cloud1.datacenter1.rack1"]},
        "data": {"master": "formed", "tserver": "present"}, "ysql": {}, "upgrade": None,
        "services": {"tserver": {"release": "yugabyte-2025.2.8.0"}}, **state.pop("node", {}),
    }
    old, new, away = state.get("yugabyte_db_old"), state.get("yugabyte_db_new"), state.pop("away", [])
    reached = [one for one in nodes if one not in (old, *away)]
    variables = {
        "yugabyte_db_nodes": nodes, "yugabyte_db_leaving": [old], "ansible_play_hosts": reached,
        "ansible_play_hosts_all": reached, "__yugabyte_db_old_host": old, "yugabyte_db_new": new,
        "hostvars": {one: {"inventory_hostname": one, "__yugabyte_db_probe": {"node": node}} for one in nodes}, **state,
    }
    task = next(one for one in tasks(file) if "ansible.builtin.assert" in one)
    if passes(task, node, **variables):
        return ""
    return text(task["ansible.builtin.assert"]["fail_msg"], node, **variables)


UPGRADED = {"upgrade": {"from": "2025.2.7.0", "to": "2025.2.8.0"}}


@pytest.mark.parametrize(("file", "state", "says"), [
    ("leave", {"yugabyte_db_old": "db4"}, ""),
    ("leave", {"yugabyte_db_old": "db9"}, "db9 cannot be removed: it is none of yugab"),
    ("leave", {"yugabyte_db_old": "db4", "node": {"cluster": None}}, "knows a leader"),
    ("leave", {"yugabyte_db_old": "db3"}, "it has one of the masters (db1, db2, db3)"),
    ("leave", {"yugabyte_db_old": "db4", "nodes": ["db1", "db2", "db4"]},
     "as many nodes as replicas (3) have to stay, and db1, db2 would."),
    ("leave", {"yugabyte_db_old": "db4", "node": {"cluster": {
        "masters": [member("db1", "LEADER")], "placement": ["cloud1.datacenter1.b"],
    }}}, "kept in cloud1.datacenter1.b, and the nodes that stay are in cloud1.datacenter1.rack1."),
    ("replace", {"yugabyte_db_old": "db3", "yugabyte_db_new": "db4"}, ""),
    ("replace", {"yugabyte_db_old": "db9", "yugabyte_db_new": "db4"}, "db9 is none of yugabyte_db"),
    ("replace", {"yugabyte_db_old": "db3", "yugabyte_db_new": "db5"}, "db5 is not among the nodes"),
    ("replace", {"yugabyte_db_old": "db3", "yugabyte_db_new": "db4", "node": {"cluster": None}},
     "no master knows a leader. Look at yb-master on db1, db2, db4"),
    ("finalize", {}, "No upgrade is waiting"),
    ("finalize", {"node": UPGRADED}, ""),
    ("finalize", {"node": UPGRADED, "away": ["db2"]}, "db2 could not be reached."),
    ("finalize", {"node": UPGRADED, "yugabyte_db_version": "2025.2.7.0"},
     "from 2025.2.7.0 to 2025.2.8.0; the inventory says 2025.2.7.0: correct it."),
    ("finalize", {"node": {**UPGRADED, "services": {
        "master": {"release": "yugabyte-2025.2.8.0"}, "tserver": {"release": "yugabyte-2025.2.7.0"},
    }}}, "Every node has to run 2025.2.8.0; they run 2025.2.7.0 and 2025.2.8.0. Finish playbooks/upgrade.yml first."),
    ("upgrade", {"yugabyte_db_version": "2025.2.9.0", "node": {"services": {
        "master": {"release": "yugabyte-2025.2.8.0"}, "tserver": {"release": "yugabyte-2025.2.7.0"},
    }}}, "run 2025.2.7.0 and 2025.2.8.0, and none remembers an upgrade between them. Put 2025.2.8.0 into the"),
])
def test_what_stands_in_the_way_is_said_and_nothing_else(file, state, says):
    said = asserted(file, **state)
    assert bool(said) is bool(says) and says in said
    assert said.count(". ") <= 2
