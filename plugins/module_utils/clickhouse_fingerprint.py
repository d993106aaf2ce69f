# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Remember which password a ClickHouse user was given, where no login from here can tell.

The fingerprint is kept in the server, or in what its servers share, as the name of a quota that applies to nobody.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
import secrets

# As many as OWASP asks for: whoever may see quotas must not find a password by trying.
ROUNDS = 600_000
_NAME = re.compile(r"password of (.*): ([0-9a-f]{32}):([0-9a-f]{64})", re.S)


@functools.cache
def _digest(passwords, salt):
    text = "\0".join(passwords).encode("utf-8", "surrogateescape")
    return hashlib.pbkdf2_hmac("sha256", text, bytes.fromhex(salt), ROUNDS).hex()


def fingerprint(user, passwords):
    """The name of the quota that remembers `passwords`, each time another."""
    salt = secrets.token_hex(16)
    return f"password of {user}: {salt}:{_digest(tuple(passwords), salt)}"


def owner(quota):
    """The user whose passwords a quota remembers; None where it is another kind of quota."""
    found = _NAME.fullmatch(quota)
    return found.group(1) if found else None


def remembers(quota, passwords):
    """Whether it is these passwords that the quota remembers."""
    _user, salt, digest = _NAME.fullmatch(quota).groups()
    return hmac.compare_digest(_digest(tuple(passwords), salt), digest)


def masked(quota):
    """The quota's name without the digest."""
    return f"{quota.rpartition(':')[0]}:********"
