#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: clickhouse_access
short_description: Users, databases, rights and limits of a ClickHouse server, all in one task
version_added: 0.1.0
author:
  - FrameWorks platform team (@frameworks)
description:
  - >-
    Reads what the server has over its HTTP interface, compares it with what is declared, and runs just the statements
    that make up for the difference. The managed host needs no ClickHouse client.
  - >-
    Rights are compared by what they imply, from the server's own C(system.privileges). V(ALL), once granted, is no
    change the next time, although the server stores its parts.
  - >-
    Nothing that is not declared is changed, unless O(exclusive) says so. What is to go is declared with
    C(state=absent).
  - >-
    For a server that reads its users from a file and stores them in no other way, such as the embedded one of the role
    P(frameworks.database.clickhouse_db#role), O(storage=users_xml) renders the same declaration to that file.
options:
  storage:
    description:
      - Where the server keeps users, roles, quotas, profiles and row policies.
      - V(sql) changes them with statements, in the server's own writable storage.
      - >-
        V(users_xml) writes them to O(users_file), which then holds exactly what is declared, O(login_user) included.
        Only databases are made with statements.
    type: str
    choices: [sql, users_xml]
    default: sql
  users_file:
    description:
      - Path of the file of O(storage=users_xml). A file that this module has not written is refused.
      - It is written atomically, by default with the mode C(0640). Two runs at the same time wait for each other.
    type: path
  validate:
    description:
      - >-
        Command that ends with status 0 if the new content of O(users_file), whose path stands for C(%s), is good. Like
        the option of M(ansible.builtin.copy), it is not run by a shell.
    type: str
  cluster:
    description:
      - >-
        Name of a cluster. The servers of all its replicas are compared, and statements run C(ON CLUSTER). Passwords are
        compared on the server that the module is connected to.
      - Leave it out where users are kept in Keeper (the C(replicated) user directory).
    type: str
  exclusive:
    description:
      - What is to hold nothing but what is declared. The rest is removed.
      - V(grants) concerns the rights and roles of the declared users and roles; the others concern whole objects.
      - What the server has from files or LDAP, and O(login_user), stay.
    type: list
    elements: str
    choices: [grants, users, roles, row_policies, quotas, settings_profiles]
    default: []
  databases:
    description: Databases.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the database.
        type: str
        required: true
      engine:
        description:
          - >-
            Engine with its arguments, as it stands in C(CREATE DATABASE), such as
            V(Replicated('/clickhouse/databases/app', '{shard}', '{replica}')). An existing database keeps its own.
          - It is printed with the statements, so a password belongs into a named collection of the server, not here.
        type: str
      comment:
        description: Comment.
        type: str
      state: &state
        description: Whether it is to exist.
        type: str
        choices: [present, absent]
        default: present
      drop_data:
        description: Has to be V(true) where O(databases[].state=absent), which drops all tables of the database.
        type: bool
        default: false
  settings_profiles:
    description: Settings profiles, in an order in which O(settings_profiles[].inherit) finds what it names.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the profile.
        type: str
        required: true
      settings:
        description: Settings and their values, as the server shows them (bytes as a number, for example).
        type: dict
      constraints:
        description: How far users may change settings.
        type: list
        elements: dict
        suboptions:
          name:
            description: Name of the setting.
            type: str
            required: true
          min:
            description: The lowest value.
            type: str
          max:
            description: The highest value.
            type: str
          writability:
            description: Whether it may be changed at all.
            type: str
            choices: [writable, const, changeable_in_readonly]
      inherit:
        description: Profiles whose settings apply too.
        type: list
        elements: str
      state: *state
  roles:
    description: Roles.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the role.
        type: str
        required: true
      grants: &grants
        description: Rights. What is there already, or implied by what is there, is left alone.
        type: list
        elements: dict
        suboptions: &grant
          privileges:
            description: >-
              Names from C(system.privileges), or their aliases, such as V(SELECT), V(ALTER TABLE) or V(ALL).
            type: list
            elements: str
            required: true
          database:
            description: Name of a database, or V(*) for all of them and for rights on the server itself.
            type: str
          table:
            description: Name of a table, or V(*) for all.
            type: str
            default: '*'
          columns:
            description: Names of columns, for privileges that can be had on columns.
            type: list
            elements: str
          object:
            description: >-
              For privileges on something that is in no database, such as V(SET DEFINER) or V(TABLE ENGINE), the name of
              that user, named collection, source or engine; V(*) for all. Excludes the database.
            type: str
          grant_option:
            description: Whether the right may be handed on.
            type: bool
            default: false
      revokes: &revokes
        description: Exceptions from the rights, on databases, tables or columns that a wider one includes.
        type: list
        elements: dict
        suboptions:
          privileges:
            description: As in O(users[].grants[].privileges).
            type: list
            elements: str
            required: true
          database:
            description: Name of a database, or V(*).
            type: str
          table:
            description: Name of a table, or V(*) for all.
            type: str
            default: '*'
          columns:
            description: Names of columns.
            type: list
            elements: str
          object:
            description: As in O(users[].grants[].object).
            type: str
      roles: &roles
        description: Roles to be granted. They must exist or be declared.
        type: list
        elements: str
      admin_roles: &admin_roles
        description: Roles to be granted C(WITH ADMIN OPTION).
        type: list
        elements: str
      state: *state
  users:
    description: Users.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description:
          - Password. It goes to the server as a salted SHA-256 hash, to a file as a SHA-256 hash.
          - >-
            With O(storage=sql) it is compared by a login. For a user who may not log in from the managed host, or has
            an end (C(VALID UNTIL)), which stays as it is, a salted fingerprint (PBKDF2) of the password that was set
            last is kept in the server, as the name of a quota that applies to nobody; the password is set when it is
            another one. What somebody else has set meanwhile stays unnoticed then, unless
            O(users[].update_password=force).
          - Required for a user that does not exist, and in a file.
        type: str
      previous_password:
        description: >-
          A second password that stays valid, so that applications can change over without a gap; take it out when they
          have. Needs ClickHouse 24.9 or newer.
        type: str
      update_password:
        description:
          - V(always) sets the password whenever it differs, V(on_create) only for a user that is created, and V(force)
            in every run, whether it differs or not.
        type: str
        choices: [always, on_create, force]
        default: always
      auth:
        description: How the user logs in. V(no_password) needs good reasons and tight O(users[].hosts).
        type: str
        choices: [sha256_password, no_password]
        default: sha256_password
      hosts:
        description:
          - >-
            Where the user may log in from, as a whole. Addresses, networks, host names, patterns with V(%), V(local),
            or V(any).
          - Left out, an existing user keeps them and a new one may log in from everywhere.
        type: list
        elements: str
      default_database:
        description: The database that a session begins in.
        type: str
      profile:
        description: Settings profile.
        type: str
      grants: *grants
      revokes: *revokes
      roles: *roles
      admin_roles: *admin_roles
      state: *state
  quotas:
    description: Quotas. One that differs is replaced, which begins its counting anew.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the quota.
        type: str
        required: true
      keyed_by:
        description: What the counting is done for.
        type: str
        choices:
          - none
          - user_name
          - ip_address
          - forwarded_ip_address
          - client_key
          - client_key_or_user_name
          - client_key_or_ip_address
        default: user_name
      intervals:
        description: Periods and what may be used up in each. One without limits is only counted.
        type: list
        elements: dict
        suboptions:
          seconds:
            description: Length of the period in seconds.
            type: int
            required: true
          randomized:
            description: Whether the periods of different keys begin at different times.
            type: bool
            default: false
          queries:
            description: Number of queries.
            type: int
          query_selects:
            description: Number of SELECT queries.
            type: int
          query_inserts:
            description: Number of INSERT queries.
            type: int
          errors:
            description: Number of failed queries.
            type: int
          result_rows:
            description: Number of rows in results.
            type: int
          result_bytes:
            description: Bytes in results.
            type: int
          read_rows:
            description: Number of rows read.
            type: int
          read_bytes:
            description: Bytes read.
            type: int
          execution_time:
            description: Seconds of execution.
            type: float
          written_bytes:
            description: Bytes written.
            type: int
          failed_sequential_authentications:
            description: Number of failed logins in a row.
            type: int
      to:
        description: Users and roles that it applies to, as a whole.
        type: list
        elements: str
      state: *state
  row_policies:
    description: Row policies.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the policy, unique for its table.
        type: str
        required: true
      database:
        description: Name of the database.
        type: str
        required: true
      table:
        description: Name of the table, or V(*) for all.
        type: str
        required: true
      filter:
        description: Condition, in SQL, that a row must meet to be seen.
        type: str
      restrictive:
        description: Whether the condition narrows what other policies let through, instead of adding to it.
        type: bool
        default: false
      to:
        description: Users and roles that it applies to, as a whole.
        type: list
        elements: str
      state: *state
extends_documentation_fragment:
  - frameworks.database.clickhouse
  - ansible.builtin.files
notes:
  - >-
    With O(storage=sql), O(login_user) needs the right to manage access (C(access_management) in the server's files) and
    every right that it is to grant, C(WITH GRANT OPTION).
seealso:
  - module: frameworks.database.postgres_access
  - module: frameworks.database.schema_apply
"""

EXAMPLES = r"""
- name: Let the application's user work in its own database
  frameworks.database.clickhouse_access:
    login_user: admin
    login_password: "{{ clickhouse_admin_password }}"
    databases:
      - name: frameworks
    users:
      - name: frameworks
        password: "{{ clickhouse_password }}"
        hosts: [local, 10.20.0.0/16]
        default_database: frameworks
        grants:
          - privileges: [ALL]
            database: frameworks

- name: Readers that may see one tenant's rows, and no tokens
  frameworks.database.clickhouse_access:
    login_host: analytics.example
    login_user: admin
    login_password: "{{ clickhouse_admin_password }}"
    tls: true
    exclusive: [grants]
    settings_profiles:
      - name: reader
        settings:
          readonly: 1
          max_memory_usage: 4000000000
        constraints:
          - name: max_memory_usage
            max: '8000000000'
    roles:
      - name: reader
        grants:
          - privileges: [SELECT]
            database: frameworks
        revokes:
          - privileges: [SELECT]
            database: frameworks
            table: streams
            columns: [token]
    users:
      - name: report
        password: "{{ report_password }}"
        profile: reader
        roles: [reader]
    row_policies:
      - name: one_tenant
        database: frameworks
        table: viewer_metrics
        filter: tenant_id = '6ba7b810-9dad-11d1-80b4-00c04fd430c8'
        to: [report]
    quotas:
      - name: report
        intervals:
          - seconds: 3600
            queries: 1000
        to: [report]

- name: Change a password while applications still use the old one
  frameworks.database.clickhouse_access:
    login_user: admin
    login_password: "{{ clickhouse_admin_password }}"
    users:
      - name: frameworks
        password: "{{ new_password }}"
        previous_password: "{{ old_password }}"

- name: Write the users of an embedded server to its file
  frameworks.database.clickhouse_access:
    storage: users_xml
    users_file: /etc/clickhouse-server/users.xml
    group: clickhouse
    login_user: admin
    login_password: "{{ clickhouse_admin_password }}"
    users:
      - name: admin
        password: "{{ clickhouse_admin_password }}"
        hosts: [local]
        grants:
          - privileges: [ALL]
            database: '*'
            grant_option: true
  register: access
"""

RETURN = r"""
statements:
  description: The statements that were run, or would be in check mode, without secrets.
  returned: always
  type: list
  elements: str
  sample:
    - CREATE DATABASE IF NOT EXISTS `frameworks`
    - GRANT ALL ON `frameworks`.* TO `frameworks`
restart_required:
  description: >-
    Whether the server has yet to be restarted to use the file. Databases are looked at only when it has been, so run
    the same task again then.
  returned: with O(storage=users_xml)
  type: bool
restart_reason:
  description: Why, as a sentence; empty where it need not.
  returned: with O(storage=users_xml)
  type: str
  sample: users.xml has changed
version:
  description: The server's version. Empty where the server was not asked.
  returned: always
  type: str
  sample: 26.7.2.1
"""

import fcntl
import os
import secrets
import shlex
import tempfile
import time

from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import (
    LOGIN_SPEC,
    AuthenticationFailed,
    ClickHouseError,
    ConnectionFailed,
    quote_string,
)
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_access import ACCESS_SPEC, EXCLUSIVE, check
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_provision import Failed, Server
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_rights import Refused
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_users_xml import (
    MARK,
    masked,
    render,
    token_of,
    token_quota,
)
from ansible_collections.frameworks.database.plugins.module_utils.declared import DeclarationModule


class UsersFile:
    """users.xml: compare, check, write."""

    def __init__(self, module):
        self.module, self.path = module, module.params["users_file"]
        self.before = self.after = ""

    def update(self, declared):
        """Write the file where it differs, in check mode only say so. Returns whether it differs."""
        directory = os.path.dirname(self.path)
        if not os.path.isdir(directory):
            if not self.module.check_mode:
                raise Failed(f"users_file: the directory {directory} does not exist")
            self.after = render(declared, secrets.token_hex(8))
            return True
        try:
            handle = os.open(directory, os.O_RDONLY)
            try:
                self._lock(handle)
                return self._update(declared)
            finally:
                os.close(handle)
        except OSError as error:
            raise Failed(f"users_file: {self.path} cannot be written: {error.strerror or error}") from error

    def _lock(self, handle):
        deadline = time.monotonic() + self.module.params["timeout"]
        while True:
            try:
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Failed(f"another run has been writing {self.path} for longer than timeout") from None
                time.sleep(0.1)

    def _update(self, declared):
        try:
            with open(self.path, encoding="utf-8") as file:
                self.before = file.read()
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            raise Failed(f"users_file: {self.path} cannot be read: {error}") from error
        if self.before and MARK not in self.before:
            raise Failed(
                f"users_file: {self.path} was not written by this module and would be lost: move it away, or use "
                "storage sql"
            )
        token = token_of(self.before)
        self.after = render(declared, token or secrets.token_hex(8))
        if self.after != self.before:
            self.after = render(declared, secrets.token_hex(8))
            if not self.module.check_mode:
                self._write()
            return True
        return False

    def _write(self):
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(self.path), prefix=".users-", suffix=".xml")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.after)
                file.flush()
                os.fsync(file.fileno())
            if self.module.params["validate"]:
                command = [part.replace("%s", temporary) for part in shlex.split(self.module.params["validate"])]
                status, out, err = self.module.run_command(command)
                if status:
                    raise Failed(f"the server refuses the declared users: {(err or out).strip()[-2000:]}")
            # Not atomic_move(), which gives a new file the umask's mode: this one is never readable for everybody.
            self.module.set_fs_attributes_if_different(self._attributes(temporary), False)
            os.replace(temporary, self.path)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    def _attributes(self, path):
        arguments = self.module.load_file_common_arguments(self.module.params, path=path)
        arguments["mode"] = arguments["mode"] or "0640"
        return arguments

    def attributes_changed(self):
        """Set owner, group and mode of the file that is there; whether that changed something."""
        if not os.path.exists(self.path):
            return False
        return self.module.set_fs_attributes_if_different(self._attributes(self.path), False)

    def token(self):
        """The token of the file's content."""
        return token_of(self.after)


def restart_reason(client, users_file):
    """Why the server has to be restarted before it knows the file; empty where it does."""
    try:
        loaded = client.execute(
            f"SELECT count() FROM system.quotas WHERE name = {quote_string(token_quota(users_file.token()))}"
        ).strip()
    except AuthenticationFailed:
        return f"the server still uses an older {users_file.path}: it refuses the declared password of {client.user!r}"
    except ConnectionFailed as error:
        return f"the server does not answer: {error}"
    return "" if loaded != "0" else f"the server still uses an older {users_file.path}"


def main():
    """Entry point."""
    module = DeclarationModule(
        argument_spec={
            **LOGIN_SPEC,
            **ACCESS_SPEC,
            "storage": {"type": "str", "choices": ["sql", "users_xml"], "default": "sql"},
            "users_file": {"type": "path"},
            "validate": {"type": "str"},
            "cluster": {"type": "str"},
            "exclusive": {"type": "list", "elements": "str", "choices": list(EXCLUSIVE), "default": []},
        },
        required_if=[("storage", "users_xml", ["users_file"])],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    result = {"changed": False, "statements": [], "version": ""}
    server = None
    try:
        check(module.params)
        server = Server(module.params, module.check_mode, module.warn)
        if module.params["storage"] == "sql":
            for option in ("users_file", "validate"):
                if module.params[option] is not None:
                    raise Refused(f"{option}: goes with storage users_xml only")
            result["statements"] = server.access(module.params)
        else:
            for option in ("cluster", "exclusive"):
                if module.params[option]:
                    raise Refused(f"{option}: goes with storage sql only; users.xml holds exactly what is declared")
            _users_xml(module, server, result)
        if server.client.known_version:
            result["version"] = ".".join(map(str, server.client.known_version))
    except (Refused, Failed, ClickHouseError) as error:
        module.fail_json(msg=str(error), statements=server.run if server else [])
    result["changed"] = result["changed"] or bool(result["statements"])
    if module._diff and result["statements"]:
        result.setdefault("diff", []).append({"prepared": "".join(f"{sql};\n" for sql in result["statements"])})
    module.exit_json(**result)


def _check_login(params):
    """Refused where the declared users would not let this task in, which would look like an old file in use."""
    for user in params["users"] or []:
        if user["name"] == params["login_user"] and user["state"] == "present":
            passwords = (user["password"], user["previous_password"])
            if user["auth"] == "sha256_password" and params["login_password"] not in passwords:
                raise Refused(f"login_password: is not the password that users declares for {user['name']!r}")
            return
    raise Refused(f"login_user: users does not declare {params['login_user']!r}, so the file would not hold that user")


def _users_xml(module, server, result):
    """The work of storage users_xml; fills `result`."""
    _check_login(module.params)
    users_file = UsersFile(module)
    changed = users_file.update(module.params)
    result["restart_reason"] = f"{users_file.path} has changed" if changed else ""
    if changed and module._diff:
        result["diff"] = [{
            "before": masked(users_file.before), "after": masked(users_file.after, users_file.before),
            "before_header": users_file.path, "after_header": users_file.path,
        }]
    result["changed"] = changed or users_file.attributes_changed()
    if not changed:
        result["restart_reason"] = restart_reason(server.client, users_file)
    result["restart_required"] = bool(result["restart_reason"])
    if not result["restart_required"]:
        result["statements"] = server.access({"databases": module.params["databases"]})


if __name__ == "__main__":
    main()
