"""postgres_access against a real PostgreSQL: users and databases, compared by what they can do afterwards."""

import json

import pytest
import yaml
from ansible_collections.frameworks.database.plugins.modules.postgres_access import EXAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.modules import ModuleFailed, run_module

ODD_PASSWORDS = [
    "it's \"quoted\"", "with space ", "$HOME", "100%", "%s %(x)s", "user@host:port/db?x=1&y=2", "back\\slash\\'",
    "pässwörd", "пароль", "密碼", "🔑", "\u00a0non-breaking", "x" * 300, "tab\tnewline\n", "md5 is not a hash",
    "\u2168 becomes IX", "א1", "\U0001f110",
    "\u00ad", "\u200e", "-- comment", "; DROP TABLE users",
]
ODD_NAMES = [
    "my-db", "UPPER", 'quo"te', "it's", "a b", "ünïcode", "select", "per%cent", "back\\slash", "new\nline", "a,b",
    '"; DROP ROLE postgres; --',
]


def access(server, check=False, login=None, **declared):
    return run_module("postgres_access", {**(login or server.login()), **declared}, check=check)


def settles(server, **declared):
    """Apply twice: the first result, after making sure that the second changes nothing."""
    first = access(server, **declared)
    again = access(server, **declared)
    assert (again["changed"], again["statements"]) == (False, [])
    return first


@pytest.fixture
def role(postgres, unique):
    """A name for a user, whom the test may create; gone afterwards with the databases that it owns."""
    yield unique
    for (database,) in postgres.query(
        "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) LIKE %s || '%%'", (unique,)
    ):
        quoted = database.replace('"', '""')
        postgres.query(f'DROP DATABASE "{quoted}" WITH (FORCE)')
    for (name,) in postgres.query("SELECT rolname FROM pg_roles WHERE rolname LIKE %s || '%%'", (unique,)):
        quoted = name.replace('"', '""')
        postgres.query(f'DROP OWNED BY "{quoted}"')
        postgres.query(f'DROP ROLE "{quoted}"')


def test_a_user_can_log_in_and_has_its_attributes(postgres, role):
    user = {
        "name": role, "password": "pw", "createdb": True, "createrole": True, "inherit": False, "connection_limit": 7,
        "valid_until": "2040-01-01 00:00:00+02",
        "settings": {"statement_timeout": "5s", "search_path": ["$user", "a b"]},
    }
    result = settles(postgres, users=[user])
    assert result["users"] == [role]
    assert postgres.query("SELECT current_user, current_setting('search_path')", user=role, password="pw") == [
        (role, '"$user", "a b"')
    ]
    assert postgres.query(
        "SELECT rolcreatedb, rolcreaterole, rolinherit, rolsuper, rolconnlimit, rolvaliduntil = '2039-12-31 22:00+00'"
        " FROM pg_roles WHERE rolname = %s", (role,),
    ) == [(True, True, False, False, 7, True)]


def test_only_what_is_declared_changes(postgres, role):
    settles(postgres, users=[{"name": role, "password": "pw", "createdb": True, "settings": {"work_mem": "1MB"}}])
    result = settles(postgres, users=[{"name": role, "createdb": False}])
    assert result["statements"] == [f'ALTER ROLE "{role}" WITH NOCREATEDB']
    assert access(postgres, users=[{"name": role, "password": "pw"}])["changed"] is False
    result = settles(postgres, users=[{"name": role, "settings": {"work_mem": None, "Application_Name": "x"}}])
    assert len(result["statements"]) == 2
    assert postgres.query("SELECT current_setting('work_mem'), current_setting('application_name')",
                          user=role, password="pw") == [("4MB", "x")]


def test_list_settings_are_told_from_text(postgres, role):
    settles(postgres, users=[{"name": role, "settings": {
        "search_path": 'app, "Odd, one", public', "DateStyle": "ISO, MDY", "jit": False,
        "my.own": "it's \\ fine, is it",
    }}])
    result = access(postgres, users=[{"name": role, "settings": {"search_path": ["app", "public"]}}])
    assert result["statements"] == [f"""ALTER ROLE "{role}" SET "search_path" TO 'app', 'public'"""]


@pytest.mark.parametrize("password", ODD_PASSWORDS)
def test_odd_passwords(postgres, role, password):
    result = settles(postgres, users=[{"name": role, "password": password}])
    assert postgres.query("SELECT 1", user=role, password=password) == [(1,)]
    assert password not in json.dumps(result["statements"], ensure_ascii=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20))
