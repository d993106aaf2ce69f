"""Refusals of declared lists: item, key, likely spelling; and which values have to be masked."""

import pytest
from ansible_collections.frameworks.database.plugins.module_utils.declared import did_you_mean, find_faults

SPEC = {
    "users": {"type": "list", "elements": "dict", "options": {
        "name": {"required": True},
        "password": {"no_log": True},
        "limit": {"type": "int"},
        "roles": {"type": "list", "elements": "str", "aliases": ["role"]},
        "state": {"choices": ["present", "absent"]},
    }},
}


@pytest.mark.parametrize("user, faults", [
    ({"name": "a", "password": "p", "limit": "3", "role": "x", "state": "absent"}, []),
    ({"name": "a", "password": None, "limit": None}, []),
    ({"name": "a", "stat": 1}, ["users[0]: unknown key 'stat', did you mean 'state'? "
                                "(known: limit, name, password, roles, state)"]),
    ({"name": "a", "Roles": []}, ["users[0]: unknown key 'Roles', did you mean 'roles'? "
                                  "(known: limit, name, password, roles, state)"]),
    ({}, ["users[0]: the key 'name' is missing"]),
    ({"name": "a", "limit": "many", "state": "gone"}, [
        "users[0].limit: 'many' is not of the type int",
        "users[0].state: 'gone' is none of present, absent",
    ]),
])
def test_faults(user, faults):
    assert find_faults(SPEC, {"users": [user]})[0] == faults


@pytest.mark.parametrize("user, secrets", [
    ({"name": "a", "password": "p", "stat": "x"}, {"p"}),
    ({"name": "a", "pasword": "p"}, {"p"}),
    ({"name": "a", "zzz": ["p", {"q": "r"}]}, {"p", "r"}),
    ("name=a password=p", {"name=a password=p"}),
])
def test_values_to_mask(user, secrets):
    assert find_faults(SPEC, {"users": [user]})[1] == secrets


def test_no_suggestion_far_off():
    assert did_you_mean("xyz", ["password", "name"]) == ""
