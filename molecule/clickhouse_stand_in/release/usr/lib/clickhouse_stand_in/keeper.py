# Stand-in for ClickHouse Keeper. Not Keeper: no znodes and no Raft, but a log that a majority has to have, and mntr.
"""Keepers that find a leader among those who reach each other, over their real ports and certificates.

A client sends a line of JSON and gets one: {"append": entry}, {"read": from}, {"alive": name, "applied": number}.
"""

import contextlib
import json
import socket
import socketserver
import threading
import time
from pathlib import Path

from . import config

BEAT, PATIENCE = 0.5, 2.5


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
        root = config.load(path)
        part = root.find("keeper_server")
        self.id = int(config.text(part, "server_id"))
        self.hosts = config.hosts(root)
        secure = config.text(part, "tcp_port_secure")
        self.port = int(secure or config.text(part, "tcp_port"))
        self.context = config.server_context(root) if secure else None
        raft = part.find("raft_configuration")
        self.raft_secure = config.text(raft, "secure", "false") in ("true", "1")
        self.client = config.client_context(root) if self.raft_secure else None
        self.members = {
            int(config.text(one, "id")): (config.text(one, "hostname"), int(config.text(one, "port")))
            for one in raft.findall("server")
        }
        if self.id not in self.members:
            raise config.Refused(f"Our server id {self.id} not found in raft_configuration section")
        self.file = Path(config.text(part, "log_storage_path")) / "log.json"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.log = json.loads(self.file.read_text()) if self.file.exists() else []
        self.lock = threading.RLock()
        self.seen = {}  # id: (when, length of its log)
        self.sessions = {}  # name: (when, how many entries it has applied)
        self.leader = None

    # -- the ensemble -----------------------------------------------------------------------------------------------

    def majority(self):
        return len(self.members) // 2 + 1

    def elect(self):
        """Who leads, as far as this one sees: of those that it reaches the one with the longest log."""
        now = time.monotonic()
        reached = {self.id: len(self.log)}
        reached.update({other: length for other, (when, length) in self.seen.items() if now - when < PATIENCE})
        if len(reached) < self.majority():
            self.leader = None
        else:
            self.leader = min(reached, key=lambda member: (-reached[member], member))
        return reached

    def beat(self):
        """Tell the others that this one is there, and take from the leader what it lacks."""
        while True:
            for member, (host, port) in self.members.items():
                if member == self.id:
                    continue
                try:
                    answer = talk(host, port, {"beat": self.id, "length": len(self.log)}, self.client, 1.0)
                    self.seen[member] = (time.monotonic(), answer["length"])
                except (OSError, ValueError, KeyError):
                    continue
            self.elect()
            if self.leader not in (None, self.id):
                host, port = self.members[self.leader]
                with contextlib.suppress(OSError, ValueError, KeyError):
                    self.extend(talk(host, port, {"entries": len(self.log)}, self.client)["entries"])
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
        if "beat" in question:
            self.seen[question["beat"]] = (time.monotonic(), question["length"])
            return {"length": len(self.log)}
        if "entries" in question:
            return {"entries": self.log[question["entries"]:]}
        if "store" in question:
            with self.lock:
                fits = len(self.log) == question["at"]
                if fits:
                    self.extend(question["store"])
            return {"stored": int(fits)}
        return self.serve(question)

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
        lines = {"zk_version": "v25.8.3.66-stand-in", "zk_server_state": "follower"}
        if self.leader == self.id:
            followers = len(self.elect()) - 1
            state = "standalone" if len(self.members) == 1 else "leader"
            lines.update(zk_server_state=state, zk_followers=followers, zk_synced_followers=followers)
        return "".join(f"{name}\t{value}\n" for name, value in lines.items())

    def listen(self, port, context, answer):
        keeper = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                try:
                    connection = context.wrap_socket(self.request, server_side=True) if context else self.request
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
        self.listen(self.members[self.id][1], self.context if self.raft_secure else None, self.peer)
        self.listen(self.port, self.context, self.serve)
        self.beat()
