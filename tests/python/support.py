# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests share: waiting with a deadline, pairs of agents, memory as descriptors."""

import asyncio
import threading
import time
from dataclasses import dataclass

import numpy as np

from nixl import nixl_agent, nixl_agent_config

DEADLINE_S = 30.0


def eventually(predicate, what="the condition", deadline_s=DEADLINE_S):
    """The first true result of `predicate`, polled until the deadline."""
    pause = threading.Event()
    end = time.monotonic() + deadline_s
    while True:
        result = predicate()
        if result:
            return result
        assert time.monotonic() < end, f"{what} did not come true within {deadline_s} s"
        pause.wait(0.0005)


async def a_turn():
    """Lets the other tasks of the loop go on."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(0.0005, future.set_result, None)
    await future


def run(agent, handle, *message):
    """Starts a transfer and waits for its end."""
    if agent.transfer(handle, *message) == "PROC":
        eventually(lambda: agent.check_xfer_state(handle) == "DONE", "the transfer")


def config(backend, **options):
    return nixl_agent_config(backends=[backend] if backend else [], **options)


def address(array):
    return array.ctypes.data


def whole(array):
    """(address, length, device id) of an array."""
    return (address(array), array.nbytes, 0)


def blocks(array, block_bytes):
    """The array's memory in blocks, as an N x 3 array of descriptors."""
    count = array.nbytes // block_bytes
    rows = np.zeros((count, 3), dtype=np.uint64)
    rows[:, 0] = address(array) + np.arange(count, dtype=np.uint64) * np.uint64(block_bytes)
    rows[:, 1] = block_bytes
    return rows


def unaligned(array):
    """A copy of the array at an odd address, as numpy.frombuffer gives one out of a message."""
    return np.frombuffer(b"." + array.tobytes(), array.dtype, offset=1).reshape(array.shape)


def random_bytes(count, seed=1):
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)


@dataclass
class Pair:
    """Two agents that know each other's memory."""

    initiator: nixl_agent
    target: nixl_agent
    source: np.ndarray
    sink: np.ndarray

    def descs(self, length=None, offset=0):
        """Transfer lists over the same part of both buffers."""
        length = self.source.nbytes if length is None else length
        return tuple(
            self.initiator.get_xfer_descs([(address(array) + offset, length, 0)], "DRAM")
            for array in (self.source, self.sink)
        )

    def request(self, operation="WRITE", message=b"", **where):
        return self.initiator.initialize_xfer(operation, *self.descs(**where), self.target.name, message)


def make_pair(backend, size=1 << 16, **options):
    initiator = nixl_agent("initiator", config(backend, **options))
    target = nixl_agent("target", config(backend, **options))
    source, sink = random_bytes(size), np.zeros(size, dtype=np.uint8)
    initiator.register_memory([(*whole(source), "")], "DRAM")
    target.register_memory([(*whole(sink), "")], "DRAM")
    initiator.add_remote_agent(target.get_agent_metadata())
    target.add_remote_agent(initiator.get_agent_metadata())
    return Pair(initiator, target, source, sink)
