"""The role schema_load and the playbook plan.yml, run as an operator runs them."""

import json
import re

import pytest
import yaml
from support.playbooks import ROOT, role_play, run_playbook

PASSWORD = "pass'word \"$%@:ü"


def changed(run):
    """How many sets a run has changed."""
    return len(re.findall(r"^changed: .*\(item=", run.output, re.MULTILINE))


@pytest.fixture
def owner(postgres, postgres_database, unique):
    """A role with PASSWORD that owns the database."""
    postgres.query(f'CREATE ROLE "{unique}" LOGIN PASSWORD %s', (PASSWORD,))
    postgres.query(f'ALTER DATABASE {postgres_database} OWNER TO "{unique}"')
    yield unique
    postgres.query(f"DROP DATABASE {postgres_database} WITH (FORCE)")
    postgres.query(f'DROP ROLE "{unique}"')


@pytest.fixture
def variables(postgres, postgres_database, clickhouse, clickhouse_database, owner):
    """The role's variables for one set in each engine, scripts beside the play."""
    sets = [
        {
            "name": "pg",
            "engine": "postgresql",
            "database": postgres_database,
            "path": "pg",
            "login_user": owner,
            "login_password": PASSWORD,
        },
        {"name": "ch", "engine": "clickhouse", "database": clickhouse_database, "path": "ch"},
    ]
    connection = {
        **{f"schema_load_postgresql_{name}": value for name, value in postgres.login().items()},
        **{f"schema_load_clickhouse_{name}": value for name, value in clickhouse.login().items()},
    }
    return {"schema_load_sets": sets, **connection}


@pytest.fixture
def folder(tmp_path):
    """The play's folder with both sets."""
    for engine, end in (("pg", ""), ("ch", " ENGINE = MergeTree ORDER BY n")):
        (tmp_path / "files" / engine / "seed").mkdir(parents=True)
        (tmp_path / "files" / engine / "init.sql").write_text(
            f"CREATE TABLE a (n int){end};\n-- {{{{ not_jinja }}}} {{% raw %}}\n"
        )
        (tmp_path / "files" / engine / "V2__b.sql").write_text(
            "INSERT INTO a VALUES (2);\nCREATE VIEW b AS SELECT '{{ n }} ${n}' AS t FROM a;"
        )
        (tmp_path / "files" / engine / "seed/demo.sql").write_text("INSERT INTO a VALUES (3);")
    return tmp_path


def test_both_engines(folder, variables, postgres, postgres_database, clickhouse, clickhouse_database, owner):
    play = role_play("schema_load")
    checked = run_playbook(folder, play, variables, "--check", "--diff").ok()
    assert changed(checked) == 2 and "CREATE TABLE a" in checked.output
    assert not postgres.query("SELECT 1 FROM pg_namespace WHERE nspname = 'schema_ledger'", database=postgres_database)
    first = run_playbook(folder, play, variables, "-vvv").ok()
    assert changed(first) == 2
    assert PASSWORD not in first.output and json.dumps(PASSWORD)[1:-1] not in first.output
    assert "s3cret" not in first.output
    assert postgres.query("SELECT t FROM b", database=postgres_database) == [("{{ n }} ${n}",)]
    assert clickhouse.query(f"SELECT t FROM {clickhouse_database}.b") == "{{ n }} ${n}\n"
    assert postgres.query(
        "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'a'", database=postgres_database
    ) == [(owner,)]
    second = run_playbook(folder, play, variables).ok()
    assert changed(second) == 0
    seeded = run_playbook(folder, play, {**variables, "schema_load_demo_seed": True}).ok()
    assert changed(seeded) == 2
    assert clickhouse.query(f"SELECT n FROM {clickhouse_database}.a ORDER BY n") == "2\n3\n"


def test_the_playbook_of_the_plan(folder, variables, postgres, postgres_database):
    hosts = {
        "test": {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            **variables,
        }
    }
    away = {"away": {**hosts["test"], "schema_load_clickhouse_login_port": 1}}
    for item in (hosts["test"], away["away"]):
        item["schema_load_sets"] = [
            {**one, "path": str(folder / "files" / one["path"])} for one in variables["schema_load_sets"]
        ]
    sets = hosts["test"]["schema_load_sets"]
    sets.append({**sets[0], "name": "gone", "path": "nowhere"})
    inventory = folder / "inventory.yml"
    inventory.write_text(
        yaml.safe_dump(
            {"postgres": {"hosts": hosts}, "clickhouse": {"hosts": {"test": {}, **away}}, "yugabyte": {"hosts": {}}}
        )
    )
    run = run_playbook(folder, ROOT / "playbooks/plan.yml", None, "-i", str(inventory))
    rows = [line.strip(" -").split() for line in run.output.splitlines()]
    assert run.code == 2  # away could not be asked
    assert ["test", "pg", "init.sql", "baseline", "new", "1"] in rows
    assert ["away", "ch", "unreachable"] in rows
    assert ["test", "gone", "problem"] in rows and "test, gone: Could not find" in run.output
    assert "nothing listens on" in run.output
    assert not postgres.query("SELECT 1 FROM pg_namespace WHERE nspname = 'schema_ledger'", database=postgres_database)


