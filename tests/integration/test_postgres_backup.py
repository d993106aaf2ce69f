"""postgres_backup on a real PostgreSQL: what was lost comes back, and nothing looks like a backup that is none."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import psycopg2
import pytest
from ansible_collections.frameworks.database.plugins.module_utils import backup_postgres
from ansible_collections.frameworks.database.plugins.module_utils.backup_postgres_run import PostgresBackup
from ansible_collections.frameworks.database.plugins.module_utils.postgres import dialect
from support.modules import ModuleFailed, run_module
from support.playbooks import ROOT
from support.ports import wait_for
from support.postgres import PostgresServer, bin_dir
from support.schema import POSTGRES_INIT, POSTGRES_SEED

ROLE, OTHER = "backup app", "backup reader"
PASSWORD = r"co:lon\back 'quote"


@pytest.fixture(scope="module")
def postgres():
    """A server of these tests' own: they drop whatever they find on it."""
    with contextlib.closing(PostgresServer()) as server:
        yield server.start()


@pytest.fixture
def application(postgres):
    """Two roles, dropped afterwards with all databases that a test has left."""
    postgres.query(f"""CREATE ROLE "{ROLE}" LOGIN PASSWORD 'of the app'; CREATE ROLE "{OTHER}";
        GRANT "{OTHER}" TO "{ROLE}\"""")
    yield ROLE
    left = postgres.query("SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'")
    for (name,) in left:
        postgres.query(f"DROP DATABASE {quoted(name)} WITH (FORCE)")
    for role in (ROLE, OTHER):
        postgres.query(f'DROP ROLE IF EXISTS "{role}"')


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def database(postgres, application):
    """A database with an awkward name, awkward tables and settings of its own."""
    name = "o=d\"d 'n\\a me"
    postgres.query(f"CREATE DATABASE {quoted(name)} OWNER {quoted(ROLE)}")
    postgres.query(f"""
        CREATE SCHEMA "S x" AUTHORIZATION {quoted(ROLE)};
        CREATE TABLE "S x"."t;1" (contents int, id serial PRIMARY KEY, f float8, b bytea, at timestamptz DEFAULT now());
        ALTER TABLE "S x"."t;1" OWNER TO {quoted(ROLE)};
        INSERT INTO "S x"."t;1" (contents, f, b) SELECT i, random(), '\\x00ff' FROM generate_series(1, 1000) AS i;
        CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
        CREATE TABLE parted (day date, n int) PARTITION BY RANGE (day);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
        INSERT INTO parted VALUES ('2026-05-01', 1), ('2026-06-01', 2);
        CREATE VIEW v AS SELECT * FROM "S x"."t;1"; GRANT SELECT ON v TO {quoted(OTHER)};
        REVOKE CONNECT ON DATABASE {quoted(name)} FROM PUBLIC;
        GRANT CONNECT ON DATABASE {quoted(name)} TO {quoted(OTHER)} WITH GRANT OPTION;
        ALTER DATABASE {quoted(name)} SET search_path = "$user", "S x";
        ALTER DATABASE {quoted(name)} SET datestyle = 'German'; ALTER DATABASE {quoted(name)} CONNECTION LIMIT 50;
        ALTER ROLE {quoted(ROLE)} IN DATABASE {quoted(name)} SET work_mem = '5MB';
        COMMENT ON DATABASE {quoted(name)} IS 'it''s mine'""", database=name)
    return name


@pytest.fixture
def backup(postgres, tmp_path):
    """A function that runs the module on a folder of the test's own."""
    def run(state="created", check=False, **options):
        arguments = {**postgres.login(), "path": str(tmp_path / "backups"), "state": state, "reserve_mb": 1, **options}
        return run_module("postgres_backup", arguments, check=check)

    run.path = tmp_path / "backups"
    return run


def folders(backup):
    """What is in the backups' folder, the lock aside."""
    return sorted(set(os.listdir(backup.path)) - {".lock"}) if backup.path.exists() else []


