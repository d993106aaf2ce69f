# Stand-in for YSQL. Not YSQL: HBA rules, TLS and refusals of a node, before one PostgreSQL 15 that all nodes share.
"""What listens on 5433 and on the socket under /tmp."""

import asyncio
import contextlib
import ipaddress
import os
import re
import shutil
import socket
import ssl
import struct
import time
import zlib
from pathlib import Path

from . import Fatal, rpc
from .flags import csv, true

SSL, GSS, CANCEL, STARTUP = 80877103, 80877104, 80877102, 196608
LEASE_SECONDS = 5.0

TOKENS = re.compile(
    r"""(?P<string>[eE]?'(?:[^']|'')*')|(?P<name>"(?:[^"]|"")*")|(?P<dollar>\$(\w*)\$.*?\$\4\$)"""
    r"""|(?P<line>--[^\n]*)|(?P<block>/\*.*?\*/)""",
    re.DOTALL,
)

# What the catalogue cannot tell (ysql.sql has the rest): (statement, as a pattern; what YSQL says).
REFUSED = [
    (re.compile(pattern, re.DOTALL), message)
    for pattern, message in (
        (r"CLUSTER\b(?!ED)", "CLUSTER not supported yet"),
        (r"MERGE INTO\b", "MERGE not supported yet"),
        (r"(WITH .*)?MERGE INTO\b", "MERGE not supported yet"),
        (r"ALTER SYSTEM\b", "ALTER SYSTEM not supported yet"),
        (r"ALTER TYPE \S+ (ADD|DROP|ALTER|RENAME) ATTRIBUTE\b", "ALTER TYPE ATTRIBUTE not supported yet"),
        (r"DROP INDEX CONCURRENTLY\b", "DROP INDEX CONCURRENTLY not supported yet"),
        (
            r"DROP (?!(TABLE|OWNED|ROLE|USER|GROUP|FUNCTION|PROCEDURE|AGGREGATE|OPERATOR|ROUTINE)\b)[A-Z ]*?"
            r"(IF EXISTS )?[\w.]+ ?,",
            "DROP of several objects in one statement not supported yet",
        ),
        (r"REINDEX (\(.*?\) )?(TABLE|DATABASE|SCHEMA|SYSTEM)\b", "REINDEX of anything but an index not supported yet"),
        (r"PREPARE TRANSACTION\b", "PREPARE TRANSACTION not supported yet"),
        (
            r"CREATE (GLOBAL |LOCAL )?(TEMP |TEMPORARY |UNLOGGED )?TABLE .* AS EXECUTE\b",
            "CREATE TABLE AS EXECUTE not supported yet",
        ),
        (r"CREATE SCHEMA .*\b(CREATE|GRANT) ", "CREATE SCHEMA with elements not supported yet"),
        (r"CREATE CONSTRAINT TRIGGER\b", "CREATE CONSTRAINT TRIGGER not supported yet"),
        (
            r"CREATE DATABASE .*\bTEMPLATE\b ?=? ?(?!TEMPLATE[01]\b)\w",
            "Value other than default, template0 or template1 for template option is not yet supported",
        ),
    )
]
DATABASE_OPTIONS = re.compile(r"\b(ENCODING|LC_COLLATE|LC_CTYPE)\s*=?\s*'([^']*)'", re.IGNORECASE)
DATABASE_VALUES = {"ENCODING": ("UTF8", "UTF-8"), "LC_COLLATE": ("C",), "LC_CTYPE": ("en_US.UTF-8", "C")}
COLOCATION = re.compile(r"\bCOLOCAT(?:ION|ED)\s*=?\s*(?:true|false)\b", re.IGNORECASE)


def statements(text):
    """The statements of an SQL text: comments dropped, literals emptied, spaces single, upper case."""

    def blank(match):
        return " " if match.lastgroup in ("line", "block") else "''" if match.lastgroup == "string" else "x"

    return [" ".join(part.split()).upper() for part in TOKENS.sub(blank, text).split(";") if part.strip()]


