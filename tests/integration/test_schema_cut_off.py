"""Statements for ClickHouse that were cut off: what is taken for done, for not begun, and for neither."""

import contextlib
import os
import signal
import threading

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import clickhouse as client_module
from ansible_collections.frameworks.database.plugins.module_utils import ledger_clickhouse
from support.clickhouse import ADMIN, ADMIN_PASSWORD, ClickHouseServer, user_xml
from support.modules import ModuleFailed
from support.ports import wait_for
from support.scripts import HOLD, ScriptSet, begin_in_child, in_child

LOG = "<query_log><database>system</database><table>query_log</table></query_log>"
TABLE = "CREATE TABLE a (n UInt32) ENGINE = MergeTree ORDER BY n"
# One row in a block of its own every 0.2 s.
SLOWLY = (
    "SELECT number + sleepEachRow(0.2) * 0 FROM numbers({rows}) SETTINGS max_block_size = 1, max_threads = 1, "
    "min_insert_block_size_rows = 1, min_insert_block_size_bytes = 1, max_insert_threads = 1"
)


@pytest.fixture(scope="module")
def logging():
    """A server with a query log, and a user who may have one query at a time."""
    one = "</default><one><max_concurrent_queries_for_user>1</max_concurrent_queries_for_user></one></profiles>"
    limited = user_xml("one", "one").replace("<profile>default", "<profile>one")
    with contextlib.closing(ClickHouseServer(config=LOG, users=[limited])) as server:
        users = server.directory / "users.xml"
        users.write_text(users.read_text().replace("</default></profiles>", one))
        yield server.start()


@pytest.fixture
def mortal():
    """A server with a query log of the test's own."""
    with contextlib.closing(ClickHouseServer(config=LOG)) as server:
        yield server.start()


@pytest.fixture(params=["with a query log", "without"])
def server(request):
    """Either server; a test's own database goes with it."""
    return request.getfixturevalue("logging" if request.param == "with a query log" else "clickhouse")


@pytest.fixture
def make(unique, tmp_path):
    """make(server): an empty ScriptSet for a database of that server, and a function to ask the database."""
    with contextlib.ExitStack() as stack:
        def made(server, **options):
            server.query(f"CREATE DATABASE {unique}")
            stack.callback(server.query, f"DROP DATABASE {unique} SYNC")
            scripts = ScriptSet(tmp_path / "set", engine="clickhouse", database=unique, **{**server.login(), **options})
            return scripts, lambda sql: server.query(sql, database=unique).strip()

        yield made


