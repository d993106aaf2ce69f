"""The playbooks that take a host out of a cluster stop nothing on it unless the plays before went through."""

import json
import os
import re
import subprocess

import pytest
import yaml
from support.playbooks import HOST, PROD, PROGRAM, ROOT, Run, environment, run_playbook

OLD, STAYING = "db3", ["db1", "db2", "db4"]
UNREACHABLE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
# The files of tasks that each has the roles do, in this order.
STEPS = {
    "remove_node": ["leave", "stop", "forget"], "replace_node": ["replace", "stop", "forget"],
    "clickhouse_remove_host": ["main", "leave", "forget", "retire"],
}
PLAYBOOKS = pytest.mark.parametrize("playbook", STEPS)
NAMED = ("-e", f"old={OLD}", "-e", "new=db4")
COMPLETE = ("-l", "prod", *NAMED)


def write_inventory(folder, gone=()):
    """Write an inventory in which the hosts of `gone` cannot be reached; its path."""
    path, hosts = folder / "inventory.json", [*STAYING, OLD]
    groups = ("yugabyte", "clickhouse", "clickhouse_keeper")
    path.write_text(json.dumps({"all": {
        "children": {
            "prod": {"hosts": {name: {**HOST, **(UNREACHABLE if name in gone else {})} for name in hosts}},
            **{name: {"hosts": dict.fromkeys(hosts, {})} for name in groups},
        },
        "vars": {
            "ansible_become": False, **PROD, "yugabyte_db_nodes": hosts, "yugabyte_db_archive_sha256": "-",
            "clickhouse_db_nodes": hosts, "clickhouse_db_keepers": hosts,
            **{f"{role}_config_dir": str(folder / "etc") for role in ("yugabyte_db", "clickhouse_db")},
            **{f"{name}_password": "-" for name in ("yugabyte_db_superuser", "clickhouse_db_admin", "clickhouse_db")},
        },
    }}))
    return path


def refused(run):
    """Whether it ended with the sentence that the host is left alone, and why."""
    sentence = f"Nothing is done to {OLD}: the hosts that stay were not looked at, or not all reached. Name the env"
    return run.code != 0 and sentence in " ".join(run.output.split())


@pytest.mark.parametrize("options, gone", [
    pytest.param(("-l", OLD, *NAMED), [], id="limited to the host that leaves"),
    pytest.param(("-l", OLD, *NAMED, "--check"), [], id="limited in check mode"),
    pytest.param(COMPLETE, STAYING, id="no other host is reached"),
    pytest.param(COMPLETE, STAYING[:1], id="another host is not reached"),
    pytest.param((*COMPLETE, "--start-at-task", "The host that leaves may be stopped"), [], id="gates passed over"),
])
@PLAYBOOKS
def test_nothing_is_done_before_the_gates_are_passed(tmp_path, monkeypatch, playbook, options, gone):
    for name in ("etc", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin/systemctl").symlink_to("/bin/false")  # should it come to that
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    run = run_playbook(
        tmp_path, ROOT / f"playbooks/{playbook}.yml", None, "-i", write_inventory(tmp_path, gone), *options,
    )
    assert not list((tmp_path / "etc").iterdir()), run.output
    assert re.search(rf"^{OLD} +: ok=0 +changed=0 +unreachable=0 +failed=1 ", run.output, re.M), run.output
    assert refused(run) and "[Forget" not in run.output, run.output


def run_steps(folder, playbook, *options, **steps):
    """Run a playbook with roles that do nothing but say their steps, or the task in `steps`. A Run."""
    for role in ("yugabyte_db", "clickhouse_db"):
        tasks = folder / f"collections/ansible_collections/frameworks/database/roles/{role}/tasks"
        tasks.mkdir(parents=True)
        for name in {name for names in STEPS.values() for name in names}:
            task = steps.get(name, {"ansible.builtin.debug": {"msg": name}})
            (tasks / f"{name}.yml").write_text(yaml.safe_dump([{"name": f"Step {name}", **task}]))
    known = {"__yugabyte_db_folder": {"stat": {}}, "yugabyte_db_masters": [], "yugabyte_db_replication_factor": 3,
             "__clickhouse_db_reached": {}}
    done = subprocess.run(
        [PROGRAM, "-i", write_inventory(folder), ROOT / f"playbooks/{playbook}.yml", *COMPLETE, *options,
         "-e", json.dumps(known)],
        env={**environment(), "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections")}, text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    return Run(done.returncode, done.stdout)


@pytest.mark.parametrize("options", [(), ("--check",)])
@PLAYBOOKS
def test_everything_is_done_once_they_are(tmp_path, playbook, options):
    run = run_steps(tmp_path, playbook, *options).ok()
    assert re.findall(r"Step (\w+)\]", run.output) == STEPS[playbook], run.output


@PLAYBOOKS
def test_tags_that_may_leave_out_gates_stop_nothing(tmp_path, playbook):
    run = run_steps(tmp_path, playbook, "--skip-tags", "preflight")
    assert refused(run) and re.findall(r"Step (\w+)\]", run.output) == STEPS[playbook][:1], run.output


def test_a_keeper_runs_on_until_all_have_let_it_go(tmp_path):
    lost = {"ansible.builtin.ping": {}, "vars": {**UNREACHABLE, "ansible_connection":
            "{{ 'ssh' if inventory_hostname == 'db1' else 'local' }}"}}
    run = run_steps(tmp_path, "clickhouse_remove_host", forget=lost)
    assert refused(run) and "Step retire" not in run.output, run.output
