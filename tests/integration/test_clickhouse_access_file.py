"""clickhouse_access with storage users_xml, on the real engine: what is rendered is what the server enforces."""

import errno
import fcntl
import os
import stat
import sys
import threading
from unittest import mock

import pytest
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import Client
from support.clickhouse import ENGINE, ClickHouseServer, library
from support.modules import ModuleFailed, run_module

ENGINE_USER = {
    "name": "default", "auth": "no_password", "hosts": ["127.0.0.1"],
    "grants": [
        {"privileges": ["SYSTEM LISTEN"], "database": "*"},
        {"privileges": ["SELECT"], "database": "system", "table": "numbers"},
    ],
}
ADMIN = {
    "name": "admin", "password": "s3cret of the admin", "hosts": ["local"],
    "grants": [{"privileges": ["ALL"], "database": "*", "grant_option": True}],
}
PASSWORD = "pass of the test"
# A login as the declared admin to a port where nothing listens.
NOWHERE = {"login_user": "admin", "login_password": ADMIN["password"], "login_port": 1}
ALL_ON_D = [{"privileges": ["ALL"], "database": "d"}]


class Declared:
    """A server whose users.xml the module writes: `apply()` runs the module and restarts where it says so."""

    def __init__(self):
        # As in the configuration that the vendor ships: GRANT ALL ON a database is enough to make tables in it.
        self.server = ClickHouseServer(config=(
            "<access_control_improvements><table_engines_require_grant>false</table_engines_require_grant>"
            "</access_control_improvements>"
        ))
        self.path = self.server.directory / "users.xml"
        self.path.unlink()
        self.running = False

    def module(self, users=(), check=False, **options):
        return run_module("clickhouse_access", {
            **self.server.login(timeout=10), "storage": "users_xml", "users_file": str(self.path),
            "users": [ENGINE_USER, ADMIN, *users], **options,
        }, check=check)

    def apply(self, users=(), **options):
        """The results of the runs until nothing is left to restart: one or two."""
        results = [self.module(users, **options)]
        if results[0]["restart_required"]:
            self.server.stop()
            self.server.start()
            results.append(self.module(users, **options))
            assert not results[1]["restart_required"], results[1]
        return results

    def query(self, statement, user, password):
        return self.server.query(statement, user=user, password=password)


@pytest.fixture(scope="module")
def declared():
    instance = Declared()
    try:
        yield instance
    finally:
        instance.server.close()


def refused(code, call, *arguments):
    with pytest.raises(RuntimeError, match=f"^Code: {code}[.]"):
        call(*arguments)


def test_users_rights_and_databases_as_declared(declared):
    users = [
        {"name": "app", "password": PASSWORD, "grants": ALL_ON_D, "default_database": "d"},
        {"name": "none", "password": PASSWORD},
    ]
    options = {"databases": [{"name": "d"}, {"name": "my-db `odd`"}]}
    first, second = declared.apply(users, **options)
    assert first["changed"] and first["restart_reason"] == f"{declared.path} has changed" and first["statements"] == []
    assert second["statements"] == [
        "CREATE DATABASE IF NOT EXISTS `d`", "CREATE DATABASE IF NOT EXISTS `my-db \\`odd\\``",
    ]
    third = declared.module(users, **options)
    assert (third["changed"], third["restart_required"], third["statements"]) == (False, False, [])
    assert third["version"].startswith("26.")

    assert declared.query("SELECT currentDatabase()", "app", PASSWORD) == "d\n"
    declared.query("CREATE TABLE d.t (n UInt8) ENGINE = MergeTree ORDER BY n", "app", PASSWORD)
    declared.query("INSERT INTO d.t VALUES (1)", "app", PASSWORD)
    refused(497, declared.query, "CREATE TABLE `my-db \\`odd\\``.t (n UInt8) ENGINE = Memory", "app", PASSWORD)
    refused(497, declared.query, "CREATE DATABASE other", "app", PASSWORD)
    refused(497, declared.query, "SELECT * FROM d.t", "none", PASSWORD)
    refused(516, declared.query, "SELECT 1", "app", "wrong")
    refused(497, declared.query, "SELECT * FROM d.t", "default", "")


PASSWORDS = {
    "quotes": "it's \"q\" `t`", "shell": "$HOME %s \\ ;&|", "url": "a@b:c/d?e#f", "xml": "<&>]]>",
    "foreign": "пароль 密码", "blanks": " both ends ",
}


def test_odd_passwords_work_and_appear_nowhere(declared):
    users = [{"name": name, "password": password} for name, password in PASSWORDS.items()]
    results = declared.apply(users)
    for name, password in PASSWORDS.items():
        client = Client(declared.server.login(login_user=name, login_password=password))
        assert client.execute("SELECT currentUser()") == f"{name}\n"
        assert password not in declared.path.read_text()
        assert repr(password)[1:-1] not in str(results)


