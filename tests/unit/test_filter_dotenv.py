"""The dotenv filter, read back by a real shell, a real dotenv library and the collection's own reader."""

import subprocess

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.frameworks.database.plugins.filter.dotenv import dotenv
from ansible_collections.frameworks.database.plugins.module_utils.dotenv import read_dotenv
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st

PRINTABLE = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), max_size=30)
HOSTILE = st.text(st.sampled_from("a'\"\\$`!#%&()*;<>?[]{}|~ =:@é"), max_size=12)


def read_by_shell(path, names):
    """The values that `. path` leaves in the variables `names`."""
    script = f'. "{path}"; ' + "; ".join(f"printf '%s\\0' \"${name}\"" for name in names)
    done = subprocess.run(["sh", "-euc", script], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@settings(max_examples=150, deadline=None)
@given(value=PRINTABLE | HOSTILE)
def test_a_shell_reads_every_value_back(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "shell.env"
    path.write_text(dotenv({"FIRST": value, "SECOND": "plain"}))
    assert read_by_shell(path, ["FIRST", "SECOND"]) == [value, "plain"]


@settings(max_examples=300, deadline=None)
@given(value=PRINTABLE | HOSTILE)
def test_a_library_reads_all_but_the_documented_values(value, tmp_path_factory):
    if ("'" in value and ("$" in value or "`" in value)) or "\\" in value:
        return
    path = tmp_path_factory.getbasetemp() / "library.env"
    path.write_text(dotenv({"FIRST": value, "SECOND": "plain"}))
    assert dotenv_values(path, interpolate=False) == {"FIRST": value, "SECOND": "plain"}


@settings(max_examples=300, deadline=None)
@given(value=PRINTABLE | HOSTILE)
def test_the_collection_reads_every_value_back(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "own.env"
    path.write_text("# a comment\n\n" + dotenv({"FIRST": value, "SECOND": "plain"}))
    assert read_dotenv(path) == {"FIRST": value, "SECOND": "plain"}


LINES = st.lists(st.sampled_from([*"'\"\\$`#~= \t\r\f\xa0:;", "aé"]), max_size=9)


@settings(max_examples=400, deadline=None)
@given(parts=LINES)
def test_what_the_collection_reads_a_shell_reads_alike(parts, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "line.env"
    path.write_text(f"export FIRST={''.join(parts)}\nSECOND=plain\n")
    try:
        read = read_dotenv(path)
    except ValueError:
        return
    assert read_by_shell(path, ["FIRST", "SECOND"]) == [read["FIRST"], read["SECOND"]]


def test_line_ends_of_windows_are_named(tmp_path):
    """A shell takes the carriage return for a part of the value, and so the login fails."""
    (tmp_path / "own.env").write_bytes(b"FIRST=a\r\nSECOND=b\r\n")
    with pytest.raises(ValueError, match="line 1: ends with a carriage return"):
        read_dotenv(tmp_path / "own.env")


def test_a_url_is_not_quoted():
    url = "postgres://u:p%40@localhost:5432/d?sslmode=disable"
    assert dotenv({"DATABASE_URL": url}) == f"DATABASE_URL={url}\n"


@pytest.mark.parametrize("settings_", [{"A-B": "1"}, {"1A": "1"}, {"A\n": "1"}, {"": "1"}])
def test_a_name_that_no_shell_takes_is_refused(settings_):
    with pytest.raises(AnsibleFilterError, match="not the name of an environment variable"):
        dotenv(settings_)


def test_no_value_is_not_the_word_none():
    """`NAME:` in YAML is None."""
    with pytest.raises(AnsibleFilterError, match="SENTRY_DSN has no value"):
        dotenv({"SENTRY_DSN": None})
    assert dotenv({"SENTRY_DSN": ""}) == "SENTRY_DSN=\n"


@pytest.mark.parametrize("value", ["a\nB=1", "a\r", "a\0b", "a\x7f"])
def test_a_value_cannot_add_a_line(value):
    with pytest.raises(AnsibleFilterError, match="PASSWORD") as caught:
        dotenv({"PASSWORD": value})
    assert value not in str(caught.value)
