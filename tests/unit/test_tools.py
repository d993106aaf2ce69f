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


# In the place of ansible-playbook: hosts are those of GROUPS. A side goes on only when the other has begun as well.
PLAYBOOK = """#!/bin/bash
limit=all; while [ $# -gt 0 ]; do [ "$1" = --limit ] && limit=$2; [ "$1" = --list-hosts ] && list=1; shift; done
if [ -n "$list" ]; then case " $GROUPS " in *" $limit "*) exit 0;; esac; exit 1; fi
echo "$limit" >> "$LOG"
case $limit in
    prod_yugabyte) other=prod_clickhouse:prod_clickhouse_keeper;;
    prod_clickhouse*) other=prod_yugabyte;;
esac
for _ in $(seq 200); do
    if [ -z "$other" ] || grep -qx "$other" "$LOG"; then [ "$limit" != "$FAILS" ] || exit 4; exit 0; fi
    sleep 0.05
done
exit 9
"""


def both_sides(folder, groups, *options, fails=""):
    """Run it; (the finished process, for which hosts ansible-playbook ran)."""
    (folder / "ansible-playbook").write_text(PLAYBOOK.replace("$GROUPS", groups).replace("$FAILS", fails).replace(
        "$LOG", str(folder / "log")))
    (folder / "ansible-playbook").chmod(0o755)
    (folder / "log").touch()
    done = run("tools/both_sides", "prod", *options, path=f"{folder}:{os.defpath}")
    return done, sorted((folder / "log").read_text().split())


SIDES = "prod_yugabyte prod_clickhouse prod_application"
BOTH = ["prod_clickhouse:prod_clickhouse_keeper", "prod_yugabyte"]


def test_both_sides_are_built_at_the_same_time_and_then_the_application(tmp_path):
    done, hosts = both_sides(tmp_path, SIDES)
    assert (done.returncode, hosts) == (0, ["prod_application", *BOTH]), done


@pytest.mark.parametrize("fails", BOTH)
def test_a_side_that_fails_is_named_and_the_application_is_left_alone(tmp_path, fails):
    done, hosts = both_sides(tmp_path, SIDES, fails=fails)
    assert (done.returncode, hosts) == (4, BOTH) and "failed, see the lines that begin with" in done.stderr


@pytest.mark.parametrize("groups", ["prod_yugabyte", f"{SIDES} prod_yugabyte:&prod_clickhouse_keeper"])
def test_where_a_host_is_on_both_sides_the_playbook_runs_once(tmp_path, groups):
    done, hosts = both_sides(tmp_path, groups)
    assert (done.returncode, hosts) == (0, ["all"]), done


@pytest.mark.parametrize("option", ["-l", "--limit=x", "--ask-vault-pass"])
def test_what_two_runs_cannot_share_is_refused(tmp_path, option):
    done, hosts = both_sides(tmp_path, SIDES, option)
    assert (done.returncode, hosts) == (2, []) and "ANSIBLE_VAULT_PASSWORD_FILE" in done.stderr
