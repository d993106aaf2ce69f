# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tells, of a statement for ClickHouse that was cut off, whether it has taken effect."""

from __future__ import annotations

import re

from .clickhouse import quote_string

HEAD = 2000  # characters of a statement in which the names of its tables are looked for
_NAME = r"(?:`(?:[^`\\]|\\.)+`|\"(?:[^\"\\]|\\.)+\"|\w+)"
_FULL_NAME = rf"(?:({_NAME})\s*\.\s*)?({_NAME})"
_CREATED = re.compile(
    rf"CREATE\s+(?:TABLE|VIEW|MATERIALIZED\s+VIEW|DICTIONARY)\s+(?:IF\s+NOT\s+EXISTS\s+)?{_FULL_NAME}", re.I
)
_INSERT = re.compile(rf"INSERT\s+INTO\s+(?:TABLE\s+)?(?!FUNCTION\b){_FULL_NAME}", re.I)
# What these do shows in what tables there are, and how they are made. Anything else may show in their rows, as what an
# application writes there does.
_DEFINES = re.compile(
    r"(?:CREATE|REPLACE|DROP|RENAME|EXCHANGE|ATTACH|DETACH|UNDROP|TRUNCATE|OPTIMIZE|GRANT|REVOKE)\b"
    r"|ALTER\b(?!.*\bPART(?:ITION)?\b)", re.I | re.S,
)
# Whether the server's log has every statement, from its start.
_LOGS = " AND ".join(
    f"toString(getSetting('{name}')) IN ({values})" for name, values in (
        ("log_queries", "'1', 'true'"), ("log_queries_probability", "'1'"),
        ("log_queries_min_query_duration_ms", "'0'"), ("log_queries_min_type", "'QUERY_START'"),
    )
)


def created(text):
    """(database or None, name) of the table, view or dictionary that a statement creates, or None."""
    found = _CREATED.match(text)
    return found and tuple(_bare(name) for name in found.groups())


def _bare(name):
    return re.sub(r"\\(.)", r"\1", name[1:-1]) if name and name[0] in "`\"" else name


def state(database, text):
    """An expression for what is to be seen, as JSON, of the tables that a statement names; `text` is its head.

    Of an INSERT that is its own table: those that it reads from change by themselves.
    """
    target = _INSERT.match(text)
    text = target.group() if target else text
    rows = not _DEFINES.match(text)
    words = ", ".join(map(quote_string, sorted(set(re.findall(r"\w+", text))))) or "''"
    text = quote_string(text)

    def named(column):
        return f"({column} IN ({words}) OR (match({column}, '\\\\W') AND position({text}, {column}) > 0))"

    here = f"(database = {quote_string(database)} OR {named('database')})"
    size = (  # of what has no parts and is no view of other tables
        "if(engine LIKE '%MergeTree' OR engine LIKE '%View' OR engine = 'Buffer', '', "
        "concat(toString(total_rows), '/', toString(total_bytes)))"
    ) if rows else "''"
    tables = (
        "SELECT database, name, toString(uuid) AS id, toString(cityHash64(create_table_query)) AS query, "
        f"{size} AS size FROM system.tables WHERE {here} AND {named('name')} ORDER BY database, name"
    )
    parts = (
        "SELECT concat(database, '.', table, '/', partition_id) AS place, toInt32(max(max_block_number)) AS block "
        f"FROM system.parts WHERE {rows:d} AND active AND {here} AND {named('table')} GROUP BY place ORDER BY place"
    )
    mutations = (
        "SELECT concat(database, '.', table, '/', mutation_id) AS mutation FROM system.mutations "
        f"WHERE {here} AND {named('table')} ORDER BY mutation"
    )
    others = f"SELECT concat('database ', name) AS other FROM system.databases WHERE {named('name')}"
    if re.search(r"\bFUNCTION\b", text, re.I):  # the server is slow to list them, with all its own
        others += (
            " UNION ALL SELECT concat('function ', name, create_query) AS other FROM system.functions "
            f"WHERE origin = 'SQLUserDefined' AND {named('name')}"
        )
    return (
        f"concat('{{\"tables\":', (SELECT toJSONString(groupArray([database, name, id, query, ifNull(size, '')])) "
        f"FROM ({tables})), ',\"places\":', (SELECT toJSONString(groupArray(place)) FROM ({parts})), ',\"blocks\":', "
        f"(SELECT toJSONString(groupArray(block)) FROM ({parts})), ',\"mutations\":', "
        f"(SELECT toJSONString(groupArray(mutation)) FROM ({mutations})), "
        f"',\"others\":', (SELECT toJSONString(arraySort(groupArray(other))) FROM ({others})), "
        f"',\"start\":', toString(toUnixTimestamp(now()) - uptime()), ',\"logs\":', toString({_LOGS}), '}}')"
    )


def differs(before, after):
    """Whether a statement took effect between two states: merges and the ends of TTLs do not count."""
    if any(before.get(name, after[name]) != after[name] for name in ("tables", "others")):
        return True
    if set(after["mutations"]) - set(before["mutations"]):
        return True
    blocks = dict(zip(before["places"], before["blocks"]))
    return any(block > blocks.get(place, -1) for place, block in zip(after["places"], after["blocks"]))
