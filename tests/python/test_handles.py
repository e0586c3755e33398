# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Handles are freed by release(), or by the garbage collector: on any thread, in flight, and after the agent."""

import gc
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import nixl._bindings as b
from nixl import nixl_agent, nixl_prepped_dlist_handle, nixl_xfer_handle
from support import config, eventually, make_pair, run, whole


@pytest.fixture
def prepared(agent):
    data = np.zeros(4096, dtype=np.uint8)
    agent.register_memory([(*whole(data), "")], "DRAM")
    agent.data = data
    return agent, agent.prep_xfer_dlist("", [whole(data)], "DRAM")


def test_handle_form(pair):
    handle = pair.request()
    assert isinstance(handle, nixl_xfer_handle) and handle
    assert handle.__slots__ == ("_handle", "_agent", "_released")
    assert repr(handle) == f"nixl_xfer_handle(0x{handle._handle:x}, released=False)"
    assert handle._agent is pair.initiator.agent
    assert {handle: 1}[handle] == 1 and not hasattr(handle, "__dict__")
    handle.release()
    assert repr(handle).endswith("released=True)")


def test_prepared_list_handle_form(prepared):
    _, handle = prepared
    assert isinstance(handle, nixl_prepped_dlist_handle) and handle
    assert handle.__slots__ == ("_handle", "_agent", "_released")
    assert repr(handle) == f"nixl_prepped_dlist_handle(0x{handle._handle:x}, released=False)"


def test_release_is_idempotent(pair, prepared):
    handle = pair.request()
    run(pair.initiator, handle)
    assert pair.initiator.release_xfer_handle(handle) is None
    handle.release()
    agent, prepared_list = prepared
    assert agent.release_dlist_handle(prepared_list) is None
    prepared_list.release()


def test_released_handle_is_refused(pair, prepared):
    handle = pair.request()
    handle.release()
    for call in (pair.initiator.transfer, pair.initiator.check_xfer_state, pair.initiator.get_xfer_report):
        with pytest.raises(b.nixlInvalidParamError):
            call(handle)
    agent, side = prepared
    side.release()
    with pytest.raises(b.nixlInvalidParamError):
        agent.make_prepped_xfer("WRITE", side, [0], side, [0])


class _Agent:
    """A bindings agent that refuses to release."""

    def __init__(self):
        self.refuses = True
        self.released, self.dropped = [], []

    def releaseXferReq(self, handle):
        if self.refuses:
            raise b.nixlRepostActiveError("NIXL_ERR_REPOST_ACTIVE")
        self.released.append(handle)

    def dropXferReq(self, handle):
        self.dropped.append(handle)

    releasedDlistH = releaseXferReq


@pytest.mark.parametrize("kind", [nixl_xfer_handle, nixl_prepped_dlist_handle])
def test_failing_release_raises_and_may_be_repeated(kind):
    agent = _Agent()
    handle = kind(agent, 7)
    with pytest.raises(b.nixlRepostActiveError):
        handle.release()
    assert not handle._released
    agent.refuses = False
    handle.release()
    handle.release()
    del handle
    assert (agent.released, agent.dropped) == ([7], [])


def test_collected_transfer_is_dropped_once():
    agent = _Agent()
    nixl_xfer_handle(agent, 9)
    gc.collect()
    assert agent.dropped == [9]


def test_failure_while_collecting_is_silent(recwarn):
    class Broken:
        def dropXferReq(self, handle):
            raise RuntimeError("gone")

    nixl_xfer_handle(Broken(), 9)
    nixl_xfer_handle.__new__(nixl_xfer_handle)
    gc.collect()
    assert list(recwarn) == []


def test_collected_handles_are_freed_in_the_agent(pair):
    handle = pair.request()
    number, raw = handle._handle, handle._agent
    del handle
    with pytest.raises(b.nixlInvalidParamError):
        raw.getXferStatus(number)


def test_handle_outlives_its_agent(backend):
    pair = make_pair(backend)
    handle = pair.request()
    side = pair.initiator.prep_xfer_dlist("", pair.descs()[0])
    pair.initiator = None
    gc.collect()
    assert "0x" in repr(handle)
    handle.release()
    del handle, side
    gc.collect()


def test_handle_dropped_in_flight_is_safe(backend):
    pair = make_pair(backend, size=1 << 22)
    for _ in range(20):
        handle = pair.request("WRITE", b"done")
        pair.initiator.transfer(handle)
        del handle
    run(pair.initiator, pair.request())
    np.testing.assert_array_equal(pair.sink, pair.source)


def test_handles_are_collected_on_other_threads(backend):
    pair = make_pair(backend)
    errors = []

    class Cycle:
        """Only the garbage collector frees this, on the thread that happens to run it."""

        def __init__(self, handle):
            self.me, self.handle = self, handle

    def work():
        try:
            for _ in range(50):
                handle = pair.request()
                pair.initiator.transfer(handle)
                Cycle(handle)
                del handle
                gc.collect(0)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        gc.collect()
    for thread in threads:
        thread.join()
    gc.collect()
    assert errors == []
    run(pair.initiator, pair.request())


def test_two_threads_release_one_handle(pair):
    def release(handle, outcomes):
        try:
            handle.release()
            outcomes.append("released")
        except b.nixlInvalidParamError:
            outcomes.append("too late")

    for _ in range(20):
        handle, outcomes = pair.request(), []
        threads = [threading.Thread(target=release, args=(handle, outcomes)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert "released" in outcomes and len(outcomes) == 2


def _run_script(body, **environment):
    script = textwrap.dedent(
        """
        import os, sys
        os.environ["NIXL_CONFIG_FILE"] = os.devnull
        sys.path.insert(0, {folder!r})
        import support, nixl
        """
    ).format(folder=__file__.rpartition("/")[0]) + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("", id="globals alive"),
        pytest.param("pair.initiator.self = pair.initiator", id="agent in a cycle"),
        pytest.param("sys.keep = (pair, handle, side)", id="held by a module"),
        pytest.param("raise SystemExit(0)", id="sys.exit"),
        pytest.param("import atexit; atexit.register(lambda: pair.initiator.check_xfer_state(handle))", id="atexit"),
        pytest.param(
            "import threading; threading.Thread(target=lambda: [pair.initiator.get_new_notifs() for _ in iter(int, 1)],"
            " daemon=True).start()",
            id="daemon thread polling",
        ),
    ],
)
def test_interpreter_ends_cleanly_with_handles_alive(backend, ending):
    result = _run_script(
        f"""
        pair = support.make_pair({backend!r})
        handle = pair.request("WRITE", b"bye")
        side = pair.initiator.prep_xfer_dlist("", pair.descs()[0])
        pair.initiator.transfer(handle)
        print("started", flush=True)
        {ending}
        """
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "started\n", "")


def test_agent_of_a_parent_is_refused_in_a_forked_child(backend):
    result = _run_script(
        f"""
        import nixl._bindings as b
        agent = nixl.nixl_agent("parent", support.config({backend!r}))
        child = os.fork()
        if child == 0:
            try:
                agent.get_agent_metadata()
            except b.nixlForkedError as error:
                os._exit(0 if isinstance(error, b.nixlBackendError) else 2)
            os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert (result.returncode, result.stdout) == (0, "0\n"), result.stderr


def test_many_agents_come_and_go(backend):
    for _ in range(5):
        agent = nixl_agent("short-lived", config(backend))
        data = np.zeros(4096, dtype=np.uint8)
        agent.register_memory([(*whole(data), "")], "DRAM")
        del agent
        gc.collect()
    eventually(lambda: not any("short-lived" in repr(o) for o in gc.garbage))
