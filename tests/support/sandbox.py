"""A throwaway copy of this machine: what runs in it sees, and may change, everything, and nothing of that stays.

It is the machine's own file system under an overlay in memory, with its own network (only loopback, so every port is
free), its own processes (which end with it) and no init. It takes root and the right to mount; `available()` says.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .playbooks import PROGRAM, ROOT, Run, environment, write_playbook

SETUP = """
set -e
base=$1; folder=$2; shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 sandbox "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" sandbox "$base/root"
mount -t proc proc "$base/root/proc"
mount --rbind /dev "$base/root/dev"
mount -t tmpfs -o mode=1777 fresh "$base/root/tmp"
mount -t tmpfs -o mode=755 fresh "$base/root/run"
mkdir "$base/root/run/lock" "$base/root$folder"
for seen in "$@"; do
  mkdir -p "$base/root$seen"
  mount --bind "$seen" "$base/root$seen"
  mount -o remount,bind,ro "$base/root$seen"
done
ip link set lo up
"""
# The first process adopts what daemons leave behind, and says when everything is there.
FIRST = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print('ready', flush=True)
while True: signal.pause()
"""


def available():
    """Why there can be no sandbox on this machine; empty where there can."""
    if os.geteuid() != 0:
        return "a sandbox needs root"
    for program in ("setpriv", "unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"a sandbox needs the program {program}"
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--net", "mount", "-t", "tmpfs", "probe", "/mnt"],
        capture_output=True, text=True, check=False,
    )
    return f"no sandbox: {done.stderr.strip()}" if done.returncode else ""


class Sandbox:
    """Start with `start()`, end with `close()`.

    `folder` is an empty directory in it, and where commands run. The directories `seen` are there as they are, and
    read-only; the repository always is. With `network` it shares the machine's network, and its ports.
    """

    def __init__(self, seen=(), network=False):
        self.folder = "/tmp/sandbox"
        self._seen = [ROOT, *map(Path, seen)]
        self._base = Path(tempfile.mkdtemp(prefix="sandbox-"))
        self._network = network
        self._process = self._first = self._outside = None

    def start(self):
        """Make it. Returns self; RuntimeError where that does not work."""
        script = f'{SETUP}\nexec chroot "$base/root" "{sys.executable}" -c "{FIRST}"'
        network = [] if self._network else ["--net"]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL",  # or it would outlive a test process that is killed
             "unshare", "--mount", "--pid", "--fork", "--kill-child", *network, "--uts", "--ipc",
             "sh", "-c", script, "sandbox", self._base, self.folder, *self._seen],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        said = self._process.stdout.readline()
        if said != "ready\n":
            raise RuntimeError(f"the sandbox does not start: {said}{self._process.stdout.read()}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._first = children[0]
        self._outside = Path(f"/proc/{self._first}/root{self.folder}")
        return self

    def run(self, *command, check=True, timeout=300, environment=None, **options):
        """Run a command in it as root; a CompletedProcess. RuntimeError with its output where it fails and `check`."""
        done = subprocess.run(
            ["nsenter", "--target", self._first, "--mount", "--pid", "--net", "--uts", "--ipc", "--root",
             "env", f"--chdir={self.folder}", *map(str, command)],
            text=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, cwd="/", env={**os.environ, **(environment or {})}, **options,
        )
        if check and done.returncode:
            raise RuntimeError(f"{command}: status {done.returncode}\n{done.stdout}")
        return done

    def changes(self):
        """The paths of everything in it that is not, or no longer, the machine's own; folders of such things too."""
        return subprocess.run(
            ["nsenter", "--target", self._first, "--mount", "find", f"{self._base}/upper", "-printf", "/%P\\n"],
            capture_output=True, text=True, check=True, cwd="/",
        ).stdout.splitlines()

    def python(self, statements, **options):
        """Run Python statements in it with the tests' modules at hand; what they print."""
        path = os.pathsep.join(map(str, (ROOT / "collections", ROOT / "tests")))
        return self.run(sys.executable, "-c", statements, environment={"PYTHONPATH": path}, **options).stdout

    def write(self, name, text):
        """Write a file into `folder`; its path in the sandbox."""
        (self._outside / name).write_text(text)
        return f"{self.folder}/{name}"

    def playbook(self, play, variables=None, *options):
        """Run `play` as tests.support.playbooks does, but in the sandbox. Returns a Run."""
        inside = [Path(self.folder, one.name) if one.parent == self._outside else one
                  for one in write_playbook(self._outside, play, variables)]
        done = self.run(PROGRAM, "-i", *inside, *options, check=False, timeout=600, environment=environment())
        return Run(done.returncode, done.stdout)

    def close(self):
        """End every process in it and forget everything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
        shutil.rmtree(self._base, ignore_errors=True)
