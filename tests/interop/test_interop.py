# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""What a fleet does in which some processes run this package and some the published wheel of the original.

What can happen between the two must be right: every byte is compared. Where two versions of UCX cannot talk, the test
is skipped and says so. The processes are kept from test to test, and started again after a failure.
"""

import functools

import etcd_server
import numpy as np
import pytest
import two_processes
from fleet import AREA, ETCD, MEMORY_BYTES, ROOT
from party import eventually

EXAMPLE = ROOT / "examples" / "python" / "basic_two_peers.py"
SIZE = 1 << 18
DEATHS = 3  # a peer is caught in another moment each time


@functools.cache
def _random_bytes(count, seed):
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)


def random_bytes(count, seed):
    return _random_bytes(count, seed).copy()


class Buffers:
    """The first bytes of both memories with content of their own, and what they must hold."""

    def __init__(self, initiator, target, size=SIZE):
        self.initiator = initiator
        self.target = target
        self.size = size
        self.local = random_bytes(size, 1)
        self.remote = random_bytes(size, 2)
        initiator.fill("memory", self.local)
        target.fill("memory", self.remote)

    def makes(self, operation, pieces, message=b"", prepared=False):
        """Makes the request "it" of (local offset, remote offset, length) pieces."""
        rows = [(local, self.target.memory + remote, length) for local, remote, length in pieces]
        self.initiator.makes("it", operation, self.target.name, "memory", rows, message, prepared)

    def transfers(self, operation, pieces, message=b"", prepared=False):
        self.makes(operation, pieces, message, prepared)
        self.initiator.posts("it")
        self.initiator.releases("it")
        self.expect(operation, pieces)

    def expect(self, operation, pieces):
        """Compares every byte of both with what it must be after a transfer of these pieces."""
        for local, remote, length in pieces:
            if operation == "READ":
                self.local[local : local + length] = self.remote[remote : remote + length]
            else:
                self.remote[remote : remote + length] = self.local[local : local + length]
        assert_equal(self.initiator.holds("memory", self.size), self.local, "the initiator's memory")
        assert_equal(self.target.holds("memory", self.size), self.remote, "the target's memory")


def assert_equal(found, expected, what):
    if not np.array_equal(found, expected):
        wrong = np.flatnonzero(found != expected)
        raise AssertionError(f"{what}: {len(wrong)} bytes are wrong, from {wrong[0]} on")


def scattered(count, length):
    """`count` pieces of `length` bytes with gaps, in another order on each side."""
    random = np.random.default_rng(3)
    local, remote = random.permutation(count), random.permutation(count)
    return [(int(a) * 2 * length, int(b) * 2 * length, length) for a, b in zip(local, remote)]


# ---- Metadata --------------------------------------------------------------------------------------------------------


def test_metadata(pair):
    initiator, target = pair
    for _ in range(2):  # the second time is not new
        assert initiator.load(target.metadata()) == target.name.encode()
    assert initiator.knows(target.name, [(target.memory, SIZE)])
    assert initiator.knows(target.name, [(target.memory + 1, MEMORY_BYTES - 1)])
    assert not initiator.knows(target.name, [(target.memory + 1, MEMORY_BYTES)])


def test_partial_metadata(pair):
    initiator, target = pair
    told, hidden = target.allocates("told", SIZE), target.allocates("hidden", SIZE)
    initiator.remove(target.name)
    assert not initiator.knows(target.name)
    assert initiator.load(target.partial_metadata(None, True)) == target.name.encode()
    assert not initiator.knows(target.name, [(told, SIZE)])
    initiator.load(target.partial_metadata("told", False))
    assert initiator.knows(target.name, [(told, SIZE)])
    assert not initiator.knows(target.name, [(hidden, SIZE)])

    content = random_bytes(SIZE, 4)
    initiator.fill("memory", content)
    initiator.makes("it", "WRITE", target.name, "memory", [(0, told, SIZE)])
    initiator.posts("it")
    initiator.releases("it")
    assert_equal(target.holds("told", SIZE), content, "the memory that was told of")
    assert_equal(target.holds("hidden", SIZE), np.zeros(SIZE, np.uint8), "the other memory")

    initiator.load(target.metadata())
    assert initiator.knows(target.name, [(hidden, SIZE)])
    forget(initiator, target, "told", "hidden")


def forget(initiator, target, *buffers):
    """Removes buffers of the target, and what the initiator knows of them: loading metadata only adds."""
    for buffer in buffers:
        target.frees(buffer)
    initiator.remove(target.name)
    initiator.load(target.metadata())


@pytest.fixture
def etcd():
    if not ETCD:
        pytest.skip(etcd_server.why_not())


def withdraw(initiator, target):
    """The initiator has heard of it: else it would forget what it is given afterwards."""
    target.withdraws()
    if initiator.whose == "ours":
        initiator.forgets(target.name)
    else:
        initiator.remove(target.name)


@pytest.mark.transports("default")
def test_metadata_through_etcd(pair, etcd):
    initiator, target = pair
    initiator.remove(target.name)
    target.publishes()
    watchers = ETCD.watchers()
    initiator.looks_up(target.name)
    initiator.learns_of(target.name, [(target.memory, SIZE)])
    eventually(lambda: ETCD.watchers() > watchers, "watching")  # theirs begins when it has loaded what it found
    Buffers(initiator, target).transfers("WRITE", [(0, 0, SIZE)], b"found")
    assert target.hears(initiator.name, 1) == [b"found"]
    target.withdraws()
    initiator.forgets(target.name)

    if initiator.whose == "ours":  # theirs takes the withdrawal for an answer if it is the last that happened in etcd
        initiator.looks_up(target.name)  # waits
    target.publishes()
    initiator.looks_up(target.name)
    initiator.learns_of(target.name, [(target.memory, SIZE)])
    withdraw(initiator, target)
    initiator.load(target.metadata())


@pytest.mark.transports("default")
def test_partial_metadata_through_etcd(pair, etcd):
    initiator, target = pair
    told, hidden = target.allocates("told", SIZE), target.allocates("hidden", SIZE)
    initiator.remove(target.name)
    target.publishes_partial("told", True, "a part")
    initiator.looks_up(target.name, "a part")
    initiator.learns_of(target.name, [(told, SIZE)])
    assert not initiator.knows(target.name, [(hidden, SIZE)])
    withdraw(initiator, target)
    initiator.load(target.metadata())
    forget(initiator, target, "told", "hidden")


@pytest.mark.transports("default")
def test_pickled_lists(pair):
    writer, reader = pair
    memory = [(0x1000, 0x40, 0), ((1 << 64) - 0x1000, 0x80, 3)]
    assert reader.unpickles(writer.pickles("xfer", "DRAM", memory)) == ("nixlXferDList", "DRAM_SEG", memory)
    files = [(0, 4096, 7, "rw:/x"), (4096, 10, 8, "")]
    loaded = [(address, length, device, meta.encode()) for address, length, device, meta in files]
    assert reader.unpickles(writer.pickles("reg", "FILE", files)) == ("nixlRegDList", "FILE_SEG", loaded)


# ---- Transfers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["READ", "WRITE"])
def test_one_byte(pair, operation):
    buffers = Buffers(*pair)
    buffers.transfers(operation, [(12345, 54321, 1)])


@pytest.mark.parametrize("operation", ["READ", "WRITE"])
def test_4_KiB(pair, operation):
    buffers = Buffers(*pair)
    buffers.transfers(operation, [(4096, 8192, 4096)])
    buffers.transfers(operation, [(1, 3, 4096)])


@pytest.mark.parametrize("operation", ["READ", "WRITE"])
def test_64_MiB(pair, operation):
    buffers = Buffers(*pair, MEMORY_BYTES)
    buffers.transfers(operation, [(0, 0, MEMORY_BYTES)])


@pytest.mark.parametrize("operation", ["READ", "WRITE"])
def test_many_descriptors(pair, operation):
    buffers = Buffers(*pair, 1 << 20)
    buffers.transfers(operation, scattered(4096, 128))


@pytest.mark.parametrize("operation", ["READ", "WRITE"])
def test_prepared_lists(pair, operation):
    buffers = Buffers(*pair)
    buffers.transfers(operation, scattered(64, 2048), prepared=True)


@pytest.mark.parametrize("operation", ["READ", "WRITE"])
def test_with_a_notification(pair, operation):
    initiator, target = pair
    buffers = Buffers(*pair)
    buffers.transfers(operation, scattered(16, 4096), b"bytes\0and\xff")
    assert target.hears(initiator.name, 1) == [b"bytes\0and\xff"]


def test_data_before_its_notification(pair):
    initiator, target = pair
    size = 8 << 20
    buffers = Buffers(*pair, size)
    buffers.makes("WRITE", [(0, 0, size)], b"there")
    target.ask("shows_when_told", initiator.name, "memory", size)
    initiator.posts("it")
    target.answer("shows_when_told")
    assert_equal(AREA[:size], buffers.local, "the memory when the message came")
    initiator.releases("it")


def test_posted_again(pair):
    initiator, target = pair
    buffers = Buffers(*pair)
    piece = [(0, 0, 4096)]
    buffers.makes("WRITE", piece, b"first")
    for number, message in enumerate((b"", b"another", b"")):
        buffers.local = random_bytes(SIZE, 10 + number)
        initiator.fill("memory", buffers.local)
        initiator.posts("it", message)
        buffers.expect("WRITE", piece)
    assert target.hears(initiator.name, 3) == [b"first", b"another", b"another"]
    initiator.releases("it")


def test_messages(pair):
    sender, receiver = pair
    messages = [b"x" * length for length in (1, 100, 4000)] + [bytes(range(256))]
    for message in messages:
        sender.notifies(receiver.name, message)
    assert sorted(receiver.hears(sender.name, len(messages))) == sorted(messages)


def test_messages_in_answer(pair_both_ways):
    for number in range(20):
        for one, other in (pair_both_ways, pair_both_ways[::-1]):
            one.notifies(other.name, b"%d" % number)
            assert other.hears(one.name, 1) == [b"%d" % number]


@pytest.mark.transports("default", "tcp")
def test_three_in_one_fleet(fleet):
    """Between two of ours UCX's companion serves, and each of them has with the third what everybody has."""
    ours, theirs = fleet.pair_both_ways("ours")
    other = fleet.start("ours", "other").ready()
    try:
        parties = (ours, theirs, other)
        expected = {}
        for number, party in enumerate(parties):  # each writes its own third into the others' memory
            for peer in parties:
                if peer is not party:
                    party.load(peer.metadata())
            expected[party.name] = np.zeros(3 * SIZE, np.uint8)
            expected[party.name][number * SIZE : (number + 1) * SIZE] = random_bytes(SIZE, number)
            party.fill("memory", expected[party.name])
        for number, party in enumerate(parties):
            first = number * SIZE
            for peer in parties:
                if peer is not party:
                    row = (first, peer.memory + first, SIZE)
                    party.makes(peer.name, "WRITE", peer.name, "memory", [row], b"written")
                    party.posts(peer.name)
                    expected[peer.name][first : first + SIZE] = random_bytes(SIZE, number)
                    assert peer.hears(party.name, 1) == [b"written"]
        for party in parties:
            assert_equal(party.holds("memory", 3 * SIZE), expected[party.name], str(party))
        for one, another in ((ours, other), (other, ours)):
            assert one.path(another.name).startswith("SHM: ")
            assert one.path("theirs").startswith("ucx ") and one.path("theirs").endswith("network")
    finally:
        other.kill()
        fleet.end()


