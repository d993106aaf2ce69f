# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison of a live schema with the recorded one, for people."""

from __future__ import annotations

import difflib
import fnmatch

LINES = 500  # of text for people


def changes(recorded, live, ignore=(), laid_out=list):
    """What sets `live` apart from `recorded`, both dictionaries of object to definition, as a list in order of names.

    Each is {"object", "change": added | changed | dropped, "diff": lines with - for recorded and + for live}.
    ignore: patterns with * for objects that are left out. laid_out: makes of definitions those that are compared line
    by line; it is called once, and not at all where nothing differs.
    """
    names = [
        name for name in sorted(set(recorded) | set(live)) if recorded.get(name) != live.get(name)
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore)
    ]
    texts = laid_out([side.get(name, "") for name in names for side in (recorded, live)]) if names else []
    found = []
    for name, before, after in zip(names, texts[::2], texts[1::2]):
        if before == after and name in recorded and name in live:
            continue
        change = "added" if name not in recorded else "dropped" if name not in live else "changed"
        found.append({"object": name, "change": change, "diff": _lines(before, after)})
    return found


def _lines(before, after):
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def carry(recorded, before, after):
    """`recorded` with what a run has changed from `before` to `after`: what was changed by hand stays a difference."""
    result = dict(recorded)
    for name in set(before) | set(after):
        if before.get(name) != after.get(name):
            if name in after:
                result[name] = after[name]
            else:
                result.pop(name, None)
    return result


def readable(found):
    """Changes as lines of text, as many as somebody reads; the result has all of them."""
    lines = []
    for number, change in enumerate(found):
        if len(lines) >= LINES:
            return [*lines, f"… and {len(found) - number} more, of {len(found)}"]
        lines.append(f"{change['change']:<8} {change['object']}")
        lines += [f"         {line}" for line in change["diff"]]
    return lines
