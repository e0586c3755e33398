# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Raw memory for examples."""

import ctypes

import pytest

import nixl._utils as utils


def test_memory_is_aligned_and_filled():
    memory = utils.malloc_passthru(5000)
    try:
        assert isinstance(memory, int) and memory % 4096 == 0
        utils.ba_buf(memory, 5000)
        assert ctypes.string_at(memory, 5000) == b"\xba" * 5000
    finally:
        utils.free_passthru(memory)


def test_memory_of_no_bytes_can_be_freed():
    utils.free_passthru(utils.malloc_passthru(0))


def test_memory_is_zeroed():
    memory = utils.malloc_passthru(5000)
    assert ctypes.string_at(memory, 5000) == bytes(5000)
    utils.free_passthru(memory)


def test_what_is_no_memory_of_ours_is_left_alone(capfd):
    foreign = ctypes.create_string_buffer(b"foreign")
    utils.free_passthru(ctypes.addressof(foreign))
    utils.free_passthru(0)
    assert foreign.value == b"foreign"
    assert capfd.readouterr().err.count("there is no allocation at this address") == 1


def test_impossible_size_is_a_memory_error():
    with pytest.raises(MemoryError, match="allocShared: the system refuses 4611686018427387904 bytes"):
        utils.malloc_passthru(2**62)


def test_verify_transfer_names_the_first_difference():
    left, right = (ctypes.create_string_buffer(b"x" * 64) for _ in range(2))
    utils.verify_transfer(ctypes.addressof(left), ctypes.addressof(right), 64)
    right[42] = b"y"
    with pytest.raises(AssertionError, match="byte 42"):
        utils.verify_transfer(ctypes.addressof(left), ctypes.addressof(right), 64)
    utils.verify_transfer(ctypes.addressof(left), ctypes.addressof(right), 42)
