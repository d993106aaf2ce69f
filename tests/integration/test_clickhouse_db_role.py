"""The role clickhouse_db with the embedded server, on a throwaway copy of this machine: real paths and services."""

import hashlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clickhouse import library
from support.playbooks import role_play
from support.ports import wait_for
from support.sandbox import Sandbox, available

# One process for all of them: they share two machines.
pytestmark = [
    pytest.mark.skipif(available() != "", reason=available() or "-"), pytest.mark.xdist_group("clickhouse_db"),
]

PASSWORD, ADMIN_PASSWORD = "frameworks_dev$%@:'\" й", "pass of the admin"
PLAY, DESTROY = role_play("clickhouse_db"), role_play("clickhouse_db", "destroy")
OURS = "/opt/frameworks/clickhouse /etc/clickhouse-server /var/lib/clickhouse /var/log/clickhouse-server"
FORGET = f"rm -rf {OURS} /etc/supervisor/conf.d/clickhouse-server.conf; userdel clickhouse || true"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The role's variables for a library that is at hand."""
    path = library()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 22), b""):
            digest.update(block)
    return {
        "clickhouse_db_embedded_library": str(path), "clickhouse_db_embedded_library_remote_src": True,
        "clickhouse_db_embedded_library_checksum": digest.hexdigest(),
        "clickhouse_db_password": PASSWORD, "clickhouse_db_admin_password": ADMIN_PASSWORD,
    }


class Machine(Sandbox):
    """A sandbox where no ClickHouse is installed."""

    def __init__(self):
        assert shutil.which("supervisorctl"), "these tests need the package supervisor: make integration installs it"
        super().__init__([library().parent])
        self.start()
        self.run("sh", "-c", FORGET)

    def query(self, statement, user="frameworks", password=PASSWORD):
        """The server's answer, be it a result or an error."""
        return self.python(
            "from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import *\n"
            f"login = {{'login_user': {user!r}, 'login_password': {password!r}}}\n"
            f"try: print(Client(login).execute({statement!r}), end='')\n"
            "except ClickHouseError as error: print(error)"
        )

    def server(self):
        """The server's process number, or None."""
        found = self.run("pgrep", "-f", "/opt/frameworks/clickhouse/launcher.py", check=False).stdout.split()
        return int(found[0]) if found else None

    def listing(self):
        """Every file of the role, with its mode and owner."""
        return self.run("sh", "-c", f"find {OURS} -printf '%M %u %g %p\\n' 2>/dev/null | sort").stdout


def executions(run):
    """How many modules ran on the host."""
    return len(re.findall(r"^ok: |^changed: ", run.output, re.M))


@pytest.fixture(scope="module")
def machine(engine):
    """A machine where the role has run."""
    instance = Machine()
    try:
        instance.first = instance.playbook(PLAY, engine, "--diff", "-vvv").ok()
        yield instance
    finally:
        instance.close()


def test_a_second_run_does_nothing(machine, engine):
    before = machine.server(), machine.listing()
    run = machine.playbook(PLAY, engine).ok()
    assert run.count("changed") == 0
    assert executions(run) <= 4  # the spec, the probe, the preflight, the access
    assert (machine.server(), machine.listing()) == before


def test_the_application_has_its_database_and_nothing_else(machine):
    machine.query("CREATE TABLE frameworks.t (n UInt8) ENGINE = MergeTree ORDER BY n")
    assert machine.query("SELECT engine FROM system.tables WHERE name = 't'") == "MergeTree\n"
    machine.query("DROP TABLE frameworks.t SYNC")
    url = "SELECT * FROM url('http://127.0.0.1/', 'CSV', 'a Int8')"
    for statement in ("CREATE DATABASE other", "CREATE USER x", "SHOW CREATE USER admin", url):
        assert "error 497" in machine.query(statement), statement
    assert "refuses user" in machine.query("SELECT 1", password="wrong")
    # The engine's own user, who has no password, may do nothing with the data.
    for statement in ("CREATE TABLE frameworks.t (n UInt8) ENGINE = Memory", url):
        assert "error 497" in machine.query(statement, user="default"), statement
    native = machine.python(
        "from clickhouse_driver import Client\n"
        f"print(Client('localhost', 9000, user='frameworks', password={PASSWORD!r}).execute('SELECT 7'))"
    )
    assert native == "[(7,)]\n"


