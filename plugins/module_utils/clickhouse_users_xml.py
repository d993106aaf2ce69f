# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Declared access to ClickHouse as the file users.xml, for a server that stores users in no other way."""

from __future__ import annotations

import hashlib
import re
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from .clickhouse import quote_identifier
from .clickhouse_access import host_key
from .clickhouse_plan import setting_text
from .clickhouse_rights import Refused, grant_paths, rights_sql

MARK = "Written by frameworks.database.clickhouse_access"
_TOKEN = re.compile(r"<rendered_([0-9a-f]{16})/>")
_HASH = re.compile(r"(?<=<password_sha256_hex>)[0-9a-f]{64}(?=</password_sha256_hex>)")
_ELEMENT = re.compile(r"[^\W\d][\w-]*")
_PRIVILEGE = re.compile(r"[A-Za-z][A-Za-z0-9_ ]*")
_KEYED_BY = {
    "user_name": "", "ip_address": "<keyed_by_ip/>", "forwarded_ip_address": "<keyed_by_forwarded_ip/>",
    "client_key_or_user_name": "<keyed/>",
}


def token_of(text):
    """The token that render() put into `text`, or None."""
    found = _TOKEN.search(text)
    return found.group(1) if found else None


def token_quota(token):
    """The name of the quota by which a server shows that it has loaded the file with this token."""
    return f"rendered_{token}"


def masked(text, other=""):
    """`text` without hashes and token, for a diff against `other`; a hash that `other` lacks is said to be new."""
    known = set(_HASH.findall(other))
    text = _HASH.sub(lambda found: "********" if found.group() in known or not known else "******** (new)", text)
    return _TOKEN.sub("", text)


def render(declared, token):
    """The file's text. `token` is 16 hexadecimal digits that tell one writing of the file from the next.

    declared: the options of ACCESS_SPEC, checked. Refused for what the file cannot hold.
    """
    present = {
        kind: [(f"{kind}[{index}] ({entry['name']})", entry) for index, entry in enumerate(declared.get(kind) or [])
               if entry["state"] == "present"]
        for kind in ("settings_profiles", "quotas", "roles", "users", "row_policies")
    }
    names = {kind: {entry["name"] for _item, entry in entries} for kind, entries in present.items()}
    lines = [f"<!-- {MARK}: changes made here are lost. -->", "<clickhouse>"]
    lines += _section("profiles", [_profile(item, entry, names) for item, entry in present["settings_profiles"]],
                      "default" in names["settings_profiles"])
    quotas = [_quota(item, entry, names) for item, entry in present["quotas"]]
    lines += _section("quotas", [*quotas, f"<rendered_{token}/>"], "default" in names["quotas"])
    if present["roles"]:
        lines += _section("roles", [_role(item, entry, names) for item, entry in present["roles"]], True)
    lines += _section("users", [_user(item, entry, names, present) for item, entry in present["users"]], True)
    text = "\n".join([*lines, "</clickhouse>", ""])
    try:
        ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise Refused(f"a name or a text in the declaration cannot be written to an XML file: {error}") from None
    return text


def _section(name, entries, has_default):
    lines = [f"  <{name}>"] + ([] if has_default else ["    <default/>"])
    for entry in entries:
        lines += [f"    {line}" for line in entry.split("\n")]
    return [*lines, f"  </{name}>"]


def _element(name, item):
    if not _ELEMENT.fullmatch(name):
        raise Refused(
            f"{item}: users.xml cannot hold the name {name!r}; there, use letters, digits, _ and -, beginning with a "
            "letter or _"
        )
    return name


def _wrap(name, lines):
    return "\n".join([f"<{name}>", *(f"  {part}" for line in lines for part in line.split("\n")), f"</{name}>"])


def _profile(item, profile, names):
    lines = []
    for parent in profile.get("inherit") or []:
        if parent not in {*names["settings_profiles"], "default"}:
            raise Refused(f"{item}.inherit: there is no profile {parent!r}; declare it under settings_profiles")
        lines.append(f"<profile>{escape(parent)}</profile>")
    for setting, value in (profile.get("settings") or {}).items():
        lines.append(f"<{setting}>{escape(setting_text(value))}</{setting}>")
    limits = []
    for entry in profile.get("constraints") or []:
        parts = [f"<{key}>{escape(entry[key])}</{key}>" for key in ("min", "max") if entry.get(key) is not None]
        if entry.get("writability") in ("const", "changeable_in_readonly"):
            parts.append(f"<{entry['writability']}/>")
        limits.append(_wrap(entry["name"], parts))
    if limits:
        lines.append(_wrap("constraints", limits))
    return _wrap(_element(profile["name"], item), lines)


def _quota(item, quota, names):
    if quota["keyed_by"] not in _KEYED_BY:
        raise Refused(f"{item}.keyed_by: users.xml knows only {', '.join(_KEYED_BY)}")
    for name in quota.get("to") or []:
        if name not in names["users"]:
            raise Refused(f"{item}.to: users.xml gives quotas to users only, and users has no {name!r}")
    lines = [keyed for keyed in [_KEYED_BY[quota["keyed_by"]]] if keyed]
    for interval in quota.get("intervals") or []:
        parts = [f"<duration>{interval['seconds']}</duration>"]
        parts += ["<randomize>true</randomize>"] if interval.get("randomized") else []
        parts += [
            f"<{key}>{value}</{key}>" for key, value in interval.items()
            if key not in ("seconds", "randomized") and value is not None
        ]
        lines.append(_wrap("interval", parts))
    return _wrap(_element(quota["name"], item), lines)


