# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata through the agents' listeners, as programs use it."""

import socket
import struct
import threading

import numpy as np
import pytest

import nixl._bindings as b
from nixl import nixl_agent
from support import config, eventually, random_bytes, run, whole

HOST = "127.0.0.1"


def listening(name, backend="LOOPBACK"):
    return nixl_agent(name, config(backend, enable_listen_thread=True, listen_port=0))


def unused_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def test_basic_flow_of_two_peers(backend):
    """The introduction's example: metadata by the listener, descriptors by notification, READ, "Done_reading"."""
    target, initiator = listening("target", backend), listening("initiator", backend)
    source, sink = random_bytes(4096), np.zeros(4096, dtype=np.uint8)
    target.register_memory([(*whole(source), "")], "DRAM")
    initiator.register_memory([(*whole(sink), "")], "DRAM")

    initiator.fetch_remote_metadata("target", HOST, target.listen_port)
    initiator.send_local_metadata(HOST, target.listen_port)
    eventually(lambda: target.check_remote_metadata("initiator"), "the initiator's metadata")
    descs = target.get_xfer_descs([whole(source)], "DRAM")
    target.send_notif("initiator", target.get_serialized_descs(descs))

    eventually(lambda: initiator.check_remote_metadata("target"), "the target's metadata")
    message = eventually(lambda: initiator.get_new_notifs().get("target"), "the descriptors")[0]
    remote = initiator.deserialize_descs(message)
    local = initiator.get_xfer_descs([whole(sink)], "DRAM")
    run(initiator, initiator.initialize_xfer("READ", local, remote, "target", b"Done_reading"))
    assert (sink == source).all()
    eventually(lambda: target.check_remote_xfer_done("initiator", b"Done_reading"), "the notification")

    initiator.remove_remote_agent("target")
    initiator.invalidate_local_metadata(HOST, target.listen_port)
    eventually(lambda: not target.check_remote_metadata("initiator"), "the invalidation")


def test_outcomes_are_true_or_raised_once():
    target, initiator = listening("target"), nixl_agent("initiator", config("LOOPBACK"))
    port = target.listen_port
    initiator.send_local_metadata("localhost", port)
    assert initiator.wait_metadata() is True
    assert target.check_remote_metadata("initiator")
    initiator.fetch_remote_metadata("somebody else", HOST, port)
    with pytest.raises(b.nixlMismatchError, match="is 'target', not 'somebody else'"):
        initiator.wait_metadata(30, HOST, port)
    assert initiator.check_remote_metadata("target")
    assert initiator.wait_metadata(0)


def test_a_peer_that_is_not_there_is_an_error_with_its_address():
    agent = nixl_agent("alone", config("LOOPBACK"))
    port = unused_port()
    agent.fetch_remote_metadata("target", HOST, port)
    with pytest.raises(b.nixlNotFoundError, match=f"could not connect to IP {HOST} and port {port}"):
        agent.wait_metadata()
    assert not agent.check_remote_metadata("target")


def test_waiting_ends_in_time_when_the_peer_says_nothing():
    agent = nixl_agent("alone", config("LOOPBACK"))
    with socket.create_server((HOST, 0)) as silent:
        agent.fetch_remote_metadata("target", HOST, silent.getsockname()[1])
        assert agent.wait_metadata(0.02) is False


def test_bad_addresses_are_refused_in_the_call():
    agent = nixl_agent("alone", config("LOOPBACK"))
    for host, port in ((HOST, 0), (HOST, 65536), ("no host", 1), ("x" * 300, 1)):
        with pytest.raises(b.nixlInvalidParamError):
            agent.send_local_metadata(host, port)
    with pytest.raises(b.nixlNotSupportedError, match="ipAddr"):
        agent.send_local_metadata()


@pytest.mark.parametrize("port", [-1, 65536, 2**31, 2**64, -(2**70)])
def test_a_port_to_listen_on_that_is_none_is_named(port):
    with pytest.raises(TypeError, match=f"port {port} is outside 0 to 65535"):
        nixl_agent("agent", config("LOOPBACK", enable_listen_thread=True, listen_port=port))
    with pytest.raises(TypeError, match=f"port {port} is outside 0 to 65535"):
        b.nixlAgentConfig(True, True, port)
    raw = b.nixlAgentConfig()
    raw.listenPort = np.uint16(65535)
    with pytest.raises(TypeError, match=f"port {port} is outside 0 to 65535"):
        raw.listenPort = port
    assert raw.listenPort == 65535
    with pytest.raises(TypeError, match="incompatible function arguments"):
        raw.listenPort = 1.5


@pytest.mark.parametrize("port", [-1, 0, 65536, 2**31, 2**64, -(2**70)])
def test_a_port_to_call_that_is_none_is_named(port):
    agent = nixl_agent("alone", config("LOOPBACK"))
    data = random_bytes(64)
    descs = agent.register_memory([(*whole(data), "")], "DRAM")
    # What fits into an int has always been the agent's to judge, what does not the binding's.
    expected = b.nixlInvalidParamError if -(2**31) <= port < 2**31 else TypeError
    for call in (
        lambda: agent.send_local_metadata(HOST, port),
        lambda: agent.send_partial_agent_metadata(descs, ip_addr=HOST, port=port),
        lambda: agent.fetch_remote_metadata("peer", HOST, port),
        lambda: agent.invalidate_local_metadata(HOST, port),
        lambda: agent.wait_metadata(0, HOST, port),
    ):
        with pytest.raises(expected, match=f"port {port} is (none; give one of 1|outside 0) to 65535"):
            call()


def test_a_port_in_use_stops_the_constructor():
    first = listening("first")
    with pytest.raises(RuntimeError, match="Address already in use"):
        nixl_agent("second", config("LOOPBACK", enable_listen_thread=True, listen_port=first.listen_port))


def test_an_agent_that_does_not_listen_has_no_port():
    with pytest.raises(b.nixlNotFoundError, match="does not listen"):
        _ = nixl_agent("quiet", config("LOOPBACK")).listen_port


def test_hostile_frames_leave_the_agent_serving():
    target, initiator = listening("target"), nixl_agent("initiator", config("LOOPBACK"))
    genuine = initiator.get_agent_metadata()
    body = b"NIXLCOMM:LOAD" + genuine[:40] + b"\xff" * 8 + genuine[48:]
    for attack in (struct.pack("<Q", len(body)) + body, struct.pack("<Q", 1 << 30), b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection((HOST, target.listen_port)) as stranger:
            stranger.sendall(attack)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
    assert not target.check_remote_metadata("initiator")
    initiator.send_local_metadata(HOST, target.listen_port)
    assert initiator.wait_metadata()
    assert target.check_remote_metadata("initiator")


def test_waiting_does_not_hold_the_interpreter():
    agent = nixl_agent("alone", config("LOOPBACK"))
    with socket.create_server((HOST, 0)) as silent:
        agent.fetch_remote_metadata("target", HOST, silent.getsockname()[1])
        done = threading.Event()
        thread = threading.Thread(target=lambda: (agent.wait_metadata(0.5), done.set()))
        thread.start()
        steps = 0
        while not done.is_set():
            steps += 1
        thread.join()
    assert steps > 1000
