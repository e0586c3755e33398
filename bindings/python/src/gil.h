// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Letting other Python threads run during a call.
#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace nx::python {

// Guarded by the GIL:
inline int calls_under_way = 0;         ///< threads that have given the GIL away for a call
inline unsigned long ending_thread = 0; ///< once the interpreter ends: the one that ends it, which alone makes calls

/// Gives the GIL away for its lifetime. Once the interpreter ends other threads stay in here.
class WithoutGil {
public:
    WithoutGil() noexcept {
        if (ending_thread && ending_thread != PyThread_get_thread_ident()) {
            PyEval_SaveThread();
            sleepForEver();
        }
        ++calls_under_way;
        state_ = PyEval_SaveThread();
    }
    WithoutGil(const WithoutGil &) = delete;
    WithoutGil &
    operator=(const WithoutGil &) = delete;

    ~WithoutGil() {
        try {
            PyEval_RestoreThread(state_);
        }
        catch (abi::__forced_unwind &) {
            // The interpreter has ended. Before Python 3.14 it makes a daemon thread that comes back exit here, which
            // would unwind through C++ frames and abort the process. Sleep instead, as Python 3.14 does.
            sleepForEver();
        }
        --calls_under_way;
    }

private:
    [[noreturn]] static void
    sleepForEver() noexcept {
        for (;;) {
            pause();
        }
    }

    PyThreadState *state_;
};

} // namespace nx::python
