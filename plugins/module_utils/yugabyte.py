# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A YugabyteDB cluster as its masters see it, and the commands that change it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time

from ansible.module_utils.urls import open_url

SUPERUSER = "yugabyte"
MASTER_RPC, MASTER_HTTP = 7100, 7000
TSERVER_RPC, TSERVER_HTTP = 9100, 9000

CLUSTER_SPEC = {
    "masters": {"type": "list", "elements": "str", "required": True},
    "bin_dir": {"type": "path", "required": True},
    "certs_dir": {"type": "path"},
    "timeout": {"type": "int", "default": 300},
}


class YugabyteError(Exception):
    """Whatever this file raises; the text is a whole sentence for the operator."""


class NoLeader(YugabyteError):
    """No master answered as, or for, a leader."""


class AdminFailed(YugabyteError):
    """yb-admin failed; `said` is what it said."""

    def __init__(self, command, said):
        self.said = said
        super().__init__(f"yb-admin {command} failed: {said}")


class TimedOut(YugabyteError):
    """Something awaited did not come; the text says what is missing."""


class Cluster:
    """What the masters' pages say at one moment; `read()` makes one.

    masters: [{"host", "uuid", "role", "zone"}] of the quorum; uuid is empty for one that does not answer.
    tservers: [{"host", "uuid", "alive", "silent" (seconds since its last heartbeat), "uptime", "leaders", "tablets",
    "zone"}].
    under_replicated, leaderless: how many tablets.
    placement: ["cloud.region.zone"], sorted, empty until it was set; replicas: its replication factor, or None.
    blacklist, leader_blacklist: ["host:port"].
    """

    def __init__(self, masters, tservers, under_replicated, leaderless, config):
        self.masters, self.tservers = masters, tservers
        self.under_replicated, self.leaderless = under_replicated, leaderless
        live = config.get("replication_info", {}).get("live_replicas", {})
        self.placement = sorted(_zone(block.get("cloud_info", {})) for block in live.get("placement_blocks", []))
        self.replicas = live.get("num_replicas")
        self.blacklist, self.leader_blacklist = (
            sorted(f"{host['host']}:{host['port']}" for host in config.get(name, {}).get("hosts", []))
            for name in ("server_blacklist", "leader_blacklist")
        )

    @property
    def leader(self):
        """The masters' leader, as an entry of `masters`."""
        return next(one for one in self.masters if one["role"] == "LEADER")

    def master(self, host):
        """The entry of the master on `host`, or None."""
        return next((one for one in self.masters if one["host"] == host), None)

    def tserver(self, host):
        """The entry of the latest tserver on `host`, or None."""
        return min((one for one in self.tservers if one["host"] == host), key=lambda one: one["silent"], default=None)

    def master_problems(self, masters=(), without=()):
        """What is wrong with the quorum, as sentences; see `problems`."""
        found = []
        for host in sorted({one["host"] for one in self.masters} | set(masters)):
            entry = self.master(host)
            if ("master", host) in without:
                continue
            if entry is None:
                found.append(f"no yb-master on {host} is part of the quorum")
            elif entry["role"] not in ("LEADER", "FOLLOWER"):
                found.append(f"the yb-master on {host} does not answer the others")
        return found

    def problems(self, masters=(), tservers=(), without=()):
        """What is wrong, as sentences; none for a healthy cluster.

        masters, tservers: hosts that have to take part. without: (kind, host) of each server that may be down.
        """
        found = self.master_problems(masters, without)
        for host in sorted({one["host"] for one in self.tservers} | set(tservers)):
            entry = self.tserver(host)
            if ("tserver", host) in without or (entry and not entry["tablets"] and host not in tservers):
                continue
            if entry is None:
                found.append(f"no yb-tserver on {host} has registered")
            elif not entry["alive"]:
                found.append(f"the yb-tserver on {host} is dead: its last heartbeat was {entry['silent']:.0f} s ago")
        if self.leaderless:
            found.append(f"{self.leaderless} tablets have no leader")
        # The tablets of a server that is down count as under-replicated; whether it may be down, the caller knows.
        down = any(kind == "tserver" and not (self.tserver(host) or {}).get("alive") for kind, host in without)
        if self.under_replicated and not down:
            found.append(f"{self.under_replicated} tablets are under-replicated")
        return found

    def summary(self):
        """For a task's result."""
        return {
            name: getattr(self, name)
            for name in (
                "masters", "tservers", "under_replicated", "leaderless", "placement", "replicas", "blacklist",
                "leader_blacklist",
            )
        }


