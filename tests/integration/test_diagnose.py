"""database_diagnose and its playbook: they name what is wrong, never fail for it, and tell no secrets."""

import contextlib
import datetime
import json
import os
import subprocess
import threading
import time

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import diagnose
from support.clickhouse import ClickHouseServer
from support.clickhouse_cluster import KeeperDouble
from support.modules import run_module
from support.playbooks import HOST, ROOT, role_play, run_playbook
from support.ports import free_port, wait_for
from support.postgres import PostgresServer


def look(**options):
    return run_module("database_diagnose", options)


def found(result, area, state):
    """What was found in an area in that state, as one text."""
    return "\n".join(f"{one['found']} -> {one['todo']}" for one in result["findings"]
                     if (one["area"], one["state"]) == (area, state))


def test_a_healthy_server_has_no_problems(postgres, postgres_database):
    result = look(
        postgres=postgres.login(), postgres_databases=[postgres_database], ports=[f"127.0.0.1:{postgres.port}"],
        paths=[str(postgres.data)], controller_time=time.time(),
    )
    assert result["counts"]["problem"] == result["counts"]["unknown"] == 0
    assert "PostgreSQL 1" in found(result, "postgresql", "ok")
    assert "takes connections (listening: 127.0.0.1)" in found(result, "port", "ok")


def test_nothing_that_is_down_makes_it_fail(tmp_path):
    port = free_port()
    result = look(
        postgres={"login_host": "127.0.0.1", "login_port": port, "login_password": "no-one may see"},
        clickhouse={"login_host": "127.0.0.1", "login_port": port}, masters=["127.0.0.1"], ports=[f"127.0.0.1:{port}"],
        services=["no-such-service*"], paths=[str(tmp_path / "none")], logs=[str(tmp_path / "none*")],
        certificates=[str(tmp_path / "none.crt")], backups=[str(tmp_path / "none")], postgres_databases=["a"],
    )
    assert "start the server" in found(result, "postgresql", "problem")
    assert "nothing listens" in found(result, "clickhouse", "problem")
    assert "No master's leader" in found(result, "yugabytedb", "problem")
    assert "nothing on this host listens" in found(result, "port", "problem")
    assert "has no good backup -> run playbooks/backup.yml" in found(result, "backup", "problem")
    assert "no-one may see" not in json.dumps(result["findings"])
    assert result["lines"][0].startswith("problems: 5, warnings: 0, ") and result["lines"][1].startswith("PROBLEM")


@pytest.mark.parametrize("down, state, said", [(0, "ok", "3 of 3 Keepers serve, led by 127.0.0.1"),
                                               (1, "ok", "2 of 3 Keepers serve"), (2, "problem", "no quorum: 1 of 3")])
def test_keepers_have_a_quorum_or_are_named(down, state, said):
    port = free_port()
    states = ["leader", "follower", "follower"]
    keepers = [KeeperDouble(f"127.0.0.{number}", port, zk_server_state=one) for number, one in enumerate(states, 1)]
    try:
        for keeper in keepers[3 - down:]:
            keeper.close()
        result = look(keepers=[f"127.0.0.{number}:{port}" for number in (1, 2, 3)])
    finally:
        for keeper in keepers[:3 - down]:
            keeper.close()
    assert said in found(result, "keeper", state)
    if down:
        assert f"127.0.0.3: nothing listens on port {port}" in found(result, "keeper", ("warning", "problem")[down - 1])


def test_certificates_of_a_keeper_that_are_not_there_are_named(tmp_path):
    files = {name: str(tmp_path / name) for name in ("ca_cert", "client_cert", "client_key")}
    result = look(keepers=["127.0.0.1:1"], keeper_tls=files)
    assert files["ca_cert"] in found(result, "keeper", "problem") and "certificates.yml" in result["lines"][2]


def test_a_name_that_is_not_known_and_a_file_that_is_not_there_are_no_service_to_start(tmp_path):
    result = look(
        ports=["nowhere.invalid:5433"],
        clickhouse={"login_host": "127.0.0.1", "tls": True, "ca_cert": str(tmp_path / "ca.crt")},
    )
    assert "-> correct the name, or let DNS or /etc/hosts have it" in found(result, "port", "problem")
    assert "cannot be used" in found(result, "clickhouse", "problem")
    assert "-> correct the path, or run playbooks/certificates.yml" in found(result, "clickhouse", "problem")
    asked = look(clickhouse={"login_host": "nowhere.invalid"})
    assert "cannot be resolved" in found(asked, "clickhouse", "problem")
    assert "-> correct the name" in found(asked, "clickhouse", "problem")


def test_a_wrong_password_is_no_service_to_look_at(clickhouse):
    said = found(look(clickhouse={**clickhouse.login(), "login_password": "wrong"}), "clickhouse", "problem")
    assert "Check login_user and login_password" in said and said.endswith(" -> ")