def test_any_password_is_compared_as_the_server_does(postgres, role, password):
    postgres.query(f"DROP ROLE IF EXISTS {role}")
    settles(postgres, users=[{"name": role, "password": password}])
    assert postgres.query("SELECT 1", user=role, password=password) == [(1,)]
    postgres.query(f"ALTER ROLE {role} PASSWORD %s", (password,))  # the server computes the verifier
    assert access(postgres, users=[{"name": role, "password": password}])["changed"] is False


def test_password_rotation(postgres, role):
    settles(postgres, users=[{"name": role, "password": "old"}])
    result = settles(postgres, users=[{"name": role, "password": "new"}])
    assert result["statements"] == [f"ALTER ROLE \"{role}\" WITH PASSWORD '********'"]
    assert postgres.query("SELECT 1", user=role, password="new") == [(1,)]
    with pytest.raises(Exception, match="password authentication failed"):
        postgres.query("SELECT 1", user=role, password="old")
    kept = access(postgres, users=[{"name": role, "password": "newest", "update_password": "on_create"}])
    assert kept["changed"] is False


def test_a_ready_made_verifier_is_taken_as_it_is(postgres, role):
    settles(postgres, users=[{"name": role, "password": "pw"}])
    verifier = postgres.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role,))[0][0]
    postgres.query(f"ALTER ROLE {role} PASSWORD NULL")
    settles(postgres, users=[{"name": role, "password": verifier}])
    assert postgres.query("SELECT 1", user=role, password="pw") == [(1,)]


def test_md5_is_replaced_once_the_server_asks_for_scram(postgres, role):
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SET password_encryption = 'md5'; CREATE ROLE {role} LOGIN PASSWORD 'pw'")
    result = settles(postgres, users=[{"name": role, "password": "pw"}])
    assert result["changed"]
    stored = postgres.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role,))[0][0]
    assert stored.startswith("SCRAM-SHA-256$")


def test_password_encryption_is_honoured(postgres, role):
    postgres.query("ALTER ROLE postgres SET password_encryption = 'md5'")
    try:
        settles(postgres, users=[{"name": role, "password": "pw"}])
    finally:
        postgres.query("ALTER ROLE postgres RESET password_encryption")
    stored = postgres.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role,))[0][0]
    assert stored.startswith("md5")


def test_the_server_never_sees_the_password(postgres, role):
    postgres.query("ALTER ROLE postgres SET log_statement = 'all'")
    try:
        access(postgres, users=[{"name": role, "password": "very secret words"}])
    finally:
        postgres.query("ALTER ROLE postgres RESET log_statement")
    log = postgres.log.read_text()
    assert f'CREATE ROLE "{role}"' in log
    assert "very secret words" not in log


def test_secrets_are_masked_everywhere(postgres, role):
    users = [{"name": role, "password": "very secret words"}]
    for result in (access(postgres, check=True, users=users), access(postgres, users=users)):
        text = json.dumps(result)
        assert "very secret words" not in text and "SCRAM-SHA-256$" not in text
        assert postgres.password not in text
        assert "PASSWORD '********'" in json.dumps(result["diff"])


def test_an_admin_who_cannot_read_passwords_tries_them(postgres, role):
    postgres.query(f"CREATE ROLE {role}_admin LOGIN CREATEROLE PASSWORD 'admin password'")
    login = postgres.login(login_user=f"{role}_admin", login_password="admin password")
    users = [{"name": role, "password": "pw"}]
    assert access(postgres, login=login, users=users)["changed"]
    assert access(postgres, login=login, users=users)["changed"] is False
    result = access(postgres, login=login, users=[{"name": role, "password": "other"}])
    assert result["statements"] == [f"ALTER ROLE \"{role}\" WITH PASSWORD '********'"]
    assert access(postgres, login=login, users=[{"name": role, "password": "other", "login": False}])["changed"]
    assert access(postgres, login=login, users=[{"name": role, "password": "other"}])["changed"] is False


def test_an_admin_who_cannot_tell_says_so(postgres, role):
    """The socket trusts everybody: a login there proves nothing."""
    postgres.query(f"CREATE ROLE {role}_admin LOGIN CREATEROLE")
    login = postgres.login(login_user=f"{role}_admin", login_password=None, login_unix_socket=str(postgres.directory))
    users = [{"name": role, "password": "pw"}]
    access(postgres, login=login, users=users)
    result = access(postgres, login=login, users=users)
    assert result["changed"]
    assert "update_password: on_create" in str(result["warnings"])
    assert access(postgres, login=login, users=[{**users[0], "update_password": "on_create"}])["changed"] is False


