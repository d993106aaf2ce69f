# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Back up and restore PostgreSQL and YugabyteDB with their own programs."""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import urllib.parse

from . import backup_postgres as contents
from . import postgres
from .backup_folder import BackupError, now, require_space
from .backup_run import Different
from .interruptible import program
from .postgres import NAME_BYTES, quote_identifier
from .postgres_programs import environment, password_file

PROOF_MARK = "frameworks.database: a proof of a backup, to be dropped"
_PROGRAM_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
_TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s) AND pid <> pg_backend_pid()
"""
_RENAMES = 10  # attempts, while an application comes back faster than a database gets its new name
_MEMBERSHIPS = """
SELECT pg_get_userbyid(roleid), pg_get_userbyid(member), admin_option FROM pg_auth_members
WHERE pg_get_userbyid(member) !~ '^pg_'
"""


class Programs:
    """The server's own backup programs, run with the login of `params`.

    The password is in a file of mode 0600 below `scratch` for as long as the context lasts. pass_fds: file descriptors
    that a program keeps open.
    """

    pass_fds = ()

    def __init__(self, params, dialect, scratch):
        self.params, self.dialect, self.scratch = params, dialect, scratch
        yugabyte = dialect.name == "yugabytedb"
        self.dump, self.dumpall = ("ysql_dump", "ysql_dumpall") if yugabyte else ("pg_dump", "pg_dumpall")
        self.shell = "ysqlsh" if yugabyte else "psql"
        self._passwords = None

    def __enter__(self):
        self._passwords = password_file(self.params, os.path.join(self.scratch, "pgpass"))
        return self

    def __exit__(self, *_reason):
        if self._passwords:
            os.unlink(self._passwords)

    def _find(self, name):
        """The program's path: in bin_dir, else the lowest installed version that is not older than the server."""
        folder = self.params.get("bin_dir")
        if folder:
            found = shutil.which(name, path=folder)
            if found is None:
                raise BackupError(f"There is no program {name} in {folder}: check bin_dir.")
            return found
        versions = sorted(
            (int(re.search(r"(\d+)/bin$", path).group(1)), path) for pattern in _PROGRAM_FOLDERS
            for path in glob.glob(pattern) if re.search(r"\d/bin$", path) and shutil.which(name, path=path)
        )
        major = self.dialect.version[0]
        fit = [path for version, path in versions if version >= major]
        found = shutil.which(name, path=fit[0]) if fit else shutil.which(name)
        if found is None:
            raise BackupError(
                f"There is no program {name} on this host: install the client programs of {self.dialect.title} {major} "
                "or newer (on Debian postgresql-client), or say in bin_dir where they are."
            )
        return found

    def version(self):
        """What the dump program says of itself."""
        return subprocess.run(
            [self._find(self.dump), "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        ).stdout.strip()

    def run(self, what, name, *words, stdin=None):
        """Run a program that asks for nothing; `stdin` is a readable file. BackupError with what it said."""
        with tempfile.TemporaryFile(dir=self.scratch) as said:
            with program(
                [self._find(name), "--no-password", *words], pass_fds=self.pass_fds,
                env=environment(self.params, self.params["login_db"], self._passwords),
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=said, stderr=said,
            ) as process:
                if stdin:
                    with contextlib.suppress(BrokenPipeError):  # then it says itself why it ended
                        shutil.copyfileobj(stdin, process.stdin, 1 << 20)
                        process.stdin.close()
            if process.returncode:
                said.seek(max(said.seek(0, os.SEEK_END) - 2000, 0))
                text = said.read().decode(errors="replace").strip()
                raise BackupError(f"{what}: {name} failed with status {process.returncode}. It said: {text}")


class PostgresBackup:
    """Backups of one server. `connection` is an administrator's; `programs` are running as a context."""

    def __init__(self, params, connection, programs):
        self.params, self.connection, self.programs = params, connection, programs
        self._connections = [connection]  # to whatever has sessions
        self.dialect = programs.dialect
        postgres.stay(connection)  # it has nothing to do while the programs work

    def begin(self, handle):
        """Let the programs hold the lock `handle` too: one that outlives this process still writes."""
        self.programs.pass_fds = (handle,)

    def _query(self, sql, values=None):
        return contents.query(self.connection, sql, values)

    def exists(self, database):
        """Whether the server has a database of that name."""
        return bool(self._query("SELECT 1 FROM pg_database WHERE datname = %s", (database,)))

    def size(self, databases):
        """Bytes of the databases together. BackupError where one does not exist."""
        known = dict(self._query("SELECT datname, pg_database_size(oid) FROM pg_database WHERE NOT datistemplate"))
        missing = [name for name in databases if name not in known]
        if missing:
            raise BackupError(
                f"There is no database {', '.join(missing)} on {postgres.server_address(self.params)}. "
                f"There are: {', '.join(sorted(known))}."
            )
        return sum(known[name] or 0 for name in databases)

    def create(self, folder, databases, base):
        """Dump `databases` and the roles into `folder`, always in full. Returns the manifest."""
        secrets = self._query("SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')")[0][0]
        self.programs.run(
            "The roles", self.programs.dumpall, "--roles-only", f"--database={conninfo(self.params['login_db'])}",
            f"--file={folder}/roles.sql", *([] if secrets else ["--no-role-passwords"]),
        )
        return {
            "server_version": self._query("SELECT version()")[0][0], "version": list(self.dialect.version),
            "program": self.programs.version(), "role_passwords": secrets, "memberships": self._query(_MEMBERSHIPS),
            "databases": {name: self._dump(folder, name) for name in databases},
        }

    def _dump(self, folder, database):
        """Dump one database; what the manifest says of it."""
        file = urllib.parse.quote(database, safe="") + (".dump" if self.dialect.name == "postgresql" else ".sql.gz")
        words = [f"--dbname={conninfo(database)}", f"--file={folder}/{file}"]
        aside = postgres.connect(self.params, database)
        reader = postgres.connect(self.params, database)
        try:
            for connection in (aside, reader):
                contents.settle(connection)
            entry = {"file": file, **contents.properties(aside, self.dialect), "ledger": contents.ledger(aside)}
            before = contents.sequences(aside), contents.objects(aside)
            if self.dialect.name == "postgresql":
                # The rows are counted in the snapshot that is dumped, so they are those of the dump to the last one.
                contents.query(reader, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                snapshot = contents.query(reader, "SELECT pg_export_snapshot()")[0][0]
                entry["tables"] = contents.rows(reader)
                self._program_dump(database, "--format=custom", f"--snapshot={snapshot}", *words)
            else:
                tables = contents.rows(reader)
                self._program_dump(database, "--serializable-deferrable", "--compress=6", *words)
                entry["tables"] = contents.steady(tables, contents.rows(reader))
            after = contents.sequences(aside), contents.objects(aside)
            entry["sequences"], entry["objects"] = (
                contents.steady(*pair, gone=False) for pair in zip(before, after)
            )
        finally:
            reader.close()
            aside.close()
        return entry

    def _program_dump(self, database, *words):
        self.programs.run(f"Database {database}", self.programs.dump, *words)

    def restore(self, backup, database, target, proof=False):
        """Restore `database` of a backup as the new database `target` and compare it with the manifest.

        proof: it is a scratch database. Returns (number of tables, number of rows).
        Raises Different, with the copy left for a look; after any other error nothing is left of it.
        """
        entry, mark = backup.manifest["databases"][database], PROOF_MARK if proof else None
        self._query(contents.create_statement(target, entry, self.dialect))
        try:
            self._query(contents.comment_statement(target, mark or f"frameworks.database: {backup.name}, not complete"))
            self._fill(backup, database, target, entry)
        except Different:
            raise
        except BaseException:
            self._terminate(target)
            self._query(f"DROP DATABASE {quote_identifier(target)}")
            raise
        self._query(contents.comment_statement(target, mark or entry["comment"]))
        return len(entry["tables"]), sum(table[0] for table in entry["tables"].values() if table)

    def _fill(self, backup, database, target, entry):
        path = os.path.join(backup.path, entry["file"])
        what = f"Database {database} as {target}"
        if entry["file"].endswith(".gz"):
            with gzip.open(path) as script:
                self.programs.run(
                    what, self.programs.shell, "--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1",
                    f"--dbname={conninfo(target)}", stdin=script,
                )
        else:
            self.programs.run(what, "pg_restore", "--exit-on-error", f"--dbname={conninfo(target)}", path)
        gone = set(contents.attached(entry)) - self._roles()
        for statement in contents.property_statements(target, entry, gone):
            self._query(statement)
        copy = postgres.connect(self.params, target)
        try:
            found = contents.differences(copy, entry, self._same_major(backup))
            contents.query(copy, "ANALYZE")
        finally:
            copy.close()
        if found:
            raise Different(f"Database {target} is not what the backup {backup.name} was made of: {'; '.join(found)}.")

    def _same_major(self, backup):
        return backup.manifest["version"][0] == self.dialect.version[0]

    def prepare(self, backup, copies, write):
        """See to it that databases of a backup can be restored as `copies`, {database: copy}. Raises BackupError.

        write: roles may be created where that is asked for. Returns a sentence on whatever will be left out.
        """
        entries = [backup.manifest["databases"][name] for name in copies]
        for target in copies.values():
            if len(target.encode()) > NAME_BYTES:
                raise BackupError(f"{target} is longer than {NAME_BYTES} bytes: choose a shorter suffix.")
            if self.exists(target):
                raise BackupError(
                    f"There is a database {target} already, maybe from an interrupted restore: look into it, then "
                    "rename or drop it, or choose another suffix."
                )
        if self.params["replace"]:
            if self.params["login_db"] in copies:
                raise BackupError(
                    f"Database {self.params['login_db']} cannot be replaced through a connection to itself: let "
                    "login_db be another one, such as postgres."
                )
            with self._everywhere():  # or it would turn out only once the copies are there
                pass
        directory = self._query("SELECT current_setting('data_directory', true)")[0][0]
        if self.dialect.name == "postgresql" and directory and os.path.isdir(directory):
            size = sum(entry["size"] for entry in entries)
            require_space(directory, size, self.params["reserve_mb"], "the restored copy")
        known = self._roles()
        missing = sorted({role for entry in entries for role in entry["roles"]} - known)
        less = {name: set(contents.attached(backup.manifest["databases"][name])) - known for name in copies}
        if missing and not self.params["roles"]:
            raise BackupError(
                f"The server lacks roles that own or may use what is in the backup: {', '.join(missing)}. Create them "
                f"first, as the environment's playbook does, or let roles=true take them from {backup.path}/roles.sql."
            )
        if self.params["roles"]:
            wanted = sorted(role for role in set(missing).union(*less.values()) if not role.startswith("pg_"))
            self._create_roles(backup, wanted, known, write)
            return []
        return [
            f"{name}: the server has no role {role}, so its {' and '.join(has)} are left out; roles=true creates it"
            for name in copies for role, has in sorted(contents.attached(backup.manifest["databases"][name]).items())
            if role in less[name]
        ]

    def _roles(self):
        return {name for (name,) in self._query("SELECT rolname FROM pg_roles")}

    def _create_roles(self, backup, missing, known, write):
        path = os.path.join(backup.path, "roles.sql")
        with open(path, encoding="utf-8") as file:
            lines = statements(file)
        starts = {role: tuple(role_statements(role)) for role in missing}
        absent = [role for role in missing if not any(line.startswith(starts[role]) for line in lines)]
        if absent:
            raise BackupError(f"{path} does not have {', '.join(absent)}: create them first, then run again.")
        if not write:
            return
        beginnings = tuple(start for one in starts.values() for start in one)
        todo = [line for line in lines if line.startswith(beginnings)]
        known.update(missing)
        for role, member, admin in backup.manifest["memberships"]:
            if {role, member} <= known and (role in missing or member in missing):
                option = " WITH ADMIN OPTION" if admin else ""
                todo.append(f"GRANT {quote_identifier(role)} TO {quote_identifier(member)}{option};")
        if todo:  # one message is one transaction: a role that exists is never changed, so none may be there half made
            self._query("\n".join(todo))

    def swap(self, backup, database, copy):
        """Give `copy` the name `database`. What became of the one that had it, as the end of a sentence."""
        with self._everywhere():
            return self._swap(database, copy)

    def _swap(self, database, copy):
        if not self.exists(database):
            self._rename((copy, database))
            return ""
        stamp = now().strftime("_%Y%m%d%H%M%S")
        old = database.encode()[:NAME_BYTES - len(stamp)].decode(errors="ignore") + stamp
        self._rename((database, old), (copy, database))
        self._terminate(old)  # whoever has come back on another node before its name was another
        return f", and what it replaced is kept as {old}"

    def _rename(self, *pairs):
        """Rename databases, (from, to) each, all of them or none, whenever this process or its connection may end.

        No connection is refused meanwhile, so none has to be allowed again: ending the sessions and renaming are one
        message, which is one transaction, and the first rename locks newcomers out until its end. Whoever slips in
        between makes the server refuse after 5 s.
        """
        sources = [before for before, _after in pairs]
        renames = "; ".join(
            f"ALTER DATABASE {quote_identifier(before)} RENAME TO {quote_identifier(after)}" for before, after in pairs
        )
        for left in reversed(range(_RENAMES)):
            self._terminate(*sources)
            try:
                self._query(f"{_TERMINATE}; {renames.replace('%', '%%')}", (sources,))
                return
            except postgres.psycopg2.Error as error:
                self._take_back(*pairs[0])
                if not left or not isinstance(error, postgres.psycopg2.errors.ObjectInUse):
                    raise

    def _take_back(self, before, after):
        """After a failure, undo the first of several renames, where each statement commits alone."""
        with contextlib.suppress(postgres.psycopg2.Error):  # the failure is what has to be told
            if self.exists(after) and not self.exists(before):
                self._query(f"ALTER DATABASE {quote_identifier(after)} RENAME TO {quote_identifier(before)}")

    def _terminate(self, *databases):
        for connection in self._connections:
            contents.query(connection, _TERMINATE, (list(databases),))

    @contextlib.contextmanager
    def _everywhere(self):
        """End sessions on all nodes meanwhile: one of YugabyteDB knows nothing of the others'.

        A session that is left would go on to write into the database that was replaced.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.__dict__.update, _connections=self._connections)
            if self.dialect.name == "yugabytedb":
                for host, port in self._query("SELECT host, port FROM yb_servers()"):
                    login = {**self.params, "login_host": host, "login_port": port, "login_unix_socket": None}
                    connection = stack.enter_context(contextlib.closing(postgres.connect(login)))
                    self._connections = [*self._connections, connection]
            yield

    def scratch(self, database):
        """The name under which `database` is restored for a proof."""
        return "backup_proof_" + hashlib.sha256(database.encode()).hexdigest()[:12]

    def drop_scratch(self, target):
        """Drop what a proof has made; a database of that name that says nothing of the kind stays."""
        if self._query(
            "SELECT 1 FROM pg_database WHERE datname = %s AND shobj_description(oid, 'pg_database') = %s",
            (target, PROOF_MARK),
        ):
            self._terminate(target)
            self._query(f"DROP DATABASE {quote_identifier(target)}")


def conninfo(database):
    """libpq's connection string for a database of any name; a bare name with = in it would be taken for one."""
    return "dbname='{}'".format(database.replace("\\", "\\\\").replace("'", "\\'"))


def statements(lines):
    """The statements of roles.sql; a setting's value may have line breaks."""
    found, begun = [], ""
    for line in lines:
        begun += line
        if not re.search("[\"']", re.sub(r"""'[^']*'|"[^"]*\"""", "", begun)):
            found.append(begun)
            begun = ""
    return found


def role_statements(role):
    """How the lines of roles.sql begin that make `role` what it was."""
    quoted = {quote_identifier(role)} | ({role} if re.fullmatch(r"[a-z_][a-z0-9_]*", role) else set())
    for name in quoted:
        yield f"CREATE ROLE {name};"
        yield f"ALTER ROLE {name} "
