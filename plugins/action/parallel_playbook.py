# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a playbook for several groups of hosts at the same time, with the options of this run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading

from ansible import context
from ansible.plugins.action import ActionBase
from ansible.utils.color import ANSIBLE_COLOR
from ansible.utils.display import Display

from ..plugin_utils.vault import vault_secrets

# Options of ansible-playbook by their name in its parsed command line. What is not here has its effect here already.
_FLAGS = {name: f"--{name.replace('_', '-')}" for name in ("become", "check", "diff", "flush_cache", "force_handlers")}
_VALUES = {
    "become_method": "--become-method", "become_user": "--become-user", "connection": "--connection",
    "forks": "--forks", "private_key_file": "--private-key", "remote_user": "--user",
    "scp_extra_args": "--scp-extra-args", "sftp_extra_args": "--sftp-extra-args",
    "ssh_common_args": "--ssh-common-args", "ssh_extra_args": "--ssh-extra-args", "task_timeout": "--task-timeout",
    "timeout": "--timeout",
}
_LISTS = {"extra_vars": "--extra-vars", "inventory": "--inventory", "skip_tags": "--skip-tags", "tags": "--tags"}
_CHANGED = re.compile(r": ok=\d+ +changed=[1-9]")
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


class ActionModule(ActionBase):
    """All of frameworks.database.parallel_playbook; the module is its documentation."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """See ActionBase."""
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec({
            "playbook": {"type": "path", "required": True}, "sides": {"type": "dict", "required": True},
            "extra_vars": {"type": "dict", "default": {}},
        })
        runs = []
        with tempfile.TemporaryDirectory(prefix="frameworks-") as folder:
            try:
                for number, (name, hosts) in enumerate(arguments["sides"].items()):
                    runs.append(_Run(name, self._command(arguments, hosts, os.path.join(folder, str(number)))))
                status = {run.name: run.end() for run in runs}
            finally:
                for run in runs:
                    run.stop()
        result.update(changed=any(run.changed for run in runs), status=status)
        failed = [f"{name}: ansible-playbook ended with {code}" for name, code in status.items() if code]
        if failed:
            result.update(
                failed=True,
                msg=f"{', '.join(failed)}. The lines that begin with the side's name and | say why. Mend that and run "
                "this again: what is done already stays, and the next run goes on from there.",
            )
        return result

    def _command(self, arguments, hosts, folder):
        """ansible-playbook's command line for the hosts of one side; `folder` is a private one, not there yet."""
        options = context.CLIARGS
        command = [sys.executable, "-m", "ansible", "playbook", *["-v"] * options["verbosity"]]
        command += [flag for name, flag in _FLAGS.items() if options.get(name)]
        command += [f"{option}={options[name]}" for name, option in _VALUES.items() if options.get(name)]
        command += [f"{option}={value}" for name, option in _LISTS.items() for value in options.get(name) or ()]
        if arguments["extra_vars"]:
            command.append(f"--extra-vars={json.dumps(arguments['extra_vars'])}")
        os.mkdir(folder, 0o700)
        limit = os.path.join(folder, "hosts")
        with open(limit, "w", encoding="utf-8") as file:
            file.writelines(f"{host}\n" for host in hosts)
        return [*command, *self._passwords(folder), f"--limit=@{limit}", arguments["playbook"]]

    def _passwords(self, folder):
        """Options for the passwords that this run was given, through pipes with a name: they are written nowhere."""
        options = [
            f"--vault-id={vault_id}@{_pipe(folder, f'vault-{number}', secret.bytes)}"
            for number, (vault_id, secret) in enumerate(vault_secrets())
        ]
        for option, password in (
            ("--connection-password-file", self._play_context.password),
            ("--become-password-file", self._play_context.become_pass),
        ):
            if password:
                options.append(f"{option}={_pipe(folder, option[2:], password.encode())}")
        return options


class _Run:
    """A running ansible-playbook, whose output is shown line by line, each after `name`."""

    def __init__(self, name, command):
        self.name, self.changed = name, False
        environment = {
            # Its recap tells whether it has changed something. A file for retries would be that of another playbook.
            **os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default", "ANSIBLE_RETRY_FILES_ENABLED": "0",
            **({"ANSIBLE_FORCE_COLOR": "1"} if ANSIBLE_COLOR else {}),
        }
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8", errors="replace",
        )
        self._reader = threading.Thread(target=self._show, daemon=True)
        self._reader.start()

    def _show(self):
        for line in self._process.stdout:
            self.changed = self.changed or bool(_CHANGED.search(_COLOR.sub("", line)))
            Display().display(f"{self.name} | {line.rstrip()}".rstrip())

    def end(self):
        """Wait for the end of it; the exit status."""
        self._reader.join()
        return self._process.wait()

    def stop(self):
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.terminate()


def _pipe(folder, name, secret):
    """The path of a pipe from which `secret` can be read once."""
    path = os.path.join(folder, name)
    os.mkfifo(path, 0o600)

    def feed():
        with contextlib.suppress(OSError), open(path, "wb") as pipe:
            pipe.write(secret)

    threading.Thread(target=feed, daemon=True).start()
    return path
