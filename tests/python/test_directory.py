# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Agents that meet at a directory, as programs use it: metadata calls without an address."""

import os
import signal
import subprocess
import sys

import nixl._bindings as b
import numpy as np
import pytest
from nixl import nixl_agent
from support import config, eventually, random_bytes, run, whole

PEER = """
import sys
import numpy as np
from nixl import nixl_agent, nixl_agent_config
agent = nixl_agent("target", nixl_agent_config(backends=["UCX"]))
data = np.full(4096, 7, dtype=np.uint8)
agent.register_memory([(data.ctypes.data, data.nbytes, 0, "")], "DRAM")
agent.send_local_metadata()
agent.wait_metadata()
print(data.ctypes.data, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("NIXL_METADATA_STORE", f"file://{tmp_path}")
    return tmp_path


def test_agents_find_each_other_by_name_and_forget_who_withdraws():
    target, initiator = nixl_agent("target", config("LOOPBACK")), nixl_agent("initiator", config("LOOPBACK"))
    source, sink = random_bytes(4096), np.zeros(4096, dtype=np.uint8)
    target.register_memory([(*whole(source), "")], "DRAM")
    initiator.register_memory([(*whole(sink), "")], "DRAM")
    initiator.fetch_remote_metadata("target")
    target.send_local_metadata()
    assert initiator.wait_metadata()
    local, remote = (initiator.get_xfer_descs([whole(array)], "DRAM") for array in (sink, source))
    run(initiator, initiator.initialize_xfer("READ", local, remote, "target", b""))
    assert (sink == source).all()
    target.invalidate_local_metadata()
    eventually(lambda: not initiator.check_remote_metadata("target"), "the withdrawal")


def test_a_killed_process_is_forgotten():
    initiator = nixl_agent("initiator", config("UCX"))
    with subprocess.Popen([sys.executable, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        address = int(peer.stdout.readline())
        initiator.fetch_remote_metadata("target")
        assert initiator.wait_metadata()
        sink = np.zeros(4096, dtype=np.uint8)
        initiator.register_memory([(*whole(sink), "")], "DRAM")
        local = initiator.get_xfer_descs([whole(sink)], "DRAM")
        remote = initiator.get_xfer_descs([(address, 4096, 0)], "DRAM")
        run(initiator, initiator.initialize_xfer("READ", local, remote, "target", b""))
        assert (sink == 7).all()
        os.kill(peer.pid, signal.SIGKILL)
        eventually(lambda: not initiator.check_remote_metadata("target"), "the end of the target")


def test_without_directory_the_sentence_names_the_option(monkeypatch):
    monkeypatch.delenv("NIXL_METADATA_STORE")
    with pytest.raises(b.nixlNotSupportedError, match="NIXL_METADATA_STORE, for example file:///run/nixl"):
        nixl_agent("alone", config("LOOPBACK")).send_local_metadata()
