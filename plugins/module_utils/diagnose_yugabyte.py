# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a YugabyteDB cluster and a node of it say about their health, besides what YSQL does (diagnose_postgres.py)."""

from __future__ import annotations

import json
import os
import time

from .yugabyte import MASTER_HTTP, TSERVER_HTTP, YugabyteError, get, read
from .yugabyte_flags import differing, in_force
from .yugabyte_flags import read as read_flags


def cluster(report, masters):
    """The cluster as its masters see it: quorum, tservers, tablets."""
    try:
        seen = read(masters)
    except YugabyteError as error:
        report.add("yugabytedb", "problem", error, "look at yb-master's log on each master; start what is down")
        return
    for problem in seen.problems():
        report.add("yugabytedb", "problem", problem, "look at the services of the nodes it names, and at their logs")
    if not seen.problems():
        what = f"{len(seen.masters)} masters, {len(seen.tservers)} tservers"
        report.add("yugabytedb", "ok", f"{what}, all tablets replicated")
    if seen.blacklist:
        hosts = " ".join(seen.blacklist)
        report.add("yugabytedb", "warning", f"data is being moved off {hosts}",
                   "finish it with playbooks/remove_node.yml or replace_node.yml, or call it off: "
                   f"yb-admin change_blacklist REMOVE {hosts}")
    if seen.leader_blacklist:
        hosts = " ".join(seen.leader_blacklist)
        report.add("yugabytedb", "warning", f"{hosts} may have no leaders, so the others have all the work",
                   f"unless it is being restarted just now: yb-admin change_leader_blacklist REMOVE {hosts}")
    report.look("yugabytedb", "releases", lambda: releases(report, seen))


def releases(report, seen):
    """Whether all servers that answer are of one release."""
    found = {}
    for kind, port, servers in (("master", MASTER_HTTP, seen.masters), ("tserver", TSERVER_HTTP, seen.tservers)):
        for host in sorted(one["host"] for one in servers if one.get("alive", one.get("role") != "UNREACHABLE")):
            try:
                page = get(host, port, "/api/v1/version", timeout=3)
            except YugabyteError:  # a finding already, or one in a minute
                continue
            found.setdefault(f"{page['version_number']}-b{page['build_number']}", []).append(f"yb-{kind} on {host}")
    if len(found) > 1:
        report.add("yugabytedb", "warning", "the servers are of several releases:",
                   "finish playbooks/upgrade.yml, or go back with playbooks/upgrade_rollback.yml",
                   [f"{release}: {', '.join(servers)}" for release, servers in sorted(found.items())])


def upgrade(report, path):
    """Whether an upgrade waits to be made final; `path` is where the role has noted it."""
    try:
        with open(path, encoding="utf-8") as file:
            noted = json.load(file)
        days = int((time.time() - os.path.getmtime(path)) // 86400)
    except FileNotFoundError:
        return
    what = f"the upgrade from {noted['from']} to {noted['to']}"
    if noted.get("final"):
        todo = "run playbooks/upgrade_finalize.yml again"
        report.add("yugabytedb", "problem", f"making {what} final was cut off", todo)
        return
    report.add("yugabytedb", "warning", f"{what} is not final, after {days} days",
               "after two days at most: playbooks/upgrade_finalize.yml, or upgrade_rollback.yml")


def flags(report, files):
    """Whether the servers run with the flags of their files; `files`: {"host:port" of a server's pages: file}."""

    def look(page):
        try:
            with open(files[page], encoding="utf-8", errors="replace") as file:
                text = file.read()
            running, own = in_force(*page.rsplit(":", 1))
        except (FileNotFoundError, YugabyteError):  # no server of this node, or one that is down: a finding elsewhere
            return
        found = differing(read_flags(text, running), running, own)
        if not found:
            report.add("yugabytedb", "ok", f"the server at {page} runs with the flags of {files[page]}")
            return
        report.add(
            "yugabytedb", "warning", f"the server at {page} runs with other flags than {files[page]} has:",
            "to keep them, declare them (yugabyte_db_master_flags, yugabyte_db_tserver_flags); else restart the node: "
            "playbooks/rolling_restart.yml -l <node>",
            [f"{one['flag']} is {one['running'] or 'empty'}, there {one['declared'] or 'empty'}" for one in found],
        )

    report.each("yugabytedb", files, look)
