"""The modules yugabyte_node_info and yugabyte_superuser, against the stand-in and on this machine."""

import contextlib
import getpass
import os
import socket
import subprocess

import pytest
from support.modules import ModuleFailed, run_module
from support.yugabyte import VERSION, StandInCluster

PASSWORD = "a superuser's $password \"é\""
CLOSED = "local all yugabyte trust,local all all reject,host all all 0.0.0.0/0 reject,host all all ::0/0 reject"


@pytest.fixture(scope="module")
def cluster():
    """A running cluster whose rules let nobody in from the network, as the role starts one."""
    flags = {"tserver": {"ysql_hba_conf_csv": CLOSED}}
    with contextlib.closing(StandInCluster(flags=lambda kind, _number: flags.get(kind, {}))) as running:
        yield running.start()


def look(cluster, number=1, **more):
    # This machine's systemd has no units for the test's servers: ask one whose process is known.
    return run_module("yugabyte_node_info", {
        "address": cluster.address[number], "install_dir": str(cluster.directory),
        "data_dirs": [str(cluster.directory / f"node-{number}")], "services": {}, **more,
    })["node"]


def test_a_bare_host_is_no_mistake(tmp_path):
    found = run_module("yugabyte_node_info", {
        "address": "nowhere.invalid", "install_dir": str(tmp_path / "opt"),
        "data_dirs": [str(tmp_path / "a/b"), "no/path"],  # which the preflight refuses, once it hears of it
        "files": [str(tmp_path / "f")], "directories": [str(tmp_path / "d")], "sysctls": ["vm.swappiness", "no.such"],
        "ports": [1], "certificate": str(tmp_path / "c.crt"), "user": "nobody-at-all",
        "flag_files": {"master": str(tmp_path / "m")}, "upgrade_record": str(tmp_path / "u"),
        "services": {"master": "no-such-unit"},
    }, check=True)["node"]
    assert (found["user"], found["releases"], found["certificate"], found["masters"]) == (None, {}, None, [])
    assert (found["data"], found["flags"], found["upgrade"]) == (
        {"master": "absent", "tserver": "absent"}, {"master": {}}, None,
    )
    assert found["addresses"]["resolved"] == [] and found["addresses"]["error"]
    assert found["sysctls"]["no.such"] is None and found["sysctls"]["vm.swappiness"].isdigit()
    assert found["services"]["master"]["pid"] == 0 and not found["ysql"]["runs"]
    assert found["disks"][0]["path"].endswith("a/b") and found["disks"][0]["type"]
    assert found["clock"]["synchronised"] in (True, False, None)


def test_addresses_of_others_and_of_loopback_are_told_apart(tmp_path):
    arguments = {"install_dir": str(tmp_path), "data_dirs": [str(tmp_path)], "services": {}}
    assert run_module("yugabyte_node_info", {**arguments, "address": "203.0.113.9"})["node"]["addresses"] == {
        "resolved": ["203.0.113.9"], "foreign": ["203.0.113.9"], "error": None,
    }
    assert run_module("yugabyte_node_info", {**arguments, "address": "localhost"})["node"]["addresses"]["foreign"] == []


