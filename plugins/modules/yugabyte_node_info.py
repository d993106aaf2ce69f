#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read all that matters for YugabyteDB on one host, in one go."""

from __future__ import annotations

DOCUMENTATION = r"""
module: yugabyte_node_info
short_description: Read all that matters for YugabyteDB on one host, in one go
version_added: 0.1.0
description:
  - Reads the machine, its clock, names and ports, what is installed and configured, what runs and with which
    configuration, the state of the cluster as this host's master sees it, and who may log in to YSQL.
  - It writes nothing and succeeds on a bare host.
author:
  - FrameWorks platform team (@frameworks)
attributes:
  check_mode:
    description: Only reads, so it does the same in check mode.
    support: full
options:
  address:
    description: The node's address, as the other nodes know it.
    type: str
    required: true
  masters:
    description: Addresses of the masters, which are asked about the cluster where there is none on this node.
    type: list
    elements: str
    default: []
  install_dir:
    description: Directory whose subdirectories are the releases.
    type: path
    required: true
  data_dirs:
    description: Directories for the data.
    type: list
    elements: path
    required: true
  certificate:
    description: The node's certificate; its key is beside it.
    type: path
  user:
    description: Operating system user of the servers.
    type: str
    default: yugabyte
  files:
    description: Files whose checksums are wanted.
    type: list
    elements: path
    default: []
  directories:
    description: Directories whose owners are wanted.
    type: list
    elements: path
    default: []
  flag_files:
    description: The servers' flag files.
    type: dict
    default: {}
  upgrade_record:
    description: File in which an upgrade that is not final yet is noted, as JSON.
    type: path
  sysctls:
    description: Kernel parameters whose values are wanted.
    type: list
    elements: str
    default: []
  ports:
    description: TCP ports of which it matters who listens on them.
    type: list
    elements: int
    default: []
  services:
    description: The systemd units, by the server that they run.
    type: dict
    default: {master: yugabyte-master, tserver: yugabyte-tserver}
  runtime_flags:
    description: Flags whose values in the running servers are wanted.
    type: list
    elements: str
    default: []
  release:
    description: Directory name of the release whose C(ysqlsh) asks; by default that which runs.
    type: str
  superuser_password:
    description: What the superuser's password should be; the answer says whether it is.
    type: str
"""

EXAMPLES = r"""
- name: Read the node
  frameworks.database.yugabyte_node_info:
    address: 10.0.0.1
    install_dir: /opt/yugabyte
    data_dirs: [/data/yugabyte]
"""

RETURN = r"""
node:
  description: What was found.
  returned: always
  type: dict
  contains:
    system:
      description: >-
        Operating system, architecture, memory in MB, whether systemd runs it, transparent huge pages, and whether
        Python has psycopg2.
      type: dict
    disks:
      description: File system of each data directory, or of the directory where it would be made.
      type: list
      elements: dict
    install:
      description: The same of the directory of the releases.
      type: dict
    clock:
      description: >-
        Whether it is synchronised, null where nobody can tell; and as C(offset) the least and the most that it can be
        ahead of the controller's monotonic clock, in seconds. Those of two hosts in one run may be compared.
      type: dict
    addresses:
      description: What the node's address resolves to here, and which of that is not this host's.
      type: dict
    ports:
      description: C(program) that listens on each of the ports and its C(user); null where none does.
      type: dict
    user:
      description: The operating system user, or null.
      type: dict
    releases:
      description: Installed releases by directory name, and whether their installation was completed.
      type: dict
    files:
      description: SHA-256 of each of the files, null where there is none.
      type: dict
    directories:
      description: Owner of each of the directories by name, null where there is none.
      type: dict
    flags:
      description: Those flags of each server's file that must not change lightly.
      type: dict
    secret_files:
      description: Those of the flag files that seem to have a secret, so that nobody shows how they change.
      type: list
      elements: str
    upgrade:
      description: Releases C(from) and C(to) of an upgrade that is not final yet, or null.
      type: dict
    sysctls:
      description: Values of the kernel parameters, null where there is no such parameter.
      type: dict
    certificate:
      description: The certificate as PEM, and whether its key fits; null where there is none.
      type: dict
    services:
      description: >-
        State of each unit; C(configuration) and C(release) are those of the running process, C(flags) the values
        that it has of the wanted flags, as far as it knows them, and C(own_flags) those that were left to it.
      type: dict
    data:
      description: Whether each server has data here; V(unformed) is a master's that never joined a quorum.
      type: dict
    masters:
      description: The quorum as this host's master sees it; empty where it does not answer.
      type: list
      elements: dict
    cluster:
      description: The cluster as its leading master sees it, null where none was found.
      type: dict
    ysql:
      description: >-
        Whether YSQL runs, whether its rules let anybody in from the network, its socket, whether the superuser's
        password is V(current), V(other) or V(builtin), and which roles have a password stored as MD5. Null values where
        YSQL was not asked.
      type: dict
"""

