"""Every mistake in the inventory, and every host that is not fit, is named before anything is touched."""

import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.clickhouse_config import CLUSTER, FOUND, HOSTS, ROLE, work_out
from support.playbooks import role_play, run_playbook


def faults(folder, variables=None, hosts=None, host="a1", found=None, others=None):
    """The sentences for a host."""
    return work_out(folder, ["server_faults"], variables, hosts, host, found, others)["server_faults"]


def without(host, name):
    """HOSTS, where one host lacks a variable."""
    return {**HOSTS, host: {key: value for key, value in HOSTS[host].items() if key != name}}


def test_the_cluster_of_the_tests_has_no_faults(tmp_path):
    assert faults(tmp_path) == []


@pytest.mark.parametrize("keepers, says", [
    (["a1", "b1"], "clickhouse_db_keepers has 2 hosts (a1, b1): name one, three or five. An even number"),
    ([], "clickhouse_db_keepers has 0 hosts: name one, three or five. Replication needs them."),
    (["a1", "a1", "b1", "k"], "a1 is 2 times in clickhouse_db_keepers: a host is one replica, or one Keeper."),
    (["a1", "b1", "b2"], "b2 has no clickhouse_db_keeper_id: give every Keeper a number"),
])
def test_keepers(tmp_path, keepers, says):
    assert any(says in fault for fault in faults(tmp_path, {"clickhouse_db_keepers": keepers}))


INVENTORIES = {
    "b2 has no clickhouse_db_shard: give every replica": without("b2", "clickhouse_db_shard"),
    "b2 has no clickhouse_db_zone, while others stand in x, y": without("b2", "clickhouse_db_zone"),
    "All replicas of shard 1 (a1, a2) stand in x: losing that zone": {
        **HOSTS, "a2": {**HOSTS["a2"], "clickhouse_db_zone": "x"},
    },
    "Shard 2 has no host, but there is a shard 3": {
        **HOSTS, **{host: {**HOSTS[host], "clickhouse_db_shard": 3} for host in ("b1", "b2")},
    },
    "a1 and a2 have the same macros, shard 1 and replica one": {
        **HOSTS, **{host: {**HOSTS[host], "clickhouse_db_replica": "one"} for host in ("a1", "a2")},
    },
    "a2 and b2 have the same clickhouse_db_address, 192.0.2.7: it was added twice": {
        **HOSTS, **{host: {**HOSTS[host], "clickhouse_db_address": "192.0.2.7"} for host in ("a2", "b2")},
    },
    "a1 and b1 have the same clickhouse_db_keeper_id, 1": {
        **HOSTS, "b1": {**HOSTS["b1"], "clickhouse_db_keeper_id": 1},
    },
}


@pytest.mark.parametrize("says", INVENTORIES)
def test_hosts_that_do_not_make_a_cluster(tmp_path, says):
    found = faults(tmp_path, hosts=INVENTORIES[says])
    assert any(says in fault for fault in found), found


