#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until a ClickHouse cluster is healthy, or can do without one of its hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: clickhouse_cluster
short_description: Wait until a ClickHouse cluster is healthy, or can do without one of its hosts
version_added: 0.1.0
description:
  - >-
    Logs in to every host of the cluster over its HTTP interface, asks every Keeper, and says what is wrong: hosts and
    Keepers that do not answer, replicas that are read-only, inactive, behind or have lost parts, tables that a replica
    does not have, a Keeper ensemble without quorum or leader, hosts that know another cluster than declared.
  - It changes nothing. Use it as the gate of a rolling restart, before a host is taken down and after it is back.
author:
  - FrameWorks platform team (@frameworks)
extends_documentation_fragment:
  - frameworks.database.clickhouse
attributes:
  check_mode:
    description: Looks once, waits for nothing, and reports what it finds without failing.
    support: full
options:
  login_host:
    description:
      - >-
        The host that is asked for the cluster's members where O(nodes) does not name them. The user, the port and the
        other login options hold for all hosts.
    default: localhost
  cluster:
    description: The cluster's name, as in C(system.clusters).
    type: str
    required: true
  nodes:
    description:
      - The hosts that the cluster should have. With them, a host that does not answer has no say in who is a member.
      - Left out, they are what the configuration of O(login_host) says. With an empty list only Keepers are looked at.
    type: list
    elements: dict
    suboptions:
      host:
        description: Its name or address, as in the servers' configuration.
        type: str
        required: true
      shard:
        description: The number of its shard, from 1.
        type: int
        required: true
      replica:
        description: What its macro C(replica) holds. Defaults to the host.
        type: str
  keepers:
    description:
      - The Keepers, as C(host:port). All of them have to serve.
      - Left out, only the servers' own sessions with Keeper are looked at.
    type: list
    elements: str
    default: []
  keeper_members:
    description:
      - >-
        How many Keepers the ensemble should have by what its leader knows, whether or not they are up. For the time in
        which one comes or leaves. Defaults to the number of O(keepers).
    type: int
  leaving:
    description: Hosts that are about to leave the cluster. They may be in its configuration and up, or not.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Its name or address, as in the servers' configuration.
        type: str
        required: true
      shard:
        description: The number of its shard.
        type: int
        required: true
      replica:
        description: What its macro C(replica) holds. Defaults to the host.
        type: str
  keeper_tls:
    description: Whether the Keepers' ports speak TLS. Defaults to O(tls).
    type: bool
  take_down:
    description:
      - >-
        A host that is about to be stopped: the rest of the cluster has to be healthy and able to do without it. Its own
        troubles do not count.
      - It may be a host of O(nodes), of O(keepers), or both.
    type: str
  part:
    description: What of O(take_down) is about to be stopped, where a host is both.
    type: str
    choices: [all, server, keeper]
    default: all
  accept_unavailable:
    description: >-
      Whether O(take_down) may take the last replica of a shard, or the majority of the Keepers, out of service. For
      clusters that were built without a second one.
    type: bool
    default: false
  max_delay:
    description: By how many seconds a replica may be behind.
    type: int
    default: 30
  lost_parts:
    description: >-
      How many lost parts of a table are known and accepted. The servers count them since the table was created, and
      never back.
    type: int
    default: 0
  wait:
    description: For how many seconds to wait.
    type: int
    default: 0
  interval:
    description: Seconds between two looks.
    type: float
    default: 2
  state:
    description:
      - V(healthy) fails where the cluster does not get healthy in time, or cannot do without O(take_down).
      - V(gathered) looks once and reports.
    type: str
    choices: [healthy, gathered]
    default: healthy
notes:
  - The user needs C(SELECT) on the C(system) database.
"""

EXAMPLES = r"""
- name: What is wrong with the cluster?
  frameworks.database.clickhouse_cluster:
    cluster: frameworks
    login_user: admin
    login_password: "{{ vault_clickhouse_admin_password }}"
    state: gathered
  register: cluster

- name: Wait until this host may be stopped
  frameworks.database.clickhouse_cluster:
    cluster: frameworks
    nodes:
      - {host: analytics1.prod.example, shard: 1}
      - {host: analytics2.prod.example, shard: 1}
      - {host: analytics3.prod.example, shard: 2}
      - {host: analytics4.prod.example, shard: 2}
    keepers:
      - keeper1.prod.example:9281
      - keeper2.prod.example:9281
      - keeper3.prod.example:9281
    take_down: analytics3.prod.example
    login_user: admin
    login_password: "{{ vault_clickhouse_admin_password }}"
    tls: true
    ca_cert: /etc/clickhouse-server/certs/ca.crt
    timeout: 10
    wait: 600
"""

RETURN = r"""
healthy:
  description: Whether nothing is wrong, but for the host that is to be taken down.
  returned: always
  type: bool
safe:
  description: Whether the cluster can do without O(take_down).
  returned: with O(take_down)
  type: bool
problems:
  description: What is wrong, as sentences.
  returned: always
  type: list
  elements: str
  sample: ["analytics2 (shard 1): frameworks.viewer_metrics_local is 412 s behind, with 87 entries in its queue"]
