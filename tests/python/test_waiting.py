# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Waiting without polling: in threads, in an event loop of the program's, in asyncio."""

import asyncio
import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import nixl._bindings as b
from support import DEADLINE_S, a_turn, make_pair

BYTES = 1 << 20


@pytest.fixture(params=[True, False], ids=["threaded", "polled"])
def pair(backend, request):
    return make_pair(backend, BYTES, enable_prog_thread=request.param)


@pytest.fixture
def waited(pair):
    """Keeps the target going, which without a progress thread somebody has to do."""
    stop = threading.Event()

    def serve():
        while not stop.is_set():
            pair.target.wait_notifs(0.05)

    thread = threading.Thread(target=serve)
    thread.start()
    yield pair
    stop.set()
    thread.join()


def test_wait_ends_with_the_transfer(waited):
    handle = waited.request("WRITE")
    with pytest.raises(b.nixlNotPostedError):
        waited.initiator.wait(handle)
    for _ in range(20):
        waited.initiator.transfer(handle)
        assert waited.initiator.wait(handle, DEADLINE_S) == "DONE"
    np.testing.assert_array_equal(waited.sink, waited.source)


def test_wait_any_returns_the_handles_that_do_not_run(waited):
    handles = [waited.request("WRITE") for _ in range(5)]
    for handle in handles:
        waited.initiator.transfer(handle)
    left = list(handles)
    while left:
        ended = waited.initiator.wait_any(left, DEADLINE_S)
        assert ended and all(handle in left for handle in ended)
        left = [handle for handle in left if handle not in ended]
    assert waited.initiator.wait_any(iter(handles), 0) == handles


def test_wait_notifs_takes_what_arrives(pair):
    assert pair.initiator.wait_notifs(0) == {}
    start = time.monotonic()
    assert pair.initiator.wait_notifs(0.05) == {}
    assert time.monotonic() - start >= 0.05

    def later():
        pair.target.send_notif(pair.initiator.name, b"hello")
        pair.target.wait_notifs(0.01)

    thread = threading.Thread(target=later)
    thread.start()
    assert pair.initiator.wait_notifs(DEADLINE_S) == {pair.target.name: [b"hello"]}
    thread.join()
    assert pair.initiator.get_new_notifs() == {}


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -1e300, float("-inf")])
def test_a_timeout_that_is_over_looks_once(waited, timeout):
    handle = waited.request("WRITE")
    waited.initiator.transfer(handle)
    assert waited.initiator.wait(handle, timeout) in ("DONE", "PROC")
    assert waited.initiator.wait_any([handle], timeout) in ([handle], [])
    assert waited.initiator.wait_notifs(timeout) == {}
    assert waited.initiator.wait(handle, DEADLINE_S) == "DONE"
    assert waited.initiator.wait(handle, timeout) == "DONE"


@pytest.mark.parametrize("timeout", [None, 1e9, 1e300, float("inf")])
def test_a_timeout_that_is_huge_is_for_ever(waited, timeout):
    handle = waited.request("WRITE")
    waited.initiator.transfer(handle)
    assert waited.initiator.wait(handle, timeout) == "DONE"
    waited.initiator.transfer(handle)
    assert waited.initiator.wait_any([handle], timeout) == [handle]
    waited.target.send_notif(waited.initiator.name, b"hello")
    assert waited.initiator.wait_notifs(timeout) == {waited.target.name: [b"hello"]}


def test_a_timeout_that_is_no_number_is_refused(pair):
    handle = pair.request("WRITE")
    for wait in (pair.initiator.wait_notifs, lambda timeout: pair.initiator.wait(handle, timeout),
                 lambda timeout: pair.initiator.wait_any([handle], timeout)):
        with pytest.raises(ValueError, match="not a number"):
            wait(float("nan"))
        with pytest.raises(TypeError):
            wait("soon")


