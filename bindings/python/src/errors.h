// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Statuses become exceptions here, and calls into the agent leave the GIL here. Used with the GIL held.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <utility>

#include "gil.h"
#include "nixl_types.h"
#include "nixlx/report.h"

namespace nx::python {

void
bindErrors(nanobind::module_ &module);

/// Raises the exception of a negative status: str(e) is "STATUS_NAME: sentence", e.args[0] and e.status the name.
[[noreturn]] void
raiseStatus(nixl_status_t status, const std::string &sentence);

/// Runs `call`, which returns a status, without the GIL. The status is returned as it is.
template<class Call>
nixl_status_t
statusOf(Call &&call) {
    const WithoutGil unlocked;
    return std::forward<Call>(call)();
}

/// Runs `call`, which returns a status, without the GIL, and raises if it failed.
template<class Call>
nixl_status_t
checked(Call &&call) {
    nixl_status_t status;
    std::string sentence;
    {
        const WithoutGil unlocked;
        status = std::forward<Call>(call)();
        if (status < 0) sentence = nixlx::lastError(); // belongs to this thread until its next call
    }
    if (status < 0) raiseStatus(status, sentence);
    return status;
}

} // namespace nx::python
