# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Two agents of one process move data, notifications and metadata, over every backend that can."""

import threading

import numpy as np
import pytest

import nixl._bindings as b
from nixl import nixl_agent
from support import address, blocks, config, eventually, make_pair, random_bytes, run, whole


def notifications(agent, sender, count):
    """The first `count` messages of a sender."""
    messages = []

    def collect():
        messages.extend(agent.get_new_notifs().get(sender, []))
        return len(messages) >= count

    eventually(collect, f"{count} notifications from {sender}")
    return messages


def test_write_moves_the_bytes(pair):
    run(pair.initiator, pair.request("WRITE"))
    np.testing.assert_array_equal(pair.sink, pair.source)


def test_read_moves_the_bytes(pair):
    pair.sink[:] = random_bytes(pair.sink.size, seed=2)
    run(pair.initiator, pair.request("READ"))
    np.testing.assert_array_equal(pair.source, random_bytes(pair.sink.size, seed=2))


def test_transfer_can_be_repeated_with_other_data(pair):
    handle = pair.request("WRITE")
    for seed in range(3, 6):
        pair.source[:] = random_bytes(pair.source.size, seed)
        run(pair.initiator, handle)
        np.testing.assert_array_equal(pair.sink, pair.source)


def test_prepared_transfer_moves_the_chosen_blocks(pair):
    local = pair.initiator.prep_xfer_dlist("", blocks(pair.source, 1024), "DRAM")
    remote = pair.initiator.prep_xfer_dlist("target", blocks(pair.sink, 1024), "DRAM")
    run(pair.initiator, pair.initiator.make_prepped_xfer("WRITE", local, [3, 4, 9], remote, [0, 1, 2], b"blocks"))
    np.testing.assert_array_equal(pair.sink.reshape(-1, 1024)[:3], pair.source.reshape(-1, 1024)[[3, 4, 9]])
    assert notifications(pair.target, "initiator", 1) == [b"blocks"]


@pytest.mark.parametrize("message", ["text ü", b"bytes \x00\xff", bytearray(b"array")])
def test_notification_follows_the_data(pair, message):
    run(pair.initiator, pair.request("WRITE", message))
    expected = message.encode() if isinstance(message, str) else bytes(message)
    assert notifications(pair.target, "initiator", 1) == [expected]
    np.testing.assert_array_equal(pair.sink, pair.source)


def test_message_of_a_post_replaces_the_one_of_the_request(pair):
    handle = pair.request("WRITE", b"first")
    run(pair.initiator, handle)
    run(pair.initiator, handle, b"second")
    run(pair.initiator, handle)
    assert notifications(pair.target, "initiator", 3) == [b"first", b"second", b"second"]


def test_empty_message_means_none_for_a_transfer_but_not_for_send_notif(pair):
    run(pair.initiator, pair.request("WRITE"))
    pair.initiator.send_notif("target", b"")
    pair.initiator.send_notif(b"target", "after", list(pair.initiator.backends)[0])
    assert notifications(pair.target, "initiator", 2) == [b"", b"after"]


def test_send_notif_with_an_unknown_backend_is_a_key_error(pair):
    with pytest.raises(KeyError):
        pair.initiator.send_notif("target", b"x", "NO_SUCH_BACKEND")


def test_update_notifs_accumulates_and_get_new_notifs_does_not(pair):
    pair.initiator.send_notif("target", b"one")
    eventually(lambda: pair.target.update_notifs())
    pair.initiator.send_notif("target", b"two")
    eventually(lambda: len(pair.target.update_notifs()["initiator"]) == 2)
    assert pair.target.notifs == {"initiator": [b"one", b"two"]}
    assert pair.target.get_new_notifs() == {}


def test_check_remote_xfer_done_consumes_the_first_match(pair):
    for message in (b"a-1", b"b-1", b"a-2"):
        pair.initiator.send_notif("target", message)
    done = pair.target.check_remote_xfer_done
    eventually(lambda: len(pair.target.update_notifs().get("initiator", [])) == 3)
    assert done("initiator", "a-") and pair.target.notifs["initiator"] == [b"b-1", b"a-2"]
    assert not done("initiator", b"-2") and done(b"initiator", b"-2", tag_is_prefix=False)
    assert not done("initiator", b"a-") and not done("nobody", b"a-")
    assert pair.target.notifs["initiator"] == [b"b-1"]


def test_empty_message_that_matches_is_found_but_stays(agent):
    agent.notifs = {"peer": [b""]}
    agent.update_notifs = lambda backends: agent.notifs
    assert agent.check_remote_xfer_done("peer", b"") and agent.check_remote_xfer_done("peer", b"")


