# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a PostgreSQL database's schema looks like, object by object, for the comparison with what was recorded."""

from __future__ import annotations

import re

from .drift_postgres_more import MARK, MORE, PREFIXES
from .ledger_postgres import SCHEMA

# Objects of extensions belong to the extension's version, which is listed itself. PostgreSQL 11, and YugabyteDB before
# 2025.1 with it, has no oid among the columns of *, and one column less, which is read through to_jsonb.
_NAMED = f"""
WITH spaces AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
  WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', '{SCHEMA}')
), members AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e' OR (deptype = 'i' AND classid = 'pg_proc'::regclass)
), relations AS (
  SELECT c.oid, c.relkind, c.relowner, c.relacl, c.relpersistence, c.relreplident, c.relrowsecurity,
    c.relforcerowsecurity, c.reloptions, c.relispartition, c.relpartbound, c.reltype, c.reloftype, c.reltoastrelid,
    c.reltablespace, c.relam,
    CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'f' THEN 'foreign table '
      WHEN 'S' THEN 'sequence ' WHEN 'c' THEN 'type ' ELSE 'table ' END || c.oid::regclass::text AS object
  FROM pg_class AS c JOIN spaces AS s ON s.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
    AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
), routines AS (
  SELECT p.oid, p.prokind, p.proowner, p.proacl, CASE p.prokind WHEN 'p' THEN 'procedure ' WHEN 'a' THEN 'aggregate '
    ELSE 'function ' END || p.oid::regprocedure::text AS object
  FROM pg_proc AS p JOIN spaces AS s ON s.oid = p.pronamespace
  WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
), types AS (
  SELECT t.oid, t.typtype, t.typowner, t.typacl, t.typbasetype, t.typtypmod, t.typnotnull, t.typdefault,
    CASE t.typtype WHEN 'd' THEN 'domain ' ELSE 'type ' END || format_type(t.oid, NULL) AS object
  FROM pg_type AS t JOIN spaces AS s ON s.oid = t.typnamespace
  WHERE t.typtype IN ('d', 'e', 'r')
    AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
), acls AS (
  SELECT 'database ' || quote_ident(datname) AS object, datacl AS acl, acldefault('d', datdba) AS base
    FROM pg_database WHERE datname = current_database()
  UNION ALL SELECT 'schema ' || quote_ident(nspname), nspacl, acldefault('n', nspowner) FROM spaces
  UNION ALL SELECT object, relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)
    FROM relations
  UNION ALL SELECT object, proacl, acldefault('f', proowner) FROM routines
  UNION ALL SELECT object, typacl, acldefault('T', typowner) FROM types
  UNION ALL SELECT r.object, t.typacl, acldefault('T', t.typowner) FROM relations AS r
    JOIN pg_type AS t ON t.oid = r.reltype WHERE r.relkind = 'c'
  UNION ALL SELECT 'server ' || quote_ident(srvname), srvacl, acldefault('S', srvowner) FROM pg_foreign_server
  UNION ALL SELECT 'foreign-data wrapper ' || quote_ident(fdwname), fdwacl, acldefault('F', fdwowner)
    FROM pg_foreign_data_wrapper
  UNION ALL SELECT 'column ' || a.attrelid::regclass::text || '.' || quote_ident(a.attname), a.attacl, NULL
    FROM pg_attribute AS a JOIN relations AS r ON r.oid = a.attrelid WHERE a.attnum > 0
  UNION ALL SELECT 'default ' || CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences'
      WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types' ELSE 'schemas' END || ' of ' || pg_get_userbyid(d.defaclrole)
      || coalesce(' in schema ' || quote_ident(s.nspname), ''), d.defaclacl,
      CASE WHEN d.defaclnamespace = 0
        THEN acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END, d.defaclrole) END
    FROM pg_default_acl AS d LEFT JOIN spaces AS s ON s.oid = d.defaclnamespace
)
"""
_OURS = f"""{_NAMED}
SELECT 'schema ' || quote_ident(nspname) AS object, 'owner ' || pg_get_userbyid(nspowner) AS definition FROM spaces
UNION ALL SELECT 'extension ' || quote_ident(extname), extversion FROM pg_extension
UNION ALL SELECT r.object, concat_ws(E'\\n', 'owner ' || pg_get_userbyid(r.relowner),
    CASE WHEN r.relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END,
    CASE WHEN r.relkind = 'p' THEN 'partition by ' || pg_get_partkeydef(r.oid) END,
    (SELECT CASE WHEN r.relispartition THEN 'partition of ' ELSE 'inherits ' END
      || string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno)
      || coalesce(' ' || pg_get_expr(r.relpartbound, r.oid), '') FROM pg_inherits WHERE inhrelid = r.oid),
    CASE WHEN r.relkind IN ('r', 'p') THEN 'replica identity ' || CASE r.relreplident WHEN 'f' THEN 'full'
      WHEN 'n' THEN 'nothing' WHEN 'i' THEN (SELECT indexrelid::regclass::text FROM pg_index
        WHERE indrelid = r.oid AND indisreplident) END END,
    CASE WHEN r.relpersistence = 'u' THEN 'unlogged' END,
    CASE WHEN r.relrowsecurity THEN 'row level security' END,
    CASE WHEN r.relforcerowsecurity THEN 'row level security forced' END,
    'with ' || array_to_string(r.reloptions, ', '),
    (SELECT concat_ws(' ', 'as', format_type(seqtypid, NULL), 'start', seqstart, 'increment', seqincrement,
      'from', seqmin, 'to', seqmax, CASE WHEN seqcycle THEN 'cycle' END) FROM pg_sequence WHERE seqrelid = r.oid))
  FROM relations AS r
UNION ALL SELECT 'column ' || a.attrelid::regclass::text || '.' || quote_ident(a.attname), concat_ws(' ',
    format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attcollation <> t.typcollation THEN 'collate '
      || (SELECT quote_ident(collname) FROM pg_collation AS l WHERE l.oid = a.attcollation) END,
    CASE WHEN a.attnotnull THEN 'not null' END,
    CASE WHEN to_jsonb(a) ->> 'attgenerated' <> '' THEN 'generated always as' WHEN d.oid IS NOT NULL THEN 'default' END,
    pg_get_expr(d.adbin, d.adrelid),
    CASE a.attidentity WHEN 'a' THEN 'generated always as identity'
      WHEN 'd' THEN 'generated by default as identity' END)
  FROM pg_attribute AS a JOIN relations AS r ON r.oid = a.attrelid JOIN pg_type AS t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind <> 'S'
UNION ALL SELECT 'index ' || i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
    || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END
  FROM pg_index AS i JOIN relations AS r ON r.oid = i.indrelid
UNION ALL SELECT 'constraint ' || quote_ident(c.conname) || ' on '
    || CASE WHEN c.conrelid <> 0 THEN c.conrelid::regclass::text ELSE format_type(c.contypid, NULL) END,
    pg_get_constraintdef(c.oid) || CASE WHEN EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgconstraint = c.oid
      AND g.tgisinternal AND g.tgenabled <> 'O') THEN ' DISABLED' ELSE '' END
  FROM pg_constraint AS c JOIN spaces AS s ON s.oid = c.connamespace
  WHERE c.contype NOT IN ('t', 'n')
    AND (c.conrelid IN (SELECT oid FROM relations) OR c.contypid IN (SELECT oid FROM types))
UNION ALL SELECT 'trigger ' || quote_ident(g.tgname) || ' on ' || g.tgrelid::regclass::text,
    pg_get_triggerdef(g.oid)
      || CASE g.tgenabled WHEN 'O' THEN '' WHEN 'D' THEN ' DISABLED' ELSE ' ' || g.tgenabled::text END
  FROM pg_trigger AS g JOIN relations AS r ON r.oid = g.tgrelid WHERE NOT g.tgisinternal
UNION ALL SELECT 'rule ' || quote_ident(w.rulename) || ' on ' || w.ev_class::regclass::text, pg_get_ruledef(w.oid)
      || CASE w.ev_enabled WHEN 'O' THEN '' WHEN 'D' THEN ' DISABLED' ELSE ' ' || w.ev_enabled::text END
  FROM pg_rewrite AS w JOIN relations AS r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
UNION ALL SELECT 'policy ' || quote_ident(y.polname) || ' on ' || y.polrelid::regclass::text, concat_ws(' ',
    CASE WHEN y.polpermissive THEN 'permissive' ELSE 'restrictive' END, 'for', y.polcmd::text, 'to',
    (SELECT string_agg(name, ', ' ORDER BY name) FROM (SELECT CASE role WHEN 0 THEN 'public'
      ELSE pg_get_userbyid(role)::text END AS name FROM unnest(y.polroles) AS role) AS roles),
    'using ' || pg_get_expr(y.polqual, y.polrelid), 'check ' || pg_get_expr(y.polwithcheck, y.polrelid))
  FROM pg_policy AS y JOIN relations AS r ON r.oid = y.polrelid
UNION ALL SELECT object, 'owner ' || pg_get_userbyid(proowner) || E'\\n' || CASE prokind
    WHEN 'a' THEN pg_get_function_result(oid) || (SELECT concat_ws(' ', ' by', aggtransfn, 'on',
      format_type(aggtranstype, NULL), 'from', agginitval, 'then',
      CASE WHEN aggfinalfn <> 0 THEN aggfinalfn::regproc::text END)
      FROM pg_aggregate WHERE aggfnoid = routines.oid) ELSE pg_get_functiondef(oid) END FROM routines
UNION ALL SELECT object, concat_ws(E'\\n', 'owner ' || pg_get_userbyid(typowner), CASE typtype
    WHEN 'e' THEN 'enum ' || (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum
      WHERE enumtypid = types.oid)
    WHEN 'd' THEN concat_ws(' ', format_type(typbasetype, typtypmod), CASE WHEN typnotnull THEN 'not null' END,
      'default ' || typdefault)
    ELSE 'range of ' || (SELECT format_type(rngsubtype, NULL) FROM pg_range WHERE rngtypid = types.oid) END) FROM types
UNION ALL SELECT 'grants on ' || object, coalesce(given, 'none') FROM (
    SELECT object, (SELECT string_agg(item::text, E'\\n' ORDER BY item::text) FROM unnest(acl) AS item) AS given,
      (SELECT string_agg(item::text, E'\\n' ORDER BY item::text) FROM unnest(base) AS item) AS usual
    FROM acls WHERE acl IS NOT NULL) AS listed WHERE given IS DISTINCT FROM usual
"""
_USUAL = f"""{_NAMED}
SELECT 'grants on ' || object, (SELECT string_agg(item::text, E'\\n' ORDER BY item::text) FROM unnest(base) AS item)
FROM acls WHERE 'grants on ' || object = ANY(%s)
"""


