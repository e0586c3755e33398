# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Pickled lists travel between builds: ours load the original's and the other way round."""

import copy
import pathlib
import pickle
import pickletools

import pytest

import nixl._bindings as b

GOLDEN = pathlib.Path(__file__).parent / "golden"
LISTS = {
    "xfer_dlist": b.nixlXferDList(b.DRAM_SEG, [(0x1000, 0x40, 0), (0x2000, 0x80, 3)]),
    "reg_dlist": b.nixlRegDList(b.FILE_SEG, [(0, 4096, 7, "rw:/x"), (4096, 10, 8, "")]),
}


def _opcodes(pickled):
    """The program of a pickle, without the length of its frame."""
    return [(op.name, argument) for op, argument, _ in pickletools.genops(pickled) if op.name != "FRAME"]


@pytest.mark.parametrize("name", LISTS)
def test_loads_what_the_original_wrote(name):
    assert pickle.loads((GOLDEN / f"{name}.pickle").read_bytes()) == LISTS[name]


@pytest.mark.parametrize("variant", ["nixl_cu12", "nixl_cu13"])
def test_loads_pickles_of_each_original_package(variant):
    golden = (GOLDEN / "xfer_dlist.pickle").read_bytes()
    assert golden.count(b"nixl_cu12._bindings") == 1
    assert pickle.loads(golden.replace(b"nixl_cu12", variant.encode())) == LISTS["xfer_dlist"]


@pytest.mark.parametrize("name", LISTS)
def test_writes_what_the_original_would_but_for_the_module_name(name):
    theirs = _opcodes((GOLDEN / f"{name}.pickle").read_bytes())
    ours = _opcodes(pickle.dumps(LISTS[name], protocol=4))
    renamed = [(op, "nixl._bindings" if argument == "nixl_cu12._bindings" else argument) for op, argument in theirs]
    assert ours == renamed


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("descs", [*LISTS.values(), b.nixlXferDList(b.VRAM_SEG), b.nixlRegDList(b.OBJ_SEG)])
def test_every_protocol_and_copy_round_trips(descs, protocol):
    assert pickle.loads(pickle.dumps(descs, protocol)) == descs
    assert copy.deepcopy(descs) == descs
    assert pickle.loads(pickle.dumps(descs, protocol)).getType() == descs.getType()


def test_agent_serializes_with_pickle(agent):
    for descs in LISTS.values():
        assert agent.deserialize_descs(agent.get_serialized_descs(descs)) == descs


def test_state_that_is_no_list_is_refused():
    for state in (b"", b"junk"):
        with pytest.raises(ValueError):
            b.nixlXferDList.__new__(b.nixlXferDList).__setstate__(state)


def test_list_without_state_cannot_be_used():
    with pytest.warns(RuntimeWarning, match="uninitialized"), pytest.raises(TypeError):
        b.nixlXferDList.__new__(b.nixlXferDList).descCount()
