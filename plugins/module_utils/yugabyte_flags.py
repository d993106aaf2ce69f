# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flags of YugabyteDB's servers: those of a flag file or an inventory, and those with which a process runs.

They may differ: yb-ts-cli's set_flag changes a running server, and its flag file is read at the next start only.
"""

from __future__ import annotations

import re

from .yugabyte import get

MASKED = "***"  # what a server shows in place of a value that it takes for a secret
# As gflags reads them, in any case of letters.
_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
_NUMBER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|\d+(\.\d*)?([eE][-+]?\d+)?)")
# Rules of access may hold the password of a directory's account; how YSQL stores passwords is no secret.
SECRET = re.compile(r"passwd|password(?!_encryption)|passphrase|secret|token|_key\b", re.IGNORECASE)


def in_force(host, port):
    """{flag: value} of the server with that page, and the flags of which it has its own value. Raises YugabyteError."""
    listed = get(host, port, "/api/v1/varz", timeout=3).get("flags", [])
    return {one["name"]: str(one["value"]) for one in listed}, {
        one["name"] for one in listed if one.get("type") == "Default"
    }


def read(text, known):
    """{flag: value} of a flag file, as gflags reads it; `known` are the names of the server's flags."""
    found = {}
    for line in map(str.lstrip, text.splitlines()):
        if not line.startswith("-"):
            continue
        name, equals, value = line.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if not equals:
            value = "true"
            if name not in known and name.startswith("no"):
                name, value = name[2:], "false"
        found[name] = value
    return found


def same(declared, running):
    """Whether a value as somebody writes it is the one that a server shows, in gflags' own form."""
    if declared == running:
        return True
    if running in ("true", "false"):
        return declared.lower() in (_TRUE if running == "true" else _FALSE)
    if _NUMBER.fullmatch(declared) and _NUMBER.fullmatch(running):
        return _number(declared) == _number(running)
    return False


def _number(text):
    if "x" in text.lower():
        return int(text, 16)
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def differing(declared, running, own=()):
    """[{"flag", "declared", "running"}] of the declared flags with another value in force, secrets masked.

    A flag that the release does not know is in force nowhere; one that it shows masked may be as declared. `own` are
    the flags that have a value of the server's: with a negative one it is asked to choose.
    """
    found = []
    for flag in sorted(set(declared) & set(running)):
        wanted, here = declared[flag], running[flag]
        wanted = str(wanted).lower() if isinstance(wanted, bool) else str(wanted)
        if here == MASKED or same(wanted, here) or (flag in own and wanted.startswith("-")):
            continue
        if "hba" in flag or SECRET.search(f"{flag} {wanted} {here}"):
            wanted = here = MASKED
        found.append({"flag": flag, "declared": wanted, "running": here})
    return found
