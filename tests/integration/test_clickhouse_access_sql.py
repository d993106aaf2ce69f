"""clickhouse_access with storage sql, on a double of the storage that the embedded engine lacks (see the double)."""

import contextlib
import hashlib
import json
import re

import pytest
import yaml
from ansible_collections.frameworks.database.plugins.modules import clickhouse_access
from support.clickhouse_double import AccessDouble
from support.modules import ModuleFailed, run_module
from support.playbooks import ROOT

PASSWORD = "pass of the test"
D = {"database": "d"}


@pytest.fixture
def double(clickhouse):
    """An AccessDouble before the session's engine."""
    with contextlib.closing(AccessDouble(clickhouse)) as instance:
        yield instance.start()


@pytest.fixture
def cluster(clickhouse):
    """An AccessDouble of two replicas."""
    with contextlib.closing(AccessDouble(clickhouse, replicas=2)) as instance:
        yield instance.start()


def access(double, check=False, **options):
    """The module's result."""
    return run_module("clickhouse_access", {**double.login(timeout=20), **options}, check=check)


def settled(double, **options):
    """Run twice: the statements of the first run, the second having found nothing to do."""
    double.executed.clear()
    planned = access(double, check=True, **options)["statements"]
    assert double.executed == []
    first = access(double, **options)
    assert first["statements"] == planned and first["changed"] == bool(planned)
    assert not first.get("warnings"), first["warnings"]
    again = access(double, **options)
    assert (again["changed"], again["statements"]) == (False, []), again["statements"]
    return first["statements"]


EVERYTHING = {
    "settings_profiles": [
        {"name": "base", "settings": {"max_threads": 4, "log_queries": True}},
        {"name": "limited", "settings": {"max_memory_usage": 4000000000, "log_comment": "it's, MIN 'x'"},
         "inherit": ["base"], "constraints": [
             {"name": "max_memory_usage", "min": "1", "max": "8000000000"},
             {"name": "readonly", "writability": "const"}]},
        {"name": "empty"},
    ],
    "roles": [
        {"name": "reader", "grants": [{"privileges": ["SELECT"], **D}],
         "revokes": [{"privileges": ["SELECT"], **D, "table": "secret"}]},
        {"name": "lead", "admin_roles": ["reader"]},
    ],
    "users": [
        {"name": "app", "password": PASSWORD, "grants": [{"privileges": ["ALL"], **D}], "default_database": "d",
         "hosts": ["local", "10.0.0.0/8"], "profile": "limited"},
        {"name": "report", "password": "another pass", "roles": ["reader"], "hosts": ["any"], "grants": [
            {"privileges": ["SELECT", "INSERT"], **D, "table": "t", "columns": ["a", "b c"], "grant_option": True}]},
        {"name": "probe", "auth": "no_password", "hosts": ["::1", "%.example.org", "db.example.org"]},
    ],
    "quotas": [
        {"name": "few", "intervals": [{"seconds": 3600, "queries": 100, "execution_time": 12.5},
                                      {"seconds": 60, "randomized": True, "errors": 5}, {"seconds": 5}],
         "to": ["app", "reader"], "keyed_by": "client_key_or_user_name"},
        {"name": "counted", "keyed_by": "none", "intervals": [{"seconds": 60}]},
    ],
    "row_policies": [
        {"name": "tenant", "database": "d", "table": "t", "filter": "tenant=1 and  (x>2)", "to": ["report"]},
        {"name": "all of d", "database": "d", "table": "*", "filter": "1", "restrictive": True, "to": ["reader"]},
    ],
}