def killed(made, query, statement, answered=True, before=lambda: None):
    """Apply in a process that is killed at a statement of a script, before it is sent or once it is `answered`."""
    def run():
        execute = client_module.Client.execute

        def until_then(self, sql, *arguments, **options):
            if not sql.startswith(statement):
                return execute(self, sql, *arguments, **options)
            before()
            if answered:
                execute(self, sql, *arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        client_module.Client.execute = until_then
        made.apply()

    assert in_child(run) == -signal.SIGKILL
    forget_lease(query)


def running(server, text):
    """Whether the server is at work on a statement of a script."""
    return server.query(f"SELECT count() FROM system.processes WHERE query LIKE '{text}%'") == "1\n"


def killed_while(made, query, condition):
    """Apply in a process that is killed as soon as `condition()` is true."""
    def run():
        threading.Thread(
            target=lambda: (wait_for(condition, "the moment"), os.kill(os.getpid(), signal.SIGKILL)), daemon=True
        ).start()
        return made.apply()

    assert in_child(run) == -signal.SIGKILL
    forget_lease(query)


def forget_lease(query):
    """The lease of a dead run ends. A short one could end in a run that lives, on a busy machine."""
    query("TRUNCATE TABLE schema_ledger_lease")


def with_a_lost_lease(made, **options):
    """Apply with a lease that ends soon and is not renewed; in a child."""
    ledger_clickhouse.Lease.seconds, ledger_clickhouse.Lease._renew = HOLD, lambda self: None
    return made.apply(**options)


@pytest.mark.parametrize("statement, ask, done", [
    ("ALTER TABLE a ADD COLUMN x UInt8", "SELECT max(x) FROM a", "0"),
    ("INSERT INTO a_daily SELECT 7", "SELECT groupArray(n) FROM a_daily", "[7]"),
    ("INSERT INTO a_daily SELECT n + 6 FROM a", "SELECT groupArray(n) FROM a_daily", "[7]"),
    ("ALTER TABLE view_of_a MODIFY QUERY SELECT n + 5 AS n FROM a",
     "SELECT position(create_table_query, '+ 5') > 0 FROM system.tables WHERE name = 'view_of_a' "
     "AND database = currentDatabase()", "1"),
])
def test_what_an_application_writes_is_no_sign_of_a_statement(server, make, statement, ask, done):
    made, query = make(server)
    made.write(V1__a=f"{TABLE}; {TABLE.replace('TABLE a', 'TABLE a_daily')}; {TABLE.replace('TABLE a', 'TABLE b')};"
                     "CREATE MATERIALIZED VIEW view_of_a TO b AS SELECT n FROM a").apply()
    made.write(V2__b=statement)
    killed(made, query, statement, answered=False)
    query("INSERT INTO a VALUES (1)")
    assert made.apply()["applied"] == ["V2__b.sql"]
    assert query(ask) == done


@pytest.mark.parametrize("before, statement", [
    ("CREATE FUNCTION {} AS n -> n", "DROP FUNCTION {}"), ("CREATE DATABASE {}", "DROP DATABASE {}"),
    ("CREATE DATABASE {}", "RENAME DATABASE {} TO {}_renamed"),
])
def test_what_shows_in_no_table_is_not_done_twice(server, make, unique, before, statement):
    made, query = make(server)
    name = f"{unique}_other"
    try:
        made.write(V1__a=f"{before}; {statement}".replace("{}", name))
        killed(made, query, statement.replace("{}", name))
        assert made.apply()["applied"] == ["V1__a.sql"]
    finally:
        server.query(f"DROP DATABASE IF EXISTS {name}_renamed")


def test_a_statement_that_was_refused_for_want_of_room_first_is_done_once(logging, make):
    made, query = make(logging, login_user="one", login_password="one")

    def fill():
        threading.Thread(target=logging.query, args=("SELECT sleep(1)", "one", "one"), daemon=True).start()
        wait_for(lambda: running(logging, "SELECT sleep(1)"), "there is no room")

    made.write(V1__a=f"{TABLE}; INSERT INTO a VALUES (1)")
    killed(made, query, "INSERT INTO a VALUES", before=fill)
    made.options.update(login_user=ADMIN, login_password=ADMIN_PASSWORD)
    assert made.apply()["applied"] == ["V1__a.sql"]
    assert query("SELECT groupArray(n) FROM a") == "[1]"


def test_who_waits_for_room_sends_nothing_once_the_lease_is_lost(logging, make):
    made, query = make(logging)
    made.write(V1__a=TABLE).apply()
    made.write(V2__b="INSERT INTO a VALUES (1)")
    first = ScriptSet(made.folder, **{**made.options, "login_user": "one", "login_password": "one"})

    def run():
        execute = client_module.Client._execute

        def without_room(self, sql, *arguments):
            if sql.startswith("INSERT INTO a ") and not query("SELECT count() FROM a") == "1":
                raise client_module.ServerError(202, "Too many simultaneous queries")
            return execute(self, sql, *arguments)

        client_module.Client._execute = without_room
        return with_a_lost_lease(first)  # there is no room to renew it either

    result = begin_in_child(run)
    wait_for(lambda: "V2__b.sql" in query("SELECT script FROM schema_ledger"), "the first run is at it")
    assert made.apply()["applied"] == ["V2__b.sql"]
    assert "lease" in result()["error"]
    assert query("SELECT groupArray(n) FROM a") == "[1]"


@pytest.mark.parametrize("statement, other", [
    ("CREATE TABLE b (n UInt8) ENGINE = Memory", "CREATE TABLE b (n UInt64) ENGINE = Memory"),
    ("ALTER TABLE a ADD COLUMN x UInt8", "ALTER TABLE a ADD COLUMN y UInt8"),
])
def test_a_statement_that_is_edited_after_it_was_cut_off_is_refused(server, make, statement, other):
    made, query = make(server)
    made.write(V1__a=f"{TABLE}; {statement}; CREATE TABLE c (n UInt8) ENGINE = Memory")
    killed(made, query, statement)
    made.write(V1__a=f"{TABLE}; {other}; CREATE TABLE c (n UInt8) ENGINE = Memory")
    said = made.refused()
    assert "V1__a.sql was changed after a run had been cut off in it" in said and "repair" in said
    made.write(V1__a=f"{TABLE}; {statement}; CREATE TABLE c (n UInt8) ENGINE = Memory")
    assert made.apply()["applied"] == ["V1__a.sql"]
    assert query("EXISTS c") == "1"


def test_what_was_there_before_is_not_taken_for_the_work_of_a_killed_run(server, make):
    made, query = make(server)
    query("CREATE TABLE b (theirs String) ENGINE = Memory")
    made_at = "SELECT metadata_modification_time FROM system.tables WHERE database = currentDatabase()"
    wait_for(lambda: query(f"SELECT ({made_at}) < now() - 4") == "1", "it is from before")
    made.write(V1__a=f"{TABLE}; CREATE TABLE b (ours UInt8) ENGINE = Memory")
    killed(made, query, "CREATE TABLE a")
    assert "already exists" in made.refused()


@pytest.mark.parametrize("fault", ["the query", "the server"])
def test_an_insert_that_the_server_ended_too_is_left_to_the_operator(mortal, make, fault):
    made, query = make(mortal)
    made.write(V1__a=f"{TABLE}; INSERT INTO a {SLOWLY.format(rows=60)}")

    def at_it():  # and the server's next start will be another moment than this one's
        return running(mortal, "INSERT INTO a") and query("SELECT count() > 2 AND uptime() > 4 FROM a") == "1"

    if fault == "the server":
        result = begin_in_child(made.apply)
        wait_for(at_it, "rows are there")
        mortal.query("SYSTEM FLUSH LOGS")
        mortal.stop(signal.SIGKILL)
        mortal.start()
        result()
        forget_lease(query)
    else:
        killed_while(made, query, at_it)
        mortal.query("KILL QUERY WHERE query LIKE 'INSERT INTO a%' SYNC")
    said = made.refused()
    assert "statement 2 of 2" in said and "take that back by hand first" in said
    query("TRUNCATE TABLE a")
    made.write(V1__a=f"{TABLE}; INSERT INTO a SELECT number FROM numbers(60)")
    assert made.apply()["applied"] == ["V1__a.sql"]
    assert query("SELECT count() FROM a") == "60"


@pytest.mark.parametrize("way", ["a repeatable's new text", "repair"])
def test_nothing_begins_anew_while_the_server_is_at_the_old_statement(clickhouse, make, way):
    name, options = ("R__a", {}) if way != "repair" else ("V1__a", {"repair": ["V1__a.sql"]})
    made, query = make(clickhouse)
    made.write(**{name: f"CREATE TABLE IF NOT {TABLE.replace('CREATE TABLE', 'EXISTS')}; TRUNCATE TABLE a; "
                        f"INSERT INTO a {SLOWLY.format(rows=10)}"})
    killed_while(
        made, query, lambda: running(clickhouse, "INSERT INTO a") and query("SELECT count() > 0 FROM a") == "1"
    )
    made.write(**{name: "TRUNCATE TABLE a; INSERT INTO a SELECT 7"})
    assert made.apply(**options)["applied"] == [f"{name}.sql"]
    wait_for(lambda: not running(clickhouse, "INSERT INTO a"), "nothing runs any more")
    assert query("SELECT groupArray(n) FROM a") == "[7]"


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "stopped before it"])
def test_a_repair_whose_run_does_not_come_to_the_script(clickhouse, make, refused):
    made, query = make(clickhouse)
    made.write(V1__a=TABLE, V2__b="INSERT INTO a SELECT throwIf(1)")
    made.refused()
    made.write(V2__b="INSERT INTO a VALUES (7)")
    if refused:
        made.write(V1__a=f"{TABLE} -- edited")
        assert "V1__a.sql was changed" in made.refused(repair=["V2__b.sql"])
        made.write(V1__a=TABLE)
        made.apply(repair=["V2__b.sql"])
    else:
        assert made.apply(repair=["V2__b.sql"], target="1")["repaired"] == ["V2__b.sql"]
        assert made.apply()["applied"] == ["V2__b.sql"]
    assert not made.apply()["changed"]
    assert query("SELECT groupArray(n) FROM a") == "[7]"


