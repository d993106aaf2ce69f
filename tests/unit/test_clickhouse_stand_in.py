"""The stand-in for Keeper changes its members as Keeper does, and shows what goes wrong where that is not heeded."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.ports import free_port

STAND_IN = Path(__file__).parents[2] / "molecule/clickhouse_stand_in/release"


class Ensemble:
    """Keepers on loopback, each a process; `say` writes a Keeper's file, in which the members' numbers are."""

    def __init__(self, folder):
        self.folder, self.processes = folder, {}
        shutil.copytree(STAND_IN / "usr", folder / "usr")
        (folder / "version").write_text("25.8.3.66")
        self.ports = {number: (free_port(), free_port()) for number in range(1, 5)}

    def say(self, number, members, waits=False):
        servers = "".join(
            f"<server><id>{one}</id><hostname>127.0.0.1</hostname><port>{self.ports[one][1]}</port>"
            + ("<start_as_follower>true</start_as_follower>" if waits and one == number else "") + "</server>"
            for one in members
        )
        (self.folder / f"{number}.xml").write_text(
            f"<clickhouse><listen_host>127.0.0.1</listen_host><keeper_server><server_id>{number}</server_id>"
            f"<tcp_port>{self.ports[number][0]}</tcp_port><log_storage_path>{self.folder}/{number}</log_storage_path>"
            f"<raft_configuration>{servers}</raft_configuration></keeper_server></clickhouse>"
        )

    def start(self, number):
        with open(self.folder / f"{number}.log", "a") as log:
            self.processes[number] = subprocess.Popen(
                [sys.executable, self.folder / "usr/bin/clickhouse", "keeper", f"--config={self.folder}/{number}.xml"],
                stderr=log,
            )

    def stop(self, number):
        process = self.processes.pop(number)
        process.terminate()
        process.wait()

    def ask(self, number, question):
        """The answer to a word or to a client's question, or an empty one."""
        try:
            with socket.create_connection(("127.0.0.1", self.ports[number][0]), 3) as connection:
                text = question if isinstance(question, str) else json.dumps(question) + "\n"
                connection.sendall(text.encode())
                answer = connection.makefile().read()
        except OSError:
            answer = ""
        return answer if isinstance(question, str) else json.loads(answer or "{}")

    def see(self, number):
        """(state, members) as mntr has it, None where it serves nobody."""
        facts = dict(line.split("\t") for line in self.ask(number, "mntr").splitlines() if "\t" in line)
        return facts and (facts["zk_server_state"], int(facts.get("zk_followers", -1)) + 1)

    def until(self, condition, seconds=30):
        """Wait for it."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, [self.see(number) for number in self.ports]
            time.sleep(0.05)

    def entries(self, number):
        return self.ask(number, {"read": 0}).get("entries", [])


@pytest.fixture
def ensemble(tmp_path):
    """An Ensemble whose first Keeper stands alone and has an entry."""
    keepers = Ensemble(tmp_path)
    keepers.say(1, [1])
    keepers.start(1)
    keepers.until(lambda: keepers.see(1) == ("standalone", 1))
    assert keepers.ask(1, {"append": {"kind": "x"}}) == {"position": 0}
    yield keepers
    for number in list(keepers.processes):
        keepers.stop(number)


def take_in(ensemble, number, members):
    """As the role does: the new one waits, then the others hear of it."""
    ensemble.say(number, members, waits=True)
    ensemble.start(number)
    for other in members:
        if other != number:
            ensemble.say(other, members)
    ensemble.until(lambda: ("leader", len(members)) in [ensemble.see(one) for one in members])
    ensemble.until(lambda: ensemble.see(number) and ensemble.entries(number))


def test_two_that_come_at_once_outvote_the_one_that_knows(ensemble):
    for number in (1, 2, 3):
        ensemble.say(number, [1, 2, 3])
    ensemble.start(2)
    ensemble.start(3)
    ensemble.until(lambda: ensemble.see(2) == ("leader", 3))
    assert ensemble.entries(2) == [] and ensemble.entries(1)
    assert ensemble.see(1) == ("standalone", 1)


def test_one_after_the_other_has_what_the_first_one_knows(ensemble):
    take_in(ensemble, 2, [1, 2])
    take_in(ensemble, 3, [1, 2, 3])
    assert ensemble.ask(3, {"append": {"kind": "y"}}) == {"position": 1}
    ensemble.until(lambda: all(len(ensemble.entries(number)) == 2 for number in (1, 2, 3)))
    # What has been agreed upon counts, and no longer the file.
    ensemble.stop(2)
    ensemble.say(2, [1, 2, 3, 4])
    ensemble.start(2)
    ensemble.until(lambda: ensemble.see(2))
    assert ("leader", 3) in [ensemble.see(number) for number in (1, 2, 3)]


def test_one_that_waits_does_not_serve_and_the_leader_gives_up_on_one_that_is_not_there(ensemble):
    ensemble.say(2, [1, 2], waits=True)
    ensemble.start(2)
    ensemble.until(lambda: "not currently serving" in ensemble.ask(2, "mntr"))
    ensemble.stop(2)
    ensemble.say(1, [1, 2])
    ensemble.until(lambda: "not accepted after 20 tries" in (ensemble.folder / "1.log").read_text())
    ensemble.start(2)
    ensemble.until(lambda: "not currently serving" in ensemble.ask(2, "mntr"))
    assert ensemble.see(1) == ("standalone", 1)
    # The file's time lets it try again.
    (ensemble.folder / "1.xml").touch()
    ensemble.until(lambda: ensemble.see(1) == ("leader", 2))


def test_the_leader_leaves_and_cannot_come_back(ensemble):
    take_in(ensemble, 2, [1, 2])
    take_in(ensemble, 3, [1, 2, 3])
    leader = next(number for number in (1, 2, 3) if ensemble.see(number)[0] == "leader")
    staying = [number for number in (1, 2, 3) if number != leader]
    ensemble.say(leader, staying)
    ensemble.until(lambda: any(ensemble.see(number) == ("leader", 3) for number in staying))
    for number in staying:
        ensemble.say(number, staying)
    ensemble.until(lambda: any(ensemble.see(number) == ("leader", 2) for number in staying))
    ensemble.until(lambda: not ensemble.see(leader))
    ensemble.stop(leader)
    ensemble.start(leader)
    assert ensemble.processes[leader].wait(30) == 70
    assert "not found in raft_configuration" in (ensemble.folder / f"{leader}.log").read_text()


def test_two_changes_at_once_are_not_carried_out(ensemble):
    take_in(ensemble, 2, [1, 2])
    ensemble.say(3, [1, 3], waits=True)
    ensemble.start(3)
    for number in (1, 2):
        ensemble.say(number, [1, 3])
    logs = [ensemble.folder / f"{number}.log" for number in (1, 2)]
    ensemble.until(lambda: any("strictly not recommended" in log.read_text() for log in logs))
    assert ("leader", 2) in [ensemble.see(number) for number in (1, 2)]