def test_all_threads_that_wait_for_one_request_are_woken(waited):
    agent, handle, outcomes = waited.initiator, waited.request("WRITE"), []
    for _ in range(10):
        agent.transfer(handle)
        threads = [threading.Thread(target=lambda: outcomes.append(agent.wait(handle, DEADLINE_S))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == ["DONE"] * 40


def test_an_agent_that_its_owner_forgets_stays_while_somebody_waits(pair):
    agent, arrived = pair.initiator, []

    def wait(agent):
        arrived.append(agent.wait_notifs(DEADLINE_S))

    thread = threading.Thread(target=wait, args=(agent,))
    thread.start()
    pair.initiator = agent = None
    gc.collect()
    pair.target.send_notif("initiator", b"hello")
    while thread.is_alive():
        pair.target.get_new_notifs()
        thread.join(0.001)
    assert arrived == [{"target": [b"hello"]}]


def test_removed_memory_and_peers_end_the_wait(pair):
    """The target fetches nothing, so that a full inbox holds the transfer."""
    agent = pair.initiator
    handle = pair.request("WRITE", message=b"n" * BYTES)
    while True:
        try:
            agent.send_notif(pair.target.name, b"m" * BYTES)
        except b.nixlRepostActiveError:
            break
    agent.transfer(handle)
    ended = []

    def wait():
        try:
            ended.append(agent.wait(handle, DEADLINE_S))
        except (b.nixlNotFoundError, b.nixlCancelledError, b.nixlRemoteDisconnectError) as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    agent.remove_remote_agent(pair.target.name)
    while thread.is_alive():
        pair.target.get_new_notifs()
        thread.join(0.001)
    assert ended != ["PROC"]


def test_arguments_are_checked(pair):
    for wrong in (None, 7, "handle", pair.initiator):
        with pytest.raises(TypeError):
            pair.initiator.wait(wrong)
        with pytest.raises(TypeError):
            pair.initiator.wait_any([wrong])
        with pytest.raises(TypeError):
            asyncio.run(pair.initiator.done(wrong))
    with pytest.raises(b.nixlInvalidParamError):
        pair.initiator.wait_any([])


def test_other_threads_run_while_one_waits(pair):
    ran = threading.Event()
    threading.Thread(target=ran.set).start()
    assert pair.initiator.wait_notifs(0.2) == {}
    assert ran.is_set()


def test_ctrl_c_ends_a_wait():
    script = (
        "import signal\n"
        "from nixl import nixl_agent, nixl_agent_config\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "agent = nixl_agent('a', nixl_agent_config(backends=['LOOPBACK']))\n"
        "print('waiting', flush=True)\n"
        "agent.wait_notifs()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert "KeyboardInterrupt" in errors


def test_select_serves_the_descriptor(pair):
    agent = pair.initiator
    assert os.get_inheritable(agent.fileno()) is False
    pair.target.send_notif(agent.name, b"hello")
    received = []
    while not received:
        pair.target.get_new_notifs()
        readable, _, _ = select.select([agent], [], [], DEADLINE_S)
        assert readable == [agent]
        for messages in agent.get_new_notifs().values():
            received += messages
    assert received == [b"hello"]


def test_a_thousand_awaits_on_one_loop_are_served(waited):
    agent, count = waited.initiator, 1000
    step = BYTES // count
    handles = []
    for i in range(count):
        local, remote = waited.descs(step, i * step)
        handles.append(agent.initialize_xfer("WRITE", local, remote, waited.target.name))

    async def one(handle):
        agent.transfer(handle)
        return await agent.done(handle)

    async def main():
        return await asyncio.wait_for(asyncio.gather(*map(one, handles)), DEADLINE_S)

    assert asyncio.run(main()) == ["DONE"] * count
    moved = step * count
    np.testing.assert_array_equal(waited.sink[:moved], waited.source[:moved])


def test_notifications_are_awaited_and_none_is_lost_by_cancelling(pair):
    agent, count = pair.initiator, 200

    async def receive(received):
        while len(received) < count:
            for messages in (await agent.notifs()).values():
                received += messages

    async def main():
        received = []
        tasks = [asyncio.create_task(receive(received)) for _ in range(3)]
        for i in range(count):
            pair.target.send_notif(agent.name, str(i).encode())
            pair.target.get_new_notifs()
            if i % 7 == 0:
                tasks[i % 3].cancel()
                tasks[i % 3] = asyncio.create_task(receive(received))
            await a_turn()
        end = time.monotonic() + DEADLINE_S
        while len(received) < count:
            assert time.monotonic() < end, len(received)
            pair.target.get_new_notifs()
            await a_turn()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return received

    assert sorted(asyncio.run(main()), key=int) == [str(i).encode() for i in range(count)]


def test_cancelling_an_await_leaves_the_transfer_alone(waited):
    agent = waited.initiator
    handle = waited.request("WRITE")

    async def main():
        agent.transfer(handle)
        task = asyncio.create_task(agent.done(handle))
        await a_turn()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await asyncio.wait_for(agent.done(handle), DEADLINE_S)

    assert asyncio.run(main()) == "DONE"
    assert asyncio.run(main()) == "DONE", "in a loop that is not the first one's"
    np.testing.assert_array_equal(waited.sink, waited.source)


def test_a_handle_released_while_it_is_awaited_raises(waited):
    agent = waited.initiator

    async def main():
        handle = waited.request("WRITE")
        agent.transfer(handle)
        task = asyncio.create_task(agent.done(handle))
        await a_turn()
        handle.release()
        return await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), DEADLINE_S)

    (outcome,) = asyncio.run(main())
    assert outcome == "DONE" or isinstance(outcome, (b.nixlInvalidParamError, b.nixlCancelledError))


def test_a_second_loop_at_the_same_time_is_refused(pair):
    agent = pair.initiator
    first_waits, stop = threading.Event(), threading.Event()

    async def first():
        task = asyncio.create_task(agent.notifs())
        await a_turn()
        first_waits.set()
        while not stop.is_set():
            await a_turn()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(first()))
    thread.start()
    assert first_waits.wait(DEADLINE_S)
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(agent.notifs())
    stop.set()
    thread.join()
