"""The role postgres_server on a Debian as root: a cluster and a port of the test's own, deleted afterwards."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.playbooks import CONTROLLER, ROOT, Controller
from support.ports import free_port, wait_for

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("pg_createcluster") is None, reason="needs root and postgresql-common"
)
ROLE = "frameworks.database.postgres_server"


class Cluster:
    """What the role manages, by its own name and port; `run()` runs the role."""

    def __init__(self, name, directory):
        self.name, self.port, self.directory = name, free_port(), directory

    def run(self, *options, tasks_from="main", controller=CONTROLLER, **variables):
        """A Run."""
        playbook, inventory = self.directory / "play.yml", self.directory / "inventory.json"
        playbook.write_text(json.dumps([{
            "hosts": "localhost", "gather_facts": False, "tasks": [
                {"name": "Role", "ansible.builtin.include_role": {"name": ROLE, "tasks_from": tasks_from}},
            ],
        }]))
        inventory.write_text(json.dumps({"all": {"hosts": {"localhost": None}, "vars": {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable,
            "postgres_server_cluster": self.name, "postgres_server_port": self.port, **variables,
        }}}))
        return controller.run(ROOT, "-i", inventory, playbook, *options)

    def query(self, statement, user="postgres", password=None, host="/var/run/postgresql"):
        """One value; the superuser over the socket unless something else is asked for."""
        import psycopg2

        connection = psycopg2.connect(host=host, port=self.port, user=user, password=password, dbname="postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            value = cursor.fetchone()[0] if cursor.description else None
        connection.close()
        return value

    @property
    def configuration(self):
        return next(Path("/etc/postgresql").glob(f"*/{self.name}"), None)

    @property
    def pid(self):
        data = self.query("SHOW data_directory")
        return int(Path(data, "postmaster.pid").read_text().split()[0])

    def destroy(self):
        return self.run(tasks_from="destroy", postgres_server_destroy=True)


def changed(done):
    return done.ok().count("changed")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("postgres_server")


@pytest.fixture
def absent(unique, scratch):
    """A Cluster that does not exist."""
    cluster = Cluster(unique, scratch)
    yield cluster
    assert cluster.configuration is None


@pytest.fixture(scope="module")
def running(scratch):
    cluster = Cluster(f"t_{secrets.token_hex(4)}", scratch)
    assert changed(cluster.run("--check", "--diff")) > 0
    assert cluster.configuration is None
    another = Controller()
    try:
        with ThreadPoolExecutor() as pool:  # two at once: one creates the cluster, the other waits and finds it
            first, second = (pool.submit(cluster.run, controller=one) for one in (CONTROLLER, another))
        assert changed(first.result()) + changed(second.result()) > 0
        yield cluster
    finally:
        another.close()
        assert changed(cluster.destroy()) > 0
        assert cluster.configuration is None
        assert not list(Path("/var/lib/postgresql").glob(f"*/{cluster.name}"))
        assert changed(cluster.destroy()) == 0


@pytest.fixture
def cluster(running):
    """A Cluster that runs, as the role has left it."""
    yield running
    assert changed(running.run()) >= 0


def test_a_second_run_only_looks(running):
    second = running.run("--diff")
    assert changed(second) == 0
    assert second.count("ok") == 3  # the include, the specs, the look


def test_who_may_log_in(running):
    import psycopg2

    assert running.query("SHOW listen_addresses") == "127.0.0.1, ::1"
    running.query("CREATE ROLE app LOGIN PASSWORD 'pw'")
    assert running.query("SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'app'")
    assert running.query("SELECT current_user", user="app", password="pw", host="127.0.0.1") == "app"
    for attempt in (
        {"user": "app", "password": "wrong", "host": "127.0.0.1"}, {"user": "app", "password": "pw"},
        {"user": "postgres", "host": "127.0.0.1", "password": "postgres"},
    ):
        with pytest.raises(psycopg2.OperationalError):
            running.query("SELECT 1", **attempt)
    as_nobody = subprocess.run(
        ["psql", "-h", "/var/run/postgresql", "-p", str(running.port), "-U", "postgres", "-c", "SELECT 1"],
        user="nobody", cwd="/", capture_output=True, text=True, check=False,
    )
    assert "Peer authentication failed" in as_nobody.stderr


def test_a_setting_is_reloaded_and_only_some_restart_the_server(cluster):
    pid = cluster.pid
    settings = {"work_mem": "7MB", "log_line_prefix": "it's \\ %m ", "jit": False, "max_parallel_workers": 3}
    assert changed(cluster.run(postgres_server_settings=settings)) > 0
    assert cluster.query("SHOW work_mem") == "7MB" and cluster.query("SHOW log_line_prefix") == "it's \\ %m "
    assert cluster.query("SHOW jit") == "off"
    assert cluster.pid == pid
    settings["max_connections"] = 33
    assert changed(cluster.run("--check", postgres_server_settings=settings)) > 0
    assert cluster.query("SELECT count(*) FROM pg_settings WHERE pending_restart") == 0
    assert changed(cluster.run(postgres_server_settings=settings)) > 0
    assert cluster.query("SHOW max_connections") == "33"
    assert cluster.pid != pid


def test_a_bad_setting_is_refused(running):
    drop_in = running.configuration / "conf.d/postgres_server.conf"
    before = drop_in.read_text()
    done = running.run(postgres_server_settings={"work_mm": "7MB"})
    assert done.code == 2
    assert 'postgres_server_settings: unrecognized configuration parameter "work_mm"' in done.output
    assert drop_in.read_text() == before


def test_what_an_interrupted_run_has_left_is_taken_up(cluster):
    """A file written but not read, as after a kill between the two."""
    assert cluster.query("SHOW work_mem") == "4MB"
    other = cluster.configuration / "conf.d/other.conf"
    other.write_text("work_mem = '9MB'\nmax_connections = 44\n")
    try:
        assert changed(cluster.run()) > 0
        assert (cluster.query("SHOW work_mem"), cluster.query("SHOW max_connections")) == ("9MB", "44")
    finally:
        other.unlink()


def test_it_starts_again_after_a_kill(running):
    running.query("CREATE TABLE kept (n int)")
    pid = running.pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the server's end")
    assert changed(running.run()) > 0
    assert running.query("SELECT count(*) FROM kept") == 0


def test_another_port(running):
    running.port = free_port()
    assert changed(running.run()) > 0
    assert int(running.query("SHOW port")) == running.port


def test_what_is_wrong_is_named_before_anything_is_done(absent):
    with socket.create_server(("127.0.0.1", absent.port)):
        done = absent.run("--check", postgres_server_cluster="main", postgres_server_settings={"port": 1})
    assert done.code == 2
    said = " ".join(done.output.split())
    assert re.search(rf"Port {absent.port} is taken by .*\(process {os.getpid()}\)", said)
    assert "set postgres_server_port to another" in said
    assert "postgres_server_cluster is main" in said
    assert "postgres_server_settings must not hold port" in said


def test_settings_that_the_role_could_not_go_on_with_are_refused(absent):
    settings = {
        "unix_socket_directories": "/tmp", "PORT": 1, "hba_file": "x", "search_path": ["a", "b"],
        "log_line_prefix": None, "jit": False, "work_mem": "4MB", "max_connections": 33,
    }
    done = absent.run("--check", postgres_server_settings=settings)
    assert done.code == 2
    said = " ".join(done.output.split())
    assert "must not hold hba_file, PORT, unix_socket_directories: the role sets" in said
    assert "postgres_server_settings: log_line_prefix, search_path must be a text, a number or true or false" in said


def test_a_port_of_another_cluster_names_the_cluster(running, absent):
    absent.port = running.port
    said = " ".join(absent.run().output.split())
    assert re.search(rf"taken by the PostgreSQL cluster \d+/{running.name}: stop that", said)


def test_the_remains_of_an_interrupted_creation_are_named(absent):
    version = sorted(path.name for path in Path("/usr/lib/postgresql").iterdir())[-1]
    data = Path(f"/var/lib/postgresql/{version}/{absent.name}")
    data.mkdir(parents=True)
    try:
        done = absent.run()
        assert done.code == 2
        assert f"There is {data} but no configuration" in " ".join(done.output.split())
    finally:
        data.rmdir()


def test_only_an_explicit_wish_destroys(running):
    done = running.run(tasks_from="destroy", postgres_server_destroy=False)
    assert done.code == 2
    assert "set postgres_server_destroy to true" in " ".join(done.output.split())
    assert changed(running.run("--check", tasks_from="destroy", postgres_server_destroy=True)) > 0
    assert running.query("SELECT 1") == 1


def test_the_distributions_cluster_is_never_destroyed(running):
    done = running.run("--check", tasks_from="destroy", postgres_server_destroy=True, postgres_server_cluster="main")
    assert done.code == 2
    assert "postgres_server_cluster is main" in " ".join(done.output.split())
