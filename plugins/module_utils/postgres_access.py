# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users, databases and grants of one server: read once, compare, run what is missing, look whether it took effect."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from .declared import did_you_mean
from .postgres import (
    ConnectionFailed,
    PostgresError,
    connect,
    dialect,
    psycopg2,
    server_address,
    take_advisory_lock,
)
from .postgres_catalogue import new_database, read_database, read_server
from .postgres_grants import builtin_acl, check_grants, database_target, plan_grants
from .postgres_password import is_verifier, matches
from .postgres_plan import (
    Refused,
    check_databases,
    check_users,
    plan_databases,
    plan_drops,
    plan_users,
)

LOCK = "frameworks.database access"
# Failed logins that the server only refuses after it has accepted the password.
_PASSWORD_ACCEPTED = ("database", "login", "limit")


class ConnectionLost(PostgresError):
    """The server went away between the login and the end."""


class StatementFailed(Exception):
    """The server refused a statement, or accepted it without effect; the text names the item and the statement."""

    def __init__(self, change, statement, error, kept):
        self.pgcode = getattr(error, "pgcode", None)
        diagnosis = getattr(error, "diag", None)
        parts = [getattr(diagnosis, f"message_{part}", None) for part in ("primary", "detail", "hint")]
        said = ". ".join(part for part in parts if part) or " ".join(str(error).split())
        remains = f"the {kept} statements before it remain" if kept else "nothing was changed"
        shown = statement.shown if len(statement.shown) < 500 else f"{statement.shown[:500]} …"
        super().__init__(f"{change.item}: {said} (statement: {shown}; {remains})")


class Batch(NamedTuple):
    """Changes that run on one connection; in one transaction, where the engine has that and `together` is true."""

    database: str
    changes: list
    together: bool = True


