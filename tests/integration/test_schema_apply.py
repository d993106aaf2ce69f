"""schema_apply on both engines: order, exactly once, refusals, plan, adoption, repair, drift."""

import os
import signal

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import clickhouse as clickhouse_module
from ansible_collections.frameworks.database.plugins.module_utils.schema_clickhouse import ClickHouseBackend
from ansible_collections.frameworks.database.plugins.module_utils.schema_postgres import PostgresBackend
from support.clickhouse import user_xml
from support.modules import ModuleFailed
from support.ports import plain_http, wait_for
from support.scripts import ScriptSet, begin_in_child, in_child


class Engine:
    """What the tests need to know of an engine; `query` runs in the test's database."""

    def __init__(self, name, query, login, table, database):
        self.name, self.query, self.login, self.table, self.database = name, query, login, table, database

    def made(self, folder, **options):
        """A ScriptSet for the test's database."""
        return ScriptSet(folder, engine=self.name, database=self.database, **self.login, **options)

    def create(self, name, columns="id int"):
        """A CREATE TABLE."""
        return f"CREATE TABLE {name} ({columns})" + self.table

    def ledger(self, columns="script, status"):
        """Rows of the ledger, in order of names."""
        table = "schema_ledger.scripts" if self.name == "postgresql" else "schema_ledger FINAL"
        return self.query(f"SELECT {columns} FROM {table} ORDER BY script")

    def tables(self):
        """Names of the tables that are not the ledger's."""
        if self.name == "postgresql":
            rows = self.query(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
        else:
            rows = self.query("SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'Memory'")
        return {row[0] for row in rows}

    def has_ledger(self):
        """Whether anything of a ledger is there."""
        if self.name == "postgresql":
            return bool(self.query("SELECT 1 FROM pg_namespace WHERE nspname = 'schema_ledger'"))
        return bool(
            self.query("SELECT 1 FROM system.tables WHERE database = currentDatabase() AND name LIKE 'schema_ledger%'")
        )


@pytest.fixture(params=["postgresql", "clickhouse"])
def engine(request):
    """An Engine with an empty database."""
    if request.param == "postgresql":
        server, database = request.getfixturevalue("postgres"), request.getfixturevalue("postgres_database")
        return Engine("postgresql", lambda sql: server.query(sql, database=database), server.login(), "", database)
    server, database = request.getfixturevalue("clickhouse"), request.getfixturevalue("clickhouse_database")

    def query(sql):
        return [tuple(line.split("\t")) for line in server.query(sql, database=database).splitlines()]

    return Engine("clickhouse", query, server.login(), " ENGINE = Memory", database)


@pytest.fixture
def made(engine, tmp_path):
    """An empty ScriptSet."""
    return engine.made(tmp_path / "set")


def test_applied_in_order_and_once(engine, made):
    made.files(
        {
            "V10__c.sql": engine.create("c"),
            "V9__b.sql": engine.create("b"),
            "0008_a.sql": engine.create("a"),
            "init_z.sql": engine.create("z"),
            "init.sql": engine.create("y"),
            "seed/demo.sql": "INSERT INTO a VALUES (1)",
            "R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT id FROM c",
            "README.md": "not SQL",
        }
    )
    first = made.apply(seed=True)
    assert first["applied"] == [
        "init.sql",
        "init_z.sql",
        "0008_a.sql",
        "V9__b.sql",
        "V10__c.sql",
        "R__v.sql",
        "seed/demo.sql",
    ]
    assert first["changed"]
    assert {status for _name, status in engine.ledger()} == {"applied"}
    second = made.apply(seed=True)
    assert not second["changed"] and not second["applied"] and not second["pending"]


def test_the_seed_stays_out_unless_it_is_allowed(engine, made):
    made.files({"init.sql": engine.create("a"), "seed/demo.sql": "INSERT INTO a VALUES (1)"})
    assert made.apply()["applied"] == ["init.sql"]
    assert engine.query("SELECT count(*) FROM a")[0][0] in (0, "0")
    assert made.apply(seed=True)["applied"] == ["seed/demo.sql"]


def test_the_ledger_says_what_happened(engine, made):
    made.write(V1__a=engine.create("a") + ";\n" + engine.create("b") + ";").apply()
    row = engine.ledger("script, kind, version, checksum, statements, completed, status, applied_by, tool_version")[0]
    import hashlib

    checksum = hashlib.sha256((made.folder / "V1__a.sql").read_bytes()).hexdigest()
    assert tuple(map(str, row[:7])) == ("V1__a.sql", "versioned", "1", checksum, "2", "2", "applied")
    assert row[7] == "tester" and row[8].startswith("frameworks.database ")
    assert engine.ledger("finished_at >= started_at, duration_ms >= 0")[0] in ((True, True), ("1", "1"))


def test_a_target_stops_there(engine, made):
    made.files(
        {
            "V1__a.sql": engine.create("a"),
            "V2__b.sql": engine.create("b"),
            "R__v.sql": "CREATE OR REPLACE VIEW v AS " "SELECT 1 AS x",
        }
    )
    first = made.apply(target="1")
    assert (first["applied"], first["beyond_target"]) == (["V1__a.sql"], ["V2__b.sql", "R__v.sql"])
    assert not made.apply(target="1")["changed"]
    assert "no script of the set has this version" in made.refused(target="7")
    assert made.apply(target="2")["applied"] == ["V2__b.sql", "R__v.sql"]


def test_a_repeatable_is_applied_again_when_its_text_changes(engine, made):
    made.write(R__v="CREATE OR REPLACE VIEW v AS SELECT 1 AS x").apply()
    made.write(R__v="CREATE OR REPLACE VIEW v AS SELECT 2 AS x")
    assert [step["reason"] for step in made.apply(check=True)["pending"]] == ["changed"]
    assert made.apply()["applied"] == ["R__v.sql"]
    assert str(engine.query("SELECT x FROM v")[0][0]) == "2"
    assert not made.apply()["changed"]


def test_an_edited_script_is_refused_until_it_is_accepted_by_name(engine, made):
    made.write(V1__a=engine.create("a") + ";\n", V2__b=engine.create("b")).apply()
    made.write(V1__a=engine.create("a") + ";\r\n")
    assert "V1__a.sql was changed, in its line ends alone, after" in made.refused()
    made.write(V1__a=engine.create("a") + "; -- more", V3__c=engine.create("c"))
    said = made.refused()
    assert "V1__a.sql was changed after it had been applied" in said and "repair" in said
    assert "c" not in engine.tables()
    checked = made.apply(check=True)
    assert checked["conflicts"] and checked["conflicts"][0] in str(checked["warnings"])
    repaired = made.apply(repair=["V1__a.sql"])
    assert (repaired["repaired"], repaired["applied"]) == (["V1__a.sql"], ["V3__c.sql"])
    assert not made.apply(repair=["V1__a.sql"])["changed"]
    assert "neither in the set nor in its ledger" in made.refused(repair=["V9__x.sql"])


def test_an_older_version_that_comes_late_is_refused_unless_allowed(engine, made):
    made.write(V1__a=engine.create("a"), V3__c=engine.create("c")).apply()
    made.write(V2__b=engine.create("b"), init="INSERT INTO a VALUES (1)")
    said = made.refused()
    assert "V2__b.sql is new, but a later version is applied" in said
    assert "init.sql is new, but versions are applied already, and a baseline comes before them" in said
    assert made.apply(out_of_order=True)["applied"] == ["init.sql", "V2__b.sql"]


def test_a_failed_version_that_was_left_out_and_comes_back_is_late(engine, made):
    made.write(V1__a=engine.create("a"), V2__b="broken", V3__c=engine.create("c"))
    made.refused()
    (made.folder / "V2__b.sql").rename(made.folder / "V2__b.later")
    assert made.apply()["applied"] == ["V3__c.sql"]
    made.write(V2__b=engine.create("b"))
    assert "V2__b.sql has nothing done of it, but a later version is applied already" in made.refused()
    assert made.apply(out_of_order=True)["applied"] == ["V2__b.sql"]


def test_an_applied_script_that_was_renamed_does_not_run_again(engine, made):
    made.write(V1__a=engine.create("a"), V2__b="INSERT INTO a VALUES (1)").apply()
    (made.folder / "V2__b.sql").rename(made.folder / "V2.0__better.sql")
    for allowed in (False, True):
        said = made.refused(out_of_order=allowed)
        assert "V2.0__better.sql has the version of V2__b.sql, which" in said
    (made.folder / "V2.0__better.sql").rename(made.folder / "V1.5__late.sql")
    assert "V1.5__late.sql is new, but a later version is applied already" in made.refused()
    for before, after in (("V1.5__late.sql", "V3__later.sql"), ("V3__later.sql", "init.sql")):
        (made.folder / before).rename(made.folder / after)
        assert f"{after} is what was applied as V2__b.sql" in made.refused()
    repair = {"repair": ["V2__b.sql"]}
    assert made.apply(check=True, **repair)["repaired"] == ["init.sql", "V2__b.sql"]
    assert made.apply(**repair)["repaired"] == ["init.sql", "V2__b.sql"]
    assert made.apply()["missing"] == [] and not made.apply(check=True)["changed"]
    (made.folder / "init.sql").unlink()
    assert "whose file is gone: no new script has its version or its text" in made.refused(repair=["init.sql"])
    assert engine.query("SELECT count(*) FROM a")[0][0] in (1, "1")


def test_a_script_that_is_gone_is_named(engine, made):
    made.write(V1__a=engine.create("a"), V2__b=engine.create("b")).apply()
    (made.folder / "V1__a.sql").unlink()
    result = made.apply()
    assert result["missing"] == ["V1__a.sql"] and not result["changed"]
    made.write(V3__c="SELECT 1; SELECT of_nothing").refused()
    (made.folder / "V3__c.sql").rename(made.folder / "V4__c.sql")
    assert "V1__a.sql, V3__c.sql (failed)" in str(made.write(V4__c="SELECT 1").apply()["warnings"])


def test_check_writes_nothing_and_lists_everything(engine, made):
    made.files({"init.sql": engine.create("a") + ";" + engine.create("b"), "V1__c.sql": engine.create("c") + ";"})
    result = made.apply(check=True, diff=True)
    assert result["changed"]
    assert [(step["script"], step["reason"], step["statements"]) for step in result["pending"]] == [
        ("init.sql", "new", 2),
        ("V1__c.sql", "new", 1),
    ]
    assert engine.create("c") in result["diff"]["after"]
    assert not engine.has_ledger() and not engine.tables()


def test_a_script_that_cannot_be_run_is_refused_before_any_other(engine, made):
    made.files({"V1__a.sql": engine.create("a"), "V2__b.sql": "\nSELECT 'open"})
    said = made.refused()
    assert "V2__b.sql, line 2" in said and "never ends" in said
    assert not engine.tables()
    assert "V2__b.sql, line 2" in made.apply(check=True)["conflicts"][0]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no SQL script"),
        ({"V1__a.sql": ""}, "is empty"),
        ({"init.sql": "-- nothing\n"}, "no statement"),
        ({"init.sql": b"SELECT '\xe4'"}, "not UTF-8"),
        ({"notes.sql": "SELECT 1"}, "not the name of a script: notes.sql"),
        ({"V1__a.sql": "SELECT 1", "0001_b.sql": "SELECT 1"}, "have the same version"),
        ({"1_a.down.sql": "SELECT 1", "1_a.up.sql": "SELECT 1"}, "1_a.down.sql has the name of one that takes another"),
        ({"init.sql": "SELECT 1", "more/V1__a.sql": "SELECT 1"}, "scripts lie in"),
        ({"1_a.sql": "-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 2;"}, "line 3: the way back begins here"),
        ({"1_a.sql": "-- +goose Up\nSELECT 1;\n\n-- +goose Down\nSELECT 2;"}, "line 4: the way back begins here"),
        ({"V1__gr\udcfcn.sql": "SELECT 1"}, r"b'V1__gr\xfcn.sql' is no name in UTF-8"),
    ],
    ids=[
        "empty folder", "empty file", "only comments", "not UTF-8", "bad name", "version twice", "way back",
        "subfolder", "dbmate", "goose", "Latin-1 name",
    ],
)
def test_bad_sets_are_refused_by_name(engine, made, files, says):
    made.files(files)
    assert says in made.refused()
    assert not engine.has_ledger() or not engine.ledger()


