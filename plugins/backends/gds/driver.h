// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The vendor's libraries: cuFile, and the CUDA driver without which cuFile does nothing (it may even hang, so that the
// driver is looked for first). Self-synchronised.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/mutex.h"
#include "gds/abi.h"
#include "kit/vendor_library.h"

namespace nx::gds {

/// The status for an errno or a code of cuFile's, 5000 and above.
nixl_status_t
statusOf(int code) noexcept;

/// "cuFile says HANDLE_ALREADY_REGISTERED (5028)"; of an errno what the system says.
std::string
textOf(int code);

/// A GPU, with its primary context, which programs and their frameworks use, too.
struct Device {
    int ordinal = -1;
    abi::Context context = nullptr;
};

class Driver {
public:
    /// BACKEND: the sentence says what is missing, and what serves instead.
    static Result<std::unique_ptr<Driver>>
    open();
    ~Driver();

    /// "cuFile 1.14".
    const std::string &
    name() const noexcept {
        return name_;
    }

    const abi::FileApi &
    file() const noexcept {
        return file_;
    }

    /// "`what`: ..." with CUDA's part, if that is where it failed.
    Status
    failure(const std::string &what, const abi::FileError &error) const;

    /// The GPU `ordinal`, on which `address` lies; its context exists as long as the driver. INVALID_PARAM: it does
    /// not lie there. BACKEND: CUDA refuses.
    Result<Device>
    deviceOf(uint64_t ordinal, uintptr_t address);

    /// For the calling thread, from now on; null: none, for memory of the host.
    void
    makeCurrent(abi::Context context) const noexcept {
        cuda_.cuCtxSetCurrent(context);
    }

    /// Makes a context the calling thread's, which is a program's, for as long as it exists.
    class Within {
    public:
        Within(const Driver &driver, abi::Context context) noexcept : driver_(driver) {
            driver_.cuda_.cuCtxPushCurrent_v2(context);
        }
        Within(const Within &) = delete;
        ~Within() {
            abi::Context popped;
            driver_.cuda_.cuCtxPopCurrent_v2(&popped);
        }

    private:
        const Driver &driver_;
    };

private:
    Driver() = default;
    Status
    start();
    Status
    startCuda();
    Result<abi::Context>
    contextOf(int ordinal);
    std::string
    cudaText(int error) const;

    abi::CudaApi cuda_{};
    abi::FileApi file_{};
    std::string name_;
    int device_count_ = 0;
    bool opened_ = false; ///< by us
    Mutex mutex_;
    std::vector<Device> devices_ NX_GUARDED_BY(mutex_); ///< those whose context is ours as well
};

} // namespace nx::gds
