"""Free TCP ports on loopback."""

import socket
import time


def free_port():
    """A port nobody listens on now. The caller has to bind it soon: nothing reserves it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what, seconds=30.0, alive=lambda: True):
    """Call `condition` until it is true.

    TimeoutError naming `what` after `seconds`, or at once when `alive()` turns false.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if not alive() or time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s" if alive() else f"{what}: the process ended")
        time.sleep(0.02)
