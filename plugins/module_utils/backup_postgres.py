# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a PostgreSQL or YugabyteDB database holds: for a backup's manifest, and to compare a restored copy with it."""

from __future__ import annotations

import hashlib
import re

from . import postgres
from .drift_postgres import postgres_objects
from .postgres import quote_identifier, quote_literal

# Values of these are lists of names that are quoted already; as one string they would be one name.
_NAME_LISTS = (
    "local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
    "temp_tablespaces", "unix_socket_directories",
)
# Rows are compared by their text, so nothing that shapes it may come from the role's or the database's settings.
_SESSION = (
    "SET search_path = ''; SET row_security = off; SET statement_timeout = 0; SET lock_timeout = 0; "
    "SET idle_in_transaction_session_timeout = 0; SET timezone = 'UTC'; SET datestyle = 'ISO'; "
    "SET intervalstyle = 'postgres'; SET bytea_output = 'hex'; SET extra_float_digits = 3; SET xmlbinary = 'base64'"
)
# PostgreSQL says the same expression in another way once a dump of it was restored: (ARRAY['a', 'b'])::text[] becomes
# ARRAY['a'::text, 'b'::text]. So casts, brackets and blanks do not count.
_CAST = re.compile(
    r'''::(?:"[^"]+"|\w+)(?:\.(?:"[^"]+"|\w+))*(?: varying| precision)?(?:\([0-9, ]+\))?'''
    r"(?: with(?:out)? time zone)?(?:\[\])*"
)
_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""
_SEQUENCES = "SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_catalog.pg_sequences"
_DATABASE = """
SELECT pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, d.datconnlimit,
  pg_database_size(d.oid), shobj_description(d.oid, 'pg_database'), to_jsonb(d) ->> 'datlocprovider',
  coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
  CASE WHEN d.datacl IS NOT NULL THEN ARRAY(
    SELECT jsonb_build_array(CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END,
      a.privilege_type, a.is_grantable)
    FROM aclexplode(d.datacl) AS a) END,
  ARRAY(SELECT jsonb_build_array(CASE s.setrole WHEN 0 THEN NULL ELSE pg_get_userbyid(s.setrole) END, one)
    FROM pg_db_role_setting AS s, unnest(s.setconfig) AS one WHERE s.setdatabase = d.oid)
FROM pg_database AS d WHERE d.datname = current_database()
"""
# Of colocation a dump says nothing: a database is colocated from its beginning or never.
_COLOCATED = "SELECT yb_is_database_colocated()"
# Roles that the contents need. pg_shdepend leaves out the superuser that made the cluster; on another server he may be
# missing all the same. Who only has rights on the database, or settings in it, is in `acl` and `settings`: attached().
_ROLES = """
SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND oid IN (
  SELECT refobjid FROM pg_shdepend AS s JOIN pg_database AS d ON d.oid = s.dbid
    WHERE d.datname = current_database() AND refclassid = 'pg_authid'::regclass
  UNION SELECT datdba FROM pg_database WHERE datname = current_database()
  UNION SELECT relowner FROM pg_class UNION SELECT proowner FROM pg_proc UNION SELECT nspowner FROM pg_namespace
) ORDER BY 1
"""


