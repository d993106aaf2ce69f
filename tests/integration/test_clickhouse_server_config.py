"""The real engine reads the whole configuration that the role renders for ClickHouse's own packages.

The embedded engine has no TLS, no Keeper and no interserver port: those parts are held to what the role declares.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.clickhouse import ClickHouseServer, library
from support.clickhouse_config import FOUND, HOSTS, ROLE, work_out

STAND_IN = Path(__file__).parents[2] / "molecule/clickhouse_stand_in/release"
LOCAL = """
import ctypes, sys
engine = ctypes.CDLL(sys.argv[1])
engine.chdb_query_cmdline.restype = engine.chdb_result_buffer.restype = ctypes.c_void_p
engine.chdb_result_length.restype = ctypes.c_size_t
engine.chdb_result_length.argtypes = engine.chdb_result_buffer.argtypes = [ctypes.c_void_p]
words = [word.encode() for word in ["clickhouse", *sys.argv[2:]]]
result = engine.chdb_query_cmdline(len(words), (ctypes.c_char_p * len(words))(*words))
if not result:
    sys.exit(1)
print(ctypes.string_at(engine.chdb_result_buffer(result), engine.chdb_result_length(result)).decode())
"""
END = "end_of_the_rows"


class Place:
    """The folders of a server, with the packages' own configuration and what the role renders for `host`."""

    def __init__(self, folder, host="a1", hosts=None, **variables):
        self.folder = folder
        self.etc, self.data = folder / "etc/clickhouse-server", folder / "data"
        self.variables = {
            "clickhouse_db_config_dir": str(self.etc), "clickhouse_db_data_dir": str(self.data),
            "clickhouse_db_log_dir": str(folder / "log"), "clickhouse_db_backup_dir": str(folder / "backups"),
            **variables,
        }
        (folder / "play").mkdir()
        self.result = work_out(folder / "play", ["texts", "configuration"], self.variables, hosts, host)
        shutil.copytree(STAND_IN / "etc/clickhouse-server", self.etc)
        self.data.mkdir()
        (folder / "log").mkdir()
        self.engines_own = self.etc / "users.d/zz-engine.xml"
        for path, text in self.result["texts"].items():
            if path.startswith(str(self.etc)):
                Path(path).parent.mkdir(exist_ok=True)
                Path(path).write_text(text)
        self.engines_own.write_text(
            "<clickhouse><users><default><password/><networks><ip>::1</ip><ip>127.0.0.1</ip></networks>"
            "<profile>default</profile><quota>default</quota></default></users></clickhouse>"
        )

    def local(self, *queries):
        """The rows of each query under this configuration. The engine logs in to itself as `default`, if it is there.

        With Keepers it ends five seconds later: it waits for them before it looks for them again.
        """
        words = f" FORMAT JSONEachRow; SELECT '{END}' AS {END} FORMAT JSONEachRow; "
        done = subprocess.run(
            [sys.executable, "-c", LOCAL, str(library()), f"--config-file={self.etc}/config.xml",
             "--query", "".join(query + words for query in queries)],
            capture_output=True, text=True, check=False, cwd=self.data,
        )
        assert done.returncode == 0 and "Exception" not in done.stderr, done.stderr
        found = [[]]
        for row in (json.loads(line) for line in done.stdout.splitlines() if line):
            if END in row:
                found.append([])
            else:
                found[-1].append(row)
        assert len(found) == len(queries) + 1, done.stdout
        return found[:-1]

    def rendered(self, name):
        """The root of a file below config.d."""
        return ElementTree.fromstring(self.result["texts"][f"{self.etc}/config.d/{name}.xml"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A Place of a host that is a server and a Keeper of a cluster."""
    return Place(
        tmp_path_factory.mktemp("cluster"),
        clickhouse_db_settings={
            "max_concurrent_queries": 77, "background_pool_size": 3, "merge_tree": {"max_suspicious_broken_parts": 5},
        },
    )


@pytest.fixture(scope="module")
def engine(place):
    """{query: rows} of all that the tests ask about `place`, by one start of the engine."""
    queries = [
        SETTINGS, MERGE_TREE, MEMBERS, DEFAULT_CLUSTER, MACROS, DISKS, USERS, GRANTS, RELOADED, span_log_table(place),
    ]
    return dict(zip(queries, place.local(*queries)))


SETTINGS = "SELECT name, value FROM system.server_settings"
RELOADED = "SELECT name FROM system.server_settings WHERE changeable_without_restart != 'No'"
MERGE_TREE = "SELECT value FROM system.merge_tree_settings WHERE name = 'max_suspicious_broken_parts'"
MEMBERS = "SELECT shard_num, replica_num, host_name, port FROM system.clusters WHERE cluster = 'fw' ORDER BY ALL"
DEFAULT_CLUSTER = "SELECT 1 FROM system.clusters WHERE cluster = 'default'"
MACROS = "SELECT * FROM system.macros"
DISKS = "SELECT type, path FROM system.disks WHERE name = 'backups'"
USERS = "SELECT * FROM system.users"
GRANTS = "SELECT access_type FROM system.grants WHERE user_name = 'admin'"


def span_log_table(place):
    """The engine's reading of a table whose engine is that of opentelemetry_span_log."""
    engine = place.rendered("frameworks").findtext("opentelemetry_span_log/engine")
    return f"SELECT formatQuery('CREATE TABLE t (finish_date Date, finish_time_us UInt64) {engine}') AS q"


def test_the_engine_takes_settings_cluster_and_macros_as_declared(place, engine):
    settings = {row["name"]: row["value"] for row in engine[SETTINGS]}
    assert settings["max_concurrent_queries"] == "77" and settings["background_pool_size"] == "3"
    assert settings["max_server_memory_usage_to_ram_ratio"].startswith("0.8")
    assert engine[MERGE_TREE] == [{"value": "5"}]
    assert engine[MEMBERS] == [
        {"shard_num": 1 + (number > 1), "replica_num": 1 + number % 2, "host_name": host, "port": 9440}
        for number, host in enumerate(["a1", "a2", "b1", "b2"])
    ]
    assert not engine[DEFAULT_CLUSTER]
    assert {row["macro"]: row["substitution"] for row in engine[MACROS]} == {
        "cluster": "fw", "shard": "1", "replica": "a1",
    }
    assert engine[DISKS][0]["path"] == f"{place.folder}/backups/"


def test_the_engine_knows_the_admin_and_no_default_user(place, engine):
    users = {row["name"]: row for row in engine[USERS]}
    assert set(users) == {"admin", "default"} and users["admin"]["auth_type"] == ["sha256_password"]
    assert sorted(users["admin"]["host_names"]) == ["a1", "a2", "b1", "b2", "k", "localhost"]
    rights = {row["access_type"] for row in engine[GRANTS]}
    assert {"CREATE USER", "SELECT"} <= rights or {"ACCESS MANAGEMENT", "SELECT"} <= rights or "ALL" in rights
    text = place.engines_own.read_text()
    place.engines_own.unlink()
    try:
        with pytest.raises(AssertionError, match="AUTHENTICATION_FAILED"):
            place.local("SELECT 1")
    finally:
        place.engines_own.write_text(text)


def test_ports_tls_and_keepers_are_what_was_declared(place):
    root = place.rendered("frameworks")
    for closed in ("http_port", "tcp_port", "mysql_port", "postgresql_port", "interserver_http_port"):
        assert root.find(closed).get("remove") == "remove"
    assert [root.findtext(name) for name in ("https_port", "tcp_port_secure", "interserver_https_port")] == [
        "8443", "9440", "9010",
    ]
    for part, verification in (("server", "relaxed"), ("client", "strict")):
        assert root.findtext(f"openSSL/{part}/verificationMode") == verification
        assert root.findtext(f"openSSL/{part}/disableProtocols") == "sslv2,sslv3,tlsv1,tlsv1_1"
    assert root.findtext("user_directories/replicated/zookeeper_path") == "/clickhouse/fw/access"
    assert root.findtext("user_defined_zookeeper_path") == "/clickhouse/fw/functions"
    cluster = place.rendered("frameworks-cluster")
    assert [node.findtext("host") for node in cluster.findall("zookeeper/node")] == ["a1", "b1", "k"]
    assert {node.findtext("secure") for node in cluster.findall("zookeeper/node")} == {"1"}
    assert cluster.findtext("remote_servers/fw/secret") == "secret of <the> cluster"
    assert cluster.findtext("interserver_http_credentials/password") == "password & between hosts"
    keeper = ElementTree.fromstring(place.result["texts"]["/etc/clickhouse-keeper/frameworks.xml"])
    assert keeper.findtext("openSSL/server/verificationMode") == "strict"
    assert keeper.find("keeper_server/tcp_port") is None and keeper.findtext("keeper_server/tcp_port_secure") == "9281"
    assert keeper.findtext("keeper_server/raft_configuration/secure") == "true"
    servers = keeper.findall("keeper_server/raft_configuration/server")
    assert [server.findtext("id") for server in servers] == ["1", "2", "3"]


def test_addresses_of_ipv6_are_told_from_their_ports(place, tmp_path):
    """Keeper and its clients put the port behind what they are given; the cluster's hosts are held apart from it."""
    hosts = {**HOSTS, "a1": {**HOSTS["a1"], "clickhouse_db_address": "2001:db8::1"}}
    found = {"system": {**FOUND["system"], "ipv6": False}}
    result = work_out(tmp_path, ["texts", "url"], place.variables, hosts, found=found)
    assert result["url"] == "https://[2001:db8::1]:8443"
    cluster = ElementTree.fromstring(result["texts"][f"{place.etc}/config.d/frameworks-cluster.xml"])
    assert cluster.findtext("zookeeper/node/host") == "[2001:db8::1]"
    assert cluster.findtext("remote_servers/fw/shard/replica/host") == "2001:db8::1"
    keeper = ElementTree.fromstring(result["texts"]["/etc/clickhouse-keeper/frameworks.xml"]).find("keeper_server")
    assert keeper.findtext("raft_configuration/server/hostname") == "[2001:db8::1]"
    assert keeper.findtext("enable_ipv6") == "false"
    keeper = ElementTree.fromstring(place.result["texts"]["/etc/clickhouse-keeper/frameworks.xml"])
    assert keeper.find("keeper_server/enable_ipv6") is None


def test_logs_in_tables_end(place, engine):
    root = place.rendered("frameworks")
    logs = {one.tag: one for one in root if one.tag.endswith("_log")}
    # What the packages of 25.8 switch on, but for crash_log, which is empty unless the worst happens.
    assert set(logs) == {
        "asynchronous_insert_log", "asynchronous_metric_log", "backup_log", "blob_storage_log", "error_log",
        "latency_log", "metric_log", "opentelemetry_span_log", "part_log", "processors_profile_log", "query_log",
        "query_metric_log", "query_thread_log", "query_views_log", "s3queue_log", "text_log", "trace_log",
    }
    logs.pop("opentelemetry_span_log")
    assert {one.findtext("ttl") for one in logs.values()} == {"event_date + INTERVAL 30 DAY DELETE"}
    assert "TTL finish_date + toIntervalDay(30)" in engine[span_log_table(place)][0]["q"]


def test_metrics_are_served_on_request_only(place, tmp_path):
    root = place.rendered("frameworks")
    assert root.find("prometheus") is None
    asked = Place(tmp_path, clickhouse_db_prometheus_port=9363)
    root = asked.rendered("frameworks")
    assert (root.findtext("prometheus/port"), root.findtext("prometheus/endpoint")) == ("9363", "/metrics")


def test_the_logs_files_turn_and_tls_has_its_minimum(place, tmp_path):
    strict = Place(
        tmp_path, clickhouse_db_tls_minimum="1.3", clickhouse_db_log_size="10M", clickhouse_db_log_count=3,
        clickhouse_db_log_level="warning",
    )
    files = (f"{strict.etc}/config.d/frameworks.xml", "/etc/clickhouse-keeper/frameworks.xml")
    for root in (ElementTree.fromstring(strict.result["texts"][path]) for path in files):
        assert [root.findtext(f"logger/{name}") for name in ("level", "size", "count")] == ["warning", "10M", "3"]
        for part in ("server", "client"):
            assert root.findtext(f"openSSL/{part}/disableProtocols") == "sslv2,sslv3,tlsv1,tlsv1_1,tlsv1_2"


def test_what_needs_no_restart_is_in_files_that_the_server_reloads(place, engine, tmp_path):
    names = {row["name"] for row in engine[RELOADED]}
    (tmp_path / "reload").mkdir()
    reloadable = work_out(tmp_path / "reload", ["reloadable"])["reloadable"]
    assert set(reloadable) <= names
    (tmp_path / "other").mkdir()
    other = work_out(tmp_path / "other", ["texts", "configuration"], {
        **place.variables, "clickhouse_db_cluster_secret": "another secret of the cluster",
        "clickhouse_db_settings": {**place.variables["clickhouse_db_settings"], "max_concurrent_queries": 78},
    })
    assert other["texts"] != place.result["texts"] and other["configuration"] == place.result["configuration"]
    (tmp_path / "third").mkdir()
    third = work_out(tmp_path / "third", ["configuration"], {**place.variables, "clickhouse_db_settings": {}})
    assert third["configuration"]["server"] != place.result["configuration"]["server"]
    assert third["configuration"]["keeper"] == place.result["configuration"]["keeper"]


def authority(folder, name):
    """A certificate's path; what is in it is not looked at here."""
    (folder / name).write_text(f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n")
    return str(folder / name)


def test_another_authority_or_certificate_needs_a_restart_of_what_reads_it_at_its_start(tmp_path):
    def configuration(name, found=None, **variables):
        (tmp_path / name).mkdir()
        return work_out(
            tmp_path / name, ["configuration", "trust"], {"clickhouse_db_server_ca": one, **variables}, found=found,
        )

    one, two = authority(tmp_path, "one"), authority(tmp_path, "two")
    first = configuration("first")
    both = configuration("both", clickhouse_db_trusted_authorities=[two])
    other = configuration("other", clickhouse_db_server_ca=two, clickhouse_db_trusted_authorities=[one])
    last = configuration("last", clickhouse_db_server_ca=two)
    assert both["trust"] == other["trust"] == f"{(tmp_path / 'one').read_text()}{(tmp_path / 'two').read_text()}"
    assert last["trust"] == (tmp_path / "two").read_text()
    # While certificates move from one authority to the other, both are trusted: another one that signs is no change.
    assert both["configuration"] == other["configuration"]
    for part in ("server", "keeper"):
        assert len({result["configuration"][part] for result in (first, both, last)}) == 3
    renewed = configuration("renewed", {"certificate": {"pem": "another", "key_fits": True}})
    assert renewed["configuration"]["server"] == first["configuration"]["server"]
    assert renewed["configuration"]["keeper"] != first["configuration"]["keeper"]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "2001:DB8::1", "2001:db8:0:0:0:0:0:1", "A1.Example"])
def test_a_certificate_is_good_however_its_names_are_written(tmp_path, address):
    """The server's address is in the list and is resolved; nothing may make a new certificate in each run."""
    names = ["DNS:a1", "DNS:localhost", "IP:127.0.0.1", "IP:192.0.2.1"]
    names += [] if "." in address and address != "A1.Example" else [f"{'IP' if ':' in address else 'DNS'}:{address}"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
         tmp_path / "ca.key", "-out", tmp_path / "ca.crt", "-days", "90", "-subj", "/CN=x", "-addext",
         f"subjectAltName={','.join(names)}"], check=True, capture_output=True,
    )
    found = {"certificate": {"pem": (tmp_path / "ca.crt").read_text(), "key_fits": True}}
    for name, more, due in (("same", [], False), ("more", ["other"], True)):
        (tmp_path / name).mkdir()
        variables = {"clickhouse_db_pki_dir": str(tmp_path), "clickhouse_db_certificate_names": [address, *more]}
        assert work_out(tmp_path / name, ["certificate_due"], variables, found=found)["certificate_due"] is due


