# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is pending: the scripts of a set against its ledger."""

from __future__ import annotations

import datetime
import getpass
import hashlib
import json
import os
import socket

from .schema_scripts import classify, version_order
from .sql_script import ScriptError

DONE = ("applied", "adopted")
COLUMNS = (
    "script", "kind", "version", "checksum", "statements", "completed", "completed_checksum", "status",
    "started_at", "finished_at", "duration_ms", "applied_by", "tool_version", "error", "marker",
)


LEASE = 60  # seconds after which the lease of a run that has died is free


ALTERED = "It was altered, or another version of this collection has made it: give it back the columns that it had"


def from_ledger(text, where, advice):
    """The dictionary that a ledger has as `text`. Raises LedgerError, which says `where` and gives the `advice`."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LedgerError(f"{where} does not hold what a run writes there, but {text[:40]!r}: {advice}")
    return found


def position(rows):
    """A short text that stands for what the ledger says is done; rows: [set, script, checksum, completed]."""
    return hashlib.sha256(json.dumps([list(map(str, row)) for row in rows]).encode()).hexdigest()[:32]


def now():
    """This moment, with its time zone."""
    return datetime.datetime.now(datetime.timezone.utc)


def account():
    """Who runs this program, and where."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid{os.getuid()}"  # in a container an account need not have a name
    return f"{name}@{socket.gethostname()}"


class Entry:
    """One script's row of the ledger: an attribute for each of COLUMNS. status: applied, adopted, running or failed."""

    def __init__(self, **columns):
        vars(self).update(dict.fromkeys(COLUMNS), **columns)


class Context:
    """What a run is: set_name, database, owner (a role, or None), placeholders, run_by and version (of this tool)."""

    def __init__(self, set_name, database, owner, placeholders, run_by, version):
        self.set_name, self.database, self.owner = set_name, database, owner
        self.placeholders, self.run_by, self.version = placeholders, run_by, version

    def entry(self, script, scan, status, completed, started, **more):
        """The ledger's row for `script` as of now; `scan` is None where nobody has counted its statements."""
        finished = None if status == "running" else now()
        return Entry(
            script=script.name, kind=script.kind, version=script.version, checksum=script.checksum,
            statements=scan.count if scan else None, completed=completed, status=status, started_at=started,
            finished_at=finished, duration_ms=round((finished - started).total_seconds() * 1000) if finished else None,
            applied_by=self.run_by, tool_version=self.version, **more,
        )


class Refused(Exception):
    """Nothing was applied, because the operator has to decide or correct something first."""


class LedgerError(Exception):
    """The ledger cannot be read or written; nothing may be concluded from that."""


class LockTaken(Exception):
    """Another run holds the lock, or this one has lost it."""


class Step:
    """A script that is to be applied. reason: new, changed (a repeatable) or resumed. entry: its row, or None."""

    def __init__(self, script, reason, entry):
        self.script, self.reason, self.entry = script, reason, entry

    @property
    def resumable(self):
        """The entry of a run that came part of the way, statement by statement, or None.

        A repeatable that has changed since begins anew: that it may is what makes it one.
        """
        entry = self.entry
        if self.reason != "resumed" or entry.completed_checksum is None:
            return None
        return None if self.script.kind == "repeatable" and entry.checksum != self.script.checksum else entry

    def edited(self):
        """The Refused for a script whose completed part is another one now."""
        return Refused(
            f"{self.script.name}: the first {self.resumable.completed} statements, which an earlier run has completed, "
            "are not the same any more: restore them, and change only what comes after; or name the script in repair "
            "to begin it again from its first statement"
        )

    def marker(self):
        """What resumable's run has written down before the statement at which it ended; {} where it did not.

        Raises Refused where it was cut off there and the script was changed since: what is to be seen of the statement
        would be taken for its new text's.
        """
        entry = self.resumable
        marker = from_ledger(
            entry.marker, f"The marker of {self.script.name}", "name it in repair to begin it again"
        ) if entry and entry.marker else {}
        if marker and not marker.get("failed") and entry.checksum != self.script.checksum:
            raise Refused(
                f"{self.script.name} was changed after a run had been cut off in it, behind statement {entry.completed}"
                f" or later: restore the file (SHA-256 {entry.checksum}) and run again; or name it in repair to begin "
                "it again from its first statement"
            )
        return marker


