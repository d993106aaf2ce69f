"""postgres_backup on YugabyteDB, as far as the stand-in shows it: its programs, plain scripts, no shared snapshot."""

import json
import os
import signal
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from support.modules import ModuleFailed, run_module
from support.ports import wait_for
from support.yugabyte import StandInCluster

PASSWORD = "of the superuser"


def login(cluster):
    """The superuser's, on node 1."""
    return {"login_host": cluster.address[1], "login_port": 5433, "login_user": "yugabyte", "login_db": "yugabyte",
            "login_password": PASSWORD}


def options(cluster, folder):
    """What all calls of postgres_backup have in common."""
    return {**login(cluster), "path": str(folder / "backups"), "reserve_mb": 1,
            "bin_dir": str(cluster.bin_dir.parent / "postgres/bin")}


@pytest.fixture(scope="module")
def cluster():
    """A running StandInCluster that asks for passwords, as only then each node shows only its own sessions."""
    cluster = StandInCluster(flags=lambda kind, number: {"ysql_enable_auth": "true"} if kind == "tserver" else {})
    try:
        cluster.start()
        cluster.sql(1, f"ALTER ROLE yugabyte PASSWORD '{PASSWORD}'", PGPASSWORD="yugabyte")
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def sql(cluster):
    """A function that executes a statement on node 1 and returns what it prints."""
    def run(statement, database="yugabyte"):
        done = cluster.sql(1, statement, PGDATABASE=database, PGPASSWORD=PASSWORD)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_what_was_lost_comes_back_in_place_and_busy_tables_fail_no_proof(cluster, sql, tmp_path):
    def backup(state="created", **more):
        return run_module("postgres_backup", {**options(cluster, tmp_path), "state": state, **more})

    sql("CREATE DATABASE frameworks")
    sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS n; CREATE TABLE busy (n int)", "frameworks")
    stop = threading.Event()

    def write():
        connection = psycopg2.connect(
            host=cluster.address[1], port=5433, user="yugabyte", password=PASSWORD, dbname="frameworks"
        )
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("INSERT INTO busy SELECT 1")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        made = backup(databases=["frameworks"])["backup"]
    finally:
        stop.set()
        thread.join()
    manifest = json.loads(Path(made["path"], "manifest.json").read_text())
    assert manifest["engine"] == "yugabytedb"
    tables = manifest["databases"]["frameworks"]["tables"]
    assert tables["public.t"][0] == 100 and tables["public.busy"] is None
    assert backup("proved")["backup"]["proof"]["passed"] is True
    sql("DELETE FROM t", "frameworks")
    # One that is connected through another node would go on to write into the replaced database.
    with subprocess.Popen(
        [cluster.bin_dir.parent / "postgres/bin/ysqlsh", "-X"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PGHOST": cluster.address[2], "PGPORT": "5433", "PGDATABASE": "frameworks",
             "PGPASSWORD": PASSWORD},
    ) as client:
        client.stdin.write("SELECT 'connected';\n")
        client.stdin.flush()
        assert "connected" in client.stdout.readline() + client.stdout.readline() + client.stdout.readline()
        backup("restored", replace=True)
        assert "closed" in client.communicate("SELECT 1;\n")[1]
    assert sql("SELECT count(*) FROM t", "frameworks") == "100"


def test_nothing_is_replaced_while_a_node_could_go_on_writing(cluster, sql, tmp_path):
    arguments = options(cluster, tmp_path)
    sql("CREATE DATABASE written")
    run_module("postgres_backup", {**arguments, "databases": ["written"]})
    cluster.processes["tserver-3"].send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(ModuleFailed, match=f"Cannot log in to {cluster.address[3]}:5433"):
            run_module("postgres_backup", {**arguments, "state": "restored", "replace": True, "connect_timeout": 2})
    finally:
        cluster.processes["tserver-3"].send_signal(signal.SIGCONT)
    assert sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'written%'") == "1"


def test_a_colocated_database_comes_back_colocated_and_no_other(cluster, sql, tmp_path):
    for name, how in (("together", " WITH COLOCATION = true"), ("apart", "")):
        sql(f"CREATE DATABASE {name}{how}")
        sql("CREATE TABLE t AS SELECT 1 AS n", name)
    arguments = options(cluster, tmp_path)
    run_module("postgres_backup", {**arguments, "databases": ["together", "apart"]})
    run_module("postgres_backup", {**arguments, "state": "restored"})
    assert sql("SELECT yb_is_database_colocated()", "together_restored") == "t"
    assert sql("SELECT yb_is_database_colocated()", "apart_restored") == "f"


def test_a_diagnosis_sees_the_nodes_and_which_one_is_gone(cluster):
    def look():
        findings = run_module("database_diagnose", {"masters": cluster.members, "postgres": login(cluster)})["findings"]
        return [(one["state"], one["found"]) for one in findings if one["area"] == "yugabytedb"]

    assert ("ok", "3 masters, 3 tservers, all tablets replicated") in look()
    assert any(found.startswith("YSQL knows 3 nodes") for _state, found in look())
    cluster.stop("master", 3)
    wait_for(cluster.dead_master_noticed, "the dead master is noticed")
    assert any(state == "problem" and cluster.address[3] in found for state, found in look())
