# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running ClickHouse says about its health. Query texts are not shown: they may hold secrets."""

from __future__ import annotations

import socket
import ssl

from .backup_clickhouse import ledger
from .backup_folder import human
from .clickhouse import AuthenticationFailed, ClickHouseError, Client, quote_string
from .clickhouse_keeper import majority, read_keeper, tls_context
from .diagnose import NAME_TODO, masked
from .diagnose_postgres import report_ledger

AREA = "clickhouse"


def diagnose(report, params, databases):
    """Look at the server that `params` (LOGIN_SPEC) log in to, and at `databases`."""
    try:
        client = Client({**params, "timeout": 5})
    except ClickHouseError as error:  # nothing was sent: it is about a file, or says itself what to correct
        todo = "correct the path, or run playbooks/certificates.yml" if error.__cause__ else ""
        report.add(AREA, "problem", error, todo)
        return
    try:
        [row] = client.rows("SELECT version() AS version, formatReadableTimeDelta(uptime()) AS uptime")
    except ClickHouseError as error:
        report.add(AREA, "problem", error, remedy(error))
        return
    report.add(AREA, "ok", f"log in as {params['login_user']}: ClickHouse {row['version']}, up for {row['uptime']}")
    for look in (disks, parts, mutations, replicas, queries, failed_backups):
        report.look(AREA, look.__name__, lambda look=look: look(report, client))
    for database in databases:
        report.look(AREA, f"database {database}", lambda database=database: inside(report, client, database))


def remedy(error):
    """What to do about a server that was asked in vain; empty where the error says it."""
    reason = getattr(error.__cause__, "reason", error.__cause__)
    if isinstance(reason, socket.gaierror):
        return NAME_TODO
    said = isinstance(reason, ssl.SSLError) or isinstance(error, AuthenticationFailed)
    return "" if said else "look at the service and its log below"


def name(row):
    """The table that a row is about."""
    return f"{row['database']}.{row['table']}"


def disks(report, client):
    """Free space of the server's own disks."""
    for row in client.rows(
        "SELECT name, path, toUInt64(unreserved_space) AS free, toUInt64(total_space) AS total FROM system.disks "
        "WHERE total_space > 0"
    ):
        used = 100 - 100 * row["free"] / row["total"]
        state = "problem" if used >= 95 else "warning" if used >= 85 else "ok"
        report.add(AREA, state, f"disk {row['name']} ({row['path']}): {used:.0f}% used, {human(row['free'])} free",
                   "" if state == "ok" else "drop old partitions, shorten TTLs, or add a disk")


def parts(report, client):
    """Partitions that inserts fill faster than merges empty, and parts that were put aside."""
    for row in client.rows(
        "SELECT database, table, count() AS parts FROM system.parts WHERE active "
        "GROUP BY database, table, partition_id HAVING parts > 300 ORDER BY parts DESC LIMIT 5"
    ):
        report.add(AREA, "warning", f"{name(row)} has {row['parts']} parts in one partition",
                   "insert fewer, larger blocks (or async_insert); inserts are slowed down and then refused")
    for row in client.rows(
        "SELECT database, table, reason, count() AS parts FROM system.detached_parts WHERE reason LIKE '%broken%' "
        "GROUP BY database, table, reason"
    ):
        report.add(AREA, "problem", f"{name(row)}: {row['parts']} parts were put aside ({row['reason']})",
                   "compare with a replica or a backup; playbooks/restore.yml restores beside the original")


def mutations(report, client):
    """ALTER … UPDATE or DELETE that does not get on."""
    for row in client.rows(
        "SELECT database, table, mutation_id, parts_to_do, latest_fail_reason FROM system.mutations WHERE NOT is_done "
        "AND (latest_fail_reason != '' OR create_time < now() - INTERVAL 1 HOUR) LIMIT 5"
    ):
        number, why = row["mutation_id"], masked(row["latest_fail_reason"])[:200]
        report.add(
            AREA, "warning",
            f"{name(row)}: mutation {number} has {row['parts_to_do']} parts to do. {why}",
            f"if it cannot succeed: KILL MUTATION WHERE mutation_id = {quote_string(number)} AND table = "
            f"{quote_string(row['table'])}",
        )


