"""The lookup secrets_in_clear: what is a password in clear, and what only looks like one."""

import pytest
from ansible_collections.frameworks.database.plugins.lookup.secrets_in_clear import LookupModule, in_clear

VAULT = "$ANSIBLE_VAULT;1.1;AES256\n33323938623731306135\n"


@pytest.mark.parametrize("text", [
    "reader_password: xxx",
    "reader_password: 'xxx'",
    "  password: xxx",
    "- password: xxx",
    "- {name: reader, password: xxx}",
    "- {name: reader, update_password: on_create, password: xxx}",
    "- {password: xxx, update_password: on_create}",
    '- {name: "number #1", password: xxx}',
    '[{"name": "reader", "password": "xxx"}]',
    'x_password: "{xxx"',
    'x_password: "!xxx"',
    'x_password: "#xxx"',
    "x_password: >-\n  xxx",
    "yugabyte_db_ca_passphrase: xxx",
    "clickhouse_db_cluster_secret: xxx",
    "X_PASSWORD: xxx",
    "db1 ansible_host=10.0.0.1 postgres_user_password=xxx",
    "db1 postgres_user_password='xxx' ansible_host=10.0.0.1",
    "postgres_user_password = xxx",
    "postgres_user_password={xxx",
    "db1 ansible_become_pass=xxx",
    "export DB_PASSWORD=xxx",
    "command: tool --password=xxx",
    "a: 1\n# a comment\nx_password: xxx  # another",
])
def test_a_password_in_clear_is_found(text):
    assert in_clear(f"{text}\n")


@pytest.mark.parametrize("text", [
    'password: "{{ var }}"',
    "password: '{{ var }}'",
    "x_password: \"{% if a %}{{ b }}{% endif %}\"",
    'x_password: >-\n  {{ var }}',
    "- {name: reader, password: \"{{ var }}\", roles: [reading]}",
    'x: "{{ lookup(\'community.hashi_vault.hashi_vault\', \'secret=secret/data/db:pw\') }}"',
    "db1 postgres_user_password={{ var }}",
    "db1 postgres_user_password='{{ var }}'",
    f"password: !vault |\n  {VAULT}",
    VAULT,
    "update_password: on_create",
    "- {name: reader, update_password: force}",
    "postgres_user_update_password: always",
    "yugabyte_db_minimum_password_length: 16",
    "password_file: /etc/password",
    "# reader_password: xxx",
    "a: b  # the password: ask",
    "; password=xxx",
    "# db1 postgres_user_password=xxx",
    'x_password: ""',
    "x_password:",
    "x_password: {length: 16}",
    "database_secrets:\n  - postgres_user_password\n  - clickhouse_db_cluster_secret\n",
    "that: password == other",
    "-----BEGIN ENCRYPTED PRIVATE KEY-----",
])
def test_what_only_looks_like_one_is_not(text):
    assert not in_clear(f"{text}\n")


def test_files_at_any_depth_are_named(tmp_path):
    for name, text in (("z", "password: xxx"), ("group_vars/prod/a.yml", "password: xxx"), ("b", "no: secret")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "z")
    found = LookupModule().run([str(tmp_path)])
    assert found == [str(tmp_path / name) for name in ("elsewhere", "group_vars/prod/a.yml", "z")]
