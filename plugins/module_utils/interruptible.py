# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Leave no program running and no file lying about when a run is ended from outside."""

from __future__ import annotations

import contextlib
import signal
import subprocess

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # the latter is the end of the operator's connection


@contextlib.contextmanager
def _handled(handler):
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def interruptible():
    """Let SIGTERM and SIGHUP unwind the stack, so that `finally` cleans up."""
    def leave(number, frame):
        raise SystemExit(f"ended by signal {number}")

    with _handled(leave):
        yield


@contextlib.contextmanager
def _held():
    """Let the signals wait for the end of the block."""
    waiting = []
    with _handled(lambda number, frame: waiting.append(number)):
        yield
    for number in waiting:
        signal.raise_signal(number)


@contextlib.contextmanager
def program(arguments, **options):
    """A running subprocess.Popen, waited for at the block's end and killed where the block is left by an exception.

    That holds for a signal too that comes when the program runs already and Popen has not returned yet.
    Raises what Popen raises.
    """
    process = None
    try:
        with _held():
            process = subprocess.Popen(arguments, **options)
        yield process
        process.wait()
    except BaseException:
        if process:
            process.kill()
        raise
    finally:
        if process:
            process.__exit__(None, None, None)  # closes its pipes and waits
