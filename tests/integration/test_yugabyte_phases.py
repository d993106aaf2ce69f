"""How yugabyte_db installs, makes certificates and replaces the superuser's password; at -vvv it shows no secret."""

import getpass
import json

import pytest
from support.playbooks import role_play, run_playbook
from support.yugabyte import VERSION, StandInCluster

MARK = "UNMISTAKABLE"
PASSWORD, PASSPHRASE = f"{MARK}-the-superuser", f"{MARK}-the-passphrase"
# They let somebody in, so the role takes the cluster for one that it has opened before.
OPEN = "local all yugabyte trust,host all all samehost scram-sha-256,host all all 0.0.0.0/0 reject"


@pytest.fixture(scope="module")
def cluster():
    running = StandInCluster(nodes=1, flags=lambda kind, _number: (
        {"ysql_hba_conf_csv": OPEN} if kind == "tserver" else {"replication_factor": 1}
    ))
    try:
        running.start()
        # No unit of this machine tells which release runs.
        (running.directory / "bin").symlink_to(running.bin_dir)
        yield running
    finally:
        running.close()


def play(*phases):
    """The role's phases, one after the other."""
    tasks = [task for phase in phases for task in role_play("yugabyte_db", phase)["tasks"]]
    return {**role_play("yugabyte_db"), "tasks": tasks}


@pytest.fixture
def variables(tmp_path):
    (tmp_path / "etc/certs").mkdir(parents=True)
    return {
        "yugabyte_db_nodes": ["test"], "yugabyte_db_replication_factor": 1, "yugabyte_db_version": VERSION,
        "yugabyte_db_build": "b60", "yugabyte_db_archive_sha256": "0" * 64, "yugabyte_db_user": getpass.getuser(),
        "yugabyte_db_superuser_password": PASSWORD, "yugabyte_db_ca_passphrase": PASSPHRASE,
        "yugabyte_db_pki_dir": str(tmp_path / "pki"), "yugabyte_db_config_dir": str(tmp_path / "etc"),
        "yugabyte_db_install_dir": str(tmp_path / "opt"), "yugabyte_db_data_dirs": [str(tmp_path / "data")],
    }


def shows_nothing(run):
    run.ok()
    assert MARK not in run.output
    assert "PRIVATE KEY" not in run.output
    assert "SCRAM-SHA-256$" not in run.output


def test_the_authority_and_a_nodes_key_are_made_unseen(variables, tmp_path):
    # In a certificate letters are small and ASCII, and an address is as short as it can be.
    variables["yugabyte_db_certificate_names"] = ["DB.Example", "2001:DB8:0:0::1", "münchen.example", "fe80::1%eth0"]
    run = run_playbook(tmp_path, play("probe", "certificates"), variables, "-vvv", "--diff")
    shows_nothing(run)
    assert run.count("changed") > 0
    key = (tmp_path / "pki/ca.key").read_text()
    assert key.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert (tmp_path / "etc/certs/node.test.key").stat().st_mode & 0o777 == 0o400
    again = run_playbook(tmp_path, play("probe", "certificates"), variables, "-vvv", "--diff")
    shows_nothing(again)
    assert again.count("changed") == 0
    other = {**variables, "yugabyte_db_ca_passphrase": f"{MARK}-another"}
    refused = run_playbook(
        tmp_path, play("probe", "certificates"), {**other, "yugabyte_db_certificate_renew": True}, "-vvv", "--diff",
    )
    assert refused.code == 2 and "yugabyte_db_ca_passphrase has to be the one that opens" in refused.output
    assert MARK not in refused.output
    (tmp_path / "pki/ca.crt").unlink()
    assert run_playbook(tmp_path, play("probe", "certificates"), other).code == 2
    assert (tmp_path / "pki/ca.key").read_text() == key


@pytest.fixture
def brought(variables, tmp_path):
    """The variables for certificates that somebody brings."""
    run_playbook(tmp_path, play("probe", "certificates"), variables).ok()
    folder = tmp_path / "brought"
    (tmp_path / "etc/certs").rename(folder)
    (tmp_path / "etc/certs").mkdir()
    return {
        **variables, "yugabyte_db_ca_cert": str(folder / "ca.crt"),
        "yugabyte_db_node_cert": str(folder / "node.test.crt"), "yugabyte_db_node_key": str(folder / "node.test.key"),
    }


def test_certificates_that_are_brought_are_installed_unseen_and_once(brought, tmp_path):
    run = run_playbook(tmp_path, play("probe", "certificates"), brought, "-vvv", "--diff")
    shows_nothing(run)
    for file in ("ca.crt", "node.test.crt", "node.test.key"):
        assert (tmp_path / "etc/certs" / file).read_text() == (tmp_path / "brought" / file).read_text()
    again = run_playbook(tmp_path, play("probe", "certificates"), brought, "-vvv", "--diff")
    shows_nothing(again)
    assert again.count("changed") == 0


