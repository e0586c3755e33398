#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""A process offloads its KV cache to files, drops it, and restores it.

What a serving engine does with the cache of a conversation that pauses: the blocks, which lie in memory as a block
table says, go to one file per layer, in the order of the sequence. Then the cache is overwritten, the files are dropped
from the system's page cache as well, and the blocks are read back, this time to the places of a new block table. Every
byte is compared.
"""

import argparse
import os
import shutil
import sys
import tempfile

from common import describe
from kv_cache import (POISON, Terminal, block_descriptors, block_tables, fill, fitted, layer_descriptors,
                      layer_requests, move, new_agent, new_cache, register, shape_of, shape_options, size_text, verify)


class Offload:
    def __init__(self, shape, terminal, directory):
        self.shape, self.terminal, self.directory = shape, terminal, directory
        self.cache = new_cache(shape)
        self.agent = new_agent("engine", shape)
        self.tables = block_tables(shape)  # before and after

    def path(self, layer):
        return os.path.join(self.directory, f"layer_{layer:03}.kv")

    def run(self):
        shape, terminal = self.shape, self.terminal
        fill(shape, self.cache, self.tables[0], terminal)

        memory = register(self.agent, self.cache)
        # A file is known by a number of ours; its path and how it is opened stand in the registration.
        layer_bytes = 2 * shape.tensor_bytes
        files = self.agent.register_memory(
            [(0, layer_bytes, layer, f"rw,create:{self.path(layer)}") for layer in range(shape.layers)], "FILE")
        self.local = self.agent.prep_xfer_dlist(
            "NIXL_INIT_AGENT", block_descriptors(shape, [tensor.ctypes.data for tensor in self.cache]), "DRAM")
        self.remote = self.agent.prep_xfer_dlist("engine", layer_descriptors(shape), "FILE")

        self.move("offload", "WRITE", self.tables[0])
        for tensor in self.cache:
            tensor[:] = POISON
        self.drop_pages()
        terminal.fact("drop", "the cache is overwritten, its files are out of the page cache")
        report = self.move("restore", "READ", self.tables[1])

        right = verify(shape, self.cache, self.tables[1], terminal)
        self.local.release()
        self.remote.release()
        self.agent.deregister_memory(files)
        self.agent.deregister_memory(memory)
        terminal.fact("path", report.path)
        terminal.fact("result", f"every byte is right: {right:,} bytes in {shape.layers} files", "32")

    def move(self, name, operation, table):
        requests = layer_requests(self.agent, self.shape, operation, self.local, self.remote, table)
        return move(self.agent, self.shape, self.terminal, name, requests)

    def drop_pages(self):
        """What was not read again would otherwise come from memory."""
        for layer in range(self.shape.layers):
            with open(self.path(layer), "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.terminal.bar("drop", layer + 1, self.shape.layers, "to the device, and out of the page cache")


def parse_arguments(arguments, program=None):
    parser = argparse.ArgumentParser(
        prog=program or os.environ.get("NIXL_DEMO_PROGRAM"), description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 every byte is right, 1 otherwise.")
    shape_options(parser, "POSIX")
    parser.add_argument("--directory", help="where the files go, which are removed afterwards (default: a new folder "
                                            "among the system's temporary files)")
    options = parser.parse_args(arguments)
    return shape_of(options), options.directory


def main():
    terminal = Terminal()
    shape, parent = parse_arguments(sys.argv[1:])
    directory = None
    try:
        directory = tempfile.mkdtemp(prefix="nixl-kv-", dir=parent)
        shape = fitted(shape, terminal, 1, shutil.disk_usage(directory).free, f"space at {directory}")
        print("An engine offloads its KV cache to files and restores it.", flush=True)
        terminal.fact("cache", f"{shape.layers} layers x (K, V) x {shape.blocks:,} blocks x "
                               f"{size_text(shape.block_bytes)} = {size_text(shape.total_bytes)}, a file per layer in "
                               f"{directory}")
        Offload(shape, terminal, directory).run()
    except KeyboardInterrupt:
        terminal.fact("stopped", "interrupted")
        return 130
    except Exception as error:  # a Failure, or one of NIXL's errors, which carry their sentence
        terminal.fact("failed", describe(error), "31")
        return 1
    finally:
        if directory:
            shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
