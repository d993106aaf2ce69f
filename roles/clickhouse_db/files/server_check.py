"""Let ClickHouse's own programs read the configuration before it is put in place: server_check.py BINARY.

Standard input is a JSON object: `files`, {path: text} of what is new; `roots`, the configuration files that they belong
to, each with the folders that are merged into it; `settings`, {name: value} that have to be settings of the server.
Prints a sentence for everything that is wrong. The exit status is 0 where nothing is.
"""

import difflib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from xml.etree import ElementTree

# Settings that system.server_settings does not list.
UNLISTED = (
    "access_control_path", "allow_implicit_no_password", "allow_no_password", "allow_plaintext_password",
    "bcrypt_workfactor", "buffer_profile", "builtin_dictionaries_reload_interval", "core_path",
    "custom_cached_disks_base_directory", "custom_settings_prefixes", "default_password_type", "default_profile",
    "default_session_timeout", "dictionaries_config", "display_name", "enable_system_unfreeze", "grpc_port",
    "hsts_max_age", "http_port", "http_server_default_response", "interserver_listen_host", "max_session_timeout",
    "mysql_port", "path_to_regions_hierarchy_file", "path_to_regions_names_files", "postgresql_port",
    "replica_group_name", "system_profile_name", "tcp_ssh_port", "tcp_with_proxy_port", "timezone", "umask",
    "user_defined_executable_functions_config", "user_defined_path", "user_defined_zookeeper_path", "workload_path",
    "workload_zookeeper_path",
)
UNKNOWN_TABLE = "Code: 60."


def run(*command):
    """(status, what it printed, what it said) of a program."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, done.stderr.strip()


def stage(scratch, root, files):
    """A copy of a configuration file and the folders beside it that are merged into it, with the new ones in them."""
    folder, name = os.path.split(root)
    target = os.path.join(scratch, "".join(part if part.isalnum() else "_" for part in folder))
    if not os.path.isdir(target):
        os.mkdir(target)
        for entry in os.scandir(folder) if os.path.isdir(folder) else ():
            if entry.is_dir() and entry.name.endswith(".d"):
                shutil.copytree(entry.path, os.path.join(target, entry.name))
            elif entry.is_file() and entry.name.endswith((".xml", ".yaml", ".yml")):
                shutil.copy(entry.path, target)
        for path, text in files.items():
            if path.startswith(folder + "/"):
                new = os.path.join(target, path[len(folder) + 1:])
                os.makedirs(os.path.dirname(new), exist_ok=True)
                with open(new, "w", encoding="utf-8") as file:
                    file.write(text)
    return os.path.join(target, name)


def unreadable(binary, root, staged):
    """What the server's reader of configurations has against one."""
    key = {"users.xml": "users"}.get(os.path.basename(root), "logger.level")
    status, _out, said = run(binary, "extract-from-config", "--config-file", staged, "--key", key)
    return [f"{root} cannot be read with the new files: {said or status}"] if status else []


def known(binary, settings=None):
    """(names of the server's settings, what the program says where it gives none), with `settings` for its own."""
    root = ElementTree.Element("clickhouse")
    for name, values in (settings or {}).items():
        for value in values if isinstance(values, list) else [values]:
            ElementTree.SubElement(root, name).text = str(value).lower() if isinstance(value, bool) else str(value)
    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        ElementTree.ElementTree(root).write(file.name)
        query = "SELECT name FROM system.server_settings FORMAT TSVRaw"
        status, out, said = run(binary, "local", "--config-file", file.name, "--query", query)
    return (set(), said or f"status {status}") if status or not out.strip() else ({*out.split("\n")}, "")


def unfit(binary, settings):
    """Which of `settings` the server does not know, or would not start with: it takes no other kind of value."""
    if not settings:
        return []
    names, said = known(binary)
    if said:
        # Releases before 23.3 have no such table.
        return [] if UNKNOWN_TABLE in said else [f"{binary} cannot say which settings there are: {said}"]
    found = []
    for name in settings:
        if name not in names.union(UNLISTED):
            close = difflib.get_close_matches(name, names.union(UNLISTED), 1)
            found.append(
                f"clickhouse_db_settings: this release of ClickHouse has no server setting {name!r}"
                + (f", did you mean {close[0]!r}?" if close else "")
                + " Settings of queries belong into a profile (clickhouse_db_settings_profiles); where the release"
                " knows it all the same, add it to clickhouse_db_settings_unchecked"
            )
        elif settings[name] is None:
            found.append(f"clickhouse_db_settings: {name} has no value")
    # Nothing that lies on the disk: the program would take it for its own.
    tried = {name: value for name, value in settings.items() if name in names and not name.endswith("path")}
    if not found and known(binary, tried)[1]:
        for name, value in tried.items():
            said = known(binary, {name: value})[1]
            if said:
                found.append(f"clickhouse_db_settings: ClickHouse does not start with this value of {name}: {said}")
    return found


def faults(binary, question):
    """Everything that is wrong, as sentences."""
    found = []
    for path, text in question["files"].items():
        try:
            ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            found.append(f"{path} would be no XML: {error}")
    if found:
        return found
    with tempfile.TemporaryDirectory() as scratch:
        for root in question["roots"]:
            found += unreadable(binary, root, stage(scratch, root, question["files"]))
    return found + unfit(binary, question["settings"])


if __name__ == "__main__":
    wrong = faults(sys.argv[1], json.load(sys.stdin))
    print("\n".join(wrong))
    sys.exit(1 if wrong else 0)
