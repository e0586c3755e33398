# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""How each row is measured. Runs in the initiator process.

Every measured loop is warmed up, and bounded in time; what arrived is verified after it. A figure is a dict with
`value`, the median, in the row's unit, and whatever else is known (p10, p99, count, path, CPU).
"""

import contextlib
import gc
import os
import time

import numpy as np

from harness import memory, usage
from harness.rows import GIB, KIB, MIB
from harness.shared import READY, SEEN, STOP

NS_PER = {"ns": 1, "us": 1e3, "ms": 1e6}
CORES = len(os.sched_getaffinity(0))  # before this process is bound to one of them
BATCH = 1000  # calls timed together where one is too short for the clock
MESSAGE = b"sixteen bytes..."


class WrongResult(Exception):
    """What was measured did not do its work; the text says how."""


def run_start(say, names, import_ns):
    """The rows that need no peer: one process, the agent as Python creates it by default."""
    from nixl_cu12 import _api as nixl

    started = time.perf_counter_ns()
    agent = nixl.nixl_agent("alone", nixl.nixl_agent_config())
    created = time.perf_counter_ns()
    blob = agent.get_agent_metadata()
    described = time.perf_counter_ns()
    if not blob:
        raise WrongResult("the metadata blob is empty")
    values = {
        "import": import_ns / 1e6,
        "create": (created - started) / 1e6,
        "first_metadata": (described - started) / 1e6,
    }
    if "idle_cpu" in names:
        values["idle_cpu"] = _idle_percent()
    for name in names:
        say(row=name, value=values[name])


def _idle_percent():
    time.sleep(0.2)
    cores = usage.Usage(os.getpid(), but_this_thread=True)
    time.sleep(1.0)
    return cores.stop().cpu_share * 100


class Rows:
    """The rows with two processes: a method of the row's name each."""

    def __init__(self, agent, channel, words, group, scale, quick):
        self._agent = agent
        self._channel = channel
        self._words = words
        self._scale = scale
        self._seconds = 0.1 if quick else 0.6
        self._fewest = 1 if quick else 3
        self._buffer = memory.Buffer(group.buffer_bytes // scale)
        agent.register_memory([(self._buffer.address, self._buffer.size, 0, "")], "DRAM")
        answer = self._call("connect", agent.get_agent_metadata(), self._buffer.size)
        metadata, self._target_address, self._target_pid = answer
        self._buffer.fill(min(MIB, self._buffer.size))
        self._peer = agent.add_remote_agent(metadata)

    # ---- Notifications -------------------------------------------------------------------------------------------

    def write_notify_4k(self):
        size = 4 * KIB
        handle = self._contiguous(0, size, MESSAGE)
        transfer, check, poll = self._agent.transfer, self._agent.check_xfer_state, self._agent.get_new_notifs
        block, words, last = memoryview(self._buffer.words), self._words, size // 8 - 1
        posted = 0

        def step():
            nonlocal posted
            posted += 1
            block[0] = block[last] = posted
            state = transfer(handle)
            # Over when the initiator's own status says so and the target, told, has found the new content.
            while state != "DONE" or words[SEEN] != posted:
                if state != "DONE":
                    state = check(handle)
                else:
                    poll()

        with self._spinning_target("watch", size) as answer:
            figure = self._latency(step, "us")
        seen, unseen = answer()
        if unseen or seen != posted:
            raise WrongResult(f"{posted} posted, {seen} notified, {unseen} of them before their data")
        return figure | self._path(handle)

    def notify_round_trip(self):
        send, poll, peer = self._agent.send_notif, self._agent.get_new_notifs, self._peer
        sent = 0

        def step():
            nonlocal sent
            sent += 1
            send(peer, MESSAGE)
            while not (notifications := poll()):
                pass
            if notifications != {"target": [MESSAGE]}:
                raise WrongResult(f"sent {MESSAGE!r}, got back {notifications!r}")

        with self._spinning_target("echo") as answer:
            figure = self._latency(step, "us")
        if answer() != sent:
            raise WrongResult(f"{sent} sent, not all were answered")
        return figure

    # ---- Transfers -----------------------------------------------------------------------------------------------

    def first_1m(self):
        self._call("clear", MIB)
        started = time.perf_counter_ns()
        handle = self._contiguous(0, MIB)
        self._finish(handle)
        elapsed = time.perf_counter_ns() - started
        self._verify("wrong_words", MIB)
        return {"value": elapsed / 1e6} | self._path(handle)

    def write_4k(self):
        return self._write([self._contiguous(0, 4 * KIB)], 4 * KIB)

    def tcp_4k_polled(self):
        size = 4 * KIB
        return self._write([self._contiguous(0, size)], size, meanwhile=self._spinning_target("watch", size))

    def tcp_4k_asleep(self):
        return self.write_4k()

    def write_1m(self):
        return self._write([self._contiguous(0, MIB)], MIB)

    def write_1m_cold(self):
        return self._write_rotating(MIB)

    def write_64m(self):
        size = 64 * MIB // self._scale
        return _bandwidth(self._write([self._contiguous(0, size)], size), size)

    def write_64m_cold(self):
        size = 64 * MIB // self._scale
        return _bandwidth(self._write_rotating(size), size)

    def blocks_256(self):
        return self._write_blocks(256, 4 * KIB)

    def blocks_8192(self):
        return self._write_blocks(8192, 4 * KIB)

    def post_112k(self):
        count, size = 112_000 // self._scale, 8 * KIB
        return self._write_blocks(count, size, pool=count, post_alone=True)

    def _write(self, handles, verified_bytes, meanwhile=contextlib.nullcontext()):
        """Writes by one handle after the other, over and over."""
        self._buffer.fill(verified_bytes)
        self._call("clear", verified_bytes)
        transfer, check = self._agent.transfer, self._agent.check_xfer_state
        turn = 0

        def step():
            nonlocal turn
            handle = handles[turn]
            turn = turn + 1 if turn + 1 < len(handles) else 0
            state = transfer(handle)
            while state != "DONE":
                state = check(handle)

        with meanwhile:
            figure = self._latency(step, "us", fewest=len(handles), moved_bytes=verified_bytes // len(handles))
        self._verify("wrong_words", verified_bytes)
        return figure | self._path(handles[0])

    def _write_rotating(self, size):
        handles = [self._contiguous(offset, size) for offset in range(0, self._buffer.size, size)]
        return self._write(handles, self._buffer.size)

    def _write_blocks(self, count, size, pool=None, post_alone=False):
        pool = pool or self._buffer.size // size
        self._buffer.fill(pool * size)
        self._call("clear", pool * size)
        local, remote = self._prepared(pool, size)
        handle = self._agent.make_prepped_xfer("WRITE", local, *self._interleave(pool, count, remote))
        posts = []
        transfer, check = self._agent.transfer, self._agent.check_xfer_state

        def step():
            started = time.perf_counter_ns()
            state = transfer(handle)
            posts.append(time.perf_counter_ns() - started)
            while state != "DONE":
                state = check(handle)

        figure = self._latency(step, "us", moved_bytes=count * size)
        self._verify("wrong_blocks", size, pool, count)
        if post_alone:
            total = _bandwidth(figure, count * size)["value"]
            figure |= _summary(posts[-figure["count"] :], "ms") | {"total_gb_s": total, "descriptors": count}
        return figure | self._path(handle)

    # ---- Calls that move nothing ---------------------------------------------------------------------------------

    def python_overhead(self):
        """The post call and the check of a done request, each through _api less the same through _bindings."""
        handle = self._contiguous(0, 4 * KIB)
        agent, bindings = self._agent, self._agent.agent
        raw = handle._handle
        posts, raw_posts = [], []

        def step():
            started = time.perf_counter_ns()
            agent.transfer(handle)
            posts.append(time.perf_counter_ns() - started)
            self._settle(handle)
            started = time.perf_counter_ns()
            bindings.postXferReq(raw)
            raw_posts.append(time.perf_counter_ns() - started)
            self._settle(handle)

        self._latency(step, "us")
        checks = self._batches(agent.check_xfer_state, handle)["value"]
        raw_checks = self._batches(bindings.getXferStatus, raw)["value"]
        difference = float(np.median(posts) - np.median(raw_posts)) + checks - raw_checks
        return {"value": difference, "count": len(posts)}

    def check_idle(self):
        handle = self._contiguous(0, 4 * KIB)
        self._finish(handle)
        return self._batches(self._agent.check_xfer_state, handle)

    def notifs_idle(self):
        return self._batches(self._agent.get_new_notifs)

    def prepare_1m(self):
        rows = self._million(self._target_address)
        return self._calls(lambda: self._agent.prep_xfer_dlist(self._peer, rows, "DRAM"), "ms")

    def make_256(self):
        local, remote = self._prepared(4096, 4 * KIB)
        return self._make_requests(local, remote, 4096, 256)

    def make_20k(self):
        local = self._agent.prep_xfer_dlist("NIXL_INIT_AGENT", self._million(self._buffer.address), "DRAM")
        remote = self._agent.prep_xfer_dlist(self._peer, self._million(self._target_address), "DRAM")
        return self._make_requests(local, remote, 1_000_000 // self._scale, 20_000)

    def register_10k(self):
        buffer = memory.Buffer(2 * GIB // self._scale)
        buffer.touch()
        size = buffer.size // 10_000 // 64 * 64
        views = memory.block_descriptors(buffer.address, 10_000, size)
        return self._calls(lambda: self._agent.register_memory(views, "DRAM"), "ms", undo=self._agent.deregister_memory)

    def _make_requests(self, local, remote, pool, count):
        make = self._agent.make_prepped_xfer
        arguments = self._interleave(pool, count, remote)
        return self._calls(lambda: make("WRITE", local, *arguments), "us")

    # ---- Parts ---------------------------------------------------------------------------------------------------

    def _call(self, method, *arguments):
        self._channel.send((method, arguments))
        return self._channel.recv()

    @contextlib.contextmanager
    def _spinning_target(self, method, *arguments):
        """The target spins in `method` meanwhile; yields a function that stops it and returns what it answered."""
        answers = []

        def stop():
            if not answers:
                self._words[STOP] = 1
                answers.append(self._channel.recv())
            return answers[0]

        self._words[READY] = self._words[STOP] = self._words[SEEN] = 0
        self._channel.send((method, arguments))
        while not self._words[READY]:
            pass
        yield stop
        stop()

    def _verify(self, method, *arguments):
        wrong = self._call(method, *arguments)
        if wrong:
            raise WrongResult(f"{wrong} words of 8 bytes are wrong at the target")

    def _contiguous(self, offset, size, message=b""):
        agent = self._agent
        local = agent.get_xfer_descs([(self._buffer.address + offset, size, 0)], "DRAM")
        remote = agent.get_xfer_descs([(self._target_address + offset, size, 0)], "DRAM")
        return agent.initialize_xfer("WRITE", local, remote, self._peer, message)

    def _prepared(self, pool, size):
        prepare = self._agent.prep_xfer_dlist
        local = prepare("NIXL_INIT_AGENT", memory.block_descriptors(self._buffer.address, pool, size), "DRAM")
        return local, prepare(self._peer, memory.block_descriptors(self._target_address, pool, size), "DRAM")

    @staticmethod
    def _interleave(pool, count, remote):
        local_indices, remote_indices = memory.permutations(pool, count)
        return local_indices, remote, remote_indices

    def _million(self, address):
        """Blocks of 256 bytes, 512 apart: regular, but nothing to merge."""
        return memory.block_descriptors(address, 1_000_000 // self._scale, 256, pitch=512)

    def _settle(self, handle):
        while self._agent.check_xfer_state(handle) != "DONE":
            pass

    def _finish(self, handle):
        if self._agent.transfer(handle) != "DONE":
            self._settle(handle)

    def _path(self, handle):
        if hasattr(self._agent, "get_xfer_report"):
            return {"path": str(self._agent.get_xfer_report(handle).path)}
        return {"path": self._agent.query_xfer_backend(handle)}

    # ---- Loops ---------------------------------------------------------------------------------------------------

    def _latency(self, step, unit, fewest=1, moved_bytes=0):
        """Times every call of `step`, and what both processes use of the cores meanwhile."""
        fewest = max(fewest, self._fewest)
        _repeat(step, self._seconds / 4, fewest)
        cores = usage.Usage(os.getpid(), self._target_pid)
        samples = _repeat(step, self._seconds, fewest)
        cores.stop()
        if cores.spinning_threads > CORES:
            raise WrongResult(f"{cores.spinning_threads} threads spin, more than there are cores")
        figure = _summary(samples, unit) | {"spinning_threads": cores.spinning_threads}
        if moved_bytes:
            figure["cpu_s_per_gib"] = cores.cpu_s / (moved_bytes * len(samples) / GIB)
        return figure

    def _calls(self, call, unit, undo=lambda result: result.release()):
        """Times `call` alone; `undo` gets its result."""
        samples = []

        def step():
            started = time.perf_counter_ns()
            result = call()
            samples.append(time.perf_counter_ns() - started)
            undo(result)

        _repeat(step, self._seconds / 4, 1)
        samples.clear()
        _repeat(step, self._seconds, self._fewest)
        return _summary(samples, unit)

    def _batches(self, call, *arguments):
        """Nanoseconds of one call among many."""

        def step():
            for _ in range(BATCH):
                call(*arguments)

        _repeat(step, self._seconds / 8, 1)
        return _summary([sample / BATCH for sample in _repeat(step, self._seconds / 2, 5)], "ns")


def _repeat(step, seconds, fewest):
    """Calls `step` for that long and at least that often; the duration of each call in ns."""
    samples = []
    clock = time.perf_counter_ns
    deadline = clock() + int(seconds * 1e9)
    gc.disable()
    try:
        while len(samples) < fewest or clock() < deadline:
            started = clock()
            step()
            samples.append(clock() - started)
    finally:
        gc.enable()
    return samples


def _summary(samples, unit):
    tenth, half, most = np.percentile(samples, [10, 50, 99]) / NS_PER[unit]
    return {"value": float(half), "p10": float(tenth), "p99": float(most), "count": len(samples)}


def _bandwidth(figure, size):
    """A figure in us as one in GB/s."""
    return figure | {name: size / figure[name] / 1e3 for name in ("value", "p10", "p99")}


def run_rows(say, names, rows):
    """Measures the named rows in order; the first failure ends the process, as it may have left anything behind."""
    for name in names:
        try:
            say(row=name, **getattr(rows, name)())
        except Exception as error:
            say(row=name, failure=f"{type(error).__name__}: {error}")
            return
