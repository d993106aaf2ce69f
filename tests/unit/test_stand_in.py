"""The stand-in for YugabyteDB refuses what the real one refuses: one that lets mistakes pass would hide them."""

import importlib.util
import sys
from pathlib import Path

import pytest

STAND_IN = Path(__file__).parents[2] / "molecule/stand_in"


def load(name, path):
    """A module of the stand-in's, which is no package of the collection."""
    sys.path.insert(0, str(STAND_IN / "release/lib"))
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.pop(0)


cluster_module = load("stand_in_cluster", STAND_IN / "cluster.py")
flags = load("stand_in.flags", STAND_IN / "release/lib/stand_in/flags.py")
ysql = load("stand_in.ysql", STAND_IN / "release/lib/stand_in/ysql.py")
TYPES = {"enable_ysql": "bool", "replication_factor": "int32", "fs_data_dirs": "string", "flagfile": "string",
         "undefok": "string"}


@pytest.mark.parametrize("path", sorted(
    path for path in STAND_IN.rglob("*") if path.is_file() and "__pycache__" not in path.parts
), ids=lambda path: path.name)
def test_every_file_says_what_it_is_and_is_not(path):
    lines = path.read_text().splitlines()
    first = lines[1] if lines[0].startswith("#!") else lines[0]
    assert "tand-in for" in first and "ot " in first


# -- flags ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("words", "parsed"),
    [
        (["--fs_data_dirs=/a,/b", "--enable_ysql"], {"fs_data_dirs": "/a,/b", "enable_ysql": "true"}),
        (["-fs_data_dirs", "/a", "--noenable_ysql"], {"fs_data_dirs": "/a", "enable_ysql": "false"}),
        (["--undefok=start_redis_proxy", "--start_redis_proxy=false"],
         {"undefok": "start_redis_proxy", "start_redis_proxy": "false"}),
    ],
)
def test_flags_in_all_their_forms(words, parsed):
    assert flags.parse(words, TYPES) == (parsed, [])


def test_a_flag_file(tmp_path):
    (tmp_path / "f").write_text("# a comment\n\n--fs_data_dirs=/a b=c\n")
    assert flags.parse([f"--flagfile={tmp_path}/f"], TYPES)[0]["fs_data_dirs"] == "/a b=c"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--fs_data_dir=/a"], "unknown command line flag 'fs_data_dir'"),
        (["--replication_factor=three"], "illegal value 'three' specified for int32"),
        (["--enable_ysql=maybe"], "illegal value 'maybe' specified for bool"),
        (["--flagfile=/nowhere"], "unable to open flagfile"),
    ],
)
def test_wrong_flags_are_fatal(words, says):
    with pytest.raises(flags.Fatal, match=says):
        flags.parse(words, TYPES)


def test_csv_fields():
    assert flags.csv('a=1,"b=\'x,y\'","say ""hi"""') == ["a=1", "b='x,y'", 'say "hi"']
    for wrong in ('a "b"', '"a" b', '"a'):
        with pytest.raises(flags.Fatal, match="Malformed CSV"):
            flags.csv(wrong)


# -- YSQL -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("statement", [
    "CLUSTER t", "MERGE INTO a USING b ON true WHEN MATCHED THEN DO NOTHING", "alter system set x = 1",
    "ALTER TYPE t ADD ATTRIBUTE a int", "DROP INDEX CONCURRENTLY i", "DROP VIEW a, b", "DROP SEQUENCE IF EXISTS a,b",
    "REINDEX TABLE t", "REINDEX DATABASE d", "PREPARE TRANSACTION 'x'", "CREATE TABLE t AS EXECUTE p",
    "CREATE SCHEMA s CREATE TABLE t (a int)", "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON x EXECUTE FUNCTION f()",
    "CREATE DATABASE d TEMPLATE other", "CREATE DATABASE d ENCODING 'LATIN1'", "CREATE DATABASE d LC_COLLATE 'de_DE'",
    "SELECT 1; /* and */ -- then\n CLUSTER", "BEGIN; CREATE TABLE t (a int); ALTER SYSTEM RESET ALL; COMMIT",
])
def test_what_ysql_refuses_is_refused(statement):
    assert ysql.refusal(statement)
    assert ysql.rewrite(statement, None).startswith("DO $stand_in$BEGIN RAISE EXCEPTION")


