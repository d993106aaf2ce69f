#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back up, restore and prove ClickHouse databases."""

from __future__ import annotations

DOCUMENTATION = r"""
module: clickhouse_backup
short_description: Back up ClickHouse databases, and restore them beside the originals
version_added: 0.1.0
author:
  - FrameWorks platform team (@frameworks)
description:
  - Has the server back databases up into a folder with a manifest, which holds versions, the size and SHA-256 of each
    file, engine, columns and number of rows of each table, and the state of the schema ledger.
  - A damaged backup is refused with the names of its files. A restored copy is compared with the manifest, table by
    table. A table that was written to during the backup is not counted.
  - Runs on the server's own host. O(path) has to be inside of what the server's C(<backups><allowed_path>) says, and
    belong to the server's account.
options:
  incremental:
    description:
      - Whether the backup only adds to the last good full one of the same databases. Without one, it is full.
    type: bool
    default: false
  disk:
    description:
      - The server's disk that holds O(path), where its configuration allows backups to a disk, not to a path.
    type: str
extends_documentation_fragment:
  - frameworks.database.clickhouse
  - frameworks.database.backup
attributes:
  check_mode:
    description: Nothing is written. V(restored) still reads the whole backup and says whether it could be restored.
    support: full
notes:
  - A backup is always a change.
  - With O(replace=true), each restored table changes places with the original's, without an interruption. The restored
    copy then holds what was replaced; drop it once it is not wanted any more.
  - The user needs BACKUP, and for O(state=restored) and O(state=proved) the rights to create and drop databases.
  - A restored copy of a table that reads from a queue (Kafka and the like) starts to read too. Leave such databases
    out.
"""

EXAMPLES = r"""
- name: Back up what has changed since the last full backup
  frameworks.database.clickhouse_backup:
    path: /var/lib/clickhouse/backups
    databases: [frameworks]
    incremental: true
    login_user: admin
    login_password: "{{ clickhouse_admin_password }}"

- name: Prove that the newest backup can be restored
  frameworks.database.clickhouse_backup:
    path: /var/lib/clickhouse/backups
    state: proved
    login_user: admin
    login_password: "{{ clickhouse_admin_password }}"
"""

RETURN = r"""
backup:
  description: The backup that was made, restored or proved.
  returned: success; in check mode only for V(restored)
  type: dict
  contains:
    name:
      description: Name of its folder.
      type: str
    path:
      description: The folder.
      type: str
    created:
      description: When it was begun, in UTC.
      type: str
    size:
      description: Bytes of all its files.
      type: int
    databases:
      description: What it holds.
      type: list
      elements: str
    base:
      description: Name of the backup that this one only adds to.
      type: str
    proof:
      description: When it was last proved, and with what outcome.
      type: dict
lines:
  description: What was done, one line a database.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.backup_clickhouse import ClickHouseBackup
from ..module_utils.backup_folder import BACKUP_SPEC, BackupError, Store
from ..module_utils.backup_run import run
from ..module_utils.clickhouse import LOGIN_SPEC, ClickHouseError, Client, ConnectionFailed
from ..module_utils.interruptible import interruptible


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **LOGIN_SPEC, **BACKUP_SPEC,
            "incremental": {"type": "bool", "default": False}, "disk": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        store = Store(module.params["path"], "clickhouse")
        with interruptible():
            result = run(module, store, ClickHouseBackup(module.params, Client(module.params), store.path))
    except ConnectionFailed as error:
        # An earlier task of the same play may be what brings the server.
        if module.check_mode and error.unreachable and module.params["state"] == "created":
            said = f"{str(error).rstrip('.')}. Nothing is known about what would be backed up."
            module.warn(said)
            module.exit_json(changed=True, lines=[said])
        module.fail_json(msg=str(error))
    except (BackupError, ClickHouseError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
