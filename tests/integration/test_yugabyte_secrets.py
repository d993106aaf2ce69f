"""playbooks/secrets.yml, and what playbooks/staging.yml refuses before it reaches any host."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.frameworks.database.plugins.lookup import vault_encrypt
from support.playbooks import CONTROLLER, ROOT, run_playbook

BIN = Path(sys.executable).parent
CHECKSUM = f"yugabyte_db_archive_sha256: {'0' * 64}\n"
COMPLETE = f"ansible_host: 127.0.0.1\nansible_port: 9\n{CHECKSUM}"


class Environment:
    """A copy of the staging inventory, and runs of playbooks on it."""

    def __init__(self, folder):
        self.folder, self.password = folder / "staging", folder / "password"
        self.password.write_text("a vault's password\n")
        shutil.copytree(ROOT / "inventories/staging", self.folder)
        self.variables = self.folder / "group_vars/staging/zz.yml"
        self.vault = self.folder / "group_vars/staging/vault.yml"

    def run(self, playbook, *options, password=True):
        path = ROOT / "playbooks" / playbook
        vault = ["--vault-password-file", self.password] if password is True else password or []
        return CONTROLLER.run(ROOT, "-i", self.folder, path, *options, *vault)

    def _vault(self, what):
        """What ansible-vault prints when it is asked to `view`, or to `encrypt`, the file of the secrets."""
        return subprocess.run(
            [BIN / "ansible-vault", what, self.vault, "--vault-password-file", self.password], cwd=ROOT, text=True,
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        ).stdout

    def secrets(self):
        return self._vault("view")

    def edit(self, change):
        text = change(self.secrets())
        self.vault.write_text(text)
        self._vault("encrypt")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("made"))
    environment.run("secrets.yml", "-l", "staging").ok()
    return environment


@pytest.fixture
def environment(made, tmp_path):
    """A copy of it that has its secrets."""
    copy = Environment(tmp_path)
    shutil.copy(made.vault, copy.vault)
    return copy


def test_secrets_are_made_encrypted_strong_and_different(made):
    assert made.vault.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    assert made.vault.stat().st_mode & 0o777 == 0o600
    values = [line.split(": ")[1] for line in made.secrets().splitlines() if ": " in line]
    assert len(values) == len(set(values)) == 8
    assert {len(value) for value in values} == {32}


def test_what_is_there_stays_and_what_is_missing_is_added(environment):
    before = environment.secrets()
    again = environment.run("secrets.yml", "-l", "staging").ok()
    assert again.count("changed") == 0
    assert environment.secrets() == before
    gone = next(line for line in before.splitlines() if line.startswith("postgres_user_password"))
    environment.edit(lambda text: text.replace(gone, "# a comment stays"))
    added = environment.run("secrets.yml", "-l", "staging").ok()
    after = environment.secrets()
    assert added.count("changed") == 1
    assert "# a comment stays" in after
    assert "postgres_user_password: " in after
    assert [line for line in before.splitlines() if line != gone and line not in after.splitlines()] == []
    assert not [line for line in after.splitlines() if line.split(": ")[-1] in added.output and ": " in line]


def test_the_example_of_the_lookup_writes_no_secret_in_clear(tmp_path):
    """The module copy decrypts what it is given, unless it is told not to."""
    (tmp_path / "password").write_text("a vault's password\n")
    (tmp_path / "prod").mkdir()
    play = {"hosts": "all", "gather_facts": False, "tasks": yaml.safe_load(vault_encrypt.EXAMPLES)}
    variables = {"secrets": {"a_password": "geheim"}}
    run_playbook(tmp_path, play, variables, "--diff", "--vault-password-file", tmp_path / "password").ok()
    assert (tmp_path / "prod/vault.yml").read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")


def test_no_secrets_are_made_inside_an_installed_collection(tmp_path):
    (tmp_path / "inventories").mkdir()
    (tmp_path / "MANIFEST.json").touch()
    environment = Environment(tmp_path / "inventories")
    run = environment.run("secrets.yml", "-l", "staging")
    assert run.code and "would go with its next update. Copy it" in " ".join(run.output.split())
    assert not environment.vault.exists()


def test_a_file_in_clear_is_not_overwritten(environment):
    environment.vault.write_text("postgres_user_password: short\n")
    run = environment.run("secrets.yml", "-l", "staging")
    assert run.code
    assert "is not encrypted" in run.output
    assert environment.vault.read_text() == "postgres_user_password: short\n"


@pytest.mark.parametrize(("document", "section"), [
    ("README.md", "## Environments"), ("docs/yugabytedb.md", "## Begin"), ("docs/clickhouse.md", "## Begin"),
])
def test_what_ansible_says_without_the_vault_s_password_is_written_down(environment, document, section):
    run = environment.run("staging.yml", password=False)
    text = (ROOT / document).read_text().split(f"{section}\n")[1].split("\n## ")[0]
    assert run.code and re.search("no vault secrets found", run.output), run.output
    for words in ("no vault secrets found", "export ANSIBLE_VAULT_PASSWORD_FILE=", "ansible-vault view"):
        assert words in text


@pytest.mark.parametrize("value", ["", "''"])
def test_a_secret_without_a_value_is_named(environment, value):
    """The other playbooks call it not set, and say that secrets.yml makes it."""
    set_secret("clickhouse_db_password", value)(environment)
    run = environment.run("secrets.yml", "-l", "staging")
    refused(run, "clickhouse_db_password: in the file, without a value. Take the line out (ansible-vault edit")


def test_check_makes_nothing_and_says_so(environment):
    environment.edit(lambda text: text.replace("clickhouse_db_password:", "other_password:"))
    before = environment.vault.read_bytes()
    run = environment.run("secrets.yml", "-l", "staging", "--check").ok()
    assert "would make clickhouse_db_password" in " ".join(run.output.split())
    assert environment.vault.read_bytes() == before


def test_what_is_added_is_encrypted_as_the_rest(environment, tmp_path):
    """Of several vault passwords the file has its own: with the first, another environment's opened it."""
    (tmp_path / "other").write_text("another environment's\n")
    ids = ["--vault-id", f"prod@{tmp_path / 'other'}", "--vault-id", f"staging@{environment.password}"]
    environment.edit(lambda text: text.replace("clickhouse_db_password:", "other_password:"))
    assert environment.run("secrets.yml", "-l", "staging", password=ids).ok().count("changed") == 1
    assert "\nclickhouse_db_password: " in environment.secrets()
    assert environment.vault.read_text().startswith("$ANSIBLE_VAULT;1.2;AES256;staging\n")


