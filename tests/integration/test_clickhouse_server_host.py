"""The tasks for ClickHouse's own packages on a bare machine, without a server: what they say and what they touch."""

import hashlib
import io
import json
import sys
import tarfile

import pytest
from support import sandbox as sandboxes
from support.clickhouse_config import CLUSTER, FOUND, ROLE
from support.playbooks import role_play, run_playbook

ALONE = {**CLUSTER, "clickhouse_db_cluster": "", "clickhouse_db_nodes": [], "clickhouse_db_keepers": []}


@pytest.fixture
def machine():
    """A Sandbox that looks as if systemd ran in it."""
    reason = sandboxes.available()
    if reason:
        pytest.skip(reason)
    sandbox = sandboxes.Sandbox()
    try:
        sandbox.start().run("mkdir", "-p", "/run/systemd/system")
        yield sandbox
    finally:
        sandbox.close()


def phases(*names):
    """A play of some phases of the role."""
    return {
        "name": "Phases", "hosts": "all", "gather_facts": False, "vars_files": [str(ROLE / "vars/server.yml")],
        "tasks": [
            {"name": name, "ansible.builtin.include_role": {
                "name": "frameworks.database.clickhouse_db", "tasks_from": f"server/{name}.yml",
            }} for name in names
        ],
    }


def test_no_secret_is_printed_where_the_configuration_cannot_be_written(machine):
    variables = {
        **CLUSTER, "clickhouse_db_tls": False, "clickhouse_db_nodes": ["test"], "clickhouse_db_keepers": ["test"],
        "clickhouse_db_shard": 1, "clickhouse_db_keeper_id": 1,
    }
    run = machine.playbook(phases("probe", "configure"), variables, "-vvv", "--diff")
    assert run.code and "/etc/clickhouse-server/config.d/frameworks-cluster.xml" in run.output
    secrets = [variables[name] for name in variables if name.endswith(("password", "secret"))]
    found = [secret for secret in [*secrets, "secret of &lt;the", "password_sha256_hex"] if secret in run.output]
    assert len(secrets) == 4 and not found


@pytest.mark.parametrize("method", ["archive", "repository"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "cluster"])
def test_check_succeeds_on_a_bare_machine_and_changes_nothing(machine, method, alone):
    variables = {
        **(ALONE if alone else CLUSTER), "clickhouse_db_install_method": method,
        "clickhouse_db_pki_dir": f"{machine.folder}/pki", "clickhouse_db_address": "192.0.2.1",
        **({} if alone else {
            "clickhouse_db_nodes": ["test"], "clickhouse_db_keepers": ["test"], "clickhouse_db_shard": 1,
            "clickhouse_db_keeper_id": 1,
        }),
    }
    machine.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    run = machine.playbook(role_play("clickhouse_db"), variables, "--check", "--diff").ok()
    assert run.count("changed") and "Account" in run.output
    # What Ansible itself leaves in the home of its user is no change of the role's.
    assert not [path for path in machine.changes() if path not in ("/", "/root") and "/root/.ansible" not in path]


def release(machine, version, settings):
    """Archives of a release whose program knows these settings and reads every configuration; their SHA-256."""
    known = " ".join(settings)
    program = f"#!/bin/sh\ncase $1 in local) printf '%s\\n' {known};; extract-from-config) ;; *) exit 1; esac\n"
    names = {
        "clickhouse-common-static": {"usr/bin/clickhouse": program},
        "clickhouse-server": {f"etc/clickhouse-server/{name}.xml": "<clickhouse/>" for name in ("config", "users")},
    }
    sums = {}
    for package, files in names.items():
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz") as tar:
            for name, text in files.items():
                entry = tarfile.TarInfo(f"{package}-{version}/{name}")
                entry.size, entry.mode = len(text), 0o755
                tar.addfile(entry, io.BytesIO(text.encode()))
        machine.python(f"import pathlib; pathlib.Path('{package}-{version}-amd64.tgz').write_bytes({raw.getvalue()!r})")
        sums[package] = hashlib.sha256(raw.getvalue()).hexdigest()
    return {"clickhouse_db_version": version, "clickhouse_db_archive_sha256": sums}


def test_a_setting_that_comes_with_an_upgrade_is_looked_up_in_the_new_release(machine):
    """An upgrade: the configuration is written for all hosts first, each gets the release in its turn."""
    machine.run("ln", "-sf", "/bin/true", "/usr/bin/systemctl")
    old, new = release(machine, "25.8.3.66", ["a_setting"]), release(machine, "25.8.4.13", ["a_setting", "a_new_one"])
    variables = {**ALONE, "clickhouse_db_tls": False, "clickhouse_db_archive": machine.folder}
    settings = {"a_setting": 1, "a_new_one": 2}
    machine.playbook(phases("probe", "install", "configure"), {**variables, **old}).ok()
    early = machine.playbook(phases("probe", "configure"), {**variables, **old, "clickhouse_db_settings": settings})
    assert early.code and "no server setting 'a_new_one'" in " ".join(early.output.split())
    turn = phases("probe", "configure", "install_archive")
    for more, says in (
        ({"clickhouse_db_settings": {**settings, "a_typo": 3}}, "no server setting 'a_typo'"),
        ({"clickhouse_db_settings": {**settings, "kept": 4}, "clickhouse_db_settings_unchecked": ["kept"]}, None),
    ):
        machine.run("ln", "-sfn", "/opt/clickhouse/25.8.3.66", "/opt/clickhouse/current")
        run = machine.playbook(turn, {**variables, **new, **more})
        assert run.code == 0 if says is None else says in " ".join(run.output.split()), run.output
        assert "a_new_one'" not in run.output


