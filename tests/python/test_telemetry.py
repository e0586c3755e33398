# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Telemetry as a Python program meets it: switches, the ring file and its reader, measurements of a transfer."""

import importlib.util
import pathlib
import re
import signal
import struct
import subprocess
import sys

import pytest

import nixl
from nixl import _bindings as b
from support import DEADLINE_S, config, eventually, make_pair, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
READER = ROOT / "examples" / "python" / "telemetry_reader.py"


@pytest.fixture
def ring(monkeypatch, tmp_path):
    """The folder of the rings of agents made in this test."""
    monkeypatch.setenv("NIXL_TELEMETRY_ENABLE", "yes")
    monkeypatch.setenv("NIXL_TELEMETRY_DIR", str(tmp_path / "rings"))
    return tmp_path / "rings"


def read(path, *options):
    """The lines that the reader prints of a ring."""
    done = subprocess.run([sys.executable, READER, "--telemetry_path", path, "--once", *options],
                          capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_reader_prints_what_an_agent_did(ring, backend):
    pair = make_pair(backend)
    for operation in ("WRITE", "READ"):
        run(pair.initiator, pair.request(operation))
    with pytest.raises(b.nixlNotFoundError):
        pair.initiator.initialize_xfer("READ", *pair.descs(), "nobody")
    del pair
    lines = [re.sub(r"\d+ us", "? us", line) for line in read(ring / "initiator")]
    times = ["agent_xfer_post_time ? us", "agent_xfer_time ? us"]
    assert lines == [
        "agent_memory_registered 65536 bytes",
        *times, "agent_tx_bytes 65536 bytes", "agent_tx_requests_num 1",
        *times, "agent_rx_bytes 65536 bytes", "agent_rx_requests_num 1",
        "agent_err_not_found 1",
    ]
    assert read(ring / "initiator") == [], "they were taken"
    assert (ring.stat().st_mode & 0o777, (ring / "initiator").stat().st_mode & 0o777) == (0o700, 0o600)


def test_reader_follows_until_it_is_interrupted(ring):
    agent = nixl.nixl_agent("followed", config("LOOPBACK"))
    # A shell's background jobs, of which these tests may be one, ignore Ctrl-C; the reader must not inherit that.
    with subprocess.Popen([sys.executable, READER, "--telemetry_path", ring / "followed"], stdout=subprocess.PIPE,
                          text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as reader:
        try:
            for length in (4096, 8192):
                agent.register_memory([(0, length, 0, "")], "DRAM")
                assert reader.stdout.readline() == f"agent_memory_registered {length} bytes\n"
            reader.send_signal(signal.SIGINT)
            assert reader.wait(DEADLINE_S) == 0
        finally:
            reader.kill()


def test_reader_goes_round_the_ring_and_sees_what_was_dropped(ring, monkeypatch):
    monkeypatch.setenv("NIXL_TELEMETRY_BUFFER_SIZE", "4")
    monkeypatch.setenv("NIXL_TELEMETRY_RUN_INTERVAL", "0")
    agent = nixl.nixl_agent("round", config("LOOPBACK"))
    seen = []
    for length in range(1, 40):
        agent.register_memory([(0, length, 0, "")], "DRAM")
        if length % 5 == 0:
            eventually(lambda: seen.extend(read(ring / "round")) or seen, "an event")
    del agent
    seen += read(ring / "round")
    registered = [int(line.split()[1]) for line in seen if line.startswith("agent_memory_registered ")]
    dropped = [int(line.split()[1]) for line in seen if line.startswith("agent_telemetry_events_dropped ")]
    assert registered == sorted(set(registered)), "in order, none twice"
    assert registered and len(registered) + sum(dropped) <= 39


@pytest.mark.parametrize("content, sentence", [
    (b"", "0 bytes"),
    (b"x" * 100, "version"),
    (struct.pack("<QQiiQQ", 0, 0, 4, 4, 7, 6), "capacity is 7"),
    (struct.pack("<QQiiQQ", 9, 0, 4, 4, 8, 7) + bytes(128), "positions 9"),
    (struct.pack("<QQiiQQ", 0, 0, 4, 4, 8, 7) + bytes(64), "104 bytes"),
])
def test_reader_explains_what_is_no_ring(tmp_path, content, sentence):
    path = tmp_path / "file"
    path.write_bytes(content)
    done = subprocess.run([sys.executable, READER, "--telemetry_path", path, "--once"], capture_output=True, text=True,
                          timeout=DEADLINE_S)
    assert done.returncode == 1 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == content


def test_reader_reads_the_ring_of_nixl(tmp_path):
    head = (ROOT / "tests" / "golden" / "telemetry_ring_head.bin").read_bytes()
    (tmp_path / "golden").write_bytes(head.ljust(40 + 4096 * 16, b"\0"))
    assert read(tmp_path / "golden") == ["agent_memory_registered 8192 bytes"]


def test_reader_knows_every_event():
    spec = importlib.util.spec_from_file_location("telemetry_reader", READER)
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    header = (ROOT / "include" / "telemetry_event.h").read_text()
    enumerators = dict(re.findall(r"^    (AGENT_\w+) = (\d+)", header, re.MULTILINE))
    assert {name.lower(): int(value) for name, value in enumerators.items()} == {
        name: kind for kind, name in enumerate(reader.NAMES)}
    assert reader.describe(99, 1) == "event type 99 1"


def test_broken_settings_stop_the_agent(ring, monkeypatch):
    monkeypatch.setenv("NIXL_TELEMETRY_BUFFER_SIZE", "0")
    with pytest.raises(RuntimeError, match="NIXL_TELEMETRY_BUFFER_SIZE is 0"):
        nixl.nixl_agent("broken", config(None))


def test_a_running_transfer_has_no_measurements_yet(backend):
    """1.4 hands out memory that nobody wrote; here it is zeros, and never those of the run before."""
    pair = make_pair(backend, size=1 << 26, capture_telemetry=True)
    handle = pair.request()
    for _ in range(2):
        running = pair.initiator.transfer(handle) == "PROC"
        early = pair.initiator.get_xfer_telemetry(handle)
        assert early.totalBytes == (0 if running else 1 << 26)
        if running:
            assert (early.startTime, early.xferDuration, early.descCount) == (0, 0, 0)
            eventually(lambda: pair.initiator.check_xfer_state(handle) == "DONE", "the transfer")
        assert pair.initiator.get_xfer_telemetry(handle).totalBytes == 1 << 26