def test_a_new_password_needs_a_restart_and_then_holds(declared):
    users = [{"name": "app", "password": "first-pass"}]
    declared.apply(users)
    users[0]["password"] = "second-pass"
    result = declared.module(users)
    assert result["changed"] and result["restart_required"]
    assert "******** (new)" in str(result["diff"]) and "<password_sha256_hex>********<" in str(result["diff"])
    again = declared.module(users)
    assert not again["changed"] and again["restart_required"]
    assert "still uses an older" in again["restart_reason"]
    declared.apply(users)
    assert declared.query("SELECT 1", "app", "second-pass") == "1\n"
    refused(516, declared.query, "SELECT 1", "app", "first-pass")


def test_a_new_password_of_the_login_itself_is_seen_to_need_a_restart(declared):
    declared.apply()
    admin = {**ADMIN, "password": "another"}
    arguments = {
        **declared.server.login(login_password="another"), "storage": "users_xml", "users_file": str(declared.path),
        "users": [ENGINE_USER, admin],
    }
    assert run_module("clickhouse_access", arguments)["changed"]
    again = run_module("clickhouse_access", arguments)
    assert not again["changed"] and "refuses the declared password of 'admin'" in again["restart_reason"]
    declared.apply()


def test_two_passwords_during_a_rotation(declared):
    users = [{"name": "app", "password": "second-pass", "previous_password": "first-pass"}]
    declared.apply(users)
    for password in ("second-pass", "first-pass"):
        assert declared.query("SELECT 1", "app", password) == "1\n"
    declared.apply([{"name": "app", "password": "second-pass"}])
    refused(516, declared.query, "SELECT 1", "app", "first-pass")


def test_everything_else_that_the_file_holds(declared):
    users = [
        {"name": "my-user", "password": PASSWORD, "roles": ["read-d"], "profile": "small", "hosts": ["127.0.0.0/8"]},
        {"name": "elsewhere", "password": PASSWORD, "hosts": ["192.0.2.1", "db.invalid"]},
        {"name": "nowhere", "password": PASSWORD, "hosts": []},
        {"name": "parts", "password": PASSWORD,
         "revokes": [{"privileges": ["SELECT"], "database": "d", "table": "secret"}],
         "grants": [{"privileges": ["SELECT"], "database": "d"}]},
        {"name": "column", "password": PASSWORD,
         "grants": [{"privileges": ["SELECT"], "database": "d", "table": "t", "columns": ["n", "odd `c`"]}]},
        {"name": "handing", "password": PASSWORD,
         "grants": [{"privileges": ["SET DEFINER"], "object": "column", "grant_option": True}]},
    ]
    options = {
        "databases": [{"name": "d"}],
        "roles": [{"name": "read-d", "grants": [{"privileges": ["SELECT"], "database": "d"}]}],
        "settings_profiles": [
            {"name": "base", "settings": {"max_result_rows": 1000}},
            {"name": "small", "settings": {"max_threads": 3, "log_comment": "a <b> & c", "readonly": False},
             "constraints": [{"name": "max_threads", "min": "1", "max": "4"},
                             {"name": "log_comment", "writability": "const"}], "inherit": ["base"]},
        ],
        "quotas": [{"name": "few", "to": ["my-user"], "intervals": [
            {"seconds": 3600, "queries": 500, "execution_time": 90.5}, {"seconds": 86400, "randomized": True}]}],
        "row_policies": [
            {"name": "a", "database": "d", "table": "t", "filter": "n = 1", "to": ["my-user"]},
            {"name": "b", "database": "d", "table": "t", "filter": "n < 4 AND n > 2", "to": ["my-user"]},
        ],
    }
    declared.apply(users, **options)
    assert not declared.module(users, **options)["changed"]
    server = declared.server
    server.query("DROP TABLE IF EXISTS d.t SYNC")
    server.query("DROP TABLE IF EXISTS d.secret SYNC")
    server.query("CREATE TABLE d.t (n UInt8, `odd \\`c\\`` UInt8, hidden UInt8) ENGINE = MergeTree ORDER BY n")
    server.query("CREATE TABLE d.secret (n UInt8) ENGINE = MergeTree ORDER BY n")
    server.query("INSERT INTO d.t VALUES (1, 1, 1), (2, 1, 1), (3, 1, 1)")

    assert server.query("SELECT n FROM d.t ORDER BY n", "my-user", PASSWORD) == "1\n3\n"
    assert server.query("SELECT getSetting('max_threads'), getSetting('log_comment'), getSetting('max_result_rows')",
                        "my-user", PASSWORD) == "3\ta <b> & c\t1000\n"
    refused(452, server.query, "SELECT 1 SETTINGS max_threads = 9", "my-user", PASSWORD)
    refused(452, server.query, "SELECT 1 SETTINGS log_comment = 'x'", "my-user", PASSWORD)
    assert server.query("SELECT quota_name, duration, max_queries, max_execution_time, is_randomized_interval "
                        "FROM system.quota_limits WHERE quota_name = 'few' ORDER BY duration") == (
        "few\t3600\t500\t90.5\t0\nfew\t86400\t\\N\t\\N\t1\n")
    assert server.query("SELECT quota_name FROM system.quota_usage", "my-user", PASSWORD).splitlines()[0] == "few"
    for user in ("elsewhere", "nowhere"):
        refused(516, server.query, "SELECT 1", user, PASSWORD)
    assert server.query("SELECT count() FROM d.t", "parts", PASSWORD) == "3\n"
    refused(497, server.query, "SELECT * FROM d.secret", "parts", PASSWORD)
    assert server.query("SELECT sum(n), sum(`odd \\`c\\``) FROM d.t", "column", PASSWORD) == "6\t3\n"
    refused(497, server.query, "SELECT hidden FROM d.t", "column", PASSWORD)
    assert server.query("SELECT access_object, grant_option FROM system.grants WHERE user_name = 'handing'") == (
        "column\t1\n")