VARIABLES = {
    "a2 is 2 times in clickhouse_db_nodes": {"clickhouse_db_nodes": ["a1", "a2", "a2", "b1", "b2"]},
    "elsewhere of clickhouse_db_nodes is no host of the inventory": {
        "clickhouse_db_nodes": ["a1", "a2", "b1", "b2", "elsewhere"],
    },
    "give it a name with clickhouse_db_cluster": {"clickhouse_db_cluster": ""},
    "clickhouse_db_cluster is my-cluster: letters, digits and _ only": {"clickhouse_db_cluster": "my-cluster"},
    "clickhouse_db_nodes is empty": {"clickhouse_db_nodes": []},
    "clickhouse_db_version is 24.3.1.5: the platform's schema has columns of the type JSON": {
        "clickhouse_db_version": "24.3.1.5",
    },
    "clickhouse_db_version is 25.8: name a release completely": {"clickhouse_db_version": "25.8"},
    "clickhouse_db_version is missing: the install method archive": {"clickhouse_db_version": ""},
    "clickhouse_db_version is missing: all hosts of a cluster run one release, also those that join later": {
        "clickhouse_db_version": "", "clickhouse_db_install_method": "repository",
    },
    "clickhouse_db_archive_sha256 has no SHA-256 for clickhouse-server": {
        "clickhouse_db_archive_sha256": {"clickhouse-common-static": "a" * 64},
    },
    "/none/clickhouse-server-25.8.3.66-amd64.tgz is not there (clickhouse_db_archive)": {
        "clickhouse_db_archive": "/none",
    },
    "clickhouse_db_admin_password is shorter than 16 characters, or a published one": {
        "clickhouse_db_admin_password": "short",
    },
    "clickhouse_db_password is shorter than 16": {"clickhouse_db_password": "frameworks_dev"},
    "clickhouse_db_cluster_secret is missing: make one": {"clickhouse_db_cluster_secret": None},
    "clickhouse_db_interserver_password is missing: make one": {"clickhouse_db_interserver_password": ""},
    "clickhouse_db_ca_passphrase is missing: make one": {"clickhouse_db_ca_passphrase": ""},
    "clickhouse_db_tls needs either clickhouse_db_pki_dir": {"clickhouse_db_pki_dir": ""},
    "clickhouse_db_listen_hosts is 127.0.0.1, localhost, where nobody reaches a1": {
        "clickhouse_db_listen_hosts": ["127.0.0.1", "localhost"],
    },
    "clickhouse_db_admin_user is default": {"clickhouse_db_admin_user": "default"},
    "clickhouse_db_server_cert is missing: a certificate of yours takes all three": {
        "clickhouse_db_server_ca": "/none",
    },
    "Port 9440 is that of tcp_port_secure and keeper: each listens on one of its own": {
        "clickhouse_db_keeper_port": "9440",
    },
    "clickhouse_db_trusted_authorities has /none, which is not there": {"clickhouse_db_trusted_authorities": ["/none"]},
}


@pytest.mark.parametrize("says", VARIABLES)
def test_variables_that_do_not_fit(tmp_path, says):
    found = faults(tmp_path, VARIABLES[says])
    assert any(says in fault for fault in found), found


SYSTEM = {"name": "Debian", "machine": "x86_64", "uid": 0, "systemd": True, "packages": "deb", "ipv6": True}
MACHINES = {
    "The role needs root": {"system": {**SYSTEM, "uid": 1000}},
    "archive needs systemd, which does not run on this host": {"system": {**SYSTEM, "systemd": False}},
    "ClickHouse's packages are for x86_64 and aarch64, this host is riscv64": {
        "system": {**SYSTEM, "machine": "riscv64"},
    },
    "Port 8443 (https_port) is taken by nginx (process 7): stop that": {
        "ports": {"8443": "nginx (process 7)", "9234": "?"},
    },
    "taken by clickhouse-server (process 7), which was not started as the service": {
        "ports": {"9440": "clickhouse-server (process 7)"},
    },
    "has to resolve to an address of its own that the others reach, and resolves to 127.0.1.1": {
        "addresses": {"resolved": ["127.0.1.1"], "foreign": [], "error": None},
    },
    "This host has data as the replica a1 of shard 2, the inventory says a1 of shard 1": {
        "macros": {"shard": "2", "replica": "a1"}, "data": True,
    },
    "but 25.9.1.1 is installed: ClickHouse does not go back, its data may be in a newer format. If somebody has "
    "upgraded this host by hand, name 25.9.1.1, and the others follow.": {
        "link": "/opt/clickhouse/25.9.1.1",
    },
}


@pytest.mark.parametrize("says", MACHINES)
def test_hosts_that_are_not_fit(tmp_path, says):
    found = faults(tmp_path, found=MACHINES[says])
    assert any(says in fault for fault in found), found
    assert len(found) == 1


DISKS = {"/var/lib/clickhouse": False, "/var/lib/clickhouse-keeper": False}
CONFIGURED = dict.fromkeys(
    ("/etc/clickhouse-server/config.d/frameworks.xml", "/etc/clickhouse-keeper/frameworks.xml"), "a" * 64,
)


@pytest.mark.parametrize("found, lacking", [
    ({"empty": list(DISKS), "files": CONFIGURED}, list(DISKS)),
    # A new host on new disks; one whose data somebody has moved away; one with data of the wrong owner.
    ({"empty": list(DISKS)}, []),
    ({"files": CONFIGURED}, []),
    ({"files": CONFIGURED, "data": True}, []),
    ({"empty": list(DISKS), "files": CONFIGURED, "directories": dict.fromkeys(DISKS, True)}, []),
])
def test_where_a_disk_is_not_mounted_no_server_begins_anew(tmp_path, found, lacking):
    said = faults(tmp_path, found={"directories": DISKS, **found})
    assert [fault.split()[0] for fault in said] == lacking and all("mount it" in fault for fault in said)


