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
TURNS = 3  # beside transfers and alone, as long


def percent_of_a_core_since(cpu, wall):
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


async def cost_of_awaiting(agent, seconds):
    await asyncio.sleep(0)  # the loop itself is there
    cpu, wall = time.process_time(), time.perf_counter()
    done, _ = await asyncio.wait([asyncio.ensure_future(agent.notifs())], timeout=seconds)
    assert not done, "something happened while nothing was to happen"
    return percent_of_a_core_since(cpu, wall)


def cost_of_waiting(agent, seconds):
    cpu, wall = time.process_time(), time.perf_counter()
    assert not agent.wait_notifs(seconds), "something happened while nothing was to happen"
    return percent_of_a_core_since(cpu, wall)


def measure_waking(how, backend, seconds, pipe):
    agent = nixl_agent("waiter", nixl_agent_config(backends=[backend]))
    pipe.send(agent.get_agent_metadata())
    if how == "wait":
        wake_ups(agent, pipe, seconds / 10)
        idle = cost_of_waiting(agent, seconds)
        latencies = wake_ups(agent, pipe, seconds)
    else:
        asyncio.run(awaited_wake_ups(agent, pipe, seconds / 10))
        idle = asyncio.run(cost_of_awaiting(agent, seconds))
        latencies = asyncio.run(awaited_wake_ups(agent, pipe, seconds))
    pipe.send(False)
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


async def move(agent, handles):
    for handle in handles:
        agent.transfer(handle)
    await asyncio.gather(*(agent.done(handle) for handle in handles))


def waited_for_a_core():
    with open("/proc/thread-self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def compute(until):
    """Rounds of pure Python a second until `until(seconds so far)`, and the seconds. Those in which others had the core
    are not counted: what is looked for is the time in which others have the interpreter."""
    rounds, start, waited = 0, time.perf_counter(), waited_for_a_core()
    while True:
        for _ in range(1000):
            rounds += 1
        seconds = time.perf_counter() - start
        if until(seconds):
            return rounds / (seconds - waited_for_a_core() + waited), seconds


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
    asyncio.run(move(agent, handles))  # pays for what is made once
    losses, each = [], []
    for _ in range(TURNS):
        mover = threading.Thread(target=lambda: asyncio.run(move(agent, handles)))
        mover.start()
        beside, seconds = compute(lambda _: not mover.is_alive())
        alone, _ = compute(lambda so_far: so_far >= seconds)
        losses.append(100 * (1 - beside / alone))
        each.append((1 - beside / alone) * seconds / TRANSFERS * 1e6)
    pipe.send("end")
    return {"loss_percent": statistics.median(losses), "loss_us_each": statistics.median(each)}


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
