"""The client against the real server: results, refusals, odd passwords, errors in the middle of an answer."""

import contextlib
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import clickhouse as utils
from support.clickhouse import ClickHouseServer, user_xml
from support.ports import free_port, wait_for

ODD_PASSWORDS = {
    "quotes": "it's \"quoted\" `so`",
    "url": "a$b%20c@d:e/f?g#h&i=j",
    "backslash": "back\\slash \\n",
    "foreign": "пароль-zażółć-密码-é",
    "blank_ends": " leading and trailing ",
    "control": "tab\tnewline\nend",
    "foreign_blank_end": "密码 ",
}


@pytest.fixture(scope="module")
def server():
    with contextlib.closing(ClickHouseServer(
        users=[user_xml(name, password) for name, password in ODD_PASSWORDS.items()]
        + [user_xml("reader", "reader", grants=["GRANT SELECT ON system.one"]), user_xml("limited", "limited")],
    )) as instance:
        yield instance.start()


@pytest.fixture
def client(server):
    return utils.Client(server.login())


def test_rows_have_integers_and_names(client):
    assert client.rows("SELECT 1 AS small, toUInt64(18446744073709551615) AS big, [toInt64(-1)] AS list, "
                       "CAST(NULL AS Nullable(UInt64)) AS none, toNullable(toUInt64(7)) AS some, '7' AS text") == [
        {"small": 1, "big": 2**64 - 1, "list": [-1], "none": None, "some": 7, "text": "7"}
    ]


def test_settings_session_and_data(client, server, unique):
    assert client.execute("SELECT currentDatabase()", {"database": "system"}) == "system\n"
    client.execute("CREATE TEMPORARY TABLE kept (n UInt8)", session=unique)
    client.execute("INSERT INTO kept FORMAT JSONEachRow", session=unique, data='{"n": 7}')
    assert client.rows("SELECT n FROM kept", session=unique) == [{"n": 7}]
    with pytest.raises(utils.ServerError) as refused:
        client.execute("SELECT n FROM kept")
    assert refused.value.code == 60


@pytest.mark.parametrize("text", [
    "it's", 'a"b', "back\\slash", "`tick`", "new\nline\ttab", "nul\0byte",
    "zażółć 密码", "'; DROP TABLE x; --", "\\'", "",
])
def test_quoting_survives_the_real_parser(client, text):
    assert client.rows(f"SELECT {utils.quote_string(text)} AS value") == [{"value": text}]
    if text and "\0" not in text:
        assert client.rows(f"SELECT 1 AS {utils.quote_identifier(text)}") == [{text: 1}]


def test_an_empty_identifier_is_refused():
    with pytest.raises(ValueError, match="empty"):
        utils.quote_identifier("")


@pytest.mark.parametrize("user", ODD_PASSWORDS)
def test_odd_passwords_log_in(server, user):
    login = server.login(login_user=user, login_password=ODD_PASSWORDS[user])
    assert utils.Client(login).execute("SELECT currentUser()") == f"{user}\n"
    with pytest.raises(utils.AuthenticationFailed):
        utils.Client({**login, "login_password": ODD_PASSWORDS[user].strip() + "x"}).execute("SELECT 1")


def test_a_login_that_http_cannot_carry_is_refused(server):
    with pytest.raises(utils.ConnectionFailed, match="colon"):
        utils.Client(server.login(login_user="a:b", login_password="x "))


def test_refusals_have_their_code(client, server):
    with pytest.raises(utils.ServerError, match="Syntax error") as refused:
        client.execute("SELEC 1")
    assert refused.value.code == 62
    assert "DB::Exception" not in str(refused.value) and "(version" not in str(refused.value)
    with pytest.raises(utils.AuthenticationFailed, match="login_password") as refused:
        utils.Client(server.login(login_password="wrong")).execute("SELECT 1")
    assert refused.value.code == 516
    with pytest.raises(utils.ServerError, match="CREATE DATABASE") as refused:
        utils.Client(server.login(login_user="reader", login_password="reader")).execute("CREATE DATABASE d")
    assert refused.value.code == utils.ACCESS_DENIED


LATE = "SELECT throwIf(number = 200000) FROM system.numbers LIMIT 300000 SETTINGS max_block_size = 1000"


