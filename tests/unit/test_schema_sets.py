"""Script sets, plans and drift without a server."""

import importlib
import os
from types import SimpleNamespace

import pytest
import yaml
from ansible_collections.frameworks.database.plugins.filter.schema_plan import schema_plan
from ansible_collections.frameworks.database.plugins.module_utils import clickhouse, postgres
from ansible_collections.frameworks.database.plugins.module_utils.schema_drift import carry, changes, readable
from ansible_collections.frameworks.database.plugins.module_utils.schema_plan import Entry, account, make_plan
from ansible_collections.frameworks.database.plugins.module_utils.schema_scan import Placeholders, Scan
from ansible_collections.frameworks.database.plugins.module_utils.schema_scripts import (
    classify,
    from_bundle,
    from_folder,
    pack,
    version_order,
)
from ansible_collections.frameworks.database.plugins.module_utils.sql_postgres import PostgresSplitter
from ansible_collections.frameworks.database.plugins.module_utils.sql_script import ScriptError
from support.playbooks import ROOT

MODULE = importlib.import_module("ansible_collections.frameworks.database.plugins.modules.schema_apply")


@pytest.mark.parametrize(
    ("name", "kind", "version"),
    [
        ("init.sql", "baseline", None),
        ("init_clickhouse_periscope.sql", "baseline", None),
        ("0001_users.sql", "versioned", "0001"),
        ("V1.2__users.sql", "versioned", "1.2"),
        ("V1_2__users.sql", "versioned", "1.2"),
        ("R__views.sql", "repeatable", None),
        ("seed/demo.sql", "seed", None),
        ("seed/V1__x.sql", "seed", None),
        ("users.sql", None, None),
        ("V1_users.sql", None, None),
        ("0001-users.sql", None, None),
        ("V__x.sql", None, None),
    ],
)
def test_names_tell_the_kind(name, kind, version):
    assert classify(name) == (kind, version)


def test_versions_are_numbers():
    assert sorted(["10", "9", "1.10", "1.9", "2"], key=version_order) == ["1.9", "1.10", "2", "9", "10"]
    assert version_order("1") == version_order("1.0") == version_order("01")
    with pytest.raises(ScriptError):
        version_order("latest")


@pytest.mark.parametrize("make, reason", [
    (os.mkdir, "Is a directory"), (os.mkfifo, "it is no file"),  # a pipe would be waited for without end
])
def test_what_is_no_file_is_no_script(tmp_path, make, reason):
    make(tmp_path / "V1__a.sql")
    with pytest.raises(ScriptError, match=f"V1__a.sql: cannot be read: {reason}"):
        from_folder(str(tmp_path))


def test_a_bundle_brings_short_scripts_and_leaves_long_ones(tmp_path):
    (tmp_path / "V1__short.sql").write_bytes("SELECT 'ü';\r\n".encode())
    (tmp_path / "V2__long.sql").write_text("-- " + "x" * 300_000 + "\nSELECT 1")
    scripts = from_folder(str(tmp_path))
    short, long = from_bundle(pack(scripts))
    assert short.open().read() == (tmp_path / "V1__short.sql").read_bytes()
    assert long.open is None and long.checksum == scripts[1].checksum
    (tmp_path / long.checksum).write_bytes((tmp_path / "V2__long.sql").read_bytes())
    _short, long = from_bundle(pack(scripts), str(tmp_path))
    assert long.open().read().endswith(b"SELECT 1")


def script(name, checksum="a"):
    """Something that looks like a Script."""
    kind, version = classify(name)
    return SimpleNamespace(
        name=name, kind=kind, version=version, checksum=checksum, order=version_order(version) if version else (),
        open=None,
    )


def test_an_account_without_a_name_has_its_number(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 45678)
    assert account().startswith("uid45678@")


def test_a_plan_without_seed_and_beyond_a_target():
    scripts = [script(name) for name in ("init.sql", "V1__a.sql", "V2__b.sql", "R__v.sql", "seed/x.sql")]
    plan = make_plan(scripts, {}, seed=True, target="1")
    assert [step.script.name for step in plan.pending] == ["init.sql", "V1__a.sql"]
    assert plan.beyond == ["V2__b.sql", "R__v.sql", "seed/x.sql"]


def test_a_plan_of_what_failed_changed_or_is_gone():
    entries = {
        "V1__a.sql": Entry(status="applied", checksum="old"),
        "V2__b.sql": Entry(status="failed", checksum="old"),
        "R__v.sql": Entry(status="applied", checksum="old"),
        "V0__gone.sql": Entry(status="adopted", checksum="a"),
    }
    plan = make_plan([script(name) for name in ("V1__a.sql", "V2__b.sql", "R__v.sql")], entries)
    assert [(step.script.name, step.reason) for step in plan.pending] == [
        ("V2__b.sql", "resumed"),
        ("R__v.sql", "changed"),
    ]
    assert len(plan.conflicts) == 1 and plan.missing == ["V0__gone.sql"]


