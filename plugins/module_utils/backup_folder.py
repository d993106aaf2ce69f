# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups as folders: one each, complete or not there, with a manifest that tells what it holds."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time

MANIFEST, PROOF, LOCK = "manifest.json", "proof.json", ".lock"
TOOL = "frameworks.database"
FORMAT = 1
# A folder on its way in or out; it becomes a backup, or ceases to be one, by a rename.
PARTIAL = ".partial-"
_OURS = re.compile(re.escape(PARTIAL) + r"\d{8}T\d{6}Z")
_NAME = "%Y%m%dT%H%M%SZ"

BACKUP_SPEC = {
    "path": {"type": "path", "required": True},
    "databases": {"type": "list", "elements": "str", "default": []},
    "state": {"type": "str", "choices": ["created", "restored", "proved"], "default": "created"},
    "backup": {"type": "str", "default": "latest"},
    "suffix": {"type": "str", "default": "_restored"},
    "replace": {"type": "bool", "default": False},
    "reserve_mb": {"type": "int", "default": 512},
    "lock_timeout": {"type": "int", "default": 60},
}


class BackupError(Exception):
    """Whatever goes wrong with a backup; the text is a whole sentence for the operator."""


def now():
    """This moment in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def human(size):
    """`size` bytes for a sentence."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.1f} MB"


class Backup:
    """A complete backup. name: that of its folder; manifest: what is in it; proof: the last proof, or None."""

    def __init__(self, path):
        self.path, self.name = path, os.path.basename(path)
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as file:
            self.manifest = json.load(file)
        if self.manifest["tool"] != TOOL or not isinstance(self.manifest["files"], dict):
            raise ValueError(f"{MANIFEST} is not this collection's")
        self.created = datetime.datetime.fromisoformat(self.manifest["created"])
        try:
            with open(os.path.join(path, PROOF), encoding="utf-8") as file:
                self.proof = json.load(file)
        except FileNotFoundError:
            self.proof = None

    @property
    def size(self):
        """Bytes of all its files."""
        return sum(file["size"] for file in self.manifest["files"].values())

    def damage(self, contents=True):
        """What is not as the manifest says, one sentence a file; without `contents` only the sizes are looked at."""
        found = []
        for name, expected in sorted(self.manifest["files"].items()):
            path = os.path.join(self.path, name)
            try:
                size = os.lstat(path).st_size
                if size != expected["size"]:
                    found.append(f"{name} has {size} bytes instead of {expected['size']}")
                elif contents and digest(path) != expected["sha256"]:
                    found.append(f"{name} does not have the SHA-256 that it was written with")
            except OSError as error:
                found.append(f"{name}: {error.strerror}")
        return found

    @property
    def good(self):
        """Whether it looks like one to rely on: all files there, no failed proof."""
        return not self.damage(contents=False) and (self.proof or {}).get("passed") is not False

    def record_proof(self, passed, detail):
        """Keep the outcome of a proof beside the manifest."""
        self.proof = {"passed": passed, "at": now().isoformat(), "detail": detail}
        try:
            write_json(os.path.join(self.path, PROOF), self.proof)
        except OSError as error:
            raise BackupError(
                f"The outcome of the proof cannot be kept in {self.path}: {error.strerror}. It was: {detail}"
            ) from None

    def summary(self):
        """For a task's result."""
        return {
            "name": self.name, "path": self.path, "created": self.manifest["created"], "size": self.size,
            "databases": sorted(self.manifest["databases"]), "base": self.manifest.get("base"), "proof": self.proof,
        }