@pytest.mark.parametrize("statement", [
    "SELECT 'CLUSTER; ALTER SYSTEM'", "SELECT $$CLUSTER$$", "-- CLUSTER\nSELECT 1", "DROP TABLE a, b",
    "REINDEX INDEX i", "CREATE TABLE cluster_x (a int)",
    "CREATE DATABASE d TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C'",
    "CREATE SCHEMA s AUTHORIZATION r", "DROP FUNCTION f(int, int)", 'CREATE TABLE "alter system" (a int)',
    "DROP ROLE a, b", "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $f$BEGIN CLUSTER; END$f$",
])
def test_what_ysql_runs_is_run(statement):
    assert ysql.refusal(statement) is None
    assert ysql.rewrite(statement, None) == statement


@pytest.mark.parametrize(("sent", "run"), [
    ("CREATE DATABASE d WITH COLOCATION = true", "CREATE DATABASE d WITH COLLATION_VERSION = 'colocated'"),
    ("CREATE DATABASE d WITH COLOCATION = false", "CREATE DATABASE d"),
    ("CREATE DATABASE d OWNER o COLOCATION=true", "CREATE DATABASE d OWNER o COLLATION_VERSION = 'colocated'"),
    ("SELECT 'COLOCATION = true'", "SELECT 'COLOCATION = true'"),
])
def test_colocation_is_understood_and_remembered(sent, run):
    assert ysql.rewrite(sent, None).strip() == run


RULES = [
    "local all yugabyte trust", "local all all reject", "hostssl all all samehost scram-sha-256",
    "hostssl app app 10.0.0.0/8 scram-sha-256", "host all all 0.0.0.0/0 reject", "host all all ::0/0 reject",
    "hostssl all all all md5",
]


@pytest.mark.parametrize(
    ("peer", "encrypted", "user", "database", "method"),
    [
        (None, False, "yugabyte", "x", "trust"),
        (None, False, "app", "app", "reject"),
        ("10.1.1.1", True, "app", "app", "scram-sha-256"),
        ("10.1.1.1", True, "app", "other", "reject"),
        ("10.1.1.1", False, "app", "app", "reject"),
        ("192.0.2.1", True, "app", "app", "reject"),
        ("::1", True, "app", "app", "reject"),
        ("10.9.9.9", True, "yugabyte", "x", "scram-sha-256"),
    ],
)
def test_the_first_rule_that_fits_decides(peer, encrypted, user, database, method):
    assert ysql.hba_method(RULES, peer, encrypted, user, database, "10.9.9.9".__eq__) == method


def test_ysql_appends_rules_of_its_own():
    assert ysql.hba_lines({}, False) == ["host all all all trust", "local all yugabyte trust"]
    assert ysql.hba_lines({"ysql_enable_auth": "true"}, True)[0] == "hostssl all all all md5"
    own = {"ysql_hba_conf_csv": "local all yugabyte trust,host all all 0.0.0.0/0 reject", "ysql_enable_auth": "true"}
    assert ysql.hba_lines(own, False) == [
        "local all yugabyte trust", "host all all 0.0.0.0/0 reject", "host all all all md5",
    ]


# -- the masters' state -----------------------------------------------------------------------------------------------

class World:
    """Servers 1, 2, … that heartbeat, and a clock that is moved by hand."""

    def __init__(self, masters=3, tservers=3):
        self.time = 100.0
        self.cluster = cluster_module.Cluster(lambda: self.time)
        self.silent = set()
        self.masters, self.tservers = range(1, masters + 1), list(range(1, tservers + 1))
        self.step(3)

    def server(self, kind, number, version="2025.2.8.0"):
        own = {"masters": [f"h{one}:7100" for one in self.masters], "replication_factor": 3}
        port = {"master": 7100, "tserver": 9100}[kind]
        return {
            "uuid": f"{kind[0]}{number}", "seqno": 1, "host": f"h{number}", "port": port, "http": 7000,
            "version": version, "placement": ["c", "r", f"z{number}"], "flags": {},
            **(own if kind == "master" else {}),
        }

    def step(self, seconds):
        """Let time pass, with a heartbeat of everybody each half second."""
        for _ in range(int(seconds * 2)):
            self.time += 0.5
            for kind, numbers in (("master", self.masters), ("tserver", self.tservers)):
                for number in numbers:
                    if (kind, number) not in self.silent:
                        self.cluster.heartbeat(kind, self.server(kind, number))