@pytest.mark.parametrize("user", [
    {"password": "pw", "valid_until": "2001-01-01"},  # an expired password is refused like a wrong one
    {"password": "md5" + "0" * 32},  # nobody can log in with a verifier
])
def test_an_admin_who_cannot_tell_from_a_refused_login_says_so(postgres, role, user):
    postgres.query(f"CREATE ROLE {role}_admin LOGIN CREATEROLE PASSWORD 'admin password'")
    login = postgres.login(login_user=f"{role}_admin", login_password="admin password")
    users = [{"name": role, **user}]
    access(postgres, login=login, users=users)
    assert "update_password: on_create" in str(access(postgres, login=login, users=users).get("warnings"))


def test_an_admin_rotates_its_own_password_and_goes_on(postgres, role):
    postgres.query(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'old'")
    access(
        postgres, login=postgres.login(login_user=role, login_password="old"),
        users=[{"name": role, "password": "new"}], databases=[{"name": f"{role}_db"}],
        grants=[{"roles": role, "database": f"{role}_db", "type": "schema", "schemas": "public", "privileges": "ALL"}],
    )
    assert postgres.query("SELECT 1", user=role, password="new", database=f"{role}_db") == [(1,)]


def test_an_admin_rotates_its_own_password_and_goes_on_in_a_database_that_is_there(postgres, role, postgres_database):
    postgres.query(f"CREATE ROLE {role}_admin LOGIN SUPERUSER PASSWORD 'old'; CREATE ROLE {role}_gone")
    postgres.query(f"GRANT CREATE ON SCHEMA public TO {role}_gone", database=postgres_database)
    access(
        postgres, login=postgres.login(login_user=f"{role}_admin", login_password="old"),
        users=[{"name": f"{role}_admin", "password": "new"}, {"name": f"{role}_gone", "state": "absent"}],
    )
    assert postgres.query("SELECT count(*) FROM pg_roles WHERE rolname = %s", (f"{role}_gone",)) == [(0,)]


def test_an_admin_whose_own_password_is_declared_as_a_verifier_goes_on(postgres, role):
    postgres.query(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'pw'")
    verifier = postgres.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role,))[0][0]
    access(
        postgres, login=postgres.login(login_user=role, login_password="pw"),
        users=[{"name": role, "password": verifier}], databases=[{"name": f"{role}_db", "owner": role}],
        grants=[{"roles": role, "database": f"{role}_db", "type": "schema", "schemas": "public", "privileges": "ALL"}],
    )


def test_a_membership_is_turned_round(postgres, role):
    postgres.query(f"CREATE ROLE {role}_a; CREATE ROLE {role}_b IN ROLE {role}_a")
    settles(postgres, users=[
        {"name": f"{role}_a", "member_of": [f"{role}_b"]}, {"name": f"{role}_b", "not_member_of": [f"{role}_a"]},
    ])


def test_an_admin_without_superuser_makes_a_database_for_the_user_it_creates(postgres, role):
    """As on a managed PostgreSQL; since 16, the creator of a role is no member who could use it."""
    postgres.query(f"CREATE ROLE {role}_admin LOGIN CREATEROLE CREATEDB PASSWORD 'admin password'")
    login = postgres.login(login_user=f"{role}_admin", login_password="admin password")
    declared = {
        "users": [{"name": f"{role}_app"}, {"name": f"{role}_admin", "member_of": [f"{role}_app"]}],
        "databases": [{"name": f"{role}_db", "owner": f"{role}_app"}],
    }
    access(postgres, login=login, users=declared["users"][:1])
    assert access(postgres, login=login, **declared)["databases"] == [f"{role}_db"]
    assert access(postgres, login=login, **declared)["changed"] is False


def test_memberships(postgres, role):
    users = [{"name": f"{role}_a", "member_of": [f"{role}_group"]}, {"name": f"{role}_group", "login": False}]
    settles(postgres, users=users)
    assert postgres.query("SELECT pg_has_role(%s, %s, 'usage')", (f"{role}_a", f"{role}_group")) == [(True,)]
    assert access(postgres, users=[{"name": f"{role}_a", "member_of": []}])["changed"] is False
    settles(postgres, users=[{"name": f"{role}_a", "not_member_of": [f"{role}_group"]}])
    assert postgres.query("SELECT pg_has_role(%s, %s, 'usage')", (f"{role}_a", f"{role}_group")) == [(False,)]


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_odd_names(postgres, role, odd):
    name = f"{role} {odd}"
    result = settles(
        postgres, users=[{"name": name, "password": "pw"}], databases=[{"name": name, "owner": name}],
        grants=[
            {"roles": [name], "database": name, "type": ["database", "schema", "tables", "future_tables"],
             "schemas": ["public"], "for_roles": [name], "privileges": ["ALL"]},
        ],
    )
    assert result["databases"] == [name]
    assert postgres.query("SELECT current_database()", database=name, user=name, password="pw") == [(name,)]
    settles(postgres, databases=[{"name": name, "state": "absent", "drop_data": True}],
            users=[{"name": name, "state": "absent"}])