def test_a_folder_that_is_missing_is_refused(engine, made):
    assert "there is no such folder" in made.refused(path=str(made.folder / "gone"))


def test_files_are_applied_in_their_order(engine, made):
    made.files({"b.sql": engine.create("b"), "a.sql": "INSERT INTO b VALUES (1)"})
    files = [str(made.folder / name) for name in ("b.sql", "a.sql")]
    del made.options["path"]
    assert made.apply(files=files)["applied"] == ["b.sql", "a.sql"]


def test_two_sets_share_a_database(engine, made, tmp_path):
    made.write(V1__a=engine.create("a")).apply()
    other = engine.made(tmp_path / "other", set_name="other").write(V1__a=engine.create("b"))
    assert other.apply()["applied"] == ["V1__a.sql"]
    assert not made.apply()["changed"] and not other.apply()["changed"]
    assert not made.apply()["drift"]


def test_placeholders(engine, made):
    made.write(V1__a=engine.create("${name}") + ";\nINSERT INTO ${name} VALUES (${one});")
    assert "$" in made.refused()
    made.apply(placeholders={"name": "x"}, check=True)
    assert "line 2" in made.refused(placeholders={"name": "x"}, repair=["V1__a.sql"])
    assert made.apply(placeholders={"name": "x", "one": 7}, repair=["V1__a.sql"])["changed"]
    assert str(engine.query("SELECT id FROM x")[0][0]) == "7"


