# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The interpreter ends while transfers are under way: no byte goes into memory that it has freed, in any order."""

import subprocess
import sys
import textwrap

import pytest

# Two agents of one process and a transfer between them that takes a second. The interpreter destroys names with an
# underscore first, so the memory goes before the handles and agents.
SCRIPT = """
import atexit, os, sys, threading
import numpy as np
{before}
from nixl import nixl_agent, nixl_agent_config

MiB = 1 << 20
_source, _sink = np.ones(256 * MiB, np.uint8), np.ones(256 * MiB, np.uint8)
a, b = (nixl_agent(name, nixl_agent_config(backends=["{backend}"])) for name in "ab")
for agent, memory in ((a, _source), (b, _sink)):
    agent.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
a.add_remote_agent(b.get_agent_metadata())
local, remote = (
    a.get_xfer_descs([(memory.ctypes.data, memory.nbytes, 0)], "DRAM") for memory in (_source, _sink)
)
handles = [a.initialize_xfer("READ", local, remote, "b") for _ in range(16)]
states = [a.transfer(handle) for handle in handles]
assert "PROC" in states
{then}
"""


@pytest.fixture
def end(backend):
    """Runs the script; its exit status and what it printed."""

    def run(then="", before=""):
        script = textwrap.dedent(SCRIPT).format(backend=backend, then=textwrap.dedent(then), before=before)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    return run


def test_memory_that_goes_before_the_handles(end):
    assert end() == (0, "", "")


def test_memory_of_a_peer_that_lives_on(end):
    # The module of agents outlives that of the memory.
    assert end(then="sys.keep = (a, b, handles)") == (0, "", "")


def test_a_thread_that_goes_on_asking(end):
    then = """
    def ask():
        while True:
            for handle in handles:
                a.check_xfer_state(handle)

    threading.Thread(target=ask, daemon=True).start()
    """
    assert end(then=then) == (0, "", "")


def test_threads_that_wait_for_ever(end):
    then = """
    import asyncio

    for wait in (a.wait_notifs, lambda: a.wait(handles[-1]), lambda: asyncio.run(b.notifs())):
        threading.Thread(target=wait, daemon=True).start()
    """
    assert end(then=then) == (0, "", "")


def test_agents_in_a_cycle_that_is_never_collected(end):
    then = """
    import gc
    gc.disable()
    a.peer, b.peer = b, a
    del a, b, agent
    """
    assert end(then=then) == (0, "", "")


def test_a_late_hook_is_told(end):
    before = "atexit.register(lambda: a.get_new_notifs())"
    code, out, err = end(before=before)
    assert (code, out) == (0, "")
    assert "RuntimeError: the interpreter is ending" in err


def test_an_early_hook_may_still_use_agents(end):
    then = """
    atexit.register(lambda: print(a.check_xfer_state(handles[0]) in ("PROC", "DONE")))
    """
    assert end(then=then) == (0, "True\n", "")


def test_the_end_of_a_forked_child_does_not_touch_the_agents_of_its_parent(end):
    then = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads
    child = os.fork()
    if child == 0:
        sys.exit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    while any(a.check_xfer_state(handle) == "PROC" for handle in handles):
        pass
    print({a.check_xfer_state(handle) for handle in handles})
    """
    assert end(then=then) == (0, "3\n{'DONE'}\n", "")


def test_an_end_without_hooks(end):
    assert end(then="os._exit(5)") == (5, "", "")
