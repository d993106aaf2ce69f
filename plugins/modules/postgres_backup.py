#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back up, restore and prove PostgreSQL and YugabyteDB databases."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_backup
short_description: Back up PostgreSQL and YugabyteDB databases, and restore them beside the originals
version_added: 0.1.0
author:
  - FrameWorks platform team (@frameworks)
description:
  - Dumps databases and roles with the server's own programs into a folder with a manifest, which holds versions, the
    size and SHA-256 of each file, the number of rows and a checksum of each table, and the state of the schema ledger.
  - A damaged backup is refused with the names of its files. A restored copy is compared with the manifest, table by
    table.
  - On PostgreSQL, dump and manifest are of one snapshot. On YugabyteDB, a table that was written to meanwhile is not
    counted.
options:
  roles:
    description:
      - Whether roles that the restored databases need and the server lacks are created as the backup has them,
        passwords included. Without it, a missing role is an error. Roles that exist are never changed.
    type: bool
    default: false
  bin_dir:
    description:
      - Folder with C(pg_dump), C(pg_dumpall) and C(pg_restore), or C(ysql_dump), C(ysql_dumpall) and C(ysqlsh).
      - By default the installed version that fits the server.
    type: path
extends_documentation_fragment:
  - frameworks.database.postgres
  - frameworks.database.backup
attributes:
  check_mode:
    description: Nothing is written. V(restored) still reads the whole backup and says whether it could be restored.
    support: full
notes:
  - A backup is always a change.
  - With O(replace=true), sessions on the original are ended while the names are swapped. The replaced database is kept
    under its name with the time added; drop it once it is not wanted any more. An interruption leaves the original or
    the restored database under the name, and connections are allowed to it.
requirements:
  - psycopg2 and the server's client programs on the managed host
"""

EXAMPLES = r"""
- name: Back up a database
  frameworks.database.postgres_backup:
    path: /var/backups/frameworks/postgresql
    databases: [frameworks]
    login_unix_socket: /var/run/postgresql

- name: Restore the newest backup as frameworks_restored
  frameworks.database.postgres_backup:
    path: /var/backups/frameworks/postgresql
    state: restored
    login_unix_socket: /var/run/postgresql
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

from ..module_utils import postgres
from ..module_utils.backup_folder import BACKUP_SPEC, BackupError, Store
from ..module_utils.backup_postgres_run import PostgresBackup, Programs
from ..module_utils.backup_run import run
from ..module_utils.interruptible import interruptible


def work(module):
    """Connect and do what is asked for; the result."""
    connection = postgres.connect(module.params)
    try:
        dialect = postgres.dialect(connection)
        with Programs(module.params, dialect, module.tmpdir) as programs:
            server = PostgresBackup(module.params, connection, programs)
            return run(module, Store(module.params["path"], dialect.name), server)
    finally:
        connection.close()


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **postgres.LOGIN_SPEC, **BACKUP_SPEC,
            "roles": {"type": "bool", "default": False}, "bin_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        with interruptible():
            result = work(module)
    except postgres.ConnectionFailed as error:
        # An earlier task of the same play may be what brings the server or the driver.
        foreseen = module.check_mode and error.reason in ("driver", "unreachable")
        if foreseen and module.params["state"] == "created":
            said = f"{str(error).rstrip('.')}. Nothing is known about what would be backed up."
            module.warn(said)
            module.exit_json(changed=True, lines=[said])
        module.fail_json(msg=str(error))
    except (BackupError, postgres.PostgresError) as error:
        module.fail_json(msg=str(error))
    except Exception as error:
        if not isinstance(error, getattr(postgres.psycopg2, "Error", ())):
            raise
        module.fail_json(msg=f"{postgres.server_address(module.params)} refused: {str(error).strip()}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
