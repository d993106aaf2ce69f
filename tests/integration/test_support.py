"""The fixtures themselves: what every other integration test stands on."""

import signal

import pytest
from support.clickhouse import ClickHouseServer
from support.postgres import PostgresServer


def test_postgres_asks_for_the_password(postgres, postgres_database):
    assert postgres.query("SELECT current_database()", database=postgres_database) == [(postgres_database,)]
    with pytest.raises(Exception, match="password authentication failed"):
        postgres.query("SELECT 1", user="postgres", password="wrong")


def test_postgres_keeps_its_data_over_a_crash():
    server = PostgresServer()
    try:
        server.start()
        server.query("CREATE TABLE kept (n int)")
        server.stop("immediate")
        server.start()
        assert server.query("SELECT count(*) FROM kept") == [(0,)]
    finally:
        server.close()


def test_clickhouse_keeps_its_data_over_a_kill():
    server = ClickHouseServer()
    try:
        server.start()
        server.query("CREATE DATABASE d")
        server.query("CREATE TABLE d.kept (n UInt8) ENGINE = MergeTree ORDER BY n")
        server.query("INSERT INTO d.kept VALUES (7)")
        server.stop(signal.SIGKILL)
        server.start()
        assert server.query("SELECT n FROM d.kept") == "7\n"
        with pytest.raises(RuntimeError, match="516"):
            server.query("SELECT 1", password="wrong")
    finally:
        server.close()
