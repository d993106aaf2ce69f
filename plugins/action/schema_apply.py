# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring the controller's scripts to the module: short ones with the task, long ones only when they are needed."""

from __future__ import annotations

import os

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ..module_utils.schema_plan import account
from ..module_utils.schema_scripts import from_files, from_folder, pack
from ..module_utils.sql_script import ScriptError


class ActionModule(ActionBase):
    """The controller's half of frameworks.database.schema_apply."""

    def run(self, tmp=None, task_vars=None):
        """See ActionBase."""
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        arguments["run_by"] = arguments.get("run_by") or account()
        there = boolean(arguments.get("remote_src") or False, strict=False) or "bundle" in arguments
        try:
            _check_where(arguments)
            if isinstance(arguments.get("target"), float):
                raise ScriptError(f"target {arguments['target']} is not in quotes: so 1.10 is the number 1.1")
            scripts = {} if there else self._scripts(arguments)
        except (ScriptError, AnsibleError) as error:
            if arguments.get("state") == "planned":  # never fails; by the engine the role tells results apart
                engine = {"module_args": {"engine": arguments.get("engine")}}
                return {**result, "problem": str(error), "invocation": engine}
            result.update(failed=True, msg=f"Set {arguments.get('set_name', 'default')}: {error}")
            return result
        if there:
            result.update(self._module(arguments, task_vars))
            return result
        # The module gets the scripts in the place of where they are on this machine.
        arguments.pop("path", None)
        arguments.pop("files", None)
        arguments["bundle"] = pack(scripts.values())
        result.update(self._module(arguments, task_vars))
        needed = result.pop("needed", None)
        if needed:
            result.update(self._with_files(arguments, [scripts[checksum] for checksum in needed], task_vars))
        return result

    def _module(self, arguments, task_vars):
        return self._execute_module("frameworks.database.schema_apply", arguments, task_vars=task_vars)

    def _scripts(self, arguments):
        """The scripts by their checksum. The search path is that of the copy action."""
        files = arguments.get("files")
        if files:
            files = [files] if isinstance(files, str) else files
            found = from_files([self._find_needle("files", name) for name in files])
        else:
            found = from_folder(self._folder(arguments["path"]))
        return {script.checksum: script for script in found}

    def _folder(self, path):
        """Where `path` is. Raises ScriptError where a role and the playbook both have it: Ansible takes the role's."""
        found, beside = self._find_needle("files", path), self._loader.path_dwim(os.path.join("files", path))
        if os.path.isdir(beside) and not os.path.samefile(found, beside):
            raise ScriptError(f"the path {path} could be {found} or {beside}: write out the one that is meant")
        return found

    def _with_files(self, arguments, scripts, task_vars):
        """Run the module with the texts that the bundle left out, copied to a folder that only its user can read."""
        folder = self._make_tmp_path()
        try:
            paths = [self._connection._shell.join_path(folder, script.checksum) for script in scripts]
            for script, path in zip(scripts, paths):
                self._transfer_file(script.open().name, path)
            self._fixup_perms2((folder, *paths), execute=False)
            result = self._module({**arguments, "bundle_path": folder}, task_vars)
            result.pop("needed", None)
            return result
        finally:
            self._remove_tmp_path(folder, force=True)


def _check_where(arguments):
    """Raises ScriptError where `arguments` do not say, in one way, where the scripts are."""
    said = [name for name in ("path", "files") if arguments.get(name)]
    if len(said) == 2:
        raise ScriptError("path and files cannot both say where its scripts are")
    if not said and "bundle" not in arguments:
        raise ScriptError("neither path nor files says where its scripts are")