def test_everything_at_once_and_then_nothing(double):
    statements = settled(double, **EVERYTHING)
    assert (
        "CREATE USER IF NOT EXISTS `app` IDENTIFIED WITH sha256_hash BY '********' SALT '********' "
        "HOST IP '10.0.0.0/8', LOCAL DEFAULT DATABASE `d` SETTINGS PROFILE `limited`"
    ) in statements
    assert "GRANT ALL ON `d`.* TO `app`" in statements
    assert "GRANT SELECT(`a`, `b c`), INSERT(`a`, `b c`) ON `d`.`t` TO `report` WITH GRANT OPTION" in statements
    assert "REVOKE SELECT ON `d`.`secret` FROM `reader`" in statements
    assert "GRANT `reader` TO `lead` WITH ADMIN OPTION" in statements


@pytest.mark.parametrize(("kind", "index", "change", "begins"), [
    ("settings_profiles", 0, {"settings": {"max_threads": 5}}, ["ALTER SETTINGS PROFILE `base` SETTINGS max_threads"]),
    ("settings_profiles", 1, {"inherit": []}, ["ALTER SETTINGS PROFILE `limited` SETTINGS max_memory_usage"]),
    ("settings_profiles", 1, {"constraints": []}, ["ALTER SETTINGS PROFILE `limited` SETTINGS INHERIT `base`"]),
    ("users", 0, {"hosts": ["local"]}, ["ALTER USER `app` HOST LOCAL"]),
    ("users", 0, {"hosts": []}, ["ALTER USER `app` HOST NONE", "CREATE QUOTA IF NOT EXISTS `password"]),
    ("users", 0, {"profile": "base"}, ["ALTER USER `app` SETTINGS PROFILE `base`"]),
    ("users", 0, {"default_database": "e"}, ["ALTER USER `app` DEFAULT DATABASE `e`"]),
    ("users", 2, {"auth": "sha256_password", "password": PASSWORD}, ["ALTER USER `probe` IDENTIFIED WITH sha256_hash"]),
    ("users", 1, {"roles": ["lead"]}, ["GRANT `lead` TO `report`"]),
    ("users", 1, {"roles": [], "admin_roles": ["reader"]}, ["GRANT `reader` TO `report` WITH ADMIN OPTION"]),
    ("roles", 0, {"revokes": []}, ["GRANT SELECT ON `d`.* TO `reader`"]),
    ("quotas", 0, {"to": ["app"]}, ["CREATE QUOTA OR REPLACE `few`"]),
    ("quotas", 0, {"keyed_by": "ip_address"}, ["CREATE QUOTA OR REPLACE `few` KEYED BY ip_address"]),
    ("quotas", 0, {"intervals": [{"seconds": 3600, "queries": 100}]}, ["CREATE QUOTA OR REPLACE `few`"]),
    ("row_policies", 0, {"filter": "tenant = 2"}, ["CREATE ROW POLICY OR REPLACE `tenant` ON `d`.`t`"]),
    ("row_policies", 1, {"restrictive": False}, ["CREATE ROW POLICY OR REPLACE `all of d` ON `d`.*"]),
    ("users", 0, {"state": "absent"}, ["DROP USER IF EXISTS `app`"]),
    ("roles", 1, {"state": "absent"}, ["DROP ROLE IF EXISTS `lead`"]),
    ("quotas", 1, {"state": "absent"}, ["DROP QUOTA IF EXISTS `counted`"]),
    ("settings_profiles", 2, {"state": "absent"}, ["DROP SETTINGS PROFILE IF EXISTS `empty`"]),
    ("row_policies", 1, {"state": "absent"}, ["DROP ROW POLICY IF EXISTS `all of d` ON `d`.*"]),
])
def test_one_difference_is_one_statement(double, kind, index, change, begins):
    access(double, **EVERYTHING)
    changed = {**EVERYTHING, kind: list(EVERYTHING[kind])}
    changed[kind][index] = {**changed[kind][index], **change}
    statements = settled(double, **changed)
    assert len(statements) == len(begins)
    assert all(statement.startswith(begin) for statement, begin in zip(statements, begins)), statements


