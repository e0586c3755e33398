#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Two processes go through what an inference engine does with NIXL.

    expanded_two_peers.py --mode target
    expanded_two_peers.py --mode initiator

Lists of descriptors as tuples, NumPy array and torch tensors; a request made from two lists; lists that are prepared
once, and requests that pick elements of them by index; a request posted again with new data and another notification;
requests in flight at the same time; notifications as messages; teardown on both sides. After each step the target
looks at its memory and says what it found.

Exit status: 0 if every byte was right, 1 otherwise, 2 for wrong arguments.
"""

import asyncio
import json

import common
import numpy as np
from nixl._api import nixl_agent, nixl_agent_config

try:
    import torch
except ImportError:
    torch = None

BLOCKS = 64
BLOCK_BYTES = 4096
TARGETS_BYTE = 7  # what the target's memory holds at first
REPOSTS = 3


class Memory:
    """A registered buffer of BLOCKS blocks."""

    def __init__(self, agent, content):
        self.blocks = np.full((BLOCKS, BLOCK_BYTES), content, dtype=np.uint8)
        self.registered = agent.register_memory([(self.blocks.ctypes.data, self.blocks.nbytes, 0, "")], "DRAM")

    def tuples(self):
        return [(block.ctypes.data, block.nbytes, 0) for block in self.blocks]


# ---- Target ----------------------------------------------------------------------------------------------------------


def run_target(agent, memory, options):
    common.meet_initiator(agent, options)
    agent.send_notif("initiator", agent.get_serialized_descs(agent.get_xfer_descs(memory.tuples(), "DRAM")))
    while True:
        # A notification given to a transfer arrives when all its data is here: look at once.
        message = json.loads(common.next_message(agent, "initiator", options.timeout))
        if message["step"] == "goodbye":
            break
        wrong = [block for block in message["blocks"] if (memory.blocks[block] != message["holds"]).any()]
        print(f"target: {message['step']}: {'wrong' if wrong else 'right'}")
        agent.send_notif("initiator", json.dumps({"step": message["step"], "wrong": wrong}))
    common.wait_for("the initiator's withdrawal of its metadata",
                    lambda: not agent.check_remote_metadata("initiator"), options.timeout)


# ---- Initiator -------------------------------------------------------------------------------------------------------


def announce(step, blocks, holds):
    """The notification that goes with a step: which of the target's blocks now hold what."""
    return json.dumps({"step": step, "blocks": blocks, "holds": holds})


def expect_right(agent, step, options):
    answer = json.loads(common.next_message(agent, "target", options.timeout))
    if answer != {"step": step, "wrong": []}:
        raise common.Failure(f"{step}: the target answered {answer}")


def run_initiator(agent, memory, options):
    common.meet_target(agent, options)
    target_blocks = agent.deserialize_descs(common.next_message(agent, "target", options.timeout))
    common.meet_target(agent, options, target_blocks)
    everything = list(range(BLOCKS))

    # One list, however it is written.
    local_blocks = agent.get_xfer_descs(memory.tuples(), "DRAM")
    array = np.array(memory.tuples(), dtype=np.uint64)
    forms = {"NumPy array": agent.get_xfer_descs(array, "DRAM")}
    if torch:
        forms["torch tensors"] = agent.get_xfer_descs(list(torch.from_numpy(memory.blocks)))
    for form, descs in forms.items():
        if descs != local_blocks:
            raise common.Failure(f"the list made of {form} is not the list made of tuples")
    print(f"initiator: tuples, {', '.join(forms)}: the same list")

    # Combined: both lists in one call.
    step = "read all"
    request = agent.initialize_xfer("READ", local_blocks, target_blocks, "target",
                                    announce(step, everything, TARGETS_BYTE))
    agent.transfer(request)
    common.finish(agent, request, options.timeout)
    if (memory.blocks != TARGETS_BYTE).any():
        raise common.Failure(f"{step}: bytes did not arrive")
    expect_right(agent, step, options)
    agent.release_xfer_handle(request)

    # Prepared: the lists are resolved once; each request only names indices. "" is the own side.
    step = "write odd blocks"
    local_side = agent.prep_xfer_dlist("", array, "DRAM")
    remote_side = agent.prep_xfer_dlist("target", target_blocks)
    odd = list(range(1, BLOCKS, 2))
    memory.blocks[:] = 20
    request = agent.make_prepped_xfer("WRITE", local_side, odd, remote_side, odd, announce(step, odd, 20))
    agent.transfer(request)
    common.finish(agent, request, options.timeout)
    expect_right(agent, step, options)
    agent.release_xfer_handle(request)

    # Posted again: the request stays, its data and its notification change.
    request = agent.make_prepped_xfer("WRITE", local_side, [0], remote_side, [BLOCKS - 1])
    for number in range(REPOSTS):
        step = f"post number {number}"
        memory.blocks[0] = 100 + number
        agent.transfer(request, announce(step, [BLOCKS - 1], 100 + number))
        common.finish(agent, request, options.timeout)
        expect_right(agent, step, options)
    agent.release_xfer_handle(request)

    # In flight at the same time: transfers are not ordered with each other, so wait for all, then say so.
    step = "two requests at once"
    memory.blocks[:] = 30
    halves = everything[: BLOCKS // 2], everything[BLOCKS // 2 :]
    requests = [agent.make_prepped_xfer("WRITE", local_side, half, remote_side, half) for half in halves]
    for request in requests:
        agent.transfer(request)
    asyncio.run(common.all_done(agent, requests, options.timeout))
    agent.send_notif("target", announce(step, everything, 30))
    expect_right(agent, step, options)
    print(f"initiator: every step was right, over {agent.query_xfer_backend(requests[0])}")

    # Teardown: requests, then prepared lists; then the target is asked to forget this agent, and this one forgets it.
    for request in requests:
        agent.release_xfer_handle(request)
    agent.release_dlist_handle(local_side)
    agent.release_dlist_handle(remote_side)
    agent.send_notif("target", announce("goodbye", [], 0))
    agent.invalidate_local_metadata(options.ip, options.port)
    agent.remove_remote_agent("target")


def main():
    parser = common.two_peers_parser(__doc__)
    parser.add_argument("--backend", default="UCX", help="backend that moves the data (default UCX)")
    options = parser.parse_args()
    is_target = options.mode == "target"
    agent = nixl_agent(options.mode, nixl_agent_config(True, True, options.port if is_target else 0, backends=[]))
    agent.create_backend(options.backend)
    memory = Memory(agent, TARGETS_BYTE if is_target else 0)
    if is_target:
        run_target(agent, memory, options)
    else:
        run_initiator(agent, memory, options)
    agent.deregister_memory(memory.registered)
    print(f"{options.mode}: done")


if __name__ == "__main__":
    common.run(main)
