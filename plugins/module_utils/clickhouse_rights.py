# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a ClickHouse user or role may do, as a set that knows which right implies which.

ClickHouse stores `GRANT ALL ON db.*` as its parts, absorbs a right into a wider one, and keeps a REVOKE of a part of a
wider right as an exception. Comparing statements therefore says nothing; comparing what follows from them does.
"""

from __future__ import annotations

from .clickhouse import quote_identifier
from .declared import did_you_mean

NONE, PLAIN, WITH_OPTION = 0, 1, 2

# How many of database, table and column a right of this level may name; the other levels name one object.
_DEPTHS = {"GLOBAL": 0, "DATABASE": 1, "TABLE": 2, "VIEW": 2, "DICTIONARY": 2, "COLUMN": 3}

# Servers that have READ and WRITE (from 25.7 on) take each of these for READ and WRITE on that source, and store and
# revoke nothing by its own name. After GRANT ALL they show it all the same; it allows nothing.
_SOURCES = frozenset((
    "ARROW FLIGHT", "AZURE", "FILE", "HDFS", "HIVE", "JDBC", "KAFKA", "MONGO", "MYSQL", "NATS", "ODBC", "POSTGRES",
    "RABBITMQ", "REDIS", "REMOTE", "S3", "SOURCES", "SQLITE", "URL", "YTSAURUS",
))
_ON_SOURCE = ("READ", "WRITE")


class Refused(Exception):
    """What is declared cannot be; the text begins with the item, such as `users[1].grants[0]`."""


class Privileges:
    """The server's privileges and their hierarchy; `rows` are those of system.privileges."""

    def __init__(self, rows):
        self._names = {}
        self._levels = {}
        self._children = {}
        for row in rows:
            name = row["privilege"]
            if name == "NONE":
                continue
            self._levels[name] = row["level"]
            self._children.setdefault(row["parent_group"], []).append(name)
            for word in (name, *row["aliases"]):
                self._names.setdefault(word.upper(), name)
            self._names[name.upper()] = name
        if self._levels.get("READ") == "SOURCE":
            for children in self._children.values():
                children[:] = [name for name in children if name not in _SOURCES]
            self._levels = {name: level for name, level in self._levels.items() if name not in _SOURCES}

    def name(self, word, item):
        """The server's own name of a privilege or of its alias; Refused where it has none such."""
        try:
            return self._names[" ".join(word.upper().split())]
        except KeyError:
            hint = did_you_mean(word, list(self._names.values()))
            raise Refused(f"{item}.privileges: this server has no privilege {word!r}{hint}") from None

    def parts(self, name):
        """The privileges that stand for themselves in `name`: itself unless it is a mere group, and what is below.

        NAMED COLLECTION ADMIN allows what its parts do, and is not shown without all of them: a group too.
        """
        level = self._levels.get(name)
        own = {name} if level and not (level == "NAMED_COLLECTION" and name in self._children) else set()
        return own.union(*(self.parts(child) for child in self._children.get(name, ())))

    def depth(self, name):
        """0 to 3 for a privilege on *.*, a database, a table, columns; None for one on another kind of object."""
        return _DEPTHS.get(self._levels[name])

    def is_by_the_way(self, name, path):
        """Whether a right on an object is what some servers add to GRANT ALL ON db.* or db.t: READ ON db, SET DEFINER
        ON db(t). It allows nothing, cannot be revoked by its name, and goes with what brought it."""
        if self.depth(name) is not None or not path:
            return False
        wildcard = isinstance(path[0], tuple)
        text = path[0][0] if wildcard else path[0]
        is_source = not wildcard and text.upper().replace("_", " ") in self._names
        return "(" in text or (self._levels[name] == "SOURCE" and not is_source)

    def parts_at(self, name, path, on_object):
        """The parts of `name` that can be granted on `path`, a tuple of database, table and column."""
        if not path:
            return self.parts(name)
        if on_object:
            return {part for part in self.parts(name) if self.depth(part) is None}
        return {part for part in self.parts(name) if (self.depth(part) or 0) >= len(path)}

    def effects(self, name, paths, on_object):
        """[(part, path)]: what `name`, granted or revoked on `paths`, is granted or revoked as."""
        if name not in self._levels and paths == [()] and not on_object:
            source = () if name == "SOURCES" else (name,)
            return [(part, source) for part in _ON_SOURCE]
        return [(part, path) for path in paths for part in self.parts_at(name, path, on_object)]

    def compress(self, parts, path, on_object):
        """The shortest list of names that stands for the set `parts` on `path`, sorted."""
        left, names = set(parts), []

        def visit(name):
            below = self.parts_at(name, path, on_object)
            # A group that is also of databases would, with an object's name, mean a table of that name.
            if below and below <= left and not (on_object and below < self.parts(name)):
                names.append(name)
                left.difference_update(below)
                return
            for child in self._children.get(name, ()):
                visit(child)

        for root in self._children.get(None, ()):
            visit(root)
        return sorted(names) + sorted(left)


