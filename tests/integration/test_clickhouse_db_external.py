"""What the role clickhouse_db asks of a running server: a double of its access storage (see there)."""

import contextlib
import json

import pytest
import yaml
from support.clickhouse_config import CLUSTER, FOUND, ROLE
from support.clickhouse_double import AccessDouble
from support.playbooks import HOST, role_play, run_playbook
from support.ports import free_port

PASSWORD, ADMIN_PASSWORD = "pass of the app", "s3cret of the admin"


@pytest.fixture
def double(clickhouse):
    with contextlib.closing(AccessDouble(clickhouse)) as instance:
        yield instance.start()


def run(folder, port, *options, **variables):
    """The role on this machine, where it has nothing to do but to talk to the server."""
    return run_playbook(folder, role_play("clickhouse_db"), {
        "clickhouse_db_install_method": "external", "clickhouse_db_login_host": "127.0.0.1",
        "clickhouse_db_login_port": port, "clickhouse_db_password": PASSWORD,
        "clickhouse_db_admin_password": ADMIN_PASSWORD, "clickhouse_db_databases": [], **variables,
    }, *options)


def test_an_external_server_gets_the_applications_user(double, tmp_path):
    port = double.login()["login_port"]
    checked = run(tmp_path, port, "--check", "--diff").ok()
    assert checked.count("changed") == 1 and double.executed == []
    assert "GRANT SHOW, SELECT, INSERT" in checked.output and PASSWORD not in checked.output
    assert run(tmp_path, port, "-vvv").ok().output.count(PASSWORD) == 0
    rights = {row["access_type"] for row in double.replicas[0].table("grants")}
    assert {"SELECT", "INSERT", "CREATE TABLE"} < rights
    assert "max_partitions_per_insert_block" in checked.output  # its inserts may touch many tenants' partitions
    assert not [right for right in rights if "USER" in right or "SYSTEM" in right]
    assert run(tmp_path, port).ok().count("changed") == 0


@pytest.mark.parametrize(("variables", "sentence"), [
    ({"clickhouse_db_admin_password": "not that"}, "refuses user 'admin': wrong password"),
    ({"clickhouse_db_tls": True}, "tls to false"),
    ({"clickhouse_db_users": [{"name": "x", "pasword": "y"}]}, "pasword"),
])
def test_what_is_wrong_is_said(double, tmp_path, variables, sentence):
    done = run(tmp_path, double.login()["login_port"], **variables)
    assert done.code and sentence in " ".join(done.output.split())


def test_a_server_that_is_not_there_or_too_old_is_named(double, tmp_path):
    port = free_port()
    assert f"nothing listens on 127.0.0.1:{port}" in " ".join(run(tmp_path, port).output.split())
    double.version = "22.3.20.29"
    done = run(tmp_path, double.login()["login_port"])
    assert done.code and "is version 22.3.20.29; this collection needs 22.8 or newer" in " ".join(done.output.split())


def test_nobody_is_told_a_password_that_a_server_has_not_taken(double, tmp_path):
    """As in environment.yml: servers first, then the application's settings. One of two servers cannot be reached."""
    told = {"name": "Tell", "hosts": "application", "gather_facts": False, "tasks": [
        {"name": "Tell it", "ansible.builtin.debug": {"msg": "told the password"}},
    ]}
    playbook, inventory = tmp_path / "both.yml", tmp_path / "more.json"
    playbook.write_text(yaml.safe_dump([{**role_play("clickhouse_db"), "hosts": "all:!application"}, told]))
    port = double.login()["login_port"]
    variables = {
        "clickhouse_db_install_method": "external", "clickhouse_db_login_host": "127.0.0.1",
        "clickhouse_db_password": PASSWORD, "clickhouse_db_admin_password": ADMIN_PASSWORD,
        "clickhouse_db_databases": [],
    }
    for second, reached in ((port, True), (free_port(), False)):
        inventory.write_text(json.dumps({
            "all": {"hosts": {"second": {**HOST, **variables, "clickhouse_db_login_port": second}}},
            "application": {"hosts": {"app": HOST}},
        }))
        done = run_playbook(tmp_path, playbook, {**variables, "clickhouse_db_login_port": port}, "-i", str(inventory))
        assert ("told the password" in done.output) == (done.code == 0) == reached, done.output


def test_a_server_that_has_yet_to_read_the_admins_new_password_is_waited_for(double, tmp_path):
    """Only where this run has written it: otherwise a refusal is a refusal."""
    play = {**role_play("clickhouse_db", "server/access.yml"), "vars_files": [str(ROLE / "vars/server.yml")]}
    variables = {
        **CLUSTER, "clickhouse_db_cluster": "", "clickhouse_db_nodes": [], "clickhouse_db_keepers": [],
        "clickhouse_db_tls": False, "clickhouse_db_address": "127.0.0.1", "clickhouse_db_databases": [],
        "clickhouse_db_http_port": double.login()["login_port"], "clickhouse_db_admin_password": ADMIN_PASSWORD,
        "__clickhouse_db_server_probe": {"stdout": json.dumps(FOUND)},
    }
    written = [
        {"__clickhouse_db_item": f"/etc/clickhouse-server/{name}/frameworks.xml", "changed": True}
        for name in ("users.d", "x")
    ]
    for results, waits in ((written, True), (written[1:], False)):
        double.late = 2
        run = run_playbook(tmp_path, play, {**variables, "__clickhouse_db_written": {"results": results}}, "-vvv")
        assert (run.code == 0) == waits and ADMIN_PASSWORD not in run.output
        assert waits or "refuses user 'admin'" in " ".join(run.output.split())