risks:
  description: Why the cluster cannot do without the host, as sentences.
  returned: with O(take_down)
  type: list
  elements: str
  sample: ["analytics1 (shard 1) is the only replica of its shard: while it is down, nobody can read or write its rows"]
versions:
  description: Every version of ClickHouse that runs.
  returned: always
  type: list
  elements: str
  sample: [25.8.3.66]
nodes:
  description: The hosts.
  returned: always
  type: list
  elements: dict
  sample:
    - {host: analytics1, shard: 1, error: "", version: 25.8.3.66, uptime: 86400, tables: 9, delay: 0, queue: 2}
keepers:
  description: The Keepers.
  returned: always
  type: list
  elements: dict
  sample:
    - {host: keeper1, port: 9281, problem: "", state: leader, version: 25.8.3.66}
"""

import time
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import (
    LOGIN_SPEC,
    ClickHouseError,
    Client,
)
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_cluster import (
    HOST_SPEC,
    Cluster,
    Node,
    read_members,
    read_node,
)
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_keeper import read_keeper, tls_context

SPEC = {
    **LOGIN_SPEC,
    "cluster": {"type": "str", "required": True},
    "nodes": {"type": "list", "elements": "dict", "options": HOST_SPEC},
    "leaving": {"type": "list", "elements": "dict", "options": HOST_SPEC, "default": []},
    "keepers": {"type": "list", "elements": "str", "default": []},
    "keeper_members": {"type": "int"},
    "keeper_tls": {"type": "bool"},
    "take_down": {"type": "str"},
    "part": {"type": "str", "choices": ["all", "server", "keeper"], "default": "all"},
    "accept_unavailable": {"type": "bool", "default": False},
    "max_delay": {"type": "int", "default": 30},
    "lost_parts": {"type": "int", "default": 0},
    "wait": {"type": "int", "default": 0},
    "interval": {"type": "float", "default": 2},
    "state": {"type": "str", "choices": ["healthy", "gathered"], "default": "healthy"},
}


def keeper_addresses(texts):
    """[(host, port)] of `host:port` texts; ValueError naming the one that is not."""
    found = []
    for text in texts:
        host, _colon, port = text.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"keepers: {text!r} is not host:port")
        found.append((host.strip("[]"), int(port)))
    return found


def look(params, addresses):
    """The Cluster as it is now, all hosts and Keepers asked at once. Raises ClickHouseError, OSError, ValueError."""
    secure = params["tls"] if params["keeper_tls"] is None else params["keeper_tls"]
    context = tls_context(params) if secure and addresses else None
    members = params["nodes"]
    if members is None:
        members = read_members(Client(params), params["cluster"])
        if not members:
            raise ValueError(f"{params['login_host']} knows no cluster {params['cluster']!r} (remote_servers)")
    with ThreadPoolExecutor(max_workers=16) as pool:
        nodes = [
            pool.submit(read_node, params, params["cluster"], one["host"], one["shard"], one.get("replica"))
            for one in members
        ]
        keepers = [pool.submit(read_keeper, *address, params["timeout"], context) for address in addresses]
        return Cluster(
            params["cluster"], [node.result() for node in nodes], [keeper.result() for keeper in keepers],
            declared=params["nodes"] is not None, keeper_members=params["keeper_members"],
            leaving=[Node(one["host"], one["shard"], one.get("replica")) for one in params["leaving"]],
        )


def judge(cluster, params):
    """The task's result for what was seen."""
    without = params["take_down"]
    problems = cluster.problems(params["max_delay"], params["lost_parts"], without, params["part"])
    result = {
        "healthy": not problems, "problems": problems, "versions": cluster.versions(),
        "nodes": [node.summary() for node in cluster.nodes], "keepers": [one.summary() for one in cluster.keepers],
    }
    if without:
        risks = cluster.risks(without, params["part"])
        result.update(risks=risks, safe=not problems and (not risks or params["accept_unavailable"]))
    return result


def good(result):
    """Whether there is nothing more to wait for."""
    return result.get("safe", result["healthy"])


def main():
    """Entry point."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    params = module.params
    try:
        addresses = keeper_addresses(params["keepers"])
    except ValueError as error:
        module.fail_json(msg=str(error))
    once = module.check_mode or params["state"] == "gathered"
    deadline = time.monotonic() + params["wait"]
    while True:
        try:
            result = judge(look(params, addresses), params)
        except (ClickHouseError, OSError, ValueError) as error:
            result = {"healthy": False, "problems": [str(error)], "versions": [], "nodes": [], "keepers": []}
            if params["take_down"]:
                result.update(safe=False, risks=[])
        if once or good(result) or time.monotonic() >= deadline:
            break
        time.sleep(min(params["interval"], max(0.0, deadline - time.monotonic())))
    if once or good(result):
        module.exit_json(changed=False, **result)
    reasons = result["problems"] + ([] if params["accept_unavailable"] else result.get("risks", []))
    subject = (
        f"The cluster {params['cluster']} cannot do without {params['take_down']}" if params["take_down"]
        else f"The cluster {params['cluster']} is not healthy"
    )
    waited = f", after waiting for {params['wait']} s" if params["wait"] else ""
    module.fail_json(msg=f"{subject}{waited}: {'; '.join(reasons)}.", **result)


if __name__ == "__main__":
    main()
