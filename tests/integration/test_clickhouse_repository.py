"""The repository's key is held to its fingerprint, the release to its number, and the packages are held.

On a real apt, with a repository of packages that hold next to nothing.
"""

import configparser
import contextlib
import json

import pytest
from support import apt_repository
from support import sandbox as sandboxes
from support.clickhouse_config import CLUSTER, FOUND, ROLE

KEY, SOURCE = "/etc/apt/keyrings/clickhouse.asc", "/etc/apt/sources.list.d/clickhouse.sources"
PROXY = "/etc/apt/apt.conf.d/90-clickhouse-proxy"
DNF_KEY, DNF_SOURCE = "/etc/pki/rpm-gpg/RPM-GPG-KEY-clickhouse", "/etc/yum.repos.d/clickhouse.repo"
LOOK = f"""
import hashlib, json, pathlib
files = [pathlib.Path(path) for path in {(KEY, SOURCE, PROXY, DNF_KEY, DNF_SOURCE)}]
print(json.dumps({{str(one): hashlib.sha256(one.read_bytes()).hexdigest() if one.exists() else None for one in files}}))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """(The folder of a repository, the fingerprints of its key.asc and other.asc)."""
    folder = tmp_path_factory.mktemp("repository")
    return folder, apt_repository.main(folder)


@contextlib.contextmanager
def new_machine(repository):
    """A Sandbox that knows no repository yet, and has one in its folder, whose keys are `machine.keys`."""
    reason = sandboxes.available()
    if reason:
        pytest.skip(reason)
    folder, keys = repository
    sandbox = sandboxes.Sandbox([folder])
    try:
        sandbox.start().run(
            "sh", "-c", "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/* && "
            f"cp -r {folder}/deb {folder}/*.asc .",
        )
        sandbox.keys = keys
        yield sandbox
    finally:
        sandbox.close()


@pytest.fixture
def machine(repository):
    """A machine of the test's own."""
    with new_machine(repository) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def served(repository):
    """A machine where the release is installed; but for the last one, its tests leave it so."""
    with new_machine(repository) as sandbox:
        install(sandbox).ok()
        yield sandbox


def install(machine, *phases, packages="deb", **variables):
    """Run the tasks for the repository and the packages, or just some. Returns a Run."""
    found = {**FOUND, "system": {**FOUND["system"], "packages": packages}, "files": json.loads(machine.python(LOOK))}
    play = {
        "name": "Install", "hosts": "all", "gather_facts": False,
        "vars_files": [str(ROLE / "vars/server.yml")],
        # How patient Ansible is with a mirror is not looked at here: half a minute.
        "module_defaults": {"ansible.builtin.apt": {"update_cache_retries": 1}},
        "tasks": [
            {"name": task, "ansible.builtin.include_role": {
                "name": "frameworks.database.clickhouse_db", "tasks_from": f"server/{task}.yml",
            }} for task in phases or ("repository", "install_repository")
        ],
    }
    return machine.playbook(play, {
        **CLUSTER, "clickhouse_db_install_method": "repository", "clickhouse_db_cluster": "", "clickhouse_db_nodes": [],
        "clickhouse_db_keepers": [], "clickhouse_db_repository_url": f"file:{machine.folder}",
        "clickhouse_db_repository_key": f"{machine.folder}/key.asc",
        "clickhouse_db_repository_key_fingerprint": machine.keys["key"],
        "__clickhouse_db_server_probe": {"stdout": json.dumps(found)}, **variables,
    })


def installed(machine):
    """{package: (version, selection)}."""
    shown = machine.run(
        "dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Want}\n", "clickhouse*", check=False,
    ).stdout
    return {row[0]: tuple(row[1:]) for row in (line.split() for line in shown.splitlines()) if len(row) == 3}


def test_the_release_is_installed_as_declared_and_held(served):
    assert installed(served) == dict.fromkeys(
        ("clickhouse-common-static", "clickhouse-server", "clickhouse-client"), ("25.8.3.66", "hold")
    )
    upgrade = served.run("apt-get", "-s", "upgrade").stdout
    assert "clickhouse" in upgrade and "Inst clickhouse" not in upgrade