# Without a search path every name comes out with its schema. The others change how the server writes constants and
# names: they may be the script's, the role's, the database's or those of this program's environment.
_SESSION = (
    "SET LOCAL search_path = ''; SET LOCAL client_encoding = 'UTF8'; SET LOCAL TimeZone = 'UTC'; "
    "SET LOCAL DateStyle = 'ISO, MDY'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL bytea_output = 'hex'; "
    "SET LOCAL standard_conforming_strings = on; SET LOCAL quote_all_identifiers = off; "
    "SET LOCAL extra_float_digits = 1; SET LOCAL lc_monetary = 'C'; SET LOCAL xmlbinary = 'base64'; "
    "SET LOCAL jit = off"  # takes longer to compile the query than the query takes
)

# What IN makes of constants of varchar, until a dump of it is restored.
_CONSTANT = r"(?:E?'(?:[^'\\]|''|\\.)*'|NULL)::[\w ]+(?:\(\d+\))?"
_CAST_ARRAY = re.compile(rf"\(ARRAY\[({_CONSTANT}(?:, {_CONSTANT})*)\]\)::([\w ]+)\[\]")


# Within a query a value is named after the type that the text casts it to; where the server did, it has no name.
_ALIAS = re.compile(
    r"::([\w.\" ]+?)((?:\([\d,]+\))?)((?: with(?:out)? time zone)?(?:\[\])*) AS (\"(?:[^\"]|\"\")+\"|\w+)"
)
_TYPE_NAMES = {  # where the server's own are others than those of SQL
    "bigint": "int8", "bit varying": "varbit", "boolean": "bool", "character": "bpchar", "character varying": "varchar",
    "double precision": "float8", "integer": "int4", "real": "float4", "smallint": "int2",
}


