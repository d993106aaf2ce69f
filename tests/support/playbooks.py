"""Run ansible-playbook as an operator would, on this machine, with files only in the test's own folder."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HOST = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}


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


def run_playbook(folder, play, variables=None, *options, environment=None, timeout=300):
    """Run `play`, a dictionary or the path of a playbook, with `variables` as those of the one host. Returns a Run."""
    inventory, playbook = folder / "hosts.json", play
    inventory.write_text(json.dumps({"all": {"hosts": {"test": {**HOST, **(variables or {})}}}}))
    if isinstance(play, dict):
        playbook = folder / "play.yml"
        playbook.write_text(yaml.safe_dump([play], allow_unicode=True))
    program = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [program, "-i", inventory, playbook, *options], cwd=folder, text=True, check=False, timeout=timeout,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **(environment or {})},
    )
    return Run(done.returncode, done.stdout)
