# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What processes use of the cores, by thread."""

import os
import threading
import time

SPINNING_SHARE = 0.8  # of the wall time that a thread runs or wants to run


class Usage:
    """Of some processes from `start` to `stop`; `but_this_thread`: without what the calling thread uses, all of it for
    the measurement while it sleeps."""

    def __init__(self, *process_ids, but_this_thread=False):
        self._process_ids = process_ids
        self._left_out = str(threading.get_native_id()) if but_this_thread else None
        self.start()

    def start(self):
        self._before = _snapshot(self._process_ids)
        self._started = time.perf_counter_ns()

    def stop(self):
        wall = time.perf_counter_ns() - self._started
        used_ns = 0
        self.spinning_threads = 0
        for thread, (ran, waited) in _snapshot(self._process_ids).items():
            if thread == self._left_out:
                continue
            ran_before, waited_before = self._before.get(thread, (0, 0))
            used_ns += ran - ran_before
            # With the wait for a core: a spinner among other work does not run all the time.
            self.spinning_threads += ran - ran_before + waited - waited_before > wall * SPINNING_SHARE
        self.cpu_s = used_ns / 1e9
        self.cpu_share = used_ns / wall
        return self


def _snapshot(process_ids):
    """{thread: (ns run, ns waited for a core)}, which schedstat gives without the rounding of clock ticks."""
    threads = {}
    for process in process_ids:
        for thread in os.listdir(f"/proc/{process}/task"):
            try:
                with open(f"/proc/{process}/task/{thread}/schedstat") as file:
                    ran, waited, _ = map(int, file.read().split())
            except FileNotFoundError:
                continue  # it has ended
            threads[thread] = ran, waited
    return threads
