# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Processes of both implementations: started, asked with a limit, and gone at the end, whatever happened."""

import atexit
import dataclasses
import mmap
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import etcd_server  # noqa: E402  (needs the path above)
import python_env  # noqa: E402

PYTHON = {"ours": python_env.PYTHON, "theirs": python_env.PEER_PYTHON}
PARTY = pathlib.Path(__file__).with_name("party.py")
ANSWER_LIMIT_S = 30.0  # more than a party's own limit, so that one that is not stuck says what it waited for
MEMORY_BYTES = 64 << 20
PROBE_BYTES = 1 << 20
PROBE_LIMIT_S = 5.0
LISTENING = re.compile(r"MD listener is listening on port (\d+)")
PROBLEM = re.compile(r"^[WEF]\d{4} .*|^\S+ \S+ NIXL (?:WARNING|ERROR|CRITICAL) .*", re.MULTILINE)
UCX_COMPLAINT = re.compile(r"(?:UCX  ERROR +|(?=Assertion))(.*)")
# The first release whose memory keys the wheel's UCX 1.23 takes; older ones are "Unsupported operation" to it.
TALKS_FROM = (1, 19)


# Memory that the test and all parties share.
AREA_FD = os.memfd_create("area")
os.ftruncate(AREA_FD, MEMORY_BYTES)
AREA = np.frombuffer(mmap.mmap(AREA_FD, MEMORY_BYTES), np.uint8)


# Where both sides find each other without addresses.
ETCD = None if etcd_server.why_not() else etcd_server.EtcdServer()
if ETCD:
    atexit.register(ETCD.close)


class Broken(Exception):
    """A party died, hung, or its call failed; the text says which and why."""


@dataclasses.dataclass(frozen=True)
class Ucx:
    """A UCX that our side uses; the other side always has its own, which is part of its wheel."""

    name: str
    library: pathlib.Path | None  # None: what the system's loader finds

    def environment(self):
        return {"NIXL_UCX_LIBRARY": str(self.library)} if self.library else {}


@dataclasses.dataclass(frozen=True)
class Transport:
    """What both sides set, in the environment and as parameters of the backend."""

    name: str
    environment: dict
    parameters: dict


UCX = (Ucx("system", None), Ucx("current", python_env.UCX / "libucx" / "lib" / "libucp.so.0"))
# Shared memory notices the death of a peer only when told to, and UCX does not use it where it must notice. A switched
# process and one that is not must not meet, so the switches are set for both.
SWITCHES = {"UCX_POSIX_ERROR_HANDLING": "y", "UCX_SYSV_ERROR_HANDLING": "y", "UCX_KEEPALIVE_INTERVAL": "1s"}
TRANSPORTS = (
    Transport("default", {}, {}),
    Transport("tcp", {"UCX_TLS": "tcp,self"}, {}),
    Transport("shm", {"UCX_TLS": "shm,self"} | SWITCHES, {}),
    Transport("blind shm", {"UCX_TLS": "shm,self"}, {"ucx_error_handling_mode": "none"}),
)


def environment(whose, ucx, transport):
    # What somebody has set for this shell would change one side only, or what is tested.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UCX_", "NIXL_"))}
    of_ours = ucx.environment() if whose == "ours" else {}
    directory = ETCD.environment if ETCD else {}
    return kept | transport.environment | of_ours | directory | {"NIXL_CONFIG_FILE": os.devnull}