def test_a_password_is_compared_by_a_login_and_never_seen(double):
    users = [{"name": "app", "password": PASSWORD}]
    access(double, users=users)
    assert double.replicas[0].secrets["app"][0][0] not in str(access(double, users=users))
    users[0]["password"] = "the second one"
    result = access(double, users=users)
    assert result["statements"] == [
        "ALTER USER `app` IDENTIFIED WITH sha256_hash BY '********' SALT '********'"]
    digest, salt = double.replicas[0].secrets["app"][0]
    assert hashlib.sha256(f"the second one{salt}".encode()).hexdigest() == digest
    assert not any(secret in str(result) for secret in ("the second one", digest, salt))
    assert not any("the second one" in statement for statement in double.executed)
    assert not access(double, users=users)["changed"]


ELSEWHERE = ["192.0.2.0/24"]
FORGET = "DROP QUOTA IF EXISTS `password of app: {salt}:********`"
SET = "ALTER USER `app` IDENTIFIED WITH sha256_hash BY '********' SALT '********'"
REMEMBER = "CREATE QUOTA IF NOT EXISTS `password of app: ********` NOT KEYED TO NONE"


def remembered(double):
    """The names of the quotas that remember passwords, on the first replica."""
    return [name for name in double.replicas[0].rows["quotas"] if name.startswith("password of ")]


def has(double, password):
    """Whether this is the password that the double lets `app` in with, wherever from."""
    digest, salt = double.replicas[0].secrets["app"][0]
    return hashlib.sha256((password + salt).encode()).hexdigest() == digest


def test_a_password_that_cannot_be_compared_is_set_once_for_each_new_one(double):
    users = [{"name": "app", "password": PASSWORD, "hosts": ELSEWHERE}]
    assert settled(double, users=users)[-1] == REMEMBER
    salt = remembered(double)[0].split(":")[1].strip()
    users[0]["password"] = "the second one"
    result = access(double, users=users)
    # Forgotten first: whatever happens then, the next run does not take the old one for granted.
    assert result["statements"] == [FORGET.format(salt=salt), SET, REMEMBER] and has(double, "the second one")
    digest = remembered(double)[0].rpartition(":")[2]
    assert digest not in str(result) and "the second one" not in str(result) and not result.get("warnings")
    assert settled(double, users=users) == [] and len(remembered(double)) == 1
    users[0]["previous_password"] = "the second one"
    users[0]["password"] = "the third one"
    assert SET.split(" BY")[0] in settled(double, users=users)[1] and len(remembered(double)) == 1
    assert settled(double, users=[{"name": "app", "state": "absent"}])[0].startswith("DROP QUOTA")
    assert remembered(double) == []


def test_a_password_that_another_tool_has_set_is_set_again_where_nothing_is_remembered(double):
    access(double, users=[{"name": "app", "password": PASSWORD}])
    double.replicas[0].run("ALTER USER `app` HOST NAME 'app.example.org'")
    users = [{"name": "app", "password": "the second one"}]
    assert settled(double, users=users) == [SET, REMEMBER] and has(double, "the second one")


def test_a_password_is_remembered_before_it_gets_out_of_sight(double):
    users = [{"name": "app", "password": PASSWORD}]
    assert not any("QUOTA" in statement for statement in settled(double, users=users))
    users[0]["hosts"] = ELSEWHERE
    assert settled(double, users=users) == ["ALTER USER `app` HOST IP '192.0.2.0/24'", REMEMBER]
    users[0].update(hosts=["any"], password="the second one")
    settled(double, users=users)
    users[0]["hosts"] = ELSEWHERE
    assert settled(double, users=users) == ["ALTER USER `app` HOST IP '192.0.2.0/24'"]
    users[0]["password"] = PASSWORD
    assert SET in settled(double, users=users) and has(double, PASSWORD)


