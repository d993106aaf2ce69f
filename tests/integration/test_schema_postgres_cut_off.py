"""What becomes of a PostgreSQL (or YugabyteDB) script that was cut off, or of which a part had failed."""

import os
import signal
import threading

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import drift_postgres, schema_postgres, schema_psql
from ansible_collections.frameworks.database.plugins.module_utils import postgres as postgres_module
from support.ports import wait_for
from support.scripts import begin_in_child, in_child

FIRST = "-- no-transaction\n"


def forget_lease(query):
    """The lease of a dead run ends. A short one could end in a run that lives, on a busy machine."""
    query("DELETE FROM schema_ledger.lease")


def dies(made, query, before=False):
    """Apply in a process that is killed before, or after, the first statement that runs by itself."""
    def killed():
        execute = schema_postgres.PostgresBackend.execute

        def once(self, statement):
            alone = self.connection.info.transaction_status == 0
            if not (alone and before):
                execute(self, statement)
            if alone:
                os.kill(os.getpid(), signal.SIGKILL)

        schema_postgres.PostgresBackend.execute = once
        made.apply()

    assert in_child(killed) == -signal.SIGKILL
    forget_lease(query)


def indexes(query, table):
    return query(f"SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = '{table}'::regclass")


def test_a_block_whose_commit_fails_is_not_done(made, query):
    made.write(V1__a=FIRST + "CREATE TABLE a (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);\n"
                             "BEGIN;\nINSERT INTO a VALUES (1), (1);\nCOMMIT;\nINSERT INTO a VALUES (3);")
    for _time in 1, 2:
        assert "Its first 1 of 5 statements" in made.refused()
    made.write(V1__a=FIRST + "CREATE TABLE a (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);\n"
                             "BEGIN;\nINSERT INTO a VALUES (1), (2);\nCOMMIT;\nINSERT INTO a VALUES (3);")
    made.apply()
    assert query("SELECT n FROM a ORDER BY n") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("text", [
    FIRST + "CREATE TABLE other (n int)", "INSERT INTO a VALUES (1); INSERT INTO a VALUES (2)",
    "\\set x 1\nINSERT INTO a VALUES (:x);",
])
def test_a_script_that_loses_what_is_done_is_refused(made, query, text):
    query("CREATE TABLE a (n int)")
    made.write(V1__a=FIRST + "INSERT INTO a VALUES (1); INSERT INTO a VALUES (2); INSERT INTO nowhere VALUES (1);")
    made.refused()
    made.write(V1__a=text)
    assert "first 2 statements" in made.refused()
    assert query("SELECT count(*) FROM a") == [(2,)]


@pytest.mark.parametrize("index", ["T_Idx ON BigTable", "${i} ON ${t}"])
def test_a_failed_index_is_found_by_the_servers_spelling(made, query, index):
    made.options["placeholders"] = {"i": "t_idx", "t": "bigtable"}
    made.write(V1__a="CREATE TABLE BigTable (n int); INSERT INTO BigTable VALUES (1), (1);",
               V2__i=f"{FIRST}CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {index} (n);")
    assert "is duplicated" in made.refused()
    query("TRUNCATE bigtable")
    made.apply()
    assert indexes(query, "bigtable") == [("t_idx", True)]


@pytest.mark.parametrize(
    "text", ["REINDEX INDEX CONCURRENTLY Idx", "CREATE INDEX CONCURRENTLY IF NOT EXISTS Two ON ZZ (n)"]
)
def test_an_index_that_was_cut_off_is_built_again(made, query, postgres, text):
    made.write(V1__a="CREATE TABLE zz (n int); CREATE INDEX idx ON zz (n);").apply()
    made.write(V2__i=f"{FIRST}{text};")
    other = postgres.connect(database=made.options["database"])
    other.autocommit = False
    other.cursor().execute("INSERT INTO zz VALUES (5)")
    result = begin_in_child(made.apply)
    busy = "FROM pg_stat_activity WHERE query ~ 'CONCURRENTLY' AND pid <> pg_backend_pid() AND wait_event_type = 'Lock'"
    wait_for(lambda: postgres.query(f"SELECT 1 {busy}"), "the statement waits")
    postgres.query(f"SELECT pg_terminate_backend(pid) {busy}")
    assert "connection is gone" in result()["error"]
    other.close()
    made.apply()
    assert set(indexes(query, "zz")) == {("idx", True), *([("two", True)] if "Two" in text else [])}


