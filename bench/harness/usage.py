# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What processes use of the cores, by thread."""

import os
import time

SPINNING_SHARE = 0.3  # of the wall time; a spinner that has to share its core still gets more


class Usage:
    """Of some processes from `start` to `stop`."""

    def __init__(self, *process_ids):
        self._process_ids = process_ids
        self.start()

    def start(self):
        self._before = _snapshot(self._process_ids)
        self._started = time.perf_counter_ns()

    def stop(self):
        wall = time.perf_counter_ns() - self._started
        after = _snapshot(self._process_ids)
        used = [cpu - self._before.get(thread, 0) for thread, cpu in after.items()]
        self.cpu_s = sum(used) / 1e9
        self.cpu_share = sum(used) / wall
        self.spinning_threads = sum(cpu > wall * SPINNING_SHARE for cpu in used)
        return self


def _snapshot(process_ids):
    """CPU time of every thread in ns, which schedstat gives without the clock tick's rounding."""
    threads = {}
    for process in process_ids:
        for thread in os.listdir(f"/proc/{process}/task"):
            try:
                with open(f"/proc/{process}/task/{thread}/schedstat") as file:
                    threads[thread] = int(file.read().split()[0])
            except FileNotFoundError:
                pass  # it has ended
    return threads
