#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a database host from all sides."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_diagnose
short_description: Find out what is wrong with a database host
version_added: 0.1.0
author:
  - FrameWorks platform team (@frameworks)
description:
  - Looks at services, ports, disks, the clock, logs, certificates and backups of a host, and at the health of its
    PostgreSQL, YugabyteDB and ClickHouse, and says of each problem what to do.
  - Nothing is written, and nothing that is down makes the module fail. What cannot be looked at is reported as unknown.
  - No query text and no secret is shown; what looks like one in a log is masked.
options:
  services:
    description:
      - Services, with C(*), as systemd names them. Without systemd C(pg_lsclusters) and C(supervisorctl) are asked.
    type: list
    elements: str
    default: []
  ports:
    description:
      - Addresses that have to take connections, as C(host:port).
    type: list
    elements: str
    default: []
  paths:
    description:
      - Paths whose file systems are looked at.
    type: list
    elements: path
    default: []
  logs:
    description:
      - Log files, with C(*). The newest that matches is looked at, at its end. With systemd the journal is too.
    type: list
    elements: path
    default: []
  certificates:
    description:
      - PEM files, with C(*).
    type: list
    elements: path
    default: []
  backups:
    description:
      - Folders of M(frameworks.database.postgres_backup) and M(frameworks.database.clickhouse_backup).
    type: list
    elements: path
    default: []
  backup_max_age:
    description:
      - Hours after which the newest good backup is too old.
    type: int
    default: 26
  controller_time:
    description:
      - The controller's time in seconds since 1970, to compare the clock with.
    type: float
  postgres:
    description:
      - The login of a PostgreSQL or YugabyteDB administrator. Without it none is looked at.
    type: dict
    suboptions:
      login_host:
        description: Host name or address of the server.
        type: str
        default: localhost
      login_port:
        description: Its port.
        type: int
        default: 5432
      login_user:
        description: User to log in as.
        type: str
        default: postgres
      login_password:
        description: Password of the user.
        type: str
      login_unix_socket:
        description: Directory of the server's socket, used instead of the host.
        type: path
      login_db:
        description: Database to log in to.
        type: str
        default: postgres
      ssl_mode:
        description: libpq's C(sslmode).
        type: str
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
        default: prefer
      ca_cert:
        description: File with the certificates of the authorities that are trusted.
        type: path
      ssl_cert:
        description: File with the client's certificate.
        type: path
      ssl_key:
        description: File with its key.
        type: path
      connect_timeout:
        description: "Not used: 5 s."
        type: int
        default: 10
  postgres_databases:
    description:
      - Its databases to look into.
    type: list
    elements: str
    default: []
  masters:
    description:
      - Addresses of a YugabyteDB cluster's masters.
    type: list
    elements: str
    default: []
  flag_files:
    description:
      - Flag files of YugabyteDB's servers on this host, by the address of the server's pages (C(host:port)). Flags that
        the running server has other values of are reported.
    type: dict
    default: {}
  upgrade_record:
    description:
      - File in which the role C(yugabyte_db) notes an upgrade that is not final yet.
    type: path
  clickhouse:
    description:
      - The login of a ClickHouse administrator. Without it none is looked at.
    type: dict
    suboptions:
      login_host:
        description: Host name or address of the server.
        type: str
        default: localhost
      login_port:
        description: Its port.
        type: int
      login_user:
        description: User to log in as.
        type: str
        default: default
      login_password:
        description: Password of the user.
        type: str
      tls:
        description: Speak HTTPS.
        type: bool
        default: false
      validate_certs:
        description: Whether the server's certificate must be valid for its name.
        type: bool
        default: true
      ca_cert:
        description: File with the certificates of the authorities that are trusted.
        type: path
      client_cert:
        description: File with the client's certificate.
        type: path
      client_key:
        description: File with its key.
        type: path
      use_proxy:
        description: Whether the proxy variables of the environment are used.
        type: bool
        default: false
      timeout:
        description: "Not used: 5 s."
        type: int
        default: 60
  keepers:
    description:
      - Addresses of all Keepers of a ClickHouse cluster, as C(host:port).
    type: list
    elements: str
    default: []
  keeper_tls:
    description:
      - Speak TLS with the Keepers, with these files.
    type: dict
    suboptions:
      ca_cert:
        description: File with the certificates of the authorities that are trusted.
        type: path
      client_cert:
        description: File with this host's certificate.
        type: path
      client_key:
        description: File with its key.
        type: path
  clickhouse_databases:
    description:
      - Its databases to look into.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Only reads, so it does the same in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Look at this host
  frameworks.database.database_diagnose:
    services: ["postgresql@*"]
    ports: ["localhost:5432"]
    paths: [/var/lib/postgresql]
    logs: ["/var/log/postgresql/*.log"]
    postgres:
      login_unix_socket: /var/run/postgresql
    postgres_databases: [frameworks]
  register: diagnosis

