"""What the preflight of yugabyte_db refuses, why and with which remedy: the role's tasks on what its probe found."""

import datetime
import json
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.playbooks import HOST, role_play, run_playbook

# Whatever is secret has it in its name, so that it is found in any output.
MARK = "UNMISTAKABLE"
SECRETS = {
    "yugabyte_db_superuser_password": f"{MARK}-the-superuser", "yugabyte_db_ca_passphrase": f"{MARK}-the-passphrase",
}
NOWHERE = Path("/nowhere")  # what is in there would have been made by the role
SHARED = {
    **HOST, **SECRETS, "yugabyte_db_version": "2025.2.8.0", "yugabyte_db_build": "b60",
    "yugabyte_db_archive_sha256": "0" * 64, "yugabyte_db_tls": False, "yugabyte_db_config_dir": str(NOWHERE / "etc"),
    "yugabyte_db_log_dir": str(NOWHERE / "log"), "yugabyte_db_install_dir": str(NOWHERE / "opt"),
    "yugabyte_db_data_dirs": [str(NOWHERE / "data")],
}
TODAY = datetime.datetime.now(datetime.timezone.utc)

GOOD = {
    "system": {
        "id": "almalinux", "version": "9.4", "name": "AlmaLinux 9.4", "machine": "x86_64", "memory_mb": 16000,
        "systemd": True,
    },
    "disks": [{"path": "/data", "type": "xfs", "options": ["rw", "noatime"], "free_gb": 400.0}],
    "install": {"free_gb": 40.0},
    "addresses": {"resolved": ["203.0.113.1"], "foreign": [], "error": None},
    "clock": {"synchronised": True}, "ports": dict.fromkeys(("7100", "7000", "9100", "9000", "13000", "5433")),
}
RUNS = {"state": "active", "pid": 1, "release": "yugabyte-2025.2.8.0", "configuration": None, "flags": {}}


def merged(base, more):
    """`more` over `base`, dictionaries part by part."""
    if not (isinstance(base, dict) and isinstance(more, dict)):
        return more
    return {**base, **{name: merged(base.get(name), value) for name, value in more.items()}}


