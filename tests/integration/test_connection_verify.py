"""connection_verify against real servers: it must see what is wrong, and be silent about the passwords."""

import pytest
from ansible_collections.frameworks.database.plugins.filter.dotenv import dotenv
from ansible_collections.frameworks.database.plugins.filter.postgres_url import postgres_url
from support.clickhouse import ClickHouseServer, user_xml
from support.modules import ModuleFailed, run_module
from support.ports import free_port, wait_for
from support.postgres import PostgresServer

PASSWORD = "p' w$@:%/é"  # whatever breaks a URL, a header or a shell


@pytest.fixture(scope="module")
def analytics():
    """A ClickHouse with the user `app`, who may do everything in the database `app` and nothing else."""
    server = ClickHouseServer(users=[user_xml("app", PASSWORD, grants=["GRANT ALL ON app.*"])])
    try:
        server.start()
        server.query("CREATE DATABASE app")
        server.query("CREATE TABLE app.facts (n UInt64) ENGINE = MergeTree ORDER BY n")
        server.query("CREATE MATERIALIZED VIEW app.facts_mv ENGINE = MergeTree ORDER BY n AS SELECT n FROM app.facts")
        yield server
    finally:
        server.close()


@pytest.fixture
def application(postgres, postgres_database, unique):
    """The name of a role that owns the test's database, with a table `users`."""
    role = f"{unique}_app"
    with postgres.connect(postgres_database) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD %s", (PASSWORD,))
        cursor.execute("CREATE TABLE users (email text)")
        cursor.execute("INSERT INTO users VALUES ('demo@frameworks.dev')")
        cursor.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON users TO {role}")
    yield role
    postgres.query(f"DROP OWNED BY {role}", database=postgres_database)
    postgres.query(f"DROP ROLE {role}")


@pytest.fixture
def settings_file(postgres, postgres_database, application, analytics, tmp_path):
    """A function that writes the application's settings, with overrides, and returns the path."""

    def write(**overrides):
        url = postgres_url(application, PASSWORD, postgres_database, [postgres.host], postgres.port)
        values = {
            "DATABASE_URL": url, "CLICKHOUSE_HOST": analytics.host, "CLICKHOUSE_PORT": analytics.http_port,
            "CLICKHOUSE_DB": "app", "CLICKHOUSE_USER": "app", "CLICKHOUSE_PASSWORD": PASSWORD, **overrides,
        }
        path = tmp_path / "app.env"
        path.write_text(dotenv({name: value for name, value in values.items() if value is not None}))
        return str(path)

    return write


def verify(path, **expected):
    """The module's result for the settings in `path`."""
    everything = {
        "postgres_tables": ["users"],
        "postgres_rows": [{"query": "SELECT email FROM users", "value": "demo@frameworks.dev"}],
        "clickhouse_tables": ["facts"], "clickhouse_views": ["facts_mv"],
    }
    return run_module("connection_verify", {"settings": path, **everything, **expected})


def failed(result):
    """What failed, as (server, check)."""
    return [(item["server"], item["check"]) for item in result["checks"] if not item["ok"]]


def test_what_is_refused_to_it_is_no_error_in_the_next_diagnosis(settings_file, postgres, tmp_path):
    begun, log = postgres.log.stat().st_size, tmp_path / "server.log"
    verify(settings_file())
    wait_for(lambda: b"pg_authid" in postgres.log.read_bytes()[begun:], "the log has what was refused")
    log.write_bytes(postgres.log.read_bytes()[begun:])
    assert "password authentication failed" in log.read_text()
    [found] = run_module("database_diagnose", {"logs": [str(log)]})["findings"]
    assert (found["area"], found["state"]) == ("log", "ok"), found


def test_all_is_well(settings_file):
    result = verify(settings_file())
    assert failed(result) == [] and result["failures"] == []
    assert len(result["checks"]) == len(result["lines"]) == 12
    assert [line.partition(" on ")[0].partition(" ")[0] for line in result["servers"]] == ["PostgreSQL", "ClickHouse"]
    assert PASSWORD not in str(result)


