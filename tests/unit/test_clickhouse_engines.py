"""A schema for one server becomes one for a cluster: statement by statement, and nothing else of it changes."""

from pathlib import Path

import pytest
import yaml
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import quote_identifier
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_engines import (
    EngineError,
    Topology,
    everywhere,
    of_one_host,
    rewrite,
    sharded_tables,
)
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_tokens import Reader, tokenize
from ansible_collections.frameworks.database.plugins.module_utils.sql_clickhouse import ClickHouseSplitter
from hypothesis import given, settings
from hypothesis import strategies as st
from support.schema import CLICKHOUSE_INIT

ONE_SHARD = Topology("fw", "d")
ONE_SHARD_DDL = Topology("fw", "d", replicated=False)
SHARDS = Topology("fw", "d", sharding_key="cityHash64(k)")
SHARDS_DDL = Topology("fw", "d", replicated=False, sharding_key="cityHash64(k)")
SHARDED = {"a", "b", "odd `name"}
REWRITTEN = yaml.safe_load((Path(__file__).parent / "data/clickhouse_engines.yml").read_text())
STATEMENTS = [case["statement"] for case in REWRITTEN]


def platform():
    """The statements of the platform's schema."""
    with CLICKHOUSE_INIT.open("rb") as stream:
        return [statement.text for statement in ClickHouseSplitter(stream)]


@pytest.mark.parametrize("case", REWRITTEN, ids=lambda case: case["statement"][:40])
def test_statements_are_rewritten(case):
    if "on_cluster" in case:
        assert rewrite(case["statement"], ONE_SHARD_DDL) == case["on_cluster"]
    if "shards" in case:
        assert rewrite(case["statement"], SHARDS, SHARDED) == case["shards"]


PLACE = "'/clickhouse/tables/{uuid}/{shard}', '{replica}'"


@pytest.mark.parametrize("engine, alone", [
    (f"ReplicatedMergeTree({PLACE}) ORDER BY x", "MergeTree() ORDER BY x"),
    ("ReplicatedMergeTree ORDER BY x", "MergeTree ORDER BY x"),
    (f"ReplicatedReplacingMergeTree({PLACE}, v, d)", "ReplacingMergeTree(v, d)"),
    ("ReplicatedSummingMergeTree((a, b))", "SummingMergeTree((a, b))"),
    (f"ReplicatedGraphiteMergeTree({PLACE}, 'rollup')", "GraphiteMergeTree('rollup')"),
    ("ReplicatedGraphiteMergeTree('rollup')", "GraphiteMergeTree('rollup')"),
])
def test_a_table_that_hosts_share_becomes_one_of_a_host_alone(engine, alone):
    columns = "(`x` String DEFAULT 'ENGINE = ReplicatedMergeTree') COMMENT '…'"
    statement = f"CREATE TABLE d.`odd \\`t` {columns} ENGINE = {engine}"
    assert of_one_host(statement, "copy-1") == f"CREATE TABLE `copy-1`.`odd \\`t` {columns} ENGINE = {alone}"


REFUSED = {
    "CREATE TABLE t ON CLUSTER c (x Int) ENGINE = MergeTree ORDER BY x": "leave ON CLUSTER out",
    "CREATE TABLE other.t (x Int) ENGINE = MergeTree ORDER BY x": "other.t is in another database than d",
    "CREATE TABLE t (x Int) ENGINE = TinyLog": "keeps its rows on one host",
    "CREATE TABLE t (x Int) ORDER BY x": "name the ENGINE",
    "CREATE TABLE t ENGINE = MergeTree ORDER BY x AS SELECT 1 AS x": "would insert on every host",
    "CREATE TABLE t UUID 'u' (x Int) ENGINE = MergeTree ORDER BY x": "leave the UUID out",
    "CREATE DATABASE x": "declared for the role clickhouse_db",
    "CREATE MATERIALIZED VIEW m TO t POPULATE AS SELECT 1": "POPULATE would insert on every host",
    "CREATE MATERIALIZED VIEW m ENGINE = MergeTree ORDER BY x AS SELECT x FROM a": "with TO",
    "CREATE MATERIALIZED VIEW m REFRESH EVERY 1 DAY TO t AS SELECT x FROM a": "no meaning over several shards",
    "ALTER TABLE a DROP PARTITION 1": "run it by hand, on one replica of each shard",
    "ALTER TABLE a ADD COLUMN x Int, DETACH PARTITION ALL": "run it by hand, on one replica of each shard",
    "RENAME TABLE a TO c": "knows it by name",
    "EXCHANGE TABLES x AND b": "knows it by name",
    "SYSTEM RELOAD DICTIONARIES": "run it by hand, on each host",
    "DETACH TABLE a": "run it by hand, on each host",
    "DROP DATABASE d": "do it by hand",
    "TRUNCATE ALL TABLES FROM d": "of anything but one TABLE",
    "ALTER DATABASE d MODIFY COMMENT 'x'": "run it by hand",
}


