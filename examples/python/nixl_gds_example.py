#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Memory to a file and back, with GPUDirect Storage.

    nixl_gds_example.py /path/to/a/file
    nixl_gds_example.py --backend POSIX /path/to/a/file    # on a machine without a GPU

A buffer is written to the file, and the file read into a second buffer. For all storage the remote agent is the own
one: files are "remote" memory of the agent that has them open.

Exit status: 0 if every byte came back, 1 otherwise, 2 for wrong arguments.
"""

import argparse
import os

import common
import nixl._utils as nixl_utils
from nixl._api import nixl_agent, nixl_agent_config

BUFFER_BYTES = 16 * 4096
NAME = "GDSTester"


def run(path, backend):
    agent = nixl_agent(NAME, nixl_agent_config(backends=[]))
    agent.create_backend(backend)

    # Two buffers: the first full of 0xBA, the second of zeros. They are registered as one list.
    addresses = [nixl_utils.malloc_passthru(BUFFER_BYTES) for _ in range(2)]
    nixl_utils.ba_buf(addresses[0], BUFFER_BYTES)
    memory = agent.get_reg_descs([(address, BUFFER_BYTES, 0, "a") for address in addresses], "DRAM")
    agent.register_memory(memory)
    source, sink = (agent.get_xfer_descs([(address, BUFFER_BYTES, 0)], "DRAM") for address in addresses)

    # The device id of a file is its descriptor, the address an offset in it.
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    file = agent.register_memory([(0, BUFFER_BYTES, fd, "b")], "FILE")
    place = file.trim()

    for operation, descs in (("WRITE", source), ("READ", sink)):
        request = agent.initialize_xfer(operation, descs, place, NAME)
        agent.transfer(request)
        common.finish(agent, request)
        print(f"{operation}: {BUFFER_BYTES} bytes, over {agent.query_xfer_backend(request)}")
        agent.release_xfer_handle(request)
    nixl_utils.verify_transfer(*addresses, BUFFER_BYTES)
    print("every byte came back")

    agent.deregister_memory(file)
    os.close(fd)
    agent.deregister_memory(memory)
    for address in addresses:
        nixl_utils.free_passthru(address)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="the file; it is made if it is not there, its first 64 KiB are overwritten")
    parser.add_argument("--backend", default="GDS", help="backend that moves the data (default GDS)")
    options = parser.parse_args()
    run(options.path, options.backend)


if __name__ == "__main__":
    common.run(main)
