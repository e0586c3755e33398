// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The module nixl._bindings.
#include <nanobind/nanobind.h>

#include "agent.h"
#include "descriptors.h"
#include "enums.h"
#include "errors.h"
#include "nixl_types.h"

namespace nb = nanobind;

NB_MODULE(_bindings, module) {
    // Agents and handles that a program still holds when it ends are no mistake worth a page on stderr.
    nb::set_leak_warnings(false);
    module.doc() = "NIXL's C++ interface for Python: handles are ints, failures are exceptions.";
    module.attr("NIXL_INIT_AGENT") = NIXL_INIT_AGENT;
    module.attr("DEFAULT_COMM_PORT") = default_comm_port;
    module.attr("HAVE_UCX_GPU_DEVICE_API") = false;
    nx::python::bindEnums(module);
    nx::python::bindErrors(module);
    nx::python::bindDescriptors(module);
    nx::python::bindAgent(module);
}
