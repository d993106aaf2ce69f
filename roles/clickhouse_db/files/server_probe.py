"""Say in one JSON object what the role has to know about a host that runs ClickHouse's own packages.

The question is a JSON object, the argument; answer() describes both.
"""

import glob
import hashlib
import html
import json
import os
import platform
import pwd
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys

LISTENING = "0A"


def content(path):
    """A small file's text, empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def digest(path):
    """A file's SHA-256, or None where there is none that can be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


def output(*command):
    """What a command prints, empty where it is not there. Those used here fail where they find a part of it only."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def account(user):
    """(number, groups) of the account, None where it is not there."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return None
    return found.pw_uid, os.getgrouplist(user, found.pw_gid)


def serves(path, who, owned=False, private=False):
    """Whether the account can read, and enter, what is at `path`; `owned`: it has to be its own, `private`: no other's.

    Who the owner is and what else the mode says is left to others: the packages have ideas of their own.
    """
    try:
        found = os.stat(path)
    except OSError:
        return False
    number, groups = who or (None, [])
    need = 0o5 if stat.S_ISDIR(found.st_mode) else 0o4
    shift = 6 if found.st_uid == number else 3 if found.st_gid in groups else 0
    return (
        found.st_mode >> shift & need == need and (found.st_uid == number or not owned)
        and not (private and found.st_mode & 0o7)
    )


def system():
    """The distribution's name, and what kind of packages it has."""
    release = {
        name: value.strip('"')
        for name, _equals, value in (line.partition("=") for line in content("/etc/os-release").splitlines()) if value
    }
    manager = next((name for name in ("apt-get", "dnf", "yum") if shutil.which(name)), None)
    return {
        "name": release.get("PRETTY_NAME", ""), "machine": platform.machine(), "uid": os.geteuid(),
        "systemd": os.path.isdir("/run/systemd/system"), "packages": {"apt-get": "deb"}.get(manager, manager and "rpm"),
        "ipv6": os.path.exists("/proc/net/if_inet6"),
    }


def packages(names):
    """{name: version} of those that are installed."""
    if shutil.which("dpkg-query"):
        shown = "${Package}\t${Version}\t${db:Status-Status}\n"
        rows = [line.split("\t") for line in output("dpkg-query", "-W", "-f", shown, *names).splitlines()]
        return {row[0]: row[1] for row in rows if row[2] == "installed"}
    rows = [line.split("\t") for line in output("rpm", "-q", "--qf", "%{NAME}\t%{VERSION}\n", *names).splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def held(names):
    """Those that dpkg keeps at their version; all where there is no dpkg."""
    if not shutil.which("dpkg-query"):
        return names
    rows = output("dpkg-query", "-W", "-f", "${Package}\t${db:Status-Want}\n", *names).splitlines()
    return [name for name, _tab, want in (row.partition("\t") for row in rows) if want == "hold"]


def services(units):
    """{unit: state}. `configuration` is what the running process was started with, None where it does not say."""
    found = {}
    for unit in units:
        lines = output(
            "systemctl", "show", "--property=LoadState,ActiveState,UnitFileState,MainPID", f"{unit}.service"
        ).splitlines()
        shown = dict(line.split("=", 1) for line in lines if "=" in line)
        number = int(shown.get("MainPID") or 0)
        environment = dict(
            entry.partition("=")[::2] for entry in content(f"/proc/{number}/environ").split("\0")
        ) if number else {}
        found[unit] = {
            "present": shown.get("LoadState") == "loaded", "active": shown.get("ActiveState") == "active",
            "enabled": shown.get("UnitFileState") == "enabled", "pid": number,
            "configuration": environment.get("FRAMEWORKS_CONFIGURATION"),
        }
    return found


def ancestors(number):
    """A process and those that it comes from."""
    while number:
        yield number
        # The name before it may hold anything.
        words = content(f"/proc/{number}/stat").rpartition(")")[2].split()
        number = int(words[1]) if words else 0


def listeners(ports, ours):
    """{port: the program and process that listens on it} for those of `ports` that are taken; "?" where unknown.

    Without those of the services whose main processes are `ours`.
    """
    inodes = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in content(table).splitlines()[1:]:
            words = line.split()
            port = int(words[1].rsplit(":", 1)[1], 16)
            if words[3] == LISTENING and port in ports:
                inodes[words[9]] = port
    found = {str(port): "?" for port in inodes.values()}
    for link in glob.iglob("/proc/[0-9]*/fd/*") if inodes else ():
        try:
            inode = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
        except OSError:
            continue  # it has ended
        if inode and inode.group(1) in inodes:
            number, port = int(link.split("/")[2]), str(inodes[inode.group(1)])
            words = content(f"/proc/{number}/cmdline").split("\0")
            names = [os.path.basename(word) for word in words]
            # An interpreter is not what an operator would look for.
            name = names[1] if re.fullmatch(r"python[\d.]*", names[0]) else names[0]
            found[port] = None if ours.intersection(ancestors(number)) else f"{name} (process {number})"
    return {port: holder for port, holder in found.items() if holder}


def certificate(path, key, who):
    """The certificate as PEM and whether the key fits, None where there is none; one that others can read does not."""
    pem = content(path)
    if not pem or not serves(path, who):
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key, password="")  # or it would ask a terminal
        fits = True
    except (OSError, ssl.SSLError):
        fits = False
    return {"pem": pem, "key_fits": fits and serves(key, who, private=True)}


