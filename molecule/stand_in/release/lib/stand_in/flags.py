# Stand-in for gflags. Not the real parser: it knows the flags of tests/unit/data/yugabyte_flags.json and no others.
"""Command lines and flag files of yb-master, yb-tserver and yb-admin."""

import json
import re
from pathlib import Path

from . import RELEASE, Fatal

INTEGER = re.compile(r"-?\d+")


def known(program):
    """{name: type} of the documented flags of yb-master or yb-tserver."""
    return {name: flag["type"] for name, flag in json.loads((RELEASE / "flags.json").read_text())[program].items()}


def parse(arguments, types):
    """(flags, positional arguments). Raises Fatal with what gflags prints."""
    flags, rest = {}, []
    arguments = list(arguments)
    while arguments:
        word = arguments.pop(0)
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if not equals:
            if types.get(name) == "bool":
                value = "true"
            elif name.startswith("no") and types.get(name[2:]) == "bool":
                name, value = name[2:], "false"
            elif name in types:
                if not arguments:
                    raise Fatal(f"ERROR: flag '{name}' is missing its argument")
                value = arguments.pop(0)
        flags[name] = value
        if name == "flagfile":
            try:
                lines = Path(value).read_text().splitlines()
            except OSError as error:
                raise Fatal(f"ERROR: unable to open flagfile '{value}': {error.strerror}") from None
            arguments = [
                line.strip() for line in lines if line.strip() and not line.strip().startswith("#")
            ] + arguments
    tolerated = flags.get("undefok", "").split(",")
    for name, value in flags.items():
        if name not in types:
            if name in tolerated:
                continue
            raise Fatal(f"ERROR: unknown command line flag '{name}'")
        if types[name].startswith(("int", "uint")) and not INTEGER.fullmatch(value):
            raise Fatal(f"ERROR: illegal value '{value}' specified for {types[name]} flag '{name}'")
        if types[name] == "bool" and value not in ("true", "false", "1", "0", "t", "f", "yes", "no", "y", "n"):
            raise Fatal(f"ERROR: illegal value '{value}' specified for bool flag '{name}'")
    return flags, rest


def true(flags, name, default=False):
    """Whether the bool flag is on."""
    return flags.get(name, str(default).lower()) in ("true", "1", "t", "yes", "y")


def csv(text):
    """The fields of ysql_hba_conf_csv and ysql_pg_conf_csv. Raises Fatal where the quoting is wrong."""
    fields, at = [], 0
    pattern = re.compile(r'(?:([^,"]+)|"((?:[^"]|"")*)")(?:,|$)')
    while at < len(text):
        match = pattern.match(text, at)
        if not match:
            raise Fatal(f"Invalid argument: Malformed CSV '{text}'")
        fields.append(match.group(1) if match.group(1) is not None else match.group(2).replace('""', '"'))
        at = match.end()
    return fields
