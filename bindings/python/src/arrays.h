// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Reading numpy arrays through the buffer protocol, without numpy: descriptor rows and index lists. Owned by one call;
// made and destroyed with the GIL held, readable without it.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace nx::python {

/// A view of an object's buffer, released at the end.
class Buffer {
public:
    /// Nothing for an object without a readable strided buffer.
    static std::optional<Buffer>
    of(nanobind::handle source);

    const Py_buffer &
    view() const {
        return *view_;
    }

    /// The letter of the element type, as in Python's struct module but with q and Q for all integers of 64 bits; 0 for
    /// a format that is not one number in this machine's byte order.
    char
    letter() const;

    /// Contiguous and aligned for its elements, so that a pointer to them may be used.
    bool
    usableInPlace() const;

private:
    struct Release {
        void
        operator()(Py_buffer *view) const;
    };

    Buffer() : view_(new Py_buffer{}) {}

    std::unique_ptr<Py_buffer, Release> view_; ///< on the heap: its fields may point to each other
};

/// Rows of 64-bit integers: an N x `columns` array, C-contiguous, of int64 or uint64. Used in place where it is
/// aligned, otherwise copied (a message may hold its rows at any offset).
class Rows {
public:
    /// ValueError for another shape, layout or dtype, TypeError for something that is no array.
    Rows(nanobind::handle source, std::initializer_list<size_t> columns);

    size_t
    count() const {
        return count_;
    }

    size_t
    columns() const {
        return columns_;
    }

    const uint64_t *
    data() const {
        return data_;
    }

private:
    Buffer buffer_;
    std::vector<uint64_t> copy_;
    size_t count_ = 0;
    size_t columns_ = 0;
    const uint64_t *data_ = nullptr;
};

/// A list of 32-bit indices. An aligned, contiguous array of 32-bit integers is used in place; anything else is
/// converted as numpy would: other integers, floats (cut), bools, strided arrays, any iterable of numbers but text.
class Indices {
public:
    /// ValueError for anything that is not one-dimensional or does not fit into 32 bits, TypeError for elements that
    /// are no numbers.
    explicit Indices(nanobind::handle source);

    std::span<const int>
    values() const {
        return values_;
    }

private:
    bool
    readBuffer(nanobind::handle source);
    void
    readIterable(nanobind::handle source);

    std::optional<Buffer> buffer_;
    std::vector<int> converted_;
    std::span<const int> values_;
};

} // namespace nx::python
