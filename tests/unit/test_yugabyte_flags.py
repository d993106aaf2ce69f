"""Flags as somebody writes them against those of a server's page, which has them as gflags prints them."""

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import yugabyte_flags
from ansible_collections.frameworks.database.plugins.module_utils.yugabyte_flags import differing, read


@pytest.mark.parametrize(("declared", "running"), [
    ("a,b", "a,b"), ("", ""), (True, "true"), (1, "true"), ("Yes", "true"), ("f", "false"), (500000, "500000"),
    ("0x10", "16"), ("007", "7"), (0.85, "0.84999999999999998"), ("1e6", "1000000"), (2**53 + 1, str(2**53 + 1)),
])
def test_the_same_in_another_form_is_no_difference(declared, running):
    assert differing({"flag": declared}, {"flag": running}) == []


@pytest.mark.parametrize(("declared", "running"), [
    ("a,b", "b,a"), ("x ", "x"), (True, "false"), ("none", "true"), (5, "6"), ("", "0"), (2**53 + 1, str(2**53)),
    ("1_0", "10"), ("nan", "0"),
])
def test_another_value_is_one(declared, running):
    wanted = "true" if declared is True else str(declared)
    assert differing({"flag": declared}, {"flag": running}) == [
        {"flag": "flag", "declared": wanted, "running": running},
    ]


def test_what_cannot_be_compared_is_left_out():
    declared = {"unknown_to_it": 1, "ysql_hba_conf_csv": "local all all trust", "shards": -1, "duration": -1}
    running = {"ysql_hba_conf_csv": "***", "shards": "2", "duration": "0", "not_declared": "1"}
    # It chose the number of shards; the duration somebody has set.
    assert [one["flag"] for one in differing(declared, running, ["shards"])] == ["duration"]


@pytest.mark.parametrize("name", ["ysql_hba_conf_csv", "ldap_password", "some_secret", "tls_key"])
def test_what_may_be_a_secret_is_not_shown(name):
    assert differing({name: "UNMISTAKABLE"}, {name: "UNMISTAKABLE too"}) == [
        {"flag": name, "declared": "***", "running": "***"},
    ]
    assert "***" in str(differing({"settings": "x"}, {"settings": "passwd='UNMISTAKABLE'"}))
    assert "***" not in str(differing({"conf_csv": "password_encryption=md5"}, {"conf_csv": "work_mem=1"}))


def test_a_flag_file_is_read_as_gflags_does():
    text = "# --a=0\n\n  --a=1\n--b\n--nob2\n-c-d=x y=z\n--notes\n--a=2\nyb-master\n"
    assert read(text, {"a", "b", "b2", "c_d", "notes"}) == {
        "a": "2", "b": "true", "b2": "false", "c_d": "x y=z", "notes": "true",
    }


def test_a_page_tells_what_the_server_has_chosen_itself(monkeypatch):
    listed = [{"name": "a", "value": "1", "type": "Custom"}, {"name": "b", "value": "2", "type": "Default"}]
    monkeypatch.setattr(yugabyte_flags, "get", lambda *_, **__: {"flags": listed})
    assert yugabyte_flags.in_force("db1", 7000) == ({"a": "1", "b": "2"}, {"b"})
