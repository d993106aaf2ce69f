#!/usr/bin/python
# Copyright (c) 2026, FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify by behaviour what an application finds behind its connection settings."""

from __future__ import annotations

DOCUMENTATION = r"""
module: connection_verify
short_description: Verify what an application finds behind its connection settings
version_added: 0.1.0
description:
  - Reads the application's dotenv file, logs in with C(DATABASE_URL) and C(CLICKHOUSE_*), and checks what is there.
  - The file is read as text and never run. A value is literal, plain or with a shell's quotes.
  - Nothing is written. The module succeeds whatever it finds and says which checks failed, so that all are seen.
author:
  - FrameWorks platform team (@frameworks)
attributes:
  check_mode:
    description: Only reads, so it does the same in check mode.
    support: full
options:
  settings:
    description: The dotenv file on the application's host.
    type: path
    required: true
  postgres_tables:
    description: Tables that the application's database must have and the application must be able to read and write.
    type: list
    elements: str
    default: []
  postgres_rows:
    description: Values that the application must find.
    type: list
    elements: dict
    default: []
    suboptions:
      query:
        description: A query for one column.
        type: str
        required: true
      value:
        description: A value that must be among the rows, compared as text.
        type: str
        required: true
  clickhouse_tables:
    description: Tables that the application's ClickHouse database must have.
    type: list
    elements: str
    default: []
  clickhouse_views:
    description: Materialized views that it must have.
    type: list
    elements: str
    default: []
requirements:
  - psycopg2 on the host
"""

EXAMPLES = r"""
- name: Look at everything through the application's eyes
  frameworks.database.connection_verify:
    settings: /etc/frameworks/database.env
    postgres_tables: [tenants, users]
    postgres_rows:
      - query: SELECT email FROM users
        value: demo@frameworks.dev
    clickhouse_tables: [viewer_metrics]
    clickhouse_views: [viewer_metrics_5m_mv]
  register: verification

- name: Show a line a check
  ansible.builtin.debug:
    msg: "{{ verification.lines }}"

- name: Stop where something is missing
  ansible.builtin.assert:
    that: not verification.failures
    fail_msg: "{{ verification.failures }}"
"""

RETURN = r"""
checks:
  description: Every check, in the order in which it was made.
  returned: always
  type: list
  elements: dict
  contains:
    server:
      description: V(postgresql) or V(clickhouse).
      type: str
    check:
      description: What was looked at.
      type: str
    ok:
      description: Whether it is as it should be.
      type: bool
    detail:
      description: What was found.
      type: str
lines:
  description: The checks, one readable line each.
  returned: always
  type: list
  elements: str
  sample: ["ok       postgresql  log in: PostgreSQL 15.18 as frameworks_user"]
servers:
  description: Where the servers are and who logged in, a line each; none for a server that let nobody in.
  returned: always
  type: list
  elements: str
  sample: ["PostgreSQL 15.18 on localhost:5432, database frameworks, as frameworks_user"]
failures:
  description: The lines of the checks that failed.
  returned: always
  type: list
  elements: str
"""

import os
import secrets
from urllib.parse import unquote, urlsplit

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import (
    ACCESS_DENIED,
    AuthenticationFailed,
    ClickHouseError,
    Client,
    ServerError,
)
from ansible_collections.frameworks.database.plugins.module_utils.dotenv import read_dotenv

try:
    import psycopg2
except ImportError:
    psycopg2 = None

NAMES = (
    "DATABASE_URL", "CLICKHOUSE_HOST", "CLICKHOUSE_PORT", "CLICKHOUSE_DB", "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD",
)


class Checks:
    """The list that the module returns, one entry a check."""

    def __init__(self):
        self.results = []
        self.servers = []

    def add(self, server, check, ok, detail):
        """Note one check and return `ok`."""
        detail = " ".join(str(detail).split())
        self.results.append({"server": server, "check": check, "ok": bool(ok), "detail": detail})
        return ok

    def all_of(self, server, what, expected, found):
        """Note whether `found` holds every name in `expected`."""
        missing = sorted(set(expected) - set(found))
        if expected:
            self.add(server, what, not missing, f"missing: {', '.join(missing)}" if missing else f"all {len(expected)}")

    def lines(self):
        """A line a check."""
        return [
            f"{'ok' if item['ok'] else 'FAILED':8} {item['server']:11} {item['check']}: {item['detail']}"
            for item in self.results
        ]


