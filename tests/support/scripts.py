"""Sets of scripts in a folder, applied by the module the way a task does it, also by processes that die."""

import itertools
import json
import os
import signal
from pathlib import Path

from support.modules import ModuleFailed, run_module

HOLD = 0.4  # seconds: the life of a dead run's lease, for the tests


class ScriptSet:
    """A folder of scripts for one database. `options` are options of schema_apply."""

    def __init__(self, folder, **options):
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)
        self.options = {"path": str(self.folder), "remote_src": True, "run_by": "tester", **options}

    def write(self, **scripts):
        """Write scripts; `name__x` is the file name.sql, `seed_x` the file seed/x.sql. Returns self."""
        return self.files({f"{name}.sql": text for name, text in scripts.items()})

    def files(self, files):
        """Write scripts given by their names. Returns self."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return self

    def apply(self, check=False, diff=False, **options):
        """The module's result; ModuleFailed where it failed."""
        return run_module("schema_apply", {**self.options, **options}, check=check, diff=diff)

    def refused(self, check=False, **options):
        """The message of the module, which has to fail."""
        try:
            result = self.apply(check=check, **options)
        except ModuleFailed as failure:
            return str(failure)
        raise AssertionError(f"the module did not fail: {result}")


def begin_in_child(action, timeout=60):
    """Begin to run `action()` in a forked process, which is ended after `timeout` seconds.

    Returns a function that waits for its end and gives its result, the error as {"error": text}, or the negative
    number of the signal that ended it. To be called while no other thread is at work: a lock that one holds in the
    moment of the fork, of OpenSSL's for instance, is never released in the child.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(reading)
            signal.alarm(timeout)
            answer = json.dumps(action(), default=str).encode()
            os.write(writing, answer)
            status = 0
        except BaseException as error:
            os.write(writing, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        finally:
            os._exit(status)
    os.close(writing)

    def result():
        with os.fdopen(reading) as stream:
            said = stream.read()
        _pid, status = os.waitpid(pid, 0)
        return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else json.loads(said)

    return result


def in_child(action, timeout=60):
    """What `action()` gives in a forked process, as the function of begin_in_child() says it."""
    return begin_in_child(action, timeout)()


class Reaper:
    """Counts calls to the server and kills this process when it has answered the one with `number`, from 1."""

    def __init__(self, number):
        self.number, self._calls = number, itertools.count(1)  # a run has more than one thread

    def around(self, function):
        """`function`, counted."""

        def counted(*arguments, **options):
            mine = next(self._calls)
            try:
                return function(*arguments, **options)
            finally:
                if mine == self.number:
                    os.kill(os.getpid(), signal.SIGKILL)

        return counted
