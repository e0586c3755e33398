# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""The enumerations of the bindings behave as the original's do."""

import copy
import operator
import pickle

import pytest

import nixl._api as api
import nixl._bindings as b

STATUSES = {
    "NIXL_IN_PROG": 1,
    "NIXL_SUCCESS": 0,
    "NIXL_ERR_NOT_POSTED": -1,
    "NIXL_ERR_INVALID_PARAM": -2,
    "NIXL_ERR_BACKEND": -3,
    "NIXL_ERR_NOT_FOUND": -4,
    "NIXL_ERR_MISMATCH": -5,
    "NIXL_ERR_NOT_ALLOWED": -6,
    "NIXL_ERR_REPOST_ACTIVE": -7,
    "NIXL_ERR_UNKNOWN": -8,
    "NIXL_ERR_NOT_SUPPORTED": -9,
    "NIXL_ERR_REMOTE_DISCONNECT": -10,
    "NIXL_ERR_CANCELED": -11,
    "NIXL_ERR_NO_TELEMETRY": -12,
    "NIXL_ERR_TIMEOUT": -13,
    "NIXL_ERR_STALE": -14,
    "NIXL_ERR_INTEGRITY": -15,
    "NIXL_ERR_NO_MEMORY": -16,
    "NIXL_ERR_FORKED": -17,
}
MEMBERS = {
    b.nixl_status_t: STATUSES,
    b.nixl_mem_t: {"DRAM_SEG": 0, "VRAM_SEG": 1, "BLK_SEG": 2, "OBJ_SEG": 3, "FILE_SEG": 4},
    b.nixl_xfer_op_t: {"NIXL_READ": 0, "NIXL_WRITE": 1},
    b.nixl_cost_t: {"NIXL_COST_ANALYTICAL_BACKEND": 0},
    b.nixl_thread_sync_t: {
        "NIXL_THREAD_SYNC_NONE": 0,
        "NIXL_THREAD_SYNC_STRICT": 1,
        "NIXL_THREAD_SYNC_RW": 2,
        "NIXL_THREAD_SYNC_DEFAULT": 0,
    },
}
LIKE_INTS = [b.nixl_status_t, b.nixl_mem_t, b.nixl_xfer_op_t]
ALL = [pytest.param(cls, name, value, id=name) for cls, names in MEMBERS.items() for name, value in names.items()]


@pytest.mark.parametrize("cls, name, value", ALL)
def test_member(cls, name, value):
    member = getattr(cls, name)
    assert getattr(b, name) is member
    assert cls.__members__[name] is member
    assert (member.name, member.value, int(member)) == (name, value, value)
    assert repr(member) == f"<{cls.__name__}.{name}: {value}>"
    assert str(member) == f"{cls.__name__}.{name}"
    assert hash(member) == hash(value)
    assert ["a", "b", "c"][operator.index(member) % 3] == ["a", "b", "c"][value % 3]
    assert bool(member) is True
    assert not isinstance(member, int)
    assert (member == value) is (cls in LIKE_INTS)
    assert (member != value) is (cls not in LIKE_INTS)
    assert member != "0" and member != None  # noqa: E711
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.deepcopy(member) is member


@pytest.mark.parametrize("cls", MEMBERS)
def test_class(cls):
    assert cls.__module__ == "nixl._bindings"
    assert list(cls.__members__) == list(MEMBERS[cls])
    first = next(iter(cls.__members__.values()))
    assert cls(first.value) == first
    with pytest.raises(ValueError):
        cls(99)
    with pytest.raises(TypeError):
        sorted([first, first])
    with pytest.raises(TypeError):
        iter(cls)
    with pytest.raises(TypeError):
        iter(first)


def test_members_find_their_number_in_dicts():
    assert {0: "done"}[b.NIXL_SUCCESS] == "done"
    assert {b.NIXL_SUCCESS: "done"}[0] == "done"


def test_default_sync_mode_is_a_member_of_its_own_equal_to_none():
    assert b.NIXL_THREAD_SYNC_DEFAULT == b.NIXL_THREAD_SYNC_NONE
    assert b.NIXL_THREAD_SYNC_DEFAULT.name == "NIXL_THREAD_SYNC_DEFAULT"
    assert b.NIXL_THREAD_SYNC_STRICT != b.NIXL_THREAD_SYNC_NONE


def test_api_sync_modes_wrap_those_of_the_bindings():
    modes = api.nixl_thread_sync_t
    assert [mode.name for mode in modes] == ["NIXL_THREAD_SYNC_NONE", "NIXL_THREAD_SYNC_STRICT", "NIXL_THREAD_SYNC_RW"]
    assert modes.NIXL_THREAD_SYNC_STRICT.value is b.NIXL_THREAD_SYNC_STRICT
    assert modes.NIXL_THREAD_SYNC_DEFAULT is modes.NIXL_THREAD_SYNC_NONE
