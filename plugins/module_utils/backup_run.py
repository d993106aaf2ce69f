# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Create, restore and prove a backup: the order of things, which is the same for every engine.

A `server` has size(), create(), prepare(), restore(), swap(), scratch(), drop_scratch() and begin(), as PostgresBackup
has them.
"""

from __future__ import annotations

from .backup_folder import BackupError, human


class Different(BackupError):
    """A restored copy is not what the backup says it was made of."""


def run(module, store, server):
    """Do what the module's `state` says; its result. Raises BackupError."""
    steps = {"created": create, "restored": restore, "proved": prove}[module.params["state"]]
    if module.check_mode:
        return {"changed": True, **steps(module, store, server)}
    reading = module.params["state"] == "restored"
    if not reading:
        store.prepare()
    with store.locked(module.params["lock_timeout"], reading) as handle:
        server.begin(handle)
        return {"changed": True, **steps(module, store, server)}


def create(module, store, server):
    """Make a backup of the databases."""
    params, databases = module.params, sorted(set(module.params["databases"]))
    if not databases:
        raise BackupError("databases is empty: name at least one database to back up.")
    size = server.size(databases)
    if module.check_mode:
        return {"lines": [f"{name}: would be backed up to {store.path}" for name in databases]}
    store.clean()
    full = [
        one for one in store.backups()
        if one.good and not one.manifest.get("base") and sorted(one.manifest["databases"]) == databases
    ]
    base = full[-1] if full and params.get("incremental") else None
    # What the last one took tells more than the size of the databases, which a dump is usually far below.
    store.require_space(full[-1].size * 1.2 if full else size, params["reserve_mb"])
    manifest = {}
    with store.new(manifest) as folder:
        manifest.update(server.create(folder, databases, base))
    made = store.made
    kind = f" on top of {base.name}" if base else ""
    return {
        "backup": made.summary(),
        "lines": [
            f"{name}: {len(entry['tables'])} tables in {made.name}{kind}, {human(made.size)}{without(entry)}"
            for name, entry in sorted(made.manifest["databases"].items())
        ],
    }


def restore(module, store, server):
    """Restore a backup beside the originals, and in their place where that is asked for."""
    params, backup = module.params, store.find(module.params["backup"])
    databases = sorted(set(params["databases"]) or backup.manifest["databases"])
    missing = [name for name in databases if name not in backup.manifest["databases"]]
    if missing:
        raise BackupError(f"The backup {backup.path} does not hold {', '.join(missing)}.")
    if not params["suffix"]:
        raise BackupError("suffix is empty: a copy needs another name, until replace=true gives it the original's.")
    require_intact(store, backup)
    copies = {name: name + params["suffix"] for name in databases}
    notes = server.prepare(backup, copies, write=not module.check_mode)
    if module.check_mode:
        lines = [f"{name}: would be restored as {copy} from {backup.name}" for name, copy in copies.items()]
        return {"backup": backup.summary(), "lines": lines + notes}
    lines = {}
    for name, copy in copies.items():
        tables, rows = server.restore(backup, name, copy)
        rest = without(backup.manifest["databases"][name])
        lines[name] = f"{name}: restored as {copy}, {tables} tables and {rows} rows as in {backup.name}{rest}"
    # Only once all of them are there and compared.
    for name, copy in copies.items() if params["replace"] else ():
        lines[name] += f"; it is now {name}{server.swap(backup, name, copy)}"
    return {"backup": backup.summary(), "lines": [*lines.values(), *notes]}


def prove(module, store, server):
    """Restore each database of a backup under a scratch name, compare, drop it; keep the outcome with the backup."""
    if module.check_mode:  # the one to prove may be still to be made
        return {"lines": [f"{module.params['backup']}: would be proved"]}
    backup, lines = store.find(module.params["backup"]), []
    try:
        require_intact(store, backup)
        for database in sorted(backup.manifest["databases"]):
            scratch = server.scratch(database)
            server.drop_scratch(scratch)
            server.prepare(backup, {database: scratch}, write=False)
            try:
                tables, rows = server.restore(backup, database, scratch, proof=True)
            finally:
                server.drop_scratch(scratch)
            lines.append(f"{database}: {tables} tables and {rows} rows come back from {backup.name} as they were"
                         + without(backup.manifest["databases"][database]))
    except Different as error:
        backup.record_proof(False, str(error))
        raise BackupError(f"The backup {backup.path} has failed its proof. {error} Make a new one.") from None
    backup.record_proof(True, "; ".join(lines))
    return {"backup": backup.summary(), "lines": lines}


def without(entry):
    """What of a database is not in its backup, as the end of a sentence."""
    left = entry.get("rowless")
    return f"; the server backs up no rows of {', '.join(left)}, by their engines" if left else ""


def require_intact(store, backup):
    """Raises Different naming each file of the backup, or of one that it adds to, that is not as it was written."""
    names = {one.name: one for one in store.backups()}
    while backup is not None:
        found = backup.damage()
        if found:
            raise Different(f"The backup {backup.path} is damaged: {'; '.join(found)}.")
        base = backup.manifest.get("base")
        if base and base not in names:
            raise Different(f"The backup {backup.path} adds to {base}, which is not there any more.")
        backup = names.get(base)
