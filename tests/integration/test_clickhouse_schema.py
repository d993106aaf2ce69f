"""init_clickhouse_periscope.sql on the real engine: what the document promises, and a rollup that adds up."""

import datetime
import json
import secrets

import pytest
from support.schema import CLICKHOUSE_INIT, statements

ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
# Young enough for every table to keep it.
DAY = datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=2)

# The tables of the source document with their columns in its order; None where it names a column without its type.
DOCUMENT = {
    "viewer_metrics": {
        "timestamp": "DateTime", "tenant_id": "UUID", "internal_name": "String", "viewer_count": "UInt32",
        "connection_type": "LowCardinality(String)", "node_id": "LowCardinality(String)",
        "country_code": "FixedString(2)", "city": "LowCardinality(String)", "latitude": "Float64",
        "longitude": "Float64", "connection_quality": "Float32", "buffer_health": "Float32",
    },
    "connection_events": {
        "event_id": "UUID", "timestamp": "DateTime", "tenant_id": "UUID", "internal_name": "String",
        "user_id": "String", "session_id": "String", "connection_addr": "String", "user_agent": "String",
        "connector": "LowCardinality(String)", "node_id": "LowCardinality(String)", "country_code": "FixedString(2)",
        "city": "LowCardinality(String)", "latitude": "Float64", "longitude": "Float64",
        "event_type": "LowCardinality(String)", "session_duration": "UInt32", "bytes_transferred": "UInt64",
    },
    "node_metrics": {
        "timestamp": "DateTime", "tenant_id": "UUID", "node_id": "LowCardinality(String)", "cpu_usage": None,
        "memory_usage": None, "disk_usage": None, "bandwidth_in": None, "bandwidth_out": None, "download_speed": None,
        "upload_speed": None, "connections": None, "stream_count": None, "health_score": None, "is_healthy": None,
        "latitude": None, "longitude": None, "tags": "Array(String)", "metadata": "JSON",
    },
    "routing_events": {
        "timestamp": "DateTime", "tenant_id": "UUID", "stream_name": "String", "selected_node": None, "status": None,
        "details": None, "score": None, "client_ip": None, "client_country": None, "client_region": None,
        "client_city": None, "client_latitude": None, "client_longitude": None, "node_scores": "String",
        "routing_metadata": "String",
    },
    "stream_health_metrics": {"track_metadata": "JSON"},
    "stream_events": {
        "event_id": None, "timestamp": None, "tenant_id": None, "internal_name": None, "event_type": None,
        "status": None, "node_id": None, "event_data": "JSON",
    },
    "track_list_events": {"track_count": None, "track_list": None},
    "usage_records": {
        "timestamp": "DateTime", "tenant_id": "UUID", "cluster_id": "String", "usage_type": "LowCardinality(String)",
        "usage_value": "Float64", "billing_month": "Date", "usage_details": "String",
    },
}
# Of these the document names every column; the others have more of their kind.
COMPLETE = {"viewer_metrics", "connection_events", "node_metrics", "routing_events", "usage_records"}
# Everywhere the same, whether or not the document repeats it.
ALIKE = {
    "event_id": "UUID", "timestamp": "DateTime", "tenant_id": "UUID", "internal_name": "String",
    "node_id": "LowCardinality(String)", "event_type": "LowCardinality(String)", "status": "LowCardinality(String)",
    "latitude": "Float64", "longitude": "Float64", "client_latitude": "Float64", "client_longitude": "Float64",
    "country_code": "FixedString(2)", "client_country": "FixedString(2)", "buffer_health": "Float32",
    "health_score": "Float32",
}
KEPT_DAYS = {
    "viewer_metrics": 90, "connection_events": 90, "node_metrics": 30, "routing_events": 30,
    "stream_health_metrics": 30, "stream_events": 90, "track_list_events": 90, "usage_records": 730,
    "viewer_metrics_5m": 730,
}
WHOLE_PARTS = set(KEPT_DAYS) - {"connection_events", "routing_events"}


def load(server, database):
    """Send every statement by itself, as over HTTP it must be."""
    for statement in statements(CLICKHOUSE_INIT.read_text()):
        server.query(statement, database=database)


@pytest.fixture(scope="module")
def loaded(clickhouse):
    """The name of a database with the schema. Tests only read it."""
    name = f"schema_{secrets.token_hex(4)}"
    clickhouse.query(f"CREATE DATABASE {name}")
    load(clickhouse, name)
    yield name
    clickhouse.query(f"DROP DATABASE {name} SYNC")


@pytest.fixture
def database(clickhouse, clickhouse_database):
    """The name of a database with the schema, for one test to write to."""
    load(clickhouse, clickhouse_database)
    return clickhouse_database


