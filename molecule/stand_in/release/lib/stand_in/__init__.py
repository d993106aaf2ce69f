# Stand-in for YugabyteDB's servers and tools. Not YugabyteDB: see cluster.py, beside build.py, for what is pretended.
"""What the stand-in's programs share."""

import json
from pathlib import Path

RELEASE = Path(__file__).resolve().parents[2]
SETTINGS = RELEASE / "stand_in.json"  # build.py writes it: version, build, backbone


def settings():
    """{"version", "build", "backbone": [host, port]} of this release."""
    return json.loads(SETTINGS.read_text())


class Fatal(Exception):
    """The server cannot go on; the text goes to its log."""
