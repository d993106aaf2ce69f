"""Servers of the stand-in for YugabyteDB end themselves over what ends the real ones, and say why."""

import contextlib
import json
import socketserver
import subprocess
import threading
import time

import pytest
from ansible_collections.frameworks.database.plugins.module_utils.yugabyte import YugabyteError, get
from support.yugabyte import StandInCluster


@pytest.fixture(scope="module")
def cluster():
    stand_in = StandInCluster()
    yield stand_in
    stand_in.close()


def end(cluster, kind="master", **flags):
    """What a server that has to end itself says."""
    cluster.serve(kind, 1, **flags)
    process = cluster.processes[f"{kind}-1"]
    try:
        assert process.wait(60) == 1
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return cluster.logs[f"{kind}-1"].read_text()


@contextlib.contextmanager
def shared_clock(cluster, ahead):
    """What the servers share, with a clock that is `ahead` seconds ahead."""
    class Answer(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline():
                answer = {"time": time.time() + ahead, "leader": None, "is_leader": False, "member": False, "uuid": "u"}
                self.wfile.write(json.dumps(answer).encode() + b"\n")

    with socketserver.ThreadingTCPServer((cluster.backbone, 17990), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.mark.parametrize(
    ("kind", "flags", "says"),
    [
        ("master", {"fs_data_dir": "/nowhere"}, "ERROR: unknown command line flag 'fs_data_dir'"),
        ("master", {"replication_factor": "three"}, "illegal value 'three' specified for int32"),
        ("tserver", {"start_cql_proxy": "perhaps"}, "illegal value 'perhaps' specified for bool"),
        ("master", {"rpc_bind_addresses": "192.0.2.1"}, "Error binding socket to 192.0.2.1"),
        ("tserver", {"rpc_bind_addresses": "no-such-host.invalid"}, "Unable to resolve address no-such-host.invalid"),
        ("tserver", {"tserver_master_addrs": "198.18.0.1:7100"}, "bound to the loopback address"),
        ("master", {"fs_data_dirs": None}, "--fs_data_dirs is required"),
        ("master", {"fs_data_dirs": "/proc/nowhere"}, "IO error: /proc/nowhere"),
        ("tserver", {"log_dir": "/nowhere/tserver"}, "Could not open file in log_dir /nowhere/tserver"),
    ],
)
def test_a_wrong_flag_is_fatal(cluster, kind, flags, says):
    assert says in end(cluster, kind, **flags)


def test_a_master_has_to_be_among_the_masters(cluster):
    others = ",".join(f"{host}:7100" for host in cluster.members[1:])
    assert "None of the local addresses are present in master_addresses" in end(cluster, master_addresses=others)


def test_the_certificate_of_the_name_has_to_be_there(cluster, tmp_path):
    said = end(cluster, use_node_to_node_encryption="true", certs_dir=tmp_path, cert_node_filename="db1")
    assert f"Unable to load certificate: {tmp_path}/ca.crt: No such file" in said
    (tmp_path / "ca.crt").touch()
    said = end(cluster, use_node_to_node_encryption="true", certs_dir=tmp_path, cert_node_filename="db1")
    assert f"Unable to load certificate: {tmp_path}/node.db1.crt: No such file" in said


@pytest.mark.parametrize("ahead", [-3, 3])
def test_a_clock_that_differs_is_fatal(cluster, ahead):
    with shared_clock(cluster, ahead):
        assert "Too big clock skew is detected: " in end(cluster, master_addresses=f"{cluster.members[0]}:7100")


def test_a_master_that_only_joins_founds_nothing(cluster):
    alone = {"master_addresses": f"{cluster.members[0]}:7100"}
    wal = cluster.directory / "node-1/yb-data/master/wal"
    beats = set()

    def heard():
        """How often it has called home, each time after writing its log."""
        if wal.exists():
            beats.add(wal.stat().st_mtime_ns)
        return len(beats)

    def role():
        try:
            return get(cluster.members[0], 7000, "/api/v1/masters")["masters"][0].get("role")
        except YugabyteError:
            return None

    cluster.start_backbone()
    cluster.serve("master", 1, **alone, master_join_existing_universe="true")
    cluster.wait("master-1", lambda: heard() > 3)
    assert role() == "NON_PARTICIPANT"
    cluster.stop("master", 1)
    cluster.serve("master", 1, **alone)
    cluster.wait("master-1", lambda: role() == "LEADER")
