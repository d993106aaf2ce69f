# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The difference between declared access and a ClickHouse server's, as SQL statements."""

from __future__ import annotations

import hashlib
import secrets
from typing import NamedTuple

from .clickhouse import quote_identifier, quote_string
from .clickhouse_access import ACCESS_SPEC, LIMITS, QUOTA_KEYS, host_key
from .clickhouse_fingerprint import fingerprint, masked, owner, remembers
from .clickhouse_rights import WITH_OPTION, Item, Refused, Rights, plan_rights

MASK = "'********'"
_FIRST_END = "1970-01-02"  # what never ends is shown as the beginning of time, in the server's zone
SEVERAL_METHODS = (24, 9)  # the first version where a user may have two passwords


class Statement(NamedTuple):
    """sql: what is run; shown: the same with secrets masked."""

    sql: str
    shown: str


class Planner:
    """Makes the statements for one server's difference; `plan()` returns them in the order in which they work.

    logs_in(user, row): whether the declared passwords let the user in, None where that cannot be seen from here.
    may_come(hosts): whether a user with these hosts, as stored_hosts() has them, may log in from here.
    format_filter(text): a row policy's condition as the server writes it. version: the server's.
    """

    def __init__(self, declared, catalogue, privileges, version, *, exclusive=(), cluster=None, login_user=None,
                 logs_in=lambda user, row: True, may_come=lambda hosts: True, format_filter=str):
        self.declared = {kind: declared.get(kind) or [] for kind in ACCESS_SPEC}
        self.has, self.privileges, self.version = catalogue, privileges, version
        self.exclusive, self.login_user = exclusive, login_user  # exclusive never takes the user of this login
        self.logs_in, self.may_come, self.format_filter = logs_in, may_come, format_filter
        self._on = f" ON CLUSTER {quote_identifier(cluster)}" if cluster else ""
        self._statements = []

    def _say(self, sql, shown=None):
        self._statements.append(Statement(sql, shown or sql))

    def _each(self, kind):
        for index, entry in enumerate(self.declared[kind]):
            if entry["state"] == "present":
                yield f"{kind}[{index}] ({entry['name']})", entry, quote_identifier(entry["name"])

    def plan(self):
        """The statements. Refused for what cannot be."""
        self._databases()
        self._profiles()
        users = {*self.has.users, *(user["name"] for _item, user, _name in self._each("users"))}
        for item, role, name in self._each("roles"):
            if role["name"] in users:
                raise Refused(
                    f"{item}: there is a user of the same name, who would get the role's rights, because ClickHouse "
                    "looks for a user first: give the role another name"
                )
            if role["name"] not in self.has.roles:
                self._say(f"CREATE ROLE IF NOT EXISTS {name}{self._on}")
            else:
                self._check_storage("roles", role["name"], item)
        for item, user, name in self._each("users"):
            self._user(item, user, name)
        for kind in ("roles", "users"):
            for item, holder, name in self._each(kind):
                self._role_grants(kind[:-1], item, holder, name)
                self._rights(kind[:-1], item, holder, name)
        self._quotas()
        self._policies()
        self._drops()
        return self._statements

    def _check_storage(self, kind, name, item):
        row = getattr(self.has, {"settings_profiles": "profiles"}.get(kind, kind))[name]
        if row.get("storage") == "users_xml":
            raise Refused(
                f"{item}: the server has it from a file (users.xml or users.d), which SQL cannot change: remove it "
                "there or here, or set storage to users_xml where this collection writes that file"
            )

    def _databases(self):
        for item, database, name in self._each("databases"):
            found = self.has.databases.get(database["name"])
            engine, comment = database.get("engine"), database.get("comment")
            if found is None:
                self._say(
                    f"CREATE DATABASE IF NOT EXISTS {name}{self._on}" + (f" ENGINE = {engine}" if engine else "")
                    + (f" COMMENT {quote_string(comment)}" if comment else "")
                )
                continue
            if engine and engine.split("(")[0].strip().lower() != found["engine"].lower():
                raise Refused(
                    f"{item}.engine: the database exists with the engine {found['engine']}, which cannot be changed"
                )
            if comment is not None and comment != found.get("comment", comment):
                self._say(f"ALTER DATABASE {name}{self._on} MODIFY COMMENT {quote_string(comment)}")

    # profiles

    def _profiles(self):
        for item, profile, name in self._each("settings_profiles"):
            settings = profile.get("settings") or {}
            constraints = {entry["name"]: entry for entry in profile.get("constraints") or []}
            wanted = {
                setting: (
                    setting_text(settings.get(setting)),
                    *((constraints.get(setting) or {}).get(key) for key in ("min", "max")),
                    (constraints.get(setting) or {}).get("writability"),
                )
                for setting in [*settings, *(key for key in constraints if key not in settings)]
            }
            inherit = profile.get("inherit") or []
            exists = profile["name"] in self.has.profiles
            if exists:
                self._check_storage("settings_profiles", profile["name"], item)
                rows = self.has.profile_elements.get(("profile", profile["name"]), [])
                found = {
                    row["setting_name"]: (row["value"], row["min"], row["max"], _writability(row))
                    for row in rows if row["setting_name"] is not None
                }
                if found == wanted and inherit == [
                    row["inherit_profile"] for row in rows if row["inherit_profile"] is not None
                ]:
                    continue
            elements = [f"INHERIT {quote_identifier(parent)}" for parent in inherit]
            for setting, (value, low, high, writability) in wanted.items():
                elements.append(
                    setting + (f" = {quote_string(value)}" if value is not None else "")
                    + (f" MIN {quote_string(low)}" if low is not None else "")
                    + (f" MAX {quote_string(high)}" if high is not None else "")
                    + (f" {writability.upper()}" if writability else "")
                )
            verb = "ALTER SETTINGS PROFILE" if exists else "CREATE SETTINGS PROFILE IF NOT EXISTS"
            self._say(f"{verb} {name}{self._on} SETTINGS {', '.join(elements) or 'NONE'}")

    # users

    def _user(self, item, user, name):
        row = self.has.users.get(user["name"])
        if row is not None:
            self._check_storage("users", user["name"], item)
        changes, shown = [], []
        remembered = [quota for quota in self.has.quotas if owner(quota) == user["name"]]
        sets = row is None or self._login_differs(user, row, remembered)
        if sets:
            if user["auth"] == "sha256_password" and not user.get("password"):
                raise Refused(f"{item}.password: is missing, and the user does not exist yet")
            sql, masked_sql = self._identified(user, item, valid_until(row))
            changes.append(sql)
            shown.append(masked_sql)
            self._forget(remembered)
        hosts = user.get("hosts")
        moves = hosts is not None and (row is None or _host_keys(hosts) != stored_hosts(row))
        if moves:
            changes.append(_host_sql(hosts))
        if user.get("default_database") is not None and user["default_database"] != (row or {}).get("default_database"):
            changes.append(f"DEFAULT DATABASE {quote_identifier(user['default_database'])}")
        profile = user.get("profile")
        elements = self.has.profile_elements.get(("user", user["name"]), [])
        inherited = [row["inherit_profile"] for row in elements if row["inherit_profile"] is not None]
        if profile is not None and inherited != [profile]:
            changes.append(f"SETTINGS PROFILE {quote_identifier(profile)}")
        if row is None or changes:
            verb = "ALTER USER" if row is not None else "CREATE USER IF NOT EXISTS"
            head = f"{verb} {name}{self._on} "
            self._say(head + " ".join(changes), head + " ".join([*shown, *changes[len(shown):]]))
        if user.get("password") and (sets or user["update_password"] == "always"):
            kinds = _host_keys(hosts) if hosts is not None else stored_hosts(row) if row else {("ANY", "")}
            unseen = valid_until(row) or not self.may_come(kinds)
            self._remember(user, remembered, sets, (sets or moves) and unseen)

    def _forget(self, remembered):
        """Before anything else happens to a password: a run that is cut off must not leave one that is remembered."""
        for quota in remembered:
            self._say(f"DROP QUOTA IF EXISTS {quote_identifier(quota)}{self._on}",
                      f"DROP QUOTA IF EXISTS {quote_identifier(masked(quota))}{self._on}")

    def _remember(self, user, remembered, sets, unseen):
        """Keep the fingerprint of what the user has now, where the next run could not find that out by a login."""
        passwords = _passwords(user)
        if not sets and any(remembers(quota, passwords) for quota in remembered):
            return
        if not sets:
            self._forget(remembered)
        if remembered or unseen:
            head = "CREATE QUOTA IF NOT EXISTS "
            tail = f"{self._on} NOT KEYED TO NONE"
            self._say(f"{head}{quote_identifier(fingerprint(user['name'], passwords))}{tail}",
                      f"{head}{quote_identifier('password of ' + user['name'] + ': ********')}{tail}")

    def _login_differs(self, user, row, remembered):
        if user["auth"] == "no_password":
            return row["auth_type"] != ["no_password"]
        if not user.get("password") or user["update_password"] == "on_create":
            return False
        expected = ["sha256_password"] * (2 if user.get("previous_password") else 1)
        if user["update_password"] == "force" or row["auth_type"] != expected:
            return True
        works = self.logs_in(user, row)
        return not works if works is not None else not any(remembers(one, _passwords(user)) for one in remembered)

    def _identified(self, user, item, until):
        """IDENTIFIED … with salted hashes, so that no statement, log or error message holds a password.

        until: the end that the user has, and that would go with its old passwords.
        """
        if user["auth"] == "no_password":
            return ("IDENTIFIED WITH no_password",) * 2
        passwords = _passwords(user)
        if len(passwords) > 1 and self.version < SEVERAL_METHODS:
            raise Refused(
                f"{item}.previous_password: two passwords at once need ClickHouse "
                f"{'.'.join(map(str, SEVERAL_METHODS))}; this server is {'.'.join(map(str, self.version))}"
            )
        methods, end = [], f" VALID UNTIL {quote_string(until)}" if until else ""
        for password in passwords:
            salt = secrets.token_hex(32)
            digest = hashlib.sha256((password + salt).encode("utf-8", "surrogateescape")).hexdigest()
            methods.append(f"sha256_hash BY '{digest}' SALT '{salt}'{end}")
        shown = ", ".join([f"sha256_hash BY {MASK} SALT {MASK}{end}"] * len(methods))
        return f"IDENTIFIED WITH {', '.join(methods)}", f"IDENTIFIED WITH {shown}"

    # rights

    def _role_grants(self, kind, item, holder, name):
        plain, admin = holder.get("roles"), holder.get("admin_roles")
        if plain is None and admin is None and "grants" not in self.exclusive:
            return
        has = self.has.role_grants.get((kind, holder["name"]), {})
        wanted = {**dict.fromkeys(plain or [], False), **dict.fromkeys(admin or [], True)}
        known = {*self.has.roles, *(role["name"] for _item, role, _name in self._each("roles"))}
        for role in wanted:
            if role not in known:
                raise Refused(f"{item}.roles: there is no role {role!r}; declare it under roles")
        for role, option in wanted.items():
            if role not in has or (option and not has[role]):
                suffix = " WITH ADMIN OPTION" if option else ""
                self._say(f"GRANT{self._on} {quote_identifier(role)} TO {name}{suffix}")
        if "grants" in self.exclusive:
            for role, option in sorted(has.items()):
                if role not in wanted:
                    self._say(f"REVOKE{self._on} {quote_identifier(role)} FROM {name}")
                elif option and not wanted[role]:
                    self._say(f"REVOKE{self._on} ADMIN OPTION FOR {quote_identifier(role)} FROM {name}")

    def _rights(self, kind, item, holder, name):
        exclusive = "grants" in self.exclusive
        if not exclusive and not holder.get("grants") and not holder.get("revokes"):
            return
        lists = [
            [Item(entry, f"{item}.{key}[{at}]", self.privileges) for at, entry in enumerate(holder.get(key) or [])]
            for key in ("grants", "revokes")
        ]
        actual = self.has.rights.get((kind, holder["name"])) or Rights()
        for verb, rights, level in plan_rights(actual, *lists, self.privileges, exclusive):
            if verb == "GRANT":
                suffix = " WITH GRANT OPTION" if level == WITH_OPTION else ""
                self._say(f"GRANT{self._on} {rights} TO {name}{suffix}")
            else:
                option = " GRANT OPTION FOR" if verb != "REVOKE" else ""
                self._say(f"REVOKE{self._on}{option} {rights} FROM {name}")

    # quotas and row policies: replaced at once, because nothing refers to them

    def _quotas(self):
        for item, quota, name in self._each("quotas"):
            wanted = {
                interval["seconds"]: (
                    interval["randomized"], {key: interval[key] for key in LIMITS if interval.get(key) is not None},
                ) for interval in quota.get("intervals") or []
            }
            found = self.has.quotas.get(quota["name"])
            if found is not None:
                self._check_storage("quotas", quota["name"], item)
                limits = {
                    seconds: (bool(row["is_randomized_interval"]), {
                        key: row[f"max_{key}"] for key in LIMITS if row.get(f"max_{key}") is not None
                    }) for seconds, row in found["limits"].items()
                }
                if (
                    limits == wanted and found["keys"] == QUOTA_KEYS[quota["keyed_by"]]
                    and sorted(found["apply_to_list"]) == sorted(quota.get("to") or []) and not found["apply_to_all"]
                ):
                    continue
            keyed = QUOTA_KEYS[quota["keyed_by"]]
            parts = [f"KEYED BY {', '.join(keyed)}" if keyed else "NOT KEYED"]
            for seconds, (randomized, limits) in wanted.items():
                maxima = ", ".join(f"{key} = {value}" for key, value in limits.items())
                parts.append(
                    f"FOR {'RANDOMIZED ' if randomized else ''}INTERVAL {seconds} second "
                    + (f"MAX {maxima}" if maxima else "TRACKING ONLY")
                    + ("," if seconds != list(wanted)[-1] else "")
                )
            verb = "CREATE QUOTA OR REPLACE" if found else "CREATE QUOTA IF NOT EXISTS"
            self._say(f"{verb} {name}{self._on} {' '.join(parts)} TO {_to_sql(quota)}")

    def _policies(self):
        for item, policy, name in self._each("row_policies"):
            found = self.has.row_policies.get((policy["name"], policy["database"], policy["table"]))
            condition = self.format_filter(policy["filter"])
            if found is not None:
                if found.get("storage") == "users_xml":
                    raise Refused(f"{item}: the server has it from a file, which SQL cannot change")
                if (
                    condition == self.format_filter(found["select_filter"] or "1")
                    and bool(found["is_restrictive"]) == policy["restrictive"]
                    and sorted(found["apply_to_list"]) == sorted(policy.get("to") or []) and not found["apply_to_all"]
                ):
                    continue
            verb = "CREATE ROW POLICY OR REPLACE" if found else "CREATE ROW POLICY IF NOT EXISTS"
            self._say(
                f"{verb} {name}{self._on} ON {_table_sql(policy)} FOR SELECT USING {condition} "
                f"AS {'RESTRICTIVE' if policy['restrictive'] else 'PERMISSIVE'} TO {_to_sql(policy)}"
            )

    # drops

    def _drops(self):
        for key, row in sorted(self.has.row_policies.items()):
            if self._is_to_go("row_policies", key, row):
                short_name, database, table = key
                where = _table_sql({"database": database, "table": table})
                self._say(f"DROP ROW POLICY IF EXISTS {quote_identifier(short_name)} ON {where}{self._on}")
        for kind, found, word in (
            ("quotas", self.has.quotas, "QUOTA"), ("users", self.has.users, "USER"), ("roles", self.has.roles, "ROLE"),
            ("settings_profiles", self.has.profiles, "SETTINGS PROFILE"),
        ):
            for name, row in sorted(found.items()):
                if self._is_to_go(kind, (name, None, None), row):
                    if kind == "users":
                        self._forget([quota for quota in self.has.quotas if owner(quota) == name])
                    self._say(f"DROP {word} IF EXISTS {quote_identifier(name)}{self._on}")
        for database in self.declared["databases"]:
            if database["state"] == "absent" and database["name"] in self.has.databases:
                self._say(f"DROP DATABASE IF EXISTS {quote_identifier(database['name'])}{self._on} SYNC")

    def _is_to_go(self, kind, key, row):
        states = {
            (entry["name"], entry.get("database"), entry.get("table")): entry["state"] for entry in self.declared[kind]
        }
        name = key[0]
        if states.get(key) == "absent":
            if kind == "users" and name == self.login_user:
                raise Refused(f"users: {name!r} is the user that this task logs in as; it cannot remove itself")
            if row.get("storage") == "users_xml":
                raise Refused(f"{kind}: {name!r} is in the server's files, from where SQL cannot remove it")
            return True
        return (
            kind in self.exclusive and key not in states and row.get("storage") not in ("users_xml", "ldap")
            and not (kind == "users" and name == self.login_user) and not (kind == "quotas" and owner(name) is not None)
        )