@pytest.mark.parametrize("fails", ["DROP QUOTA", "ALTER USER", "CREATE QUOTA"])
def test_a_run_that_ends_in_the_middle_leaves_no_password_taken_for_granted(double, fails):
    users = [{"name": "app", "password": PASSWORD, "hosts": ELSEWHERE}]
    access(double, users=users)
    double.denied = {fails: 497}
    with pytest.raises(ModuleFailed):
        access(double, users=[{**users[0], "password": "the second one"}])
    double.denied = {}
    settled(double, users=users)
    assert has(double, PASSWORD)


def test_what_is_remembered_is_no_quota_that_somebody_forgot_to_declare(double):
    users = [{"name": "app", "password": PASSWORD, "hosts": ELSEWHERE}]
    access(double, users=users)
    assert settled(double, users=users, exclusive=["quotas"]) == [] and len(remembered(double)) == 1
    statements = settled(double, users=[{"name": "x", "password": PASSWORD}], exclusive=["users"])
    assert any(statement.startswith("DROP QUOTA") for statement in statements) and remembered(double) == []


def test_a_cluster_remembers_as_one(cluster):
    users = [{"name": "app", "password": PASSWORD, "hosts": ELSEWHERE}]
    assert len([one for one in settled(cluster, cluster="c", users=users) if "QUOTA" in one]) == 1
    assert settled(cluster, cluster="c", users=[{**users[0], "password": "the second one"}])
    assert [list(one.rows["quotas"]) for one in cluster.replicas] == [remembered(cluster)] * 2


def test_force_sets_the_password_in_every_run(double):
    users = [{"name": "app", "password": PASSWORD, "hosts": ELSEWHERE, "update_password": "force"}]
    assert access(double, users=users)["changed"] and access(double, users=users)["changed"]
    assert not access(double, users=[{**users[0], "update_password": "always"}])["changed"]


def test_a_password_only_for_a_new_user(double):
    users = [{"name": "app", "password": PASSWORD, "update_password": "on_create"}]
    assert access(double, users=users)["changed"]
    users[0]["password"] = "the second one"
    assert not access(double, users=users)["changed"]


def test_a_rotation_has_two_passwords_and_then_one(double):
    users = [{"name": "app", "password": "the first one"}]
    settled(double, users=users)
    users = [{"name": "app", "password": "the second one", "previous_password": "the first one"}]
    assert len(settled(double, users=users)) == 1
    assert len(double.replicas[0].secrets["app"]) == 2
    users = [{"name": "app", "password": "the second one"}]
    assert len(settled(double, users=users)) == 1
    assert len(double.replicas[0].secrets["app"]) == 1


def test_a_rotation_needs_a_server_that_can(double):
    double.version = "24.3.1.1"
    users = [{"name": "app", "password": "the second one", "previous_password": "the first one"}]
    with pytest.raises(ModuleFailed, match=r"previous_password: two passwords at once need ClickHouse 24\.9"):
        access(double, users=users)
    assert double.executed == []


def test_an_old_server_is_refused(double):
    double.version = "22.3.20.29"
    with pytest.raises(ModuleFailed, match=r"version 22\.3\.20\.29; this collection needs 22\.8"):
        access(double, users=[{"name": "app", "password": PASSWORD}])


ODD = ["o'brien", "my-user", "Ümläut 用户", 'say "hi"', "back\\slash", "tick`tick", "a; DROP USER b", "x` TO `y"]


def test_odd_names_and_passwords_work_and_inject_nothing(double):
    passwords = {name: f"{name} pass $%@: \\ '\"" for name in ODD}
    options = {
        "users": [{"name": name, "password": passwords[name], "roles": [f"r {name}"],
                   "grants": [{"privileges": ["SELECT"], "database": name, "table": name, "columns": [name]}]}
                  for name in ODD],
        "roles": [{"name": f"r {name}"} for name in ODD],
        "quotas": [{"name": name, "to": [name]} for name in ODD],
    }
    settled(double, **options)
    assert {*ODD, "admin"} == set(double.replicas[0].rows["users"])
    assert {row["access_type"] for row in double.replicas[0].table("grants")} == {"SELECT"}
    assert {(row["database"], row["table"], row["column"]) for row in double.replicas[0].table("grants")} == {
        (name, name, name) for name in ODD}


