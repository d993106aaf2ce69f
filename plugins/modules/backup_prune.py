#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove backups that are no longer wanted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_prune
short_description: Remove the backups that are no longer wanted
version_added: 0.1.0
author:
  - FrameWorks platform team (@frameworks)
description:
  - Removes from a folder those backups that are neither among the newest O(keep) good ones nor younger than
    O(keep_days).
  - A backup is good if all its files are there and it has not failed a proof. The newest good one always stays, and so
    does what a staying one only adds to.
  - Only folders with a manifest of M(frameworks.database.postgres_backup) or M(frameworks.database.clickhouse_backup)
    are ever removed.
options:
  path:
    description:
      - The folder that holds the backups.
    type: path
    required: true
  keep:
    description:
      - How many good backups of each engine stay, whatever their age; at least one.
    type: int
    default: 7
  keep_days:
    description:
      - For how many days each backup stays.
    type: int
    default: 14
  lock_timeout:
    description:
      - Seconds to wait for another run that works in O(path).
    type: int
    default: 60
attributes:
  check_mode:
    description: Tells what would be removed.
    support: full
"""

EXAMPLES = r"""
- name: Keep two weeks of backups
  frameworks.database.backup_prune:
    path: /var/backups/frameworks/postgresql
    keep_days: 14
"""

RETURN = r"""
removed:
  description: Names of the backups that were, or would be, removed.
  returned: success
  type: list
  elements: str
kept:
  description: Names of those that stay.
  returned: success
  type: list
  elements: str
"""

import contextlib
import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.backup_folder import BackupError, Store

ENGINES = ("postgresql", "yugabytedb", "clickhouse")


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "keep": {"type": "int", "default": 7}, "keep_days": {"type": "int", "default": 14},
            "lock_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["keep"] < 1 or params["keep_days"] < 0:
        module.fail_json(msg="keep has to be 1 or more and keep_days 0 or more: the last good backup is never removed.")
    removed, kept = [], []
    nothing_to_lock = module.check_mode or not os.path.isdir(params["path"])
    stores = [Store(params["path"], engine) for engine in ENGINES]
    try:
        with contextlib.nullcontext() if nothing_to_lock else stores[0].locked(params["lock_timeout"]):
            if not nothing_to_lock:
                stores[0].clean()
            for store in stores:
                going = store.superfluous(params["keep"], params["keep_days"])
                for backup in () if module.check_mode else going:
                    store.remove(backup)
                names = [backup.name for backup in going]
                removed += names
                kept += [backup.name for backup in store.backups() if backup.name not in names]
    except BackupError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(removed), removed=removed, kept=kept)


if __name__ == "__main__":
    main()
