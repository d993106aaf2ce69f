"""clickhouse_backup on the real engine: what was lost comes back, and nothing looks like a backup that is none."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from unittest import mock

import pytest
from ansible_collections.frameworks.database.plugins.module_utils.backup_clickhouse import ClickHouseBackup
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import Client
from support.clickhouse import ClickHouseServer, user_xml
from support.modules import ModuleFailed, run_module
from support.ports import plain_http
from support.schema import CLICKHOUSE_INIT, statements

READER = "reader"


@pytest.fixture(scope="module")
def server():
    """A server of these tests' own, with a disk for backups and a user who may only read."""
    server = ClickHouseServer(users=[user_xml(READER, "reader's", ["GRANT SELECT ON *.*"])])
    config = server.directory / "config.xml"
    disk = (
        f"<storage_configuration><disks><vault><type>local</type><path>{server.directory}/vault/</path></vault></disks>"
        f"</storage_configuration><backups><allowed_path>{server.directory}/backups/</allowed_path>"
        "<allowed_disk>vault</allowed_disk></backups>"
    )
    config.write_text(re.sub("<backups>.*</backups>", disk, config.read_text()))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def database(server):
    """A database with awkward names, an expiring table, a collapsing one and views that write to them."""
    name = "o'dd `name"
    quoted = "`o'dd \\`name`"
    for statement in (
        f"CREATE DATABASE {quoted}",
        "CREATE TABLE events (id UInt64, at DateTime) ENGINE = MergeTree ORDER BY id TTL at + INTERVAL 1 DAY "
        "SETTINGS merge_with_ttl_timeout = 0",
        "CREATE TABLE rollup (k UInt64, n UInt64) ENGINE = SummingMergeTree ORDER BY k",
        "CREATE MATERIALIZED VIEW mv TO rollup AS SELECT id % 3 AS k, count() AS n FROM events GROUP BY k",
        "CREATE VIEW v AS SELECT count() AS n FROM events",
        "CREATE TABLE `t \"1\"` (x String) ENGINE = Log",
        "INSERT INTO `t \"1\"` VALUES ('a'), ('b')",
        *["INSERT INTO events SELECT number, now() - INTERVAL 23 HOUR FROM numbers(1000)"] * 3,
    ):
        server.query(statement, **({} if statement.startswith("CREATE DATABASE") else {"database": escaped(name)}))
    yield name
    for left in server.query("SHOW DATABASES FORMAT JSONCompactColumns") and databases(server):
        if left not in ("default", "system", "INFORMATION_SCHEMA", "information_schema"):
            server.query("DROP DATABASE `" + left.replace("\\", "\\\\").replace("`", "\\`") + "` SYNC")
    shutil.rmtree(server.directory / "backups")
    (server.directory / "backups").mkdir()


def escaped(text):
    return text.replace(" ", "%20").replace("`", "%60")


def databases(server):
    return json.loads(server.query("SHOW DATABASES FORMAT JSONCompactColumns"))[0]


def count(server, database, table="events"):
    return int(server.query(f"SELECT count() FROM {table}", database=escaped(database)))


@pytest.fixture
def backup(server):
    """A function that runs the module."""
    def run(state="created", check=False, **options):
        arguments = {
            **server.login(), "path": str(server.directory / "backups/mine"), "state": state, "reserve_mb": 1,
            **options,
        }
        return run_module("clickhouse_backup", arguments, check=check)

    run.path = server.directory / "backups/mine"
    return run


def folders(backup):
    return sorted(set(os.listdir(backup.path)) - {".lock"}) if backup.path.exists() else []


