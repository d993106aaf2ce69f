# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What PostgreSQL's own programs need for a login: their environment, and the password in a file."""

from __future__ import annotations

import os

from .postgres import PostgresError


def password_file(params, path):
    """Write the login's password to the new file `path`, for environment(). Returns `path`, or None without a password.

    Raises PostgresError where libpq's format cannot hold it.
    """
    password = params.get("login_password")
    if not password:
        return None
    if "\n" in password:
        raise PostgresError("login_password has a line break: libpq's password file cannot hold it.")
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write("*:*:*:*:" + password.replace("\\", "\\\\").replace(":", "\\:") + "\n")
    return path


def environment(params, database, passfile):
    """The environment for a program that logs in to `database` with the options `params`, and with nothing else.

    Variables of libpq's that are set already are left out: they could lead it to another server.
    """
    values = {
        "PGHOST": params.get("login_unix_socket") or params["login_host"], "PGPORT": params["login_port"],
        "PGUSER": params["login_user"], "PGDATABASE": database, "PGPASSFILE": passfile,
        "PGSSLMODE": params.get("ssl_mode"), "PGSSLROOTCERT": params.get("ca_cert"),
        "PGSSLCERT": params.get("ssl_cert"), "PGSSLKEY": params.get("ssl_key"),
        "PGCONNECT_TIMEOUT": params.get("connect_timeout"), "PGAPPNAME": "frameworks.database", "LC_ALL": "C.UTF-8",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, **{name: str(value) for name, value in values.items() if value}}