def test_a_database_gets_its_owner_and_its_limit(postgres, role):
    users = [{"name": f"{role}_a"}, {"name": f"{role}_b"}]
    database = {"name": role, "owner": f"{role}_a", "encoding": "utf-8", "lc_collate": "C", "lc_ctype": "C"}
    result = settles(postgres, users=users, databases=[{**database, "connection_limit": 9}])
    assert result["statements"][-1] == (
        f'CREATE DATABASE "{role}" WITH OWNER = "{role}_a" TEMPLATE = "template0" ENCODING = \'utf-8\''
        " LC_COLLATE = 'C' LC_CTYPE = 'C' CONNECTION LIMIT = 9"
    )
    result = settles(postgres, databases=[{"name": role, "owner": f"{role}_b", "connection_limit": -1}])
    assert result["databases"] == [role]
    assert len(result["statements"]) == 2
    with pytest.raises(ModuleFailed, match=r"databases\[0\]\.encoding: .* has UTF8, which cannot be changed to LATIN1"):
        access(postgres, databases=[{"name": role, "encoding": "LATIN1"}])


def test_an_encoding_has_all_the_names_that_the_server_knows(postgres, role):
    database = {"name": f"{role}_db", "encoding": "iso-8859-1", "lc_collate": "C", "lc_ctype": "C"}
    settles(postgres, users=[{"name": role}], databases=[{**database, "owner": role}])


def test_a_database_with_grants_of_its_own_is_a_template(postgres, role, postgres_database):
    settles(
        postgres, users=[{"name": role}],
        databases=[{"name": f"{role}_db", "owner": role, "template": postgres_database}],
        grants=[
            {"roles": role, "database": postgres_database, "type": "schema", "schemas": "public", "privileges": "ALL"},
        ],
    )


def test_the_new_owner_needs_no_grant(postgres, role):
    postgres.query(f"CREATE ROLE {role}_a")
    postgres.query(f"CREATE DATABASE {role}_db")
    result = settles(
        postgres, databases=[{"name": f"{role}_db", "owner": f"{role}_a"}],
        grants=[{"roles": f"{role}_a", "database": f"{role}_db", "type": "database", "privileges": "ALL"}],
    )
    assert result["statements"] == [f'ALTER DATABASE "{role}_db" OWNER TO "{role}_a"']


def test_check_mode_runs_nothing_and_says_the_same(postgres, role):
    declared = {
        "users": [{"name": role, "password": "pw"}], "databases": [{"name": f"{role}_db", "owner": role}],
        "grants": [
            {"roles": role, "database": f"{role}_db", "type": ["schema", "tables"], "schemas": "public",
             "privileges": "ALL"},
            {"roles": "PUBLIC", "database": f"{role}_db", "type": "schema", "schemas": "public", "privileges": "ALL",
             "state": "absent"},
            {"roles": "PUBLIC", "database": f"{role}_db", "type": "database", "privileges": "ALL", "state": "absent"},
        ],
    }
    plan = access(postgres, check=True, **declared)
    assert plan["changed"] and access(postgres, check=True, **declared) == plan
    assert postgres.query("SELECT count(*) FROM pg_roles WHERE rolname = %s", (role,)) == [(0,)]
    done = settles(postgres, **declared)
    assert [plan[key] for key in ("statements", "users", "databases", "grants", "diff")] == [
        done[key] for key in ("statements", "users", "databases", "grants", "diff")
    ]
    assert access(postgres, check=True, **declared)["changed"] is False


@pytest.mark.parametrize("task", yaml.safe_load(EXAMPLES), ids=lambda task: task["name"])
def test_the_examples_of_the_documentation(postgres, task):
    arguments = task["frameworks.database.postgres_access"]
    declared = {kind: arguments[kind] for kind in ("users", "databases", "grants") if kind in arguments}
    result = access(postgres, check=True, **declared)
    assert result["changed"] is (task["name"] != "Take a user away, and give what it owns to another one")


