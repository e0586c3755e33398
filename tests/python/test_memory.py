# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Arrays and tensors in memory that peers can map: a memfd of ours, freed with the last reference."""

import gc
import os
import re

import numpy as np
import pytest

import nixl
import nixl_cu12
import support


def _mapped(address):
    """What /proc says about the memory at an address: (its file, shared or private); nothing if it is not mapped."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end, mode, path = re.match(r"(\w+)-(\w+) (\S+) \S+ \S+ \S+ *(.*)", line).groups()
            if int(begin, 16) <= address < int(end, 16):
                return path, "shared" if mode[3] == "s" else "private"
    return None


def _is_shareable(address):
    return _mapped(address) == ("/memfd:nixl (deleted)", "shared")


@pytest.mark.parametrize("shape", [7, np.int64(7), (3, 5), [2, 0, 4], ()])
@pytest.mark.parametrize("dtype", [float, np.uint8, "f2", [("key", "u4"), ("value", "f8")]])
def test_array_is_zeros_of_that_shape_and_type(shape, dtype):
    array = nixl.shared_empty(shape, dtype)
    model = np.zeros(shape, dtype)
    assert (array.shape, array.dtype, array.flags.writeable) == (model.shape, model.dtype, True)
    assert array.tobytes() == model.tobytes()
    assert array.ctypes.data % 4096 == 0
    assert _is_shareable(array.ctypes.data)


def test_array_is_of_floats_like_numpys():
    assert nixl.shared_empty(3).dtype == np.empty(3).dtype


def test_memory_is_freed_with_the_last_view():
    array = nixl.shared_empty(200 << 20, np.uint8)  # more than what small ones share
    address = array.ctypes.data
    view = array[5:10].reshape(5, 1)
    array[7] = 9
    del array
    gc.collect()
    assert view[2] == 9 and _is_shareable(address)
    del view
    gc.collect()
    assert not _is_shareable(address)


@pytest.mark.parametrize("shape", [2**61, (2**40, 2**40), 2**70])
def test_more_than_there_is_is_a_memory_error(shape):
    with pytest.raises(MemoryError, match="allocShared: "):
        nixl.shared_empty(shape)


@pytest.mark.parametrize("shape", [-1, (-2, -3), (-2, 3)])
def test_negative_dimensions_are_refused(shape):
    with pytest.raises(ValueError, match="negative"):
        nixl.shared_empty(shape)


def test_objects_are_refused():
    with pytest.raises(TypeError, match="mean nothing in another process"):
        nixl.shared_empty(3, object)


def test_raw_memory_can_be_mapped_by_peers_too():
    memory = nixl.malloc_passthru(5000)
    assert _is_shareable(memory)
    nixl.free_passthru(memory)


def test_a_child_of_fork_has_the_memory_in_common_and_frees_for_itself_only():
    array = nixl.shared_empty(1000, np.uint8)
    array[:] = 1
    child = os.fork()
    if child == 0:
        array[0] = 2
        del array
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert array[0] == 2 and array[1:].min() == 1


def test_other_names_of_the_package_have_it():
    assert nixl_cu12.shared_empty is nixl.shared_empty


def test_transfers_move_it(backend):
    """Two agents, both with memory of this kind."""
    pair = support.make_pair(backend)
    source, sink = nixl.shared_empty(1 << 20, np.uint8), nixl.shared_empty(1 << 20, np.uint8)
    source[:] = support.random_bytes(source.nbytes)
    registered = [
        (agent, agent.register_memory([(*support.whole(array), "")], "DRAM"))
        for agent, array in ((pair.initiator, source), (pair.target, sink))
    ]
    pair.initiator.add_remote_agent(pair.target.get_agent_metadata())
    local, remote = (pair.initiator.get_xfer_descs([support.whole(array)], "DRAM") for array in (source, sink))
    support.run(pair.initiator, pair.initiator.initialize_xfer("WRITE", local, remote, "target"))
    assert np.array_equal(source, sink)
    for agent, memory in registered:
        agent.deregister_memory(memory)


def test_tensor_is_zeros_of_that_shape_and_type_and_frees_its_memory():
    torch = pytest.importorskip("torch")
    tensor = nixl.shared_tensor((3, 4), torch.bfloat16)
    assert (tensor.shape, tensor.dtype, tensor.device.type) == ((3, 4), torch.bfloat16, "cpu")
    assert torch.count_nonzero(tensor) == 0 and _is_shareable(tensor.data_ptr())
    tensor[1, 2] = 5
    assert tensor.sum() == 5
    assert nixl.shared_tensor(2).dtype == torch.get_default_dtype()
    assert nixl.shared_tensor((0, 2)).shape == (0, 2) and nixl.shared_tensor(()).shape == ()
    with pytest.raises(ValueError, match="negative"):
        nixl.shared_tensor((-2, -3))
    large = nixl.shared_tensor(200 << 20, torch.uint8)
    address = large.data_ptr()
    del large
    gc.collect()
    assert not _is_shareable(address)