def test_drift_outlives_a_repair_that_was_refused(clickhouse, make):
    made, query = make(clickhouse)
    made.write(V1__a=TABLE, V2__b="SELECT throwIf(1)")
    made.refused()
    query("ALTER TABLE a ADD COLUMN by_hand UInt8")
    made.write(V1__a=f"{TABLE} -- edited", V2__b="SELECT 1")
    made.refused(repair=["V2__b.sql"])
    made.write(V1__a=TABLE)
    assert made.apply(repair=["V2__b.sql"])["drift"]
    assert "by_hand" in made.refused(state="verified")


def test_a_run_behind_a_killed_one_says_that_it_cannot_tell_drift(clickhouse, make):
    made, query = make(clickhouse)
    made.write(V1__a=TABLE).apply()
    made.write(V2__b="CREATE TABLE b (n UInt8) ENGINE = Memory; CREATE TABLE c (n UInt8) ENGINE = Memory")
    killed(made, query, "CREATE TABLE b")
    query("ALTER TABLE a ADD COLUMN by_hand UInt8")
    made.write(V3__c="broken")
    with pytest.raises(ModuleFailed) as failed:
        made.apply()
    assert "changed it by hand cannot be told" in str(failed.value.result["warnings"])
    assert "apply the set again" in made.refused(state="verified")
    made.write(V3__c="SELECT 1")
    assert "changed it by hand cannot be told" in str(made.apply()["warnings"])
    assert not made.apply(state="verified")["changed"]


