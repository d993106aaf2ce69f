"""The scenarios' harness: what it says where containers cannot run, and that no scenario passes without looking."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("bash", "dirname", "grep", "id", "uname", "dpkg-query")
SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


def molecule(tmp_path, *scenarios, programs=PROGRAMS, **account):
    """Run tools/molecule where only `programs` can be found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in programs:
        (folder / name).symlink_to(shutil.which(name, path=os.defpath))
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    return subprocess.run(
        ["tools/molecule", *scenarios], cwd=ROOT, env={"PATH": str(folder), "HOME": "/"}, text=True, check=False,
        capture_output=True, stdin=subprocess.DEVNULL, timeout=60, **account,
    )


@pytest.mark.parametrize("scenarios", [[], ["default"]], ids=["all", "one"])
def test_who_is_not_root_is_told_and_only_named_scenarios_fail(tmp_path, scenarios):
    account = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    done = molecule(tmp_path, *scenarios, **account)
    assert done.stdout.startswith("Molecule's scenarios cannot run here: ") and "root" in done.stdout
    assert done.stdout.count("\n") == 1 and not done.stderr
    assert done.returncode == len(scenarios)


def test_a_missing_program_is_named(tmp_path):
    if os.geteuid():
        pytest.skip("needs root, which is asked for first")
    done = molecule(tmp_path)
    assert done.stdout == "Molecule's scenarios cannot run here: podman is not installed.\n"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_step_of_a_scenario_has_its_playbook(scenario):
    """Molecule takes a step without one for a success."""
    folder = ROOT / "molecule" / scenario
    shared = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text())
    own = yaml.safe_load((folder / "molecule.yml").read_text())
    steps = {**shared["scenario"], **own.get("scenario", {})}["test_sequence"]
    playbooks = {**shared["ansible"]["playbooks"], **own.get("ansible", {}).get("playbooks", {})}
    assert {"destroy", "create", "converge", "idempotence", "verify"} <= {step.split()[0] for step in steps}
    assert (steps[0], steps[-1]) == ("destroy", "destroy")
    for step in steps:
        action, _space, named = step.partition(" ")
        action = "converge" if action in ("idempotence", "check") else action
        # It leaves a named one out as well where the default one is not there.
        for playbook in filter(None, (named, playbooks.get(action, f"{action}.yml"))):
            assert (folder / playbook).is_file(), step


def test_without_names_every_scenario_runs():
    """They are listed in the tool for their order, which the folder does not know."""
    listed = (ROOT / "tools/molecule").read_text().split("|| scenarios=(")[1].split(")")[0].split()
    assert sorted(listed) == SCENARIOS
