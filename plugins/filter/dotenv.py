# -*- coding: utf-8 -*-
# Copyright (c) 2026, FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings as the lines of a dotenv file."""

from __future__ import annotations

DOCUMENTATION = r"""
name: dotenv
short_description: Settings as the lines of a dotenv file
version_added: 0.1.0
description:
  - Writes each setting as C(NAME=value), one a line.
  - Values are quoted only where they must be, in a form that a POSIX shell and systemd's C(EnvironmentFile) read alike.
author:
  - FrameWorks platform team (@frameworks)
positional: _input
options:
  _input:
    description: Names and values. The names are those of environment variables; the values are single lines of text.
    type: dictionary
    required: true
notes:
  - Docker's C(--env-file) takes quotes literally. A value of letters, digits and C(%+,-./:=?@_) is written without.
  - Dotenv libraries differ from the shell, and from each other, in values that hold a backslash, or a single quote
    together with a dollar sign or a backquote. Avoid these in a password.
"""

EXAMPLES = r"""
- name: Write an application's settings
  ansible.builtin.copy:
    content: "{{ {'CLICKHOUSE_HOST': 'localhost', 'CLICKHOUSE_PASSWORD': app_password} | frameworks.database.dotenv }}"
    dest: /etc/app/database.env
    owner: app
    group: app
    mode: "0600"
  diff: false
"""

RETURN = r"""
_value:
  description: The lines, each ended by a newline.
  type: string
"""

import re

from ansible.errors import AnsibleFilterError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# What means nothing to a shell on the right of an assignment. (`?` does not: assignments are not globbed.)
_PLAIN = re.compile(r"[A-Za-z0-9%+,\-./:=?@_]*\Z")


def dotenv(settings):
    """The text of DOCUMENTATION. AnsibleFilterError for a name or a value that the format cannot hold."""
    lines = []
    for name, value in settings.items():
        if not _NAME.match(name):
            raise AnsibleFilterError(f"{name!r} is not the name of an environment variable")
        if value is None:
            raise AnsibleFilterError(f"{name} has no value; an empty one is ''")
        value = str(value)
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise AnsibleFilterError(f"the value of {name} has a line break or another control character")
        lines.append(f"{name}={_quoted(value)}\n")
    return "".join(lines)


def _quoted(value):
    if _PLAIN.match(value):
        return value
    if "'" not in value:
        return f"'{value}'"
    escaped = re.sub(r'(["\\$`])', r"\\\1", value)
    return f'"{escaped}"'


class FilterModule:
    """The filters of this file."""

    def filters(self):
        return {"dotenv": dotenv}
