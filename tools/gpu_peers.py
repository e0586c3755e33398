# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What ./gpu-check tries, one part per process: gpu_peers.py PART ROWS.

Rows are written to the file ROWS as they come, one JSON object per line: name, verdict ("ok", "FAILED", "skipped") and
note. The target of each pair of agents is a process of its own. Memory of a kind is "DRAM" (NumPy) or "VRAM" (torch).
"""

import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback

import numpy as np
from nixl._api import nixl_agent, nixl_agent_config

try:
    import torch
except ImportError:
    torch = None

KINDS = ("VRAM", "DRAM")
BLOCK = 4096
BLOCKS = 256
LARGE = 64 << 20
ROUNDS = 5          # of what is timed; the first is not counted
LIMIT_S = 20        # of any transfer and any answer
SEED = itertools.count(1)


class Skipped(Exception):
    """This cannot be tried here; the text says why."""


def why_no_gpu():
    """None if there is a GPU that torch can use."""
    if torch is None:
        return "PyTorch is not installed"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no CUDA device"
    return None


def need_gpu(*kinds):
    reason = why_no_gpu()
    if reason and "VRAM" in kinds:
        raise Skipped(reason)


def require(condition, text):
    if not condition:
        raise AssertionError(text)


# ---- Memory ---------------------------------------------------------------------------------------------------------


class Memory:
    """Bytes of one kind. Patterns are made and compared where the bytes are."""

    def __init__(self, kind, size, device=0):
        self.kind, self.size, self.device = kind, size, device
        if kind == "VRAM":
            self.bytes = torch.zeros(size, dtype=torch.uint8, device=f"cuda:{device}")
            self.address = self.bytes.data_ptr()
            torch.cuda.synchronize(device)
        else:
            self.bytes = np.zeros(size, dtype=np.uint8)
            self.address = self.bytes.ctypes.data

    def _pattern(self, seed, size):
        if self.kind == "VRAM":
            numbers = torch.arange(size, dtype=torch.int32, device=self.bytes.device)
            return ((numbers * 7 + numbers // 251 + seed * 31) % 253).to(torch.uint8)
        numbers = np.arange(size, dtype=np.int32)
        return ((numbers * 7 + numbers // 251 + seed * 31) % 253).astype(np.uint8)

    def fill(self, seed, size=None):
        """The first `size` bytes; all of them without it."""
        size = size or self.size
        self.bytes[:size] = self._pattern(seed, size)
        if self.kind == "VRAM":
            torch.cuda.synchronize(self.device)

    def wrong(self, seed, size=None):
        """How many bytes are not those of fill(seed, size)."""
        size = size or self.size
        return int((self.bytes[:size] != self._pattern(seed, size)).sum())

    def registration(self):
        return [(self.address, self.size, self.device if self.kind == "VRAM" else 0, "")]

    def blocks(self, length, size=None):
        return blocks_of(self, length, size)


def blocks_of(memory, length, size):
    """Descriptors of the first `size` bytes of a memory; of all of them without it."""
    device = memory.device if memory.kind == "VRAM" else 0
    return [(memory.address + at, length, device) for at in range(0, size or memory.size, length)]


# ---- The other process ----------------------------------------------------------------------------------------------


def serve(channel, name):
    """The target: does what it is told until the channel closes."""
    agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
    memory = None
    with contextlib.suppress(EOFError):
        while True:
            command, *arguments = channel.recv()
            try:
                if command == "make":
                    memory = Memory(*arguments)
                    agent.register_memory(memory.registration(), memory.kind)
                    answer = (agent.get_agent_metadata(), memory.address)
                elif command == "fill":
                    answer = memory.fill(*arguments)
                elif command == "wrong":
                    answer = memory.wrong(*arguments)
                elif command == "message":
                    answer = wait_for_message(agent, *arguments, memory)
                channel.send((True, answer))
            except Exception as error:  # told to the other side, whose row it is
                channel.send((False, f"the target: {type(error).__name__}: {error}"))


def wait_for_message(agent, sender, message, seed, memory):
    """Waits for it and says how many bytes were wrong at that moment."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if message in agent.get_new_notifs().get(sender, []):
            return memory.wrong(seed)
    raise TimeoutError(f"no message within {LIMIT_S} s")


