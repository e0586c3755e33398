# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What the examples with a KV cache share: its shape and contents, and how a program shows what happens."""

import argparse
import dataclasses
import os
import sys
import time

from common import Failure

POISON = 0xEE  # in a cache that holds nothing
REDRAW_S = 0.05  # at most so often: drawing takes time from those who copy
SEED = 20260801
IN_FLIGHT = 4  # requests posted at a time
STALL_LIMIT_S = 60.0  # without a sign of progress


@dataclasses.dataclass(frozen=True)
class Shape:
    layers: int
    blocks: int
    block_bytes: int
    backend: str

    @property
    def tensor_bytes(self):
        return self.blocks * self.block_bytes

    @property
    def total_bytes(self):
        return self.layers * 2 * self.tensor_bytes


def block_tables(shape):
    """Where block i of the sequence lies in the prefill process's cache, and where in the decode process's."""
    import numpy as np

    random = np.random.default_rng(SEED)
    return random.permutation(shape.blocks), random.permutation(shape.blocks)


def pattern_keys(shape, layer, side):
    """One 64-bit number per block of the sequence, all different, from layer, side (K or V) and block (splitmix64)."""
    import numpy as np

    with np.errstate(over="ignore"):
        first = np.uint64((layer * 2 + side) * shape.blocks + SEED)
        z = (np.arange(shape.blocks, dtype=np.uint64) + first) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def expected_words(shape, layer, side, table):
    """What the tensor of (layer, side) must hold, in 64-bit words, when its blocks lie as `table` says."""
    import numpy as np

    keys = np.empty(shape.blocks, np.uint64)
    keys[table] = pattern_keys(shape, layer, side)
    ramp = np.arange(shape.block_bytes // 8, dtype=np.uint64) * np.uint64(0x2545F4914F6CDD1D)
    with np.errstate(over="ignore"):
        return keys[:, None] + ramp[None, :]


def new_cache(shape):
    """A tensor of (blocks, block bytes) for K and for V of each layer."""
    import numpy as np

    return [np.full((shape.blocks, shape.block_bytes), POISON, np.uint8) for _ in range(shape.layers * 2)]


def new_agent(name, shape):
    from nixl._api import nixl_agent, nixl_agent_config

    return nixl_agent(name, nixl_agent_config(backends=[shape.backend]))


def register(agent, cache):
    """One registration per tensor, as inference engines do."""
    return agent.register_memory([(tensor.ctypes.data, tensor.nbytes, 0, "") for tensor in cache], "DRAM")


def block_descriptors(shape, addresses):
    """(address, length, device) of every block of every tensor: block b of tensor t is row t * blocks + b."""
    import numpy as np

    rows = np.zeros((len(addresses), shape.blocks, 3), np.uint64)
    starts = np.array(addresses, np.uint64)
    rows[:, :, 0] = starts[:, None] + np.arange(shape.blocks, dtype=np.uint64)[None, :] * np.uint64(shape.block_bytes)
    rows[:, :, 1] = shape.block_bytes
    return rows.reshape(-1, 3)


def layer_descriptors(shape):
    """(offset, length, device) of every block where each layer is one file or object: K, then V, in the order of the
    sequence."""
    import numpy as np

    rows = np.zeros((shape.layers, 2 * shape.blocks, 3), np.uint64)
    rows[:, :, 0] = np.arange(2 * shape.blocks, dtype=np.uint64) * np.uint64(shape.block_bytes)
    rows[:, :, 1] = shape.block_bytes
    rows[:, :, 2] = np.arange(shape.layers, dtype=np.uint64)[:, None]
    return rows.reshape(-1, 3)


def layer_requests(agent, shape, operation, local, remote, table):
    """One request per layer, between the blocks at the places of `table` and its file or object."""
    import numpy as np

    def request(layer):
        tensors = np.array([layer * 2, layer * 2 + 1])[:, None] * shape.blocks
        in_memory = (tensors + table[None, :]).reshape(-1)
        in_storage = np.arange(2 * shape.blocks) + layer * 2 * shape.blocks
        return agent.make_prepped_xfer(operation, local, in_memory, remote, in_storage)

    return [request(layer) for layer in range(shape.layers)]


def fill(shape, cache, table, terminal):
    """The cache as the engine has written it, its blocks at the places of `table`."""
    for index, tensor in enumerate(cache):
        tensor.view("uint64")[:] = expected_words(shape, index // 2, index % 2, table)
        terminal.bar("fill", index + 1, len(cache), "the engine writes its cache")
    terminal.finish("fill", "the engine has written its cache, a different pattern into each block")


def verify(shape, cache, table, terminal):
    """How many bytes are right; Failure at the first that is not."""
    import numpy as np

    right = 0
    for index, tensor in enumerate(cache):
        expected = expected_words(shape, index // 2, index % 2, table)
        found = tensor.view(np.uint64)
        if not np.array_equal(found, expected):
            row, word = np.argwhere(found != expected)[0]
            raise Failure(f"layer {index // 2}, {'KV'[index % 2]}, block {row}, byte {8 * word}: "
                          f"{found[row, word]:#018x} instead of {expected[row, word]:#018x}")
        right += tensor.nbytes
        terminal.bar("verify", index + 1, len(cache), "every byte is compared")
    terminal.finish("verify", "every byte has been compared with what it must be")
    return right


def run_all(agent, requests, limit_s):
    """Runs the requests, a few in flight; yields how many have ended, whenever some have. Raises if one fails, or none
    ends within the limit."""
    waiting, running = list(requests), []
    while waiting or running:
        while waiting and len(running) < IN_FLIGHT:
            running.append(waiting.pop(0))
            agent.transfer(running[-1])
        ended = agent.wait_any(running, limit_s)
        if not ended:
            raise Failure(f"no request finished for {limit_s:.0f} s")
        for handle in ended:
            agent.check_xfer_state(handle)  # raises if it failed
            running.remove(handle)
        yield len(ended)


def move(agent, shape, terminal, name, requests):
    """Runs the requests, one for each layer, a few in flight, and releases them. The report of the last one."""
    started, layers = time.perf_counter(), 0
    for ended in run_all(agent, requests, STALL_LIMIT_S):
        layers += ended
        done = shape.total_bytes * layers // shape.layers
        rate = done / (time.perf_counter() - started) / 1e9
        terminal.bar(name, layers, shape.layers, f"{size_text(done)}, {rate:.2f} GB/s")
    seconds = time.perf_counter() - started
    terminal.finish(name, f"{size_text(shape.total_bytes)} in {seconds:.3f} s, "
                          f"{shape.total_bytes / seconds / 1e9:.2f} GB/s")
    report = agent.get_xfer_report(requests[-1])
    for handle in requests:
        handle.release()
    return report


# ---- The terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """Facts, one per line, and progress bars; without a terminal (or with CI set) a bar is one line at its end."""

    def __init__(self):
        self.animated = sys.stdout.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
        self.coloured = self.animated and not os.environ.get("NO_COLOR")
        self.open_bar = False
        self.drawn = 0.0

    def fact(self, name, text, colour=None):
        if colour and self.coloured:
            text = f"\x1b[{colour}m{text}\x1b[0m"
        self.end_bar()
        print(f"  {name:<10} {text}", flush=True)

    def bar(self, name, done, total, note):
        now = time.monotonic()
        if not self.animated or (self.open_bar and now - self.drawn < REDRAW_S):
            return
        self.drawn = now
        width = 32
        filled = width * done // total
        drawn = "█" * filled + "░" * (width - filled)
        print(f"\r\x1b[K  {name:<10} {drawn} {100 * done // total:3} %  {note}", end="", flush=True)
        self.open_bar = True

    def finish(self, name, note):
        if self.animated:
            print("\r\x1b[K", end="")
            self.open_bar = False
        self.fact(name, note)

    def end_bar(self):
        if self.open_bar:
            print(flush=True)
            self.open_bar = False


def size_text(count):
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if count == int(count) else f"{count:.2f} {unit}"
        count /= 1024


def free_memory():
    """Bytes that can be used without swapping, within the limit of the control group."""
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit, \
                open("/sys/fs/cgroup/memory.current", encoding="ascii") as current:
            return min(free, int(limit.read()) - int(current.read()))
    except (OSError, ValueError):
        return free


def fitted(shape, terminal, caches, free, of_what):
    """The shape, with fewer blocks if so many caches do not fit into 60 % of what is free."""
    budget = free * 6 // 10
    asked = shape
    while shape.blocks > 1 and caches * shape.total_bytes > budget:
        shape = dataclasses.replace(shape, blocks=shape.blocks // 2)
    if shape != asked:
        what = f"a cache of {size_text(asked.total_bytes)} does" if caches == 1 else (
            f"{caches} caches of {size_text(asked.total_bytes)} do")
        terminal.fact("fit", f"{what} not fit into 60 % of the free {of_what} ({size_text(budget)}): {shape.blocks} "
                             f"blocks instead of {asked.blocks}", "33")
    return shape


# ---- Options ---------------------------------------------------------------------------------------------------------


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def words(text):
    value = positive(text)
    if value % 8:
        raise argparse.ArgumentTypeError("must be a multiple of 8")
    return value


def shape_options(parser, backend):
    parser.add_argument("--layers", type=positive, default=32, help="layers of the model (default 32)")
    parser.add_argument("--blocks", type=positive, default=1024, help="blocks in each K or V (default 1024)")
    parser.add_argument("--block-bytes", type=words, default=16384, help="bytes per block (default 16384)")
    parser.add_argument("--backend", default=backend, help=f"backend that moves the data (default {backend})")


def shape_of(options):
    return Shape(options.layers, options.blocks, options.block_bytes, options.backend)
