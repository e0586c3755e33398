# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Index lists of prepared transfers come in every form that numpy would convert to 32-bit integers."""

import array
import ctypes
import functools

import numpy as np
import pytest

import nixl._bindings as b
from support import address, blocks, random_bytes, run, unaligned, whole

BLOCK = 256
COUNT = 64
WANTED = [0, 5, 6, 7, 63]

FORMS = {
    "list": list,
    "tuple": tuple,
    "list of numpy integers": lambda indices: [np.int16(i) for i in indices],
    "list of floats": lambda indices: [i + 0.75 for i in indices],
    "array.array": lambda indices: array.array("i", indices),
    "array.array of long": lambda indices: array.array("q", indices),
    **{f"{letter} array": functools.partial(np.array, dtype=letter) for letter in "bBhHiIlLqQefdg"},
    "big-endian array": lambda indices: np.array(indices, dtype=">i4"),
    "object array": lambda indices: np.array(indices, dtype=object),
    "strided array": lambda indices: np.repeat(np.array(indices, dtype=np.int32), 3)[::3],
    "reversed array": lambda indices: np.array(indices[::-1], dtype=np.int64)[::-1],
    "read-only array": lambda indices: np.frombuffer(np.array(indices, dtype=np.int32).tobytes(), dtype=np.int32),
    "unaligned array": lambda indices: unaligned(np.array(indices, dtype=np.int32)),
    "unaligned array of long": lambda indices: unaligned(np.array(indices, dtype=np.int64)),
    "ctypes array": lambda indices: (ctypes.c_int64 * len(indices))(*indices),
    "generator": lambda indices: (i for i in indices),
    "iterator": iter,
    "map": lambda indices: map(int, indices),
    "keys of a dict": lambda indices: dict.fromkeys(indices).keys(),
    "structured field": lambda indices: np.array([(i, 9) for i in indices], dtype=[("i", "i8"), ("x", "i1")])["i"],
}


@pytest.fixture
def sides(agent):
    source, sink = random_bytes(BLOCK * COUNT), np.zeros(BLOCK * COUNT, dtype=np.uint8)
    agent.register_memory([(*whole(source), ""), (*whole(sink), "")], "DRAM")
    local = agent.prep_xfer_dlist("NIXL_INIT_AGENT", blocks(source, BLOCK), "DRAM")
    remote = agent.prep_xfer_dlist("alone", blocks(sink, BLOCK), "DRAM")
    return agent, local, remote, source.reshape(COUNT, BLOCK), sink.reshape(COUNT, BLOCK)


def expect(source, sink, indices):
    expected = np.zeros_like(sink)
    expected[indices] = source[indices]
    np.testing.assert_array_equal(sink, expected)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_form(sides, form):
    agent, local, remote, source, sink = sides
    run(agent, agent.make_prepped_xfer("WRITE", local, form(WANTED), remote, form(WANTED)))
    expect(source, sink, WANTED)


def test_ranges(sides):
    agent, local, remote, source, sink = sides
    run(agent, agent.make_prepped_xfer("WRITE", local, range(2, 20, 3), remote, range(2, 20, 3)))
    expect(source, sink, list(range(2, 20, 3)))


@pytest.mark.parametrize("kind", [set, frozenset])
def test_sets_are_taken_in_their_own_order(sides, kind):
    agent, local, remote, source, sink = sides
    indices = kind(WANTED)
    run(agent, agent.make_prepped_xfer("WRITE", local, indices, remote, list(indices)))
    expect(source, sink, WANTED)


def test_an_error_of_the_iterable_reaches_the_caller(sides):
    def failing():
        yield 0
        raise LookupError("no more")

    agent, local, remote, *_ = sides
    with pytest.raises(LookupError, match="no more"):
        agent.make_prepped_xfer("WRITE", local, failing(), remote, [0])


def test_bools_are_zero_and_one(sides):
    agent, local, remote, source, sink = sides
    run(agent, agent.make_prepped_xfer("WRITE", local, np.array([False, True]), remote, [False, True]))
    expect(source, sink, [0, 1])


def test_forms_may_differ_between_the_sides(sides):
    agent, local, remote, source, sink = sides
    run(agent, agent.make_prepped_xfer("WRITE", local, np.array([3, 1]), remote, (8, 9), skip_desc_merge=True))
    np.testing.assert_array_equal(sink[8:10], source[[3, 1]])


@pytest.mark.parametrize("indices", [np.zeros((2, 2), dtype=np.int32), np.array(3), [2**31], np.array([2**40]), [1e12]])
def test_unusable_indices_are_a_value_error(sides, indices):
    agent, local, remote, *_ = sides
    with pytest.raises(ValueError):
        agent.make_prepped_xfer("WRITE", local, indices, remote, [0])
    with pytest.raises(ValueError):
        agent.make_prepped_xfer("WRITE", local, [0], remote, indices)


@pytest.mark.parametrize("indices", ["01", b"01", 3, None, ["1"], [None], [[0, 1]]])
def test_what_is_no_list_of_numbers_is_a_type_error(sides, indices):
    agent, local, remote, *_ = sides
    with pytest.raises(TypeError):
        agent.make_prepped_xfer("WRITE", local, indices, remote, [0])


@pytest.mark.parametrize(
    "local_indices, remote_indices",
    [([], []), ([0], [0, 1]), ([COUNT], [0]), ([0], [-1]), (np.array([2**32 - 1], dtype=np.uint32), [0])],
    ids=["empty", "counts differ", "too high", "negative", "too high for 32 signed bits"],
)
def test_indices_outside_the_lists_are_an_invalid_parameter(sides, local_indices, remote_indices):
    agent, local, remote, *_ = sides
    with pytest.raises(b.nixlInvalidParamError):
        agent.make_prepped_xfer("WRITE", local, local_indices, remote, remote_indices)


