#!/usr/bin/env python3
# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Remote storage: a client keeps its memory in files of a server, and gets it back.

    remote_storage_example.py --mode target --directory /where/the/files/are
    remote_storage_example.py --mode initiator       # in another terminal, or with --ip on another machine

The client (initiator) only asks; the server (target) moves the data. No backend joins the client's memory and a file of
the server, so each request goes through memory of the server, reading and writing at the same time: the agent does that
by itself. The client stores its memory, clears it, loads it and compares; a bar shows how far it is.

Exit status: 0 if every byte came back, 1 otherwise, 2 for wrong arguments.
"""

import contextlib
import json
import tempfile
import time

import common
import numpy as np
from kv_cache import Terminal, size_text
from nixl._api import nixl_agent, nixl_agent_config

TELL_EVERY = 0.1  # seconds between two messages on how far a request is
FILE = "memory of the initiator"


# ---- Server ----------------------------------------------------------------------------------------------------------


class Server:
    def __init__(self, agent, options):
        self.agent = agent
        self.options = options
        self.files = 0

    def serve(self):
        while True:
            question = json.loads(common.next_message(self.agent, "initiator", self.options.timeout))
            if question["operation"] == "goodbye":
                return
            try:
                self.answer(question)
                answer = {"done": question["operation"]}
            except Exception as error:  # a missing file, a full disk: the client's to know
                answer = {"failed": common.describe(error)}
            self.tell(answer)

    def tell(self, message):
        self.agent.send_notif("initiator", json.dumps(message))

    def answer(self, question):
        agent, is_store = self.agent, question["operation"] == "store"
        self.files += 1  # a new device id for each file
        file = agent.register_memory([(0, 0, self.files, f"{'rw,create' if is_store else 'ro'}:{question['file']}")],
                                     "FILE")
        start = time.perf_counter()
        try:
            own = agent.get_xfer_descs([(0, question["bytes"], self.files)], "FILE")
            remote = agent.get_xfer_descs([(question["address"], question["bytes"], 0)], "DRAM")
            request = agent.initialize_xfer("READ" if is_store else "WRITE", own, remote, "initiator")
            try:
                path = self.run(request)
            finally:
                agent.release_xfer_handle(request)
        finally:
            agent.deregister_memory(file)
        seconds = time.perf_counter() - start
        print(f"target: {question['operation']}: {size_text(question['bytes'])} in {seconds:.3f} s, "
              f"{question['bytes'] / seconds / 1e9:.2f} GB/s, {path}", flush=True)

    def run(self, request):
        """Returns how the bytes went. Whatever fails is raised."""
        state = self.agent.transfer(request)
        while state == "PROC":
            state = self.agent.wait(request, TELL_EVERY)
            self.tell({"moved": self.agent.get_xfer_report(request).bytes_done})
        return self.agent.get_xfer_report(request).path


def run_server(agent, options):
    # Paths in questions stay beneath the folder, whatever a client asks for.
    with contextlib.ExitStack() as stack:
        folder = options.directory or stack.enter_context(tempfile.TemporaryDirectory(prefix="nixl-storage-"))
        agent.create_backend(options.storage, {"root": folder})
        common.meet_initiator(agent, options)
        Server(agent, options).serve()


# ---- Client ----------------------------------------------------------------------------------------------------------


def ask(agent, question, options, terminal):
    """Asks, and shows how far the server is until it has answered."""
    agent.send_notif("target", json.dumps(question))
    name, start = question["operation"], time.perf_counter()
    while True:
        messages = agent.wait_notifs(options.timeout).get("target")
        if not messages:
            raise common.Failure(f"the target said nothing for {options.timeout:g} s")
        for message in map(json.loads, messages):
            if "failed" in message:
                raise common.Failure(f"the target could not {name} '{question['file']}': {message['failed']}")
            seconds = time.perf_counter() - start
            if "done" in message:
                terminal.finish(name, f"{size_text(question['bytes'])} in {seconds:.3f} s, "
                                      f"{question['bytes'] / seconds / 1e9:.2f} GB/s")
                return
            moved = message["moved"]
            terminal.bar(name, moved, question["bytes"],
                         f"{size_text(moved)}, {moved / seconds / 1e9:.2f} GB/s")


def run_client(agent, options):
    memory = np.random.default_rng().integers(0, 256, options.mib << 20, dtype=np.uint8)
    before = memory.copy()
    registered = agent.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
    common.meet_target(agent, options)
    terminal = Terminal()
    question = {"file": options.file, "address": memory.ctypes.data, "bytes": memory.nbytes}
    try:
        if not options.only_load:
            ask(agent, question | {"operation": "store"}, options, terminal)
            memory[:] = 0
        ask(agent, question | {"operation": "load"}, options, terminal)
    finally:
        agent.send_notif("target", json.dumps({"operation": "goodbye"}))
    wrong = 0 if options.only_load else int(np.count_nonzero(memory != before))
    if wrong:
        raise common.Failure(f"{wrong} of {memory.nbytes} bytes did not come back")
    terminal.fact("result", f"every byte came back: {memory.nbytes:,} bytes", "32")
    agent.deregister_memory(registered)


def main():
    parser = common.two_peers_parser(__doc__)
    parser.add_argument("--network", default="UCX", help="backend between client and server (default UCX)")
    parser.add_argument("--storage", default="POSIX", help="the server's backend for files (default POSIX)")
    parser.add_argument("--directory", help="where the server keeps the files (default: a new folder, for this run)")
    parser.add_argument("--file", default=FILE, help=f"name of the client's file there (default '{FILE}')")
    parser.add_argument("--mib", type=int, default=64, help="size of the client's memory in MiB (default 64)")
    parser.add_argument("--only-load", action="store_true", help="the client loads a file that is there already")
    options = parser.parse_args()
    if options.mib < 1:
        parser.error("--mib must be 1 or more")
    is_server = options.mode == "target"
    agent = nixl_agent(options.mode, nixl_agent_config(enable_prog_thread=True, enable_listen_thread=True,
                                                       listen_port=options.port if is_server else 0, backends=[]))
    agent.create_backend(options.network)
    (run_server if is_server else run_client)(agent, options)
    agent.remove_remote_agent("initiator" if is_server else "target")


if __name__ == "__main__":
    common.run(main)
