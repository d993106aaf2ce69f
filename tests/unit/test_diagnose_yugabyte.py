"""What a diagnosis says of a YugabyteDB cluster that is between two states."""

import json
import os
import time

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import diagnose_yugabyte
from ansible_collections.frameworks.database.plugins.module_utils.diagnose import Report
from ansible_collections.frameworks.database.plugins.module_utils.yugabyte import Cluster, YugabyteError

MASTERS = [{"host": host, "uuid": host, "role": role, "zone": "z"} for host, role in (
    ("db1", "LEADER"), ("db2", "FOLLOWER"), ("db3", "UNREACHABLE"),
)]
TSERVERS = [{"host": host, "uuid": host, "alive": host != "db3", "silent": 1.0, "uptime": 9, "leaders": 1, "tablets": 3,
             "zone": "z"} for host in ("db1", "db2", "db3")]


@pytest.fixture
def diagnosed(monkeypatch):
    """A function that reports on a cluster with this configuration, whose servers run these releases, by their host."""
    def diagnosed(config, **running):
        def get(host, port, path, timeout):
            assert path == "/api/v1/version" and host != "db3"
            if host not in running:
                raise YugabyteError("it does not answer")
            return {"version_number": running[host], "build_number": "60"}

        monkeypatch.setattr(diagnose_yugabyte, "get", get)
        monkeypatch.setattr(diagnose_yugabyte, "read", lambda _: Cluster(MASTERS, TSERVERS, 0, 0, config))
        report = Report()
        diagnose_yugabyte.cluster(report, ["db1"])
        return [line for line in report.lines()[1:] if "does not answer the others" not in line and "dead" not in line]

    return diagnosed


def test_several_releases_are_named_with_their_servers(diagnosed):
    assert not [line for line in diagnosed({}, db1="2025.2.8.0") if "release" in line]
    said = "\n".join(diagnosed({}, db1="2025.2.8.0", db2="2025.2.9.0"))
    assert "warning  yugabytedb  the servers are of several releases:" in said
    assert "2025.2.8.0-b60: yb-master on db1, yb-tserver on db1\n" in said
    assert "2025.2.9.0-b60: yb-master on db2, yb-tserver on db2\n" in said and "playbooks/upgrade.yml" in said


def test_what_an_interrupted_run_has_left_is_named_with_the_way_out(diagnosed):
    def hosts(*names):
        return {"hosts": [{"host": name, "port": 9100} for name in names]}

    said = "\n".join(diagnosed({"server_blacklist": hosts("db2", "db1"), "leader_blacklist": hosts("db2")}))
    assert "data is being moved off db1:9100 db2:9100" in said and "change_blacklist REMOVE db1:9100 db2:9100" in said
    assert "db2:9100 may have no leaders" in said and "change_leader_blacklist REMOVE db2:9100" in said


@pytest.mark.parametrize(("more", "state", "says"), [
    ({}, "warning", "the upgrade from 1.2 to 1.3 is not final, after 3 days"),
    ({"final": True}, "problem", "making the upgrade from 1.2 to 1.3 final was cut off"),
])
def test_an_upgrade_that_is_not_final_is_named(tmp_path, more, state, says):
    report, path = Report(), tmp_path / "upgrade.json"
    diagnose_yugabyte.upgrade(report, str(path))
    assert report.findings == []
    path.write_text(json.dumps({"from": "1.2", "to": "1.3", **more}))
    os.utime(path, times=(time.time() - 3.5 * 86400,) * 2)
    diagnose_yugabyte.upgrade(report, str(path))
    [found] = report.findings
    assert (found["state"], found["found"]) == (state, says) and "upgrade_finalize.yml" in found["todo"]
