# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Two processes exchange metadata and pickled descriptors over a pipe and move numpy buffers over UCX."""

import multiprocessing
import os
import pickle

import numpy as np
import pytest

from support import DEADLINE_S, config, eventually, random_bytes, run, whole

SIZE = 1 << 20


def _target(pipe):
    """A process that offers memory, and answers what it was asked over the pipe."""
    os.environ["NIXL_CONFIG_FILE"] = os.devnull
    from nixl._api import nixl_agent

    agent = nixl_agent("target", config("UCX"))
    memory = random_bytes(SIZE, seed=11)
    registered = agent.register_memory([(*whole(memory), "")], "DRAM")
    pipe.send((agent.get_agent_metadata(), agent.get_serialized_descs(registered.trim()), registered.trim()))
    name = agent.add_remote_agent(pipe.recv())
    messages = []
    eventually(lambda: messages.extend(agent.get_new_notifs().get(name.decode(), [])) or b"stop" in messages)
    pipe.send((messages, memory))
    pipe.recv()


@pytest.fixture
def peer(plugins):
    if "UCX" not in plugins:
        pytest.skip("there is no plugin UCX")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_target, args=(theirs,))
    process.start()
    yield ours
    ours.send("end")
    process.join(DEADLINE_S)
    assert process.exitcode == 0


def test_read_and_write_with_notifications(peer):
    from nixl._api import nixl_agent

    agent = nixl_agent("initiator", config("UCX"))
    memory = np.zeros(SIZE, dtype=np.uint8)
    agent.register_memory([(*whole(memory), "")], "DRAM")
    assert peer.poll(DEADLINE_S)
    metadata, serialized, descs = peer.recv()
    assert agent.deserialize_descs(serialized) == descs == pickle.loads(pickle.dumps(descs))
    assert agent.add_remote_agent(metadata) == b"target"
    peer.send(agent.get_agent_metadata())

    local = agent.get_xfer_descs([whole(memory)], "DRAM")
    run(agent, agent.initialize_xfer("READ", local, descs, "target", b"was read"))
    np.testing.assert_array_equal(memory, random_bytes(SIZE, seed=11))

    memory[:] = random_bytes(SIZE, seed=12)
    handle = agent.initialize_xfer("WRITE", local, descs, "target", b"stop")
    run(agent, handle)
    assert peer.poll(DEADLINE_S)
    messages, written = peer.recv()
    assert messages == [b"was read", b"stop"]
    np.testing.assert_array_equal(written, memory)
    assert agent.get_xfer_report(handle).backend == "UCX"
