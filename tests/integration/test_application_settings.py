"""The role application_settings, run as an operator runs it."""

import stat
import subprocess

import pytest
import yaml
from support.playbooks import ROOT, role_play, run_playbook

PASSWORDS = {"postgres": "Pg $ecret/@:%é'", "clickhouse": 'Ch "s3cret`\\'}


@pytest.fixture
def settings(tmp_path):
    """The role's variables for a file in a folder that is not there yet."""
    return {
        "application_settings_path": str(tmp_path / "etc/app/database.env"),
        "application_settings_postgres_password": PASSWORDS["postgres"],
        "application_settings_clickhouse_password": PASSWORDS["clickhouse"],
    }


def shell_value(path, name):
    """What a shell that sources the file has in the variable."""
    script = f'. "{path}"; printf %s "${name}"'
    return subprocess.run(["sh", "-euc", script], capture_output=True, check=True).stdout.decode()


def test_written_once_and_for_the_owner_alone(tmp_path, settings):
    first = run_playbook(tmp_path, role_play("application_settings"), settings).ok()
    path = tmp_path / "etc/app/database.env"
    assert first.count("changed") == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert shell_value(path, "CLICKHOUSE_PASSWORD") == PASSWORDS["clickhouse"]
    assert shell_value(path, "CLICKHOUSE_HOST") == "https://localhost"
    assert shell_value(path, "CLICKHOUSE_PORT") == "8443"
    assert shell_value(path, "DATABASE_URL").endswith("@localhost:5432/frameworks?sslmode=verify-full")
    assert run_playbook(tmp_path, role_play("application_settings"), settings).ok().count("changed") == 0


def test_below_home_under_an_awkward_name(tmp_path, settings, monkeypatch):
    """That of HOME, which in a container may not be the account's."""
    home = tmp_path / "it's `my` home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    settings["application_settings_path"] = "~/its/own.env"
    assert run_playbook(tmp_path, role_play("application_settings"), settings).ok().count("changed") == 2
    assert (home / "its/own.env").exists()
    second = run_playbook(tmp_path, role_play("application_settings"), settings).ok()
    assert "Write the settings file" not in second.output
    assert run_playbook(tmp_path, role_play("application_settings", "destroy"), settings).ok().count("changed") == 1
    assert not (home / "its/own.env").exists()


@pytest.mark.parametrize("damage", ["mode", "content"])
def test_repaired(tmp_path, settings, damage):
    run_playbook(tmp_path, role_play("application_settings"), settings).ok()
    path = tmp_path / "etc/app/database.env"
    path.parent.chmod(0o711)
    good = path.read_text()
    if damage == "mode":
        path.chmod(0o644)
    else:
        path.write_text("DATABASE_URL=elsewhere\n")
    assert run_playbook(tmp_path, role_play("application_settings"), settings).ok().count("changed") == 1
    assert path.read_text() == good
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o711


def test_check_mode_writes_nothing(tmp_path, settings):
    run = run_playbook(tmp_path, role_play("application_settings"), settings, "--check", "--diff").ok()
    assert run.count("changed") == 1
    assert not (tmp_path / "etc").exists()


def test_no_output_shows_a_password(tmp_path, settings):
    play = role_play("application_settings")
    for options in (["--check", "--diff"], ["--diff"], ["--diff"]):
        output = run_playbook(tmp_path, play, settings, "-vvv", *options).ok().output
        assert not [secret for secret in ("ecret", "%24", "s3cret") if secret in output]


def test_a_missing_password_is_named(tmp_path, settings):
    del settings["application_settings_clickhouse_password"]
    run = run_playbook(tmp_path, role_play("application_settings"), settings)
    assert run.code != 0
    assert "application_settings_clickhouse_password" in run.output
    assert not (tmp_path / "etc").exists()


@pytest.mark.parametrize("trusted", [[], ["two"]])
def test_the_application_trusts_the_authorities_that_clickhouse_trusts(tmp_path, trusted):
    """environment.yml's own task: for a time there are two."""
    plays = yaml.safe_load((ROOT / "playbooks/environment.yml").read_text())
    [task] = [
        task for play in plays for part in ("pre_tasks", "tasks", "post_tasks") for task in play.get(part, [])
        if task["name"] == "Install the certificate of the authority that signed ClickHouse's"
    ]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.crt").write_text(f"-----BEGIN {name}\nof {name}\n-----END {name}")
    variables = {
        "clickhouse_db_pki_dir": str(tmp_path / "one"), "application_settings_clickhouse_ca_cert": str(tmp_path / "ca"),
        "clickhouse_db_trusted_authorities": [str(tmp_path / name / "ca.crt") for name in trusted],
    }
    play = {"hosts": "all", "gather_facts": False, "tasks": [task]}
    assert run_playbook(tmp_path, play, variables).ok().count("changed") == 1
    assert (tmp_path / "ca").read_text() == "".join(
        f"-----BEGIN {name}\nof {name}\n-----END {name}\n" for name in ["one", *trusted]
    )
    assert run_playbook(tmp_path, play, variables).ok().count("changed") == 0
