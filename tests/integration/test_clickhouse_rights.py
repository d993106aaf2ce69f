"""The model of rights against the real server: the same GRANTs and REVOKEs, the same rights, and plans that arrive."""

import random

import pytest
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import Client
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_rights import (
    Item,
    Privileges,
    Refused,
    Rights,
    plan_rights,
    rights_of,
)
from support.clickhouse import ClickHouseServer, user_xml

SOME = ["SELECT", "INSERT", "ALTER UPDATE", "ALTER COLUMN", "SHOW COLUMNS"]  # of columns too
MORE = ["ALTER", "ALTER TABLE", "CREATE", "CREATE TABLE", "DROP", "SHOW", "TRUNCATE", "dictGet", "BACKUP", "ALL"]
PLACES = [
    {"database": "*"}, {"database": "d"}, {"database": "d", "table": "t"}, {"database": "d", "table": "odd `u`"},
    {"database": "e"}, {"database": "d", "table": "t", "columns": ["a"]},
    {"database": "d", "table": "t", "columns": ["a", "b c"]},
]
NUMBER = 150


def entry(chance):
    """A declared grant or revoke."""
    place = chance.choice(PLACES)
    pool = SOME if "columns" in place else SOME + MORE
    return {**place, "privileges": chance.sample(pool, chance.randint(1, 2)), "grant_option": chance.random() < 0.25}


def is_possible(declared, privileges):
    """Whether ClickHouse knows such a grant."""
    try:
        Item(declared, "", privileges)
    except Refused:
        return False
    return True


@pytest.fixture(scope="module")
def privileges(clickhouse):
    return Privileges(Client(clickhouse.login()).rows("SELECT * FROM system.privileges"))


def sql(verb, rights, level=1):
    """A statement of <grants>."""
    return f"{verb} {rights}" + (" WITH GRANT OPTION" if verb == "GRANT" and level == 2 else "")


def on_server(histories):
    """{user: Rights} after the statements of each of `histories`, {user: list of statements}, as the server has it."""
    users = [user_xml(name, "x", grants=statements) for name, statements in histories.items()]
    server = ClickHouseServer(users=users)
    try:
        rows = Client(server.start().login()).rows("SELECT * FROM system.grants")
        known = Privileges(Client(server.login()).rows("SELECT * FROM system.privileges"))
    finally:
        server.close()
    found = rights_of(rows, known)
    return {name: found.get(("user", name), Rights()) for name in histories}


def on_databases(rights, privileges):
    """Without what GRANT ALL ON d.* gives besides, on users and such that are called d."""
    kept = Rights()
    kept.levels = {name: paths for name, paths in rights.levels.items() if privileges.depth(name) is not None}
    return kept


def history(chance, privileges):
    """Some GRANTs and REVOKEs: (statements, the Rights that they come to)."""
    statements, rights = [], Rights()
    for _step in range(chance.randint(1, 6)):
        declared = entry(chance)
        if not is_possible(declared, privileges):
            continue
        item = Item(declared, "", privileges)
        verb = chance.choice(["GRANT", "GRANT", "REVOKE", "REVOKE GRANT OPTION FOR"])
        statements.append(sql(verb, item.sql(item.names), item.level))
        for part, path in item.effects():
            if verb == "GRANT":
                rights.grant(part, path, item.level)
            elif verb == "REVOKE":
                rights.revoke(part, path)
            else:
                rights.revoke_option(part, path)
    return statements or ["REVOKE ALL ON *.*"], rights


def test_the_model_is_what_the_server_does(privileges):
    chance = random.Random(7)
    expected = {f"u{number}": history(chance, privileges) for number in range(NUMBER)}
    found = on_server({name: statements for name, (statements, _rights) in expected.items()})
    for name, (statements, rights) in expected.items():
        assert on_databases(found[name], privileges) == on_databases(rights, privileges), statements


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_plan_arrives_and_then_there_is_nothing_to_do(privileges, exclusive):
    chance = random.Random(11 + exclusive)
    before, declared = {}, {}
    for number in range(NUMBER):
        before[f"u{number}"] = history(chance, privileges)[0]
        lists = [[entry(chance) for _each in range(chance.randint(0, limit))] for limit in (4, 2)]
        declared[f"u{number}"] = [
            [Item(one, "", privileges) for one in entries if is_possible(one, privileges)] for entries in lists
        ]
    actual = on_server(before)
    plans = {name: plan_rights(actual[name], *declared[name], privileges, exclusive) for name in before}
    assert sum(map(len, plans.values())) > NUMBER
    after = on_server({name: before[name] + [sql(*step) for step in plans[name]] for name in before})
    for name in before:
        again = plan_rights(after[name], *declared[name], privileges, exclusive)
        assert again == [], (before[name], plans[name])
        for grant in declared[name][0]:
            revoked = {part for entry in declared[name][1] for part, _path in entry.effects()}
            for part, path in grant.effects():
                assert part in revoked or after[name].level(part, path) >= grant.level


def test_all_once_granted_is_no_change(privileges):
    for place in ({"database": "*"}, {"database": "d"}, {"database": "d", "table": "t"}):
        item = Item({"privileges": ["ALL"], **place}, "", privileges)
        rights = on_server({"u": [sql("GRANT", item.sql(["ALL"]))]})["u"]
        for exclusive in (False, True):
            assert plan_rights(rights, [item], [], privileges, exclusive) == [], (place, exclusive)