def test_data_is_not_left_behind_where_its_directory_gets_another_name(tmp_path):
    """The server would run without it, and have an empty database for the application."""
    [fault] = faults(tmp_path, found={"left": {"/srv/new": "/srv/old"}})
    assert fault.startswith("/srv/new has no data, and this host has some in /srv/old: it would begin without it.")
    probe = runpy.run_path(str(ROLE / "files/server_probe.py"))
    server, keeper = tmp_path / "a & b", tmp_path / "keeper"
    (server / "metadata").mkdir(parents=True)
    (keeper / "log").mkdir(parents=True)
    (keeper / "log/changelog_1").write_text("one")
    (tmp_path / "texts").mkdir()
    texts = work_out(tmp_path / "texts", ["texts"], {
        "clickhouse_db_data_dir": str(server), "clickhouse_db_keeper_dir": str(keeper),
    })["texts"]
    names = dict(zip(("config", "keeper"), CONFIGURED))
    for name, path in names.items():
        (tmp_path / f"{name}.xml").write_text(texts[path])
    question = {
        **dict.fromkeys(("files", "packages", "units", "ports"), ()), **dict.fromkeys(("read", "directories"), {}),
        **dict.fromkeys(("certificate", "key", "address", "link", "macros", "user"), "none"),
        **{name: str(tmp_path / f"{name}.xml") for name in names},
    }
    for folder, left in ((tmp_path / "new", True), (tmp_path, False)):
        places = {"data": str(folder / server.name), "keeper_data": str(folder / keeper.name)}
        expected = {places["data"]: str(server), places["keeper_data"]: str(keeper)} if left else {}
        found = probe["answer"]({**question, **places})
        assert found["left"] == expected and found["empty"] == [] and found["data"] is not left
        (tmp_path / "new" / server.name).mkdir(parents=True, exist_ok=True)
    assert probe["answer"]({**question, "data": str(tmp_path / "new" / server.name), "keeper_data": "/none"})["empty"]