def test_no_secret_is_to_be_seen(machine):
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (PASSWORD, ADMIN_PASSWORD)]
    shown = machine.first.output + machine.run("ps", "axww", "-o", "args").stdout
    for secret in (PASSWORD, ADMIN_PASSWORD, json.dumps(PASSWORD)[1:-1], *digests):
        assert secret not in shown
    readable = machine.run(
        "sh", "-c", f"find {OURS} /etc/supervisor /var/log/supervisor -type f -perm /o+r -not -name libchdb.so "
        f"| xargs grep -l -F -e '{ADMIN_PASSWORD}' -e {digests[0]} -e {digests[1]}", check=False,
    ).stdout
    assert readable == ""


def test_it_comes_back_after_a_kill_with_its_data(machine):
    machine.query("CREATE TABLE frameworks.kept (n UInt8) ENGINE = MergeTree ORDER BY n")
    machine.query("INSERT INTO frameworks.kept VALUES (7)")
    before = machine.server()
    machine.run("kill", "-9", before)
    wait_for(lambda: machine.query("SELECT n FROM frameworks.kept") == "7\n", "the server is back")
    assert machine.server() != before
    machine.query("DROP TABLE frameworks.kept SYNC")


def test_the_next_run_starts_what_a_boot_without_init_left_down(machine, engine):
    machine.run("sh", "-c", "pkill -9 supervisord; pkill -9 -f [l]auncher.py; rm -f /run/supervisor*")
    wait_for(lambda: machine.server() is None, "everything is down")
    assert machine.playbook(PLAY, engine).ok().count("changed") > 0
    assert machine.query("SELECT 1") == "1\n"


def test_settings_and_passwords_take_effect_also_after_an_interrupted_run(machine, engine):
    changed = {**engine, "clickhouse_db_password": "another one", "clickhouse_db_settings": {
        "max_concurrent_queries": 77, "merge_tree": {"parts_to_throw_insert": 4000}, "display_name": "<odd> & name",
    }}
    # The files are as declared, but the server has not been restarted since: as after a run that was cut off there.
    machine.playbook(PLAY, changed, "--tags", "configure").ok()
    before = machine.server()
    machine.playbook(PLAY, changed).ok()
    after = machine.server()
    assert after != before
    assert machine.query("SELECT 1", password="another one") == "1\n"
    assert "refuses user" in machine.query("SELECT 1")
    assert machine.query(
        "SELECT value FROM system.merge_tree_settings WHERE name = 'parts_to_throw_insert' "
        "UNION ALL SELECT value FROM system.server_settings WHERE name = 'max_concurrent_queries' ORDER BY value",
        "admin", ADMIN_PASSWORD,
    ) == "4000\n77\n"
    assert machine.playbook(PLAY, changed).ok().count("changed") == 0
    assert machine.server() == after
    machine.playbook(PLAY, engine).ok()


def test_what_is_wrong_leaves_the_running_server_alone(machine, engine):
    before = machine.server(), machine.run("sh", "-c", f"sha256sum $(find {OURS} -name '*.xml')").stdout
    for variables, sentence in (
        ({"clickhouse_db_privileges": ["SELCT"]}, "refuses the declared users: Code: 36. DB::Exception: Failed"),
        ({"clickhouse_db_users": [{"name": "x", "pasword": "y"}]}, "pasword"),
        ({"clickhouse_db_settings": {"max_server_memory_usage": "lots"}}, "while parsing setting"),
        ({"clickhouse_db_embedded_library_checksum": "0" * 64}, "has the SHA-256"),
    ):
        run = machine.playbook(PLAY, {**engine, **variables})
        assert run.code and sentence in re.sub(r"\s+", " ", run.output), run.output
    after = machine.server(), machine.run("sh", "-c", f"sha256sum $(find {OURS} -name '*.xml')").stdout
    assert after == before
    assert machine.query("SELECT 1") == "1\n"
    assert ".new-" not in machine.listing()


def test_a_server_that_does_not_start_says_why(machine, engine):
    machine.run("sh", "-c", "echo '<broken' >/etc/clickhouse-server/config.d/zz.xml")
    machine.run("kill", "-9", machine.server())
    run = machine.playbook(PLAY, engine)
    said = re.sub(r"\s+", " ", run.output).replace("''", "'")
    assert run.code and "Failed to merge config with '/etc/clickhouse-server/config.d/zz.xml'" in said, said
    assert "PyObject" not in said  # a line of a stack trace
    machine.run("rm", "/etc/clickhouse-server/config.d/zz.xml")
    machine.playbook(PLAY, engine).ok()
    assert machine.query("SELECT 1") == "1\n"


@pytest.fixture(scope="module")
def bare():
    """A machine where the role has never run; its tests leave it so."""
    instance = Machine()
    try:
        yield instance
    finally:
        instance.close()


