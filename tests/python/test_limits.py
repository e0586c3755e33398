# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Transfers end: by their limits, or when they are cancelled, and their buffers are quiet then."""

import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import nixl._bindings as b
from nixl import nixl_agent
from support import address, config, eventually, make_pair, run, whole

LONG = 64 << 20


def end(agent, target, handle):
    """What check_xfer_state raises in the end, or "DONE"."""

    def state():
        target.get_new_notifs()  # progress
        try:
            return agent.check_xfer_state(handle) == "DONE" and "DONE"
        except b.nixlBackendError as error:
            return error
        except b.nixlCancelledError as error:
            return error

    return eventually(state, "the transfer's end")


def test_cancelled_transfer_is_done_or_raises_cancelled(backend):
    pair = make_pair(backend, LONG)
    handle = pair.request("WRITE")
    assert pair.initiator.cancel_xfer(handle) is None  # no effect: it does not run
    pair.initiator.transfer(handle)
    pair.initiator.cancel_xfer(handle)
    state = end(pair.initiator, pair.target, handle)
    assert state == "DONE" or isinstance(state, b.nixlCancelledError)
    run(pair.initiator, handle)
    np.testing.assert_array_equal(pair.sink, pair.source)
    report = pair.initiator.get_xfer_report(handle)
    assert (report.bytes_done, report.settling, report.stuck) == (LONG, False, False)


def test_transfer_past_its_deadline_is_done_or_raises_timeout(backend):
    pair = make_pair(backend, LONG)
    handle = pair.request("WRITE")
    pair.initiator.set_xfer_limits(handle, deadline=0.001)
    pair.initiator.transfer(handle)
    state = end(pair.initiator, pair.target, handle)
    if state != "DONE":
        assert isinstance(state, b.nixlTimeoutError) and isinstance(state, b.nixlBackendError)
        assert state.status == "NIXL_ERR_TIMEOUT"
        assert "deadline of 1 ms" in str(state) and f"of {LONG} bytes" in str(state)
    pair.initiator.release_xfer_handle(handle)


@pytest.mark.parametrize("limits", [{"deadline": 60}, {"stall": 20}, {"deadline": math.inf, "stall": math.inf}, {}])
def test_limits_that_are_not_reached_change_nothing(pair, limits):
    handle = pair.request("WRITE")
    pair.initiator.set_xfer_limits(handle, **limits)
    run(pair.initiator, handle)
    np.testing.assert_array_equal(pair.sink, pair.source)


@pytest.mark.parametrize("wrong", [0, -1, 86400.1, 1e30, math.nan, -math.inf])
def test_limits_out_of_range_are_refused(pair, wrong):
    handle = pair.request("WRITE")
    for limits in ({"deadline": wrong}, {"stall": wrong}):
        with pytest.raises(b.nixlInvalidParamError, match="from 1 ms to 24 h"):
            pair.initiator.set_xfer_limits(handle, **limits)
    with pytest.raises(TypeError):
        pair.initiator.set_xfer_limits(handle, deadline="soon")


def test_released_handles_are_refused(pair):
    handle = pair.request("WRITE")
    handle.release()
    with pytest.raises(b.nixlInvalidParamError):
        pair.initiator.cancel_xfer(handle)
    with pytest.raises(b.nixlInvalidParamError):
        pair.initiator.set_xfer_limits(handle, stall=1)


def test_broken_stall_limit_is_a_runtime_error(monkeypatch):
    monkeypatch.setenv("NIXL_STALL_LIMIT_MS", "soon")
    with pytest.raises(RuntimeError, match="NIXL_STALL_LIMIT_MS"):
        nixl_agent("alone", config("LOOPBACK"))


SERVER = """
import sys
import numpy as np
from nixl import nixl_agent, nixl_agent_config

memory = np.full(int(sys.argv[1]), 7, dtype=np.uint8)
agent = nixl_agent("server", nixl_agent_config(backends=["UCX"]))
agent.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
print(memory.ctypes.data, agent.get_agent_metadata().hex(), flush=True)
sys.stdin.read()
"""


def test_paused_peer_raises_timeout_and_writes_nothing_later(plugins, monkeypatch):
    if "UCX" not in plugins:
        pytest.skip("there is no plugin UCX")
    monkeypatch.setenv("NIXL_COMPANIONS", "n")  # SHM reads the memory of a peer that stands still
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(LONG)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        there, metadata = server.stdout.readline().split()
        agent = nixl_agent("client", config("UCX"))
        sink = np.zeros(LONG, dtype=np.uint8)
        agent.register_memory([(*whole(sink), "")], "DRAM")
        agent.add_remote_agent(bytes.fromhex(metadata))
        local = agent.get_xfer_descs([(address(sink), LONG, 0)], "DRAM")
        remote = agent.get_xfer_descs([(int(there), LONG, 0)], "DRAM")
        handle = agent.initialize_xfer("READ", local, remote, "server")
        run(agent, handle)
        agent.set_xfer_limits(handle, stall=0.2)
        os.kill(server.pid, signal.SIGSTOP)
        assert agent.transfer(handle) == "PROC"
        error = end(agent, agent, handle)
        assert isinstance(error, b.nixlTimeoutError) and "no byte moved for 200 ms" in str(error)
        sink[:] = 9
        agent.release_xfer_handle(handle)
        os.kill(server.pid, signal.SIGCONT)
        agent.add_remote_agent(bytes.fromhex(metadata))
        again = agent.initialize_xfer("WRITE", local, remote, "server")
        run(agent, again)
        assert (sink == 9).all()
    assert server.returncode == 0
    assert (sink == 9).all()
