#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Partial metadata: a target tells an initiator of its memory piece by piece.

Both agents live in this process and listen for metadata. The target sends the connection and the first half of its
memory, later the other half. Until then the initiator cannot make a request of both halves: NIXL answers
nixlNotFoundError, and the initiator tries again, as a program does that does not know when its peer will be ready.

With --etcd they have no addresses: the target publishes each half under a label, and the initiator fetches them from
there, by name. NIXL_ETCD_ENDPOINTS says where etcd is (tools/etcd_server.py COMMAND... runs one for a command); any
other directory will do as well (docs/directory.md).

Exit status: 0 if every byte arrived, 1 otherwise, 2 for wrong arguments.
"""

import argparse
import os

import common
import numpy as np
from nixl._api import nixl_agent, nixl_agent_config
from nixl._bindings import nixlNotFoundError

HALF_BYTES = 1 << 20
DIRECTORIES = ("NIXL_ETCD_ENDPOINTS", "NIXL_TCPSTORE_ENDPOINT", "NIXL_METADATA_STORE")


def new_agent(name, port):
    return nixl_agent(name, nixl_agent_config(enable_prog_thread=True, enable_listen_thread=True, listen_port=port))


def register(agent, array):
    return agent.register_memory([(array.ctypes.data, array.nbytes, 0, "")], "DRAM")


def both_halves(agent, array):
    address = array.ctypes.data
    return agent.get_xfer_descs([(address, HALF_BYTES, 0), (address + HALF_BYTES, HALF_BYTES, 0)], "DRAM")


def main():
    options = parse_arguments()
    target = new_agent("target", options.target_port)
    initiator = new_agent("initiator", options.init_port)

    source = np.random.default_rng().integers(0, 256, 2 * HALF_BYTES, dtype=np.uint8)
    sink = np.zeros_like(source)
    halves = [register(target, source[:HALF_BYTES]), register(target, source[HALF_BYTES:])]
    registered = register(initiator, sink)

    def send_half(number, with_connection):
        if options.etcd:
            label = f"half {number}"
            initiator.fetch_remote_metadata("target", label=label)  # waits until it is there
            target.send_partial_agent_metadata(halves[number], with_connection, ["UCX"], label=label)
        else:
            target.send_partial_agent_metadata(halves[number], with_connection, ["UCX"], "127.0.0.1",
                                               options.init_port)

    def make_request():
        """A request of both halves, or None as long as the initiator does not know both."""
        try:
            return initiator.initialize_xfer("READ", both_halves(initiator, sink), both_halves(initiator, source),
                                             "target", b"both halves were read")
        except nixlNotFoundError as error:
            refusals[str(error)] = refusals.get(str(error), 0) + 1
            return None

    refusals = {}  # sentence -> how often
    if make_request():
        raise common.Failure("a request was made to an agent that is not known")

    # How to reach the target must come before, or with, the first memory.
    send_half(0, with_connection=True)
    common.wait_for("knowing the first half", lambda: initiator.check_remote_metadata("target", halves[0].trim()))
    if make_request():
        raise common.Failure("a request was made of memory that the initiator was not told of")

    send_half(1, with_connection=False)
    request = common.wait_for("knowing both halves", make_request)
    for sentence, count in refusals.items():
        print(f"initiator: refused {count} times: {sentence}")
    initiator.transfer(request)
    common.finish(initiator, request)
    if (sink != source).any():
        raise common.Failure(f"{int((sink != source).sum())} of {sink.size} bytes did not arrive")
    message = common.next_message(target, "initiator", common.TIMEOUT_S)
    print(f"initiator: all {sink.size} bytes arrived; target: {message.decode()}")

    initiator.release_xfer_handle(request)
    initiator.remove_remote_agent("target")
    initiator.deregister_memory(registered)
    for half in halves:
        target.deregister_memory(half)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init-port", type=common.port_number, default=5556, help="the initiator's (default 5556)")
    parser.add_argument("--target-port", type=common.port_number, default=5555, help="the target's (default 5555)")
    parser.add_argument("--etcd", action="store_true", help="exchange through etcd, or another directory")
    options = parser.parse_args()
    if options.etcd and not any(name in os.environ for name in DIRECTORIES):
        parser.error(f"--etcd: none of {', '.join(DIRECTORIES)} is set")
    if options.init_port == options.target_port:
        parser.error(f"--init-port and --target-port are both {options.init_port}; two agents need two ports")
    return options


if __name__ == "__main__":
    common.run(main)