class Target:
    count = itertools.count()

    def __init__(self, kind, size, device=0):
        self.name = f"target-{next(Target.count)}"
        spawn = multiprocessing.get_context("spawn")
        self.channel, other = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(other, self.name), daemon=True)
        self.process.start()
        other.close()
        self.kind, self.size, self.device = kind, size, device
        self.metadata, self.address = self.ask("make", kind, size, device)

    def tell(self, *command):
        self.channel.send(command)

    def answer(self):
        require(self.channel.poll(LIMIT_S + 5), "the target does not answer")
        fine, answer = self.channel.recv()
        require(fine, answer)
        return answer

    def ask(self, *command):
        self.tell(*command)
        return self.answer()

    def blocks(self, length, size=None):
        return blocks_of(self, length, size)

    def close(self):
        self.channel.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def finish(agent, request):
    end = time.monotonic() + LIMIT_S
    state = agent.transfer(request)
    while state != "DONE":
        require(time.monotonic() < end, f"not done within {LIMIT_S} s")
        state = agent.check_xfer_state(request)


class Pair:
    """An agent here with memory of one kind, and a target with memory of another."""

    def __init__(self, local_kind, remote_kind, size):
        need_gpu(local_kind, remote_kind)
        self.agent = nixl_agent("initiator", nixl_agent_config(backends=["UCX"]))
        self.memory = Memory(local_kind, size)
        self.registered = self.agent.register_memory(self.memory.registration(), local_kind)
        self.target = Target(remote_kind, size)
        self.agent.add_remote_agent(self.target.metadata)

    def request(self, operation, length, message=b"", size=None):
        local = self.agent.get_xfer_descs(self.memory.blocks(length, size), self.memory.kind)
        remote = self.agent.get_xfer_descs(self.target.blocks(length, size), self.target.kind)
        return self.agent.initialize_xfer(operation, local, remote, self.target.name, message)

    def finish(self, request):
        finish(self.agent, request)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.target.close()
        self.agent.deregister_memory(self.registered)


# ---- Parts ----------------------------------------------------------------------------------------------------------


def registration():
    def of(kind, device):
        def attempt():
            need_gpu(kind)
            agent = nixl_agent("registrar", nixl_agent_config(backends=["UCX"]))
            memory = Memory(kind, 1 << 20, device)
            registered = agent.register_memory(memory.registration(), kind)
            require(agent.get_agent_metadata(), "no metadata")
            agent.deregister_memory(registered)
        return attempt

    def host_as_vram():
        agent = nixl_agent("registrar", nixl_agent_config(backends=["UCX"]))
        memory = Memory("DRAM", 1 << 20)
        try:
            agent.register_memory([(memory.address, memory.size, 0, "")], "VRAM")
        except Exception as error:
            require("BACKEND" in str(error), f"{type(error).__name__}: {error}")
            return "refused"
        raise AssertionError("host memory was registered as VRAM")

    yield "DRAM", of("DRAM", 0)
    for device in range(1 if why_no_gpu() else torch.cuda.device_count()):
        yield f"VRAM of device {device}", of("VRAM", device)
    yield "host memory given as VRAM is refused", host_as_vram


