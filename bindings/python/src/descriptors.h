// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Descriptor lists: the Python classes, and lists made of numpy rows. Used with the GIL held.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>

#include "arrays.h"
#include "nixl_descriptors.h"

namespace nx::python {

void
bindDescriptors(nanobind::module_ &module);

/// One element per row (address, length, device id), copied as they lie in memory.
nixl_xfer_dlist_t
listOfRows(nixl_mem_t type, const Rows &rows);

/// One element per row (address, length, device id, stride, count).
nixlDescList<nixlStrideDesc>
strideListOfRows(nixl_mem_t type, const Rows &rows);

/// The rows of (address, length, device id) as strided elements in the same order; nothing unless that makes the list
/// at least four times shorter.
std::optional<nixlDescList<nixlStrideDesc>>
compressRows(nixl_mem_t type, const Rows &rows);

} // namespace nx::python