def test_a_port_is_taken_by_whom_no_service_has_started():
    """A server that somebody started by hand would answer in place of the service, which could not start."""
    listen = "import socket, sys; one = socket.create_server(('127.0.0.1', 0)); print(one.getsockname()[1], flush=True)"
    program = ["sh", "-c", '"$0" "$@"; exit', sys.executable, "-c", f"{listen}; sys.stdin.read()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as main:
        port = int(main.stdout.readline())
        listeners = runpy.run_path(str(ROLE / "files/server_probe.py"))["listeners"]
        held, ours = listeners({port}, set()), listeners({port}, {main.pid})
        main.stdin.close()
    assert ours == {} and list(held) == [str(port)] and "(process " in held[str(port)]


def keeper(*members, **more):
    """What the probe finds of a Keeper with data, whose file has these members."""
    return {"keeper": {"members": {str(one): name for one, name in members}, "joining": False, "data": True, **more}}


RUNNING = keeper((1, "a1"), (2, "b1"), (3, "k"))
ENSEMBLES = {
    "Keeper 9 (gone) is a member of the ensemble and is not declared: have its host in clickhouse_db_keepers again": (
        {}, keeper((1, "a1"), (2, "b1"), (9, "gone")), RUNNING,
    ),
    "Keeper 2 is a member of the ensemble as elsewhere, and declared as b1: a Keeper keeps its address": (
        {}, keeper((1, "a1"), (2, "elsewhere"), (3, "k")), keeper((1, "a1"), (2, "elsewhere"), (3, "k")),
    ),
    # A host that was built anew, and one that has lost the disk of its Keeper.
    "Keeper 1 has lost its data, and the others count on what it had": ({}, {}, RUNNING),
    "Take it out with clickhouse_remove_host.yml -e old=a1 -e part=keeper": ({}, {
        **keeper((1, "a1"), (2, "b1"), (3, "k"), data=False),
        "services": {"clickhouse-keeper": {"active": True, "enabled": True, "configuration": None}},
    }, RUNNING),
    "This host has the data of a Keeper that is no member of its ensemble": ({}, keeper((2, "b1"), (3, "k")), RUNNING),
    "This host was taken out of the cluster, which has forgotten its replicas": ({}, {
        **RUNNING, "files": {"/etc/clickhouse-server/taken-out": "a" * 64}, "data": True,
    }, RUNNING),
    "a1 is the last Keeper, without which nothing is replicated": (
        {"clickhouse_db_keepers": ["a1"], "clickhouse_db_leaving_keepers": ["a1"]}, keeper((1, "a1")), RUNNING,
    ),
    "a2 is the last host of shard 1: its rows would be gone": (
        {"clickhouse_db_nodes": ["a2", "b1", "b2"], "clickhouse_db_leaving_nodes": ["a2"]}, RUNNING, RUNNING,
    ),
}


@pytest.mark.parametrize("says", ENSEMBLES)
def test_an_ensemble_that_is_there_is_not_overrun(tmp_path, says):
    variables, own, others = ENSEMBLES[says]
    found = faults(tmp_path, variables, found=own, others=dict.fromkeys(("a2", "b1", "b2", "k"), others))
    assert any(says in fault for fault in found), found


def test_a_first_start_that_was_cut_off_is_no_loss(tmp_path):
    own = keeper((1, "a1"), (2, "b1"), (3, "k"), data=False)
    assert faults(tmp_path, found=own, others=dict.fromkeys(("a2", "b1", "b2", "k"), RUNNING)) == []


def test_keepers_come_when_all_are_there(tmp_path):
    found = faults(tmp_path, found=keeper((1, "a1")), others={"b1": {}})
    assert found == [
        "Keepers come (b1, k), and k is not in this run: all Keepers have to take part, as it takes the others to take "
        "one in."
    ]


def test_while_one_leaves_their_number_may_be_even(tmp_path):
    variables = {"clickhouse_db_leaving_keepers": ["k"]}
    assert faults(tmp_path, variables, found=RUNNING, others={"b1": RUNNING}) == []


ALONE = {"clickhouse_db_cluster": "", "clickhouse_db_nodes": [], "clickhouse_db_keepers": []}


@pytest.mark.parametrize("listen, resolved, says", [
    (["127.0.0.1"], "192.0.2.1", "where nobody reaches one, by which this host is known"),
    (["127.0.0.1"], "127.0.1.1", "where nobody reaches one"),
    (["::1", "localhost"], "127.0.0.1", None),
    (["192.0.2.1"], "192.0.2.1", None),
    (["::"], "192.0.2.1", None),
])
def test_a_server_of_its_own_listens_where_it_is_looked_for(tmp_path, listen, resolved, says):
    found = faults(
        tmp_path, {**ALONE, "clickhouse_db_listen_hosts": listen}, {"one": {}}, "one",
        {"addresses": {"resolved": [resolved], "foreign": [], "error": None}},
    )
    assert found == [] if says is None else any(says in fault for fault in found), found


def test_macros_that_are_the_same_are_no_fault(tmp_path):
    assert faults(tmp_path, found={"macros": {"shard": "1", "replica": "a1"}, "data": True}) == []


@pytest.fixture
def certificate(tmp_path):
    """Make a certificate, signed by the one called `issuer` or by itself: the variables for it and its key."""
    def make(name, days, file="own", issuer=None):
        path, key = tmp_path / f"{file}.crt", tmp_path / f"{file}.key"
        signer = ["-CA", tmp_path / f"{issuer}.crt", "-CAkey", tmp_path / f"{issuer}.key"] if issuer else []
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
             key, "-out", path, "-days", str(days), "-subj", f"/CN={file}", "-addext", f"subjectAltName=DNS:{name}",
             *signer], check=True, capture_output=True,
        )
        return {
            "clickhouse_db_server_ca": str(path), "clickhouse_db_server_cert": str(path),
            "clickhouse_db_server_key": str(key),
        }

    return make


@pytest.mark.parametrize("host, name, days, says", [
    ("a1", "a1", 90, None),
    ("a1", "other", 90, "is a certificate for other, not for a1: clients and the other hosts would refuse it"),
    ("a1", "a1", 5, "within 30 days: get a new one"),
    ("A1.prod.example", "*.prod.example", 90, None),
    ("a1.b.prod.example", "*.prod.example", 90, "is a certificate for *.prod.example, not for a1.b.prod.example"),
])
def test_certificates_of_ones_own(tmp_path, certificate, host, name, days, says):
    (tmp_path / "play").mkdir()
    hosts = {**HOSTS, "a1": {**HOSTS["a1"], "clickhouse_db_address": host}}
    found = faults(tmp_path / "play", certificate(name, days), hosts)
    assert found == [] if says is None else any(says in fault for fault in found), found


