"""Run ansible-playbook as an operator would, on this machine, with files only in the test's own folder."""

import atexit
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
BYTECODE = Path(__file__).with_name("bytecode")
PROGRAM = Path(sys.executable).with_name("ansible-playbook")
HOST = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
# What hosts of production say of their environment, here one without secrets.
PROD = {"database_environment": "prod", "database_secrets": [], "database_secrets_file": "/nowhere"}


@dataclass
class Run:
    """What a run of ansible-playbook came to."""

    code: int
    output: str

    def count(self, what):
        """A figure of the recap summed over the hosts: ok, changed, unreachable, failed, skipped."""
        return sum(int(number) for number in re.findall(rf"\b{what}=(\d+)", self.output))

    def ok(self):
        """This run, or AssertionError with its output where it failed."""
        assert self.code == 0, self.output
        return self


def role_play(role, tasks_from=None, **options):
    """A play that runs one role of the collection on the test's host; `options` are the play's own."""
    entry = {"name": f"frameworks.database.{role}", **({"tasks_from": tasks_from} if tasks_from else {})}
    return {
        "name": role, "hosts": "all", "gather_facts": False,
        "tasks": [{"name": role, "ansible.builtin.include_role": entry}], **options,
    }


def environment():
    """The environment of the runs."""
    path = os.pathsep.join(filter(None, [str(BYTECODE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "PYTHONPATH": path}


class Controller:
    """A process that has imported Ansible and forks for each run; begun at the first one."""

    def __init__(self):
        self._process = None

    def close(self):
        """End it."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def run(self, folder, *arguments, timeout=300):
        """Run ansible-playbook with `arguments` in `folder`. Returns a Run; at TimeoutExpired no process is left."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("controller.py")], text=True, env=environment(),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            )
        with tempfile.NamedTemporaryFile("r") as output:
            order = [str(folder), [*map(str, (PROGRAM, *arguments))], environment(), output.name]
            print(json.dumps(order), file=self._process.stdin, flush=True)
            if not select.select([self._process.stdout], [], [], timeout)[0]:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process = None
                raise subprocess.TimeoutExpired(arguments, timeout, output.read())
            return Run(int(self._process.stdout.readline()), output.read())


CONTROLLER = Controller()
atexit.register(CONTROLLER.close)


def _write(path, text):
    """Write a file in one piece: another run, of a test that has two at once, may be reading it."""
    part = path.with_name(f".{path.name}.{threading.get_ident()}")
    part.write_text(text)
    part.replace(path)


def write_playbook(folder, play, variables=None):
    """Write the inventory of the one host with `variables`, and `play` where it is a dictionary. Their paths."""
    inventory, playbook = folder / "hosts.json", play
    _write(inventory, json.dumps({"all": {"hosts": {"test": {**HOST, **(variables or {})}}}}))
    if isinstance(play, dict):
        playbook = folder / "play.yml"
        _write(playbook, yaml.safe_dump([play], allow_unicode=True))
    return inventory, playbook


def run_playbook(folder, play, variables=None, *options, timeout=300):
    """Run `play`, a dictionary or the path of a playbook, with `variables` as those of the one host. Returns a Run."""
    inventory, playbook = write_playbook(folder, play, variables)
    return CONTROLLER.run(folder, "-i", inventory, playbook, *options, timeout=timeout)