def test_what_is_not_declared_stays_unless_exclusive_says_so(double):
    access(double, **EVERYTHING)
    double.replicas[0].run("GRANT INSERT, TRUNCATE ON e.* TO `app`")
    double.replicas[0].run("GRANT `reader` TO `app`")
    options = {kind: EVERYTHING[kind][:1] for kind in EVERYTHING}
    options["settings_profiles"] = EVERYTHING["settings_profiles"][:2]
    assert settled(double, **options) == []
    statements = settled(double, **options, exclusive=["grants"])
    assert sorted(statements) == ["REVOKE INSERT, TRUNCATE ON `e`.* FROM `app`", "REVOKE `reader` FROM `app`"]
    everything = ["users", "roles", "quotas", "settings_profiles", "row_policies"]
    assert settled(double, **options, exclusive=everything) == [
        "DROP ROW POLICY IF EXISTS `all of d` ON `d`.*", "DROP QUOTA IF EXISTS `counted`",
        "DROP USER IF EXISTS `probe`", "DROP USER IF EXISTS `report`", "DROP ROLE IF EXISTS `lead`",
        "DROP SETTINGS PROFILE IF EXISTS `empty`",
    ]
    assert "admin" in double.replicas[0].rows["users"]


def test_a_user_of_the_servers_files_is_not_for_sql(double):
    with pytest.raises(ModuleFailed, match=r"users\[0\] \(admin\): the server has it from a file"):
        access(double, users=[{"name": "admin", "password": PASSWORD}])
    with pytest.raises(ModuleFailed, match="logs in as; it cannot remove itself"):
        access(double, users=[{"name": "admin", "state": "absent"}])


@pytest.mark.parametrize("until", ["2020-01-01 00:00:00", "2100-01-01 00:00:00"])
def test_a_user_that_ends_is_not_given_new_life(double, until):
    users = [{"name": "app", "password": PASSWORD}]
    access(double, users=users)
    double.replicas[0].run(f"ALTER USER `app` VALID UNTIL '{until}'")
    for password in (PASSWORD, "the second one"):
        users[0]["password"] = password
        settled(double, users=users)
        assert has(double, password) and double.replicas[0].rows["users"]["app"]["valid_until"] == [until]
    users[0]["previous_password"] = PASSWORD
    settled(double, users=users)
    assert double.replicas[0].rows["users"]["app"]["valid_until"] == [until, until]


def test_a_users_own_settings_stay_beside_its_profile(double):
    options = {"settings_profiles": [{"name": "p"}], "users": [{"name": "app", "password": PASSWORD, "profile": "p"}]}
    access(double, **options)
    double.replicas[0]._element("user", "app", 1, setting_name="max_threads", value="4")
    assert settled(double, **options) == []


def test_of_a_user_in_two_places_the_one_counts_that_logs_in(double):
    access(double, users=[{"name": "app", "password": PASSWORD}])
    rows = double.replicas[0].rows["users"]
    # The server lists its directories in the order in which it asks them.
    double.replicas[0].rows["users"] = {"in a file": {**rows["app"], "storage": "users_xml"}, **rows}
    with pytest.raises(ModuleFailed, match=r"users\[0\] \(app\): the server has it from a file"):
        access(double, users=[{"name": "app", "password": PASSWORD}])


def test_users_of_ldap_are_nothing_that_exclusive_removes(double):
    access(double, users=[{"name": "app", "password": PASSWORD}, {"name": "ldap's", "password": PASSWORD}])
    double.replicas[0].rows["users"]["ldap's"]["storage"] = "ldap"
    assert settled(double, users=[{"name": "app", "password": PASSWORD}], exclusive=["users"]) == []


