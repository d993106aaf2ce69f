"""All inventories are read together: nothing in one may reach the hosts of another."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ("dev", "staging", "prod")
# They build an environment, take dev away, or look at everything there is.
NO_OPERATIONS = {"dev", "dev_destroy", "environment", "staging", "prod", "secrets", "plan", "diagnose"}
FUNCTIONS = {"postgres", "yugabyte", "clickhouse", "clickhouse_keeper", "application"}


@pytest.fixture(scope="module")
def inventory():
    """What ansible-inventory makes of all of them, with ansible.cfg's own choice of inventories."""
    program = Path(sys.executable).parent / "ansible-inventory"
    done = subprocess.run([program, "--list"], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def hosts(inventory, group):
    found = set(inventory.get(group, {}).get("hosts", []))
    return found.union(*(hosts(inventory, child) for child in inventory.get(group, {}).get("children", [])))


def test_every_host_is_in_one_environment_and_one_function_of_it(inventory):
    for environment in ("staging", "prod"):
        assert hosts(inventory, environment)
        for host in hosts(inventory, environment):
            assert [one for one in ENVIRONMENTS if host in hosts(inventory, one)] == [environment]
            assert len([one for one in FUNCTIONS if host in hosts(inventory, f"{environment}_{one}")]) == 1


def test_a_function_is_that_of_all_environments(inventory):
    for function in FUNCTIONS:
        parts = [hosts(inventory, f"{environment}_{function}") for environment in ENVIRONMENTS]
        assert set().union(*parts) <= hosts(inventory, function)


def test_variables_belong_to_an_environment():
    for environment in ENVIRONMENTS:
        folder = ROOT / "inventories" / environment / "group_vars"
        assert {path.name for path in folder.iterdir()} <= {environment} | {f"{environment}_{one}" for one in FUNCTIONS}


def test_names_of_the_examples_cannot_resolve(inventory):
    names = hosts(inventory, "staging") | hosts(inventory, "prod")
    assert {name for name in names if not name.endswith((".example", ".invalid"))} == set()


def test_the_cluster_is_spread_over_three_zones(inventory):
    for environment in ("staging", "prod"):
        nodes = hosts(inventory, f"{environment}_yugabyte")
        assert len({inventory["_meta"]["hostvars"][node]["yugabyte_db_zone"] for node in nodes}) == 3


def test_nothing_of_one_environment_is_in_the_variables_of_another(inventory):
    for environment in ("staging", "prod"):
        other = {"staging": "prod", "prod": "staging"}[environment]
        for host in hosts(inventory, environment):
            assert inventory["_meta"]["hostvars"][host]["database_environment"] == environment
            assert f"{other}_" not in json.dumps(inventory["_meta"]["hostvars"][host])


def test_every_operation_begins_with_the_question_whom_it_is_about():
    """There it is also found out whether all is set that roles need."""
    for path in (ROOT / "playbooks").glob("*.yml"):
        if path.stem not in NO_OPERATIONS:
            first = yaml.safe_load(path.read_text())[0]
            imported = [task.get("ansible.builtin.import_tasks") for task in first.get("pre_tasks", first.get("tasks"))]
            assert {"tasks/one_cluster.yml", "tasks/one_environment.yml"} & set(imported), path


def test_what_the_playbooks_ask_of_an_inventory_is_written_down():
    used = {
        name for path in (ROOT / "playbooks").rglob("*.yml")
        for name in re.findall(r"\bdatabase_[a-z_]+\b", path.read_text())
    } - {"database_clickhouse_in_clear"}  # the containers' own
    assert used == set(re.findall(r"^\| `(database_\w+)`", (ROOT / "inventories/README.md").read_text(), re.M))


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_how_each_secret_is_changed_is_written_down(inventory, environment):
    text = (ROOT / "docs/yugabytedb.md").read_text().split("## Secrets\n")[1].split("\n## ")[0]
    [secrets] = {
        tuple(inventory["_meta"]["hostvars"][host]["database_secrets"]) for host in hosts(inventory, environment)
    }
    assert set(secrets) == set(re.findall(r"^\| `(\w+)`", text, re.M))