def query(connection, sql, values=None):
    """The rows of one statement, as tuples; an empty list where it returns none."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


def settle(connection):
    """Prepare a connection for rows(): its own settings shall not show in the text of rows."""
    query(connection, _SESSION)
    postgres.stay(connection)


def rows(connection):
    """{table: [number of rows, checksum of their contents in any order]} of the database."""
    found = {}
    for (table,) in query(connection, _TABLES):
        found[table] = list(query(
            connection,
            "SELECT count(*), coalesce(sum(hashtextextended(ROW(contents.*)::text, 0)), 0)::text "
            f"FROM ONLY {table} AS contents",
        )[0])
    return found


def sequences(connection):
    """{sequence: last value}."""
    return dict(query(connection, _SEQUENCES))


def objects(connection, loose=True):
    """{object: a short hash of its definition} for tables, columns, constraints, functions, owners, grants, …

    loose: without what a restore alone changes in the text of a definition.
    """
    found = {}
    for name, definition in postgres_objects(connection).items():
        if name.startswith(("database ", "grants on database ")):
            continue  # a copy's name is another; properties() has them
        if name.startswith("index ") and definition.endswith(" INVALID"):
            continue  # left by a CREATE INDEX CONCURRENTLY that failed: pg_dump leaves it out
        # A restored extension has the version that the server has now.
        text = "" if name.startswith("extension ") else definition
        if loose and ("BEGIN ATOMIC" in text or not name.startswith(("function ", "procedure "))):
            text = re.sub(r"[()\s]", "", _CAST.sub("", text))
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:12]
    return found


def steady(before, after, gone=True):
    """`before`, with None for each value that is another in `after`: written to in the meantime, it proves nothing.

    gone: with those names too that are not in `after`.
    """
    return {
        name: value if after.get(name) == value else None for name, value in before.items() if gone or name in after
    }


def ledger(connection):
    """{set: {applied, unfinished}} of the schema ledger, {} where there is none, None where it may not be read."""
    if not query(connection, "SELECT to_regclass('schema_ledger.scripts')")[0][0]:
        return {}
    try:
        found = query(
            connection, "SELECT set_name, count(*) FILTER (WHERE status IN ('applied', 'adopted')), "
            "coalesce(array_agg(script ORDER BY script) FILTER (WHERE status NOT IN ('applied', 'adopted')), '{}') "
            "FROM schema_ledger.scripts GROUP BY set_name",
        )
    except postgres.psycopg2.errors.InsufficientPrivilege:
        return None
    return {name: {"applied": applied, "unfinished": unfinished} for name, applied, unfinished in found}


def properties(connection, dialect):
    """What belongs to the connected database and is not in a dump of its contents."""
    names = (
        "owner", "encoding", "collate", "ctype", "connection_limit", "size", "comment", "provider", "locale", "acl",
        "settings",
    )
    found = dict(zip(names, query(connection, _DATABASE)[0]))
    found["colocated"] = "colocation" in dialect.database_options and query(connection, _COLOCATED)[0][0]
    return {**found, "roles": [name for (name,) in query(connection, _ROLES)]}


def attached(wanted):
    """{role: what properties() `wanted` give it}, for roles that the contents may well do without."""
    found = {}
    for what, entries in (("rights on the database", wanted["acl"] or ()), ("settings", wanted["settings"])):
        for role, *_rest in entries:
            if role and what not in found.setdefault(role, []):
                found[role].append(what)
    return found


def create_statement(name, wanted, dialect):
    """CREATE DATABASE for an empty `name` with the properties() `wanted`."""
    text = f"CREATE DATABASE {quote_identifier(name)} OWNER {quote_identifier(wanted['owner'])}"
    if "colocation" in dialect.database_options and wanted.get("colocated"):
        text += " COLOCATION = true"
    if "encoding" in dialect.database_options:
        text += (
            f" TEMPLATE template0 ENCODING {quote_literal(wanted['encoding'])} "
            f"LC_COLLATE {quote_literal(wanted['collate'])} LC_CTYPE {quote_literal(wanted['ctype'])}"
        )
        if wanted["provider"] in ("i", "b"):
            kind = {"i": "icu", "b": "builtin"}[wanted["provider"]]
            text += f" LOCALE_PROVIDER {kind} {kind.upper()}_LOCALE {quote_literal(wanted['locale'])}"
    return text


def property_statements(name, wanted, gone=()):
    """The statements that give the database `name` the grants, settings and limit of properties() `wanted`.

    gone: roles that the server does not have; what is theirs is left out.
    """
    database = quote_identifier(name)
    yield f"ALTER DATABASE {database} CONNECTION LIMIT {wanted['connection_limit']}"
    if wanted["acl"] is not None:
        yield f"REVOKE ALL ON DATABASE {database} FROM PUBLIC, {quote_identifier(wanted['owner'])}"
        for role, privilege, grantable in wanted["acl"]:
            if role in gone:
                continue
            to = quote_identifier(role) if role else "PUBLIC"
            yield f"GRANT {privilege} ON DATABASE {database} TO {to}" + (" WITH GRANT OPTION" if grantable else "")
    for role, setting in wanted["settings"]:
        if role in gone:
            continue
        parameter, _equals, value = setting.partition("=")
        # A parameter of an extension has a dot in its name.
        quoted = ".".join(quote_identifier(part) for part in parameter.split("."))
        whose = f"ALTER ROLE {quote_identifier(role)} IN DATABASE" if role else "ALTER DATABASE"
        yield f"{whose} {database} SET {quoted} TO {_value(parameter, value)}"


def _value(parameter, value):
    """A setting's value as SET wants it. A name of a list may be empty, so it is no identifier there."""
    if parameter not in _NAME_LISTS:
        return quote_literal(value)
    names = re.findall(r'"((?:[^"]|"")*)"|([^\s,"]+)', value)
    return ", ".join(quote_literal(quoted.replace('""', '"') or bare) for quoted, bare in names) or "''"


def comment_statement(name, comment):
    """COMMENT ON DATABASE; None takes it away."""
    text = "NULL" if comment is None else quote_literal(comment)
    return f"COMMENT ON DATABASE {quote_identifier(name)} IS {text}"


def differences(connection, recorded, same_major):
    """What sets the connected copy apart from what the manifest has `recorded` of a database, as sentences.

    same_major: whether both servers have the same major version; otherwise texts may differ for no bad reason.
    """
    settle(connection)
    live, found = rows(connection), []
    for table in sorted(set(recorded["tables"]) | set(live)):
        before, after = recorded["tables"].get(table, "absent"), live.get(table)
        if after is None:
            found.append(f"table {table} is missing")
        elif before == "absent":
            found.append(f"table {table} is not in the backup")
        elif before is None:
            continue
        elif after[0] != before[0]:
            found.append(f"table {table} has {after[0]} rows, the backup {before[0]}")
        elif same_major and after[1] != before[1]:
            found.append(f"table {table} has other contents than the backup")
    for kind, there in (("sequences", sequences), ("objects", objects)):
        if kind == "objects" and not same_major:
            continue
        live = there(connection)
        strict = objects(connection, loose=False) if kind == "objects" else {}  # as in older manifests
        for name, value in sorted(recorded[kind].items()):
            label = f"sequence {name}" if kind == "sequences" else name
            if name not in live:
                found.append(f"{label} is missing")
            elif value is not None and value not in (live[name], strict.get(name, live[name])):
                found.append(f"{label} is not as in the backup")
    return found
