# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server of the PostgreSQL protocol: login options, connection, dialect, quoting, lock."""

from __future__ import annotations

import hashlib
import locale
import re
import sys
import time

try:
    import psycopg2
except ImportError:
    psycopg2 = None

LOGIN_SPEC = {
    "login_host": {"type": "str", "default": "localhost"},
    "login_port": {"type": "int", "default": 5432},
    "login_user": {"type": "str", "default": "postgres"},
    "login_password": {"type": "str", "no_log": True},
    "login_unix_socket": {"type": "path"},
    "login_db": {"type": "str", "default": "postgres"},
    "ssl_mode": {
        "type": "str",
        "default": "prefer",
        "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
    },
    "ca_cert": {"type": "path"},
    "ssl_cert": {"type": "path"},
    "ssl_key": {"type": "path", "no_log": False},
    "connect_timeout": {"type": "int", "default": 10},
}

# PostgreSQL truncates longer names with no more than a notice, so that what was declared would never be found.
NAME_BYTES = 63

# What libpq and the server say (psycopg2 hands out no SQLSTATE for a failed login), and what to do about it.
_CAUSES = (
    ("password", "password authentication failed", "check {user} and login_password"),
    ("password", "no password supplied", "the server asks for a password: set login_password"),
    ("peer", "Peer authentication failed",
     "over the socket this account may not be {user}: become_user the account of that name, or see pg_ident.conf"),
    ("tls", "server does not support SSL", "switch TLS on in the server, or set ssl_mode to disable"),
    ("tls", "certificate verify failed", "ca_cert must hold the authority that signed the server's certificate"),
    ("tls", "does not match host name", "use a name in login_host that the server's certificate is made out to"),
    ("tls", "root certificate file", "name the authority's certificate in ca_cert"),
    ("tls", "private key file", "check ssl_key: it must belong to this account with mode 0600"),
    ("tls", "certificate file", "check ca_cert and ssl_cert"),
    ("tls", "SSL error", "check ssl_mode and the certificates"),
    ("hba", "no pg_hba.conf entry", "pg_hba.conf of the server has to admit {user} from here (TLS or not: ssl_mode)"),
    ("hba", "pg_hba.conf rejects", "pg_hba.conf of the server has to admit {user} from here (TLS or not: ssl_mode)"),
    ("limit", "too many connections for", "end sessions, or raise the connection limit, then run again"),
    ("login", "is not permitted to log in", "{user} is a role without login"),
    ("database", "permission denied for database", "grant {user} CONNECT on it"),
    ("database", "not currently accepting connections", "ALTER DATABASE … ALLOW_CONNECTIONS true, or leave it out"),
    ("database", "invalid database", "a DROP DATABASE of it was cut off: drop it (state: absent and drop_data: true)"),
    ("user", "role \"", "{user} must exist: check login_user"),
    ("database", "database \"", "{database}"),
    ("busy", "the database system is", "wait until the server has started, then run again"),
    ("busy", "too many clients", "wait or raise max_connections, then run again"),
    ("busy", "remaining connection slots", "wait or raise max_connections, then run again"),
    ("unreachable", "Connection refused", "start the server, or check {where}"),
    ("unreachable", "No route to host", "start the server, or check {where}"),
    ("unreachable", "Network is unreachable", "start the server, or check {where}"),
    ("unreachable", "No such file or directory", "start the server, or check {where}"),
    ("unreachable", "timeout expired", "check {where} and the firewall between, or raise connect_timeout"),
    ("host", "could not translate host name", "check login_host"),
    ("other", "", "check {where}, ssl_mode and the server's log"),
)


class PostgresError(Exception):
    """Whatever this file raises; the text is a whole sentence for the operator."""


class ConnectionFailed(PostgresError):
    """No connection.

    `reason` is one of driver, password, peer, tls, hba, login, user, database, limit, busy, host, unreachable.
    """

    def __init__(self, message, reason):
        super().__init__(message)
        self.reason = reason


class UnsupportedServer(PostgresError):
    """The server is older than the collection can work with."""