# ---- The listener ----------------------------------------------------------------------------------------------------


@pytest.mark.transports("default")
def test_listener_fetch_and_send(pair_both_ways):
    """As in the introduction's example: the initiator asks the target's listener, and tells it of itself."""
    initiator, target = pair_both_ways
    initiator.remove(target.name)
    target.remove(initiator.name)
    initiator.fetches(target.name, "127.0.0.1", target.listen_port())
    initiator.sends("127.0.0.1", target.listen_port())
    initiator.learns_of(target.name, [(target.memory, MEMORY_BYTES)])
    target.learns_of(initiator.name, [(initiator.memory, MEMORY_BYTES)])
    target.notifies(initiator.name, b"seen")
    assert initiator.hears(target.name, 1) == [b"seen"]


@pytest.mark.transports("default")
def test_listener_partial(pair):
    initiator, target = pair
    initiator.remove(target.name)
    told, hidden = target.allocates("told", SIZE), target.allocates("hidden", SIZE)
    target.sends_partial("told", True, "127.0.0.1", initiator.listen_port())
    initiator.learns_of(target.name, [(told, SIZE)])
    assert not initiator.knows(target.name, [(hidden, SIZE)])
    target.sends_partial("hidden", False, "127.0.0.1", initiator.listen_port())
    initiator.learns_of(target.name, [(hidden, SIZE)])
    forget(initiator, target, "told", "hidden")


