# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Failures are typed exceptions with a sentence."""

import copy
import os
import pickle
import subprocess
import sys

import pytest

import support

import nixl._bindings as b

CHILDREN_OF_EXCEPTION = [
    "nixlNotPostedError",
    "nixlInvalidParamError",
    "nixlBackendError",
    "nixlNotFoundError",
    "nixlMismatchError",
    "nixlNotAllowedError",
    "nixlRepostActiveError",
    "nixlUnknownError",
    "nixlNotSupportedError",
    "nixlRemoteDisconnectError",
    "nixlCancelledError",
    "nixlNoTelemetryError",
]
BEYOND = {
    "nixlTimeoutError": b.nixlBackendError,
    "nixlStaleError": b.nixlNotFoundError,
    "nixlIntegrityError": b.nixlBackendError,
    "nixlNoMemoryError": b.nixlBackendError,
    "nixlForkedError": b.nixlBackendError,
}


@pytest.mark.parametrize("name", CHILDREN_OF_EXCEPTION)
def test_class_is_a_direct_child_of_exception(name):
    cls = getattr(b, name)
    assert cls.__bases__ == (Exception,)
    assert (cls.__name__, cls.__module__) == (name, "nixl._bindings")


@pytest.mark.parametrize("name, parent", BEYOND.items())
def test_newer_class_derives_from_what_a_program_would_have_caught(name, parent):
    assert getattr(b, name).__bases__ == (parent,)


def test_error_carries_its_status_and_a_sentence(agent):
    with pytest.raises(b.nixlNotFoundError) as caught:
        agent.send_notif("nobody", b"hello")
    error = caught.value
    assert error.args[0] == error.status == "NIXL_ERR_NOT_FOUND"
    name, _, sentence = str(error).partition(": ")
    assert name == "NIXL_ERR_NOT_FOUND"
    assert "nobody" in sentence
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error) and str(again) == str(error)


def test_a_message_without_a_place_is_refused_until_the_peer_has_fetched(pair):
    message, sent = bytes(1 << 20), 0

    def send():
        nonlocal sent
        pair.initiator.send_notif("target", message)
        sent += 1

    with pytest.raises(b.nixlRepostActiveError, match="64 MiB of notifications") as caught:
        while sent < 200:
            send()
    assert caught.value.status == "NIXL_ERR_REPOST_ACTIVE"
    assert sent == 63

    def sends_again():
        pair.target.update_notifs()
        try:
            send()
        except b.nixlRepostActiveError:
            return False
        return True

    support.eventually(sends_again, "another message")
    support.eventually(lambda: len(pair.target.update_notifs()["initiator"]) == sent, "all messages")


def test_a_message_that_no_peer_takes_is_refused_at_the_call(pair):
    too_long = bytes((128 << 20) + 1)
    with pytest.raises(b.nixlInvalidParamError, match="too long"):
        pair.initiator.send_notif("target", too_long)
    with pytest.raises(b.nixlInvalidParamError, match="too long"):
        pair.request(message=too_long)
    with pytest.raises(b.nixlInvalidParamError, match="too long"):
        pair.initiator.transfer(pair.request(), too_long)


@pytest.mark.parametrize(
    "setting, why",
    [
        ("UCX_TLS=tpc", "UCX cannot start"),
        ("NIXL_UCX_LIBRARY=/nonexistent/libucp.so.0", "/nonexistent/libucp.so.0"),
        ("NIXL_UCX_LIBRARY=libm.so.6", "libm.so.6 lacks ucp_"),
    ],
)
def test_a_backend_that_cannot_start_is_an_exception_to_fall_back_on(plugins, setting, why):
    if "UCX" not in plugins:
        pytest.skip("there is no plugin UCX")
    program = """
import nixl
import nixl._bindings as b

agent = nixl.nixl_agent("a", nixl.nixl_agent_config(backends=[]))
for make in (lambda: agent.create_backend("UCX"), lambda: nixl.nixl_agent("b")):
    try:
        make()
    except b.nixlBackendError as error:
        print("said:", error)
assert "UCX" not in agent.backends
agent.create_backend("LOOPBACK")
print("said: fell back on", *agent.backends)
"""
    name, _, value = setting.partition("=")
    environment = {**os.environ, name: value}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    # UCX may add lines of its own.
    first, second, last = (line for line in said.stdout.splitlines() if line.startswith("said: "))
    for sentence in (first, second):
        assert sentence.count("createBackend: backend initialization error for 'UCX': ") == 1 and why in sentence
        assert sentence.count("initialization error") == 1
    assert last == "said: fell back on LOOPBACK"


def test_errors_made_by_programs_work_too():
    assert str(b.nixlBackendError("NIXL_ERR_BACKEND")) == "NIXL_ERR_BACKEND"
    assert b.nixlTimeoutError("NIXL_ERR_TIMEOUT", "too late").status == "NIXL_ERR_TIMEOUT"
    assert str(b.nixlTimeoutError("NIXL_ERR_TIMEOUT", "too late")) == "NIXL_ERR_TIMEOUT: too late"
    assert str(b.nixlBackendError()) == "" and b.nixlBackendError().status is None


def test_calls_that_never_raise_return_statuses(agent):
    assert agent.remove_remote_agent("nobody") is None
    assert agent.check_remote_metadata("nobody") is False
    assert agent.agent.invalidateRemoteMD("nobody") == b.NIXL_ERR_NOT_FOUND
    assert agent.agent.checkRemoteMD("nobody", b.nixlXferDList(b.DRAM_SEG)) == b.NIXL_ERR_NOT_FOUND


def test_bad_metadata_is_a_mismatch(agent):
    for blob in (b"not metadata", bytearray(b"not metadata"), "not metadata"):
        with pytest.raises(b.nixlMismatchError):
            agent.add_remote_agent(blob)
    with pytest.raises(TypeError):
        agent.add_remote_agent(memoryview(b"not metadata"))
    with pytest.raises(b.nixlInvalidParamError):
        agent.add_remote_agent(agent.get_agent_metadata())


@pytest.mark.parametrize("handle", [0, 1, 2**64 - 1])
def test_made_up_handles_are_refused(agent, handle):
    raw = agent.agent
    for call in (
        raw.postXferReq,
        raw.getXferStatus,
        raw.releaseXferReq,
        raw.dropXferReq,
        raw.releasedDlistH,
        raw.getXferReport,
        raw.queryXferBackend,
        raw.getBackendParams,
        raw.getBackendType,
    ):
        with pytest.raises(b.nixlInvalidParamError):
            call(handle)
    with pytest.raises(b.nixlInvalidParamError):
        raw.makeXferReq(b.NIXL_WRITE, handle, [0], handle, [0])


@pytest.mark.parametrize("handle", [None, "1", 1.5, -1, 2**64])
def test_what_is_no_handle_is_a_type_error(agent, handle):
    with pytest.raises(TypeError):
        agent.agent.postXferReq(handle)
