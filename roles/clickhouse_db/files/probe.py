"""Say in one JSON object what the role has to know about the machine. The question is a JSON object, the argument."""

import fcntl
import hashlib
import importlib.util
import ipaddress
import json
import os
import platform
import pwd
import shutil
import sys

LISTENING = "0A"


def digest(path):
    """A file's SHA-256, or None where there is none that can be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


def strangers(paths, mark):
    """Those of `paths` that exist without the role's mark: another installation's."""
    found = []
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                if mark not in file.read():
                    found.append(path)
        except OSError:
            pass
    return found


def namespace(process):
    """The process's PID namespace, or None where that cannot be seen."""
    try:
        return os.readlink(f"/proc/{process}/ns/pid")
    except OSError:
        return None


def processes():
    """{number: command line as a list} of all processes but those of containers that run on this machine."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and namespace(entry) in (namespace("self"), None):
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    found[int(entry)] = [os.fsdecode(part) for part in file.read().split(b"\0")[:-1]]
            except OSError:
                pass  # it has ended
    return found


def address(text):
    """An address of /proc/net/tcp or tcp6, as a word."""
    words = [bytes.fromhex(text[at:at + 8])[::-1] for at in range(0, len(text), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return getattr(found, "ipv4_mapped", None) or found


def listeners(ports):
    """[(port, address, inode)] of the sockets that listen on one of `ports`."""
    found = []
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{table}", encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            host, port = fields[1].split(":")
            if fields[3] == LISTENING and int(port, 16) in ports:
                found.append((int(port, 16), address(host), fields[9]))
    return found


def holder(inode, commands):
    """The number of the process that has the socket open, or None where that cannot be seen."""
    for number in commands:
        try:
            for name in os.listdir(f"/proc/{number}/fd"):
                if os.readlink(f"/proc/{number}/fd/{name}") == f"socket:[{inode}]":
                    return number
        except OSError:
            pass  # it has ended, or is somebody else's
    return None


def taken(ports, hosts, commands, ours):
    """The listeners of others where the server is to listen, each as a dictionary."""
    wanted = [ipaddress.ip_address(host) for host in hosts]
    found = []
    for port, where, inode in listeners(set(ports.values())):
        if not (where.is_unspecified or where in wanted or any(host.is_unspecified for host in wanted)):
            continue
        number = holder(inode, commands)
        # In a container root may not look at what others have open: then a server of ours is what has its ports.
        if number not in ours and not (number is None and ours):
            found.append({
                "variable": next(name for name, value in ports.items() if value == port), "port": port,
                "address": str(where), "pid": number, "command": " ".join(commands.get(number, [])) or None,
            })
    return found


def wait_for_start(directory):
    """Return when no other run is just starting the server, which it does with a lock on its configuration's folder."""
    try:
        folder = os.open(directory, os.O_RDONLY)
    except OSError:
        return  # nobody has put a configuration there yet
    fcntl.flock(folder, fcntl.LOCK_SH)
    os.close(folder)


def account(name):
    """The account's comment, None where there is no such account."""
    try:
        return pwd.getpwnam(name).pw_gecos
    except KeyError:
        return None


def answer(question):
    """What is asked for.

    question: `files`, paths to hash; `marked`, paths that hold `mark` if they are the role's; `directories`; `ports`,
    {variable: port}; `hosts`, addresses to listen on; `launcher` and `config`, by which the server's process is known;
    `service`; `user`; `wanted`, which is given back.
    """
    wait_for_start(os.path.dirname(question["config"]))
    commands = processes()
    config = f"--config-file={question['config']}"
    ours = [number for number, command in commands.items() if question["launcher"] in command and config in command]
    return {
        "uid": os.geteuid(),
        "machine": platform.machine(),
        "glibc": platform.libc_ver()[0] == "glibc",
        "systemd": os.path.isdir("/run/systemd/system"),
        "npm": shutil.which("npm"),
        "venv": importlib.util.find_spec("ensurepip") is not None,
        "debian": os.path.exists("/etc/debian_version"),
        "supervisor": shutil.which("supervisorctl") is not None,
        "account": account(question["user"]),
        "enabled": os.path.lexists(f"/etc/systemd/system/multi-user.target.wants/{question['service']}.service"),
        "strangers": strangers(question["marked"], question["mark"]),
        "files": {path: digest(path) for path in question["files"]},
        "directories": {path: os.path.isdir(path) for path in question["directories"]},
        "wanted": question["wanted"],
        "running": [commands[number] for number in ours],
        "taken": taken(question["ports"], question["hosts"], commands, ours),
    }


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
