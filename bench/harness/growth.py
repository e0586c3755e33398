# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""`growth.py ranges|peers SIZE`: what calls cost when there are so many ranges or peers; prints one JSON line.

Runs in both implementations, each time in fresh processes: this one measures, its child is the target. Neither has a
progress thread, so that nothing but the calls is measured; the child polls while it is needed.
"""

import ctypes
import json
import mmap
import multiprocessing
import os
import statistics
import sys
import time

import numpy as np
from nixl_cu12 import _api as nixl

RANGE_BYTES = 4096
STEP_BYTES = 2 * RANGE_BYTES  # ranges with gaps
REQUESTS_MADE = 10
PEERS_ADDED = 10
POLLS = 20000
LIMIT_S = 60
TARGET = "target-0000"  # its metadata is loaded under many names of this length


class Buffer:
    def __init__(self, size):
        self.map = mmap.mmap(-1, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))


def new_agent(name):
    return nixl.nixl_agent(name, nixl.nixl_agent_config(enable_prog_thread=False))


def scattered(buffer, count):
    rows = np.empty((count, 3), dtype=np.uint64)
    rows[:, 0] = buffer.address + np.arange(count, dtype=np.uint64) * STEP_BYTES
    rows[:, 1] = RANGE_BYTES
    rows[:, 2] = 0
    return rows


def registrations(agent, rows):
    return agent.get_reg_descs([(int(address), int(size), 0, "") for address, size, _ in rows], "DRAM")


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE / 2**20


def serve(count, pipe):
    agent = new_agent(TARGET)
    buffer = Buffer(count * STEP_BYTES)
    agent.register_memory(registrations(agent, scattered(buffer, count)))
    pipe.send((agent.get_agent_metadata(), buffer.address))
    while not pipe.poll(0):
        agent.get_new_notifs()
    os._exit(0)


class Timer:
    """Milliseconds of each named step."""

    def __init__(self):
        self.ms = {}

    def __call__(self, name, function):
        started = time.perf_counter_ns()
        result = function()
        self.ms[name] = (time.perf_counter_ns() - started) / 1e6
        return result


def finish(agent, handle):
    end = time.monotonic() + LIMIT_S
    state = agent.transfer(handle)
    while state != "DONE":
        if state == "ERR" or time.monotonic() > end:
            sys.exit(f"a transfer ended with {state}")
        state = agent.check_xfer_state(handle)


def measure_ranges(count, metadata, target_address):
    timer = Timer()
    agent = new_agent("initiator")
    buffer = Buffer(count * STEP_BYTES)
    rows = scattered(buffer, count)
    descriptors = registrations(agent, rows)
    before = resident_mib()
    timer("register", lambda: agent.register_memory(descriptors))
    timer.ms["register_mib"] = resident_mib() - before
    blob = timer("blob", agent.get_agent_metadata)
    timer.ms["blob_mb"] = len(blob) / 1e6
    peer = timer("load", lambda: agent.add_remote_agent(metadata))
    remote = rows.copy()
    remote[:, 0] = rows[:, 0] - np.uint64(buffer.address) + np.uint64(target_address)
    remote = agent.get_xfer_descs(remote, "DRAM")
    far = timer("prepare", lambda: agent.prep_xfer_dlist(peer, remote))
    near = agent.prep_xfer_dlist("", agent.get_xfer_descs(rows, "DRAM"))
    half = np.random.default_rng(1).permutation(count)[: count // 2].astype(np.int32)
    handle = timer("make", lambda: agent.make_prepped_xfer("WRITE", near, half, far, half))
    again = []
    for _ in range(REQUESTS_MADE):
        other = timer("make_again", lambda: agent.make_prepped_xfer("WRITE", near, half, far, half))
        agent.release_xfer_handle(other)
        again.append(timer.ms["make_again"])
    timer.ms["make_again"] = statistics.median(again)
    timer("post", lambda: finish(agent, handle))
    agent.release_xfer_handle(handle)
    timer("deregister", lambda: agent.deregister_memory(descriptors))
    return timer.ms


def measure_peers(count, metadata, target_address):
    agent = new_agent("initiator")
    buffer = Buffer(STEP_BYTES)
    agent.register_memory([(buffer.address, RANGE_BYTES, 0, "")], "DRAM")
    near = agent.get_xfer_descs([(buffer.address, RANGE_BYTES, 0)], "DRAM")
    far = agent.get_xfer_descs([(target_address, RANGE_BYTES, 0)], "DRAM")
    names = [f"target-{number:04}" for number in range(1, count + PEERS_ADDED + 1)]
    figures = {}
    added = []
    for name in names:
        blob = metadata.replace(TARGET.encode(), name.encode())
        started = time.perf_counter_ns()
        agent.add_remote_agent(blob)
        added.append((time.perf_counter_ns() - started) / 1e6)
    figures["add_peer"] = statistics.median(added[count:])
    first = []
    for name in names[:count]:
        started = time.perf_counter_ns()
        finish(agent, agent.initialize_xfer("WRITE", near, far, name))
        first.append((time.perf_counter_ns() - started) / 1e6)
    figures["first_transfer"] = statistics.median(first[-PEERS_ADDED:])
    polls = []
    for _ in range(POLLS):
        started = time.perf_counter_ns()
        agent.get_new_notifs()
        polls.append((time.perf_counter_ns() - started) / 1e3)
    figures["poll"] = statistics.median(polls)
    figures["poll_mean"] = statistics.mean(polls)
    return figures


def main():
    what, count = sys.argv[1], int(sys.argv[2])
    here, there = multiprocessing.Pipe()
    target = multiprocessing.get_context("spawn").Process(
        target=serve, args=(count if what == "ranges" else 1, there), daemon=True
    )
    target.start()
    if not here.poll(LIMIT_S):
        sys.exit("the target does not start")
    metadata, address = here.recv()
    figures = {"ranges": measure_ranges, "peers": measure_peers}[what](count, metadata, address)
    print(json.dumps(figures), flush=True)
    here.send("stop")
    target.join(5)
    target.kill()
    os._exit(0)  # the published wheel crashes at times when the interpreter takes its agents down


if __name__ == "__main__":
    main()
