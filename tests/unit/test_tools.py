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
    environment = {
        "PATH": path, "HOME": "/", "TMPDIR": str(options.pop("temporary", "/tmp")), **options.pop("variables", {}),
    }
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


@pytest.fixture
def checkout(tmp_path):
    """A checkout with play and a stand-in for ansible-playbook, which says that it was reached."""
    for folder in ("tools", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "tools/play", tmp_path / "tools/play")
    reached = tmp_path / ".venv/bin/ansible-playbook"
    reached.write_text('#!/bin/sh\necho "reached by $(id -u)"\n')
    reached.chmod(0o755)
    return tmp_path


def played(checkout, **options):
    """play of the checkout, just started."""
    return subprocess.Popen(
        [checkout / "tools/play", "--version"], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, **options,
    )


@pytest.mark.parametrize("account", [0, NOBODY], ids=["root", "another user"])
def test_the_second_run_from_a_checkout_waits_and_says_so(checkout, account):
    if os.geteuid():
        pytest.skip("needs root, as play asks for sudo first")
    options = {"env": {"PATH": os.defpath, "HOME": "/", "TMPDIR": "/nowhere"}}
    if account:
        rights = without_rights(checkout, with_sudo=True)
        (checkout / "bin/sudo").write_text("#!/bin/sh\n")  # stands in for a sudo that asks for no password
        options["env"]["PATH"] = rights.pop("path")
        options.update(rights)
    first = os.open(checkout, os.O_RDONLY)
    try:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = played(checkout, **options)
        assert second.stdout.readline().startswith(f"Another run is under way from {checkout}")
        assert second.poll() is None
    finally:
        os.close(first)
    output, _nothing = second.communicate(timeout=60)
    assert second.returncode == 0 and f"reached by {account}" in output


def test_a_run_keeps_the_next_one_out_and_leaves_nothing_behind(checkout):
    if os.geteuid():
        pytest.skip("needs root, as play asks for sudo first")
    (checkout / ".venv/bin/ansible-playbook").write_text("#!/bin/sh\necho begun\ncat go\n")
    os.mkfifo(checkout / "go")
    before = set(checkout.rglob("*"))
    first = played(checkout)
    assert first.stdout.readline() == "begun\n"
    second = played(checkout)
    assert second.stdout.readline().startswith("Another run is under way")
    for run_ in (first, second):
        (checkout / "go").write_text("")
        assert run_.communicate(timeout=60)[0].strip() in ("", "begun") and run_.returncode == 0
    assert set(checkout.rglob("*")) == before


def test_where_folders_cannot_be_locked_it_says_so(checkout):
    if os.geteuid():
        pytest.skip("needs root, as play asks for sudo first")
    programs = checkout / "bin"
    programs.mkdir()
    # Stands in for flock on NFS, where an exclusive lock takes a file that is open for writing.
    (programs / "flock").write_text('#!/bin/sh\necho "flock: 10: Bad file descriptor" >&2\nexit 65\n')
    (programs / "flock").chmod(0o755)
    output, _nothing = played(checkout, env={"PATH": f"{programs}:{os.defpath}"}).communicate(timeout=60)
    assert "has no locks for folders" in output and "reached by 0" in output


def test_a_python_that_is_too_old_is_named(tmp_path):
    old = tmp_path / "python3"  # stands in for an older Python: it only knows its version
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit\nexit 1\n')
    old.chmod(0o755)
    done = run("tools/bootstrap", "requirements.txt", variables={"PYTHON": str(old)})
    assert done.returncode == 1 and "3.11" in done.stderr and "Python 3.9.2" in done.stderr


def test_make_sets_a_locale_that_is_there():
    """Over SSH comes that of the machine in front, which here may not be: Ansible begins nothing then."""
    done = run("make", "-s", "--eval=said: ; @echo $$LC_ALL", "said", variables={"LC_ALL": "tr_TR.UTF-8"})
    assert done.stdout == "C.UTF-8\n", done.stderr
