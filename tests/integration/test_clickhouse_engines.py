"""What the rewriting for clusters writes, before the real parser, and on two real engines that are the shards.

The embedded engine has no Keeper: there, Replicated engines are taken for what they replicate.
"""

import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import quote_identifier, quote_string
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_engines import (
    Topology,
    everywhere,
    rewrite,
    sharded_tables,
)
from ansible_collections.frameworks.database.plugins.module_utils.sql_clickhouse import ClickHouseSplitter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clickhouse import ClickHouseServer
from support.schema import CLICKHOUSE_INIT

CASES = yaml.safe_load((Path(__file__).parents[1] / "unit/data/clickhouse_engines.yml").read_text())
ON_CLUSTER = Topology("fw", "d", replicated=False, sharding_key="cityHash64(k)")
DATABASE = Topology("fw", "d", sharding_key="cityHash64(k)")
TENANTS = Topology("fw", "d", sharding_key="cityHash64(tenant_id)")
TENANT = "toUUID('5eed0000-0000-4000-8000-00000000000{}')"


def platform():
    """The statements of the platform's schema."""
    with CLICKHOUSE_INIT.open("rb") as stream:
        return [statement.text for statement in ClickHouseSplitter(stream)]


def parse(server, statement):
    """`statement` as the real parser prints it; RuntimeError where it does not parse."""
    return server.query(f"SELECT formatQuerySingleLine({quote_string(statement)}) FORMAT TSVRaw").strip()


@pytest.mark.parametrize("topology", [ON_CLUSTER, DATABASE], ids=["on_cluster", "replicated"])
def test_everything_that_is_written_parses(clickhouse, topology):
    statements = [case["statement"] for case in CASES if "IF EMPTY" not in case["statement"]] + platform()
    sharded = sharded_tables(statements, topology) | {"a", "b"}
    for statement in statements:
        parse(clickhouse, statement)  # the case itself is none that ClickHouse does not know
        for written in rewrite(statement, topology, sharded):
            again = parse(clickhouse, written)
            if not topology.replicated and not re.match(r"(?i)\s*(SELECT|INSERT|GRANT|CREATE TEMPORARY)", written):
                assert "ON CLUSTER fw" in again
    parse(clickhouse, everywhere(platform()[0], topology)[0])


NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
TYPE = st.sampled_from(["Int32", "LowCardinality(String)", "Array(Tuple(a String, b UInt8))", "DateTime64(3)", "JSON"])
ENGINE = st.sampled_from([
    ("MergeTree", ""), ("MergeTree", "()"), ("ReplacingMergeTree", "(v)"), ("SummingMergeTree", "((x, y))"),
    ("AggregatingMergeTree", ""), ("CollapsingMergeTree", "(s)"),
])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAME, st.lists(st.tuples(NAME, TYPE, NAME), min_size=1, max_size=3), ENGINE, NAME)
def test_any_table_stays_what_it_is_but_for_its_engine(clickhouse, name, columns, engine, comment):
    body = ", ".join(
        f"{quote_identifier(column)} {kind} COMMENT {quote_string(text)}" for column, kind, text in columns
    )
    statement = (
        f"CREATE TABLE {quote_identifier(name)} ({body}) ENGINE = {''.join(engine)} ORDER BY tuple() "
        f"SETTINGS index_granularity = 1 COMMENT {quote_string(comment)}"
    )
    local, distributed = rewrite(statement, DATABASE)
    expected = parse(clickhouse, statement.replace(
        f"CREATE TABLE {quote_identifier(name)} ({body}) ENGINE = ",
        f"CREATE TABLE IF NOT EXISTS {quote_identifier(name + '_local')} ({body}) ENGINE = Replicated", 1,
    ))
    assert parse(clickhouse, local) == expected
    assert parse(clickhouse, distributed) == parse(
        clickhouse, f"CREATE TABLE IF NOT EXISTS {quote_identifier(name)} AS {quote_identifier(name + '_local')} "
        f"ENGINE = Distributed('fw', 'd', {quote_string(name + '_local')}, cityHash64(k))",
    )