@pytest.mark.parametrize("which", ["node_cert", "ca_cert"])
def test_one_that_is_brought_anew_takes_a_restart_in_the_run_that_installs_it(brought, tmp_path, which):
    """Although the probe found another one on the node."""
    run_playbook(tmp_path, play("probe", "certificates"), brought).ok()
    probe = play("probe")
    probe["tasks"][0]["ansible.builtin.include_role"]["public"] = True
    configuration = "{{ [__yugabyte_db_configuration.master, __yugabyte_db_configuration.tserver] }}"
    steps = [
        {"ansible.builtin.set_fact": {"before": configuration}},
        {"ansible.builtin.copy": {
            "content": f"New.\n{{{{ lookup('file', yugabyte_db_{which}) }}}}\n",
            "dest": f"{{{{ yugabyte_db_{which} }}}}",
        }},
        {"ansible.builtin.set_fact": {"after": configuration}},
        {"ansible.builtin.assert": {"that": "(before + after) | unique | length == 4"}},
    ]
    run_playbook(tmp_path, {**probe, "tasks": [*probe["tasks"], *steps]}, brought).ok()


def test_the_superusers_password_is_replaced_unseen(cluster, variables, tmp_path):
    running = {
        **variables, "yugabyte_db_install_dir": str(cluster.directory), "yugabyte_db_tls": False,
        "yugabyte_db_data_dirs": [str(cluster.directory / "node-1")], "yugabyte_db_address": cluster.address[1],
    }
    run = run_playbook(tmp_path, play("probe", "access"), running, "-vvv", "--diff")
    shows_nothing(run)
    assert run.count("changed") == 1
    assert cluster.sql(1, "SELECT 1", PGPASSWORD=PASSWORD).stdout == "1\n"
    again = run_playbook(tmp_path, play("probe", "access"), running, "-vvv", "--diff")
    shows_nothing(again)
    assert again.count("changed") == 0


def test_what_is_left_of_a_membership_that_ended_goes(variables, tmp_path):
    """The preflight has seen that none of the data of that time is there."""
    (tmp_path / "etc/taken-out").touch()
    (tmp_path / f"opt/yugabyte-{VERSION}").mkdir(parents=True)
    (tmp_path / f"opt/yugabyte-{VERSION}/.post_install.sh.completed").touch()
    bare = {
        **variables, "yugabyte_db_tls": False, "yugabyte_db_log_dir": str(tmp_path / "log"), "yugabyte_db_sysctls": {},
        "yugabyte_db_huge_pages": "", "yugabyte_db_driver_package": "", "yugabyte_db_chrony": False,
    }
    assert run_playbook(tmp_path, play("probe", "install"), bare).ok().count("changed") > 0
    assert not (tmp_path / "etc/taken-out").exists()
    assert run_playbook(tmp_path, play("probe", "install"), bare).ok().count("changed") == 0


def test_a_new_node_is_not_taken_for_full_while_the_balancer_is_switched_off(variables, tmp_path):
    """One that is switched off says that it is idle."""
    admin = tmp_path / f"opt/yugabyte-{VERSION}/bin/yb-admin"
    admin.parent.mkdir(parents=True)
    admin.write_text('#!/bin/sh\nprintf "Idle = 1\\nu1 \\tdb1:7100 \\tLEADER \\tDISABLED\\n"\n')
    admin.chmod(0o755)
    run = run_playbook(tmp_path, play("balance"), variables)
    assert run.code == 2 and "set_load_balancer_enabled 1" in run.output


def test_rules_with_an_account_of_ldap_are_written_unseen(variables, tmp_path):
    """They have its password."""
    told = {
        **variables, "yugabyte_db_tls": False, "yugabyte_db_client_networks": ["10.0.0.0/8"],
        "yugabyte_db_hba": [f'host all all 10.0.0.0/8 ldap ldapserver=ldap.example ldapbindpasswd="{MARK}"'],
    }
    # On the command line, or this machine would get the units.
    flags = "{{ lookup('ansible.builtin.template', 'flags.conf.j2', template_vars={'server': 'tserver'}) }}"
    own = {"__yugabyte_db_secured": True, "__yugabyte_db_own_files": [
        {"server": "tserver", "path": f"{tmp_path}/etc/tserver.conf", "text": flags},
    ]}

    def configure(*options, **more):
        return run_playbook(
            tmp_path, play("probe", "configure"), {**told, **more}, "-vvv", "-e", json.dumps(own), *options,
        )

    shows_nothing(configure("--diff"))
    assert MARK in (tmp_path / "etc/tserver.conf").read_text()
    # Neither shows what was there before; and from then on a change is shown to whoever wants to see it.
    shows_nothing(configure("--diff", yugabyte_db_hba=[]))
    assert MARK not in (tmp_path / "etc/tserver.conf").read_text()
    for flags, option, shown in (({"logbufsecs": 7}, ["--diff"], True), ({"logbufsecs": 8}, [], False)):
        said = configure(*option, yugabyte_db_hba=[], yugabyte_db_tserver_flags=flags).ok().output
        assert (f"+--logbufsecs={flags['logbufsecs']}" in said) is shown