def test_operation_must_be_read_or_write(sides):
    agent, local, remote, *_ = sides
    for operation in ("write", "PUT", 1):
        with pytest.raises(KeyError):
            agent.make_prepped_xfer(operation, local, [0], remote, [0])


def test_array_may_go_when_the_request_is_made(sides):
    agent, local, remote, source, sink = sides
    indices = np.array(WANTED, dtype=np.int32)
    handle = agent.make_prepped_xfer("WRITE", local, indices, remote, indices)
    indices[:] = 9
    del indices
    run(agent, handle)
    expect(source, sink, WANTED)


# ---- Prepared lists from arrays --------------------------------------------------------------------------------------


def _layouts(base):
    """Descriptor arrays over COUNT blocks in different orders, all of which must keep their order when compressed."""
    rows = blocks(base, BLOCK)
    shuffled = rows[np.random.default_rng(7).permutation(COUNT)]
    halves = np.concatenate([rows[COUNT // 2 :], rows[: COUNT // 2]])
    interleaved = np.concatenate([rows[0::2], rows[1::2]])
    doubled = np.repeat(rows, 2, axis=0)
    return {
        "regular": rows,
        "shuffled": np.ascontiguousarray(shuffled),
        "halves": halves,
        "interleaved": interleaved,
        "backwards": np.ascontiguousarray(rows[::-1]),
        "doubled": doubled,
        "single": rows[:1],
    }


@pytest.mark.parametrize("layout", ["regular", "shuffled", "halves", "interleaved", "backwards", "doubled", "single"])
@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
@pytest.mark.parametrize("place", [np.ascontiguousarray, unaligned], ids=["aligned", "unaligned"])
def test_prepared_array_keeps_the_order_of_its_rows(agent, layout, dtype, place):
    source, sink = random_bytes(BLOCK * COUNT), np.zeros(BLOCK * COUNT, dtype=np.uint8)
    agent.register_memory([(*whole(source), ""), (*whole(sink), "")], "DRAM")
    rows = place(_layouts(source)[layout].astype(dtype))
    local = agent.prep_xfer_dlist("", rows, "DRAM")
    remote = agent.prep_xfer_dlist("alone", blocks(sink, BLOCK), "DRAM")
    picks = np.unique(np.linspace(0, len(rows) - 1, 9).astype(int))
    places = np.arange(len(picks))
    run(agent, agent.make_prepped_xfer("WRITE", local, picks, remote, places))
    expected = source.reshape(COUNT, BLOCK)[(rows[picks, 0].astype(np.uint64) - address(source)).astype(int) // BLOCK]
    np.testing.assert_array_equal(sink.reshape(COUNT, BLOCK)[: len(picks)], expected)
    with pytest.raises(b.nixlInvalidParamError):
        agent.make_prepped_xfer("WRITE", local, [len(rows)], remote, [0])


@pytest.mark.parametrize("place", [np.ascontiguousarray, unaligned], ids=["aligned", "unaligned"])
def test_strided_array_stands_for_its_blocks(agent, place):
    source, sink = random_bytes(BLOCK * COUNT), np.zeros(BLOCK * COUNT, dtype=np.uint8)
    agent.register_memory([(*whole(source), ""), (*whole(sink), "")], "DRAM")
    # Every second block, then the blocks between them.
    strided = np.array(
        [[address(source) + shift * BLOCK, BLOCK, 0, 2 * BLOCK, COUNT // 2] for shift in (0, 1)], dtype=np.uint64
    )
    strided = place(strided)
    local = agent.prep_xfer_dlist("", strided, "DRAM")
    remote = agent.prep_xfer_dlist("alone", blocks(sink, BLOCK), "DRAM")
    everything = range(COUNT)
    run(agent, agent.make_prepped_xfer("WRITE", local, everything, remote, everything))
    rows = source.reshape(COUNT, BLOCK)
    np.testing.assert_array_equal(sink.reshape(COUNT, BLOCK), np.concatenate([rows[0::2], rows[1::2]]))


def test_strided_array_must_be_contiguous_and_of_64_bit_integers(agent):
    for bad in (np.zeros((2, 5), dtype=np.int32), np.zeros((5, 2), dtype=np.int64).T):
        with pytest.raises(ValueError):
            agent.prep_xfer_dlist("", bad, "DRAM")


@pytest.mark.parametrize("name", ["", b"", "NIXL_INIT_AGENT", b"NIXL_INIT_AGENT"])
def test_local_side_has_several_names(agent, name):
    data = random_bytes(BLOCK)
    agent.register_memory([(*whole(data), "")], "DRAM")
    local = agent.prep_xfer_dlist(name, [whole(data)], "DRAM")
    remote = agent.prep_xfer_dlist(b"alone", agent.get_xfer_descs([whole(data)], "DRAM"))
    with pytest.raises(b.nixlInvalidParamError):
        agent.make_prepped_xfer("WRITE", remote, [0], local, [0])
    assert agent.make_prepped_xfer("WRITE", local, [0], remote, [0])


def test_unregistered_rows_are_not_found(agent):
    data, other = random_bytes(BLOCK * COUNT), random_bytes(BLOCK)
    agent.register_memory([(*whole(data), "")], "DRAM")
    rows = np.concatenate([blocks(data, BLOCK), blocks(other, BLOCK)])
    with pytest.raises(b.nixlNotFoundError):
        agent.prep_xfer_dlist("", rows, "DRAM")
    with pytest.raises(b.nixlNotFoundError):
        agent.prep_xfer_dlist("nobody", blocks(data, BLOCK), "DRAM")