def test_what_was_lost_comes_back_beside(server, database, backup):
    made = backup(databases=[database])
    assert made["changed"] and "5 tables" in made["lines"][0]
    for path in Path(made["backup"]["path"]).rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    server.query("TRUNCATE TABLE events", database=escaped(database))
    result = backup("restored")
    copy = database + "_restored"
    assert "5 tables and 3" in result["lines"][0]
    assert count(server, copy) == 3000 and count(server, database) == 0 and count(server, copy, "v") == 1
    # The copy's views feed the copy, not the original.
    before = server.query("SELECT sum(n) FROM rollup", database=escaped(database))
    server.query("INSERT INTO events VALUES (1, now())", database=escaped(copy))
    assert server.query("SELECT sum(n) FROM rollup", database=escaped(database)) == before
    assert server.query("SELECT sum(n) FROM rollup", database=escaped(copy)) == "3001\n"
    with pytest.raises(ModuleFailed, match="There is a database .*_restored already"):
        backup("restored")


def test_in_place_the_old_tables_are_kept_and_the_views_go_on(server, database, backup):
    backup(databases=[database])
    for statement in (
        "INSERT INTO events SELECT number, now() FROM numbers(10)", "CREATE TABLE later (n Int8) ENGINE = Memory",
        "DROP TABLE v", "DROP TABLE `t \"1\"`",
    ):
        server.query(statement, database=escaped(database))
    result = backup("restored", replace=True)
    assert "kept in" in result["lines"][0]
    assert count(server, database) == 3000 and count(server, database + "_restored") == 3010
    assert count(server, database, '`t "1"`') == 2 and count(server, database, "v") == 1
    assert count(server, database, "later") == 0
    assert server.query("SELECT sum(n) FROM rollup", database=escaped(database)) == "3000\n"
    server.query("INSERT INTO events VALUES (1, now())", database=escaped(database))
    assert server.query("SELECT sum(n) FROM rollup", database=escaped(database)) == "3001\n"


def test_a_database_that_is_gone_comes_back_under_its_name(server, database, backup):
    backup(databases=[database])
    server.query("DROP DATABASE `o'dd \\`name` SYNC")
    assert backup("restored", replace=True)["lines"][0].endswith(f"it is now {database}")
    assert count(server, database) == 3000 and database + "_restored" not in databases(server)
    server.query("INSERT INTO events VALUES (1, now())", database=escaped(database))
    assert server.query("SELECT sum(n) FROM rollup", database=escaped(database)) == "3001\n"


def test_views_that_cannot_be_exchanged_are_refused_before_anything(server, database, backup):
    server.query("CREATE MATERIALIZED VIEW own ENGINE = MergeTree ORDER BY id AS SELECT id FROM events",
                 database=escaped(database))
    backup(databases=[database])
    with pytest.raises(ModuleFailed, match="store their rows themselves"):
        backup("restored", replace=True)
    assert database + "_restored" not in databases(server)
    assert backup("restored")["changed"]


