# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The difference between declared grants and the access lists of a database and of what is in it."""

from __future__ import annotations

import re
from typing import NamedTuple

from .declared import did_you_mean
from .postgres import quote_identifier
from .postgres_plan import Change, Refused, Statement, check_name

# type of a grant: (its kind in the catalogue, what SQL calls it)
TYPES = {
    "database": ("d", "DATABASE"),
    "schema": ("n", "SCHEMA"),
    "tables": ("r", "TABLE"),
    "sequences": ("s", "SEQUENCE"),
    "functions": ("f", "ROUTINE"),
    "future_tables": ("r", "TABLES"),
    "future_sequences": ("s", "SEQUENCES"),
    "future_functions": ("f", "FUNCTIONS"),
}
IN_SCHEMA = ("tables", "sequences", "functions")
_SYNONYMS = {"ALL PRIVILEGES": "ALL", "TEMP": "TEMPORARY"}


class Target(NamedTuple):
    """Something that privileges are granted on, and its access list.

    noun: TABLE, SCHEMA …; name: quoted, empty for default privileges; prefix: ALTER DEFAULT PRIVILEGES … or empty;
    label: the name for people, or whose future objects are meant.
    """

    noun: str
    name: str
    prefix: str
    label: str
    owner: str | None
    acl: list


class _Wish(NamedTuple):
    granted: bool
    grant_option: bool | None
    item: str
    kinds: int  # how many privileges there are for the type


def is_future(kind):
    """Whether a grant's type means default privileges."""
    return kind.startswith("future_")


def check_grants(grants, server, title):
    """Refuse what is wrong with the declared grants whatever the databases have.

    server: read_server()'s answer; title: what the engine is called. Privileges become upper-case full names.
    """
    for index, grant in enumerate(grants):
        item, types = f"grants[{index}]", grant["type"]
        for key in ("roles", "type", "privileges"):
            if not grant[key]:
                raise Refused(f"{item}.{key}: is empty")
        for key in ("roles", "schemas", "objects", "for_roles"):
            for name in grant[key] or []:
                # A function may be given with its arguments, which have no limit of length.
                check_name(name.split("(")[0] if key == "objects" else name, f"{item}.{key}")
        _check_keys(grant, types, item)
        for key in ("schemas", "objects"):
            if grant[key] == []:  # as a filter leaves it that has found nothing
                raise Refused(f"{item}.{key}: is empty, and would mean all of them; leave the key out for all")
        grant["privileges"] = [_SYNONYMS.get(word.upper(), word.upper()) for word in grant["privileges"]]
        for kind in types:
            all_of_kind = _all_privileges(server, kind)
            for privilege in grant["privileges"]:
                if privilege not in ("ALL", *all_of_kind):
                    raise Refused(
                        f"{item}.privileges: {title} has no privilege {privilege} on {kind}"
                        f"{did_you_mean(privilege, all_of_kind)} (known: ALL, {', '.join(all_of_kind)})"
                    )


def _check_keys(grant, types, item):
    needs_schemas = [kind for kind in types if kind == "schema" or kind in IN_SCHEMA]
    future = [kind for kind in types if is_future(kind)]
    if needs_schemas and not grant["schemas"]:
        raise Refused(f"{item}.schemas: is missing; privileges of the type {needs_schemas[0]} need the schemas named")
    if grant["schemas"] and types == ["database"]:
        raise Refused(f"{item}.schemas: a database as a whole is not in a schema; leave the key out, or change type")
    if future and not grant["for_roles"]:
        raise Refused(f"{item}.for_roles: name the roles whose {future[0]} are meant: those that create them")
    if grant["for_roles"] and not future:
        raise Refused(f"{item}.for_roles: belongs to the types future_tables, future_sequences, future_functions")
    if grant["objects"] and (len(types) > 1 or types[0] not in IN_SCHEMA):
        raise Refused(f"{item}.objects: goes with just one type: {', '.join(IN_SCHEMA)}")
    if any(_grantee(name) is None for name in grant["for_roles"] or []):
        raise Refused(f"{item}.for_roles: PUBLIC creates nothing; name roles")
    if grant["grant_option"] is not None and grant["state"] == "absent":
        raise Refused(f"{item}.grant_option: means nothing with state: absent, which takes the whole privilege")
    if grant["grant_option"] and any(_grantee(name) is None for name in grant["roles"]):
        raise Refused(f"{item}.grant_option: cannot be granted to PUBLIC")


