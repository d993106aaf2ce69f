#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_access
short_description: Users, databases and grants of a PostgreSQL or YugabyteDB server, all in one task
version_added: 0.1.0
author:
  - FrameWorks platform team (@frameworks)
description:
  - >-
    Reads what the server has, compares it with what is declared, and runs just the statements that make up for the
    difference.
  - Nothing that is not declared is changed. What is to go is declared with C(state=absent).
  - >-
    On PostgreSQL everything that concerns one database happens in one transaction. YugabyteDB commits each
    statement alone, so there transient
    errors are retried, and the next run takes up what an interrupted one has left.
  - >-
    Runs with the same O(login_db) wait for each other, except on YugabyteDB before 2025.1, which has no advisory
    locks.
  - >-
    Passwords are compared with what the server stores, and sent as a SCRAM-SHA-256 (or MD5, where
    C(password_encryption) says so) verifier, never in clear.
    A user without access to C(pg_authid) cannot read what is stored; then the module tries to log in with the
    password.
options:
  users:
    description:
      - The users (roles). Attributes that are left out keep the value they have.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description: Password, or a verifier as the server stores it. Left out, it stays as it is.
        type: str
      update_password:
        description: Whether O(users[].password) is set whenever it differs, or only for a user that is created.
        type: str
        choices: [always, on_create]
        default: always
      login:
        description: >-
          Whether the user may log in; V(false) makes it a group. A user that is created may, unless this says
          otherwise.
        type: bool
      superuser:
        description: Whether no right is ever checked for the user.
        type: bool
      createdb:
        description: Whether the user may create databases.
        type: bool
      createrole:
        description: Whether the user may create users.
        type: bool
      inherit:
        description:
          - Whether the user has the privileges of the roles that it is a member of without C(SET ROLE).
          - PostgreSQL 16 and newer only look at this when a membership is granted.
        type: bool
      replication:
        description: Whether the user may stream the write-ahead log.
        type: bool
      bypassrls:
        description: Whether row-level security is not applied to the user.
        type: bool
      connection_limit:
        description: How many sessions the user may have; V(-1) for any number.
        type: int
      valid_until:
        description: Moment at which the password expires, for example C(2030-01-01 00:00:00+00), or V(infinity).
        type: str
      member_of:
        description: Roles that the user is a member of. Other memberships stay.
        type: list
        elements: str
      not_member_of:
        description: Roles that the user must not be a member of.
        type: list
        elements: str
      settings:
        description:
          - Settings of the user's sessions (C(ALTER ROLE … SET)). V(null) takes one away, others stay.
          - Lists such as C(search_path) may be YAML lists.
        type: dict
      reassign_owned_to:
        description: With O(users[].state=absent), the user who becomes the owner of all that the dropped one owns.
        type: str
      state:
        description:
          - Whether the user exists. Dropping one also revokes all of its privileges in every database.
          - One who owns something is only dropped with O(users[].reassign_owned_to).
        type: str
        choices: [present, absent]
        default: present
  databases:
    description:
      - The databases. What is left out keeps the value it has.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the database.
        type: str
        required: true
      owner:
        description: Its owner. A O(login_user) who is not a superuser has to be a member of it (O(users[].member_of)).
        type: str
      encoding:
        description: Encoding, for example V(UTF8). It cannot be changed later. Not for YugabyteDB.
        type: str
      lc_collate:
        description: Locale that strings are sorted by. It cannot be changed later. Not for YugabyteDB.
        type: str
      lc_ctype:
        description: Locale that characters are classified by. It cannot be changed later. Not for YugabyteDB.
        type: str
      template:
        description:
          - Database that a new one is a copy of. Not for YugabyteDB.
          - Defaults to C(template0) where an encoding or a locale is declared, or else to the server's C(template1).
        type: str
      colocation:
        description: Whether the tables of a new database share one tablet. Only for YugabyteDB.
        type: bool
      connection_limit:
        description: How many sessions the database may have; V(-1) for any number.
        type: int
      drop_data:
        description: Confirms that O(databases[].state=absent) may drop the database with all that is in it.
        type: bool
        default: false
      state:
        description: Whether the database exists. Dropping one needs O(databases[].drop_data=true).
        type: str
        choices: [present, absent]
        default: present
  grants:
    description:
      - Privileges, in any number of databases. Privileges that are not declared stay.
      - Where two items speak of the same privilege, the later one decides.
    type: list
    elements: dict
    default: []
    suboptions:
      roles:
        description: Users to whom the privileges are granted; V(PUBLIC) is everybody.
        type: list
        elements: str
        required: true
      database:
        description: Database that the privileges are on, or that holds what they are on.
        type: str
        required: true
      type:
        description:
          - >-
            What the privileges are on. V(tables) includes views, materialized views and foreign tables,
            V(functions) includes procedures.
          - >-
            The types V(future_tables), V(future_sequences) and V(future_functions) are default privileges: they
            are given to what
            O(grants[].for_roles) create from now on.
        type: list
        elements: str
        choices:
          - database
          - schema
          - tables
          - sequences
          - functions
          - future_tables
          - future_sequences
          - future_functions
        required: true
      schemas:
        description:
          - >-
            The schemas that the privileges are on, or that hold what they are on. Needed for all types except
            V(database) and the future ones.
          - Default privileges without schemas are for objects in any schema.
        type: list
        elements: str
      objects:
        description:
          - >-
            Names of tables, sequences or functions; a function is all functions of that name unless its arguments'
            types follow in parentheses, in the server's own words, such as V(f(integer, character varying\)).
          - Without it, all that the schemas hold now.
        type: list
        elements: str
      for_roles:
        description:
          - For default privileges, the roles that create the objects.
          - >-
            Default privileges only concern objects of these roles, so name every role that creates some, such as
            the one that loads the schema.
        type: list
        elements: str
      privileges:
        description: Privileges by their names in SQL; V(ALL) is every one that the server has for the type.
        type: list
        elements: str
        required: true
      grant_option:
        description: Whether the privileges may be granted on. Left out, it stays as it is.
        type: bool
      state:
        description: Whether the privileges are granted or revoked.
        type: str
        choices: [present, absent]
        default: present
  lock_timeout:
    description:
      - Seconds to wait for another run on the same server to end, and in each statement for locks of other sessions.
    type: int
    default: 60