def _covers(pattern, path):
    return len(pattern) <= len(path) and all(
        mine == theirs
        or (isinstance(mine, tuple) and (theirs if isinstance(theirs, str) else theirs[0]).startswith(mine[0]))
        for mine, theirs in zip(pattern, path)
    )


def _precision(pattern):
    return len(pattern), [len(part[0]) if isinstance(part, tuple) else 1 << 20 for part in pattern]


class Rights:
    """The rights of one user or role: for each privilege the paths where its level begins to differ.

    A path is a tuple of up to database, table and column, or of one object; a part that is itself a tuple stands for
    all names with that prefix, as the server's wildcard grants do. A level is NONE, PLAIN or WITH_OPTION.
    """

    def __init__(self):
        self.levels = {}

    def copy(self):
        """An independent copy."""
        other = Rights()
        other.levels = {name: dict(paths) for name, paths in self.levels.items()}
        return other

    def __eq__(self, other):
        return self.levels == other.levels

    __hash__ = None

    def level(self, name, path):
        """The level that `name` has on `path`."""
        found = [pattern for pattern in self.levels.get(name, ()) if _covers(pattern, path)]
        return self.levels[name][max(found, key=_precision)] if found else NONE

    def below(self, name, path):
        """What differs on and under `path`, as a dictionary of paths and levels."""
        return {other: level for other, level in self.levels.get(name, {}).items() if _covers(path, other)}

    def _change(self, name, path, new):
        inside = self.below(name, path)
        value = new(self.level(name, path))
        paths = self.levels.setdefault(name, {})
        paths.update({other: new(level) for other, level in inside.items()})
        paths[path] = value
        for other in sorted(self.below(name, path), key=_precision):  # drop what says what is so without it
            level = paths.pop(other)
            if self.level(name, other) != level:
                paths[other] = level
        if not paths:
            del self.levels[name]

    def grant(self, name, path, level=PLAIN):
        """GRANT: everything under `path` too, whatever was revoked there before."""
        self._change(name, path, lambda now: max(now, level))

    def revoke(self, name, path):
        """REVOKE: everything under `path` too, whatever was granted there before."""
        self._change(name, path, lambda now: NONE)

    def revoke_option(self, name, path):
        """REVOKE GRANT OPTION FOR."""
        self._change(name, path, lambda now: min(now, PLAIN))


