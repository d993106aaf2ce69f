"""playbooks/backup.yml and restore.yml against real servers, as an operator runs them."""

import json
import re
import socketserver
import threading

import pytest
from support.clickhouse import ClickHouseServer
from support.playbooks import HOST, ROOT, run_playbook
from support.postgres import PostgresServer

PLAYBOOKS = ROOT / "playbooks"


@pytest.fixture(scope="module")
def servers():
    """(PostgresServer, ClickHouseServer), each with a database `frameworks` that has ten rows."""
    postgres, clickhouse = PostgresServer(), ClickHouseServer()
    try:
        postgres.start()
        clickhouse.start()
        postgres.query("CREATE DATABASE frameworks")
        postgres.query("CREATE TABLE t AS SELECT generate_series(1, 10) AS n", database="frameworks")
        clickhouse.query("CREATE DATABASE frameworks")
        clickhouse.query("CREATE TABLE frameworks.t (n Int8) ENGINE = MergeTree ORDER BY n")
        clickhouse.query("INSERT INTO frameworks.t SELECT number FROM numbers(10)")
        yield postgres, clickhouse
    finally:
        clickhouse.close()
        postgres.close()


@pytest.fixture
def play(servers, tmp_path):
    """A function that runs a playbook on an inventory in which one host is everything."""
    postgres, clickhouse = servers
    login = {
        "login_host": postgres.host, "login_port": postgres.port, "login_password": postgres.password,
        "ssl_mode": "disable",
    }
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"all": {"children": {
        group: {"hosts": {"test": {**HOST, "ansible_become": False}}} for group in ("postgres", "clickhouse")
    }, "vars": {
        **{f"postgres_user_{name}": value for name, value in login.items()},
        "clickhouse_db_login_host": clickhouse.host, "clickhouse_db_http_port": clickhouse.http_port,
        "clickhouse_db_admin_password": clickhouse.login()["login_password"],
        "backup_postgres_dir": str(tmp_path / "postgresql"), "backup_reserve_mb": 1, "ansible_become": False,
        "backup_clickhouse_dir": str(clickhouse.directory / "backups" / tmp_path.name),
    }}}))

    def run(name, *options):
        return run_playbook(tmp_path, PLAYBOOKS / f"{name}.yml", None, "-i", str(inventory), *options)

    run.folder = tmp_path
    return run


def rows(servers, database="frameworks"):
    postgres, clickhouse = servers
    [(mine,)] = postgres.query("SELECT count(*) FROM t", database=database)
    return mine, int(clickhouse.query(f"SELECT count() FROM {database}.t"))


def test_backed_up_proved_lost_and_restored(servers, play):
    postgres, clickhouse = servers
    # Who adds a database to an inventory's list does not think of backups.
    declared = [{"name": "shop"}, {"name": "gone", "state": "absent"}]
    for server in servers:
        server.query("CREATE DATABASE shop")
    run = play("backup", "-e", json.dumps({
        "backup_prove": True, "postgres_user_databases": declared, "clickhouse_db_databases": declared,
    }), "-vvv").ok()
    proved = [len(re.findall(rf"- '?{name}: .*? come back from", run.output)) for name in ("frameworks", "shop")]
    assert proved[0] == proved[1] >= 2, run.output
    assert postgres.password not in run.output and clickhouse.login()["login_password"] not in run.output

    postgres.query("DELETE FROM t WHERE n > 3", database="frameworks")
    clickhouse.query("TRUNCATE TABLE frameworks.t")
    assert rows(servers) == (3, 0)
    assert play("restore", "--check").ok().output.count("would be restored as frameworks_restored") >= 2
    play("restore").ok()
    assert rows(servers, "frameworks_restored") == (10, 10) and rows(servers) == (3, 0)

    replace = ("-e", "backup_restore_replace=true", "-e", "backup_restore_suffix=_2")
    refused = play("restore", *replace)
    assert refused.code != 0 and "-e backup_restore_confirm=dev" in " ".join(refused.output.split())
    assert rows(servers) == (3, 0)
    play("restore", *replace, "-e", "backup_restore_confirm=dev").ok()
    assert rows(servers) == (10, 10)


def test_retention_and_one_engine_alone(play):
    for _number in range(2):
        play("backup", "-e", "backup_clickhouse=false").ok()
    kept = play("backup", "-e", "backup_clickhouse=false", "-e", "backup_keep=1", "-e", "backup_keep_days=0").ok()
    assert kept.count("changed") == 2
    folders = [path for path in (play.folder / "postgresql").iterdir() if path.is_dir()]
    assert len(folders) == 1
    assert play("backup", "-e", "backup_clickhouse=false").ok().count("changed") == 1


