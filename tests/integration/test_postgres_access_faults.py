"""postgres_access when something is wrong: a clear sentence, nothing half-done, and the next run repairs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import postgres as engines
from ansible_collections.frameworks.database.plugins.module_utils import postgres_access
from support.modules import ModuleFailed, run_module
from support.ports import free_port, wait_for
from support.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from support.modules import run_module
print(json.dumps(run_module(*json.load(sys.stdin))))
"""


def access(server, check=False, login=None, **declared):
    return run_module("postgres_access", {**(login or server.login()), **declared}, check=check)


def in_a_process(server, **declared):
    """The same in a process of its own, already started."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/collections:{ROOT}/tests"},
    )
    process.stdin.write(json.dumps(["postgres_access", {**server.login(), **declared}]))
    process.stdin.close()
    process.stdin = None
    return process


GRANT = {"roles": "postgres", "database": "postgres", "type": "database", "privileges": "ALL"}
BAD_INPUT = [
    ({"users": [{"name": "a"}, {"name": "b", "pasword": "x"}]},
     r"users\[1\]: unknown key 'pasword', did you mean 'password'"),
    ({"users": [{"name": "a", "sate": "absent"}]}, r"users\[0\]: unknown key 'sate', did you mean 'state'"),
    ({"user": [{"name": "a"}]}, r"unknown key 'user', did you mean 'users'"),
    ({"users": [{"password": "x"}]}, r"users\[0\]: the key 'name' is missing"),
    ({"users": {"name": "frameworks_user"}}, r"users: must be a list, not dict"),
    ({"users": ["frameworks_user"]}, r"users\[0\]: must be a dictionary of keys and values, not str"),
    ({"users": [{"name": "a", "state": "abset"}]}, r"users\[0\]\.state: 'abset' is none of .*did you mean 'absent'"),
    ({"users": [{"name": "a", "createdb": "perhaps"}]}, r"users\[0\]\.createdb: 'perhaps' is not of the type bool"),
    ({"users": [{"name": "a", "password": ""}]}, r"users\[0\]\.password: is empty.*leave the key out"),
    ({"users": [{"name": "a", "password": "a\0b"}]}, r"users\[0\]\.password: .* NUL"),
    ({"users": [{"name": ""}]}, r"users\[0\]\.name: a name must not be empty"),
    ({"users": [{"name": "ä" * 40}]}, r"users\[0\]\.name: .* longer than 63 bytes"),
    ({"users": [{"name": "Public"}]}, r"users\[0\]\.name: PUBLIC is everybody"),
    ({"users": [{"name": "a"}, {"name": "a"}]}, r"users\[1\]: 'a' is declared by users\[0\] already"),
    ({"users": [{"name": "a", "member_of": ["a"]}]}, r"users\[0\]\.member_of: .* itself"),
    ({"users": [{"name": "a", "member_of": ["b"], "not_member_of": ["b"]}]}, r"users\[0\]: 'b' is in member_of and"),
    ({"users": [{"name": "a", "member_of": ["nobdy"]}]}, r"users\[0\]\.member_of: there is no user 'nobdy'"),
    ({"users": [{"name": "a", "settings": {"x = 1; --": 1}}]}, r"users\[0\]\.settings: 'x = 1; --' is not the name"),
    ({"users": [{"name": "a", "settings": {"no_such_setting": 1}}]}, r"users\[0\]: unrecognized configuration"),
    ({"users": [{"name": "a", "valid_until": "soon"}]}, r"users\[0\]\.valid_until: invalid input syntax .*soon"),
    ({"users": [{"name": "postgres", "state": "absent"}]}, r"users\[0\]: .* cannot drop itself"),
    ({"databases": [{"name": "a", "owner": "nobody"}]}, r"databases\[0\]\.owner: there is no user 'nobody'"),
    ({"databases": [{"name": "a", "colocation": True}]}, r"databases\[0\]\.colocation: PostgreSQL takes no"),
    ({"databases": [{"name": "postgres", "state": "absent", "drop_data": True}]}, r"databases\[0\]: .* itself"),
    ({"databases": [{"name": "a", "encoding": "UTF9"}]}, r"databases\[0\]: \"?UTF9\"? is not a valid encoding"),
    ({"grants": [{**GRANT, "privileges": ["SELET"], "type": "tables", "schemas": "public"}]},
     r"grants\[0\]\.privileges: PostgreSQL has no privilege SELET on tables, did you mean 'SELECT'"),
    ({"grants": [{**GRANT, "type": "table"}]}, r"grants\[0\]\.type: 'table' is none of .*did you mean 'tables'"),
    ({"grants": [{**GRANT, "roles": "nobody"}]}, r"grants\[0\]\.roles: there is no user 'nobody'"),
    ({"users": [{"name": "frameworks_user"}], "grants": [{**GRANT, "roles": "framework_user"}]},
     r"grants\[0\]\.roles: .*'framework_user', did you mean 'frameworks_user'"),
    ({"grants": [{**GRANT, "database": "nowhere"}]}, r"grants\[0\]\.database: there is no database 'nowhere'"),
    ({"grants": [{**GRANT, "type": "tables"}]}, r"grants\[0\]\.schemas: is missing"),
    ({"grants": [{**GRANT, "schemas": "public"}]}, r"grants\[0\]\.schemas: a database as a whole"),
    ({"grants": [{**GRANT, "type": "tables", "schemas": "publik"}]}, r"grants\[0\]\.schemas: .* no schema 'publik'"),
    ({"grants": [{**GRANT, "type": "tables", "schemas": "public", "objects": ["nothing"]}]},
     r"grants\[0\]\.objects: the schema 'public' has no table 'nothing'"),
    ({"grants": [{**GRANT, "objects": ["x"]}]}, r"grants\[0\]\.objects: goes with just one type"),
    ({"grants": [{**GRANT, "type": "future_tables"}]}, r"grants\[0\]\.for_roles: name the roles"),
    ({"grants": [{**GRANT, "type": "future_tables", "for_roles": ["PUBLIC"]}]}, r"grants\[0\]\.for_roles: PUBLIC"),
    ({"grants": [{**GRANT, "for_roles": ["postgres"]}]}, r"grants\[0\]\.for_roles: belongs to the types"),
    ({"grants": [{**GRANT, "grant_option": True, "roles": "PUBLIC"}]}, r"grants\[0\]\.grant_option: .*PUBLIC"),
    ({"grants": [{**GRANT, "grant_option": True, "state": "absent"}]}, r"grants\[0\]\.grant_option: means nothing"),
    ({"grants": [{**GRANT, "privileges": []}]}, r"grants\[0\]\.privileges: is empty"),
    ({"grants": [{**GRANT, "type": "tables", "schemas": "public", "objects": []}]},
     r"grants\[0\]\.objects: is empty, and would mean all of them; leave the key out"),
    ({"grants": [{**GRANT, "type": "future_tables", "for_roles": "postgres", "schemas": []}]},
     r"grants\[0\]\.schemas: is empty, and would mean all of them; leave the key out"),
    ({"users": [{"name": "frameworks_user", "state": "absent"}], "grants": [{**GRANT, "roles": "frameworks_user"}]},
     r"grants\[0\]\.roles: 'frameworks_user' is declared absent"),
    ({"databases": [{"name": "gone", "state": "absent"}], "grants": [{**GRANT, "database": "gone"}]},
     r"grants\[0\]\.database: 'gone' is declared absent"),
]


@pytest.mark.parametrize("declared, said", BAD_INPUT, ids=[said for _declared, said in BAD_INPUT])
def test_bad_input_is_refused_and_nothing_is_done(postgres, declared, said):
    before = postgres.query("SELECT rolname FROM pg_roles UNION ALL SELECT datname FROM pg_database ORDER BY 1")
    with pytest.raises(ModuleFailed, match=said) as failure:
        access(postgres, **declared)
    assert not failure.value.result.get("statements") and not failure.value.result.get("changed")
    assert postgres.query("SELECT rolname FROM pg_roles UNION ALL SELECT datname FROM pg_database ORDER BY 1") == before


@pytest.mark.parametrize("user", [
    {"name": "a", "pasword": "very secret words"},
    {"name": "a", "pw": "very secret words"},
    {"name": "a", "password": "very secret words", "state": "abset"},
    {"password": "very secret words"},
])
def test_a_refusal_shows_no_secret(postgres, user):
    for users in (user, [user], [user, "not a dictionary"], ["not a dictionary", user]):
        with pytest.raises(ModuleFailed) as failure:
            access(postgres, users=users)
        assert "very secret words" not in json.dumps(failure.value.result)


@pytest.mark.parametrize("login, said", [
    ({"login_password": "wrong"}, "check login_user"),
    ({"ssl_mode": "require"}, "server does not support SSL"),
    ({"login_host": "no.such.host.invalid"}, "check login_host"),
    ({"login_db": "nowhere"}, "check login_db"),
])
def test_a_failed_login_is_told_in_check_mode_too(postgres, login, said):
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=said):
            access(postgres, check=check, login=postgres.login(**login))


def test_an_unreachable_server(postgres):
    port = free_port()
    with pytest.raises(ModuleFailed, match=f"127.0.0.1:{port}.*Connection refused.*start the server"):
        access(postgres, login=postgres.login(login_port=port))


@pytest.mark.parametrize("missing", ["server", "driver"])
def test_a_check_does_not_need_what_an_apply_would_bring(postgres, monkeypatch, missing):
    login = postgres.login(login_port=free_port()) if missing == "server" else postgres.login()
    if missing == "driver":
        monkeypatch.setattr(engines, "psycopg2", None)
    result = access(postgres, check=True, login=login, users=[{"name": "a", "password": "b"}])
    assert result["changed"] and not result["statements"]
    assert {"server": "Connection refused", "driver": "python3-psycopg2"}[missing] in result["unasked"]


def test_a_check_fails_where_an_apply_would(postgres):
    with pytest.raises(ModuleFailed, match="password authentication failed"):
        access(postgres, check=True, login=postgres.login(login_password="wrong"))


def test_a_refused_statement_takes_its_transaction_back(postgres, unique):
    """An admin who may create users but not superusers: the first user is not left behind."""
    postgres.query(f"CREATE ROLE {unique} LOGIN CREATEROLE PASSWORD 'admin password'")
    try:
        refused = r"users\[1\]: (must be superuser|permission denied) .*CREATE ROLE .*nothing was changed"
        with pytest.raises(ModuleFailed, match=refused):
            access(
                postgres, login=postgres.login(login_user=unique, login_password="admin password"),
                users=[{"name": f"{unique}_a"}, {"name": f"{unique}_b", "superuser": True}],
            )
        assert postgres.query("SELECT count(*) FROM pg_roles WHERE rolname = %s", (f"{unique}_a",)) == [(0,)]
    finally:
        postgres.query(f"DROP ROLE {unique}")


def declared_for(unique):
    return {
        "users": [{"name": f"{unique}_user", "password": "user password"}],
        "databases": [{"name": unique, "owner": f"{unique}_user"}],
        "grants": [
            {"roles": f"{unique}_user", "database": unique, "type": ["schema", "future_tables"], "schemas": "public",
             "for_roles": ["postgres"], "privileges": "ALL"},
        ],
    }


@pytest.fixture
def declared(postgres, unique):
    """A user, a database and grants, taken away afterwards."""
    yield declared_for(unique)
    postgres.query(f"DROP DATABASE IF EXISTS {unique} WITH (FORCE)")
    postgres.query(f"DROP ROLE IF EXISTS {unique}_user")


@pytest.mark.parametrize("broken, said", [
    ("datallowconn = false", r"\(database {0}\).*not currently accepting.*ALTER DATABASE … ALLOW_CONNECTIONS"),
    # As a DROP DATABASE leaves it that was cut off.
    ("datconnlimit = -2", r"\(database {0}\).*a DROP DATABASE of it was cut off: drop it"),
])
def test_a_database_that_nobody_can_connect_to(postgres, unique, postgres_database, broken, said):
    postgres.query(f"UPDATE pg_database SET {broken} WHERE datname = %s", (unique,))
    with pytest.raises(ModuleFailed, match=said.format(unique)):
        access(postgres, **{**declared_for(unique), "databases": []})
    assert postgres.query("SELECT count(*) FROM pg_roles WHERE rolname = %s", (f"{unique}_user",)) == [(0,)]


def test_a_database_whose_drop_was_cut_off_is_not_taken_for_one(postgres, unique, postgres_database):
    postgres.query("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", (unique,))
    with pytest.raises(ModuleFailed, match=rf"databases\[0\]: a DROP DATABASE of '{unique}' was cut off; finish it"):
        access(postgres, databases=[{"name": unique}])
    assert access(postgres, databases=[{"name": unique, "state": "absent", "drop_data": True}])["changed"]


@pytest.fixture(scope="module")
def standby():
    """A server in recovery, which nothing can be written to."""
    with contextlib.closing(PostgresServer()) as server:
        server.start()
        server.stop()
        (server.data / "standby.signal").touch()
        yield server.start()


@pytest.mark.parametrize("check", [False, True])
def test_a_standby(standby, check):
    """It can be asked, but where something has to change the primary is the one to ask."""
    assert access(standby, check=check, users=[{"name": "postgres"}])["changed"] is False
    with pytest.raises(ModuleFailed, match=rf"127.0.0.1:{standby.port} is a standby.*log in to the primary"):
        access(standby, check=check, users=[{"name": "a"}])


def test_two_runs_at_once(postgres, declared):
    """Both end well; one of them does all of the work, after which the other one finds nothing to do."""
    runs = [in_a_process(postgres, **declared) for _ in range(3)]
    results = []
    for run in runs:
        output, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
        results.append(json.loads(output)["changed"])
    assert sorted(results) == [False, False, True]


def test_a_run_that_waits_too_long_names_the_other_one(postgres, declared):
    other = postgres.connect()
    engines.take_advisory_lock(other, postgres_access.LOCK)
    try:
        with pytest.raises(ModuleFailed, match=rf"process {other.info.backend_pid}, user postgres.*then run again"):
            access(postgres, **declared, lock_timeout=0)
        assert access(postgres, **declared, lock_timeout=0, check=True)["changed"]
    finally:
        other.close()


def test_a_server_that_goes_away(postgres, declared, monkeypatch):
    def read(connection, *_arguments):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(postgres_access, "read_server", read)
    with pytest.raises(ModuleFailed, match=rf"While talking to .*:{postgres.port}: .*(closed|terminating).*Run again"):
        access(postgres, **declared)


@pytest.mark.parametrize("cut_off", ["CREATE ROLE", "CREATE DATABASE", "GRANT"])
def test_a_server_that_goes_away_in_a_statement(postgres, unique, declared, monkeypatch, cut_off):
    """Nothing is claimed of the statement: one outside a transaction may have taken effect."""
    execute = postgres_access.Access._execute

    def cut(self, connection, change, statement):
        if statement.sql.startswith(cut_off):
            postgres.query("SELECT pg_terminate_backend(%s, 30000)", (connection.info.backend_pid,))
        execute(self, connection, change, statement)

    with monkeypatch.context() as patched:
        patched.setattr(postgres_access.Access, "_execute", cut)
        with pytest.raises(ModuleFailed, match=r"While talking to .* is not known\. Run again") as failure:
            access(postgres, **declared)
    done = [statement.split(" ")[1] for statement in failure.value.result["statements"]]
    assert done == {"CREATE ROLE": [], "CREATE DATABASE": ["ROLE"], "GRANT": ["ROLE", "DATABASE"]}[cut_off]
    assert access(postgres, **declared)["changed"]
    assert access(postgres, **declared)["changed"] is False


def test_a_server_that_goes_away_while_a_moment_is_read(postgres, monkeypatch):
    read = postgres_access.read_server

    def cut(connection, *arguments):
        found = read(connection, *arguments)
        postgres.query("SELECT pg_terminate_backend(%s, 30000)", (connection.info.backend_pid,))
        return found

    monkeypatch.setattr(postgres_access, "read_server", cut)
    with pytest.raises(ModuleFailed, match="While talking to"):
        access(postgres, users=[{"name": "a", "valid_until": "2040-01-01"}])


def test_a_run_does_not_wait_for_locks_of_others_for_ever(postgres, unique, declared):
    access(postgres, **{**declared, "grants": []})
    blocker = postgres.connect(unique)
    try:
        with blocker.cursor() as cursor:
            cursor.execute(f"BEGIN; GRANT USAGE ON SCHEMA public TO {unique}_user")
        with pytest.raises(ModuleFailed, match=r"grants\[0\]: .* lock timeout .*GRANT ALL ON SCHEMA"):
            access(postgres, **declared, lock_timeout=1)
    finally:
        with blocker.cursor() as cursor:
            cursor.execute("ROLLBACK")
        blocker.close()
    assert access(postgres, **declared)["changed"]


def test_killed_in_the_middle_the_next_run_repairs(postgres, unique, declared):
    # Another session holds the schema's catalogue row, so that the run gets past the database and stays at its grants.
    postgres.query(f"CREATE ROLE {unique}_user")
    postgres.query(f"CREATE DATABASE {unique}")
    blocker = postgres.connect(unique)
    with blocker.cursor() as cursor:
        cursor.execute(f"BEGIN; GRANT USAGE ON SCHEMA public TO {unique}_user")
    run = in_a_process(postgres, **declared)
    stuck = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'frameworks.database' AND " \
        "wait_event_type = 'Lock'"
    wait_for(lambda: postgres.query(stuck, (unique,)), "the run waits", alive=lambda: run.poll() is None)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    blocker.close()
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
    assert postgres.query(owner, (unique,)) == [(f"{unique}_user",)]  # the first transaction was done
    result = access(postgres, **declared)
    assert result["statements"][0] == f'GRANT ALL ON SCHEMA "public" TO "{unique}_user"'
    assert access(postgres, **declared)["changed"] is False


class StandIn(engines.YugabyteDB):
    """YugabyteDB's stand-in: the rules of its dialect, in front of a PostgreSQL."""

    def __init__(self, _connection=None):
        super().__init__((2024, 2))


