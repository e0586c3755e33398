#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""A prefill process hands its KV cache to a decode process.

The main job of NIXL: the prefill process fills a paged KV cache, the decode process reads the blocks it needs out of
the prefill process's memory, by block index, straight to where its own block table wants them. The prefill process
does nothing meanwhile; a notification per layer tells it which blocks it may use again. Afterwards the decode process
compares every byte with what it must be.
"""

import argparse
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import sys
import time

from common import Failure, describe

POISON = 0xEE  # in the decode process's cache before the handover
IN_FLIGHT = 4  # requests posted at a time
STALL_LIMIT_S = 30.0  # without a sign of progress
REDRAW_S = 0.05  # at most so often: drawing takes time from those who copy
SEED = 20260801


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


# ---- The cache -------------------------------------------------------------------------------------------------------


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


# ---- The decode process ----------------------------------------------------------------------------------------------


def decode_process(channel, shape):
    """Entry of the decode process; `channel` is the side channel to the prefill process."""
    try:
        decode(channel, shape)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # whatever it is, the prefill process shows it, if it is still there
        try:
            channel.send(("failed", describe(error)))
        except OSError:
            print("decode: the prefill process is gone", file=sys.stderr)
        sys.exit(1)


def decode(channel, shape):
    cache = new_cache(shape)
    agent = new_agent("decode", shape)
    registered = register(agent, cache)
    channel.send(("ready", agent.get_agent_metadata()))
    metadata, addresses = channel.recv()
    result = pull(channel, agent, shape, cache, agent.add_remote_agent(metadata), addresses)
    channel.send(("pulled", result))
    channel.send(("verified", verify(channel, shape, cache)))
    channel.recv()  # the prefill process has all its notifications
    agent.remove_remote_agent("prefill")
    agent.deregister_memory(registered)


def pull(channel, agent, shape, cache, peer, addresses):
    """Reads all blocks, one request per layer, a few in flight. Returns figures for the report."""
    import numpy as np

    local = agent.prep_xfer_dlist("NIXL_INIT_AGENT", block_descriptors(shape, [t.ctypes.data for t in cache]), "DRAM")
    remote = agent.prep_xfer_dlist(peer, block_descriptors(shape, addresses), "DRAM")
    prefill_table, decode_table = block_tables(shape)

    def request(layer):
        rows = np.array([layer * 2, layer * 2 + 1])[:, None] * shape.blocks
        local_rows = (rows + decode_table[None, :]).reshape(-1)
        remote_rows = (rows + prefill_table[None, :]).reshape(-1)
        return agent.make_prepped_xfer("READ", local, local_rows, remote, remote_rows, f"layer {layer}".encode())

    prepared = time.perf_counter()
    requests = [request(layer) for layer in range(shape.layers)]
    started = time.perf_counter()
    channel.send(("pulling", None))
    waiting, running = list(requests), []
    while waiting or running:
        while waiting and len(running) < IN_FLIGHT:
            running.append(waiting.pop(0))
            agent.transfer(running[-1])
        ended = agent.wait_any(running, STALL_LIMIT_S)
        if not ended:
            raise Failure(f"no request finished for {STALL_LIMIT_S:.0f} s")
        for handle in ended:
            agent.check_xfer_state(handle)  # raises if it failed
            running.remove(handle)
    seconds = time.perf_counter() - started

    report = agent.get_xfer_report(requests[-1])
    candidates = [(c.backend, c.chosen, c.predicted_us, c.reason) for c in report.candidates]
    for handle in (*requests, local, remote):
        handle.release()
    return {"seconds": seconds, "prepare_seconds": started - prepared, "backend": report.backend,
            "path": report.path, "candidates": candidates}


def verify(channel, shape, cache):
    """Compares every byte; returns (bytes that are right, description of the first wrong block or None)."""
    import numpy as np

    _, decode_table = block_tables(shape)
    right, first_wrong = 0, None
    for layer in range(shape.layers):
        for side in (0, 1):
            found = cache[layer * 2 + side]
            expected = expected_words(shape, layer, side, decode_table).view(np.uint8)
            if np.array_equal(found.view(np.uint64), expected.view(np.uint64)):
                right += found.nbytes
                continue
            right += int(np.count_nonzero(found == expected))
            if first_wrong is None:
                row, byte = np.argwhere(found != expected)[0]
                first_wrong = (f"layer {layer}, {'KV'[side]}, block {row}, byte {byte}: "
                               f"{found[row, byte]:#04x} instead of {expected[row, byte]:#04x}")
        channel.send(("checked", layer + 1))
    return right, first_wrong


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


# ---- The prefill process ---------------------------------------------------------------------------------------------


class Handover:
    """The prefill process's side: starts the decode process, serves it, and shows what happens."""

    def __init__(self, shape, terminal):
        self.shape = shape
        self.terminal = terminal
        context = multiprocessing.get_context("spawn")
        self.channel, theirs = context.Pipe()
        self.decode = context.Process(target=decode_process, args=(theirs, shape), name="decode", daemon=True)
        self.decode.start()
        theirs.close()
        self.layers_done = 0
        self.started = 0.0

    def close(self):
        if self.decode.is_alive():
            self.decode.terminate()
        self.decode.join()

    def receive(self, kind, agent=None, limit_s=STALL_LIMIT_S * 2):
        """The decode process's next message of this kind. With `agent`, its notifications are counted meanwhile, each
        of which starts the limit anew. Failure: the process reported one, died or went silent."""
        end = time.monotonic() + limit_s
        while True:
            # An event loop: first look at everything, then ask for the descriptor, then sleep on it.
            if agent and self.count(agent.get_new_notifs()):
                end = time.monotonic() + limit_s
            sources = [self.channel, self.decode.sentinel] + ([agent.fileno()] if agent else [])
            multiprocessing.connection.wait(sources, max(0, end - time.monotonic()))
            try:
                message = self.channel.recv() if self.channel.poll() else None
            except (EOFError, ConnectionResetError):
                self.decode.join(timeout=5)
                raise Failure(self.obituary()) from None
            if message is None:
                if not self.decode.is_alive() and not self.channel.poll():
                    raise Failure(self.obituary())
                if time.monotonic() > end:
                    raise Failure(f"the decode process (pid {self.decode.pid}) said nothing for {limit_s:.0f} s")
                continue
            if message[0] == "failed":
                raise Failure(f"the decode process failed: {message[1]}")
            if message[0] == kind:
                return message[1]
            raise Failure(f"the decode process sent '{message[0]}' instead of '{kind}'")

    def obituary(self):
        code = self.decode.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        return (f"the decode process (pid {self.decode.pid}) {how} after {self.layers_done} of {self.shape.layers} "
                "layers; what it received is lost, the prefill process's cache is unharmed")

    def run(self):
        shape, terminal = self.shape, self.terminal
        cache = self.fill()
        agent = new_agent("prefill", shape)
        registered = register(agent, cache)
        agent.add_remote_agent(self.receive("ready"))
        terminal.fact("processes", f"prefill pid {os.getpid()}, decode pid {self.decode.pid}; both have registered "
                                   f"{shape.layers * 2} tensors and swapped metadata")
        self.channel.send((agent.get_agent_metadata(), [tensor.ctypes.data for tensor in cache]))

        self.receive("pulling")
        self.started = time.monotonic()
        result = self.receive("pulled", agent)
        while self.layers_done < shape.layers:
            if not self.count(agent.wait_notifs(STALL_LIMIT_S)):
                raise Failure(f"only {self.layers_done} of {shape.layers} notifications arrived")
        rate = shape.total_bytes / result["seconds"] / 1e9
        terminal.finish("handover", f"{size_text(shape.total_bytes)} in {result['seconds']:.3f} s, "
                                    f"{shape.layers} notifications arrived")

        right, first_wrong = self.receive_verification()
        self.channel.send("finished")
        self.decode.join(timeout=STALL_LIMIT_S)
        agent.remove_remote_agent("decode")
        agent.deregister_memory(registered)
        self.explain(result, rate)
        if first_wrong:
            raise Failure(f"{shape.total_bytes - right:,} bytes are wrong; the first is {first_wrong}")
        if self.decode.exitcode != 0:
            raise Failure(self.obituary())
        terminal.fact("result", f"every byte is right: {right:,} bytes in {shape.layers * 2 * shape.blocks:,} blocks",
                      "32")

    def fill(self):
        import numpy as np

        cache = new_cache(self.shape)
        table, _ = block_tables(self.shape)
        for index, tensor in enumerate(cache):
            tensor.view(np.uint64)[:] = expected_words(self.shape, index // 2, index % 2, table)
            self.terminal.bar("fill", index + 1, len(cache), "prefill writes its cache")
        self.terminal.finish("fill", "the prefill process has written its cache, a different pattern into each block")
        return cache

    def count(self, notifications):
        """One per layer that the decode process has read. How many these were."""
        arrived = len(notifications.get("decode", []))
        if arrived:
            self.layers_done += arrived
            done = self.shape.total_bytes * self.layers_done // self.shape.layers
            rate = done / (time.monotonic() - self.started) / 1e9
            self.terminal.bar("handover", self.layers_done, self.shape.layers, f"{size_text(done)}, {rate:.2f} GB/s")
        return arrived

    def receive_verification(self):
        for _ in range(self.shape.layers):
            layers = self.receive("checked")
            self.terminal.bar("verify", layers, self.shape.layers, "decode compares every byte")
        outcome = self.receive("verified")
        self.terminal.finish("verify", "the decode process has compared every byte with what it must be")
        return outcome

    def explain(self, result, rate):
        terminal, shape = self.terminal, self.shape
        terminal.fact("rate", f"{rate:.2f} GB/s ({shape.layers} requests of {2 * shape.blocks:,} blocks, made in "
                              f"{result['prepare_seconds'] * 1e3:.1f} ms)")
        terminal.fact("backend", result["backend"])
        terminal.fact("path", result["path"] or "not told by the backend")
        for backend, chosen, predicted_us, reason in result["candidates"]:
            predicted = f", predicted {predicted_us / 1e3:.2f} ms a request" if predicted_us is not None else ""
            terminal.fact("why" if chosen else "not", f"{backend}: {reason}{predicted}")


# ---- The command -----------------------------------------------------------------------------------------------------


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


def fitted(shape, terminal):
    """The shape, with fewer blocks if two caches do not fit into 60 % of the free memory."""
    budget = free_memory() * 6 // 10
    asked = shape
    while shape.blocks > 1 and 2 * shape.total_bytes > budget:
        shape = dataclasses.replace(shape, blocks=shape.blocks // 2)
    if shape != asked:
        terminal.fact("memory", f"two caches of {size_text(asked.total_bytes)} do not fit into 60 % of the free memory "
                                f"({size_text(budget)}): {shape.blocks} blocks instead of {asked.blocks}", "33")
    return shape


def parse_arguments(arguments, program=None, epilog=""):
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

    parser = argparse.ArgumentParser(
        prog=program or os.environ.get("NIXL_DEMO_PROGRAM"), description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 every byte is right and every notification arrived, 1 otherwise. " + epilog)
    parser.add_argument("--layers", type=positive, default=32, help="layers of the model (default 32)")
    parser.add_argument("--blocks", type=positive, default=1024, help="blocks in each K or V (default 1024)")
    parser.add_argument("--block-bytes", type=words, default=16384, help="bytes per block (default 16384)")
    parser.add_argument("--backend", default="UCX", help="backend that moves the data (default UCX)")
    options = parser.parse_args(arguments)
    return Shape(options.layers, options.blocks, options.block_bytes, options.backend)


def main():
    terminal = Terminal()
    shape = fitted(parse_arguments(sys.argv[1:]), terminal)
    print("A prefill process hands its KV cache to a decode process.", flush=True)
    terminal.fact("cache", f"{shape.layers} layers x (K, V) x {shape.blocks:,} blocks x "
                           f"{size_text(shape.block_bytes)} = {size_text(shape.total_bytes)} in each process")
    handover = Handover(shape, terminal)
    try:
        handover.run()
    except KeyboardInterrupt:
        terminal.fact("stopped", "interrupted")
        return 130
    except Exception as error:  # a Failure, or one of NIXL's errors, which carry their sentence
        terminal.fact("failed", describe(error), "31")
        return 1
    finally:
        handover.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