def test_owners_and_modes_with_which_nothing_would_start_are_put_right(machine):
    """As after a copy of the data to another disk, a backup of /etc, or a chmod; the packages' own choices stay."""
    machine.run("ln", "-sf", "/bin/true", "/usr/bin/systemctl")
    variables = {
        **ALONE, **release(machine, "25.8.3.66", []), "clickhouse_db_archive": machine.folder, "clickhouse_db_python":
        sys.executable, "clickhouse_db_pki_dir": f"{machine.folder}/pki", "clickhouse_db_data_dir": "/srv/data",
    }
    etc, play = "/etc/clickhouse-server", phases("probe", "install", "configure")
    machine.playbook(play, variables).ok()
    key = machine.run("cat", f"{etc}/certs/node.test.key").stdout
    machine.run("sh", "-euc", f"""
        mv /srv/data /srv/disk; ln -s disk /srv/data; chown root: /srv/disk
        chown root: {etc}/certs {etc}/config.d/frameworks.xml; chmod 700 {etc}/certs
        chmod 644 {etc}/users.d/frameworks.xml {etc}/certs/node.test.key; chmod 600 {etc}/certs/ca.crt
    """)
    machine.playbook(play, variables).ok()
    said = machine.run(
        "stat", "-c", "%n %U:%G %a", "/srv/disk", f"{etc}/certs", f"{etc}/config.d/frameworks.xml",
        f"{etc}/users.d/frameworks.xml", f"{etc}/certs/ca.crt", f"{etc}/certs/node.test.key",
    ).stdout.replace(f"{etc}/", "").splitlines()
    assert said == [
        "/srv/disk clickhouse:clickhouse 750", "certs root:clickhouse 750",
        "config.d/frameworks.xml root:clickhouse 640",
        "users.d/frameworks.xml root:clickhouse 640", "certs/ca.crt root:root 644",
        "certs/node.test.key clickhouse:clickhouse 400",
    ]
    assert machine.run("cat", f"{etc}/certs/node.test.key").stdout != key  # others have seen it
    machine.run("chown", "clickhouse", etc, f"{etc}/config.d/frameworks.xml")
    assert machine.playbook(play, variables).ok().count("changed") == 0


def test_an_archive_that_was_not_meant_is_not_unpacked(machine):
    variables = {**ALONE, **release(machine, "25.8.3.66", []), "clickhouse_db_tls": False}
    sums = variables["clickhouse_db_archive_sha256"]
    variables["clickhouse_db_archive_sha256"] = {**sums, "clickhouse-server": "0" * 64}
    run = machine.playbook(phases("probe", "install"), {**variables, "clickhouse_db_archive": machine.folder})
    says = f"has the SHA-256 {sums['clickhouse-server']}, clickhouse_db_archive_sha256 says {'0' * 64}"
    assert run.code and says in " ".join(run.output.split())
    assert machine.run("ls", "/opt/clickhouse").stdout == ""


def test_an_authority_is_made_once_and_its_key_is_encrypted(tmp_path):
    playbook = ROLE.parents[1] / "playbooks/clickhouse_authority.yml"
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"clickhouse": {"hosts": {
        # Nobody is there: it is the controller's alone.
        "a1": {**CLUSTER, "ansible_host": "192.0.2.1", "clickhouse_db_pki_dir": f"{tmp_path}/pki"},
    }}}))
    assert run_playbook(tmp_path, str(playbook), None, "-i", str(inventory), "--check").ok().count("changed") == 1
    assert not (tmp_path / "pki").exists()
    first = run_playbook(tmp_path, str(playbook), None, "-i", str(inventory)).ok()
    certificate = (tmp_path / "pki/ca.crt").read_text()
    assert first.count("changed") and "ENCRYPTED" in (tmp_path / "pki/ca.key").read_text()
    assert run_playbook(tmp_path, str(playbook), None, "-i", str(inventory)).ok().count("changed") == 0
    assert (tmp_path / "pki/ca.crt").read_text() == certificate
    # Nothing is installed: it fails before.
    play = {
        **role_play("clickhouse_db", "server/certificate.yml"), "vars_files": [str(ROLE / "vars/server.yml")],
        "vars": {"__clickhouse_db_server_probe": {"stdout": json.dumps(FOUND)}},
    }
    another = {"clickhouse_db_pki_dir": f"{tmp_path}/pki", "clickhouse_db_ca_passphrase": "another passphrase"}
    refused = run_playbook(tmp_path, play, {**CLUSTER, **another})
    assert refused.code and "clickhouse_db_ca_passphrase has to be the one" in " ".join(refused.output.split())