def test_check_on_a_bare_machine_passes_and_writes_nothing(bare, engine):
    look = ("sh", "-c", "cat /etc/passwd; ls /etc /opt /var/lib /var/log /etc/supervisor/conf.d")
    before = bare.run(*look).stdout
    assert bare.playbook(PLAY, engine, "--check", "--diff").ok().count("changed") > 0
    assert bare.run(*look).stdout == before


def test_what_stands_in_the_way_is_said_before_anything_is_written(bare, engine):
    pinned = {name: value for name, value in engine.items() if "library" not in name}
    lies = "s/x86_64/aarch64/; s/\"uid\": 0/\"uid\": 1000/"
    bare.write("python", f"#!/bin/sh\n/usr/bin/python3 \"$@\" | sed '{lies}'\n")
    bare.run("chmod", "755", f"{bare.folder}/python")
    bare.run("sh", "-c", "mkdir /etc/clickhouse-server; echo '<yandex/>' >/etc/clickhouse-server/config.xml")
    bare.run("sh", "-c", "python3 -m http.server 8123 >/dev/null 2>&1 &")
    connect = ("python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8123))")
    wait_for(lambda: bare.run(*connect, check=False).returncode == 0, "something listens")
    run = bare.playbook(PLAY, {
        **pinned, "clickhouse_db_tcp_port": 8123, "clickhouse_db_python": f"{bare.folder}/python",
        "clickhouse_db_service_manager": "systemd",
    })
    said = re.sub(r"\s+", " ", run.output)
    for sentence in (
        "Port 8123 (clickhouse_db_http_port) is taken on 0.0.0.0 by process", "http.server 8123): stop that, or choose",
        "are the same: 8123", "/etc/clickhouse-server/config.xml belongs to another installation",
        "this machine is aarch64", "The role needs root: give the play become",
        "clickhouse_db_service_manager is systemd, which does not run",
    ):
        assert sentence in said, run.output
    incomplete = {name: value for name, value in engine.items() if "checksum" not in name}
    run = bare.playbook(PLAY, {**incomplete, "clickhouse_db_http_port": 8124})
    assert run.code and "needs clickhouse_db_embedded_library_checksum" in re.sub(r"\s+", " ", run.output)
    written = ("find", "/etc/clickhouse-server", "/opt", "-newer", f"{bare.folder}/python", "-type", "f")
    assert bare.run(*written).stdout == "/etc/clickhouse-server/config.xml\n"
    bare.run("sh", "-c", "pkill -f [h]ttp.server; rm -r /etc/clickhouse-server")


def test_destroy_leaves_the_data_of_others(bare, engine):
    bare.run("sh", "-c", "mkdir -p /var/lib/clickhouse && echo precious >/var/lib/clickhouse/of-another")
    bare.playbook(DESTROY, {**engine, "clickhouse_db_destroy": True}).ok()
    assert bare.run("cat", "/var/lib/clickhouse/of-another").stdout == "precious\n"
    bare.run("rm", "-r", "/var/lib/clickhouse")


def test_two_runs_at_once_make_one_server_and_destroy_takes_all_of_it_when_asked(bare, engine):
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(bare.playbook, PLAY, engine) for _each in range(2)]
    assert [run.result().code for run in runs] == [0, 0], [run.result().output for run in runs]
    assert bare.playbook(PLAY, engine).ok().count("changed") == 0

    run = bare.playbook(DESTROY, engine)
    assert run.code and "clickhouse_db_destroy" in run.output
    assert bare.query("SELECT 1") == "1\n"
    wanted = {**engine, "clickhouse_db_destroy": True}
    bare.playbook(DESTROY, wanted).ok()
    assert bare.server() is None and bare.listing() == ""
    assert bare.run("id", "clickhouse", check=False).returncode
    assert bare.playbook(DESTROY, wanted).ok().count("changed") == 0


def test_an_account_of_somebody_else_stays_as_it_is(bare, engine):
    bare.run("useradd", "--system", "--home-dir", "/srv/analytics", "clickhouse")
    before = bare.run("getent", "passwd", "clickhouse").stdout
    run = bare.playbook(PLAY, engine, "--check").ok()
    assert re.search(r" : Account\] \*+\nskipping: ", run.output), run.output
    bare.playbook(DESTROY, {**engine, "clickhouse_db_destroy": True}).ok()
    assert bare.run("getent", "passwd", "clickhouse").stdout == before
    bare.run("userdel", "clickhouse")
