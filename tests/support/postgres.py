"""A real PostgreSQL in a temporary directory, on a free port of loopback."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from .ports import free_port

SUPERUSER = "postgres"
SUPERUSER_PASSWORD = "s3cret of the superuser"


def bin_dir():
    """The directory of the newest installed PostgreSQL's programs. FileNotFoundError where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    if program is None:
        raise FileNotFoundError("PostgreSQL's server programs: install the package postgresql")
    return Path(program).resolve().parent


class PostgresServer:
    """Start with `start()`, end with `close()`.

    TCP on `port` asks for a SCRAM password; the socket in `directory` trusts.
    The server refuses to run as root, so root runs it as the operating system's `postgres` or `nobody`.
    """

    def __init__(self, superuser=SUPERUSER, password=SUPERUSER_PASSWORD, options=()):
        self.superuser, self.password, self.options = superuser, password, list(options)
        self.host, self.port = "127.0.0.1", free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="pg-test-"))
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self._account = None
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            self._account = "postgres" if "postgres" in names else "nobody"
            shutil.chown(self.directory, self._account)
        self.directory.chmod(0o755)

    def _run(self, program, *arguments):
        """Run one of PostgreSQL's programs as the server's account; RuntimeError with its output where it fails."""
        command = [str(bin_dir() / program), *map(str, arguments)]
        done = subprocess.run(
            command, user=self._account, cwd=self.directory, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(self.directory)},
        )
        if done.returncode:
            log = self.log.read_text() if self.log.exists() else ""
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}{log}")

    def start(self):
        """Create the data directory at the first call, start the server and wait for it. Returns self."""
        if not self.data.exists():
            secret = self.directory / "superuser"
            secret.write_text(self.password)
            secret.chmod(0o644)
            self._run(
                "initdb", "-D", self.data, "-U", self.superuser, "--pwfile", secret, "-E", "UTF8", "--locale=C.UTF-8",
                "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-instructions",
            )
            secret.unlink()
        settings = {
            "port": self.port, "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory, "fsync": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")] + self.options
        # pg_ctl hands the options to a shell; none of these values needs quoting.
        self._run("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "30", "-o", " ".join(options), "start")
        return self

    def stop(self, mode="fast"):
        """Stop and wait; `mode` is pg_ctl's: smart, fast or immediate (which is a crash)."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    @property
    def pid(self):
        """The postmaster's process number."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def connect(self, database="postgres", user=None, password=None, **options):
        """A psycopg2 connection over TCP in autocommit, as the superuser unless `user` is given."""
        import psycopg2

        connection = psycopg2.connect(
            host=self.host, port=self.port, dbname=database, user=user or self.superuser,
            password=self.password if user is None else password, **options,
        )
        connection.autocommit = True
        return connection

    def query(self, statement, parameters=None, **where):
        """Execute one statement on a connection of its own; `where` as for connect(). Rows as tuples, or None."""
        connection = self.connect(**where)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()

    def login(self, **overrides):
        """The login options that the collection's modules take for the superuser over TCP."""
        return {
            "login_host": self.host, "login_port": self.port, "login_user": self.superuser,
            "login_password": self.password, **overrides,
        }

    def close(self):
        """Stop at once and remove everything."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.directory, ignore_errors=True)