def test_a_scan_sees_the_brackets_around_a_script(tmp_path):
    def scan(text):
        (tmp_path / "init.sql").write_text(text)
        return Scan(from_folder(str(tmp_path))[0], PostgresSplitter, Placeholders())

    assert scan("BEGIN; SELECT 1; COMMIT;").bracketed
    assert scan("START TRANSACTION; SELECT 1; END TRANSACTION").bracketed
    for text in ("BEGIN; SELECT 1; ROLLBACK", "BEGIN; COMMIT; SELECT 1", "BEGIN ISOLATION LEVEL SERIALIZABLE; COMMIT"):
        assert not scan(text).bracketed and scan(text).control, text
    assert not scan("SAVEPOINT a; ROLLBACK TO SAVEPOINT a; ROLLBACK WORK TO a").control


@pytest.mark.parametrize("secret, said, masked", [
    ("it''s hushed", "as '********'", "as '{}'"), ("back\\slashed", "as '********'", "as '{}'"),
])
def test_secrets_are_masked_as_a_server_writes_them(secret, said, masked):
    values = Placeholders({}, {"c": secret})
    for form in (secret, "it\\'s hushed" if "'" in secret else "back\\\\slashed"):
        assert values.mask(masked.format(form)) == said


def test_a_secret_that_a_server_has_cut_off_is_masked():
    values = Placeholders({}, {"c": "hush, hush"})
    assert values.mask("near 'hush, h... (line 1) and so on...") == "near '********... (line 1) and so on..."


def test_placeholders_are_filled_once_and_secrets_masked():
    values = Placeholders({"a": "${b}", "b": 1}, {"c": "hush"})
    assert values.fill("${a} ${b} ${c} $b {c}") == "${b} 1 hush $b {c}"
    assert values.mask("it is hush") == "it is ********"


def test_drift_by_name():
    recorded = {"table a": "x", "view v": "one\ntwo", "table gone": "y"}
    live = {"table a": "x", "view v": "one\n2", "table new": "z", "table ignored_1": ""}
    found = changes(recorded, live, ["table ignored_*"])
    assert [(change["change"], change["object"]) for change in found] == [
        ("dropped", "table gone"),
        ("added", "table new"),
        ("changed", "view v"),
    ]
    assert readable(found)[-3:] == ["          one", "         -two", "         +2"]
    many = readable([{"object": f"table t{n}", "change": "added", "diff": ["+x"]} for n in range(5000)])
    assert many[499] == "         +x" and many[500:] == ["… and 4750 more, of 5000"]


def test_what_a_run_changes_is_carried_over_and_the_rest_stays_drift():
    recorded, before, after = (
        {"a": "1", "b": "1"},
        {"a": "by hand", "b": "1", "c": "by hand"},
        {"a": "by hand", "d": "new", "c": "by hand"},
    )
    assert carry(recorded, before, after) == {"a": "1", "d": "new"}


def test_the_table_of_the_plan():
    step = {"script": "V1__a.sql", "kind": "versioned", "reason": "resumed", "statements": 9, "completed": 4}
    lines = schema_plan(
        {
            "db": [{"item": "one", "pending": [step], "lock_holder": "somebody"}, {"item": "two"}, {"skipped": True}],
            "ch": [
                {"name": "three", "ansible_loop_var": "name", "unasked": "nothing listens"},
                {"item": "four", "conflicts": ["V1 was changed"]},
            ],
        }
    )
    assert [line.split() for line in lines[1:4]] == [
        ["db", "one", "V1__a.sql", "versioned", "resumed", "4", "of", "9", "done"],
        ["db", "two", "up", "to", "date"],
        ["ch", "three", "unreachable"],
    ]
    assert lines[4:] == [
        "db, one: locked by somebody",
        "ch, three: nothing listens",
        "ch, four: CONFLICT: V1 was changed",
    ]


def test_the_login_options_are_those_of_both_engines():
    both = {**postgres.LOGIN_SPEC, **clickhouse.LOGIN_SPEC}
    del both["login_db"]
    assert set(MODULE._LOGIN_SPEC) == set(both)
    own = {"login_port", "login_user", "timeout"}  # their defaults depend on the engine, or on scripts being slow
    assert {name: spec for name, spec in MODULE._LOGIN_SPEC.items() if name not in own} == {
        name: spec for name, spec in both.items() if name not in own
    }


def test_the_ledger_gets_the_version_of_the_collection():
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert f"{galaxy['namespace']}.{galaxy['name']} {galaxy['version']}" == MODULE.VERSION
