"""A run that is killed anywhere: the next one ends where an undisturbed one would have."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import clickhouse as clickhouse_module
from ansible_collections.frameworks.database.plugins.module_utils import (
    ledger_postgres,
    schema_clickhouse_steps,
    schema_postgres,
)
from ansible_collections.frameworks.database.plugins.module_utils import postgres as postgres_module
from support.playbooks import ROOT
from support.ports import wait_for
from support.scripts import Reaper, ScriptSet, in_child

POSTGRES_SCRIPTS = {
    "init.sql": "CREATE TABLE a (id int PRIMARY KEY, n int);\nINSERT INTO a VALUES (1, 1), (2, 2);",
    "V1__more.sql": "SET search_path = public;\nALTER TABLE a ADD m int;\nUPDATE a SET n = n + 1;\n"
    "CREATE TABLE b (id int);\n"
    "COPY b FROM STDIN;\n1\n2\n\\.\n",
    "V2__outside.sql": "-- no-transaction\nCREATE TABLE c (id int, t text);\n"
    "INSERT INTO c SELECT g, 'x' FROM generate_series(1, 50) g;\n"
    "CREATE INDEX CONCURRENTLY c_id ON c (id);\nBEGIN;\nUPDATE c SET id = id + 1;\nINSERT INTO c VALUES (0, 'y');\n"
    "COMMIT;\n"
    "INSERT INTO a VALUES (3, 3);\nDROP INDEX CONCURRENTLY c_id;\nCREATE UNIQUE INDEX CONCURRENTLY c_u ON c (id);\n"
    "VACUUM c;",
    "R__view.sql": "CREATE OR REPLACE VIEW v AS SELECT sum(n) AS total FROM a;",
}
CLICKHOUSE_SCRIPTS = {
    "init.sql": "CREATE TABLE a (id UInt32, n UInt32) ENGINE = MergeTree ORDER BY id;\n"
    "CREATE TABLE b (id UInt32) ENGINE = MergeTree ORDER BY id;\n"
    "CREATE DICTIONARY f (id UInt64, n UInt32) PRIMARY KEY id SOURCE(NULL()) LAYOUT(FLAT()) LIFETIME(0);\n"
    "INSERT INTO a VALUES (1, 1), (2, 2);\nCREATE VIEW v AS SELECT sum(n) AS total FROM a;",
    "V1__more.sql": "SET mutations_sync = 2;\nALTER TABLE a ADD COLUMN m UInt8 DEFAULT 1;\n"
    "ALTER TABLE a UPDATE n = n + 1 WHERE 1;\n"
    "INSERT INTO b SELECT number FROM numbers(10);\nINSERT INTO b SELECT number FROM numbers(5);\n"
    "CREATE TABLE c (id UInt32) ENGINE = Memory;\nINSERT INTO c VALUES (1);\nRENAME TABLE b TO d;\n"
    "CREATE TABLE b (id UInt32) ENGINE = MergeTree ORDER BY id;\nEXCHANGE TABLES b AND d;\nDROP TABLE d;\n"
    "CREATE TABLE e ENGINE = MergeTree ORDER BY id AS SELECT * FROM a;\nALTER TABLE a DROP COLUMN m;",
    "R__view.sql": "CREATE OR REPLACE VIEW w AS SELECT count() AS c FROM b;",
}


def postgres_state(server, database):
    """Everything that the scripts make, with the rows, and what the ledger says."""
    return server.query(
        "SELECT (SELECT json_agg(a ORDER BY id) FROM a)::text, (SELECT json_agg(b ORDER BY id) FROM b)::text, "
        "(SELECT json_agg(c ORDER BY id) FROM c)::text, (SELECT total FROM v), "
        "(SELECT array_agg(c.relname || c.relkind::text || coalesce(i.indisvalid, true) ORDER BY c.relname) FROM "
        "pg_class c "
        "LEFT JOIN pg_index i ON i.indexrelid = c.oid WHERE relnamespace = 'public'::regnamespace), "
        "(SELECT array_agg(concat_ws(' ', script, status, completed, statements) ORDER BY script) FROM "
        "schema_ledger.scripts)",
        database=database,
    )


def clickhouse_state(server, database):
    """Everything that the scripts make, with the rows."""
    tables = server.query(
        f"SELECT name, replaceAll(create_table_query, '{database}', 'd') FROM system.tables WHERE database = "
        f"'{database}' "
        "AND NOT startsWith(name, 'schema_ledger') ORDER BY name"
    )
    names = [line.split("\t")[0] for line in tables.splitlines()]
    rows = {name: server.query(f"SELECT * FROM {database}.{name} ORDER BY ALL") for name in names}
    ledger = server.query(
        f"SELECT script, status, completed, statements FROM {database}.schema_ledger FINAL ORDER BY script"
    )
    return tables, rows, ledger


def patch_postgres(reaper):
    """Count what goes to PostgreSQL; in the child only."""
    backend = schema_postgres.PostgresBackend
    backend.run = staticmethod(reaper.around(backend.run))
    backend.execute = reaper.around(backend.execute)
    ledger_postgres.PostgresLedger._execute = reaper.around(ledger_postgres.PostgresLedger._execute)


def pretend_yugabyte():
    """Treat the PostgreSQL of the tests as a YugabyteDB: no transactional DDL, no advisory locks, a lease."""
    postgres_module.dialect = lambda connection: postgres_module.YugabyteDB((2, 20, 0))


def kill_everywhere(made, kill, prepare, forget_lease, state):
    """Apply `made` once for each call to the server, killed behind it, and then undisturbed: the same state each time.

    kill(reaper) installs the Reaper and prepare() what the engine needs, both in the child. forget_lease() is the
    expiry of the dead run's lease; tests of their own wait for it. Returns how many calls there are.
    """

    def disturbed(number):
        prepare()
        kill(Reaper(number))
        return made.apply()

    def undisturbed():
        prepare()
        return made.apply()

    expected, number = None, 0
    while True:
        first = in_child(functools.partial(disturbed, number))
        if number and first != -9:
            return number
        if number:
            forget_lease()
            second = in_child(undisturbed)
            assert "applied" in second, (number, second)
        if number % 8 == 0:
            third = in_child(undisturbed)
            assert third.get("changed") is False, (number, third)
        found = state()
        expected = expected or found
        assert found == expected, f"killed after call {number}"
        number += 1


@pytest.mark.parametrize("engine", ["postgresql", "yugabytedb"])
def test_killed_at_every_call_to_postgresql(postgres, postgres_database, tmp_path, engine):
    scripts = dict(POSTGRES_SCRIPTS)
    if engine == "yugabytedb":
        scripts["V2__outside.sql"] = scripts["V2__outside.sql"].replace("CONCURRENTLY ", "")
    made = ScriptSet(tmp_path, engine=engine, database=postgres_database, **postgres.login()).files(scripts)

    def state():
        found = postgres_state(postgres, postgres_database)
        postgres.query(
            "DROP SCHEMA schema_ledger CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public",
            database=postgres_database,
        )
        return found

    def forget_lease():
        if (
            engine == "yugabytedb"
            and postgres.query("SELECT to_regclass('schema_ledger.lease')", database=postgres_database)[0][0]
        ):
            postgres.query("DELETE FROM schema_ledger.lease", database=postgres_database)

    calls = kill_everywhere(
        made, patch_postgres, pretend_yugabyte if engine == "yugabytedb" else lambda: None, forget_lease, state
    )
    assert calls > 40


def test_killed_at_every_call_to_clickhouse(clickhouse, clickhouse_database, tmp_path):
    made = ScriptSet(tmp_path, engine="clickhouse", database=clickhouse_database, **clickhouse.login()).files(
        CLICKHOUSE_SCRIPTS
    )

    def kill(reaper):
        schema_clickhouse_steps.WINDOW = 2  # the three tables of init.sql need two markers
        clickhouse_module.Client.execute = reaper.around(clickhouse_module.Client.execute)

    def state():
        found = clickhouse_state(clickhouse, clickhouse_database)
        clickhouse.query(f"DROP DATABASE {clickhouse_database} SYNC")
        clickhouse.query(f"CREATE DATABASE {clickhouse_database}")
        return found

    calls = kill_everywhere(
        made,
        kill,
        lambda: None,
        lambda: clickhouse.query(f"TRUNCATE TABLE IF EXISTS {clickhouse_database}.schema_ledger_lease"),
        state,
    )
    assert calls > 40


# ---- psql, which is a process of its own ----

GATE = 4711  # the advisory lock that the scripts wait for; any output would meet a reader who is gone
WAITS = f"\\set n 1\nSET client_min_messages = error;\nSELECT pg_advisory_xact_lock({GATE}) \\gset\n"
WAITS += "CREATE TABLE IF NOT EXISTS a (n int);\nINSERT INTO a VALUES (:n);\n"


@contextlib.contextmanager
def a_run(made, **environment):
    """A run in a process of its own, as a Popen."""
    program = (
        "import json, sys; from support.modules import run_module; run_module('schema_apply', json.loads(sys.argv[1]))"
    )
    path = os.pathsep.join((str(ROOT / "collections"), str(ROOT / "tests")))
    with subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(made.options)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, **environment},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def gated(postgres, postgres_database, tmp_path):
    """(ScriptSet whose one script, with a command of psql's, waits; how many wait; what lets them go on)."""
    gate = postgres.connect(postgres_database)
    gate.cursor().execute(f"SELECT pg_advisory_lock({GATE})")

    def waiting():
        return postgres.query(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted", (GATE,)
        )[0][0]

    made = ScriptSet(tmp_path / "set", engine="postgresql", database=postgres_database, **postgres.login())
    yield made.write(V1__a=WAITS), waiting, gate.close
    gate.close()


def sessions(postgres, database):
    """How many are logged in to the database."""
    return postgres.query("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (database,))[0][0]


def test_no_run_begins_while_psql_of_a_killed_one_is_at_work(gated, postgres, postgres_database):
    made, waiting, release = gated
    with a_run(made) as first:
        wait_for(waiting, "the script waits")
        first.send_signal(signal.SIGKILL)
        first.wait()
    said = in_child(lambda: made.refused(lock_timeout=0), timeout=20)
    assert "holds the lock" in str(said) and waiting() == 1
    assert "another run" in made.apply(check=True)["lock_holder"]
    release()
    wait_for(lambda: sessions(postgres, postgres_database) == 0, "psql ends")
    assert made.apply()["applied"] == []
    assert postgres.query("SELECT n FROM a", database=postgres_database) == [(1,)]


def test_a_psql_that_starts_after_its_run_was_killed_does_nothing(gated, postgres, postgres_database, tmp_path):
    made, _waiting, release = gated
    release()
    late, there, go = tmp_path / "psql", tmp_path / "there", tmp_path / "go"
    os.mkfifo(go)
    late.write_text(
        f"#!/bin/sh\ncat > {tmp_path}/input\ntouch {there}\nread -r _ < {go}\n"
        f"/usr/bin/psql \"$@\" < {tmp_path}/input\necho ended > {go}\n"
    )
    late.chmod(0o755)
    with a_run(made, PATH=f"{tmp_path}:{os.environ['PATH']}") as first:
        wait_for(there.exists, "psql starts")
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert made.apply()["applied"] == ["V1__a.sql"]
    go.write_text("go\n")
    assert go.read_text() == "ended\n"
    assert postgres.query("SELECT n FROM a", database=postgres_database) == [(1,)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_psql_ends_with_a_run_that_is_told_to(gated, postgres, postgres_database, tmp_path, number):
    made, waiting, release = gated
    (tmp_path / "tmp").mkdir()
    with a_run(made, TMPDIR=str(tmp_path / "tmp")) as first:
        wait_for(waiting, "the script waits")
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        first.send_signal(number)
        first.wait(timeout=30)
    assert children and not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not list((tmp_path / "tmp").iterdir())
    release()
    assert made.apply()["applied"] == ["V1__a.sql"]
    assert postgres.query("SELECT n FROM a", database=postgres_database) == [(1,)]