def test_add_remote_agent_returns_bytes_that_every_call_takes(pair):
    name = pair.initiator.add_remote_agent(pair.target.get_agent_metadata())
    assert name == b"target" and isinstance(name, bytes)
    assert pair.initiator.check_remote_metadata(name)
    pair.initiator.make_connection(name)
    local, remote = pair.descs(length=512)
    run(pair.initiator, pair.initiator.initialize_xfer("WRITE", local, remote, name))
    assert pair.initiator.prep_xfer_dlist(name, remote)
    pair.initiator.send_notif(name, b"hello")
    assert notifications(pair.target, "initiator", 1) == [b"hello"]
    assert pair.initiator.remove_remote_agent(name) is None
    assert not pair.initiator.check_remote_metadata(name)


def test_check_remote_metadata_knows_what_is_reachable(pair):
    _, remote = pair.descs()
    assert pair.initiator.check_remote_metadata("target", remote)
    assert not pair.initiator.check_remote_metadata("target", b.nixlXferDList(b.DRAM_SEG, [(16, 16, 0)]))


def test_name_that_is_not_utf8_can_be_read_and_given_back(backend):
    sender, receiver = nixl_agent(b"caf\xe9", config(backend)), nixl_agent("receiver", config(backend))
    receiver.add_remote_agent(sender.get_agent_metadata())
    sender.add_remote_agent(receiver.get_agent_metadata())
    sender.send_notif("receiver", b"hello")
    name = next(iter(eventually(receiver.get_new_notifs)))
    assert name.encode("utf-8", "surrogateescape") == b"caf\xe9"
    receiver.send_notif(name, b"back")
    eventually(lambda: sender.get_new_notifs() == {"receiver": [b"back"]})


def test_partial_metadata_adds_up(backend):
    pair = make_pair(backend)
    extra = random_bytes(4096)
    registered = pair.target.register_memory([(*whole(extra), "")], "DRAM")
    wanted = registered.trim()
    assert not pair.initiator.check_remote_metadata("target", wanted)
    pair.initiator.add_remote_agent(pair.target.get_partial_agent_metadata(registered))
    assert pair.initiator.check_remote_metadata("target", wanted)
    full = pair.target.get_partial_agent_metadata(registered, True, [backend])
    assert len(full) >= len(pair.target.get_partial_agent_metadata(registered))
    with pytest.raises(b.nixlNotFoundError):
        pair.target.get_partial_agent_metadata(b.nixlRegDList(b.DRAM_SEG, [(1, 2, 0, "")]))


def test_transfer_to_a_removed_agent_is_not_found(pair):
    handle = pair.request()
    pair.initiator.remove_remote_agent("target")
    with pytest.raises(b.nixlNotFoundError):
        pair.initiator.transfer(handle)
    with pytest.raises(b.nixlNotFoundError):
        pair.request()


def test_lists_that_differ_are_an_invalid_parameter(pair):
    local, _ = pair.descs(length=64)
    _, remote = pair.descs(length=128)
    with pytest.raises(b.nixlInvalidParamError):
        pair.initiator.initialize_xfer("WRITE", local, remote, "target")


def test_unknown_backend_name_is_a_key_error_everywhere(pair):
    agent, (local, remote) = pair.initiator, pair.descs()
    calls = [
        lambda: agent.register_memory([(*whole(pair.source), "")], "DRAM", ["NONE"]),
        lambda: agent.deregister_memory(b.nixlRegDList(b.DRAM_SEG), ["NONE"]),
        lambda: agent.prep_xfer_dlist("", local, backends=["NONE"]),
        lambda: agent.initialize_xfer("WRITE", local, remote, "target", b"", ["NONE"]),
        lambda: agent.make_connection("target", ["NONE"]),
        lambda: agent.get_new_notifs(["NONE"]),
    ]
    for call in calls:
        with pytest.raises(KeyError):
            call()
    with pytest.raises(ValueError):
        agent.query_memory([(0, 0, 0, "x")], "NONE", "FILE")


def test_backends_can_be_named(backend):
    pair = make_pair(backend)
    agent, (local, remote) = pair.initiator, pair.descs()
    handle = agent.initialize_xfer("WRITE", local, remote, "target", b"named", [backend])
    run(agent, handle)
    assert agent.query_xfer_backend(handle) == backend
    messages = []
    eventually(lambda: messages.extend(pair.target.get_new_notifs([backend]).get("initiator", [])) or messages)
    assert messages == [b"named"]


