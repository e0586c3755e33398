#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Runs an example that is two processes: `two_processes.py PROGRAM [ARGUMENT...]`.

Starts PROGRAM ... --mode target --port N and PROGRAM ... --mode initiator --port N with a free port N. Exits with 0 if
both did; when one fails, or both take longer than LIMIT_S, what still runs is ended.
"""

import random
import socket
import subprocess
import sys
import time

LIMIT_S = 120.0
# Below the ports that the system gives to sockets without one, so that none of those takes it before the program does.
PORTS = range(20000, 32000)


def free_port():
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port


def run(target, initiator, limit_s=LIMIT_S):
    """Runs two commands. The exit status: of the process that failed first, 0 if none did, 124 if it took too long."""
    port = free_port()
    running = {mode: subprocess.Popen([*command, "--mode", mode, "--port", str(port)])
               for mode, command in (("target", target), ("initiator", initiator))}
    end = time.monotonic() + limit_s
    try:
        while running:
            for mode, process in list(running.items()):
                try:
                    status = process.wait(timeout=0.05)
                except subprocess.TimeoutExpired:
                    continue
                del running[mode]
                if status != 0:
                    return status if status > 0 else 128 - status
            if time.monotonic() > end:
                print(f"two_processes: {' and '.join(running)} did not end within {limit_s:g} s", file=sys.stderr)
                return 124
        return 0
    finally:
        for process in running.values():
            process.kill()
            process.wait()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(run(sys.argv[1:], sys.argv[1:]))
