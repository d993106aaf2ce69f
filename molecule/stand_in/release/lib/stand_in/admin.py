# Stand-in for yb-admin and yb-ts-cli. Not YugabyteDB's tools: a few commands, asked of the stand-in's masters.
"""The commands that the collection uses, with the output of the real ones."""

import asyncio
import sys

from . import Fatal, rpc
from .flags import parse

ADMIN = {"master_addresses": "string", "init_master_addrs": "string", "timeout_ms": "int64", "certs_dir_name": "string"}
CLI = {"server_address": "string", "timeout_ms": "int64", "certs_dir_name": "string", "force": "bool"}
COMMANDS = (
    "list_all_masters",
    "list_all_tablet_servers",
    "get_universe_config",
    "modify_placement_info",
    "change_blacklist",
    "change_leader_blacklist",
    "get_load_move_completion",
    "get_leader_blacklist_completion",
    "get_is_load_balancer_idle",
    "get_load_balancer_state",
    "set_load_balancer_enabled",
    "master_leader_stepdown",
    "change_master_config",
    "are_nodes_safe_to_take_down",
    "promote_auto_flags",
    "get_auto_flags_config",
    "upgrade_ysql",
    "finalize_upgrade",
    "remove_tablet_server",
)


def trust(flags):
    """The TLS context for a server, or None."""
    try:
        return rpc.client_tls(flags["certs_dir_name"]) if flags.get("certs_dir_name") else None
    except OSError as error:
        raise Fatal(
            f"IO error: Unable to load certificate: {flags['certs_dir_name']}/ca.crt: {error.strerror}"
        ) from None


async def yb_admin(arguments):
    flags, words = parse(arguments, ADMIN)
    if not words or words[0] not in COMMANDS:
        raise Fatal(f"Invalid operation: {words[0] if words else ''}")
    masters = flags.get("init_master_addrs") or flags.get("master_addresses", "localhost:7100")
    context, errors = trust(flags), []
    for master in masters.split(","):
        host, _, port = master.partition(":")
        try:
            answer = await rpc.ask(
                (host, int(port or 7100)), {"ask": "admin", "command": words[0], "arguments": words[1:]}, context
            )
        except rpc.Failed as error:
            if not str(error).startswith(("Network error", "Service unavailable", "Timed out")):
                raise Fatal(f"Error running {words[0]}: {error}") from None
            errors.append(str(error))
            continue
        if answer["said"]:
            print(answer["said"])
        return
    raise Fatal(
        f"Unable to establish connection to leader master at [{masters}]. Please verify the addresses and check if "
        f"server is up, or if you're missing --certs_dir_name.\n\n{errors[-1]}"
    )


async def yb_ts_cli(arguments):
    flags, words = parse(arguments, CLI)
    if len(words) != 3 or words[0] != "set_flag":
        raise Fatal("Invalid operation: only set_flag NAME VALUE is pretended")
    host, _, port = flags["server_address"].partition(":")
    try:
        question = {"ask": "set_flag", "name": words[1], "value": words[2], "force": "force" in flags}
        await rpc.ask((host, int(port)), question, trust(flags))
    except rpc.Failed as error:
        raise Fatal(f"Unable to set flag: {error}") from None


def main(tool, arguments):
    """Run it; the exit status."""
    try:
        asyncio.run(tool(arguments))
    except Fatal as error:
        print(error, file=sys.stderr)
        return 1
    return 0