class LockTaken(PostgresError):
    """Another run held the lock for all the time that this one was ready to wait."""


def connect(params, database=None):
    """A psycopg2 connection in autocommit mode to `database`, or to params["login_db"].

    params: the values of LOGIN_SPEC; login_unix_socket, where given, takes the place of login_host.
    Raises ConnectionFailed, whose text names the server, the user, the cause and the remedy.
    """
    if psycopg2 is None:
        raise ConnectionFailed(
            f"The Python library psycopg2 is missing for {sys.executable}: install the package python3-psycopg2, "
            "or psycopg2-binary into its virtual environment, or choose another ansible_python_interpreter.",
            "driver",
        )
    database = database or params["login_db"]
    options = {
        "host": params.get("login_unix_socket") or params["login_host"],
        "port": params["login_port"],
        "user": params["login_user"],
        "dbname": database,
        "password": params.get("login_password"),
        "sslmode": params.get("ssl_mode") or "prefer",
        "sslrootcert": params.get("ca_cert"),
        "sslcert": params.get("ssl_cert"),
        "sslkey": params.get("ssl_key"),
        "connect_timeout": params.get("connect_timeout") or 10,
        "client_encoding": "UTF8",
        "application_name": "frameworks.database",
        # A server that vanishes without a word is given up after two minutes; the system's own measure is two hours.
        "keepalives_idle": 60,
        "keepalives_interval": 10,
        "keepalives_count": 6,
    }
    given = {name: value for name, value in options.items() if value not in (None, "")}
    locale.setlocale(locale.LC_MESSAGES, "C")  # _CAUSES are in English
    try:
        # PGHOSTADDR would lead to another server than the one that was named.
        connection = psycopg2.connect(**given, hostaddr="")
    except (psycopg2.Error, ValueError) as error:
        raise _connection_failed(params, database, str(error).strip()) from None
    connection.autocommit = True
    return connection


def server_address(params):
    """`host:port`, or the socket's path, the way error messages name a server."""
    if params.get("login_unix_socket"):
        return f"{params['login_unix_socket'].rstrip('/')}/.s.PGSQL.{params['login_port']}"
    return f"{params['login_host']}:{params['login_port']}"


def _connection_failed(params, database, said):
    where = "login_unix_socket and login_port" if params.get("login_unix_socket") else "login_host and login_port"
    reason, remedy = next((reason, remedy) for reason, sign, remedy in _CAUSES if sign in said)
    user = params["login_user"]
    missing = "check login_db" if database == params.get("login_db") else "create it first, or check its name"
    remedy = remedy.format(user=f"login_user ({user})", where=where, database=missing)
    said = " ".join(said.split())
    return ConnectionFailed(
        f"Cannot log in to {server_address(params)} as {user} (database {database}): "
        f"{said}{'' if said.endswith(('?', '.')) else '.'} What to do: {remedy}.",
        reason,
    )


class Dialect:
    """What sets PostgreSQL apart, as far as this collection cares; `dialect()` makes one.

    name, title: the engine, for machines and for sentences.
    version: its own version as a tuple of integers.
    transactional_ddl: whether a failed transaction takes its DDL back.
    advisory_locks: whether two runs can keep out of each other's way with them.
    database_options: what CREATE DATABASE takes besides an owner and a connection limit.
    """

    name = "postgresql"
    title = "PostgreSQL"
    transactional_ddl = True
    database_options = frozenset({"encoding", "lc_collate", "lc_ctype", "template"})
    transient_states = frozenset({"40001", "40P01"})
    transient_texts = ("tuple concurrently updated",)
    minimum = (11,)

    def __init__(self, version):
        self.version = version
        if version < self.minimum:
            raise UnsupportedServer(
                f"The server is {self.title} {'.'.join(map(str, version))}; "
                f"{'.'.join(map(str, self.minimum))} is the oldest that this collection works with."
            )

    @property
    def advisory_locks(self):
        return True

    def is_transient(self, error):
        """Whether the same statement may well succeed if it is tried again."""
        text = str(error).lower()
        return getattr(error, "pgcode", None) in self.transient_states or any(
            sign.lower() in text for sign in self.transient_texts
        )

    def retry(self, action, seconds=60.0, sleep=time.sleep):
        """The result of `action()`, called again after transient errors with growing pauses.

        It stops trying, and lets the error through, once the pauses add up to `seconds`.
        """
        pause, paused = 0.1, 0.0
        while True:
            try:
                return action()
            except Exception as error:
                if not self.is_transient(error) or paused + pause > seconds:
                    raise
            sleep(pause)
            paused += pause
            pause = min(pause * 2, 5.0)


