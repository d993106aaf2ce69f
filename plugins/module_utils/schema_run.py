# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run over a set: read the ledger, take the lock, read it again, apply what is pending, record the fingerprint."""

from __future__ import annotations

import contextlib
import time

from .schema_drift import carry, changes
from .schema_plan import DONE, Entry, LedgerError, LockTaken, Refused, make_plan, now
from .schema_scan import Scan
from .schema_scripts import version_order
from .sql_script import ScriptError

KEEP_ALL = 16 << 20  # bytes of split scripts that are kept in memory
_NOTHING_TO_ADOPT = (
    "baseline marks scripts as applied without running them, but the database is empty: set baseline to false to load "
    "it"
)


class Options:
    """seed, target, out_of_order, baseline, repair (names), accept_drift, drift_ignore (patterns), lock_timeout (s)."""

    def __init__(self, **values):
        self.seed = self.out_of_order = self.baseline = self.accept_drift = False
        self.target, self.repair, self.drift_ignore, self.lock_timeout = None, (), (), 300
        for name, value in values.items():
            setattr(self, name, value)


class Outcome:
    """What a run has done, or would do. pending: (Step, Scan) pairs; needed: scripts whose text is not here.

    unrecorded: whether the run before it has died before it could record the schema.
    strange: whether there are objects already, and no ledger that tells where they are from.
    """

    def __init__(self):
        self.applied, self.adopted, self.repaired, self.missing, self.beyond = [], [], [], [], []
        self.pending, self.conflicts, self.needed, self.drift = [], [], [], []
        self.ledger = self.lock_holder = None
        self.waited, self.changed, self.unrecorded, self.strange = 0.0, False, False, False


def look(backend, scripts, options):
    """The Outcome that apply() would have, found by reading alone. Raises LedgerError, ScriptError, Refused."""
    outcome = Outcome()
    entries, at = backend.ledger.read()
    outcome.ledger = entries is not None
    outcome.strange = _strange(backend, entries, options)
    recorded_at = backend.ledger.fingerprint_position() if outcome.ledger else None
    entries = dict(entries or {})
    outcome.repaired = _repair(scripts, entries, options)
    if _adopts(entries, options):
        outcome.adopted = [script.name for script in _adopted(scripts, options)]
        entries.update((script.name, Entry(checksum=script.checksum, status="adopted"))
                       for script in scripts if script.name in outcome.adopted)
    outcome.lock_holder = backend.lock.holder()
    outcome.unrecorded = recorded_at not in (None, at) and not outcome.lock_holder
    _plan(backend, scripts, entries, options, outcome)
    if outcome.adopted and backend.empty():
        outcome.conflicts.append(_NOTHING_TO_ADOPT)
    if options.accept_drift and outcome.ledger:
        with contextlib.suppress(Refused):  # what was not recorded is taken over without a word
            outcome.drift = drift(backend, options)
    outcome.changed = bool(
        outcome.pending or outcome.adopted or outcome.repaired or outcome.drift or at is None or recorded_at != at
    )
    return outcome


def apply(backend, scripts, options, outcome):
    """Apply what is pending, and tell `outcome`, an empty one, also of what comes before a failure.

    Raises Refused, ScriptFailed, LedgerError, ScriptError and what the backend raises.
    """
    entries, at = backend.ledger.read()
    outcome.strange = _strange(backend, entries, options)
    if entries is not None and not options.accept_drift:
        # Nothing to do is nothing to lock. Anything else is decided again below, under the lock.
        known = dict(entries)
        if not _repair(scripts, known, options) and not _adopts(entries, options):
            _plan(backend, scripts, known, options, outcome, scan=False)
            if not (outcome.pending or outcome.conflicts) and backend.ledger.fingerprint_position() == at:
                return
    begun = time.monotonic()
    complete = backend.before_lock()
    backend.lock.take(options.lock_timeout)
    outcome.waited = time.monotonic() - begun
    try:
        _apply_locked(backend, scripts, options, outcome, complete)
    except BaseException:
        _quietly(backend, backend.lock.release)
        raise
    backend.lock.release()


def _quietly(backend, action):
    """Call `action()` after a failure, which is what has to be told: not that the server is gone by now."""
    with contextlib.suppress(*backend.errors):
        action()


