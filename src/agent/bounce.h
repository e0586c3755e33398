// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The memory that staged transfers of one agent go through: bounded, taken in units, registered with the backends that
// carry them. It belongs to nobody's list and no peer hears of it. Self-synchronised.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "agent/backend.h"
#include "base/error.h"
#include "base/mutex.h"

namespace nx::agent {

class Bounce {
public:
    static constexpr size_t kUnit = size_t{1} << 20;
    static constexpr size_t kUnits = 64;
    static constexpr size_t kBytes = kUnit * kUnits;

    Bounce() = default;
    /// Requires that all was given back.
    ~Bounce();
    Bounce(const Bounce &) = delete;
    Bounce &
    operator=(const Bounce &) = delete;

    /// What the backend knows it by, as local memory. The backend stays until this is destroyed.
    Result<nixlBackendMD *>
    registrationWith(const std::shared_ptr<Backend> &backend);

    /// Null: there is no room for it now; who holds some already cannot take all that others need. `holder`: for whom,
    /// normally a peer, since who stands still then hinders itself. Requires a registration and 1 to kBytes bytes.
    std::byte *
    take(uint64_t bytes, const std::string &holder);

    /// True: others wanted some in vain meanwhile.
    bool
    give(std::byte *memory, uint64_t bytes, const std::string &holder) noexcept;

    /// It wants none any more.
    void
    forget(const std::string &holder) noexcept;

    /// Rises whenever anything is given back.
    uint64_t
    moves() const noexcept {
        return moves_.load(std::memory_order_relaxed);
    }

private:
    struct Registered {
        std::shared_ptr<Backend> backend;
        nixlBackendMD *metadata;
    };

    Mutex registering_; ///< held while a backend registers
    std::list<Registered> registered_ NX_GUARDED_BY(registering_);
    std::byte *memory_ NX_GUARDED_BY(registering_) = nullptr; ///< constant once it is there
    std::atomic<uint64_t> moves_{0};

    Mutex mutex_; ///< held for a few instructions; no call out of it
    std::byte *base_ NX_GUARDED_BY(mutex_) = nullptr;
    uint64_t used_ NX_GUARDED_BY(mutex_) = 0; ///< a bit for each unit
    std::map<std::string, size_t> held_ NX_GUARDED_BY(mutex_);
    std::set<std::string> hungry_ NX_GUARDED_BY(mutex_); ///< hold none and were refused
};

} // namespace nx::agent