EVERYTHING = {"privileges": ["ALL"], "database": "*"}


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize(("by_hand", "grants", "revokes"), [
    # Revoked on a database, it is on users and collections of that name too.
    ([], [EVERYTHING], [{"privileges": ["ALL"], "database": "e"}]),
    ([], [EVERYTHING], [{"privileges": ["ACCESS MANAGEMENT"], "database": "e"}]),
    # Current servers keep READ and WRITE for these.
    ([], [{"privileges": ["S3", "SELECT"], "database": "*"}], []),
    ([], [{"privileges": ["SOURCES"], "database": "*", "grant_option": True}], [
        {"privileges": ["URL"], "database": "*"}]),
    ([], [EVERYTHING], [{"privileges": ["SOURCES"], "database": "*"}]),
    # Without one of its parts, the right of which they are parts is not shown.
    ([], [EVERYTHING], [{"privileges": ["SHOW NAMED COLLECTIONS SECRETS"], "database": "*"}]),
    # Wildcards, which nobody can declare.
    (["GRANT ALL ON d*.*", "REVOKE INSERT ON de*.*"], [{"privileges": ["SELECT"], "database": "dee"}], []),
    (["GRANT ALL ON d.t*"], [{"privileges": ["SELECT"], "database": "d", "table": "tt"}], []),
    (["GRANT ALL ON *.*"], [{"privileges": ["S3", "SELECT"], "database": "*"}], []),
    (["GRANT ALL ON *.*", "REVOKE URL ON *.*"], [{"privileges": ["INSERT"], "database": "e"}], []),
])
def test_what_the_server_stores_in_another_way_is_no_change_either(privileges, by_hand, grants, revokes, exclusive):
    lists = [[Item(one, "", privileges) for one in entries] for entries in (grants, revokes)]
    before = by_hand or ["REVOKE ALL ON *.*"]
    steps = plan_rights(on_server({"u": before})["u"], *lists, privileges, exclusive)
    after = on_server({"u": before + [sql(*step) for step in steps]})["u"]
    assert plan_rights(after, *lists, privileges, exclusive) == [], steps


def test_what_is_implied_is_no_change_and_what_is_not_is_one_statement(privileges):
    def plan(rights, *declared, **options):
        return plan_rights(rights, [Item(one, "", privileges) for one in declared], [], privileges, **options)

    rights = on_server({"u": ["GRANT ALTER, SELECT ON *.*", "REVOKE SELECT ON d.secret"]})["u"]
    implied = {"privileges": ["ADD COLUMN", "alter  table", "UPDATE"], "database": "d", "table": "t"}
    assert plan(rights, implied) == []
    assert plan(rights, {"privileges": ["SELECT"], "database": "d", "table": "t", "columns": ["a"]}) == []
    assert plan(rights, {"privileges": ["SELECT", "ALTER"], "database": "d"}) == [("GRANT", "SELECT ON `d`.*", 1)]
    assert plan(rights, {"privileges": ["SELECT", "INSERT"], "database": "e"}) == [("GRANT", "INSERT ON `e`.*", 1)]
    assert plan(rights, {"privileges": ["SELECT"], "database": "e", "grant_option": True}) == [
        ("GRANT", "SELECT ON `e`.*", 2)]
    assert plan(rights, implied, exclusive=True) == [
        ("REVOKE", "ALTER, SELECT ON *.*", 0), ("GRANT", "ALTER TABLE ON `d`.`t`", 1)]


@pytest.mark.parametrize(("declared", "message"), [
    ({"privileges": ["SELCT"], "database": "d"}, "no privilege 'SELCT', did you mean 'SELECT'"),
    ({"privileges": ["SELECT"]}, "say what the privileges are for"),
    ({"privileges": [], "database": "d"}, "the list is empty"),
    ({"privileges": ["SELECT"], "database": "*", "table": "t"}, "need the name of a database"),
    ({"privileges": ["SELECT"], "database": "d", "columns": ["a"]}, "columns need the name of a table"),
    ({"privileges": ["DROP TABLE"], "database": "d", "table": "t", "columns": ["a"]}, "DROP TABLE cannot be"),
    ({"privileges": ["SELECT"], "database": "d*"}, r"grants\[1\].database: 'd\*' would be one of just this name"),
    ({"privileges": ["SELECT"], "database": "d", "table": "t*"}, r"grants\[1\].table: 't\*' would be one of just this"),
    ({"privileges": ["SYSTEM SHUTDOWN"], "database": "d"}, r"SYSTEM SHUTDOWN cannot be granted on `d`\.\*"),
    ({"privileges": ["SELECT"], "object": "x", "database": "d"}, "exclude each other"),
    # To the server these are tables of the database that the login begins in.
    ({"privileges": ["SELECT"], "object": "*"}, r"SELECT cannot be granted on the object \*"),
    ({"privileges": ["SET DEFINER", "ALL"], "object": "x"}, "ALL cannot be granted on the object `x`"),
    # An empty variable must not turn a right on some of it into one on all of it.
    ({"privileges": ["SELECT"], "database": "d", "table": ""}, r"grants\[1\].table: is empty"),
    ({"privileges": ["SELECT"], "database": "d", "table": "t", "columns": []}, r"grants\[1\].columns: is empty"),
    ({"privileges": ["SELECT"], "database": "d", "table": "t", "columns": ["a", ""]}, r"grants\[1\].columns: is empty"),
    ({"privileges": ["SET DEFINER"], "object": ""}, r"grants\[1\].object: is empty"),
])
def test_what_cannot_be_granted_is_said(privileges, declared, message):
    with pytest.raises(Refused, match=message):
        Item(declared, "users[0].grants[1]", privileges)