def test_a_placeholder_without_a_value_is_refused(engine, made):
    made.write(V1__a=engine.create("${name}"))
    for values in ({"placeholders": {"name": None}}, {"secret_placeholders": {"name": ["hush"]}}):
        assert "placeholder name" in made.refused(**values)
    assert not engine.tables()


def test_secret_placeholders_are_shown_nowhere(engine, made):
    made.write(V1__a="SELECT '${key}' FROM nowhere_${key}")
    with pytest.raises(ModuleFailed) as error:
        made.apply(secret_placeholders={"key": "hush"}, diff=True)
    assert "hush" not in str(error.value.result)
    assert "hush" not in str(engine.ledger("error, marker"))


def test_what_a_secrets_own_quote_makes_of_it_is_shown_nowhere(engine, made):
    made.write(V1__a="SELECT '${key}' AS x, 1")
    said = made.refused(secret_placeholders={"key": "don't tell hunter2"})
    assert "V1__a.sql, line 1" in said and "hunter2" not in said and "tell" not in said
    assert "hunter2" not in str(engine.ledger("error"))


def test_a_secret_of_several_lines_is_shown_in_no_drift(engine, made):
    made.options["secret_placeholders"] = {"key": "one''s half\nother half"}
    made.write(V1__a="CREATE VIEW v AS SELECT '${key}' AS x").apply()
    engine.query("CREATE OR REPLACE VIEW v AS SELECT 'one''s half\nother half' AS x, 1 AS y")
    with pytest.raises(ModuleFailed, match="changed  view") as error:
        made.apply(state="verified")
    assert "half" not in str(error.value.result) and "half" not in str(made.write(V2__b="SELECT 1").apply())


