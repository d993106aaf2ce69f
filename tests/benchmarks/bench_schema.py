"""Figures of schema_apply: bench_schema.py [--runs N] [--megabytes N].

Each figure is a ratio of wall times of whole processes, medians of N runs in turn, against the plain tool doing the
same on the same server. The servers are the tests' own, PostgreSQL with fsync on.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "collections")]

from support.clickhouse import ADMIN, ADMIN_PASSWORD, ClickHouseServer  # noqa: E402
from support.postgres import PostgresServer  # noqa: E402

MODULE = "ansible_collections.frameworks.database.plugins.modules.schema_apply"


def apply(options):
    """Apply a set in a process of its own; (seconds, scripts applied, peak of its memory in MB)."""
    arguments = {"remote_src": True, **options}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"ANSIBLE_MODULE_ARGS": arguments}, file)
        file.flush()
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", MODULE, file.name], stdout=subprocess.PIPE, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "collections")},
        )
        seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stdout)
    applied = json.loads(done.stdout)["applied"]
    return seconds, len(applied), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def timed(command, **options):
    """Seconds that a command took."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return time.perf_counter() - began


class Bench:
    """The servers and the folders."""

    def __init__(self, folder, runs):
        self.folder, self.runs = Path(folder), runs
        self.postgres = PostgresServer(options=["-c", "fsync=on"])
        self.clickhouse = ClickHouseServer()
        self.environment = {
            **os.environ,
            "PGHOST": self.postgres.host,
            "PGPORT": str(self.postgres.port),
            "PGDATABASE": "bench",
            "PGUSER": self.postgres.superuser,
            "PGPASSWORD": self.postgres.password,
        }

    def scripts(self, count):
        """A folder of `count` small versioned scripts for PostgreSQL."""
        folder = self.folder / f"scripts-{count}"
        if not folder.exists():
            folder.mkdir()
            for number in range(1, count + 1):
                (folder / f"V{number}__t.sql").write_text(
                    f"-- table {number}\n"
                    f"CREATE TABLE t{number} (id bigint PRIMARY KEY, name text NOT NULL DEFAULT 'a;b');\n"
                    f"CREATE INDEX ON t{number} (name);\nINSERT INTO t{number} VALUES ({number}, 'x');\n"
                )
        return folder

    def fresh_postgres(self):
        """An empty database `bench`."""
        self.postgres.query("DROP DATABASE IF EXISTS bench WITH (FORCE)")
        self.postgres.query("CREATE DATABASE bench")

    def fresh_clickhouse(self):
        """An empty database `bench`."""
        self.clickhouse.query("DROP DATABASE IF EXISTS bench SYNC")
        self.clickhouse.query("CREATE DATABASE bench")

    def postgres_set(self, folder):
        """Options of schema_apply for a folder."""
        return {"engine": "postgresql", "database": "bench", "path": str(folder), **self.postgres.login()}

    def small_scripts(self, count):
        """(ours, psql's) seconds for `count` scripts into an empty database."""
        folder, ours, theirs = self.scripts(count), [], []
        everything = self.folder / "everything.sql"
        everything.write_text("".join(f"BEGIN;\n\\i {folder}/V{n}__t.sql\nCOMMIT;\n" for n in range(1, count + 1)))
        for _ in range(self.runs):
            self.fresh_postgres()
            theirs.append(timed(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", everything], env=self.environment))
            self.fresh_postgres()
            seconds, applied, _ = apply(self.postgres_set(folder))
            assert applied == count
            ours.append(seconds)
        return statistics.median(ours), statistics.median(theirs)

    def nothing_pending(self):
        """Seconds of a run without anything to do, with 1,000 scripts and with 1."""
        found = []
        for database, count in (("many", 1000), ("one", 1)):
            self.postgres.query(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
            self.postgres.query(f"CREATE DATABASE {database}")
            found.append(({**self.postgres_set(self.scripts(count)), "database": database}, []))
            apply(found[-1][0])
        for _ in range(4 * self.runs):  # they are short
            for options, seconds in found:
                seconds.append(apply(options)[0])
        return tuple(statistics.median(seconds) for _options, seconds in found)

    def ddl(self, count=200):
        """(ours, curl's) seconds for DDL statements into an empty ClickHouse database."""
        statements = [
            f"CREATE TABLE t{n} (ts DateTime, tenant UUID, name LowCardinality(String) DEFAULT 'a;b', v Float64) "
            "ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY (tenant, ts) TTL ts + INTERVAL 1 MONTH"
            for n in range(count)
        ]
        folder = self.folder / "ddl"
        folder.mkdir(exist_ok=True)
        (folder / "init.sql").write_text(";\n".join(statements) + ";\n")
        url = f"http://{self.clickhouse.host}:{self.clickhouse.http_port}/?database=bench"
        config = self.folder / "curl"
        config.write_text(
            "\nnext\n".join(
                f'url = "{url}"\nfail\nheader = "X-ClickHouse-User: {ADMIN}"\n'
                f'header = "X-ClickHouse-Key: {ADMIN_PASSWORD}"\n'
                f'data-binary = "{statement}"'
                for statement in statements
            )
        )
        ours, theirs = [], []
        for _ in range(4 * self.runs):  # they are short, and wait for the disk
            self.fresh_clickhouse()
            theirs.append(timed(["curl", "-s", "-K", config]))
            self.fresh_clickhouse()
            options = {"engine": "clickhouse", "database": "bench", "path": str(folder), **self.clickhouse.login()}
            ours.append(apply(options)[0])
        return statistics.median(ours), statistics.median(theirs)

    def long_script(self, megabytes):
        """(seconds, peak of memory in MB) of one script of INSERTs into PostgreSQL."""
        folder = self.folder / "long"
        folder.mkdir(exist_ok=True)
        row = f"INSERT INTO t VALUES (1, '{'some text; ' * 90}');\n"
        with (folder / "init.sql").open("w") as stream:
            stream.write("CREATE UNLOGGED TABLE t (n int, s text);\n")
            for _ in range((megabytes << 20) // len(row)):
                stream.write(row)
        self.fresh_postgres()
        seconds, _applied, memory = apply(self.postgres_set(folder))
        (folder / "init.sql").unlink()
        return seconds, memory


def table(rows):
    """Rows of text as lines of a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], tuple("---" for _ in rows[0]), *rows[1:]])


def measure(bench, megabytes):
    """The rows of the table."""
    rows = [("what", "schema_apply", "compared with", "ratio", "wanted")]
    small = {}
    # Memory first: the peak that the system reports is that of all processes so far.
    _seconds, little = bench.long_script(1)
    seconds, much = bench.long_script(megabytes)
    for count in (10, 100, 1000):
        small[count] = bench.small_scripts(count)
    ours, theirs = small[1000]
    rows.append(
        (
            "1,000 small scripts into PostgreSQL",
            f"{ours:.2f} s",
            f"psql {theirs:.2f} s",
            f"{ours / theirs:.2f}",
            "≤ 1.5",
        )
    )
    many, one = bench.nothing_pending()
    rows.append(
        ("nothing pending, 1,000 scripts", f"{many:.3f} s", f"1 script {one:.3f} s", f"{many / one:.2f}", "≤ 1.2")
    )
    ours, theirs = bench.ddl()
    rows.append(
        ("200 DDL statements into ClickHouse", f"{ours:.2f} s", f"curl {theirs:.2f} s", f"{ours / theirs:.2f}", "≤ 1.3")
    )
    each = {count: (small[count][0] - one) / count * 1000 for count in small}
    rows.append(
        (
            "each script of 10, 100, 1,000",
            " / ".join(f"{each[count]:.1f} ms" for count in each),
            "the one of 10",
            f"{each[1000] / each[10]:.2f}",
            "constant",
        )
    )
    rows.append(
        (
            f"{megabytes} MB of INSERTs in one script",
            f"{seconds:.0f} s, {much:.0f} MB of memory",
            f"1 MB: {little:.0f} MB of memory",
            f"{much / little:.2f}",
            "flat",
        )
    )
    return rows


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=200)
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="bench-schema-")
    os.chmod(folder, 0o755)
    bench = Bench(folder, arguments.runs)
    try:
        bench.postgres.start()
        bench.clickhouse.start()
        print(table(measure(bench, arguments.megabytes)))
    finally:
        bench.postgres.close()
        bench.clickhouse.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