def refusal(text):
    """What YSQL would say to the SQL text instead of running it, or None."""
    for statement in statements(text):
        for pattern, message in REFUSED:
            if pattern.match(statement):
                return message
        if statement.startswith("CREATE DATABASE"):
            for option, value in DATABASE_OPTIONS.findall(text):
                taken = DATABASE_VALUES[option.upper()]
                if value not in taken:
                    return f"Value other than {' or '.join(taken)} for {option} option is not yet supported"
    return None


def rewrite(text, application):
    """The SQL that PostgreSQL gets for what a client sent."""
    message = refusal(text)
    if message:
        quoted = message.replace("'", "''")
        return f"DO $stand_in$BEGIN RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = '{quoted}'; END$stand_in$"
    if COLOCATION.search(text) and any(one.startswith("CREATE DATABASE") for one in statements(text)):
        # PostgreSQL remembers it in a column of pg_database that means nothing here; ysql.sql reads it.
        text = COLOCATION.sub(
            lambda one: "COLLATION_VERSION = 'colocated'" if one.group().lower().endswith("true") else "", text
        )
        text = re.sub(r"\bWITH\s*(?=;|$)", "", text.rstrip(), flags=re.IGNORECASE)
    if application == "pg_dump":  # the stand-in's own trigger is no part of anybody's database
        text = text.replace(
            "FROM pg_event_trigger e",
            "FROM (SELECT tableoid, * FROM pg_event_trigger WHERE evtname !~ '^stand_in') e",
        )
    return text


def hba_lines(flags, tls):
    """The lines of ysql_hba.conf, in YSQL's order. Raises Fatal."""
    lines = csv(flags.get("ysql_hba_conf_csv", ""))
    if true(flags, "ysql_enable_auth") or tls:
        method = "md5" if true(flags, "ysql_enable_auth") else "trust"
        lines.append(f"{'hostssl' if tls else 'host'} all all all {method}")
    if not lines:
        lines = ["host all all all trust"]
    if "local all yugabyte trust" not in lines:
        lines.append("local all yugabyte trust")
    return [line.strip() for line in lines]


def is_own(address):
    """Whether an IP address is one of this host's."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def hba_method(lines, peer, encrypted, user, database, own=is_own):
    """The method of the first line that fits, or None. `peer` is the client's IP address, or None on the socket."""
    for line in lines:
        words = line.split()
        if words[0] == "local":
            fits, rest = peer is None, words[3:]
        else:
            fits = peer is not None and words[0] in ("host", "hostssl" if encrypted else "hostnossl")
            rest = words[4:]
            if fits and words[3] == "samehost":
                fits = own(peer)
            elif fits and words[3] not in ("all", "0.0.0.0/0", "::0/0", "::/0"):
                fits = ipaddress.ip_address(peer) in ipaddress.ip_network(words[3], strict=False)
            elif fits and words[3] != "all":
                fits = (":" in peer) == (":" in words[3])
        if fits and (words[1] in ("all", database)) and (words[2] in ("all", user)):
            return rest[0]
    return None