def test_a_ledger_that_cannot_be_read_stops_everything(engine, made):
    made.write(V1__a=engine.create("a")).apply()
    made.write(V2__b=engine.create("b"))
    table = "schema_ledger.scripts" if engine.name == "postgresql" else "schema_ledger"
    column = "RENAME COLUMN checksum TO sum" if engine.name == "postgresql" else "DROP COLUMN checksum"
    engine.query(f"ALTER TABLE {table} {column}")
    for check in (False, True):
        said = made.refused(check=check)
        assert "cannot be read" in said and "give it back the columns" in said and "GRANT" not in said
    assert engine.tables() == {"a"}


def test_baseline_adopts_what_is_there(engine, made):
    engine.query(engine.create("a"))
    made.files(
        {
            "init.sql": engine.create("a"),
            "V1__x.sql": "broken",
            "V2__b.sql": engine.create("b"),
            "R__v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1 AS x",
        }
    )
    assert "say in target up to which version" in made.refused(baseline=True)
    assert made.apply(baseline=True, target="1", check=True)["adopted"] == ["init.sql", "V1__x.sql"]
    first = made.apply(baseline=True, target="1")
    assert (first["adopted"], first["applied"]) == (["init.sql", "V1__x.sql"], [])
    second = made.apply(baseline=True)
    assert (second["adopted"], second["applied"]) == ([], ["V2__b.sql", "R__v.sql"])


def test_a_baseline_that_is_cut_off_adopts_all_or_nothing(engine, made):
    engine.query(engine.create("a"))
    made.write(V1__x="broken", V2__y="broken", V3__z="broken", V4__b=engine.create("b"))

    def killed():
        backend = ClickHouseBackend if engine.name == "clickhouse" else PostgresBackend
        record = backend.record
        backend.record = lambda self, *entries: (record(self, *entries), os.kill(os.getpid(), signal.SIGKILL))
        made.apply(baseline=True, target="3")

    assert in_child(killed) == -signal.SIGKILL
    if engine.name == "clickhouse":
        engine.query("TRUNCATE TABLE schema_ledger_lease")
    assert made.apply(baseline=True, target="3")["applied"] == []
    assert made.apply(baseline=True)["applied"] == ["V4__b.sql"]