def test_what_waits_for_its_turn_to_be_upgraded_is_not_taken_for_upgraded(tmp_path):
    """A host that restarts while it waits runs the old release, whatever its service's environment says."""
    def on(name, installed, running=("keeper", "server"), configuration=None):
        (tmp_path / name).mkdir()
        units = {"keeper": "clickhouse-keeper", "server": "clickhouse-server"}
        services = {
            unit: {"active": part in running, "enabled": True, "configuration": (configuration or {}).get(part)}
            for part, unit in units.items()
        }
        found = {"link": f"/opt/clickhouse/{installed}", "services": services}
        variables = {"clickhouse_db_version": "25.8.4.13"}
        result = work_out(tmp_path / name, ["configuration", "stale"], variables, found=found)
        return {**result, "stale": set(result["stale"])}

    waiting = on("waiting", "25.8.3.66")
    done = on("done", "25.8.4.13")
    assert waiting["configuration"] != done["configuration"] and waiting["stale"] == {"keeper", "server"}
    assert on("restarted", "25.8.3.66", configuration=waiting["configuration"])["stale"] == {"keeper", "server"}
    # The server is started with the old release before it is the Keeper's turn to bring the new one.
    assert on("down", "25.8.3.66", running=["keeper"])["stale"] == {"keeper", "server"}
    assert on("upgraded", "25.8.4.13", configuration=done["configuration"])["stale"] == set()
    # Installed, and the run was cut off before the restart.
    assert on("between", "25.8.4.13", configuration=waiting["configuration"])["stale"] == {"keeper", "server"}