def test_a_file_is_made_with_the_vault_password_that_is_named(environment, tmp_path, monkeypatch):
    environment.vault.unlink()
    (tmp_path / "other").write_text("another environment's\n")
    ids = ["--vault-id", f"prod@{tmp_path / 'other'}", "--vault-id", f"staging@{environment.password}"]
    run = environment.run("secrets.yml", "-l", "staging", password=ids)
    assert run.code and "There are several vault passwords (prod, staging): give one" in " ".join(run.output.split())
    assert not environment.vault.exists()
    monkeypatch.setenv("ANSIBLE_VAULT_ENCRYPT_IDENTITY", "staging")
    environment.run("secrets.yml", "-l", "staging", password=ids).ok()
    assert "\nclickhouse_db_password: " in environment.secrets()


def test_without_a_vault_password_nothing_is_written(environment):
    environment.vault.unlink()
    run = environment.run("secrets.yml", "-l", "staging", password=False)
    assert run.code and "There is no vault password to encrypt with" in " ".join(run.output.split())
    assert not environment.vault.exists()


def test_whole_secrets_pass(environment):
    # Nobody listens there: what passes the refusals ends as unreachable.
    environment.variables.write_text(COMPLETE)
    run = environment.run("staging.yml", "-e", "environment_at_once=false")
    assert run.count("failed") == 0
    assert run.count("unreachable") > 0