def test_baseline_is_refused_for_an_empty_database(engine, made):
    made.write(init=engine.create("a"))
    assert "the database is empty" in made.refused(baseline=True)
    assert "the database is empty" in str(made.apply(baseline=True, check=True)["conflicts"])


def test_objects_without_a_ledger_are_told(engine, made):
    """As where the ledger was lost: the server says of the first object only that it is there already."""
    made.write(init=engine.create("a"))
    assert "no ledger" not in str(made.apply(check=True))
    engine.query(engine.create("a"))
    assert "adopt them with baseline and target" in str(made.apply(check=True)["warnings"])
    with pytest.raises(ModuleFailed, match="already exists") as failed:
        made.apply()
    assert "adopt them with baseline and target" in str(failed.value.result["warnings"])


def test_a_function_of_the_server_is_no_schema_to_adopt(clickhouse, clickhouse_database, unique, tmp_path):
    made = ScriptSet(tmp_path, engine="clickhouse", database=clickhouse_database, **clickhouse.login())
    made.write(init="CREATE TABLE a (n UInt8) ENGINE = Memory")
    clickhouse.query(f"CREATE FUNCTION by_hand_{unique} AS n -> n")
    try:
        assert "the database is empty" in made.refused(baseline=True)
    finally:
        clickhouse.query(f"DROP FUNCTION by_hand_{unique}")