@pytest.mark.parametrize("days, refused", [(None, True), (10, True), (90, False)])
def test_an_authority_that_ends_is_refused_until_another_is_trusted(tmp_path, certificate, days, refused):
    """The way to the other leads over runs with this one (docs/clickhouse.md)."""
    certificate("x", 20, "ca")
    trusted = [certificate("x", days, "next")["clickhouse_db_server_ca"]] if days else []
    (tmp_path / "play").mkdir()
    found = faults(tmp_path / "play", {
        "clickhouse_db_pki_dir": str(tmp_path), "clickhouse_db_trusted_authorities": trusted,
    })
    assert any("/ca.crt ends on" in fault for fault in found) == refused == bool(found)


ENCRYPT = ["pkey", "-aes256", "-passout", "pass:secret"]


def rewrite(key, command):
    """Put what the openssl command makes of a key in its place."""
    done = subprocess.run(["openssl", *command], input=Path(key).read_bytes(), check=True, capture_output=True)
    Path(key).write_bytes(done.stdout)


@pytest.mark.parametrize("command, says", [
    (ENCRYPT, "is encrypted, and a server that starts has nobody to ask"),
    (["ecparam", "-name", "prime256v1", "-genkey", "-noout"], "is another certificate's key"),
    (["pkey", "-pubout"], "has no private key in PEM"),
])
def test_a_key_with_which_no_server_would_start(tmp_path, certificate, command, says):
    variables = certificate("a1", 90)
    rewrite(variables["clickhouse_db_server_key"], command)
    (tmp_path / "play").mkdir()
    [found] = faults(tmp_path / "play", variables)
    assert f"own.key (clickhouse_db_server_key) {says}" in found


@pytest.mark.parametrize("look", [
    f"import runpy; probe = runpy.run_path({str(ROLE / 'files/server_probe.py')!r}); "
    "found = probe['certificate'](*sys.argv[1:], (0, []))",
    "from ansible_collections.frameworks.database.plugins.modules import yugabyte_node_info as module; "
    "found = module.certificate(sys.argv[1])",
])
def test_a_key_with_a_passphrase_on_the_host_is_a_wrong_one_and_nobody_is_asked(tmp_path, certificate, look):
    """With a terminal, as sudo may want one, the run would have waited for an answer for ever."""
    files = certificate("a1", 90)
    paths = [files["clickhouse_db_server_cert"], files["clickhouse_db_server_key"]]
    rewrite(paths[1], ENCRYPT)
    command = [sys.executable, "-c", f"import sys; {look}; print(found['key_fits'])", *paths]
    done = subprocess.run(
        ["script", "--quiet", "--command", shlex.join(command), "/dev/null"], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("between, sent, says", [
    (90, True, None),
    (90, False, "own.crt (clickhouse_db_server_cert) was not signed by an authority in"),
    (5, True, "is good as long as its authority between is, which ends on"),
])
def test_a_certificate_leads_to_its_authority(tmp_path, certificate, between, sent, says):
    """By one between the two, which the file has behind the host's own."""
    root = certificate("x", 90, "root")
    certificate("x", between, "between", issuer="root")
    own = {**certificate("test", 90, issuer="between"), "clickhouse_db_server_ca": root["clickhouse_db_server_ca"]}
    if sent:
        with (tmp_path / "own.crt").open("a") as file:
            file.write((tmp_path / "between.crt").read_text())
    play = {
        **role_play("clickhouse_db", "server/preflight.yml"), "vars_files": [str(ROLE / "vars/server.yml")],
        "vars": {"__clickhouse_db_server_probe": {"stdout": json.dumps(FOUND)}},
    }
    run = run_playbook(tmp_path, play, {**CLUSTER, **ALONE, **own})
    said = " ".join(run.output.split())
    assert run.code == 0 if says is None else says in said, said


def test_a_host_outside_of_the_cluster_is_told_so(tmp_path):
    found = faults(tmp_path, hosts={**HOSTS, "stranger": {}}, host="stranger")
    assert any("stranger is neither in clickhouse_db_nodes nor in clickhouse_db_keepers" in fault for fault in found)


def test_secrets_stand_in_no_fault(tmp_path):
    found = " ".join(faults(tmp_path, {"clickhouse_db_admin_password": "short", "clickhouse_db_keepers": []}))
    assert "short'" not in found and not any(CLUSTER[name] in found for name in CLUSTER if "secret" in name)
