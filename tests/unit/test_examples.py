"""Examples are copied: each has to be complete, and to name only what there is."""

import importlib
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, nodes

ROOT = Path(__file__).parents[2]
ANSIBLES = {"groups", "item", "inventory_dir", "inventory_hostname", "playbook_dir"}
JINJA = Environment()
PLUGINS = sorted(
    f"{kind}.{path.stem}" for kind in ("filter", "lookup", "modules") for path in (ROOT / "plugins" / kind).glob("*.py")
)
ENTRIES = {
    f"{path.parents[1].name}/{entry}": spec for path in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml"))
    for entry, spec in yaml.safe_load(path.read_text())["argument_specs"].items()
}


def used(value, key=""):
    """The variables that a part of a task uses."""
    if isinstance(value, (dict, list)):
        inner = value.items() if isinstance(value, dict) else ((key, item) for item in value)
        return {name for at, item in inner for name in used(item, at)}
    text = f"{{{{ {value} }}}}" if key in ("when", "that", "until") else str(value)
    return {node.name for node in JINJA.parse(text).find_all(nodes.Name)} - {"lookup", "query"}


def brought(tasks):
    """The variables that are there: Ansible's, what a task registers, and the reader's own secrets."""
    names = used(tasks)
    return ANSIBLES | {task.get("register") for task in tasks} | {
        name for name in names if name.endswith(("password", "passphrase", "secrets", "sha256"))
    }


@pytest.mark.parametrize("plugin", PLUGINS)
def test_an_example_of_a_plugin_has_all_that_it_uses(plugin):
    text = importlib.import_module(f"ansible_collections.frameworks.database.plugins.{plugin}").EXAMPLES
    tasks = yaml.safe_load(text)
    assert not used(tasks) - brought(tasks)


@pytest.mark.parametrize("entry", [name for name in ENTRIES if "destroy" not in name])
def test_an_example_of_a_role_names_its_variables_and_all_that_are_required(entry):
    spec, role = ENTRIES[entry], entry.split("/")[0]
    plays = yaml.safe_load(spec["examples"])
    for play in plays:
        given = (play.get("roles") or play["tasks"])[0]["vars"]
        assert set(given) <= set(spec["options"]) | set(ENTRIES[f"{role}/main"]["options"])
        assert {name for name, option in spec["options"].items() if option.get("required")} <= set(given)
        assert not used(play) - brought([play]) - set(given)