def as_restored(definition):
    """`definition` so that it is the same before a dump and once that was restored.

    ARRAY['a'::varchar]::text[] is what PostgreSQL casts piece by piece then, and the 'x' of EXISTS (SELECT 'x') is
    'x'::text AS text.
    """
    pieces = _CAST_ARRAY.sub(
        lambda found: "ARRAY[" + re.sub(_CONSTANT, rf"(\g<0>)::{found.group(2)}", found.group(1)) + "]", definition
    )
    return _ALIAS.sub(_without_type_as_name, pieces)


def _without_type_as_name(found):
    name, precision, rest, alias = found.groups()
    own = _TYPE_NAMES.get(name, name.rpartition(".")[2].strip('"')) + ("tz" if rest.startswith(" with time") else "")
    return f"::{name}{precision}{rest}" if alias.strip('"') == own else found.group()


def postgres_objects(connection):
    """Every object of the database's schemas as a dictionary: its kind and name to its definition."""
    return _read(connection, _OURS)


def postgres_fingerprint(connection):
    """postgres_objects(), and what drift_postgres_more.py looks at."""
    return _read(connection, _OURS + MORE)


def as_seen_now(recorded, live):
    """`recorded` with what no version looked at that did not leave its mark there, as it is `live`."""
    if MARK in recorded:
        return recorded
    return {**{name: definition for name, definition in live.items() if name.startswith(PREFIXES)}, **recorded}


def usual_grants(connection, names):
    """What postgres_objects() would say of the grants called `names` if they were those of a new object of its owner.

    Names of objects that are not there are left out.
    """
    return _read(connection, _USUAL, (names,)) if names else {}


def role_names(connection):
    """The names of all roles of the server."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_catalog.pg_roles")
        return {name for (name,) in cursor.fetchall()}


def _read(connection, query, values=None):
    with connection.cursor() as cursor:
        cursor.execute(f"BEGIN; {_SESSION}")
        try:
            cursor.execute(query, values)
            return {name: definition or "" for name, definition in cursor.fetchall()}
        finally:
            if not connection.closed:
                cursor.execute("ROLLBACK")
