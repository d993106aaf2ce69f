#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take one server of a YugabyteDB cluster out of service, and back in."""

from __future__ import annotations

DOCUMENTATION = r"""
module: yugabyte_node
short_description: Take one server of a YugabyteDB cluster out of service, and back in
version_added: 0.1.0
description:
  - Brings C(yb-master) or C(yb-tserver) of one node into a state, and waits on the cluster's health, not on time.
  - It stops and starts nothing itself.
author:
  - FrameWorks platform team (@frameworks)
extends_documentation_fragment:
  - frameworks.database.yugabyte
attributes:
  check_mode:
    description: Says whether it would change something, and waits for nothing.
    support: full
options:
  service:
    description: Which of the node's two servers.
    type: str
    choices: [master, tserver]
    required: true
  address:
    description: The node's address, as the other nodes know it.
    type: str
    required: true
  state:
    description:
      - V(drained) makes sure that the cluster can do without the server, then moves leaders off it, so that stopping
        it costs no client more than a retry. A master that leads steps down. A server that is down already may be
        started again at once, whatever ails the cluster without it; the task has to run on the node to know that.
      - V(serving) waits until the server takes part again and the whole cluster is healthy, then lets it have leaders.
      - V(present) makes a master that runs without C(--master_addresses) part of the quorum.
      - V(absent) takes it out for good. All data is moved off a tablet server first, which may take hours and needs
        room elsewhere; a master leaves the quorum.
      - V(forgotten) waits until a tablet server that was V(absent) and then stopped counts as dead, and takes it off
        the list of servers that get no data, so that its address can be used again.
    type: str
    choices: [drained, serving, present, absent, forgotten]
    required: true
  tservers:
    description: Addresses of all tablet servers of the cluster, which have to be alive.
    type: list
    elements: str
    default: []
  steady:
    description: For how many seconds without a break the cluster has to be healthy before a server is V(serving).
    type: int
    default: 0
  ysql_port:
    description: Where YSQL has to answer before a tablet server counts as V(serving).
    type: int
    default: 5433
"""

EXAMPLES = r"""
- name: Move the leaders off this node's tablet server
  frameworks.database.yugabyte_node:
    service: tserver
    state: drained
    address: 10.0.0.2
    masters: [10.0.0.1, 10.0.0.2, 10.0.0.3]
    tservers: [10.0.0.1, 10.0.0.2, 10.0.0.3]
    bin_dir: /opt/yugabyte/yugabyte-2025.2.8.0/bin
    certs_dir: /etc/yugabyte/certs
"""

RETURN = r"""
server:
  description: The server as the masters see it in the end; empty where they do not know it.
  returned: success
  type: dict
  sample: {host: 10.0.0.2, uuid: 8c02df09505c4ea1af6f22921c07ad5c, role: FOLLOWER, zone: onprem.west.b}
"""

import socket
import struct

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.frameworks.database.plugins.module_utils.yugabyte import (
    CLUSTER_SPEC,
    MASTER_HTTP,
    MASTER_RPC,
    TSERVER_HTTP,
    TSERVER_RPC,
    Admin,
    AdminFailed,
    TimedOut,
    YugabyteError,
    get,
    read,
    wait,
)


def ysql_answers(host, port, timeout=5):
    """Whether a PostgreSQL server answers there: every one does to the request for TLS, before any login."""
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(struct.pack("!II", 8, 80877103))
            return connection.recv(1) in (b"S", b"N")
    except OSError:
        return False


