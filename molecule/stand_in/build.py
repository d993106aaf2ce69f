#!/usr/bin/env python3
# Builds the stand-in for YugabyteDB's archive. Not YugabyteDB: same layout and names, nothing of it inside.
"""build.py VERSION BUILD HOST:PORT DIRECTORY writes yugabyte-VERSION-BUILD-linux-x86_64.tar.gz, whose servers find the
backbone at HOST:PORT, and beside it the .sha file with the SHA-1 that the vendor publishes. Prints the archive's path.

The same arguments give the same bytes.
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = HERE.parents[1] / "tests/unit/data/yugabyte_flags.json"


def build(version, build_, backbone, directory):
    """Write the archive; its path."""
    host, _, port = backbone.rpartition(":")
    settings = {"version": version, "build": build_, "backbone": [host, int(port)]}
    files = {
        str(path.relative_to(HERE / "release")): (path.read_bytes(), path.stat().st_mode & 0o111)
        for path in sorted((HERE / "release").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files["flags.json"] = (FLAGS.read_bytes(), 0)
    files["stand_in.json"] = (json.dumps(settings).encode(), 0)
    files["version_metadata.json"] = (
        json.dumps({"version_number": version, "build_number": build_.lstrip("b")}).encode(),
        0,
    )
    archive = Path(directory) / f"yugabyte-{version}-{build_}-linux-x86_64.tar.gz"
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, (content, executable) in files.items():
            entry = tarfile.TarInfo(f"yugabyte-{version}/{name}")
            entry.size, entry.mode = len(content), 0o755 if executable else 0o644
            tar.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo(f"yugabyte-{version}/bin/ysqlsh")
        link.type, link.linkname = tarfile.SYMTYPE, "../postgres/bin/ysqlsh"
        tar.addfile(link)
    archive.parent.mkdir(parents=True, exist_ok=True)
    content = gzip.compress(raw.getvalue(), mtime=0)
    archive.write_bytes(content)
    archive.with_name(archive.name + ".sha").write_text(f"{hashlib.sha1(content).hexdigest()}  {archive.name}\n")
    return archive


if __name__ == "__main__":
    print(build(*sys.argv[1:]))