import contextlib
import glob
import hashlib
import importlib.util
import json
import os
import platform
import pwd
import re
import shutil
import socket
import ssl

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.frameworks.database.plugins.module_utils.postgres_password import matches
from ansible_collections.frameworks.database.plugins.module_utils.yugabyte import (
    MASTER_HTTP,
    SUPERUSER,
    TSERVER_HTTP,
    YugabyteError,
    list_masters,
    read,
    ysqlsh,
)
from ansible_collections.frameworks.database.plugins.module_utils.yugabyte_flags import SECRET, in_force

BUILTIN_PASSWORD = "yugabyte"


def content(path):
    """A small file's text, or "" where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def system():
    release = {
        name: value.strip('"') for name, _equals, value in
        (line.partition("=") for line in content("/etc/os-release").splitlines()) if value
    }
    memory = re.search(r"^MemTotal:\s+(\d+)", content("/proc/meminfo"), re.MULTILINE)
    huge = re.search(r"\[(\w+)\]", content("/sys/kernel/mm/transparent_hugepage/enabled"))
    return {
        "id": release.get("ID", ""), "version": release.get("VERSION_ID", ""), "name": release.get("PRETTY_NAME", ""),
        "machine": platform.machine(), "memory_mb": int(memory.group(1)) // 1024 if memory else 0,
        "systemd": os.path.isdir("/run/systemd/system"), "huge_pages": huge.group(1) if huge else None,
        "python": platform.python_version(), "driver": importlib.util.find_spec("psycopg2") is not None,
    }


def disk(path):
    """The file system that holds a directory, or will."""
    here = path
    while not os.path.exists(here):
        here = os.path.dirname(here) or "/"
    usage = shutil.disk_usage(here)
    best = ("", "", "")
    for line in content("/proc/self/mounts").splitlines():
        _device, mount, kind, options = line.split()[:4]
        mount = mount.encode().decode("unicode_escape")
        if (here == mount or here.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best[0]):
            best = (mount, kind, options)
    return {
        "path": path, "mount": best[0], "type": best[1], "options": best[2].split(","),
        "size_gb": round(usage.total / 2**30, 1), "free_gb": round(usage.free / 2**30, 1),
    }


def clock(run):
    for words, answer in (
        (["chronyc", "-n", "tracking"], lambda out: "Leap status     : Normal" in out),
        (["timedatectl", "show", "--property=NTPSynchronized", "--value"], lambda out: out.strip() == "yes"),
    ):
        if shutil.which(words[0]):
            status, out, _err = run(words)
            if status == 0:
                return {"synchronised": answer(out)}
    return {"synchronised": None}


def addresses(name):
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


def listeners(wanted):
    """{port: {"program", "user"} of what listens on it}; the program is "?" where it cannot be told."""
    inodes, found = {}, dict.fromkeys(map(str, wanted))
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in content(table).splitlines()[1:]:
            words = line.split()
            port = int(words[1].rsplit(":", 1)[1], 16)
            if words[3] == "0A" and port in wanted:
                inodes[words[9]] = port
                found[str(port)] = {"program": "?", "user": account(int(words[7]))}
    if not inodes:
        return found
    for link in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            inode = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
            if inode and inode.group(1) in inodes:
                process = link.split("/")[2]
                name = os.path.basename(content(f"/proc/{process}/cmdline").split("\0")[0])
                # An interpreter is not what an operator would look for.
                if re.fullmatch(r"python[\d.]*", name):
                    name = os.path.basename(content(f"/proc/{process}/cmdline").split("\0")[1])
                found[str(inodes[inode.group(1)])]["program"] = name
    return found


def checksum(path):
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


def kept_flags(path):
    return dict(re.findall(
        r"^--(fs_data_dirs|placement_\w+|use_node_to_node_encryption)=(.*)$", content(path), re.MULTILINE
    ))


def account(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def owner(path):
    try:
        return account(os.stat(path).st_uid)
    except OSError:
        return None


def upgrade(path):
    text = content(path) if path else ""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return {"from": "?", "to": "?"}


def certificate(path):
    pem = content(path) if path else ""
    if not pem:
        return None
    try:
        # Without a password it would ask a terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, f"{path[:-4]}.key", password="")
        fits = True
    except (OSError, ssl.SSLError):
        fits = False
    return {"pem": pem, "key_fits": fits}


def services(run, units):
    """{server: state of its unit}; one call for all of them."""
    names = ("Id", "LoadState", "ActiveState", "UnitFileState", "MainPID", "NeedDaemonReload")
    found = {}
    blocks = []
    if units and shutil.which("systemctl"):
        _status, out, _err = run(["systemctl", "show", f"--property={','.join(names)}", *units.values()])
        blocks = [
            dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in out.split("\n\n")
        ]
    for server, unit in units.items():
        block = next((one for one in blocks if one.get("Id") == f"{unit}.service"), {})
        pid = int(block.get("MainPID") or 0)
        environment = dict(
            entry.partition("=")[::2] for entry in content(f"/proc/{pid}/environ").split("\0")
        ) if pid else {}
        found[server] = {
            "present": block.get("LoadState") == "loaded", "state": block.get("ActiveState", "unknown"),
            "enabled": block.get("UnitFileState") == "enabled", "pid": pid,
            "reload": block.get("NeedDaemonReload") == "yes",
            "configuration": environment.get("FRAMEWORKS_CONFIGURATION"),
            "release": environment.get("FRAMEWORKS_RELEASE"),
        }
    return found


def flags(address, server, wanted):
    """Of the wanted flags of a running server that it knows {flag: value}, and which have its own value."""
    try:
        values, own = in_force(address, MASTER_HTTP if server == "master" else TSERVER_HTTP)
    except YugabyteError:
        return {}, []
    return {flag: value for flag, value in values.items() if flag in wanted}, sorted(own.intersection(wanted))


def data(directories):
    """What the servers have left in the data directories."""
    def present(*parts):
        return any(os.path.exists(os.path.join(one, "yb-data", *parts)) for one in directories)

    master = "absent"
    if present("master"):
        formed = any(glob.glob(os.path.join(one, "yb-data/master/consensus-meta/*")) for one in directories)
        master = "formed" if formed else "unformed"
    return {"master": master, "tserver": "present" if present("tserver") else "absent"}


def opened(rules):
    """Whether the lines of ysql_hba.conf let anybody in from the network."""
    for line in rules.splitlines():
        words = line.split()
        if words and words[0].startswith("host"):
            if words[-1] != "reject":
                return True
            if words[1:4] in (["all", "all", "0.0.0.0/0"], ["all", "all", "all"]):
                return False  # what comes after it is never reached
    return False


def ysql(program, directories, password):
    """Who may log in, asked over the socket, where the superuser's own account needs no password."""
    answer = {"runs": False, "opened": False, "socket": None, "superuser": None, "md5_roles": None, "error": None}
    for directory in directories:
        answer["opened"] = answer["opened"] or opened(content(os.path.join(directory, "pg_data/ysql_hba.conf")))
        lines = content(os.path.join(directory, "pg_data/postmaster.pid")).splitlines()
        if len(lines) < 5 or not os.path.exists(f"{lines[4]}/.s.PGSQL.{lines[3]}"):
            continue
        answer["runs"], answer["socket"], port = True, lines[4], lines[3]
        status, out, err = ysqlsh(
            program, answer["socket"], port,
            "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolcanlogin AND rolpassword IS NOT NULL",
        )
        if status:
            answer["error"] = err
            break
        stored = dict(line.split("\t") for line in out.splitlines())
        answer["md5_roles"] = sorted(role for role, secret in stored.items() if secret.startswith("md5"))
        secret = stored.get(SUPERUSER)
        if matches(BUILTIN_PASSWORD, SUPERUSER, secret, "md5"):
            answer["superuser"] = "builtin"
        elif password is not None:
            fits = matches(password, SUPERUSER, secret, "scram-sha-256")
            answer["superuser"] = "current" if fits else "other"
        break
    return answer


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "masters": {"type": "list", "elements": "str", "default": []},
            "install_dir": {"type": "path", "required": True},
            "data_dirs": {"type": "list", "elements": "path", "required": True},
            "certificate": {"type": "path"},
            "user": {"type": "str", "default": "yugabyte"},
            "files": {"type": "list", "elements": "path", "default": []},
            "directories": {"type": "list", "elements": "path", "default": []},
            "flag_files": {"type": "dict", "default": {}},
            "upgrade_record": {"type": "path"},
            "sysctls": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
            "services": {"type": "dict", "default": {"master": "yugabyte-master", "tserver": "yugabyte-tserver"}},
            "runtime_flags": {"type": "list", "elements": "str", "default": []},
            "release": {"type": "str"},
            "superuser_password": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        account = pwd.getpwnam(params["user"])
        user = {"uid": account.pw_uid, "gid": account.pw_gid, "home": account.pw_dir}
    except KeyError:
        user = None
    releases = {
        os.path.basename(path): os.path.exists(f"{path}/.post_install.sh.completed")
        for path in sorted(glob.glob(f"{params['install_dir']}/yugabyte-*")) if os.path.isdir(path)
    }
    running = services(module.run_command, params["services"])
    for server, state in running.items():
        wanted = params["runtime_flags"] if state["pid"] else []
        state["flags"], state["own_flags"] = flags(params["address"], server, wanted) if wanted else ({}, [])
    masters, cluster = [], None
    if running.get("master", {}).get("pid") or running.get("tserver", {}).get("pid"):
        with contextlib.suppress(YugabyteError):
            masters = list_masters(params["address"], timeout=3)
        with contextlib.suppress(YugabyteError):
            own = [params["address"]] if masters else []
            cluster = read(own or params["masters"] or [params["address"]], timeout=3).summary()
    release = params["release"] or running.get("tserver", {}).get("release") or ""
    module.exit_json(changed=False, node={
        "system": system(),
        "disks": [disk(path) for path in params["data_dirs"]],
        "install": disk(params["install_dir"]),
        "clock": clock(module.run_command),
        "addresses": addresses(params["address"]),
        "ports": listeners(params["ports"]),
        "user": user,
        "releases": releases,
        "files": {path: checksum(path) for path in params["files"]},
        "directories": {path: owner(path) for path in params["directories"]},
        "flags": {server: kept_flags(path) for server, path in params["flag_files"].items()},
        "secret_files": [path for path in params["flag_files"].values() if SECRET.search(content(path))],
        "upgrade": upgrade(params["upgrade_record"]),
        "sysctls": {
            name: " ".join(content(f"/proc/sys/{name.replace('.', '/')}").split()) or None for name in params["sysctls"]
        },
        "certificate": certificate(params["certificate"]),
        "services": running,
        "data": data(params["data_dirs"]),
        "masters": masters,
        "cluster": cluster,
        "ysql": ysql(
            f"{params['install_dir']}/{release}/bin/ysqlsh", params["data_dirs"], params["superuser_password"],
        ),
    })


if __name__ == "__main__":
    main()
