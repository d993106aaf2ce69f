# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a PostgreSQL database has besides the objects of its schemas, and of these what is set on them seldom.

Each piece has names of its own, so that a definition that was recorded without them stays what it was. Of what is set
only that is listed which is not the default. Through to_jsonb columns are read that not every version has.
"""

from __future__ import annotations

MARK = "fingerprint"
PREFIXES = (
    MARK, "settings on ", "comment on ", "publication ", "subscription ", "event trigger ", "statistics ",
    "foreign-data wrapper ", "server ", "user mapping ", "cast ", "operator ", "collation ", "text search ",
    "grants on server ", "grants on foreign-data wrapper ", "grants on type ",
)
_USER_MADE = 16384  # the first OID of what is not the server's own
_OWNER = "'owner ' || pg_get_userbyid({})"


def _own(catalogue, alias):
    """That an object was made by a user, and not by an extension."""
    return (
        f"{alias}.oid >= {_USER_MADE} AND NOT EXISTS (SELECT FROM members AS m "
        f"WHERE m.classid = '{catalogue}'::regclass AND m.objid = {alias}.oid)"
    )


def _options(column):
    """An object's OPTIONS as text, without the values that nobody is to read."""
    return (
        f"(SELECT string_agg(CASE WHEN one ~* '^[^=]*(pass|secret|token|key)' THEN split_part(one, '=', 1) || "
        f"'=********' ELSE one END, ', ' ORDER BY one) FROM unnest({column}) AS one)"
    )


