// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Argument types that NIXL's Python API accepts more liberally than the binding library does: text as str, bytes or
// bytearray, and truth values as bool or int; ports as any number, so that one that is none gets a sentence. Plain
// values; made and read with the GIL held.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>

namespace nx::python {

/// A name, message or blob.
struct Text {
    std::string value;
};

/// A truth value.
struct Flag {
    bool value = false;
};

/// A number given for a port.
struct Port {
    int64_t value = 0; ///< the nearest one, if it does not fit
    std::string text;  ///< as it was given

    /// What it is, if it is one of 0 to 65535 (`port`) or fits into an int (`number`, whose range the agent checks).
    /// TypeError, as for every argument that cannot be taken: it is not.
    uint16_t
    port() const;
    int
    number() const;
};

/// Fills `out` from an int, or from what counts as one; false for anything else. No Python error is left behind.
bool
readPort(PyObject *source, Port &out);

/// Fills `out` from str, bytes or bytearray; false for anything else. No Python error is left behind.
bool
readText(PyObject *source, std::string &out);

/// str from bytes of unknown origin. Bytes that are not UTF-8 become lone surrogates, which readText turns back, so a
/// peer with a broken name can be named.
nanobind::str
toStr(const std::string &bytes);

inline nanobind::bytes
toBytes(const std::string &bytes) {
    return nanobind::bytes(bytes.data(), bytes.size());
}

} // namespace nx::python

namespace nanobind::detail {

template<> struct type_caster<nx::python::Text> {
    NB_TYPE_CASTER(nx::python::Text, const_name("str | bytes"))

    bool
    from_python(handle source, uint32_t, cleanup_list *) noexcept {
        return nx::python::readText(source.ptr(), value.value);
    }

    static handle
    from_cpp(const nx::python::Text &text, rv_policy, cleanup_list *) noexcept {
        return nx::python::toStr(text.value).release();
    }
};

template<> struct type_caster<nx::python::Port> {
    NB_TYPE_CASTER(nx::python::Port, const_name("int"))

    bool
    from_python(handle source, uint32_t, cleanup_list *) noexcept {
        return nx::python::readPort(source.ptr(), value);
    }

    static handle
    from_cpp(const nx::python::Port &port, rv_policy, cleanup_list *) noexcept {
        return PyLong_FromLongLong(port.value);
    }
};

template<> struct type_caster<nx::python::Flag> {
    NB_TYPE_CASTER(nx::python::Flag, const_name("bool"))

    bool
    from_python(handle source, uint32_t, cleanup_list *) noexcept {
        const bool is_number = PyLong_Check(source.ptr()) || PyObject_HasAttrString(source.ptr(), "__bool__");
        const int truth = is_number ? PyObject_IsTrue(source.ptr()) : -1;
        if (truth < 0) {
            PyErr_Clear();
            return false;
        }
        value.value = truth == 1;
        return true;
    }

    static handle
    from_cpp(const nx::python::Flag &flag, rv_policy, cleanup_list *) noexcept {
        return handle(flag.value ? Py_True : Py_False).inc_ref();
    }
};

} // namespace nanobind::detail
