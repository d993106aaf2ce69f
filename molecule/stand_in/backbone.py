#!/usr/bin/env python3
# Stand-in for what a YugabyteDB cluster shares. Not YugabyteDB: one process for the state, one PostgreSQL for the data.
"""Runs beside the nodes, on an address that all of them reach: backbone.py HOST PORT DIRECTORY.

PORT answers the servers (release/lib/stand_in/rpc.py); PORT + 1 is the PostgreSQL that asks for passwords, PORT + 2 the
one that trusts. It is ready when it prints "ready".
"""

import asyncio
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "release/lib")]

from cluster import Cluster, Refused  # noqa: E402
from stand_in import rpc  # noqa: E402
from stand_in.ysql import pipe  # noqa: E402

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
SUPERUSER = "yugabyte"  # and its password


class Backbone:
    """Start with `await run()`."""

    def __init__(self, host, port, directory):
        self.host, self.port, self.directory = host, port, Path(directory)
        self.cluster = Cluster(time.monotonic)
        self.data, self.sockets = self.directory / "postgresql", self.directory / "sockets"
        self.account = None
        if os.geteuid() == 0:
            self.account = next(
                name for name in ("postgres", "nobody") if name in {one.pw_name for one in pwd.getpwall()}
            )

    # -- PostgreSQL -------------------------------------------------------------------------------------------------

    def run_as_server(self, *command, text=None):
        """A program of PostgreSQL's, as its account. RuntimeError with what it said."""
        done = subprocess.run(
            list(map(str, command)),
            user=self.account,
            cwd="/",
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(self.directory)},
        )
        if done.returncode:
            log = self.data.with_suffix(".log")
            raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}{log.read_text() if log.exists() else ''}")
        return done.stdout

    def start_postgresql(self):
        """Create it at the first start: superuser and its password as YSQL ships them, rules in every database."""
        self.sockets.mkdir(parents=True, exist_ok=True)
        if self.account:
            for one in (self.directory, self.sockets):
                shutil.chown(one, self.account)
        fresh = not self.data.exists()
        if fresh:
            secret = self.directory / "superuser"
            secret.write_text(SUPERUSER)
            secret.chmod(0o644)
            self.run_as_server(
                PROGRAMS / "initdb",
                "-D",
                self.data,
                "-U",
                SUPERUSER,
                "--pwfile",
                secret,
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--auth-local=trust",
                "--auth-host=md5",
                "--no-sync",
                "--no-instructions",
            )
            secret.unlink()
            (self.data / "pg_hba.conf").write_text("local all all trust\nhost all all all md5\n")
            (self.data / "stand_in_servers.json").write_text("[]")
        options = (
            f"-c listen_addresses={self.host} -c port={self.port + 1} -c unix_socket_directories={self.sockets} "
            f"-c fsync=off -c max_connections=200"
        )
        self.run_as_server(
            PROGRAMS / "pg_ctl",
            "-D",
            self.data,
            "-l",
            self.data.with_suffix(".log"),
            "-w",
            "-t",
            "60",
            "-o",
            options,
            "start",
        )
        if fresh:
            self.sql("CREATE ROLE postgres SUPERUSER LOGIN")
            for name in ("yugabyte", "system_platform"):
                self.sql(f"CREATE DATABASE {name}")
            self.sql("UPDATE pg_database SET datallowconn = true WHERE datname = 'template0'")
            for name in ("template0", "template1", "postgres", "yugabyte", "system_platform"):
                self.sql((HERE / "ysql.sql").read_text(), name)
            self.sql("UPDATE pg_database SET datallowconn = false WHERE datname = 'template0'")

    def sql(self, text, database="postgres"):
        self.run_as_server(
            PROGRAMS / "psql",
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            self.sockets,
            "-p",
            self.port + 1,
            "-U",
            SUPERUSER,
            "-d",
            database,
            text=text,
        )

    def stop_postgresql(self):
        self.run_as_server(PROGRAMS / "pg_ctl", "-D", self.data, "-w", "-m", "fast", "stop")

    async def trusted(self, reader, writer):
        """A connection that was let in by a trust rule of the node it comes through."""
        back, upstream = await asyncio.open_unix_connection(self.sockets / f".s.PGSQL.{self.port + 1}")
        try:
            await asyncio.wait(
                [asyncio.create_task(pipe(reader, upstream)), asyncio.create_task(pipe(back, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            upstream.close()
            writer.close()

    # -- the servers ------------------------------------------------------------------------------------------------

    async def answer(self, question):
        try:
            if question["ask"] == "heartbeat":
                answer = self.cluster.heartbeat(question["kind"], question["server"])
                if question["kind"] == "tserver":
                    self.write_servers()
                return {**answer, "time": time.time()}
            if question["ask"] == "page":
                return {"page": getattr(self, f"page_{question['page'].replace('-', '_')}")()}
            return {"said": getattr(self, f"admin_{question['command']}")(*question["arguments"])}
        except Refused as error:
            raise rpc.Failed(str(error)) from None
        except (TypeError, ValueError, KeyError) as error:
            raise rpc.Failed(f"Invalid argument: {error!r}") from None

    def write_servers(self):
        """For yb_servers()."""
        listed = json.dumps(
            [
                {
                    "host": one["host"],
                    "port": 5433,
                    "num_connections": 0,
                    "node_type": "primary",
                    "public_ip": "",
                    "cloud": one["placement"][0],
                    "region": one["placement"][1],
                    "zone": one["placement"][2],
                    "uuid": one["uuid"],
                }
                for one in self.cluster.tservers.values()
            ]
        )
        if listed != getattr(self, "_servers", None):
            new = self.data / "stand_in_servers.new"
            new.write_text(listed)
            new.chmod(0o644)
            new.rename(self.data / "stand_in_servers.json")
            self._servers = listed

    def page_masters(self):
        pages = []
        for one in self.cluster.masters():
            if not one["alive"]:
                pages.append(
                    {
                        "error": {
                            "code": "UNKNOWN_ERROR",
                            "status": {
                                "code": "NETWORK_ERROR",
                                "message": f"Unable to get registration information for peer ([{one['host']}:"
                                f"{one['port']}]) id ({one['uuid']}): connection refused",
                            },
                        },
                        "instance_id": {"permanent_uuid": one["uuid"], "instance_seqno": 0},
                        "registration": {"private_rpc_addresses": [{"host": one["host"], "port": one["port"]}]},
                    }
                )
                continue
            pages.append(
                {
                    "instance_id": {"permanent_uuid": one["uuid"], "instance_seqno": one["seqno"]},
                    "registration": {
                        "private_rpc_addresses": [{"host": one["host"], "port": one["port"]}],
                        "http_addresses": [{"host": one["host"], "port": one["http"]}],
                        "cloud_info": dict(
                            zip(("placement_cloud", "placement_region", "placement_zone"), one["placement"])
                        ),
                    },
                    "role": one["role"],
                }
            )
        return pages

    def page_tablet_servers(self):
        return {
            "": {
                f"{one['host']}:{one['http']}": {
                    "time_since_hb": f"{one['seconds']}s",
                    "time_since_hb_sec": one["seconds"],
                    "status": "ALIVE" if one["alive"] else "DEAD",
                    "uptime_seconds": int(time.monotonic() - one["started"]) if one["alive"] else 0,
                    "user_tablets_total": one["user_total"],
                    "user_tablets_leaders": one["user_leaders"],
                    "system_tablets_total": one["system_total"],
                    "system_tablets_leaders": one["system_leaders"],
                    "active_tablets": one["user_total"] + one["system_total"],
                    "cloud": one["placement"][0],
                    "region": one["placement"][1],
                    "zone": one["placement"][2],
                    "permanent_uuid": one["uuid"],
                }
                for one in self.cluster.tablet_servers()
            }
        }

    def page_health_check(self):
        health = self.cluster.health()
        return {name: health[name] for name in ("dead_nodes", "most_recent_uptime", "under_replicated_tablets")}

    def page_tablet_replication(self):
        return {
            "leaderless_tablets": [
                {"table_uuid": "0", "tablet_uuid": one, "reason": "No valid leader reported"}
                for one in self.cluster.health()["leaderless"]
            ]
        }

    def page_tablet_under_replication(self):
        return {
            "underreplicated_tablets": [
                {"table_uuid": "0", "tablet_uuid": one, "underreplicated_placements": [""]}
                for one in self.cluster.health()["underreplicated"]
            ]
        }

    def page_cluster_config(self):
        self.cluster.require_leader()
        page = {"version": self.cluster.config_version, "cluster_uuid": self.cluster.uuid}
        if self.cluster.placement:
            page["replication_info"] = {
                "live_replicas": {
                    "num_replicas": self.cluster.placement["replicas"],
                    "placement_blocks": [
                        {
                            "cloud_info": dict(zip(("placement_cloud", "placement_region", "placement_zone"), block)),
                            "min_num_replicas": 1,
                        }
                        for block in self.cluster.placement["blocks"]
                    ],
                }
            }
        for name, which in (
            ("server_blacklist", self.cluster.blacklist),
            ("leader_blacklist", self.cluster.leader_blacklist),
        ):
            hosts = [one.rsplit(":", 1) for one in sorted(which)]
            if hosts:
                page[name] = {"hosts": [{"host": host, "port": int(port)} for host, port in hosts]}
        return page

    # -- yb-admin ---------------------------------------------------------------------------------------------------

    def admin_list_all_masters(self):
        self.cluster.require_leader()
        lines = [f"{'Master UUID':<32} \t{'RPC Host/Port':<21} \tState    \tRole"]
        for one in self.cluster.masters():
            state = "ALIVE" if one["alive"] else "UNKNOWN_ERROR"
            lines.append(f"{one['uuid']} \t{one['host'] + ':' + str(one['port']):<21} \t{state} \t{one['role']}")
        return "\n".join(lines)

    def admin_list_all_tablet_servers(self):
        lines = [f"{'Tablet Server UUID':<32} \tRPC Host/Port \tHeartbeat delay \tStatus"]
        for one in self.cluster.tablet_servers():
            status = "ALIVE" if one["alive"] else "DEAD"
            lines.append(f"{one['uuid']} \t{one['host']}:{one['port']} \t{one['seconds']}s \t{status}")
        return "\n".join(lines)

    def admin_get_universe_config(self):
        return json.dumps(self.page_cluster_config())

    def admin_modify_placement_info(self, blocks, replicas, placement_uuid=""):
        self.cluster.modify_placement_info(blocks, replicas)
        return ""

    def admin_change_blacklist(self, change, *addresses):
        self.cluster.change_blacklist(False, change, *addresses)
        return ""

    def admin_change_leader_blacklist(self, change, *addresses):
        self.cluster.change_blacklist(True, change, *addresses)
        return ""

    def admin_get_load_move_completion(self, leaders=False):
        left, total = self.cluster.moves_left(leaders)
        percent = 100 * (1 - left / total) if total else 100
        return f"Percent complete = {percent:g} : {left} remaining out of {total}"

    def admin_get_leader_blacklist_completion(self):
        return self.admin_get_load_move_completion(True)

    def admin_get_is_load_balancer_idle(self):
        return f"Idle = {int(self.cluster.idle())}"

    def admin_set_load_balancer_enabled(self, enabled):
        self.cluster.balancing = int(enabled) != 0
        return ""

    def admin_get_load_balancer_state(self):
        self.cluster.require_leader()
        state = "ENABLED" if self.cluster.balancing else "DISABLED"
        lines = [f"{'Master UUID':<32} \t{'RPC Host/Port':<21} \tRole \tState"]
        for one in self.cluster.masters():
            lines.append(f"{one['uuid']} \t{one['host'] + ':' + str(one['port']):<21} \t{one['role']} \t{state}")
        return "\n".join(lines)

    def admin_master_leader_stepdown(self, new=None):
        self.cluster.step_down(new)
        return ""

    def admin_change_master_config(self, change, host, port, given=None):
        self.cluster.change_master_config(change, host, port)
        return ""

    def admin_are_nodes_safe_to_take_down(self, uuids, lag="1000"):
        int(lag)
        self.cluster.safe_to_take_down(uuids.split(","))
        return ""

    def admin_promote_auto_flags(self, *_):
        promoted = self.cluster.promote_auto_flags()
        what = (
            "New AutoFlags were promoted\nNew config"
            if promoted
            else "No new AutoFlags eligible to promote\nCurrent config"
        )
        return f"PromoteAutoFlags completed successfully\n{what} version: {self.cluster.auto_flags['version']}"

    def admin_get_auto_flags_config(self):
        return f"AutoFlags config:\nconfig_version: {self.cluster.auto_flags['version']}"

    def admin_upgrade_ysql(self, *_):
        self.cluster.require_leader()
        return "YSQL successfully upgraded to the latest version"

    def admin_finalize_upgrade(self, *_):
        self.cluster.promote_auto_flags()
        return "Upgrade successfully finalized"

    def admin_remove_tablet_server(self, tserver_uuid):
        self.cluster.remove_tablet_server(tserver_uuid)
        return ""

    async def run(self):
        self.start_postgresql()
        stop = asyncio.get_running_loop().create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, lambda: stop.done() or stop.set_result(None))
        try:
            await rpc.serve((self.host, self.port), self.answer)
            await asyncio.start_server(self.trusted, self.host, self.port + 2)
            print("ready", flush=True)
            await stop
        finally:
            self.stop_postgresql()


if __name__ == "__main__":
    asyncio.run(Backbone(sys.argv[1], int(sys.argv[2]), sys.argv[3]).run())