def rows(server, database, statement, **settings):
    """The rows of a query as lists."""
    answer = server.query(f"{statement} FORMAT JSONCompactEachRow", database=database,
                          output_format_json_quote_64bit_integers=0, **settings)
    return [json.loads(line) for line in answer.splitlines()]


def columns(server, database, table):
    """{name: type} of a table, in its order."""
    return dict(rows(server, database, "SELECT name, type FROM system.columns WHERE database = currentDatabase() "
                                       f"AND table = '{table}' ORDER BY position"))


def test_tables_are_those_of_the_document(clickhouse, loaded):
    found = dict(rows(clickhouse, loaded, "SELECT name, engine FROM system.tables WHERE database = currentDatabase()"))
    assert found == {
        **dict.fromkeys(DOCUMENT, "MergeTree"),
        "viewer_metrics_5m": "AggregatingMergeTree", "viewer_metrics_5m_mv": "MaterializedView",
    }


@pytest.mark.parametrize("table", DOCUMENT)
def test_columns_are_those_of_the_document(clickhouse, loaded, table):
    found, document = columns(clickhouse, loaded, table), DOCUMENT[table]
    assert {name: found.get(name) for name, kind in document.items() if kind} == \
        {name: kind for name, kind in document.items() if kind}
    if table in COMPLETE:
        assert list(found) == list(document)
    assert [name for name in found if name in document] == list(document)
    assert {name: kind for name, kind in found.items() if name in ALIKE} == \
        {name: ALIKE[name] for name in found if name in ALIKE}
    assert "timestamp" in found and "tenant_id" in found


def test_stream_health_has_each_kind_of_metric(clickhouse, loaded):
    found = columns(clickhouse, loaded, "stream_health_metrics")
    for kind in (["bitrate", "health_score"], ["video_codec", "width", "height", "fps"],
                 ["buffer_state", "buffer_size", "buffer_health"], ["packets_sent", "packets_lost", "jitter"]):
        assert set(kind) <= set(found)


def test_names_are_relative_to_the_connection(clickhouse, loaded):
    queries = rows(clickhouse, loaded, "SELECT create_table_query FROM system.tables "
                                       "WHERE database = currentDatabase()")
    assert all(loaded in text for text, in queries)
    assert not [text for text, in queries if "frameworks" in text.replace(loaded, "")]


def test_partitions_and_keys_begin_with_the_tenant(clickhouse, loaded):
    found = rows(clickhouse, loaded, "SELECT name, partition_key, sorting_key FROM system.tables "
                                     "WHERE database = currentDatabase() AND engine LIKE '%MergeTree'")
    assert {name for name, *_ in found} == set(KEPT_DAYS)
    for name, partition, order in found:
        moment = "window_start" if name == "viewer_metrics_5m" else "timestamp"
        assert partition == f"(toYYYYMM({moment}), tenant_id)"
        assert order.split(", ")[0] == "tenant_id" and moment in order.split(", ")


def test_everything_has_a_comment(clickhouse, loaded):
    assert rows(clickhouse, loaded, "SELECT name FROM system.tables "
                                    "WHERE database = currentDatabase() AND comment = ''") == []
    # A number without its unit or range cannot be read; audio_channels says it all.
    assert rows(clickhouse, loaded, """
        SELECT table, name FROM system.columns
        WHERE database = currentDatabase() AND table NOT LIKE '%_mv' AND comment = '' AND name != 'audio_channels'
            AND (match(type, 'Int|Float|Aggregate|JSON') OR name IN ('timestamp', 'tenant_id', 'window_start'))
    """) == []


def test_moments_are_stored_small(clickhouse, loaded):
    codecs = rows(clickhouse, loaded, "SELECT DISTINCT compression_codec FROM system.columns WHERE "
                                      "database = currentDatabase() AND type = 'DateTime' AND table NOT LIKE '%_mv'")
    assert codecs == [["CODEC(Delta(4), ZSTD(1))"]]


@pytest.mark.parametrize("table", KEPT_DAYS)
def test_rows_expire(clickhouse, database, table):
    """A row that is due goes with the next merge, one that is not stays; each is alone in its part and month."""
    days, moment = KEPT_DAYS[table], "window_start" if table == "viewer_metrics_5m" else "timestamp"
    for age in (days + 40, days - 2):
        clickhouse.query(f"INSERT INTO {table} ({moment}, tenant_id) "
                         f"SELECT now() - INTERVAL {age} DAY, '{ONE}'", database=database)
    clickhouse.query(f"OPTIMIZE TABLE {table} FINAL", database=database)
    assert rows(clickhouse, database, f"SELECT {moment} > now() - INTERVAL {days} DAY FROM {table}") == [[1]]


