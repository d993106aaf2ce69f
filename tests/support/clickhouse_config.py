"""What the role clickhouse_db renders for ClickHouse's own packages, without a host to install it on."""

import base64
import json
import re
from pathlib import Path

import yaml

from support.playbooks import HOST, run_playbook

ROLE = Path(__file__).parents[2] / "roles/clickhouse_db"
FOUND = {
    "system": {"name": "Debian", "machine": "x86_64", "uid": 0, "systemd": True, "packages": "deb", "ipv6": True},
    "files": {}, "directories": {}, "packages": {}, "services": {}, "ports": {},
    "certificate": None, "addresses": {"resolved": ["192.0.2.1"], "foreign": [], "error": None}, "link": None,
    "macros": {}, "data": False, "empty": [], "left": {}, "account": True, "held": [],
    "keeper": {"members": {}, "joining": False, "data": False},
}
CLUSTER = {
    "clickhouse_db_install_method": "archive", "clickhouse_db_version": "25.8.3.66", "clickhouse_db_cluster": "fw",
    "clickhouse_db_archive_sha256": {"clickhouse-common-static": "a" * 64, "clickhouse-server": "b" * 64},
    "clickhouse_db_archive": "https://mirror.example/tgz", "clickhouse_db_tls": True,
    "clickhouse_db_nodes": ["a1", "a2", "b1", "b2"], "clickhouse_db_keepers": ["a1", "b1", "k"],
    "clickhouse_db_pki_dir": "/nowhere", "clickhouse_db_ca_passphrase": "passphrase of the authority",
    "clickhouse_db_password": "password of the application", "clickhouse_db_admin_password": "password of the admin",
    "clickhouse_db_cluster_secret": "secret of <the> cluster",
    "clickhouse_db_interserver_password": "password & between hosts", "clickhouse_db_listen_hosts": ["0.0.0.0"],
}
HOSTS = {
    "a1": {"clickhouse_db_shard": 1, "clickhouse_db_zone": "x", "clickhouse_db_keeper_id": 1},
    "a2": {"clickhouse_db_shard": 1, "clickhouse_db_zone": "y"},
    "b1": {"clickhouse_db_shard": 2, "clickhouse_db_zone": "y", "clickhouse_db_keeper_id": 2},
    "b2": {"clickhouse_db_shard": 2, "clickhouse_db_zone": "x"},
    "k": {"clickhouse_db_keeper_id": 3},
}


def work_out(folder, names, variables=None, hosts=None, host="a1", found=None, others=None):
    """{name: value} of the role's variables `names` on `host`.

    variables: of all hosts, over CLUSTER. hosts: {name: host variables}, in place of HOSTS. found: what the probe
    found, over FOUND; others: {name: the same} of the other hosts in the run, by default all. The name `texts` is
    {path: text} of all that is rendered.
    """
    hosts = HOSTS if hosts is None else hosts
    (folder / "templates").symlink_to(ROLE / "templates")
    play = {
        "name": "Work it out", "hosts": host, "gather_facts": False,
        "vars_files": [str(ROLE / "vars/main.yml"), str(ROLE / "vars/server.yml")],
        "vars": {
            "role_path": str(ROLE), "__clickhouse_db_server_probe": {"stdout": json.dumps({**FOUND, **(found or {})})},
            **HOST,
        },
        # An action without a module; in base64 it is one word in one line.
        "tasks": [{
            "name": "Tell it", "ansible.builtin.debug": {
                "msg": "{{ {" + ", ".join(f"'{name}': __clickhouse_db_{name}" for name in names)
                + "} | to_json | b64encode }}",
            },
        }],
    }
    probes = {
        name: {"__clickhouse_db_server_probe": {"stdout": json.dumps({**FOUND, **one})}}
        for name, one in {**(dict.fromkeys(hosts, {}) if others is None else others), host: found or {}}.items()
    }
    inventory = folder / "cluster.json"
    inventory.write_text(json.dumps({"all": {
        "hosts": {
            name: {**CLUSTER, **(variables or {}), **values, **probes.get(name, {})} for name, values in hosts.items()
        },
        "vars": yaml.safe_load((ROLE / "defaults/main.yml").read_text()),
    }}))
    run = run_playbook(folder, play, None, "-i", str(inventory)).ok()
    return json.loads(base64.b64decode(re.search(r"^ +msg: (\S+)$", run.output, re.M).group(1)))