def test_both_sides_are_begun_and_the_run_fails_with_them(environment):
    environment.variables.write_text(COMPLETE)
    run = environment.run("staging.yml")
    said = re.sub(r"\s+", " ", run.output)
    assert run.code == 2
    assert "yugabytedb: ansible-playbook ended with 4, clickhouse: ansible-playbook ended with 4." in said
    for side, host in (("yugabytedb", "db1"), ("clickhouse", "analytics1")):
        assert re.search(rf"{side} \| {host}.staging.example : ok=\d+ changed=0 unreachable=1 failed=0", said), said


def set_secret(name, value):
    def change(environment):
        environment.edit(
            lambda text: "".join(
                f"{name}: {value}\n" if line.startswith(f"{name}:") else line for line in text.splitlines(keepends=True)
            )
        )

    return change


def set_variable(text):
    return lambda environment: environment.variables.write_text(f"{CHECKSUM}{text}\n")


def without_a_checksum(environment):
    environment.variables.unlink()


def without_the_environment(environment):
    main = environment.folder / "group_vars/staging/main.yml"
    main.write_text(main.read_text().replace("database_environment: staging\n", ""))


def beside_the_hosts(environment):
    (environment.folder / "more").write_text("db1.staging.example postgres_user_password=xxx\n")


def decrypt(environment):
    environment.vault.write_text(environment.secrets())


def on_host(name, text):
    """Not the first one."""
    def change(environment):
        hosts, line = environment.folder / "hosts.yml", f"    {name}.staging.example:\n"
        assert line in hosts.read_text()
        hosts.write_text(hosts.read_text().replace(line, f"{line}      {text}\n"))

    return change


@pytest.mark.parametrize(("spoil", "says"), [
    (set_secret("postgres_user_password", "frameworks_dev"), "published one"),
    (set_secret("yugabyte_db_superuser_password", "fifteen-letters"), "shorter than 16"),
    (set_secret("clickhouse_db_password", "''"), "clickhouse_db_password: not set. Let playbooks/secrets"),
    (set_variable("postgres_user_password: ''"), "postgres_user_password: not set"),
    (set_variable("postgres_user_password: '{{ clickhouse_db_password }}'"), "are the same"),
    (set_variable("other_password: in clear for all to see"), "zz.yml has a secret in clear. Move it into"),
    (set_variable("clickhouse_users: [{name: reader, password: xxx}]"), "zz.yml has a secret in clear. Move it into"),
    (beside_the_hosts, "more has a secret in clear. Move it into"),
    (decrypt, "vault.yml is not encrypted. Encrypt it (ansible-vault encrypt), and give its secrets new values"),
    (set_variable("postgres_user_ssl_mode: disable"), "travel in clear"),
    (set_variable("application_settings_postgres_ssl_mode: prefer"), "travel in clear"),
    (set_variable("yugabyte_db_tls: false"), "travel in clear"),
    (set_variable("clickhouse_db_tls: false"), "clickhouse_db_tls is false on analytics1.staging.example, analytics2"),
    (set_variable("schema_load_clickhouse_tls: 'no'"), "schema_load_clickhouse_tls is no on analytics1"),
    (set_variable("application_settings_clickhouse_tls: false"), "_tls is false on app1.staging.example, which lets"),
    (on_host("analytics2", "clickhouse_db_tls: false"), "clickhouse_db_tls is false on analytics2.staging"),
    (on_host("app1", "application_settings_postgres_ssl_mode: disable"), "ssl_mode is disable on app1.staging"),
    (on_host("db2", "yugabyte_db_tls: false"), "yugabyte_db_tls is false on db2.staging.example, which lets"),
    (set_variable("schema_load_demo_seed: true"), "demo data"),
    (on_host("analytics1", "schema_load_demo_seed: true"), "demo data"),
    (without_a_checksum, "yugabyte_db_archive_sha256 is not set for db1.staging.example. Put the SHA-256"),
    (without_the_environment, "are not all set for db1.staging.example, db2.staging.example"),
])
def test_what_staging_refuses(environment, spoil, says):
    environment.variables.write_text(CHECKSUM)
    spoil(environment)
    run = environment.run("staging.yml")
    assert run.code
    assert says in " ".join(run.output.split())
    assert run.count("unreachable") == 0
    assert ("Move it into" in run.output) == ("Move it into" in says)


