# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Agents of several processes under a key, and a stranger without it: nothing but the environment is needed."""

import base64
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import nixl
import nixl._bindings as b
from nixl import nixl_agent
from support import config, run, whole

PLUGINS = pathlib.Path(nixl.__file__).parent / "lib" / "plugins"
pytestmark = pytest.mark.skipif(not list(PLUGINS.glob("libsecurity_*.so")),
                                reason="no security plugin: the package was built without OpenSSL")

PEER = """
import sys
import numpy as np
from nixl import nixl_agent, nixl_agent_config
agent = nixl_agent("target", nixl_agent_config(backends=["UCX"], enable_listen_thread=True, listen_port=0))
data = np.full(4096, 7, dtype=np.uint8)
agent.register_memory([(data.ctypes.data, data.nbytes, 0, "")], "DRAM")
print("here", agent.listen_port, data.ctypes.data, flush=True)
sys.stdin.read()
"""


def key(path):
    secret = base64.b64encode(os.urandom(32))
    path.write_bytes(secret + b"\n")
    path.chmod(0o600)
    return secret


@pytest.fixture
def target(tmp_path, monkeypatch):
    """A process with an agent under a key, which this process has, too: (port, address of 4096 sevens)."""
    secret = key(tmp_path / "key")
    monkeypatch.setenv("NIXL_SECRET_FILE", str(tmp_path / "key"))
    environment = os.environ | {"NIXL_LOG_LEVEL": "TRACE"}
    log = tmp_path / "log"
    with log.open("wb") as stderr, subprocess.Popen([sys.executable, "-c", PEER], stdin=subprocess.PIPE,
                                                     stdout=subprocess.PIPE, stderr=stderr, env=environment) as peer:
        lines = iter(peer.stdout.readline, b"")  # the log of Python is among them
        yield tuple(int(word) for word in next(line for line in lines if line.startswith(b"here ")).split()[1:])
        peer.stdin.close()
        assert peer.wait(30) == 0
    written = log.read_bytes()
    assert b"MD listener is listening" in written
    assert secret[:8] not in written and base64.b64decode(secret)[:8].hex().encode() not in written


def test_two_processes_with_the_key_move_data(target):
    port, address = target
    initiator = nixl_agent("initiator", config("UCX"))
    initiator.fetch_remote_metadata("target", "127.0.0.1", port)
    assert initiator.wait_metadata()
    sink = np.zeros(4096, dtype=np.uint8)
    initiator.register_memory([(*whole(sink), "")], "DRAM")
    local = initiator.get_xfer_descs([whole(sink)], "DRAM")
    remote = initiator.get_xfer_descs([(address, 4096, 0)], "DRAM")
    run(initiator, initiator.initialize_xfer("READ", local, remote, "target", b""))
    assert (sink == 7).all()


@pytest.mark.parametrize("other_key", [False, True])
def test_a_stranger_gets_nothing(target, other_key, tmp_path, monkeypatch):
    port, _ = target
    if other_key:
        key(tmp_path / "other")
        monkeypatch.setenv("NIXL_SECRET_FILE", str(tmp_path / "other"))
    else:
        monkeypatch.delenv("NIXL_SECRET_FILE")
    stranger = nixl_agent("stranger", config("UCX"))
    stranger.fetch_remote_metadata("target", "127.0.0.1", port)
    with pytest.raises(b.nixlNotAllowedError if other_key else b.nixlRemoteDisconnectError):
        stranger.wait_metadata()
    assert not stranger.check_remote_metadata("target")


def test_a_blob_without_signature_is_refused(tmp_path, monkeypatch):
    plain = nixl_agent("plain", config("LOOPBACK"))
    blob = plain.get_agent_metadata()
    key(tmp_path / "key")
    monkeypatch.setenv("NIXL_SECRET_FILE", str(tmp_path / "key"))
    keyed = nixl_agent("keyed", config("LOOPBACK"))
    with pytest.raises(b.nixlNotAllowedError, match="not signed"):
        keyed.add_remote_agent(blob)
    assert plain.add_remote_agent(keyed.get_agent_metadata()) == b"keyed"


def test_a_key_that_cannot_be_used_lets_nothing_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("NIXL_SECRET_FILE", str(tmp_path / "missing"))
    agent = nixl_agent("agent", config("LOOPBACK"))
    with pytest.raises(b.nixlInvalidParamError, match="No such file"):
        agent.get_agent_metadata()
    with pytest.raises(RuntimeError, match="NIXL_SECRET_FILE"):
        nixl_agent("listening", config("LOOPBACK", enable_listen_thread=True, listen_port=0))
