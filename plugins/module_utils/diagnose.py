# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A diagnosis: findings, each with what to do, and what a host alone can tell. Nothing here writes."""

from __future__ import annotations

import datetime
import fnmatch
import glob
import os
import re
import shutil
import socket
import subprocess
import time

from .backup_folder import Store, human

STATES = ("problem", "warning", "unknown", "ok")
ENGINES = ("postgresql", "yugabytedb", "clickhouse")
NAME_TODO = "correct the name, or let DNS or /etc/hosts have it"
_TAIL = 256 << 10  # bytes of a log that are looked at
_SEVERE = re.compile(r"\b(ERROR|FATAL|PANIC)\b|<(Error|Fatal|Critical)>|^[EF]\d{4} ")
# What the collection's own looks leave in the log of a server that is well: connection_verify tries a wrong password,
# and then what an application must not read; a set's first run looks for its ledger.
_REFUSED = re.compile(r"password authentication failed|AUTHENTICATION_FAILED")
_LOOKED = re.compile(
    r"permission denied for \w+ pg_authid|SELECT\S* ON system\.users\b"
    r"|relation \"schema_ledger\.\w+\" does not exist|Unknown table \w+ identifier '[^']*\.schema_ledger'"
)
# Statements get into logs when they fail, and with them what they were to set.
_WORD = r"(?i)\b(\w*(?:passw(?:or)?d|passphrase|secret|token|api_?key)\w*|identified\b.*?\bby)\b"
_TEXT = r"(?:E?'(?:[^'\\]|''|\\.)*'?|(\$\w*\$).*?(?:\3|$)"
_SECRETS = (
    re.compile(_WORD + r"(['\"]?\s*[:=]\s*)" + _TEXT + r"|\"[^\"]*\"?|\S+)"),
    re.compile(_WORD + r"(\s+)" + _TEXT + ")"),
)
_QUERY = re.compile(r" \(in query: .*")
_CERTIFICATE = re.compile(r"-----BEGIN (\w+ )?CERTIFICATE-----.*?-----END \1?CERTIFICATE-----", re.S)
_URL_SECRET = re.compile(r"(://[^:/@\s]*:)\S+@")


class Report:
    """Findings in the order in which they were made: {area, state, found, details, todo}; `state` is one of STATES."""

    def __init__(self):
        self.findings = []

    def add(self, area, state, found, todo="", details=()):
        """Note one finding. `todo`: what the operator can do about it; `details`: more lines on it."""
        found = " ".join(str(found).split())
        self.findings.append({"area": area, "state": state, "found": found, "details": list(details), "todo": todo})

    def look(self, area, what, action):
        """Run `action()`, which adds findings; whatever stops it is a finding too, never a failure."""
        try:
            action()
        except Exception as error:  # a diagnosis that breaks down where things are broken is none
            self.add(area, "unknown", f"{what}: {str(error).strip() or repr(error)}")

    def each(self, area, items, action):
        """`action(item)` for each of them, as look() runs it: one that cannot be looked at hides no other."""
        for item in items:
            self.look(area, item, lambda item=item: action(item))

    def counts(self):
        """{state: number}."""
        return {state: sum(one["state"] == state for one in self.findings) for state in STATES}

    def lines(self):
        """The report, worst first."""
        counts = self.counts()
        lines = ["problems: {problem}, warnings: {warning}, unknown: {unknown}, ok: {ok}".format(**counts)]
        for state in STATES:
            for one in self.findings:
                if one["state"] == state:
                    lines.append(f"{state.upper() if state == 'problem' else state:8} {one['area']:11} {one['found']}")
                    more = [*one["details"], f"-> {one['todo']}"] if one["todo"] else one["details"]
                    lines += [f"{'':20} {line}" for line in more]
        return lines


def masked(text):
    """`text` of a log without ClickHouse's statements and what looks like a secret."""
    text = _QUERY.sub("", text)
    for pattern in _SECRETS:
        text = pattern.sub(r"\1\2***", text)
    return _URL_SECRET.sub(r"\1***@", text)


