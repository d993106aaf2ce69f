"""Run one of the collection's modules in this process, with the arguments it would get from a task."""

import importlib
import json
from contextlib import redirect_stdout
from io import StringIO
from unittest import mock

from ansible.module_utils import _internal, basic
from ansible.module_utils.common import warnings


class ModuleFailed(Exception):
    """The module called fail_json; `result` is what it returned."""

    def __init__(self, result):
        super().__init__(result.get("msg"))
        self.result = result


def run_module(name, arguments, check=False, diff=True):
    """The result of `frameworks.database.<name>` as a dictionary; ModuleFailed where it failed.

    A traceback of the module comes through as the exception that it is: bad input must never end in one.
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
    if result.get("failed"):
        raise ModuleFailed(result)
    return result
