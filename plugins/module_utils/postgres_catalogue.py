# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a server and a database have now: one query each, answered as one JSON document."""

from __future__ import annotations


def _entries(acl, besides="0"):
    """SQL for an access list as [[grantor, grantee, privilege, grantable]], where the grantee null is PUBLIC.

    Grantees are left out but for PUBLIC, the roles that matter, and the one whose oid `besides` is.
    """
    return f"""(
                SELECT coalesce(json_agg(json_build_array(
                    pg_get_userbyid(e.grantor), CASE WHEN e.grantee <> 0 THEN pg_get_userbyid(e.grantee) END,
                    e.privilege_type, e.is_grantable
                )), '[]')
                FROM aclexplode({acl}) AS e
                WHERE e.grantee IN (0, {besides})
                   OR e.grantee = ANY(ARRAY(SELECT oid FROM pg_roles WHERE rolname = ANY(%(roles)s)))
            )"""


_CAN_READ_PASSWORDS = "SELECT has_column_privilege('pg_catalog.pg_authid', 'rolpassword', 'SELECT')"

_PASSWORDS = "(SELECT json_object_agg(rolname, rolpassword) FROM pg_authid WHERE rolname = ANY(%(roles)s))"

_SERVER = f"""
SELECT json_build_object(
    'user', current_user,
    'standby', pg_is_in_recovery(),
    'version', current_setting('server_version_num')::int,
    'password_encryption', current_setting('password_encryption'),
    'scram_iterations', coalesce(current_setting('scram_iterations', true), '4096')::int,
    'roles', (
        SELECT coalesce(json_object_agg(r.rolname, json_build_object(
            'superuser', r.rolsuper, 'inherit', r.rolinherit, 'createrole', r.rolcreaterole, 'createdb', r.rolcreatedb,
            'login', r.rolcanlogin, 'replication', r.rolreplication, 'bypassrls', r.rolbypassrls,
            'connection_limit', r.rolconnlimit,
            'valid_until', coalesce((r.rolvaliduntil AT TIME ZONE 'UTC')::text, 'infinity'),
            'expired', coalesce(r.rolvaliduntil < now(), false),
            'settings', (
                SELECT s.setconfig FROM pg_db_role_setting AS s WHERE s.setrole = r.oid AND s.setdatabase = 0
            ),
            'memberships', (
                SELECT coalesce(json_agg(json_build_array(
                    pg_get_userbyid(m.roleid), pg_get_userbyid(m.grantor),
                    -- PostgreSQL 16 has memberships that are good for nothing but to grant the role.
                    coalesce(
                        (to_jsonb(m) ->> 'inherit_option')::bool OR (to_jsonb(m) ->> 'set_option')::bool, true
                    )
                )), '[]')
                FROM pg_auth_members AS m WHERE m.member = r.oid
            ),
            'dependencies', (
                SELECT coalesce(json_agg(DISTINCT jsonb_build_array(
                    (SELECT d.datname FROM pg_database AS d WHERE d.oid = p.dbid),
                    p.deptype = 'o' AND p.classid <> 'pg_default_acl'::regclass,
                    (SELECT d.datname FROM pg_database AS d
                     WHERE d.oid = p.objid AND p.classid = 'pg_database'::regclass)
                )), '[]')
                FROM pg_shdepend AS p WHERE p.refclassid = 'pg_authid'::regclass AND p.refobjid = r.oid
                    AND r.rolname = ANY(%(dropped)s)
            )
        )), '{{}}')
        FROM pg_roles AS r WHERE r.rolname = ANY(%(roles)s)
    ),
    'databases', (
        SELECT coalesce(json_object_agg(d.datname, json_build_object(
            'owner', pg_get_userbyid(d.datdba), 'encoding', pg_encoding_to_char(d.encoding),
            'lc_collate', d.datcollate, 'lc_ctype', d.datctype, 'connection_limit', d.datconnlimit,
            'acl', {_entries("coalesce(d.datacl, acldefault('d', d.datdba))", "d.datdba")}
        )), '{{}}')
        FROM pg_database AS d WHERE d.datname = ANY(%(databases)s)
    ),
    'encodings', (
        SELECT coalesce(json_object_agg(e.name, pg_encoding_to_char(pg_char_to_encoding(e.name::name))), '{{}}')
        FROM unnest(%(encodings)s::text[]) AS e (name)
    ),
    'builtin', (
        SELECT json_object_agg(kind, (
            SELECT json_agg(json_build_array(
                'OWNER', CASE WHEN e.grantee = 10 THEN 'OWNER' END, e.privilege_type, e.is_grantable
            )) FROM aclexplode(acldefault(kind::"char", 10)) AS e
        )) FROM unnest(ARRAY['d', 'n', 'r', 's', 'f']) AS kind
    ),
    'passwords', {{passwords}}
)
"""

