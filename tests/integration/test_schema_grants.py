"""Grants of the collection's own between two runs are no drift; grants that somebody else gives are."""

import pytest
from support.modules import run_module
from support.playbooks import HOST, ROOT, run_playbook
from support.scripts import ScriptSet


@pytest.fixture
def roles(postgres, postgres_database, unique):
    """Names of roles, the last with a name that needs quotes; dropped afterwards."""
    names = [f"{unique}_owner", f"{unique}_reader", f"{unique} =\"/x"]
    for name in names:
        postgres.query('CREATE ROLE "{}"'.format(name.replace('"', '""')))
    postgres.query(f"ALTER DATABASE {postgres_database} OWNER TO {names[0]}")
    yield names
    postgres.query(f"DROP DATABASE {postgres_database} WITH (FORCE)")
    for name in names:
        postgres.query('DROP ROLE IF EXISTS "{}"'.format(name.replace('"', '""')))


@pytest.fixture
def made(postgres, postgres_database, tmp_path, roles):
    """A loaded set with one object of each kind that there are grants on."""
    made = ScriptSet(
        tmp_path / "set", engine="postgresql", database=postgres_database, owner=roles[0], **postgres.login()
    ).write(
        V1__a='CREATE SCHEMA s; CREATE TABLE s.a (id serial, t text); CREATE VIEW s."V w" AS SELECT 1 AS n;'
              "CREATE FUNCTION s.f(a int, b text) RETURNS int LANGUAGE sql AS 'SELECT 1';"
              "CREATE FUNCTION s.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE s.b (id int);"
    )
    made.apply()
    return made


@pytest.fixture
def grant(postgres, postgres_database, roles, made):
    """Run postgres_access with grants to the last two roles, and let the set know them; the module's result."""

    def run(*grants):
        declared = [{"roles": roles[1:], "database": postgres_database, **one} for one in grants]
        made.options["declared_grants"] = declared
        return run_module("postgres_access", {**postgres.login(), "grants": declared})

    return run


EVERYTHING = [
    {"type": "database", "privileges": ["CONNECT", "TEMP"]},
    {"type": "schema", "schemas": "s", "privileges": "usage"},
    {"type": "tables", "schemas": ["s"], "privileges": "SELECT,INSERT", "grant_option": True},
    {"type": "sequences", "schemas": "s", "privileges": "ALL"},
    {"type": "functions", "schemas": "s", "objects": ["f(integer, text)"], "privileges": "EXECUTE"},
]


@pytest.mark.parametrize("where", [{}, {"schemas": ["s"]}], ids=["any schema", "one schema"])
def test_what_the_collection_grants_and_takes_is_no_drift(made, grant, roles, where):
    types = ["future_tables", "future_sequences", "future_functions"]
    given = [*EVERYTHING, {"type": types, "for_roles": roles[0], "privileges": "ALL", **where}]
    taken = [{**one, "grant_option": None, "state": "absent"} for one in given]
    assert grant(*given)["changed"]
    assert not made.apply()["changed"]  # nothing is pending, so nothing is looked at
    made.apply(state="verified")
    grant(*taken)
    made.apply(state="verified")
    grant(*given)
    made.write(V2__b="SELECT 1")
    assert made.apply()["drift"] == []
    made.apply(state="verified", declared_grants=[])  # the run has recorded them
    grant(*taken)
    made.apply(state="verified")


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("GRANT UPDATE ON s.a TO {reader}", "w"),  # another privilege than the declared one
        ("GRANT SELECT ON s.a TO PUBLIC", "+=r/"),
        ("GRANT SELECT (t) ON s.a TO {reader}", "column s.a.t"),
        ("GRANT EXECUTE ON FUNCTION s.f() TO {reader}", "function s.f()"),  # the other one is declared
        ("REVOKE SELECT ON s.a FROM {reader}", "-{reader}=r"),  # it was recorded
        ("REVOKE INSERT ON s.b FROM {owner}", "table s.b"),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA s GRANT SELECT ON TABLES TO {reader}", "default tables"),
        ("REVOKE EXECUTE ON FUNCTION s.f() FROM PUBLIC", "function s.f()"),
    ],
)
def test_grants_by_hand_are_named_beside_declared_ones(made, grant, query, roles, statement, names):
    grant(*EVERYTHING[:2], {"type": "tables", "schemas": "s", "objects": "a", "privileges": "SELECT"}, EVERYTHING[4])
    made.write(V2__b="SELECT 1").apply()
    made.apply(state="verified")
    fill = {"owner": roles[0], "reader": roles[1]}
    query(statement.format(**fill))
    said = made.refused(state="verified")
    assert names.format(**fill) in said and "by hand" not in said
    made.write(V3__c="SELECT 1")
    assert made.apply()["drift"] and names.format(**fill) in made.refused(state="verified")
    made.apply(accept_drift=True)
    made.apply(state="verified")