def test_what_cannot_be_looked_at_hides_nothing_else(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "log").write_text("FATAL: broken\n")
    (tmp_path / "loop").symlink_to("loop")
    log, folder, loop, none = (str(tmp_path / name) for name in ("log", "folder", "loop", "none"))
    result = look(ports=["nonsense", f"127.0.0.1:{free_port()}"], logs=[folder, log], paths=[loop, none, folder],
                  backups=[log, none])
    for area, unknown, known, state in (("port", "nonsense", "takes no connections", "problem"),
                                        ("log", folder, "has 1 errors", "warning"), ("disk", loop, folder, None),
                                        ("backup", log, "has no good backup", "problem")):
        assert unknown in found(result, area, "unknown")
        states = [state] if state else ["ok", "warning", "problem"]  # of this machine's disk
        assert known in "".join(found(result, area, one) for one in states)


@contextlib.contextmanager
def waits(server, waiter, query, release):
    """While a thread's query waits for a lock, which `release()` gives back at the end."""
    thread = threading.Thread(target=lambda: waiter.cursor().execute(query))
    thread.start()
    try:
        wait_for(lambda: server.query("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), "it waits")
        yield
    finally:
        release()
        thread.join()
        waiter.close()


def test_who_waits_for_whom_is_named(postgres, postgres_database):
    postgres.query("CREATE TABLE t (n int); INSERT INTO t VALUES (1)", database=postgres_database)
    holder, waiter = (postgres.connect(postgres_database) for _number in range(2))
    holder.cursor().execute("BEGIN; LOCK TABLE t")
    with waits(postgres, waiter, "SELECT 'a secret' FROM t", holder.close):
        result = look(postgres=postgres.login())
    text = found(result, "postgresql", "warning")
    assert f"waits for 0 s for a lock that {holder_pid(text)} has" in text
    assert f"pg_terminate_backend({holder_pid(text)})" in text and "a secret" not in text


def test_a_prepared_transaction_has_no_process_to_be_ended():
    server = PostgresServer(options=["-c", "max_prepared_transactions=1"])
    try:
        server.start()
        server.query("CREATE TABLE t (n int)")
        holder, waiter = server.connect(), server.connect()
        holder.cursor().execute("BEGIN; LOCK TABLE t; PREPARE TRANSACTION 'forgotten'")
        with waits(server, waiter, "SELECT n FROM t", lambda: holder.cursor().execute("ROLLBACK PREPARED 'forgotten'")):
            result = look(postgres=server.login())
    finally:
        server.close()
    said = found(result, "postgresql", "warning")
    assert "a lock that a prepared transaction has" in said and "ROLLBACK PREPARED" in said
    assert "pg_terminate_backend" not in said


def holder_pid(text):
    return text.split("a lock that ")[1].split(" has")[0]


def test_a_broken_index_and_an_unfinished_script_are_named(postgres, postgres_database):
    postgres.query(
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (1); CREATE SCHEMA schema_ledger;"
        "CREATE TABLE schema_ledger.scripts (set_name text, script text, status text);"
        "INSERT INTO schema_ledger.scripts VALUES ('s', 'init.sql', 'applied'), ('s', '0001_a.sql', 'failed')",
        database=postgres_database)
    with pytest.raises(Exception, match="could not create unique index"):
        postgres.query("CREATE UNIQUE INDEX CONCURRENTLY broken ON t (n)", database=postgres_database)
    result = look(postgres=postgres.login(), postgres_databases=[postgres_database, "absent"])
    assert "index broken is not valid" in found(result, "postgresql", "warning")
    assert "set s, 1 scripts applied, not finished: 0001_a.sql" in found(result, "postgresql", "problem")
    assert 'database "absent" does not exist' in found(result, "postgresql", "problem")


def test_clickhouse_tells_what_does_not_get_on(clickhouse, clickhouse_database):
    clickhouse.query(f"CREATE TABLE {clickhouse_database}.t (s String) ENGINE = MergeTree ORDER BY ()")
    clickhouse.query(f"INSERT INTO {clickhouse_database}.t VALUES ('token=geheim')")
    clickhouse.query(f"ALTER TABLE {clickhouse_database}.t MODIFY COLUMN s UInt8 SETTINGS alter_sync = 0")
    why = "SELECT latest_fail_reason FROM system.mutations WHERE NOT is_done"
    wait_for(lambda: clickhouse.query(why) > "\n", "it fails")
    result = look(clickhouse=clickhouse.login(), clickhouse_databases=[clickhouse_database, "absent"])
    assert "1 parts to do" in found(result, "clickhouse", "warning")
    assert "KILL MUTATION" in found(result, "clickhouse", "warning")
    assert "token=***" in found(result, "clickhouse", "warning") and "geheim" not in json.dumps(result)
    assert "there is no database absent" in found(result, "clickhouse", "problem")
    assert "disk default" in found(result, "clickhouse", "ok") and result["counts"]["unknown"] == 0
    clickhouse.query(f"DROP TABLE {clickhouse_database}.t SYNC")
    result = look(clickhouse=clickhouse.login(), clickhouse_databases=[clickhouse_database])
    assert f"{clickhouse_database} has no tables" in found(result, "clickhouse", "warning")


def test_errors_at_the_end_of_logs_are_shown_without_secrets(tmp_path):
    (tmp_path / "old.log").write_text("FATAL of last year\n")
    os.utime(tmp_path / "old.log", (0, 0))
    (tmp_path / "new.log").write_text(
        "LOG: fine\n" * 100 + "ERROR: syntax error at ALTER ROLE a PASSWORD 'geheim'\n"
        "<Error> x: IDENTIFIED WITH sha256_password BY 'geheim'\nE1122 10:00:00 token=geheim, other\n"
        "FATAL: postgres://me:geheim@host/db\nFATAL: password authentication failed for user \"me\"\n")
    [one] = look(logs=[str(tmp_path / "*.log")])["findings"]
    assert "new.log has 5 errors" in one["found"] and one["state"] == "warning"
    text = "".join(line + "\n" for line in one["details"])
    assert "geheim" not in text and text.count("\n") == 5 and "last year" not in text
    assert "password authentication failed for user" in text


@pytest.mark.parametrize("refused, looked", [
    ('FATAL: password authentication failed for user "app"', ["ERROR: permission denied for table pg_authid"]),
    ("<Error> DynamicQueryHandler: Code: 516. app: Authentication failed. (AUTHENTICATION_FAILED), Stack trace", [
        f"<Error> {part}: Code: 497. it's necessary to have the grant SELECT(name) ON system.users. (ACCESS_DENIED)"
        for part in ("executeQuery", "DynamicQueryHandler")
    ]),
], ids=["postgresql", "clickhouse"])
def test_only_the_refusals_of_a_verification_are_left_out(tmp_path, refused, looked):
    log = [refused, refused, *looked, "ERROR: broken", *looked, refused]
    (tmp_path / "a.log").write_text("".join(f"{line}\n" for line in log))
    [one] = look(logs=[str(tmp_path / "a.log")])["findings"]
    assert one["details"] == [refused, "ERROR: broken", refused]


def test_statements_in_the_log_of_clickhouse_are_not_shown(tmp_path):
    said = "<Error> executeQuery: Code: 60. Unknown table (from 127.0.0.1:1)"
    (tmp_path / "a.log").write_text(f"{said} (in query: SELECT 'geheim'), Stack trace\n")
    [one] = look(logs=[str(tmp_path / "a.log")])["findings"]
    assert one["details"] == [said]


@pytest.mark.parametrize("text", [
    r"ALTER ROLE a PASSWORD E'ge\'heim' VALID", "PASSWORD $$ge heim$$ VALID", "PASSWORD $a$ge$heim$a$ VALID",
    "PASSWORD 'ge''heim' VALID", "password='ge''heim' VALID", "password=ge,heim VALID", "passphrase: geheim VALID",
    "aws_secret_access_key=geheim VALID", "postgres://me:ge@heim@host/db VALID", "'https://me:geheim@host', VALID",
])
def test_a_secret_is_masked_to_its_end_and_no_further(text):
    said = diagnose.masked(f"ERROR: {text}")
    assert "***" in said and "ge" not in said and "heim" not in said and said.endswith("VALID")


def make_certificate(path, days, name="a"):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
         f"/CN={name}", "-keyout", "/dev/null", "-out", str(path), "-days", str(days)], check=True, capture_output=True)


