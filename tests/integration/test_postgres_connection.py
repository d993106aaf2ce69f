"""Logging in to a real PostgreSQL: a failure names cause and remedy. Quoting, tried by the server."""

import locale
import os
import shutil
import socket
import subprocess

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import postgres as module
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ports import free_port, wait_for
from support.postgres import PostgresServer

TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1)


def params(server, **overrides):
    values = {name: option.get("default") for name, option in module.LOGIN_SPEC.items()}
    return {**values, **server.login(), **overrides}


def test_connect_is_autocommit_and_names_itself(postgres):
    connection = module.connect(params(postgres))
    try:
        assert connection.autocommit
        with connection.cursor() as cursor:
            cursor.execute("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()")
            assert cursor.fetchone() == ("frameworks.database",)
        assert module.dialect(connection).name == "postgresql"
    finally:
        connection.close()


def test_connect_over_the_socket(postgres, postgres_database):
    over_socket = params(postgres, login_unix_socket=str(postgres.directory), login_host="nowhere", login_password=None)
    connection = module.connect(over_socket, postgres_database)
    assert connection.info.dbname == postgres_database
    connection.close()


def test_the_environment_leads_to_no_other_server(postgres, monkeypatch):
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.2")  # where nobody listens
    module.connect(params(postgres)).close()


def test_a_server_that_has_vanished_is_noticed(postgres):
    """Not by the system's own measure, which is two hours of silence."""
    connection = module.connect(params(postgres))
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        silence = [end.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}"))
                   for name in ("IDLE", "INTVL", "CNT")]
    connection.close()
    assert silence == [60, 10, 6]


@pytest.mark.parametrize(
    "overrides, reason, said",
    [
        ({"database": "shop"}, "database", "database shop.*: create it first, or check its name"),
        ({"login_password": "wrong"}, "password", "check login_user \\(postgres\\) and login_password"),
        ({"login_password": None}, "password", "set login_password"),
        ({"login_user": "nobody here", "login_password": "x"}, "password", "as nobody here"),
        ({"login_db": "not there"}, "database", "database not there.*check login_db"),
        ({"ssl_mode": "require"}, "tls", "ssl_mode to disable"),
        ({"ssl_mode": "verify-full", "ca_cert": "/nowhere/ca.crt"}, "tls", "TLS on in the server"),
        ({"login_host": "no.such.host.invalid"}, "host", "check login_host"),
        ({"login_unix_socket": "/nowhere"}, "unreachable", "/nowhere/.s.PGSQL.*login_unix_socket"),
        ({"login_password": "a\0b"}, "other", "Cannot log in"),
    ],
)
def test_a_failed_login_names_cause_and_remedy(postgres, overrides, reason, said):
    options = params(postgres, **overrides)
    database = options.pop("database", None)
    if database:
        del options["login_db"]  # not every module has it
    with pytest.raises(module.ConnectionFailed, match=said) as caught:
        module.connect(options, database)
    assert caught.value.reason == reason
    assert "Traceback" not in str(caught.value) and "?." not in str(caught.value)
    assert postgres.password not in str(caught.value)


@pytest.mark.parametrize("full", ["ROLE", "DATABASE"])
def test_a_limit_of_connections_is_told(postgres, unique, postgres_database, full):
    postgres.query(f"CREATE ROLE {unique} LOGIN PASSWORD 'pw'")
    postgres.query(f"ALTER {full} {unique} CONNECTION LIMIT 0")
    try:
        with pytest.raises(module.ConnectionFailed, match=f"connections for {full.lower()}.*raise the conn"):
            module.connect(params(postgres, login_user=unique, login_password="pw"), postgres_database)
    finally:
        postgres.query(f"DROP ROLE {unique}")


def test_the_cause_is_told_in_any_language(postgres, monkeypatch):
    """Where the system has its German messages, which are libc's and libpq's."""
    monkeypatch.setenv("LANGUAGE", "de")
    before = locale.setlocale(locale.LC_MESSAGES)
    locale.setlocale(locale.LC_MESSAGES, "C.UTF-8")
    try:
        with pytest.raises(module.ConnectionFailed, match="start the server") as caught:
            module.connect(params(postgres, login_port=free_port()))
    finally:
        locale.setlocale(locale.LC_MESSAGES, before)
    assert caught.value.reason == "unreachable"


