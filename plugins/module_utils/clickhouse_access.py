# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may be declared about access to ClickHouse: the options, and what is wrong with them whatever the server has."""

from __future__ import annotations

import ipaddress
import re

from .clickhouse_rights import Refused

LIMITS = (
    "queries", "query_selects", "query_inserts", "errors", "result_rows", "result_bytes", "read_rows", "read_bytes",
    "execution_time", "written_bytes", "failed_sequential_authentications",
)
QUOTA_KEYS = {
    "none": [], "user_name": ["user_name"], "ip_address": ["ip_address"],
    "forwarded_ip_address": ["forwarded_ip_address"], "client_key": ["client_key"],
    "client_key_or_user_name": ["client_key", "user_name"], "client_key_or_ip_address": ["client_key", "ip_address"],
}
EXCLUSIVE = ("grants", "users", "roles", "row_policies", "quotas", "settings_profiles")
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")

_STATE = {"type": "str", "choices": ["present", "absent"], "default": "present"}
_NAMES = {"type": "list", "elements": "str"}
_REVOKE_SPEC = {
    "privileges": {"type": "list", "elements": "str", "required": True},
    "database": {"type": "str"},
    "table": {"type": "str", "default": "*"},
    "columns": _NAMES,
    "object": {"type": "str"},
}
_GRANT_SPEC = {**_REVOKE_SPEC, "grant_option": {"type": "bool", "default": False}}
_RIGHTS_SPEC = {
    "grants": {"type": "list", "elements": "dict", "options": _GRANT_SPEC},
    "revokes": {"type": "list", "elements": "dict", "options": _REVOKE_SPEC},
    "roles": _NAMES,
    "admin_roles": _NAMES,
}

ACCESS_SPEC = {
    "databases": {"type": "list", "elements": "dict", "options": {
        "name": {"type": "str", "required": True},
        "engine": {"type": "str"},
        "comment": {"type": "str"},
        "state": _STATE,
        "drop_data": {"type": "bool", "default": False},
    }},
    "settings_profiles": {"type": "list", "elements": "dict", "options": {
        "name": {"type": "str", "required": True},
        "settings": {"type": "dict"},
        "constraints": {"type": "list", "elements": "dict", "options": {
            "name": {"type": "str", "required": True},
            "min": {"type": "str"},
            "max": {"type": "str"},
            "writability": {"type": "str", "choices": ["writable", "const", "changeable_in_readonly"]},
        }},
        "inherit": _NAMES,
        "state": _STATE,
    }},
    "roles": {"type": "list", "elements": "dict", "options": {
        "name": {"type": "str", "required": True}, **_RIGHTS_SPEC, "state": _STATE,
    }},
    "users": {"type": "list", "elements": "dict", "options": {
        "name": {"type": "str", "required": True},
        "password": {"type": "str", "no_log": True},
        "previous_password": {"type": "str", "no_log": True},
        "update_password": {"type": "str", "choices": ["always", "on_create", "force"], "default": "always",
                            "no_log": False},
        "auth": {"type": "str", "choices": ["sha256_password", "no_password"], "default": "sha256_password"},
        "hosts": _NAMES,
        "default_database": {"type": "str"},
        "profile": {"type": "str"},
        **_RIGHTS_SPEC,
        "state": _STATE,
    }},
    "quotas": {"type": "list", "elements": "dict", "options": {
        "name": {"type": "str", "required": True},
        "keyed_by": {"type": "str", "choices": list(QUOTA_KEYS), "default": "user_name", "no_log": False},
        "intervals": {"type": "list", "elements": "dict", "options": {
            "seconds": {"type": "int", "required": True},
            "randomized": {"type": "bool", "default": False},
            **{limit: {"type": "float" if limit == "execution_time" else "int"} for limit in LIMITS},
        }},
        "to": _NAMES,
        "state": _STATE,
    }},
    "row_policies": {"type": "list", "elements": "dict", "options": {
        "name": {"type": "str", "required": True},
        "database": {"type": "str", "required": True},
        "table": {"type": "str", "required": True},
        "filter": {"type": "str"},
        "restrictive": {"type": "bool", "default": False},
        "to": _NAMES,
        "state": _STATE,
    }},
}


