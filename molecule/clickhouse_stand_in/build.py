#!/usr/bin/env python3
# Builds the stand-in for ClickHouse's archives. Not ClickHouse: same layout and names, nothing of it inside.
"""build.py VERSION DIRECTORY writes clickhouse-common-static-VERSION-amd64.tgz and clickhouse-server-VERSION-amd64.tgz.

Beside them, VERSION.json has {package: SHA-256}. The same arguments give the same bytes.
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

RELEASE = Path(__file__).resolve().parent / "release"
PACKAGES = {"clickhouse-common-static": "usr", "clickhouse-server": "etc"}


def build(version, directory):
    """Write the archives."""
    sums = {}
    for package, part in PACKAGES.items():
        files = {
            str(path.relative_to(RELEASE)): (path.read_bytes(), path.stat().st_mode & 0o111)
            for path in sorted((RELEASE / part).rglob("*")) if path.is_file() and "__pycache__" not in path.parts
        }
        files["install/doinst.sh"] = (b"#!/bin/sh\n# Stand-in: nothing to do.\n", 0o111)
        files["version"] = (version.encode(), 0)
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            for name, (content, executable) in sorted(files.items()):
                entry = tarfile.TarInfo(f"{package}-{version}/{name}")
                entry.size, entry.mode = len(content), 0o755 if executable else 0o644
                tar.addfile(entry, io.BytesIO(content))
        archive = Path(directory) / f"{package}-{version}-amd64.tgz"
        archive.parent.mkdir(parents=True, exist_ok=True)
        content = gzip.compress(raw.getvalue(), mtime=0)
        archive.write_bytes(content)
        sums[package] = hashlib.sha256(content).hexdigest()
    (Path(directory) / f"{version}.json").write_text(json.dumps(sums))


if __name__ == "__main__":
    build(*sys.argv[1:])
