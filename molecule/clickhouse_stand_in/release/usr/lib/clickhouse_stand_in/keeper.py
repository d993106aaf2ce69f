# Stand-in for ClickHouse Keeper. Not Keeper: no znodes and no Raft, but a log that a majority has to have, and mntr.
"""Keepers that find a leader among those who reach each other, over their real ports and certificates.

A client sends a line of JSON and gets one: {"append": entry}, {"read": from}, {"alive": name, "applied": number}.
"""

import contextlib
import json
import logging
import socket
import socketserver
import threading
import time
from pathlib import Path

from . import config

BEAT, PATIENCE, TRIES = 0.5, 2.5, 20
log = logging.getLogger("keeper")


def talk(host, port, question, context=None, timeout=2.0):
    """The answer of a Keeper to a question. Raises OSError."""
    with socket.create_connection((host, port), timeout) as plain:
        connection = context.wrap_socket(plain, server_hostname=host) if context else plain
        with connection:
            connection.sendall(json.dumps(question).encode() + b"\n")
            answer = connection.makefile("rb").readline()
    if not answer:
        raise ConnectionResetError("no answer")
    return json.loads(answer)


class Keeper:
    """One Keeper; `run` returns only by an exception."""

    def __init__(self, path):
        self.path = path
        self.stamp = Path(path).stat().st_mtime_ns
        root = config.load(path)
        part = root.find("keeper_server")
        self.id = int(config.text(part, "server_id"))
        self.hosts = config.hosts(root)
        secure = config.text(part, "tcp_port_secure")
        self.port = int(secure or config.text(part, "tcp_port"))
        self.raft_secure = config.text(part, "raft_configuration/secure", "false") in ("true", "1")
        self.tls = config.Tls(root) if secure or self.raft_secure else None
        self.secure = bool(secure)
        self.client = self.tls.fixed["client"] if self.raft_secure else None
        declared, followers = self.declared(root)
        if self.id not in declared:
            raise config.Refused(f"Our server id {self.id} not found in raft_configuration section")
        if len(followers) == len(declared):
            raise config.Refused("At least one of servers should be able to start as leader")
        self.raft_port = declared[self.id][1]
        self.file = Path(config.text(part, "log_storage_path")) / "log.json"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.log = json.loads(self.file.read_text()) if self.file.exists() else []
        # What the ensemble has agreed upon; the file counts for the first start only.
        self.agreed = self.file.with_name("members.json")
        self.waits = not self.agreed.exists() and self.id in followers
        self.members = declared
        if self.agreed.exists():
            self.members = {int(one): tuple(place) for one, place in json.loads(self.agreed.read_text()).items()}
        elif not self.waits:
            self.agree(declared)
        self.lock = threading.RLock()
        self.seen = {}  # id: (when, length of its log)
        self.sessions = {}  # name: (when, how many entries it has applied)
        self.leader = None
        self.change, self.tries = None, 0
        self.yielded = set()  # those that lead only where there is nobody else

    @staticmethod
    def declared(root):
        """({id: (host, port)}, ids that start as followers) by the file."""
        servers = {
            int(config.text(one, "id")): one for one in root.findall("keeper_server/raft_configuration/server")
        }
        return (
            {name: (config.text(one, "hostname"), int(config.text(one, "port"))) for name, one in servers.items()},
            {name for name, one in servers.items() if config.text(one, "start_as_follower") == "true"},
        )

    def agree(self, members):
        """These are the members from now on."""
        self.members = dict(members)
        self.agreed.write_text(json.dumps(self.members))

    def reconfigure(self):
        """Notice the file when it changes. The leader carries one difference out, in a limited number of tries."""
        stamp = Path(self.path).stat().st_mtime_ns
        if stamp != self.stamp:
            self.stamp = stamp
            with contextlib.suppress(config.Refused):
                self.change, self.tries = self.declared(config.load(self.path))[0], TRIES
        if not self.change or self.leader is None:
            return
        coming = [one for one in self.change if one not in self.members]
        leaving = [one for one in self.members if one not in self.change]
        moved = [one for one in self.change if self.members.get(one, self.change[one]) != self.change[one]]
        if moved or not coming + leaving:
            self.change = None
        elif len(coming + leaving) > 1:
            log.error("the configuration changes for more than one server, which is strictly not recommended: ignored")
            self.change = None
        elif self.leader == self.id:
            self.tries -= 1
            if self.tries < 0:
                log.error("the change was not accepted after %s tries", TRIES)
                self.change = None
            elif leaving == [self.id]:
                log.info("this one is to leave, so it yields")
                self.change = None
                self.yielded.add(self.id)
            else:
                self.carry_out(coming, leaving)

    def carry_out(self, coming, leaving):
        """Add one, which has to wait for it, or remove one."""
        members = {one: place for one, place in self.members.items() if one not in leaving}
        members.update({one: self.change[one] for one in coming})
        for one in coming + leaving:
            host, port = members.get(one) or self.members[one]
            try:
                answer = talk(host, port, {"members": members, "from": self.id}, self.client)
            except (OSError, ValueError):
                answer = {}
            if coming and not answer.get("accepted"):
                return
        self.agree(members)
        self.change = None

    # -- the ensemble -----------------------------------------------------------------------------------------------

    def majority(self):
        return len(self.members) // 2 + 1

    def elect(self):
        """Who leads, as far as this one sees: of those that it reaches the one with the longest log."""
        now = time.monotonic()
        reached = {self.id: len(self.log)}
        recent = {other: length for other, (when, length) in self.seen.items() if now - when < PATIENCE}
        reached.update({other: length for other, length in recent.items() if other in self.members})
        if self.waits or self.id not in self.members or len(reached) < self.majority():
            self.leader = None
        else:
            self.leader = min(reached, key=lambda member: (member in self.yielded, -reached[member], member))
        return reached

    def beat(self):
        """Tell the others that this one is there, and take from the leader what it lacks."""
        while True:
            for member, (host, port) in dict(self.members).items():
                if member == self.id or self.waits or self.id not in self.members:
                    continue
                try:
                    answer = talk(host, port, {
                        "beat": self.id, "length": len(self.log), "yields": self.id in self.yielded,
                    }, self.client, 1.0)
                    self.seen[member] = (time.monotonic(), answer["length"])
                except (OSError, ValueError, KeyError):
                    continue
            self.elect()
            if self.leader not in (None, self.id):
                host, port = self.members[self.leader]
                with contextlib.suppress(OSError, ValueError, KeyError):
                    answer = talk(host, port, {"entries": len(self.log), "from": self.id}, self.client)
                    self.extend(answer["entries"])
                    members = {int(one): tuple(place) for one, place in answer["members"].items()}
                    if members != self.members:
                        self.agree(members)
            self.reconfigure()
            time.sleep(BEAT)

    def extend(self, entries):
        with self.lock:
            if entries:
                self.log += entries
                self.file.write_text(json.dumps(self.log))

    def ask_leader(self, question):
        if self.leader is None:
            return {"error": "no quorum"}
        host, port = self.members[self.leader]
        try:
            return talk(host, port, question, self.client)
        except OSError as error:
            return {"error": f"the leader does not answer: {error}"}

    def append(self, entry):
        """As the leader: the entry is there when a majority has it."""
        with self.lock:
            if len(self.elect()) < self.majority():
                return {"error": "no quorum"}
            position = len(self.log)
            having = 1
            for member, (host, port) in self.members.items():
                if member != self.id:
                    try:
                        question = {"store": [entry], "at": position, "leader": self.id}
                        having += talk(host, port, question, self.client)["stored"]
                    except (OSError, ValueError, KeyError):
                        continue
            if having < self.majority():
                return {"error": "no quorum"}
            self.extend([entry])
            return {"position": position}

    def peer(self, question):
        """The answer to another Keeper."""
        if "members" in question:
            return self.taken(question)
        if question.get("beat", question.get("from", self.id)) not in self.members or self.waits:
            return {"error": "not a member"}
        if "beat" in question:
            self.seen[question["beat"]] = (time.monotonic(), question["length"])
            (self.yielded.add if question["yields"] else self.yielded.discard)(question["beat"])
            return {"length": len(self.log)}
        if "entries" in question:
            # Members are what the leader says.
            leads = {"members": self.members} if self.leader == self.id else {}
            return {"entries": self.log[question["entries"]:], **leads}
        if "store" in question:
            with self.lock:
                fits = len(self.log) == question["at"]
                if fits:
                    self.extend(question["store"])
            return {"stored": int(fits)}
        return self.serve(question)

    def taken(self, question):
        """A leader takes this one in, if it waits for that and has nothing, or dismisses it."""
        members = {int(one): tuple(place) for one, place in question["members"].items()}
        if self.id in members and not (self.waits and not self.log):
            return {"accepted": self.members == members}
        if self.id in members or question["from"] in self.members:
            self.waits = False
            self.agree(members)
        return {"accepted": True}

    # -- its clients ------------------------------------------------------------------------------------------------

    def serve(self, question):
        """The answer to a client; everything is asked of the leader."""
        if self.leader is None:
            return {"error": "no quorum"}
        if self.leader != self.id:
            return self.ask_leader(question)
        if "append" in question:
            return self.append(question["append"])
        if "alive" in question:
            self.sessions[question["alive"]] = (time.monotonic(), question["applied"])
        now = time.monotonic()
        return {
            "entries": self.log[question.get("read", 0):], "length": len(self.log),
            "alive": {name: applied for name, (when, applied) in self.sessions.items() if now - when < PATIENCE * 2},
        }

    def mntr(self):
        if self.leader is None:
            return "This instance is not currently serving requests"
        lines = {"zk_version": f"v{config.version()}-stand-in", "zk_server_state": "follower"}
        if self.leader == self.id:
            followers = len(self.elect()) - 1
            state = "standalone" if len(self.members) == 1 else "leader"
            lines.update(
                zk_server_state=state, zk_followers=len(self.members) - 1, zk_synced_followers=followers
            )
        return "".join(f"{name}\t{value}\n" for name, value in lines.items())

    def listen(self, port, context, answer):
        """Serve on a port, with the context that `context` gives for each connection, if any."""
        keeper = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                try:
                    connection = context().wrap_socket(self.request, server_side=True) if context else self.request
                    connection.settimeout(5)
                    first = connection.recv(4)
                    if first == b"mntr":
                        connection.sendall(keeper.mntr().encode())
                    elif first == b"ruok":
                        connection.sendall(b"imok")
                    elif first:
                        line = first + connection.makefile("rb").readline()
                        connection.sendall(json.dumps(answer(json.loads(line))).encode() + b"\n")
                    connection.close()
                except (OSError, ValueError):
                    pass

        for host in self.hosts:
            class Server(socketserver.ThreadingTCPServer):
                allow_reuse_address, daemon_threads = True, True
                address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            threading.Thread(target=Server((host, port), Handler).serve_forever, daemon=True).start()

    def run(self):
        if self.tls:
            self.tls.server()
        self.listen(self.raft_port, (lambda: self.tls.fixed["server"]) if self.raft_secure else None, self.peer)
        self.listen(self.port, self.tls.server if self.secure else None, self.serve)
        self.beat()