def forge(made, changes, **entry):
    """Make a backup one of a cluster: change its files, (pattern, replacement) by name, and its manifest's entry.

    The server finds its files by the sizes that its own list has.
    """
    folder, path = Path(made["path"]), Path(made["path"], "manifest.json")
    manifest, listed = json.loads(path.read_text()), (Path(made["path"]) / "data/.backup").read_text()
    for name, (pattern, replacement) in changes.items():
        file = folder / "data" / name
        before, size = file.read_text(), file.stat().st_size
        file.write_text(re.sub(pattern, replacement, before))
        assert file.read_text() != before
        listed, found = re.subn(
            f"(<name>{re.escape(name)}</name>\\s*<size>){size}<", rf"\g<1>{file.stat().st_size}<", listed)
        assert found == 1
        manifest["files"][f"data/{name}"]["size"] = file.stat().st_size
    (folder / "data/.backup").write_text(listed)
    for name in manifest["files"]:
        manifest["files"][name] = {
            "size": (folder / name).stat().st_size, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
    manifest["databases"]["mine"].update(entry)
    path.write_text(json.dumps(manifest))


@pytest.fixture
def of_a_cluster(server, database, backup):
    """A backup of the database `mine` as one host of a cluster makes it; the engine can read such, but not make it."""
    for statement in (
        "CREATE DATABASE mine", "CREATE TABLE mine.t_local (n UInt8) ENGINE = ReplacingMergeTree(n) ORDER BY n",
        "CREATE TABLE mine.s (n UInt8) ENGINE = MergeTree ORDER BY n",
        "CREATE VIEW mine.v AS SELECT n FROM mine.t_local",
        "INSERT INTO mine.t_local SELECT number FROM numbers(10)", "INSERT INTO mine.s SELECT number FROM numbers(3)",
    ):
        server.query(statement)
    made = backup(databases=["mine"])["backup"]
    manifest = json.loads(Path(made["path"], "manifest.json").read_text())
    assert manifest["databases"]["mine"]["replicated"] is None
    engines = {
        "t_local": "ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', n)",
        "s": "ENGINE = ReplicatedMergeTree('/clickhouse/c/everywhere/mine/s', '{shard}-{replica}')",
    }
    tables = manifest["databases"]["mine"]["tables"]
    for table, engine in engines.items():
        tables[table]["engine"] = engine.split()[2].split("(")[0]
    forge(made, {
        "metadata/mine.sql": ("ENGINE = Atomic", "ENGINE = Replicated('/clickhouse/c/mine', '{shard}', '{replica}')"),
        **{f"metadata/mine/{table}.sql": (r"ENGINE = \w*MergeTree(\(n\))?", engine)
           for table, engine in engines.items()},
    }, tables=tables, replicated={
        table: f"CREATE TABLE mine.{table} (`n` UInt8) {engine} ORDER BY n SETTINGS index_granularity = 8192"
        for table, engine in engines.items()
    })
    server.query("TRUNCATE TABLE mine.s")
    return made


def test_what_a_clusters_hosts_share_comes_back_as_this_hosts_own(server, of_a_cluster, backup):
    assert backup("proved")["backup"]["proof"]["passed"] is True
    assert "3 tables and 13 rows" in backup("restored")["lines"][0]
    assert count(server, "mine_restored", "t_local") == count(server, "mine_restored", "v") == 10
    assert count(server, "mine_restored", "s") == 3 and count(server, "mine", "s") == 0
    engines = "SELECT engine FROM system.tables WHERE database = 'mine_restored' ORDER BY name"
    assert server.query(engines).split() == ["MergeTree", "ReplacingMergeTree", "View"]
    with pytest.raises(ModuleFailed, match="mine is replicated: in a cluster no copy takes its place.*from mine_2"):
        backup("restored", replace=True, suffix="_2")
    assert "mine_2" not in databases(server)


def test_the_proof_leaves_no_trace_but_its_record(server, database, backup):
    made = backup(databases=[database])["backup"]
    before = databases(server)
    assert backup("proved")["backup"]["proof"]["passed"] is True
    assert databases(server) == before
    assert json.loads(Path(made["path"], "proof.json").read_text())["passed"] is True


def test_expired_rows_of_an_old_backup_are_not_taken_for_lost_ones(server, database, backup, monkeypatch):
    compare = ClickHouseBackup._differences

    def late(self, backup, name, target):
        with contextlib.suppress(RuntimeError):  # refused, as merges have to be stopped
            server.query("OPTIMIZE TABLE events FINAL", database=target)
        return compare(self, backup, name, target)

    monkeypatch.setattr(ClickHouseBackup, "_differences", late)
    server.query("SYSTEM STOP MERGES events", database=escaped(database))
    old = "INSERT INTO events SELECT number, now() - INTERVAL 1 YEAR FROM numbers(50)"
    server.query(old, database=escaped(database))
    backup(databases=[database])
    assert backup("proved")["backup"]["proof"]["passed"] is True


def test_a_copy_that_is_not_what_was_backed_up_fails_the_proof(server, database, backup):
    made = backup(databases=[database])["backup"]
    path = Path(made["path"], "manifest.json")
    manifest = json.loads(path.read_text())
    manifest["databases"][database]["tables"]["events"]["rows"] = 2999
    manifest["databases"][database]["tables"]["rollup"]["columns"] = "0"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ModuleFailed, match="events has 3000 rows, the backup 2999; table rollup has another engine or"):
        backup("proved")
    assert not [name for name in databases(server) if name.startswith("backup_proof")]
    with pytest.raises(ModuleFailed, match="no good backup"):
        backup("restored")