@pytest.fixture(scope="module")
def tls_server():
    """A PostgresServer whose certificate, signed by itself, is made out to `localhost` only."""
    server = PostgresServer()
    certificate, key = server.directory / "server.crt", server.directory / "server.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key,
            "-out", certificate,
        ],
        check=True, capture_output=True,
    )
    if os.geteuid() == 0:
        shutil.chown(key, server.directory.owner())
    server.options = [
        "-c", "ssl=on", "-c", f"ssl_cert_file={certificate}", "-c", f"ssl_key_file={key}",
    ]
    try:
        yield server.start()
    finally:
        server.close()


@pytest.mark.parametrize(
    "overrides, said",
    [
        ({}, "name in login_host that the server's certificate is made out to"),
        ({"login_host": "localhost", "ca_cert": "/etc/ssl/certs/ca-certificates.crt"}, "must hold the authority"),
        ({"login_host": "localhost", "ca_cert": "/nowhere/ca.crt"}, "ca_cert"),
    ],
)
def test_an_untrusted_certificate_is_refused(tls_server, overrides, said):
    trusting = {"ssl_mode": "verify-full", "ca_cert": str(tls_server.directory / "server.crt")}
    with pytest.raises(module.ConnectionFailed, match=said) as caught:
        module.connect(params(tls_server, **{**trusting, **overrides}))
    assert caught.value.reason == "tls"


def test_a_trusted_certificate_is_accepted(tls_server):
    trusting = {"ssl_mode": "verify-full", "ca_cert": str(tls_server.directory / "server.crt")}
    connection = module.connect(params(tls_server, login_host="localhost", **trusting))
    assert connection.info.ssl_in_use
    connection.close()


def test_who_is_somebody_else_over_the_socket_is_told_how_to_become_him(tls_server):
    rules = tls_server.data / "pg_hba.conf"
    rules.write_text("local all another peer\n" + rules.read_text())
    tls_server.query("SELECT pg_reload_conf()")

    def said():
        with pytest.raises(module.ConnectionFailed) as caught:
            module.connect(params(tls_server, login_user="another", login_unix_socket=str(tls_server.directory)))
        return str(caught.value)

    wait_for(lambda: "Peer authentication failed" in said(), "the server has read its rules")
    assert "become_user" in said()


def test_nobody_listens(postgres):
    port = free_port()
    with pytest.raises(module.ConnectionFailed, match=rf"127\.0\.0\.1:{port} as postgres.*refused.*start the server"):
        module.connect(params(postgres, login_port=port))


@pytest.mark.parametrize("said", ["No route to host", "Network is unreachable"])
def test_the_machine_is_not_there(postgres, monkeypatch, said):
    """As a machine of the same network that is down, which is not to be had here."""
    def refuse(**_options):
        raise module.psycopg2.OperationalError(f'connection to server at "192.0.2.1", port 5432 failed: {said}')

    monkeypatch.setattr(module.psycopg2, "connect", refuse)
    with pytest.raises(module.ConnectionFailed, match=f"{said}. What to do: start the server") as caught:
        module.connect(params(postgres))
    assert caught.value.reason == "unreachable"


def test_psycopg2_missing(postgres, monkeypatch):
    monkeypatch.setattr(module, "psycopg2", None)
    with pytest.raises(module.ConnectionFailed, match="python3-psycopg2"):
        module.connect(params(postgres))


def test_the_lock_is_exclusive_and_ends_with_its_connection(postgres, unique):
    first, second = postgres.connect(), postgres.connect()
    try:
        module.take_advisory_lock(first, unique)
        with pytest.raises(module.LockTaken, match=rf"process {first.info.backend_pid}, user postgres"):
            module.take_advisory_lock(second, unique, seconds=0)
        module.take_advisory_lock(second, unique, seconds=30, sleep=lambda _seconds: first.close())
    finally:
        first.close()
        second.close()


@settings(max_examples=50, deadline=None)
@given(text=TEXT)
def test_quoting_is_what_the_server_understands(postgres, text):
    connection = postgres.connect()
    try:
        with connection.cursor() as cursor:
            for strings in ("on", "off"):
                cursor.execute(f"SET standard_conforming_strings = {strings}")
                cursor.execute(f"SET escape_string_warning = off; SELECT {module.quote_literal(text)}")
                assert cursor.fetchone()[0] == text
            name = text.encode()[: module.NAME_BYTES].decode(errors="ignore") or "x"
            cursor.execute(f"SELECT 1 AS {module.quote_identifier(name)}")
            assert cursor.description[0].name == name
    finally:
        connection.close()
