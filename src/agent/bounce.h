// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The memory that staged transfers of one agent go through: bounded, registered with the backends that carry them. It
// belongs to nobody's list and no peer hears of it. One half is for portions of up to a unit, the other one for larger
// ones, so that neither hinders the other. Self-synchronised.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "agent/backend.h"
#include "base/error.h"
#include "base/mutex.h"

namespace nx::agent {

class Bounce {
public:
    static constexpr size_t kUnit = size_t{1} << 20;
    static constexpr size_t kUnits = 64; ///< of each half
    static constexpr size_t kLargest = kUnit * kUnits;

    /// Who wants some. Of whom has none a portion is given while one is free; more than that only while the holder, for
    /// whom it is (normally a peer, since who stands still then hinders itself), leaves as much free as it holds.
    struct Asker {
        const void *who;
        const std::string &holder;
        bool has_some;
    };

    Bounce() = default;
    /// What is still taken then stays registered and mapped for good: somebody may write there.
    ~Bounce();
    Bounce(const Bounce &) = delete;
    Bounce &
    operator=(const Bounce &) = delete;

    /// What the backend knows it by, as local memory. The backend stays until this is destroyed.
    Result<nixlBackendMD *>
    registrationWith(const std::shared_ptr<Backend> &backend);

    /// Null: not now. Who asks for more than a unit is served in turn. Requires a registration and 1 to kLargest bytes.
    std::byte *
    take(uint64_t bytes, const Asker &asker);

    /// True: others wanted some in vain meanwhile.
    bool
    give(std::byte *memory, uint64_t bytes, const std::string &holder) noexcept;

    /// It wants none any more.
    void
    forget(const void *who) noexcept;

    /// Rises whenever anything is given back or was seen to move.
    uint64_t
    moves() const noexcept {
        return moves_.load(std::memory_order_relaxed);
    }
    void
    moved() noexcept {
        moves_.fetch_add(1, std::memory_order_relaxed);
    }

private:
    struct Registered {
        std::shared_ptr<Backend> backend;
        nixlBackendMD *metadata;
    };

    Mutex registering_; ///< held while a backend registers
    std::list<Registered> registered_ NX_GUARDED_BY(registering_);
    std::atomic<std::byte *> memory_{nullptr}; ///< set once, under registering_
    std::atomic<uint64_t> moves_{0};

    Mutex mutex_;                              ///< held for a few instructions; no call out of it
    uint64_t small_ NX_GUARDED_BY(mutex_) = 0; ///< a bit for each unit that is taken
    uint64_t large_ NX_GUARDED_BY(mutex_) = 0;
    std::map<std::string, size_t> held_ NX_GUARDED_BY(mutex_); ///< small ones
    std::list<const void *> turns_ NX_GUARDED_BY(mutex_);      ///< who waits for a large one
    bool refused_ NX_GUARDED_BY(mutex_) = false;
};

} // namespace nx::agent
