# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""Words of memory that the harness shares between the two processes: what it costs to look is the same for all."""

import mmap

SIZE = 4096
READY, STOP, SEEN = 0, 1, 2  # the target spins; it shall stop; the last notification it has looked at


def attach(descriptor):
    return memoryview(mmap.mmap(descriptor, SIZE)).cast("Q")