def test_drift_is_named_and_survives_the_next_run(engine, made):
    made.write(V1__a=engine.create("a"), V2__b=engine.create("b")).apply()
    assert not made.apply(state="verified")["changed"]
    engine.query("ALTER TABLE a ADD COLUMN by_hand int" if engine.name == "postgresql" else "RENAME TABLE a TO a2")
    engine.query("DROP TABLE b")
    engine.query(engine.create("c"))
    said = made.refused(state="verified")
    assert "added    table" in said and "dropped  table" in said
    assert "by_hand" in said or "a2" in said
    made.write(V3__d=engine.create("d"), V4__e="broken")
    with pytest.raises(ModuleFailed) as failed:
        made.apply()
    assert "by none of its scripts" in str(failed.value.result["warnings"])
    assert failed.value.result["changed"] and failed.value.result["applied"] == ["V3__d.sql"]
    made.write(V4__e=engine.create("e"))
    result = made.apply()
    assert {change["change"] for change in result["drift"]} >= {"added", "dropped"}
    again = made.refused(state="verified")
    assert "table d" not in again and "public.d" not in again  # the script made it
    assert "dropped  table" in again
    checked = made.apply(accept_drift=True, check=True)
    assert checked["changed"] and {change["change"] for change in checked["drift"]} >= {"added", "dropped"}
    assert made.apply(accept_drift=True)["changed"]
    assert not made.apply(state="verified")["changed"]
    assert not made.apply(accept_drift=True, check=True)["changed"] and not made.apply(accept_drift=True)["changed"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_function_of_a_script_is_no_drift_and_one_made_by_hand_is(engine, made, at_once):
    """ClickHouse's are the server's, so their names are this test's own."""
    name, form = f"twice_{engine.database}", "(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2'"
    if engine.name == "clickhouse":
        form = "AS n -> n * 2"
    made.write(V1__table=engine.create("t"))
    if not at_once:
        made.apply()
    try:
        made.write(V2__function=f"CREATE /* ; */ FUNCTION {name} {form}").apply()
        assert not made.apply(state="verified")["changed"]
        engine.query(f"CREATE FUNCTION by_hand_{name} {form}")
        said = made.refused(state="verified")
        assert f"by_hand_{name}" in said and said.count(name) == said.count(f"by_hand_{name}")
    finally:
        for function in (name, f"by_hand_{name}"):
            engine.query(f"DROP FUNCTION IF EXISTS {function}")


@pytest.mark.parametrize("left", ["nothing", "rubbish"])
def test_a_record_of_the_schema_that_is_lost_is_made_anew(engine, made, left):
    """As by a restore of some tables, or by hand."""
    made.write(V1__a=engine.create("a")).apply()
    table = "schema_ledger.fingerprint" if engine.name == "postgresql" else "schema_ledger_fingerprint"
    if left == "rubbish":
        if engine.name == "postgresql":
            engine.query(f"UPDATE {table} SET objects = '{{'")
        else:
            engine.query(f"INSERT INTO {table} SELECT taken_at + 1, position, '{{', one FROM {table} FINAL")
        made.write(V2__b=engine.create("b"))
        for state in ("verified", "applied"):
            said = made.refused(state=state)
            assert "fingerprint" in said and "drop it, and the next run records the schema" in said
    engine.query(f"DROP TABLE {table}")
    assert made.apply(check=True)["changed"] and made.apply()["changed"]
    assert not made.apply(check=True)["changed"] and not made.apply(state="verified")["changed"]


@pytest.mark.parametrize("drop", ["DROP DATABASE IF EXISTS {}", "drop database\n`${{name}}` SYNC"])
def test_a_script_that_drops_its_own_database_is_refused(clickhouse, clickhouse_database, tmp_path, drop):
    """The ledger went with it, so that each run began with the drop again."""
    made = ScriptSet(tmp_path, engine="clickhouse", database=clickhouse_database, **clickhouse.login())
    made.write(init=f"DROP DATABASE IF EXISTS other;\n{drop.format(clickhouse_database)}")
    said = made.refused(placeholders={"name": clickhouse_database})
    assert "init.sql, line 2: the ledger would go with the database" in said
    assert clickhouse.query(f"EXISTS DATABASE {clickhouse_database}") == "1\n"


def test_a_script_that_drops_the_ledger_fails_with_its_name(engine, made):
    made.write(V1__a=engine.create("a")).apply()
    ledger = "schema_ledger.scripts" if engine.name == "postgresql" else "schema_ledger"
    made.write(V2__b=f"DROP TABLE {ledger}")
    said = made.refused()
    assert "schema_ledger" in said and "does not exist" in said


def test_a_status_that_no_run_writes_executes_nothing(engine, made):
    made.write(V1__a=engine.create("a")).apply()
    if engine.name == "postgresql":
        engine.query("UPDATE schema_ledger.scripts SET status = 'done'")
    else:
        engine.query("INSERT INTO schema_ledger SELECT * REPLACE ('done' AS status, revision + 1 AS revision) "
                     "FROM schema_ledger FINAL")
    assert "V1__a.sql has the status 'done' in the ledger" in made.refused()
    engine.query("DROP TABLE a")
    assert made.apply(repair=["V1__a.sql"])["applied"] == ["V1__a.sql"]


def test_drift_can_be_ignored_by_pattern(engine, made):
    made.write(V1__a=engine.create("a")).apply()
    engine.query(engine.create("events_p1"))
    assert "events_p1" in made.refused(state="verified")
    assert not made.apply(state="verified", drift_ignore=["* *events_p*"])["changed"]


def test_verifying_what_was_never_applied_is_refused(engine, made):
    made.write(V1__a=engine.create("a"))
    assert "apply the set first" in made.refused(state="verified")


def test_a_database_that_is_missing_is_named(engine, made):
    made.write(V1__a=engine.create("a"))
    said = made.refused(database="no_such_database")
    assert "no_such_database" in said
    assert "no_such_database" in made.apply(check=True, database="no_such_database")["unasked"]


def test_an_unreachable_server_is_no_failure_of_a_check(engine, made):
    made.write(V1__a=engine.create("a"))
    result = made.apply(check=True, login_port=1)
    assert result["changed"] and result["unasked"]
    assert not made.apply(state="planned", login_port=1)["changed"]
    made.refused(login_port=1)


def test_a_check_goes_on_where_an_earlier_task_may_bring_the_login(engine, made, tmp_path):
    made.write(V1__a=engine.create("a"))
    assert made.apply(check=True, login_password="of tomorrow")["unasked"]
    assert not made.apply(state="planned", login_password="of tomorrow").get("unasked")
    assert "login_password" in made.apply(state="planned", login_password="of tomorrow")["problem"]
    assert "no_such_database" in made.apply(state="planned", database="no_such_database")["problem"]
    if engine.name == "clickhouse":
        assert made.apply(check=True, tls=True, ca_cert=str(tmp_path / "of tomorrow"))["unasked"]


def test_a_check_fails_where_no_task_would_help(engine, made):
    made.write(V1__a=engine.create("a"))
    postgresql = engine.name == "postgresql"
    if postgresql:
        said = made.refused(check=True, ssl_mode="require")
    else:
        with plain_http() as port:
            said = made.refused(check=True, tls=True, login_port=port)
    assert ("set ssl_mode to disable" if postgresql else "set tls to false") in said
    if postgresql:  # who makes objects for another is the administrator, whom postgres_user needs already
        for wrong in ({"login_password": "of tomorrow"}, {"login_user": "nobody"}):
            assert "login_user" in made.refused(check=True, owner="of_tomorrow", **wrong)
        assert made.apply(check=True, owner="postgres", login_password="of tomorrow")["unasked"]
        for missing in ({"database": "of_tomorrow"}, {"owner": "of_tomorrow"}):
            assert made.apply(check=True, **{"owner": "of_today", **missing})["unasked"]


def test_a_plan_never_fails(engine, made):
    made.files({"V1__a.sql": engine.create("a"), "bad.sql": "SELECT 1"})
    assert "not the name of a script" in made.apply(state="planned")["problem"]


def test_many_small_scripts(engine, made):
    made.files({f"V{n}__t.sql": engine.create(f"t{n}") for n in range(1, 41)})
    assert len(made.apply()["applied"]) == 40
    assert len(engine.tables()) == 40


def test_two_processes_at_once_apply_everything_once(engine, made):
    made.files({f"V{n}__t.sql": engine.create(f"t{n}") + f"; INSERT INTO t{n} VALUES ({n});" for n in range(1, 9)})
    results = [result() for result in [begin_in_child(made.apply) for _number in range(3)]]
    assert not [result for result in results if "error" in result]
    assert sorted(len(result["applied"]) for result in results) == [0, 0, 8]
    assert {str(engine.query(f"SELECT count(*) FROM t{n}")[0][0]) for n in range(1, 9)} == {"1"}


def test_waiting_ends_and_names_the_holder(engine, made):
    slow = "SELECT pg_sleep(4)" if engine.name == "postgresql" else "SELECT sleep(3)"
    made.write(V1__a=slow)
    first = begin_in_child(made.apply)
    wait_for(lambda: made.apply(check=True)["lock_holder"], "the first run holds the lock")
    said = made.refused(lock_timeout=0)
    assert first()["applied"] == ["V1__a.sql"]
    assert "still holds" in said
    assert "tester" in said or engine.login["login_user"] in said


def test_a_comparison_during_a_run_says_who_is_at_work(engine, made):
    made.write(V1__a=engine.create("a")).apply()
    made.write(V2__b=engine.create("b"), V3__c=engine.create("c"))
    backend = ClickHouseBackend if engine.name == "clickhouse" else PostgresBackend
    reading, writing = os.pipe()

    def gated():
        apply = backend.apply
        backend.apply = lambda self, step, scan: (
            os.read(reading, 1) if step.script.name == "V3__c.sql" else None, apply(self, step, scan)
        )
        return made.apply()

    first = begin_in_child(gated)
    wait_for(lambda: ("V2__b.sql", "applied") in engine.ledger(), "the first run is behind V2")
    said = made.refused(state="verified")
    os.write(writing, b"on")
    os.close(writing)
    os.close(reading)
    assert first()["applied"] == ["V2__b.sql", "V3__c.sql"]
    assert "is applying scripts just now" in said and ("tester" in said or engine.login["login_user"] in said)


def test_a_function_that_another_database_has_recorded_is_no_drift(clickhouse, clickhouse_database, unique, tmp_path):
    """ClickHouse's functions belong to the whole server."""
    other, function = f"{unique}_other", f"{unique}_plus"

    def made(name, database):
        return ScriptSet(tmp_path / name, engine="clickhouse", database=database, **clickhouse.login())

    first, second = made("first", clickhouse_database), made("second", other)
    clickhouse.query(f"CREATE DATABASE {other}")
    try:
        second.write(V1__f="CREATE TABLE a (n UInt8) ENGINE = Memory").apply()
        first.write(V1__a="CREATE TABLE a (n UInt8) ENGINE = Memory").apply()
        second.write(V2__f=f"CREATE FUNCTION {function} AS x -> x + 1").apply()
        assert not first.apply(state="verified")["changed"]
        first.write(V2__b="CREATE TABLE b (n UInt8) ENGINE = Memory").apply()
        clickhouse.query(f"CREATE OR REPLACE FUNCTION {function} AS x -> x + 2")
        assert f"changed  function {function}" in second.refused(state="verified")
        assert not first.apply(state="verified")["changed"]
        clickhouse.query(f"DROP FUNCTION {function}")
        assert f"dropped  function {function}" in second.refused(state="verified")
        assert not first.apply(state="verified")["changed"]
        ledger = f"{other}.schema_ledger_fingerprint"
        clickhouse.query(f"INSERT INTO {ledger} SELECT taken_at + 1, position, '{{', one FROM {ledger} FINAL")
        clickhouse.query(f"CREATE FUNCTION {function} AS x -> x + 1")
        assert f"added    function {function}" in first.refused(state="verified")
    finally:
        clickhouse.query(f"DROP DATABASE {other} SYNC")
        clickhouse.query(f"DROP FUNCTION IF EXISTS {function}")


def test_a_statement_that_is_written_otherwise_is_no_drift(clickhouse, clickhouse_database, tmp_path):
    """As by another release of the server. What is drift is shown line by line all the same."""
    made = ScriptSet(tmp_path, engine="clickhouse", database=clickhouse_database, **clickhouse.login())
    made.write(V1__a="CREATE TABLE a (n UInt8, m UInt8) ENGINE = MergeTree ORDER BY n").apply()
    ledger = f"{clickhouse_database}.schema_ledger_fingerprint"
    clickhouse.query(
        f"INSERT INTO {ledger} SELECT taken_at + 1, position, replaceAll(objects, ' ENGINE', '   ENGINE'), one "
        f"FROM {ledger} FINAL"
    )
    assert clickhouse.query(f"SELECT position(objects, '   ENGINE') > 0 FROM {ledger} FINAL").strip() == "1"
    assert not made.apply(state="verified")["changed"]
    clickhouse.query("ALTER TABLE a ADD COLUMN by_hand UInt8", database=clickhouse_database)
    lines = made.refused(state="verified").splitlines()
    assert any(line.split() == ["+", "`by_hand`", "UInt8"] for line in lines), lines


def test_what_a_refreshable_view_fills_just_now_is_no_drift(clickhouse, clickhouse_database, tmp_path):
    made = ScriptSet(tmp_path, engine="clickhouse", database=clickhouse_database, **clickhouse.login())
    made.write(V1__a="CREATE TABLE a (n UInt8) ENGINE = Memory").apply()
    clickhouse.query("CREATE TABLE `.tmp.inner_id.0-1` (n UInt8) ENGINE = Memory", database=clickhouse_database)
    assert not made.apply(state="verified")["changed"]


@pytest.mark.usefixtures("clickhouse")
def test_a_clickhouse_user_without_rights_is_told(tmp_path):
    from support.clickhouse import ClickHouseServer

    own = ["GRANT ALL ON d.*", "GRANT TABLE ENGINE ON *"]
    system = [f"GRANT SELECT ON system.{name}" for name in ("parts", "mutations", "processes")]
    server = ClickHouseServer(users=[
        user_xml("reader", "r", ["GRANT SELECT ON d.*"]), user_xml("own", "pw-own", own),
        user_xml("enough", "pw-enough", own + system),
    ])
    try:
        server.start()
        server.query("CREATE DATABASE d")
        made = ScriptSet(
            tmp_path, engine="clickhouse", database="d", **server.login(login_user="reader", login_password="r")
        )
        made.write(init="CREATE TABLE a (id int) ENGINE = Memory")
        assert "needs CREATE TABLE" in made.refused()
        with pytest.raises(clickhouse_module.ServerError):
            clickhouse_module.Client(made.options).execute("SELECT 1 FROM d.schema_ledger")
        made.write(V1__a="INSERT INTO a VALUES (1);\nINSERT INTO a SELECT throwIf(1)")
        made.options.update(login_user="own", login_password="pw-own")
        assert f"needs {', '.join(grant[6:] for grant in system)}" in made.refused()
        made.options.update(login_user="enough", login_password="pw-enough")
        assert "line 2 (statement 2 of 2)" in made.refused() and "throwIf" in made.refused()
        assert made.write(V1__a="INSERT INTO a VALUES (1);\nINSERT INTO a SELECT 2").apply()["applied"] == ["V1__a.sql"]
        assert not made.apply(state="verified")["changed"]
    finally:
        server.close()