def test_a_damaged_file_is_refused_by_name(server, database, backup):
    made = backup(databases=[database])["backup"]
    part = max(Path(made["path"]).rglob("*.bin"), key=lambda path: path.stat().st_size)
    contents = bytearray(part.read_bytes())
    contents[-1] ^= 1
    part.write_bytes(contents)
    for check in (False, True):
        with pytest.raises(ModuleFailed, match=rf"damaged: data/.*/{part.name} does not have the SHA-256"):
            backup("restored", check=check)
    assert database + "_restored" not in databases(server)


def test_an_increment_is_smaller_needs_its_base_and_moves_with_it(server, database, backup):
    server.query("INSERT INTO events SELECT rand64(), now() FROM numbers(100000)", database=escaped(database))
    full = backup(databases=[database], incremental=True)["backup"]
    assert full["base"] is None
    server.query("INSERT INTO events SELECT number, now() FROM numbers(10)", database=escaped(database))
    first = backup(databases=[database], incremental=True)["backup"]
    second = backup(databases=[database], incremental=True)["backup"]
    assert first["base"] == second["base"] == full["name"] and second["size"] < full["size"] / 5
    assert backup("proved")["backup"]["proof"]["passed"] is True

    moved = backup.path.with_name("moved")
    backup.path.rename(moved)
    backup("restored", path=str(moved))
    assert count(server, database + "_restored") == 103010
    shutil.rmtree(moved / full["name"])
    with pytest.raises(ModuleFailed, match=f"adds to {full['name']}, which is not there any more"):
        backup("restored", path=str(moved), suffix="_2", backup=second["name"])
    with pytest.raises(ModuleFailed, match="no good backup"):
        backup("restored", path=str(moved), suffix="_2")


def test_a_disk_of_the_servers(server, database, backup):
    path = str(server.directory / "vault/frameworks")
    made = backup(databases=[database], path=path, disk="vault")["backup"]
    assert backup("restored", path=path, disk="vault")["changed"] and made["path"].startswith(path)
    for disk, at in (("absent", "not known"), ("vault", "folder below it")):
        with pytest.raises(ModuleFailed, match=at):
            backup(databases=[database], disk=disk)


def test_tables_that_are_written_to_meanwhile_do_not_fail_the_proof(server, database, backup):
    stop = threading.Event()

    def write():
        while not stop.is_set():
            server.query("INSERT INTO events SELECT number, now() FROM numbers(100)", database=escaped(database))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        made = backup(databases=[database])["backup"]
    finally:
        stop.set()
        thread.join()
    manifest = json.loads(Path(made["path"], "manifest.json").read_text())
    assert manifest["databases"][database]["tables"]['t "1"']["rows"] == 2
    assert backup("proved")["backup"]["proof"]["passed"] is True


def test_rows_that_a_merge_folds_meanwhile_to_as_many_as_before_do_not_fail_the_proof(server, database, backup):
    """The backup is made between an INSERT and the merge that undoes it, as the numbers of rows see it."""
    for sql in ("OPTIMIZE TABLE rollup FINAL", "SYSTEM STOP MERGES rollup"):
        server.query(sql, database=escaped(database))
    before = count(server, database, "rollup")
    run = ClickHouseBackup._run

    def between(self, statement):
        server.query("INSERT INTO rollup VALUES (0, 1)", database=escaped(database))
        run(self, statement)
        for sql in ("SYSTEM START MERGES rollup", "OPTIMIZE TABLE rollup FINAL"):
            server.query(sql, database=escaped(database))

    with mock.patch.object(ClickHouseBackup, "_run", between):
        backup(databases=[database])
    assert count(server, database, "rollup") == before
    assert backup("proved")["backup"]["proof"]["passed"] is True


def test_the_platforms_schema_comes_back(server, database, backup):
    server.query("CREATE DATABASE platform")
    for statement in statements(CLICKHOUSE_INIT.read_text()):
        server.query(statement, database="platform")
    assert "10 tables" in backup(databases=["platform"])["lines"][0]
    assert backup("proved")["backup"]["proof"]["passed"] is True
    backup("restored", replace=True)