def test_who_listens_on_a_port(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = run_module("yugabyte_node_info", {
            "address": "localhost", "install_dir": str(tmp_path), "data_dirs": [str(tmp_path)], "services": {},
            "ports": [port, 1],
        })["node"]["ports"]
    assert found["1"] is None and found[str(port)]["user"] == getpass.getuser()
    assert found[str(port)]["program"] not in ("", "?")


def test_a_release_counts_once_its_installation_was_completed(tmp_path):
    for name in ("yugabyte-1.2.3.4", "yugabyte-5.6.7.8"):
        (tmp_path / name).mkdir()
    (tmp_path / "yugabyte-1.2.3.4/.post_install.sh.completed").touch()
    found = run_module("yugabyte_node_info", {
        "address": "localhost", "install_dir": str(tmp_path), "data_dirs": [str(tmp_path)], "services": {},
    })["node"]
    assert found["releases"] == {"yugabyte-1.2.3.4": True, "yugabyte-5.6.7.8": False}


def test_a_master_without_consensus_never_joined(tmp_path):
    arguments = {"address": "localhost", "install_dir": str(tmp_path), "data_dirs": [str(tmp_path)], "services": {}}
    (tmp_path / "yb-data/master/data").mkdir(parents=True)
    assert run_module("yugabyte_node_info", arguments)["node"]["data"]["master"] == "unformed"
    (tmp_path / "yb-data/master/consensus-meta").mkdir()
    (tmp_path / "yb-data/master/consensus-meta/0").touch()
    assert run_module("yugabyte_node_info", arguments)["node"]["data"]["master"] == "formed"


@pytest.mark.parametrize(("rules", "opened"), [
    (CLOSED.split(","), False),
    (["# host all all all trust", "local all all trust", "host all all all reject", "host all all all md5"], False),
    (["host all spy all reject", "hostssl all all samehost scram-sha-256", "host all all 0.0.0.0/0 reject"], True),
    (["host all all all trust"], True),
])
def test_whether_the_rules_let_anybody_in(tmp_path, rules, opened):
    (tmp_path / "pg_data").mkdir()
    (tmp_path / "pg_data/ysql_hba.conf").write_text("\n".join(rules))
    found = run_module("yugabyte_node_info", {
        "address": "localhost", "install_dir": str(tmp_path), "data_dirs": [str(tmp_path)], "services": {},
    })
    assert found["node"]["ysql"]["opened"] is opened


def test_the_built_in_password_is_replaced_over_the_socket(cluster, monkeypatch):
    # Nothing of the caller's environment may lead ysqlsh elsewhere.
    monkeypatch.setenv("PGHOSTADDR", "203.0.113.1")
    monkeypatch.setenv("PGPASSWORD", "of somebody else")
    ysqlsh = str(cluster.bin_dir)
    release = cluster.bin_dir.parent.name
    arguments = {"release": release, "superuser_password": PASSWORD}
    before = look(cluster, **arguments)["ysql"]
    assert (before["runs"], before["opened"], before["superuser"]) == (True, False, "builtin")
    assert before["md5_roles"] == ["yugabyte"]
    refused = cluster.sql(1, "SELECT 1", PGPASSWORD="yugabyte")
    assert "rejects connection" in refused.stderr

    options = {"password": PASSWORD, "socket": before["socket"], "bin_dir": ysqlsh}
    assert run_module("yugabyte_superuser", options, check=True)["changed"]
    assert look(cluster, **arguments)["ysql"]["superuser"] == "builtin"
    assert run_module("yugabyte_superuser", options)["changed"]
    after = look(cluster, 2, **arguments)["ysql"]
    assert (after["superuser"], after["md5_roles"]) == ("current", [])
    assert look(cluster, **{**arguments, "superuser_password": "another"})["ysql"]["superuser"] == "other"

    # Now the rules may let clients in: SCRAM, and only with the new password.
    rules = "local all yugabyte trust,host all all samehost scram-sha-256,host all all 0.0.0.0/0 reject"
    cluster.stop("tserver", 3)
    cluster.serve("tserver", 3, ysql_hba_conf_csv=rules)
    cluster.wait("tserver-3", lambda: cluster.sql(3, "SELECT 1", PGPASSWORD=PASSWORD).stdout == "1\n")
    assert "password authentication failed" in cluster.sql(3, "SELECT 1", PGPASSWORD="yugabyte").stderr
    assert look(cluster, 3, **arguments)["ysql"]["opened"]


def test_an_unreachable_socket_is_a_clear_error(cluster, tmp_path, monkeypatch):
    from ansible_collections.frameworks.database.plugins.modules import yugabyte_superuser

    monkeypatch.setattr(yugabyte_superuser, "SECONDS", 1)
    with pytest.raises(ModuleFailed, match="could not be set over .*: .*No such file") as failure:
        run_module("yugabyte_superuser", {
            "password": PASSWORD, "socket": str(tmp_path), "bin_dir": str(cluster.bin_dir),
        })
    assert PASSWORD not in str(failure.value.result) and "SCRAM" not in str(failure.value.result)


def test_what_runs_with_what_is_read_from_the_process(tmp_path):
    """The unit's environment, not its file: the file may have changed since the start."""
    from ansible_collections.frameworks.database.plugins.modules import yugabyte_node_info

    shown = f"Id=m.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\nMainPID={os.getpid()}\n"

    def run(words):
        assert words[:2] == ["systemctl", "show"]
        return 0, shown + "NeedDaemonReload=no\n\nId=t.service\nLoadState=not-found\nActiveState=inactive\n", ""

    master, tserver = yugabyte_node_info.services(run, {"master": "m", "tserver": "t"}).values()
    assert (master["state"], master["enabled"], master["pid"]) == ("active", True, os.getpid())
    assert (tserver["present"], tserver["pid"]) == (False, 0)


def test_the_version_is_the_nodes(cluster):
    assert look(cluster)["releases"][f"yugabyte-{VERSION}"] is False  # its post_install.sh was never run here


def as_units(monkeypatch, *running):
    """The module finds these servers running."""
    from ansible_collections.frameworks.database.plugins.modules import yugabyte_node_info

    monkeypatch.setattr(yugabyte_node_info, "services", lambda *_: {
        server: {"pid": int(server in running), "release": None} for server in ("master", "tserver")
    })


def test_flags_are_those_of_the_running_servers(cluster, monkeypatch):
    as_units(monkeypatch, "master", "tserver")
    wanted = ["logbufsecs", "ysql_yb_bnl_batch_size", "of_another_release"]
    found = look(cluster, runtime_flags=wanted)["services"]
    # The master knows nothing of YSQL's; what has its default is there, so that it can be set.
    assert found["master"]["flags"].keys() == {"logbufsecs"}
    assert found["tserver"]["flags"].keys() == {"logbufsecs", "ysql_yb_bnl_batch_size"}
    subprocess.run(
        [cluster.bin_dir / "yb-ts-cli", f"--server_address={cluster.address[1]}:7100", "set_flag", "--force",
         "logbufsecs", "7"], check=True,
    )
    master = look(cluster, runtime_flags=[*wanted, "ysql_num_shards_per_tserver"])["services"]["master"]
    assert master["flags"] == {"logbufsecs": "7", "ysql_num_shards_per_tserver": "2"}
    assert master["own_flags"] == ["ysql_num_shards_per_tserver"]
    as_units(monkeypatch)
    assert look(cluster, runtime_flags=wanted)["services"]["master"]["flags"] == {}


def test_a_diagnosis_names_flags_that_were_switched_by_hand(cluster, tmp_path):
    (tmp_path / "tserver.conf").write_text(
        f"# Written.\n--placement_zone=z2\n--ysql_enable_auth=0\n--logbufsecs=5\n--ysql_hba_conf_csv={PASSWORD}\n"
    )
    page = f"{cluster.address[2]}:9000"
    files = {page: str(tmp_path / "tserver.conf"), f"{cluster.address[2]}:7000": str(tmp_path / "of-no-master.conf")}

    def switch(**flags):
        for name, value in flags.items():
            subprocess.run(
                [cluster.bin_dir / "yb-ts-cli", f"--server_address={cluster.address[2]}:9100", "--force", "set_flag",
                 name, value], check=True,
            )

    switch(ysql_enable_auth="f", logbufsecs="5")
    [same] = run_module("database_diagnose", {"flag_files": files})["findings"]
    assert (same["state"], same["found"]) == ("ok", f"the server at {page} runs with the flags of {files[page]}")
    switch(ysql_enable_auth="yes", logbufsecs="7")
    [other] = run_module("database_diagnose", {"flag_files": files})["findings"]
    assert (other["state"], other["details"]) == (
        "warning", ["logbufsecs is 7, there 5", "ysql_enable_auth is true, there 0"],
    )
    assert page in other["found"] and "rolling_restart.yml" in other["todo"]
    cluster.stop("tserver", 2)
    assert run_module("database_diagnose", {"flag_files": files})["findings"] == []
    cluster.serve("tserver", 2)
    cluster.wait("tserver-2", lambda: cluster.socket(2).exists())


def test_a_node_without_a_master_asks_those_of_others(cluster, monkeypatch):
    as_units(monkeypatch, "tserver")
    elsewhere = {"address": "127.0.0.254", "masters": cluster.members}
    found = look(cluster, **elsewhere)
    assert found["masters"] == [] and {one["host"] for one in found["cluster"]["masters"]} == set(cluster.members)
    assert look(cluster, **{**elsewhere, "masters": []})["cluster"] is None
