// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The module nixl._utils: raw memory for examples and tests.
#include <nanobind/nanobind.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "gil.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr size_t kPageBytes = 4096;

uintptr_t
allocate(size_t size) {
    // aligned_alloc asks for a multiple of the alignment.
    const size_t padded = size <= SIZE_MAX - kPageBytes ? (size + kPageBytes - 1) / kPageBytes * kPageBytes : size;
    void *memory = std::aligned_alloc(kPageBytes, padded ? padded : kPageBytes);
    if (!memory) throw std::bad_alloc();
    return reinterpret_cast<uintptr_t>(memory);
}

void
verify(uintptr_t a, uintptr_t b, size_t size) {
    const auto *left = reinterpret_cast<const unsigned char *>(a);
    const auto *right = reinterpret_cast<const unsigned char *>(b);
    size_t difference = size;
    {
        const nx::python::WithoutGil unlocked;
        if (std::memcmp(left, right, size) != 0) {
            for (difference = 0; left[difference] == right[difference];) {
                ++difference;
            }
        }
    }
    if (difference == size) return;
    PyErr_SetString(PyExc_AssertionError, ("the buffers differ at byte " + std::to_string(difference)).c_str());
    throw nb::python_error();
}

} // namespace

NB_MODULE(_utils, module) {
    module.doc() = "Raw memory for examples and tests. Addresses are ints, sizes are bytes.";
    module.def("malloc_passthru", &allocate, "size"_a, "Address of new memory, aligned to 4096. MemoryError.");
    module.def(
        "free_passthru", [](uintptr_t addr) { std::free(reinterpret_cast<void *>(addr)); }, "addr"_a,
        "Frees what malloc_passthru returned.");
    module.def(
        "ba_buf", [](uintptr_t addr, size_t size) { std::memset(reinterpret_cast<void *>(addr), 0xBA, size); },
        "addr"_a, "size"_a, "Fills memory with 0xBA.");
    module.def("verify_transfer", &verify, "a"_a, "b"_a, "size"_a,
               "AssertionError if the two ranges of memory differ; it names the first byte that does.");
}
