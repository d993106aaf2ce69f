#!/usr/bin/env python3
"""availability.py SHARD=HOST:PORT … asks every host again and again until it is told SIGTERM.

Then it prints as JSON how often it asked, and how often all hosts of a shard were silent at once.
"""

import json
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor


def answers(address):
    """Whether somebody takes a connection there."""
    host, _colon, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 1):
            return True
    except OSError:
        return False


def main(arguments):
    """Look until SIGTERM."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    shards = {}
    for argument in arguments:
        shard, _equals, address = argument.partition("=")
        shards.setdefault(shard, []).append(address)
    result = {"looks": 0, "outages": {}, "absences": {}}
    with ThreadPoolExecutor() as pool:
        while not stopped:
            result["looks"] += 1
            for shard, addresses in shards.items():
                there = list(pool.map(answers, addresses))
                if not any(there):
                    result["outages"][shard] = result["outages"].get(shard, 0) + 1
                for address, one in zip(addresses, there):
                    if not one:
                        result["absences"][address] = result["absences"].get(address, 0) + 1
            time.sleep(0.1)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