class Plan:
    """pending: Steps in order. conflicts: sentences that forbid to apply.

    missing: scripts of the ledger whose file is gone, those that are not applied with their status.
    beyond: names of scripts that the target leaves out.
    """

    def __init__(self):
        self.pending, self.conflicts, self.missing, self.beyond = [], [], [], []


def make_plan(scripts, entries, seed=False, target=None, out_of_order=False):
    """The Plan for `scripts` in their order, where `entries` (script name to Entry) is what the ledger says."""
    plan = Plan()
    limit = _limit(scripts, target)
    names = {script.name for script in scripts}
    absent = {name: entry for name, entry in entries.items() if name not in names}
    gone = {
        version_order(entry.version): name for name, entry in absent.items()
        if entry.version and (entry.status in DONE or entry.completed)
    }
    moved = {
        entry.checksum: name for name, entry in absent.items() if entry.status in DONE and entry.kind != "repeatable"
    }
    done = [script.order for script in scripts if _done(script, entries) and script.kind == "versioned"]
    highest = max([*done, *(order for order, name in gone.items() if absent[name].status in DONE)], default=())
    for script in scripts:
        if script.kind == "seed" and not seed:
            continue
        if limit is not None and script.version and script.order > limit:
            if not _done(script, entries):
                plan.beyond.append(script.name)
            continue
        if plan.beyond and script.kind in ("repeatable", "seed"):
            # They are written for the newest schema, which is not here yet.
            plan.beyond.append(script.name)
            continue
        _judge(plan, script, entries.get(script.name), highest if not out_of_order else (), gone, moved)
    plan.missing = [
        name if entry.status in DONE else f"{name} ({entry.status})" for name, entry in absent.items()
    ]
    return plan


def _limit(scripts, target):
    if target is None:
        return None
    limit = version_order(target)
    if not any(script.order == limit for script in scripts if script.version):
        raise ScriptError(f"target {target}: no script of the set has this version")
    return limit


def _done(script, entries):
    return script.name in entries and entries[script.name].status in DONE


_LATE = ", but a later version is applied already: give it a higher version, or set out_of_order to true"


def _judge(plan, script, entry, highest, gone, moved):
    if entry is None:
        if script.kind == "versioned" and script.order in gone:
            plan.conflicts.append(
                f"{script.name} has the version of {gone[script.order]}, which the ledger has and the set has not any "
                "more: give it a version of its own; or if it was renamed, that name again, or name "
                f"{gone[script.order]} in repair"
            )
        elif script.kind == "versioned" and script.order < highest:
            plan.conflicts.append(f"{script.name} is new{_LATE}")
        elif script.kind != "repeatable" and script.checksum in moved:
            plan.conflicts.append(
                f"{script.name} is what was applied as {moved[script.checksum]}, which the set has not any more: give "
                f"it that name again, or name {moved[script.checksum]} in repair"
            )
        elif highest and classify(script.name)[0] == "baseline":  # in a list of files others have no place of their own
            plan.conflicts.append(
                f"{script.name} is new, but versions are applied already, and a baseline comes before them: make it a "
                "version, or set out_of_order to true"
            )
        plan.pending.append(Step(script, "new", None))
    elif entry.status not in (*DONE, "running", "failed"):
        plan.conflicts.append(
            f"{script.name} has the status {entry.status!r} in the ledger, which no run writes: set it to applied "
            "there if that is what it is, or name it in repair to begin it again"
        )
    elif entry.status not in DONE:
        if script.kind == "versioned" and script.order < highest and not entry.completed:
            plan.conflicts.append(f"{script.name} has nothing done of it{_LATE}")
        plan.pending.append(Step(script, "resumed", entry))
    elif entry.checksum != script.checksum:
        if script.kind == "repeatable":
            plan.pending.append(Step(script, "changed", entry))
        else:
            plan.conflicts.append(
                f"{script.name} was changed{_how(script, entry)} after it had been applied ({entry.finished_at}): "
                f"restore the file (SHA-256 {entry.checksum}) and put the change into a new script, or name it in "
                "repair to accept its new text"
            )


def _how(script, entry):
    """A hint where a checkout on another system, as by Git on Windows, is all that has changed an applied script."""
    if script.open is None:
        return ""
    with script.open() as stream:
        text = stream.read().replace(b"\r\n", b"\n")
    found = (hashlib.sha256(one).hexdigest() for one in (text, text.replace(b"\n", b"\r\n")))
    return ", in its line ends alone," if entry.checksum in found else ""
