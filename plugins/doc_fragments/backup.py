# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The options that the backup modules share; plugins/module_utils/backup_folder.py has the spec."""

    DOCUMENTATION = r"""
options:
  path:
    description:
      - Folder on the managed host that holds the backups of one server, each in a folder of its own, named by its time.
      - It is created where it is missing, with the owner of its parent.
    type: path
    required: true
  databases:
    description:
      - Databases to back up, or to restore out of O(backup). When restoring, none means all.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(created) makes a backup. It gets its name when it is complete; where it fails, nothing is left of it.
      - V(restored) restores O(backup) beside the originals and compares the copies with what its manifest says.
      - V(proved) does so under scratch names, drops the copies again, and keeps the outcome with the backup.
    type: str
    choices: [created, restored, proved]
    default: created
  backup:
    description:
      - Name of the backup to restore or prove, or V(latest) for the newest that is complete and has not failed a proof.
    type: str
    default: latest
  suffix:
    description:
      - What is added to a database's name for its restored copy.
    type: str
    default: _restored
  replace:
    description:
      - Whether a restored copy takes the original's place once it was compared. What is replaced is kept under another
        name.
    type: bool
    default: false
  reserve_mb:
    description:
      - Megabytes that have to stay free on the disk. A backup or restore that may take more is refused.
    type: int
    default: 512
  lock_timeout:
    description:
      - Seconds to wait for another run that works in O(path).
    type: int
    default: 60
"""
