// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "text.h"

#include <climits>
#include <cstdint>

namespace nb = nanobind;

namespace nx::python {

bool
readText(PyObject *source, std::string &out) {
    if (PyUnicode_Check(source)) {
        Py_ssize_t size = 0;
        if (const char *utf8 = PyUnicode_AsUTF8AndSize(source, &size)) {
            out.assign(utf8, static_cast<size_t>(size));
            return true;
        }
        PyErr_Clear();
        PyObject *encoded = PyUnicode_AsEncodedString(source, "utf-8", "surrogateescape");
        if (!encoded) {
            PyErr_Clear();
            return false;
        }
        const bool read = readText(encoded, out);
        Py_DECREF(encoded);
        return read;
    }
    if (PyBytes_Check(source)) {
        char *data = nullptr;
        Py_ssize_t size = 0;
        PyBytes_AsStringAndSize(source, &data, &size);
        out.assign(data, static_cast<size_t>(size));
        return true;
    }
    if (PyByteArray_Check(source)) {
        out.assign(PyByteArray_AsString(source), static_cast<size_t>(PyByteArray_Size(source)));
        return true;
    }
    return false;
}

bool
readPort(PyObject *source, Port &out) {
    PyObject *number = PyIndex_Check(source) ? PyNumber_Index(source) : nullptr;
    PyObject *text = number ? PyObject_Str(number) : nullptr;
    bool read = text && readText(text, out.text);
    if (read) {
        int overflow = 0;
        const long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
        out.value = overflow > 0 ? INT64_MAX : overflow < 0 ? INT64_MIN : value;
    }
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(number);
    return read;
}

namespace {

[[noreturn]] void
noPort(const std::string &text) {
    const std::string shown = text.size() > 40 ? text.substr(0, 40) + "..." : text;
    throw nb::type_error(("port " + shown + " is outside 0 to 65535").c_str());
}

} // namespace

uint16_t
Port::port() const {
    if (value < 0 || value > UINT16_MAX) noPort(text);
    return static_cast<uint16_t>(value);
}

int
Port::number() const {
    if (value < INT_MIN || value > INT_MAX) noPort(text);
    return static_cast<int>(value);
}

nb::str
toStr(const std::string &bytes) {
    PyObject *text = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "surrogateescape");
    if (!text) throw nb::python_error();
    return nb::steal<nb::str>(text);
}

} // namespace nx::python