@pytest.mark.parametrize("options, said", [
    ({"login_password": "wrong"}, "refuses user"),
    ({"login_user": READER, "login_password": "reader's"}, "Not enough privileges"),
    ({"databases": ["absent"]}, "no database absent.*There are: .*default"),
    ({"databases": []}, "name at least one"),
    ({"path": "/var/tmp/not allowed"}, "allowed_path|not allowed"),
    ({"reserve_mb": 10**9}, "Make room"),
])
def test_what_cannot_be_leaves_nothing(server, database, backup, options, said):
    with pytest.raises(ModuleFailed, match=said):
        backup(**{"databases": [database], **options})
    assert folders(backup) == []
    if "path" in options:
        assert os.listdir(options["path"]) == [".lock"]
        shutil.rmtree(options["path"])


def test_check_mode_writes_nothing(server, database, backup):
    assert backup(databases=[database], check=True)["changed"] is True
    assert not backup.path.exists()
    backup(databases=[database])
    before = folders(backup), databases(server)
    for state in ("restored", "proved"):
        assert "would be" in backup(state, check=True)["lines"][0]
    assert before == (folders(backup), databases(server))


def test_check_mode_on_a_host_without_a_server_is_no_failure(backup):
    result = backup(databases=["d"], check=True, login_port=1)
    said = result["lines"][0]
    assert result["changed"] and "nothing listens" in said and said in str(result["warnings"])


@pytest.mark.parametrize("options, said", [
    ({"login_host": "no.such.invalid"}, "cannot be resolved"), ({"login_password": "wrong"}, "refuses user"),
    ({"tls": True, "ca_cert": "/nowhere/ca.crt"}, "/nowhere/ca.crt. cannot be used"),
])
def test_check_mode_fails_for_a_login_that_will_not_do(backup, options, said):
    with pytest.raises(ModuleFailed, match=said):
        backup(databases=["d"], check=True, **options)


def test_check_mode_fails_for_tls_to_a_server_without(backup):
    with plain_http() as port, pytest.raises(ModuleFailed, match="does not complete the TLS handshake"):
        backup(databases=["d"], check=True, tls=True, login_port=port)


@pytest.fixture
def small_disk(server):
    """A file system of 4 MB within the server's reach."""
    if os.geteuid():
        pytest.skip("needs root")
    place = server.directory / "backups/small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_room_on_the_disk_for_backups_is_none_for_tables(server, database, backup):
    backup(databases=[database])
    vault = server.directory / "vault"
    mount = ["mount", "-t", "tmpfs", "-o", "size=90t", "tmpfs", vault]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        assert shutil.disk_usage(server.directory).free < 80 << 40
        with pytest.raises(ModuleFailed, match="Make room"):
            backup("restored", reserve_mb=80 << 20)
    finally:
        subprocess.run(["umount", vault], check=True)


def test_a_full_disk_leaves_nothing_that_looks_good(server, database, backup, small_disk):
    first = backup(databases=[database], path=str(small_disk))["backup"]["name"]
    server.query("INSERT INTO events SELECT rand64(), now() FROM numbers(1000000)", database=escaped(database))
    with pytest.raises(ModuleFailed, match="No space left on device"):
        backup(databases=[database], path=str(small_disk))
    assert sorted(os.listdir(small_disk)) == [".lock", first]


def test_a_server_that_dies_in_the_middle_leaves_nothing(server, database, backup, monkeypatch):
    ask = ClickHouseBackup._tables

    def die(self, name):
        if "data" in os.listdir(next(backup.path.glob(".partial-*"))):
            server.stop(signal.SIGKILL)
        return ask(self, name)

    monkeypatch.setattr(ClickHouseBackup, "_tables", die)
    try:
        with pytest.raises(ModuleFailed, match="the server is stopping or crashed"):
            backup(databases=[database])
    finally:
        server.start()
    assert folders(backup) == []