def test_addresses_do_not_wait_for_their_part(clickhouse, loaded):
    found = dict(rows(clickhouse, loaded, """
        SELECT name, engine_full LIKE '%ttl_only_drop_parts = 1%' FROM system.tables
        WHERE database = currentDatabase() AND engine LIKE '%MergeTree'
    """))
    assert {name for name, whole in found.items() if whole} == WHOLE_PARTS
    addresses = rows(clickhouse, loaded, "SELECT DISTINCT table FROM system.columns WHERE database = currentDatabase() "
                                         "AND comment LIKE '%personal data%'")
    assert sorted(name for name, in addresses) == sorted(set(KEPT_DAYS) - WHOLE_PARTS)


def test_json_columns_hold_documents(clickhouse, database):
    for table, column in (("node_metrics", "metadata"), ("stream_health_metrics", "track_metadata"),
                          ("stream_events", "event_data")):
        clickhouse.query(
            f"INSERT INTO {table} (timestamp, tenant_id, {column}) FORMAT JSONEachRow "
            + json.dumps({"timestamp": f"{DAY} 00:00:00", "tenant_id": ONE, column: {"a": {"b": 7}, "c": "ü'"}}),
            database=database)
        assert rows(clickhouse, database, f"SELECT {column}.a.b, {column}.c FROM {table}") == [[7, "ü'"]]


# The rollup

def insert(server, database, samples):
    """One INSERT of samples: (time of DAY, tenant, stream, node, viewers, country, city, quality)."""
    fields = ("timestamp", "tenant_id", "internal_name", "node_id", "viewer_count", "country_code", "city",
              "connection_quality")
    lines = "\n".join(
        json.dumps(dict(zip(fields, (f"{DAY} {sample[0]}", *sample[1:])), buffer_health=0.5)) for sample in samples
    )
    server.query(f"INSERT INTO viewer_metrics FORMAT JSONEachRow {lines}", database=database)


ROLLUP = """
    SELECT formatDateTime(window_start, '%H:%i'), tenant_id, internal_name, node_id, sum(sample_count),
           avgMerge(avg_viewers), max(peak_viewers), uniqMerge(unique_countries), uniqMerge(unique_cities),
           round(avgMerge(avg_connection_quality), 4), avgMerge(avg_buffer_health)
    FROM viewer_metrics_5m GROUP BY window_start, tenant_id, internal_name, node_id ORDER BY ALL
"""
# The same, computed from every single row.
FROM_SCRATCH = """
    SELECT formatDateTime(toStartOfFiveMinutes(timestamp), '%H:%i'), tenant_id, internal_name, node_id, count(),
           avg(viewer_count), max(viewer_count), uniqExactIf(country_code, country_code != ''),
           uniqExactIf(city, city != ''), round(avg(connection_quality), 4), avg(buffer_health)
    FROM viewer_metrics GROUP BY toStartOfFiveMinutes(timestamp), tenant_id, internal_name, node_id ORDER BY ALL
"""


def test_rollup_adds_up_over_many_inserts(clickhouse, database):
    insert(clickhouse, database, [
        ("10:00:00", ONE, "live", "n1", 10, "NL", "Delft", 0.5),
        ("10:02:00", ONE, "live", "n1", 20, "NL", "Leiden", 0.5),
        ("10:04:59", ONE, "live", "n1", 30, "", "", 0.5),
        ("10:05:00", ONE, "live", "n1", 1000, "DE", "Bonn", 1),
        ("10:01:00", ONE, "live", "n2", 4, "FR", "Lyon", 1),
        ("10:01:00", ONE, "other", "n1", 7, "NL", "Delft", 1),
    ])
    # Late, of another size and in another block: an average of averages would say 60, not 40.
    insert(clickhouse, database, [("10:03:00", ONE, "live", "n1", 100, "BE", "Delft", 0.9)])
    insert(clickhouse, database, [("10:03:00", TWO, "live", "n1", 2, "NL", "Delft", 0.25)])
    expected = [
        ["10:00", ONE, "live", "n1", 4, 40, 100, 2, 2, 0.6, 0.5],
        ["10:00", ONE, "live", "n2", 1, 4, 4, 1, 1, 1, 0.5],
        ["10:00", ONE, "other", "n1", 1, 7, 7, 1, 1, 1, 0.5],
        ["10:00", TWO, "live", "n1", 1, 2, 2, 1, 1, 0.25, 0.5],
        ["10:05", ONE, "live", "n1", 1, 1000, 1000, 1, 1, 1, 0.5],
    ]
    assert rows(clickhouse, database, ROLLUP) == expected == rows(clickhouse, database, FROM_SCRATCH)
    assert rows(clickhouse, database, "SELECT count() FROM viewer_metrics_5m") == [[6]]
    clickhouse.query("OPTIMIZE TABLE viewer_metrics_5m FINAL", database=database)
    assert rows(clickhouse, database, "SELECT count() FROM viewer_metrics_5m") == [[5]]
    assert rows(clickhouse, database, ROLLUP) == expected


