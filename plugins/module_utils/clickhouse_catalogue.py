# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a ClickHouse server's users, roles, rights and limits from its system tables, once."""

from __future__ import annotations

from dataclasses import dataclass, field

from .clickhouse import quote_string
from .clickhouse_rights import Privileges, rights_of


@dataclass
class Catalogue:
    """What one server has. Lists and dictionaries of rows as the server's system tables show them."""

    databases: dict = field(default_factory=dict)
    users: dict = field(default_factory=dict)
    roles: dict = field(default_factory=dict)
    rights: dict = field(default_factory=dict)
    role_grants: dict = field(default_factory=dict)
    profiles: dict = field(default_factory=dict)
    profile_elements: dict = field(default_factory=dict)
    quotas: dict = field(default_factory=dict)
    row_policies: dict = field(default_factory=dict)


def read(client, declared, exclusive=(), cluster=None):
    """({server: Catalogue}, Privileges or None): what the server has, or each one of the cluster.

    A server names what it has in several user directories in the order in which it asks them: the first one counts.
    Only what the declaration touches is asked for. Raises what Client.rows() raises.
    """
    catalogues = {}

    def table(name):
        source, server, settings = f"system.{name}", "''", None
        if cluster:
            source = f"clusterAllReplicas({quote_string(cluster)}, system, {name})"
            server = "concat(hostName(), ':', toString(tcpPort()))"
            settings = {"skip_unavailable_shards": 1}  # one that is down gets the statements later, from a queue
        for row in client.rows(f"SELECT {server} AS _server, * FROM {source}", settings):
            yield catalogues.setdefault(row["_server"], Catalogue()), row

    def wanted(*kinds):
        return any(declared.get(kind) or kind in exclusive for kind in kinds)

    for catalogue, row in table("databases"):
        catalogue.databases[row["name"]] = row
    if not catalogues:
        catalogues[""] = Catalogue()
    privileges = None
    if wanted("users", "roles", "quotas", "row_policies"):
        privileges = Privileges(client.rows("SELECT * FROM system.privileges"))
        for catalogue, row in table("users"):
            if not isinstance(row["auth_type"], list):
                row["auth_type"] = [row["auth_type"]]
            catalogue.users.setdefault(row["name"], row)
        for catalogue, row in table("roles"):
            catalogue.roles.setdefault(row["name"], row)
        grants = {}
        for catalogue, row in table("grants"):
            grants.setdefault(id(catalogue), (catalogue, []))[1].append(row)
        for catalogue, rows in grants.values():
            catalogue.rights = rights_of(rows, privileges)
        for catalogue, row in table("role_grants"):
            kind = "user" if row["user_name"] is not None else "role"
            holder = catalogue.role_grants.setdefault((kind, row[f"{kind}_name"]), {})
            holder[row["granted_role_name"]] = bool(row["with_admin_option"])
    if wanted("users", "settings_profiles"):
        for catalogue, row in table("settings_profiles"):
            catalogue.profiles.setdefault(row["name"], row)
        for catalogue, row in table("settings_profile_elements"):
            kind = next(kind for kind in ("profile", "user", "role") if row[f"{kind}_name"] is not None)
            catalogue.profile_elements.setdefault((kind, row[f"{kind}_name"]), []).append(row)
    if wanted("users", "quotas"):
        for catalogue, row in table("quotas"):
            catalogue.quotas.setdefault(row["name"], {**row, "limits": {}})
    if wanted("quotas"):
        for catalogue, row in table("quota_limits"):
            if row["quota_name"] in catalogue.quotas:  # it may have gone between the two queries
                catalogue.quotas[row["quota_name"]]["limits"][row["duration"]] = row
    if wanted("row_policies"):
        for catalogue, row in table("row_policies"):
            catalogue.row_policies[(row["short_name"], row["database"], row["table"])] = row
    return catalogues, privileges
