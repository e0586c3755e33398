// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Letting other Python threads run during a call.
#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace nx::python {

/// Gives the GIL away for its lifetime.
class WithoutGil {
public:
    WithoutGil() noexcept : state_(PyEval_SaveThread()) {}
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
            for (;;) {
                pause();
            }
        }
    }

private:
    PyThreadState *state_;
};

} // namespace nx::python
