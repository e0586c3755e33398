// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// NIXL's enumerations as Python classes. The binding library's own enums are Python enum.Enum classes; programs rely
// on what the original's were instead: equal to ints and hashed like them (status, memory, operation), always true,
// without order. One object per member, so `is` works too. Used with the GIL held.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>
#include <vector>

#include "nixl_params.h"
#include "nixl_types.h"

namespace nx::python {

/// The C++ value behind a member of the Python class for E.
template<class E> struct Member {
    const char *name = "";
    int value = 0;

    operator E() const {
        return static_cast<E>(value);
    }
};

/// The member objects of E, alive until the process ends.
template<class E> inline std::vector<std::pair<int, PyObject *>> member_objects;

/// The member object of `value`; the plain int for a value without a name.
template<class E>
nanobind::object
toMember(E value) {
    for (const auto &[number, object] : member_objects<E>) {
        if (number == static_cast<int>(value)) return nanobind::borrow(object);
    }
    return nanobind::int_(static_cast<int>(value));
}

void
bindEnums(nanobind::module_ &module);

} // namespace nx::python
