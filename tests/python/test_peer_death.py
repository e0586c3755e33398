# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""A peer in another process is killed: what its survivor raises, and how the same name comes back."""

import multiprocessing
import os
import traceback

import numpy as np
import pytest

from support import DEADLINE_S, config, eventually, random_bytes, run, whole

SIZE = 1 << 20


def _target(pipe, seed):
    os.environ["NIXL_CONFIG_FILE"] = os.devnull
    from nixl._api import nixl_agent

    agent = nixl_agent("target", config("UCX"))
    memory = random_bytes(SIZE, seed)
    agent.register_memory([(*whole(memory), "")], "DRAM")
    pipe.send((agent.get_agent_metadata(), whole(memory)))
    pipe.recv()


@pytest.fixture
def start(plugins):
    """Starts a target; its process, its metadata and the place of its memory."""
    if "UCX" not in plugins:
        pytest.skip("there is no plugin UCX")
    context = multiprocessing.get_context("spawn")
    processes = []

    def start_one(seed):
        ours, theirs = context.Pipe()
        process = context.Process(target=_target, args=(theirs, seed), daemon=True)
        process.start()
        processes.append((process, ours))
        assert ours.poll(DEADLINE_S)
        return process, *ours.recv()

    yield start_one
    for process, _ in processes:
        process.kill()
        process.join(DEADLINE_S)


def test_a_killed_peer_is_a_remote_disconnect_and_then_not_found(start):
    from nixl._api import nixl_agent
    from nixl._bindings import nixlNotFoundError, nixlRemoteDisconnectError

    agent = nixl_agent("survivor", config("UCX"))
    memory = np.zeros(SIZE, dtype=np.uint8)
    agent.register_memory([(*whole(memory), "")], "DRAM")
    local = agent.get_xfer_descs([whole(memory)], "DRAM")

    process, metadata, place = start(seed=1)
    name = agent.add_remote_agent(metadata)
    handle = agent.initialize_xfer("READ", local, agent.get_xfer_descs([place], "DRAM"), name)
    run(agent, handle)
    np.testing.assert_array_equal(memory, random_bytes(SIZE, 1))

    process.kill()
    process.join(DEADLINE_S)
    with pytest.raises(nixlRemoteDisconnectError, match="'target' is gone"):
        eventually(lambda: run(agent, handle))
    with pytest.raises(nixlNotFoundError, match="'target' was disconnected after transfer request creation"):
        agent.transfer(handle)
    with pytest.raises(nixlNotFoundError, match="'target'"):
        agent.send_notif(name, b"is anybody there?")
    agent.release_xfer_handle(handle)

    _, metadata, place = start(seed=2)
    assert agent.add_remote_agent(metadata) == name
    run(agent, agent.initialize_xfer("READ", local, agent.get_xfer_descs([place], "DRAM"), name))
    np.testing.assert_array_equal(memory, random_bytes(SIZE, 2))


def test_a_peer_that_was_killed_before_it_is_loaded_is_a_backend_error(start):
    from nixl._api import nixl_agent
    from nixl._bindings import nixlBackendError, nixlNotFoundError

    agent = nixl_agent("survivor", config("UCX"))
    process, metadata, _ = start(seed=1)
    process.kill()
    process.join(DEADLINE_S)
    with pytest.raises(nixlBackendError, match="'target': its process has ended") as caught:
        agent.add_remote_agent(metadata)
    assert "nixlBackendError" in "".join(traceback.format_exception(caught.value))  # Ray looks for it
    with pytest.raises(nixlNotFoundError):
        agent.send_notif("target", b"is anybody there?")


def test_a_peer_that_is_killed_after_it_was_loaded_is_a_remote_disconnect_of_the_first_transfer(start):
    from nixl._api import nixl_agent
    from nixl._bindings import nixlRemoteDisconnectError

    agent = nixl_agent("survivor", config("UCX"))
    memory = np.zeros(SIZE, dtype=np.uint8)
    agent.register_memory([(*whole(memory), "")], "DRAM")
    process, metadata, place = start(seed=1)
    name = agent.add_remote_agent(metadata)
    process.kill()
    process.join(DEADLINE_S)
    local, remote = agent.get_xfer_descs([whole(memory)], "DRAM"), agent.get_xfer_descs([place], "DRAM")
    handle = agent.initialize_xfer("READ", local, remote, name)
    with pytest.raises(nixlRemoteDisconnectError, match="'target' is gone"):
        run(agent, handle)
