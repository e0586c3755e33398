// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "errors.h"

#include <nanobind/stl/string.h>

#include <stdexcept>

namespace nb = nanobind;

namespace nx::python {
namespace {

struct ExceptionRow {
    nixl_status_t status;
    const char *name;
    const char *parent; ///< null: Exception
    const char *doc;
};

// Exceptions beyond NIXL 1.4 derive from the class that a 1.4 program would have caught.
constexpr ExceptionRow kExceptions[] = {
    {NIXL_ERR_NOT_POSTED, "nixlNotPostedError", nullptr, "The request was never posted."},
    {NIXL_ERR_INVALID_PARAM, "nixlInvalidParamError", nullptr, "An argument or handle is not valid."},
    {NIXL_ERR_BACKEND, "nixlBackendError", nullptr, "The backend failed or refused."},
    {NIXL_ERR_NOT_FOUND, "nixlNotFoundError", nullptr, "Unknown agent, memory, plugin or backend."},
    {NIXL_ERR_MISMATCH, "nixlMismatchError", nullptr, "The bytes are not what they should be."},
    {NIXL_ERR_NOT_ALLOWED, "nixlNotAllowedError", nullptr, "Conflicts with what exists already."},
    {NIXL_ERR_REPOST_ACTIVE, "nixlRepostActiveError", nullptr, "The request is still running."},
    {NIXL_ERR_UNKNOWN, "nixlUnknownError", nullptr, "An error without a better name."},
    {NIXL_ERR_NOT_SUPPORTED, "nixlNotSupportedError", nullptr, "The backend cannot do this."},
    {NIXL_ERR_REMOTE_DISCONNECT, "nixlRemoteDisconnectError", nullptr, "The peer is gone."},
    {NIXL_ERR_CANCELED, "nixlCancelledError", nullptr, "The request was cancelled."},
    {NIXL_ERR_NO_TELEMETRY, "nixlNoTelemetryError", nullptr, "The agent does not capture telemetry."},
    {NIXL_ERR_TIMEOUT, "nixlTimeoutError", "nixlBackendError", "The request's deadline or stall limit passed."},
    {NIXL_ERR_STALE, "nixlStaleError", "nixlNotFoundError", "The handle belongs to metadata that was replaced."},
    {NIXL_ERR_INTEGRITY, "nixlIntegrityError", "nixlBackendError", "The bytes that arrived are not those sent."},
    {NIXL_ERR_NO_MEMORY, "nixlNoMemoryError", "nixlBackendError", "An allocation failed; nothing was changed."},
    {NIXL_ERR_FORKED, "nixlForkedError", "nixlBackendError", "The agent was created by a parent process."},
};

// The classes, by row; alive until the process ends.
PyObject *exception_classes[std::size(kExceptions)] = {};

nb::object
statusName(nb::handle self) {
    nb::tuple args = nb::borrow<nb::tuple>(self.attr("args"));
    return args.size() ? nb::object(args[0]) : nb::none();
}

nb::object
describe(nb::handle self) {
    nb::list parts;
    for (nb::handle argument : nb::borrow<nb::tuple>(self.attr("args"))) {
        parts.append(nb::str(argument));
    }
    return nb::str(": ").attr("join")(parts);
}

} // namespace

void
bindErrors(nb::module_ &module) {
    const std::string prefix = nb::cast<std::string>(module.attr("__name__")) + ".";
    nb::object to_str = nb::cpp_function(&describe, nb::is_method(), nb::name("__str__"));
    nb::object status = nb::module_::import_("builtins")
                            .attr("property")(nb::cpp_function(&statusName, nb::is_method(), nb::name("status")),
                                              nb::none(), nb::none(),
                                              "Name of the status, for example "
                                              "\"NIXL_ERR_BACKEND\".");
    for (size_t i = 0; i < std::size(kExceptions); ++i) {
        const ExceptionRow &row = kExceptions[i];
        nb::dict members;
        if (!row.parent) {
            members["__str__"] = to_str;
            members["status"] = status;
        }
        nb::object parent = row.parent ? nb::object(module.attr(row.parent)) : nb::borrow(PyExc_Exception);
        PyObject *type = PyErr_NewExceptionWithDoc((prefix + row.name).c_str(), row.doc, parent.ptr(), members.ptr());
        if (!type) throw nb::python_error();
        exception_classes[i] = type;
        module.attr(row.name) = nb::handle(type);
    }
}

void
raiseStatus(nixl_status_t status, const std::string &sentence) {
    const std::string name = nixlEnumStrings::statusStr(status);
    for (size_t i = 0; i < std::size(kExceptions); ++i) {
        if (kExceptions[i].status != status) continue;
        // The sentence may quote bytes of a peer: never let a decoding error hide the failure.
        nb::object text = nb::steal(
            PyUnicode_DecodeUTF8(sentence.data(), static_cast<Py_ssize_t>(sentence.size()), "backslashreplace"));
        nb::tuple args = sentence.empty() ? nb::make_tuple(name) : nb::make_tuple(name, text);
        PyErr_SetObject(exception_classes[i], args.ptr());
        throw nb::python_error();
    }
    throw std::runtime_error(name);
}

} // namespace nx::python