def read_settings(path):
    """The variables of NAMES, and whatever else the file sets; ValueError where one is missing."""
    if not os.path.isfile(path):
        raise ValueError(f"settings: there is no file {path}; the role application_settings writes it")
    try:
        variables = read_dotenv(path)
    except ValueError as error:
        raise ValueError(f"settings: {error}") from None
    missing = [name for name in NAMES if not variables.get(name)]
    if missing:
        raise ValueError(f"settings: {path} does not set {', '.join(missing)}")
    return variables


def passwords_of(variables, path):
    """What nobody may read in the result; ValueError where C(DATABASE_URL) is no URL.

    Of one whose password is not encoded, libpq takes a part for a host or a port, and names it in its message.
    """
    url = variables["DATABASE_URL"]
    try:
        parts, read = urlsplit(url), psycopg2.extensions.parse_dsn(url).get("password", "")
        encoded = parts.password or ""
        if "://" in url and "@" in url and ("@" not in parts.netloc or unquote(encoded) != read):
            raise ValueError
    except (ValueError, psycopg2.Error):
        raise ValueError(
            f"settings: DATABASE_URL in {path} is no URL: in its password, @ : / ? # [ ] % have to be percent-encoded"
        ) from None
    return {variables["CLICKHOUSE_PASSWORD"], encoded, unquote(encoded), read, url} - {""}


def check_postgres(url, params, checks):
    """Log in with libpq's URL `url` and look around."""
    server = "postgresql"
    try:
        connection = psycopg2.connect(url, connect_timeout=10)
    except psycopg2.Error as error:
        checks.add(server, "log in", False, error)
        return
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '10s'")  # somebody may have a lock
        cursor.execute("SELECT current_user, version(), current_setting('transaction_read_only')")
        user, version, read_only = cursor.fetchone()
        title, at = " ".join(version.split()[:2]), connection.info
        checks.add(server, "log in", True, f"{title} as {user}")
        checks.servers.append(f"{title} on {at.host}:{at.port}, database {at.dbname}, as {user}")
        check_wrong_password(url, checks)
        refuses = read_only == "on"  # rights say nothing of it
        checks.add(server, "takes writes", not refuses, "read-only: a standby, or set so" if refuses else "it does")
        if (connection.info.dsn_parameters.get("sslmode") or "prefer") in ("require", "verify-ca", "verify-full"):
            checks.add(server, "encrypted", connection.info.ssl_in_use, connection.info.ssl_attribute("protocol"))
        cursor.execute(
            "SELECT c.relname, has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')"
            " AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')"
            " FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(c.oid)"
        )
        tables = dict(cursor.fetchall())
        expected = params["postgres_tables"]
        checks.all_of(server, "tables", expected, tables)
        usable = [table for table, may in tables.items() if may]
        checks.all_of(server, "rights on them", [table for table in expected if table in tables], usable)
        for row in params["postgres_rows"]:
            check_row(cursor, row, checks)
        check_refusal(cursor, checks)
    connection.close()


def check_wrong_password(url, checks):
    """A server that lets anybody in looks fine to everybody."""
    ok, found = False, "it let a random password in: look for trust in pg_hba.conf"
    try:
        psycopg2.connect(url, password=secrets.token_hex(16), connect_timeout=10).close()
    except psycopg2.Error as refusal:
        ok, found = True, "refused"
        if "password authentication failed" not in str(refusal):
            # In the server's language, or for another reason, as without a free connection: then the right one is too.
            try:
                psycopg2.connect(url, connect_timeout=10).close()
            except psycopg2.Error as error:
                ok, found = False, f"could not be tried: {error}"
    checks.add("postgresql", "refuses a wrong password", ok, found)


def check_row(cursor, row, checks):
    """Note whether the query's first column has the value."""
    cursor.execute("SAVEPOINT verify")
    try:
        cursor.execute(row["query"])
        found = [str(item[0]) for item in cursor.fetchall()]
    except psycopg2.Error as error:
        cursor.execute("ROLLBACK TO SAVEPOINT verify")
        checks.add("postgresql", row["query"], False, error)
    else:
        ok = row["value"] in found
        checks.add("postgresql", row["query"], ok, row["value"] if ok else f"found {found}, not {row['value']}")


