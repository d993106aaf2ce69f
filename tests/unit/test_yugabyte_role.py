"""Every flag that the role yugabyte_db sets is documented, with its page in data/yugabyte_flags.json."""

import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FLAGS = json.loads((ROOT / "tests/unit/data/yugabyte_flags.json").read_text())
VARS = yaml.safe_load((ROOT / "roles/yugabyte_db/vars/main.yml").read_text())
SETS = {
    "yb-master": ("common", "master_only", "tls", "broadcast"),
    "yb-tserver": ("common", "tserver_only", "tls", "ycql", "broadcast"),
}


@pytest.mark.parametrize(
    ("program", "flag"),
    [(program, flag) for program, sets in SETS.items() for one in sets for flag in VARS[f"__yugabyte_db_{one}_flags"]],
)
def test_every_flag_that_the_role_sets_is_documented(program, flag):
    assert flag in FLAGS[program], f"{flag} is not in tests/unit/data/yugabyte_flags.json: look it up and add its page"
    assert FLAGS[program][flag]["page"] in FLAGS["pages"]


def test_no_set_of_flags_is_forgotten_here():
    kinds = {name[len("__yugabyte_db_"):-len("_flags")] for name in VARS if name.endswith("_flags")} - {""}
    assert kinds == {one for sets in SETS.values() for one in sets} | {"runtime", "shared"}


def test_only_documented_runtime_flags_are_set_without_a_restart():
    documented = {name for program in SETS for name, flag in FLAGS[program].items() if not flag["restart"]}
    assert set(VARS["__yugabyte_db_runtime_flags"]) == documented
