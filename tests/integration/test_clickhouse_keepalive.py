"""One connection for many requests: as the client without, TLS and refusals included."""

import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import clickhouse as utils
from ansible_collections.frameworks.database.plugins.module_utils import clickhouse_keepalive


class Counting(BaseHTTPRequestHandler):
    """Answers everything, and remembers from which port it was asked."""

    protocol_version = "HTTP/1.1"
    ports = []
    limit = None  # seconds, if any, for which it says that it keeps an idle connection

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.ports.append(self.client_address[1])
        body = b"Code: 62. DB::Exception: no" if self.path.count("fail") else b"1\n"
        self.send_response(400 if self.path.count("fail") else 200)
        self.send_header("Content-Length", str(len(body)))
        if self.limit is not None:
            self.send_header("Keep-Alive", f"timeout={self.limit}, max=9999")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        """Quiet."""


@pytest.fixture(params=[False, True], ids=["http", "https"])
def client(request, tmp_path):
    """A keep-alive client of a server that counts connections."""
    server, login = ThreadingHTTPServer(("127.0.0.1", 0), Counting), {"login_host": "127.0.0.1"}
    if request.param:
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-keyout",
                tmp_path / "key",
                "-out",
                tmp_path / "crt",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        login.update(tls=True, ca_cert=str(tmp_path / "crt"))
    Counting.ports = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield utils.Client({**login, "login_port": server.server_address[1]})
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_connection_does_for_all_requests(client):
    for _ in range(3):
        assert client.execute("SELECT 1") == "1\n"
    with pytest.raises(utils.ServerError):
        client.execute("SELECT 1", {"fail": 1})
    client.execute("SELECT 1")
    assert len(Counting.ports) == 5 and len(set(Counting.ports)) == 1


def test_the_connection_is_free_while_a_refusal_is_handled(client):
    try:
        client.execute("SELECT 1", {"fail": 1})
    except utils.ServerError:
        assert client.execute("SELECT 1") == "1\n"
    assert len(set(Counting.ports)) == 1


def test_a_connection_that_the_server_keeps_for_no_time_is_not_used_again(client, monkeypatch):
    monkeypatch.setattr(Counting, "limit", 0)
    client.execute("SELECT 1")
    client.execute("SELECT 1")
    assert len(set(Counting.ports)) == 2


def test_an_idle_connection_is_not_trusted(client, monkeypatch):
    monkeypatch.setattr(clickhouse_keepalive, "IDLE", -1)
    client.execute("SELECT 1")
    client.execute("SELECT 1")
    assert len(set(Counting.ports)) == 2


@pytest.mark.parametrize("client", [True], indirect=True)
def test_a_certificate_of_nobody_is_refused(client):
    stranger = utils.Client({"login_host": "127.0.0.1", "login_port": client.port, "tls": True})
    with pytest.raises(utils.ConnectionFailed, match="certificate"):
        stranger.execute("SELECT 1")
