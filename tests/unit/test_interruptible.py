"""A program that a run has started does not outlive it, whenever the run is ended."""

import os
import signal
import subprocess

import pytest
from ansible_collections.frameworks.database.plugins.module_utils.interruptible import interruptible, program

SLEEP = ["sleep", "600"]


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def number(request):
    return request.param


def test_a_signal_ends_the_program(number):
    with pytest.raises(SystemExit, match=str(int(number))), interruptible(), program(SLEEP) as process:
        os.kill(os.getpid(), number)
    assert process.returncode == -signal.SIGKILL


def test_one_that_comes_before_popen_has_returned_does_so_too(number, monkeypatch):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            started.append(self)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    try:
        with pytest.raises(SystemExit, match=str(int(number))), interruptible(), program(SLEEP):
            pass
        assert started[0].poll() == -signal.SIGKILL
    finally:
        started[0].kill()
        started[0].wait()


def test_without_a_signal_its_end_is_waited_for():
    with interruptible(), program(["sh", "-c", "read answer; exit $answer"], stdin=subprocess.PIPE) as process:
        process.stdin.write(b"7\n")
        process.stdin.close()
    assert process.returncode == 7


def test_the_handlers_are_as_before(number):
    before = signal.getsignal(number)
    with interruptible(), program(["true"]):
        pass
    assert signal.getsignal(number) is before


def test_what_cannot_be_started_is_raised():
    with pytest.raises(FileNotFoundError), program(["/nowhere"]):
        pass
