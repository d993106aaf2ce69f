# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a fault happen at a given moment of a play, so that a test of it always meets the same moment."""

from __future__ import annotations

import os
import re
import signal
import subprocess

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: fault
type: aggregate
short_description: a fault at a given moment of a play
description:
  - Runs the shell command E(FAULT_COMMAND) on the controller, once a run, when a host starts a task, be it to skip it,
    whose name and host, written C(name on host), match the regular expression E(FAULT_AT), or has done one that matches
    E(FAULT_AFTER).
  - With E(FAULT_CHANGE), kills ansible-playbook as soon as so many tasks have changed something that had not in an
    earlier run. The file E(FAULT_SEEN) keeps their names, so that run after run comes further.
requirements:
  - to be enabled
"""


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "fault"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.at, self.after, self.command = (os.environ.get(f"FAULT_{name}") for name in ("AT", "AFTER", "COMMAND"))
        self.every, self.new = int(os.environ.get("FAULT_CHANGE", 0)), 0

    def v2_runner_on_start(self, host, task):
        """Before the task reaches the host."""
        self._cause(self.at, task, host)

    def v2_runner_on_ok(self, result):
        """Between a task and whatever should follow it."""
        self._cause(self.after, result.task, result.host)
        if self.every and result.is_changed() and self._is_new(result.task.get_name()):
            self.new += 1
            if self.new == self.every:
                self._display.display("FAULT: killed")
                os.kill(os.getpid(), signal.SIGKILL)

    def _is_new(self, name):
        with open(os.environ["FAULT_SEEN"], "a+", encoding="utf-8") as seen:
            seen.seek(0)
            new = name not in seen.read().splitlines()
            if new:
                seen.write(f"{name}\n")
        return new

    def _cause(self, moment, task, host):
        if moment and re.search(moment, f"{task.get_name()} on {host.get_name()}"):
            self.at = self.after = None
            self._display.display(f"FAULT: {self.command}")
            subprocess.run(self.command, shell=True, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