@pytest.mark.parametrize("by_hand", ["GRANT SELECT ON zz TO PUBLIC", "CREATE TABLE other (n int)"])
def test_what_others_do_is_not_taken_for_the_statements_effect(made, query, by_hand):
    made.write(V1__a="CREATE TABLE zz (n int);").apply()
    made.write(V2__i=FIRST + "CREATE INDEX CONCURRENTLY idx ON zz (n);")
    dies(made, query, before=True)
    query(by_hand)
    assert made.apply()["applied"] == ["V2__i.sql"]
    assert indexes(query, "zz") == [("idx", True)]


@pytest.mark.parametrize("statement", [
    "CREATE INDEX ON zz (n)", "CREATE INDEX I2 ON zz (n)", "ALTER TABLE zz ADD UNIQUE (n)", "ALTER TABLE Zz ADD m int",
    "CREATE TABLE b (n int)", "CREATE VIEW v AS SELECT n FROM zz", "DROP TABLE zz", "ALTER TABLE zz RENAME TO yy",
    "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE TYPE e AS ENUM ('a')", "CREATE SCHEMA s",
    "CREATE POLICY p ON zz USING (true)", "CREATE DOMAIN d AS int", "CREATE SEQUENCE q", 'CREATE TABLE "my table" ()',
    "ALTER TABLE zz RENAME n TO o", "CREATE TABLE ${t} (n int)",
])
def test_what_a_cut_off_statement_has_done_is_not_done_again(yugabyte, query, statement):
    yugabyte.options["placeholders"] = {"t": "placed"}
    query("CREATE TABLE zz (n int)")
    yugabyte.write(V1__a=f"{statement};")
    dies(yugabyte, query)
    assert yugabyte.apply()["applied"] == ["V1__a.sql"]
    assert query("SELECT count(*) FROM pg_class WHERE relname ~ '^zz_n_idx'")[0][0] == ("INDEX ON" in statement)


def test_a_role_is_made_though_others_have_changed_the_schema(yugabyte, query, unique):
    yugabyte.write(V1__a=f"CREATE ROLE {unique};")
    dies(yugabyte, query, before=True)
    query("CREATE TABLE by_hand (n int)")
    yugabyte.apply()
    query(f"DROP ROLE {unique}")


def test_others_indexes_are_left_alone(made, query):
    made.write(V1__a="CREATE TABLE zz (n int, m int); INSERT INTO zz VALUES (1, 1), (1, 1);").apply()
    made.write(V2__i=FIRST + "CREATE INDEX CONCURRENTLY idx ON zz (n);")
    dies(made, query, before=True)
    with pytest.raises(Exception, match="is duplicated"):
        query("CREATE UNIQUE INDEX CONCURRENTLY by_hand ON zz (m)")
    made.apply()
    assert set(indexes(query, "zz")) == {("idx", True), ("by_hand", False)}


def test_a_block_that_was_cut_off_is_not_executed_twice(yugabyte, query):
    query("CREATE TABLE a (n int)")
    yugabyte.write(V1__a="DO $$ BEGIN INSERT INTO a VALUES (1); END $$;")
    dies(yugabyte, query)
    assert "was cut off at this statement" in yugabyte.refused()
    assert query("SELECT count(*) FROM a") == [(1,)]
    query("DELETE FROM a")
    yugabyte.apply()
    assert query("SELECT count(*) FROM a") == [(1,)]


def test_a_statement_that_the_server_still_runs_is_waited_for(yugabyte, query, postgres):
    yugabyte.write(V1__a="CREATE TABLE a AS SELECT 1 AS n FROM pg_sleep(2);")

    def die():
        child, busy = os.getpid(), "SELECT 1 FROM pg_stat_activity WHERE query ~ '^CREATE TABLE a' AND state = 'active'"
        threading.Thread(
            target=lambda: (wait_for(lambda: postgres.query(busy), "it runs"), os.kill(child, signal.SIGKILL))
        ).start()
        return yugabyte.apply()

    assert in_child(die) == -signal.SIGKILL
    forget_lease(query)
    yugabyte.apply()
    assert query("SELECT count(*) FROM a") == [(1,)]