@pytest.mark.parametrize("settings", [{}, {"wait_end_of_query": 0}])
def test_an_error_in_the_middle_of_an_answer_is_an_error(client, settings):
    with pytest.raises(utils.ServerError, match="throwIf") as refused:
        client.execute(LATE, settings)
    assert refused.value.code == 395
    assert "__exception__" not in refused.value.message


def test_text_that_looks_like_an_error_is_a_result(client):
    text = "\r\n__exception__\r\nCode: 60. DB::Exception: no (UNKNOWN_TABLE) (version 26.7.2.1)"
    assert client.rows(f"SELECT {utils.quote_string(text)} AS value") == [{"value": text}]


def test_version_is_asked_for_and_required(client):
    assert client.version >= (26, 7)
    client.require((22, 8))
    with pytest.raises(utils.UnsupportedVersion, match=r"version 26\..*backups needs 99\.1 or newer"):
        client.require((99, 1), "backups")


def test_the_native_port_is_named(server):
    with pytest.raises(utils.ConnectionFailed, match=f"native port.*use {server.http_port}"):
        utils.Client(server.login(login_port=server.tcp_port)).version  # noqa: B018


def test_nothing_listens():
    port = free_port()
    with pytest.raises(utils.ConnectionFailed, match=f"nothing listens on localhost:{port}"):
        utils.Client({"login_port": port}).execute("SELECT 1")


def test_the_environments_proxy_is_left_alone_unless_wanted(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert utils.Client(server.login()).execute("SELECT 1") == "1\n"
    with pytest.raises(utils.ConnectionFailed):
        utils.Client(server.login(use_proxy=True)).execute("SELECT 1")


class _Scripted(BaseHTTPRequestHandler):
    """Answers every request with `reply`: status, headers, body."""

    reply = (200, {}, b"")
    seen = []

    def do_POST(self):
        self.seen.append(self.rfile.read(int(self.headers["Content-Length"])))
        status, headers, body = self.reply
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def answering():
    """A function that starts a server with one fixed reply and returns login options for it."""
    servers = []

    def start(status=200, headers=None, body=b"", certificate=None):
        handler = type("Scripted", (_Scripted,), {"reply": (status, headers or {}, body), "seen": []})
        web = HTTPServer(("127.0.0.1", 0), handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            web.socket = context.wrap_socket(web.socket, server_side=True)
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(web)
        return {"login_host": "127.0.0.1", "login_port": web.server_address[1], "timeout": 5, "handler": handler}

    yield start
    for web in servers:
        web.shutdown()
        web.server_close()


def test_an_old_server_is_refused(answering):
    with pytest.raises(utils.UnsupportedVersion, match=r"version 18\.16\.1; this collection needs 22\.8"):
        utils.Client(answering(body=b"18.16.1\n")).require()


def test_an_old_servers_refusal_has_its_code(answering):
    body = b"Code: 193, e.displayText() = DB::Exception: Wrong password for user x, e.what() = DB::Exception\n"
    with pytest.raises(utils.AuthenticationFailed) as refused:
        utils.Client(answering(500, body=body)).execute("SELECT 1")
    assert refused.value.code == 193


def test_a_code_in_the_header_of_a_good_status_is_an_error(answering):
    login = answering(200, {"X-ClickHouse-Exception-Code": "159"}, b"Code: 159. DB::Exception: Timeout exceeded")
    with pytest.raises(utils.ServerError, match="159: Timeout exceeded"):
        utils.Client(login).execute("SELECT 1")


def test_a_cut_answer_is_no_result(answering):
    with pytest.raises(utils.ConnectionFailed):
        utils.Client(answering(200, {"Content-Length": "50"}, b"half of it")).execute("SELECT 1")


def test_a_redirect_is_not_followed(answering):
    target = answering(body=b"26.7\n")
    login = answering(307, {"Location": f"http://127.0.0.1:{target['login_port']}/"})
    with pytest.raises(utils.ConnectionFailed, match="HTTP status 307, to http"):
        utils.Client(login).execute("SELECT 1")
    assert target["handler"].seen == []


@pytest.mark.parametrize("reply", [
    {"status": 404, "body": b"not found"},
    {"body": b"<html></html>", "headers": {"Content-Type": "text/html"}},
    {"body": b"hello"},
])
def test_something_else_on_the_port_is_named(answering, reply):
    with pytest.raises(utils.ConnectionFailed, match="not like ClickHouse|does not answer like ClickHouse"):
        utils.Client(answering(**reply)).version  # noqa: B018


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """One file with a key and a self-signed certificate for `db.example`."""
    path = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=db.example",
         "-addext", "subjectAltName=DNS:db.example", "-keyout", path / "key", "-out", path / "cert"],
        check=True, capture_output=True,
    )
    (path / "both").write_text((path / "key").read_text() + (path / "cert").read_text())
    return path