def test_what_is_missing_is_named(settings_file):
    absent = {"postgres_tables": ["users", "gone"], "clickhouse_tables": ["lost"], "clickhouse_views": ["facts"]}
    result = verify(settings_file(), **absent)
    assert failed(result) == [("postgresql", "tables"), ("clickhouse", "tables"), ("clickhouse", "materialized views")]
    assert "gone" in result["failures"][0] and "users" not in result["failures"][0]
    assert "lost" in result["failures"][1]


def test_a_table_without_rights_is_named(settings_file, postgres, postgres_database, application):
    postgres.query(f"REVOKE UPDATE ON users FROM {application}", database=postgres_database)
    assert failed(verify(settings_file())) == [("postgresql", "rights on them")]


def test_a_server_that_takes_no_writes(settings_file, postgres, application):
    postgres.query(f"ALTER ROLE {application} SET default_transaction_read_only = on")
    result = verify(settings_file())
    assert failed(result) == [("postgresql", "takes writes")] and "read-only" in result["failures"][0]


@pytest.mark.parametrize("query", ["SELECT email FROM users WHERE false", "SELECT nothing FROM users"])
def test_a_row_that_is_not_there(settings_file, query):
    result = verify(settings_file(), postgres_rows=[{"query": query, "value": "demo@frameworks.dev"}])
    assert failed(result) == [("postgresql", query)]


def test_a_superuser_is_not_an_application(settings_file, postgres, postgres_database):
    url = postgres_url("postgres", postgres.password, postgres_database, [postgres.host], postgres.port)
    assert failed(verify(settings_file(DATABASE_URL=url))) == [("postgresql", "may not read passwords")]


def test_an_admin_is_not_an_application(settings_file, analytics):
    login = analytics.login()
    path = settings_file(CLICKHOUSE_USER=login["login_user"], CLICKHOUSE_PASSWORD=login["login_password"])
    assert failed(verify(path)) == [("clickhouse", "may not read the users")]


def test_a_server_that_trusts_everybody(settings_file):
    server = PostgresServer()
    try:
        server.start()
        rules = server.data / "pg_hba.conf"
        rules.write_text("host all all 127.0.0.1/32 trust\n")
        server.stop()
        server.start()
        url = postgres_url("postgres", "whatever", "postgres", [server.host], server.port)
        result = verify(settings_file(DATABASE_URL=url), postgres_tables=[], postgres_rows=[])
    finally:
        server.close()
    assert ("postgresql", "refuses a wrong password") in failed(result)


def test_a_refusal_for_want_of_connections_is_not_one_of_the_password(settings_file):
    server = PostgresServer(options=["-c", "max_connections=4", "-c", "superuser_reserved_connections=0"])
    try:
        server.start()
        others = [server.connect() for _number in range(3)]
        url = postgres_url("postgres", server.password, "postgres", [server.host], server.port)
        result = verify(settings_file(DATABASE_URL=url), postgres_tables=[], postgres_rows=[])
        for other in others:
            other.close()
    finally:
        server.close()
    [line] = [line for line in result["failures"] if "refuses a wrong password" in line]
    assert "could not be tried" in line and "too many clients" in line


def test_a_limit_of_connections_is_no_reason_to_doubt_the_refusal(settings_file, postgres, application):
    postgres.query(f"ALTER ROLE {application} CONNECTION LIMIT 1")
    assert failed(verify(settings_file())) == []


def test_a_lock_is_waited_for_no_longer_than_a_connection(settings_file, postgres, postgres_database):
    holder = postgres.connect(postgres_database)
    try:
        holder.cursor().execute("BEGIN; LOCK TABLE users")
        result = verify(settings_file())
    finally:
        holder.close()
    assert failed(result) == [("postgresql", "SELECT email FROM users")]
    assert "statement timeout" in result["failures"][0]


