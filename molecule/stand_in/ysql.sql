-- Stand-in for YSQL's catalogue. Not YSQL: PostgreSQL 15 made to refuse the objects that YSQL does not support.
SET allow_system_table_mods = on;

CREATE OR REPLACE FUNCTION pg_catalog.version() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT 'PostgreSQL 15.2-YB-' || coalesce(nullif(current_setting('stand_in.release', true), ''), '0.0.0.0-b0')
         || ' on x86_64-pc-linux-gnu, compiled by nobody (stand-in), 64-bit'
$$;

CREATE OR REPLACE FUNCTION pg_catalog.yb_is_database_colocated(check_legacy boolean DEFAULT false) RETURNS boolean
LANGUAGE sql STABLE AS $$
  SELECT datcollversion IS NOT DISTINCT FROM 'colocated' FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
$$;

CREATE OR REPLACE FUNCTION pg_catalog.yb_servers(
  OUT host text, OUT port bigint, OUT num_connections bigint, OUT node_type text,
  OUT cloud text, OUT region text, OUT zone text, OUT public_ip text, OUT uuid text
) RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER AS $$
  SELECT * FROM pg_catalog.json_to_recordset(pg_catalog.pg_read_file('stand_in_servers.json')::json) AS server(
    host text, port bigint, num_connections bigint, node_type text,
    cloud text, region text, zone text, public_ip text, uuid text)
$$;

-- A node shows the sessions that it serves itself.
CREATE OR REPLACE VIEW pg_catalog.pg_stat_activity AS
  SELECT s.datid, d.datname, s.pid, s.leader_pid, s.usesysid, u.rolname AS usename, s.application_name, s.client_addr,
         s.client_hostname, s.client_port, s.backend_start, s.xact_start, s.query_start, s.state_change,
         s.wait_event_type, s.wait_event, s.state, s.backend_xid, s.backend_xmin, s.query_id, s.query, s.backend_type
  FROM pg_catalog.pg_stat_get_activity(NULL) AS s
  LEFT JOIN pg_catalog.pg_database AS d ON s.datid = d.oid LEFT JOIN pg_catalog.pg_authid AS u ON s.usesysid = u.oid
  WHERE s.client_addr IS NOT DISTINCT FROM pg_catalog.inet_client_addr();

-- Looks at the whole database: whatever breaks a rule now was made by the statement that just ran.
CREATE OR REPLACE FUNCTION pg_catalog.stand_in_refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
  refused text;
BEGIN
  WITH own AS (
    SELECT oid, relname, relkind, relam, reloptions FROM pg_catalog.pg_class
    WHERE relnamespace NOT IN (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname ~ '^(pg_|information_schema)')
  ),
  key AS (
    SELECT own.relname, am.amname, count(*) OVER (PARTITION BY own.oid) AS columns,
           pg_catalog.format_type(column_.atttypid, NULL) AS type, type_.typtype, type_.typcategory
    FROM own JOIN pg_catalog.pg_index AS i ON i.indexrelid = own.oid JOIN pg_catalog.pg_am AS am ON am.oid = own.relam
    JOIN pg_catalog.pg_attribute AS column_ ON column_.attrelid = own.oid AND column_.attnum <= i.indnkeyatts
    JOIN pg_catalog.pg_type AS type_ ON type_.oid = column_.atttypid
  )
  SELECT message INTO refused FROM (
    SELECT pg_catalog.format('index method "%s" not supported yet (%I)', amname, relname) FROM key
      WHERE amname IN ('gist', 'brin', 'spgist')
    UNION ALL
    SELECT pg_catalog.format('access method "ybgin" does not support multicolumn indexes (%I)', relname) FROM key
      WHERE amname = 'gin' AND columns > 1
    UNION ALL
    SELECT pg_catalog.format('INDEX on column of type ''%s'' not yet supported (%I)', upper(type), relname) FROM key
      WHERE amname IN ('btree', 'hash') AND (
        typtype IN ('c', 'r', 'm') OR typcategory = 'A'
        OR type IN ('json', 'jsonb', 'inet', 'cidr', 'citext', 'interval', 'bit', 'bit varying', 'tsvector', 'tsquery'))
    UNION ALL
    SELECT pg_catalog.format('EXCLUDE constraint not supported yet (%I)', conname) FROM pg_catalog.pg_constraint
      WHERE contype = 'x'
    UNION ALL
    SELECT pg_catalog.format('CREATE CONSTRAINT TRIGGER not supported yet (%I)', conname) FROM pg_catalog.pg_constraint
      WHERE contype = 't'
    UNION ALL
    SELECT pg_catalog.format('DEFERRABLE constraint not supported yet, except on foreign keys (%I)', conname)
      FROM pg_catalog.pg_constraint WHERE condeferrable AND contype NOT IN ('f', 't')
    UNION ALL
    SELECT pg_catalog.format('storage parameter "%s" is unsupported (%I)', split_part(option, '=', 1), relname)
      FROM own, unnest(reloptions) AS option WHERE relkind IN ('r', 'p', 'i', 'I', 'm')
    UNION ALL
    SELECT pg_catalog.format('VIEW WITH CHECK OPTION not supported yet (%I)', relname)
      FROM own, unnest(reloptions) AS option WHERE relkind = 'v' AND option LIKE 'check_option=%'
    UNION ALL
    SELECT pg_catalog.format('REFERENCING clause (transition tables) not supported yet (%I)', tgname)
      FROM pg_catalog.pg_trigger WHERE tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL
  ) AS rule(message) LIMIT 1;
  IF refused IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = refused;
  END IF;
END
$$;

CREATE EVENT TRIGGER stand_in_refuse ON ddl_command_end EXECUTE FUNCTION pg_catalog.stand_in_refuse();
-- In no dump, as YSQL itself is in none: every database has that extension.
ALTER EXTENSION plpgsql ADD EVENT TRIGGER stand_in_refuse;
