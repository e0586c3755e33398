// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One side of a link (link.h): workers of the same-host context that serve one peer and nobody else.
//
// A worker's queue in shared memory has one reader and any number of writers. A writer that is killed after it took a
// place in the queue and before it filled it stops the queue for good (UCX 1.13 to 1.23): whoever else wrote into it
// would never be heard again. So no two peers share a queue, and the queue goes with the peer.
//
// Immutable; each worker is guarded by its own mutex (driver.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ucx/driver.h"

namespace nx::ucx {

class Runtime;

/// The runtime drives the workers as it does its own, from the creation of this object to its end.
class LocalWorkers {
public:
    enum class Side { kInitiator, kTarget };

    /// The runtime is started, has a same-host context, and outlives them.
    static Result<std::unique_ptr<LocalWorkers>>
    create(Runtime &runtime, Side side, size_t count);
    /// Works off what the peer has left in the queues first. Their endpoints are closed before.
    ~LocalWorkers();
    LocalWorkers(const LocalWorkers &) = delete;
    LocalWorkers &
    operator=(const LocalWorkers &) = delete;

    Worker &
    operator[](size_t index) noexcept {
        return *workers_[index];
    }

    Side
    side() const noexcept {
        return side_;
    }

    std::vector<std::string>
    addresses() const;

    /// Works off what is there. True if there was anything.
    bool
    drive();

    /// The peer has got all its answers.
    bool
    idle();

    /// For a peer that is dead: works off what is there and drives the workers no more, see Worker::retire.
    void
    retire();

private:
    LocalWorkers(Runtime &runtime, Side side) : runtime_(runtime), side_(side) {}

    Runtime &runtime_;
    const Side side_;
    std::vector<std::unique_ptr<Worker>> workers_;
};

} // namespace nx::ucx
