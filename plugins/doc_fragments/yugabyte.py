# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all modules that talk to YugabyteDB's masters have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of module_utils/yugabyte.py's CLUSTER_SPEC."""

    DOCUMENTATION = r"""
options:
  masters:
    description: Addresses of the masters, without ports. They are asked in this order until one knows the leader.
    type: list
    elements: str
    required: true
  bin_dir:
    description: Where C(yb-admin) is.
    type: path
    required: true
  certs_dir:
    description: Directory with the authority's certificate C(ca.crt); without it C(yb-admin) connects in clear.
    type: path
  timeout:
    description: For how many seconds to wait.
    type: int
    default: 300
"""