class Ysql:
    """`await Ysql(server).run()` serves until it is cancelled."""

    def __init__(self, server):
        self.server, self.flags = server, server.flags
        self.tls = true(self.flags, "use_client_to_server_encryption")
        self.host, port = self.flags.get("pgsql_proxy_bind_address", "0.0.0.0:5433").split(",")[0].rsplit(":", 1)
        self.port = int(port)
        self.lines = hba_lines(self.flags, self.tls)
        settings = dict(
            re.split(r"\s*=\s*", one.strip(), maxsplit=1) for one in csv(self.flags.get("ysql_pg_conf_csv", ""))
        )
        self.password_encryption = settings.get("password_encryption", "md5").strip("'")
        self.context, self.writers = None, set()

    async def run(self):
        if self.tls:
            directory = self.flags.get("certs_for_client_dir") or self.flags.get("certs_dir", "")
            try:
                self.context = rpc.server_tls(directory, self.flags.get("cert_node_filename") or self.server.host)
            except (OSError, ssl.SSLError) as error:
                raise Fatal(f"IO error: YSQL's certificate in {directory}: {error}") from None
        while not self.server.known.get("leader"):
            await asyncio.sleep(0.1)
        data = Path(self.flags["fs_data_dirs"].split(",")[0]) / "pg_data"
        sockets = Path(f"/tmp/.yb.{zlib.crc32(f'{self.host}:{self.port}'.encode())}")
        data.mkdir(exist_ok=True)
        sockets.mkdir(exist_ok=True)
        (data / "ysql_hba.conf").write_text(
            "# This is an autogenerated file, do not edit manually!\n" + "\n".join(self.lines) + "\n"
        )
        path = sockets / f".s.PGSQL.{self.port}"
        path.unlink(missing_ok=True)
        try:
            listeners = [
                await asyncio.start_server(self.client, self.host, self.port),
                await asyncio.start_unix_server(self.client, path),
            ]
        except OSError as error:
            raise Fatal(f"YSQL could not bind {self.host}:{self.port}: {error}") from None
        path.chmod(0o700)
        (data / "postmaster.pid").write_text(
            f"{os.getpid()}\n{data}\n{int(time.time())}\n{self.port}\n{sockets}\n{self.host}\n0 0\nready   \n"
        )
        self.server.log(f"YSQL on {self.host}:{self.port} and {path}")
        try:
            await self.keep_lease()
        finally:
            (data / "postmaster.pid").unlink(missing_ok=True)
            shutil.rmtree(sockets, ignore_errors=True)
            for one in listeners:
                one.close()

    async def keep_lease(self):
        """Close the connections of a node that has lost the masters."""
        heard = time.monotonic()
        while True:
            await asyncio.sleep(0.2)
            if self.server.known.get("leader"):
                heard = time.monotonic()
            elif time.monotonic() - heard > LEASE_SECONDS:
                for writer in list(self.writers):
                    writer.close()

    # -- one connection ---------------------------------------------------------------------------------------------

    async def client(self, reader, writer):
        self.writers.add(writer)
        upstream = None
        try:
            peer = writer.get_extra_info("peername")
            peer = peer[0] if isinstance(peer, tuple) else None
            reader, writer, startup = await self.startup(reader, writer, peer)
            if startup is None:
                return
            secure = writer.get_extra_info("ssl_object") is not None
            method = hba_method(self.lines, peer, secure, startup["user"], startup["database"])
            if method in (None, "reject"):
                what = "no pg_hba.conf entry for host" if method is None else "pg_hba.conf rejects connection for host"
                encryption = "SSL encryption" if secure else "no encryption"
                self.fatal(
                    writer,
                    "28000",
                    f'{what} "{peer or "[local]"}", user "{startup["user"]}", '
                    f'database "{startup["database"]}", {encryption}',
                )
                return
            if not self.server.known.get("leader"):
                self.fatal(writer, "57P03", "the tablet server has no lease: it does not reach the masters' leader")
                return
            host, port = self.server.backbone
            try:
                # By the address that it comes from, the shared PostgreSQL knows a session's node (ysql.sql).
                back, upstream = await asyncio.wait_for(
                    asyncio.open_connection(
                        host, port + (2 if method == "trust" else 1), limit=2**20, local_addr=(self.host, 0),
                    ), rpc.TIMEOUT
                )
            except (OSError, asyncio.TimeoutError):
                self.fatal(writer, "57P03", "Timed out: the tablets do not answer")
                return
            self.writers.add(upstream)
            options = (
                f"{startup.pop('options', '')} -c password_encryption={self.password_encryption} "
                f"-c stand_in.release={self.server.release['version']}-{self.server.release['build']}"
            )
            upstream.write(packed({**startup, "options": options.strip()}))
            if await self.log_in(reader, writer, back, upstream, method):
                await asyncio.wait(
                    [
                        asyncio.create_task(self.forward(reader, upstream, startup.get("application_name"))),
                        asyncio.create_task(pipe(back, writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
        except (OSError, asyncio.IncompleteReadError, struct.error, ssl.SSLError):
            pass
        finally:
            for one in (writer, upstream):
                if one:
                    self.writers.discard(one)
                    with contextlib.suppress(OSError, ssl.SSLError):
                        one.close()

    async def startup(self, reader, writer, peer):
        """(reader, writer, parameters) once the client has named itself, None for a cancel request."""
        while True:
            size, code = struct.unpack("!II", await reader.readexactly(8))
            body = await reader.readexactly(size - 8)
            if code in (SSL, GSS):
                secure = code == SSL and self.context is not None and peer is not None
                writer.write(b"S" if secure else b"N")
                await writer.drain()
                if secure:
                    await writer.start_tls(self.context)
                continue
            if code == CANCEL:
                host, port = self.server.backbone
                _, upstream = await asyncio.open_connection(host, port + 2)
                upstream.write(struct.pack("!II", size, code) + body)
                await upstream.drain()
                upstream.close()
                return reader, writer, None
            words = body.rstrip(b"\0").decode(errors="surrogateescape").split("\0")
            startup = dict(zip(words[::2], words[1::2]))
            startup.setdefault("database", startup["user"])
            return reader, writer, startup

    async def log_in(self, reader, writer, back, upstream, method):
        """Pass the login through. Whether it succeeded."""
        while True:
            kind, body = await message(back)
            if kind == b"R" and struct.unpack("!I", body[:4])[0] == 5 and method == "scram-sha-256":
                # A SCRAM rule does not take a password that is stored as MD5.
                self.fatal(writer, "28P01", "password authentication failed for user (its password is no SCRAM secret)")
                return False
            if kind == b"S" and body.startswith(b"server_version\0"):
                release = f"{self.server.release['version']}-b0"
                body = b"server_version\0" + f"15.2-YB-{release}".encode() + b"\0"
            writer.write(framed(kind, body))
            await writer.drain()
            if kind in (b"Z", b"E"):
                return kind == b"Z"
            if kind == b"R" and struct.unpack("!I", body[:4])[0] in (3, 5, 10, 11):
                upstream.write(framed(*await message(reader)))
                await upstream.drain()

    async def forward(self, reader, upstream, application):
        """The client's messages, with what YSQL refuses made to fail."""
        while True:
            kind, body = await message(reader)
            if kind == b"Q":
                text = body[:-1].decode(errors="surrogateescape")
                body = rewrite(text, application).encode(errors="surrogateescape") + b"\0"
            elif kind == b"P":
                name, text, rest = body.split(b"\0", 2)
                text = rewrite(text.decode(errors="surrogateescape"), application).encode(errors="surrogateescape")
                body = b"\0".join((name, text, rest))
            upstream.write(framed(kind, body))
            await upstream.drain()

    @staticmethod
    def fatal(writer, code, text):
        """A last message to the client."""
        fields = {"S": "FATAL", "V": "FATAL", "C": code, "M": text}
        writer.write(framed(b"E", b"".join(f"{key}{value}\0".encode() for key, value in fields.items()) + b"\0"))


def packed(startup):
    """A startup message."""
    body = b"".join(f"{key}\0{value}\0".encode(errors="surrogateescape") for key, value in startup.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, STARTUP) + body


def framed(kind, body):
    return kind + struct.pack("!I", len(body) + 4) + body


async def message(reader):
    """(type, body) of the next message."""
    head = await reader.readexactly(5)
    return head[:1], await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


async def pipe(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
