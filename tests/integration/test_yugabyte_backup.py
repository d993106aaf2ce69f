"""postgres_backup on YugabyteDB, as far as the stand-in shows it: its programs, plain scripts, no shared snapshot."""

import json
import threading
from pathlib import Path

import pytest
from support.modules import run_module
from support.ports import wait_for
from support.yugabyte import StandInCluster


@pytest.fixture(scope="module")
def cluster():
    """A running StandInCluster."""
    cluster = StandInCluster()
    try:
        yield cluster.start()
    finally:
        cluster.close()


@pytest.fixture
def sql(cluster):
    """A function that executes a statement on node 1 and returns what it prints."""
    def run(statement, database="yugabyte"):
        done = cluster.sql(1, statement, PGDATABASE=database)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_what_was_lost_comes_back_in_place_and_busy_tables_fail_no_proof(cluster, sql, tmp_path):
    def backup(state="created", **options):
        return run_module("postgres_backup", {
            "path": str(tmp_path / "backups"), "state": state, "login_host": cluster.address[1], "login_port": 5433,
            "login_user": "yugabyte", "login_db": "yugabyte", "reserve_mb": 1,
            "bin_dir": str(cluster.bin_dir.parent / "postgres/bin"), **options,
        })

    sql("CREATE DATABASE frameworks")
    # The stand-in's own, which every database has from the start.
    sql("DROP EVENT TRIGGER IF EXISTS stand_in_refuse; DROP SCHEMA IF EXISTS stand_in CASCADE", "frameworks")
    sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS n; CREATE TABLE busy (n int)", "frameworks")
    stop = threading.Event()

    def write():
        while not stop.is_set():
            sql("INSERT INTO busy SELECT 1", "frameworks")

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
    backup("restored", replace=True)
    assert sql("SELECT count(*) FROM t", "frameworks") == "100"


def test_a_colocated_database_comes_back_colocated_and_no_other(cluster, sql, tmp_path):
    for name, options in (("together", " WITH COLOCATION = true"), ("apart", "")):
        sql(f"CREATE DATABASE {name}{options}")
        sql("DROP EVENT TRIGGER IF EXISTS stand_in_refuse; DROP SCHEMA IF EXISTS stand_in CASCADE", name)
        sql("CREATE TABLE t AS SELECT 1 AS n", name)
    arguments = {
        "path": str(tmp_path / "backups"), "login_host": cluster.address[1], "login_port": 5433, "reserve_mb": 1,
        "login_user": "yugabyte", "login_db": "yugabyte", "bin_dir": str(cluster.bin_dir.parent / "postgres/bin"),
    }
    run_module("postgres_backup", {**arguments, "databases": ["together", "apart"]})
    run_module("postgres_backup", {**arguments, "state": "restored"})
    assert sql("SELECT yb_is_database_colocated()", "together_restored") == "t"
    assert sql("SELECT yb_is_database_colocated()", "apart_restored") == "f"


def test_a_diagnosis_sees_the_nodes_and_which_one_is_gone(cluster):
    login = {"login_host": cluster.address[1], "login_port": 5433, "login_user": "yugabyte", "login_db": "yugabyte"}

    def look():
        findings = run_module("database_diagnose", {"masters": cluster.members, "postgres": login})["findings"]
        return [(one["state"], one["found"]) for one in findings if one["area"] == "yugabytedb"]

    assert ("ok", "3 masters, 3 tservers, all tablets replicated") in look()
    assert any(found.startswith("YSQL knows 3 nodes") for _state, found in look())
    cluster.stop("master", 3)
    wait_for(cluster.dead_master_noticed, "the dead master is noticed")
    assert any(state == "problem" and cluster.address[3] in found for state, found in look())
