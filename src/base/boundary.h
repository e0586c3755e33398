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
        return nixlx::fail(NIXL_ERR_NO_MEMORY, std::string(what) + " ran out of memory");
    }
    catch (const std::exception &e) {
        return nixlx::fail(NIXL_ERR_BACKEND, std::string(what) + " threw: " + e.what());
    }
    catch (...) {
        return nixlx::fail(NIXL_ERR_BACKEND, std::string(what) + " threw something that is not a std::exception");
    }
}

} // namespace nx