def test_check_mode_takes_missing_things_for_work_of_earlier_tasks(postgres, role, postgres_database):
    result = access(postgres, check=True, grants=[
        {"roles": role, "database": postgres_database, "type": "tables", "schemas": "later", "objects": ["t"],
         "privileges": "SELECT"},
        {"roles": role, "database": f"{role}_later", "type": "database", "privileges": "CONNECT"},
    ])
    warnings = str(result["warnings"])
    for word in (f"no user {role!r}", "no schema 'later'", f"no database '{role}_later'"):
        assert word in warnings, word


def test_the_diff_reads_well(postgres, role):
    settles(postgres, users=[{"name": role, "createdb": True}])
    state, script = access(
        postgres, check=True, users=[{"name": role, "createdb": False, "password": "pw"}],
        databases=[{"name": f"{role}_x"}],
    )["diff"]
    assert state["before"] == f"user {role}: CREATEDB, another PASSWORD\ndatabase {role}_x: absent\n"
    assert state["after"] == f"user {role}: NOCREATEDB, PASSWORD '********'\ndatabase {role}_x: present\n"
    assert script["prepared"] == (
        "-- in the database postgres\n"
        f"ALTER ROLE \"{role}\" WITH NOCREATEDB PASSWORD '********';\nCREATE DATABASE \"{role}_x\";\n"
    )


def test_a_database_is_only_dropped_with_its_second_option(postgres, role):
    settles(postgres, users=[{"name": role}], databases=[{"name": f"{role}_db", "owner": role}])
    gone = {"name": f"{role}_db", "state": "absent"}
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=r"databases\[0\].*add drop_data: true"):
            access(postgres, check=check, users=[{"name": f"{role}_new"}], databases=[gone])
    assert postgres.query("SELECT count(*) FROM pg_roles WHERE rolname = %s", (f"{role}_new",)) == [(0,)]
    result = settles(postgres, databases=[{**gone, "drop_data": True}], users=[{"name": role, "state": "absent"}])
    assert (result["databases"], result["users"]) == ([f"{role}_db"], [role])


def test_a_dropped_user_leaves_what_it_owns_to_another(postgres, role, postgres_database):
    settles(
        postgres, users=[{"name": role, "password": "pw"}],
        grants=[
            {"roles": role, "database": postgres_database, "type": "schema", "schemas": "public", "privileges": "ALL"},
            {"roles": role, "database": postgres_database, "type": "future_tables", "for_roles": ["postgres", role],
             "schemas": "public", "privileges": "ALL"},
            {"roles": role, "database": postgres_database, "type": "database", "privileges": "CREATE"},
        ],
    )
    postgres.query("CREATE TABLE kept AS SELECT 1 AS n", database=postgres_database, user=role, password="pw")
    gone = {"name": role, "state": "absent"}
    with pytest.raises(ModuleFailed, match=rf"users\[0\].*owns objects in {postgres_database}.*reassign_owned_to"):
        access(postgres, users=[gone])
    settles(postgres, users=[{**gone, "reassign_owned_to": "postgres"}])
    assert postgres.query("SELECT n FROM kept", database=postgres_database) == [(1,)]


def test_a_user_who_owns_a_database_is_told_which(postgres, role):
    settles(postgres, users=[{"name": role}], databases=[{"name": f"{role}_db", "owner": role}])
    with pytest.raises(ModuleFailed, match=rf"users\[0\]: '{role}' owns the database '{role}_db'; name the new owner"):
        access(postgres, users=[{"name": role, "state": "absent"}])


def test_a_user_with_privileges_only_is_dropped(postgres, role, postgres_database):
    grant = {"roles": role, "database": postgres_database, "schemas": "public", "privileges": "ALL"}
    settles(postgres, users=[{"name": role}], grants=[
        {**grant, "type": ["schema", "tables"]}, {**grant, "type": "future_tables", "for_roles": [role]},
    ])
    settles(postgres, users=[{"name": role, "state": "absent"}])
    assert postgres.query("SELECT count(*) FROM pg_roles WHERE rolname = %s", (role,)) == [(0,)]


def test_a_user_whose_database_goes_to_another_is_dropped(postgres, role):
    settles(postgres, users=[{"name": role}], databases=[{"name": f"{role}_db", "owner": role}])
    settles(
        postgres, users=[{"name": role, "state": "absent"}, {"name": f"{role}_heir"}],
        databases=[{"name": f"{role}_db", "owner": f"{role}_heir"}],
    )