class Store:
    """The folder that holds one server's backups. Nothing is touched in it but what this collection has made."""

    def __init__(self, path, engine):
        self.path, self.engine = os.path.abspath(path), engine

    def prepare(self):
        """Create the folder, mode 0700; it belongs to whom its parent belongs to, which may be the server's account."""
        try:
            make_folder(self.path)
        except OSError as error:
            raise BackupError(f"{self.path} cannot be created: {error.strerror}. Choose another path.") from None

    @contextlib.contextmanager
    def locked(self, seconds, reading=False):
        """Keep other runs out; yields the lock's file descriptor, for child processes that shall hold it on.

        reading: a disk that nothing can be written to will do. Raises BackupError after `seconds` s, naming the holder.
        """
        try:
            handle = os.open(os.path.join(self.path, LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if not reading or error.errno != errno.EROFS:
                raise BackupError(f"{self.path} cannot be written to: {error.strerror}.") from None
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            deadline = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise BackupError(
                            f"After {seconds} s another run still works in {self.path}: "
                            f"{self._holder(handle)}. Wait for its end."
                        ) from None
                    time.sleep(0.1)
            with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, and prune makes room
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()}, since {now().isoformat()}\n".encode(), 0)
            yield handle
        finally:
            os.close(handle)

    @staticmethod
    def _holder(handle):
        try:
            return os.pread(handle, 200, 0).decode(errors="replace").strip() or "it could not say which"
        except OSError:
            return "it could not say which"

    def backups(self):
        """The complete backups of this engine, oldest first. Folders without a manifest of ours are none.

        What a wrong clock has dated in the future comes before all others: it is no newer than what is made now.
        """
        found = []
        for name in self._folders():
            if not name.startswith("."):
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    found.append(Backup(os.path.join(self.path, name)))
        latest = now() + datetime.timedelta(minutes=1)
        return sorted(
            (one for one in found if one.manifest.get("engine") == self.engine),
            key=lambda one: (one.created <= latest, one.created),
        )

    @staticmethod
    def good(backups):
        """Those of all `backups` to rely on: good themselves, and so is what they add to."""
        named = {one.name: one for one in backups if one.good}

        def stands(one):
            while one is not None and one.manifest.get("base"):
                one = named.get(one.manifest["base"])
            return one is not None

        return [one for one in named.values() if stands(one)]

    def _folders(self):
        try:
            return [entry.name for entry in os.scandir(self.path) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BackupError(f"{self.path} cannot be read: {error.strerror}.") from None

    def find(self, name):
        """The Backup called `name`, or the newest good one for `latest`. Raises BackupError."""
        backups = self.backups()
        if name == "latest":
            backup = next(reversed(self.good(backups)), None)
        else:
            backup = next((one for one in backups if one.name == name), None)
        if backup is None:
            known = ", ".join(one.name for one in backups) or "none"
            wanted = "good backup" if name == "latest" else f"backup {name}"
            raise BackupError(f"There is no {wanted} of {self.engine} in {self.path}. There are: {known}.")
        return backup

    def require_space(self, size, reserve_mb):
        """Raises BackupError unless `size` bytes fit and `reserve_mb` MB stay free."""
        require_space(self.path, size, reserve_mb, "the backup")

    def clean(self):
        """Remove what runs that were killed have left, by their names. Only under the lock."""
        for name in self._folders():
            if _OURS.fullmatch(name):
                self._delete(os.path.join(self.path, name))

    @staticmethod
    def _delete(path):
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise BackupError(
                f"{error.filename or path} cannot be deleted: {error.strerror or error}. Delete {path} by hand."
            ) from None

    @contextlib.contextmanager
    def new(self, manifest):
        """A folder to write a backup into; at the end it gets `manifest`, completed, and its name. Yields its path.

        Where the block raises, nothing is left of it. The Backup is `self.made` afterwards.
        """
        created = now()
        name = created.strftime(_NAME)
        while os.path.lexists(os.path.join(self.path, name)):
            created += datetime.timedelta(seconds=1)
            name = created.strftime(_NAME)
        partial = os.path.join(self.path, PARTIAL + name)
        head = {
            "tool": TOOL, "format": FORMAT, "engine": self.engine, "created": created.isoformat(),
            "host": socket.gethostname(),
        }
        try:
            make_folder(partial)
            yield partial
            write_json(os.path.join(partial, MANIFEST), {**head, **manifest, "files": take_stock(partial)})
            os.rename(partial, os.path.join(self.path, name))
            sync_folder(self.path)
        except OSError as error:
            raise BackupError(
                f"The backup could not be written to {self.path}: {error.strerror or error}. Nothing is left of it."
            ) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self.made = Backup(os.path.join(self.path, name))

    def superfluous(self, keep, days):
        """The backups that are neither among the newest `keep` good ones nor younger than `days`, oldest first.

        The newest good one always stays, and so does every backup that one that stays is an increment of.
        """
        backups = self.backups()
        oldest = now() - datetime.timedelta(days=days)
        good = self.good(backups)
        staying = {one.name for one in good[-max(keep, 1):]} | {one.name for one in backups if one.created > oldest}
        bases = {one.name: one.manifest.get("base") for one in backups}
        for name in list(staying):
            while bases.get(name):
                name = bases[name]
                staying.add(name)
        return [one for one in backups if one.name not in staying]

    def remove(self, backup):
        """Delete a backup. It stops being one before the first of its files goes. Only after clean().

        Whatever it is called, from then on it has a name that clean() knows.
        """
        partial = os.path.join(self.path, PARTIAL + backup.created.astimezone(datetime.timezone.utc).strftime(_NAME))
        try:
            os.rename(backup.path, partial)
        except OSError as error:
            raise BackupError(f"{backup.path} cannot be deleted: {error.strerror or error}.") from None
        self._delete(partial)


def make_folder(path):
    """Create `path` with mode 0700 and the owner of its parent, missing parents included."""
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_folder(parent)
    os.mkdir(path, 0o700)
    owner = os.stat(parent)
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def take_stock(folder):
    """{name: {size, sha256}} of all files below `folder` but the manifest; they are made private and synced to disk."""
    files = {}
    for root, folders, names in os.walk(folder):
        for name in folders + names:
            path = os.path.join(root, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a link would lead chmod elsewhere
                raise BackupError(f"{path} is neither a file nor a folder: nothing else belongs into a backup.")
            os.chmod(path, 0o700 if stat.S_ISDIR(mode) else 0o600)
            relative = os.path.relpath(path, folder)
            if stat.S_ISREG(mode) and relative != MANIFEST:
                files[relative] = {"size": os.path.getsize(path), "sha256": digest(path, sync=True)}
        sync_folder(root)
    if not files:
        raise BackupError("The backup is empty.")
    return files


def digest(path, sync=False):
    """The SHA-256 of a file; `sync`: see to it that its contents are on disk."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        for block in iter(lambda: file.read(1 << 20), b""):
            sha.update(block)
    return sha.hexdigest()


def sync_folder(path):
    """Bring a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path, value):
    """Write a file of mode 0600, whole or not at all."""
    scratch = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(scratch)
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def require_space(path, size, reserve_mb, what):
    """Raises BackupError unless `size` bytes fit on the disk of `path` and `reserve_mb` MB stay free."""
    free = shutil.disk_usage(path).free
    if free < size + reserve_mb * 1048576:
        raise BackupError(
            f"{path} has {human(free)} free; {what} may take {human(size)}, and {reserve_mb} MB are to stay "
            "free. Make room, choose another path, or lower reserve_mb."
        )
