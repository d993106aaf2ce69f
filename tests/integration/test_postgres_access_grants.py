"""postgres_access against a real PostgreSQL: each kind of grant, told by what the user may do and may not."""

import pytest
from support.modules import ModuleFailed, run_module

PASSWORD = "pass of the user"


class Place:
    """A database of `owner` with a schema `app`, one object of each kind in it, and two users without rights."""

    def __init__(self, server, name):
        self.server, self.database, self.owner = server, name, f"{name}_owner"
        self.reader, self.other = f"{name}_reader", f"{name}_other"
        for role in (self.owner, self.reader, self.other):
            server.query(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        server.query(f"CREATE DATABASE {name} OWNER {self.owner}")
        for statement in (
            "CREATE SCHEMA app", "CREATE TABLE app.t (n int)", "CREATE VIEW app.v AS SELECT * FROM app.t",
            "CREATE SEQUENCE app.s", "CREATE TABLE app.secret (n int)",
            "CREATE FUNCTION app.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION app.f(text, int[]) RETURNS int LANGUAGE sql AS 'SELECT 2'",
            "CREATE PROCEDURE app.p() LANGUAGE sql AS 'SELECT 1'",
            "CREATE AGGREGATE app.agg(int) (sfunc = int4pl, stype = int)",
            "REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA app FROM PUBLIC",
        ):
            self.run(statement)

    def run(self, statement, user=None):
        """Execute as the owner, or as another user."""
        return self.server.query(statement, database=self.database, user=user or self.owner, password=PASSWORD)

    def may(self, statement, user=None):
        """Whether the reader, or another user, is let."""
        import psycopg2

        try:
            self.run(statement, user=user or self.reader)
        except psycopg2.errors.InsufficientPrivilege:
            return False
        except psycopg2.OperationalError as error:
            assert "permission denied for database" in str(error)
            return False
        return True

    def apply(self, *grants, check=False, login=None):
        """Apply grants of this database, by default to the reader; applied again, they change nothing."""
        declared = [{"database": self.database, "roles": self.reader, **grant} for grant in grants]
        arguments = {**(login or self.server.login()), "grants": declared}
        first = run_module("postgres_access", arguments, check=check)
        if not check:
            assert run_module("postgres_access", arguments)["statements"] == []
        return first

    def drop(self):
        self.server.query(f"DROP DATABASE {self.database} WITH (FORCE)")
        for role in (self.owner, self.reader, self.other):
            self.server.query(f"DROP OWNED BY {role}")
            self.server.query(f"DROP ROLE {role}")


@pytest.fixture
def place(postgres, unique):
    made = Place(postgres, unique)
    yield made
    made.drop()


def test_database(place):
    assert not place.may("CREATE SCHEMA x")
    place.apply({"type": "database", "privileges": ["create"]})
    assert place.may("CREATE SCHEMA x")
    place.apply({"type": "database", "privileges": ["ALL PRIVILEGES"], "state": "absent"})
    assert not place.may("CREATE SCHEMA y")


def test_database_from_public(place):
    assert place.may("SELECT 1")
    result = place.apply({"roles": ["PUBLIC"], "type": "database", "privileges": ["ALL"], "state": "absent"})
    assert result["statements"] == [f'REVOKE TEMPORARY, CONNECT ON DATABASE "{place.database}" FROM PUBLIC']
    assert not place.may("SELECT 1")
    place.apply({"roles": ["public"], "type": "database", "privileges": ["TEMP", "CONNECT"]})
    assert place.may("CREATE TEMP TABLE x ()")


def test_schema(place):
    place.apply({"type": "schema", "schemas": ["app", "public"], "privileges": "CREATE"})
    assert place.may("CREATE TABLE app.mine ()") and place.may("CREATE TABLE public.mine ()")
    place.apply({"type": "schema", "schemas": ["app", "public"], "privileges": "CREATE", "state": "absent"})
    assert not place.may("CREATE TABLE app.more ()")


@pytest.fixture
def usage(place):
    """A place whose reader may use the schema."""
    place.run(f"GRANT USAGE ON SCHEMA app TO {place.reader}, {place.other}")
    return place


def test_all_tables_and_views(usage):
    result = usage.apply({"type": "tables", "schemas": "app", "privileges": ["SELECT", "INSERT"]})
    assert result["statements"] == [
        f'GRANT SELECT, INSERT ON TABLE "app"."secret", "app"."t", "app"."v" TO "{usage.reader}"'
    ]
    assert usage.may("SELECT * FROM app.v") and usage.may("INSERT INTO app.t VALUES (1)")
    assert not usage.may("DELETE FROM app.t")
    usage.run("CREATE TABLE app.new ()")
    result = usage.apply({"type": "tables", "schemas": "app", "privileges": ["SELECT", "INSERT"]})
    assert result["statements"] == [f'GRANT SELECT, INSERT ON TABLE "app"."new" TO "{usage.reader}"']


def test_only_the_missing_privilege_is_granted(usage):
    usage.run(f"GRANT SELECT ON app.t TO {usage.reader}")
    result = usage.apply({"type": "tables", "schemas": "app", "objects": ["t"], "privileges": ["SELECT", "INSERT"]})
    assert result["statements"] == [f'GRANT INSERT ON TABLE "app"."t" TO "{usage.reader}"']


def test_all_tables_but_one(usage):
    """Of two grants that speak of the same privilege the later one decides, and it stays so."""
    everything = {"type": "tables", "schemas": "app", "privileges": "SELECT"}
    usage.apply(everything, {**everything, "objects": ["secret"], "state": "absent"})
    assert usage.may("SELECT * FROM app.t") and not usage.may("SELECT * FROM app.secret")


def test_nothing_undeclared_is_revoked(usage):
    usage.run(f"GRANT DELETE ON app.t TO {usage.reader}; GRANT SELECT ON app.t TO {usage.other}")
    usage.apply({"type": "tables", "schemas": "app", "privileges": "SELECT"})
    usage.apply({"type": "tables", "schemas": "app", "privileges": "SELECT", "state": "absent"})
    assert usage.may("DELETE FROM app.t") and usage.may("SELECT * FROM app.t", user=usage.other)


def test_many_roles_and_schemas_in_one_item(place):
    place.run("CREATE TABLE public.u ()")
    both = {"roles": [place.reader, place.other], "schemas": ["app", "public"]}
    place.apply({**both, "type": "schema", "privileges": "USAGE"}, {**both, "type": "tables", "privileges": "SELECT"})
    for user in (place.reader, place.other):
        assert place.may("SELECT FROM app.t, public.u", user=user)


def test_sequences(usage):
    usage.apply({"type": "sequences", "schemas": "app", "privileges": "USAGE"})
    assert usage.may("SELECT nextval('app.s')") and not usage.may("SELECT setval('app.s', 1)")


def test_functions_procedures_and_aggregates(usage):
    usage.apply({"type": "functions", "schemas": "app", "privileges": "EXECUTE"})
    for statement in ("SELECT app.f(1)", "SELECT app.f('', '{}')", "CALL app.p()", "SELECT app.agg(1)"):
        assert usage.may(statement), statement


def test_one_function_of_two_with_the_same_name(usage):
    usage.apply({"type": "functions", "schemas": "app", "objects": ["f(text,  integer[])"], "privileges": "ALL"})
    assert usage.may("SELECT app.f('', '{}')") and not usage.may("SELECT app.f(1)")
    usage.apply({"type": "functions", "schemas": "app", "objects": ["f"], "privileges": "ALL"})
    assert usage.may("SELECT app.f(1)")


@pytest.mark.parametrize("declared, hint", [
    ({"type": "functions", "objects": ["f(text, int[])"]},
     r"routine 'f\(text, int\[\]\)', did you mean 'f\(text, integer\[\]\)'"),
    ({"type": "tables", "objects": ["Secret"]}, "table 'Secret', did you mean 'secret'"),
])
def test_an_object_that_is_not_there_brings_up_its_like(place, declared, hint):
    with pytest.raises(ModuleFailed, match=rf"grants\[0\]\.objects: the schema 'app' has no {hint}"):
        place.apply({"schemas": "app", "privileges": "ALL", **declared})


def test_a_function_of_a_foreign_type(usage):
    usage.run('CREATE TYPE app."my type" AS (n int); CREATE FUNCTION app.g(app."my type") RETURNS int LANGUAGE sql AS '
              "'SELECT 1'; REVOKE EXECUTE ON FUNCTION app.g FROM PUBLIC")
    usage.apply({"type": "functions", "schemas": "app", "objects": ["g"], "privileges": "EXECUTE"})
    assert usage.may("SELECT app.g(NULL)")


@pytest.mark.parametrize("schemas", [{}, {"schemas": "app"}])
def test_future_objects_of_every_role_that_creates_some(usage, schemas):
    usage.run(f"GRANT CREATE ON SCHEMA app TO {usage.other}")
    creators = {"for_roles": [usage.owner, usage.other], **schemas}
    usage.apply(
        {"type": "future_tables", "privileges": "SELECT", **creators},
        {"type": "future_sequences", "privileges": "ALL", **creators},
        {"type": "future_functions", "privileges": "EXECUTE", **creators},
    )
    for number, user in enumerate((usage.owner, usage.other)):
        usage.run(f"CREATE TABLE app.t{number} (); CREATE SEQUENCE app.s{number}", user=user)
        assert usage.may(f"SELECT FROM app.t{number}") and usage.may(f"SELECT nextval('app.s{number}')")
    assert not usage.may("SELECT FROM app.t")
    usage.apply({"type": "future_tables", "privileges": "SELECT", **creators, "state": "absent"})
    usage.run("CREATE TABLE app.later ()")
    assert not usage.may("SELECT FROM app.later")


def test_future_functions_are_taken_from_public(usage):
    public = {"roles": ["PUBLIC"], "type": "future_functions", "for_roles": [usage.owner], "privileges": "EXECUTE",
              "state": "absent"}
    with pytest.raises(ModuleFailed, match=r"grants\[0\].*PUBLIC has it .* leave out schemas"):
        usage.apply({**public, "schemas": "app"})
    usage.apply(public)
    usage.run("CREATE FUNCTION app.g() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    assert not usage.may("SELECT app.g()")


def test_grant_option(usage):
    table = {"type": "tables", "schemas": "app", "objects": ["t"], "privileges": "SELECT"}
    usage.apply({**table, "grant_option": True})
    usage.run(f"GRANT SELECT ON app.t TO {usage.other}", user=usage.reader)
    assert usage.may("SELECT FROM app.t", user=usage.other)
    usage.run(f"REVOKE SELECT ON app.t FROM {usage.other}", user=usage.reader)
    usage.apply(table)  # says nothing about the option
    usage.apply({**table, "grant_option": False})
    assert usage.may("SELECT FROM app.t")
    usage.run(f"GRANT SELECT ON app.t TO {usage.other}", user=usage.reader)  # no more than a warning
    assert not usage.may("SELECT FROM app.t", user=usage.other)


def test_the_owner_lacks_nothing(usage):
    result = usage.apply({
        "roles": [usage.owner], "type": ["tables", "sequences"], "schemas": "app", "privileges": "ALL",
        "grant_option": True,
    })
    assert result["changed"] is False


def test_privileges_that_another_role_has_granted_are_revoked(usage):
    usage.run(f"GRANT SELECT ON app.t TO {usage.other} WITH GRANT OPTION")
    usage.run(f"GRANT SELECT ON app.t TO {usage.reader}", user=usage.other)
    usage.apply({"type": "tables", "schemas": "app", "objects": ["t"], "privileges": "SELECT", "state": "absent"})
    assert not usage.may("SELECT FROM app.t")


def test_privileges_go_from_one_and_from_those_whom_it_has_passed_them_on_to(usage):
    usage.run(f"GRANT SELECT ON app.t TO {usage.reader} WITH GRANT OPTION")
    usage.run(f"GRANT SELECT ON app.t TO {usage.other}", user=usage.reader)
    usage.apply({"roles": [usage.reader, usage.other], "type": "tables", "schemas": "app", "objects": ["t"],
                 "privileges": "SELECT", "state": "absent"})
    assert not usage.may("SELECT FROM app.t") and not usage.may("SELECT FROM app.t", user=usage.other)


def test_revoking_from_one_who_has_passed_it_on_says_what_is_in_the_way(usage):
    usage.run(f"GRANT SELECT ON app.t TO {usage.reader} WITH GRANT OPTION")
    usage.run(f"GRANT SELECT ON app.t TO {usage.other}", user=usage.reader)
    with pytest.raises(ModuleFailed, match=r"grants\[0\]: dependent privileges exist"):
        usage.apply({"type": "tables", "schemas": "app", "objects": ["t"], "privileges": "SELECT", "state": "absent"})
    assert usage.may("SELECT FROM app.t", user=usage.other)


def test_revoking_what_is_not_there_is_no_error(place):
    grants = [
        {"type": "tables", "schemas": "nowhere", "objects": ["t"], "privileges": "ALL", "state": "absent"},
        {"roles": ["nobody_at_all"], "type": "database", "privileges": "CREATE", "state": "absent"},
        {"database": "no_such_database", "type": "database", "privileges": "ALL", "state": "absent"},
        {"database": "no_such_database", "type": "schema", "schemas": "x", "privileges": "ALL", "state": "absent"},
        {"database": "nor_this_one", "roles": "PUBLIC", "type": ["database", "schema"], "schemas": "public",
         "privileges": "ALL", "state": "absent"},
    ]
    for check in (True, False):
        assert place.apply(*grants, check=check)["changed"] is False


def test_a_grant_without_effect_is_an_error(place):
    """An admin who may not pass a privilege on gets no more than a warning from the server."""
    place.run(f"GRANT SELECT ON app.t TO {place.other}; GRANT USAGE ON SCHEMA app TO {place.other}")
    with pytest.raises(ModuleFailed, match=r"grants\[0\]: accepted without effect; .*_other may not do that"):
        place.apply(
            {"type": "tables", "schemas": "app", "objects": ["t"], "privileges": "SELECT"},
            login=place.server.login(login_user=place.other, login_password=PASSWORD),
        )


def test_the_source_documents_grants(postgres, unique):
    """What the superuser and what the owner create is open to the user, now and later; the second run is quiet."""
    user, database = f"{unique}_user", unique
    grant = {"roles": user, "database": database, "privileges": "ALL"}
    arguments = {
        **postgres.login(), "users": [{"name": user, "password": "pw", "createdb": True}],
        "databases": [{"name": database, "owner": user}],
        "grants": [
            {**grant, "type": "database"},
            {**grant, "type": ["schema", "tables", "sequences"], "schemas": "public"},
            {**grant, "type": ["future_tables", "future_sequences"], "schemas": "public",
             "for_roles": ["postgres", user]},
        ],
    }
    try:
        assert run_module("postgres_access", arguments)["changed"]
        assert run_module("postgres_access", arguments)["changed"] is False
        postgres.query("CREATE TABLE by_admin (id serial, n int)", database=database)
        as_user = {"database": database, "user": user, "password": "pw"}
        postgres.query("INSERT INTO by_admin (n) VALUES (1)", **as_user)
        postgres.query("CREATE TABLE mine (n int)", **as_user)
        postgres.query(f"CREATE DATABASE {unique}_more", **as_user)
        assert run_module("postgres_access", arguments)["changed"] is False
    finally:
        run_module("postgres_access", {
            **postgres.login(), "users": [{"name": user, "state": "absent"}],
            "databases": [
                {"name": name, "state": "absent", "drop_data": True} for name in (database, f"{unique}_more")
            ],
        })
