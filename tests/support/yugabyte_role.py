"""The role yugabyte_db without a run: what its variables, conditions and messages come to on a host that was probed."""

from pathlib import Path

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.frameworks.database.plugins.module_utils.yugabyte_flags import differing

ROLE = Path(__file__).parents[2] / "roles/yugabyte_db"
VARS = {}
for file in (ROLE / "vars/main").glob("*.yml"):
    VARS.update(yaml.safe_load(file.read_text()))
DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text())


def trusted(value):
    """As Ansible reads it from a role's files: with templates in it."""
    if isinstance(value, dict):
        return {name: trusted(one) for name, one in value.items()}
    if isinstance(value, list):
        return [trusted(one) for one in value]
    return trust_as_template(value) if isinstance(value, str) else value


def service(**more):
    return {"state": "active", "pid": 1, "configuration": None, "flags": {}, **more}


def evaluate(expression, found=None, **variables):
    """An expression as `text` sees it."""
    return text(f"{{{{ {expression} }}}}", found, **variables)


def text(template, found=None, **variables):
    """What the host db1 of a cluster of three without TLS makes of a template; `found` is more of what it probed."""
    node = {
        "services": {"master": service(), "tserver": service()}, "cluster": None, "certificate": None,
        "data": {"master": "formed", "tserver": "present"}, "ysql": {"superuser": "current", "opened": True},
        "system": {}, "addresses": {"resolved": [], "foreign": [], "error": None}, "clock": {"synchronised": True},
        "ports": {}, "releases": {"yugabyte-2025.2.8.0": True}, "flags": {"tserver": {}},
        "files": {"/etc/yugabyte/taken-out": None}, "upgrade": None, **(found or {}),
    }
    probed = {"__yugabyte_db_probe": {"node": node}}
    hosts = {"db1": {"inventory_hostname": "db1", **probed}, "db2": {}, "db3": {}, "db4": {}}
    templar = Templar(loader=DataLoader(), variables={
        **trusted(DEFAULTS), **trusted(VARS), "inventory_hostname": "db1", "hostvars": hosts,
        "ansible_play_hosts": ["db1"], "ansible_play_hosts_all": ["db1"], "yugabyte_db_nodes": ["db1", "db2", "db3"],
        "yugabyte_db_version": "2025.2.8.0", "yugabyte_db_tls": False, **probed, **variables,
    })
    # Nothing finds collections here, as a playbook does.
    templar._engine.environment.filters["frameworks.database.yugabyte_flags"] = differing
    return templar.template(trust_as_template(template))


def tasks(file):
    """The tasks of a file of the role, each before those of its block."""
    return [one for task in yaml.safe_load((ROLE / f"tasks/{file}.yml").read_text())
            for one in [task, *task.get("block", [])]]


def named(file, name):
    """One of them."""
    return next(one for one in tasks(file) if one["name"] == name)


def passes(task, found=None, **variables):
    """Whether an assertion of the role holds."""
    that = task["ansible.builtin.assert"]["that"]
    conditions = [that] if isinstance(that, str) else that
    return all(evaluate(one, found, **variables) for one in conditions)


def refused(of, found=None, **variables):
    """What the preflight has against the cluster or the node, as one text."""
    return (text((ROLE / f"templates/{of}_faults.j2").read_text(), found, **variables) or "").strip()


def configuration(**variables):
    return evaluate("dict(__yugabyte_db_configuration)", **variables)


def member(host, role):
    return {"host": host, "role": role}