def rights_of(rows, privileges):
    """{("user" or "role", name): Rights} from rows of system.grants."""
    holders = {}
    for row in rows:
        kind = "user" if row["user_name"] is not None else "role"
        rights = holders.setdefault((kind, row[f"{kind}_name"]), Rights())
        path = tuple(row[part] for part in ("database", "table", "column") if row[part] is not None)
        if row.get("access_object"):
            path = (row["access_object"],)
        if row.get("is_wildcard") and path:
            path = (*path[:-1], (path[-1],))
        if row["access_type"] == "NONE":
            continue
        for part in privileges.parts(row["access_type"]):
            depth = privileges.depth(part)
            if len(path) > (1 if depth is None else depth) or privileges.is_by_the_way(part, path):
                continue  # a group reaches as far as its parts do
            if row["is_partial_revoke"]:
                level = PLAIN if row["grant_option"] else NONE
            else:
                level = WITH_OPTION if row["grant_option"] else PLAIN
            rights.levels.setdefault(part, {})[path] = level
    return holders


class Item:
    """One declared grant or revoke: `entry` is its dictionary, `item` its place for messages."""

    def __init__(self, entry, item, privileges):
        self.names = [privileges.name(word, item) for word in entry["privileges"]]
        self.on_object = entry.get("object") is not None
        self.level = WITH_OPTION if entry.get("grant_option") else PLAIN
        self.paths = grant_paths(entry, item)
        self._effects = {}
        for name in self.names:
            self._effects[name] = privileges.effects(name, self.paths, self.on_object)
            mistaken = self.on_object and any(privileges.depth(part) is not None for part in privileges.parts(name))
            if mistaken or not self._effects[name]:
                where = ("the object " if self.on_object else "") + on_clause(self.paths[0][:2], self.on_object)
                raise Refused(f"{item}: {name} cannot be granted on {where}")
            if len(self.paths[0]) == 3 and any(privileges.depth(part) != 3 for part in privileges.parts(name)):
                raise Refused(f"{item}: {name} cannot be granted on columns")
        self.side_effects = {
            part for name in self.names for part in privileges.parts(name) if privileges.depth(part) is None
        }

    def effects(self, names=None):
        """[(part, path)] of some of the item's privileges, by default of all."""
        return [effect for name in names or self.names for effect in self._effects[name]]

    def is_side_effect(self, part, path):
        """Whether a right on an object comes from this one: on some servers, GRANT ALL ON db.* includes ALL on users
        and named collections that are called db, and REVOKE ALL ON db.* too."""
        return part in self.side_effects and self.paths[0][:1] == path != ()

    def sql(self, names, paths=None):
        """`SELECT(a, b), INSERT(a, b) ON db.t` for some of the item's privileges."""
        return rights_sql(names, paths or self.paths, self.on_object)


def grant_paths(entry, item):
    """The paths that a declared grant names; Refused where its keys do not fit together."""
    database, table, columns = entry.get("database"), entry.get("table") or "*", entry.get("columns")
    if not entry["privileges"]:
        raise Refused(f"{item}.privileges: the list is empty")
    for key in ("table", "columns", "object"):  # a variable that is empty by mistake must not mean all of them
        value = entry.get(key)
        if value is not None and (not value or (isinstance(value, list) and not all(value))):
            raise Refused(f"{item}.{key}: is empty; leave it out, or say what it is for")
    for key, name in (("database", database or ""), ("table", table)):  # a right on nothing, taken for one on many
        if len(name) > 1 and name.endswith("*"):
            raise Refused(f"{item}.{key}: {name!r} would be one of just this name; name each, or '*' for all of them")
    if entry.get("object") is not None:
        if database is not None or table != "*" or columns:
            raise Refused(f"{item}: object and database, table or columns exclude each other")
        return [()] if entry["object"] == "*" else [(entry["object"],)]
    if not database:
        raise Refused(f"{item}: say what the privileges are for: database ('*' is all of them) or object")
    if database == "*":
        if table != "*" or columns:
            raise Refused(f"{item}: table and columns need the name of a database")
        return [()]
    if not columns:
        return [(database,)] if table == "*" else [(database, table)]
    if table == "*":
        raise Refused(f"{item}: columns need the name of a table")
    return [(database, table, column) for column in columns]


