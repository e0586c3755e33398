// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The boundary to code of others, which may throw whatever it likes.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <type_traits>

#include "nixlx/engine.h"

namespace nx {

/// Says it as nixlx::fail does, if there is memory for the sentence.
inline nixl_status_t
failed(nixl_status_t status, const char *what, const char *how, const char *why = "") noexcept {
    try {
        return nixlx::fail(status, std::string(what) + how + why);
    }
    catch (...) {
        return status;
    }
}

/// What `call` returns, SUCCESS if that is nothing; what it throws becomes a status with a backend's sentence
/// (nixlx::fail).
template<class Call>
nixl_status_t
guarded(const char *what, Call call) {
    try {
        if constexpr (std::is_void_v<decltype(call())>) {
            call();
            return NIXL_SUCCESS;
        } else {
            return call();
        }
    }
    catch (const std::bad_alloc &) {
        return failed(NIXL_ERR_NO_MEMORY, what, " ran out of memory");
    }
    catch (const std::exception &e) {
        return failed(NIXL_ERR_BACKEND, what, " threw: ", e.what());
    }
    catch (...) {
        return failed(NIXL_ERR_BACKEND, what, " threw something that is not a std::exception");
    }
}

} // namespace nx
