# Stand-in for what YugabyteDB's masters do together. Not YugabyteDB: no Raft, no storage, a few made-up tablets.
"""Membership, leadership, placement and the balancer of one pretended cluster; nothing here waits or talks."""

import itertools
import uuid

TABLETS = {"user": 6, "system": 6}
HEARTBEAT_SECONDS = 4.0  # a server that was silent for longer leads nothing
CATCH_UP_SECONDS = 1.0  # what the replicas of a server need after its start
ELECTION_SECONDS = 0.5
BALANCER_SECONDS = 0.05  # for moving one leader or one replica


class Refused(Exception):
    """What yb-admin prints after "Error running …"."""


class Cluster:
    """`now` is a clock in seconds; every public method brings the state up to date first."""

    def __init__(self, now):
        self.now = now
        self.uuid = str(uuid.uuid4())
        self.candidates = {}  # masters that heartbeat: uuid -> dictionary
        self.members = {}  # the masters' consensus: uuid -> (host, port)
        self.tservers = {}
        self.tablets = []  # {"id", "kind", "replicas": [uuid], "leader": uuid or None}
        self._led_at = {}  # when the masters' leader last heard of a tablet's leader
        self.leader = None
        self.leader_since = None
        self.config_version = 0
        self.placement = None  # {"blocks": [(cloud, region, zone)], "replicas": n}
        self.blacklist, self.leader_blacklist = set(), set()
        self.auto_flags = {"version": 1, "release": None}
        self._lost_leader, self._balanced, self.balancing = None, 0.0, True

    # -- what the servers say ---------------------------------------------------------------------------------------

    def heartbeat(self, kind, server):
        """A server is alive. Returns what it needs to know; raises Refused where it has to stop."""
        server = {**server, "seen": self.now()}
        known = self.candidates if kind == "master" else self.tservers
        before = known.get(server["uuid"])
        server["started"] = before["started"] if before and before["seqno"] == server["seqno"] else self.now()
        if self.auto_flags["release"] and _release(server["version"]) < _release(self.auto_flags["release"]):
            raise Refused(
                f"AutoFlags of {self.auto_flags['release']} are in force; {server['version']} does not know all of them"
            )
        known[server["uuid"]] = server
        if kind == "master":
            self._form()
        self._advance()
        return {
            "leader": self.candidates.get(self.leader),
            "is_leader": server["uuid"] == self.leader,
            "member": server["uuid"] in self.members,
            "uuid": self.uuid,
        }

    def _form(self):
        """The first consensus: as soon as every master of one list has called, and nobody has another."""
        if self.members:
            return
        living = [one for one in self.candidates.values() if self._alive(one) and one["masters"]]
        for one in living:
            wanted = set(one["masters"])
            same = {f"{other['host']}:{other['port']}": other for other in living if set(other["masters"]) == wanted}
            if set(same) == wanted:
                self.members = {other["uuid"]: (other["host"], other["port"]) for other in same.values()}
                self.placement = None
                self.replication_factor = one["replication_factor"]
                return

    # -- time passes ------------------------------------------------------------------------------------------------

    def _alive(self, server):
        return bool(server) and self.now() - server["seen"] <= HEARTBEAT_SECONDS

    def _master_flag(self, name, default):
        leader = self.candidates.get(self.leader) or {}
        return float(leader.get("flags", {}).get(name, default))

    def _listed_alive(self, tserver):
        """What the master's pages say, which is later than what Raft notices."""
        return self.now() - tserver["seen"] <= self._master_flag("tserver_unresponsive_timeout_ms", 60000) / 1000

    def _serves(self, tserver_uuid):
        return self._alive(self.tservers.get(tserver_uuid))

    def _caught_up(self, tserver_uuid):
        one = self.tservers.get(tserver_uuid)
        return self._alive(one) and self.now() - one["started"] >= CATCH_UP_SECONDS

    def _advance(self):
        living = sorted(one for one in self.members if self._alive(self.candidates.get(one)))
        if not self.members or len(living) * 2 <= len(self.members):
            self.leader, self._lost_leader = None, self.now()
        elif self.leader not in living:
            self.leader = None
            self._lost_leader = self._lost_leader or self.now()
            if self.now() - self._lost_leader >= ELECTION_SECONDS:
                self._lead(living[0])
        else:
            self._lost_leader = None
        if not self.leader:
            return
        replicas = self.placement["replicas"] if self.placement else self.replication_factor
        if not self.tablets and sum(map(self._serves, self.tservers)) >= replicas:
            for number, kind in enumerate(kind for kind, count in TABLETS.items() for _ in range(count)):
                spread = sorted(filter(self._serves, self.tservers))
                chosen = [spread[(number + step) % len(spread)] for step in range(replicas)]
                self.tablets.append({"id": f"{number:032x}", "kind": kind, "replicas": chosen, "leader": chosen[0]})
            self._balanced = self.now()
        for tablet in self.tablets:
            voters = [one for one in tablet["replicas"] if self._serves(one)]
            if len(voters) * 2 <= len(tablet["replicas"]):
                tablet["leader"] = None  # one that lives has lost its lease
            elif not self._serves(tablet["leader"]):
                tablet["leader"] = min(sorted(voters), key=self._led)
            if tablet["leader"] and self._reported(tablet["leader"]):
                self._led_at[tablet["id"]] = self.now()
        while self.now() - self._balanced >= BALANCER_SECONDS:
            self._balanced += BALANCER_SECONDS
            if not self.balancing or not self._move_something():
                self._balanced = self.now()

    def _lead(self, master_uuid):
        """A new leader takes every tablet for led, until it has waited for long enough."""
        self.leader, self.leader_since, self._lost_leader, self._led_at = master_uuid, self.now(), None, {}

    def _led(self, tserver_uuid):
        """The order in which tservers get leaders: those that may, then those with few."""
        return (
            self._address(tserver_uuid) in self.leader_blacklist | self.blacklist,
            sum(tablet["leader"] == tserver_uuid for tablet in self.tablets),
        )

    def _address(self, tserver_uuid):
        one = self.tservers[tserver_uuid]
        return f"{one['host']}:{one['port']}"

    def _may_hold(self, tserver_uuid, tablet):
        return (
            self._serves(tserver_uuid)
            and self._address(tserver_uuid) not in self.blacklist
            and tserver_uuid not in tablet["replicas"]
        )

    def _move_something(self):
        """Let the balancer make one move. Returns whether it found one."""
        for tablet in self.tablets:
            leaving = [one for one in tablet["replicas"] if self._address(one) in self.blacklist or self._evicted(one)]
            for one in leaving:
                rest = [other for other in tablet["replicas"] if other != one]
                targets = [other for other in self.tservers if self._may_hold(other, tablet)]
                targets = [other for other in targets if self._zones_kept([*rest, other])]
                if targets:
                    load = {other: sum(other in t["replicas"] for t in self.tablets) for other in targets}
                    tablet["replicas"] = [*rest, min(sorted(targets), key=load.get)]
                    if tablet["leader"] == one:
                        tablet["leader"] = min(filter(self._serves, tablet["replicas"]), key=self._led, default=None)
                    return True
        load = {one: sum(one in tablet["replicas"] for tablet in self.tablets) for one in self.tservers}
        for tablet, one in [(each, one) for each in self.tablets for one in each["replicas"]]:
            rest = [other for other in tablet["replicas"] if other != one]
            for other in self.tservers:
                lighter = self._serves(one) and load[other] + 1 < load[one]
                if lighter and self._may_hold(other, tablet) and self._zones_kept([*rest, other]):
                    tablet["replicas"] = [*rest, other]
                    if tablet["leader"] == one:
                        tablet["leader"] = min(filter(self._serves, tablet["replicas"]), key=self._led)
                    return True
        for tablet in self.tablets:
            if not tablet["leader"]:
                continue
            best = min(
                (one for one in tablet["replicas"] if self._caught_up(one)), key=self._led, default=tablet["leader"]
            )
            here, there = self._led(tablet["leader"]), self._led(best)
            if (here[0] and not there[0]) or (here[0] == there[0] and here[1] > there[1] + 1):
                tablet["leader"] = best
                return True
        return False

    def _evicted(self, tserver_uuid):
        limit = float(self.tservers[tserver_uuid]["flags"].get("follower_unavailable_considered_failed_sec", 900))
        return self.now() - self.tservers[tserver_uuid]["seen"] > limit

    def _reported(self, tserver_uuid):
        return self.tservers[tserver_uuid]["seen"] > self.leader_since

    def _zones_kept(self, replicas):
        if not self.placement:
            return True
        zones = [tuple(self.tservers[one]["placement"]) for one in replicas]
        return all(block in zones for block in self.placement["blocks"])

    # -- what the pages show ----------------------------------------------------------------------------------------

    def masters(self):
        """[{member's dictionary, "role", "alive"}], members only."""
        self._advance()
        listed = []
        for one, (host, port) in self.members.items():
            server = self.candidates.get(one) or {}
            alive = self._alive(server)
            role = "LEADER" if one == self.leader else "FOLLOWER" if alive else "UNKNOWN_ROLE"
            listed.append({**server, "uuid": one, "host": host, "port": port, "role": role, "alive": alive})
        return listed

    def require_leader(self):
        """Raises Refused unless the masters have a leader."""
        self._advance()
        if not self.leader:
            raise Refused("Timed out: Could not locate the leader master: the masters have none")

    def tablet_servers(self):
        """[{tserver's dictionary, "alive", and its counts of tablets and leaders}]"""
        self.require_leader()
        return [
            {
                **one,
                "alive": self._listed_alive(one),
                "seconds": round(self.now() - one["seen"], 1),
                **{
                    f"{kind}_{what}": sum(
                        tablet["kind"] == kind
                        and (
                            one["uuid"] == tablet["leader"] if what == "leaders" else one["uuid"] in tablet["replicas"]
                        )
                        for tablet in self.tablets
                    )
                    for kind, what in itertools.product(TABLETS, ("total", "leaders"))
                },
            }
            for one in self.tservers.values()
        ]

    def health(self):
        """dead_nodes, under_replicated_tablets, and underreplicated and leaderless as the two other pages have them."""
        self.require_leader()
        dead = [one["uuid"] for one in self.tservers.values() if not self._listed_alive(one)]
        wanted = self.placement["replicas"] if self.placement else self.replication_factor
        living = [one for one in self.tservers.values() if one["uuid"] not in dead]
        short = [tablet["id"] for tablet in self.tablets if len(tablet["replicas"]) < wanted]
        # A new leader knows of no replica before the server that holds it has called.
        short += [tablet["id"] for tablet in self.tablets if not all(map(self._reported, tablet["replicas"]))]
        short += [
            tablet["id"]
            for tablet in self.tablets
            if not self._zones_kept(tablet["replicas"]) or any(map(self._evicted, tablet["replicas"]))
        ]
        return {
            "dead_nodes": dead,
            "most_recent_uptime": int(min((self.now() - one["started"] for one in living), default=2**64 - 1)),
            "under_replicated_tablets": sorted(
                {tablet["id"] for tablet in self.tablets if set(tablet["replicas"]) & set(dead)} | set(short)
            ),
            "underreplicated": sorted(set(short)),
            "leaderless": [
                tablet["id"] for tablet in self.tablets
                if self.now() - self._led_at.get(tablet["id"], self.leader_since)
                > self._master_flag("leaderless_tablet_alert_delay_secs", 120)
            ],
        }

    # -- yb-admin ---------------------------------------------------------------------------------------------------

    def modify_placement_info(self, blocks, replicas):
        self.require_leader()
        parts = [tuple(block.split(".")) for block in blocks.split(",") if block]
        if any(len(part) != 3 for part in parts):
            raise Refused("Invalid command: Each placement info must have exactly 3 values seperated by dots")
        if len(parts) > int(replicas):
            raise Refused("Invalid argument: num_replicas is smaller than the sum of min_num_replicas")
        self.placement = {"blocks": parts, "replicas": int(replicas)}
        self.config_version += 1

    def change_blacklist(self, leaders, change, *addresses):
        self.require_leader()
        which = self.leader_blacklist if leaders else self.blacklist
        if change == "ADD":
            which.update(addresses)
        else:
            which.difference_update(addresses)
        self.config_version += 1

    def moves_left(self, leaders):
        """(left, of all) of what the blacklist asks to be moved."""
        self.require_leader()
        which = self.leader_blacklist if leaders else self.blacklist
        gone = {one for one in self.tservers if self._address(one) in which}
        if leaders:
            return sum(tablet["leader"] in gone for tablet in self.tablets), len(self.tablets)
        return sum(one in gone for tablet in self.tablets for one in tablet["replicas"]), sum(
            len(tablet["replicas"]) for tablet in self.tablets
        )

    def idle(self):
        self.require_leader()
        return self.now() - self._balanced < BALANCER_SECONDS and not (self.balancing and self._would_move())

    def _would_move(self):
        before = [dict(tablet) for tablet in self.tablets]
        moved = self._move_something()
        self.tablets = before
        return moved

    def step_down(self, new=None):
        self.require_leader()
        living = sorted(one for one in self.members if self._alive(self.candidates.get(one)) and one != self.leader)
        if new and new not in living:
            raise Refused(f"Unable to step down: {new} is not a living master")
        if not living:
            raise Refused("Unable to step down: there is no other living master")
        self._lead(new or living[0])

    def change_master_config(self, change, host, port, given=None):
        self.require_leader()
        at = {uuid_ for uuid_, address in self.members.items() if address == (host, int(port))}
        if change == "ADD_SERVER":
            new = next(
                (
                    one
                    for one in self.candidates.values()
                    if (one["host"], one["port"]) == (host, int(port)) and self._alive(one)
                ),
                None,
            )
            if not new:
                raise Refused(f"Network error: unable to get the UUID of {host}:{port}: connection refused")
            if at:
                raise Refused(f"Invalid argument: Server with UUID {new['uuid']} is already a voter")
            self.members[new["uuid"]] = (host, int(port))
            return
        if not at:
            raise Refused(f"Not found: no master at {host}:{port} in the config")
        if self.leader in at:
            self.step_down()
        for one in at:
            del self.members[one]

    def safe_to_take_down(self, uuids):
        self.require_leader()
        unknown = [one for one in uuids if one not in self.tservers and one not in self.members]
        if unknown:
            raise Refused(f"Invalid argument: Unknown server {unknown[0]}")
        short = 0
        for tablet in self.tablets:
            left = [one for one in tablet["replicas"] if one not in uuids and self._caught_up(one)]
            short += len(left) * 2 <= len(tablet["replicas"])
        left = [one for one in self.members if one not in uuids and self._alive(self.candidates.get(one))]
        short += any(one in self.members for one in uuids) and len(left) * 2 <= len(self.members)
        if short:
            raise Refused(
                f"Illegal state: Unable to check if nodes are safe to take down: {short} tablet(s) would be "
                "under-replicated."
            )

    def promote_auto_flags(self):
        """Whether there was something to promote."""
        self.require_leader()
        servers = [self.candidates[one] for one in self.members if one in self.candidates]
        servers += [one for one in self.tservers.values() if self._alive(one)]
        oldest = min((one["version"] for one in servers), key=_release)
        if self.auto_flags["release"] and _release(oldest) <= _release(self.auto_flags["release"]):
            return False
        self.auto_flags = {"version": self.auto_flags["version"] + 1, "release": oldest}
        return True

    def remove_tablet_server(self, tserver_uuid):
        self.require_leader()
        if self._serves(tserver_uuid) or any(tserver_uuid in tablet["replicas"] for tablet in self.tablets):
            raise Refused(f"Invalid argument: {tserver_uuid} lives or still has tablets")
        if tserver_uuid not in self.tservers:
            raise Refused(f"Not found: no tserver {tserver_uuid}")
        if self._address(tserver_uuid) not in self.blacklist:
            raise Refused(f"Invalid argument: Tablet server {tserver_uuid} is not blacklisted")
        del self.tservers[tserver_uuid]


def _release(version):
    return tuple(int(part) for part in version.split("."))