def test_a_role_with_the_name_of_a_user_is_refused(double):
    roles = [{"name": "app", "grants": [{"privileges": ["SELECT"], **D}]}]
    users = [{"name": "app", "password": PASSWORD}]
    message = r"roles\[0\] \(app\): there is a user of the same name, who would get the role's rights"
    with pytest.raises(ModuleFailed, match=message):
        access(double, roles=roles, users=users)
    assert double.executed == []
    access(double, users=users)
    with pytest.raises(ModuleFailed, match=message):
        access(double, roles=roles)
    assert settled(double, roles=[{"name": "app", "state": "absent"}], users=users) == []


def test_a_right_that_the_login_lacks_is_a_failure_and_the_next_run_goes_on(double):
    double.denied = {"GRANT ALL": 497}
    message = r"GRANT ALL ON `d`\.\* TO `app`: ClickHouse error 497.*WITH GRANT OPTION"
    with pytest.raises(ModuleFailed, match=message) as failure:
        access(double, **EVERYTHING)
    assert "statements were run before" in failure.value.result["msg"]
    assert failure.value.result["statements"] == [
        statement for statement in failure.value.result["statements"] if "GRANT ALL" not in statement] != []
    double.denied = {}
    rest = access(double, **EVERYTHING)["statements"]
    assert rest[0] == "GRANT ALL ON `d`.* TO `app`"


@pytest.mark.parametrize(("options", "message"), [
    ({"users": [{"name": "x"}]}, r"users\[0\] \(x\).password: is missing, and the user does not exist"),
    ({"users": [{"name": "x", "password": PASSWORD, "roles": ["nobody"]}]}, "there is no role 'nobody'"),
    ({"users": [{"name": "x", "password": PASSWORD, "grants": [{"privileges": ["SELCT"], **D}]}]},
     r"users\[0\] \(x\).grants\[0\].privileges: this server has no privilege 'SELCT', did you mean 'SELECT'"),
    ({"row_policies": [{"name": "p", **D, "table": "t", "filter": "1 ("}]}, "does not understand the filter"),
    ({"row_policies": [{"name": "p", **D, "table": "t"}]}, "filter: is missing"),
    ({"quotas": [{"name": "q", "intervals": [{"seconds": 0}]}]}, "must be positive"),
    ({"users": [{"name": "x", "auth": "no_password", "password": PASSWORD}]}, "exclude each other"),
    ({"users": [{"name": "x", "password": PASSWORD, "previous_password": PASSWORD}]}, "is the same as password"),
    ({"databases": [{"name": "d", "state": "absent"}]}, "add drop_data true"),
    ({"users": [{"name": "", "password": PASSWORD}]}, "a name must not be empty"),
    ({"users": [{"name": "x", "password": PASSWORD, "default_database": ""}]}, r"users\[0\].default_database: a name"),
    ({"users": [{"name": "x", "password": PASSWORD, "profile": ""}]}, r"users\[0\].profile: a name must not be empty"),
    ({"quotas": [{"name": "q", "to": ["a", ""]}]}, r"quotas\[0\].to: a name must not be empty"),
    ({"settings_profiles": [{"name": "p", "inherit": [""]}]}, r"settings_profiles\[0\].inherit: a name must"),
    ({"users_file": "/tmp/x"}, "users_file: goes with storage users_xml only"),
])
def test_what_cannot_be_is_said_before_anything_is_run(double, options, message):
    with pytest.raises(ModuleFailed, match=message):
        access(double, **options)
    assert double.executed == []


@pytest.mark.parametrize("seconds", [12.5, 100, 1234567.25, 31536000])
def test_a_quotas_time_is_kept_to_the_last_digit(double, seconds):
    settled(double, quotas=[{"name": "q", "intervals": [{"seconds": 60, "execution_time": seconds}]}])
    assert double.replicas[0].rows["quota_limits"][("q", "60")]["max_execution_time"] == seconds


