# -*- coding: utf-8 -*-
# Copyright (c) 2026, FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flags that a YugabyteDB server has other values of than declared."""

from __future__ import annotations

DOCUMENTATION = r"""
name: yugabyte_flags
short_description: Flags that a YugabyteDB server has other values of than declared
version_added: 0.1.0
description:
  - Compares flags as an inventory has them with those of a running server, each in any form that the server reads.
  - Flags that the server does not know, or shows masked, are left out. Values that may be secrets are masked.
author:
  - FrameWorks platform team (@frameworks)
positional: _input, running, own
options:
  _input:
    description: The declared flags, name and value.
    type: dictionary
    required: true
  running:
    description: The C(flags) of a server, as M(frameworks.database.yugabyte_node_info) found them.
    type: dictionary
    required: true
  own:
    description: Its C(own_flags), of which it has its own value, which a negative declared one asks it to choose.
    type: list
    elements: string
    default: []
"""

EXAMPLES = r"""
# [{'flag': 'logbufsecs', 'declared': '5', 'running': '30'}]
- name: Show what differs
  ansible.builtin.debug:
    msg: >-
      {{ {'logbufsecs': 5, 'logtostderr': 1}
         | frameworks.database.yugabyte_flags({'logbufsecs': '30', 'logtostderr': 'true'}) }}
"""

RETURN = r"""
_value:
  description: C(flag), C(declared) and C(running) of each flag that differs.
  type: list
  elements: dictionary
"""

from ansible_collections.frameworks.database.plugins.module_utils.yugabyte_flags import differing


class FilterModule:
    """The filters of this file."""

    def filters(self):
        return {"yugabyte_flags": differing}
