# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The scripts of a set: what a folder holds, in the order in which it is applied."""

from __future__ import annotations

import base64
import errno
import functools
import hashlib
import io
import json
import os
import re
import zlib

from .sql_script import ScriptError

SEED_FOLDER = "seed"
KINDS = ("baseline", "versioned", "repeatable", "seed")  # the order of application
_NAMES = (
    ("baseline", re.compile(r"init.*\.sql$")),
    ("versioned", re.compile(r"V(\d+(?:[._]\d+)*)__.+\.sql$")),
    ("versioned", re.compile(r"(\d+)_.+\.sql$")),
    ("repeatable", re.compile(r"R__.+\.sql$")),
)
_VERSION = re.compile(r"\d+(?:[._]\d+)*$")
_WAY_BACK = (".down.sql", ".undo.sql", ".rollback.sql")
_NO_TRANSACTION = re.compile(rb"--[ \t]*no-transaction[ \t]*\r?(?:\n|$)")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what Python makes of the other bytes in a file's name

# What travels with the task itself; longer scripts are copied only when they are needed.
INLINE_SCRIPT, INLINE_SET = 256 << 10, 2 << 20


class Script:
    """One file. `opener()` gives it as a binary file, or is None where its text is not here.

    name: below the set's folder. kind: one of KINDS. version: as in the name, None where it has none.
    order: what it is compared by, numbers, so that 10 comes after 9 and 1 equals 1.0.
    checksum: SHA-256 of the bytes in hex. size: in bytes.
    """

    def __init__(self, name, checksum, size, opener, kind=None):
        self.name, self.checksum, self.size, self.open = name, checksum, size, opener
        self.kind, self.version = classify(name)
        self.kind = kind or self.kind
        self.order = version_order(self.version) if self.version else ()

    def transactional(self):
        """Whether the first line leaves the script in one transaction. Reads it."""
        with self.open() as stream:
            return not _NO_TRANSACTION.match(stream.read(200).lstrip(b"\xef\xbb\xbf"))


def version_order(version):
    """`version` as a tuple of integers. Raises ScriptError where it is not made of numbers."""
    if not _VERSION.match(version):
        raise ScriptError(f"{version!r} is not a version: numbers, with dots between them")
    numbers = [int(part) for part in version.replace("_", ".").split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


@functools.lru_cache(maxsize=4096)  # of a folder each is asked for twice
def classify(name):
    """(kind, version) that a script's name tells; kind None where it tells nothing."""
    folder, _slash, base = name.rpartition("/")
    if folder == SEED_FOLDER:
        return "seed", None
    for kind, pattern in _NAMES:
        found = pattern.match(base)
        if found:
            return kind, found.group(1).replace("_", ".") if pattern.groups else None
    return None, None


def _without_waiting(path, flags):
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would be waited for without end


def _load(name, path):
    digest, size = hashlib.sha256(), 0
    try:
        # Most are small, and one of Python's buffers is as slow as they.
        with open(path, "rb", buffering=0, opener=_without_waiting) as stream:
            stream.tell()  # no pipe has a place to tell
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
                size += len(block)
    except OSError as error:
        reason = "it is no file" if error.errno == errno.ESPIPE else error.strerror
        raise ScriptError(f"{path}: cannot be read: {reason}") from None
    return Script(name, digest.hexdigest(), size, lambda: open(path, "rb"))


def from_files(paths):
    """The scripts of a list of files, in its order. Raises ScriptError."""
    scripts = [_load(os.path.basename(path), path) for path in paths]
    for script in scripts:
        script.kind = script.kind or "baseline"
    names = [script.name for script in scripts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ScriptError(f"two files of the set have the same name: {', '.join(twice)}")
    return _checked(scripts, "the list of files")


def from_folder(folder):
    """The scripts of a folder in the order of application, seeds included. Raises ScriptError."""
    names = []
    for path in (folder, os.path.join(folder, SEED_FOLDER)):
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except FileNotFoundError:
            if path == folder:
                raise ScriptError(f"{folder}: there is no such folder") from None
            continue
        except OSError as error:
            raise ScriptError(f"{path}: {error.strerror}") from None
        for entry in entries:
            name = entry.name if path == folder else f"{SEED_FOLDER}/{entry.name}"
            if entry.name.lower().endswith(".sql"):
                names.append(name)
            elif entry.is_dir() and name != SEED_FOLDER and _holds_scripts(entry.path):
                raise ScriptError(
                    f"{entry.path}: scripts lie in {folder} itself or in its folder {SEED_FOLDER}; "
                    "move these, or make them a set of their own"
                )
    unknown = [name for name in names if not classify(name)[0]]
    if unknown:
        raise ScriptError(
            f"{folder}: not the name of a script: {', '.join(unknown)}. A script is called init*.sql, NNNN_name.sql, "
            "V<version>__name.sql or R__name.sql; rename it, or end its name with something else than .sql"
        )
    within = os.path.join(folder, "")
    scripts = [_load(name, within + name) for name in names]
    scripts.sort(key=lambda script: (KINDS.index(script.kind), script.order, script.name))
    return _checked(scripts, folder)


def _holds_scripts(folder):
    return any(name.lower().endswith(".sql") for _path, _folders, names in os.walk(folder) for name in names)


def _checked(scripts, where):
    if not scripts:
        raise ScriptError(f"{where}: no SQL script in it")
    versions = {}
    for script in scripts:
        if _NOT_UTF8.search(script.name):
            raise ScriptError(f"{where}: {os.fsencode(script.name)} is no name in UTF-8: rename it")
        if script.name.lower().endswith(_WAY_BACK):
            raise ScriptError(
                f"{where}: {script.name} has the name of one that takes another back, and would be executed as well: "
                "move it elsewhere"
            )
        if not script.size:
            raise ScriptError(f"{where}: {script.name} is empty")
        if script.version and script.order in versions:
            raise ScriptError(f"{where}: {versions[script.order]} and {script.name} have the same version")
        versions[script.order if script.version else script.name] = script.name
    return scripts


def pack(scripts):
    """`scripts` as one string for from_bundle(); long ones without their text."""
    items, room = [], INLINE_SET
    for script in scripts:
        text = None
        if script.size <= min(INLINE_SCRIPT, room):
            room -= script.size
            with script.open() as stream:
                text = stream.read().decode("latin-1")
        items.append([script.name, script.checksum, script.size, script.kind, text])
    return base64.b64encode(zlib.compress(json.dumps(items).encode(), 3)).decode()


def from_bundle(bundle, folder=None):
    """The scripts that pack() packed; texts that it left out are files of `folder`, named by their checksum."""
    scripts = []
    for name, checksum, size, kind, text in json.loads(zlib.decompress(base64.b64decode(bundle))):
        opener = None
        if text is not None:
            opener = _opener(text.encode("latin-1"))
        elif folder and os.path.exists(os.path.join(folder, checksum)):
            opener = _file_opener(os.path.join(folder, checksum))
        scripts.append(Script(name, checksum, size, opener, kind))
    return scripts


def _opener(content):
    return lambda: io.BytesIO(content)


def _file_opener(path):
    return lambda: open(path, "rb")