RAFT = "keeper_server/raft_configuration/server"


def test_keepers_that_come_wait_until_they_are_taken_in(place, tmp_path):
    """Each in its turn: with the members so far, and not as one that could lead."""
    def see(name, own, others, host="a1", **variables):
        (tmp_path / name).mkdir()
        found = {
            one: {"keeper": {"members": members, "joining": joining, "data": bool(members)}}
            for one, (members, joining) in {**others, host: own}.items()
        }
        return work_out(
            tmp_path / name, ["joining", "raft", "raft_known", "texts", "configuration"],
            {**place.variables, **variables}, host=host, found=found.pop(host), others=found,
        )

    alone, nothing = ({"1": "a1"}, False), ({}, False)
    first = see("first", nothing, {"b1": nothing, "k": nothing})
    assert first["joining"] == [] and [keeper["id"] for keeper in first["raft"]] == [1, 2, 3]
    grown = see("grown", alone, {"b1": nothing, "k": nothing})
    assert grown["joining"] == ["b1", "k"] and grown["raft_known"] == {"1": "a1"}
    # Taken over while they run: no restart.
    small = see("small", alone, {}, clickhouse_db_keepers=["a1"])
    assert small["texts"] != grown["texts"] and small["configuration"] == grown["configuration"]
    # Cut off while b1 waited, when the first one had already been told, or not.
    for name, told in {"told": {"1": "a1", "2": "b1"}, "untold": {"1": "a1"}}.items():
        again = see(name, (told, False), {"b1": ({"1": "a1", "2": "b1"}, True), "k": nothing})
        assert again["joining"] == ["b1", "k"] and again["raft_known"] == told
    there = ({"1": "a1", "2": "b1", "3": "k"}, False)
    assert see("there", there, {"b1": there, "k": there})["joining"] == []
    keeper = ElementTree.fromstring(first["texts"]["/etc/clickhouse-keeper/frameworks.xml"])
    assert not keeper.findall(f"{RAFT}/start_as_follower")