def test_a_procedure_that_failed_in_its_middle_is_not_done(made, query):
    query("CREATE TABLE a (n int)")
    query("CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE x (n int); COMMIT; "
          "RAISE EXCEPTION 'try again' USING ERRCODE = '40001'; END $$")
    made.write(V1__a=FIRST + "CALL p();")
    assert "try again" in made.refused()


def test_what_psql_has_committed_is_applied_though_it_did_not_hear_of_it(made, query, tmp_path, monkeypatch):
    spy = tmp_path / "psql"
    spy.write_text('#!/bin/sh\n/usr/bin/psql "$@"\nexit 2\n')
    spy.chmod(0o755)
    monkeypatch.setattr(schema_psql.shutil, "which", lambda name: str(spy))
    made.write(V1__a="\\set x 1\nCREATE TABLE a (n int);\nINSERT INTO a VALUES (:x);")
    assert made.apply()["applied"] == ["V1__a.sql"]
    assert not made.apply()["changed"]


@pytest.mark.parametrize("command", ["\\prompt 'who? ' who", "\\copy a from pstdin"])
def test_psql_commits_nothing_without_the_ledgers_row(made, query, command):
    query("CREATE TABLE a (n text)")
    made.write(V1__a=f"{command}\nINSERT INTO a VALUES (1);")
    made.refused()
    assert query("SELECT count(*) FROM a") == [(0,)]


def test_a_commit_that_ends_with_a_command_of_psqls_is_refused(made, query):
    made.write(V1__a="CREATE TABLE a (n int);\nCOMMIT \\g\nSELECT 1/0;\n")
    assert "take its BEGIN and COMMIT out" in made.refused()


def test_psqls_error_has_its_own_line_and_no_secret(made):
    made.options["secret_placeholders"] = {"pw": "Sup3rSecretPassword" * 6 + "TAIL"}
    made.write(V1__a="\\set x 1\nDROP TABLE IF EXISTS nix;\n\nSELECT '${pw}' AS a, '1', nosuch FROM pg_class;\n")
    said = made.refused()
    assert "V1__a.sql, line 4: ERROR" in said and "nix" not in said and "TAIL" not in said


@pytest.mark.parametrize("text", [
    "SET TimeZone = 'Asia/Tokyo'", "SET quote_all_identifiers = on", "SET DateStyle = 'German'",
    "SET client_encoding = 'LATIN1'", "SET standard_conforming_strings = off", "SET ROLE pg_monitor",
])
@pytest.mark.parametrize("first", ["", FIRST])
def test_the_schema_is_recorded_whatever_the_last_script_sets(made, text, first):
    made.write(
        V1__a=f"{first}CREATE TABLE a (t timestamptz DEFAULT '2024-01-01 00:00:00+00', s text DEFAULT 'é\\');\n{text};"
    )
    made.apply()
    assert not made.apply(state="verified")["changed"] and not made.apply()["changed"]


def test_what_a_block_sets_and_takes_back_is_not_set_again(made, query):
    text = FIRST + "CREATE SCHEMA s;\nBEGIN; SET search_path = s; ROLLBACK;\nSELECT 1;\nCREATE TABLE t (n broken);"
    made.write(V1__a=text)
    made.refused()
    made.write(V1__a=text.replace("broken", "int")).apply()
    assert query("SELECT to_regclass('public.t')") == [("t",)]


def test_a_transient_error_that_lasts_names_its_statement(made, query, monkeypatch):
    monkeypatch.setattr(postgres_module.Dialect.retry, "__defaults__", (0.2, lambda seconds: None))
    made.write(V1__a="SELECT 1;\nDO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$;")
    assert "V1__a.sql, line 2 (statement 2 of 2)" in made.refused()
    assert query("SELECT status FROM schema_ledger.scripts") == [("failed",)]


@pytest.mark.parametrize("sql", [
    "ALTER TABLE c NO INHERIT p", "ALTER TABLE f DISABLE TRIGGER ALL", "ALTER TABLE f DISABLE RULE r",
    "ALTER TABLE p REPLICA IDENTITY FULL", "CREATE OR REPLACE AGGREGATE ag (int) (SFUNC = int4mul, STYPE = int)",
])
def test_drift(made, query, sql):
    made.write(V1__a="CREATE TABLE p (n int PRIMARY KEY); CREATE TABLE c () INHERITS (p); CREATE TABLE f (n int "
                     "REFERENCES p); CREATE RULE r AS ON DELETE TO f DO INSTEAD NOTHING; CREATE AGGREGATE ag (int) "
                     "(SFUNC = int4pl, STYPE = int);").apply()
    assert not made.apply(state="verified")["changed"]
    query(sql)
    assert "is not what was recorded" in made.refused(state="verified")


