"""Fixtures: one real server of each kind a test process, a database of its own a test."""

import contextlib
import secrets

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import postgres as postgres_module
from support.clickhouse import ClickHouseServer
from support.postgres import PostgresServer
from support.scripts import ScriptSet


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


@pytest.fixture
def query(postgres, postgres_database):
    """Ask the database of the test."""
    return lambda sql: postgres.query(sql, database=postgres_database)


@pytest.fixture
def made(postgres, postgres_database, tmp_path):
    """An empty ScriptSet for that database."""
    return ScriptSet(tmp_path / "set", engine="postgresql", database=postgres_database, **postgres.login())


@pytest.fixture
def yugabyte(made, monkeypatch):
    """`made` for a PostgreSQL that is taken for a YugabyteDB before 2025.1: a stand-in, there is none to be had."""
    monkeypatch.setattr(postgres_module, "dialect", lambda connection: postgres_module.YugabyteDB((2, 20, 0)))
    made.options["engine"] = "yugabytedb"
    return made