@pytest.fixture(scope="module")
def shards():
    """Two engines that know each other as the shards of the cluster fw."""
    servers = [ClickHouseServer(), ClickHouseServer()]
    cluster = "".join(
        f"<shard><replica><host>127.0.0.1</host><port>{server.tcp_port}</port></replica></shard>" for server in servers
    )
    try:
        for server in servers:
            config = server.directory / "config.xml"
            config.write_text(config.read_text().replace(
                "</clickhouse>",
                f"<remote_servers><fw><secret>between hosts</secret>{cluster}</fw></remote_servers></clickhouse>",
            ))
            server.start().query("CREATE DATABASE d")
        yield servers
    finally:
        for server in servers:
            server.close()


def apply(servers, statement, topology, sharded):
    """Do on each host what the cluster's Keeper would have passed on to it."""
    for written in rewrite(statement, topology, sharded):
        for server in servers:
            server.query(re.sub(r"\bReplicated(?=\w*MergeTree)", "", written), database="d")


def test_the_platforms_schema_on_two_shards(shards):
    statements = platform()
    sharded = sharded_tables(statements, TENANTS)
    for _twice in range(2):  # each of them can run again
        for statement in statements:
            apply(shards, statement, TENANTS, sharded)
    columns = "timestamp, tenant_id, internal_name, node_id, viewer_count, country_code, city"
    rows = ", ".join(
        f"(toStartOfDay(now()) + INTERVAL {minute} MINUTE, {TENANT.format(tenant)}, 's', 'n', {minute}, 'NL', 'Leiden')"
        for minute in range(5) for tenant in range(9)
    )
    shards[0].query(
        f"INSERT INTO viewer_metrics ({columns}) VALUES {rows}", database="d", distributed_foreground_insert=1
    )
    held = [int(server.query("SELECT count() FROM d.viewer_metrics_local")) for server in shards]
    assert sum(held) == 45 and all(held)
    for server in shards:  # whichever host is asked
        assert server.query("SELECT count() FROM d.viewer_metrics") == "45\n"
        assert server.query(
            "SELECT uniqExact(tenant_id), sum(sample_count), max(peak_viewers) FROM d.viewer_metrics_5m"
        ) == "9\t45\t4\n"
        assert server.query(
            "SELECT avgMerge(avg_viewers) FROM d.viewer_metrics_5m GROUP BY tenant_id LIMIT 1"
        ) == "2\n"


def test_later_changes_reach_both_tables(shards):
    statements = [
        "CREATE TABLE late (k UInt64, x Int32, t DateTime) ENGINE = MergeTree ORDER BY k",
        "ALTER TABLE late ADD COLUMN y String DEFAULT 'new' CODEC(ZSTD) TTL t + INTERVAL 1 DAY AFTER x, "
        "ADD INDEX i x TYPE minmax",
        "ALTER TABLE late MODIFY COLUMN x Int64, MODIFY TTL t + INTERVAL 3 DAY",
        "ALTER TABLE late MODIFY COLUMN y CODEC(ZSTD(3)), MODIFY SETTING ttl_only_drop_parts = 1, "
        "merge_max_block_size = 9",
        "ALTER TABLE late MODIFY COLUMN y REMOVE TTL",
        "ALTER TABLE late COMMENT COLUMN y 'seen', MODIFY COMMENT 'table'",
        "ALTER TABLE late RENAME COLUMN x TO z",
    ]
    sharded = sharded_tables(statements, DATABASE)
    for statement in statements:
        apply(shards, statement, DATABASE, sharded)
        if "REMOVE" not in statement:
            apply(shards, statement, DATABASE, sharded)
    for server in shards:
        for table in ("late", "late_local"):
            assert server.query(
                f"SELECT name, type, comment FROM system.columns WHERE database = 'd' AND table = '{table}'"
            ) == "k\tUInt64\t\nz\tInt64\t\ny\tString\tseen\nt\tDateTime\t\n"
            assert server.query(
                f"SELECT comment FROM system.tables WHERE database = 'd' AND name = '{table}'"
            ) == "table\n"
    apply(shards, "ALTER TABLE late DELETE WHERE k = 1", DATABASE, sharded)
    apply(shards, "TRUNCATE TABLE late", DATABASE, sharded)
    apply(shards, "DROP TABLE late SYNC", DATABASE, sharded)
    apply(shards, "DROP TABLE late SYNC", DATABASE, sharded)
    assert shards[1].query("SELECT count() FROM system.tables WHERE name LIKE 'late%'") == "0\n"
