# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Leave no program running and no file lying about when a run is ended from outside."""

from __future__ import annotations

import contextlib
import signal


@contextlib.contextmanager
def interruptible():
    """Let SIGTERM and SIGHUP (the end of the operator's connection) unwind the stack, so that `finally` cleans up."""
    def leave(number, frame):
        raise SystemExit(f"ended by signal {number}")

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
