"""Free TCP ports on loopback."""

import contextlib
import secrets
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

# Below those that the system gives to connections, which could take one between its choice and its use.
_RANGE = range(15000, 32000)
_given = set()


def free_port():
    """A port on which nobody listens at any address, another one each time. The caller has to bind it soon."""
    while True:
        port = secrets.choice(_RANGE)
        if port not in _given and is_free(port):
            _given.add(port)
            return port


def is_free(port):
    """Whether nobody listens on a port, at any address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def plain_http():
    """The port of a server that knows no TLS, in place of the embedded ClickHouse: a handshake may end that engine."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def wait_for(condition, what, seconds=30.0, alive=lambda: True, pause=0.02):
    """Call `condition` until it is true; with a longer `pause` between, where it starts processes itself.

    TimeoutError naming `what` after `seconds`, or at once when `alive()` turns false.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if not alive() or time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s" if alive() else f"{what}: the process ended")
        time.sleep(pause)
