"""plan.yml, verify.yml and diagnose.yml where some hosts cannot be reached, or the run is about some hosts only."""

import json

import pytest
from support.playbooks import HOST, PROD, ROOT, role_play, run_playbook

AWAY = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
NODES = ["db2", "db1", "db3"]  # in this order, which is not that of their names


@pytest.fixture
def ysql(postgres, postgres_database):
    """The name of a database that says that it is YugabyteDB's."""
    postgres.query(
        "CREATE SCHEMA stand_in; CREATE FUNCTION stand_in.version() RETURNS text LANGUAGE sql "
        "AS $$SELECT 'PostgreSQL 15.2-YB-2025.1.0.0-b1 on x'$$", database=postgres_database)
    postgres.query(f"ALTER DATABASE {postgres_database} SET search_path = stand_in, pg_catalog, public")
    return postgres_database


@pytest.fixture
def play(tmp_path, postgres, ysql):
    """A function that runs a playbook on a cluster, a node that has left it, a Keeper and the application's host.

    `hosts` are variables of some.
    """
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/init.sql").write_text("CREATE TABLE a (n int);")
    variables = {
        "yugabyte_db_nodes": NODES, **PROD, "ansible_become": False,
        "schema_load_sets": [
            {"name": "s", "engine": "yugabytedb", "database": ysql, "path": str(tmp_path / "scripts")}],
        **{f"{role}_{name}": value for role in ("schema_load_postgresql", "postgres_user")
           for name, value in {**postgres.login(), "ssl_mode": "disable"}.items()},
    }

    def run(playbook, *options, **hosts):
        groups = {"yugabyte": [*NODES, "db4"], "clickhouse_keeper": ["keeper1"], "application": ["app1"],
                  "postgres": [], "clickhouse": []}
        inventory = tmp_path / "inventory.json"
        inventory.write_text(json.dumps({"all": {"vars": variables, "children": {group: {
            "hosts": {name: {**HOST, **hosts.get(name, {})} for name in names}} for group, names in groups.items()
        }}}))
        return run_playbook(tmp_path, ROOT / f"playbooks/{playbook}.yml", None, "-i", str(inventory),
                            "-l", "all:!test", *options)

    run.load = lambda: run_playbook(tmp_path, role_play("schema_load"), variables).ok()
    return run


def rows(run):
    """The words of the run's lines."""
    return [line.strip(" -'").split() for line in run.output.splitlines()]


def words(run):
    """What the run says, wherever lines are broken."""
    return " ".join(run.output.split())


def test_the_first_node_that_answers_is_asked_for_the_plan(play):
    run = play("plan", db2=AWAY)
    assert ["db1", "s", "init.sql", "baseline", "new", "1"] in rows(run) and ["db2", "unreachable"] in rows(run)
    assert "db2: ssh: connect to host 127.0.0.1 port 1: Connection refused" in words(run)
    # It ends as with a server that could not be asked, in the table's words.
    assert run.code == 2 and run.count("failed") == 1 and run.count("changed") == 0
    assert "unreachable: see the table" in run.output and "unasked: see" not in run.output


@pytest.mark.parametrize("options, hosts, asked", [
    (("-l", "db3"), {}, "db3"), ((), {}, "db2"),
    (("--check",), {"db2": {"schema_load_postgresql_login_port": 1}}, "db1"),
])
def test_one_node_speaks_for_its_cluster(play, options, hosts, asked):
    run = play("plan", *options, **hosts).ok()
    assert [row[0] for row in rows(run) if row[1:2] == ["s"]] == [asked] and run.count("changed") == 0


@pytest.mark.parametrize("limit", ["app1", "keeper1", "db4"])
def test_a_plan_of_hosts_without_a_database_fails(play, limit):
    run = play("plan", "-l", limit)
    assert run.code == 2 and f"Nothing was asked: there is no host of a database among {limit}." in words(run)
    assert "Name an environment with -l" in words(run) and "HOST" not in run.output