@contextlib.contextmanager
def busy_application(postgres, database):
    """A client that is connected all the time, and at once again when its connection is cut."""
    stop = threading.Event()

    def insist():
        while not stop.is_set():
            with contextlib.suppress(psycopg2.Error), contextlib.closing(postgres.connect(database)) as connection:
                while not stop.wait(0.01):
                    connection.cursor().execute("SELECT 1")

    threads = [threading.Thread(target=insist) for _number in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def forge(made, contents):
    """Put other contents into the dump of a backup, so that the manifest does not give it away."""
    dump, path = next(Path(made["path"]).glob("*.dump")), Path(made["path"], "manifest.json")
    dump.write_bytes(contents)
    manifest = json.loads(path.read_text())
    manifest["files"][dump.name] = {"size": len(contents), "sha256": hashlib.sha256(contents).hexdigest()}
    path.write_text(json.dumps(manifest))


def rows(postgres, database):
    return postgres.query('SELECT * FROM "S x"."t;1" ORDER BY id', database=database)


def of_the_database(postgres, name):
    """What is kept about a database outside of it."""
    return postgres.query(
        "SELECT datacl::text, datconnlimit, pg_get_userbyid(datdba), datcollate, shobj_description(oid, 'pg_database'),"
        " (SELECT array_agg((pg_get_userbyid(setrole), setconfig)::text ORDER BY setrole) FROM pg_db_role_setting"
        " WHERE setdatabase = d.oid) "
        "FROM pg_database AS d WHERE datname = %s", (name,))


def test_what_was_lost_comes_back_beside_and_then_in_place(postgres, database, backup):
    before, around = rows(postgres, database), of_the_database(postgres, database)
    made = backup(databases=[database])
    assert made["changed"] and made["backup"]["size"] > 0
    postgres.query('DELETE FROM "S x"."t;1" WHERE id <= 500; DROP VIEW public.v', database=database)

    result = backup("restored")
    copy = database + "_restored"
    assert "3 tables and 1003 rows" in result["lines"][0]
    assert rows(postgres, copy) == before and len(rows(postgres, database)) == 500
    assert of_the_database(postgres, copy) == around
    assert postgres.query(f"SELECT has_table_privilege('{OTHER}', 'public.v', 'SELECT')", database=copy) == [(True,)]

    with pytest.raises(ModuleFailed, match="There is a database .*_restored already"):
        backup("restored")

    with busy_application(postgres, database):
        result = backup("restored", replace=True, suffix="_2")
    assert rows(postgres, database) == before and of_the_database(postgres, database) == around
    [(kept,)] = postgres.query("SELECT datname FROM pg_database WHERE datname ~ '_[0-9]{14}$'")
    assert len(rows(postgres, kept)) == 500 and kept in result["lines"][0]


class WatchedCursor:
    """A psycopg2 cursor that calls before(number) first, for each statement of its connection."""

    def __init__(self, cursor, numbers, before):
        self.cursor, self.numbers, self.before = cursor, numbers, before

    def __getattr__(self, name):
        return getattr(self.cursor, name)

    def __enter__(self):
        return self

    def __exit__(self, *_reason):
        self.cursor.close()

    def execute(self, *statement):
        self.before(next(self.numbers))
        self.cursor.execute(*statement)


def swap(postgres, database, before):
    """Give DATABASE_restored the name of `database`, with a call of before(number) ahead of each statement."""
    numbers = itertools.count()
    with contextlib.closing(postgres.connect("postgres")) as connection:
        watched = SimpleNamespace(cursor=lambda: WatchedCursor(connection.cursor(), numbers, before))
        server = PostgresBackup({}, watched, SimpleNamespace(dialect=dialect(connection)))
        return server.swap(None, database, f"{database}_restored")


def test_an_end_between_any_two_statements_leaves_a_database_that_lets_in(postgres, application):
    for last in itertools.count():
        def end(number, last=last):
            if number >= last:  # nothing gets through any more, no repair either
                raise SystemExit("ended by signal 1")

        postgres.query(f'CREATE DATABASE "100%" OWNER {quoted(ROLE)}')
        postgres.query('CREATE DATABASE "100%_restored"')
        with contextlib.suppress(SystemExit):
            outcome = swap(postgres, "100%", end)
            break
        names = [name for (name,) in postgres.query("SELECT datname FROM pg_database WHERE datname LIKE '100%'")]
        assert "100%" in names and len(names) == 2
        for name in names:
            postgres.query("SELECT 1", database=name)
            postgres.query(f"DROP DATABASE {quoted(name)} WITH (FORCE)")
    assert last > 2 and postgres.query("SELECT 1", database=outcome.split()[-1]) == [(1,)]
    assert postgres.query("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '100%'") != [(ROLE,)]


def test_a_session_that_takes_its_time_to_end_is_waited_for(postgres, database):
    postgres.query(f"CREATE DATABASE {quoted(database + '_restored')}")
    with contextlib.closing(postgres.connect(database)) as session:
        pid = session.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        refused = []

        def before(number):
            if number == 3:  # the renames have been refused
                refused.append(number)
                os.kill(pid, signal.SIGCONT)

        try:
            outcome = swap(postgres, database, before)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert refused and len(rows(postgres, outcome.split(" as ")[1])) == 1000


def test_the_proof_leaves_no_trace_but_its_record(postgres, database, backup):
    made = backup(databases=[database])
    before = postgres.query("SELECT datname FROM pg_database ORDER BY 1")
    assert backup("proved")["backup"]["proof"]["passed"] is True
    assert postgres.query("SELECT datname FROM pg_database ORDER BY 1") == before
    assert json.loads(Path(made["backup"]["path"], "proof.json").read_text())["passed"] is True


def test_other_defaults_of_the_session_make_no_difference(postgres, database, backup):
    backup(databases=[database])
    settings = {"timezone": "Asia/Tokyo", "extra_float_digits": "0", "bytea_output": "escape"}
    for name, value in settings.items():
        postgres.query(f"ALTER ROLE postgres SET {name} = '{value}'")
    try:
        assert backup("proved")["backup"]["proof"]["passed"] is True
    finally:
        postgres.query("ALTER ROLE postgres RESET ALL")


def test_a_copy_that_is_not_what_was_backed_up_fails_the_proof(postgres, database, backup):
    made = backup(databases=[database])["backup"]
    manifest = json.loads(Path(made["path"], "manifest.json").read_text())
    manifest["databases"][database]["tables"]['"S x"."t;1"'][0] = 999
    manifest["databases"][database]["objects"]["table gone"] = "0"
    Path(made["path"], "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModuleFailed, match=r'"t;1" has 1000 rows, the backup 999; table gone is missing'):
        backup("proved")
    with pytest.raises(ModuleFailed, match="no good backup"):
        backup("restored")
    assert not postgres.query("SELECT FROM pg_database WHERE datname ~ 'backup_proof'")
    # Named, it can still be had, beside the original and not in its place.
    with pytest.raises(ModuleFailed, match="999"):
        backup("restored", backup=made["name"], replace=True)
    assert len(rows(postgres, database)) == len(rows(postgres, database + "_restored")) == 1000
    assert not postgres.query("SELECT FROM pg_database WHERE datname ~ '_[0-9]{14}$'")


def test_changed_contents_are_seen_with_the_same_number_of_rows(postgres, database, backup):
    made = backup(databases=[database])["backup"]
    postgres.query('UPDATE "S x"."t;1" SET f = 2 WHERE id = 7', database=database)
    other = backup(databases=[database])["backup"]
    forge(made, next(Path(other["path"]).glob("*.dump")).read_bytes())
    with pytest.raises(ModuleFailed, match='"t;1" has other contents than the backup'):
        backup("proved", backup=made["name"])


def test_a_damaged_file_is_refused_by_name(postgres, database, backup):
    made = backup(databases=[database])["backup"]
    dump = next(Path(made["path"]).glob("*.dump"))
    contents = bytearray(dump.read_bytes())
    contents[len(contents) // 2] ^= 1
    dump.write_bytes(contents)
    for check in (False, True):
        with pytest.raises(ModuleFailed, match=r"damaged: .*\.dump does not have the SHA-256"):
            backup("restored", check=check)
    assert postgres.query("SELECT count(*) FROM pg_database WHERE datname ~ 'restored'") == [(0,)]


def test_dump_and_counts_are_of_one_moment_while_others_write(postgres, database, backup):
    postgres.query("CREATE TABLE busy AS SELECT generate_series(1, 20000) AS n", database=database)
    stop, writer = threading.Event(), postgres.connect(database)

    def write():
        with writer.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("INSERT INTO busy SELECT generate_series(1, 50); DELETE FROM busy WHERE ctid IN "
                               "(SELECT ctid FROM busy LIMIT 20)")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        backup(databases=[database])
    finally:
        stop.set()
        thread.join()
        writer.close()
    assert backup("proved")["backup"]["proof"]["passed"] is True


def test_the_platforms_schema_comes_back(postgres, application, backup):
    name = "frameworks_backup"
    postgres.query(f"CREATE DATABASE {name} OWNER {quoted(ROLE)}")
    for file in (POSTGRES_INIT, POSTGRES_SEED):
        postgres.query(file.read_text(), database=name)
    made = backup(databases=[name])
    assert "20 tables" in made["lines"][0]
    assert backup("proved")["backup"]["proof"]["passed"] is True


def test_missing_roles_are_named_or_brought_back_with_their_passwords(postgres, database, backup):
    backup(databases=[database])
    [(secret,)] = postgres.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (ROLE,))
    postgres.query(f"DROP DATABASE {quoted(database)}")
    postgres.query(f"DROP ROLE {quoted(ROLE)}")
    with pytest.raises(ModuleFailed, match=f"lacks roles.*{ROLE}.*roles.sql"):
        backup("restored")
    result = backup("restored", roles=True, replace=True)
    assert result["lines"][0].endswith(f"it is now {database}")
    assert postgres.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (ROLE,)) == [(secret,)]
    assert postgres.query(f"SELECT pg_has_role('{ROLE}', '{OTHER}', 'MEMBER')") == [(True,)]
    assert len(rows(postgres, database)) == 1000


@pytest.mark.parametrize("given", [
    "GRANT CONNECT, TEMPORARY ON DATABASE {database} TO readers",
    "ALTER ROLE readers IN DATABASE {database} SET work_mem = '6MB'",
])
def test_a_role_that_is_only_attached_to_it_is_done_without_or_brought_back(postgres, database, backup, given):
    postgres.query("CREATE ROLE readers")
    try:
        postgres.query(given.format(database=quoted(database)))
        backup(databases=[database])
        around = of_the_database(postgres, database)
        postgres.query("REVOKE ALL ON DATABASE {0} FROM readers; ALTER ROLE readers IN DATABASE {0} RESET ALL".format(
            quoted(database)))
        postgres.query("DROP ROLE readers")
        without = of_the_database(postgres, database)
        assert backup("proved")["backup"]["proof"]["passed"] is True
        foreseen, result = backup("restored", check=True)["lines"][1:], backup("restored")
        assert foreseen == result["lines"][1:] and "the server has no role readers, so its" in foreseen[0]
        assert of_the_database(postgres, database + "_restored") == without
        backup("restored", roles=True, suffix="_2")
        assert of_the_database(postgres, database + "_2") == around != without
    finally:
        for name in (database, database + "_2"):
            postgres.query(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")
        postgres.query("DROP ROLE IF EXISTS readers")


def test_roles_that_the_backup_does_not_have_are_named_before_anything(postgres, database, backup):
    made = backup(databases=[database])["backup"]
    path = Path(made["path"], "manifest.json")
    manifest = json.loads(path.read_text())
    manifest["databases"][database]["roles"].append("nobody's")
    path.write_text(json.dumps(manifest))
    for check in (True, False):
        with pytest.raises(ModuleFailed, match="roles.sql does not have nobody's: create them first"):
            backup("restored", roles=True, check=check)
    assert not postgres.query("SELECT 1 FROM pg_database WHERE datname LIKE '%_restored'")


def test_who_may_not_read_passwords_makes_a_backup_without_them(postgres, application, backup):
    postgres.query(f"CREATE DATABASE plain OWNER {quoted(ROLE)}")
    login = {"login_user": ROLE, "login_password": "of the app", "login_db": "plain"}
    postgres.query("CREATE SCHEMA s CREATE TABLE t (n int)", database="plain", user=ROLE, password="of the app")
    made = backup(databases=["plain"], **login)["backup"]
    assert json.loads(Path(made["path"], "manifest.json").read_text())["role_passwords"] is False
    text = Path(made["path"], "roles.sql").read_text()
    assert f'CREATE ROLE "{ROLE}"' in text and "SCRAM" not in text


def test_a_password_with_separators_works_and_is_nowhere_to_be_seen(postgres, database, backup, tmp_path):
    postgres.query('CREATE ROLE odd SUPERUSER LOGIN PASSWORD %s', (PASSWORD,))
    seen, spy = tmp_path / "seen", tmp_path / "bin"
    spy.mkdir()
    for name in ("pg_dump", "pg_dumpall", "pg_restore"):
        real = bin_dir() / name
        (spy / name).write_text(
            f'#!/bin/sh\nexec 3>>{seen}; echo "$@" >&3; env >&3\n'
            f'[ -z "$PGPASSFILE" ] || stat -c "%a file" "$PGPASSFILE" >&3\nexec {real} "$@"\n')
        (spy / name).chmod(0o755)
    try:
        backup(databases=[database], login_user="odd", login_password=PASSWORD, bin_dir=str(spy))
        backup("proved", login_user="odd", login_password=PASSWORD, bin_dir=str(spy))
    finally:
        postgres.query("DROP ROLE odd")
    text = seen.read_text()
    assert "600 file" in text and "co:lon" not in text
    files = {line.split("=", 1)[1] for line in text.splitlines() if line.startswith("PGPASSFILE=")}
    assert files and not [file for file in files if os.path.exists(file)]


@pytest.mark.parametrize("options, said", [
    ({"login_password": "wrong"}, "password authentication failed.*What to do"),
    ({"databases": ["absent"]}, "no database absent.*There are: .*postgres"),
    ({"databases": []}, "name at least one"),
    ({"bin_dir": "/nowhere"}, "no program pg_dumpall in /nowhere"),
    ({"reserve_mb": 10**9}, "Make room"),
])
def test_what_cannot_be_leaves_nothing(postgres, database, backup, options, said):
    with pytest.raises(ModuleFailed, match=said):
        backup(**{"databases": [database], **options})
    assert folders(backup) == []


@pytest.mark.parametrize("options, said", [
    ({"backup": "20200101T000000Z"}, "no backup 20200101T000000Z .*There are: 2"),
    ({"databases": ["absent"]}, "does not hold absent"),
    ({"suffix": ""}, "suffix is empty"),
    ({"suffix": "x" * 60}, "longer than 63 bytes"),
])
def test_what_cannot_be_restored_is_said(postgres, database, backup, options, said):
    backup(databases=[database])
    with pytest.raises(ModuleFailed, match=said):
        backup("restored", **options)


def test_check_mode_writes_nothing(postgres, database, backup):
    assert backup(databases=[database], check=True)["changed"] is True
    assert not backup.path.exists()
    backup(databases=[database])
    before = folders(backup), postgres.query("SELECT datname FROM pg_database")
    for state in ("restored", "proved"):
        assert "would be" in backup(state, check=True)["lines"][0]
    assert before == (folders(backup), postgres.query("SELECT datname FROM pg_database"))


def test_check_mode_on_a_host_without_a_server_is_no_failure(tmp_path):
    result = run_module("postgres_backup", {
        "path": str(tmp_path / "b"), "databases": ["a"], "login_port": 1, "login_host": "127.0.0.1"}, check=True)
    said = result["lines"][0]
    assert result["changed"] and "refused" in said and said in str(result["warnings"])


@pytest.mark.parametrize("options, said", [
    ({"login_password": "wrong"}, "password authentication failed"),
    ({"ssl_mode": "require"}, "does not support SSL"), ({"login_user": "nobody"}, "check login_user"),
])
def test_check_mode_fails_for_a_login_that_will_not_do(backup, options, said):
    with pytest.raises(ModuleFailed, match=said):
        backup(databases=["postgres"], check=True, **options)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 10 MB."""
    if os.geteuid():
        pytest.skip("needs root")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", place], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_nothing_that_looks_good(postgres, database, backup, small_disk):
    first = backup(databases=[database], path=str(small_disk))["backup"]["name"]
    # What the last backup took is no measure for this one.
    postgres.query("CREATE TABLE large AS SELECT gen_random_uuid() FROM generate_series(1, 150000)", database=database)
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - (3 << 19)))
    with pytest.raises(ModuleFailed, match="No space left on device"):
        backup(databases=[database], path=str(small_disk))
    assert sorted(os.listdir(small_disk)) == [".lock", first, "ballast"]


def start(postgres, path, bin_dir, database):
    """The module in a process of its own, as Ansible runs it."""
    arguments = {
        **postgres.login(), "path": str(path), "databases": [database], "bin_dir": str(bin_dir), "reserve_mb": 1,
    }
    program = (
        "import json, sys; from support.modules import run_module;"
        "print(run_module('postgres_backup', json.loads(sys.argv[1])))"
    )
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": f"{root}/tests:{root}/collections"},
    )


@pytest.fixture
def slow_dump(tmp_path):
    """Programs of which pg_dump writes half a file and then waits for `go`. (folder, go)."""
    folder, go = tmp_path / "slow", tmp_path / "go"
    folder.mkdir()
    real = bin_dir()
    (folder / "pg_dumpall").symlink_to(f"{real}/pg_dumpall")
    (folder / "pg_dump").write_text(
        '#!/bin/sh\nfor word; do case $word in --file=*) echo half > "${word#--file=}";; esac; done\n'
        f'[ "$1" = --version ] || until [ -e {go} ]; do sleep 0.05; done\nexec {real}/pg_dump "$@"\n')
    (folder / "pg_dump").chmod(0o755)
    yield folder, go
    go.touch()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_in_the_middle_nothing_looks_complete(postgres, database, backup, slow_dump, number):
    folder, go = slow_dump
    process = start(postgres, backup.path, folder, database)
    wait_for(lambda: list(backup.path.glob(".partial-*/*.dump")), "the dump has begun")
    process.send_signal(number)
    process.wait(30)
    if number == signal.SIGTERM:
        assert folders(backup) == []
    else:
        assert [name[:9] for name in folders(backup)] == [".partial-"]
        with pytest.raises(ModuleFailed, match="no good backup of postgresql.*There are: none"):
            backup("restored", check=True)
        # The orphaned pg_dump still writes and so still holds the lock.
        with pytest.raises(ModuleFailed, match="another run still works in"):
            backup(databases=[database], lock_timeout=0)
        go.touch()
    made = backup(databases=[database])
    assert folders(backup) == [made["backup"]["name"]]


def test_two_at_once_take_turns(postgres, database, backup, slow_dump):
    folder, go = slow_dump
    process = start(postgres, backup.path, folder, database)
    wait_for(lambda: list(backup.path.glob(".partial-*/*.dump")), "the dump has begun")
    with pytest.raises(ModuleFailed, match=f"process {process.pid}"):
        backup(databases=[database], lock_timeout=0)
    go.touch()
    assert process.wait(60) == 0
    backup(databases=[database])
    assert len(folders(backup)) == 2


def test_a_rename_that_fails_is_taken_back_where_each_statement_commits_alone(postgres, database, backup, monkeypatch):
    """As on YugabyteDB: there the database has its new name already when the copy cannot get the old one."""
    backup(databases=[database])
    postgres.query("CREATE TABLE since ()", database=database)
    query, renamed = PostgresBackup._query, []

    def alone(self, sql, values=None):
        if " RENAME TO " not in sql or "; " not in sql:
            return query(self, sql, values)
        end_sessions, first, _second = sql.rsplit("; ", 2)
        query(self, end_sessions, values)
        query(self, first.replace("%%", "%"))
        renamed.append(self.exists(database))
        raise psycopg2.errors.ObjectInUse("somebody has come in between")

    monkeypatch.setattr(PostgresBackup, "_query", alone)
    with pytest.raises(ModuleFailed, match="somebody has come in between"):
        backup("restored", replace=True)
    assert renamed and not any(renamed)
    assert postgres.query("SELECT to_regclass('since') IS NOT NULL", database=database) == [(True,)]
    monkeypatch.undo()
    backup("restored", replace=True, suffix="_2")
    assert postgres.query("SELECT to_regclass('since') IS NOT NULL", database=database) == [(False,)]


def test_a_restore_that_breaks_off_leaves_no_copy(postgres, database, backup):
    made = backup(databases=[database])["backup"]
    forge(made, next(Path(made["path"]).glob("*.dump")).read_bytes()[:-3000])
    with pytest.raises(ModuleFailed, match="pg_restore failed with status"):
        backup("restored")
    assert postgres.query("SELECT count(*) FROM pg_database WHERE datname ~ 'restored'") == [(0,)]


RESAID = {
    "constraint": "CREATE TABLE t (id int, status varchar(10) CHECK (status IN ('new', 'done')))",
    "index": "CREATE TABLE t (id int, status varchar(9)); CREATE INDEX i ON t (id) WHERE status IN ('new', 'done')",
    "view": "CREATE TABLE t (status varchar(9)); CREATE VIEW v AS SELECT 1 FROM t WHERE status IN ('new', 'done')",
    "domain": "CREATE DOMAIN d AS varchar(5) CHECK (VALUE IN ('x', 'y')); CREATE TABLE t (id d)",
    "cast": "CREATE TABLE t (n numeric CHECK (n = ANY (ARRAY[1, 2]::numeric(5,2)[])))",
    "path": "CREATE TABLE t (id int); ALTER DATABASE plain SET search_path = ''",
    "paths": """CREATE TABLE t (id int); ALTER DATABASE plain SET search_path = '', "a ""b, c", "$user", public""",
}


@pytest.fixture
def plain(postgres, application):
    """A database without anything awkward."""
    postgres.query(f'CREATE DATABASE plain OWNER "{ROLE}"')
    return "plain"


@pytest.mark.parametrize("what", RESAID)
def test_what_postgresql_says_in_another_way_after_a_restore_is_no_difference(postgres, plain, backup, what):
    postgres.query(RESAID[what], database=plain)
    before = of_the_database(postgres, plain)
    backup(databases=[plain])
    assert backup("proved")["backup"]["proof"]["passed"] is True
    backup("restored", replace=True)
    assert of_the_database(postgres, plain) == before


def test_another_constraint_is_a_difference(postgres, plain, backup):
    postgres.query("CREATE TABLE t (status varchar(9) CHECK (status IN ('new', 'done')))", database=plain)
    made = backup(databases=[plain])["backup"]
    postgres.query("ALTER TABLE t DROP CONSTRAINT t_status_check, ADD CONSTRAINT t_status_check "
                   "CHECK (status IN ('new', 'open'))", database=plain)
    forge(made, next(Path(backup(databases=[plain])["backup"]["path"]).glob("*.dump")).read_bytes())
    with pytest.raises(ModuleFailed, match="constraint t_status_check on public.t is not as in the backup"):
        backup("proved", backup=made["name"])


def test_an_index_that_could_not_be_built_is_not_missed(postgres, plain, backup):
    postgres.query("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (1)", database=plain)
    with contextlib.suppress(psycopg2.Error):
        postgres.query("CREATE UNIQUE INDEX CONCURRENTLY bad ON t (id)", database=plain)
    left = postgres.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'bad'::regclass", database=plain)
    assert left == [(False,)]
    backup(databases=[plain])
    assert backup("proved")["changed"]


def test_what_was_dropped_just_before_the_snapshot_is_not_missed(postgres, plain, backup, monkeypatch):
    postgres.query("CREATE TABLE t (id int); CREATE TABLE old (id serial)", database=plain)
    ask = backup_postgres.query

    def query(connection, sql, values=None):
        if sql.startswith("BEGIN ISOLATION"):
            postgres.query("DROP TABLE old", database=plain)
        return ask(connection, sql, values)

    with monkeypatch.context() as patched:
        patched.setattr(backup_postgres, "query", query)
        backup(databases=[plain])
    assert backup("proved")["changed"]


def test_sessions_that_wait_for_a_long_program_are_not_ended(postgres, plain, backup, slow_dump):
    folder, go = slow_dump
    postgres.query("CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1 FROM pg_sleep(1.5)';"
                   "CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE INDEX ON t (slow(id))", database=plain)
    postgres.query("ALTER ROLE postgres SET idle_session_timeout = '1s'")
    timer = threading.Timer(2, go.touch)
    timer.start()
    try:
        backup(databases=[plain], bin_dir=str(folder))
        assert backup("restored")["changed"]
    finally:
        timer.join()
        postgres.query("ALTER ROLE postgres RESET ALL")


def test_roles_come_back_whole_or_not_at_all(postgres, plain, backup, monkeypatch):
    postgres.query(f"ALTER ROLE \"{ROLE}\" SET app.motd = E'a\\nb'")
    backup(databases=[plain])
    kept = "SELECT rolpassword, (SELECT setconfig FROM pg_db_role_setting WHERE setrole = a.oid), " \
        "(SELECT count(*) FROM pg_auth_members WHERE member = a.oid) FROM pg_authid AS a WHERE rolname = %s"
    before = postgres.query(kept, (ROLE,))
    postgres.query("DROP DATABASE plain")
    postgres.query(f'DROP ROLE "{ROLE}"')
    ask = backup_postgres.query

    def query(connection, sql, values=None):
        answer = ask(connection, sql, values)
        if sql.startswith("CREATE ROLE"):
            raise KeyboardInterrupt
        return answer

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(backup_postgres, "query", query)
        backup("restored", roles=True)
    backup("restored", roles=True)
    assert postgres.query(kept, (ROLE,)) == before


def test_a_full_or_read_only_disk_can_be_pruned_or_restored_from(postgres, plain, backup, small_disk):
    postgres.query("CREATE TABLE t (id int)", database=plain)
    gone, kept = (backup(databases=[plain], path=str(small_disk))["backup"]["name"] for _number in range(2))
    os.truncate(small_disk / ".lock", 0)
    with contextlib.suppress(OSError), open(small_disk / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert backup("restored", path=str(small_disk))["backup"]["name"] == kept
    pruned = run_module("backup_prune", {"path": str(small_disk), "keep": 1, "keep_days": 0})
    assert pruned["removed"] == [gone]
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert backup("restored", path=str(small_disk), suffix="_2")["changed"]
    with pytest.raises(ModuleFailed, match="Read-only"):
        backup(databases=[plain], path=str(small_disk))


def test_a_database_is_not_replaced_through_a_connection_to_itself(postgres, plain, backup):
    backup(databases=[plain])
    with pytest.raises(ModuleFailed, match="let login_db be another one"):
        backup("restored", replace=True, login_db=plain)
    assert not postgres.query("SELECT FROM pg_database WHERE datname = 'plain_restored'")


def test_a_backup_comes_back_without_ansible_as_the_page_says(postgres, postgres_database, backup):
    postgres.query("CREATE TABLE t AS SELECT 7 AS n", database=postgres_database)
    made, copy = backup(databases=[postgres_database])["backup"], f"{postgres_database}_restored"
    commands = (ROOT / "docs/backup.md").read_text().split("## Without Ansible")[1].split("```bash")[1].split("```")[0]
    for shown, here in (("20261122T030000Z", made["name"]), ("frameworks.dump", f"{postgres_database}.dump"),
                        ("frameworks_restored", copy), ("frameworks_user", "postgres")):
        assert shown in commands
        commands = commands.replace(shown, here)
    login = {"PGHOST": postgres.host, "PGPORT": str(postgres.port), "PGPASSWORD": postgres.password}
    path = os.pathsep.join([str(bin_dir()), os.environ["PATH"]])
    try:
        environment = {**os.environ, **login, "PATH": path}
        subprocess.run(["bash", "-euc", commands], cwd=backup.path, env=environment, check=True)
        assert postgres.query("SELECT n FROM t", database=copy) == [(7,)]
    finally:
        postgres.query(f"DROP DATABASE IF EXISTS {copy}")