def test_what_the_command_line_gives_as_text_is_understood(place, tmp_path):
    """`-e name=false` is text, as `-e name=0` is."""
    def given(name, tls):
        (tmp_path / name).mkdir()
        variables = {**place.variables, "clickhouse_db_tls": tls, "clickhouse_db_prometheus_port": "0"}
        return work_out(tmp_path / name, ["texts", "configuration", "stale"], {
            **variables, "clickhouse_db_restart": "false", "clickhouse_db_certificate_renew_days": "60",
        })

    encrypted, plain = given("true", "true"), given("false", "false")
    assert {name: encrypted[name] for name in place.result} == place.result
    assert plain == given("plain", False) and plain["texts"] != encrypted["texts"]


def test_a_server_of_its_own_has_neither_cluster_nor_keeper(tmp_path):
    place = Place(
        tmp_path, "one", {"one": {}}, clickhouse_db_cluster="", clickhouse_db_nodes=[], clickhouse_db_keepers=[],
        clickhouse_db_tls=False,
    )
    assert not any("cluster" in path or "keeper" in path for path in place.result["texts"])
    root = place.rendered("frameworks")
    assert root.findtext("http_port") == "8123" and root.find("interserver_http_port").get("remove")
    assert root.find("openSSL") is None and root.find("user_directories/replicated") is None
    assert root.find("user_defined_zookeeper_path") is None
    [rows] = place.local("SELECT name, host_names FROM system.users")
    users = {row["name"]: row for row in rows}
    # From where the role itself logs in: a connection to the host's own address comes from there.
    assert set(users) == {"admin", "default"} and sorted(users["admin"]["host_names"]) == ["localhost", "one"]


