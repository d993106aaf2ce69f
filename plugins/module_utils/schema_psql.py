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

from .interruptible import interruptible, program
from .postgres import stay
from .postgres_programs import environment, password_file
from .schema_plan import now
from .schema_scan import ScriptFailed
from .sql_script import ScriptError

_ERROR = re.compile(r"^psql:[^\n]*?:(\d+): (?!NOTICE|WARNING|INFO|warning)((?:(?!^psql:).)*)", re.S | re.M)
_NOT_OURS = "not the run that started psql"


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
    if scan.include:
        raise ScriptError(
            f"{scan.include.text}: the files beside a script are not there where psql runs it. Name the file by its "
            "whole path on the host that connects, or make it a script of the set", scan.include.line,
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
    stay(backend.connection)
    row = backend.context.entry(script, None, "applied", 0, started)
    with interruptible(), tempfile.TemporaryDirectory(prefix="schema_apply_") as folder:
        path = os.path.join(folder, "script.sql")
        _write_script(backend, script, path)
        passfile = password_file(backend.params, os.path.join(folder, "pass"))
        # psql lives on when the run is killed. Before it does anything it makes sure that it has not been so long
        # in starting that another run has begun; with its own lock in hand, no other one begins (see AdvisoryLock).
        # The row and COMMIT are one line: a script that reads the next one, by \prompt, takes both or none.
        wrapper = (
            f"{backend.lock.psql_lock()} \\gset schema_apply_\n"
            f"{backend.lock.psql_check('ours')} \\gset schema_apply_\n"
            "\\if :schema_apply_ours\n"
            f"{backend.become_owner()};\nBEGIN;\n\\i {path}\n{backend.row_sql(row)}; COMMIT;\n"
            f"\\else\n\\echo {_NOT_OURS}\n\\endif\n"
        )
        with program(
            [_psql(), "-X", "-q", "--no-password", "-v", "ON_ERROR_STOP=1", "-f", "-"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**environment(backend.params, backend.context.database, passfile), "PGCLIENTENCODING": "UTF8"},
        ) as psql:
            said, complaints = psql.communicate(wrapper)
    committed = _committed(backend, script)
    if said == f"{_NOT_OURS}\n":
        raise ScriptFailed(script, "psql reached a server on which this run does not hold its lock, and did nothing")
    if not committed:
        if not psql.returncode:
            complaints = f"psql ended without an error, but before the script's end\n{complaints}"
        failure = _failure(backend, script, complaints.strip())
        backend.record(backend.context.entry(script, None, "failed", 0, started, error=str(failure)))
        raise failure


def _committed(backend, script):
    """Whether psql has committed the script, though it may not have heard of it, once its session is over."""
    backend.lock.wait_for_psql(60)
    entry = (backend.ledger.read()[0] or {}).get(script.name)
    return entry is not None and (entry.status, entry.checksum) == ("applied", script.checksum)


def _write_script(backend, script, path):
    with script.open() as source, open(path, "wb") as target:
        if backend.context.placeholders.values:
            target.write(backend.context.placeholders.fill(source.read().decode()).encode())
        else:
            shutil.copyfileobj(source, target)


def _failure(backend, script, said):
    said = backend.context.placeholders.mask(said)
    found = _ERROR.search(said)
    line, message = (int(found.group(1)), found.group(2).rstrip()) if found else (None, said)
    if "lock timeout" in message:
        with script.open() as stream:
            message += backend.holders(stream.read(1 << 20).decode("utf-8", "replace"))
    return ScriptFailed(script, message, line=line, remains="Nothing of the script remains in the database.")