def _name_sql(part):
    return f"{quote_identifier(part[0])}*" if isinstance(part, tuple) else quote_identifier(part)


def on_clause(path, on_object=False):
    """What stands after ON: `*.*`, `db`.*, `db`.`t`, or an object's name."""
    if on_object:
        return _name_sql(path[0]) if path else "*"
    if not path:
        return "*.*"
    if len(path) == 1:
        return f"{_name_sql(path[0])}.*"
    return f"{_name_sql(path[0])}.{_name_sql(path[1])}"


def rights_sql(names, paths, on_object=False):
    """`SELECT(a, b) ON db.t` for privileges on one database, table or object, or on several columns of one table."""
    columns = "(" + ", ".join(_name_sql(path[2]) for path in paths) + ")" if len(paths[0]) == 3 else ""
    return ", ".join(f"{name}{columns}" for name in names) + f" ON {on_clause(paths[0][:2], on_object)}"


def plan_rights(actual, grants, revokes, privileges, exclusive=False):
    """What to do so that `actual` holds the declared rights.

    actual: Rights. grants, revokes: lists of Item; the revokes are exceptions from the grants. exclusive: whether every
    other right is to go. Returns a list of (verb, rights, level): verb GRANT, REVOKE or REVOKE GRANT OPTION FOR, rights
    as rights_sql() writes them, level as of Rights.
    """
    wanted = Rights() if exclusive else actual.copy()
    for entry in grants:
        for part, path in entry.effects():
            wanted.grant(part, path, entry.level)
    for entry in revokes:
        for part, path in entry.effects():
            wanted.revoke(part, path)
    for part, paths in actual.levels.items():
        for path, level in paths.items():
            if exclusive and any(entry.is_side_effect(part, path) for entry in grants):
                wanted.grant(part, path, level)
            if level == NONE and any(entry.is_side_effect(part, path) for entry in revokes):
                wanted.revoke(part, path)

    now, steps = actual.copy(), []
    for entry in grants:
        missing = [name for name in entry.names if _differs(now, wanted, entry.effects([name]))]
        if missing:
            steps.append(("GRANT", entry.sql(missing), entry.level))
            for part, path in entry.effects(missing):
                now.grant(part, path, entry.level)
    steps.extend(_remainder(now, wanted, privileges))
    return steps


def _differs(now, wanted, effects):
    """Whether something that is wanted of `effects`, or under their paths, is not there."""
    for part, path in effects:
        inside = {path, *now.below(part, path), *wanted.below(part, path)}
        if any(now.level(part, place) < wanted.level(part, place) for place in inside):
            return True
    return False


def _remainder(now, wanted, privileges):
    """Steps from `now`, which is changed on the way, to `wanted`: from the widest path to the narrowest."""
    steps = []
    while now != wanted:
        differences = {}
        for part in set(now.levels) | set(wanted.levels):
            for path in {*now.levels.get(part, ()), *wanted.levels.get(part, ())}:
                before, after = now.level(part, path), wanted.level(part, path)
                if before != after:
                    verb = "GRANT" if after > before else "REVOKE" if after == NONE else "REVOKE GRANT OPTION FOR"
                    on_object = bool(path) and privileges.depth(part) is None
                    # Revokes first: one on a wider path takes with it what is to be granted again below.
                    key = (verb == "GRANT", len(path), str(path), on_object, verb, after)
                    differences.setdefault(key, (path, []))[1].append(part)
        if not differences:
            break
        (_is_grant, _length, _text, on_object, verb, after), (path, parts) = min(
            differences.items(), key=lambda entry: entry[0]
        )
        for part in parts:
            if verb == "GRANT":
                now.grant(part, path, after)
            elif verb == "REVOKE":
                now.revoke(part, path)
            else:
                now.revoke_option(part, path)
        steps.append((verb, rights_sql(privileges.compress(parts, path, on_object), [path], on_object), after))
    return steps