def _zone(cloud_info):
    return ".".join(cloud_info.get(f"placement_{part}", "") for part in ("cloud", "region", "zone"))


def get(host, port, path, timeout=5):
    """The JSON of a server's page. Raises YugabyteError where there is none."""
    address = f"[{host}]" if ":" in host else host
    try:
        answer = open_url(f"http://{address}:{port}{path}", use_proxy=False, timeout=timeout, use_netrc=False)
        return json.loads(answer.read())
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors, http.client's come as them too
        raise YugabyteError(f"http://{address}:{port}{path}: {error}") from None
    except Exception as error:
        if type(error).__module__.startswith(("http.", "urllib")):
            raise YugabyteError(f"http://{address}:{port}{path}: {error!r}") from None
        raise


def list_masters(host, timeout=5):
    """The quorum as the master on `host` sees it: [{"host", "uuid", "role", "zone"}]. Raises YugabyteError."""
    listed = []
    for entry in get(host, MASTER_HTTP, "/api/v1/masters", timeout).get("masters", []):
        error = entry.get("error")
        registration = entry.get("registration", {})
        addresses = registration.get("broadcast_addresses") or registration.get("private_rpc_addresses") or [{}]
        if error:
            # In older releases the only place that names a master which does not answer.
            named = re.search(r"peer \(\[(.+?)\]\) id \((.*?)\)", json.dumps(error))
            # First where it listens, then what the others know it by.
            hosts = [address.rsplit(":", 1)[0] for address in named.group(1).split(", ")] if named else [""]
            listed.append({
                "host": addresses[0].get("host") or hosts[-1], "uuid": named.group(2) if named else "",
                "role": "UNREACHABLE", "zone": "",
            })
            continue
        listed.append({
            "host": addresses[0].get("host", ""), "uuid": entry.get("instance_id", {}).get("permanent_uuid", ""),
            "role": entry.get("role", "UNKNOWN_ROLE"), "zone": _zone(registration.get("cloud_info", {})),
        })
    return listed


def read(masters, timeout=5):
    """The Cluster behind any of these masters. Raises NoLeader, naming what each of them said."""
    heard = []
    for host in masters:
        try:
            listed = list_masters(host, timeout)
        except YugabyteError as error:
            heard.append(str(error))
            continue
        leader = next((one for one in listed if one["role"] == "LEADER"), None)
        if not leader:
            roles = ", ".join(f"{one['host'] or '?'} {one['role']}" for one in listed) or "an empty list"
            heard.append(f"the yb-master on {host} knows no leader ({roles})")
            continue
        try:
            pages = {
                page: get(leader["host"], MASTER_HTTP, f"/api/v1/{page}", timeout)
                for page in ("tablet-servers", "health-check", "tablet-replication", "tablet-under-replication",
                             "cluster-config")
            }
        except YugabyteError as error:
            heard.append(str(error))
            continue
        short = {entry["tablet_uuid"] for entry in pages["tablet-under-replication"].get("underreplicated_tablets", [])}
        short.update(pages["health-check"].get("under_replicated_tablets", []))
        # A page that could not be worked out says so in place of its list, and nothing may pass for healthy then.
        broken = [f"{page}: {content['error']}" for page, content in pages.items() if content.get("error")]
        if broken:
            heard.append(f"the yb-master on {leader['host']} could not tell {'; '.join(broken)}")
            continue
        return Cluster(
            listed, _tservers(pages["tablet-servers"]), len(short),
            len(pages["tablet-replication"].get("leaderless_tablets", [])), pages["cluster-config"],
        )
    raise NoLeader(f"No master's leader was found: {'; '.join(heard) or 'no masters were named'}.")


