# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scripts with psql's own commands: handed to psql, in one transaction with their row of the ledger."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile

from .schema_plan import now
from .schema_scan import ScriptFailed
from .sql_script import ScriptError

_ERROR = re.compile(r"psql:[^\n]*?:(\d+): (.*)", re.S)
_SECURITY = {"sslmode": "ssl_mode", "sslrootcert": "ca_cert", "sslcert": "ssl_cert", "sslkey": "ssl_key"}


def _passfile_field(text):
    return str(text).replace("\\", "\\\\").replace(":", "\\:")


def check_for_psql(scan):
    """Whether psql can run this script with its meta-commands. Raises ScriptError."""
    if _psql() is None:
        raise ScriptError(
            f"{scan.meta.text.split()[0]} is a command of psql, and psql is not installed on the host that connects: "
            "install it (Debian: postgresql-client), or write the script in SQL", scan.meta.line,
        )
    if scan.connect:
        raise ScriptError(
            f"{scan.connect.text.split()[0]} would leave the database of the set: make it a set of its own, or write "
            "the dump without --create", scan.connect.line,
        )
    if scan.bracketed or scan.control:
        raise ScriptError(
            "a script with psql's commands is applied in one transaction: take its BEGIN and COMMIT out",
            scan.control.line if scan.control else 1,
        )


def _psql():
    return shutil.which("psql") or shutil.which("ysqlsh")


def apply_with_psql(backend, script, scan):
    """Apply a script that check_for_psql() has passed. Raises ScriptFailed."""
    started = now()
    with tempfile.TemporaryDirectory(prefix="schema_apply_") as folder:
        path, passfile = os.path.join(folder, "script.sql"), os.path.join(folder, "pass")
        _write_script(backend, script, path)
        with open(os.open(passfile, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8") as stream:
            stream.write(f"*:*:*:*:{_passfile_field(backend.params.get('login_password') or '')}\n")
        row = backend.context.entry(script, None, "applied", 0, started)
        wrapper = (
            f"{backend.become_owner()};\nBEGIN;\n\\i {path}\n{backend.row_sql(row)};\nCOMMIT;\n"
        )
        done = subprocess.run(
            [_psql(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"], input=wrapper, text=True, capture_output=True,
            env=_environment(backend, passfile), check=False,
        )
    if done.returncode:
        failure = _failure(backend, script, done.stderr.strip())
        backend.record(backend.context.entry(script, None, "failed", 0, started, error=str(failure)))
        raise failure
    if script.name not in (backend.ledger.read()[0] or {}):
        raise ScriptFailed(script, "psql ended without an error, but before the script's end")


def _write_script(backend, script, path):
    with script.open() as source, open(path, "wb") as target:
        if backend.context.placeholders.values:
            target.write(backend.context.placeholders.fill(source.read().decode()).encode())
        else:
            shutil.copyfileobj(source, target)


def _environment(backend, passfile):
    params = backend.params
    options = {
        "PGHOST": params.get("login_unix_socket") or params["login_host"], "PGPORT": params["login_port"],
        "PGUSER": params["login_user"], "PGDATABASE": backend.context.database, "PGPASSFILE": passfile,
        "PGCLIENTENCODING": "UTF8", "PGAPPNAME": "schema_apply",
        **{f"PG{name.upper()}": params[option] for name, option in _SECURITY.items() if params.get(option)},
    }
    return {**os.environ, **{name: str(value) for name, value in options.items()}}


def _failure(backend, script, said):
    said = backend.context.placeholders.mask(said)
    found = _ERROR.search(said)
    line, message = (int(found.group(1)), found.group(2)) if found else (None, said)
    return ScriptFailed(script, message, line=line, remains="Nothing of the script remains in the database.")
