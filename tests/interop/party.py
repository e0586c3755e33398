# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""One side of the test: `party.py SOCKET AREA` makes an agent and does what the test asks for over the socket.

Both implementations run this file; it imports `nixl_cu12._api`, which ours provides as well. Only plain values cross
the socket; the contents of buffers go through AREA, memory that is shared with the test. Every wait ends.
"""

import ctypes
import mmap
import os
import sys
import threading
import time
from multiprocessing.connection import Connection

import numpy as np
from nixl_cu12 import _bindings
from nixl_cu12._api import nixl_agent, nixl_agent_config

LIMIT_S = 15.0
PAUSE = threading.Event()  # never set


def eventually(predicate, what, limit_s=LIMIT_S):
    end = time.monotonic() + limit_s
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come true within {limit_s:.0f} s")
        PAUSE.wait(0.0002)


class Party:
    def __init__(self, area):
        self.area = np.frombuffer(mmap.mmap(area, 0), np.uint8)
        self.agent = None
        self.buffers = {}  # name -> (array, registered list)
        self.requests = {}  # name -> (handle, its prepared lists)
        self.messages = {}  # sender -> messages that arrived and were not taken

    # ---- Agent and metadata ----

    def start(self, name, parameters):
        self.agent = nixl_agent(name, nixl_agent_config(enable_listen_thread=True, listen_port=0, backends=[]))
        self.agent.create_backend("UCX", parameters)

    def loaded_ucx(self):
        """Version of the UCX this process has loaded, asked from the library itself."""
        self.metadata()  # waits for what loads in the background
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "/libucp" in line}
        function = ctypes.CDLL(sorted(paths)[0]).ucp_get_version_string
        function.restype = ctypes.c_char_p
        return function().decode()

    def metadata(self):
        return self.agent.get_agent_metadata()

    def partial_metadata(self, buffer, with_connection):
        """Metadata of one buffer; of none, only how to connect, for buffer None."""
        descs = self.buffers[buffer][1] if buffer else _bindings.nixlRegDList(_bindings.DRAM_SEG)
        return self.agent.get_partial_agent_metadata(descs, with_connection, ["UCX"])

    def load(self, metadata):
        return self.agent.add_remote_agent(metadata)

    def remove(self, peer):
        self.agent.remove_remote_agent(peer)

    def knows(self, peer, ranges=()):
        """Whether the peer's metadata is loaded, with these (address, length) ranges."""
        descs = self.agent.get_xfer_descs([(*one, 0) for one in ranges], "DRAM") if ranges else None
        return self.agent.check_remote_metadata(peer, descs)

    def learns_of(self, peer, ranges=()):
        eventually(lambda: self.knows(peer, ranges), f"knowing {peer}")

    def forgets(self, peer):
        eventually(lambda: not self.knows(peer), f"forgetting {peer}")

    def fetches(self, peer, ip, port):
        self.agent.fetch_remote_metadata(peer, ip, port)

    def sends(self, ip, port):
        self.agent.send_local_metadata(ip, port)

    def sends_partial(self, buffer, with_connection, ip, port):
        self.agent.send_partial_agent_metadata(self.buffers[buffer][1], with_connection, ["UCX"], ip, port)

    def invalidates(self, ip, port):
        self.agent.invalidate_local_metadata(ip, port)

    # ---- The same through etcd, without addresses ----

    def publishes(self):
        self.agent.send_local_metadata()
        self.settles()

    def publishes_partial(self, buffer, with_connection, label):
        self.agent.send_partial_agent_metadata(self.buffers[buffer][1], with_connection, ["UCX"], label=label)
        self.settles()

    def settles(self):
        """Waits for what was asked for. Theirs cannot; whoever looks for it waits."""
        if hasattr(self.agent, "wait_metadata"):
            self.agent.wait_metadata()

    def looks_up(self, peer, label=""):
        self.agent.fetch_remote_metadata(peer, label=label)

    def withdraws(self):
        self.agent.invalidate_local_metadata()

    # ---- Memory ----

    def allocates(self, name, size):
        """Registers a buffer of zeros; its address."""
        array = np.zeros(size, np.uint8)
        registered = self.agent.register_memory([(array.ctypes.data, array.nbytes, 0, "")], "DRAM")
        self.buffers[name] = array, registered
        return array.ctypes.data

    def frees(self, name):
        self.agent.deregister_memory(self.buffers.pop(name)[1])

    def shows(self, name, size):
        """Copies the first bytes of a buffer into the shared area."""
        self.area[:size] = self.buffers[name][0][:size]

    def takes(self, name, size):
        """Fills the first bytes of a buffer from the shared area."""
        self.buffers[name][0][:size] = self.area[:size]

    # ---- Descriptor lists ----

    def pickles(self, kind, memory, rows):
        """A pickled list of `rows`; kind is "xfer" or "reg"."""
        make = self.agent.get_xfer_descs if kind == "xfer" else self.agent.get_reg_descs
        return self.agent.get_serialized_descs(make(rows, memory))

    def unpickles(self, pickled):
        """(class, memory type, rows) of a pickled list."""
        descs = self.agent.deserialize_descs(pickled)
        is_ours_to_use = isinstance(descs, (_bindings.nixlXferDList, _bindings.nixlRegDList))
        rows = [descs[index] for index in range(descs.descCount())]
        return type(descs).__name__ if is_ours_to_use else str(type(descs)), descs.getType().name, rows

    # ---- Transfers and messages ----

    def makes(self, name, operation, peer, buffer, rows, message=b"", prepared=False):
        """Makes a request of `rows`: (offset in the own buffer, address at the peer, length)."""
        rows = np.array(rows, np.uint64).reshape(-1, 3)
        local, remote = np.zeros((2, len(rows), 3), np.uint64)
        local[:, 0] = rows[:, 0] + np.uint64(self.buffers[buffer][0].ctypes.data)
        remote[:, 0] = rows[:, 1]
        local[:, 1] = remote[:, 1] = rows[:, 2]
        if prepared:
            sides = (self.agent.prep_xfer_dlist("", local, "DRAM"), self.agent.prep_xfer_dlist(peer, remote, "DRAM"))
            indices = np.arange(len(rows))[::-1].copy()
            handle = self.agent.make_prepped_xfer(operation, sides[0], indices, sides[1], indices, message)
        else:
            sides = (self.agent.get_xfer_descs(local, "DRAM"), self.agent.get_xfer_descs(remote, "DRAM"))
            handle = self.agent.initialize_xfer(operation, *sides, peer, message)
        self.requests[name] = handle, sides if prepared else ()

    def posts(self, name, message=b"", limit_s=LIMIT_S):
        """Starts a request and waits for its end."""
        handle = self.requests[name][0]
        if self.agent.transfer(handle, message) != "DONE":
            eventually(lambda: self.agent.check_xfer_state(handle) == "DONE", f"the end of request {name}", limit_s)

    def path(self, name):
        """How a request travelled. Ours only."""
        return self.agent.get_xfer_report(self.requests[name][0]).path

    def releases(self, name):
        handle, sides = self.requests.pop(name)
        self.agent.release_xfer_handle(handle)
        for side in sides:
            self.agent.release_dlist_handle(side)

    def notifies(self, peer, message):
        self.agent.send_notif(peer, message)

    def hears(self, sender, count):
        """Waits for `count` messages of `sender` and takes them."""
        waiting = self.messages.setdefault(sender, [])

        def arrived():
            for name, messages in self.agent.get_new_notifs().items():
                self.messages.setdefault(name, []).extend(messages)
            return len(waiting) >= count

        eventually(arrived, f"{count} messages of {sender}")
        taken, waiting[:] = waiting[:], []
        return taken

    def shows_when_told(self, sender, buffer, size):
        """As shows(), at the moment when a message of `sender` arrives."""
        self.hears(sender, 1)
        self.shows(buffer, size)

    def fails_within(self, name, limit_s):
        """Posts a request again and again until that fails; the exception's name."""
        started = time.monotonic()
        handle = self.requests[name][0]
        while time.monotonic() - started < limit_s:
            try:
                state = self.agent.transfer(handle)
                while state != "DONE" and time.monotonic() - started < limit_s:
                    state = self.agent.check_xfer_state(handle)
            except Exception as error:
                return type(error).__name__
            PAUSE.wait(0.001)
        raise TimeoutError(f"request {name} neither failed nor ended within {limit_s:.0f} s")


def main():
    channel = Connection(int(sys.argv[1]))
    party = Party(int(sys.argv[2]))
    while True:
        try:
            method, arguments = channel.recv()
        except EOFError:
            break
        try:
            channel.send((True, getattr(party, method)(*arguments)))
        except Exception as error:
            channel.send((False, f"{type(error).__name__}: {error}"))
    # Not sys.exit(): the published wheel crashes at times when the interpreter takes its agents down.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
