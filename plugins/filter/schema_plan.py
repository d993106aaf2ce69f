# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: schema_plan
short_description: What is pending in every set of an environment, as a table
version_added: 0.1.0
author:
  - FrameWorks platform team (@frameworks)
description:
  - >-
    Lays out results of M(frameworks.database.schema_apply) with
    O(frameworks.database.schema_apply#module:state=planned),
    of several hosts.
options:
  _input:
    description: >-
      For each host the list of results of its sets, as a loop over the sets' names registers them. A result of
      C(unasked) alone is about the host itself.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Look at what is pending
  frameworks.database.schema_apply:
    set_name: "{{ item }}"
    engine: postgresql
    database: shop
    path: "files/{{ item }}"
    state: planned
    login_unix_socket: /var/run/postgresql
  loop: [shop]
  register: looked

- name: Print it
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: looked.results} | frameworks.database.schema_plan }}"
"""

RETURN = r"""
_value:
  description: The lines of the table, and a sentence for each thing that stands in the way.
  type: list
  elements: str
"""

HEAD = ("HOST", "SET", "SCRIPT", "KIND", "STATE", "STATEMENTS")


def _set(result):
    """The name of the set, which the loop has registered by the name of its variable; empty where it is about none."""
    return result.get(result.get("ansible_loop_var", "item"), "")


def _rows(host, result):
    """The table's rows for one set."""
    where = (host, _set(result))
    if result.get("problem") or result.get("unasked"):
        yield (*where, "", "", "unreachable" if result.get("unasked") else "problem", "")
        return
    for state in ("adopted", "repaired"):
        for name in result.get(state, ()):
            yield (*where, name, "", f"to be {state}", "")
    for step in result.get("pending", ()):
        count = "" if step["statements"] is None else str(step["statements"])
        if step["completed"]:
            count = f"{step['completed']} of {count} done"
        yield (*where, step["script"], step["kind"], step["reason"], count)
    for name in result.get("beyond_target", ()):
        yield (*where, name, "", "beyond target", "")
    if not any(result.get(name) for name in ("adopted", "repaired", "pending", "beyond_target", "conflicts")):
        yield (*where, "", "", "up to date", "")


def _notes(host, result):
    """Sentences about one set."""
    name = f"{host}, {_set(result)}" if _set(result) else host
    for reason in ("problem", "unasked"):
        if result.get(reason):
            yield f"{name}: {result[reason]}"
    for conflict in result.get("conflicts", ()):
        yield f"{name}: CONFLICT: {conflict}"
    for script in result.get("missing", ()):
        yield f"{name}: {script} is in the ledger, but not in the set any more"
    if result.get("lock_holder"):
        yield f"{name}: locked by {result['lock_holder']}"


def schema_plan(plans):
    """The table's lines for `plans`, a dictionary of host to results."""
    found = [(host, result) for host, results in plans.items() for result in results if not result.get("skipped")]
    rows = [HEAD, *(row for host, result in found for row in _rows(host, result))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return lines + [note for host, result in found for note in _notes(host, result)]


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        """Name to function."""
        return {"schema_plan": schema_plan}