def test_deregistered_memory_needs_the_exact_range(backend):
    agent = nixl_agent("alone", config(backend))
    data = random_bytes(8192)
    descs = agent.register_memory([(*whole(data), "")], "DRAM")
    assert isinstance(descs, b.nixlRegDList)
    with pytest.raises(b.nixlNotFoundError):
        agent.deregister_memory(b.nixlRegDList(b.DRAM_SEG, [(address(data), 4096, 0, "")]))
    assert agent.register_memory(descs) is descs
    assert agent.deregister_memory(descs) is None
    agent.deregister_memory(descs)
    with pytest.raises(b.nixlNotFoundError):
        agent.deregister_memory(descs)


def test_range_of_length_zero_can_be_registered(agent):
    agent.register_memory([(0, 0, 0, "")], "DRAM")


def test_telemetry_is_there_after_every_finished_transfer(backend):
    pair = make_pair(backend, capture_telemetry=True)
    handle = pair.request()
    with pytest.raises(b.nixlNotPostedError):
        pair.initiator.get_xfer_telemetry(handle)
    run(pair.initiator, handle)
    telemetry = pair.initiator.get_xfer_telemetry(handle)
    assert isinstance(telemetry, b.nixlXferTelemetry)
    assert telemetry.totalBytes == pair.source.nbytes and telemetry.descCount == 1
    assert telemetry.startTime > 0
    assert telemetry.xferDuration >= telemetry.postDuration >= 0
    with pytest.raises(AttributeError):
        telemetry.totalBytes = 0


def test_telemetry_that_is_not_captured_is_an_error(pair):
    handle = pair.request()
    run(pair.initiator, handle)
    with pytest.raises(b.nixlNoTelemetryError):
        pair.initiator.get_xfer_telemetry(handle)


def test_cost_is_microseconds_and_a_method(pair):
    duration, margin, method = pair.initiator.estimate_xfer_cost(pair.request())
    assert duration >= 0 and margin >= 0
    assert method == "ANALYTICAL_BACKEND"


def test_report_tells_how_and_why(backend):
    pair = make_pair(backend)
    handle = pair.request()
    assert pair.initiator.get_xfer_report(handle).attempts == 0
    run(pair.initiator, handle)
    report = pair.initiator.get_xfer_report(handle)
    assert (report.status, report.backend, report.attempts) == (b.NIXL_SUCCESS, backend, 1)
    assert report.path and report.error == "" and not report.settling
    assert (report.total_bytes, report.descriptor_count) == (pair.source.nbytes, 1)
    by = report.path.partition(": ")[0] if report.path.startswith("SHM: ") else backend  # the companion of UCX
    assert [c.backend for c in report.candidates if c.chosen] == [by]
    assert {c.backend for c in report.candidates} == {by, backend}
    assert all(c.reason and c.backend in repr(c) for c in report.candidates)
    assert backend in repr(report)


def test_blocking_call_lets_other_threads_run(agent):
    """While one thread spins in the agent, others are not starved: none of the calls holds the GIL."""
    data = random_bytes(4096)
    agent.register_memory([(*whole(data), "")], "DRAM")
    counts = [0] * 4
    stop = threading.Event()

    def work(number):
        descs = agent.get_xfer_descs([whole(data)], "DRAM")
        while not stop.is_set():
            agent.initialize_xfer("WRITE", descs, descs, "alone")
            agent.get_new_notifs()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: min(counts) > 20, "progress of every thread")
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_one_agent_serves_many_threads(backend):
    pair = make_pair(backend, size=8 * 4096)
    local = pair.initiator.prep_xfer_dlist("", blocks(pair.source, 4096), "DRAM")
    remote = pair.initiator.prep_xfer_dlist("target", blocks(pair.sink, 4096), "DRAM")
    errors = []

    def work(number):
        try:
            for round_number in range(20):
                message = f"{number}-{round_number}"
                handle = pair.initiator.make_prepped_xfer("WRITE", local, [number], remote, [number], message)
                run(pair.initiator, handle)
                pair.initiator.release_xfer_handle(handle)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    expected = sorted(f"{number}-{turn}".encode() for number in range(8) for turn in range(20))
    assert sorted(notifications(pair.target, "initiator", len(expected))) == expected
    np.testing.assert_array_equal(pair.sink, pair.source)


def test_view_of_unsupported_memory_is_a_typed_error(agent):
    with pytest.raises((b.nixlNotSupportedError, b.nixlNotFoundError, b.nixlBackendError)):
        agent.prep_mem_view(agent.get_xfer_descs([(4096, 64, 0)], "VRAM"))
    with pytest.raises((b.nixlNotSupportedError, b.nixlNotFoundError, b.nixlBackendError)):
        agent.prep_mem_view(agent.get_remote_descs([(4096, 64, 0, "peer")], "VRAM"), backends=["LOOPBACK"])
    agent.release_mem_view(0)
