"""Differences that the PostgreSQL of the other tests, which may be an older one, does not have to show."""

import pytest
from ansible_collections.frameworks.database.plugins.module_utils.postgres_plan import plan_users
from ansible_collections.frameworks.database.plugins.modules.postgres_access import USER


@pytest.mark.parametrize("usable, statements", [(False, ['GRANT "app" TO "admin"']), (True, [])])
def test_who_may_only_pass_a_role_on_is_no_member_of_it_yet(usable, statements):
    """PostgreSQL 16 makes whoever creates a role an administrator of it, who can neither use it nor become it."""
    user = {**dict.fromkeys(USER), "name": "admin", "state": "present", "member_of": ["app"]}
    server = {"version": 160000, "roles": {"admin": {"settings": None, "memberships": [["app", "postgres", usable]]}}}
    changes = plan_users([user], server, lambda _role, _item: None, {}, None)
    assert [statement.sql for change in changes for statement in change.statements] == statements
