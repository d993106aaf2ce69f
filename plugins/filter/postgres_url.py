# -*- coding: utf-8 -*-
# Copyright (c) 2026, FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection URL of a PostgreSQL-protocol server."""

from __future__ import annotations

DOCUMENTATION = r"""
name: postgres_url
short_description: Connection URL of a PostgreSQL-protocol server
version_added: 0.1.0
description:
  - Builds the C(postgres://) URL that libpq and the drivers modelled on it read.
  - Every part is percent-encoded, so a password may hold any character.
author:
  - FrameWorks platform team (@frameworks)
positional: _input
options:
  _input:
    description: Name of the user who logs in.
    type: string
    required: true
  password:
    description: Password of the user. It becomes part of the result, which is therefore a secret.
    type: string
    required: true
  database:
    description: Name of the database.
    type: string
    required: true
  hosts:
    description: Names or addresses of the servers, in the order in which a client tries them.
    type: list
    elements: string
    default: [localhost]
  port:
    description: TCP port, the same on all hosts.
    type: int
    default: 5432
  parameters:
    description: Connection parameters behind the question mark, such as V(sslmode). Those without a value are left out.
    type: dictionary
    default: {}
seealso:
  - name: PostgreSQL connection URIs
    description: The grammar of the URL.
    link: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
"""

EXAMPLES = r"""
# postgres://app:p%40ss%2Fword@db1:5433,db2:5433/shop?sslmode=verify-full
- name: Show the URL
  ansible.builtin.debug:
    msg: >-
      {{ 'app' | frameworks.database.postgres_url(password='p@ss/word', database='shop', hosts=['db1', 'db2'],
                                                  port=5433, parameters={'sslmode': 'verify-full'}) }}
"""

RETURN = r"""
_value:
  description: The URL, password included.
  type: string
"""

from urllib.parse import quote


def postgres_url(user, password, database, hosts=("localhost",), port=5432, parameters=None):
    """The URL of DOCUMENTATION; all parts as text, `port` as a number."""

    def encode(part):
        return quote(str(part), safe="")

    servers = ",".join(f"[{host}]:{int(port)}" if ":" in host else f"{encode(host)}:{int(port)}" for host in hosts)
    given = {name: value for name, value in (parameters or {}).items() if value not in (None, "")}
    query = "&".join(f"{encode(name)}={encode(value)}" for name, value in given.items())
    return f"postgres://{encode(user)}:{encode(password)}@{servers}/{encode(database)}" + (f"?{query}" if query else "")


class FilterModule:
    """The filters of this file."""

    def filters(self):
        return {"postgres_url": postgres_url}
