"""What goes wrong at three in the morning: failing statements, dying servers and connections, full disks, stale "
"leases."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import (
    ledger_clickhouse,
    ledger_postgres,
    schema_clickhouse,
    schema_postgres,
    schema_psql,
)
from ansible_collections.frameworks.database.plugins.module_utils import postgres as postgres_module
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import ConnectionFailed
from support.clickhouse import ClickHouseServer
from support.ports import wait_for
from support.postgres import PostgresServer
from support.scripts import HOLD, ScriptSet, begin_in_child, in_child


@pytest.fixture
def made_clickhouse(clickhouse, clickhouse_database, tmp_path):
    """An empty ScriptSet for a ClickHouse database."""
    return ScriptSet(tmp_path / "set", engine="clickhouse", database=clickhouse_database, **clickhouse.login())


def tables(query):
    """Names of the tables in `public`."""
    return {
        row[0]
        for row in query("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
    }


def test_nothing_remains_of_a_failed_script(made, query):
    made.write(V1__a="CREATE TABLE a (n int);", V2__b="CREATE TABLE b (n int);\n\nINSERT INTO b\nVALUES ('x');")
    said = made.refused()
    assert "V2__b.sql, line 4 (statement 2 of 2)" in said and "invalid input syntax" in said
    assert "INSERT INTO b" in said and "Nothing of the script remains" in said
    assert tables(query) == {"a"}
    assert query("SELECT status, completed, error FROM schema_ledger.scripts WHERE script = 'V2__b.sql'")[0][:2] == (
        "failed",
        0,
    )
    made.write(V2__b="CREATE TABLE b (n int);")
    assert made.apply()["applied"] == ["V2__b.sql"]


def test_a_deferred_constraint_fails_before_the_ledger_says_applied(made, query):
    made.write(V1__a="CREATE TABLE a (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO a VALUES (1), (1);")
    assert "at its end" in made.refused()
    assert tables(query) == set()


def test_one_begin_and_commit_around_everything_is_taken_for_ours(made, query):
    made.write(
        V1__a="-- dump\nBEGIN;\nCREATE TABLE a (n int);\nCOMMIT;\n",
        V2__b="BEGIN; CREATE TABLE b (n int); SELECT 1/0; COMMIT;",
    )
    assert "division by zero" in made.refused()
    assert tables(query) == {"a"}


@pytest.mark.parametrize(
    "text", ["CREATE TABLE a (n int);\nCOMMIT;\nSELECT 1;", "BEGIN;\nROLLBACK;\nSELECT 1;", "SELECT 1;\nBEGIN;"]
)
def test_other_transaction_control_is_refused_with_its_line(made, query, text):
    made.write(V1__a=text)
    said = made.refused()
    assert "in a script that is applied in one transaction" in said and "V1__a.sql, line" in said
    assert tables(query) == set()


def test_savepoints_are_no_transaction_control(made):
    made.write(V1__a="CREATE TABLE a (n int); SAVEPOINT s; INSERT INTO a VALUES (1); ROLLBACK TO s; RELEASE s;")
    assert made.apply()["changed"]


def test_a_script_starts_with_a_fresh_session(made, query):
    made.write(
        V1__a="CREATE SCHEMA s; SET search_path = s; SET standard_conforming_strings = off; CREATE TEMP TABLE "
              "x (n int);",
        V2__b=r"CREATE TABLE b AS SELECT '\'::text AS t; CREATE TEMP TABLE x (n int);",
    )
    made.apply()
    assert query("SELECT t FROM public.b") == [("\\",)]


def test_everything_belongs_to_the_owner(made, query, postgres, unique):
    postgres.query(f'CREATE ROLE "{unique} o"')
    postgres.query(f'ALTER DATABASE {made.options["database"]} OWNER TO "{unique} o"')
    made.write(
        V1__a="CREATE TABLE a (n int);", V2__b="RESET ROLE; CREATE TABLE b (n int);", V3__c="CREATE TABLE c (n int);"
    )
    made.apply(owner=f"{unique} o")
    owners = dict(
        query(
            "SELECT relname, relowner::regrole::text FROM pg_class WHERE relkind = 'r' AND relname IN ('a', 'b', "
            "'c', 'scripts')"
        )
    )
    assert owners == {"a": f'"{unique} o"', "b": "postgres", "c": f'"{unique} o"', "scripts": f'"{unique} o"'}
    assert not made.apply(owner=f"{unique} o")["changed"]
    postgres.query(f"DROP DATABASE {made.options['database']} WITH (FORCE)")
    postgres.query(f'DROP ROLE "{unique} o"')


def test_an_owner_who_does_not_exist_is_named(made):
    made.write(V1__a="SELECT 1")
    assert "cannot act as nobody_here" in made.refused(owner="nobody_here")
    assert "nobody_here" in made.apply(check=True, owner="nobody_here")["unasked"]


def test_the_wrong_engine_is_told(made):
    made.write(V1__a="SELECT 1")
    assert "The server is PostgreSQL, the set is declared with engine yugabytedb" in made.refused(engine="yugabytedb")


@pytest.mark.parametrize(
    ("statement", "says", "not_says"),
    [
        ("ALTER DATABASE {database} SET default_transaction_read_only = on", "is a standby", "needs CREATE"),
        ("REVOKE ALL ON DATABASE {database} FROM PUBLIC", "needs CREATE on the database", "standby"),
    ],
)
def test_a_ledger_that_cannot_be_made_comes_with_the_remedy_for_its_cause(
    made, postgres, unique, statement, says, not_says
):
    database = made.options["database"]
    postgres.query(f"CREATE ROLE {unique}_o")
    postgres.query(statement.format(database=database))
    made.write(V1__a="SELECT 1")
    said = made.refused(owner=f"{unique}_o")
    assert says in said and not_says not in said
    postgres.query(f"DROP ROLE {unique}_o")


def test_a_ledger_that_cannot_be_written_any_more_comes_with_the_remedy(made, query):
    made.write(V1__a="SELECT 1").apply()
    made.write(V2__b="SELECT 1")
    query(f"ALTER DATABASE {made.options['database']} SET default_transaction_read_only = on")
    assert "Name the primary in login_host" in made.refused()


@pytest.mark.parametrize("name", ["database", "set_name", "owner"])
def test_a_name_that_is_empty_is_refused(made, name):
    """As a variable leaves it that nobody has set: an empty owner was the administrator."""
    made.write(V1__a="SELECT 1")
    assert f"{name} is empty" in made.refused(**{name: ""})
    assert f"{name} is empty" in made.apply(**{name: ""}, state="planned")["problem"]


def test_a_path_is_told_as_it_was_given(made):
    assert "database x: scripts/shop: there is no such folder" in made.refused(path="scripts/shop", database="x")


def test_a_second_owner_gets_along_with_what_the_message_says(made, query, unique):
    made.write(V1__a="SELECT 1").apply()
    query(f"CREATE ROLE {unique}; GRANT CREATE ON SCHEMA public TO {unique}")
    made.options.update(set_name="other", owner=unique)
    made.write(V1__a="CREATE TABLE t (n int)")
    for grant in re.findall(r"GRANT [^;.]* TO …", made.refused()):
        query(grant.replace("…", unique))
    assert made.apply()["applied"] == ["V1__a.sql"]
    query(f"DROP OWNED BY {unique}; DROP ROLE {unique}")


def test_copy_rows(made, query):
    made.write(
        V1__a="CREATE TABLE a (n int, t text);\nCOPY a FROM STDIN;\n1\ta;b\n2\t\\N\n\\.\nINSERT INTO a VALUES (3, '');"
    )
    made.apply()
    assert query("SELECT * FROM a ORDER BY n") == [(1, "a;b"), (2, None), (3, "")]
    made.write(V2__b="COPY a FROM STDIN;\n4\tx\nfour\tx\n\\.\n")
    assert "V2__b.sql, line 1" in made.refused()
    assert query("SELECT count(*) FROM a") == [(3,)]


def test_rows_copied_to_stdout_go_nowhere(made, query):
    made.write(
        V1__a="CREATE TABLE a (t text);\nCOPY (SELECT 'of the client') TO STDOUT;\n"
              "COPY (SELECT 'TO STDOUT') TO PROGRAM 'cat > /dev/null';\nCOPY a FROM PROGRAM 'echo from the server';",
        V2__c="-- no-transaction\nCOPY a TO STDOUT (FORMAT csv);\nCREATE TABLE c (n int);",
    )
    assert made.apply()["applied"] == ["V1__a.sql", "V2__c.sql"]
    assert query("SELECT * FROM a") == [("from the server",)] and "c" in tables(query)


def test_meta_commands_go_through_psql(made, query):
    made.write(
        V1__a="\\set name 'x y'\nCREATE TABLE a (t text);\nINSERT INTO a VALUES (:'name');\n"
              "SELECT 'CREATE TABLE b (n int)' \\gexec\n"
    )
    made.apply()
    assert query("SELECT t FROM a") == [("x y",)] and "b" in tables(query)
    assert not made.apply()["changed"]
    made.write(V2__b="\\set x 1\nCREATE TABLE c (n int);\nSELECT 1/0;\n")
    said = made.refused()
    assert "V2__b.sql, line 3" in said and "division by zero" in said
    assert "c" not in tables(query)
    assert query("SELECT status FROM schema_ledger.scripts WHERE script = 'V2__b.sql'") == [("failed",)]


def test_a_meta_script_that_ends_early_is_not_applied(made, query):
    made.write(V1__a="CREATE TABLE a (n int);\n\\set ON_ERROR_STOP off\nSELECT 1/0;\nCREATE TABLE b (n int);\n")
    said = made.refused()
    assert "line 3: ERROR:  division by zero" in said and tables(query) == set()
    made.write(V1__a="CREATE TABLE a (n int);\n\\prompt n\n")
    assert "before the script's end" in made.refused() and tables(query) == set()


def test_the_ledgers_row_of_an_earlier_try_is_no_proof_of_success(made, query):
    made.write(V1__a="\\set x 1\nSELECT 1/0;\n")
    made.refused()
    test_a_meta_script_that_ends_early_is_not_applied(made, query)


@pytest.mark.parametrize("statements", [
    "CREATE TABLE t (n int);\nCREATE INDEX CONCURRENTLY i ON t (n);",
    "CREATE TYPE e AS ENUM ('a');\nALTER TYPE e ADD VALUE 'b';\nCREATE TABLE t (n e DEFAULT 'b');",
])
def test_what_no_transaction_takes_is_told_how_to_run(made, statements):
    made.write(V1__a=statements)
    assert "make '-- no-transaction' the script's first line" in made.refused()
    made.write(V1__a=f"-- no-transaction\n{statements}").apply()


@pytest.mark.parametrize("first", ["", "-- no-transaction\n", "\\set by psql\n"])
def test_who_holds_the_lock_that_a_statement_waited_for_is_named(made, query, postgres, first):
    query("CREATE TABLE a (n int); CREATE TABLE other (n int)")
    with contextlib.closing(postgres.connect(made.options["database"], application_name="the app")) as app:
        app.autocommit = False
        app.cursor().execute("SELECT 1 FROM a, other")
        made.write(V1__a=f"{first}SET lock_timeout = '50ms';\nALTER TABLE a ADD m int;")
        said = made.refused()
        assert f"Locks are held by server process {app.info.backend_pid} (user postgres, the app, idle in " in said
        assert said.count("Locks are") == 1 and ") on a\n" in said
    assert "V1__a.sql" in made.apply()["applied"]


def test_placeholders_in_a_script_for_psql(made, query):
    made.options["placeholders"] = {"n": "1"}
    made.write(V1__a="-- like ${this}\n\\set x ${n}\nCREATE TABLE t (n text);\nCOPY t FROM STDIN;\n${that}\n\\.\n"
                     "INSERT INTO t VALUES (:x);").apply()
    assert query("SELECT n FROM t") == [("${that}",), ("1",)]


def test_meta_commands_without_psql_are_refused_with_their_line(made, query, monkeypatch):
    monkeypatch.setattr(schema_psql.shutil, "which", lambda name: None)
    made.write(V1__a="SELECT 1;\n\n\\copy a from 'x'\n")
    said = made.refused()
    assert "V1__a.sql, line 3: \\copy is a command of psql, and psql is not installed" in said
    assert made.apply(check=True)["conflicts"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\\c other\nSELECT 1;", "would leave the database"),
        ("-- no-transaction\n\\set a 1\n", "cannot go on from a failed"),
        ("BEGIN;\n\\set a 1\nCOMMIT;", "take its BEGIN and COMMIT out"),
        ("SELECT 1;\n\\ir 'a b.sql'\n", "line 2: \\ir 'a b.sql': the files beside"),
    ],
)
def test_meta_commands_that_cannot_be_had_are_refused(made, text, says):
    made.write(V1__a=text)
    assert says in made.refused()


def test_psql_gets_no_password_on_its_command_line_or_environment(made, tmp_path, monkeypatch):
    spy = tmp_path / "psql"
    spy.write_text(f"#!/bin/sh\n(cat /proc/$$/cmdline; env) > {tmp_path}/seen\nexec /usr/bin/psql \"$@\"\n")
    spy.chmod(0o755)
    monkeypatch.setattr(schema_psql.shutil, "which", lambda name: str(spy))
    made.write(V1__a="\\set a 1\nSELECT :a;")
    made.apply()
    seen = (tmp_path / "seen").read_text()
    assert made.options["login_password"] not in seen and "PGCONNECT_TIMEOUT=10\n" in seen


def test_psql_logs_in_as_the_module_does_whatever_the_environment_says(made, query, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "somebody else's")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    made.write(V1__a="\\set a ü\nCREATE TABLE a AS SELECT :'a' AS t;")
    made.apply()
    assert query("SELECT t FROM a") == [("ü",)]


def test_a_run_that_waits_for_psql_is_not_ended_as_idle(made, query, monkeypatch):
    query(f"ALTER DATABASE {made.options['database']} SET idle_session_timeout = '1h'")
    write, seen = schema_psql._write_script, []

    def spy(backend, script, path):
        with backend.connection.cursor() as cursor:
            cursor.execute("SHOW idle_session_timeout")
            seen.append(cursor.fetchone())
        write(backend, script, path)

    monkeypatch.setattr(schema_psql, "_write_script", spy)
    made.write(V1__a="\\set x 1\nSELECT :x;").apply()
    assert seen == [("0",)]


def test_psql_does_nothing_on_another_server_than_the_runs(made, query, unique, postgres, monkeypatch):
    postgres.query(f"CREATE DATABASE {unique}_x")
    login = schema_psql.environment
    monkeypatch.setattr(schema_psql, "environment", lambda params, _database, file: login(params, f"{unique}_x", file))
    made.write(V1__a="\\set a 1\nCREATE TABLE a (n int);")
    assert "does not hold its lock" in made.refused()
    assert not postgres.query("SELECT 1 FROM pg_class WHERE relname = 'a'", database=f"{unique}_x")
    postgres.query(f"DROP DATABASE {unique}_x WITH (FORCE)")


def test_a_concurrent_index_that_failed_is_built_anew(made, query):
    made.write(
        V1__a="CREATE TABLE a (n int); INSERT INTO a VALUES (1), (1);",
        V2__i="-- no-transaction\nCREATE TABLE b (n int);\n"
              "CREATE UNIQUE INDEX CONCURRENTLY a_n ON a (n);\nCREATE TABLE c (n int);",
    )
    said = made.refused()
    assert "V2__i.sql, line 3 (statement 2 of 3)" in said and "Its first 1 of 3 statements are done" in said
    assert query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_n'::regclass") == [(False,)]
    query("DELETE FROM a")
    assert made.apply()["applied"] == ["V2__i.sql"]
    assert query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_n'::regclass") == [(True,)]
    assert tables(query) == {"a", "b", "c"}


@pytest.mark.parametrize("engine", ["postgresql", "yugabytedb", "clickhouse"])
def test_a_failed_script_goes_on_behind_what_is_done(request, engine):
    if engine == "clickhouse":
        made, end = request.getfixturevalue("made_clickhouse"), " ENGINE = Memory"
        ask = request.getfixturevalue("clickhouse").query
        count = lambda: int(ask(f"SELECT count() FROM {made.options['database']}.a"))  # noqa: E731
    else:
        made, end = request.getfixturevalue("yugabyte" if engine == "yugabytedb" else "made"), ""
        count = lambda: request.getfixturevalue("query")("SELECT count(*) FROM a")[0][0]  # noqa: E731
    first = "-- no-transaction\n" if engine == "postgresql" else ""
    text = (f"{first}CREATE TABLE a (n int){end};\nINSERT INTO a VALUES (1);\n"
            f"INSERT INTO nowhere VALUES (2);\nINSERT INTO a VALUES (3);\n")
    made.write(V1__a=text)
    line = 4 if first else 3
    assert f"V1__a.sql, line {line} (statement 3 of 4)" in made.refused()
    assert made.apply(check=True)["pending"][0]["completed"] == 2
    made.write(V1__a=text.replace("VALUES (1)", "VALUES (9)").replace("nowhere", "a"))
    assert "the first 2 statements" in made.refused()
    made.write(V1__a=f"{first}CREATE TABLE other (n int){end};")
    assert "the first 2 statements" in made.refused()
    made.write(V1__a=text.replace("nowhere", "a").replace("VALUES (3);", "VALUES (3); INSERT INTO a VALUES (4);"))
    assert made.apply()["applied"] == ["V1__a.sql"]
    assert count() == 4
    assert not made.apply()["changed"]


@pytest.mark.parametrize("engine, statement", [
    ("postgresql", "CREATE INDEX CONCURRENTLY i ON a (n)"), ("yugabytedb", "ALTER TABLE a ADD COLUMN i int"),
])
def test_a_statement_that_is_edited_after_it_was_cut_off_is_refused(request, query, engine, statement):
    made = request.getfixturevalue("yugabyte" if engine == "yugabytedb" else "made")
    text = f"-- no-transaction\nCREATE TABLE a (n int); {statement};"

    def killed():
        execute = schema_postgres.PostgresBackend.execute

        def once(self, one):
            execute(self, one)
            if one.text == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        schema_postgres.PostgresBackend.execute = once
        made.apply()

    made.write(V1__a=text)
    assert in_child(killed) == -signal.SIGKILL
    query("DELETE FROM schema_ledger.lease")  # instead of waiting for its end
    made.write(V1__a=text.replace("a (n)", "a ((n + 1))").replace("COLUMN i", "COLUMN j"))
    said = made.refused()
    assert "V1__a.sql was changed after a run had been cut off in it" in said and "repair" in said
    made.write(V1__a=text)
    assert made.apply()["applied"] == ["V1__a.sql"]


@pytest.mark.parametrize("engine", ["yugabytedb", "clickhouse"])
def test_a_cleared_script_begins_anew(request, engine):
    made = request.getfixturevalue("yugabyte" if engine == "yugabytedb" else "made_clickhouse")
    end = "" if engine == "yugabytedb" else " ENGINE = Memory"
    made.write(V1__a=f"CREATE TABLE a (n int){end}; SELECT broken;")
    made.refused()
    made.write(V1__a=f"CREATE TABLE b (n int){end};")
    assert "the first 1 statements" in made.refused()
    result = made.apply(repair=["V1__a.sql"])
    assert (result["repaired"], result["applied"]) == (["V1__a.sql"], ["V1__a.sql"])


def test_settings_of_the_session_hold_for_the_rest_of_a_resumed_script(yugabyte, query):
    yugabyte.write(V1__a="CREATE SCHEMA s;\nSET search_path = s;\nCREATE TABLE a (n int);\nCREATE TABLE b (n broken);")
    yugabyte.refused()
    yugabyte.write(V1__a="CREATE SCHEMA s;\nSET search_path = s;\nCREATE TABLE a (n int);\nCREATE TABLE b (n int);")
    yugabyte.apply()
    assert query("SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'b'") == [("s",)]


def test_a_use_holds_for_the_rest_of_a_resumed_script(made_clickhouse, clickhouse, unique):
    ask, other = clickhouse.query, f"{unique}_other"
    text = (
        f"CREATE DATABASE {other};\nCREATE TABLE a (n int) ENGINE = Memory;\nUSE `{other}`;\n"
        "CREATE TABLE a (n int) ENGINE = MergeTree ORDER BY n;\nINSERT INTO a VALUES (1);\n"
        "INSERT INTO nowhere VALUES (2);\n"
    )
    try:
        made_clickhouse.write(V1__a=text)
        assert f"{other}.nowhere" in made_clickhouse.refused()
        made_clickhouse.write(V1__a=text.replace("nowhere", "a"))
        made_clickhouse.apply()
        assert ask(f"SELECT n FROM {other}.a ORDER BY n") == "1\n2\n"
        assert ask(f"SELECT count() FROM {made_clickhouse.options['database']}.a") == "0\n"
        # It can go and come back, as in a script that makes its own database anew.
        text = (
            f"USE {other};\nDROP DATABASE {other} SYNC;\nSELECT broken;\nCREATE DATABASE {other};\n"
            "CREATE TABLE b (n int) ENGINE = Memory;"
        )
        made_clickhouse.write(V2__b=text)
        made_clickhouse.refused()
        made_clickhouse.write(V2__b=text.replace("broken", "1"))
        made_clickhouse.apply()
        assert ask(f"SELECT name FROM system.tables WHERE database = '{other}'") == "b\n"
    finally:
        ask(f"DROP DATABASE IF EXISTS {other} SYNC")


FLAKY = """CREATE SEQUENCE IF NOT EXISTS tries;
CREATE OR REPLACE FUNCTION flaky(times int, state text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
IF nextval('tries') <= times THEN RAISE EXCEPTION 'try again' USING ERRCODE = state; END IF; RETURN 1; END $$"""


@pytest.mark.parametrize("engine", ["postgresql", "yugabytedb"])
def test_transient_errors_are_retried(request, query, engine):
    made = request.getfixturevalue("yugabyte" if engine == "yugabytedb" else "made")
    query(FLAKY)
    made.write(
        V1__a="CREATE TABLE a (n int); INSERT INTO a SELECT flaky(2, '40001'); CREATE TABLE b AS SELECT "
              "flaky(2, '40001');"
    )
    made.apply()
    assert query("SELECT count(*) FROM a") == [(1,)]


def test_transient_errors_do_not_last_for_ever(yugabyte, query, monkeypatch):
    query(FLAKY)
    monkeypatch.setattr(postgres_module.Dialect.retry, "__defaults__", (0.5, time.sleep))
    yugabyte.write(V1__a="SELECT flaky(100000, '40001');")
    assert "try again" in yugabyte.refused()


def dies_in_the_middle(made, kill):
    """Apply in a process of its own, call kill() while the script's slow statement runs. The first run's result."""
    result = begin_in_child(made.apply)
    kill()
    return result()


def sleeping(server):
    """Whether a statement of a script is asleep on a PostgreSQL."""
    try:
        return bool(
            server.query("SELECT 1 FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep' AND state = 'active'")
        )
    except Exception:
        return False


@pytest.mark.parametrize("first", ["", "-- no-transaction\n"], ids=["one transaction", "no transaction"])
def test_a_connection_that_dies_in_the_middle(made, query, postgres, first):
    made.write(
        V1__a=f"{first}CREATE TABLE a (n int);\nINSERT INTO a VALUES (1);\nSELECT pg_sleep(3);\n"
              f"INSERT INTO a VALUES (2);"
    )

    def kill():
        wait_for(lambda: sleeping(postgres), "the statement sleeps")
        postgres.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'")

    result = dies_in_the_middle(made, kill)
    assert "(statement 3 of 4)" in result["error"] and "The connection is gone. Run again" in result["error"]
    assert made.apply()["applied"] == ["V1__a.sql"]
    assert query("SELECT n FROM a ORDER BY n") == [(1,), (2,)]


@pytest.mark.parametrize("first", ["", "-- no-transaction\n"], ids=["one transaction", "no transaction"])
def test_a_postgresql_that_crashes_in_the_middle(tmp_path, first):
    server = PostgresServer()
    try:
        server.start()
        made = ScriptSet(tmp_path / "set", engine="postgresql", database="postgres", **server.login())
        made.write(
            V1__a="CREATE TABLE a (n int);",
            V2__b=f"{first}INSERT INTO a VALUES (1);\nSELECT pg_sleep(3);\nINSERT INTO a VALUES (2);",
        )

        def kill():
            wait_for(lambda: sleeping(server), "the statement sleeps")
            server.stop("immediate")
            server.start()

        assert "error" in dies_in_the_middle(made, kill)
        assert made.apply()["applied"] == ["V2__b.sql"]
        assert server.query("SELECT n FROM a ORDER BY n") == [(1,), (2,)]
        assert not made.apply()["changed"]
    finally:
        server.close()


def test_a_clickhouse_that_is_killed_in_the_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_clickhouse.Lease, "seconds", 2)
    server = ClickHouseServer()
    try:
        server.start()
        server.query("CREATE DATABASE d")
        made = ScriptSet(tmp_path / "set", engine="clickhouse", database="d", **server.login())
        made.write(
            V1__a="CREATE TABLE a (n UInt8) ENGINE = MergeTree ORDER BY n;\nINSERT INTO a VALUES (1);\n"
                  "SELECT sleep(3);\n"
            "INSERT INTO a VALUES (2);\nCREATE TABLE b (n UInt8) ENGINE = MergeTree ORDER BY n;"
        )

        def kill():
            wait_for(
                lambda: server.query("SELECT count() FROM system.processes WHERE startsWith(query, 'SELECT sleep(')")
                == "1\n",
                "the statement sleeps",
            )
            server.stop(signal.SIGKILL)
            server.start()

        assert "Run again" in dies_in_the_middle(made, kill)["error"]
        assert made.apply()["applied"] == ["V1__a.sql"]
        assert server.query("SELECT n FROM d.a ORDER BY n") == "1\n2\n"
        assert not made.apply()["changed"]
    finally:
        server.close()


def test_a_statement_that_the_server_still_runs_is_waited_for(made_clickhouse, clickhouse, monkeypatch):
    monkeypatch.setattr(ledger_clickhouse.Lease, "seconds", 1)
    database = made_clickhouse.options["database"]
    made_clickhouse.write(
        V1__a="CREATE TABLE a (n UInt8) ENGINE = MergeTree ORDER BY n;\n"
              "INSERT INTO a SELECT sleepEachRow(0.5) FROM numbers(5) "
        "SETTINGS max_block_size = 1;\nINSERT INTO a VALUES (2);"
    )

    def die():
        child = os.getpid()
        threading.Thread(target=lambda: (wait_for(running, "the INSERT runs"), os.kill(child, signal.SIGKILL))).start()
        return made_clickhouse.apply()

    def running():
        return (
            clickhouse.query("SELECT count() FROM system.processes WHERE startsWith(query, 'INSERT INTO a SELECT')")
            == "1\n"
        )

    assert in_child(die) == -9
    made_clickhouse.apply()
    assert clickhouse.query(f"SELECT count() FROM {database}.a") == "6\n"


@pytest.mark.parametrize("engine", ["yugabytedb", "clickhouse"])
def test_the_lease_of_a_dead_run_ends(request, engine, monkeypatch):
    made = request.getfixturevalue("yugabyte" if engine == "yugabytedb" else "made_clickhouse")
    module = ledger_postgres if engine == "yugabytedb" else ledger_clickhouse
    made.write(V1__a="SELECT 1")

    def die():
        monkeypatch.setattr(module.Lease, "seconds", 3)
        monkeypatch.setattr(module.Lease, "check", lambda self: os.kill(os.getpid(), signal.SIGKILL))
        return made.apply()

    assert in_child(die) == -9
    assert "tester" in made.refused(lock_timeout=0)
    assert made.apply(lock_timeout=30)["applied"] == ["V1__a.sql"]


@pytest.mark.parametrize("engine", ["yugabytedb", "clickhouse"])
def test_a_run_that_loses_its_lease_stops(request, engine, monkeypatch):
    made = request.getfixturevalue("yugabyte" if engine == "yugabytedb" else "made_clickhouse")
    module = ledger_postgres if engine == "yugabytedb" else ledger_clickhouse
    monkeypatch.setattr(module.Lease, "seconds", HOLD)
    monkeypatch.setattr(module.Lease, "_renew", lambda self: None)
    end = "" if engine == "yugabytedb" else " ENGINE = Memory"
    made.write(
        V1__a=("SELECT pg_sleep(1)" if engine == "yugabytedb" else "SELECT sleep(1)")
        + f";\nCREATE TABLE late (n int){end};"
    )
    assert "lease on the ledger was lost" in made.refused()
    monkeypatch.undo()
    if engine == "yugabytedb":
        monkeypatch.setattr(postgres_module, "dialect", lambda connection: postgres_module.YugabyteDB((2, 20, 0)))
    assert made.apply()["changed"]


@pytest.mark.parametrize("engine", ["yugabytedb", "clickhouse"])
def test_two_runs_with_a_lease_apply_everything_once(request, engine):
    made = request.getfixturevalue("yugabyte" if engine == "yugabytedb" else "made_clickhouse")
    end = "" if engine == "yugabytedb" else " ENGINE = Memory"
    made.files({f"V{n}__t.sql": f"CREATE TABLE t{n} (n int){end}; INSERT INTO t{n} VALUES ({n});" for n in range(1, 6)})
    results = [result() for result in [begin_in_child(made.apply) for _number in range(4)]]
    assert not [result for result in results if "error" in result]
    assert sorted(len(result["applied"]) for result in results) == [0, 0, 0, 5]


@pytest.fixture
def small_disk():
    """A file system of 24 MB that every account may use."""
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    folder.chmod(0o755)
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder], check=False).returncode
    ):
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


@pytest.mark.parametrize("first", ["", "-- no-transaction\n"], ids=["one transaction", "no transaction"])
def test_a_full_disk_under_postgresql(small_disk, tmp_path, first):
    server = PostgresServer()
    try:
        server.start()
        space = small_disk / "space"
        space.mkdir()
        if server._account:
            shutil.chown(space, server._account)
        server.query(f"CREATE TABLESPACE small LOCATION '{space}'")
        made = ScriptSet(tmp_path / "set", engine="postgresql", database="postgres", **server.login())
        fill = "INSERT INTO a SELECT repeat('x', 1000) FROM generate_series(1, %d);"
        made.write(
            V1__a=f"{first}CREATE TABLE a (t text) TABLESPACE small;\nINSERT INTO a VALUES ('y');\n" + fill % 40000
        )
        said = made.refused()
        assert "No space left on device" in said and "(statement 3 of 3)" in said
        assert server.query("SELECT status, completed FROM schema_ledger.scripts") == [("failed", 2 if first else 0)]
        made.write(V1__a=f"{first}CREATE TABLE a (t text) TABLESPACE small;\nINSERT INTO a VALUES ('y');\n" + fill % 10)
        # Without a transaction what the failed statement wrote keeps its room: give the disk more.
        subprocess.run(["mount", "-o", "remount,size=128m", small_disk], check=True)
        made.apply()
        assert server.query("SELECT count(*) FROM a") == [(11,)]
    finally:
        server.close()


def test_a_full_disk_under_clickhouse(small_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    server = ClickHouseServer()
    monkeypatch.undo()
    monkeypatch.setattr(ledger_clickhouse.Lease, "seconds", 2)
    try:
        server.start()
        server.query("CREATE DATABASE d")
        made = ScriptSet(tmp_path / "set", engine="clickhouse", database="d", **server.login())
        text = (
            "CREATE TABLE a (n UInt64, s String) ENGINE = MergeTree ORDER BY n;\nINSERT INTO a VALUES (1, 'y');\n"
            "INSERT INTO a SELECT number, randomString(1000) FROM numbers(%d);\nINSERT INTO a VALUES (2, 'z');"
        )
        made.write(V1__a=text % 50000)
        said = made.refused()
        assert "(statement 3 of 4)" in said and "space" in said.lower(), said
        made.write(V1__a=text % 10)
        wait_for(lambda: "error" not in in_child(made.apply), "there is room again", seconds=60)
        assert server.query("SELECT count() FROM d.a") == "12\n"
    finally:
        server.close()


def test_two_that_ask_for_a_clickhouse_lease_at_once_do_not_both_get_it(made_clickhouse, clickhouse, monkeypatch):
    """Another run writes its row between our look and our write: who sees another withdraws."""
    made_clickhouse.write(init="SELECT 1").apply()
    table = f"{made_clickhouse.options['database']}.schema_ledger_lease"
    write = ledger_clickhouse.Lease._write

    def overtaken(lease, client, seconds):
        clickhouse.query(f"INSERT INTO {table} SELECT 'rival', 'the rival', now64(3) + INTERVAL 60 SECOND, 1")
        write(lease, client, seconds)

    monkeypatch.setattr(ledger_clickhouse.Lease, "_write", overtaken)
    made_clickhouse.write(V1__a="CREATE TABLE a (n UInt8) ENGINE = Memory")
    assert "the rival" in made_clickhouse.refused(lock_timeout=0)
    mine = clickhouse.query(f"SELECT count() FROM {table} FINAL WHERE id != 'rival' AND expires_at > now64(3)")
    assert mine == "0\n"


def test_a_clickhouse_user_who_may_have_one_query_at_a_time(tmp_path, monkeypatch):
    """Statements wait while the server lists its functions, which is asked for on a second connection."""
    monkeypatch.setattr(schema_clickhouse, "_FUNCTIONS", f"{schema_clickhouse._FUNCTIONS} AND (SELECT sleep(1)) = 0")
    start = schema_clickhouse._Beside.start
    server = ClickHouseServer(profile="<max_concurrent_queries_for_user>1</max_concurrent_queries_for_user>")

    def start_and_wait(beside):
        start(beside)
        asked = "SELECT 1 FROM system.processes WHERE query LIKE '%AND (SELECT sleep(1)) = 0'"
        wait_for(lambda: server.query(asked), "the server lists its functions")

    monkeypatch.setattr(schema_clickhouse._Beside, "start", start_and_wait)
    try:
        server.start()
        server.query("CREATE DATABASE d")
        made = ScriptSet(tmp_path / "set", engine="clickhouse", database="d", **server.login())
        made.write(V1__a="CREATE TABLE a (n UInt8) ENGINE = Memory").apply()
        assert not made.apply(state="verified")["changed"]
    finally:
        server.close()


def test_functions_are_asked_for_again_where_the_second_connection_fails(made_clickhouse, clickhouse, monkeypatch):
    backend, failed = schema_clickhouse.ClickHouseBackend, []
    function, connect = f"f_{made_clickhouse.options['database']}", backend._client

    def only_one(self):
        if self.client:
            failed.append(True)
            raise ConnectionFailed("no second connection")
        return connect(self)

    clickhouse.query(f"CREATE FUNCTION {function} AS n -> n + 1")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(backend, "_client", only_one)
            made_clickhouse.write(V1__a="CREATE TABLE a (n UInt8) ENGINE = Memory").apply()
        assert failed and not made_clickhouse.apply(state="verified")["changed"]
        clickhouse.query(f"DROP FUNCTION {function}")
        assert f"dropped  function {function}" in made_clickhouse.refused(state="verified")
    finally:
        clickhouse.query(f"DROP FUNCTION IF EXISTS {function}")


def test_a_lost_connection_is_never_asked_twice():
    """A server that closes without an answer may have executed the statement."""
    import socket

    from ansible_collections.frameworks.database.plugins.module_utils import clickhouse as module

    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve():
            answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""]
            connection, _address = listener.accept()
            with connection:
                for answer in answers:
                    asked.append(connection.recv(65536).split(b" ")[0])
                    connection.sendall(answer)
            listener.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                asked.append(listener.accept())

        server = threading.Thread(target=serve)
        server.start()
        client = module.Client({"login_host": "127.0.0.1", "login_port": listener.getsockname()[1]})
        client.execute("SELECT 1")
        with pytest.raises(module.ConnectionFailed):
            client.execute("INSERT INTO t VALUES (1)")
        server.join()
    assert len(asked) == 2
