"""Password verifiers, against those that PostgreSQL 15 has made."""

import pytest
from ansible_collections.frameworks.database.plugins.module_utils.postgres_password import (
    is_verifier,
    matches,
    verifier,
)

SCRAM = (
    "SCRAM-SHA-256$4096:pMlzqPQ1H4D1IJt3tM7SsA==$XGGeCogtrFGVrib568sIvhhaoAtLxIM0E8mHyIcJGEU="
    ":8s5J+7aRHNgdwnKSmdJsaW5QdAc6fSYYDNrLfny2lIU="
)  # of the password x
MD5 = "md5" + "9e107d9d372bb6826bd81d3542a419d6"


def test_a_verifier_of_the_server_is_recognised():
    assert matches("x", "a", SCRAM, "scram-sha-256")
    assert not matches("y", "a", SCRAM, "scram-sha-256")
    assert matches("x", "a", SCRAM, "md5")  # more than md5 asks for is kept


@pytest.mark.parametrize("method", ["md5", "scram-sha-256"])
def test_what_is_made_is_recognised(method):
    made = verifier("pässword", "user", method, 1000)
    assert is_verifier(made)
    assert matches("pässword", "user", made, method)
    assert not matches("password", "user", made, method)


def test_md5_is_not_good_enough_where_scram_is_asked_for():
    assert not matches("p", "user", verifier("p", "user", "md5"), "scram-sha-256")


def test_no_password_matches_nothing():
    assert not matches("p", "user", None, "scram-sha-256")


@pytest.mark.parametrize("ready_made", [SCRAM, MD5])
def test_a_verifier_stays_what_it_is(ready_made):
    assert verifier(ready_made, "user", "scram-sha-256") == ready_made
    assert matches(ready_made, "user", ready_made, "scram-sha-256")


def test_salts_differ():
    assert verifier("p", "user", "scram-sha-256") != verifier("p", "user", "scram-sha-256")
