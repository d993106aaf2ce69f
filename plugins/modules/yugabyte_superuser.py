#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give YugabyteDB's superuser a password of its own, over the socket."""

from __future__ import annotations

DOCUMENTATION = r"""
module: yugabyte_superuser
short_description: Give YugabyteDB's superuser a password of its own, over the socket
version_added: 0.1.0
description:
  - Replaces the password that YugabyteDB ships for its superuser C(yugabyte), or any later one.
  - It goes over YSQL's socket, which only root and the servers' own account can use, so no network has to be open
    for it and the old password is not needed.
  - The server gets a SCRAM-SHA-256 secret worked out here, never the password.
author:
  - FrameWorks platform team (@frameworks)
attributes:
  check_mode:
    description: Says that it would change the password.
    support: full
options:
  password:
    description: The password to be.
    type: str
    required: true
  socket:
    description: Directory of YSQL's socket.
    type: path
    required: true
  port:
    description: YSQL's port, which is part of the socket's name.
    type: int
    default: 5433
  bin_dir:
    description: Where C(ysqlsh) is.
    type: path
    required: true
notes:
  - It always sets the password. Whether that is needed, M(frameworks.database.yugabyte_node_info) tells.
"""

EXAMPLES = r"""
- name: Read the node
  frameworks.database.yugabyte_node_info:
    address: 10.0.0.1
    install_dir: /opt/yugabyte
    data_dirs: [/data/yugabyte]
    superuser_password: "{{ yugabyte_db_superuser_password }}"
  register: node_info

- name: Replace the built-in password
  frameworks.database.yugabyte_superuser:
    password: "{{ yugabyte_db_superuser_password }}"
    socket: "{{ node_info.node.ysql.socket }}"
    bin_dir: /opt/yugabyte/yugabyte-2025.2.8.0/bin
  when: node_info.node.ysql.superuser in ['builtin', 'other']
"""

RETURN = r"""
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.frameworks.database.plugins.module_utils.postgres_password import verifier
from ansible_collections.frameworks.database.plugins.module_utils.yugabyte import SUPERUSER, TimedOut, wait, ysqlsh

SECONDS = 30  # for as long other DDL may stand in the way


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "password": {"type": "str", "required": True, "no_log": True},
            "socket": {"type": "path", "required": True},
            "port": {"type": "int", "default": 5433},
            "bin_dir": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=True)
    secret = verifier(params["password"], SUPERUSER, "scram-sha-256")

    def refused():
        """What ysqlsh said; nothing once it succeeded. Other DDL at the same time makes a statement fail."""
        status, _out, err = ysqlsh(
            f"{params['bin_dir']}/ysqlsh", params["socket"], params["port"],
            f"ALTER ROLE {SUPERUSER} PASSWORD '{secret}'",
        )
        return [err.replace(secret, "********") or f"ysqlsh ended with status {status}"] if status else []

    try:
        wait(refused, SECONDS)
    except TimedOut as error:
        module.fail_json(msg=f"The password of {SUPERUSER} could not be set over {params['socket']}: {error}")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