class Authority:
    """One that signs certificates into a folder; two of the same name differ in their key only."""

    def __init__(self, folder, name, days=3650, parent=None):
        self.folder, self.name = folder, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = (parent or self).sign(self.name, self.key.public_key(), days, authority=True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, name, public_key, days, names=(), authority=False):
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(public_key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(TODAY - datetime.timedelta(1))
        builder = builder.not_valid_after(TODAY + datetime.timedelta(days))
        for extension, critical in (
            (x509.BasicConstraints(ca=authority, path_length=None), True),
            (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        if names:
            alternative = x509.SubjectAlternativeName([x509.DNSName(one) for one in names])
            builder = builder.add_extension(alternative, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def node(self, file, host, days=365, behind="", protection=None):
        """The variables for a node's certificate and key, written as `file`."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(x509.Name([]), key.public_key(), days, [host])
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return self.written(file, pem + behind, key, protection)

    def written(self, file, pem, key, protection=None):
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection or serialization.NoEncryption(),
        ).decode()
        return {
            "yugabyte_db_node_cert": write(self.folder / f"{file}.crt", pem),
            "yugabyte_db_node_key": write(self.folder / f"{file}.key", secret),
            "yugabyte_db_ca_cert": write(self.folder / f"{file}.ca.crt", self.pem),
        }


def write(path, text):
    path.write_text(text)
    return str(path)


class Case:
    """A node as the probe found it (`found` is what differs from a good one), with variables of its own.

    Its cluster is of this one node, unless `beside` names others: {host: what differs there}.
    says: what the refusal has to name; nothing for what has to pass.
    """

    def __init__(self, *says, found=None, beside=None, **variables):
        self.says, self.found, self.beside, self.variables = says, found or {}, beside or {}, variables

    def hosts(self, name, probed):
        """Its hosts with their variables, for an inventory."""
        nodes = [name, *(f"{name}-{one}" for one in self.beside)]
        shared = {"yugabyte_db_nodes": nodes, "yugabyte_db_replication_factor": len(nodes) if len(nodes) % 2 else 1}
        every = zip(nodes, [{"found": self.found, **self.variables}, *self.beside.values()])
        return {
            node: {
                **shared, **self.variables, **{key: value for key, value in own.items() if key != "found"},
                "__yugabyte_db_probe": {"node": merged(merged(probed, GOOD), own.get("found", {}))},
            } for node, own in every
        }


def zones(*names, **more):
    """Nodes beside the first, each in a zone."""
    return {f"n{number}": {"yugabyte_db_zone": name, **more} for number, name in enumerate(names, 2)}


def listening(port, user, program="postgres"):
    return {str(port): {"program": program, "user": user}}


MASTERS = [{"host": host, "uuid": host, "role": "FOLLOWER", "zone": "a"} for host in ("db1", "db2", "db3")]
CLUSTER = {"masters": MASTERS, "tservers": [], "blacklist": [], "placement": [], "replicas": 1}
FORMED = {"data": {"master": "formed", "tserver": "present"}}

CASES = {
    # -- what the role takes -----------------------------------------------------------------------------------------
    "good": Case(),
    "one zone each": Case(beside=zones("b", "c"), yugabyte_db_zone="a"),
    "one zone for all": Case(beside=zones("a", "a"), yugabyte_db_zone="a"),
    "a region each": Case(
        beside={"n2": {"yugabyte_db_region": "west"}, "n3": {"yugabyte_db_region": "south"}}, yugabyte_db_region="east",
    ),
    "a port of its own": Case(found={
        "services": {"tserver": RUNS}, "ports": {**listening(5433, "yugabyte"), **listening(9100, "yugabyte", "?")},
    }),
    "chrony is to come": Case(found={"clock": {"synchronised": None}}),
    "its data without the folder of its flags": Case(
        found={**FORMED, "flags": {"tserver": {}}, "cluster": {**CLUSTER, "masters": [
            {"host": "its-data-without-the-folder-of-its-flags", "role": "LEADER"},
        ]}},
    ),
    # Nobody can tell that these two differ by more than half a second.
    "clocks seen from afar": Case(
        found={"clock": {"offset": [8.0, 10.0]}}, beside={"n2": {"found": {"clock": {"offset": [10.1, 12.0]}}}},
    ),
    # The role waits until chrony has set them right.
    "clocks that differ before chrony comes": Case(
        found={"clock": {"synchronised": None, "offset": [7.9, 8.1]}},
        beside={"n2": {"found": {"clock": {"synchronised": False, "offset": [9.0, 9.2]}}}},
    ),
    "taken out and emptied": Case(found={"files": {str(NOWHERE / "etc/taken-out"): "0"}}),
    # -- its variables -----------------------------------------------------------------------------------------------
    "words for lists": Case(
        "yugabyte_db_data_dirs of words-for-lists is /data, which has to be a list: [/data].",
        "yugabyte_db_client_networks of words-for-lists is 10.0.0.0/8, which", "yugabyte_db_hba of", "[db.example]",
        yugabyte_db_data_dirs="/data", yugabyte_db_client_networks="10.0.0.0/8", yugabyte_db_hba="local all all trust",
        yugabyte_db_certificate_names="db.example",
    ),
    "no path": Case(
        "data in yugabyte_db_data_dirs of no-path has to be an absolute path", "/my data in", "/a,/b in",
        yugabyte_db_data_dirs=["data", "/my data", "/a,/b", "/data"],
    ),
    "no network": Case(
        "10.0.0.1 in yugabyte_db_client_networks of no-network is no network in CIDR notation", "app1.example/32 in",
        yugabyte_db_client_networks=["10.0.0.0/8", "2001:db8::/32", "10.0.0.1", "app1.example/32"],
    ),
    # -- the machine -------------------------------------------------------------------------------------------------
    "another system": Case(
        "runs Fedora 43 on x86_64", "almalinux-8", "(yugabyte_db_architecture, yugabyte_db_systems)",
        found={"system": {"id": "fedora", "version": "43", "name": "Fedora 43"}},
    ),
    "an old release of it": Case("runs Old on x86_64", found={"system": {"version": "7.9", "name": "Old"}}),
    "another architecture": Case("on aarch64", "This needs systemd, x86_64", found={"system": {"machine": "aarch64"}}),
    "no systemd": Case("without systemd", found={"system": {"systemd": False}}),
    "no room for a release": Case(
        "has 2.5 GB free for /nowhere/opt", "yugabyte_db_minimum_install_gb", "Make room",
        found={"install": {"free_gb": 2.5}},
    ),
    "little memory": Case("has 4000 MB of memory (yugabyte_db_minimum_memory_mb: 7500)",
                          found={"system": {"memory_mb": 4000}}),
    "little disk": Case(
        "10.5 GB free for /nowhere/data (yugabyte_db_minimum_disk_gb: 50)",
        found={"disks": [GOOD["disks"][0], {**GOOD["disks"][0], "free_gb": 10.5}]},
    ),
    "another file system": Case("/data would be on nfs4", "yugabyte_db_file_systems: xfs, ext4",
                                found={"disks": [{**GOOD["disks"][0], "type": "nfs4"}]}),
    "a disk that is read-only": Case(
        "/data would be on xfs, which is read-only", "writable",
        found={"disks": [{**GOOD["disks"][0], "options": ["ro"]}]},
    ),
    "all that at once": Case(
        "runs Old on", "4000 MB of memory", "2.5 GB free", "which is read-only", "It resolves to ::1",
        "Nothing keeps the clock", "nginx on port 7100", found={
            "system": {"version": "7.9", "name": "Old", "memory_mb": 4000}, "install": {"free_gb": 2.5},
            "disks": [{**GOOD["disks"][0], "options": ["ro"]}], "addresses": {"resolved": ["::1"]},
            "clock": {"synchronised": False}, "ports": {"7100": {"program": "nginx", "user": "www-data"}},
        }, yugabyte_db_chrony=False,
    ),
    # -- its clock, name and ports -----------------------------------------------------------------------------------
    "nothing keeps the clock": Case(
        "Nothing keeps the clock of", "(yugabyte_db_chrony)", "yugabyte_db_clock_required",
        found={"clock": {"synchronised": False}}, yugabyte_db_chrony=False,
    ),
    "clocks that differ": Case(
        "The clock of clocks-that-differ-n2 is 0.9 s ahead of that of clocks-that-differ.", "0.5 s",
        "yugabyte_db_max_clock_skew_usec", "chronyc makestep",
        found={"clock": {"offset": [7.9, 8.1]}}, beside={"n2": {"found": {"clock": {"offset": [9.0, 9.2]}}}},
    ),
    "clocks that differ where nothing is asked to keep them": Case(
        "nothing-is-asked-to-keep-them-n2 is 0.9 s ahead of", yugabyte_db_clock_required=False,
        found={"clock": {"synchronised": None, "offset": [7.9, 8.1]}},
        beside={"n2": {"found": {"clock": {"synchronised": None, "offset": [9.0, 9.2]}}}},
    ),
    "a name unknown": Case(
        "It resolves to nothing (Name or service not known)", "set yugabyte_db_address",
        found={"addresses": {"resolved": [], "error": "Name or service not known"}},
    ),
    "a name of another host": Case(
        "yugabyte_db_address (a-name-of-another-host) has to resolve", "It resolves to 203.0.113.9",
        found={"addresses": {"resolved": ["203.0.113.9"], "foreign": ["203.0.113.9"]}},
    ),
    "127.0.1.1": Case(
        "It resolves to 127.0.1.1", "A line with 127.0.1.1 in /etc/hosts does this: remove it",
        found={"addresses": {"resolved": ["127.0.1.1"]}},
    ),
    "the loopback of IPv6": Case("It resolves to ::1", found={"addresses": {"resolved": ["::1"]}}),
    "a port that is taken": Case(
        "On a-port-that-is-taken something else listens where YugabyteDB has to: nginx on port 7100. Stop it.",
        found={"ports": listening(7100, "www-data", "nginx")},
    ),
    "a PostgreSQL on a bare host": Case("postgres on port 5433", found={"ports": listening(5433, "postgres")}),
    "a PostgreSQL beside a master": Case(
        "postgres on port 5433", found={"ports": listening(5433, "yugabyte"), "services": {"master": RUNS}},
    ),
    "a PostgreSQL beside both": Case(
        "postgres on port 5433",
        found={"ports": listening(5433, "postgres"), "services": {"master": RUNS, "tserver": RUNS}},
    ),
    # -- the cluster -------------------------------------------------------------------------------------------------
    "an even number of replicas": Case("yugabyte_db_replication_factor (2) has to be odd",
                                       beside=zones("rack1", "rack1"), yugabyte_db_replication_factor=2),
    "more replicas than nodes": Case(
        "yugabyte_db_replication_factor is 3: there have to be as many", "every copy needs a node of its own",
        yugabyte_db_replication_factor=3,
    ),
    "more replicas than masters": Case(
        "There are 1 yugabyte_db_masters (more-replicas-than-masters)", "is 3: there have to be as many",
        beside=zones("rack1", "rack1"), yugabyte_db_masters=["more-replicas-than-masters"],
    ),
    "a master that is no node": Case("elsewhere of yugabyte_db_masters is none of the nodes", "masters run on nodes",
                                     yugabyte_db_masters=["elsewhere"]),
    "two nodes of one address": Case(
        "Two nodes have the same address", "(db, db, two-nodes-of-one-address-n3)", yugabyte_db_address="db",
        beside={"n2": {}, "n3": {"yugabyte_db_address": "two-nodes-of-one-address-n3"}},
    ),
    "an address of IPv6": Case("2001:db8::1 has to be a name or an IPv4 address", yugabyte_db_address="2001:db8::1"),
    "more zones than replicas": Case(
        "There are 2 zones (cloud1.datacenter1.a, cloud1.datacenter1.b)", "one for each copy", yugabyte_db_zone="a",
        beside=zones("b"),
    ),
    "less zones than replicas": Case(
        "there has to be one zone, or one for each copy", beside=zones("b", "b"), yugabyte_db_zone="a",
    ),
    "no build": Case("yugabyte_db_build is empty, and the vendor's URL has it", yugabyte_db_build=""),
    "a node that is left out": Case(
        "The cluster is yet to be formed", "Missing: db9", "without --limit",
        yugabyte_db_nodes=["a-node-that-is-left-out", "db9"],
    ),
    "an address not among the masters": Case(
        "The cluster's masters are db1, db2, db3; the inventory says an-address-not-among-the-masters",
        "playbooks/replace_node.yml", "yugabyte_db_masters", "another name there or another address, set its",
        found={**FORMED, "cluster": CLUSTER},
    ),
    "another replication factor": Case(
        "was made with a replication factor of 1; yugabyte_db_replication_factor says 3. It cannot change: put 1 back.",
        beside=zones("rack1", "rack1"),
        found={**FORMED, "cluster": {**CLUSTER, "masters": [{"host": "another-replication-factor", "role": "LEADER"}]}},
    ),
    "taken out with its data": Case(
        "taken-out-with-its-data was taken out of its cluster", "take it out of the inventory",
        "move its data (/nowhere/data/yb-data) away and run playbooks/add_node.yml",
        "/nowhere/etc/taken-out goes by itself",
        found={**FORMED, "files": {str(NOWHERE / "etc/taken-out"): "0"}},
    ),
    "another release that runs": Case(
        "The cluster runs 2025.2.7.0, the inventory asks for 2025.2.8.0", "playbooks/upgrade.yml",
        found={**FORMED, "services": {"tserver": {**RUNS, "release": "yugabyte-2025.2.7.0"}}},
    ),
    "an upgrade that is not final": Case(
        "The upgrade from 2025.2.6.0 to 2025.2.7.0 is not final yet", "playbooks/upgrade_finalize.yml",
        "playbooks/upgrade_rollback.yml", found={**FORMED, "upgrade": {"from": "2025.2.6.0", "to": "2025.2.7.0"}},
    ),
    "another PostgreSQL": Case(
        "YSQL changes from PostgreSQL 11 to 15", "ysql-major-upgrade", yugabyte_db_upgrade=True,
        found={**FORMED, "services": {"tserver": {**RUNS, "release": "yugabyte-2024.2.9.0"}}},
    ),
    "an older release": Case(
        "2025.2.9.0 runs, which is newer than 2025.2.8.0", yugabyte_db_upgrade=True,
        found={**FORMED, "services": {"tserver": {**RUNS, "release": "yugabyte-2025.2.9.0"}}},
    ),
    "being emptied": Case(
        "Data is being moved off being-emptied:9100", "change_blacklist REMOVE being-emptied:9100",
        found={**FORMED, "cluster": {
            **CLUSTER, "masters": [{"host": "being-emptied", "role": "LEADER"}], "blacklist": ["being-emptied:9100"],
        }},
    ),
    "a master whose disk is lost": Case(
        "a-master-whose-disk-is-lost is one of the cluster's masters", "nothing of a master in /nowhere/data",
        found={"data": {"master": "absent", "tserver": "present"}},
    ),
    "a master that never joined": Case(
        "-e yugabyte_db_reset_unformed_master=true, which removes /nowhere/data/yb-data/master",
        found={"data": {"master": "unformed"}, "services": {"master": {"state": "failed"}}},
    ),
    "a zone that changes": Case(
        "has its data as cloud1.datacenter1.a; the inventory says cloud1.datacenter1.rack1", "replace_node.yml",
        found={**FORMED, "flags": {"tserver": {
            "placement_cloud": "cloud1", "placement_region": "datacenter1", "placement_zone": "a",
        }}},
    ),
    "a data directory that changes": Case(
        "has its data in /elsewhere, which cannot change (yugabyte_db_data_dirs)",
        found={**FORMED, "flags": {"tserver": {"fs_data_dirs": "/elsewhere"}}},
    ),
    "TLS that changes in passing": Case(
        "TLS between its servers is on", "-e yugabyte_db_restart_at_once=true",
        found={**FORMED, "flags": {"tserver": {
            "fs_data_dirs": str(NOWHERE / "data"), "use_node_to_node_encryption": "true",
        }}},
    ),
    # -- secrets -----------------------------------------------------------------------------------------------------
    "a short password": Case(
        "yugabyte_db_superuser_password is shorter than 16 characters", "playbooks/secrets.yml",
        yugabyte_db_superuser_password=f"{MARK}-15",
    ),
    "a published password": Case(
        "yugabyte_db_superuser_password is shorter than 6 characters or a published one",
        yugabyte_db_minimum_password_length=6, yugabyte_db_superuser_password="frameworks_dev",
    ),
    "a short passphrase": Case(
        "yugabyte_db_ca_passphrase is shorter", yugabyte_db_tls=True, yugabyte_db_pki_dir="/nowhere",
        yugabyte_db_ca_passphrase=f"{MARK}-15",
    ),
}


def certificates(folder):
    """Cases with certificates."""
    ours, twin = Authority(folder, "ours"), Authority(folder, "ours")
    next_one, ending = Authority(folder, "next"), Authority(folder, "ending", days=20)
    below = Authority(folder, "below", parent=ours)
    both = {"yugabyte_db_ca_cert": write(folder / "both.crt", ours.pem + next_one.pem)}
    mine, other = ours.node("mine", "of-another-key"), ours.node("other", "of-another-key")
    locked = ours.node("locked", "with-a-passphrase", protection=serialization.BestAvailableEncryption(b"secret"))
    for name, one in (("pki", ending), ("ours", ours), ("twins", twin)):
        (folder / name).mkdir()
        write(folder / name / "ca.crt", one.pem)
    signed = {**FORMED, "flags": {"tserver": {
        "fs_data_dirs": str(NOWHERE / "data"), "use_node_to_node_encryption": "true",
    }}, "files": {str(NOWHERE / "etc/certs/ca.crt"): "0"}, "certificate": {
        "pem": Path(mine["yugabyte_db_node_cert"]).read_text(), "key_fits": True,
    }}
    cases = {
        "own": Case(**ours.node("own", "own")),
        "own by one between": Case(**{
            **below.node("own-by-one-between", "own-by-one-between", behind=below.pem), "yugabyte_db_ca_cert": write(
                folder / "ours.crt", ours.pem),
        }),
        "own while one takes over": Case(**{**next_one.node("own-while", "own-while-one-takes-over"), **both}),
        "of another name": Case(
            "of-another-name.crt is made out to DNS:db9", "name of-another-name as a subject alternative name",
            **ours.node("of-another-name", "db9"),
        ),
        "near its end": Case(
            "near-its-end.crt ends on", f"ends on {TODAY + datetime.timedelta(20):%Y%m%d}", "more than 30 days",
            **ours.node("near-its-end", "near-its-end", days=20),
        ),
        "of another key": Case(
            "other.key is another certificate's key", **{**mine, "yugabyte_db_node_key": other["yugabyte_db_node_key"]}
        ),
        "with a passphrase": Case("locked.key is encrypted, and a server that starts has nobody to ask", **locked),
        "of another authority": Case(
            "of-another.crt was not signed by an authority in", "twin.crt", "(yugabyte_db_ca_cert)",
            **{**ours.node("of-another", "of-another-authority"), "yugabyte_db_ca_cert": write(
                folder / "twin.crt", twin.pem)},
        ),
        "of an authority near its end": Case(
            "The authority's certificate in", "ending.ca.crt", f"ends on {TODAY + datetime.timedelta(20):%Y%m%d}",
            "docs/yugabytedb.md", **ending.node("ending", "of-an-authority-near-its-end"),
        ),
        "a file that is missing": Case(
            "gone.key missing", **{**mine, "yugabyte_db_node_key": str(folder / "gone.key")},
        ),
        "no files and no authority": Case("TLS needs either yugabyte_db_pki_dir and yugabyte_db_ca_passphrase"),
        "an authority near its end": Case(
            "/pki/ca.crt ends on", "make a new authority first", yugabyte_db_pki_dir=str(folder / "pki"),
        ),
        "the same authority": Case(found=signed, yugabyte_db_pki_dir=str(folder / "ours")),
        "one authority after another": Case(
            "after-another has its certificate from another authority than", "/twins/ca.crt, and", "ca.key back to",
            "-e yugabyte_db_restart_at_once=true", found=signed, yugabyte_db_pki_dir=str(folder / "twins"),
        ),
        "an authority left elsewhere": Case(
            "left-elsewhere has its certificate from another authority than", "/none/ca.crt, which is not there, and",
            found=signed, yugabyte_db_pki_dir=str(folder / "none"),
        ),
        "a new authority at once": Case(
            found=signed, yugabyte_db_pki_dir=str(folder / "none"), yugabyte_db_restart_at_once=True,
        ),
    }
    for case in cases.values():
        case.variables["yugabyte_db_tls"] = True
    return cases


def slug(name):
    """A case's name as one of a host."""
    return name.replace(" ", "-")


CERTIFICATES = [
    "own", "own by one between", "own while one takes over", "of another name", "near its end", "of another key",
    "with a passphrase", "of another authority", "of an authority near its end", "a file that is missing",
    "no files and no authority",
    "an authority near its end", "the same authority", "one authority after another", "an authority left elsewhere",
    "a new authority at once",
]


class Refusals:
    """One run of the preflight over all cases, host by host: each is a cluster of its own."""

    def __init__(self, folder, probed):
        made = certificates(folder)
        assert list(made) == CERTIFICATES
        self.cases, self.folder = {**CASES, **made}, folder
        hosts = {}
        for name, case in self.cases.items():
            hosts.update(case.hosts(slug(name), probed))
        play = role_play("yugabyte_db", "preflight", serial=1)
        said = "ansible_failed_result.results | default([ansible_failed_result]) | selectattr('failed', 'true')"
        play["tasks"] = [{"name": "Preflight", "block": play["tasks"], "rescue": [{
            "name": "Remember", "ansible.builtin.set_fact": {
                "refusal": f"{{{{ {said} | map(attribute='msg') | join(' ') }}}}",
            },
        }]}]
        answers = folder / "answers.json"
        written = {"name": "Answers", "hosts": "good", "gather_facts": False, "tasks": [{
            "name": "Write them down", "ansible.builtin.copy": {
                "content": "{{ dict(groups.all | zip(groups.all | map('extract', hostvars)"
                           " | map(attribute='refusal', default=''))) | to_json }}",
                "dest": str(answers), "mode": "0600",
            },
        }]}
        inventory, playbook = folder / "cases.json", folder / "cases.yml"
        inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": SHARED}}))
        playbook.write_text(json.dumps([play, written]))
        self.run = run_playbook(folder, playbook, None, "-i", inventory, "-l", "!test", "-vvv", "--diff", timeout=900)
        self.said = json.loads(answers.read_text()) if answers.exists() else {}

    def changed(self):
        """The hosts on which something was changed."""
        return re.findall(r"^(\S+) +: .* changed=[1-9]", self.run.output, re.MULTILINE)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """What the role's own probe finds on this machine, and on one whose clock is three seconds ahead."""
    folder = tmp_path_factory.mktemp("probe")
    ahead = folder / "bin"
    ahead.mkdir()
    (ahead / "date").write_text('#!/bin/sh\nexec /bin/date -d "+3 seconds" "$@"\n')
    (folder / "sh").write_text(f'#!/bin/sh\nPATH={ahead}:$PATH exec /bin/sh "$@"\n')
    for file in (ahead / "date", folder / "sh"):
        file.chmod(0o755)
    nodes = {"yugabyte_db_nodes": ["test", "ahead"], "yugabyte_db_replication_factor": 1}
    play = role_play("yugabyte_db", "probe", vars=nodes)
    play["tasks"].append({"name": "Write it down", "ansible.builtin.copy": {
        "content": "{{ __yugabyte_db_probe.node | to_json }}", "dest": f"{folder}/{{{{ inventory_hostname }}}}.json",
        "mode": "0600",
    }})
    inventory = folder / "inventory.json"
    inventory.write_text(json.dumps({"all": {"vars": SHARED, "hosts": {
        "ahead": {"ansible_shell_executable": str(folder / "sh")},
    }}}))
    run = run_playbook(folder, play, None, "-i", inventory, "-vvv").ok()
    assert MARK not in run.output
    return {host: json.loads((folder / f"{host}.json").read_text()) for host in ("test", "ahead")}


@pytest.fixture(scope="module")
def refusals(probed, tmp_path_factory):
    return Refusals(tmp_path_factory.mktemp("cases"), probed["test"])


def test_clocks_are_measured_more_closely_than_a_module_takes(probed):
    here, ahead = (probed[host]["clock"]["offset"] for host in ("test", "ahead"))
    assert here[0] <= here[1] and ahead[0] <= ahead[1]
    assert ahead[0] - here[1] <= 3 <= ahead[1] - here[0]
    assert ahead[0] - here[1] > 2.5


@pytest.mark.parametrize("name", [*CASES, *CERTIFICATES])
def test_what_will_not_do_is_refused_with_reason_and_remedy(refusals, name):
    assert refusals.said, refusals.run.output
    refusal, says = refusals.said[slug(name)], refusals.cases[name].says
    assert bool(refusal) is bool(says), refusal
    for one in says:
        assert one in refusal


def test_nothing_is_touched_and_no_secret_is_shown(refusals):
    # The one that wrote the answers down.
    assert refusals.changed() == ["good"]
    assert refusals.run.code == 0, refusals.run.output
    assert not NOWHERE.exists()
    assert MARK not in refusals.run.output
