# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptor lists: the classes of the bindings, and what get_xfer_descs and its siblings make of their input."""

import ctypes

import numpy as np
import pytest

import nixl._bindings as b
from support import unaligned

XFER = [(0x1000, 0x40, 0), (0x2000, 0x80, 3), (2**64 - 4096, 4096, 2**64 - 1)]
REG = [(0x1000, 0x40, 0, b""), (0x2000, 0x80, 3, b"\x00\xff")]


def make(cls, items):
    return cls(b.DRAM_SEG, list(items))


@pytest.mark.parametrize("cls, items", [(b.nixlXferDList, XFER), (b.nixlRegDList, REG)])
class TestList:
    def test_reads_back_what_it_was_made_of(self, cls, items):
        descs = make(cls, items)
        assert descs.getType() == b.DRAM_SEG
        assert descs.descCount() == len(items) and not descs.isEmpty()
        assert [descs[i] for i in range(len(items))] == items

    def test_iteration_ends(self, cls, items):
        assert list(make(cls, items)) == items

    def test_index_out_of_range_is_an_index_error(self, cls, items):
        descs = make(cls, items)
        for index in (len(items), -1, 2**40):
            with pytest.raises(IndexError):
                descs[index]
        with pytest.raises(IndexError):
            descs[len(items)] = items[0]
        with pytest.raises(IndexError):
            descs.remDesc(len(items))
        with pytest.raises(IndexError):
            descs.remDesc(-1)

    def test_is_never_false_and_has_no_length(self, cls, items):
        assert bool(cls(b.DRAM_SEG)) and cls(b.DRAM_SEG).isEmpty()
        assert not hasattr(cls, "__len__") and not hasattr(cls, "__bool__") and not hasattr(cls, "__iter__")

    def test_equals_by_type_and_content(self, cls, items):
        assert make(cls, items) == make(cls, items)
        assert make(cls, items) != make(cls, items[:1])
        assert make(cls, items) != cls(b.VRAM_SEG, items)
        assert make(cls, items) != items

    def test_can_be_changed(self, cls, items):
        descs = cls(b.FILE_SEG)
        descs.addDesc(items[0])
        descs.append(items[1])
        assert list(descs) == items[:2]
        descs[0] = items[1]
        assert list(descs) == [items[1]] * 2
        descs.remDesc(0)
        assert list(descs) == [items[1]]
        descs.clear()
        assert descs.isEmpty()

    def test_finds_a_range(self, cls, items):
        assert make(cls, items).index(items[1]) == 1
        with pytest.raises(b.nixlNotFoundError):
            make(cls, items).index((1, 2, 3) + items[0][3:])

    def test_starts_with_zeros_of_a_given_count(self, cls, items):
        descs = cls(b.DRAM_SEG, 2)
        assert [desc[:3] for desc in descs] == [(0, 0, 0)] * 2
        assert cls(b.DRAM_SEG, init_size=1).descCount() == 1
        with pytest.raises(ValueError):
            cls(b.DRAM_SEG, -1)

    def test_refuses_wrong_elements(self, cls, items):
        extra = items[0][3:]
        for bad in (-1, 2**64, "1", 1.0, None):
            for position in range(3):
                desc = [1, 2, 3]
                desc[position] = bad
                with pytest.raises(RuntimeError):
                    make(cls, [tuple(desc) + extra])
                with pytest.raises(RuntimeError):
                    cls(b.DRAM_SEG).addDesc(tuple(desc) + extra)
        with pytest.raises(TypeError):
            make(cls, [[1, 2, 3] + list(extra)])
        with pytest.raises(TypeError):
            cls(b.DRAM_SEG).addDesc([1, 2, 3] + list(extra))
        with pytest.raises(ValueError):
            make(cls, [(1, 2)])
        with pytest.raises(ValueError):
            make(cls, [(1, 2, 3, b"", 5)])

    def test_takes_numpy_numbers(self, cls, items):
        extra = items[0][3:]
        descs = make(cls, [(np.uint64(2**63), np.int32(7), np.int64(1)) + extra])
        assert descs[0][:3] == (2**63, 7, 1)

    @pytest.mark.parametrize("dtype", [np.uint64, np.int64])
    def test_takes_an_array_of_rows(self, cls, items, dtype):
        rows = np.array([[1, 2, 3], [4, 5, 6]], dtype=dtype)
        assert [desc[:3] for desc in cls(b.DRAM_SEG, rows)] == [(1, 2, 3), (4, 5, 6)]

    @pytest.mark.parametrize("dtype", [np.uint64, np.int64])
    def test_takes_rows_that_are_not_aligned_in_memory(self, cls, items, dtype):
        rows = unaligned(np.array([[2**62 + 1, 2, 3], [4, 5, 6]], dtype=dtype))
        assert [desc[:3] for desc in cls(b.DRAM_SEG, rows)] == [(2**62 + 1, 2, 3), (4, 5, 6)]

    def test_takes_rows_of_a_ctypes_array(self, cls, items):
        rows = (ctypes.c_uint64 * 3 * 2)((1, 2, 3), (4, 5, 6))
        assert [desc[:3] for desc in cls(b.DRAM_SEG, rows)] == [(1, 2, 3), (4, 5, 6)]

    @pytest.mark.parametrize(
        "rows",
        [
            np.zeros((2, 3), dtype=np.int32),
            np.zeros((2, 3), dtype=np.float64),
            np.zeros((2, 3), dtype=">u8"),
            np.zeros((2, 4), dtype=np.uint64),
            np.zeros(3, dtype=np.uint64),
            np.zeros((3, 2), dtype=np.uint64).T,
            np.zeros((4, 3), dtype=np.uint64)[::2],
        ],
        ids=["int32", "float", "big-endian", "N x 4", "1-D", "transposed", "strided"],
    )
    def test_refuses_other_arrays(self, cls, items, rows):
        with pytest.raises(ValueError):
            cls(b.DRAM_SEG, rows)


