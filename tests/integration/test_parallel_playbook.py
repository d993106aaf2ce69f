"""The module parallel_playbook: runs that need each other, what they end with, and the passwords they are given."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.playbooks import HOST, ROOT

PASSWORD = "a pass'word of 100%"
# Each side goes on only when the other one has begun as well.
SIDE = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {content: x, dest: "{{ folder }}/{{ inventory_hostname }}"}
    - ansible.builtin.wait_for: {path: "{{ folder }}/{{ other }}", timeout: 60}
      when: not ansible_check_mode
    - ansible.builtin.fail: {msg: broken on purpose}
      when: inventory_hostname == broken | default('')
    - ansible.builtin.command: {argv: [echo, done]}
      changed_when: false
"""
MAIN = """
- hosts: all
  gather_facts: false
  tasks:
    - frameworks.database.parallel_playbook:
        playbook: "{{ folder }}/side.yml"
        sides: {first: [one], second: [two]}
        extra_vars: {said: "an 'extra' %}"}
      run_once: true
"""


class Sides:
    """A folder with the two playbooks, and an inventory of one host for each side."""

    def __init__(self, folder):
        self.folder = folder
        host = {**HOST, "folder": str(folder)}
        hosts = {"one": {**host, "other": "two"}, "two": {**host, "other": "one"}}
        (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
        (folder / "main.yml").write_text(MAIN)
        self.side(SIDE)

    def side(self, playbook):
        """What each side runs, as text."""
        (self.folder / "side.yml").write_text(playbook)

    def command(self, *options):
        """The command line of the main playbook."""
        program = Path(sys.executable).with_name("ansible-playbook")
        return [program, "-i", self.folder / "hosts.json", self.folder / "main.yml", *options]

    def run(self, *options):
        """Run the main playbook; (exit status, output)."""
        done = subprocess.run(
            self.command(*options), cwd=self.folder, env=self.environment(), text=True, check=False, timeout=120,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        return done.returncode, done.stdout

    def environment(self):
        """The environment of ansible-playbook."""
        return {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}


@pytest.fixture
def sides(tmp_path):
    return Sides(tmp_path)


def own_lines(output):
    """What the main run itself has printed, without what its sides have."""
    return "\n".join(line for line in output.splitlines() if not line.startswith(("first |", "second |")))


def test_both_run_at_the_same_time_and_a_second_time_without_a_change(sides):
    status, output = sides.run()
    assert status == 0, output
    assert "first | one  " in output and "second | two  " in output
    assert "changed=1" in own_lines(output), output
    status, output = sides.run()
    assert status == 0 and "changed=0" in own_lines(output) and "changed=1" not in output, output


def test_options_reach_the_sides(sides):
    status, output = sides.run("--check", "-e", "other=nobody", "--skip-tags", "none,nothing", "-v")
    assert status == 0 and "changed=1" in own_lines(output), output
    assert not (sides.folder / "one").exists() and not (sides.folder / "two").exists()
    assert "first | changed: [one] =>" in output, output  # a result is shown only with -v


def test_a_side_that_fails_is_named_and_the_other_one_ends_well(sides):
    status, output = sides.run("-e", "broken=two")
    assert status == 2, output
    assert "second: ansible-playbook ended with 2." in own_lines(output)
    assert re.search(r"second \| .*broken on purpose", output), output
    assert re.search(r"first \| one +: ok=3 .*failed=0", output), output
    assert not (sides.folder / "side.retry").exists()


def test_extra_variables_are_taken_as_they_are(sides):
    sides.side("""
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {msg: "<{{ said | string }}>"}
""")
    status, output = sides.run("-e", "said=weaker")
    assert status == 0 and output.count("<an 'extra' %}>") == 2, output


def test_passwords_reach_the_sides_and_nothing_else(sides):
    """A vault password that was typed, as with --ask-vault-pass, opens the file there; no process shows it."""
    (sides.folder / "secret").write_text(PASSWORD)
    vault = sides.folder / "vault.yml"
    vault.write_text(yaml.safe_dump({"inner": "from the vault"}))
    encrypt = [Path(sys.executable).with_name("ansible-vault"), "encrypt", "--vault-password-file"]
    subprocess.run([*encrypt, sides.folder / "secret", vault], check=True, capture_output=True, env=sides.environment())
    (sides.folder / "secret").unlink()
    (sides.folder / "look.sh").write_text("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' '")
    sides.side(f"""
- hosts: all
  gather_facts: false
  vars_files: [{vault}]
  tasks:
    - ansible.builtin.command: {{argv: [sh, "{{{{ folder }}}}/look.sh"]}}
      register: processes
      changed_when: false
      no_log: true
    - ansible.builtin.copy:
        content: "{{{{ processes.stdout }}}}"
        dest: "{{{{ folder }}}}/{{{{ inventory_hostname }}}}"
    - ansible.builtin.debug: {{var: inner}}
""")
    read, write = pty.openpty()
    process = subprocess.Popen(
        sides.command("--ask-vault-pass"), cwd=sides.folder, env=sides.environment(), text=True, stdin=write,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )
    # What is typed before the question comes is thrown away.
    asked = ""
    while not asked.endswith("password: "):
        asked += process.stdout.read(1)
    os.write(read, f"{PASSWORD}\n".encode())
    output, _nothing = process.communicate(timeout=120)
    os.close(read)
    os.close(write)
    assert process.returncode == 0, output
    assert output.count("inner: from the vault") == 2, output
    for side in ("one", "two"):
        processes = (sides.folder / side).read_text()
        assert "--vault-id=default@" in processes and PASSWORD not in processes
