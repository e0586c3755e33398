// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "text.h"

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

nb::str
toStr(const std::string &bytes) {
    PyObject *text = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "surrogateescape");
    if (!text) throw nb::python_error();
    return nb::steal<nb::str>(text);
}

} // namespace nx::python
