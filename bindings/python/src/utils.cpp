// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The module nixl._utils: memory that agents of the same host can map, raw and for arrays.
#include <nanobind/nanobind.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "gil.h"
#include "nixlx/memory.h"
#include "nixlx/report.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

void *
allocate(size_t bytes) {
    void *memory = nixlx::allocShared(bytes);
    if (memory) return memory;
    PyErr_SetString(PyExc_MemoryError, nixlx::lastError().c_str());
    throw nb::python_error();
}

void
release(void *memory) {
    const nx::python::WithoutGil unlocked; // as many pages go back to the system as were touched
    nixlx::freeShared(memory);
}

/// Memory with Python's buffer protocol: what is made of it (numpy.frombuffer, torch.frombuffer) keeps it.
class SharedBuffer {
public:
    explicit SharedBuffer(size_t bytes) : memory_(allocate(bytes)), bytes_(bytes) {}
    ~SharedBuffer() {
        release(memory_);
    }
    SharedBuffer(const SharedBuffer &) = delete;
    SharedBuffer &
    operator=(const SharedBuffer &) = delete;

    static int
    fill(PyObject *self, Py_buffer *view, int flags) noexcept {
        const auto *buffer = nb::inst_ptr<SharedBuffer>(self);
        return PyBuffer_FillInfo(view, self, buffer->memory_, static_cast<Py_ssize_t>(buffer->bytes_), 0, flags);
    }

private:
    void *memory_;
    size_t bytes_;
};

PyType_Slot buffer_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void *>(&SharedBuffer::fill)}, {0, nullptr}};

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
    module.doc() = "Memory that agents of the same host can map. Addresses are ints, sizes are bytes.";
    module.def(
        "malloc_passthru", [](size_t size) { return reinterpret_cast<uintptr_t>(allocate(size)); }, "size"_a,
        "Address of new memory, zeroed, aligned to 4096. MemoryError.");
    module.def(
        "free_passthru", [](uintptr_t addr) { release(reinterpret_cast<void *>(addr)); }, "addr"_a,
        "Frees what malloc_passthru returned; anything else is left alone, with an ERROR line.");
    nb::class_<SharedBuffer>(module, "SharedBuffer", nb::type_slots(buffer_slots),
                             "The memory of nixl.shared_empty and nixl.shared_tensor, freed with the last reference.")
        .def(nb::init<size_t>(), "size"_a);
    module.def(
        "ba_buf", [](uintptr_t addr, size_t size) { std::memset(reinterpret_cast<void *>(addr), 0xBA, size); },
        "addr"_a, "size"_a, "Fills memory with 0xBA.");
    module.def("verify_transfer", &verify, "a"_a, "b"_a, "size"_a,
               "AssertionError if the two ranges of memory differ; it names the first byte that does.");
}
