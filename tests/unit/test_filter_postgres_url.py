"""The postgres_url filter, read back by libpq's own parser."""

import psycopg2.extensions
import pytest
from ansible_collections.frameworks.database.plugins.filter.postgres_url import postgres_url
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)


@settings(deadline=None)
@given(user=TEXT, password=TEXT, database=TEXT)
def test_libpq_reads_every_part_back(user, password, database):
    parsed = psycopg2.extensions.parse_dsn(postgres_url(user, password, database, parameters={"sslmode": "require"}))
    assert parsed == {
        "user": user, "password": password, "dbname": database,
        "host": "localhost", "port": "5432", "sslmode": "require",
    }


def test_several_hosts_and_an_ipv6_address():
    url = postgres_url("u", "p", "d", hosts=["db1", "2001:db8::1"], port=5433)
    parsed = psycopg2.extensions.parse_dsn(url)
    assert (parsed["host"], parsed["port"]) == ("db1,2001:db8::1", "5433,5433")


@pytest.mark.parametrize("empty", [None, ""])
def test_a_parameter_without_a_value_is_left_out(empty):
    url = postgres_url("u", "p", "d", parameters={"sslmode": "disable", "sslrootcert": empty})
    assert url.endswith("/d?sslmode=disable")
    assert "?" not in postgres_url("u", "p", "d", parameters={"sslrootcert": empty})
