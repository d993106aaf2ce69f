#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: parallel_playbook
short_description: Run a playbook for several groups of hosts at the same time
version_added: 0.1.0
author:
  - FrameWorks platform team (@frameworks)
description:
  - >-
    Starts an C(ansible-playbook) for each of O(sides) and waits for all of them. One C(ansible-playbook) goes through
    its plays one after the other, so hosts that have nothing to do with each other would wait for each other.
  - >-
    The runs have the options of the C(ansible-playbook) that this task is in: inventories, tags, variables, C(--check),
    C(--diff), and what was typed for C(--ask-vault-pass), C(--ask-become-pass) and C(--ask-pass). Its C(--limit) holds
    for them too.
  - Their output is shown while they run, each line after the name of its side.
options:
  playbook:
    description: The playbook, a path on the controller.
    type: path
    required: true
  sides:
    description: A list of hosts for each run, by the name that stands before the run's output.
    type: dict
    required: true
  extra_vars:
    description: Variables for all the runs, stronger than those of the command line. They stand on a command line.
    type: dict
    default: {}
attributes:
  check_mode:
    description: The runs are started with C(--check).
    support: full
  diff_mode:
    description: The runs are started with C(--diff).
    support: full
notes:
  - It runs on the controller alone, whatever host it is for, so give it C(run_once=true).
  - Hosts of two sides must not depend on each other, and variables set in a run are not known outside of it.
"""

EXAMPLES = r"""
- name: Update both database clusters at the same time
  frameworks.database.parallel_playbook:
    playbook: "{{ playbook_dir }}/update.yml"
    sides:
      yugabytedb: "{{ groups.prod_yugabyte }}"
      clickhouse: "{{ groups.prod_clickhouse + groups.prod_clickhouse_keeper }}"
  run_once: true
"""

RETURN = r"""
status:
  description: What each C(ansible-playbook) ended with, by the name of its side.
  type: dict
  returned: always
"""
