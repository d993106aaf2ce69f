# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A dotenv file read as text. It belongs to the application, so no shell of root's may run it."""

from __future__ import annotations

import os
import re

_QUOTED = r""" '[^']*' | "(?:[^"\\$`]|\\.)*" """
# What means the same to a shell as to everybody else, so that nothing here has to know expansions.
_LINE = re.compile(
    rf"""[ \t]* (?:export[ \t]+)? (?P<name>[A-Za-z_][A-Za-z0-9_]*) = (?P<value>(?:{_QUOTED}|[^ \t'"\\$`~;&|<>()])*)
    [ \t]* (?:(?<=[ \t])\#.*)?""", re.X,
)
_PART = re.compile(rf"{_QUOTED} | [^'\"]+", re.X)


def read_dotenv(path):
    """The variables that the file sets, as a dictionary.

    A line is empty, a comment, or NAME=value, where the value is plain or quoted as for a shell, without expansions.
    Raises ValueError, which quotes nothing of the file, where it is not like that.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = file.read().split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {os.strerror(error.errno)}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        if "\r" in line:
            raise ValueError(
                f"{path}, line {number}: ends with a carriage return, which a shell takes for a part of the value: "
                "save it with the line ends of Unix"
            )
        if line.strip(" \t")[:1] in ("", "#"):
            continue
        assignment = _LINE.fullmatch(line)
        if assignment is None:
            raise ValueError(
                f"{path}, line {number}: is not NAME=value. The value has to be literal, with quotes around what a "
                "shell would take for more: the file is read, not run"
            )
        found[assignment["name"]] = "".join(map(_plain, _PART.findall(assignment["value"])))
    return found


def _plain(part):
    """One part of a value without its quotes."""
    if part.startswith("'"):
        return part[1:-1]
    if part.startswith('"'):
        return re.sub(r'\\(["\\$`])', r"\1", part[1:-1])
    return part