# To follow the SELECTs of drift_postgres, whose WITH they share.
MORE = rf"""
UNION ALL SELECT '{MARK}', '2'
UNION ALL SELECT 'settings on extension ' || quote_ident(extname), 'schema ' || extnamespace::regnamespace::text
  FROM pg_extension
UNION ALL SELECT 'settings on ' || object, said FROM (
  SELECT r.object, nullif(concat_ws(E'\n',
    (SELECT 'toast with ' || array_to_string(reloptions, ', ') FROM pg_class AS o WHERE o.oid = r.reltoastrelid),
    (SELECT 'cluster on ' || indexrelid::regclass::text FROM pg_index WHERE indrelid = r.oid AND indisclustered),
    (SELECT 'of ' || format_type(r.reloftype, NULL) WHERE r.reloftype <> 0),
    (SELECT 'tablespace ' || quote_ident(spcname) FROM pg_tablespace AS p WHERE p.oid = r.reltablespace),
    (SELECT 'using ' || quote_ident(amname) FROM pg_am WHERE pg_am.oid = r.relam AND amname <> 'heap'),
    (SELECT concat_ws(' ', 'server', quote_ident(srvname), {_options("ftoptions")}) FROM pg_foreign_table
      JOIN pg_foreign_server AS f ON f.oid = ftserver WHERE ftrelid = r.oid),
    (SELECT 'cache ' || seqcache FROM pg_sequence WHERE seqrelid = r.oid AND seqcache <> 1),
    (SELECT 'owned by ' || refobjid::regclass::text || '.' || quote_ident(attname) FROM pg_depend
      JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
      WHERE r.relkind = 'S' AND classid = 'pg_class'::regclass AND objid = r.oid AND deptype = 'a'
      AND refclassid = 'pg_class'::regclass)), '') AS said
  FROM relations AS r
  UNION ALL SELECT 'column ' || a.attrelid::regclass::text || '.' || quote_ident(a.attname), nullif(concat_ws(', ',
    CASE WHEN a.attstorage <> t.typstorage THEN 'storage ' || CASE a.attstorage WHEN 'p' THEN 'plain'
      WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END END,
    'compression ' || CASE to_jsonb(a) ->> 'attcompression' WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
    'statistics ' || nullif(a.attstattarget, -1), array_to_string(a.attoptions, ', '), {_options("a.attfdwoptions")}
    ), '')
  FROM pg_attribute AS a JOIN relations AS r ON r.oid = a.attrelid JOIN pg_type AS t ON t.oid = a.atttypid
  WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind <> 'S') AS listed WHERE said IS NOT NULL
UNION ALL SELECT 'comment on ' || i.type || ' ' || i.identity, d.description
  FROM pg_description AS d, pg_identify_object(d.classoid, d.objoid, d.objsubid) AS i
  WHERE d.objoid >= {_USER_MADE} AND d.classoid <> 'pg_extension'::regclass AND i.identity IS NOT NULL
    AND (i.schema IS NULL OR i.schema IN (SELECT quote_ident(nspname) FROM spaces))
    AND NOT EXISTS (SELECT FROM pg_depend AS m
      WHERE m.classid = d.classoid AND m.objid = d.objoid AND m.deptype = 'e')
UNION ALL SELECT 'publication ' || quote_ident(p.pubname), concat_ws(E'\n', {_OWNER.format("p.pubowner")},
    CASE WHEN p.puballtables THEN 'all tables' END,
    (SELECT string_agg(concat_ws(' ', g.prrelid::regclass::text,
      (SELECT nullif(concat_ws(' ', CASE WHEN to_jsonb(g) ->> 'prattrs' IS NOT NULL THEN to_jsonb(v) ->> 'attnames' END,
        'where ' || (to_jsonb(v) ->> 'rowfilter')), '') FROM pg_publication_tables AS v JOIN pg_class AS c
        ON c.relname = v.tablename AND c.relnamespace::regnamespace::text = quote_ident(v.schemaname)
        WHERE v.pubname = p.pubname AND c.oid = g.prrelid)), E'\n' ORDER BY g.prrelid::regclass::text)
      FROM pg_publication_rel AS g WHERE g.prpubid = p.oid),
    (SELECT 'all tables of ' || string_agg(s.refobjid::regnamespace::text, ', ' ORDER BY s.refobjid::regnamespace::text)
      FROM pg_depend AS s JOIN pg_depend AS o USING (classid, objid)
      WHERE s.classid = to_regclass('pg_catalog.pg_publication_namespace') AND s.refclassid = 'pg_namespace'::regclass
      AND o.refclassid = 'pg_publication'::regclass AND o.refobjid = p.oid),
    concat_ws(', ', 'publish', CASE WHEN p.pubinsert THEN 'insert' END, CASE WHEN p.pubupdate THEN 'update' END,
      CASE WHEN p.pubdelete THEN 'delete' END, CASE WHEN p.pubtruncate THEN 'truncate' END,
      CASE WHEN to_jsonb(p) ->> 'pubviaroot' = 'true' THEN 'via partition root' END))
  FROM pg_publication AS p
UNION ALL SELECT 'subscription ' || quote_ident(subname), concat_ws(E'\n', {_OWNER.format("subowner")},
    array_to_string(subpublications, ', '), 'slot ' || quote_ident(subslotname), CASE WHEN NOT subenabled THEN
    'DISABLED' END)
  FROM pg_subscription JOIN pg_database AS d ON d.oid = subdbid WHERE d.datname = current_database()
UNION ALL SELECT 'event trigger ' || quote_ident(e.evtname), concat_ws(E'\n', {_OWNER.format("e.evtowner")},
    concat_ws(' ', 'on', e.evtevent, 'when tag in ' || array_to_string(e.evttags, ', ')),
    'execute ' || e.evtfoid::regprocedure::text,
    CASE e.evtenabled WHEN 'O' THEN NULL WHEN 'D' THEN 'DISABLED' ELSE e.evtenabled::text END)
  FROM pg_event_trigger AS e WHERE {_own("pg_event_trigger", "e")}
UNION ALL SELECT 'statistics ' || quote_ident(nspname) || '.' || quote_ident(s.stxname), concat_ws(E'\n',
    {_OWNER.format("s.stxowner")}, pg_get_statisticsobjdef(s.oid),
    'statistics ' || nullif(to_jsonb(s) ->> 'stxstattarget', '-1'))
  FROM pg_statistic_ext AS s JOIN spaces ON spaces.oid = s.stxnamespace WHERE {_own("pg_statistic_ext", "s")}
UNION ALL SELECT 'foreign-data wrapper ' || quote_ident(w.fdwname), concat_ws(E'\n', {_OWNER.format("w.fdwowner")},
    'handler ' || nullif(w.fdwhandler, 0)::regprocedure::text,
    'validator ' || nullif(w.fdwvalidator, 0)::regprocedure::text, {_options("w.fdwoptions")})
  FROM pg_foreign_data_wrapper AS w WHERE {_own("pg_foreign_data_wrapper", "w")}
UNION ALL SELECT 'server ' || quote_ident(f.srvname), concat_ws(E'\n', {_OWNER.format("f.srvowner")},
    (SELECT quote_ident(fdwname) FROM pg_foreign_data_wrapper AS w WHERE w.oid = f.srvfdw),
    'type ' || f.srvtype, 'version ' || f.srvversion, {_options("f.srvoptions")})
  FROM pg_foreign_server AS f WHERE {_own("pg_foreign_server", "f")}
UNION ALL SELECT 'user mapping for ' || quote_ident(usename) || ' on server ' || quote_ident(srvname), ''
  FROM pg_user_mappings
UNION ALL SELECT 'cast (' || format_type(c.castsource, NULL) || ' as ' || format_type(c.casttarget, NULL) || ')',
    concat_ws(' ', c.castcontext, c.castmethod, nullif(c.castfunc, 0)::regprocedure::text)
  FROM pg_cast AS c WHERE {_own("pg_cast", "c")}
UNION ALL SELECT 'operator ' || o.oid::regoperator::text, concat_ws(E'\n', {_OWNER.format("o.oprowner")},
    'function ' || o.oprcode::text, 'commutator ' || nullif(o.oprcom, 0)::regoperator::text,
    'negator ' || nullif(o.oprnegate, 0)::regoperator::text, 'restrict ' || nullif(o.oprrest, 0)::regproc::text,
    'join ' || nullif(o.oprjoin, 0)::regproc::text, CASE WHEN o.oprcanhash THEN 'hashes' END,
    CASE WHEN o.oprcanmerge THEN 'merges' END)
  FROM pg_operator AS o JOIN spaces AS s ON s.oid = o.oprnamespace WHERE {_own("pg_operator", "o")}
UNION ALL SELECT 'operator class ' || quote_ident(s.nspname) || '.' || quote_ident(o.opcname) || ' using '
    || (SELECT amname FROM pg_am WHERE pg_am.oid = o.opcmethod), concat_ws(E'\n', {_OWNER.format("o.opcowner")},
    'for ' || format_type(o.opcintype, NULL), CASE WHEN o.opcdefault THEN 'default' END,
    (SELECT string_agg(amopstrategy || ' ' || amopopr::regoperator::text, E'\n' ORDER BY amopstrategy,
      amopopr::regoperator::text) FROM pg_amop WHERE amopfamily = o.opcfamily AND pg_amop.oid >= {_USER_MADE}),
    (SELECT string_agg(amprocnum || ' ' || amproc::regprocedure::text, E'\n' ORDER BY amprocnum,
      amproc::regprocedure::text) FROM pg_amproc WHERE amprocfamily = o.opcfamily AND pg_amproc.oid >= {_USER_MADE}))
  FROM pg_opclass AS o JOIN spaces AS s ON s.oid = o.opcnamespace WHERE {_own("pg_opclass", "o")}
UNION ALL SELECT 'collation ' || quote_ident(s.nspname) || '.' || quote_ident(c.collname), concat_ws(E'\n',
    {_OWNER.format("c.collowner")}, c.collprovider::text || ' ' || coalesce(to_jsonb(c) ->> 'colllocale',
      to_jsonb(c) ->> 'colliculocale', concat_ws(' ', c.collcollate, nullif(c.collctype, c.collcollate))),
    CASE WHEN to_jsonb(c) ->> 'collisdeterministic' = 'false' THEN 'not deterministic' END)
  FROM pg_collation AS c JOIN spaces AS s ON s.oid = c.collnamespace WHERE {_own("pg_collation", "c")}
UNION ALL SELECT 'text search configuration ' || c.oid::regconfig::text, concat_ws(E'\n', {_OWNER.format("c.cfgowner")},
    (SELECT prsname FROM pg_ts_parser AS p WHERE p.oid = c.cfgparser),
    (SELECT string_agg(maptokentype || ' ' || mapdict::regdictionary::text, E'\n' ORDER BY maptokentype, mapseqno)
      FROM pg_ts_config_map WHERE mapcfg = c.oid))
  FROM pg_ts_config AS c JOIN spaces AS s ON s.oid = c.cfgnamespace WHERE {_own("pg_ts_config", "c")}
UNION ALL SELECT 'text search dictionary ' || c.oid::regdictionary::text, concat_ws(E'\n',
    {_OWNER.format("c.dictowner")}, (SELECT tmplname FROM pg_ts_template AS p WHERE p.oid = c.dicttemplate),
    c.dictinitoption)
  FROM pg_ts_dict AS c JOIN spaces AS s ON s.oid = c.dictnamespace WHERE {_own("pg_ts_dict", "c")}
"""