def _grantee(name):
    """None for PUBLIC, otherwise the role's name."""
    return None if name.lower() == "public" else name


def _all_privileges(server, kind):
    return [word for _grantor, grantee, word, _grantable in server["builtin"][TYPES[kind][0]] if grantee == "OWNER"]


def builtin_acl(server, kind, owner):
    """The access list of a new object of `owner`."""
    return [
        [owner, owner if grantee else None, word, grantable]
        for _grantor, grantee, word, grantable in server["builtin"][kind]
    ]


def database_target(name, owner, acl):
    """A database as something to grant on, as part of what plan_grants() takes."""
    return Target("DATABASE", quote_identifier(name), "", name, owner, acl)


def _key(target):
    return target.noun, target.name, target.prefix


def plan_grants(grants, database, whole, catalogue, server, report_missing):
    """The changes that bring the access lists of one database to what is declared.

    grants: [(index, declared grant)], all of this database. whole: the database's own Target, or None to leave out
    grants on it. catalogue: read_database()'s answer, or None to leave out grants on what is in it.
    report_missing(sentence): called for a schema or object that is not there.
    Where two grants speak of the same privilege, the later one decides.
    """
    wishes, targets = {}, {}
    for index, grant in grants:
        item = f"grants[{index}]"
        for kind in grant["type"]:
            if kind == "database":
                found = [whole] if whole else []
            elif catalogue:
                found = _targets(grant, kind, item, catalogue, server, report_missing)
            else:
                continue
            everything = _all_privileges(server, kind)
            words = everything if "ALL" in grant["privileges"] else grant["privileges"]
            wish = _Wish(grant["state"] == "present", grant["grant_option"], item, len(everything))
            for target in found:
                targets[_key(target)] = target
                for grantee in map(_grantee, grant["roles"]):
                    wishes.setdefault((_key(target), grantee), {}).update(dict.fromkeys(words, wish))
    groups = {}
    for (key, grantee), wanted in wishes.items():
        for step in _steps(targets[key], grantee, wanted):
            groups.setdefault(step, []).append(targets[key])
    # What others than the owner have granted goes first: until then they cannot lose it themselves.
    ordered = sorted(groups.items(), key=lambda group: group[0].as_role is None)
    return [_change(step, found, database) for step, found in ordered]


def _targets(grant, kind, item, catalogue, server, report_missing):
    """The Targets of one declared grant, of one of its types."""
    noun, present = TYPES[kind][1], grant["state"] == "present"
    schemas = grant["schemas"] or [None]
    for schema in schemas:
        if schema is not None and schema not in catalogue["schemas"] and present:
            report_missing(f"{item}.schemas: there is no schema {schema!r} in the database {grant['database']!r}")
    if kind == "schema":
        nothing = {"owner": None, "acl": []}
        has = {name: catalogue["schemas"].get(name, nothing) for name in schemas}
        return [Target(noun, quote_identifier(name), "", name, has[name]["owner"], has[name]["acl"]) for name in has]
    if is_future(kind):
        return [
            _future_target(role, schema, kind, grant, item, catalogue, server)
            for role in grant["for_roles"] for schema in schemas
        ]
    if kind == "functions":
        rows = catalogue["functions"]
    else:
        rows = [row for row in catalogue["relations"] if row["sequence"] == (kind == "sequences")]
    found = []
    for schema in schemas:
        inside = [row for row in rows if row["schema"] == schema]
        for name in grant["objects"] or []:
            matching = [row for row in inside if _is_named(row, name)]
            if not matching and present:
                hint = did_you_mean(name, map(_name, inside))
                report_missing(f"{item}.objects: the schema {schema!r} has no {noun.lower()} {name!r}{hint}")
            found += matching
        found += [] if grant["objects"] else inside
    return [
        Target(noun, _qualified(row), "", f"{row['schema']}.{row['name']}", row["owner"], row["acl"]) for row in found
    ]


def _name(row):
    """The one name that means nothing but the row."""
    return f"{row['name']}({row['arguments']})" if "arguments" in row else row["name"]


def _is_named(row, name):
    """Whether a declared name means the row: for a function with or without the types of its arguments."""
    return row["name"] == name or ("arguments" in row and re.sub(r"\s", "", _name(row)) == re.sub(r"\s", "", name))


