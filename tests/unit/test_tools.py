"""The scripts behind make: what they say to those who may not, and that two runs do not mix."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


def run(*command, path=os.defpath, **options):
    """Run one of the tools without a terminal; the finished process."""
    environment = {"PATH": path, "HOME": "/", "TMPDIR": str(options.pop("temporary", "/tmp"))}
    return subprocess.run(
        command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False, timeout=60,
        stdin=subprocess.DEVNULL, **options,
    )


def without_rights(tmp_path, with_sudo):
    """Options for run(): an account that may nothing, and a PATH where sudo is missing or refuses."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "id", "dirname", "env", "flock"):
        (programs / name).symlink_to(shutil.which(name, path=os.defpath))
    if with_sudo:
        (programs / "sudo").write_text("#!/bin/bash\nexit 1\n")
        (programs / "sudo").chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    account = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    return {"path": str(programs), **account}


@pytest.mark.parametrize("with_sudo", [False, True], ids=["no sudo", "sudo refuses"])
@pytest.mark.parametrize("tool", [["tools/play", "playbooks/dev.yml"], ["tools/as-root", "true"]], ids=" ".join)
def test_who_has_no_rights_is_told(tmp_path, tool, with_sudo):
    done = run(*tool, **without_rights(tmp_path, with_sudo))
    assert done.returncode == 1
    assert "sudo" in done.stderr and "Traceback" not in done.stderr
    assert ("without a password" in done.stderr) == with_sudo


def test_as_root_runs_the_command_and_passes_its_status_on():
    if os.geteuid():
        pytest.skip("needs root")
    assert run("tools/as-root", "sh", "-c", "exit 7").returncode == 7


def test_the_second_run_waits_and_says_so(tmp_path):
    if os.geteuid():
        pytest.skip("needs root, as play asks for sudo first")
    with open(tmp_path / "frameworks-database-0.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen(
            ["tools/play", "--version"], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        assert second.stdout.readline().startswith("Another run is under way")
        assert second.poll() is None
        fcntl.flock(lock, fcntl.LOCK_UN)
        output, _nothing = second.communicate(timeout=60)
    assert second.returncode == 0 and "ansible-playbook" in output


def test_a_python_that_is_too_old_is_named(tmp_path):
    old = tmp_path / "python3"  # stands in for an older Python: it only knows its version
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit\nexit 1\n')
    old.chmod(0o755)
    done = run("tools/bootstrap", "requirements.txt", path=f"{tmp_path}:{os.defpath}")
    assert done.returncode == 1 and "3.11" in done.stderr and "Python 3.9.2" in done.stderr