def refused(run, says):
    """The run ends before it reaches a host, in one place, with a sentence and no list of all arguments."""
    assert run.code and says in " ".join(run.output.split()), run.output
    assert (run.count("failed"), run.count("unreachable"), run.output.count("[ERROR]")) == (1, 0, 1)
    assert len(run.output.splitlines()) < 60


@pytest.mark.parametrize("playbook", ["staging", "rolling_restart", "upgrade_rollback", "backup", "clickhouse_upgrade"])
def test_without_secrets_nothing_begins(environment, playbook):
    environment.vault.unlink()
    environment.variables.write_text(COMPLETE)
    run = environment.run(f"{playbook}.yml", "-l", "staging")
    refused(run, "clickhouse_db_interserver_password: not set. Let playbooks/secrets.yml -l staging make what is")
    assert "yugabyte_db_superuser_password, yugabyte_db_ca_passphrase, postgres_user" in " ".join(run.output.split())


@pytest.mark.parametrize("playbook", ["rolling_restart.yml", "upgrade_rollback.yml"])
def test_without_the_archive_s_checksum_nothing_begins(environment, playbook):
    run = environment.run(playbook, "-l", "staging")
    refused(run, "yugabyte_db_archive_sha256 is not set for db1.staging.example. Put the SHA-256")


@pytest.mark.parametrize("playbook", ["rolling_restart.yml", "backup.yml", "secrets.yml"])
def test_what_does_not_say_which_environment_it_is_is_not_taken_for_dev(environment, playbook):
    environment.variables.write_text(COMPLETE)
    without_the_environment(environment)
    refused(environment.run(playbook, "-l", "staging"), "database_secrets_file are not all set for db1.staging.example")


@pytest.mark.parametrize("playbook", ["rolling_restart.yml", "backup.yml"])
def test_with_everything_set_operations_go_to_their_hosts(environment, playbook):
    environment.variables.write_text(COMPLETE)
    run = environment.run(playbook, "-l", "staging")
    assert (run.count("failed"), run.count("unreachable") > 0) == (0, True), run.output


@pytest.mark.parametrize("playbook", ["rolling_restart.yml", "clickhouse_upgrade.yml"])
def test_operations_want_to_know_the_environment(environment, playbook):
    other = environment.folder.parent / "prod"
    shutil.copytree(ROOT / "inventories/prod", other)
    run = environment.run(playbook, "-i", other)
    assert run.code
    assert "Name the environment with -l, for example -l prod: without it" in " ".join(run.output.split())
    assert run.count("unreachable") == 0


@pytest.mark.parametrize("limit", [[], ["-l", "staging"], ["-t", "schema"]], ids=" ".join)
def test_the_part_that_staging_and_prod_have_in_common_does_not_run_alone(environment, limit):
    run = environment.run("environment.yml", *limit)
    refused(run, "Run staging.yml or prod.yml.")
    assert "Could not match" not in run.output


def test_an_upgrade_is_not_made_final_where_nobody_types(environment):
    environment.variables.write_text(COMPLETE)
    run = environment.run("upgrade_finalize.yml", "-l", "staging")
    refused(run, "Nothing was typed, the inventory says")


@pytest.mark.parametrize("playbook", ["staging.yml", "rolling_restart.yml", "clickhouse_upgrade.yml"])
def test_a_strategy_without_turns_is_refused(environment, monkeypatch, playbook):
    """By that of somebody's ansible.cfg all servers would be restarted at once."""
    environment.variables.write_text(COMPLETE)
    monkeypatch.setenv("ANSIBLE_STRATEGY", "free")
    refused(environment.run(playbook, "-l", "staging"), "Set ANSIBLE_STRATEGY=linear for this run.")
