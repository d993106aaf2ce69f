"""Fixtures: one real server of each kind a test process, a database of its own a test."""

import contextlib
import secrets

import pytest
from support.clickhouse import ClickHouseServer
from support.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres():
    """A running PostgresServer."""
    with contextlib.closing(PostgresServer()) as server:
        yield server.start()


@pytest.fixture(scope="session")
def clickhouse():
    """A running ClickHouseServer."""
    with contextlib.closing(ClickHouseServer()) as server:
        yield server.start()


@pytest.fixture
def unique():
    """A name that no other test uses."""
    return f"t_{secrets.token_hex(4)}"


@pytest.fixture
def postgres_database(postgres, unique):
    """The name of an empty database, dropped afterwards."""
    postgres.query(f"CREATE DATABASE {unique}")
    yield unique
    postgres.query(f"DROP DATABASE IF EXISTS {unique} WITH (FORCE)")


@pytest.fixture
def clickhouse_database(clickhouse, unique):
    """The name of an empty database, dropped afterwards."""
    clickhouse.query(f"CREATE DATABASE {unique}")
    yield unique
    clickhouse.query(f"DROP DATABASE IF EXISTS {unique} SYNC")
