# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The difference between declared users and databases and those that a server has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from .postgres import NAME_BYTES, quote_identifier, quote_literal
from .postgres_password import verifier

ATTRIBUTES = ("login", "superuser", "createdb", "createrole", "inherit", "replication", "bypassrls")
IMMUTABLE = ("encoding", "lc_collate", "lc_ctype")
MASK = "'********'"

# PostgreSQL stores these as lists of quoted names; other settings are one string each.
LIST_SETTINGS = {
    "search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries",
    "shared_preload_libraries",
}
_LIST_PART = re.compile(r'"((?:[^"]|"")*)"|([^,\s]+)')
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*")


class Refused(Exception):
    """What is declared cannot be; the text begins with the item, such as `users[1].owner`."""


class Statement(NamedTuple):
    """sql: what is run; shown: the same with secrets masked."""

    sql: str
    shown: str

    @classmethod
    def plain(cls, sql):
        return cls(sql, sql)


@dataclass
class Change:
    """One difference: `name` of the list `kind`, declared by `item`; state before and after; what to run for it.

    parts: what it consists of; two plans that share one want the same thing.
    """

    kind: str
    item: str
    name: str
    before: str
    after: str
    statements: list[Statement]
    parts: frozenset | None = None

    def __post_init__(self):
        if self.parts is None:
            self.parts = frozenset([(self.name, self.after)])

    @property
    def label(self):
        """How the module's result calls it: the bare name of a user or database, or the whole of a grant."""
        return f"{self.name}: {self.after}" if self.kind == "grants" else self.name.partition(" ")[2]


def check_name(name, item):
    """Raise Refused for a name that the server would refuse or, worse, cut short."""
    if not name or "\0" in name:
        raise Refused(f"{item}: a name must not be empty or hold a NUL character")
    if len(name.encode()) > NAME_BYTES:
        raise Refused(f"{item}: {name!r} is longer than {NAME_BYTES} bytes, the server would cut it short")


def index_by_name(declared, kind):
    """{name: index} of a declared list; raises Refused for a name that is unusable or there twice."""
    indexes = {}
    for index, entry in enumerate(declared):
        name = entry["name"]
        check_name(name, f"{kind}[{index}].name")
        if name in indexes:
            raise Refused(f"{kind}[{index}]: {name!r} is declared by {kind}[{indexes[name]}] already; keep one of them")
        indexes[name] = index
    return indexes


def check_users(users):
    """Refuse what is wrong with the declared users whatever the server has."""
    index_by_name(users, "users")
    for index, user in enumerate(users):
        item = f"users[{index}]"
        if user["name"].lower() == "public":
            raise Refused(f"{item}.name: PUBLIC is everybody, not a user; it may stand in grants[].roles")
        password = user["password"]
        if password is not None and (not password or "\0" in password):
            raise Refused(f"{item}.password: is empty or holds a NUL character; leave the key out for none")
        if user["name"] in (user["member_of"] or []):
            raise Refused(f"{item}.member_of: {user['name']!r} cannot be a member of itself")
        both = set(user["member_of"] or []) & set(user["not_member_of"] or [])
        if both:
            raise Refused(f"{item}: {min(both)!r} is in member_of and in not_member_of")
        for name in user["settings"] or {}:
            if not _SETTING_NAME.fullmatch(str(name)):
                raise Refused(f"{item}.settings: {name!r} is not the name of a setting")


def check_databases(databases, dialect):
    """Refuse what is wrong with the declared databases whatever the server has."""
    index_by_name(databases, "databases")
    for index, database in enumerate(databases):
        for option in (*IMMUTABLE, "template", "colocation"):
            if database[option] is not None and option not in dialect.database_options:
                raise Refused(
                    f"databases[{index}].{option}: {dialect.title} takes no {option} for a database; leave the key out"
                )


def plan_users(users, server, check_role, instants, password_holds):
    """The changes that make the declared users exist as declared; those that are to go are plan_drops()'s.

    server: read_server()'s answer. check_role(role, item): refuses a role that does not exist and is not declared.
    instants: {declared valid_until: the same moment as the server writes it}.
    password_holds(user): whether the declared password of an existing user is in force already.
    """
    roles, memberships = [], []
    for index, user in enumerate(users):
        if user["state"] == "absent":
            continue
        item = f"users[{index}]"
        current = server["roles"].get(user["name"])
        change = _plan_role(user, item, current, server, instants, password_holds)
        if change.statements:
            roles.append(change)
        for role in user["member_of"] or []:
            check_role(role, f"{item}.member_of")
        memberships += _plan_memberships(user, item, current, server["version"])
    # In this order: a user may be a member of one that is declared further down, or take the place of its member.
    return roles + sorted(memberships, key=lambda change: change.before.startswith("not in "))