def test_a_run_that_has_lost_its_lease_records_no_schema(clickhouse, make):
    made, query = make(clickhouse)
    made.write(V1__a=TABLE).apply()
    made.write(V2__b="SELECT 'begin'; CREATE TABLE b (n UInt8) ENGINE = Memory")
    recorded = "SELECT position FROM schema_ledger_fingerprint FINAL"
    at = query(recorded)

    def lost():
        return query("SELECT max(expires_at) < now64(3) FROM schema_ledger_lease FINAL WHERE owner = 'first'") == "1"

    def run():
        execute, position = client_module.Client.execute, ledger_clickhouse.ClickHouseLedger.position

        def stalled(self, sql, *arguments, **options):
            if sql == "SELECT 'begin'":
                wait_for(lost, "its lease ends")
            return execute(self, sql, *arguments, **options)

        def late(self):  # as a run that is slow to record what it has seen
            wait_for(lambda: query(recorded) != at, "the other has recorded it")
            return position(self)

        client_module.Client.execute, ledger_clickhouse.ClickHouseLedger.position = stalled, late
        return with_a_lost_lease(made, run_by="first")

    first = begin_in_child(run)
    wait_for(lambda: "V2__b.sql" in query("SELECT script FROM schema_ledger") and lost(), "the first run has lost it")
    assert made.apply()["applied"] == ["V2__b.sql"]
    assert "lease" in first()["error"]
    assert not made.apply(state="verified")["changed"]


def test_a_large_schema_is_recorded(clickhouse, make):
    made, _query = make(clickhouse)
    comment = "x" * 3000
    made.write(V1__a=";".join(f"CREATE TABLE t{n} (n UInt8 COMMENT '{comment}') ENGINE = Memory" for n in range(100)))
    made.apply()
    assert not made.apply()["changed"] and not made.apply(state="verified")["changed"]


def test_drift_shows_no_secret(clickhouse, make):
    made, query = make(clickhouse, secret_placeholders={"secret": "it''s a secret"})
    made.write(V1__a="CREATE VIEW a AS SELECT '${secret}' AS said").apply()
    query("CREATE OR REPLACE VIEW a AS SELECT 'it\\'s a secret' AS said, 2 AS more")
    said = made.refused(state="verified")
    assert "changed  view a" in said and "s a secret" not in said
