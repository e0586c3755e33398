# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""`waking.py wait|await BACKEND SECONDS`: how soon who sleeps is woken, and what he costs meanwhile.

`waking.py busy BACKEND SECONDS`: what a thread that computes loses while another one awaits a thousand transfers.

Prints one JSON line. This process waits, its child sends, or is the target.
"""

import array
import asyncio
import json
import mmap
import multiprocessing
import os
import random
import statistics
import sys
import threading
import time

import numpy as np
from nixl import nixl_agent, nixl_agent_config

LIMIT_S = 60
DISTANCE_S = 0.001  # between two messages, on average
TRANSFERS = 1000
TRANSFER_BYTES = 1 << 20
BUFFER_BYTES = 64 << 20
TURNS = 10  # alone and beside transfers, each


def percent_of_a_core(function):
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return 100 * (time.process_time() - cpu) / (time.perf_counter() - wall)


# ---- Wake-ups --------------------------------------------------------------------------------------------------------


def send(backend, pipe):
    """A message for each request, with the time at which it was given away: the clock is one for all processes."""
    agent = nixl_agent("sender", nixl_agent_config(enable_prog_thread=False, backends=[backend]))
    peer = agent.add_remote_agent(pipe.recv())
    agent.make_connection(peer)
    distances = random.Random(1)
    while pipe.recv():
        time.sleep(DISTANCE_S * distances.uniform(0.5, 1.5))
        agent.send_notif(peer, time.monotonic_ns().to_bytes(8, "little"))
        agent.get_new_notifs()  # progress


def latency_us(arrived):
    ((message,),) = arrived.values()
    return (time.monotonic_ns() - int.from_bytes(message, "little")) / 1e3


def wake_ups(agent, pipe, seconds):
    latencies, end = array.array("d"), time.monotonic() + seconds
    while time.monotonic() < end:
        pipe.send(True)
        latencies.append(latency_us(agent.wait_notifs(LIMIT_S)))
    return latencies


async def awaited_wake_ups(agent, pipe, seconds):
    latencies, end = array.array("d"), time.monotonic() + seconds
    while time.monotonic() < end:
        pipe.send(True)
        latencies.append(latency_us(await agent.notifs()))
    return latencies


async def await_nothing(agent, seconds):
    try:
        await asyncio.wait_for(agent.notifs(), seconds)
    except asyncio.TimeoutError:
        return
    sys.exit("something happened while nothing was to happen")


def measure_waking(how, backend, seconds, pipe):
    agent = nixl_agent("waiter", nixl_agent_config(backends=[backend]))
    pipe.send(agent.get_agent_metadata())
    if how == "wait":
        wake_ups(agent, pipe, seconds / 10)
        idle = percent_of_a_core(lambda: agent.wait_notifs(seconds))
        latencies = wake_ups(agent, pipe, seconds)
    else:
        asyncio.run(awaited_wake_ups(agent, pipe, seconds / 10))
        idle = percent_of_a_core(lambda: asyncio.run(await_nothing(agent, seconds)))
        latencies = asyncio.run(awaited_wake_ups(agent, pipe, seconds))
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"p50_us": p50, "p99_us": p99, "max_us": max(latencies), "count": len(latencies), "idle_percent": idle}


# ---- A thread that computes ------------------------------------------------------------------------------------------


class Buffer:
    def __init__(self):
        self.bytes = np.frombuffer(mmap.mmap(-1, BUFFER_BYTES), np.uint8)
        self.bytes[:] = 1
        self.address = self.bytes.ctypes.data

    def register(self, agent):
        agent.register_memory([(self.address, BUFFER_BYTES, 0, "")], "DRAM")


def be_target(backend, pipe):
    agent = nixl_agent("target", nixl_agent_config(backends=[backend]))
    buffer = Buffer()
    buffer.register(agent)
    pipe.send((agent.get_agent_metadata(), buffer.address))
    pipe.recv()


class Transfers:
    """A thread with an event loop that, when told to, posts all of them and awaits all."""

    def __init__(self, agent, handles):
        self.agent, self.handles = agent, handles
        self.wanted, self.over = threading.Semaphore(0), threading.Event()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while self.wanted.acquire():
            asyncio.run(self.move())
            self.over.set()

    async def move(self):
        for handle in self.handles:
            self.agent.transfer(handle)
        await asyncio.gather(*(self.agent.done(handle) for handle in self.handles))


def compute(until):
    """Rounds a second of pure Python, until `until(seconds so far)`."""
    rounds, start = 0, time.perf_counter()
    while True:
        for _ in range(1000):
            rounds += 1
        seconds = time.perf_counter() - start
        if until(seconds):
            return rounds / seconds, seconds


def measure_busy(backend, pipe):
    metadata, address = pipe.recv()
    agent = nixl_agent("initiator", nixl_agent_config(backends=[backend]))
    buffer = Buffer()
    buffer.register(agent)
    peer = agent.add_remote_agent(metadata)
    handles = []
    for number in range(TRANSFERS):
        offset = number * TRANSFER_BYTES % BUFFER_BYTES
        near, far = (agent.get_xfer_descs([(start + offset, TRANSFER_BYTES, 0)], "DRAM")
                     for start in (buffer.address, address))
        handles.append(agent.initialize_xfer("WRITE", near, far, peer))
    transfers = Transfers(agent, handles)
    losses, lasted = [], []
    for turn in range(TURNS + 1):
        transfers.over.clear()
        transfers.wanted.release()
        beside, seconds = compute(lambda _: transfers.over.is_set())
        alone, _ = compute(lambda so_far: so_far >= seconds)
        if turn:  # the first one pays for what is made once
            losses.append(100 * (1 - beside / alone))
            lasted.append(seconds)
    pipe.send("end")
    return {"loss_percent": statistics.median(losses), "least": min(losses), "most": max(losses),
            "seconds": statistics.median(lasted)}


def main():
    how, backend, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    here, there = multiprocessing.Pipe()
    other = be_target if how == "busy" else send
    multiprocessing.get_context("spawn").Process(target=other, args=(backend, there), daemon=True).start()
    figures = measure_busy(backend, here) if how == "busy" else measure_waking(how, backend, seconds, here)
    print(json.dumps(figures), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
