"""The repository's key is held to its fingerprint, the release to its number, and the packages are held.

On a real apt, with a repository of packages that hold next to nothing.
"""

import json

import pytest
from support import sandbox as sandboxes
from support.clickhouse_config import CLUSTER, FOUND, ROLE

SOURCES = {"/etc/apt/sources.list.d/clickhouse.sources": None, "/etc/apt/apt.conf.d/90-clickhouse-proxy": None}


@pytest.fixture
def machine():
    """A Sandbox that knows no repository yet. `machine.keys` are the fingerprints of its key.asc and other.asc."""
    reason = sandboxes.available()
    if reason:
        pytest.skip(reason)
    sandbox = sandboxes.Sandbox()
    try:
        sandbox.start().run("sh", "-c", "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*")
        made = sandbox.python("import pathlib, support.apt_repository as made; made.main(pathlib.Path.cwd())")
        sandbox.keys = json.loads(made)
        yield sandbox
    finally:
        sandbox.close()


def install(machine, **variables):
    """Run the tasks for the repository and the packages. Returns a Run."""
    play = {
        "name": "Install", "hosts": "all", "gather_facts": False,
        "vars_files": [str(ROLE / "vars/server.yml")],
        "tasks": [
            {"name": task, "ansible.builtin.include_role": {
                "name": "frameworks.database.clickhouse_db", "tasks_from": f"server/{task}.yml",
            }} for task in ("repository_deb", "install_repository")
        ],
    }
    return machine.playbook(play, {
        **CLUSTER, "clickhouse_db_install_method": "repository", "clickhouse_db_cluster": "", "clickhouse_db_nodes": [],
        "clickhouse_db_keepers": [], "clickhouse_db_repository_url": f"file:{machine.folder}",
        "clickhouse_db_repository_key": f"{machine.folder}/key.asc",
        "clickhouse_db_repository_key_fingerprint": machine.keys["key"],
        "__clickhouse_db_server_probe": {"stdout": json.dumps({**FOUND, "files": SOURCES})}, **variables,
    })


def installed(machine):
    """{package: (version, selection)}."""
    shown = machine.run(
        "dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Want}\n", "clickhouse*", check=False,
    ).stdout
    return {row[0]: tuple(row[1:]) for row in (line.split() for line in shown.splitlines()) if len(row) == 3}


def test_the_release_is_installed_as_declared_and_held(machine):
    install(machine).ok()
    assert installed(machine) == dict.fromkeys(
        ("clickhouse-common-static", "clickhouse-server", "clickhouse-client"), ("25.8.3.66", "hold")
    )
    upgrade = machine.run("apt-get", "-s", "upgrade").stdout
    assert "clickhouse" in upgrade and "Inst clickhouse" not in upgrade


def test_another_release_is_installed_although_they_are_held(machine):
    install(machine).ok()
    install(machine, clickhouse_db_version="25.8.4.13").ok()
    assert set(installed(machine).values()) == {("25.8.4.13", "hold")}


def test_a_fingerprint_may_be_written_with_blanks_and_in_lower_case(machine):
    text = machine.keys["key"].lower()
    install(machine, clickhouse_db_repository_key_fingerprint=f"{text[:20]} {text[20:]}").ok()


def test_another_key_is_refused_before_anything_is_installed(machine):
    run = install(machine, clickhouse_db_repository_key=f"{machine.folder}/other.asc")
    says = f"holds the key {machine.keys['other']}, but clickhouse_db_repository_key_fingerprint is"
    assert run.code and says in " ".join(run.output.split()) and not installed(machine)
    for path in ("/etc/apt/keyrings/clickhouse.asc", "/etc/apt/sources.list.d/clickhouse.sources"):
        machine.run("test", "!", "-e", path)


def test_a_repository_that_another_key_signs_is_refused(machine):
    other = {
        "clickhouse_db_repository_key": f"{machine.folder}/other.asc",
        "clickhouse_db_repository_key_fingerprint": machine.keys["other"],
    }
    run = install(machine, **other)
    assert run.code and not installed(machine)


def test_a_package_that_was_changed_is_refused(machine):
    machine.run("sh", "-c", "echo more >> deb/pool/clickhouse-server_25.8.3.66_amd64.deb")
    run = install(machine)
    assert run.code and "clickhouse-server" not in installed(machine)


def test_a_release_that_is_not_there_is_named(machine):
    run = install(machine, clickhouse_db_version="25.9.9.9")
    assert run.code and "25.9.9.9" in run.output and not installed(machine)


def test_the_proxy_is_for_this_repository_alone(machine):
    install(machine, clickhouse_db_proxy="http://proxy.example:3128").ok()
    text = machine.run("cat", "/etc/apt/apt.conf.d/90-clickhouse-proxy").stdout
    assert 'Acquire::https::Proxy::' in text and '"http://proxy.example:3128"' in text
