# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running PostgreSQL or YugabyteDB says about its health. Query texts are not shown: they may hold secrets."""

from __future__ import annotations

from . import postgres
from .backup_folder import human
from .backup_postgres import ledger, query

_BUSY = """
SELECT pid, coalesce(usename, '?'), coalesce(nullif(application_name, ''), 'no name'), coalesce(datname, ''), state,
  extract(epoch FROM now() - CASE WHEN state LIKE 'idle in%' THEN state_change ELSE query_start END)::int
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'
  AND now() - CASE WHEN state LIKE 'idle in%' THEN state_change ELSE query_start END > interval '5 minutes'
ORDER BY 6 DESC LIMIT 5
"""
_BLOCKED = """
SELECT pid, coalesce(usename, '?'), extract(epoch FROM now() - state_change)::int, pg_blocking_pids(pid)::text
FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0 ORDER BY 3 DESC LIMIT 5
"""


def log_in(report, area, params, database=None):
    """A connection whose statements take 5 s at most; None where there is none, which is a finding."""
    try:
        connection = postgres.connect({**params, "connect_timeout": 5}, database)
    except postgres.ConnectionFailed as error:
        found, _what_to_do, todo = str(error).partition(" What to do: ")
        report.add(area, "problem", found, todo)
        return None
    query(connection, "SET statement_timeout = '5s'")
    return connection


def diagnose(report, params, databases):
    """Look at the server that `params` (LOGIN_SPEC) log in to, and at `databases`."""
    connection = log_in(report, "postgresql", params)
    if connection is None:
        return
    try:
        area = postgres.dialect(connection).name
        [(version, since)] = query(
            connection,
            "SELECT split_part(version(), ' on ', 1), date_trunc('second', pg_postmaster_start_time())::text",
        )
        report.add(area, "ok", f"log in as {params['login_user']}: {version}, up since {since}")
        own = [nodes] if area == "yugabytedb" else [wraparound, replication, settings]
        for look in (connections, busy, *own):
            report.look(area, look.__name__, lambda look=look: look(report, area, connection))
    finally:
        connection.close()
    for database in databases:
        report.look(area, f"database {database}", lambda name=database: inside(report, area, params, name))


def connections(report, area, connection):
    """Whether there is room for more connections."""
    [(used, most)] = query(
        connection, "SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity "
        "WHERE backend_type = 'client backend'")
    state = "problem" if used > most * 0.95 else "warning" if used > most * 0.8 else "ok"
    report.add(area, state, f"{used} of {most} connections are used",
               "" if state == "ok" else "see in pg_stat_activity whose they are, or raise max_connections")


def busy(report, area, connection):
    """Long statements, forgotten transactions, and who waits for whom."""
    for pid, user, application, database, state, seconds in query(connection, _BUSY):
        report.add(area, "warning", f"process {pid} ({user}, {application}, {database}) is {state} for {seconds} s",
                   f"if nobody needs it: SELECT pg_terminate_backend({pid})")
    for pid, user, seconds, by in query(connection, _BLOCKED):
        holders = [holder for holder in by.strip("{}").split(",") if holder != "0"]  # 0 is a prepared transaction
        who = ",".join(holders) or "a prepared transaction"
        todo = f"SELECT pg_terminate_backend({holders[0]})" if holders else "ROLLBACK PREPARED (see pg_prepared_xacts)"
        report.add(area, "problem" if seconds > 60 else "warning",
                   f"process {pid} ({user}) waits for {seconds} s for a lock that {who} has",
                   f"end what holds it: {todo}")


def wraparound(report, area, connection):
    """Transaction numbers left before the server stops taking writes."""
    [(database, age)] = query(
        connection, "SELECT datname, age(datfrozenxid) FROM pg_database ORDER BY 2 DESC LIMIT 1")
    state = "problem" if age > 1_500_000_000 else "warning" if age > 1_000_000_000 else "ok"
    report.add(area, state, f"the oldest transaction in use is {age:,} back, of 2,100,000,000 (database {database})",
               "" if state == "ok" else f"end old transactions and unused slots, then: vacuumdb --freeze {database}")


def replication(report, area, connection):
    """Standbys, replication slots, archiving."""
    for name, state, behind in query(
        connection, "SELECT application_name, state, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN "
        "pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, replay_lsn) FROM pg_stat_replication"
    ):
        fine = state == "streaming" and (behind or 0) < 256 << 20
        report.add(area, "ok" if fine else "warning", f"standby {name} is {state}, {human(behind or 0)} behind",
                   "" if fine else "look at the standby's log and at the network between")
    for slot, active, kept in query(
        connection, "SELECT slot_name, active, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN "
        "pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, restart_lsn) FROM pg_replication_slots"
    ):
        if not active:
            report.add(area, "warning", f"replication slot {slot} is not used and keeps {human(kept or 0)} of WAL",
                       f"bring its client back, or: SELECT pg_drop_replication_slot('{slot}')")
    for failed, at in query(
        connection, "SELECT failed_count, date_trunc('second', last_failed_time)::text FROM pg_stat_archiver "
        "WHERE last_failed_time > coalesce(last_archived_time, '-infinity')"
    ):
        report.add(area, "problem", f"WAL is not archived: {failed} failures, the last at {at}; the disk will fill up",
                   "look at archive_command and at the log")


def settings(report, area, connection):
    """Settings that wait for a restart."""
    waiting = [name for (name,) in query(connection, "SELECT name FROM pg_settings WHERE pending_restart")]
    if waiting:
        report.add(area, "warning", f"not in force before a restart: {', '.join(waiting)}", "restart the server")


def nodes(report, area, connection):
    """The cluster's tservers, as YSQL knows them."""
    found = query(connection, "SELECT host, zone FROM yb_servers() ORDER BY 1")
    report.add(area, "ok", f"YSQL knows {len(found)} nodes: {', '.join(f'{host} ({zone})' for host, zone in found)}")


def inside(report, area, params, database):
    """Size, broken indexes and the schema ledger of one database."""
    connection = log_in(report, area, params, database)
    if connection is None:
        return
    try:
        [(size,)] = query(connection, "SELECT pg_size_pretty(pg_database_size(current_database()))")
        report.add(area, "ok", f"database {database} has {size}")
        for (index,) in query(connection, "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"):
            report.add(area, "warning", f"database {database}: index {index} is not valid: its making was broken off",
                       f"drop it and create it again, or: REINDEX INDEX CONCURRENTLY {index}")
        report_ledger(report, area, database, ledger(connection))
    finally:
        connection.close()


def report_ledger(report, area, database, sets):
    """What the schema ledger of a database says, as backup_postgres.ledger() has it."""
    if sets is None:
        report.add(area, "unknown", f"database {database}: the schema ledger may not be read")
    for name, found in (sets or {}).items():
        state = "problem" if found["unfinished"] else "ok"
        more = f", not finished: {', '.join(found['unfinished'])}" if found["unfinished"] else ""
        report.add(area, state, f"database {database}: set {name}, {found['applied']} scripts applied{more}",
                   "see playbooks/plan.yml, then run the environment's playbook again" if more else "")