@pytest.mark.transports("default")
def test_listener_invalidation(pair_both_ways):
    initiator, target = pair_both_ways
    initiator.sends("127.0.0.1", target.listen_port())
    target.learns_of(initiator.name)
    initiator.invalidates("127.0.0.1", target.listen_port())
    target.forgets(initiator.name)
    initiator.sends("127.0.0.1", target.listen_port())
    target.learns_of(initiator.name)


@pytest.mark.transports("default")
def test_introductions_example(fleet, initiator):
    """examples/python/basic_two_peers.py, one process in each implementation."""
    fleet.pair_both_ways(initiator)
    fleet.end()
    target = "theirs" if initiator == "ours" else "ours"
    commands = [fleet.command(whose, EXAMPLE) for whose in (target, initiator)]
    assert two_processes.run(*commands, limit_s=60) == 0


# ---- Ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.transports("tcp", "shm")
def test_death_and_return(pair, fleet):
    """A killed peer is noticed; a new process under its name is a new peer."""
    initiator, target = pair
    for _ in range(DEATHS):
        Buffers(initiator, target).makes("WRITE", [(0, 0, SIZE)])
        initiator.posts("it")
        target.kill()
        assert initiator.fails_within("it", 20) == "nixlRemoteDisconnectError"
        initiator.releases("it")

        fleet.parties[target.whose] = target = fleet.start(target.whose, target.name).ready()
        if initiator.whose == "theirs":
            initiator.remove(target.name)  # else it would refuse the new one; ours knows that the old one is gone
        initiator.load(target.metadata())
        Buffers(initiator, target).transfers("WRITE", [(0, 0, SIZE)], b"welcome back")
        assert target.hears(initiator.name, 1) == [b"welcome back"]
    fleet.end()
