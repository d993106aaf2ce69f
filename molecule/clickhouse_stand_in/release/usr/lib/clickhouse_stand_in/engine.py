# Stand-in for ClickHouse's execution of statements, and no pretence: the embedded engine, behind the stand-in server.
"""The engine of libchdb.so as a process of its own, with users and clusters as the stand-in tells it."""

import ctypes
import hashlib
import http.client
import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

LIBRARY = os.environ.get("CLICKHOUSE_STAND_IN_LIBRARY", "/srv/libchdb.so")
# The engines of a cluster's hosts reach each other here, for Distributed tables.
NATIVE_PORT, HTTP_PORT = 19000, 18123
SERVE = (
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; SELECT sleepEachRow(3) FROM system.numbers FORMAT Null "
    "SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0"
)
DEFAULT = (
    "<default><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota><grants>"
    "<query>GRANT SYSTEM LISTEN ON *.*</query><query>GRANT SELECT ON system.numbers</query></grants></default>"
)


def command_line(arguments, out=sys.stdout):
    """Run the engine in this process with clickhouse-local's arguments; its exit status."""
    engine = ctypes.CDLL(LIBRARY)
    engine.chdb_query_cmdline.restype = ctypes.c_void_p
    engine.chdb_result_length.restype = ctypes.c_size_t
    engine.chdb_result_buffer.restype = ctypes.c_void_p
    engine.chdb_result_length.argtypes = engine.chdb_result_buffer.argtypes = [ctypes.c_void_p]
    parts = [os.fsencode(part) for part in ["clickhouse", *arguments]]
    result = engine.chdb_query_cmdline(len(parts), (ctypes.c_char_p * len(parts))(*parts))
    length = engine.chdb_result_length(result) if result else 0
    if length:
        out.write(ctypes.string_at(engine.chdb_result_buffer(result), length).decode())
    return 0 if result else 1


def _hashed(password):
    return f"<password_sha256_hex>{hashlib.sha256(password.encode()).hexdigest()}</password_sha256_hex>"


class Engine:
    """start() and stop() as often as users or clusters change; the data stays."""

    def __init__(self, directory):
        self.directory = directory
        self.password = secrets.token_hex(16)  # every user's, behind the stand-in
        self._process = None
        self._requests, self._done = 0, threading.Condition()

    def start(self, users, profiles, clusters, macros, backups=""):
        """Run with these. users: {name: (grants or None for all, number of passwords, profile, default database)}.

        profiles: {name: {setting: value}}. clusters: {name: (secret, [[host, …] of each shard])}. macros: {name:
        value}. backups: the folder that they may be written to.
        """
        self.stop()
        self._write(users, profiles, clusters, macros, backups)
        self._process = subprocess.Popen([
            sys.executable, "-c",
            "import sys; from clickhouse_stand_in import engine; engine.command_line(sys.argv[1:])",
            f"--config-file={self.directory}/config.xml", f"--path={self.directory}/data", f"--http_port={HTTP_PORT}",
            f"--tcp_port={NATIVE_PORT}", "--listen_host=0.0.0.0", "--query", SERVE,
        ], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while True:
            try:
                if self.ask("GET", "/ping")[0] == 200:
                    return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the engine does not start")
            time.sleep(0.1)

    def ended(self):
        """The exit status of a process that has ended by itself, or None."""
        return self._process.poll() if self._process else None

    def stop(self):
        """End the process, after what it is doing."""
        if self._process is not None:
            with self._done:
                self._done.wait_for(lambda: not self._requests, 20)
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def _write(self, users, profiles, clusters, macros, backups):
        os.makedirs(self.directory, exist_ok=True)
        entries = DEFAULT
        for name, (grants, passwords, profile, database) in users.items():
            one = _hashed(self.password)
            if passwords > 1:  # how many there are is seen from outside
                one = "<auth_methods>" + "".join(
                    f"<m{at}>{_hashed(self.password + 'x' * at)}</m{at}>" for at in range(passwords)
                ) + "</auth_methods>"
            rights = "" if grants is None else "<grants>" + "".join(
                f"<query>{escape(grant)}</query>" for grant in grants
            ) + "</grants>"
            default = f"<default_database>{escape(database)}</default_database>" if database else ""
            entries += (
                f"<{name}>{one}<networks><ip>::/0</ip></networks><profile>{escape(profile)}</profile>"
                f"<quota>default</quota>{default}{rights}</{name}>"
            )
        shown = "".join(
            f"<{name}>" + "".join(f"<{key}>{escape(value)}</{key}>" for key, value in settings.items()) + f"</{name}>"
            for name, settings in {"default": {}, **profiles}.items()
        )
        self._file("users.xml", f"<profiles>{shown}</profiles><quotas><default/></quotas><users>{entries}</users>")
        remote = ""
        for name, (secret, shards) in clusters.items():
            # What goes through a Distributed table is written to all replicas of a shard: the stand-in does not see it.
            inside = "".join(
                "<shard><internal_replication>false</internal_replication>" + "".join(
                    f"<replica><host>{escape(host)}</host><port>{NATIVE_PORT}</port></replica>" for host in shard
                ) + "</shard>" for shard in shards
            )
            remote += f"<{name}><secret>{escape(secret)}</secret>{inside}</{name}>"
        told = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in macros.items())
        self._file(
            "config.xml", f"<users_config>{escape(self.directory)}/users.xml</users_config>"
            f"<remote_servers>{remote}</remote_servers><macros>{told}</macros>"
            f"<backups><allowed_path>{escape(backups)}</allowed_path></backups><access_control_improvements>"
            "<table_engines_require_grant>false</table_engines_require_grant></access_control_improvements>",
        )

    def _file(self, name, inside):
        with open(os.open(f"{self.directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"<clickhouse>{inside}</clickhouse>")

    def ask(self, method, path, body=None, user=None, headers=None):
        """(status, headers, body) of a request to the engine, as `user`."""
        connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=300)
        with self._done:
            self._requests += bool(user)
        try:
            login = {"X-ClickHouse-User": user, "X-ClickHouse-Key": self.password} if user else {}
            connection.request(method, path, body, {**(headers or {}), **login})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()
            with self._done:
                self._requests -= bool(user)
                self._done.notify_all()

    def query(self, sql, user, **settings):
        """(status, text) of a statement."""
        status, _headers, body = self.ask("POST", f"/?{urllib.parse.urlencode(settings)}", sql.encode(), user)
        return status, body.decode(errors="replace")