def test_a_fingerprint_may_be_written_with_blanks_and_in_lower_case(machine):
    text = machine.keys["key"].lower()
    install(machine, clickhouse_db_repository_key_fingerprint=f"{text[:20]} {text[20:]}").ok()


def test_another_key_is_refused_before_anything_is_installed(machine):
    run = install(machine, clickhouse_db_repository_key=f"{machine.folder}/other.asc")
    says = f"holds the key {machine.keys['other']}, but clickhouse_db_repository_key_fingerprint is"
    assert run.code and says in " ".join(run.output.split()) and not installed(machine)
    for path in (KEY, SOURCE):
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


def test_the_proxy_is_for_this_repository_alone_and_goes_when_it_is_taken_out(machine):
    install(machine, "repository", clickhouse_db_proxy="http://user:secret@proxy.example:3128").ok()
    text = machine.run("cat", PROXY).stdout
    assert "Acquire::https::Proxy::" in text and '"http://user:secret@proxy.example:3128"' in text
    assert machine.run("stat", "-c", "%a", PROXY).stdout == "600\n"
    assert install(machine, "repository").ok().count("changed") == 1
    machine.run("test", "!", "-e", PROXY)
    assert install(machine, "repository").ok().count("changed") == 0


def test_another_key_reaches_a_host_that_has_one(served):
    other = {
        "clickhouse_db_repository_key": f"{served.folder}/other.asc",
        "clickhouse_db_repository_key_fingerprint": served.keys["other"],
    }
    install(served, "repository", **other).ok()
    assert served.run("cat", KEY).stdout == served.run("cat", "other.asc").stdout
    assert install(served, "repository", **other).ok().count("changed") == 0
    served.run("rm", KEY)
    install(served, "repository").ok()
    assert served.run("cat", KEY).stdout == served.run("cat", "key.asc").stdout


def test_dnf_checks_the_index_with_a_key_that_was_held_to_its_fingerprint(machine):
    """The vendor's packages have no signature: dnf, told to look for one, would install none of them."""
    dnf = {"packages": "rpm", "clickhouse_db_repository_url": "https://mirror.example"}
    run = install(machine, "repository", **dnf, clickhouse_db_repository_key_fingerprint="A" * 40)
    assert run.code and "holds the key" in run.output
    machine.run("test", "!", "-e", DNF_SOURCE)
    machine.run("mkdir", "-p", "/etc/yum.repos.d")
    install(machine, "repository", **dnf).ok()
    assert machine.run("cat", DNF_KEY).stdout == machine.run("cat", "key.asc").stdout
    found = configparser.ConfigParser()
    found.read_string(machine.run("cat", DNF_SOURCE).stdout)
    assert dict(found["clickhouse"]) == {
        "name": "ClickHouse", "baseurl": "https://mirror.example/rpm/lts/", "gpgcheck": "0", "repo_gpgcheck": "1",
        "gpgkey": f"file://{DNF_KEY}", "exclude": "clickhouse-*",
    }
    assert install(machine, "repository", **dnf).ok().count("changed") == 0
    install(machine, "repository", **dnf, clickhouse_db_proxy="http://user:secret@proxy.example:3128").ok()
    assert "proxy=http://user:secret@proxy.example:3128\n" in machine.run("cat", DNF_SOURCE).stdout
    assert machine.run("stat", "-c", "%a", DNF_SOURCE).stdout == "600\n"


def test_packages_that_somebody_has_freed_are_held_again(served):
    assert install(served, "probe", "install").ok().output.count("Hold them") == 0
    served.run("apt-mark", "unhold", "clickhouse-server")
    install(served, "probe", "install").ok()
    assert set(installed(served).values()) == {("25.8.3.66", "hold")}
    assert install(served, "probe", "install").ok().count("changed") == 0


def test_another_release_is_installed_although_they_are_held(served):
    install(served, clickhouse_db_version="25.8.4.13").ok()
    assert set(installed(served).values()) == {("25.8.4.13", "hold")}