@pytest.fixture
def check(place, tmp_path):
    """Call server_check.py with files over those of `place`; (status, lines)."""
    binary = tmp_path / "clickhouse"
    program = f"{sys.executable} {STAND_IN}/usr/bin/clickhouse"
    binary.write_text(f'#!/bin/sh\nCLICKHOUSE_STAND_IN_LIBRARY={library()} exec {program} "$@"\n')
    binary.chmod(0o755)

    def run(files=None, settings=None):
        done = subprocess.run(
            [sys.executable, ROLE / "files/server_check.py", binary], capture_output=True, text=True, check=False,
            input=json.dumps({
                "files": {f"{place.etc}/{name}": text for name, text in (files or {}).items()},
                "roots": [f"{place.etc}/config.xml", f"{place.etc}/users.xml"], "settings": settings or {},
            }),
        )
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout.strip().splitlines()

    return run


def test_the_check_accepts_what_the_role_renders(place, check):
    files = {
        path[len(str(place.etc)) + 1:]: text for path, text in place.result["texts"].items()
        if path.startswith(str(place.etc))
    }
    settings = {
        "max_concurrent_queries": 77, "background_pool_size": "3", "mark_cache_size": "5Gi", "timezone": "UTC",
        "custom_settings_prefixes": "a_", "interserver_listen_host": ["::", "0.0.0.0"],
        "disable_internal_dns_cache": True, "user_defined_zookeeper_path": "/a & b",
    }
    assert check(files, settings) == (0, [])


