"""What holds for every role: defaults equal to specs, names, short files, a README that tells the truth."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
ROLE = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
DISPATCH = {
    "ansible.builtin.import_tasks", "ansible.builtin.include_tasks", "ansible.builtin.meta",
}


def load(path, missing=None):
    """The YAML document in `path`."""
    return yaml.safe_load(path.read_text()) if path.exists() else missing


def options(role):
    """The options of the role's main entry point."""
    return load(role / "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})


@ROLE
def test_defaults_and_specs_agree(role):
    defaults, specs = load(role / "defaults/main.yml", {}) or {}, options(role)
    assert {name for name, spec in specs.items() if "default" in spec} == set(defaults)
    assert {name: specs[name]["default"] for name in defaults} == defaults


@ROLE
def test_what_is_required_has_no_default(role):
    assert not [name for name, spec in options(role).items() if spec.get("required") and "default" in spec]


@ROLE
def test_names_carry_the_role(role):
    internal = [name for file in (role / "vars").rglob("*.yml") for name in load(file)]
    assert all(name.startswith(f"{role.name}_") for name in options(role))
    assert all(name.startswith(f"__{role.name}_") for name in internal)


@ROLE
def test_every_default_has_a_comment(role):
    path = role / "defaults/main.yml"
    blocks = path.read_text().split("\n\n") if path.exists() else []
    bare = [block for block in blocks if re.search(r"^[a-z]\w*:", block, re.M) and not re.search(r"^ *#", block, re.M)]
    assert not bare


@ROLE
def test_every_description_is_a_sentence(role):
    def descriptions(specs):
        for spec in specs.values():
            text = spec["description"]
            yield from [text] if isinstance(text, str) else text
            yield from descriptions(spec.get("options", {}))

    assert not [text for text in descriptions(options(role)) if not text.strip().endswith((".", "?", ")"))]


@ROLE
def test_main_only_dispatches(role):
    tasks = load(role / "tasks/main.yml")
    assert tasks and not [task for task in tasks if not DISPATCH & set(task)]


@ROLE
def test_task_files_are_short(role):
    lengths = {path.name: len(path.read_text().splitlines()) for path in role.glob("tasks/**/*.yml")}
    assert not {name: length for name, length in lengths.items() if length >= 100}


def loops(tasks):
    """The tasks with a loop among `tasks` and those of their blocks."""
    for task in tasks:
        yield from [task] if "loop" in task else []
        for part in ("block", "rescue", "always"):
            yield from loops(task.get(part, []))


@ROLE
def test_loops_have_a_variable_of_the_role_s_own(role):
    """What a play that loops over the role gives it of its `item` is worked out in there, with the `item` there."""
    found = [task for path in role.glob("tasks/**/*.yml") for task in loops(load(path))]
    names = {task["name"]: task.get("loop_control", {}).get("loop_var", "item") for task in found}
    assert not {task: name for task, name in names.items() if not name.startswith(f"__{role.name}_")}


@ROLE
def test_the_readme_is_that_of_the_specs(role):
    spec = importlib.util.spec_from_file_location("role_readmes", ROOT / "tools/role_readmes.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (role / "README.md").read_text() == tool.readme(role), "run `make docs`"


QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
CONDITIONS = ("when", "that", "until", "changed_when", "failed_when")
OPERATOR = r"(?:[<>=!]=|[<>*/+-])"


def expressions(value, key=""):
    """The Jinja expressions in a part of a YAML file, without the strings in them.

    A value that is nothing but a variable is none, unless it is an internal one's: options of a module convert it.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from expressions(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner, key)
    elif isinstance(value, str):
        found = [value] if key in CONDITIONS else re.findall(r"\{\{.*?\}\}|\{%.*?%\}", value, re.S)
        whole = re.fullmatch(r"\{\{ *\w+( \| default\([^)]*\))* *\}\}\s*", value) and not key.startswith("__")
        yield from (QUOTED.sub("''", one) for one in found if not whole)


def unconverted(kinds, pattern):
    """Where a public variable of one of these types stands in an expression of a role or playbook as `pattern` says."""
    names = {
        name for role in ROLES for entry in load(role / "meta/argument_specs.yml")["argument_specs"].values()
        for name, option in entry.get("options", {}).items() if option.get("type") in kinds
    }
    use = re.compile(pattern.replace("NAME", rf"\b(?:{'|'.join(sorted(names))})\b"))
    files = [
        path for folder in ("roles", "playbooks") for ending in ("yml", "j2")
        for path in (ROOT / folder).rglob(f"*.{ending}")
    ]
    assert len(names) > 20 and len(files) > 100
    return [
        f"{path.relative_to(ROOT)}: {one.strip()}" for path in files if path.parent.name != "meta"
        for one in expressions(path.read_text() if path.suffix == ".j2" else load(path)) if use.search(one)
    ]


def test_booleans_are_converted_where_they_are_used():
    """`-e name=false` on the command line is text, which is true for Jinja, and the check of arguments leaves it so."""
    assert not unconverted({"bool"}, r"NAME(?!(?: \| default\([^)]*\))? \| bool)")


def test_numbers_are_converted_where_something_is_computed_with_them():
    """`-e name=3` is text too: it cannot be compared with a number, and "0" is true."""
    before = rf"(?:{OPERATOR} |\bin \[1, |\[: ?)NAME(?! \| (?:int|float))"
    behind = rf"NAME (?:{OPERATOR}|is (?:odd|even)|%}})"
    assert not unconverted({"int", "float"}, f"{before}|{behind}")
