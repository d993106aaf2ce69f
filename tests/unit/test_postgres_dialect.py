"""What the collection knows about the engines, without a server: no YugabyteDB can be had to try it on."""

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import postgres


class Saying:
    """A stand-in for a connection: every query is answered with one text."""

    def __init__(self, text):
        self.text = text

    def cursor(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_args):
        return False

    def execute(self, _statement):
        pass

    def fetchone(self):
        return (self.text,)


class Coded(Exception):
    """An error with an SQLSTATE."""

    def __init__(self, text, pgcode=None):
        super().__init__(text)
        self.pgcode = pgcode


@pytest.mark.parametrize(
    "text, name, version, locks",
    [
        ("PostgreSQL 15.18 (Debian 15.18-0+deb12u1) on x86_64-pc-linux-gnu", "postgresql", (15, 18), True),
        ("PostgreSQL 18beta1 on x86_64", "postgresql", (18,), True),
        ("PostgreSQL 11.2-YB-2.20.1.0-b0 on x86_64-pc-linux-gnu", "yugabytedb", (2, 20, 1, 0), False),
        ("PostgreSQL 11.2-YB-2024.2.3.0-b116 on x86_64", "yugabytedb", (2024, 2, 3, 0), False),
        ("PostgreSQL 15.12-YB-2025.2.8.0-b60 on x86_64", "yugabytedb", (2025, 2, 8, 0), True),
    ],
)
def test_engine_and_version_are_told_from_version(text, name, version, locks):
    found = postgres.dialect(Saying(text))
    assert (found.name, found.version, found.advisory_locks) == (name, version, locks)


def test_only_postgresql_takes_its_ddl_back():
    assert postgres.Dialect((15,)).transactional_ddl
    assert not postgres.YugabyteDB((2025, 2, 8, 0)).transactional_ddl


def test_database_options_of_one_engine_are_unknown_to_the_other():
    assert not postgres.Dialect.database_options & postgres.YugabyteDB.database_options


def test_old_servers_are_refused_in_a_sentence():
    with pytest.raises(postgres.UnsupportedServer, match=r"PostgreSQL 9\.6\.24; 11 is the oldest"):
        postgres.dialect(Saying("PostgreSQL 9.6.24 on x86_64"))


@pytest.mark.parametrize(
    "error, everywhere, yugabyte",
    [
        (Coded("could not serialize access", "40001"), True, True),
        (Coded("deadlock detected", "40P01"), True, True),
        (Coded("ERROR:  tuple concurrently updated", "XX000"), True, True),
        (Coded("The catalog snapshot used for this transaction has been invalidated", "XX000"), False, True),
        (Coded("Catalog Version Mismatch: A DDL occurred while processing this query", "XX000"), False, True),
        (Coded("schema version mismatch for table", "XX000"), False, True),
        (Coded("permission denied for table users", "42501"), False, False),
    ],
)
def test_transient_errors(error, everywhere, yugabyte):
    assert postgres.Dialect((15,)).is_transient(error) is everywhere
    assert postgres.YugabyteDB((2025, 2)).is_transient(error) is yugabyte


def test_retry_ends_with_the_result():
    outcomes = [Coded("", "40001"), Coded("", "40001"), None]

    def action():
        outcome = outcomes.pop(0)
        if outcome:
            raise outcome
        return "done"

    pauses = []
    assert postgres.YugabyteDB((2025, 2)).retry(action, sleep=pauses.append) == "done"
    assert pauses == [0.1, 0.2]


def test_retry_is_bounded():
    def action():
        raise Coded("", "40001")

    pauses = []
    with pytest.raises(Coded):
        postgres.YugabyteDB((2025, 2)).retry(action, seconds=10, sleep=pauses.append)
    assert 5 < sum(pauses) <= 10


def test_retry_lets_other_errors_through_at_once():
    calls = []

    def action():
        calls.append(1)
        raise Coded("", "42501")

    with pytest.raises(Coded):
        postgres.Dialect((15,)).retry(action, sleep=pytest.fail)
    assert calls == [1]