def test_check_mode_writes_nothing(play):
    run = play("backup", "--check", "-e", "backup_prove=true", "-e", "backup_clickhouse=false")
    assert run.code == 0, run.output
    assert not (play.folder / "postgresql").exists()


@pytest.mark.parametrize("playbook", ["backup", "restore"])
def test_an_environment_has_to_be_named(tmp_path, playbook):
    inventories = [word for name in ("dev", "staging") for word in ("-i", str(ROOT / "inventories" / name))]
    run = run_playbook(tmp_path, PLAYBOOKS / f"{playbook}.yml", None, *inventories)
    assert run.code != 0 and "this would be about dev, staging" in " ".join(run.output.split())


NODES = [f"node{number}" for number in (2, 3, 1, 5, 4)]


def play_on_nodes(tmp_path, playbook, *options, **hosts):
    """Run a playbook on the nodes of a cluster, none of which serves; `hosts` are more variables of some."""
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"all": {"children": {"yugabyte": {
        "hosts": {node: {**HOST, "backup_postgres_dir": str(tmp_path / node), **hosts.get(node, {})} for node in NODES},
        "vars": {
            "yugabyte_db_nodes": NODES, "ansible_become": False, "postgres_user_login_host": "127.0.0.1",
            "postgres_user_login_port": 1,
            "database_environment": "qa", "database_secrets": [], "database_secrets_file": "/nowhere",
        },
    }}}}))
    return run_playbook(tmp_path, PLAYBOOKS / f"{playbook}.yml", None, "-i", str(inventory), *options)


@pytest.mark.parametrize("gone, chosen", [("", "node2"), ("node2", "node3")])
def test_one_node_of_a_cluster_makes_the_backup_the_first_that_can_be_reached(tmp_path, gone, chosen):
    unreachable = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    run = play_on_nodes(tmp_path, "backup", "--check", **{gone: unreachable} if gone else {})
    assert run.count("changed") == 1 and f"changed: [{chosen}]" in run.output, run.output


def test_a_node_that_serves_makes_the_backup_rather_than_one_before_it(tmp_path):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run = play_on_nodes(tmp_path, "backup", node1={"postgres_user_login_port": server.server_address[1]})
        server.shutdown()
    # It is no YugabyteDB, but it was asked.
    assert run.count("failed") == 1 and "fatal: [node1]" in run.output, run.output


def test_a_restore_goes_to_the_node_that_has_the_backup(tmp_path):
    for node, name in (("node3", "20261120T030000Z"), ("node1", "20261122T030000Z"), ("node4", "20261121T030000Z")):
        (tmp_path / node / name).mkdir(parents=True)
        for other in (".partial-20261125T030000Z", "lost+found"):
            (tmp_path / "node5" / other).mkdir(parents=True, exist_ok=True)
    for wanted, chosen in ((), "node1"), (("-e", "backup_restore_from=20261120T030000Z"), "node3"):
        run = play_on_nodes(tmp_path, "restore", *wanted)
        assert run.count("failed") == 1 and f"fatal: [{chosen}]" in run.output, run.output


def test_every_node_of_a_cluster_loses_its_old_backups(tmp_path):
    for node in NODES:
        for day in ("20261120", "20261121"):
            folder = tmp_path / node / f"{day}T030000Z"
            folder.mkdir(parents=True)
            manifest = {"tool": "frameworks.database", "engine": "yugabytedb", "created": f"{day[:4]}-{day[4:6]}-"
                        f"{day[6:]}T03:00:00+00:00", "files": {}, "databases": {}}
            (folder / "manifest.json").write_text(json.dumps(manifest))
    run = play_on_nodes(tmp_path, "backup", "-t", "prune", "-e", "backup_keep=1", "-e", "backup_keep_days=0").ok()
    assert run.count("changed") == 5
    assert {path.name for node in NODES for path in (tmp_path / node).glob("2*")} == {"20261121T030000Z"}


@pytest.mark.parametrize(("group", "named", "environment"), [
    ("own", {}, "dev"), ("prod", {}, "prod"), ("own", {"database_environment": "qa"}, "qa"),
])
def test_nothing_of_another_environment_is_taken_for_dev(tmp_path, group, named, environment):
    """What has to be typed before restore.yml replaces anything."""
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({group: {"hosts": {"test": {**HOST, **named}}}}))
    tasks = [
        {"ansible.builtin.include_vars": str(ROOT / "roles/backup/vars/main.yml")},
        {"ansible.builtin.debug": {"msg": "it is {{ __backup_environment }}"}},
    ]
    run = run_playbook(tmp_path, {"hosts": group, "gather_facts": False, "tasks": tasks}, None, "-i", str(inventory))
    assert f"it is {environment}" in run.ok().output
