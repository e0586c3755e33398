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
import multiprocessing
import multiprocessing.connection
import os
import sys
import time

from common import Failure, describe
from kv_cache import (Terminal, block_descriptors, block_tables, expected_words, fitted, free_memory, new_agent,
                      new_cache, register, run_all, shape_of, shape_options, size_text)

STALL_LIMIT_S = 30.0  # without a sign of progress


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
    for _ in run_all(agent, requests, STALL_LIMIT_S):
        pass
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


def parse_arguments(arguments, program=None, epilog=""):
    parser = argparse.ArgumentParser(
        prog=program or os.environ.get("NIXL_DEMO_PROGRAM"), description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 every byte is right and every notification arrived, 1 otherwise. " + epilog)
    shape_options(parser, "UCX")
    return shape_of(parser.parse_args(arguments))


def main():
    terminal = Terminal()
    shape = fitted(parse_arguments(sys.argv[1:]), terminal, 2, free_memory(), "memory")
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