def test_the_check_names_what_the_engine_would_not_take(check):
    status, lines = check({"config.d/frameworks.xml": "<clickhouse><a></clickhouse>"})
    assert status == 1 and "frameworks.xml would be no XML" in lines[0]
    status, lines = check({"config.d/frameworks.xml": "<other/>"})
    assert status == 1 and "cannot be read with the new files" in lines[0]
    status, lines = check({}, {"max_concurent_queries": 1, "max_threads": 2, "max_connections": None})
    assert status == 1 and len(lines) == 3 and lines[2].endswith(": max_connections has no value")
    assert "no server setting 'max_concurent_queries', did you mean 'max_concurrent_queries'?" in lines[0]
    assert "'max_threads'" in lines[1] and "belong into a profile" in lines[1]
    status, [line] = check({}, {"max_connections": "4 thousand", "max_concurrent_queries": 77})
    assert status == 1 and "does not start with this value of max_connections" in line


def test_the_stand_ins_reader_merges_as_the_engine_does(place):
    """The double of molecule/ is held to the real reader where both can be asked."""
    sys.path.insert(0, str(STAND_IN / "usr/lib"))
    try:
        from clickhouse_stand_in import config
    finally:
        sys.path.pop(0)
    root = config.load(place.etc / "config.xml")
    assert [one.tag for one in root.find("remote_servers")] == ["fw"]
    assert config.text(root, "http_port") is None and config.text(root, "max_concurrent_queries") == "77"
    users = config.load(place.etc / "users.xml").find("users")
    assert [user.tag for user in users] == ["admin", "default"]


def test_the_engine_really_runs_with_it(place):
    """Not only reads it: serves, with the listeners that it can have."""
    server = ClickHouseServer()
    try:
        folder = server.directory / "config.d"
        folder.mkdir()
        for name in ("frameworks-limits.xml", "frameworks-cluster.xml"):
            text = place.result["texts"][f"{place.etc}/config.d/{name}"]
            # Without a Keeper to reach, nothing may ask for one.
            text = text[:text.index("<zookeeper")] + "</clickhouse>" if "<zookeeper" in text else text
            (folder / name).write_text(text)
        server.start()
        assert server.query("SELECT value FROM system.server_settings WHERE name = 'max_concurrent_queries'") == "77\n"
        assert server.query("SELECT count() FROM system.clusters WHERE cluster = 'fw'") == "4\n"
    finally:
        server.close()

