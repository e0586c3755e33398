# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The buffer of one side, the pattern that must arrive, and the permutations both sides derive from one seed."""

import mmap

import numpy as np

FACTOR = np.uint64(0x9E3779B97F4A7C15)
CHUNK_WORDS = 1 << 20
SEED = 20260801


class Buffer:
    """Plain private memory, as an allocator gives it to an engine."""

    def __init__(self, size):
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.bytes = np.frombuffer(self._map, np.uint8)
        self.words = self.bytes.view(np.uint64)
        self.address = self.bytes.ctypes.data
        self.size = size
        self._filled = 0

    def fill(self, size):
        """Writes the pattern to the first `size` bytes, once."""
        for first in range(self._filled // 8, size // 8, CHUNK_WORDS):
            last = min(first + CHUNK_WORDS, size // 8)
            self.words[first:last] = _pattern(first, last)
        self._filled = max(self._filled, size)

    def touch(self):
        self.bytes[:: mmap.PAGESIZE] = 1


def _pattern(first, last):
    return (np.arange(first, last, dtype=np.uint64) + np.uint64(1)) * FACTOR


def wrong_words(words):
    """How many of `words`, the beginning of a buffer, differ from the pattern."""
    wrong = 0
    for first in range(0, len(words), CHUNK_WORDS):
        last = min(first + CHUNK_WORDS, len(words))
        wrong += int(np.count_nonzero(words[first:last] != _pattern(first, last)))
    return wrong


def wrong_blocks(words, block_bytes, pool, count):
    """The same for `count` blocks out of `pool`, permuted; the other blocks of the pool must be zero."""
    blocks = words[: pool * block_bytes // 8].reshape(pool, -1)
    local, remote = permutations(pool, count)
    width = block_bytes // 8
    within = np.arange(width, dtype=np.uint64) + np.uint64(1)
    wrong = 0
    for first in range(0, count, 4096):
        starts = local[first : first + 4096].astype(np.uint64)[:, None] * np.uint64(width)
        expected = (starts + within) * FACTOR
        wrong += int(np.count_nonzero(blocks[remote[first : first + 4096]] != expected))
    others = np.ones(pool, bool)
    others[remote] = False
    for index in np.flatnonzero(others):
        wrong += int(np.count_nonzero(blocks[index]))
    return wrong


def permutations(pool, count):
    """Which blocks of the initiator go to which blocks of the target."""
    random = np.random.default_rng(SEED)
    return tuple(random.permutation(pool)[:count].astype(np.int32) for _ in range(2))


def block_descriptors(address, count, block_bytes, pitch=None):
    """Rows (address, length, device) of `count` blocks, `pitch` bytes apart."""
    rows = np.zeros((count, 3), np.uint64)
    rows[:, 0] = np.uint64(address) + np.arange(count, dtype=np.uint64) * np.uint64(pitch or block_bytes)
    rows[:, 1] = block_bytes
    return rows