def _passwords(user):
    return [user["password"], *filter(None, [user.get("previous_password")])]


def setting_text(value):
    """A declared value as the server shows it."""
    if value is None:
        return None
    return str(int(value)) if isinstance(value, bool) else str(value)


def _writability(row):
    if "writability" in row:
        return row["writability"].lower() if row["writability"] else None
    return "const" if row.get("readonly") else None


def _host_keys(hosts):
    keys = {host_key(host) for host in hosts}
    return {("ANY", "")} if ("ANY", "") in keys else keys


def stored_hosts(row):
    """The hosts of a row of system.users in the form of host_key()."""
    keys = {host_key(host) for host in (*row["host_ip"], *row["host_names"])}
    keys |= {("LIKE", host) if host != "%" else ("ANY", "") for host in row["host_names_like"]}
    keys |= {("REGEXP", host) for host in row["host_names_regexp"]}
    return {("ANY", "")} if ("ANY", "") in keys else keys


def valid_until(row):
    """When the user of a row of system.users ends, that is the last of its passwords; None where it never does.

    Older servers keep that beside the passwords, show no list of it, and lose nothing.
    """
    ends = (row or {}).get("valid_until")
    if not isinstance(ends, list) or any(end < _FIRST_END for end in ends):
        return None
    return max(ends, default=None)


def _host_sql(hosts):
    parts = [
        f"{kind} {quote_string(text)}" if text else kind for kind, text in sorted(_host_keys(hosts))
    ]
    return f"HOST {', '.join(parts) or 'NONE'}"


def _table_sql(policy):
    table = "*" if policy["table"] == "*" else quote_identifier(policy["table"])
    return f"{quote_identifier(policy['database'])}.{table}"


def _to_sql(entry):
    return ", ".join(quote_identifier(name) for name in entry.get("to") or []) or "NONE"
