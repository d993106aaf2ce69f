# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's password verifiers: computed here, so that the server (and its log) never gets the clear password."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stringprep
import unicodedata
from base64 import b64decode, b64encode

_SCRAM = re.compile(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/]+=*)\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=")
_MD5 = re.compile(r"md5[0-9a-f]{32}")
_PROHIBITED = (
    stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
    stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8,
    stringprep.in_table_c9, stringprep.in_table_a1,
)


def verifier(password, user, method, iterations=4096):
    """What the server stores for `password` of `user`.

    method: the server's password_encryption; anything but md5 means scram-sha-256.
    A password that already has the form of a verifier is taken as one, as the server itself does.
    """
    if is_verifier(password):
        return password
    if method == "md5":
        return _md5(password, user)
    return _scram(password, os.urandom(16), iterations)


def is_verifier(text):
    """Whether `text` is a stored form, not a clear password."""
    return bool(_SCRAM.fullmatch(text) or _MD5.fullmatch(text))


def matches(password, user, stored, method):
    """Whether `stored` (None for no password) is a verifier of `password`, and no weaker than `method` asks for."""
    if stored is None:
        return False
    if is_verifier(password):
        return hmac.compare_digest(password, stored)
    scram = _SCRAM.fullmatch(stored)
    if scram:
        return hmac.compare_digest(_scram(password, b64decode(scram.group(2)), int(scram.group(1))), stored)
    return method == "md5" and hmac.compare_digest(_md5(password, user), stored)


def _md5(password, user):
    return "md5" + hashlib.md5((password + user).encode(), usedforsecurity=False).hexdigest()


def _scram(password, salt, iterations):
    """RFC 5803's form of RFC 5802's keys."""
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password).encode(), salt, iterations)
    client, server = (hmac.digest(salted, label, "sha256") for label in (b"Client Key", b"Server Key"))
    stored = hashlib.sha256(client).digest()
    keys = ":".join(b64encode(key).decode() for key in (stored, server))
    return f"SCRAM-SHA-256${iterations}:{b64encode(salt).decode()}${keys}"


def _prepared(password):
    """SASLprep (RFC 4013); like the server, the password as it is where SASLprep does not allow it."""
    if password.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in password if not stringprep.in_table_b1(char)
    )
    # Like the server, and unlike the RFC, these look at what has not been normalized yet.
    if any(prohibited(char) for char in mapped for prohibited in _PROHIBITED):
        return password
    if any(map(stringprep.in_table_d1, mapped)) and (
        any(map(stringprep.in_table_d2, mapped))
        or not (stringprep.in_table_d1(mapped[0]) and stringprep.in_table_d1(mapped[-1]))
    ):
        return password
    return unicodedata.normalize("NFKC", mapped) or password