_DATABASE = f"""
SELECT json_build_object(
    'schemas', (
        SELECT coalesce(json_object_agg(n.nspname, json_build_object(
            'owner', pg_get_userbyid(n.nspowner),
            'acl', {_entries("coalesce(n.nspacl, acldefault('n', n.nspowner))")}
        )), '{{}}')
        FROM pg_namespace AS n WHERE n.nspname = ANY(%(schemas)s)
    ),
    'relations', (
        SELECT coalesce(json_agg(json_build_object(
            'schema', n.nspname, 'name', c.relname, 'sequence', c.relkind = 'S', 'owner', pg_get_userbyid(c.relowner),
            'acl', {_entries('''coalesce(c.relacl,
                acldefault(CASE WHEN c.relkind = 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner))''')}
        ) ORDER BY n.nspname, c.relname), '[]')
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S') AND n.nspname = ANY(%(relation_schemas)s)
    ),
    'functions', (
        SELECT coalesce(json_agg(json_build_object(
            'schema', n.nspname, 'name', p.proname, 'owner', pg_get_userbyid(p.proowner),
            'arguments', (
                SELECT coalesce(string_agg(format_type(a.type, NULL), ', ' ORDER BY a.number), '')
                FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (type, number)
            ),
            'acl', {_entries("coalesce(p.proacl, acldefault('f', p.proowner))")}
        ) ORDER BY n.nspname, p.proname, p.oid), '[]')
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = ANY(%(function_schemas)s)
    ),
    'defaults', (
        SELECT coalesce(json_agg(json_build_object(
            'role', pg_get_userbyid(f.defaclrole), 'schema', n.nspname, 'kind', lower(f.defaclobjtype::text),
            'acl', {_entries("f.defaclacl")}
        )), '[]')
        FROM pg_default_acl AS f LEFT JOIN pg_namespace AS n ON n.oid = f.defaclnamespace
        WHERE pg_get_userbyid(f.defaclrole) = ANY(%(roles)s) AND f.defaclobjtype IN ('r', 'S', 'f')
    )
)
"""


def _one(connection, query, values):
    with connection.cursor() as cursor:
        # Nobody's function or type of the same name gets in between, and types outside pg_catalog are named in full.
        cursor.execute(f"SET search_path = pg_catalog; {query}", values)
        return cursor.fetchone()[0]


def read_server(connection, roles, databases, dropped, encodings):
    """What the server has of the named roles and databases; `dropped` are those of the roles that are to go.

    Returns a dictionary: user (logged in), standby (whether it is one), version (server_version_num),
    password_encryption, scram_iterations,
    roles {name: {attribute: value, expired, settings [name=value] or None, memberships [[role, grantor, usable]],
    dependencies [[database or None, whether it owns what it is about, the database that it is about or None]], these
    only for `dropped`}},
    databases {name: {owner, encoding, lc_collate, lc_ctype, connection_limit, acl}},
    encodings {name in `encodings`: the same as the server writes it, empty for one that it does not know},
    builtin {kind of object: access list of a new one, its owner called OWNER},
    passwords {role: verifier or None}, or None where they may not be read.
    """
    readable = _one(connection, _CAN_READ_PASSWORDS, None)
    query = _SERVER.replace("{passwords}", f"coalesce({_PASSWORDS}, '{{}}')" if readable else "NULL")
    values = {
        "roles": list(roles), "databases": list(databases), "dropped": list(dropped), "encodings": list(encodings),
    }
    return _one(connection, query, values)


def read_database(connection, roles, schemas, relation_schemas, function_schemas):
    """What the connected database has in the named schemas, as far as it concerns the named roles and PUBLIC.

    Returns a dictionary: schemas {name: {owner, acl}}, relations [{schema, name, sequence, owner, acl}],
    functions [{schema, name, arguments, owner, acl}], defaults [{role, schema or None, kind, acl}].
    """
    values = {
        "roles": list(roles), "schemas": list(schemas),
        "relation_schemas": list(relation_schemas), "function_schemas": list(function_schemas),
    }
    return _one(connection, _DATABASE, values)


def new_database(version):
    """What read_database() will find in a database made from an untouched template1, for plans of what follows it."""
    public = ["USAGE"] if version >= 150000 else ["USAGE", "CREATE"]
    acl = [[None, None, privilege, False] for privilege in public]
    return {"schemas": {"public": {"owner": None, "acl": acl}}, "relations": [], "functions": [], "defaults": []}