def check_refusal(cursor, checks):
    """The application must not be able to read the passwords of others."""
    cursor.execute("SAVEPOINT verify")
    try:
        cursor.execute("SELECT rolpassword FROM pg_catalog.pg_authid")
    except psycopg2.errors.InsufficientPrivilege:
        cursor.execute("ROLLBACK TO SAVEPOINT verify")
        checks.add("postgresql", "may not read passwords", True, "refused")
    else:
        checks.add("postgresql", "may not read passwords", False, "it can read pg_authid: it is a superuser")


def clickhouse_login(variables):
    """The options of module_utils.clickhouse.Client that the application's variables amount to."""
    scheme, separator, host = variables["CLICKHOUSE_HOST"].rpartition("://")
    return {
        "login_host": host, "login_port": int(variables["CLICKHOUSE_PORT"]), "timeout": 10,
        "tls": scheme == "https", "ca_cert": variables.get("CLICKHOUSE_CA_CERT"),
        "login_user": variables["CLICKHOUSE_USER"], "login_password": variables["CLICKHOUSE_PASSWORD"],
    }


def check_clickhouse(variables, params, checks):
    """Log in with the CLICKHOUSE_* settings and look around."""
    server, database = "clickhouse", variables["CLICKHOUSE_DB"]
    try:
        login = clickhouse_login(variables)
        client = Client(login)
        version, user = client.execute("SELECT version(), currentUser()").split()
    except (ClickHouseError, ValueError) as error:
        checks.add(server, "log in", False, error)
        return
    checks.add(server, "log in", True, f"ClickHouse {version} as {user}")
    checks.servers.append(f"ClickHouse {version} on {client.address}, database {database}, as {user}")
    try:
        Client({**login, "login_password": secrets.token_hex(16)}).execute("SELECT 1")
    except AuthenticationFailed:
        checks.add(server, "refuses a wrong password", True, "refused")
    else:
        checks.add(server, "refuses a wrong password", False, "it let a random password in")
    # Run in the application's database, which has to exist for that.
    tables = "SELECT name, engine FROM system.tables WHERE database = currentDatabase()"
    found = client.rows(tables, {"database": database})
    views = [table["name"] for table in found if table["engine"] == "MaterializedView"]
    checks.all_of(server, "tables", params["clickhouse_tables"], [table["name"] for table in found])
    checks.all_of(server, "materialized views", params["clickhouse_views"], views)
    try:
        client.execute("SELECT name FROM system.users")
    except ServerError as error:
        refused = error.code == ACCESS_DENIED
        checks.add(server, "may not read the users", refused, "refused" if refused else error)
    else:
        checks.add(server, "may not read the users", False, "it can read system.users: its rights are too wide")


def main():
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "path", "required": True},
            "postgres_tables": {"type": "list", "elements": "str", "default": []},
            "postgres_rows": {
                "type": "list", "elements": "dict", "default": [],
                "options": {"query": {"type": "str", "required": True}, "value": {"type": "str", "required": True}},
            },
            "clickhouse_tables": {"type": "list", "elements": "str", "default": []},
            "clickhouse_views": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    if psycopg2 is None:
        module.fail_json(msg=missing_required_lib("psycopg2"))
    try:
        variables = read_settings(module.params["settings"])
        # The passwords come from the file, not from an option, so Ansible has to be told what to mask.
        module.no_log_values.update(passwords_of(variables, module.params["settings"]))
    except ValueError as error:
        module.fail_json(msg=str(error))
    checks = Checks()
    try:
        check_postgres(variables["DATABASE_URL"], module.params, checks)
    except psycopg2.Error as error:
        checks.add("postgresql", "look around", False, error)
    try:
        check_clickhouse(variables, module.params, checks)
    except ClickHouseError as error:
        checks.add("clickhouse", "look around", False, error)
    failures = [line for line, item in zip(checks.lines(), checks.results) if not item["ok"]]
    module.exit_json(
        changed=False, checks=checks.results, lines=checks.lines(), servers=checks.servers, failures=failures,
    )


if __name__ == "__main__":
    main()
