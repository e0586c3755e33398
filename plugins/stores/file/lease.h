// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The file .start in an agent's folder: which start of the agent has published there, and whether it still exists. The
// start holds it open and locked (flock); the system lets go of it at its end, however it ends, and tells those that
// watch the folder that a file open for writing was closed. A child that a fork leaves behind does not keep it. Both
// are good within one host; for others the start touches the file, and whoever comes from another host believes its
// age, by the clock of the file system.
#pragma once

#include <chrono>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace nx::file_store {

inline constexpr char kLeaseFile[] = ".start";

/// Owned. Goes with the process or with this object.
class Lease {
public:
    /// Makes `start` the one that has published in the folder, which the caller has locked.
    static Result<Lease>
    take(const Fd &folder, const std::string &start);

    /// For other hosts: it exists.
    void
    beat() const noexcept;

    Lease(Lease &&) noexcept = default;
    Lease &
    operator=(Lease &&other) noexcept;
    ~Lease();

private:
    explicit Lease(Fd file);
    void
    release() noexcept;

    Fd file_;
};

struct LeaseState {
    std::string start;
    bool held;      ///< the start exists
    bool remote;    ///< it is of another host
    bool abandoned; ///< what it has left behind can be removed
};

/// Of an agent's `folder` in `root`. NOT_FOUND: nobody has published in the folder. MISMATCH: what is there is no
/// lease. `limit`: a start of another host that has not touched its lease for so long has ended.
Result<LeaseState>
readLease(const Fd &root, const Fd &folder, std::chrono::milliseconds limit);

} // namespace nx::file_store
