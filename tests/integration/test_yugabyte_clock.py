"""The role's tasks for the clock, and what a node says of it, with a real chrony that finds the time, or does not."""

import contextlib
import json

import pytest
from support import sandbox as sandboxes
from support.ports import free_port


def install(**variables):
    """A play of the role's tasks for the clock. Role variables are only overruled by a task's own."""
    return {
        "name": "Clock", "hosts": "all", "gather_facts": False, "tasks": [{
            "name": "chrony", "vars": {"__yugabyte_db_found": {"system": {"id": "debian"}}, **variables},
            "ansible.builtin.include_role": {
                "name": "frameworks.database.yugabyte_db", "tasks_from": "install_chrony.yml",
            },
        }],
    }


# -x: it leaves the clock alone, which is the machine's.
FILES = {
    "/etc/default/chrony": 'DAEMON_OPTS="-x"\n',
    "/etc/chrony/chrony.conf": "sourcedir /etc/chrony/sources.d\n",
}
SERVER = """
bindaddress 127.0.0.1
port {port}
allow 127.0.0.1
local
cmdport 0
bindcmdaddress /
pidfile {folder}/pid
"""


@pytest.fixture
def machine():
    """A Sandbox without chrony that can install packages."""
    reason = sandboxes.available()
    if reason:
        pytest.skip(reason)
    with contextlib.closing(sandboxes.Sandbox(network=True)) as sandbox:
        sandbox.start().run("apt-get", "update", "-q")
        for path, text in FILES.items():
            sandbox.run("sh", "-c", 'mkdir -p "${1%/*}"; printf %s "$2" > "$1"', "sh", path, text)
        yield sandbox


def synchronised(machine):
    """What yugabyte_node_info says of the clock."""
    return json.loads(machine.python(
        "import json\n"
        "from support.modules import run_module\n"
        "node = {'address': '127.0.0.1', 'install_dir': '/opt', 'data_dirs': ['/srv']}\n"
        "print(json.dumps(run_module('yugabyte_node_info', node)['node']['clock']['synchronised']))"
    ))


def test_chrony_is_waited_for_until_it_has_found_the_time(machine):
    lost = machine.playbook(install(__yugabyte_db_clock_timeout=2))
    assert lost.code
    assert "chrony on test has not found the time within 2 s: try: 2, refid: 00000000" in " ".join(lost.output.split())
    assert synchronised(machine) is False

    port = free_port()
    server = machine.write("server.conf", SERVER.format(port=port, folder=machine.folder))
    machine.run("chronyd", "-x", "-f", server)
    machine.run("sh", "-c", f"echo server 127.0.0.1 port {port} iburst > /etc/chrony/sources.d/test.sources")
    machine.run("chronyc", "reload", "sources")
    found = machine.playbook(install())
    assert not found.code and "changed=0" in found.output
    assert synchronised(machine) is True