@pytest.mark.parametrize("statement", REFUSED)
def test_what_a_cluster_cannot_do_is_refused_with_a_way_out(statement):
    with pytest.raises(EngineError, match=REFUSED[statement]):
        rewrite(statement, SHARDS, SHARDED)


def test_cut_off_statements_end_in_no_traceback():
    for statement in STATEMENTS:
        tokens = tokenize(statement)
        for token in tokens:
            try:
                rewrite(statement[:token.end], SHARDS, SHARDED)
            except EngineError as error:
                assert str(error)


def test_tables_over_shards_are_found_through_copies():
    others = ["CREATE TABLE c AS z", "CREATE TABLE k AS usage_records", "CREATE TABLE n (x Int) ENGINE = Null"]
    statements = [*platform(), *others]
    found = sharded_tables(statements, SHARDS)
    assert len(found) == 10 and "k" in found and "viewer_metrics_5m" in found and "viewer_metrics_5m_mv" not in found
    assert not sharded_tables(statements, ONE_SHARD)


def test_the_platforms_schema_becomes_replicated_and_nothing_of_it_is_lost():
    statements = platform()
    sharded = sharded_tables(statements, SHARDS)
    for statement in statements:
        first = rewrite(statement, SHARDS, sharded)[0]
        words = [token.text for token in tokenize(statement)]
        new = [token.text for token in tokenize(first)]
        restored = [word.replace("_local`", "`").strip("`").replace("Replicated", "") for word in new]
        if "MATERIALIZED" in words:  # the alias of its source
            where = restored.index("FROM") + 2
            assert restored[where:where + 2] == ["AS", "viewer_metrics"]
            del restored[where:where + 2]
        assert restored == words
        assert (len(rewrite(statement, SHARDS, sharded)) == 2) == ("MATERIALIZED" not in words)


def test_a_table_can_be_kept_on_every_host():
    table = "CREATE TABLE l (x Int) ENGINE = {} ORDER BY x"
    path = "'/clickhouse/fw/everywhere/d/l', '{shard}-{replica}'"
    for engine, replicated in (
        ("MergeTree", f"ReplicatedMergeTree({path})"), ("MergeTree()", f"ReplicatedMergeTree({path})"),
        ("ReplacingMergeTree(v)", f"ReplicatedReplacingMergeTree({path}, v)"),
    ):
        assert everywhere(table.format(engine), SHARDS) == [
            f"CREATE TABLE IF NOT EXISTS l (x Int) ENGINE = {replicated} ORDER BY x"
        ]
    with pytest.raises(EngineError):
        everywhere("CREATE VIEW l AS SELECT 1", SHARDS)
    with pytest.raises(EngineError, match="MergeTree family"):
        everywhere("CREATE TABLE l (x Int) ENGINE = Memory", SHARDS)


NOISE = st.sampled_from(
    [" ", "\n", "\t", " /* ENGINE = Log */ ", " -- TO b FROM a\n", " /* a /* b */ ' */ ", " #! FROM b\n"]
)


@settings(deadline=None)
@given(st.sampled_from(STATEMENTS + platform()), st.data())
def test_blanks_and_comments_make_no_difference(statement, data):
    tokens = Reader(statement).tokens
    noisy = "".join(token.text + data.draw(NOISE) for token in tokens)
    for topology in (ONE_SHARD_DDL, SHARDS):
        wanted = rewrite(statement, topology, SHARDED if topology is SHARDS else ())
        found = rewrite(noisy, topology, SHARDED if topology is SHARDS else ())
        assert [[token.text for token in tokenize(one)] for one in found] == [
            [token.text for token in tokenize(one)] for one in wanted
        ]


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_any_name_is_read_as_it_was_written(name):
    found = Reader(f"{quote_identifier(name)} . x").table()
    assert found[:2] == (name, "x")


@settings(deadline=None)
@given(st.text())
def test_tokens_cover_any_text_and_overlap_nowhere(text):
    end = 0
    for token in tokenize(text):
        assert token.start >= end and text[token.start:token.end] == token.text
        end = token.end