def _plan_role(user, item, current, server, instants, password_holds):
    name, words, shown, before = user["name"], [], [], []

    def differs(word, old, hidden=None):
        words.append(word)
        shown.append(hidden or word)
        before.append(old)

    for attribute in ATTRIBUTES:
        wanted = user[attribute]
        if current is None and wanted is None and attribute == "login":
            wanted = True
        if wanted is not None and (current is None or current[attribute] != wanted):
            keyword = attribute.upper()
            differs(keyword if wanted else f"NO{keyword}", f"NO{keyword}" if wanted else keyword)
    limit, until = user["connection_limit"], user["valid_until"]
    if limit is not None and (current is None or current["connection_limit"] != limit):
        differs(f"CONNECTION LIMIT {limit:d}", f"CONNECTION LIMIT {current['connection_limit'] if current else -1}")
    if until is not None and (current is None or current["valid_until"] != instants[until]):
        differs(f"VALID UNTIL {quote_literal(until)}", f"VALID UNTIL '{current['valid_until'] if current else ''}'")
    if user["password"] is not None and (
        current is None or (user["update_password"] == "always" and not password_holds(user))
    ):
        secret = verifier(user["password"], name, server["password_encryption"], server["scram_iterations"])
        differs(f"PASSWORD {quote_literal(secret)}", "another PASSWORD", hidden=f"PASSWORD {MASK}")

    statements = []
    if current is None or words:
        verb = f"{'ALTER' if current else 'CREATE'} ROLE {quote_identifier(name)}"
        statements.append(Statement(" ".join([verb, "WITH", *words]), " ".join([verb, "WITH", *shown])))
    after = list(shown)
    for setting, wanted, old in _setting_differences(user["settings"] or {}, current):
        verb = f"ALTER ROLE {quote_identifier(name)}"
        target = ".".join(map(quote_identifier, setting.split(".")))
        action = f"RESET {target}" if wanted is None else f"SET {target} TO {wanted}"
        statements.append(Statement.plain(f"{verb} {action}"))
        after.append(f"{setting} {'unset' if wanted is None else wanted}")
        before.append(f"{setting} {'unset' if old is None else old}")
    was = ", ".join(before) if current else "absent"
    return Change("users", item, f"user {name}", was, ", ".join(after), statements)


def _setting_differences(settings, current):
    """(setting, its value as SQL or None for unset, what the server has) of each setting that differs."""
    stored = dict(entry.split("=", 1) for entry in (current and current["settings"]) or [])
    stored = {name.lower(): value for name, value in stored.items()}
    for setting, value in settings.items():
        old = stored.get(setting.lower())
        if value is None:
            if old is not None:
                yield setting, None, old
            continue
        if isinstance(value, bool):
            value = "on" if value else "off"
        if isinstance(value, str) and setting.lower() in LIST_SETTINGS:
            value = _split(value)
        if isinstance(value, list):
            value = [str(part) for part in value]
            if old is None or _split(old) != value:
                yield setting, ", ".join(map(quote_literal, value)) or "''", old
        elif old != str(value):
            yield setting, quote_literal(str(value)), old


def _split(text):
    """The parts of a list setting as the server stores it: quoted where need be, between commas."""
    return [
        quoted.replace('""', '"') if quoted else plain for quoted, plain in _LIST_PART.findall(text) if quoted or plain
    ]


def _plan_memberships(user, item, current, version):
    name, held = user["name"], current["memberships"] if current else []
    for role in user["member_of"] or []:
        if role not in [held_role for held_role, _grantor, usable in held if usable]:
            sql = f"GRANT {quote_identifier(role)} TO {quote_identifier(name)}"
            yield Change("users", item, f"user {name}", f"not in {role}", f"member of {role}", [Statement.plain(sql)])
    for role, grantor, _usable in held:
        if role in (user["not_member_of"] or []):
            sql = f"REVOKE {quote_identifier(role)} FROM {quote_identifier(name)}"
            if version >= 160000:  # where each grantor's membership is one of its own
                sql += f" GRANTED BY {quote_identifier(grantor)}"
            yield Change("users", item, f"user {name}", f"member of {role}", f"not in {role}", [Statement.plain(sql)])


def plan_databases(databases, server, check_role):
    """(changes that create databases, changes to existing ones) of those declared present."""
    creations, alterations = [], []
    for index, database in enumerate(databases):
        if database["state"] == "absent":
            continue
        item, name = f"databases[{index}]", database["name"]
        if database["owner"] is not None:
            check_role(database["owner"], f"{item}.owner")
        if name not in server["databases"]:
            creations.append(_plan_creation(database, item))
            continue
        alterations += _plan_alteration(database, item, server["databases"][name], server["encodings"])
    return creations, alterations


