#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Two processes: the initiator reads a tensor out of the target's memory.

    basic_two_peers.py --mode target
    basic_two_peers.py --mode initiator          # in another terminal, or with --ip on another machine

Both agents listen for metadata. The initiator asks the target's listener for metadata and sends its own there. The
target answers with a notification that says where its tensor lies; the initiator reads it row by row and, with the
same request, notifies the target that it is done. With --by-name both meet by name, for example without any service,
where one of them hosts the rendezvous:

    export NIXL_METADATA_STORE=rendezvous://127.0.0.1:7000 NIXL_RENDEZVOUS_LISTEN=7000

Exit status: 0 if every number arrived, 1 otherwise, 2 for wrong arguments.
"""

import common
import numpy as np
from nixl._api import nixl_agent, nixl_agent_config
from nixl._bindings import nixlNotFoundError

try:
    import torch
except ImportError:
    torch = None

SHAPE = (10, 16)


def new_tensor(value, use_cuda):
    """A matrix full of `value`: a torch tensor where there is PyTorch, a NumPy array elsewhere."""
    if torch:
        return torch.full(SHAPE, value, dtype=torch.float32, device="cuda" if use_cuda else "cpu")
    return np.full(SHAPE, value, dtype=np.float32)


def register(agent, tensor):
    """Makes the tensor's memory known to the agent; only registered memory can be transferred."""
    if torch:
        return agent.register_memory(tensor)
    # NumPy memory is named by address, length, device and a free text: an array would be taken for a list of these.
    return agent.register_memory([(tensor.ctypes.data, tensor.nbytes, 0, "")], "DRAM")


def rows_of(agent, tensor):
    """A transfer list with one descriptor for each row."""
    if torch:
        return agent.get_xfer_descs(list(tensor))
    return agent.get_xfer_descs([(row.ctypes.data, row.nbytes, 0) for row in tensor], "DRAM")


def run_target(agent, tensor, options):
    common.meet_initiator(agent, options)
    # The initiator does not know our addresses. Notifications travel over the backend, like the data.
    agent.send_notif("initiator", agent.get_serialized_descs(rows_of(agent, tensor)))
    message = common.next_message(agent, "initiator", options.timeout)
    if message != b"Done_reading":
        raise common.Failure(f"the initiator sent {message} instead of 'Done_reading'")
    print("target: the initiator has read the tensor")


def run_initiator(agent, tensor, options):
    common.meet_target(agent, options)
    target_rows = agent.deserialize_descs(common.next_message(agent, "target", options.timeout))
    common.meet_target(agent, options, target_rows)

    # A request can be made once and posted many times. The notification goes out after the data was read.
    request = agent.initialize_xfer("READ", rows_of(agent, tensor), target_rows, "target", b"Done_reading")
    agent.transfer(request)
    common.finish(agent, request, options.timeout)

    wrong = int((tensor != 1).sum())
    if wrong:
        raise common.Failure(f"{wrong} of {SHAPE[0] * SHAPE[1]} numbers did not arrive")
    print(f"initiator: all {SHAPE[0] * SHAPE[1]} numbers arrived, over {agent.query_xfer_backend(request)}")
    agent.release_xfer_handle(request)


def parse_arguments():
    parser = common.two_peers_parser(__doc__)
    parser.add_argument("--use_cuda", action="store_true", help="keep the tensor on a GPU; needs PyTorch with CUDA")
    options = parser.parse_args()
    if options.use_cuda and not (torch and torch.cuda.is_available()):
        parser.error("--use_cuda needs PyTorch with CUDA and a GPU; "
                     + ("this PyTorch finds no GPU" if torch else "PyTorch is not installed"))
    return options


def main():
    options = parse_arguments()
    is_target = options.mode == "target"
    # Progress thread on, listener on. Port 0 lets the system choose: nobody needs to know the initiator's.
    agent = nixl_agent(options.mode, nixl_agent_config(True, True, options.port if is_target else 0))
    tensor = new_tensor(1.0 if is_target else 0.0, options.use_cuda)
    registered = register(agent, tensor)
    if is_target:
        run_target(agent, tensor, options)
    else:
        run_initiator(agent, tensor, options)
    try:
        agent.remove_remote_agent("initiator" if is_target else "target")
    except nixlNotFoundError:
        pass  # by name: it has ended meanwhile, and was forgotten for that
    agent.deregister_memory(registered)


if __name__ == "__main__":
    common.run(main)
