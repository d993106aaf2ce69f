# Stand-in for gflags. Not the real parser: it knows the flags of tests/unit/data/yugabyte_flags.json and no others.
"""Command lines and flag files of yb-master, yb-tserver and yb-admin."""

import json
import re
from pathlib import Path

from . import RELEASE, Fatal

INTEGER = re.compile(r"-?\d+")
TRUE, FALSE = ("true", "1", "t", "yes", "y"), ("false", "0", "f", "no", "n")
NODE_INFO = (
    "rpc_bind_addresses", "webserver_interface", "webserver_port", "placement_cloud", "placement_region",
    "placement_zone",
)
SENSITIVE = ("ysql_hba_conf_csv",)
# The server chooses where it is asked to with -1, and takes its choice for the default.
CHOSEN = {"yb_num_shards_per_tserver": "2", "ysql_num_shards_per_tserver": "2"}


def documented(program):
    """{name: {"type", "restart"}} of the documented flags of yb-master or yb-tserver."""
    return json.loads((RELEASE / "flags.json").read_text())[program]


def known(program):
    """{name: type} of them."""
    return {name: flag["type"] for name, flag in documented(program).items()}


def listed(flags, types):
    """What /api/v1/varz lists: every flag that the program knows, set or not. The defaults are not known here."""
    page = []
    for name in sorted(set(types) | set(flags)):
        value, kind = flags.get(name, ""), types.get(name, "string")
        of = "Custom" if name in flags else "Default"
        if name in CHOSEN and value in ("", "-1"):
            value, of = CHOSEN[name], "Default"
        if name in NODE_INFO:
            of = "NodeInfo"
        if kind == "bool" and value:
            value = "true" if value.lower() in TRUE else "false"
        elif kind == "double" and value:
            value = f"{float(value):.17g}"
        elif kind.startswith(("int", "uint")) and value:
            value = str(int(value))
        page.append({"name": name, "value": "***" if name in SENSITIVE else value, "type": of})
    return page


def checked(name, value, kind):
    """The value, which has to be of that type. Raises Fatal with what gflags prints."""
    if (kind.startswith(("int", "uint")) and not INTEGER.fullmatch(value)) or (
        kind == "bool" and value.lower() not in TRUE + FALSE
    ):
        raise Fatal(f"ERROR: illegal value '{value}' specified for {kind} flag '{name}'")
    return value


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
        checked(name, value, types[name])
    return flags, rest


def true(flags, name, default=False):
    """Whether the bool flag is on."""
    return flags.get(name, str(default)).lower() in TRUE


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