def check(declared):
    """Refused for declarations that contradict themselves; `declared` are the options of ACCESS_SPEC."""
    for kind in ACCESS_SPEC:
        seen = {}
        for index, entry in enumerate(declared.get(kind) or []):
            item = f"{kind}[{index}]"
            key = (entry["name"], entry.get("database"), entry.get("table"))
            for word in filter(lambda word: word is not None, key):
                check_name(word, item)
            for option in ("default_database", "profile", "inherit", "to"):
                names = entry.get(option)
                for word in [names] if isinstance(names, str) else names or []:
                    check_name(word, f"{item}.{option}")
            if key in seen:
                raise Refused(f"{item}: {entry['name']!r} is declared by {kind}[{seen[key]}] already; keep one of them")
            seen[key] = index
            _CHECKS.get(kind, lambda entry, item: None)(entry, item)


def check_name(name, item):
    """Refused for what cannot be a name."""
    if not name or "\0" in name:
        raise Refused(f"{item}: a name must not be empty or hold a NUL character")


def _check_user(user, item):
    item = f"{item} ({user['name']})"
    if user["state"] == "absent":
        return
    for key in ("password", "previous_password"):
        if user.get(key) is not None and not user[key].strip():
            raise Refused(f"{item}.{key}: is empty")
    if user["auth"] == "no_password" and (user.get("password") or user.get("previous_password")):
        raise Refused(f"{item}: auth no_password and a password exclude each other")
    if user.get("previous_password") and not user.get("password"):
        raise Refused(f"{item}.previous_password: needs password, the new one, beside it")
    if user.get("previous_password") and user["previous_password"] == user["password"]:
        raise Refused(f"{item}.previous_password: is the same as password; leave it out")
    for host in user.get("hosts") or []:
        host_key(host, f"{item}.hosts")
    both = set(user.get("roles") or []) & set(user.get("admin_roles") or [])
    if both:
        raise Refused(f"{item}: {min(both)!r} is in roles and in admin_roles; keep one of them")


def _check_profile(profile, item):
    for name in [*(profile.get("settings") or {}), *(entry["name"] for entry in profile.get("constraints") or [])]:
        if not _SETTING_NAME.fullmatch(str(name)):
            raise Refused(f"{item} ({profile['name']}): {name!r} is not the name of a setting")
    for name, value in (profile.get("settings") or {}).items():
        if isinstance(value, (dict, list)) or value is None:
            raise Refused(f"{item} ({profile['name']}).settings.{name}: give one value; limits go into constraints")


def _check_quota(quota, item):
    seconds = [interval["seconds"] for interval in quota.get("intervals") or []]
    if any(value <= 0 for value in seconds) or len(set(seconds)) != len(seconds):
        raise Refused(f"{item} ({quota['name']}).intervals: seconds must be positive and different from each other")


def _check_policy(policy, item):
    if policy["state"] == "present" and not (policy.get("filter") or "").strip():
        raise Refused(f"{item} ({policy['name']}).filter: is missing; '1' lets every row through")


def _check_database(database, item):
    if database["state"] == "absent" and not database["drop_data"]:
        raise Refused(
            f"{item} ({database['name']}): state absent would drop every table in it; "
            "add drop_data true if that is wanted"
        )
    if database["state"] == "absent" and database["name"].lower() in ("system", "default", "information_schema"):
        raise Refused(f"{item}: {database['name']!r} belongs to the server")


_CHECKS = {
    "users": _check_user, "settings_profiles": _check_profile, "quotas": _check_quota, "row_policies": _check_policy,
    "databases": _check_database,
}


def host_key(host, item="hosts"):
    """A declared or stored host in the one form that ClickHouse makes of all spellings: (kind, text)."""
    if host in ("any", "%", "::/0"):
        return "ANY", ""
    if host in ("local", "localhost"):
        return "LOCAL", ""
    try:
        network = ipaddress.ip_network(host, strict=False)
    except ValueError:
        if not host or re.search(r"[\s/\0]", host):
            raise Refused(f"{item}: {host!r} is neither an address, a network, a host name nor a pattern") from None
        return ("LIKE" if "%" in host else "NAME"), host
    if network.num_addresses == 1:
        return ("LOCAL", "") if network.is_loopback else ("IP", str(network.network_address))
    return "IP", str(network)