def replicas(report, client):
    """Replicated tables that are read-only, late, or short of a replica."""
    rows = client.rows(
        "SELECT database, table, is_readonly, absolute_delay, queue_size, lost_part_count, total_replicas, "
        "active_replicas FROM system.replicas"
    )
    bad = [row for row in rows if row["is_readonly"] or row["absolute_delay"] > 300 or row["lost_part_count"]
           or row["active_replicas"] < row["total_replicas"]]
    for row in bad:
        state = "problem" if row["is_readonly"] or row["lost_part_count"] else "warning"
        report.add(
            AREA, state, f"{name(row)}: {'read-only, ' if row['is_readonly'] else ''}"
            f"{row['active_replicas']} of {row['total_replicas']} replicas, {row['absolute_delay']} s behind, "
            f"{row['queue_size']} entries queued, {row['lost_part_count']} parts lost",
            "check Keeper and the other replica; then SYSTEM RESTART REPLICA, or SYSTEM RESTORE REPLICA",
        )
    if rows and not bad:
        report.add(AREA, "ok", f"{len(rows)} replicated tables are complete and up to date")


def queries(report, client):
    """Statements that run for long; the embedded engine keeps itself alive with one of its own."""
    for row in client.rows(
        "SELECT query_id, user, round(elapsed) AS seconds, formatReadableSize(memory_usage) AS memory "
        "FROM system.processes WHERE elapsed > 300 AND user != '' ORDER BY elapsed DESC LIMIT 5"
    ):
        report.add(AREA, "warning", f"{row['user']} runs a statement for {row['seconds']} s with {row['memory']}",
                   f"if nobody needs it: KILL QUERY WHERE query_id = {quote_string(row['query_id'])}")


def failed_backups(report, client):
    """Backups and restores that failed since the server started."""
    for row in client.rows(
        "SELECT name, status, error FROM system.backups WHERE status LIKE '%FAILED' ORDER BY start_time DESC LIMIT 2"
    ):
        said = row["error"].split(", Stack trace")[0].split("DB::Exception: ")[-1]
        report.add(AREA, "warning", f"{row['status']}: {row['name']}: {masked(said)[:200]}")


def inside(report, client, database):
    """Size and schema ledger of one database."""
    name = quote_string(database)
    found = client.rows(
        f"SELECT (SELECT count() FROM system.databases WHERE name = {name}) AS there, count() AS tables, "
        f"formatReadableSize(sum(total_bytes)) AS size FROM system.tables WHERE database = {name}"
    )[0]
    if not found["there"]:
        report.add(AREA, "problem", f"there is no database {database}", "run the environment's playbook")
        return
    if not found["tables"]:
        report.add(AREA, "warning", f"database {database} has no tables", "load its schema, or restore a backup")
        return
    report.add(AREA, "ok", f"database {database} has {found['tables']} tables, {found['size']}")
    report_ledger(report, AREA, database, ledger(client, database))


def keepers(report, addresses, tls):
    """Whether the Keepers at `addresses`, "host:port" each, have a quorum. tls: the files of a login, or None."""
    try:
        context = tls_context(tls) if tls else None
    except ValueError as error:
        report.add("keeper", "problem", error, "run playbooks/certificates.yml")
        return
    found = [
        read_keeper(host.strip("[]"), int(port), timeout=5, context=context)
        for host, _colon, port in (address.rpartition(":") for address in addresses)
    ]
    serving = [one for one in found if one.serves]
    quorum = len(serving) >= majority(len(found))
    for one in found:
        if one.problem:
            report.add("keeper", "warning" if quorum else "problem", f"{one.host}: {one.problem}",
                       f"on {one.host}: systemctl status clickhouse-keeper, and its log")
    if not quorum:
        report.add("keeper", "problem", f"no quorum: {len(serving)} of {len(found)} Keepers serve, "
                   f"{majority(len(found))} have to; replicated tables are read-only", "start the Keepers named here")
    else:
        leader = ", ".join(one.host for one in serving if one.leads)
        report.add("keeper", "ok", f"{len(serving)} of {len(found)} Keepers serve, led by {leader or 'none of them'}")
