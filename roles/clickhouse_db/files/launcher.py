"""Run the ClickHouse engine of libchdb.so as a server.

    launcher.py LIBRARY --config-file=CONFIG         serve until SIGTERM
    launcher.py --check LIBRARY USERS_XML [CONFIG]   let the engine read the files; status 0 if it takes them

The library's C function chdb_query_cmdline(argc, argv) takes clickhouse-local's command line, and clickhouse-local
opens ClickHouse's own listeners on SYSTEM START LISTEN. The call does not return while its last query runs, so this
process is the server. What the engine has against its files or queries goes to standard error.
"""

import ctypes
import os
import resource
import shutil
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
    arguments = [os.fsencode(part) for part in ["clickhouse", *options, "--query", query]]
    result = engine.chdb_query_cmdline(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))
    return engine.chdb_result_length(result) if result else 0


def serve(library, options):
    """Be the server. It takes as many open files as it may have: every part of a table is several."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run(library, options, SERVE)
    return 1  # it came to an end that nobody asked for


def check(library, users, config=None):
    """Let the engine read the files in a directory of its own; 0 if it takes them.

    `config` is config.xml with its config.d beside it. Data and log that it names are left alone.
    """
    with tempfile.TemporaryDirectory() as scratch:
        parts = os.path.join(scratch, "config.d")
        target = os.path.join(scratch, "config.xml")
        if config is None:
            with open(target, "w", encoding="utf-8") as file:
                file.write("<clickhouse/>")
            os.mkdir(parts)
        else:
            shutil.copy(config, target)
            shutil.copytree(os.path.join(os.path.dirname(os.path.abspath(config)), "config.d"), parts)
        with open(os.path.join(parts, "zz-check.xml"), "w", encoding="utf-8") as file:
            file.write(
                f"<clickhouse><path>{scratch}/</path><users_config>{escape(os.path.abspath(users))}</users_config>"
                '<logger replace="replace"/></clickhouse>'
            )
        return 0 if run(library, [f"--config-file={target}"], "SELECT 1") else 1


if __name__ == "__main__":
    if len(sys.argv) in (4, 5) and sys.argv[1] == "--check":
        sys.exit(check(*sys.argv[2:]))
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.exit(serve(sys.argv[1], sys.argv[2:]))
