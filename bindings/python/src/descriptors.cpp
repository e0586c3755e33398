// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "descriptors.h"

#include <nanobind/stl/string.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "enums.h"
#include "errors.h"
#include "gil.h"
#include "text.h"
#include "utils/serdes/serdes.h"

namespace nb = nanobind;

namespace nx::python {
namespace {

// A row of a descriptor array is copied into a descriptor as it lies.
static_assert(sizeof(nixlBasicDesc) == 3 * sizeof(uint64_t) && std::is_trivially_copyable_v<nixlBasicDesc>);
static_assert(sizeof(nixlStrideDesc) == 5 * sizeof(uint64_t) && std::is_trivially_copyable_v<nixlStrideDesc>);

uint64_t
toUnsigned(nb::handle item, const char *what) {
    nb::object number;
    if (PyLong_Check(item.ptr())) {
        number = nb::borrow(item);
    } else if (PyIndex_Check(item.ptr())) {
        number = nb::steal(PyNumber_Index(item.ptr()));
    }
    if (number.is_valid()) {
        const unsigned long long value = PyLong_AsUnsignedLongLong(number.ptr());
        if (value != static_cast<unsigned long long>(-1) || !PyErr_Occurred()) return value;
    }
    PyErr_Clear();
    throw std::runtime_error(std::string("the ") + what + " of a descriptor must be an int from 0 to 2^64 - 1, not " +
                             nb::cast<std::string>(nb::repr(item)));
}

std::string
toText(nb::handle item, const char *what) {
    std::string text;
    if (!readText(item.ptr(), text)) {
        throw std::runtime_error(std::string("the ") + what + " of a descriptor must be str or bytes, not " +
                                 nb::cast<std::string>(nb::repr(item)));
    }
    return text;
}

/// What differs between the lists: how an element is written as a tuple.
template<class D> struct Form;

template<> struct Form<nixlBasicDesc> {
    static constexpr size_t kWidth = 3;

    static void
    setExtra(nixlBasicDesc &, nb::tuple) {}

    static nb::tuple
    toTuple(const nixlBasicDesc &desc) {
        return nb::make_tuple(desc.addr, desc.len, desc.devId);
    }
};

template<> struct Form<nixlBlobDesc> {
    static constexpr size_t kWidth = 4;

    static void
    setExtra(nixlBlobDesc &desc, nb::tuple tuple) {
        desc.metaInfo = toText(tuple[3], "metadata");
    }

    static nb::tuple
    toTuple(const nixlBlobDesc &desc) {
        return nb::make_tuple(desc.addr, desc.len, desc.devId, toBytes(desc.metaInfo));
    }
};

template<> struct Form<nixlRemoteDesc> {
    static constexpr size_t kWidth = 4;

    static void
    setExtra(nixlRemoteDesc &desc, nb::tuple tuple) {
        desc.remoteAgent = toText(tuple[3], "agent name");
    }

    static nb::tuple
    toTuple(const nixlRemoteDesc &desc) {
        return nb::make_tuple(desc.addr, desc.len, desc.devId, toStr(desc.remoteAgent));
    }
};

template<class D>
void
setRange(D &desc, nb::tuple tuple) {
    desc.addr = toUnsigned(tuple[0], "address");
    desc.len = toUnsigned(tuple[1], "length");
    desc.devId = toUnsigned(tuple[2], "device id");
}

template<class D>
D
toDesc(nb::handle item) {
    if (!PyTuple_Check(item.ptr())) throw nb::type_error("a descriptor must be a tuple");
    nb::tuple tuple = nb::borrow<nb::tuple>(item);
    if (tuple.size() != Form<D>::kWidth) {
        throw std::invalid_argument("a descriptor must be a tuple of " + std::to_string(Form<D>::kWidth) +
                                    " elements, not " + std::to_string(tuple.size()));
    }
    D desc;
    setRange(desc, tuple);
    Form<D>::setExtra(desc, tuple);
    return desc;
}

template<class D>
void
checkIndex(const nixlDescList<D> &list, Py_ssize_t index) {
    if (index < 0 || index >= list.descCount()) {
        throw std::out_of_range("index " + std::to_string(index) + " is outside a descriptor list of " +
                                std::to_string(list.descCount()));
    }
}

template<class D>
nixlDescList<D>
ofSize(nixl_mem_t type, int count) {
    if (count < 0) throw std::invalid_argument("init_size must not be negative");
    nixlDescList<D> list(type, count);
    for (D &desc : list) {
        desc.addr = desc.len = desc.devId = 0; // nixlBasicDesc leaves them as they are
    }
    return list;
}

template<class D>
nixlDescList<D>
ofTuples(nixl_mem_t type, nb::list tuples) {
    nixlDescList<D> list(type);
    list.reserve(tuples.size());
    for (nb::handle item : tuples) {
        list.addDesc(toDesc<D>(item));
    }
    return list;
}

template<class D>
nixlDescList<D>
ofArray(nixl_mem_t type, nb::handle array) {
    const nixl_xfer_dlist_t ranges = listOfRows(type, Rows(array, {3}));
    if constexpr (std::is_same_v<D, nixlBasicDesc>) {
        return ranges;
    } else {
        nixlDescList<D> list(type);
        list.reserve(static_cast<size_t>(ranges.descCount()));
        for (const nixlBasicDesc &range : ranges) {
            list.emplace(range, std::string());
        }
        return list;
    }
}

template<class D>
nb::bytes
toState(const nixlDescList<D> &list) {
    nixlSerDes serializer;
    checked([&] { return list.serialize(&serializer); });
    return toBytes(serializer.exportStr());
}

template<class D>
nixlDescList<D>
fromState(nb::bytes state) {
    nixlSerDes deserializer;
    const std::string bytes(state.c_str(), state.size());
    if (deserializer.importStr(bytes) != NIXL_SUCCESS) {
        throw std::invalid_argument("these bytes are not a serialized descriptor list");
    }
    return nixlDescList<D>(&deserializer);
}

/// The methods that all lists have.
template<class D>
nb::class_<nixlDescList<D>>
bindList(nb::module_ &module, const char *name, const char *doc) {
    using List = nixlDescList<D>;
    nb::class_<List> type(module, name, doc);
    type.def(
        "__init__",
        [](List *self, Member<nixl_mem_t> mem, int init_size) { new (self) List(ofSize<D>(mem, init_size)); },
        nb::arg("type"), nb::arg("init_size") = 0, "A list of `init_size` descriptors of zeros.");
    type.def(
        "__init__",
        [](List *self, Member<nixl_mem_t> mem, nb::list descs) { new (self) List(ofTuples<D>(mem, descs)); },
        nb::arg("type"), nb::arg("descs"),
        "From a list of tuples. TypeError: an element is no tuple; ValueError: a tuple of another length; "
        "RuntimeError: an element of a tuple is not what it should be.");
    type.def("getType", [](const List &self) { return toMember(self.getType()); }, "The kind of memory.");
    type.def("descCount", &List::descCount, "Number of descriptors.");
    type.def("isEmpty", &List::isEmpty);
    type.def(
        "__eq__",
        [](const List &self, nb::handle other) {
            return nb::isinstance<List>(other) && self == *nb::inst_ptr<List>(other);
        },
        nb::arg("other").none());
    type.attr("__hash__") = nb::none();
    type.def(
        "__getitem__",
        [](const List &self, Py_ssize_t index) {
            checkIndex(self, index);
            return Form<D>::toTuple(self[static_cast<unsigned int>(index)]);
        },
        nb::arg("index"), "The descriptor as a tuple. IndexError: outside 0 ... descCount() - 1.");
    type.def(
        "__setitem__",
        [](List &self, Py_ssize_t index, nb::tuple desc) {
            checkIndex(self, index);
            self[static_cast<unsigned int>(index)] = toDesc<D>(desc);
        },
        nb::arg("index"), nb::arg("desc"));
    for (const char *method : {"addDesc", "append"}) {
        type.def(
            method, [](List &self, nb::tuple desc) { self.addDesc(toDesc<D>(desc)); }, nb::arg("desc"),
            "Adds a descriptor at the end.");
    }
    type.def(
        "remDesc",
        [](List &self, int index) {
            checkIndex(self, index);
            self.remDesc(index);
        },
        nb::arg("index"), "Removes one descriptor. IndexError: there is none.");
    type.def("clear", &List::clear);
    type.def("print", &List::print, "Writes the list to the process's standard output.");
    return type;
}

template<class D>
void
bindArrayInit(nb::class_<nixlDescList<D>> &type) {
    type.def(
        "__init__",
        [](nixlDescList<D> *self, Member<nixl_mem_t> mem, nb::handle descs) {
            new (self) nixlDescList<D>(ofArray<D>(mem, descs));
        },
        nb::arg("type"), nb::arg("descs"),
        "From a C-contiguous N x 3 array of int64 or uint64: address, length in bytes, device id. ValueError: another "
        "shape, layout or dtype.");
}

template<class D>
void
bindSearchAndPickle(nb::class_<nixlDescList<D>> &type) {
    type.def(
        "index",
        [](const nixlDescList<D> &self, nb::tuple desc) {
            if (desc.size() != 3 && desc.size() != Form<D>::kWidth) {
                throw std::invalid_argument("a descriptor must be a tuple of " + std::to_string(Form<D>::kWidth) +
                                            " elements");
            }
            nixlBasicDesc range;
            setRange(range, desc);
            const int position = self.getIndex(range);
            if (position < 0) {
                raiseStatus(NIXL_ERR_NOT_FOUND, "no descriptor of the list has this address, length and device id");
            }
            return position;
        },
        nb::arg("desc"), "Position of the first descriptor with this range. nixlNotFoundError: there is none.");
    type.def("__getstate__", &toState<D>);
    type.def("__setstate__",
             [](nixlDescList<D> &self, nb::bytes state) { new (&self) nixlDescList<D>(fromState<D>(state)); });
}

} // namespace

nixl_xfer_dlist_t
listOfRows(nixl_mem_t type, const Rows &rows) {
    nixl_xfer_dlist_t list(type);
    const WithoutGil unlocked; // lists of millions are usual
    list.resize(rows.count());
    if (rows.count()) std::memcpy(static_cast<void *>(&list[0]), rows.data(), rows.count() * sizeof(nixlBasicDesc));
    return list;
}

nixlDescList<nixlStrideDesc>
strideListOfRows(nixl_mem_t type, const Rows &rows) {
    nixlDescList<nixlStrideDesc> list(type);
    list.resize(rows.count());
    if (rows.count()) std::memcpy(static_cast<void *>(&list[0]), rows.data(), rows.count() * sizeof(nixlStrideDesc));
    return list;
}

std::optional<nixlDescList<nixlStrideDesc>>
compressRows(nixl_mem_t type, const Rows &rows) {
    const WithoutGil unlocked;
    const size_t limit = rows.count() / 4;
    const uint64_t *row = rows.data();
    nixlDescList<nixlStrideDesc> list(type);
    for (size_t i = 0; i < rows.count();) {
        if (static_cast<size_t>(list.descCount()) == limit) return std::nullopt;
        const uint64_t *first = row + 3 * i;
        const uint64_t stride = i + 1 < rows.count() ? first[3] - first[0] : first[1];
        size_t count = 1;
        // Only forwards and without overlap: what every reader of a strided descriptor agrees on.
        const bool forwards = stride >= first[1] && stride <= INT64_MAX;
        while (forwards && i + count < rows.count()) {
            const uint64_t *next = first + 3 * count;
            if (next[0] != first[0] + stride * count || next[1] != first[1] || next[2] != first[2]) break;
            ++count;
        }
        list.addDesc(nixlStrideDesc(first[0], first[1], first[2], count == 1 ? first[1] : stride, count));
        i += count;
    }
    return list;
}

void
bindDescriptors(nb::module_ &module) {
    auto xfer = bindList<nixlBasicDesc>(module, "nixlXferDList",
                                        "Ranges of memory as (address, length, device id). Changed by one thread at "
                                        "a time.");
    bindArrayInit(xfer);
    bindSearchAndPickle(xfer);

    auto reg =
        bindList<nixlBlobDesc>(module, "nixlRegDList", "Ranges to register as (address, length, device id, metadata).");
    bindArrayInit(reg);
    bindSearchAndPickle(reg);
    reg.def("trim", &nixl_reg_dlist_t::trim, "The same ranges as an nixlXferDList.");

    bindList<nixlRemoteDesc>(module, "nixlRemoteDList",
                             "Ranges of other agents as (address, length, device id, agent name).");
}

} // namespace nx::python
