"""The real embedded ClickHouse in a temporary directory, on free ports of loopback."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from xml.sax.saxutils import escape

from .ports import free_port, is_free, wait_for

ENGINE = Path(__file__).parents[2] / "roles/clickhouse_db/files"
# The engine logs in to itself as `default`, without a password, to open its listeners: these are the rights it needs.
ENGINE_USER = (
    "<default><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota><grants>"
    "<query>GRANT SYSTEM LISTEN ON *.*</query><query>GRANT SELECT ON system.numbers</query></grants></default>"
)
ADMIN = "admin"
ADMIN_PASSWORD = "s3cret of the admin"


def library():
    """The engine's shared library, installed by npm into the user's cache at the first call.

    The environment variable FRAMEWORKS_CLICKHOUSE_LIBRARY names another file.
    Raises RuntimeError with npm's output where it cannot be installed.
    """
    named = os.environ.get("FRAMEWORKS_CLICKHOUSE_LIBRARY")
    if named:
        return Path(named)
    lock = (ENGINE / "engine/package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = cache / "frameworks-database" / f"engine-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(ENGINE / "engine" / name, scratch)
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=scratch, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            )
            if done.returncode:
                raise RuntimeError(f"npm ci: {done.stdout}{done.stderr}")
            try:
                Path(scratch).rename(home)  # at once, so that two test processes never see half of it
            except OSError:
                if not home.exists():
                    raise
            else:
                Path(scratch).mkdir()  # what TemporaryDirectory expects to remove
    return next(home.glob("node_modules/@chdb/*/libchdb.so"))


# Whatever proxy the environment, or a test of one, has set: ansible's urls put an opener of theirs in urllib's place.
HERE = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def user_xml(name, password, grants=(), networks=("127.0.0.1", "::1")):
    """One <users> entry; without `grants` the user may do everything."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    allowed = "".join(f"<ip>{ip}</ip>" for ip in networks)
    rights = "".join(f"<query>{escape(grant)}</query>" for grant in grants)
    return (
        f"<{name}><password_sha256_hex>{digest}</password_sha256_hex><networks>{allowed}</networks>"
        "<profile>default</profile><quota>default</quota>"
        + (f"<grants>{rights}</grants>" if grants else "") + f"</{name}>"
    )


class ClickHouseServer:
    """Start with `start()`, end with `close()`. `admin` may do everything; `users` are more entries of user_xml()."""

    def __init__(self, users=(), config="", profile=""):
        self.host, self.http_port, self.tcp_port = "127.0.0.1", free_port(), free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="ch-test-"))
        self.log = self.directory / "log"
        self._process = None
        (self.directory / "backups").mkdir()
        self.write_users(users, profile)
        (self.directory / "config.xml").write_text(
            f"<clickhouse><users_config>{self.directory}/users.xml</users_config>"
            f"<backups><allowed_path>{self.directory}/backups/</allowed_path></backups>"
            f"<logger><level>information</level></logger>{config}</clickhouse>"
        )

    def write_users(self, users=(), profile=""):
        """Write users.xml: the admin and `users`. The engine reads it when it starts."""
        entries = ENGINE_USER + user_xml(ADMIN, ADMIN_PASSWORD) + "".join(users)
        (self.directory / "users.xml").write_text(
            f"<clickhouse><profiles><default>{profile}</default></profiles><quotas><default/></quotas>"
            f"<users>{entries}</users></clickhouse>"
        )

    def start(self):
        """Start the engine and wait until it answers. Returns self; TimeoutError with its log where it does not."""
        # One that was killed may have had them a moment ago.
        wait_for(lambda: is_free(self.http_port) and is_free(self.tcp_port), "its ports are free")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, str(ENGINE / "launcher.py"), str(library()),
                    f"--config-file={self.directory}/config.xml", f"--path={self.directory}/data",
                    f"--http_port={self.http_port}", f"--tcp_port={self.tcp_port}", "--listen_host=127.0.0.1",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.directory,
            )
        try:
            wait_for(self.answers, "ClickHouse answers /ping", alive=lambda: self._process.poll() is None)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log.read_text()}") from None
        return self

    def answers(self):
        """Whether /ping says Ok."""
        try:
            with HERE.open(f"http://{self.host}:{self.http_port}/ping", timeout=2) as answer:
                return answer.read() == b"Ok.\n"
        except OSError:
            return False

    @property
    def pid(self):
        """The engine's process number."""
        return self._process.pid

    def stop(self, signal_number=signal.SIGTERM):
        """Send a signal and wait for the end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal_number)
            self._process.wait(30)

    def query(self, statement, user=ADMIN, password=ADMIN_PASSWORD, **settings):
        """One statement over HTTP; the answer's text. RuntimeError with the server's message where it is refused."""
        parameters = "&".join(f"{name}={value}" for name, value in settings.items())
        request = urllib.request.Request(
            f"http://{self.host}:{self.http_port}/?{parameters}", data=statement.encode(),
            headers={"X-ClickHouse-User": user, "X-ClickHouse-Key": password},
        )
        try:
            with HERE.open(request, timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from None

    def login(self, **overrides):
        """The login options that the collection's modules take for the admin."""
        return {
            "login_host": self.host, "login_port": self.http_port, "login_user": ADMIN,
            "login_password": ADMIN_PASSWORD, **overrides,
        }

    def close(self):
        """Kill the engine and remove everything."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)