@pytest.mark.parametrize("days, state", [(-1, "problem"), (3, "problem"), (20, "warning"), (90, "ok")])
def test_certificates_are_seen_to_expire(tmp_path, monkeypatch, days, state):
    make_certificate(tmp_path / "a.crt", max(days, 1))
    real = time.time
    if days < 0:
        monkeypatch.setattr(diagnose.time, "time", lambda: real() + 3 * 86400)
    assert "a.crt" in found(look(certificates=[str(tmp_path / "*.crt")]), "certificate", state)


def test_each_certificate_of_a_chain_is_seen_to_expire(tmp_path):
    """The host's own is good for long, and nobody who checks it gets past the one between."""
    for name, days in (("host", 90), ("between", 3), ("root", 20)):
        make_certificate(tmp_path / name, days, name)
    chain = tmp_path / "chain.crt"
    chain.write_text("a word before\n" + "".join((tmp_path / name).read_text() for name in ("host", "between", "root")))
    (tmp_path / "key.crt").write_text("nothing of the kind")
    result = look(certificates=[str(tmp_path / "*.crt")])
    for state, number, name in (("ok", 1, "host"), ("problem", 2, "between"), ("warning", 3, "root")):
        assert f"chain.crt, {number} of 3 (CN" in found(result, "certificate", state)
        assert f"{name}) expires in" in found(result, "certificate", state)
    assert "key.crt has no certificate in PEM" in found(result, "certificate", "unknown")


