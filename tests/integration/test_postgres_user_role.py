"""The role postgres_user, run by ansible-playbook against a real PostgreSQL."""

import json
import re
import sys

import pytest
from support.playbooks import CONTROLLER, ROOT

PASSWORD = "it's \"quoted\" $HOME %s @:/ \\ {{ gehëim"


@pytest.fixture
def play(postgres, unique, tmp_path):
    """Run the role with variables of a user and database of the test's own; returns a Run."""
    playbook = tmp_path / "play.yml"
    playbook.write_text(
        "- hosts: localhost\n  gather_facts: false\n  roles: [frameworks.database.postgres_user]\n"
    )
    base = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable,
        "postgres_user_name": f"{unique}_user", "postgres_user_database": unique,
        "postgres_user_login_host": postgres.host, "postgres_user_login_port": postgres.port,
        "postgres_user_login_password": postgres.password, "postgres_user_ssl_mode": "disable",
    }

    def run(*options, **variables):
        # As an inventory's variables would come: extra variables would hide defects of precedence, and `!unsafe` keeps
        # the braces of the password.
        inventory = tmp_path / "inventory.yml"
        values = "".join(
            f"        {name}: {'!unsafe ' if isinstance(value, str) else ''}{json.dumps(value)}\n"
            for name, value in {**base, **variables}.items()
        )
        inventory.write_text(f"all:\n  hosts:\n    localhost:\n  vars:\n{values}".replace("        ", "    "))
        return CONTROLLER.run(ROOT, "-i", inventory, playbook, *options)

    yield run
    postgres.query(f"DROP DATABASE IF EXISTS {unique} WITH (FORCE)")
    for (name,) in postgres.query("SELECT rolname FROM pg_roles WHERE rolname LIKE %s || '%%'", (unique,)):
        postgres.query(f"DROP OWNED BY {name}; DROP ROLE {name}")


def changed(done):
    return done.ok().count("changed")


def test_the_application_gets_all_it_needs(play, postgres, unique):
    assert changed(play("--check", postgres_user_password=PASSWORD)) == 1
    assert postgres.query("SELECT count(*) FROM pg_database WHERE datname = %s", (unique,)) == [(0,)]
    first = play("-vvv", "--diff", postgres_user_password=PASSWORD, postgres_user_validate=True)
    assert changed(first) == 1
    postgres.query("CREATE TABLE by_admin (id serial)", database=unique)
    as_user = {"database": unique, "user": f"{unique}_user", "password": PASSWORD}
    postgres.query("INSERT INTO by_admin DEFAULT VALUES", **as_user)
    again = play("-vvv", "--diff", postgres_user_password=PASSWORD, postgres_user_validate=True)
    assert changed(again) == 0
    for text in (first.output, again.output):
        for secret in (PASSWORD, "gehëim", "quoted", postgres.password, "SCRAM-SHA-256$"):
            assert secret not in text, secret
    assert "PASSWORD '********'" in first.output


def test_a_rotated_password(play, postgres, unique):
    assert changed(play(postgres_user_password="the first one")) == 1
    assert changed(play(postgres_user_password="the second one")) == 1
    assert postgres.query("SELECT 1", database=unique, user=f"{unique}_user", password="the second one") == [(1,)]


@pytest.mark.parametrize("variables, said", [
    ({}, "postgres_user_password"),
    ({"postgres_user_password": ""}, "postgres_user_password is empty"),
    ({"postgres_user_password": None}, "postgres_user_password is empty"),
    ({"postgres_user_password": "secret words", "postgres_user_login_port": "many"}, "postgres_user_login_port"),
    ({"postgres_user_password": "secret words", "postgres_user_users": [{"name": "a", "pasword": "secret words"}]},
     "pasword"),
    ({"postgres_user_password": "secret words", "postgres_user_login_password": "wrong"}, "check login_user"),
    ({"postgres_user_password": "secret words", "postgres_user_ssl_mode": "require"}, "does not support SSL"),
])
def test_what_is_wrong_is_named(play, variables, said):
    done = play("-vvv", **variables)
    assert done.code == 2
    assert said in done.output
    assert "Traceback" not in done.output
    assert "secret words" not in done.output


def test_validation_fails_where_a_user_cannot_log_in(play, unique):
    users = [{"name": f"{unique}_user", "password": "secret words", "valid_until": "2001-01-01"}]
    done = play("-v", postgres_user_password="x", postgres_user_users=users, postgres_user_validate=True)
    assert done.code == 2
    said = " ".join(done.output.split())
    assert re.search(rf"{unique}_user: .* password authentication failed .*valid_until", said), said
    assert "secret words" not in done.output


def test_only_those_who_can_be_expected_to_log_in_are_tried(play, postgres, unique):
    """Neither a verifier nor the first password of somebody who has another one by now is good for that."""
    postgres.query(f"CREATE ROLE {unique}_own LOGIN PASSWORD 'of its own'; CREATE ROLE {unique}_later LOGIN")
    users = [
        {"name": f"{unique}_user", "password": "secret words"},
        {"name": f"{unique}_verified", "password": f"md5{'0' * 32}"},
        {"name": f"{unique}_own", "password": "the first one", "update_password": "on_create"},
        {"name": f"{unique}_later", "password": None}, {"name": f"{unique}_group", "password": "x", "login": False},
        {"name": f"{unique}_gone", "password": "x", "state": "absent"},
    ]
    done = play("-v", postgres_user_password="x", postgres_user_users=users, postgres_user_validate=True)
    assert re.findall(r"\(item=(\S+)\)", done.ok().output) == [f"{unique}_user"]
