// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace nb = nanobind;

namespace nx::python {
namespace {

[[noreturn]] void
refuseIndex(const std::string &index) {
    throw std::invalid_argument("index " + index + " does not fit into 32 bits");
}

template<class Number>
int
toIndex(Number number) {
    if constexpr (std::is_floating_point_v<Number>) {
        if (!(number > -2147483649.0 && number < 2147483648.0)) refuseIndex(std::to_string(number));
    } else {
        if (!std::in_range<int>(number)) refuseIndex(std::to_string(number));
    }
    return static_cast<int>(number);
}

template<class Number>
void
convert(const Py_buffer &view, std::vector<int> &out) {
    const size_t count = static_cast<size_t>(view.shape[0]);
    const char *element = static_cast<const char *>(view.buf);
    const Py_ssize_t step = view.strides ? view.strides[0] : view.itemsize; // ctypes gives none
    out.resize(count);
    for (size_t i = 0; i < count; ++i, element += step) {
        Number number;
        std::memcpy(&number, element, sizeof number); // strided views may be unaligned
        out[i] = toIndex(number);
    }
}

template<>
void
convert<bool>(const Py_buffer &view, std::vector<int> &out) {
    convert<uint8_t>(view, out);
    for (int &index : out) {
        index = index != 0;
    }
}

/// False for a format without a C++ type here.
bool
convertNumbers(char letter, const Py_buffer &view, std::vector<int> &out) {
    switch (letter) {
    case '?': convert<bool>(view, out); return true;
    case 'b': convert<signed char>(view, out); return true;
    case 'B': convert<unsigned char>(view, out); return true;
    case 'h': convert<short>(view, out); return true;
    case 'H': convert<unsigned short>(view, out); return true;
    case 'i': convert<int>(view, out); return true;
    case 'I': convert<unsigned int>(view, out); return true;
    case 'q': convert<long long>(view, out); return true;
    case 'Q': convert<unsigned long long>(view, out); return true;
    case 'f': convert<float>(view, out); return true;
    case 'd': convert<double>(view, out); return true;
    default: return false;
    }
}

int
indexOf(nb::handle item) {
    nb::object number;
    if (PyLong_Check(item.ptr())) {
        number = nb::borrow(item);
    } else {
        const bool is_text = PyUnicode_Check(item.ptr()) || PyBytes_Check(item.ptr());
        if (!is_text) number = nb::steal(PyNumber_Long(item.ptr()));
        if (!number.is_valid()) {
            PyErr_Clear();
            throw nb::type_error("indices must be numbers");
        }
    }
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    if (overflow) refuseIndex(nb::cast<std::string>(nb::str(number)));
    return toIndex(value);
}

Buffer
arrayBuffer(nb::handle source) {
    std::optional<Buffer> buffer = Buffer::of(source);
    if (!buffer) throw nb::type_error("expected a numpy array of descriptors");
    return std::move(*buffer);
}

} // namespace

std::optional<Buffer>
Buffer::of(nb::handle source) {
    Buffer buffer;
    if (!PyObject_CheckBuffer(source.ptr())) return std::nullopt;
    if (PyObject_GetBuffer(source.ptr(), buffer.view_.get(), PyBUF_RECORDS_RO) != 0) {
        PyErr_Clear();
        return std::nullopt;
    }
    return buffer;
}

void
Buffer::Release::operator()(Py_buffer *view) const {
    PyBuffer_Release(view); // does nothing for a view that was never filled
    delete view;
}

char
Buffer::letter() const {
    constexpr std::string_view kHostOrder = std::endian::native == std::endian::little ? "@=^<" : "@=^>!";
    std::string_view format = view_->format ? view_->format : "B";
    if (!format.empty() && kHostOrder.find(format.front()) != format.npos) format.remove_prefix(1);
    if (format.size() != 1) return '\0';
    // The size tells what the letter leaves open: a long has 4 bytes in formats other than the native one.
    const bool is_quad = view_->itemsize == sizeof(long long);
    switch (format.front()) {
    case 'l': return is_quad ? 'q' : 'i';
    case 'L': return is_quad ? 'Q' : 'I';
    default: return format.front();
    }
}

bool
Buffer::usableInPlace() const {
    const auto address = reinterpret_cast<uintptr_t>(view_->buf);
    return PyBuffer_IsContiguous(view_.get(), 'C') && address % static_cast<size_t>(view_->itemsize) == 0;
}

Rows::Rows(nb::handle source, std::initializer_list<size_t> columns) : buffer_(arrayBuffer(source)) {
    const Py_buffer &view = buffer_.view();
    const bool shaped = view.ndim == 2 &&
        std::find(columns.begin(), columns.end(), static_cast<size_t>(view.shape[1])) != columns.end();
    if (!shaped) {
        std::string wanted;
        for (size_t width : columns) {
            wanted += (wanted.empty() ? "N x " : " or N x ") + std::to_string(width);
        }
        throw std::invalid_argument("descriptors must be an " + wanted + " array");
    }
    const char letter = buffer_.letter();
    if (letter != 'q' && letter != 'Q') {
        throw std::invalid_argument("descriptors must be an array of int64 or uint64 in this machine's byte order");
    }
    if (!PyBuffer_IsContiguous(&view, 'C')) throw std::invalid_argument("descriptors must be a C-contiguous array");
    if (view.shape[0] > INT_MAX) throw std::invalid_argument("a descriptor list has at most 2^31 - 1 elements");
    count_ = static_cast<size_t>(view.shape[0]);
    columns_ = static_cast<size_t>(view.shape[1]);
    if (buffer_.usableInPlace()) {
        data_ = static_cast<const uint64_t *>(view.buf);
        return;
    }
    copy_.resize(count_ * columns_);
    std::memcpy(copy_.data(), view.buf, copy_.size() * sizeof(uint64_t));
    data_ = copy_.data();
}

Indices::Indices(nb::handle source) {
    if (readBuffer(source)) return;
    nb::object array = nb::getattr(source, "__array__", nb::none());
    if (!array.is_none() && readBuffer(array())) return;
    readIterable(source);
}

bool
Indices::readBuffer(nb::handle source) {
    if (PyBytes_Check(source.ptr()) || PyByteArray_Check(source.ptr())) return false;
    buffer_ = Buffer::of(source);
    if (!buffer_) return false;
    const Py_buffer &view = buffer_->view();
    if (view.ndim != 1) throw std::invalid_argument("indices must be a one-dimensional array");
    const char letter = buffer_->letter();
    // An unsigned index of 2^31 or more becomes negative here, which the agent refuses like any other wrong index.
    if ((letter == 'i' || letter == 'I') && buffer_->usableInPlace()) {
        values_ = {static_cast<const int *>(view.buf), static_cast<size_t>(view.shape[0])};
        return true;
    }
    if (!convertNumbers(letter, view, converted_)) return false;
    values_ = converted_;
    return true;
}

void
Indices::readIterable(nb::handle source) {
    if (PyUnicode_Check(source.ptr()) || PyBytes_Check(source.ptr())) {
        throw nb::type_error("indices must be numbers, not text");
    }
    const nb::object items = nb::steal(PyObject_GetIter(source.ptr()));
    if (!items.is_valid()) throw nb::python_error();
    while (nb::object item = nb::steal(PyIter_Next(items.ptr()))) {
        converted_.push_back(indexOf(item));
    }
    if (PyErr_Occurred()) throw nb::python_error();
    values_ = converted_;
}

} // namespace nx::python