def output(*words, given=""):
    """What a command that is `given` a text prints, None where there is no such command or it takes more than 10 s."""
    try:
        return subprocess.run(
            words, capture_output=True, text=True, errors="replace", check=False, timeout=10,
            input=given, env={"PATH": f"{os.defpath}:/usr/sbin:/sbin", "LC_ALL": "C"},
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None


def services(report, patterns):
    """The state of services, as systemd knows it by their patterns, or else pg_lsclusters and supervisor."""
    found = []
    if not patterns:
        return
    if os.path.isdir("/run/systemd/system"):
        listed = output("systemctl", "list-units", "--all", "--type=service", "--plain", "--no-legend", *patterns) or ""
        for words in (line.split() for line in listed.splitlines()):
            start = f"journalctl -u {words[0]} -n 50; systemctl restart {words[0]}"
            found.append((words[0], words[2] == "active", f"{words[2]} ({words[3]})", start))
    else:
        for words in (line.split() for line in (output("pg_lsclusters", "--no-header") or "").splitlines()):
            found.append((
                f"postgresql@{words[0]}-{words[1]}", words[3].startswith("online"), words[3],
                f"pg_ctlcluster {words[0]} {words[1]} start",
            ))
        for words in (line.split() for line in (output("supervisorctl", "status") or "").splitlines() if " " in line):
            found.append((words[0], words[1] == "RUNNING", words[1].lower(), f"supervisorctl start {words[0]}"))
        found = [one for one in found if any(fnmatch.fnmatchcase(one[0], pattern) for pattern in patterns)]
    for name, runs, state, todo in found:
        report.add("service", "ok" if runs else "problem", f"{name} is {state}", "" if runs else todo)
    if not found:
        report.add("service", "unknown", f"no service manager knows {', '.join(patterns)}: the ports tell more")


def listening():
    """{port: sorted addresses} of the TCP sockets that listen on this host."""
    found = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            with open(f"/proc/net/{name}", encoding="ascii") as table:
                entries = [line.split() for line in table][1:]
        except OSError:
            continue
        for entry in entries:
            address, port = entry[1].split(":")
            if entry[3] == "0A":
                # The kernel prints the address in words of its own byte order.
                raw = b"".join(bytes.fromhex(address[at:at + 8])[::-1] for at in range(0, len(address), 8))
                found.setdefault(int(port, 16), set()).add(socket.inet_ntop(family, raw))
    return {port: sorted(addresses) for port, addresses in found.items()}


def ports(report, wanted):
    """Whether each of `wanted` ("host:port") takes connections."""
    here = listening()

    def look(address):
        host, _colon, port = address.rpartition(":")
        where = ", ".join(here.get(int(port), []))
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
        except OSError as error:
            todo = "check the address and the firewall between" if where else "start the service, and look at its log"
            listens = f"; here, {where} listens on {port}" if where else f"; nothing on this host listens on {port}"
            report.add(
                "port", "problem", f"{address} takes no connections: {error.strerror or error}{listens}",
                NAME_TODO if isinstance(error, socket.gaierror) else todo,
            )
        else:
            report.add("port", "ok", f"{address} takes connections{f' (listening: {where})' if where else ''}")

    report.each("port", wanted, look)


def disks(report, paths):
    """How full the file systems of `paths` are."""
    seen = set()

    def look(path):
        try:
            device, usage, nodes = os.stat(path).st_dev, shutil.disk_usage(path), os.statvfs(path)
        except FileNotFoundError:
            return
        if device in seen:
            return
        seen.add(device)
        used = 100 - 100 * usage.free / max(usage.total, 1)
        inodes = 100 - 100 * nodes.f_favail / nodes.f_files if nodes.f_files else 0
        state = "problem" if max(used, inodes) >= 95 else "warning" if max(used, inodes) >= 85 else "ok"
        report.add(
            "disk", state, f"{path}: {used:.0f}% used, {human(usage.free)} free, {inodes:.0f}% of the inodes",
            "" if state == "ok" else "make room: logs, old backups (backup.yml --tags prune); or get a larger disk",
        )

    report.each("disk", paths, look)


def clock(report, controller):
    """Whether the clock agrees with the controller's (seconds since 1970) and something keeps it right."""
    ahead = time.time() - controller
    synchronised = (output("timedatectl", "show", "--property=NTPSynchronized", "--value") or "").strip()
    kept = {"yes": ", synchronised", "no": ", not synchronised"}.get(synchronised, "")
    # What the module takes to get here counts in.
    wrong = abs(ahead) > 10
    state = "problem" if wrong else "warning" if synchronised == "no" else "ok"
    found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the controller's clock" if wrong else \
        "the clock agrees with the controller's"
    report.add("clock", state, found + kept, "" if state == "ok" else "start a time service, chrony for one")


def _without_own(lines):
    """The lines without those of the collection's own looks, each with the refused login just before it."""
    kept, before = [], ""
    for line in lines:
        looked = _LOOKED.search(line)
        if not looked:
            kept.append(line)
        elif _REFUSED.search(before):
            kept.pop()
        before = line
    return kept


def logs(report, patterns, units):
    """The last severe lines of systemd's journal and of each shell pattern's newest file, of a day at most."""
    texts = {}

    def read(pattern):
        files = sorted(glob.glob(pattern), key=os.path.getmtime)
        if files and time.time() - os.path.getmtime(files[-1]) < 86400:
            with open(files[-1], "rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - _TAIL, 0))
                texts[files[-1]] = file.read().decode(errors="replace")

    report.each("log", patterns, read)
    if os.path.isdir("/run/systemd/system"):
        words = [word for unit in units for word in ("-u", unit)]
        texts["the journal"] = output(
            "journalctl", "--no-pager", "--since=-24h", "--lines=500", "--output=short-iso", *words) or ""
    for name, text in texts.items():
        severe = _without_own([line for line in text.splitlines() if _SEVERE.search(line)])
        if not severe:
            report.add("log", "ok", f"{name} has no errors at its end")
            continue
        last = [masked(" ".join(line.split()))[:300] for line in severe[-5:]]
        report.add("log", "warning", f"{name} has {len(severe)} errors at its end, the last ones:", details=last)


def certificates(report, patterns):
    """From when on, and how long, the certificates in PEM files are valid, each one of a chain."""

    def look(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            found = [block.group() for block in _CERTIFICATE.finditer(file.read())]
        if not found:
            report.add("certificate", "unknown", f"{path} has no certificate in PEM")
        for number, pem in enumerate(found, 1):
            _certificate(report, path if len(found) == 1 else f"{path}, {number} of {len(found)}", pem)

    report.each("certificate", sorted({path for pattern in patterns for path in glob.glob(pattern)}), look)


def _certificate(report, name, pem):
    said = output("openssl", "x509", "-noout", "-dates", "-subject", given=pem) or ""
    dates = re.findall(r"not(?:Before|After)=(.*) GMT", said)
    if not dates:
        report.add("certificate", "unknown", f"{name}: openssl is missing here or does not read it")
        return
    begin, end = (datetime.datetime.strptime(date, "%b %d %H:%M:%S %Y") for date in dates)
    now = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=time.time())
    what = f"{name} ({said.partition('subject=')[2].splitlines()[0].strip()})"
    if now < begin:
        report.add("certificate", "problem", f"{what} is valid from {begin} UTC on", "correct the clock, or renew it")
        return
    days = (end - now).total_seconds() / 86400
    state = "problem" if days < 7 else "warning" if days < 30 else "ok"
    when = f"expires in {days:.0f} days" if days > 0 else f"has expired {-days:.0f} days ago"
    report.add("certificate", state, f"{what} {when}, on {end:%Y-%m-%d}", "" if state == "ok" else "renew it")


def backups(report, folders, hours):
    """Whether the newest good backup in each folder is younger than `hours`."""

    def look(folder):
        found = [one for engine in ENGINES for one in Store(folder, engine).backups()]
        good = sorted((one for one in found if one.good), key=lambda one: one.created)
        failed = [one.name for one in found if (one.proof or {}).get("passed") is False]
        todo = "run playbooks/backup.yml"
        if not good:
            report.add("backup", "problem", f"{folder} has no good backup", todo)
        else:
            age = (datetime.datetime.now(datetime.timezone.utc) - good[-1].created).total_seconds() / 3600
            proof = f"proved at {good[-1].proof['at']}" if good[-1].proof else "never proved"
            state = "warning" if age > hours else "ok"
            found = f"{folder}: the newest good one is {good[-1].name}, {age:.0f} h old, {proof}"
            report.add("backup", state, found, "" if state == "ok" else todo)
        for name in failed:
            report.add("backup", "warning", f"{folder}/{name} has failed its proof", "see its proof.json")

    report.each("backup", folders, look)
