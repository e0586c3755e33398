# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What a result must say about the machine it was measured on."""

import os
import platform
import resource
import time


def describe():
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "available_bytes": available_bytes(),
        "load_before": load(),
    }


def load():
    return round(os.getloadavg()[0], 2)


class Others:
    """What other processes use of the cores while a round lasts; the round's own must have been waited for."""

    def __init__(self):
        self._started = time.monotonic()
        self._used_s = _others_s()

    def cores(self):
        return round((_others_s() - self._used_s) / (time.monotonic() - self._started), 2)


def _others_s():
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, soft_irq, steal = map(int, file.readline().split()[1:9])
    total_s = (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return total_s - sum(usage.ru_utime + usage.ru_stime for usage in usages)


def available_bytes():
    return int(_field("/proc/meminfo", "MemAvailable").split()[0]) * 1024


def scale(needed_bytes):
    """The power of two by which to divide `needed_bytes` so that half of the available memory is enough."""
    divisor = 1
    while needed_bytes / divisor > available_bytes() / 2:
        divisor *= 2
    return divisor


def _field(path, name):
    with open(path) as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None