@pytest.fixture
def yugabyte(monkeypatch):
    """Let the module take the PostgreSQL for a YugabyteDB: no transactions, no advisory locks, statements retried."""
    monkeypatch.setattr(postgres_access, "dialect", StandIn)
    return monkeypatch


def test_on_yugabytedb_transient_errors_are_tried_again(postgres, declared, yugabyte):
    execute, failures = postgres_access.Access._execute, []

    def flaky(self, connection, change, statement):
        if len(failures) < 3:
            failures.append(statement)
            raise TransientFailure("ERROR:  Catalog Version Mismatch: A DDL occurred while processing this query")
        return execute(self, connection, change, statement)

    yugabyte.setattr(postgres_access.Access, "_execute", flaky)
    assert access(postgres, **declared)["changed"]
    assert failures[0] is failures[2]
    assert access(postgres, **declared)["changed"] is False


class TransientFailure(Exception):
    """What the server would say."""


def test_on_yugabytedb_each_statement_stays_and_the_next_run_goes_on(postgres, unique, declared, yugabyte):
    failing = {**declared, "users": [*declared["users"], {"name": f"{unique}_x", "settings": {"no_such_setting": 1}}]}
    with pytest.raises(ModuleFailed, match=r"users\[1\]: unrecognized .* the 2 statements before it remain") as failure:
        access(postgres, **failing)
    assert failure.value.result["changed"] and len(failure.value.result["statements"]) == 2
    postgres.query(f"DROP ROLE {unique}_x")
    result = access(postgres, **declared)
    assert result["users"] == [] and result["databases"] == [unique]


def test_on_yugabytedb_a_database_takes_other_options(postgres, yugabyte):
    with pytest.raises(ModuleFailed, match=r"databases\[0\]\.encoding: YugabyteDB takes no encoding"):
        access(postgres, databases=[{"name": "a", "encoding": "UTF8"}])
    result = access(postgres, databases=[{"name": "a", "colocation": True}], check=True)
    assert result["statements"] == ['CREATE DATABASE "a" WITH COLOCATION = true']
