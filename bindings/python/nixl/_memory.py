# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Arrays and tensors in memory that agents of the same host can map (docs/memory.md)."""

import math
import sys

from ._utils import SharedBuffer


def shared_empty(shape, dtype=float):
    """A numpy array like numpy.empty(shape, dtype), of zeros, in memory that peers on this host can map.

    The memory is freed when the array and all views of it are gone; deregister it before. After os.fork parent and
    child have it in common. MemoryError if there is not so much.
    """
    import numpy as np

    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise TypeError(f"dtype {dtype} holds references to objects, which mean nothing in another process")
    shape = _dimensions(shape)
    return np.ndarray(shape, dtype, _buffer(math.prod(shape) * dtype.itemsize))


def shared_tensor(shape, dtype=None):
    """A torch tensor like torch.empty(shape, dtype=dtype) for the CPU, of zeros, in memory that peers on this host can
    map: see shared_empty. Torch is imported when this is called.
    """
    import torch

    shape = _dimensions(shape)
    model = torch.empty(0, dtype=dtype)
    count = math.prod(shape)
    if count == 0:
        return model.new_empty(shape)  # torch makes none of an empty buffer
    flat = torch.frombuffer(_buffer(count * model.element_size()), dtype=model.dtype, count=count)
    return flat.reshape(shape)


def _dimensions(shape):
    shape = (shape,) if hasattr(shape, "__index__") else tuple(shape)
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape} has a negative dimension")
    return shape


def _buffer(size):
    return SharedBuffer(min(size, sys.maxsize))  # what is more than C can count is more than there is
