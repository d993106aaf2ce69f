"""The figures of docs/benchmarks.md: run.py [--runs N].

Whole-process wall times, the median of N runs, as ratios to `ansible-playbook` running one ping task on the same
inventory in the same minutes. The servers are dev's own, under other names and on free ports; they go at the end.
Needs root.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.clickhouse import library  # noqa: E402
from support.ports import free_port  # noqa: E402

PLAYBOOKS = ROOT / "playbooks"
PING = [{"name": "Ping", "hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.ping": {}}]}]


class Bench:
    """Plays on one inventory: dev's, with ports and names of its own."""

    def __init__(self, folder):
        self.folder = Path(folder)
        postgres_port, http_port, tcp_port = free_port(), free_port(), free_port()
        self.variables = self.folder / "variables.json"
        self.variables.write_text(json.dumps({
            "postgres_server_cluster": "bench", "postgres_server_port": postgres_port,
            "clickhouse_db_http_port": http_port, "clickhouse_db_tcp_port": tcp_port,
            "clickhouse_db_service": "frameworks-bench", "clickhouse_db_system_user": "frameworks-bench",
            "clickhouse_db_embedded_library": str(library()),
            "clickhouse_db_embedded_library_checksum": hashlib.sha256(library().read_bytes()).hexdigest(),
            **{f"clickhouse_db_{name}_dir": str(self.folder / name) for name in ("config", "data", "log", "embedded")},
            "application_settings_path": str(self.folder / "bench.env"),
            "dev_destroy_confirm": "dev",
        }))
        self.ping = self.folder / "ping.json"
        self.ping.write_text(json.dumps(PING))

    def play(self, playbook, *options):
        """Seconds that the playbook took. RuntimeError with its output where it failed."""
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [program, playbook, "--limit", "dev", "-e", f"@{self.variables}", *options]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        environment.pop("PYTHONUNBUFFERED", None)  # as make does
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment,
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return seconds

    def median(self, runs, playbook, *options, before=lambda: None):
        """The median of several runs; `before` is called ahead of each and not counted."""
        times = []
        for _run in range(runs):
            before()
            times.append(self.play(playbook, *options))
        return statistics.median(times)

    def empty(self):
        """Leave the servers running with nothing in them."""
        self.play(ROOT / "tests/benchmarks/empty.yml")


def figures(bench, runs):
    """(what, seconds, target ratio or None) a row; the first is what the ratios are to."""
    bench.play(PLAYBOOKS / "dev.yml")
    yield "one ping task", bench.median(runs, bench.ping), None
    yield "second dev.yml", bench.median(runs, PLAYBOOKS / "dev.yml"), 5.0
    yield "first dev.yml into empty servers", bench.median(runs, PLAYBOOKS / "dev.yml", before=bench.empty), 8.0
    tags = ("--tags", "access", "--skip-tags", "validate")
    yield "second postgres_user alone", bench.median(runs, ROOT / "tests/benchmarks/postgres_user.yml", *tags), None
    plain = ROOT / "tests/benchmarks/plain_postgresql.yml"
    yield "the same as community.postgresql tasks", bench.median(runs, plain), None


def main():
    """Print the table; exit with 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    runs = parser.parse_args().runs
    if os.geteuid():
        sys.exit("This installs servers: run it as root.")
    folder = tempfile.mkdtemp(prefix="bench-")
    os.chmod(folder, 0o755)
    bench = Bench(folder)
    missed = False
    try:
        print("| what | seconds | × ping | target |\n| --- | --: | --: | --: |")
        base = None
        for what, seconds, target in figures(bench, runs):
            base = base or seconds
            print(f"| {what} | {seconds:.2f} | {seconds / base:.1f} | {f'≤ {target}' if target else ''} |", flush=True)
            missed = missed or bool(target and seconds / base > target)
    finally:
        bench.play(PLAYBOOKS / "dev_destroy.yml")
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(missed)


if __name__ == "__main__":
    main()
