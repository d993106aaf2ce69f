#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let a ClickHouse cluster forget a replica that is gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: clickhouse_forget
short_description: Let a ClickHouse cluster forget a replica that is gone
version_added: 0.1.0
description:
  - >-
    Takes a host's replicas of tables and of C(Replicated) databases out of Keeper, by way of the hosts that stay. Until
    then they count as inactive, keep the log from being cleaned, and every statement for all hosts waits for them.
  - >-
    C(SYSTEM DROP REPLICA) acts on the tables of the server that it is sent to, so it is sent to a host which has them.
    The rows of the host itself stay on its disk.
author:
  - FrameWorks platform team (@frameworks)
extends_documentation_fragment:
  - frameworks.database.clickhouse
attributes:
  check_mode:
    description: Says what would be forgotten, and waits for nothing.
    support: full
options:
  login_host:
    description: Not used. Every host of O(nodes) is logged in to, with the other login options.
    default: localhost
  nodes:
    description: The hosts that stay.
    type: list
    elements: dict
    required: true
    suboptions:
      host:
        description: Its name or address.
        type: str
        required: true
      shard:
        description: The number of its shard.
        type: int
        required: true
      replica:
        description: What its macro C(replica) holds. Defaults to the host.
        type: str
  replica:
    description: The replica that is gone, what its macro C(replica) held.
    type: str
    required: true
  shard:
    description: The number of its shard.
    type: int
    required: true
  accept_lost_parts:
    description: >-
      Whether to go on where the replica has parts that no other has fetched yet. Their rows are lost to the cluster.
    type: bool
    default: false
  wait:
    description: For how many seconds to wait for its sessions with Keeper to end, where it was not stopped properly.
    type: int
    default: 0
notes:
  - The user needs C(SELECT) on the C(system) database and C(SYSTEM DROP REPLICA).
"""

EXAMPLES = r"""
- name: Forget a host that was stopped for good
  frameworks.database.clickhouse_forget:
    replica: analytics2
    shard: 1
    nodes:
      - {host: analytics1, shard: 1}
      - {host: analytics3, shard: 2}
      - {host: analytics4, shard: 2}
    login_user: admin
    login_password: "{{ vault_clickhouse_admin_password }}"
    tls: true
    ca_cert: /etc/clickhouse-server/certs/ca.crt
    wait: 60
"""

RETURN = r"""
forgotten:
  description: What was forgotten, as statements.
  returned: always
  type: list
  elements: str
  sample: ["SYSTEM DROP DATABASE REPLICA 'analytics2' FROM SHARD '1' FROM DATABASE `frameworks`"]
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import (
    LOGIN_SPEC,
    ClickHouseError,
    Client,
    quote_identifier,
    quote_string,
)
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_cluster import HOST_SPEC, replica_names

SPEC = {
    **LOGIN_SPEC,
    "nodes": {"type": "list", "elements": "dict", "required": True, "options": HOST_SPEC},
    "replica": {"type": "str", "required": True},
    "shard": {"type": "int", "required": True},
    "accept_lost_parts": {"type": "bool", "default": False},
    "wait": {"type": "int", "default": 0},
}


def databases(client, replica, shard):
    """Names of the Replicated databases that have the replica, of those that the client's host has."""
    return [row["cluster"] for row in client.rows(
        f"SELECT cluster FROM system.clusters WHERE database_shard_name = {quote_string(str(shard))} "
        f"AND database_replica_name = {quote_string(replica)} ORDER BY cluster"
    )]


def tables(client, names):
    """{(path in Keeper, name of the replica): (table, whether it is active)} of what the client's host has."""
    found = {}
    for row in client.rows(
        "SELECT database, table, zookeeper_path, replica_is_active FROM system.replicas ORDER BY database, table"
    ):
        for name in names:
            if name in row["replica_is_active"]:
                table = f"{quote_identifier(row['database'])}.{quote_identifier(row['table'])}"
                found[row["zookeeper_path"], name] = table, bool(row["replica_is_active"][name])
    return found


def unfetched(client, names):
    """Sentences about parts that the client's host has yet to fetch from the replica."""
    rows = client.rows(
        "SELECT database, table, toUInt32(count()) AS parts FROM system.replication_queue WHERE type = 'GET_PART' AND "
        f"source_replica IN ({', '.join(map(quote_string, names))}) GROUP BY database, table ORDER BY database, table"
    )
    return [f"{row['parts']} parts of {row['database']}.{row['table']}" for row in rows]


def forget(params, clients, check=False):
    """Statements that were run; with `check`, that would be once it is stopped. Raises ClickHouseError, ValueError."""
    replica, shard = params["replica"], params["shard"]
    done = []

    def run(client, statement):
        done.append(statement)
        if not check:
            client.execute(statement)

    # A name means a replica of its shard's tables; that of the tables which all shards share has the shard in it.
    names = {
        host: replica_names(replica, shard)[0 if node["shard"] == shard else 1:]
        for host, (node, _client) in clients.items()
    }
    active = [
        f"{table} on {host}" for host, (_node, client) in clients.items()
        for table, alive in tables(client, names[host]).values() if alive
    ]
    if active and not check:
        raise ValueError(f"{replica} of shard {shard} is still active ({', '.join(sorted(active))}): stop it first")
    missing = [
        f"{text}, by {host}" for host, (_node, client) in clients.items() for text in unfetched(client, names[host])
    ]
    if missing and not params["accept_lost_parts"] and not check:
        raise ValueError(
            f"{replica} of shard {shard} has what no other has fetched: {'; '.join(missing)}. Start it again, wait "
            "until they have, and repeat; where it is lost for good, accept_lost_parts gives up these rows"
        )
    for host, (_node, client) in clients.items():
        for database in databases(client, replica, shard):
            run(client, f"SYSTEM DROP DATABASE REPLICA {quote_string(replica)} FROM SHARD {quote_string(str(shard))} "
                        f"FROM DATABASE {quote_identifier(database)}")
        # Read now: the statement above takes the database's tables along where the release does that.
        for (_path, name), (table, _alive) in tables(client, names[host]).items():
            run(client, f"SYSTEM DROP REPLICA {quote_string(name)} FROM TABLE {table}")
        if check and done:
            break  # the others would have less, or nothing
    return done


def main():
    """Entry point."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    params = module.params
    clients = {node["host"]: (node, Client({**params, "login_host": node["host"]})) for node in params["nodes"]}
    deadline = time.monotonic() + params["wait"]
    done = []
    while True:
        try:
            done += forget(params, clients, module.check_mode)
            module.exit_json(changed=bool(done), forgotten=done)
        except (ClickHouseError, ValueError) as error:
            if module.check_mode or time.monotonic() >= deadline:
                module.fail_json(msg=f"{error}.", changed=bool(done), forgotten=done)
        time.sleep(1)


if __name__ == "__main__":
    main()
