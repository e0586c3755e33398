#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""A process saves its KV cache to a bucket of an S3 server, drops it, and restores it.

The blocks, which lie in memory as a block table says, become one object per layer, in the order of the sequence. Then
the cache is overwritten, and the blocks are read back to the places of a new block table. Every byte is compared.

The server is AWS, or whatever --endpoint or AWS_ENDPOINT_URL names; keys come from where AWS's own programs look for
them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, the machine's role.

The objects stay in the bucket, since NIXL deletes none; the next run overwrites them.
"""

import argparse
import os
import sys

from common import Failure, describe
from kv_cache import (POISON, Terminal, block_descriptors, block_tables, fill, fitted, free_memory, layer_descriptors,
                      layer_requests, move, new_cache, register, shape_of, shape_options, size_text, verify)
from nixl._api import nixl_agent, nixl_agent_config


class Storage:
    def __init__(self, shape, terminal, prefix, parameters):
        self.shape, self.terminal = shape, terminal
        self.keys = [f"{prefix}/layer_{layer:03}" for layer in range(shape.layers)]
        self.agent = nixl_agent("engine", nixl_agent_config(backends=[]))
        self.agent.create_backend(shape.backend, parameters)
        self.cache = new_cache(shape)

    def run(self):
        shape, terminal, agent = self.shape, self.terminal, self.agent
        before, after = block_tables(shape)
        fill(shape, self.cache, before, terminal)

        memory = register(agent, self.cache)
        # An object is known by a number of ours; its key stands in the registration.
        layer_bytes = 2 * shape.tensor_bytes
        objects = agent.register_memory([(0, layer_bytes, layer, key) for layer, key in enumerate(self.keys)], "OBJ")
        local = agent.prep_xfer_dlist(
            "NIXL_INIT_AGENT", block_descriptors(shape, [tensor.ctypes.data for tensor in self.cache]), "DRAM")
        remote = agent.prep_xfer_dlist("engine", layer_descriptors(shape), "OBJ")

        terminal.fact("before", self.present())
        move(agent, shape, terminal, "save", layer_requests(agent, shape, "WRITE", local, remote, before))
        terminal.fact("after", self.present())
        for tensor in self.cache:
            tensor[:] = POISON
        terminal.fact("drop", "the cache is overwritten")
        requests = layer_requests(agent, shape, "READ", local, remote, after)
        report = move(agent, shape, terminal, "restore", requests)
        right = verify(shape, self.cache, after, terminal)

        local.release()
        remote.release()
        agent.deregister_memory(objects)
        agent.deregister_memory(memory)
        terminal.fact("path", report.path)
        terminal.fact("result", f"every byte is right: {right:,} bytes in {len(self.keys)} objects", "32")

    def present(self):
        """Which of the objects are there: many questions in one call."""
        answers = self.agent.query_memory([(0, 0, 0, key) for key in self.keys], self.shape.backend, "OBJ")
        count = sum(answer is not None for answer in answers)
        return f"{count} of the {len(self.keys)} objects are in the bucket"


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 every byte is right, 1 otherwise.")
    shape_options(parser, "OBJ")
    parser.add_argument("--bucket", default=os.environ.get("AWS_DEFAULT_BUCKET"),
                        help="which must be there (default AWS_DEFAULT_BUCKET)")
    parser.add_argument("--endpoint", help="host[:port] or URL of the server (default AWS_ENDPOINT_URL, else AWS)")
    parser.add_argument("--region", help="(default AWS_REGION, AWS_DEFAULT_REGION, the profile's, us-east-1)")
    parser.add_argument("--prefix", default="nixl-kv-cache", help="of the keys (default nixl-kv-cache)")
    options = parser.parse_args(arguments)
    parameters = {"bucket": options.bucket, "endpoint_override": options.endpoint, "region": options.region}
    return shape_of(options), options.prefix, {name: value for name, value in parameters.items() if value}


def main():
    terminal = Terminal()
    shape, prefix, parameters = parse_arguments(sys.argv[1:])
    try:
        if "bucket" not in parameters:
            raise Failure("no bucket is given; say --bucket NAME or set AWS_DEFAULT_BUCKET")
        print("An engine saves its KV cache to a bucket and restores it.", flush=True)
        shape = fitted(shape, terminal, 1, free_memory(), "memory")
        terminal.fact("cache", f"{shape.layers} layers x (K, V) x {shape.blocks:,} blocks x "
                               f"{size_text(shape.block_bytes)} = {size_text(shape.total_bytes)}, an object per layer: "
                               f"{parameters['bucket']}/{prefix}/...")
        Storage(shape, terminal, prefix, parameters).run()
    except KeyboardInterrupt:
        terminal.fact("stopped", "interrupted")
        return 130
    except Exception as error:  # a Failure, or one of NIXL's errors, which carry their sentence
        terminal.fact("failed", describe(error), "31")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