def rate(copy, size):
    """GB/s of the median of ROUNDS."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        copy()
        times.append(time.perf_counter() - start)
    return size / sorted(times[1:])[ROUNDS // 2] / 1e9


def copies():
    def between(source, destination):
        def attempt():
            need_gpu("VRAM")
            kinds = {"VRAM": "cuda:0", "DRAM": "cpu"}
            a = torch.ones(LARGE, dtype=torch.uint8, device=kinds[source])
            b = torch.zeros(LARGE, dtype=torch.uint8, device=kinds[destination])

            def copy():
                b.copy_(a)
                torch.cuda.synchronize()
            figure = rate(copy, LARGE)
            require(bool((b == 1).all()), "the copy is wrong")
            return f"{figure:.2f} GB/s, 64 MiB, pageable host memory"
        return attempt

    for source, destination in (("VRAM", "VRAM"), ("VRAM", "DRAM"), ("DRAM", "VRAM")):
        yield f"cudaMemcpy {source} -> {destination}", between(source, destination)


def move(pair, operation, size, length):
    request = pair.request(operation, length, size=size)
    seed = next(SEED)
    if operation == "WRITE":
        pair.memory.fill(seed, size)
    else:
        pair.target.ask("fill", seed, size)
    pair.finish(request)
    wrong = pair.target.ask("wrong", seed, size) if operation == "WRITE" else pair.memory.wrong(seed, size)
    require(wrong == 0, f"{wrong} of {size} bytes are wrong")
    figure = rate(lambda: pair.finish(request), size)
    path = pair.agent.get_xfer_report(request).path
    pair.agent.release_xfer_handle(request)
    return f"{figure:6.2f} GB/s  {path.rpartition(', ')[2]}"


def moves():
    for local, remote in itertools.product(KINDS, KINDS):
        with contextlib.ExitStack() as stack:
            pairs = []

            def attempt(operation, size, length):
                if not pairs:  # starting a process that uses the GPU takes seconds: one for all rows of these kinds
                    pairs.append(stack.enter_context(Pair(local, remote, LARGE)))
                return move(pairs[0], operation, size, length)

            for operation, arrow in (("WRITE", "->"), ("READ", "<-")):
                for size, length, text in ((BLOCK * BLOCKS, BLOCK, f"{BLOCKS} x 4 KiB"), (LARGE, LARGE, "64 MiB")):
                    yield (f"{operation:<5} {local} {arrow} {remote}, {text}",
                           functools.partial(attempt, operation, size, length))


def tensors():
    def attempt():
        need_gpu("VRAM")
        rows, columns = 64, 1024
        with Pair("DRAM", "VRAM", rows * columns * 4) as pair:
            seed = next(SEED)
            pair.target.ask("fill", seed)
            tensor = torch.zeros((rows, columns), dtype=torch.float32, device="cuda:0")
            torch.cuda.synchronize()
            registered = pair.agent.register_memory(tensor)
            local = pair.agent.get_xfer_descs(list(tensor))
            remote = pair.agent.get_xfer_descs(pair.target.blocks(columns * 4), "VRAM")
            request = pair.agent.initialize_xfer("READ", local, remote, pair.target.name)
            pair.finish(request)
            expected = Memory("VRAM", rows * columns * 4)
            expected.fill(seed)
            wrong = int((tensor.view(torch.uint8).reshape(-1) != expected.bytes).sum())
            require(wrong == 0, f"{wrong} bytes are wrong")
            pair.agent.release_xfer_handle(request)
            pair.agent.deregister_memory(registered)
            return f"{rows} rows of a matrix"
    yield "a matrix read row by row", attempt


def notifications():
    def after_data(kind):
        def attempt():
            with Pair(kind, kind, LARGE) as pair:
                for _ in range(ROUNDS):
                    seed = next(SEED)
                    pair.memory.fill(seed)
                    request = pair.request("WRITE", 1 << 20, f"seed {seed}".encode())
                    pair.target.tell("message", "initiator", f"seed {seed}".encode(), seed)
                    pair.finish(request)
                    wrong = pair.target.answer()
                    require(wrong == 0, f"{wrong} bytes were wrong when the message was there")
                    pair.agent.release_xfer_handle(request)
                return f"{ROUNDS} times 64 MiB"
        return attempt

    for kind in KINDS:
        yield f"{kind}: all data is there when the message is", after_data(kind)


def killed_peer():
    def during(operation, kind):
        def attempt():
            with Pair(kind, kind, LARGE) as pair:
                request = pair.request(operation, LARGE)
                pair.finish(request)
                state, killed, end = "PROC", 0.0, time.monotonic() + LIMIT_S
                try:
                    while time.monotonic() < end:
                        if state == "DONE" or not killed:
                            state = pair.agent.transfer(request)
                        if not killed:
                            os.kill(pair.target.process.pid, signal.SIGKILL)
                            killed = time.monotonic()
                        state = pair.agent.check_xfer_state(request)
                except Exception as error:
                    require("REMOTE_DISCONNECT" in str(error) or "NOT_FOUND" in str(error),
                            f"{type(error).__name__}: {error}")
                    seconds = time.monotonic() - killed
                    pair.memory.fill(1)  # the device still works
                    require(pair.memory.wrong(1) == 0, "the memory is wrong afterwards")
                    return f"{type(error).__name__} after {seconds * 1e3:.0f} ms"
                raise AssertionError(f"nothing was noticed within {LIMIT_S} s")
        return attempt

    for operation, kind in itertools.product(("WRITE", "READ"), KINDS):
        yield f"{operation} {kind}", during(operation, kind)


class Filed:
    """An agent with a file backend, memory of one kind and a file of the same size."""

    def __init__(self, backend, kind, size):
        need_gpu("VRAM")  # the CUDA driver is needed for either kind
        self.agent = nixl_agent("filed", nixl_agent_config(backends=[backend]))
        self.memory = Memory(kind, size)
        self.file = tempfile.NamedTemporaryFile()
        self.registered = [self.agent.register_memory(self.memory.registration(), kind),
                           self.agent.register_memory([(0, size, self.file.fileno(), "")], "FILE")]

    def request(self, operation, size, length):
        local = self.agent.get_xfer_descs(self.memory.blocks(length, size), self.memory.kind)
        remote = self.agent.get_xfer_descs([(at, length, self.file.fileno()) for at in range(0, size, length)], "FILE")
        return self.agent.initialize_xfer(operation, local, remote, "filed")

    def close(self):
        for registered in self.registered:
            self.agent.deregister_memory(registered)
        self.file.close()


def there_and_back(filed, size, length):
    write, read = (filed.request(operation, size, length) for operation in ("WRITE", "READ"))
    seed = next(SEED)
    filed.memory.fill(seed, size)
    finish(filed.agent, write)
    expected = Memory("DRAM", size)
    expected.fill(seed)
    wrong = int((np.fromfile(filed.file.name, np.uint8, size) != expected.bytes).sum())
    require(wrong == 0, f"{wrong} of {size} bytes in the file are wrong")
    filed.memory.fill(next(SEED), size)
    finish(filed.agent, read)
    wrong = filed.memory.wrong(seed, size)
    require(wrong == 0, f"{wrong} of {size} bytes are wrong")
    figures = [rate(lambda: finish(filed.agent, request), size) for request in (write, read)]
    path = filed.agent.get_xfer_report(read).path
    for request in (write, read):
        filed.agent.release_xfer_handle(request)
    return f"{figures[0]:.2f} and {figures[1]:.2f} GB/s  {path}"


def files():
    def creation(backend):
        agent = nixl_agent("filed", nixl_agent_config(backends=[]))
        try:
            agent.create_backend(backend)
        except Exception as error:
            require("POSIX serves files" in str(error), f"{type(error).__name__}: {error}")
            require(why_no_gpu(), f"there is a GPU: {error}")
            return "refused"
        require(not why_no_gpu(), "it was created without a GPU")
        return "created"

    for backend in ("GDS", "GDS_MT"):
        yield f"{backend}: created with a GPU, else refused", functools.partial(creation, backend)
        for kind in KINDS:
            with contextlib.ExitStack() as stack:
                fileds = []

                def attempt(size, length):
                    if not fileds:
                        fileds.append(Filed(backend, kind, LARGE))
                        stack.callback(fileds[0].close)
                    return there_and_back(fileds[0], size, length)

                for size, length, text in ((BLOCK * BLOCKS, BLOCK, f"{BLOCKS} x 4 KiB"), (LARGE, LARGE, "64 MiB")):
                    yield f"{backend}: {kind} -> file -> {kind}, {text}", functools.partial(attempt, size, length)


PARTS = {
    "registration": registration,
    "copies": copies,
    "same-host": moves,
    "one-context": moves,
    "network": moves,
    "torch": tensors,
    "notifications": notifications,
    "killed-peer": killed_peer,
    "files": files,
}


def main():
    part, path = sys.argv[1:]
    with open(path, "w", encoding="utf-8") as rows:
        for name, attempt in PARTS[part]():
            try:
                verdict, note = "ok", attempt() or ""
            except Skipped as reason:
                verdict, note = "skipped", str(reason)
            except Exception as error:  # one row's failure is no reason to leave out the others
                traceback.print_exc()
                verdict, note = "FAILED", f"{type(error).__name__}: {error}"
            rows.write(json.dumps({"name": name, "verdict": verdict, "note": note}) + "\n")
            rows.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