def test_a_certificate_that_is_not_valid_yet_is_a_problem(tmp_path, monkeypatch):
    make_certificate(tmp_path / "a.crt", 90)
    real = time.time
    monkeypatch.setattr(diagnose.time, "time", lambda: real() - 3 * 86400)
    said = found(look(certificates=[str(tmp_path / "a.crt")]), "certificate", "problem")
    assert "is valid from" in said and "the clock" in said


@pytest.mark.parametrize("ahead, state", [(0, "ok"), (3600, "problem"), (-3600, "problem")])
def test_a_wrong_clock_is_a_problem(ahead, state):
    result = look(controller_time=time.time() - ahead)
    [clock] = [one["state"] for one in result["findings"]]
    assert clock == state or (state, clock) == ("ok", "warning")  # where nothing keeps this machine's clock right


def test_backups_have_an_age(postgres, postgres_database, tmp_path):
    path = str(tmp_path / "backups")
    run_module("postgres_backup", {**postgres.login(), "path": path, "databases": [postgres_database], "reserve_mb": 1})
    assert "never proved" in found(look(backups=[path]), "backup", "ok")
    manifest = next((tmp_path / "backups").glob("2*/manifest.json"))
    old = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=30)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "created": old.isoformat()}))
    assert "30 h old" in found(look(backups=[path]), "backup", "warning")


@pytest.mark.parametrize("made", [True, False])
def test_who_makes_no_backups_misses_none(tmp_path, made):
    variables = {
        "diagnose_postgres": True, "diagnose_clickhouse": True, "backup_postgres": made, "backup_clickhouse": made,
        "backup_postgres_dir": str(tmp_path / "pg"), "backup_clickhouse_dir": str(tmp_path / "ch"),
        "postgres_user_login_port": 1, "clickhouse_db_login_port": 1,
    }
    run = run_playbook(tmp_path, role_play("diagnose"), variables).ok()
    assert run.output.count("has no good backup") == 2 * made


@pytest.mark.parametrize("up", [True, False])
def test_the_playbook_prints_a_report_and_succeeds(tmp_path, monkeypatch, up):
    postgres, clickhouse = PostgresServer(password="pg secret"), ClickHouseServer()
    try:
        if up:
            postgres.start()
            clickhouse.start()
            postgres.query("CREATE DATABASE frameworks")
        inventory = tmp_path / "inventory.json"
        inventory.write_text(json.dumps({"all": {"children": {
            group: {"hosts": {"test": HOST}} for group in ("postgres", "clickhouse", "application")
        }, "vars": {
            "postgres_user_login_host": postgres.host, "postgres_user_login_port": postgres.port,
            "postgres_user_login_password": "pg secret", "postgres_user_ssl_mode": "prefer", "ansible_become": False,
            "clickhouse_db_http_port": clickhouse.http_port, "clickhouse_db_login_host": clickhouse.host,
            "clickhouse_db_admin_password": "s3cret of the admin", "application_settings_path": str(tmp_path / "none"),
            "schema_load_postgresql_login_host": postgres.host, "schema_load_postgresql_login_port": postgres.port,
            "schema_load_postgresql_login_password": "pg secret", "schema_load_postgresql_ssl_mode": "prefer",
            "schema_load_clickhouse_login_host": clickhouse.host,
            "schema_load_clickhouse_login_port": clickhouse.http_port,
        }}}))
        # Its zone has no say in the clock: five hours off, and behind, as no slow machine is.
        monkeypatch.setenv("TZ", "EST5")
        run = run_playbook(tmp_path, ROOT / "playbooks/diagnose.yml", None, "-i", str(inventory), "-vvv").ok()
    finally:
        clickhouse.close()
        postgres.close()
    assert run.count("failed") == run.count("changed") == 0
    assert "pg secret" not in run.output and "s3cret of the admin" not in run.output
    assert f"there is no file {tmp_path}/none" in " ".join(run.output.split())
    assert "the clock agrees with" in run.output or " s ahead of the controller" in run.output
    assert ("log in as postgres: PostgreSQL" in run.output) == up
    assert ("nothing listens on" in run.output) != up and "platform-postgresql" in run.output
