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
  - With E(FAULT_AT), a regular expression, runs the shell command E(FAULT_COMMAND) on the controller when a host starts
    a task whose name and host, written C(name on host), match. Once a run.
  - With E(FAULT_CHANGE), kills ansible-playbook as soon as a task has changed something.
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
        self.at, self.command = os.environ.get("FAULT_AT"), os.environ.get("FAULT_COMMAND")
        self.change = "FAULT_CHANGE" in os.environ

    def v2_runner_on_start(self, host, task):
        """Cause the fault before the task reaches the host."""
        if self.at and re.search(self.at, f"{task.get_name()} on {host.get_name()}"):
            self.at = None
            self._display.display(f"FAULT: {self.command}")
            subprocess.run(self.command, shell=True, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def v2_runner_on_ok(self, result):
        """Die between a change and whatever should follow it."""
        if self.change and result.is_changed():
            self._display.display("FAULT: killed")
            os.kill(os.getpid(), signal.SIGKILL)
