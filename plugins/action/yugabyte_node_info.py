# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the node's clock against one that does not change: this machine's monotonic one."""

from __future__ import annotations

import time

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """The controller's half of frameworks.database.yugabyte_node_info."""

    def run(self, tmp=None, task_vars=None):
        """See ActionBase."""
        result = super().run(tmp, task_vars)
        result.update(self._execute_module(task_vars=task_vars))
        if "node" in result:
            # The module itself takes longer than two clocks may differ.
            narrowest = min((self._offset() for _attempt in range(3)), key=lambda pair: pair[1] - pair[0])
            result["node"]["clock"]["offset"] = narrowest
        return result

    def _offset(self):
        """What the node's clock is ahead of the controller's, at least and at most; without an answer anything."""
        before = time.monotonic()
        said = self._low_level_execute_command("date +%s.%N", sudoable=False)["stdout"].split()
        after = time.monotonic()
        try:
            now = float(said[-1])
        except (IndexError, ValueError):
            return [float("-1e12"), float("1e12")]
        return [now - after, now - before]
