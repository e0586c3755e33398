// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "enums.h"

#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

namespace nb = nanobind;

namespace nx::python {
namespace {

enum class Equality { kWithInts, kAmongMembers };

template<class E>
void
fill(Member<E> &member, int value) {
    for (const auto &[number, object] : member_objects<E>) {
        if (number != value) continue;
        member = *nb::inst_ptr<Member<E>>(nb::handle(object));
        return;
    }
    throw std::invalid_argument(std::to_string(value) + " is not a value of this enumeration");
}

template<class E>
void
bindEnum(nb::module_ &module,
         const char *name,
         const char *doc,
         Equality equality,
         const std::vector<Member<E>> &members) {
    using M = Member<E>;
    const std::string class_name = name;
    nb::class_<M> type(module, name, doc);
    type.def(
        "__init__",
        [](M *self, int value) {
            M member;
            fill(member, value);
            new (self) M(member);
        },
        nb::arg("value"));
    type.def_prop_ro("name", [](const M &self) { return self.name; }, "Name of the member.");
    type.def_prop_ro("value", [](const M &self) { return self.value; }, "Number of the member.");
    type.def("__int__", [](const M &self) { return self.value; });
    type.def("__index__", [](const M &self) { return self.value; });
    type.def("__hash__", [](const M &self) { return nb::hash(nb::int_(self.value)); });
    type.def("__repr__", [class_name](const M &self) {
        return "<" + class_name + "." + self.name + ": " + std::to_string(self.value) + ">";
    });
    type.def("__str__", [class_name](const M &self) { return class_name + "." + self.name; });
    type.def(
        "__eq__",
        [equality](const M &self, nb::handle other) {
            if (nb::isinstance<M>(other)) return nb::inst_ptr<M>(other)->value == self.value;
            return equality == Equality::kWithInts && nb::int_(self.value).equal(other);
        },
        nb::arg("other").none());
    // Pickled by name, so that a copy is the same object; the original's pickles carry the number.
    type.def("__reduce__", [](nb::handle self) {
        nb::object get = nb::module_::import_("builtins").attr("getattr");
        return nb::make_tuple(get, nb::make_tuple(self.type(), self.attr("name")));
    });
    type.def("__setstate__", [](M &self, int value) {
        M member;
        fill(member, value);
        new (&self) M(member);
    });

    nb::dict by_name;
    for (const M &member : members) {
        nb::object object = nb::cast(member);
        type.attr(member.name) = object;
        module.attr(member.name) = object;
        by_name[member.name] = object;
        member_objects<E>.emplace_back(member.value, object.release().ptr());
    }
    type.attr("__members__") = by_name;
}

} // namespace

void
bindEnums(nb::module_ &module) {
    using Sync = nixl_thread_sync_t;
    bindEnum<Sync>(module, "nixl_thread_sync_t",
                   "Accepted for compatibility: every call is safe from any thread in every mode.",
                   Equality::kAmongMembers,
                   {{"NIXL_THREAD_SYNC_NONE", static_cast<int>(Sync::NIXL_THREAD_SYNC_NONE)},
                    {"NIXL_THREAD_SYNC_STRICT", static_cast<int>(Sync::NIXL_THREAD_SYNC_STRICT)},
                    {"NIXL_THREAD_SYNC_RW", static_cast<int>(Sync::NIXL_THREAD_SYNC_RW)},
                    {"NIXL_THREAD_SYNC_DEFAULT", static_cast<int>(Sync::NIXL_THREAD_SYNC_DEFAULT)}});
    bindEnum<nixl_mem_t>(module, "nixl_mem_t", "Kind of memory a descriptor list speaks about.", Equality::kWithInts,
                         {{"DRAM_SEG", DRAM_SEG},
                          {"VRAM_SEG", VRAM_SEG},
                          {"BLK_SEG", BLK_SEG},
                          {"OBJ_SEG", OBJ_SEG},
                          {"FILE_SEG", FILE_SEG}});
    bindEnum<nixl_xfer_op_t>(module, "nixl_xfer_op_t",
                             "Direction of a transfer: READ fills local memory, WRITE fills remote memory.",
                             Equality::kWithInts, {{"NIXL_READ", NIXL_READ}, {"NIXL_WRITE", NIXL_WRITE}});
    bindEnum<nixl_cost_t>(module, "nixl_cost_t", "How a transfer cost was found.", Equality::kAmongMembers,
                          {{"NIXL_COST_ANALYTICAL_BACKEND", static_cast<int>(nixl_cost_t::ANALYTICAL_BACKEND)}});
    bindEnum<nixl_status_t>(module, "nixl_status_t", "Result of a call. Negative ones are raised as exceptions.",
                            Equality::kWithInts,
                            {{"NIXL_IN_PROG", NIXL_IN_PROG},
                             {"NIXL_SUCCESS", NIXL_SUCCESS},
                             {"NIXL_ERR_NOT_POSTED", NIXL_ERR_NOT_POSTED},
                             {"NIXL_ERR_INVALID_PARAM", NIXL_ERR_INVALID_PARAM},
                             {"NIXL_ERR_BACKEND", NIXL_ERR_BACKEND},
                             {"NIXL_ERR_NOT_FOUND", NIXL_ERR_NOT_FOUND},
                             {"NIXL_ERR_MISMATCH", NIXL_ERR_MISMATCH},
                             {"NIXL_ERR_NOT_ALLOWED", NIXL_ERR_NOT_ALLOWED},
                             {"NIXL_ERR_REPOST_ACTIVE", NIXL_ERR_REPOST_ACTIVE},
                             {"NIXL_ERR_UNKNOWN", NIXL_ERR_UNKNOWN},
                             {"NIXL_ERR_NOT_SUPPORTED", NIXL_ERR_NOT_SUPPORTED},
                             {"NIXL_ERR_REMOTE_DISCONNECT", NIXL_ERR_REMOTE_DISCONNECT},
                             {"NIXL_ERR_CANCELED", NIXL_ERR_CANCELED},
                             {"NIXL_ERR_NO_TELEMETRY", NIXL_ERR_NO_TELEMETRY},
                             {"NIXL_ERR_TIMEOUT", NIXL_ERR_TIMEOUT},
                             {"NIXL_ERR_STALE", NIXL_ERR_STALE},
                             {"NIXL_ERR_INTEGRITY", NIXL_ERR_INTEGRITY},
                             {"NIXL_ERR_NO_MEMORY", NIXL_ERR_NO_MEMORY},
                             {"NIXL_ERR_FORKED", NIXL_ERR_FORKED}});
}

} // namespace nx::python
