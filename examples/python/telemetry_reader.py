#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Prints the events that an agent writes into its ring file, as they come, until Ctrl-C.

    NIXL_TELEMETRY_ENABLE=y NIXL_TELEMETRY_DIR=/run/user/1000/nixl python my_program.py &
    telemetry_reader.py --telemetry_path /run/user/1000/nixl/my_agent

What is printed is taken out of the ring: one reader per ring. Needs nothing but Python.
"""

import argparse
import os
import struct
import sys
import time

# The header and the events of the file, layout version 4: docs/telemetry.md.
HEADER = struct.Struct("<QQiiQQ")  # write position, read position, version, expected version, capacity, mask
EVENT = struct.Struct("<I4xQ")  # type, value
READ_POSITION = struct.Struct("<Q")
READ_POSITION_OFFSET = 8
VERSION = 4

# By type.
NAMES = (
    "agent_tx_bytes",
    "agent_rx_bytes",
    "agent_tx_requests_num",
    "agent_rx_requests_num",
    "agent_memory_registered",
    "agent_memory_deregistered",
    "agent_xfer_time",
    "agent_xfer_post_time",
    "agent_err_not_posted",
    "agent_err_invalid_param",
    "agent_err_backend",
    "agent_err_not_found",
    "agent_err_mismatch",
    "agent_err_not_allowed",
    "agent_err_repost_active",
    "agent_err_unknown",
    "agent_err_not_supported",
    "agent_err_remote_disconnect",
    "agent_err_canceled",
    "agent_err_no_telemetry",
    "agent_telemetry_events_dropped",
    "agent_err_timeout",
    "agent_err_stale",
    "agent_err_integrity",
    "agent_err_no_memory",
    "agent_err_forked",
)
UNITS = {"agent_tx_bytes": "bytes", "agent_rx_bytes": "bytes", "agent_memory_registered": "bytes",
         "agent_memory_deregistered": "bytes", "agent_xfer_time": "us", "agent_xfer_post_time": "us"}


class NoRing(Exception):
    """The file is no telemetry ring; the text says why."""


def describe(kind, value):
    name = NAMES[kind] if kind < len(NAMES) else f"event type {kind}"
    return f"{name} {value} {UNITS.get(name, '')}".rstrip()


def take(file):
    """The events in the ring, as (type, value); gives their slots back to the agent."""
    # Not through a mapping: a file that is cut meanwhile would end the program.
    size, head = os.fstat(file).st_size, os.pread(file, HEADER.size, 0)
    if len(head) < HEADER.size:
        raise NoRing(f"it has {size} bytes, less than a header")
    write, read, version, _, capacity, mask = HEADER.unpack(head)
    if version != VERSION:
        raise NoRing(f"its version is {version}, not {VERSION}")
    if capacity < 2 or capacity & (capacity - 1) or mask != capacity - 1:
        raise NoRing(f"its capacity is {capacity} with mask {mask}")
    if size != HEADER.size + capacity * EVENT.size or max(write, read) > mask:
        raise NoRing(f"capacity {capacity}, positions {write} and {read}, and {size} bytes do not go together")
    events = []
    # In one piece, or in two when it goes past the end.
    for first, last in ((read, write),) if read <= write else ((read, capacity), (0, write)):
        data = os.pread(file, (last - first) * EVENT.size, HEADER.size + first * EVENT.size)
        if len(data) != (last - first) * EVENT.size:
            raise NoRing("it was cut")
        events += EVENT.iter_unpack(data)
    if events:
        os.pwrite(file, READ_POSITION.pack(write), READ_POSITION_OFFSET)
    return events


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--telemetry_path", required=True, help="the ring: NIXL_TELEMETRY_DIR/<agent>")
    parser.add_argument("--once", action="store_true", help="end when the ring is empty")
    arguments = parser.parse_args()
    try:
        file = os.open(arguments.telemetry_path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        while True:
            for event in take(file):
                print(describe(*event))
            sys.stdout.flush()
            if arguments.once:
                return 0
            time.sleep(0.1)
    except KeyboardInterrupt:
        return 0
    except (OSError, NoRing) as error:
        print(f"telemetry_reader: {arguments.telemetry_path}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