def test_address_with_the_highest_bit_survives():
    rows = np.array([[2**63 + 4096, 64, 1]], dtype=np.uint64)
    assert b.nixlXferDList(b.DRAM_SEG, rows)[0] == (2**63 + 4096, 64, 1)


def test_registration_metadata_may_be_text_or_bytes():
    descs = b.nixlRegDList(b.FILE_SEG, [(0, 1, 2, "rw:/x"), (0, 1, 3, b"\xff\x00")])
    assert [desc[3] for desc in descs] == [b"rw:/x", b"\xff\x00"]
    with pytest.raises(RuntimeError):
        b.nixlRegDList(b.FILE_SEG, [(0, 1, 2, 3)])


def test_trim_drops_the_metadata():
    trimmed = make(b.nixlRegDList, REG).trim()
    assert isinstance(trimmed, b.nixlXferDList)
    assert list(trimmed) == [desc[:3] for desc in REG]
    assert not hasattr(b.nixlXferDList, "trim")


def test_remote_list_holds_agent_names():
    descs = b.nixlRemoteDList(b.VRAM_SEG, [(1, 2, 3, "peer"), (4, 5, 6, b"NULL_AGENT")])
    assert list(descs) == [(1, 2, 3, "peer"), (4, 5, 6, "NULL_AGENT")]
    for name in ("index", "trim", "__getstate__"):
        assert name not in vars(b.nixlRemoteDList)


def test_print_writes_to_standard_output(capfd):
    make(b.nixlXferDList, XFER).print()
    assert capfd.readouterr().out


# ---- get_xfer_descs, get_reg_descs, get_remote_descs -----------------------------------------------------------------


def test_lists_pass_through(agent):
    xfer, reg = make(b.nixlXferDList, XFER), make(b.nixlRegDList, REG)
    assert agent.get_xfer_descs(xfer) is xfer
    assert agent.get_reg_descs(reg) is reg


@pytest.mark.parametrize(
    "name, mem", [("DRAM", 0), ("VRAM", 1), ("BLOCK", 2), ("OBJ", 3), ("FILE", 4), ("cpu", 0), ("cuda", 1)]
)
def test_tuples_with_each_memory_type(agent, name, mem):
    assert agent.get_xfer_descs(XFER, name) == b.nixlXferDList(b.nixl_mem_t(mem), XFER)
    assert agent.get_reg_descs(REG, name) == b.nixlRegDList(b.nixl_mem_t(mem), REG)
    assert list(agent.get_remote_descs([(1, 2, 3, "peer")], name)) == [(1, 2, 3, "peer")]


def test_tuple_of_tuples_is_a_list_too(agent):
    assert agent.get_xfer_descs(tuple(XFER), "DRAM") == make(b.nixlXferDList, XFER)


def test_arrays(agent):
    rows = np.array([[1, 2, 3]], dtype=np.int64)
    assert list(agent.get_xfer_descs(rows, "DRAM")) == [(1, 2, 3)]
    assert list(agent.get_reg_descs(rows, "DRAM")) == [(1, 2, 3, b"")]
    with pytest.raises(ValueError):
        agent.get_xfer_descs(rows.astype(np.float32), "DRAM")