def _qualified(row):
    name = f"{quote_identifier(row['schema'])}.{quote_identifier(row['name'])}"
    return f"{name}({row['arguments']})" if "arguments" in row else name


def _future_target(role, schema, kind, grant, item, catalogue, server):
    code, noun = TYPES[kind]
    stored = {
        entry["schema"]: entry["acl"]
        for entry in catalogue["defaults"] if entry["role"] == role and entry["kind"] == code
    }
    everywhere = stored.get(None, builtin_acl(server, code, role))
    prefix = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote_identifier(role)} "
    if schema is None:
        return Target(noun, "", prefix, f"of {role}", role, everywhere)
    if grant["state"] == "absent":
        words = _all_privileges(server, kind) if "ALL" in grant["privileges"] else grant["privileges"]
        for name in grant["roles"]:
            if name != role and any(entry[1] == _grantee(name) and entry[2] in words for entry in everywhere):
                raise Refused(
                    f"{item}: {name} has it on {kind} of every schema, and default privileges of one schema only add "
                    "to that; leave out schemas to revoke it"
                )
    prefix += f"IN SCHEMA {quote_identifier(schema)} "
    return Target(noun, "", prefix, f"of {role} in schema {schema}", role, stored.get(schema, []))


class _Step(NamedTuple):
    """One statement but for its objects; targets with the same step share it."""

    verb: str
    privileges: tuple
    noun: str
    prefix: str
    grantee: str | None
    as_role: str | None
    item: str
    kinds: int


def _steps(target, grantee, wanted):
    """The _Steps that bring what `grantee` holds on one target to {privilege: _Wish}."""
    held = [(grantor, word, grantable) for grantor, holder, word, grantable in target.acl if holder == grantee]
    steps = {}

    def add(verb, word, wish, grantor=target.owner):
        # The owner's grants are taken back by whoever may act for the owner; those of others only by themselves.
        as_role = None if target.prefix or grantor == target.owner else grantor
        steps.setdefault((verb, as_role, wish.item, wish.kinds), []).append(word)

    for word, wish in wanted.items():
        entries = [(grantor, grantable) for grantor, has, grantable in held if has == word]
        owns = grantee is not None and grantee == target.owner
        grantable = owns or any(option for _grantor, option in entries)
        if not wish.granted:
            for grantor, _option in entries:
                add("REVOKE", word, wish, grantor)
        elif not entries or (wish.grant_option and not grantable):
            add("GRANT OPTION" if wish.grant_option and not owns else "GRANT", word, wish)
        elif wish.grant_option is False and not owns:
            for grantor, option in entries:
                if option:
                    add("REVOKE OPTION", word, wish, grantor)
    return [
        _Step(verb, tuple(words), target.noun, target.prefix, grantee, as_role, item, kinds)
        for (verb, as_role, item, kinds), words in steps.items()
    ]


def _change(step, targets, database):
    grants, option = step.verb.startswith("GRANT"), step.verb.endswith("OPTION")
    privileges = "ALL" if len(step.privileges) == step.kinds else ", ".join(step.privileges)
    objects = " ".join([step.noun, ", ".join(target.name for target in targets)]).strip()
    who = "PUBLIC" if step.grantee is None else quote_identifier(step.grantee)
    if grants:
        sql = f"{step.prefix}GRANT {privileges} ON {objects} TO {who}{' WITH GRANT OPTION' if option else ''}"
    else:
        sql = f"{step.prefix}REVOKE {'GRANT OPTION FOR ' if option else ''}{privileges} ON {objects} FROM {who}"
    statements = [Statement.plain(sql)]
    if step.as_role is not None:
        role = Statement.plain(f"SET ROLE {quote_identifier(step.as_role)}")
        statements = [role, *statements, Statement.plain("RESET ROLE")]
    labels = ", ".join(target.label for target in targets)
    name = (
        f"{database}: {privileges}{' with grant option' if option else ''} on {'future ' if step.prefix else ''}"
        f"{step.noun.lower()} {labels} for {'PUBLIC' if step.grantee is None else step.grantee}"
    )
    before, after = ("not granted", "granted") if grants else ("granted", "not granted")
    parts = frozenset(
        (step.verb, step.noun, step.prefix, target.name, word, step.grantee)
        for word in step.privileges for target in targets
    )
    return Change("grants", step.item, name, before, after, statements, parts)