class YugabyteDB(Dialect):
    """YSQL: PostgreSQL 11 or 15 in front of another storage engine."""

    name = "yugabytedb"
    title = "YugabyteDB"
    # DDL statements commit one by one before 2025.2, even inside BEGIN; it is never assumed that they do not.
    transactional_ddl = False
    database_options = frozenset({"colocation"})
    transient_texts = (
        *Dialect.transient_texts,
        "catalog version mismatch",
        "schema version mismatch",
        "has been invalidated",
    )
    minimum = (2, 20)

    @property
    def advisory_locks(self):
        return self.version >= (2025, 1)


def dialect(connection):
    """The Dialect of the server behind `connection`. Raises UnsupportedServer."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT version()")
        text = cursor.fetchone()[0]
    yugabyte = re.search(r"-YB-([0-9.]+)", text)
    if yugabyte:
        return YugabyteDB(_numbers(yugabyte.group(1)))
    return Dialect(_numbers(re.search(r"[0-9.]+", text).group()))


def _numbers(version):
    return tuple(int(part) for part in version.split(".") if part)


def quote_identifier(name):
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text):
    """`text` as an SQL string, whatever standard_conforming_strings says."""
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


_LOCKS = """
FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
  AND (l.classid::bigint << 32 | l.objid::bigint)"""
_LOCK_HOLDER = f"""
SELECT a.pid, a.usename, coalesce(a.client_addr::text, 'the socket'), date_trunc('second', a.backend_start)::text
FROM pg_catalog.pg_stat_activity AS a WHERE a.pid IN (SELECT l.pid {_LOCKS} = ANY(%s)) ORDER BY 4 LIMIT 1
"""


def lock_key(name):
    """The number that stands for the advisory lock `name`."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def advisory_lock_holder(connection, *names):
    """Who holds one of the advisory locks `names` of the connected database, for a sentence, or None."""
    with connection.cursor() as cursor:
        cursor.execute(_LOCK_HOLDER, ([lock_key(name) for name in names],))
        holder = cursor.fetchone()
    return "another run (server process {}, user {}, from {}, since {})".format(*holder) if holder else None


def lock_check(name, pid, column):
    """The query whether the server process `pid` holds the advisory lock `name` of the connected database."""
    return f"SELECT EXISTS (SELECT {' '.join(_LOCKS.split())} = {lock_key(name)} AND l.pid = {pid}) AS {column}"


def stay(connection):
    """Let a connection live on however long nothing is asked of it, while programs are at work."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings "
            "WHERE name IN ('idle_session_timeout', 'transaction_timeout')"  # not every version has both
        )


def release_advisory_lock(connection, name):
    """Give the advisory lock `name` back before the connection ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.pg_advisory_unlock(%s)", (lock_key(name),))


def take_advisory_lock(connection, name, seconds=60, sleep=time.sleep):
    """Take the advisory lock `name` of the connected database, waiting up to `seconds` for it.

    It is held until the connection ends, however it ends. Raises LockTaken, whose text names the holder.
    """
    deadline = time.monotonic() + seconds
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", (lock_key(name),))
            if cursor.fetchone()[0]:
                return
            if time.monotonic() >= deadline:
                break
            sleep(0.1)
    who = advisory_lock_holder(connection, name) or "another run"
    raise LockTaken(f"After {seconds} s {who} still holds the lock {name!r}: wait for its end, then run again.")
