"""Run the ClickHouse engine of libchdb.so as a server: launcher.py LIBRARY [clickhouse-local options].

The library's C function chdb_query_cmdline(argc, argv) takes clickhouse-local's command line, and
clickhouse-local opens ClickHouse's own listeners on SYSTEM START LISTEN. It never returns while the
last query runs, so this process is the server: it ends on SIGTERM, and its exit status is the engine's.
"""

import ctypes
import sys

# The last query keeps the engine alive and costs nothing: one row every three seconds, thrown away.
SERVE = (
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; "
    "SELECT sleepEachRow(3) FROM system.numbers FORMAT Null "
    "SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0"
)


def main(argv):
    """Start the engine; argv is [program, library, options …]. Returns the engine's exit status.

    Raises OSError where the library cannot be loaded.
    """
    engine = ctypes.CDLL(argv[1]).chdb_query_cmdline
    arguments = [part.encode() for part in ["clickhouse", *argv[2:], "--query", SERVE]]
    return engine(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: launcher.py LIBRARY [clickhouse-local options]")
    sys.exit(main(sys.argv))
