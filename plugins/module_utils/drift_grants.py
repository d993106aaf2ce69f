# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Grants that the inventory declares are no drift: postgres_access gives and takes them between two runs."""

from __future__ import annotations

import re

PREFIX = "grants on "
# As the server writes them in an access list, and in which order.
_ORDER = "arwdDxtXUCTcsAm"
_LETTERS = {
    "INSERT": "a", "SELECT": "r", "UPDATE": "w", "DELETE": "d", "TRUNCATE": "D", "REFERENCES": "x", "TRIGGER": "t",
    "EXECUTE": "X", "USAGE": "U", "CREATE": "C", "CONNECT": "c", "TEMPORARY": "T", "TEMP": "T", "MAINTAIN": "m",
}
_KINDS = {
    "table": "tables", "view": "tables", "materialized view": "tables", "foreign table": "tables",
    "sequence": "sequences", "function": "functions", "procedure": "functions", "aggregate": "functions",
    "schema": "schema", "database": "database", "default tables of": "future_tables",
    "default sequences of": "future_sequences", "default functions of": "future_functions",
}
_OBJECT = re.compile(rf"({'|'.join(sorted(_KINDS, key=len, reverse=True))}) (.*)", re.S)
_IDENTIFIER = r'("(?:[^"]|"")*"|[^".(]*)'
_QUALIFIED = re.compile(rf"{_IDENTIFIER}\.{_IDENTIFIER}(\(.*\))?", re.S)
_ITEM = re.compile(r'("(?:[^"]|"")*"|[^"=]*)=([A-Za-z*]*)/(.*)', re.S)
_PRIVILEGE = re.compile(r"[A-Za-z]\*?")


def _name(text):
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def _quoted(name):
    return name if re.fullmatch(r"\w*", name) else '"' + name.replace('"', '""') + '"'


def _listed(value):
    """A list, as a task may give it: one name, names with commas, or a list."""
    names = value.split(",") if isinstance(value, str) else value or ()
    return [str(name).strip() for name in names]


def _entries(text):
    """The privileges of an access list as {(grantee, grantor, letter)}, those that may be granted on also with a *."""
    found = set()
    for line in text.split("\n") if text not in ("", "none") else ():
        item = _ITEM.fullmatch(line)
        if item is None:
            return None  # a line break in a role's name
        for privilege in _PRIVILEGE.findall(item[2]):
            found |= {(_name(item[1]), _name(item[3]), part) for part in (privilege[0], privilege)}
    return found


def _text(entries, live):
    """The access list of `entries`, its lines in the order of the text `live`."""
    lines = {}
    for grantee, grantor, letter in sorted(entries, key=lambda entry: _ORDER.index(entry[2][0])):
        if len(letter) == 2 or (grantee, grantor, f"{letter}*") not in entries:
            lines.setdefault((grantee, grantor), []).append(letter)
    found = {f"{_quoted(grantee)}={''.join(held)}/{_quoted(grantor)}" for (grantee, grantor), held in lines.items()}
    kept = [line for line in live.split("\n") if line in found]
    return "\n".join(kept + sorted(found - set(kept))) or "none"


class Declared:
    """The grants of postgres_access for one database, as a task gives them."""

    def __init__(self, grants, database):
        self._grants = [grant for grant in grants if grant.get("database") == database]

    def _stays(self, name, entry, roles):
        """Whether a recorded privilege that is gone has to be there still."""
        return self._wish(name, *entry) != "absent" and (entry[0] in roles or not entry[0])

    def _wish(self, name, grantee, _grantor, letter):
        """present or absent, as the last grant says that speaks of this privilege; None where none does."""
        wish = None
        for grant in self._grants:
            privileges = {word.upper() for word in _listed(grant.get("privileges"))}
            every = bool(privileges & {"ALL", "ALL PRIVILEGES"})
            roles = {"" if role.lower() == "public" else role for role in _listed(grant.get("roles"))}
            means = grantee in roles and (every or letter[0] in map(_LETTERS.get, privileges))
            if means and _is_about(grant, name[len(PREFIX):]):
                state = grant.get("state", "present")
                if len(letter) == 1 or state == "absent":
                    wish = state
                elif grant.get("grant_option") is not None:
                    wish = "present" if grant["grant_option"] else "absent"
        return wish

    def expected(self, recorded, live, usual, roles):
        """`recorded` with what the declared grants have changed by now in `live`.

        usual(names): {name: access list of such an object that nobody has touched}, for the objects that there are.
        roles(): the names of all roles. Grants of a role went with it when it was dropped.
        """
        differing = [
            name for name in sorted(set(recorded) | set(live))
            if name.startswith(PREFIX) and recorded.get(name) != live.get(name)
        ]
        if not differing:
            return recorded
        untouched = usual([name for name in differing if name not in recorded or name not in live])
        existing, result = roles(), dict(recorded)
        for name in differing:
            before, after = (_entries(side.get(name, untouched.get(name, ""))) for side in (recorded, live))
            if name not in live and name not in untouched:  # the object is gone, or has the built-in default privileges
                after = None if not name.startswith(f"{PREFIX}default ") else {
                    entry for entry in before or () if " in schema " not in name and entry[0] in ("", entry[1])
                }
            if before is None or after is None:
                continue
            merged = {entry for entry in before - after if self._stays(name, entry, existing)} | before & after
            merged |= {entry for entry in after - before if self._wish(name, *entry) == "present"}
            if merged == after:
                result.pop(name, None)
                result.update({name: live[name]} if name in live else {})
            elif merged != before:
                result[name] = _text(merged, live.get(name, ""))
        return result


def _is_about(grant, name):
    """Whether a declared grant is about the object `name` of a fingerprint."""
    found = _OBJECT.fullmatch(name)
    if found is None or _KINDS[found[1]] not in _listed(grant.get("type")):
        return False
    kind, rest, schemas = _KINDS[found[1]], found[2], _listed(grant.get("schemas"))
    if kind == "database":
        return True
    if kind == "schema":
        return _name(rest) in schemas
    if kind.startswith("future_"):
        owner, _in, schema = rest.partition(" in schema ")
        return owner in _listed(grant.get("for_roles")) and (_name(schema) in schemas if _in else not schemas)
    parts = _QUALIFIED.fullmatch(rest)
    if parts is None or _name(parts[1]) not in schemas:
        return False
    objects, own = grant.get("objects"), _name(parts[2])
    named = own + re.sub(r"\s", "", parts[3] or "")
    return not objects or any(re.sub(r"\s", "", one) in (own, named) for one in _objects(objects))


def _objects(value):
    """Like _listed(), but a function's arguments have commas too."""
    return re.findall(r"[^,(]+(?:\([^)]*\))?", value) if isinstance(value, str) else value