- name: Show it
  ansible.builtin.debug:
    msg: "{{ diagnosis.lines }}"
"""

RETURN = r"""
lines:
  description: The report, worst first, one line a finding and one for what to do.
  returned: always
  type: list
  elements: str
findings:
  description: The same for machines, in the order in which things were looked at.
  returned: always
  type: list
  elements: dict
  contains:
    area:
      description: What it is about.
      type: str
    state:
      description: V(problem), V(warning), V(unknown) or V(ok).
      type: str
    found:
      description: What was found.
      type: str
    details:
      description: More lines on it.
      type: list
      elements: str
    todo:
      description: What to do about it.
      type: str
counts:
  description: The number of findings of each state.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import clickhouse, diagnose, diagnose_clickhouse, diagnose_postgres, diagnose_yugabyte, postgres


def options(spec):
    """An argument spec for a login that may be left out."""
    return {"type": "dict", "options": spec}


def main():
    """Entry point."""
    names = {"type": "list", "elements": "str", "default": []}
    paths = {"type": "list", "elements": "path", "default": []}
    module = AnsibleModule(
        argument_spec={
            "services": names, "ports": names, "paths": paths, "logs": paths, "certificates": paths, "backups": paths,
            "backup_max_age": {"type": "int", "default": 26}, "controller_time": {"type": "float"},
            "postgres": options(postgres.LOGIN_SPEC), "postgres_databases": names, "masters": names,
            "flag_files": {"type": "dict", "default": {}}, "upgrade_record": {"type": "path"},
            "clickhouse": options(clickhouse.LOGIN_SPEC), "clickhouse_databases": names, "keepers": names,
            "keeper_tls": options({
                "ca_cert": {"type": "path"}, "client_cert": {"type": "path"},
                "client_key": {"type": "path", "no_log": False},
            }),
        },
        supports_check_mode=True,
    )
    params, report = module.params, diagnose.Report()
    looks = {
        "services": lambda: diagnose.services(report, params["services"]),
        "ports": lambda: diagnose.ports(report, params["ports"]),
        "disks": lambda: diagnose.disks(report, params["paths"]),
        "certificates": lambda: diagnose.certificates(report, params["certificates"]),
        "backups": lambda: diagnose.backups(report, params["backups"], params["backup_max_age"]),
        "logs": lambda: diagnose.logs(report, params["logs"], params["services"]),
    }
    if params["controller_time"]:  # first, before anything takes its time
        report.look("clock", "clock", lambda: diagnose.clock(report, params["controller_time"]))
    if params["postgres"]:
        report.look("postgresql", "server", lambda: diagnose_postgres.diagnose(
            report, params["postgres"], params["postgres_databases"]))
    if params["masters"]:
        report.look("yugabytedb", "cluster", lambda: diagnose_yugabyte.cluster(report, params["masters"]))
    if params["upgrade_record"]:
        report.look("yugabytedb", "upgrade", lambda: diagnose_yugabyte.upgrade(report, params["upgrade_record"]))
    if params["flag_files"]:
        report.look("yugabytedb", "flags", lambda: diagnose_yugabyte.flags(report, params["flag_files"]))
    if params["clickhouse"]:
        report.look("clickhouse", "server", lambda: diagnose_clickhouse.diagnose(
            report, params["clickhouse"], params["clickhouse_databases"]))
    if params["keepers"]:
        report.look("keeper", "keepers", lambda: diagnose_clickhouse.keepers(
            report, params["keepers"], params["keeper_tls"]))
    for what, look in looks.items():
        report.look(what.rstrip("s"), what, look)
    module.exit_json(changed=False, lines=report.lines(), findings=report.findings, counts=report.counts())


if __name__ == "__main__":
    main()