extends_documentation_fragment:
  - frameworks.database.postgres
attributes:
  check_mode:
    description:
      - Nothing is run; RV(statements) is what would be.
      - A server that cannot be reached yet is no failure; RV(unasked) says why it could not be asked.
    support: full
  diff_mode:
    description: The states before and after, and the statements, with passwords masked.
    support: full
seealso:
  - module: community.postgresql.postgresql_query
"""

EXAMPLES = r"""
- name: An application, its database, and all it needs to work there
  frameworks.database.postgres_access:
    login_unix_socket: /var/run/postgresql
    users:
      - name: frameworks_user
        password: "{{ frameworks_password }}"
        createdb: true
    databases:
      - name: frameworks
        owner: frameworks_user
    grants:
      - roles: frameworks_user
        database: frameworks
        type: database
        privileges: ALL
      - roles: frameworks_user
        database: frameworks
        schemas: public
        type: [schema, tables, sequences]
        privileges: ALL
      - roles: frameworks_user
        database: frameworks
        schemas: public
        type: [future_tables, future_sequences]
        for_roles: [postgres, frameworks_user]
        privileges: ALL

- name: Readers of two schemas, and nobody else in the database
  frameworks.database.postgres_access:
    login_host: db.example.org
    login_password: "{{ admin_password }}"
    ssl_mode: verify-full
    ca_cert: /etc/ssl/certs/example-ca.pem
    users:
      - name: readers
        login: false
      - name: grafana
        password: "{{ grafana_password }}"
        member_of: [readers]
        connection_limit: 20
        settings:
          default_transaction_read_only: true
          search_path: [billing, public]
    grants:
      - roles: PUBLIC
        database: frameworks
        type: database
        privileges: ALL
        state: absent
      - roles: readers
        database: frameworks
        type: database
        privileges: CONNECT
      - roles: readers
        database: frameworks
        schemas: [public, billing]
        type: schema
        privileges: USAGE
      - roles: readers
        database: frameworks
        schemas: [public, billing]
        type: [tables, future_tables]
        for_roles: [frameworks_user]
        privileges: SELECT
      - roles: readers
        database: frameworks
        schemas: public
        type: tables
        objects: [api_tokens, sessions]
        privileges: SELECT
        state: absent

- name: Take a user away, and give what it owns to another one
  frameworks.database.postgres_access:
    login_unix_socket: /var/run/postgresql
    users:
      - name: former
        state: absent
        reassign_owned_to: frameworks_user
"""

RETURN = r"""
statements:
  description:
    - The statements that were run, or would be in check mode, in their order, with passwords masked.
    - After a failure, those whose effect remains.
  returned: always
  type: list
  elements: str
  sample:
    - CREATE ROLE "frameworks_user" WITH LOGIN CREATEDB PASSWORD '********'
    - CREATE DATABASE "frameworks" WITH OWNER = "frameworks_user"
users:
  description: Names of the users that were changed.
  returned: success
  type: list
  elements: str
  sample: [frameworks_user]
unasked:
  description: Why the server could not be asked.
  returned: in check mode, where it could not
  type: str