def _plan_creation(database, item):
    template = database["template"]
    if template is None and any(database[option] is not None for option in IMMUTABLE):
        template = "template0"  # the only one that may be copied into another encoding or locale
    options = [
        ("OWNER", database["owner"], quote_identifier),
        ("TEMPLATE", template, quote_identifier),
        ("ENCODING", database["encoding"], quote_literal),
        ("LC_COLLATE", database["lc_collate"], quote_literal),
        ("LC_CTYPE", database["lc_ctype"], quote_literal),
        ("COLOCATION", database["colocation"], lambda value: str(value).lower()),
        ("CONNECTION LIMIT", database["connection_limit"], str),
    ]
    words = [f"{keyword} = {write(value)}" for keyword, value, write in options if value is not None]
    sql = " ".join([f"CREATE DATABASE {quote_identifier(database['name'])}", *(["WITH", *words] if words else [])])
    after = ", ".join(words) or "present"
    return Change("databases", item, f"database {database['name']}", "absent", after, [Statement.plain(sql)])


def _plan_alteration(database, item, current, encodings):
    name = database["name"]
    if current["connection_limit"] == -2:
        raise Refused(f"{item}: a DROP DATABASE of {name!r} was cut off; finish it (state: absent and drop_data: true)")
    for option in IMMUTABLE:
        wanted = database[option]
        if wanted is not None and _plain(encodings.get(wanted, wanted)) != _plain(current[option]):
            raise Refused(
                f"{item}.{option}: {name!r} has {current[option]}, which cannot be changed to {wanted}: "
                "declare what it has, or dump it and restore it into a new database"
            )
    verb = f"ALTER DATABASE {quote_identifier(name)}"
    for option, sql in (
        ("owner", f"{verb} OWNER TO {quote_identifier(database['owner'] or '')}"),
        ("connection_limit", f"{verb} WITH CONNECTION LIMIT {database['connection_limit']}"),
    ):
        wanted, has, words = database[option], current[option], option.replace("_", " ")
        if wanted is not None and wanted != has:
            yield Change(
                "databases", item, f"database {name}", f"{words} {has}", f"{words} {wanted}", [Statement.plain(sql)]
            )


def _plain(locale):
    """Locales without what their spellings differ in: en_US.UTF-8 and en_US.utf8 are one."""
    return re.sub(r"[-_]", "", locale).lower()


def plan_drops(users, databases, server, check_role, login_db):
    """(changes that drop databases, {database: changes in it}, changes that drop users) of those declared absent.

    Raises Refused where data would be lost without the option that asks for it.
    """
    drops, everywhere, farewells = [], {}, []
    kept = {database["name"]: database for database in databases if database["state"] == "present"}
    for index, database in enumerate(databases):
        name = database["name"]
        if database["state"] == "present" or name not in server["databases"]:
            continue
        if not database["drop_data"]:
            raise Refused(f"databases[{index}]: dropping {name!r} loses its data; add drop_data: true to have it done")
        if name == login_db:
            raise Refused(f"databases[{index}]: {name!r} is login_db itself; log in to another database to drop it")
        sql = Statement.plain(f"DROP DATABASE {quote_identifier(name)}")
        drops.append(Change("databases", f"databases[{index}]", f"database {name}", "present", "absent", [sql]))
    dropped = {change.name for change in drops}

    for index, user in enumerate(users):
        name, item = user["name"], f"users[{index}]"
        if user["state"] == "present" or name not in server["roles"]:
            continue
        if name == server["user"]:
            raise Refused(f"{item}: {name!r} is the user that this task is logged in as; it cannot drop itself")
        ties = [
            (where, owns, itself) for where, owns, itself in server["roles"][name]["dependencies"]
            if f"database {where}" not in dropped and f"database {itself}" not in dropped
            and (not itself or not owns or kept.get(itself, {}).get("owner") in (None, name))
        ]
        places = {where or login_db for where, _owns, _itself in ties}
        owned = {where or login_db for where, owns, _itself in ties if owns}
        heir = user["reassign_owned_to"]
        if heir is not None:
            check_role(heir, f"{item}.reassign_owned_to")
        if owned and heir is None:
            what = sorted({
                f"the database {itself!r}" if itself else f"objects in {where}" if where else "a tablespace"
                for where, owns, itself in ties if owns
            })
            raise Refused(f"{item}: {name!r} owns {', '.join(what)}; name the new owner in reassign_owned_to")
        quoted = quote_identifier(name)
        # Also where nothing is owned: what comes into being between the reading and now must not fall to DROP OWNED.
        new_owner = quote_identifier(heir) if heir else "CURRENT_USER"
        leave = [
            Statement.plain(f"REASSIGN OWNED BY {quoted} TO {new_owner}"), Statement.plain(f"DROP OWNED BY {quoted}")
        ]
        for where in sorted(places):
            after = f"objects to {heir}, privileges revoked" if where in owned else "privileges revoked"
            everywhere.setdefault(where, []).append(
                Change("users", item, f"user {name}", f"present in {where}", after, leave)
            )
        drop = Statement.plain(f"DROP ROLE {quoted}")
        farewells.append(Change("users", item, f"user {name}", "present", "absent", [drop]))
    return drops, everywhere, farewells
