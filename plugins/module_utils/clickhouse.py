# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ClickHouse over its HTTP interface: the login options, a client, quoting."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import json
import random
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse

from ansible.module_utils.common.text.converters import to_bytes, to_text

from .clickhouse_keepalive import KeepAlive

LOGIN_SPEC = {
    "login_host": {"type": "str", "default": "localhost"},
    "login_port": {"type": "int"},
    "login_user": {"type": "str", "default": "default"},
    "login_password": {"type": "str", "no_log": True},
    "tls": {"type": "bool", "default": False},
    "validate_certs": {"type": "bool", "default": True},
    "ca_cert": {"type": "path"},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path", "no_log": False},
    "use_proxy": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 60},
}

MINIMUM_VERSION = (22, 8)

# What the server answers to a login that it does not accept; servers before 20.x used a code of its own for each cause.
AUTHENTICATION_CODES = (192, 193, 194, 195, 516)
ACCESS_DENIED = 497
# So a server at its limit of queries refuses one before it begins. Where another server said so, this one has begun.
_NO_ROOM = re.compile(r"Too many simultaneous (?:\w+ )*queries")
_TOO_MANY_QUERIES = 202
PATIENCE = 60  # seconds for which such a server is asked again

_ESCAPES = str.maketrans(
    {"\\": "\\\\", "\0": "\\0", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
)
_CODE = re.compile(r"Code: (\d+)[.,]")
_PREFIX = re.compile(r"^(?:Code: \d+[.,] *)?(?:e\.displayText\(\) = *)?(?:DB::(?:\w*Exception): *)?")
_SUFFIX = re.compile(r" *(?:\(version [^()]*(?:\([^()]*\))?\))\s*$")
_WRAPPER = re.compile(r"^(?:Nullable|LowCardinality)\((.*)\)$")
_BIG_INTEGER = re.compile(r"^U?Int(?:64|128|256)$")


class ClickHouseError(Exception):
    """Whatever this file raises; the text is a whole sentence for the operator."""


class ConnectionFailed(ClickHouseError):
    """No usable answer: TLS refused, not ClickHouse's HTTP interface, no answer in time.

    unreachable: nothing listens.
    """

    def __init__(self, message, unreachable=False):
        super().__init__(message)
        self.unreachable = unreachable


class UnsupportedVersion(ClickHouseError):
    """The server is older than what is asked of it."""


class ServerError(ClickHouseError):
    """The server refused a statement. `code` is ClickHouse's number, `message` its text without the decoration."""

    def __init__(self, code, message):
        super().__init__(f"ClickHouse error {code}: {message}" if code else message)
        self.code = code
        self.message = message


class AuthenticationFailed(ServerError):
    """The server refused the login itself."""


def _quoted(text, quote):
    return quote + text.translate(_ESCAPES).replace(quote, "\\" + quote) + quote


def quote_string(text):
    """`text` as a ClickHouse string literal on one line."""
    return _quoted(text, "'")


def quote_identifier(name):
    """`name` as one quoted identifier; ValueError where it is empty, which ClickHouse has no name for."""
    if not name:
        raise ValueError("an empty name")
    return _quoted(name, "`")


@functools.lru_cache(maxsize=256, typed=True)  # most come again with each statement
def _parameter(name, value):
    return urllib.parse.urlencode({name: value})


def _integers(value, kind):
    """Undo ClickHouse's habit of writing 64-bit integers as JSON strings."""
    wrapped = _WRAPPER.match(kind)
    if wrapped:
        return _integers(value, wrapped.group(1))
    if isinstance(value, str) and _BIG_INTEGER.match(kind):
        return int(value)
    if isinstance(value, list) and kind.startswith("Array("):
        return [_integers(item, kind[len("Array("):-1]) for item in value]
    return value


class Client:
    """One server's HTTP interface. Every statement is a request of its own; `session` ties several together.

    `params` are the options of LOGIN_SPEC. All requests use one connection, unless a proxy is used.
    ConnectionFailed where the options do not make sense; nothing is sent yet.
    """

    def __init__(self, params):
        self.user = params.get("login_user") or "default"
        self.tls = bool(params.get("tls"))
        self.host = params.get("login_host") or "localhost"
        self.port = params.get("login_port") or (8443 if self.tls else 8123)
        self.timeout = params.get("timeout") or 60
        if re.search(r"[\s/@?#\[\]]", self.host):
            raise ConnectionFailed(
                f"login_host is {self.host!r}: give a host name or an address alone; "
                "port and TLS have options of their own"
            )
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"{'https' if self.tls else 'http'}://{bracketed}:{self.port}"
        self._headers = self._credentials(params.get("login_password") or "")
        if params.get("use_proxy"):
            from ansible.module_utils.urls import Request  # takes its time, and is not needed otherwise

            self._request = Request(
                use_proxy=True, timeout=self.timeout, follow_redirects="none", use_netrc=False,
                context=self._context(params),
            )
        else:
            self._request = KeepAlive(self.host, self.port, self.timeout, self._context(params) if self.tls else None)
        self._version = None

    def _credentials(self, password):
        """The login as headers. It never goes into the URL, which servers and proxies log."""
        awkward = re.compile(r"^\s|\s$|[\x00-\x1f\x7f]")
        if not awkward.search(self.user) and not awkward.search(password):
            # http.client sends Latin-1; this makes the bytes on the wire UTF-8, which is what ClickHouse compares.
            return {
                name: to_bytes(value).decode("latin-1")
                for name, value in (("X-ClickHouse-User", self.user), ("X-ClickHouse-Key", password))
            }
        # A header loses blanks at its ends and cannot hold control characters; Basic cannot hold a colon in the name.
        if ":" in self.user:
            raise ConnectionFailed(
                f"login_user {self.user!r} has a colon and user or password has blanks at an end or control "
                "characters: HTTP has no way to send that login, so change one of them"
            )
        return {"Authorization": "Basic " + to_text(base64.b64encode(to_bytes(f"{self.user}:{password}")))}

    def _context(self, params):
        if not self.tls:
            # Unused; without one, urls.py loads every CA of the system at each request.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        from ansible.module_utils.urls import make_context

        try:
            return make_context(
                cafile=params.get("ca_cert"), validate_certs=params.get("validate_certs", True),
                client_cert=params.get("client_cert"), client_key=params.get("client_key"),
            )
        except (OSError, ValueError) as error:
            files = ", ".join(
                f"{name} ({params[name]})" for name in ("ca_cert", "client_cert", "client_key") if params.get(name)
            )
            raise ConnectionFailed(f"{files or 'the system CA certificates'} cannot be used: {error}") from error

    def execute(self, sql, settings=None, session=None, data=None, before_retry=None):
        """Execute one statement and return the answer's text (empty for DDL).

        settings: server settings and `database`, as a dictionary. session: a session's name, so that USE, SET and
        temporary tables last. data: what follows an INSERT … FORMAT, str or bytes.
        A server that is at its limit of queries is asked again for a minute; before_retry() may raise what ends that.
        Raises ServerError, AuthenticationFailed, ConnectionFailed.
        """
        patience = min(self.timeout, PATIENCE)
        deadline = time.monotonic() + patience
        while True:
            try:
                return self._execute(sql, settings, session, data)
            except ServerError as error:
                if error.code != _TOO_MANY_QUERIES or not _NO_ROOM.match(error.message):
                    raise
                if time.monotonic() > deadline:
                    raise ServerError(
                        error.code, f"{error.message} So it was for {patience} s: raise that limit, or run again "
                        "when the server has less to do",
                    ) from None
            time.sleep(random.uniform(0.05, 0.4))
            if before_retry:
                before_retry()

    def _execute(self, sql, settings, session, data):
        parameters = {"wait_end_of_query": 1, **(settings or {})}  # so that a late error is the answer's status
        if session is not None:
            parameters["session_id"] = session
        body = to_bytes(sql)
        if data is not None:
            body += b"\n" + to_bytes(data)
        url = f"{self.address}/?{'&'.join(_parameter(name, value) for name, value in parameters.items())}"
        headers = {"Content-Type": "text/plain; charset=utf-8", **self._headers}
        try:
            answer = self._request.open("POST", url, data=body, headers=headers)
            text = self._read(answer)
        except urllib.error.HTTPError as error:
            raise self._refusal(error.code, error.headers, self._read_refusal(error)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
            raise ConnectionFailed(self._cause(error), unreachable=refused) from error
        if "text/html" in answer.headers.get("Content-Type", ""):
            raise ConnectionFailed(f"{self.address} answers with a web page, not like ClickHouse: check login_port")
        return to_text(text)

    @staticmethod
    def _read_refusal(answer):
        """The text of a refusal, as far as it came: who is no HTTP server may reset the connection behind it."""
        parts = []
        with contextlib.suppress(OSError, http.client.HTTPException):
            while not parts or parts[-1]:
                parts.append(answer.fp.read1(65536))
        answer.close()  # or the connection would not be free before the exception that holds the answer is gone
        return b"".join(parts)

    def _read(self, answer):
        """The answer's body. Raises the ServerError of a statement that failed after its answer had begun."""
        try:
            text, cut = answer.read(), None
        except http.client.IncompleteRead as error:  # so the server ends an answer in which an error came up
            text, cut = error.partial, error
        late = None
        if b"__exception__" in text:
            tag = to_bytes(answer.headers.get("X-ClickHouse-Exception-Tag", ""))
            late = tag and re.search(b"\r\n__exception__\r\n%s\r\n(.*)" % re.escape(tag), text, re.S)
        if late:
            raise self._refusal(200, answer.headers, re.sub(rb"\n\d+ \w+\r\n__exception__\r\n$", b"", late.group(1)))
        if answer.status == 200 and answer.headers.get("X-ClickHouse-Exception-Code"):
            raise self._refusal(200, answer.headers, text)
        if cut:
            raise cut
        return text

    def _refusal(self, status, headers, body):
        """The exception for an answer that is not a result."""
        text = to_text(body, errors="replace").strip()
        if "clickhouse-client program" in text:
            hint = re.search(r"must use port (\d+) for HTTP", text)
            return ConnectionFailed(
                f"login_port {self.port} on {self.host} is ClickHouse's native port: this collection speaks HTTP, "
                f"so use {hint.group(1) if hint else 8123}" + (" (8443 with TLS)" if not hint else "")
            )
        if "plain HTTP request" in text and not self.tls:
            return ConnectionFailed(f"{self.host}:{self.port} wants TLS: set tls to true")
        code = headers.get("X-ClickHouse-Exception-Code")
        found = _CODE.search(text)
        if not code and not found:
            where = f", to {headers['Location']}" if headers.get("Location") else ""
            return ConnectionFailed(
                f"{self.address} answers with HTTP status {status}{where}, not like ClickHouse: "
                "check login_host and login_port, and what stands in front of the server"
            )
        code = int(code or found.group(1))
        message = _SUFFIX.sub("", _PREFIX.sub("", text)).strip()
        if code in AUTHENTICATION_CODES:
            return AuthenticationFailed(
                code, f"{self.address} refuses user {self.user!r}: wrong password, no such user, or a user who may not "
                "log in from this host. Check login_user and login_password",
            )
        return ServerError(code, message)

    def _cause(self, error):
        reason = getattr(error, "reason", error)
        where = f"{self.host}:{self.port}"
        if isinstance(reason, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {where} is not accepted: {reason.verify_message or reason}. Check login_host "
                "against the certificate's names and ca_cert against its issuer"
            )
        if isinstance(reason, ssl.SSLError):
            return (
                f"{where} does not complete the TLS handshake ({reason.reason or reason}). If this is the plain HTTP "
                "port, set tls to false or login_port to the HTTPS port (8443)"
            )
        if isinstance(reason, (socket.timeout, TimeoutError)):
            return (
                f"{where} has not answered within {self.timeout} s; a statement may still be running there. Check the "
                "host and firewalls, or raise timeout"
            )
        if isinstance(reason, ConnectionRefusedError):
            return f"nothing listens on {where}: start ClickHouse, or correct login_host and login_port"
        if isinstance(reason, socket.gaierror):
            return f"login_host {self.host!r} cannot be resolved: {reason.strerror or reason}"
        if isinstance(reason, (http.client.HTTPException, ConnectionResetError, BrokenPipeError)):
            tls = "" if self.tls else "; if the port is for HTTPS, set tls to true"
            return (
                f"{where} ends the connection without an HTTP answer ({type(reason).__name__}): the server is stopping "
                f"or crashed, or this is not ClickHouse's HTTP port{tls}"
            )
        return f"{where} cannot be reached: {reason}"

    def rows(self, sql, settings=None, session=None):
        """Execute one query without a FORMAT clause; its rows as a list of dictionaries, integers as int.

        Raises what execute() raises.
        """
        answer = json.loads(self.execute(sql, {"default_format": "JSON", **(settings or {})}, session))
        kinds = {column["name"]: column["type"] for column in answer["meta"]}
        return [{name: _integers(value, kinds[name]) for name, value in row.items()} for row in answer["data"]]

    @property
    def version(self):
        """The server's version as a tuple of integers, asked for once. Raises what execute() raises."""
        if self._version is None:
            text = self.execute("SELECT version()").strip()
            if not re.match(r"\d+\.\d+", text):
                raise ConnectionFailed(f"{self.address} does not answer like ClickHouse: check login_port")
            self._version = tuple(int(part) for part in re.findall(r"\d+", text)[:4])
        return self._version

    @property
    def known_version(self):
        """The version where it has been asked for, else None."""
        return self._version

    def require(self, version=MINIMUM_VERSION, purpose="this collection"):
        """UnsupportedVersion unless the server is at least `version`, a tuple; `purpose` is named in the sentence."""
        if self.version < tuple(version):
            raise UnsupportedVersion(
                f"ClickHouse at {self.address} is version {'.'.join(map(str, self.version))}; {purpose} needs "
                f"{'.'.join(map(str, version))} or newer"
            )