databases:
  description: Names of the databases that were created, altered or dropped.
  returned: success
  type: list
  elements: str
  sample: [frameworks]
grants:
  description: The privileges that were granted or revoked.
  returned: success
  type: list
  elements: str
  sample:
    - 'frameworks: ALL on schema public for frameworks_user: granted'
"""

from contextlib import ExitStack, closing

from ansible_collections.frameworks.database.plugins.module_utils.declared import DeclarationModule
from ansible_collections.frameworks.database.plugins.module_utils.postgres import (
    LOGIN_SPEC,
    ConnectionFailed,
    PostgresError,
    server_address,
)
from ansible_collections.frameworks.database.plugins.module_utils.postgres_access import Access, StatementFailed
from ansible_collections.frameworks.database.plugins.module_utils.postgres_grants import TYPES
from ansible_collections.frameworks.database.plugins.module_utils.postgres_plan import Refused

STATE = {"type": "str", "choices": ["present", "absent"], "default": "present"}
NAMES = {"type": "list", "elements": "str"}

USER = {
    "name": {"type": "str", "required": True},
    "password": {"type": "str", "no_log": True},
    "update_password": {"type": "str", "choices": ["always", "on_create"], "default": "always", "no_log": False},
    "login": {"type": "bool"},
    "superuser": {"type": "bool"},
    "createdb": {"type": "bool"},
    "createrole": {"type": "bool"},
    "inherit": {"type": "bool"},
    "replication": {"type": "bool"},
    "bypassrls": {"type": "bool"},
    "connection_limit": {"type": "int"},
    "valid_until": {"type": "str"},
    "member_of": NAMES,
    "not_member_of": NAMES,
    "settings": {"type": "dict"},
    "reassign_owned_to": {"type": "str"},
    "state": STATE,
}

DATABASE = {
    "name": {"type": "str", "required": True},
    "owner": {"type": "str"},
    "encoding": {"type": "str"},
    "lc_collate": {"type": "str"},
    "lc_ctype": {"type": "str"},
    "template": {"type": "str"},
    "colocation": {"type": "bool"},
    "connection_limit": {"type": "int"},
    "drop_data": {"type": "bool", "default": False},
    "state": STATE,
}

GRANT = {
    "roles": {**NAMES, "required": True},
    "database": {"type": "str", "required": True},
    "type": {**NAMES, "required": True, "choices": list(TYPES)},
    "schemas": NAMES,
    "objects": NAMES,
    "for_roles": NAMES,
    "privileges": {**NAMES, "required": True},
    "grant_option": {"type": "bool"},
    "state": STATE,
}


def main():
    module = DeclarationModule(
        argument_spec={
            **LOGIN_SPEC,
            "users": {"type": "list", "elements": "dict", "options": USER, "default": []},
            "databases": {"type": "list", "elements": "dict", "options": DATABASE, "default": []},
            "grants": {"type": "list", "elements": "dict", "options": GRANT, "default": []},
            "lock_timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    with ExitStack() as stack:
        access = Access(
            module.params, module.check_mode, module.warn, lambda opened: stack.enter_context(closing(opened))
        )
        try:
            changes = access.provision()
        except ConnectionFailed as error:
            if not module.check_mode or error.reason not in ("driver", "unreachable"):
                module.fail_json(msg=str(error), changed=bool(access.kept), statements=access.kept)
            # An earlier task of the same play may be what brings the server or the driver.
            module.warn(f"{error} Nothing is known about what is there.")
            module.exit_json(changed=True, unasked=str(error), statements=[], users=[], databases=[], grants=[])
        except (PostgresError, Refused, StatementFailed) as error:
            module.fail_json(msg=str(error), changed=bool(access.kept), statements=access.kept)
    result = {
        "changed": bool(changes),
        "statements": [statement.shown for _where, change in changes for statement in change.statements],
        "users": [], "databases": [], "grants": [],
    }
    for _where, change in changes:
        if change.label not in result[change.kind]:
            result[change.kind].append(change.label)
    if module._diff:
        result["diff"] = _diff(changes, server_address(module.params))
    module.exit_json(**result)


def _diff(changes, server):
    """The states before and after, then the statements."""
    if not changes:
        return {"before": "", "after": ""}
    states = {
        side: "".join(f"{change.name}: {getattr(change, side)}\n" for _where, change in changes)
        for side in ("before", "after")
    }
    script, connected = "", None
    for where, change in changes:
        if where != connected:
            script += f"-- in the database {where}\n"
            connected = where
        script += "".join(f"{statement.shown};\n" for statement in change.statements)
    return [{**states, "before_header": server, "after_header": server}, {"prepared": script}]


if __name__ == "__main__":
    main()