class Node:
    """One server; each method brings it into a state and returns whether it changed something."""

    def __init__(self, module):
        self.params = module.params
        self.kind, self.host = self.params["service"], self.params["address"]
        self.admin = Admin(module.run_command, self.params)
        self.others = [host for host in self.params["masters"] if host != self.host]

    def cluster(self):
        """Asked of the other masters first: this node's may be the one that is in trouble."""
        return read([*self.others, self.host])

    def entry(self, cluster):
        """The server as the masters see it, or None."""
        return cluster.master(self.host) if self.kind == "master" else cluster.tserver(self.host)

    @property
    def rpc(self):
        return f"{self.host}:{TSERVER_RPC}"

    def problems(self, cluster, spared=True):
        """The cluster's, but for this server's own if it is `spared`.

        The node's other server may always be down: what ails one, as a wrong certificate, may ail both.
        """
        without = {("master", self.host), ("tserver", self.host)}
        return cluster.problems(
            self.params["masters"], self.params["tservers"], without if spared else without - {(self.kind, self.host)}
        )

    # -- drained ----------------------------------------------------------------------------------------------------

    def drained(self, check):
        if self.down():
            return False
        if check:
            return self.has_leaders(self.cluster())
        wait(self.not_expendable, self.params["timeout"])
        cluster = self.cluster()
        changed = self.has_leaders(cluster)
        if self.kind == "master":
            if changed:
                self.admin("master_leader_stepdown")
            wait(lambda: self.still_leading(self.cluster()), self.params["timeout"])
            return changed
        if not self.alive(cluster):
            return False
        if changed:
            self.admin.require_balancer(self.host)
        if self.rpc not in cluster.leader_blacklist:
            self.admin("change_leader_blacklist", "ADD", self.rpc)
            changed = True
        try:
            wait(lambda: self.still_leading(self.cluster()), self.params["timeout"])
        except TimedOut:
            self.admin("change_leader_blacklist", "REMOVE", self.rpc)
            raise
        return changed

    def down(self):
        """Whether nothing listens where the server would. What the masters say of it is up to a minute late."""
        try:
            socket.create_connection((self.host, MASTER_RPC if self.kind == "master" else TSERVER_RPC), 5).close()
        except ConnectionRefusedError:
            return True
        except OSError:  # which tells nothing
            pass
        return False

    def not_expendable(self):
        """Why the cluster cannot do without the server now, as sentences."""
        cluster = self.cluster()
        found = self.problems(cluster)
        # The masters' pages show a server as alive for a minute after its end, so those of the other nodes are asked.
        for kind, port, hosts in (
            ("master", MASTER_HTTP, self.params["masters"]), ("tserver", TSERVER_HTTP, self.params["tservers"]),
        ):
            for host in hosts:
                if host != self.host and not found:
                    try:
                        get(host, port, "/api/v1/version")
                    except YugabyteError as error:
                        found.append(f"the yb-{kind} on {host} does not answer ({error})")
        entry = self.entry(cluster)
        if not found and entry and entry["uuid"]:
            unsafe = self.admin.unsafe_to_stop(self.kind, entry["uuid"])
            if unsafe:
                found.append(unsafe)
        return found

    def alive(self, cluster):
        entry = self.entry(cluster)
        return bool(entry) and (entry["role"] in ("LEADER", "FOLLOWER") if self.kind == "master" else entry["alive"])

    def has_leaders(self, cluster):
        entry = self.entry(cluster)
        if not entry or not self.alive(cluster):
            return False
        return entry["role"] == "LEADER" if self.kind == "master" else entry["leaders"] > 0

    def still_leading(self, cluster):
        if not self.has_leaders(cluster):
            return []
        if self.kind == "master":
            return [f"the yb-master on {self.host} still leads"]
        return [f"the yb-tserver on {self.host} still has {self.entry(cluster)['leaders']} leaders"]

    # -- serving ----------------------------------------------------------------------------------------------------

    def serving(self, check):
        if check:
            cluster = self.cluster()
            return self.kind == "tserver" and self.rpc in cluster.leader_blacklist
        wait(self.not_serving, self.params["timeout"], self.params["steady"])
        if self.kind == "tserver" and self.rpc in self.cluster().leader_blacklist:
            self.admin("change_leader_blacklist", "REMOVE", self.rpc)
            return True
        return False

    def not_serving(self):
        """What keeps the server from being in service, as sentences."""
        port = MASTER_HTTP if self.kind == "master" else TSERVER_HTTP
        get(self.host, port, "/api/v1/version")  # the process itself, before what the others remember of it
        cluster = self.cluster()
        found = self.problems(cluster, spared=False)
        if self.kind == "tserver":
            entry = self.entry(cluster)
            if entry and entry["silent"] > 10:
                found.append(f"the yb-tserver on {self.host} has not called the masters for {entry['silent']:.0f} s")
            if not found and not ysql_answers(self.host, self.params["ysql_port"]):
                found.append(f"YSQL on {self.host}:{self.params['ysql_port']} does not answer")
        return found

    # -- present and absent -----------------------------------------------------------------------------------------

    def present(self, check):
        if self.kind != "master":
            raise YugabyteError("A yb-tserver registers itself: state present is for masters.")
        cluster = read(self.others)
        if cluster.master(self.host):
            return False
        if not check:
            self.admin("change_master_config", "ADD_SERVER", self.host, str(MASTER_RPC), masters=self.others)
            wait(lambda: self.not_member(read(self.others)), self.params["timeout"])
        return True

    def not_member(self, cluster):
        if self.alive(cluster):
            return []
        return [f"the yb-master on {self.host} is not yet part of the quorum"]

    def absent(self, check):
        cluster = read(self.others)
        return self.master_absent(cluster, check) if self.kind == "master" else self.tserver_absent(cluster, check)

    def master_absent(self, cluster, check):
        entry = cluster.master(self.host)
        if not entry:
            return False
        rest = [one for one in cluster.masters if one["host"] != self.host]
        living = [one for one in rest if one["role"] in ("LEADER", "FOLLOWER")]
        if len(living) * 2 <= len(rest):
            raise YugabyteError(f"Without the yb-master on {self.host} the other masters would have no majority.")
        if not check:
            self.admin("change_master_config", "REMOVE_SERVER", self.host, str(MASTER_RPC), masters=self.others)
            wait(
                lambda: [f"the yb-master on {self.host} is still in the quorum"]
                if read(self.others).master(self.host) else [], self.params["timeout"],
            )
        return True

    def tserver_absent(self, cluster, check):
        entry = cluster.tserver(self.host)
        if not entry:
            return False
        changed = False
        if entry["tablets"]:
            self.admin.require_balancer(self.host)
        if self.rpc not in cluster.blacklist:
            changed = True
            if not check:
                self.admin("change_blacklist", "ADD", self.rpc, masters=self.others)
        if check:
            return True
        wait(self.not_empty, self.params["timeout"])
        return changed

    def not_empty(self):
        """What is still on the tablet server, as sentences."""
        cluster = read(self.others)
        entry = cluster.tserver(self.host)
        found = []
        if entry and entry["alive"] and entry["tablets"]:
            found.append(f"{entry['tablets']} tablets are still on {self.host}")
        percent = self.admin.percent("get_load_move_completion")
        if percent < 100:
            found.append(f"{percent:.0f} % of the data have been moved off {self.host}")
        if not found and cluster.under_replicated:
            found.append(f"{cluster.under_replicated} tablets are under-replicated")
        return found

    # -- forgotten --------------------------------------------------------------------------------------------------

    def forgotten(self, check):
        if self.kind != "tserver":
            raise YugabyteError("An absent yb-master needs no forgetting: state forgotten is for tablet servers.")
        cluster = read(self.others)
        if not cluster.tserver(self.host) and self.rpc not in cluster.blacklist:
            return False
        if check:
            return True
        wait(self.remembered, self.params["timeout"])
        entry = cluster.tserver(self.host)
        if entry:
            # Only one in the blacklist can be taken off the masters' lists.
            if self.rpc not in cluster.blacklist:
                self.admin("change_blacklist", "ADD", self.rpc, masters=self.others)
            try:
                self.admin("remove_tablet_server", entry["uuid"], masters=self.others)
            except AdminFailed as error:
                # Older releases do not know the command and forget a dead server after a day. Or it has gone since.
                if "nvalid operation" not in error.said and "ot found" not in error.said:
                    raise
        self.admin("change_blacklist", "REMOVE", self.rpc, masters=self.others)
        return True

    def remembered(self):
        """Why the server cannot be forgotten yet, as sentences."""
        entry = read(self.others).tserver(self.host)
        if not entry:
            return []
        found = [f"the yb-tserver on {self.host} is alive: stop it"] if entry["alive"] else []
        if entry["tablets"]:
            found.append(f"{entry['tablets']} tablets are still on {self.host}")
        return found


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **CLUSTER_SPEC,
            "service": {"type": "str", "choices": ["master", "tserver"], "required": True},
            "address": {"type": "str", "required": True},
            "state": {
                "type": "str", "choices": ["drained", "serving", "present", "absent", "forgotten"], "required": True,
            },
            "tservers": {"type": "list", "elements": "str", "default": []},
            "steady": {"type": "int", "default": 0},
            "ysql_port": {"type": "int", "default": 5433},
        },
        supports_check_mode=True,
    )
    node = Node(module)
    state = module.params["state"]
    try:
        changed = getattr(node, state)(module.check_mode)
        entry = node.entry(node.cluster())
    except TimedOut as error:
        what = {
            "drained": "The cluster cannot do without it",
            "serving": "It is not back in service",
            "present": "It did not become part of the quorum",
            "absent": "It could not be emptied",
            "forgotten": "It is still there",
        }[state]
        module.fail_json(
            msg=f"yb-{node.kind} on {node.host}: {what} after {module.params['timeout']} s: {error}."
        )
    except AdminFailed as error:
        module.fail_json(msg=f"yb-{node.kind} on {node.host}: {error}")
    except YugabyteError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, server=entry or {})


if __name__ == "__main__":
    main()