def _tservers(page):
    return [
        {
            "host": address.rsplit(":", 1)[0].strip("[]"), "uuid": entry["permanent_uuid"],
            "alive": entry["status"] == "ALIVE", "silent": float(entry["time_since_hb_sec"]),
            "uptime": int(entry["uptime_seconds"]),
            "leaders": entry["user_tablets_leaders"] + entry["system_tablets_leaders"],
            "tablets": entry["user_tablets_total"] + entry["system_tablets_total"],
            "zone": ".".join((entry["cloud"], entry["region"], entry["zone"])),
        }
        for placement in page.values() if isinstance(placement, dict)
        for address, entry in placement.items()
    ]


class Admin:
    """yb-admin. `run` is AnsibleModule.run_command; params are the values of CLUSTER_SPEC."""

    def __init__(self, run, params):
        self.run = run
        self.command = [f"{params['bin_dir']}/yb-admin"]
        if params["certs_dir"]:
            self.command += ["--certs_dir_name", params["certs_dir"]]
        self.masters = params["masters"]

    def __call__(self, *words, timeout=60, masters=None):
        """The output of one command; `timeout` in seconds. Raises AdminFailed."""
        addresses = ",".join(f"{host}:{MASTER_RPC}" for host in masters or self.masters)
        status, out, err = self.run(
            [*self.command, "--master_addresses", addresses, "--timeout_ms", str(timeout * 1000), *words]
        )
        if status:
            raise AdminFailed(words[0], (err or out).strip())
        return out

    def percent(self, command):
        """What get_load_move_completion or get_leader_blacklist_completion says is done, 0 to 100."""
        said = self(command)
        found = re.search(r"Percent complete = ([\d.]+)", said)
        if not found:
            raise AdminFailed(command, f"an answer without a percentage: {said.strip()}")
        return float(found.group(1))

    def require_balancer(self, host):
        """Raises YugabyteError where nothing moves off a tserver because somebody has switched the balancer off."""
        try:
            said = self("get_load_balancer_state")
        except AdminFailed:  # whoever is to move it says what is wrong, or the release has no such command
            return
        if re.search(r"\bLEADER\b.*\bDISABLED\b", said):
            raise YugabyteError(
                f"The load balancer of the cluster is switched off, so nothing moves off the yb-tserver on {host}. "
                "Switch it on: yb-admin set_load_balancer_enabled 1"
            )

    def unsafe_to_stop(self, kind, uuid):
        """Why the server may not be stopped now, or None. Knows no reason where yb-admin has no such command."""
        pair = (uuid, "NONE") if kind == "tserver" else ("NONE", uuid)
        said = None
        # One list of servers in the released form, one list each of tservers and masters before it.
        for words in ((uuid,), (*pair, "1000")):
            try:
                self("are_nodes_safe_to_take_down", *words)
                return None
            except AdminFailed as error:
                said = error.said
                if "nvalid operation" in said:
                    return None
                if "Usage:" not in said and "nvalid argument" not in said:
                    break
        return said


def ysqlsh(program, socket, port, statement):
    """(status, output, errors) of SQL as the superuser over YSQL's socket; columns are separated by tabs.

    Nothing of the caller's libpq environment counts, which may be about another server.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    try:
        done = subprocess.run(
            [program, "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-h", socket, "-p", str(port),
             "-U", SUPERUSER, "-d", "yugabyte"],
            input=statement, capture_output=True, text=True, check=False, timeout=60,
            env={**environment, "PGCONNECT_TIMEOUT": "10", "PGPASSFILE": "/dev/null/none"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, " ".join(done.stderr.split())


def wait(condition, seconds, steady=0, pause=1.0, clock=time.monotonic, sleep=time.sleep):
    """Call `condition()` until it has returned nothing for `steady` seconds without a break. Returns how often.

    It returns what is still missing, as a list of sentences; a YugabyteError that it raises counts as one.
    Raises TimedOut with the last of these sentences once `seconds` are over.
    """
    start, since, calls = clock(), None, 0
    while True:
        calls += 1
        try:
            missing = condition()
        except YugabyteError as error:
            missing = [str(error).rstrip(".")]
        now = clock()
        if missing:
            since = None
            if now - start >= seconds:
                raise TimedOut("; ".join(missing))
        else:
            since = now if since is None else since
            if now - since >= steady:
                return calls
        sleep(pause)