def _role(item, role, names):
    return _wrap(_element(role["name"], item), [_grants(item, role, names)])


def _grants(item, holder, names):
    """<grants>, which must be there even when it is empty: without it the user may do everything."""
    queries = []
    for key, verb in (("grants", "GRANT"), ("revokes", "REVOKE")):
        for index, entry in enumerate(holder.get(key) or []):
            where = f"{item}.{key}[{index}]"
            paths = grant_paths(entry, where)
            for privilege in entry["privileges"]:
                if not _PRIVILEGE.fullmatch(privilege):
                    raise Refused(f"{where}.privileges: {privilege!r} is not the name of a privilege")
            option = " WITH GRANT OPTION" if entry.get("grant_option") else ""
            queries.append(f"{verb} {rights_sql(entry['privileges'], paths, entry.get('object') is not None)}{option}")
    if holder.get("admin_roles"):
        raise Refused(f"{item}.admin_roles: users.xml cannot hold them; use roles")
    for role in holder.get("roles") or []:
        if role not in names["roles"]:  # the server would ignore it
            raise Refused(f"{item}.roles: there is no role {role!r}; declare it under roles")
        queries.append(f"GRANT {quote_identifier(role)}")
    return _wrap("grants", [f"<query>{escape(query)}</query>" for query in queries])


def _user(item, user, names, present):
    lines = [_password(item, user), _wrap("networks", _networks(item, user))]
    if user.get("profile") is not None:
        if user["profile"] not in {*names["settings_profiles"], "default"}:
            raise Refused(f"{item}.profile: there is no {user['profile']!r}; declare it under settings_profiles")
        lines.append(f"<profile>{escape(user['profile'])}</profile>")
    quotas = [quota["name"] for _item, quota in present["quotas"] if user["name"] in (quota.get("to") or [])]
    if len(quotas) > 1:
        raise Refused(f"{item}: users.xml holds one quota for a user, not {' and '.join(quotas)}")
    lines.append(f"<quota>{escape(quotas[0] if quotas else 'default')}</quota>")
    if user.get("default_database"):
        lines.append(f"<default_database>{escape(user['default_database'])}</default_database>")
    lines.append(_grants(item, user, names))
    lines += _filters(user, present["row_policies"], names)
    return _wrap(_element(user["name"], item), lines)


def _password(item, user):
    if user["auth"] == "no_password":
        return "<no_password/>"
    if not user.get("password"):
        raise Refused(f"{item}.password: is missing")
    if user["update_password"] != "always":
        raise Refused(f"{item}.update_password: users.xml always holds the declared password")
    hashes = [
        f"<password_sha256_hex>{hashlib.sha256(password.encode('utf-8', 'surrogateescape')).hexdigest()}"
        "</password_sha256_hex>"
        for password in (user["password"], user.get("previous_password")) if password
    ]
    if len(hashes) == 1:
        return hashes[0]
    return _wrap("auth_methods", [_wrap(name, [line]) for name, line in zip(("current", "previous"), hashes)])


def _networks(item, user):
    elements = {
        "ANY": ["<ip>::/0</ip>"], "LOCAL": ["<ip>127.0.0.1</ip>", "<ip>::1</ip>"],
    }
    lines = []
    for host in user["hosts"] if user.get("hosts") is not None else ["any"]:
        kind, text = host_key(host, f"{item}.hosts")
        if kind == "LIKE":
            raise Refused(f"{item}.hosts: users.xml cannot hold the pattern {host!r}")
        lines += elements.get(kind) or [f"<ip>{text}</ip>" if kind == "IP" else f"<host>{escape(text)}</host>"]
    return lines


def _filters(user, policies, names):
    """<databases>: the row policies of one user; several for a table let a row through when one of them does."""
    tables = {}
    for item, policy in policies:
        if policy["restrictive"]:
            raise Refused(f"{item}.restrictive: users.xml holds only permissive policies")
        for name in policy.get("to") or []:
            if name not in names["users"]:
                raise Refused(f"{item}.to: users.xml holds policies of users only, and users has no {name!r}")
        for key in ("database", "table"):
            _element(policy[key], f"{item}.{key}")
        if user["name"] in (policy.get("to") or []):
            tables.setdefault(policy["database"], {}).setdefault(policy["table"], []).append(policy["filter"].strip())
    databases = []
    for database, inside in tables.items():
        conditions = {
            table: texts[0] if len(texts) == 1 else " OR ".join(f"({text})" for text in texts)
            for table, texts in inside.items()
        }
        databases.append(_wrap(database, [
            _wrap(table, [f"<filter>{escape(condition)}</filter>"]) for table, condition in conditions.items()
        ]))
    return [_wrap("databases", databases)] if databases else []
