"""The stand-in for a YugabyteDB cluster (molecule/stand_in), as processes on loopback addresses of their own."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from .ports import wait_for

STAND_IN = Path(__file__).parents[2] / "molecule/stand_in"
VERSION, BUILD = "2025.2.8.0", "b60"


def build(version, build_, backbone, directory):
    """The archive of a release, made by molecule/stand_in/build.py."""
    done = subprocess.run(
        [sys.executable, STAND_IN / "build.py", version, build_, backbone, str(directory)],
        capture_output=True, text=True, check=True,
    )
    return Path(done.stdout.strip())


class StandInCluster:
    """Nodes 1 to n, each on an address of its own; `start()`, then `close()`.

    flags: more flags for all servers; a function (kind, number) -> {flag: value}, or nothing.
    """

    def __init__(self, nodes=3, flags=None, version=VERSION):
        self.version, self._more = version, flags or (lambda kind, number: {})
        self.directory = Path(tempfile.mkdtemp(prefix="yb-test-"))
        self.directory.chmod(0o755)
        network = f"127.{secrets.randbelow(250) + 2}.{secrets.randbelow(250) + 2}"
        self.numbers = range(1, nodes + 1)
        self.address = {number: f"{network}.{number}" for number in range(1, 10)}
        self.backbone = f"{network}.250"
        self.members = [self.address[number] for number in self.numbers]
        self.processes, self.logs = {}, {}
        self.bin_dir = self.install(version)

    def install(self, version, build_=BUILD):
        """Unpack a release; its bin directory."""
        archive = build(version, build_, f"{self.backbone}:17990", self.directory)
        with tarfile.open(archive) as tar:
            tar.extractall(self.directory)
        return self.directory / f"yugabyte-{version}/bin"

    @property
    def masters(self):
        return ",".join(f"{host}:7100" for host in self.members)

    def _run(self, name, *command):
        log = self.directory / f"{name}.log"
        with log.open("ab") as out:
            self.processes[name] = subprocess.Popen(
                list(map(str, command)), stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd="/",
            )
        self.logs[name] = log

    def start(self):
        """All of it; waits until YSQL answers everywhere. Returns self."""
        self.start_backbone()
        for kind in ("master", "tserver"):
            for number in self.numbers:
                self.serve(kind, number)
        for number in self.numbers:
            self.wait(f"tserver-{number}", lambda number=number: self.socket(number).exists())
        return self

    def start_backbone(self):
        """What the servers share, without any of them."""
        self._run(
            "backbone", sys.executable, STAND_IN / "backbone.py", self.backbone, 17990, self.directory / "backbone"
        )
        self.wait("backbone", lambda: "ready" in self.logs["backbone"].read_text())

    def wait(self, name, condition):
        """Wait for it as long as the process lives; TimeoutError with its log."""
        try:
            wait_for(condition, name, alive=lambda: self.processes[name].poll() is None)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.logs[name].read_text()}") from None

    def serve(self, kind, number, bin_dir=None, **changed):
        """Start yb-master or yb-tserver of a node; a flag that is None is left out."""
        host = self.address[number]
        data = self.directory / f"node-{number}"
        data.mkdir(exist_ok=True)
        flags = {
            "rpc_bind_addresses": host, "webserver_interface": host, "fs_data_dirs": data,
            "placement_zone": f"z{number}",
            "tserver_master_addrs" if kind == "tserver" else "master_addresses": self.masters,
            **({"pgsql_proxy_bind_address": f"{host}:5433"} if kind == "tserver" else {"replication_factor": 3}),
            **self._more(kind, number), **changed,
        }
        words = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        self._run(f"{kind}-{number}", (bin_dir or self.bin_dir) / f"yb-{kind}", *words)

    def stop(self, kind, number, signal_number=signal.SIGKILL):
        """End a server and wait for its end."""
        process = self.processes[f"{kind}-{number}"]
        process.send_signal(signal_number)
        process.wait(30)

    def socket(self, number):
        """postmaster.pid, which is there while YSQL runs."""
        return self.directory / f"node-{number}/pg_data/postmaster.pid"

    def login(self, **overrides):
        """The options of the modules that talk to the masters."""
        return {"masters": self.members, "bin_dir": str(self.bin_dir), "timeout": 20, **overrides}

    def admin(self, *words):
        """yb-admin's output; CalledProcessError where it fails."""
        return subprocess.run(
            [self.bin_dir / "yb-admin", "--master_addresses", self.masters, *words],
            capture_output=True, text=True, check=True,
        ).stdout

    def dead_master_noticed(self):
        """Whether the masters' leader has found that one does not answer; False too while they elect another leader."""
        try:
            return "UNKNOWN_ROLE" in self.admin("list_all_masters")
        except subprocess.CalledProcessError:
            return False

    def leaderless(self):
        """Whether no master leads."""
        try:
            self.admin("list_all_masters")
        except subprocess.CalledProcessError:
            return True
        return False

    def sql(self, number, statement, **environment):
        """psql's outcome (returncode, stdout, stderr) over TCP to a node, as yugabyte unless PGUSER says otherwise."""
        return subprocess.run(
            [self.bin_dir / "ysqlsh", "-X", "-At", "-c", statement], capture_output=True, text=True, check=False,
            env={"PATH": os.environ["PATH"], "PGHOST": self.address[number], "PGCONNECT_TIMEOUT": "5", **environment},
        )

    def close(self):
        """End everything and remove it."""
        for name, process in reversed(self.processes.items()):
            if process.poll() is None:
                process.send_signal(signal.SIGINT if name == "backbone" else signal.SIGKILL)
                process.wait(30)
        for left in self.directory.glob("node-*/pg_data/postmaster.pid"):
            shutil.rmtree(left.read_text().splitlines()[4], ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)