class Party:
    """A process that runs party.py; its methods are that file's, called over a socket. Broken: one failed."""

    def __init__(self, whose, name, ucx, transport):
        self.whose = whose
        self.name = name
        self.log = tempfile.TemporaryFile()
        mine, theirs = socket.socketpair()
        fds = [theirs.fileno(), AREA_FD]
        # No party outlives the test, whatever ends it.
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", PYTHON[whose], PARTY, *map(str, fds)],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, pass_fds=fds,
                                        env=environment(whose, ucx, transport) | {"NIXL_LOG_LEVEL": "INFO"})
        theirs.close()
        self.channel = Connection(mine.detach())
        self.ask("start", name, transport.parameters)

    def ready(self):
        """Waits for its start. It then has a registered buffer "memory" of MEMORY_BYTES."""
        self.answer("start")
        self.memory = self.allocates("memory", MEMORY_BYTES)  # its address
        self.ucx_version = self.loaded_ucx()
        return self

    def __getattr__(self, method):
        def call(*arguments):
            self.ask(method, *arguments)
            return self.answer(method)

        return call

    def holds(self, buffer, size):
        """The first bytes of a buffer; valid until another is shown or filled."""
        self.shows(buffer, size)
        return AREA[:size]

    def fill(self, buffer, content):
        """Overwrites the first bytes of a buffer."""
        AREA[: len(content)] = content
        self.takes(buffer, len(content))

    def ask(self, method, *arguments):
        try:
            self.channel.send((method, arguments))
        except OSError:
            raise Broken(self.obituary(method)) from None

    def answer(self, method):
        if not self.channel.poll(ANSWER_LIMIT_S):
            raise Broken(f"{self}: {method} did not answer within {ANSWER_LIMIT_S:.0f} s{self.complaint()}")
        try:
            succeeded, value = self.channel.recv()
        except (EOFError, OSError):
            raise Broken(self.obituary(method)) from None
        if not succeeded:
            raise Broken(f"{self}: {method}: {value}{self.complaint()}")
        return value

    def __str__(self):
        return self.name if self.name == self.whose else f"{self.name} ({self.whose})"

    def obituary(self, method):
        return f"{self}: {method}: the process is gone ({self.process.wait()}){self.complaint()}"

    def survives(self):
        """A peer that it cannot talk with must not end it, now or a little later."""
        try:
            self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            return
        raise Broken(self.obituary("being greeted"))

    def printed(self):
        # Not seek and read: the process writes at the same position.
        return os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0).decode(errors="replace")

    def complaint(self):
        """The first error that UCX itself has printed."""
        found = UCX_COMPLAINT.search(self.printed())
        return f"; UCX: {found[1]:.100}" if found else ""

    def problems(self):
        """Its log lines at WARN and above, those of UCX left out."""
        return PROBLEM.findall(self.printed())

    def listen_port(self):
        return int(LISTENING.search(self.printed())[1])

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.channel.close()


class Fleet:
    """One process of each implementation; both are called by whose they are. Started when needed."""

    def __init__(self, ucx, transport):
        self.ucx = ucx
        self.transport = transport
        self.parties = {}
        self.versions = ""
        self._met = set()  # who has loaded the other's metadata and reached it
        self._unable = {}  # who cannot, and why

    def start(self, whose, name):
        return Party(whose, name, self.ucx, self.transport)

    def command(self, whose, program):
        """How to run a Python program as one of the fleet."""
        variables = environment(whose, self.ucx, self.transport)
        runner = [PARTY.with_name("run_and_leave.py")] if whose == "theirs" else []
        return ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), PYTHON[whose], *runner, program]

    def end(self):
        while self.parties:
            self.parties.popitem()[1].kill()
        self._met.clear()

    def pair(self, initiator):
        """(initiator, target), the first knowing the second. Skips the test where the two UCX cannot talk."""
        if self.ucx.library and not self.ucx.library.is_file():
            pytest.skip(f"{self.ucx.library.relative_to(ROOT)} is not there; ./check step interop installs it")
        if initiator in self._unable:
            pytest.skip(self._unable[initiator])
        if not self.parties:
            for whose in ("ours", "theirs"):
                self.parties[whose] = self.start(whose, whose)
            versions = [party.ready().ucx_version for party in self.parties.values()]
            self.versions = f"UCX {versions[0]} here, {versions[1]} there"
        pair = self.parties[initiator], self.parties["theirs" if initiator == "ours" else "ours"]
        if initiator not in self._met:
            try:
                probe(*pair)
            except Broken as error:
                version = tuple(map(int, self.parties["ours"].ucx_version.split(".")[:2]))
                if version >= TALKS_FROM:
                    raise
                self.parties["ours"].survives()
                complaints = {party.complaint() for party in pair if party.complaint() not in str(error)}
                self._unable[initiator] = (f"{self.versions}, {self.transport.name}, {initiator} initiate: cannot "
                                           f"talk: {error}{''.join(complaints)}")
                self.end()
                pytest.skip(self._unable[initiator])
            self._met.add(initiator)
        return pair

    def pair_both_ways(self, initiator):
        """As pair(), where the target reaches the initiator too."""
        for whose in ("ours", "theirs"):
            self.pair(whose)
        return self.pair(initiator)


def probe(initiator, target):
    """Whether the two can talk at all: metadata, a WRITE, its message. Broken: they cannot."""
    initiator.load(target.metadata())
    initiator.makes("probe", "WRITE", target.name, "memory", [(0, target.memory, PROBE_BYTES)], b"probe")
    initiator.posts("probe", b"", PROBE_LIMIT_S)
    heard = target.hears(initiator.name, 1)
    assert heard == [b"probe"]
    initiator.releases("probe")
