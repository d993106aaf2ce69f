#!/usr/bin/python
# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: schema_apply
short_description: Apply SQL scripts to a PostgreSQL, YugabyteDB or ClickHouse database, each exactly once
version_added: 0.1.0
author:
  - FrameWorks platform team (@frameworks)
description:
  - >-
    Applies the pending scripts of a folder in order and records each in a ledger in the database that it changed:
    C(init*.sql) baselines, then C(NNNN_name.sql) or C(V<version>__name.sql) by version, then C(R__name.sql)
    repeatables, which are applied again when their text changes, then C(seed/*.sql) where O(seed=true).
  - >-
    On PostgreSQL a script is one transaction, unless its first line is C(-- no-transaction). On YugabyteDB and
    ClickHouse it is applied statement by statement, and a failed or interrupted one goes on where it stopped.
  - >-
    Two runs at the same time wait for each other. With C(--check) nothing is executed and nothing is written; the
    result lists what is pending, and with C(--diff) it shows the SQL.
  - An applied script whose text has changed is refused. A ledger that cannot be read is an error.
  - SQL is never a Jinja template.
options:
  engine:
    description: What the server is. It is checked.
    type: str
    required: true
    choices: [postgresql, yugabytedb, clickhouse]
  database:
    description: Database that the scripts are for. It has to exist.
    type: str
    required: true
  set_name:
    description: Name of the set in the ledger. Two sets may share a database, each with scripts of its own.
    type: str
    default: default
  owner:
    description:
      - Role that runs the scripts and so owns what they create. O(login_user) must be a member of it, or a superuser.
      - Without it, O(login_user) does. Not for ClickHouse.
    type: str
  path:
    description:
      - Folder with the scripts. One of O(path) and O(files) is needed.
      - A relative one is searched for on the controller like the O(ansible.builtin.copy#module:src) of a copy.
    type: path
  files:
    description: The scripts one by one, in the order of application, in place of O(path).
    type: list
    elements: path
  remote_src:
    description: Whether O(path) and O(files) are on the managed host. Otherwise they are on the controller.
    type: bool
    default: false
  seed:
    description: Whether the scripts of the folder C(seed) are applied too.
    type: bool
    default: false
  target:
    description:
      - Version to stop at. Scripts with a higher one stay pending, and so do repeatables and seeds then.
    type: str
  out_of_order:
    description: Whether a new script may have a lower version than one that is applied.
    type: bool
    default: false
  baseline:
    description:
      - >-
        Adopts a database that already has its schema: with an empty ledger, baselines and versioned scripts up to
        O(target) are marked as applied and not run.
      - It does nothing where the ledger has entries, and is refused where the database is empty.
    type: bool
    default: false
  repair:
    description:
      - Names of scripts that are put right in the ledger before anything else.
      - >-
        The changed text of an applied script is accepted, and so is the new name of one that is named as it was called;
        the entry of a failed one is removed, so that it begins anew.
    type: list
    elements: str
    default: []
  placeholders:
    description:
      - Values for C(${name}) in the scripts, put in as they are. Without any, C(${…}) is ordinary text.
      - With some, one that is not declared is refused.
    type: dict
    default: {}
  secret_placeholders:
    description: Like O(placeholders), for values that no output may show.
    type: dict
    default: {}
  accept_drift:
    description: Whether the schema as it is now is recorded as the wanted one, changes made by hand included.
    type: bool
    default: false
  drift_ignore:
    description: Objects that the comparison leaves out, with C(*). C(* public.events_p*) are tables with all of theirs.
    type: list
    elements: str
    default: []
  declared_grants:
    description:
      - >-
        The grants that are given elsewhere, as O(frameworks.database.postgres_access#module:grants) takes them; those
        of other databases mean nothing. What they have changed since the last run is not taken for drift.
      - Neither is it that the grants of a dropped role are gone. Not for ClickHouse, where grants are never compared.
    type: list
    elements: dict
    default: []
  lock_timeout:
    description: Seconds to wait for another run on the same database.
    type: int
    default: 300
  run_by:
    description: Who the ledger says applied the scripts. Defaults to the account and host that Ansible runs on.
    type: str
  cluster:
    description:
      - >-
        Says that the ClickHouse database is one of a cluster. Scripts stay those for one server: tables become
        replicated, and tables over all shards are added. docs/clickhouse.md has the rules.
      - Let one host of the cluster apply a set.
    type: dict
    suboptions:
      name:
        description: The cluster's name in C(system.clusters).
        type: str
        required: true
      sharding_key:
        description: >-
          The expression by which rows are spread over shards, such as V(cityHash64(tenant_id\)). Then a table of a
          script has its rows in C(<table>_local), and its own name is that of a C(Distributed) one. Leave it out for a
          cluster that has one shard and will stay so.
        type: str
      replicated_database:
        description: >-
          Whether the database has the engine C(Replicated), which passes statements on to all hosts, also to those that
          join later. Otherwise they are executed C(ON CLUSTER).
        type: bool
        default: true
      ddl_timeout:
        description: Seconds that all hosts have for a statement.
        type: int
        default: 120
  state:
    description:
      - V(applied) applies what is pending.
      - V(verified) applies nothing, and fails where the live schema is not what was recorded after the last run.
      - >-
        V(planned) applies nothing and never fails: it lists what V(applied) would do, like C(--check), and what stands
        in its way in RV(problem).
    type: str
    choices: [applied, verified, planned]
    default: applied
  bundle:
    description: For the action plugin, which brings the controller's scripts here.
    type: str
  bundle_path:
    description: For the action plugin, as O(bundle).
    type: path
  login_host:
    description: Host name or address of the server, as the managed host sees it.
    type: str
    default: localhost
  login_port:
    description:
      - >-
        Its port. Defaults to 5432 for PostgreSQL, 5433 for YugabyteDB, and to the HTTP interface's 8123, or 8443 with
        O(tls=true), for ClickHouse.
    type: int
  login_user:
    description: User to log in as. Defaults to V(postgres), V(yugabyte) or V(default).
    type: str
  login_password:
    description: Password of O(login_user).
    type: str
  login_unix_socket:
    description: Folder with PostgreSQL's socket, in place of O(login_host).
    type: path
  ssl_mode:
    description: How far TLS is asked for and checked, as in libpq. Only PostgreSQL and YugabyteDB.
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
    default: prefer
  ssl_cert:
    description: File with the client's certificate. Only PostgreSQL and YugabyteDB.
    type: path
  ssl_key:
    description: File with the key of O(ssl_cert). Only PostgreSQL and YugabyteDB.
    type: path
  ca_cert:
    description: File with the certificates of the authorities that are trusted, on the managed host.
    type: path
  connect_timeout:
    description: Seconds to wait for a connection. Only PostgreSQL and YugabyteDB.
    type: int
    default: 10
  tls:
    description: Speak HTTPS. Only ClickHouse.
    type: bool
    default: false
  validate_certs:
    description: Whether the server's certificate must be valid for O(login_host). Only ClickHouse.
    type: bool
    default: true
  client_cert:
    description: File with the client's certificate. Only ClickHouse.
    type: path
  client_key:
    description: File with the key of O(client_cert). Only ClickHouse.
    type: path
  use_proxy:
    description: Whether the proxy variables of the environment are used. Only ClickHouse.
    type: bool
    default: false
  timeout:
    description: Seconds that one statement may take. Only ClickHouse.
    type: int
    default: 3600
attributes:
  check_mode:
    description: Nothing is executed; the result is the plan.
    support: full
  diff_mode:
    description: The SQL of the pending scripts, placeholders not filled in.
    support: full
requirements:
  - psycopg2 on the managed host, for PostgreSQL and YugabyteDB
  - psql on the managed host, for scripts with its meta-commands
notes:
  - >-
    With C(--check) it is no failure that a server cannot be reached yet, or knows neither user, password nor database:
    an earlier task may be what brings them. RV(unasked) says why it could not be asked. What no task would bring is
    one, such as a certificate that is not accepted, or a refused login of an administrator, who is not the O(owner).
"""

EXAMPLES = r"""
- name: Apply the scripts next to the playbook
  frameworks.database.schema_apply:
    engine: postgresql
    database: shop
    owner: shop
    path: files/shop
    login_unix_socket: /var/run/postgresql

- name: Stop at version 12
  frameworks.database.schema_apply:
    engine: clickhouse
    database: events
    path: files/events
    target: "12"
    login_user: admin
    login_password: "{{ clickhouse_admin_password }}"

- name: Adopt a database that has everything up to version 7
  frameworks.database.schema_apply:
    engine: yugabytedb
    database: shop
    owner: shop
    path: files/shop
    baseline: true
    target: "7"
    login_password: "{{ yugabyte_password }}"

- name: Fail where somebody has changed the schema by hand
  frameworks.database.schema_apply:
    engine: postgresql
    database: shop
    path: files/shop
    state: verified
    login_unix_socket: /var/run/postgresql
"""

RETURN = r"""
applied:
  description: Scripts that were applied, in order.
  type: list
  elements: str
  returned: always
adopted:
  description: Scripts that were, or would be, marked as applied without running.
  type: list
  elements: str
  returned: always
repaired:
  description: Scripts whose entry in the ledger was, or would be, put right.
  type: list
  elements: str
  returned: always
pending:
  description: What is still to be applied, in order.
  type: list
  elements: dict
  returned: always
  contains:
    script:
      description: Name of the script.
      type: str
    kind:
      description: One of baseline, versioned, repeatable and seed.
      type: str
    version:
      description: Its version, if it has one.
      type: str
    reason:
      description: One of new, changed (a repeatable) and resumed (it failed or was interrupted).
      type: str
    statements:
      description: How many statements it has.
      type: int
    completed:
      description: How many of them are done already.
      type: int
conflicts:
  description: What forbids to apply the pending scripts, a sentence each.
  type: list
  elements: str
  returned: always
missing:
  description: Scripts that the ledger has and the set has not.
  type: list
  elements: str
  returned: always
beyond_target:
  description: Scripts that O(target) leaves out.
  type: list
  elements: str
  returned: always
lock_holder:
  description: Who holds the lock right now. Only with C(--check).
  type: str
  returned: always
drift:
  description: Objects that have changed since the last run, and by none of its scripts, as found before this one.
  type: list
  elements: dict
  returned: always
  contains:
    object:
      description: Kind and name of the object.
      type: str
    change:
      description: One of added, changed and dropped.
      type: str
    diff:
      description: Lines of its definition, with - for the recorded and + for the live one.
      type: list
      elements: str
unasked:
  description: Why the server could not be asked. Only with C(--check).
  type: str
  returned: when it could not
problem:
  description: Why nothing is known about what is pending.
  type: str
  returned: with O(state=planned), when there is one
failure:
  description: Where a script failed.
  type: dict
  returned: when a script failed
  contains:
    script:
      description: Name of the script.
      type: str
    line:
      description: Line of the script.
      type: int
    statement:
      description: The statement, shortened.
      type: str
    number:
      description: Number of the statement in the script.
      type: int
    completed:
      description: How many of the script's statements stay done.
      type: int
    message:
      description: What the server said.
      type: str
"""

import gc

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import schema_run as run
from ..module_utils.schema_drift import readable
from ..module_utils.schema_plan import Context, LedgerError, LockTaken, Refused, account
from ..module_utils.schema_scan import Placeholders, ScriptFailed
from ..module_utils.schema_scripts import from_bundle, from_files, from_folder
from ..module_utils.sql_script import ScriptError

VERSION = "frameworks.database 0.1.0"
DIFF_SCRIPT = 64 << 10  # characters of one script in the diff
DIFF_ALL = 1 << 20  # of all of them
_LOGIN = {"postgresql": ("postgres", 5432), "yugabytedb": ("yugabyte", 5433), "clickhouse": ("default", None)}
_SPEC = {
    "engine": {"type": "str", "required": True, "choices": ["postgresql", "yugabytedb", "clickhouse"]},
    "database": {"type": "str", "required": True},
    "set_name": {"type": "str", "default": "default"},
    "owner": {"type": "str"},
    "path": {"type": "path"},
    "files": {"type": "list", "elements": "path"},
    "remote_src": {"type": "bool", "default": False},
    "seed": {"type": "bool", "default": False},
    "target": {"type": "str"},
    "out_of_order": {"type": "bool", "default": False},
    "baseline": {"type": "bool", "default": False},
    "repair": {"type": "list", "elements": "str", "default": []},
    "placeholders": {"type": "dict", "default": {}},
    "secret_placeholders": {"type": "dict", "default": {}, "no_log": True},
    "accept_drift": {"type": "bool", "default": False},
    "drift_ignore": {"type": "list", "elements": "str", "default": []},
    "declared_grants": {"type": "list", "elements": "dict", "default": []},
    "lock_timeout": {"type": "int", "default": 300},
    "run_by": {"type": "str"},
    "cluster": {
        "type": "dict", "options": {
            "name": {"type": "str", "required": True},
            "sharding_key": {"type": "str", "no_log": False},
            "replicated_database": {"type": "bool", "default": True},
            "ddl_timeout": {"type": "int", "default": 120},
        },
    },
    "state": {"type": "str", "default": "applied", "choices": ["applied", "verified", "planned"]},
    "bundle": {"type": "str", "no_log": True},  # only to keep scripts out of the host's log
    "bundle_path": {"type": "path"},
}
_LOGIN_SPEC = {
    "login_host": {"type": "str", "default": "localhost"},
    "login_port": {"type": "int"},
    "login_user": {"type": "str"},
    "login_password": {"type": "str", "no_log": True},
    "login_unix_socket": {"type": "path"},
    "ssl_mode": {
        "type": "str", "default": "prefer",
        "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
    },
    "ssl_cert": {"type": "path"},
    "ssl_key": {"type": "path", "no_log": False},
    "ca_cert": {"type": "path"},
    "connect_timeout": {"type": "int", "default": 10},
    "tls": {"type": "bool", "default": False},
    "validate_certs": {"type": "bool", "default": True},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path", "no_log": False},
    "use_proxy": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 3600},
}
_OPTIONS = ("seed", "target", "out_of_order", "baseline", "repair", "accept_drift", "drift_ignore", "lock_timeout")


def scripts_of(params):
    """The scripts of the set. Raises ScriptError."""
    if params["bundle"]:
        return from_bundle(params["bundle"], params["bundle_path"])
    return from_files(params["files"]) if params["files"] else from_folder(params["path"])


def backend_of(params):
    """The backend for the set, not connected yet."""
    user, port = _LOGIN[params["engine"]]
    login = {**params, "login_user": params["login_user"] or user, "login_port": params["login_port"] or port}
    context = Context(
        params["set_name"], params["database"], params["owner"],
        Placeholders(params["placeholders"], params["secret_placeholders"]),
        params["run_by"] or account(), VERSION,
    )
    # Each engine's client takes its time to import.
    if params["engine"] == "clickhouse":
        from ..module_utils.schema_clickhouse import ClickHouseBackend as Backend
    else:
        from ..module_utils.schema_postgres import PostgresBackend as Backend
    return Backend(login, context, params["engine"])


def result_of(outcome):
    """The module's result for an Outcome."""
    return {
        "changed": outcome.changed, "applied": outcome.applied, "adopted": outcome.adopted,
        "repaired": outcome.repaired, "conflicts": outcome.conflicts, "missing": outcome.missing,
        "beyond_target": outcome.beyond, "drift": outcome.drift, "lock_holder": outcome.lock_holder,
        "pending": [
            {
                "script": step.script.name, "kind": step.script.kind, "version": step.script.version,
                "reason": step.reason, "statements": scan.count if scan else None,
                "completed": step.entry.completed if step.entry and step.reason == "resumed" else 0,
            } for step, scan in outcome.pending
        ],
    }


def diff_of(outcome):
    """The SQL of what is pending, long scripts cut off, as Ansible's diff."""
    parts, room = [], DIFF_ALL
    for step, _scan in outcome.pending:
        with step.script.open() as stream:
            text = stream.read(min(DIFF_SCRIPT, room) + 1).decode("utf-8", "replace")
        room -= len(text)
        cut = f"\n-- … cut off; the script has {step.script.size} bytes" if len(text) > DIFF_SCRIPT or room < 0 else ""
        parts.append(f"-- {step.script.name} ({step.reason})\n{text.rstrip()}{cut}\n")
        if room <= 0:
            break
    return {"before": "", "after": "\n".join(parts), "after_header": "pending scripts"}


class Run:
    """The module's work; `module` is the AnsibleModule."""

    def __init__(self, module):
        self.module, self.params = module, module.params
        self.options = run.Options(**{name: module.params[name] for name in _OPTIONS})
        self.backend = backend_of(module.params)
        self.outcome = run.Outcome()

    def check(self):
        """Raises Refused where the parameters cannot be meant."""
        if self.params["cluster"] and self.params["engine"] != "clickhouse":
            raise Refused(f"cluster is for the engine clickhouse; {self.params['engine']} takes DDL for all its nodes")
        for name in ("database", "set_name", *(() if self.params["engine"] == "clickhouse" else ("owner",))):
            if self.params[name] == "":
                raise Refused(f"{name} is empty")
        for name, value in {**self.params["placeholders"], **self.params["secret_placeholders"]}.items():
            if value is None or isinstance(value, (dict, list)):
                raise Refused(f"The placeholder {name} has neither text nor a number for its value")

    def apply(self):
        """Apply, or with --check only look. Returns the result."""
        scripts = scripts_of(self.params)
        if self.module.check_mode or self.params["state"] == "planned":
            return self._look(scripts)
        self.backend.open()
        before = self._plan_for_diff(scripts) if self.module._diff else None
        outcome = self.outcome
        try:
            run.apply(self.backend, scripts, self.options, outcome)
        finally:  # what is found may be why a script fails
            if not outcome.needed:
                self._warn(outcome)
        if outcome.needed:
            return {**result_of(outcome), "changed": False, "needed": [script.checksum for script in outcome.needed]}
        return {**result_of(outcome), **({"diff": before} if before and outcome.applied else {})}

    def _plan_for_diff(self, scripts):
        if any(script.open is None for script in scripts):
            return None
        outcome = run.look(self.backend, scripts, self.options)
        return diff_of(outcome) if outcome.pending else None

    def _look(self, scripts):
        try:
            self.backend.open()
            outcome = run.look(self.backend, scripts, self.options)
        except self.backend.unreachable as error:
            if not self.backend.explains(error, check=self.params["state"] != "planned"):
                raise
            said = str(error).strip().rstrip(".")
            self.module.warn(f"Set {self.params['set_name']}: {said}. Nothing is known about what is applied.")
            changed = self.params["state"] != "planned"  # with --check whatever is there may be pending
            return {**result_of(run.Outcome()), "changed": changed, "unasked": f"{said}."}
        self._warn(outcome)
        if outcome.conflicts and self.params["state"] != "planned":  # whose table has them
            self.module.warn(f"Set {self.params['set_name']} will not be applied:\n" + "\n".join(outcome.conflicts))
        result = {**result_of(outcome), "changed": outcome.changed and self.params["state"] != "planned"}
        if outcome.needed:
            return {**result, "needed": [script.checksum for script in outcome.needed]}
        return {**result, **({"diff": diff_of(outcome)} if self.module._diff and outcome.pending else {})}

    def _warn(self, outcome):
        database = self.params["database"]
        if outcome.waited > 1:
            self.module.warn(f"Waited {outcome.waited:.0f} s for another run on database {database}.")
        if outcome.missing:
            self.module.warn(f"In the ledger of {database}, but not in the set any more: {', '.join(outcome.missing)}.")
        if outcome.strange:
            self.module.warn(
                f"There is no ledger in {database}, but there are objects: where they are what these scripts make, "
                "adopt them with baseline and target."
            )
        if outcome.unrecorded:
            self.module.warn(
                f"An earlier run on {database} ended before it could record the schema: whether somebody has also "
                "changed it by hand cannot be told."
            )
        if outcome.drift:
            self.module.warn(
                f"The schema of {database} has changed since the last run, and by none of its scripts:\n"
                + "\n".join(readable(outcome.drift))
            )

    def verify(self):
        """Compare live with recorded. Returns the result; the module fails where they differ."""
        self.backend.open()
        found = run.drift(self.backend, self.options)
        if found:
            self.module.fail_json(
                msg=f"The schema of {self.params['database']} is not what was recorded after the last run:\n"
                + "\n".join(readable(found)) + "\nUndo it, or take it over with accept_drift.", drift=found,
            )
        return {**result_of(run.Outcome()), "changed": False}


def main():
    gc.freeze()  # or Python looks through all that is loaded once more before it ends, for as long as 20 statements
    module = AnsibleModule(
        argument_spec={**_LOGIN_SPEC, **_SPEC}, supports_check_mode=True,
        mutually_exclusive=[("path", "files")], required_one_of=[("path", "files", "bundle")],
    )
    params = module.params
    if not (params["remote_src"] or params["bundle"]):
        module.fail_json(msg="The action plugin of schema_apply did not run: call the module by its full name.")
    work = Run(module)
    more, message = {}, ""
    try:
        work.check()
        result = work.verify() if params["state"] == "verified" else work.apply()
        work.backend.close()
        module.exit_json(**result)
    except ScriptFailed as error:
        message = str(error)
        more["failure"] = {
            "script": error.script, "line": error.line, "statement": error.statement, "number": error.number,
            "completed": error.completed, "message": error.server_message,
        }
    except ScriptError as error:
        message = str(error) + (f" (line {error.line})" if error.line else "")
    except (Refused, LedgerError, LockTaken, *work.backend.errors) as error:
        message = str(error).strip() + work.backend.remedy(error)
    work.backend.close()
    if params["state"] == "planned":
        module.exit_json(**result_of(run.Outcome()), problem=message)
    applied = work.outcome.applied
    module.fail_json(
        msg=f"Set {params['set_name']}, database {params['database']}: {message}", changed=bool(applied),
        applied=applied, **more,
    )


if __name__ == "__main__":
    main()