@pytest.fixture
def plain(server, database):
    """A function that runs statements in a database without an awkward name."""
    server.query("CREATE DATABASE plain")

    def run(*texts, database="plain"):
        return [server.query(text, database=database) for text in texts][-1]

    yield run
    run("DROP DATABASE IF EXISTS plain SYNC SETTINGS check_referential_table_dependencies = 0", database="default")


def test_a_database_without_rows_or_tables_is_backed_up(plain, backup):
    backup(databases=["plain"])
    plain("CREATE VIEW v AS SELECT 1")
    assert backup(databases=["plain"])["changed"] and backup("proved")["changed"]


@pytest.mark.parametrize("engine", [
    "File(CSV)", "Join(ANY, LEFT, k)", "Set", "Buffer('plain', 'm', 1, 99, 99, 99, 9, 9, 9)",
])
def test_rows_that_the_server_does_not_back_up_are_named_and_not_replaced(plain, backup, engine):
    plain("CREATE TABLE m (k UInt64) ENGINE = MergeTree ORDER BY k", f"CREATE TABLE t (k UInt64) ENGINE = {engine}",
          "INSERT INTO t VALUES (1)")
    assert "no rows of t" in backup(databases=["plain"])["lines"][0]
    assert backup("proved")["changed"]
    assert "as they were stay t" in backup("restored", replace=True)["lines"][0]
    if engine != "Set":
        assert plain("SELECT count() FROM t") == "1\n"


def test_in_place_nothing_reads_from_the_copy(plain, backup):
    plain("CREATE TABLE m (k UInt64) ENGINE = MergeTree ORDER BY k", "INSERT INTO m VALUES (1)",
          "CREATE TABLE t (k UInt64) ENGINE = Merge('plain', '^m')")
    backup(databases=["plain"])
    plain("INSERT INTO m VALUES (2)")
    backup("restored", replace=True)
    plain("DROP DATABASE plain_restored SYNC")
    assert plain("SELECT count() FROM t") == "1\n"


def test_a_table_that_reads_a_dictionary_of_its_database_is_not_replaced(server, plain, backup):
    user, password = server.login()["login_user"], server.login()["login_password"]
    plain("CREATE TABLE m (k UInt64, v String) ENGINE = MergeTree ORDER BY k",
          f"CREATE DICTIONARY d (k UInt64, v String) PRIMARY KEY k SOURCE(CLICKHOUSE(TABLE 'm' DB 'plain' "
          f"USER '{user}' PASSWORD '{password}')) LAYOUT(FLAT()) LIFETIME(0)",
          "CREATE TABLE t (k UInt64, v String DEFAULT dictGet('plain.d', 'v', k)) ENGINE = MergeTree ORDER BY k",
          "INSERT INTO m VALUES (1, 'a')")
    backup(databases=["plain"])
    with pytest.raises(ModuleFailed, match="Nothing was replaced: in plain_restored, t read"):
        backup("restored", replace=True)
    assert "plain_restored" not in plain("SHOW CREATE TABLE t")
    plain("DROP DATABASE plain_restored SYNC SETTINGS check_referential_table_dependencies = 0")


def test_ended_in_the_exchange_no_table_is_left_behind(plain, backup, monkeypatch):
    for name in "abc":
        plain(f"CREATE TABLE {name} (k UInt64) ENGINE = MergeTree ORDER BY k", f"INSERT INTO {name} VALUES (1)")
    backup(databases=["plain"])
    for name in "abc":
        plain(f"INSERT INTO {name} VALUES (2)")
    ask = Client.execute

    def execute(self, statement, *rest, **named):
        answer = ask(self, statement, *rest, **named)
        if statement.startswith("EXCHANGE"):
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGTERM)
        return answer

    monkeypatch.setattr(Client, "execute", execute)
    with pytest.raises(json.JSONDecodeError):  # the module has ended without an answer
        backup("restored", replace=True)
    assert {plain(f"SELECT count() FROM {name}") for name in "abc"} == {"2\n"}