def test_schemas_are_compared_without_the_hosts_that_cannot_be_reached(play, postgres, ysql):
    play.load()
    run = play("verify", app1=AWAY, db2=AWAY)
    assert run.code == 2 and run.count("failed") == 2 and run.count("changed") == 0
    for host in ("app1", "db2"):
        assert f"{host} cannot be reached, and was not looked at: ssh: connect to host" in words(run)
    assert "No schema was compared" not in run.output
    postgres.query("ALTER TABLE a ADD COLUMN by_hand int", database=ysql)
    run = play("verify", app1=AWAY, db2=AWAY)
    assert run.code == 2 and "failed: [db1] (item=s)" in run.output
    assert "a.by_hand" in run.output and "No schema was compared" not in run.output


@pytest.mark.parametrize("options", [(), ("--tags", "validate")])
def test_schemas_are_compared_where_the_application_cannot_log_in(play, postgres, ysql, tmp_path, options):
    """The application has one host, and its failure is no reason not to tell of the drift."""
    play.load()
    postgres.query("ALTER TABLE a ADD COLUMN by_hand int", database=ysql)
    run = play("verify", *options, app1={"verify_settings_path": str(tmp_path / "none.env")})
    assert run.code == 2 and run.count("failed") == (1 if options else 2) and run.count("changed") == 0
    assert "On app1 the application does not find what it needs" in words(run) and "none.env" in run.output
    assert ("a.by_hand" in run.output) == (not options)


def test_schemas_are_compared_through_the_node_that_was_named(play):
    play.load()
    run = play("verify", "-l", "db3", "--check").ok()
    assert run.count("changed") == 0 and "ok: [db3] => (item=s)" in run.output


def test_no_schema_compared_is_no_success(play):
    run = play("verify", "-l", "keeper1")
    assert run.code == 2 and "No schema was compared: no host of a database could be asked among keeper1." in words(run)


def test_a_host_on_which_no_module_runs_is_one_that_cannot_be_reached(play, tmp_path):
    """A full disk is enough for that."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho Traceback >&2; echo 'OSError: No space left on device' >&2; exit 1\n")
    broken.chmod(0o755)
    run = play("diagnose", db2={"ansible_python_interpreter": str(broken)}).ok()
    assert "PROBLEM host cannot be reached: no module runs there: OSError: No space left on device" in words(run)
    assert run.count("failed") == 0 and run.output.count("problems: ") == 5
    run = play("plan", db2={"ansible_python_interpreter": str(broken)})
    assert run.code == 2 and ["db2", "unreachable"] in rows(run)
    assert ["db1", "s", "init.sql", "baseline", "new", "1"] in rows(run)


def test_no_set_for_an_engine_is_no_schema_compared(play):
    sets = {name: {"schema_load_sets": []} for name in NODES}
    run = play("verify", "-l", "yugabyte", **sets)
    assert run.code == 2 and "No schema was compared" in words(run) and "schema_load_sets" in words(run)


def test_a_part_of_the_looks_fails_for_who_cannot_be_reached_as_well(play):
    run = play("verify", "--tags", "validate", app1=AWAY)
    assert run.code == 2 and "app1 cannot be reached, and was not looked at" in words(run)


def test_hosts_that_cannot_be_reached_have_a_diagnosis_too(play):
    run = play("diagnose", db2=AWAY, app1=AWAY).ok()
    assert run.count("failed") == run.count("unreachable") == run.count("changed") == 0
    report = "PROBLEM host cannot be reached: ssh: connect to host 127.0.0.1 port 1: Connection refused"
    assert words(run).count(report) == 2 and words(run).count("-> is it up? network, name, key") == 2
    assert run.output.count("problems: ") == 4
    assert [row[0] for row in rows(run) if row[1:3] == ["s", "init.sql"]] == ["db1"]