def test_of_an_object_with_both_only_what_was_done_by_hand_is_shown(made, grant, query, roles):
    grant(*EVERYTHING)
    query(f"GRANT DELETE ON s.a TO {roles[1]}")
    lines = [line.strip() for line in made.refused(state="verified").splitlines() if line.strip()[:1] in "+-"]
    assert lines == [f"-{roles[1]}=a*r*/{roles[0]}", f"+{roles[1]}=a*r*d/{roles[0]}"]


def test_the_grants_of_a_dropped_role_go_with_it(made, grant, query, roles, postgres):
    grant(*EVERYTHING)
    made.write(V2__b="SELECT 1").apply()
    run_module("postgres_access", {**postgres.login(), "users": [{"name": roles[1], "state": "absent"}]})
    made.options["declared_grants"] = []
    made.apply(state="verified")


def test_the_later_declaration_decides_as_for_postgres_access(made, grant, query, roles):
    grant(EVERYTHING[2], {"type": "tables", "schemas": "s", "objects": "a", "privileges": "SELECT", "state": "absent"})
    made.apply(state="verified")
    query(f"GRANT SELECT ON s.a TO {roles[1]}")
    assert f"+{roles[1]}=a*r/{roles[0]}" in made.refused(state="verified")


def test_verify_yml_knows_what_the_inventory_grants(made, query, roles, postgres, postgres_database, tmp_path):
    reading = [
        {"roles": roles[1], "database": "{{ postgres_user_database }}", "schemas": "s", "privileges": "SELECT",
         "type": ["tables", "future_tables"], "for_roles": "{{ postgres_user_object_creators }}"},
    ]
    variables = {
        **HOST, "postgres_user_database": postgres_database, "postgres_user_name": roles[0],
        "postgres_user_users": [{"name": roles[0]}, {"name": roles[1]}], "postgres_user_grants": reading,
        "postgres_user_ssl_mode": "disable", "postgres_user_password": "-", "postgres_user_databases": [],
        **{f"postgres_user_{name}": value for name, value in postgres.login().items()},
        "schema_load_sets": [{
            "name": "default", "engine": "postgresql", "database": postgres_database, "owner": roles[0],
            "path": made.options["path"],
        }],
        **{f"schema_load_postgresql_{name}": value for name, value in postgres.login().items()},
    }
    both = {
        "hosts": "all", "gather_facts": False, "name": "both",
        "roles": ["frameworks.database.postgres_user", "frameworks.database.schema_load"],
    }
    run_playbook(tmp_path, both, variables).ok()
    inventory = tmp_path / "groups.json"
    inventory.write_text('{"postgres": {"hosts": {"test": {}}}, "application": {"hosts": {}}}')
    verify = ROOT / "playbooks/verify.yml"
    run_playbook(tmp_path, verify, variables, "-i", str(inventory)).ok()
    made.write(V2__b="SELECT 1")
    assert "has changed since the last run" not in run_playbook(tmp_path, both, variables).ok().output
    query(f"GRANT DELETE ON s.a TO {roles[1]}")
    run = run_playbook(tmp_path, verify, variables, "-i", str(inventory))
    assert run.code == 2 and "grants on table s.a" in run.output and "s.b" not in run.output