def test_rollup_agrees_with_the_rows_at_size(clickhouse, database):
    for seed in range(8):
        clickhouse.query(f"""
            INSERT INTO viewer_metrics (timestamp, tenant_id, internal_name, node_id, viewer_count, country_code, city,
                                        connection_quality, buffer_health)
            SELECT toDateTime('{DAY} 10:00:00') + rand({seed}) % 3600, '{ONE}', 'live' || toString(number % 3),
                   'n' || toString(number % 2), rand({seed + 10}) % (number + 1),
                   ['NL', 'DE', ''][rand({seed + 20}) % 3 + 1], 'c' || toString(rand({seed + 30}) % 400),
                   (rand({seed + 40}) % 100) / 100, 0.5
            FROM numbers({500 * (seed + 1)})
        """, database=database)
    rolled, single = rows(clickhouse, database, ROLLUP), rows(clickhouse, database, FROM_SCRATCH)
    assert len(rolled) == 12 * 3 * 2
    assert rolled == single
    clickhouse.query("OPTIMIZE TABLE viewer_metrics_5m FINAL", database=database)
    assert rows(clickhouse, database, ROLLUP) == single


def test_documented_query_adds_nodes_up(clickhouse, database):
    insert(clickhouse, database, [
        ("10:00:00", ONE, "demo", "n1", 10, "", "", 1), ("10:01:00", ONE, "demo", "n1", 20, "", "", 1),
        ("10:00:00", ONE, "demo", "n2", 5, "", "", 1),
    ])
    text = (CLICKHOUSE_INIT.parents[4] / "docs/schema.md").read_text().split("```sql\n")[-1].split("```")[0]
    text = text.replace("5eed0000-0000-4000-8000-000000000001", ONE)
    assert rows(clickhouse, database, text) == [[f"{DAY} 10:00:00", 20]]


def test_loading_twice_changes_nothing(clickhouse, database):
    insert(clickhouse, database, [("10:00:00", ONE, "live", "n1", 10, "NL", "Delft", 1)])
    definitions = ("SELECT name, uuid, create_table_query FROM system.tables "
                   "WHERE database = currentDatabase() ORDER BY 1")
    before = rows(clickhouse, database, definitions)
    load(clickhouse, database)
    assert rows(clickhouse, database, definitions) == before
    insert(clickhouse, database, [("10:01:00", ONE, "live", "n1", 20, "NL", "Delft", 1)])
    assert rows(clickhouse, database, "SELECT sum(sample_count), max(peak_viewers) FROM viewer_metrics_5m") == [[2, 20]]


def test_a_script_that_stopped_anywhere_is_run_again(clickhouse, clickhouse_database):
    for statement in statements(CLICKHOUSE_INIT.read_text()):
        for _ in range(2):
            clickhouse.query(statement, database=clickhouse_database)
    assert rows(clickhouse, clickhouse_database,
                "SELECT count() FROM system.tables WHERE database = currentDatabase()") == [[10]]


# Partitions, as docs/schema.md describes them

def test_blocks_of_many_tenants_need_a_higher_limit(clickhouse, database):
    many = ("INSERT INTO viewer_metrics (timestamp, tenant_id) "
            f"SELECT '{DAY} 10:00:00', reinterpretAsUUID(number) FROM numbers(101)")
    with pytest.raises(RuntimeError, match=r"Code: 252\..*TOO_MANY_PARTS"):
        clickhouse.query(many, database=database)
    clickhouse.query(many, database=database, max_partitions_per_insert_block=101)
    assert rows(clickhouse, database, "SELECT count() FROM viewer_metrics_5m") == [[101]]


def test_a_tenants_month_is_dropped_whole(clickhouse, database):
    insert(clickhouse, database, [("10:00:00", tenant, "live", "n1", 1, "", "", 1) for tenant in (ONE, TWO)])
    clickhouse.query(f"ALTER TABLE viewer_metrics DROP PARTITION ({DAY:%Y%m}, '{ONE}')", database=database)
    assert rows(clickhouse, database, "SELECT tenant_id FROM viewer_metrics") == [[TWO]]