def test_a_comment_in_a_filter_does_not_swallow_who_it_is_for(double):
    policy = {"name": "p", **D, "table": "t", "filter": "tenant = 1 -- ours\n", "to": ["admin"]}
    assert settled(double, row_policies=[policy])[0].endswith("USING tenant = 1 AS PERMISSIVE TO `admin`")
    assert double.replicas[0].rows["row_policies"][("p", "d", "t")]["apply_to_list"] == ["admin"]


def test_a_database_of_the_servers_own_is_there_already(double):
    assert settled(double, databases=[{"name": name} for name in ("system", "default", "INFORMATION_SCHEMA")]) == []


def test_values_in_another_form_than_the_servers_are_warned_of(double):
    profile = {"name": "p", "settings": {"max_memory_usage": "10G"}}
    access(double, settings_profiles=[profile])
    double.replicas[0].rows["settings_profile_elements"][("profile", "p", 0)]["value"] = "10000000000"
    original = double.replicas[0].run
    double.replicas[0].run = lambda sql: None
    result = access(double, settings_profiles=[profile])
    double.replicas[0].run = original
    assert "the next run would do this again" in str(result["warnings"])


def test_a_cluster_is_compared_and_changed_as_a_whole(cluster):
    options = {"cluster": "c", "users": EVERYTHING["users"][1:2], "roles": EVERYTHING["roles"][:1]}
    statements = settled(cluster, **options)
    assert statements and all("ON CLUSTER `c`" in statement for statement in statements)
    cluster.replicas[1].run("REVOKE SELECT ON d.* FROM `reader`")
    assert settled(cluster, **options) == [
        "GRANT ON CLUSTER `c` SELECT ON `d`.* TO `reader`",
        "REVOKE ON CLUSTER `c` SELECT ON `d`.`secret` FROM `reader`",
    ]
    cluster.replicas[1].run("DROP USER IF EXISTS `report`")
    assert settled(cluster, **options)[0].startswith("CREATE USER IF NOT EXISTS `report` ON CLUSTER `c`")


def test_a_replica_that_is_down_is_named_and_the_next_run_completes(cluster):
    options = {"cluster": "c", "roles": EVERYTHING["roles"][:1]}
    cluster.down = 1
    with pytest.raises(ModuleFailed, match="159.*not finished.*after 20 s.*run this task again"):
        access(cluster, **options)
    cluster.down = None
    assert access(cluster, **options)["changed"]
    assert not access(cluster, **options)["changed"]


EXAMPLES = [
    task["frameworks.database.clickhouse_access"] for task in yaml.safe_load(clickhouse_access.EXAMPLES)
    if "storage" not in task["frameworks.database.clickhouse_access"]
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["users"][0]["name"])
def test_the_examples_work(double, example):
    options = json.loads(re.sub(r"\{\{ (\w+) \}\}", r"the \1", json.dumps(example)))
    databases = [entry["name"] for entry in options.get("databases", [])]
    try:
        assert settled(double, **{**options, **double.login(), "tls": False})
    finally:
        for name in databases:
            double.engine.query(f"DROP DATABASE IF EXISTS {name} SYNC")


def test_the_users_and_limits_of_the_page_on_clickhouse_work(double):
    page = (ROOT / "docs/clickhouse.md").read_text().split("## Users and limits")[1].split("```yaml")[1].split("```")[0]
    defaults = yaml.safe_load((ROOT / "roles/clickhouse_db/defaults/main.yml").read_text())
    text = page.replace('"{{ clickhouse_db_privileges }}"', json.dumps(defaults["clickhouse_db_privileges"]))
    declared = yaml.safe_load(re.sub(r"\{\{ (\w+) \}\}", r"the \1", text))
    options = {name.removeprefix("clickhouse_db_"): items for name, items in declared.items()}
    try:
        assert settled(double, databases=[{"name": "frameworks"}], **options)
    finally:
        double.engine.query("DROP DATABASE IF EXISTS frameworks SYNC")
