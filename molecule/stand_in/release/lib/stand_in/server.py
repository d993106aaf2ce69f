# Stand-in for yb-master and yb-tserver. Not YugabyteDB: they check flags, files, addresses, call home and show pages.
"""What yb-master and yb-tserver have in common, and the two."""

import asyncio
import contextlib
import html
import json
import os
import signal
import socket
import ssl
import sys
import time
import uuid
from pathlib import Path

from . import Fatal, rpc, settings
from .flags import checked, documented, known, listed, parse, true

HEARTBEAT_SECONDS = 0.6
PORTS = {"master": (7100, 7000), "tserver": (9100, 9000)}


def address(text, port):
    """(host, port) of host[:port]."""
    host, _, given = text.rpartition(":") if ":" in text else (text, "", "")
    return host, int(given or port)


def local_addresses(host):
    """The IP addresses behind a name, which must be this machine's. Raises Fatal."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise Fatal(f"Network error: Unable to resolve address {host}: {error.strerror}") from None
    for one in found:
        with socket.socket(socket.AF_INET6 if ":" in one else socket.AF_INET) as probe:
            try:
                probe.bind((one, 0))
            except OSError as error:
                raise Fatal(f"Network error: Error binding socket to {one}: {error.strerror}") from None
    return found


class Server:
    """Start with `asyncio.run(server.run())`; Fatal ends the process with status 1."""

    kind = None

    def __init__(self, arguments):
        self.program = f"yb-{self.kind}"
        self.flags, rest = parse(arguments, known(self.program))
        if rest:
            raise Fatal(f"ERROR: unexpected argument {rest[0]}")
        self.release = settings()
        self.started = time.time()
        self.backbone = tuple(self.release["backbone"])
        rpc_port, http_port = PORTS[self.kind]
        self.bind = address(self.flags.get("rpc_bind_addresses", "0.0.0.0").split(",")[0], rpc_port)
        broadcast = self.flags.get("server_broadcast_addresses", "").split(",")[0]
        self.host = address(broadcast, rpc_port)[0] if broadcast else self.bind[0]
        self.http = self.flags.get("webserver_interface", "0.0.0.0"), int(self.flags.get("webserver_port", http_port))
        self.known = {}  # the latest answer to a heartbeat
        self.tls = self.client_tls = None

    def log(self, text):
        print(f"{time.strftime('%m%d %H:%M:%S')} {self.program}: {text}", file=sys.stderr, flush=True)

    # -- before it starts -------------------------------------------------------------------------------------------

    def masters_flag(self):
        """The flag that lists the masters, as a list of host:port."""
        name = "master_addresses" if self.kind == "master" else "tserver_master_addrs"
        return [
            f"{host}:{port}"
            for host, port in (address(one, 7100) for one in self.flags.get(name, "").split(",") if one)
        ]

    def check(self):
        """Refuse what the real server would refuse. Raises Fatal."""
        own = local_addresses(self.bind[0])
        if any(one.startswith("127.") for one in own) and not all(
            entry.startswith(("127.", "localhost")) for entry in self.masters_flag()
        ):
            raise Fatal(f"Illegal state: bound to the loopback address {sorted(own)[0]}, which no other server reaches")
        directories = [one for one in self.flags.get("fs_data_dirs", "").split(",") if one]
        if not directories:
            raise Fatal("Invalid argument: --fs_data_dirs is required")
        self.directory = Path(directories[0]) / "yb-data" / self.kind
        try:
            for one in directories:
                (Path(one) / "yb-data" / self.kind).mkdir(parents=True, exist_ok=True)
            identity = self.directory / "instance"
            if not identity.exists():
                identity.write_text(json.dumps({"uuid": uuid.uuid4().hex, "seqno": 0}))
            self.identity = json.loads(identity.read_text())
            self.identity["seqno"] += 1
            identity.write_text(json.dumps(self.identity))
            if "log_dir" not in self.flags:
                (self.directory / "logs").mkdir(exist_ok=True)
        except OSError as error:
            raise Fatal(f"IO error: {error.filename or self.directory}: {error.strerror}") from None
        logs = self.flags.get("log_dir") or self.directory / "logs"
        if not os.access(logs, os.W_OK):  # a folder that a flag names has to be there
            raise Fatal(f"Could not open file in log_dir {logs}: No such file or directory")
        self.certificates()

    def certificates(self):
        """Load them, as the flags say. Raises Fatal where a file is missing, unreadable or does not fit."""
        directory = self.flags.get("certs_dir") or str(self.directory / "data/certs")
        self.certificate = f"{directory}/node.{self.flags.get('cert_node_filename') or self.host}.crt"
        if not true(self.flags, "use_node_to_node_encryption"):
            return
        try:
            self.tls = rpc.server_tls(directory, self.flags.get("cert_node_filename") or self.host)
            self.client_tls = rpc.client_tls(directory)
        except FileNotFoundError:
            missing = next(
                (
                    one
                    for one in (f"{directory}/ca.crt", self.certificate, f"{self.certificate[:-4]}.key")
                    if not os.path.exists(one)
                ),
                directory,
            )
            raise Fatal(f"IO error: Unable to load certificate: {missing}: No such file or directory") from None
        except (OSError, ssl.SSLError) as error:
            raise Fatal(f"IO error: Unable to load certificate {self.certificate}: {error}") from None

    # -- while it runs ----------------------------------------------------------------------------------------------

    def description(self):
        """What a heartbeat says about this server."""
        return {
            "uuid": self.identity["uuid"],
            "seqno": self.identity["seqno"],
            "host": self.host,
            "port": self.bind[1],
            "http": self.http[1],
            "version": self.release["version"],
            "placement": [
                self.flags.get(f"placement_{part}", default)
                for part, default in (("cloud", "cloud1"), ("region", "datacenter1"), ("zone", "rack1"))
            ],
            "flags": {
                name: self.flags[name]
                for name in (
                    "tserver_unresponsive_timeout_ms",
                    "follower_unavailable_considered_failed_sec",
                    "leaderless_tablet_alert_delay_secs",
                )
                if name in self.flags
            },
        }

    async def run(self):
        """Serve until a signal ends it."""
        self.check()
        stop = asyncio.get_running_loop().create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, lambda: stop.done() or stop.set_result(None))
        try:
            await rpc.serve(self.bind, self.answer, self.tls)
            await asyncio.start_server(self.page, *self.http)
        except OSError as error:
            raise Fatal(f"Network error: Error binding socket to {error}") from None
        self.log(f"RPC server started on {self.bind}, webserver on {self.http}, version {self.release['version']}")
        jobs = [asyncio.create_task(self.beat())] + [asyncio.create_task(job) for job in self.jobs()]
        done, _ = await asyncio.wait([stop, *jobs], return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
        for one in jobs:
            one.cancel()
        self.log("stopped")

    def jobs(self):
        """More to run beside the heartbeats."""
        return []

    async def beat(self):
        """Heartbeats, for as long as nothing fatal happens."""
        while True:
            try:
                # What a write-ahead log would do, so that a full disk is noticed.
                with (self.directory / "wal").open("wb") as log:
                    log.write(os.urandom(65536))
            except OSError as error:
                raise Fatal(f"IO error: {self.directory}/wal: {error.strerror}") from None
            try:
                self.known = await self.heartbeat()
            except rpc.Failed as error:
                if "AutoFlags" in str(error):
                    raise Fatal(str(error)) from None
                if self.known:
                    self.log(f"W heartbeat: {error}")
                self.known = {}
            else:
                skew = abs(self.known["time"] - time.time()) * 1e6
                if skew > int(self.flags.get("max_clock_skew_usec", 500000)):
                    raise Fatal(
                        f"Too big clock skew is detected: {skew:.0f} us, max allowed is "
                        f"{self.flags.get('max_clock_skew_usec', 500000)} us"
                    )
                self.heard()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def heard(self):
        """A heartbeat was answered."""

    def answers(self, question):
        """What both kinds answer themselves, or None."""
        if question["ask"] == "set_flag":
            name, flag = question["name"], documented(self.program).get(question["name"])
            if not flag:
                raise rpc.Failed("Not found: Flag does not exist")
            if flag["restart"] and not question["force"]:
                raise rpc.Failed("Remote error: Flag is not safe to change at runtime")
            try:
                self.flags[name] = checked(name, question["value"], flag["type"])
            except Fatal:
                raise rpc.Failed("Remote error: Unable to set flag: bad value.") from None
            return {"old": "?"}
        if question["ask"] == "ping":
            return {"uuid": self.identity["uuid"], "seqno": self.identity["seqno"]}
        return None

    # -- its pages --------------------------------------------------------------------------------------------------

    async def page(self, reader, writer):
        """One HTTP request."""
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
            request = (await asyncio.wait_for(reader.readline(), rpc.TIMEOUT)).decode().split()
            while (await reader.readline()).strip():
                pass
            path = request[1].partition("?")[0] if len(request) > 1 else "/"
            status, content, body = await self.respond(path)
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            head = f"HTTP/1.1 {status}\r\nContent-Type: {content}\r\nContent-Length: {len(body)}\r\nConnection: close"
            writer.write(head.encode() + b"\r\n\r\n" + body)
            await writer.drain()
        writer.close()

    async def respond(self, path):
        """(status, type, body) of a page."""
        if path == "/api/v1/version":
            return (
                "200 OK",
                "application/json",
                {
                    "version_number": self.release["version"],
                    "build_number": self.release["build"].lstrip("b"),
                    "build_id": self.release["build"],
                    "build_type": "STAND-IN",
                    "git_hash": "0" * 40,
                },
            )
        if path == "/api/v1/varz":
            return "200 OK", "application/json", {"flags": listed(self.flags, known(self.program))}
        if path in ("/", "/healthz"):
            return "200 OK", "text/html", f"<h1>{self.program} stand-in</h1>".encode()
        return "404 Not Found", "text/plain", f"Error 404: {html.escape(path)}".encode()


class Master(Server):
    """yb-master."""

    kind = "master"

    def check(self):
        super().check()
        listed = self.masters_flag()
        self.consensus = self.directory / "consensus-meta" / ("0" * 32)
        if not listed or self.consensus.exists():
            return
        own = local_addresses(self.bind[0])
        names = [address(one, 7100)[0] for one in listed]
        for name in names:
            with contextlib.suppress(OSError):
                if own & {entry[4][0] for entry in socket.getaddrinfo(name, None)}:
                    return
        raise Fatal(f"Illegal state: None of the local addresses are present in master_addresses {','.join(listed)}.")

    async def heartbeat(self):
        # One TLS handshake with itself stands for those with the other masters: an expired certificate silences it.
        if self.tls:
            await rpc.ask(self.bind, {"ask": "ping"}, self.client_tls)
        return await rpc.ask(
            self.backbone,
            {
                "ask": "heartbeat",
                "kind": "master",
                "server": {
                    **self.description(),
                    # One that may only join forms no quorum: without data of its own it waits to be taken in.
                    "masters": [] if self.only_joins() else self.masters_flag(),
                    "replication_factor": int(self.flags.get("replication_factor", 3)),
                },
            },
        )

    def only_joins(self):
        return true(self.flags, "master_join_existing_universe") and not self.consensus.exists()

    def heard(self):
        if self.known["member"] and not self.consensus.exists():
            self.consensus.parent.mkdir(parents=True, exist_ok=True)
            self.consensus.write_text(self.known["uuid"])

    async def answer(self, question):
        """Pass what the masters decide together on to the cluster's state, as long as this one takes part."""
        own = self.answers(question)
        if own is not None:
            return own
        if question["ask"] == "heartbeat":
            if not self.known.get("member"):
                raise rpc.Failed("Service unavailable: this master is not part of a quorum")
            return await rpc.ask(self.backbone, question)
        if not self.known.get("member") and question["ask"] == "admin":
            raise rpc.Failed("Service unavailable: this master is not part of a quorum")
        return await rpc.ask(self.backbone, question)

    async def respond(self, path):
        if path == "/api/v1/is-leader":
            leads = self.known.get("is_leader")
            return (
                ("200 OK", "application/json", {"STATUS": "OK"})
                if leads
                else ("503 Service Unavailable", "text/plain", b"")
            )
        if path == "/api/v1/masters":
            return await self.masters_page()
        pages = ("tablet-servers", "health-check", "tablet-replication", "tablet-under-replication", "cluster-config")
        if path.startswith("/api/v1/") and path[8:] in pages:
            try:
                if not self.known.get("member"):
                    raise rpc.Failed("not part of a quorum")
                answer = await rpc.ask(self.backbone, {"ask": "page", "page": path[8:]})
            except rpc.Failed as error:
                return (
                    "503 Service Unavailable",
                    "text/html",
                    f"<h2>Cannot get Leader information: {error}</h2>".encode(),
                )
            return "200 OK", "application/json", answer["page"]
        return await super().respond(path)

    async def masters_page(self):
        try:
            listed = (await rpc.ask(self.backbone, {"ask": "page", "page": "masters"}))["page"]
        except rpc.Failed:
            lost = {
                "code": "UNKNOWN_ERROR",
                "status": {"code": "NETWORK_ERROR", "message": "no answer from the masters"},
            }
            listed = [{"error": lost} for _ in self.masters_flag()]
        if not listed:  # in shell mode, or the others are awaited
            listed = [
                {
                    "instance_id": {"permanent_uuid": self.identity["uuid"], "instance_seqno": self.identity["seqno"]},
                    "registration": {"private_rpc_addresses": [{"host": self.host, "port": self.bind[1]}]},
                    "role": "NON_PARTICIPANT",
                }
            ]
        return "200 OK", "application/json", {"masters": listed}


class TabletServer(Server):
    """yb-tserver."""

    kind = "tserver"

    async def heartbeat(self):
        failed = rpc.Failed("Invalid argument: --tserver_master_addrs is empty")
        for master in self.masters_flag():
            try:
                return await rpc.ask(
                    address(master, 7100),
                    {"ask": "heartbeat", "kind": "tserver", "server": self.description()},
                    self.client_tls,
                    timeout=2.0,
                )
            except rpc.Failed as error:
                failed = error
        raise failed

    def jobs(self):
        from .ysql import Ysql

        return [Ysql(self).run()] if true(self.flags, "enable_ysql", True) else []

    async def answer(self, question):
        own = self.answers(question)
        if own is None:
            raise rpc.Failed(f"Not implemented: {question['ask']}")
        return own


def main(kind, arguments):
    """Run it; the exit status."""
    try:
        asyncio.run({"master": Master, "tserver": TabletServer}[kind](arguments).run())
    except Fatal as error:
        print(f"F {error}" if not str(error).startswith("ERROR") else error, file=sys.stderr, flush=True)
        return 1
    return 0
