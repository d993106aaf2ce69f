"""Run the ClickHouse engine of libchdb.so as a server.

    launcher.py LIBRARY --config-file=FILE [--revision=WORD]   serve until SIGTERM
    launcher.py --check-users LIBRARY FILE                     let the engine read a users.xml and end
    launcher.py --check-config LIBRARY FILE                    let it read a file of config.d

WORD is not used: it tells whoever lists processes which configuration this one has. A check ends with status 0 if the
engine takes the file.

The library's C function chdb_query_cmdline(argc, argv) takes clickhouse-local's command line, and clickhouse-local
opens ClickHouse's own listeners on SYSTEM START LISTEN. The call does not return while its last query runs, so this
process is the server. What the engine has against its files or queries goes to standard error.
"""

import ctypes
import os
import resource
import sys
import tempfile
from xml.sax.saxutils import escape

# The last query keeps the engine alive and costs nothing: one row every three seconds, thrown away.
SERVE = (
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; "
    "SELECT sleepEachRow(3) FROM system.numbers FORMAT Null "
    "SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0"
)


def run(library, options, query):
    """Run the engine with clickhouse-local's options; the length of what the query returned, 0 where it failed.

    Raises OSError where the library cannot be loaded.
    """
    engine = ctypes.CDLL(library)
    engine.chdb_query_cmdline.restype = ctypes.c_void_p
    engine.chdb_result_length.restype = ctypes.c_size_t
    engine.chdb_result_length.argtypes = [ctypes.c_void_p]
    engine.chdb_result_error.restype = ctypes.c_char_p
    engine.chdb_result_error.argtypes = [ctypes.c_void_p]
    arguments = [os.fsencode(part) for part in ["clickhouse", *options, "--query", query]]
    result = engine.chdb_query_cmdline(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))
    error = engine.chdb_result_error(result) if result else None
    if error:  # what it has against config.xml; all else it prints by itself
        print(os.fsdecode(error).partition(", Stack trace")[0], file=sys.stderr)
    return engine.chdb_result_length(result) if result else 0


def serve(library, options):
    """Be the server. It takes as many open files as it may have: every part of a table is several."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run(library, options, SERVE)
    return 1  # it came to an end that nobody asked for


NOBODY = "<clickhouse><profiles><default/></profiles><users><default><no_password/></default></users></clickhouse>"


def check(library, users=None, config=None):
    """Let the engine read the files in a directory of its own; 0 if it takes them.

    Data directory and log that a configuration names are left alone.
    """
    with tempfile.TemporaryDirectory() as scratch:
        def write(name, text):
            path = os.path.join(scratch, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return path

        users = os.path.abspath(users) if users else write("users.xml", NOBODY)
        if config:
            with open(config, encoding="utf-8") as file:
                write("config.d/a.xml", file.read())
        write("config.d/b.xml", (
            f"<clickhouse><path>{scratch}/</path><users_config>{escape(users)}</users_config>"
            '<logger replace="replace"/></clickhouse>'
        ))
        main = write("config.xml", "<clickhouse/>")
        return 0 if run(library, [f"--config-file={main}"], "SELECT 1") else 1


def main(arguments):
    """Do what the arguments say; the exit status."""
    if len(arguments) == 3 and arguments[0] == "--check-users":
        return check(arguments[1], users=arguments[2])
    if len(arguments) == 3 and arguments[0] == "--check-config":
        return check(arguments[1], config=arguments[2])
    if len(arguments) < 2 or arguments[0].startswith("-"):
        return __doc__
    return serve(arguments[0], [option for option in arguments[1:] if not option.startswith("--revision=")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