class Access:
    """One run against one server.

    params: the module's options. warn(sentence). opened(connection): called for each new one; the caller closes it.
    kept: after provision() has raised, the statements (masked) whose effect remains.
    """

    def __init__(self, params, check_mode, warn, opened):
        self.params, self.check_mode, self.warn, self.opened = dict(params), check_mode, warn, opened
        self.users, self.databases, self.grants = params["users"], params["databases"], params["grants"]
        self.login_db = params["login_db"]
        self.kept = []
        self._connections = {}
        self._login_tried = {}
        self._new_databases = set()

    def provision(self):
        """Bring the server to what is declared, or with check_mode find out what that would take.

        Returns [(database that it runs in, Change)] in the order of running.
        Raises PostgresError, Refused, StatementFailed.
        """
        try:
            return self._provision()
        except (PostgresError, Refused, StatementFailed):
            raise
        except psycopg2.Error as error:
            said = " ".join(str(error).split()).rstrip(".")
            raise ConnectionLost(
                f"While talking to {server_address(self.params)}: {said}. "
                "Whether what was under way has taken effect is not known. Run again."
            ) from None

    def _provision(self):
        check_users(self.users)
        self.engine = dialect(self._connection(self.login_db))
        check_databases(self.databases, self.engine)
        if self.engine.advisory_locks and not self.check_mode:
            take_advisory_lock(self._connection(self.login_db), LOCK, self.params["lock_timeout"])
        self._read()
        check_grants(self.grants, self.server, self.engine.title)
        batches = self._plan()
        if self.server["standby"] and _flat(batches):
            raise Refused(f"{server_address(self.params)} is a standby, which takes no changes: log in to the primary.")
        if self.check_mode:
            return _flat(batches)
        done = []
        for batch in batches:
            if done:
                self._use_new_password()
            if batch.database in self._new_databases:
                # Only now can be seen what the template has put into it.
                catalogue = self._read_inside(batch.database)
                batch = batch._replace(changes=self._plan_inside(batch.database, catalogue, self._missing))
            self._run(batch)
            done.append(batch)
        self._look_again(done)
        return _flat(done)

    # ---- what is there ----

    def _connection(self, database):
        if database not in self._connections:
            connection = connect(self.params, database)
            self.opened(connection)
            connection.readonly = self.check_mode
            self._connections[database] = connection
        return self._connections[database]

    def _read(self):
        """Set `server` and `inside` (of each existing database with grants in it) from the catalogues."""
        names = {user["name"] for user in self.users}
        for user in self.users:
            names |= {*(user["member_of"] or []), *(user["not_member_of"] or []), user["reassign_owned_to"]}
        names |= {database["owner"] for database in self.databases}
        for grant in self.grants:
            names |= {*grant["roles"], *(grant["for_roles"] or [])}
        self._names = sorted(names - {None})
        databases = {entry["name"] for entry in self.databases} | {grant["database"] for grant in self.grants}
        dropped = [user["name"] for user in self.users if user["state"] == "absent"]
        encodings = [entry["encoding"] for entry in self.databases if entry["encoding"] is not None]
        connection = self._connection(self.login_db)
        self.server = self.engine.retry(
            lambda: read_server(connection, self._names, sorted(databases), dropped, encodings)
        )
        self.inside = {
            name: self._read_inside(name) for name in self._databases_with_grants() if name in self.server["databases"]
        }

    def _databases_with_grants(self):
        """Names of the databases that have to be connected to, in the order of their first grant."""
        absent = {database["name"] for database in self.databases if database["state"] == "absent"}
        names = [grant["database"] for grant in self.grants if set(grant["type"]) != {"database"}]
        return [name for name in dict.fromkeys(names) if name not in absent]

    def _read_inside(self, database):
        wanted = {"all": set(), "relations": set(), "functions": set()}
        for grant in self.grants:
            if grant["database"] == database:
                schemas = set(grant["schemas"] or [])
                wanted["all"] |= schemas
                if {"tables", "sequences"} & set(grant["type"]):
                    wanted["relations"] |= schemas
                if "functions" in grant["type"]:
                    wanted["functions"] |= schemas
        connection = self._connection(database)
        return self.engine.retry(lambda: read_database(connection, self._names, *map(sorted, wanted.values())))

    # ---- the difference ----

    def _plan(self):
        self._declared_roles = {user["name"]: user["state"] for user in self.users}
        self._check_grants_exist()
        users = plan_users(self.users, self.server, self._check_role, self._instants(), self._password_holds)
        creations, alterations = plan_databases(self.databases, self.server, self._check_role)
        drops, leaving, farewells = plan_drops(
            self.users, self.databases, self.server, self._check_role, self.login_db
        )
        self._new_databases = {change.name.partition(" ")[2] for change in creations}
        granting = {grant["database"] for grant in self.grants if grant["state"] == "present"}
        for name in dict.fromkeys(grant["database"] for grant in self.grants):
            alterations += self._plan_whole(name, name in granting)
        inside = []
        for name in self._databases_with_grants():
            if name not in {*self.inside, *self._new_databases, *granting}:
                continue  # nothing can be revoked in it
            # A new database may get it from its template; that is seen to once it exists.
            missing = self._missing if name in self.inside or self.check_mode else _ignore
            catalogue = self.inside.get(name) or new_database(self.server["version"])
            inside.append(Batch(name, self._plan_inside(name, catalogue, missing)))
        first = [Batch(self.login_db, users), Batch(self.login_db, creations, False), Batch(self.login_db, alterations)]
        if not creations:
            first = [Batch(self.login_db, users + alterations)]
        return [
            *first, *inside, Batch(self.login_db, drops, False),
            *(Batch(name, changes) for name, changes in leaving.items()), Batch(self.login_db, farewells),
        ]

    def _check_role(self, role, item):
        """Refuse a role that does not exist, unless it is declared; in check mode an earlier task might make it."""
        state = self._declared_roles.get(role)
        if state == "absent":
            raise Refused(f"{item}: {role!r} is declared absent; take it out of one of the two")
        if state is None and role not in self.server["roles"]:
            hint = did_you_mean(role, self._declared_roles)
            self._missing(f"{item}: there is no user {role!r}{hint}; declare it in users")

    def _missing(self, sentence):
        if not self.check_mode:
            raise Refused(sentence)
        self.warn(f"{sentence}. Unless something makes it before, this would fail without check mode.")

    def _check_grants_exist(self):
        declared = {database["name"]: database["state"] for database in self.databases}
        for index, grant in enumerate(self.grants):
            if grant["state"] == "absent":
                continue
            for role in grant["roles"]:
                if role.lower() != "public":
                    self._check_role(role, f"grants[{index}].roles")
            for role in grant["for_roles"] or []:
                self._check_role(role, f"grants[{index}].for_roles")
            name, item = grant["database"], f"grants[{index}].database"
            if declared.get(name) == "absent":
                raise Refused(f"{item}: {name!r} is declared absent; take it out of one of the two")
            if name not in declared and name not in self.server["databases"]:
                self._missing(f"{item}: there is no database {name!r}{did_you_mean(name, declared)}")

    def _instants(self):
        """{declared valid_until: the same moment as the catalogue has it}."""
        found = {}
        with self._connection(self.login_db).cursor() as cursor:
            for index, user in enumerate(self.users):
                if user["valid_until"] is not None:
                    try:
                        cursor.execute(
                            "SELECT (%s::timestamptz AT TIME ZONE 'UTC')::text", (user["valid_until"],)
                        )
                    except psycopg2.DataError as error:
                        raise Refused(f"users[{index}].valid_until: {error.diag.message_primary}") from None
                    found[user["valid_until"]] = cursor.fetchone()[0]
        return found

    def _password_holds(self, user):
        if self.server["passwords"] is None:
            if user["name"] not in self._login_tried:
                self._login_tried[user["name"]] = self._login_works(user)
            return self._login_tried[user["name"]]
        stored = self.server["passwords"].get(user["name"])
        return matches(user["password"], user["name"], stored, self.server["password_encryption"])

    def _login_works(self, user):
        """Whether the user gets in with the declared password and not with another one."""
        attempts = []
        for password in (user["password"], secrets.token_urlsafe()):
            login = {"login_user": user["name"], "login_password": password, "ssl_cert": None, "ssl_key": None}
            try:
                connect({**self.params, **login}, self.login_db).close()
                attempts.append("database")
            except ConnectionFailed as failure:
                attempts.append(failure.reason)
        if attempts[0] in _PASSWORD_ACCEPTED and attempts[1] == "password":
            return True
        # An expired password is refused like a wrong one, and a verifier is none.
        expired = self.server["roles"][user["name"]]["expired"]
        if attempts[0] != "password" or expired or is_verifier(user["password"]):
            self.warn(
                f"The password of {user['name']} is set again: {self.params['login_user']} may not read what is "
                "stored, and a login from here does not tell. To set it only once, use update_password: on_create."
            )
        return False

    def _plan_whole(self, name, granting):
        """The changes to the privileges on a database itself; granting: whether some are to be given."""
        grants = [(index, grant) for index, grant in enumerate(self.grants) if grant["database"] == name]
        current = self.server["databases"].get(name)
        declared = next((database for database in self.databases if database["name"] == name), None)
        if current is None and (declared is None or declared["state"] == "absent") and not granting:
            return []
        owner = (declared or {}).get("owner") or (current["owner"] if current else self.server["user"])
        if current is None:
            acl = builtin_acl(self.server, "d", owner)
        else:
            # A new owner takes over what the old one held.
            acl = [
                [owner if role == current["owner"] else role for role in entry[:2]] + entry[2:]
                for entry in current["acl"]
            ]
        whole = database_target(name, owner, acl)
        return plan_grants(grants, name, whole, None, self.server, self._missing)

    def _plan_inside(self, name, catalogue, missing):
        """The changes to the privileges on what is in a database."""
        grants = [(index, grant) for index, grant in enumerate(self.grants) if grant["database"] == name]
        return plan_grants(grants, name, None, catalogue, self.server, missing)

    # ---- doing it ----

    def _use_new_password(self):
        """Log in with the password that the login user has been given by now."""
        for user in self.users:
            password = user["password"]
            if user["name"] != self.params["login_user"] or not password or user["update_password"] != "always":
                continue
            if not is_verifier(password):  # nobody can log in with one
                self.params["login_password"] = password

    def _run(self, batch):
        """Run the statements of a Batch and add them to `kept`."""
        pairs = [(change, statement) for change in batch.changes for statement in change.statements]
        if not pairs:
            return
        if not batch.together:
            # A database that somebody is connected to, be it this run, cannot be copied.
            for name in self._connections.keys() - {self.login_db}:
                self._connections.pop(name).close()
        connection = self._connection(batch.database)
        with connection.cursor() as cursor:
            # Whoever waits for a lock makes others wait who come later. To the server, 0 is for ever.
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", (f"{max(self.params['lock_timeout'], 1)}s",))
        if batch.together and self.engine.transactional_ddl:
            self.engine.retry(lambda: self._transaction(connection, pairs))
            self.kept += [statement.shown for _change, statement in pairs]
            return
        for change, statement in pairs:
            self.engine.retry(lambda pair=(change, statement): self._execute(connection, *pair))
            self.kept.append(statement.shown)

    def _transaction(self, connection, pairs):
        connection.autocommit = False
        try:
            for pair in pairs:
                self._execute(connection, *pair)
            connection.commit()
        finally:
            if not connection.closed:
                connection.rollback()
                connection.autocommit = True

    def _execute(self, connection, change, statement):
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement.sql)
        except psycopg2.Error as error:
            if connection.closed:
                raise
            raise StatementFailed(change, statement, error, len(self.kept)) from None

    def _look_again(self, done):
        """Raise StatementFailed for changes that were accepted without effect, as grants by those who may not are."""
        if not any(batch.changes for batch in done):
            return
        self._login_tried = {user["name"]: True for user in self.users}
        self._read()
        wanted = {part: change for _database, change in _flat(done) for part in change.parts}
        for _database, change in _flat(self._plan()):
            for part in change.parts & wanted.keys():
                raise StatementFailed(
                    wanted[part], wanted[part].statements[0],
                    f"accepted without effect; {self.server['user']} may not do that", len(self.kept),
                )


def _ignore(_sentence):
    pass


def _flat(batches):
    return [(batch.database, change) for batch in batches for change in batch.changes]