@pytest.mark.parametrize(("users", "options", "message"), [
    ([{"name": "o'brien", "password": PASSWORD}], {}, r"users\[2\] \(o'brien\): users.xml cannot hold the name"),
    ([{"name": "a\nb", "password": PASSWORD}], {}, "cannot hold the name"),
    ([{"name": "x"}], {}, r"users\[2\] \(x\).password: is missing"),
    ([{"name": "x", "password": ""}], {}, r"users\[2\] \(x\).password: is empty"),
    ([{"name": "admin", "password": PASSWORD}], {}, r"'admin' is declared by users\[1\] already"),
    ([{"name": "x", "pasword": "very secret"}], {}, r"users\[2\]: unknown key 'pasword', did you mean 'password'"),
    ([{"name": "x", "password": PASSWORD, "roles": ["nobody"]}], {}, "there is no role 'nobody'"),
    ([{"name": "x", "password": PASSWORD, "profile": "nothing"}], {}, "there is no 'nothing'"),
    ([{"name": "x", "password": PASSWORD, "hosts": ["%.example"]}], {}, "cannot hold the pattern"),
    ([{"name": "x", "password": PASSWORD, "hosts": ["a b"]}], {}, "'a b' is neither an address"),
    ([{"name": "x", "password": PASSWORD, "admin_roles": ["r"]}], {"roles": [{"name": "r"}]}, "admin_roles"),
    ([{"name": "x", "password": PASSWORD, "update_password": "on_create"}], {}, "update_password"),
    ([{"name": "x", "password": PASSWORD, "grants": [{"privileges": ["SELECT"]}]}], {}, r"grants\[0\]: say what"),
    ([{"name": "x", "password": PASSWORD, "grants": [{"privileges": ["SELECT ON *.* --"], "database": "d"}]}], {},
     "is not the name of a privilege"),
    ([], {"exclusive": ["grants"]}, "exclusive: goes with storage sql only"),
    ([], {"cluster": "c"}, "cluster: goes with storage sql only"),
    ([], {"quotas": [{"name": "q", "to": ["nobody"]}]}, "users has no 'nobody'"),
    ([], {"row_policies": [{"name": "p", "database": "d", "table": "t", "filter": "1", "restrictive": True}]},
     "restrictive"),
    ([], {"databases": [{"name": "d", "state": "absent"}]}, "drop_data"),
    ([], {"settings_profiles": [{"name": "s", "settings": {"a b": 1}}]}, "'a b' is not the name of a setting"),
])
def test_what_the_file_cannot_hold_is_said_and_nothing_is_written(declared, users, options, message):
    declared.apply()
    before = declared.path.read_bytes()
    with pytest.raises(ModuleFailed, match=message) as failure:
        declared.module(users, **options)
    assert "very secret" not in str(failure.value.result)
    assert declared.path.read_bytes() == before


def validate():
    return f"{sys.executable} {ENGINE}/launcher.py --check-users {library()} %s"


@pytest.mark.parametrize(("users", "options", "message"), [
    ([{"name": "x", "password": PASSWORD, "grants": [{"privileges": ["SELCT"], "database": "*"}]}], {}, "Syntax error"),
    ([], {"settings_profiles": [{"name": "s", "settings": {"max_thread": 1}}]}, "Unknown setting 'max_thread'"),
    ([], {"settings_profiles": [{"name": "s", "settings": {"max_threads": "many"}}]}, "many"),
])
def test_the_engine_itself_checks_the_file_before_it_is_in_place(declared, users, options, message):
    declared.apply()
    before = declared.path.read_bytes()
    with pytest.raises(ModuleFailed, match=message):
        declared.module(users, validate=validate(), **options)
    assert declared.path.read_bytes() == before
    assert [path.name for path in declared.path.parent.glob(".users-*")] == []