@pytest.mark.parametrize("wrong", ["password", "port"])
def test_a_login_that_fails_is_one_line_a_server(settings_file, postgres, postgres_database, application, wrong):
    port = free_port() if wrong == "port" else postgres.port
    password = "not it" if wrong == "password" else PASSWORD
    url = postgres_url(application, password, postgres_database, [postgres.host], port)
    changed = {"CLICKHOUSE_PASSWORD": "not it"} if wrong == "password" else {"CLICKHOUSE_PORT": free_port()}
    result = verify(settings_file(DATABASE_URL=url, **changed))
    assert failed(result) == [("postgresql", "log in"), ("clickhouse", "log in")]
    assert PASSWORD not in str(result) and "not it" not in str(result)


def test_a_database_that_is_not_there(settings_file):
    result = verify(settings_file(CLICKHOUSE_DB="nowhere"))
    assert failed(result) == [("clickhouse", "look around")]
    assert "nowhere" in result["failures"][0]


def test_settings_that_are_not_there(tmp_path, settings_file):
    with pytest.raises(ModuleFailed, match="no file"):
        verify(str(tmp_path / "none.env"))
    with pytest.raises(ModuleFailed, match="does not set CLICKHOUSE_DB, CLICKHOUSE_PASSWORD"):
        verify(settings_file(CLICKHOUSE_DB=None, CLICKHOUSE_PASSWORD=None))
    broken = tmp_path / "broken.env"
    broken.write_text("DATABASE_URL='s3cret without an end\n")
    with pytest.raises(ModuleFailed, match="line 1: is not NAME=value") as caught:
        verify(str(broken))
    assert "s3cret" not in str(caught.value.result)
    broken.write_bytes(b"DATABASE_URL=caf\xe9\n")
    with pytest.raises(ModuleFailed, match="not UTF-8"):
        verify(str(broken))


def test_the_file_is_never_run(settings_file, tmp_path):
    """The application may write to it; the module may be root."""
    path, made = settings_file(), tmp_path / "made by the file"
    for line in (f"id > '{made}'", f"A=$(touch '{made}')", f'A="`touch {made}`"', f"A=1 touch {made}", f". {made}"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        with pytest.raises(ModuleFailed, match="line 7: is not NAME=value"):
            verify(path)
        assert not made.exists()
        settings_file()


def test_a_url_that_is_none_is_named_without_its_password(settings_file):
    with pytest.raises(ModuleFailed, match="DATABASE_URL in .* is no URL") as caught:
        verify(settings_file(DATABASE_URL="postgres://u:[s3cret@localhost/d"))
    assert "s3cret" not in str(caught.value.result)


@pytest.mark.parametrize("password", ["s3c/ret", "s3c@ret", "s3c?ret", "s3c#ret", "s3c%zret"])
def test_a_password_that_is_not_encoded_is_no_part_of_any_message(settings_file, password):
    """Clients read such a URL in different ways: libpq takes some of it for a host or a port, and says so."""
    with pytest.raises(ModuleFailed, match="DATABASE_URL in .* is no URL") as caught:
        verify(settings_file(DATABASE_URL=f"postgres://app:{password}@127.0.0.1:1/d"))
    assert "s3c" not in str(caught.value.result) and "ret" not in str(caught.value.result)


@pytest.mark.parametrize("url", [
    "postgres://127.0.0.1:1/d?user=a&password=s3cret", "host=127.0.0.1 port=1 password=s3cret",
    "postgres://app@127.0.0.1:1/d", "postgres://app:%40@127.0.0.1:1,127.0.0.1:2/d",
])
def test_other_urls_are_libpq_s_business(settings_file, url):
    assert ("postgresql", "log in") in failed(verify(settings_file(DATABASE_URL=url)))


def test_a_connection_that_dies_on_the_way_is_one_line_and_clickhouse_is_looked_at(settings_file):
    query = "SELECT pg_terminate_backend(pg_backend_pid())"
    result = verify(settings_file(), postgres_rows=[{"query": query, "value": "x"}])
    assert failed(result) == [("postgresql", "look around")]
    assert ("clickhouse", "tables") in [(item["server"], item["check"]) for item in result["checks"]]