def _apply_locked(backend, scripts, options, outcome, complete):
    entries, at = backend.ledger.read()
    recorded, recorded_at = backend.ledger.fingerprint()
    if not complete and (entries is None or recorded is None):  # one of its tables may be gone
        backend.create_ledger()
        entries, at = backend.ledger.read()
    found = dict(entries)
    repaired = _repair(scripts, entries, options)
    if recorded_at != at:
        # A run has died between its last script and the fingerprint, or there has been none.
        outcome.unrecorded, recorded = recorded is not None, None
    adopts = _adopts(entries, options)
    before = backend.objects() if recorded is not None else None
    if adopts:
        _adopt(backend, scripts, entries, options, outcome)
    _plan(backend, scripts, entries, options, outcome)
    if outcome.conflicts:
        raise Refused("\n".join(outcome.conflicts))
    if outcome.needed:
        return
    for name in repaired:
        outcome.repaired.append(name)
        if name in entries:
            backend.record(entries[name])
        else:
            backend.forget(name, found[name])
    if recorded is not None:
        recorded = backend.expected(recorded, before)
        outcome.drift = changes(recorded, before, options.drift_ignore, backend.laid_out)

    def record():
        after, position = backend.objects(), backend.ledger.position()
        if position is None:
            raise LedgerError("The ledger is gone: a script has dropped it, and nothing tells any more what is applied")
        kept = recorded is not None and not options.accept_drift
        backend.ledger.record_fingerprint(carry(recorded, before, after) if kept else after, position)

    try:
        for step, scan in outcome.pending:
            backend.lock.check()
            backend.apply(step, scan)
            outcome.applied.append(step.script.name)
    except LockTaken:
        raise  # what there is to record is another run's now
    except BaseException:
        if not outcome.unrecorded:  # else the next run has to say it again
            _quietly(backend, record)
        raise
    backend.lock.check()
    record()
    accepted = bool(options.accept_drift and outcome.drift)
    outcome.changed = bool(outcome.applied or outcome.adopted or outcome.repaired or accepted or recorded_at != at)
    outcome.pending = []


def _plan(backend, scripts, entries, options, outcome, scan=True):
    plan = make_plan(scripts, entries, options.seed, options.target, options.out_of_order)
    outcome.missing, outcome.beyond, outcome.conflicts = plan.missing, plan.beyond, plan.conflicts
    outcome.needed = [step.script for step in plan.pending if step.script.open is None]
    outcome.pending = [(step, None) for step in plan.pending]
    if outcome.needed or not scan:
        return
    outcome.pending, kept = [], 0
    for step in plan.pending:
        try:
            kept += step.script.size
            found = Scan(step.script, backend.splitter, backend.context.placeholders, keep=kept <= KEEP_ALL)
            backend.check(step.script, found)
        except ScriptError as error:
            outcome.conflicts.append(f"{step.script.name}{f', line {error.line}' if error.line else ''}: {error}")
            found = None
        outcome.pending.append((step, found))


def _repair(scripts, entries, options):
    """Change `entries` as `repair` asks; the names for which there was something to do, in order.

    A failed entry goes; a changed checksum is taken over, and so is the new name of a script that was renamed.
    Raises Refused where a name is unknown, or its script gone.
    """
    files = {script.name: script for script in scripts}
    repaired = []
    for name in options.repair:
        entry = entries.get(name)
        if entry is None and name not in files:
            raise Refused(f"repair names {name}, which is neither in the set nor in its ledger")
        if entry is None:
            continue
        if entry.status not in DONE:
            del entries[name]
            repaired.append(name)
        elif name not in files:
            heir = _heir(scripts, entries, entry)
            entries[heir.name] = Entry(**{
                **vars(entries.pop(name)), "script": heir.name, "kind": heir.kind, "version": heir.version,
                "checksum": heir.checksum,
            })
            repaired += [heir.name, name]
        elif entry.checksum != files[name].checksum:
            entry.checksum = files[name].checksum
            repaired.append(name)
    return repaired


def _heir(scripts, entries, entry):
    """The new script that an applied one has become, by its version or its text. Raises Refused where there is none."""
    order = version_order(entry.version) if entry.version else None
    for script in scripts:
        if script.name not in entries and (script.checksum == entry.checksum or (order and script.order == order)):
            return script
    raise Refused(
        f"repair names {entry.script}, which is applied, and whose file is gone: no new script has its version or its "
        "text"
    )


def _adopts(entries, options):
    """Whether this run adopts: only once, so that `baseline` may stay in an inventory."""
    return options.baseline and not entries


def _adopted(scripts, options):
    """The scripts that `baseline` marks as applied. Raises Refused where it does not say which."""
    versioned = any(script.kind == "versioned" for script in scripts)
    if versioned and options.target is None:
        raise Refused(
            "baseline: say in target up to which version the database has its schema already; scripts up to there are "
            "marked as applied and not run"
        )
    plan = make_plan(scripts, {}, False, options.target)
    return [step.script for step in plan.pending if step.script.kind in ("baseline", "versioned")]


def _strange(backend, entries, options):
    return entries is None and not options.baseline and not backend.empty()


def _adopt(backend, scripts, entries, options, outcome):
    if backend.empty():
        raise Refused(_NOTHING_TO_ADOPT)
    adopted = {
        script.name: backend.context.entry(script, None, "adopted", 0, now()) for script in _adopted(scripts, options)
    }
    backend.record(*adopted.values())  # at once: a later run would execute what is missing
    entries.update(adopted)
    outcome.adopted += adopted


def drift(backend, options):
    """What sets the live schema apart from the recorded one, as changes() gives it. Raises Refused, LedgerError."""
    recorded, recorded_at = backend.ledger.fingerprint()
    if recorded is None:
        raise Refused("no schema has been recorded in this database yet: apply the set first")
    if backend.ledger.position() != recorded_at:
        holder = backend.lock.holder()
        if holder:
            raise Refused(f"{holder} is applying scripts just now: compare again when that is done")
        raise Refused(
            "the last run ended before it could record the schema, so there is nothing to compare with: apply the set "
            "again"
        )
    live = backend.objects()
    return changes(backend.expected(recorded, live), live, options.drift_ignore, backend.laid_out)