def test_a_good_file_passes_the_engines_check(declared):
    assert declared.module([{"name": "x", "password": PASSWORD}], validate=validate())["changed"]
    declared.apply()


def test_a_login_that_the_file_would_not_let_in_is_refused(tmp_path):
    arguments = {"storage": "users_xml", "users_file": str(tmp_path / "users.xml"), "users": [ADMIN], **NOWHERE}
    for login, message in (
        ({"login_password": "wrong"}, "login_password: is not the password that users declares for 'admin'"),
        ({"login_user": "root"}, "login_user: users does not declare 'root'"),
    ):
        with pytest.raises(ModuleFailed, match=message):
            run_module("clickhouse_access", {**arguments, **login})
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_not_for_everybody(declared):
    declared.apply()
    assert stat.S_IMODE(declared.path.stat().st_mode) == 0o640
    declared.path.chmod(0o644)
    result = declared.module()
    assert result["changed"] and not result["restart_required"]
    assert stat.S_IMODE(declared.path.stat().st_mode) == 0o640


def test_check_mode_writes_nothing(tmp_path, declared):
    declared.apply()
    before = declared.path.read_bytes()
    result = declared.module([{"name": "x", "password": PASSWORD}], check=True)
    assert result["changed"] and result["restart_required"]
    assert declared.path.read_bytes() == before
    bare = {"storage": "users_xml", "users_file": str(tmp_path / "etc/users.xml"), "users": [ADMIN], **NOWHERE}
    result = run_module("clickhouse_access", bare, check=True)
    assert result["changed"] and list(tmp_path.iterdir()) == []
    with pytest.raises(ModuleFailed, match="directory .*/etc does not exist"):
        run_module("clickhouse_access", bare)


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    path = tmp_path / "users.xml"
    path.write_text("<clickhouse><users><precious/></users></clickhouse>")
    with pytest.raises(ModuleFailed, match="was not written by this module"):
        run_module("clickhouse_access", {"storage": "users_xml", "users_file": str(path), "users": [ADMIN], **NOWHERE})
    assert "precious" in path.read_text()


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    arguments = {"storage": "users_xml", "users_file": str(tmp_path / "users.xml"), "users": [ADMIN], **NOWHERE}
    run_module("clickhouse_access", arguments)
    before = (tmp_path / "users.xml").read_bytes()
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(ModuleFailed, match="users_file: .*users.xml cannot be written: No space left on device"):
        run_module("clickhouse_access", {**arguments, "users": [ADMIN, {"name": "x", "password": PASSWORD}]})
    assert (tmp_path / "users.xml").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_server_that_is_down_needs_a_start(tmp_path):
    arguments = {"storage": "users_xml", "users_file": str(tmp_path / "users.xml"), "users": [ADMIN], **NOWHERE}
    assert run_module("clickhouse_access", arguments)["restart_required"]
    again = run_module("clickhouse_access", arguments)
    assert not again["changed"] and "does not answer: nothing listens" in again["restart_reason"]


def test_a_second_run_waits_for_the_first(tmp_path):
    arguments = {
        "storage": "users_xml", "users_file": str(tmp_path / "users.xml"), "users": [ADMIN], **NOWHERE,
        "timeout": 1,
    }
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ModuleFailed, match="another run has been writing"):
        run_module("clickhouse_access", arguments)
    release = threading.Timer(0.3, os.close, [handle])
    release.start()
    assert run_module("clickhouse_access", {**arguments, "timeout": 20})["changed"]
    release.join()


def test_databases_are_dropped_only_on_two_words(declared):
    declared.apply(databases=[{"name": "doomed", "comment": "it's here"}])
    assert declared.server.query("SELECT comment FROM system.databases WHERE name = 'doomed'") == "it\\'s here\n"
    assert declared.module(databases=[{"name": "doomed", "comment": "second-pass"}])["changed"]
    assert not declared.module(databases=[{"name": "doomed", "comment": "second-pass"}])["changed"]
    with pytest.raises(ModuleFailed, match="engine: the database exists with the engine Atomic"):
        declared.module(databases=[{"name": "doomed", "engine": "Memory"}])
    result = declared.module(databases=[{"name": "doomed", "state": "absent", "drop_data": True}])
    assert result["statements"] == ["DROP DATABASE IF EXISTS `doomed` SYNC"]
    assert declared.server.query("SELECT count() FROM system.databases WHERE name = 'doomed'") == "0\n"