def test_what_a_restored_dump_says_in_another_way_is_no_drift(made, query):
    made.write(V1__a="CREATE TABLE t (s varchar(9) CONSTRAINT c CHECK (s IN ('new', 'it''s, ['))); CREATE VIEW v AS "
                     "SELECT 1 FROM t WHERE s NOT IN ('a', 'b') OR s = ANY (ARRAY['c', NULL]::varchar[])").apply()
    ((constraint, view),) = query("SELECT pg_get_constraintdef(oid), pg_get_viewdef('v'::regclass) FROM pg_constraint "
                                  "WHERE conname = 'c'")
    query(f"ALTER TABLE t DROP CONSTRAINT c, ADD CONSTRAINT c {constraint}; CREATE OR REPLACE VIEW v AS {view}")
    assert query("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'c'") != [(constraint,)]
    assert not made.apply(state="verified")["changed"]
    query(f"ALTER TABLE t DROP CONSTRAINT c, ADD CONSTRAINT c {constraint.replace('new', 'old')}")
    said = made.refused(state="verified")
    assert "changed  constraint c on public.t" in said and "view" not in said


def test_roles_that_were_made_in_another_order_are_no_drift(made, query, unique):
    policy = f"CREATE POLICY p ON t TO {unique}_b, {unique}_a"
    query(f"CREATE ROLE {unique}_b; CREATE ROLE {unique}_a")
    made.write(V1__a=f"CREATE TABLE t (n int); {policy}").apply()
    query(f"DROP POLICY p ON t; DROP ROLE {unique}_b; CREATE ROLE {unique}_b; {policy}")
    assert not made.apply(state="verified")["changed"]
    query(f"DROP POLICY p ON t; DROP ROLE {unique}_a, {unique}_b")


@pytest.mark.parametrize("select", [
    "SELECT * FROM (SELECT 'a' AS s, NULL::timestamptz AS at UNION SELECT 'b', NULL) AS w",
    "WITH w(k, n, c) AS (SELECT 'x'::\"char\", 1.5::float8, ''::varchar UNION SELECT 'y', '2', 'z') SELECT * FROM w",
    "SELECT 1 AS one WHERE EXISTS (SELECT 'x')",
])
def test_a_value_that_a_restore_names_after_its_type_is_no_drift(made, query, select):
    made.write(V1__a=f"CREATE VIEW v AS {select}").apply()
    ((before,),) = query("SELECT pg_get_viewdef('v'::regclass)")
    query(f"CREATE OR REPLACE VIEW v AS {before}")
    assert query("SELECT pg_get_viewdef('v'::regclass)") != [(before,)]
    assert not made.apply(state="verified")["changed"]


def test_an_aggregate_that_was_restored_is_no_drift(made, query):
    final = "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT $1'"
    aggregate = "CREATE AGGREGATE a (int) (SFUNC = int4pl, STYPE = int, FINALFUNC = f)"
    made.write(V1__a=f"{final}; {aggregate}").apply()
    query(f"DROP FUNCTION f CASCADE; {final}; {aggregate}")
    assert not made.apply(state="verified")["changed"]
    query(f"DROP AGGREGATE a (int); {aggregate.replace('FINALFUNC = f', 'FINALFUNC = int4um')}")
    assert "changed  aggregate public.a(integer)" in made.refused(state="verified")


def test_a_server_that_ends_while_the_schema_is_read_has_its_say(made, monkeypatch):
    made.write(V1__a="CREATE TABLE t (n int)").apply()
    monkeypatch.setattr(drift_postgres, "_OURS", "SELECT pg_terminate_backend(pg_backend_pid())")
    monkeypatch.setattr(drift_postgres, "MORE", "")
    assert "terminat" in made.refused(state="verified")  # libpq may not have read the server's own last words


@pytest.mark.parametrize("statement", ["DISCARD ALL", "SELECT pg_advisory_unlock_all()"])
def test_a_script_does_not_give_the_lock_back(made, statement):
    made.write(V1__a=f"{FIRST}SELECT 1;\n{statement};")
    assert "V1__a.sql, line 3: it would also give back the lock" in made.refused()