def test_masters_form_a_quorum_only_together():
    world = World(masters=0, tservers=0)
    world.masters = range(1, 4)
    world.silent = {("master", 3)}
    world.step(5)
    assert world.cluster.masters() == []
    world.silent = set()
    world.step(2)
    assert sorted(one["role"] for one in world.cluster.masters()) == ["FOLLOWER", "FOLLOWER", "LEADER"]


def test_without_a_majority_there_is_no_leader():
    world = World()
    world.silent = {("master", 1), ("master", 2)}
    world.step(6)
    with pytest.raises(cluster_module.Refused, match="leader"):
        world.cluster.health()


def test_a_node_that_is_down_makes_another_unsafe():
    world = World()
    world.cluster.safe_to_take_down(["t1", "m1"])
    world.silent = {("tserver", 1)}
    world.step(6)
    world.cluster.safe_to_take_down(["t1"])
    with pytest.raises(cluster_module.Refused, match="would be under-replicated"):
        world.cluster.safe_to_take_down(["t2"])
    with pytest.raises(cluster_module.Refused, match="would be under-replicated"):
        world.cluster.safe_to_take_down(["m2", "m3"])


def test_the_pages_notice_a_dead_tserver_after_a_minute():
    world = World()
    world.silent = {("tserver", 1)}
    world.step(50)
    assert world.cluster.health()["dead_nodes"] == []
    world.step(15)
    assert world.cluster.health()["dead_nodes"] == ["t1"] and world.cluster.health()["under_replicated_tablets"]


def test_an_older_release_cannot_come_back_once_the_flags_are_promoted():
    world = World()
    assert world.cluster.promote_auto_flags() and not world.cluster.promote_auto_flags()
    with pytest.raises(cluster_module.Refused, match="AutoFlags of 2025.2.8.0 are in force"):
        world.cluster.heartbeat("master", world.server("master", 1, "2025.2.7.0"))


def test_data_stays_where_no_other_zone_can_take_it():
    world = World()
    world.cluster.modify_placement_info("c.r.z1,c.r.z2,c.r.z3", "3")
    world.cluster.change_blacklist(False, "ADD", "h1:9100")
    world.step(5)
    assert world.cluster.moves_left(False)[0] == 12


def test_a_new_node_gets_its_share():
    world = World()
    world.tservers.append(4)
    world.step(5)
    assert {one["user_total"] + one["system_total"] for one in world.cluster.tablet_servers()} == {9}


def test_a_new_leader_knows_no_replica_before_its_server_has_called():
    world = World()
    world.cluster.step_down()
    assert len(world.cluster.health()["underreplicated"]) == 12
    world.step(1)
    assert world.cluster.health()["underreplicated"] == []


def test_the_pages_notice_a_tablet_without_a_leader_after_two_minutes():
    world = World()
    world.silent = {("tserver", 1), ("tserver", 2)}
    world.step(119)
    assert world.cluster.health()["leaderless"] == []
    world.step(10)
    assert len(world.cluster.health()["leaderless"]) == 12
    # Another leader of the masters begins anew.
    world.cluster.step_down()
    assert world.cluster.health()["leaderless"] == []


def test_a_tserver_is_taken_off_the_list_only_from_the_blacklist():
    world = World()
    world.tservers.append(4)
    world.step(5)
    world.cluster.change_blacklist(False, "ADD", "h1:9100")
    world.step(5)
    with pytest.raises(cluster_module.Refused, match="lives or still has tablets"):
        world.cluster.remove_tablet_server("t1")
    world.silent = {("tserver", 1)}
    world.step(10)
    world.cluster.change_blacklist(False, "REMOVE", "h1:9100")
    with pytest.raises(cluster_module.Refused, match="is not blacklisted"):
        world.cluster.remove_tablet_server("t1")
    world.cluster.change_blacklist(False, "ADD", "h1:9100")
    world.cluster.remove_tablet_server("t1")
    with pytest.raises(cluster_module.Refused, match="Not found"):
        world.cluster.remove_tablet_server("t1")
