"""Run one of the collection's modules in this process, with the arguments it would get from a task."""

import functools
import importlib
import json
from contextlib import redirect_stdout
from io import StringIO
from unittest import mock

import yaml
from ansible.module_utils import _internal, basic
from ansible.module_utils.common import warnings

ANSIBLES_OWN = {"changed", "failed", "msg", "diff", "warnings", "deprecations", "exception", "invocation"}
TYPES = {"str": str, "bool": bool, "int": int, "dict": dict, "list": list}


class ModuleFailed(Exception):
    """The module called fail_json; `result` is what it returned."""

    def __init__(self, result):
        super().__init__(result.get("msg"))
        self.result = result


@functools.lru_cache
def returned(name):
    """What RETURN of the module `name` says."""
    module = importlib.import_module(f"ansible_collections.frameworks.database.plugins.modules.{name}")
    return yaml.safe_load(module.RETURN) or {}


def check_documented(result, documented, where):
    """AssertionError where `result` has what `documented` does not name, or in another type than it says."""
    more = set(result) - set(documented)
    assert not more, f"{where} returns {more}, which is not documented"
    for key, value in result.items():
        spec = documented[key]
        items = value if spec["type"] == "list" and value is not None else [value]
        for item, kind in [(value, spec["type"]), *((item, spec.get("elements", spec["type"])) for item in items)]:
            assert item is None or isinstance(item, TYPES[kind]), f"{where}: {key} has {item!r}, no {kind}"
        for item in items:
            if "contains" in spec and item is not None:
                check_documented(item, spec["contains"], f"{where}: {key}")


def run_module(name, arguments, check=False, diff=True):
    """The result of `frameworks.database.<name>` as a dictionary; ModuleFailed where it failed.

    A traceback of the module comes through as the exception that it is: bad input must never end in one.
    Every result is held against what the module's RETURN says of it.
    """
    module = importlib.import_module(f"ansible_collections.frameworks.database.plugins.modules.{name}")
    basic._ANSIBLE_ARGS = json.dumps(
        {"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_check_mode": check, "_ansible_diff": diff}}
    ).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    warnings._global_warnings.clear()  # a module is a process of its own
    output = StringIO()
    try:
        # Once a test has imported something of the controller's, warnings would go to its display.
        with redirect_stdout(output), mock.patch.object(_internal, "is_controller", False):
            module.main()
    except SystemExit:
        pass
    result = json.loads(output.getvalue())
    own = {key: value for key, value in result.items() if key not in ANSIBLES_OWN}
    check_documented(own, returned(name), name)
    if result.get("failed"):
        raise ModuleFailed(result)
    promised = {key for key, spec in returned(name).items() if spec["returned"] in ("always", "success")}
    assert not promised - set(own), f"{name} does not return {promised - set(own)}"
    return result