def test_certificates_are_verified(answering, certificate):
    login = {**answering(body=b"26.7.1.1\n", certificate=certificate / "both"), "tls": True}
    with pytest.raises(utils.ConnectionFailed, match="certificate.*not accepted.*ca_cert"):
        utils.Client(login).execute("SELECT 1")
    with pytest.raises(utils.ConnectionFailed, match="certificate.*not accepted.*127.0.0.1"):
        utils.Client({**login, "ca_cert": str(certificate / "cert")}).execute("SELECT 1")
    assert utils.Client({**login, "validate_certs": False}).version == (26, 7, 1, 1)


def test_tls_against_a_plain_port_is_named(answering):
    # Not the real engine: 26.7 aborts, now and then, when a client speaks TLS to its plain port.
    with pytest.raises(utils.ConnectionFailed, match="TLS handshake.*tls to false"):
        utils.Client({**answering(), "tls": True}).execute("SELECT 1")


def test_plain_http_against_a_tls_port_is_named(answering, certificate):
    login = answering(body=b"26.7\n", certificate=certificate / "both")
    with pytest.raises(utils.ConnectionFailed, match="set tls to true"):
        utils.Client(login).execute("SELECT 1")


def test_a_missing_ca_file_is_named(tmp_path):
    with pytest.raises(utils.ConnectionFailed, match="ca_cert.*nowhere"):
        utils.Client({"tls": True, "ca_cert": str(tmp_path / "nowhere")})


@pytest.mark.parametrize("host", ["http://db", "db/path", "user@db", "a b"])
def test_a_host_that_is_no_host_is_refused(host):
    with pytest.raises(utils.ConnectionFailed, match="login_host"):
        utils.Client({"login_host": host})


def test_no_answer_in_time(client, server):
    with pytest.raises(utils.ConnectionFailed, match="within 1 s"):
        utils.Client(server.login(timeout=1)).execute("SELECT sleep(3)")


LIMITED = {"max_concurrent_queries_for_user": 1}


@pytest.fixture
def busy(server, client):
    """What ends the one query that the user `limited` may have, which runs when the test begins."""
    running = threading.Thread(
        target=lambda: pytest.raises(
            utils.ServerError, utils.Client(server.login(login_user="limited", login_password="limited")).execute,
            "SELECT sleep(0.1) FROM system.numbers", {"max_block_size": 1},
        )
    )
    running.start()
    wait_for(lambda: client.rows("SELECT 1 AS it FROM system.processes WHERE user = 'limited'"), "the query runs")

    def end():
        client.execute("KILL QUERY WHERE user = 'limited' SYNC")
        running.join()

    yield end
    end()


def test_a_server_at_its_limit_is_asked_again(server, busy):
    client = utils.Client(server.login(login_user="limited", login_password="limited"))
    once, refusals = client._execute, []

    def watched(*arguments):
        try:
            return once(*arguments)
        except utils.ServerError as error:
            refusals.append(error.code)
            busy()
            raise

    client._execute = watched
    assert client.execute("SELECT 1", LIMITED) == "1\n"
    assert refusals == [202]


def test_a_server_at_its_limit_is_not_asked_for_ever(server, busy):
    client = utils.Client(server.login(login_user="limited", login_password="limited", timeout=1))
    with pytest.raises(utils.ServerError, match="So it was for 1 s: raise that limit") as refused:
        client.execute("SELECT 1", LIMITED)
    assert refused.value.code == 202
