"""What backup and diagnosis work out for a ClickHouse host of an inventory is what clickhouse_db has set up there."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# What clickhouse_db works with; a play has only the defaults of the roles that are in it.
HAS = {
    "login": "{{ __clickhouse_db_login }}", "backups": "{{ clickhouse_db_backup_dir }}",
    "keeper": "{{ __clickhouse_db_own_address }}:{{ clickhouse_db_keeper_port }}",
    "certs": "{{ __clickhouse_db_certs_dir }}", "ca_cert": "{{ __clickhouse_db_ca }}",
    "client_cert": "{{ __clickhouse_db_certificate }}", "client_key": "{{ __clickhouse_db_key }}",
}
OF_A_SERVER = (
    "backup_clickhouse_login_host == has.login.host", "backup_clickhouse_login_port | int == has.login.port | int",
    "backup_clickhouse_tls == has.login.tls", "backup_clickhouse_ca_cert == has.login.ca_cert",
    "backup_clickhouse_dir == has.backups",
    "__diagnose_clickhouse_login.login_host == has.login.host",
    "__diagnose_clickhouse_login.login_port | int == has.login.port | int",
    "__diagnose_clickhouse_login.tls == has.login.tls", "__diagnose_clickhouse_login.ca_cert == has.login.ca_cert",
    "__diagnose_backups == [has.backups]", "has.certs ~ '/*.crt' in __diagnose_of.clickhouse.certificates",
)
OF_A_KEEPER = (
    "__diagnose_of.keeper.here", "has.keeper in __diagnose_keeper_addresses",
    "__diagnose_keeper_addresses | length == clickhouse_db_keepers | length",
    "__diagnose_keeper_tls == {'ca_cert': has.ca_cert, 'client_cert': has.client_cert, 'client_key': has.client_key}",
    "has.certs ~ '/*.crt' in __diagnose_of.values() | selectattr('here') | map(attribute='certificates') | flatten",
)


def roles(*names):
    """Tasks that bring the roles' variables and do nothing."""
    return [{"ansible.builtin.import_role": {"name": f"frameworks.database.{name}"}, "when": False} for name in names]


def evaluate(folder, inventory, host, claims, **variables):
    """Assert `claims` about a host of an inventory."""
    plays = [
        [*roles("clickhouse_db"), {"ansible.builtin.include_vars": str(ROOT / "roles/clickhouse_db/vars/server.yml")},
         {"ansible.builtin.set_fact": {"has": HAS}}],
        [*roles("backup", "diagnose"), {"ansible.builtin.assert": {"that": list(claims)}}],
    ]
    play = folder / "play.yml"
    play.write_text(yaml.safe_dump([{"hosts": host, "gather_facts": False, "tasks": tasks} for tasks in plays]))
    secrets = {"clickhouse_db_password": "application", "clickhouse_db_admin_password": "administrator"}
    words = [f"{name}={value}" for name, value in {**secrets, "ansible_connection": "local", **variables}.items()]
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", inventory, play,
         *[word for one in words for word in ("-e", one)]],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0 and "failed=0" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_the_examples(tmp_path, environment):
    inventory = ROOT / "inventories" / environment
    evaluate(tmp_path, inventory, f"{environment}_clickhouse[0]", OF_A_SERVER)
    evaluate(tmp_path, inventory, f"{environment}_clickhouse_keeper[0]", OF_A_KEEPER)


def test_another_address_and_other_ports_and_folders(tmp_path):
    evaluate(
        tmp_path, ROOT / "inventories/prod", "prod_clickhouse[0]", OF_A_SERVER, clickhouse_db_address="10.0.0.7",
        clickhouse_db_https_port=8444, clickhouse_db_config_dir="/etc/ch", clickhouse_db_backup_dir="/mnt/b",
    )


def test_a_host_that_is_both(tmp_path):
    inventory = ROOT / "molecule/clickhouse_cluster/inventory"
    evaluate(tmp_path, inventory, "analytics1", (*OF_A_SERVER, *OF_A_KEEPER), ansible_host="10.0.0.7")