def test_verify_names_the_drift(folder, variables, clickhouse, clickhouse_database):
    variables["schema_load_engines"] = ["clickhouse"]
    run_playbook(folder, role_play("schema_load"), variables).ok()
    verify = role_play("schema_load", "verify")
    run_playbook(folder, verify, variables).ok()
    clickhouse.query(f"ALTER TABLE {clickhouse_database}.a ADD COLUMN by_hand UInt8")
    run = run_playbook(folder, verify, variables)
    assert run.code == 2 and "changed  table a" in run.output and "by_hand" in run.output


def test_repair_by_set_and_script(folder, variables):
    play = role_play("schema_load")
    run_playbook(folder, play, variables).ok()
    script = folder / "files/pg/V2__b.sql"
    script.write_text(script.read_text() + "-- more\n")
    run = run_playbook(folder, play, variables)
    assert run.code == 2 and "V2__b.sql was changed" in run.output
    variables["schema_load_repair"] = ["V2__b.sql", "pgg/V2__b.sql", "pg/V2__b.sql"]
    run = run_playbook(folder, play, variables)
    said = " ".join(run.output.split())
    assert run.code == 2 and "no such set for V2__b.sql, pgg/V2__b.sql. There is pg, ch" in said
    run_playbook(folder, play, variables, "-e", "schema_load_repair=pg/V2__b.sql").ok()
    del variables["schema_load_repair"]
    assert changed(run_playbook(folder, play, variables).ok()) == 0


def test_long_scripts_are_copied_when_they_are_needed(
    folder, variables, clickhouse, clickhouse_database, postgres, postgres_database
):
    row = "INSERT INTO a VALUES (1);\n"
    (folder / "files/pg/V3__long.sql").write_text("-- " + "x" * 300_000 + "\n" + row)
    (folder / "files/ch/V3__long.sql").write_text("-- " + "x" * 300_000 + "\n" + row)
    play = role_play("schema_load")
    assert changed(run_playbook(folder, play, variables, "--check").ok()) == 2
    assert changed(run_playbook(folder, play, variables).ok()) == 2
    assert clickhouse.query(f"SELECT count() FROM {clickhouse_database}.a") == "2\n"
    assert postgres.query("SELECT count(*) FROM a", database=postgres_database) == [(2,)]
    assert changed(run_playbook(folder, play, variables).ok()) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"engine": "oracle"}, "value of engine must be one of"),
        ({"pth": "x"}, "pth"),
        ({"path": "nowhere"}, "Could not find"),
        ({"target": 1.10}, "target 1.1 is not in quotes"),
        ({"name": None}, "a set of the engine postgresql has no name"),
        ({"path": ""}, "neither path nor files says where its scripts are"),
        ({"files": ["pg/init.sql"]}, "path and files cannot both say where its scripts are"),
        ({"path": "postgresql"}, "the path postgresql could be"),
    ],
)
def test_bad_sets_are_named(folder, variables, change, says):
    (folder / "files/postgresql").mkdir()  # as the role has one
    variables["schema_load_sets"][0].update(change)
    run = run_playbook(folder, role_play("schema_load"), variables)
    assert run.code == 2 and says in run.output, run.output


def test_sets_of_both_engines_may_have_one_name(
    folder, variables, postgres, postgres_database, clickhouse, clickhouse_database
):
    for one in variables["schema_load_sets"]:
        one["name"] = "platform"
    (folder / "files/pg/V3__only_here.sql").write_text("SELECT 1")
    look = role_play("schema_load", "plan")
    look["tasks"] = [
        {**look["tasks"][0], "vars": {"schema_load_engines": [engine]}}
        for engine in ("postgresql", "clickhouse", "clickhouse")
    ]
    table = "{{ {'here': schema_load_plan} | frameworks.database.schema_plan }}"
    look["tasks"].append({"ansible.builtin.debug": {"msg": table}})
    planned = run_playbook(folder, look, variables).ok()
    assert planned.output.count("platform  init.sql") == 2
    assert changed(run_playbook(folder, role_play("schema_load"), variables).ok()) == 2
    assert postgres.query("SELECT count(*) FROM a", database=postgres_database) == [(1,)]
    assert clickhouse.query(f"SELECT count() FROM {clickhouse_database}.a") == "1\n"
    (folder / "files/pg/V3__only_here.sql").write_text("SELECT 2")
    variables["schema_load_repair"] = ["postgresql/platform/V3__only_here.sql"]
    assert changed(run_playbook(folder, role_play("schema_load"), variables).ok()) == 1


def test_two_sets_of_one_engine_and_name_are_refused(folder, variables, postgres_database):
    twice = {**variables["schema_load_sets"][0], "path": "elsewhere"}
    variables["schema_load_sets"].append(twice)
    run = run_playbook(folder, role_play("schema_load"), variables)
    assert run.code == 2 and "engine postgresql and name pg" in run.output and PASSWORD not in run.output