def addresses(name):
    """What the host's own address resolves to on it, and which of that is another host's."""
    try:
        found = sorted({entry[4][0] for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except OSError as error:
        return {"resolved": [], "foreign": [], "error": error.strerror or str(error)}
    foreign = []
    for one in found:
        with socket.socket(socket.AF_INET6 if ":" in one else socket.AF_INET) as probe:
            try:
                probe.bind((one, 0))
            except OSError:
                foreign.append(one)
    return {"resolved": found, "foreign": foreign, "error": None}


def configured(path, pattern):
    """What a configuration file has in the place of `pattern`'s group, empty where it has none."""
    found = re.search(pattern, content(path))
    return html.unescape(found.group(1)) if found else ""


def has_data(directory):
    """Whether a server or a Keeper has run in it."""
    return any(os.path.isdir(os.path.join(directory, name)) for name in ("metadata", "log")) if directory else False


def ensemble(path, directory):
    """A Keeper by its files: members as {id: host name}, whether it waits to be taken in, whether it has data."""
    text = content(path)
    members = re.findall(r"<server>\s*<id>(\d+)</id>\s*<hostname>([^<]*)</hostname>", text)
    return {
        "members": {number: name.strip("[]") for number, name in members},
        "joining": "<start_as_follower>true</start_as_follower>" in text,
        "data": any(files for _folder, _folders, files in os.walk(directory)),
    }


def answer(question):
    """What is asked for.

    question: `files`, paths to hash; `read`, {path: whether it is private} of those that the account has to read, which
    count as not there where it cannot; `directories`, {path: owner}; `packages`, names; `units`; `ports`; `certificate`
    and `key`, paths; `address`; `link`, a path; `macros`, a configuration file with <macros>; `data`, the server's
    directory, and `config`, its configuration; `user`, the name of its account; `keeper` and `keeper_data`, Keeper's
    configuration and directory.
    """
    who, read, units = account(question["user"]), question["read"], services(question["units"])
    keeper = ensemble(question["keeper"], question["keeper_data"])
    places = {question["data"]: has_data(question["data"]), question["keeper_data"]: keeper["data"]}
    before = {
        question["data"]: configured(question["config"], r"<path\b[^>]*>([^<]+?)/*</path>"),
        question["keeper_data"]: configured(question["keeper"], "<log_storage_path>([^<]+)/log</log_storage_path>"),
    }
    macros = re.search(r"<macros\b[^>]*>(.*?)</macros>", content(question["macros"]), re.S)
    return {
        "system": system(),
        "files": {
            path: digest(path) if path not in read or serves(path, who, private=read[path]) else None
            for path in question["files"]
        },
        "directories": {
            path: serves(path, who, owned=owner != "root") for path, owner in question["directories"].items()
        },
        "packages": packages(question["packages"]), "held": held(question["packages"]),
        "services": units, "ports": listeners(set(question["ports"]), {unit["pid"] for unit in units.values()} - {0}),
        "certificate": certificate(question["certificate"], question["key"], who),
        "addresses": addresses(question["address"]),
        "link": os.path.realpath(question["link"]) if os.path.lexists(question["link"]) else None,
        "macros": dict(re.findall(r"<(\w+)>([^<]*)</", macros.group(1))) if macros else {},
        "account": who is not None,
        "keeper": keeper, "data": places[question["data"]],
        "empty": [path for path, filled in places.items() if os.path.isdir(path) and not filled],
        "left": {path: old for path, old in before.items() if not places[path] and old != path and has_data(old)},
    }


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
