#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until a YugabyteDB cluster is healthy, and place its replicas."""

from __future__ import annotations

DOCUMENTATION = r"""
module: yugabyte_cluster
short_description: Wait until a YugabyteDB cluster is healthy, and place its replicas
version_added: 0.1.0
description:
  - Reads the masters' pages until the cluster is healthy, all named servers taking part.
  - Then it compares the placement policy, the blacklist of leaders and that of data with what is declared and
    changes only what differs.
  - It runs on a node of the cluster.
author:
  - FrameWorks platform team (@frameworks)
extends_documentation_fragment:
  - frameworks.database.yugabyte
attributes:
  check_mode:
    description: Says what it would change. It does not wait for a cluster that is not there yet.
    support: full
  diff_mode:
    description: The placement policy and the blacklists before and after.
    support: full
options:
  tservers:
    description:
      - Addresses of the tablet servers that have to be alive.
      - Empty waits for the masters only, and changes nothing.
    type: list
    elements: str
    default: []
  placement:
    description: >-
      The zones among which the replicas are spread, each as C(cloud.region.zone). Empty leaves the policy as it is.
    type: list
    elements: str
    default: []
  replication_factor:
    description: Copies of every tablet; goes with O(placement).
    type: int
  steady:
    description: For how many seconds without a break the cluster has to be healthy.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Wait for the masters
  frameworks.database.yugabyte_cluster:
    masters: [10.0.0.1, 10.0.0.2, 10.0.0.3]
    bin_dir: /opt/yugabyte/yugabyte-2025.2.8.0/bin
    certs_dir: /etc/yugabyte/certs

- name: Wait for all servers and spread the replicas over three zones
  frameworks.database.yugabyte_cluster:
    masters: [10.0.0.1, 10.0.0.2, 10.0.0.3]
    tservers: [10.0.0.1, 10.0.0.2, 10.0.0.3]
    placement: [onprem.west.a, onprem.west.b, onprem.west.c]
    replication_factor: 3
    bin_dir: /opt/yugabyte/yugabyte-2025.2.8.0/bin
    certs_dir: /etc/yugabyte/certs
"""

RETURN = r"""
cluster:
  description: What the masters' pages say in the end; empty in check mode where no cluster answers.
  returned: success
  type: dict
  sample:
    masters: [{host: 10.0.0.1, uuid: 8c02df09505c4ea1af6f22921c07ad5c, role: LEADER, zone: onprem.west.a}]
    tservers: [{host: 10.0.0.1, uuid: 6e52fbff43834130b344c83b97c8394b, alive: true, silent: 0.2, uptime: 9, leaders: 4,
               tablets: 12, zone: onprem.west.a}]
    under_replicated: 0
    leaderless: 0
    placement: [onprem.west.a, onprem.west.b, onprem.west.c]
    replicas: 3
    blacklist: []
    leader_blacklist: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.frameworks.database.plugins.module_utils.yugabyte import (
    CLUSTER_SPEC,
    TSERVER_RPC,
    Admin,
    TimedOut,
    YugabyteError,
    read,
    wait,
)


def changes(cluster, params):
    """[(what it is about, before, after, yb-admin's words)] of everything that differs from what is declared."""
    found = []
    wanted = sorted(params["placement"])
    if wanted and (cluster.placement, cluster.replicas) != (wanted, params["replication_factor"]):
        found.append((
            "placement", {"zones": cluster.placement, "replicas": cluster.replicas},
            {"zones": wanted, "replicas": params["replication_factor"]},
            ("modify_placement_info", ",".join(wanted), str(params["replication_factor"])),
        ))
    # A run that was interrupted may have left a node without leaders.
    own = {f"{host}:{TSERVER_RPC}" for host in params["tservers"]}
    idle = sorted(own & set(cluster.leader_blacklist))
    if idle:
        found.append((
            "leader_blacklist", cluster.leader_blacklist, sorted(set(cluster.leader_blacklist) - own),
            ("change_leader_blacklist", "REMOVE", *idle),
        ))
    return found


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **CLUSTER_SPEC,
            "tservers": {"type": "list", "elements": "str", "default": []},
            "placement": {"type": "list", "elements": "str", "default": []},
            "replication_factor": {"type": "int"},
            "steady": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["placement"] and not params["replication_factor"]:
        module.fail_json(msg="placement needs replication_factor, the number of copies to place.")

    def missing():
        """What is wrong; a placement that is not set yet makes no tablet under-replicated."""
        cluster = read(params["masters"])
        if not params["tservers"]:  # they may all be down yet, and nothing can be replicated before they are up
            return cluster.master_problems(params["masters"])
        return cluster.problems(params["masters"], params["tservers"])

    if module.check_mode:
        try:
            cluster = read(params["masters"])
        except YugabyteError:
            module.exit_json(changed=False, cluster={})
    else:
        try:
            wait(missing, params["timeout"], params["steady"])
            cluster = read(params["masters"])
        except (TimedOut, YugabyteError) as error:
            module.fail_json(
                msg=f"The cluster was not healthy within {params['timeout']} s: {error}. Look at the logs of the named "
                "servers (journalctl -u yugabyte-master -u yugabyte-tserver, and the files in their log_dir)."
            )
    found = changes(cluster, params) if params["tservers"] else []
    if found and not module.check_mode:
        admin = Admin(module.run_command, params)
        try:
            for _what, _before, _after, words in found:
                admin(*words)
            cluster = read(params["masters"])
        except YugabyteError as error:
            module.fail_json(msg=str(error))
        left = [what for what, _before, _after, _words in changes(cluster, params)]
        if left:
            module.fail_json(msg=f"yb-admin reported success, but the masters still have another {' and '.join(left)}.")
    module.exit_json(
        changed=bool(found), cluster=cluster.summary(),
        diff={"before": {one[0]: one[1] for one in found}, "after": {one[0]: one[2] for one in found}},
    )


if __name__ == "__main__":
    main()