@pytest.mark.parametrize(
    "method, descs, mem_type",
    [
        ("get_xfer_descs", make(b.nixlRegDList, REG), None),
        ("get_reg_descs", make(b.nixlXferDList, XFER), None),
        ("get_xfer_descs", XFER, None),
        ("get_xfer_descs", REG, "DRAM"),
        ("get_reg_descs", XFER, "DRAM"),
        ("get_xfer_descs", [[1, 2, 3]], "DRAM"),
        ("get_xfer_descs", np.zeros((1, 3), dtype=np.uint64), None),
        ("get_xfer_descs", np.zeros((1, 5), dtype=np.uint64), "DRAM"),
        ("get_xfer_descs", "text", "DRAM"),
        ("get_remote_descs", [(1, 2, 3, "peer")], None),
        ("get_remote_descs", XFER, "DRAM"),
    ],
)
def test_wrong_input_is_logged_and_gives_none(agent, log, method, descs, mem_type):
    assert getattr(agent, method)(descs, mem_type) is None
    assert [record.levelname for record in log.records] == ["ERROR"]


def test_empty_input_is_an_index_error(agent):
    for empty in ([], (), np.zeros((0, 3), dtype=np.uint64)):
        with pytest.raises(IndexError):
            agent.get_xfer_descs(empty, "DRAM")
        with pytest.raises(IndexError):
            agent.get_reg_descs(empty, "DRAM")


def test_unknown_memory_type_is_a_key_error(agent):
    with pytest.raises(KeyError):
        agent.get_xfer_descs(XFER, "dram")


def test_unconvertible_input_fails_in_the_calls_that_need_a_list(agent):
    with pytest.raises(TypeError):
        agent.register_memory(XFER, "DRAM")
    with pytest.raises(TypeError):
        agent.prep_xfer_dlist("", REG, "DRAM")
    with pytest.raises(TypeError):
        agent.prep_xfer_dlist("", np.zeros((1, 5), dtype=np.uint64))
    with pytest.raises(TypeError):
        agent.deregister_memory(REG)


class TestTorch:
    torch = None

    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch")

    def test_tensor_is_one_descriptor(self, agent):
        tensor = self.torch.zeros(4, 8, dtype=self.torch.float16)
        assert list(agent.get_xfer_descs(tensor)) == [(tensor.data_ptr(), 64, 0)]
        assert list(agent.get_reg_descs(tensor)) == [(tensor.data_ptr(), 64, 0, b"")]
        assert agent.get_xfer_descs(tensor).getType() == b.DRAM_SEG

    def test_tensors_are_a_descriptor_each(self, agent):
        tensors = [self.torch.zeros(n, dtype=self.torch.uint8) for n in (1, 2)]
        assert list(agent.get_xfer_descs(tensors)) == [(t.data_ptr(), t.numel(), 0) for t in tensors]

    def test_tensor_with_holes_gives_none(self, agent, log):
        tensor = self.torch.zeros(4, 4)[:, ::2]
        assert agent.get_xfer_descs(tensor) is None
        assert agent.get_xfer_descs([tensor]) is None

    def test_tensors_are_index_lists(self, agent):
        from support import blocks, random_bytes, whole

        data = random_bytes(4096)
        agent.register_memory([(*whole(data), "")], "DRAM")
        side = agent.prep_xfer_dlist("", blocks(data, 256), "DRAM")
        peer = agent.prep_xfer_dlist("alone", blocks(data, 256), "DRAM")
        indices = self.torch.arange(4)
        assert agent.make_prepped_xfer("WRITE", side, indices, peer, indices + 8)


class _Tensor:
    """What get_xfer_descs needs to know of a torch tensor on a GPU."""

    def __init__(self, device=-1, pointer=4096, contiguous=True):
        self.device, self.pointer, self.contiguous = device, pointer, contiguous

    def get_device(self):
        return self.device

    def data_ptr(self):
        return self.pointer

    def numel(self):
        return 8

    def element_size(self):
        return 2

    def is_contiguous(self):
        return self.contiguous


@pytest.fixture
def fake_torch(monkeypatch):
    import sys
    import types

    module = types.ModuleType("torch")
    module.Tensor = _Tensor
    monkeypatch.setitem(sys.modules, "torch", module)


def test_memory_type_and_device_come_from_the_tensor(agent, fake_torch, log):
    on_gpu = agent.get_xfer_descs(_Tensor(device=1))
    assert on_gpu.getType() == b.VRAM_SEG and list(on_gpu) == [(4096, 16, 1)]
    on_host = agent.get_reg_descs([_Tensor(), _Tensor(pointer=8192)])
    assert on_host.getType() == b.DRAM_SEG and list(on_host) == [(4096, 16, 0, b""), (8192, 16, 0, b"")]
    assert agent.get_xfer_descs([_Tensor(device=0), _Tensor(device=1)]) is None
    assert agent.get_xfer_descs([_Tensor(), 5]) is None
    assert agent.get_xfer_descs(_Tensor(contiguous=False)) is None
