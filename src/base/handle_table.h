// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Handles for callers: index and generation behind an opaque pointer. A look-up pins the object, so that another
// thread's release cannot free it meanwhile; a stale, foreign or doubled handle finds nothing. Self-synchronised:
// find() takes no lock and allocates nothing; insert() and remove() take a mutex.
//
// A token: kind (4 bits) | generation (24) | index (36). Its kind is never 0, so it is never null and lies outside the
// addresses of user space. No token is given out twice in a process: the tables of one type share one set of slots,
// which keep their generations from table to table, and a slot whose generations are used up is not used any more.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace nx {

template<class T> class HandleTable {
    struct Slot {
        // generation (32 bits, odd while occupied) | pins (32)
        std::atomic<uint64_t> state{0};
        std::unique_ptr<T> object;
    };

    static constexpr uint32_t kChunkSize = 1024;

    /// Slots that belong to one table at a time, and to none between two.
    struct Chunk {
        std::atomic<HandleTable *> owner{nullptr};
        Chunk *next = nullptr; ///< of the same owner, or of those without one; constant while it has one
        uint32_t first = 0;    ///< index of slots[0]; constant
        std::array<Slot, kChunkSize> slots;
    };

public:
    /// Keeps the object alive while it exists. Empty if the look-up found nothing.
    class Pin {
    public:
        Pin() noexcept = default;
        Pin(Pin &&other) noexcept : table_(std::exchange(other.table_, nullptr)), index_(other.index_) {}
        Pin &
        operator=(Pin &&other) noexcept {
            if (this != &other) {
                release();
                table_ = std::exchange(other.table_, nullptr);
                index_ = other.index_;
            }
            return *this;
        }
        ~Pin() {
            release();
        }

        explicit
        operator bool() const noexcept {
            return table_;
        }

        T *
        get() const noexcept {
            return table_ ? table_->slot(index_).object.get() : nullptr;
        }

        // Of a temporary the object may end with it: give it a name first.
        T *
        operator->() const & noexcept {
            return get();
        }
        T *
        operator->() const && = delete;

        T &
        operator*() const & noexcept {
            return *get();
        }
        T &
        operator*() const && = delete;

    private:
        friend class HandleTable;
        Pin(HandleTable *table, uint32_t index) noexcept : table_(table), index_(index) {}

        void
        release() noexcept {
            if (table_) std::exchange(table_, nullptr)->unpin(index_);
        }

        HandleTable *table_ = nullptr;
        uint32_t index_ = 0;
    };

    /// `kind` 1..15 tells tables of different types apart.
    explicit HandleTable(unsigned kind) noexcept : tag_(static_cast<uint64_t>(kind & 15) << 60) {}

    /// No pin is left.
    ~HandleTable() {
        for (Chunk *chunk = chunks_; chunk;) {
            for (Slot &s : chunk->slots) {
                if (generationOf(s.state) & 1) s.state += kNextGeneration;
                s.object.reset();
            }
            Chunk *const next = chunk->next;
            all_slots.giveBack(*chunk);
            chunk = next;
        }
    }

    HandleTable(const HandleTable &) = delete;
    HandleTable &
    operator=(const HandleTable &) = delete;

    /// 0 if the process has no handle of this type left: 268 million objects exist, or 2^51 have existed.
    uint64_t
    insert(std::unique_ptr<T> object) {
        const MutexLock lock(mutex_);
        uint32_t index;
        if (!takeSlotLocked(index)) return 0;
        Slot &s = slot(index);
        s.object = std::move(object);
        const uint64_t state = s.state.load(std::memory_order_relaxed) + kNextGeneration;
        s.state.store(state, std::memory_order_release);
        return tokenOf(state, index);
    }

    Pin
    find(uint64_t token) noexcept {
        Slot *s = locate(token);
        if (!s) return {};
        uint64_t state = s->state.load(std::memory_order_acquire);
        do {
            if (!matches(state, token)) return {};
        } while (!s->state.compare_exchange_weak(state, state + 1, std::memory_order_acquire));
        return Pin(this, static_cast<uint32_t>(token & kIndexMask));
    }

    /// The handle is invalid from here on; the object goes with the last pin. False if it was invalid already.
    bool
    remove(uint64_t token) noexcept {
        Slot *s = locate(token);
        if (!s) return false;
        uint64_t state = s->state.load(std::memory_order_acquire);
        do {
            if (!matches(state, token)) return false;
        } while (!s->state.compare_exchange_weak(state, state + kNextGeneration + 1, std::memory_order_acq_rel));
        unpin(static_cast<uint32_t>(token & kIndexMask));
        return true;
    }

    /// Calls `visit(token)` for every object that exists at some moment of the call.
    template<class Visit>
    void
    forEach(Visit visit) {
        Chunk *chunk;
        uint32_t used;
        {
            const MutexLock lock(mutex_);
            chunk = chunks_;
            used = used_;
        }
        for (; chunk; chunk = chunk->next, used = kChunkSize) {
            for (uint32_t i = 0; i < used; ++i) {
                const uint64_t state = chunk->slots[i].state.load(std::memory_order_acquire);
                if (generationOf(state) & 1) visit(tokenOf(state, chunk->first + i));
            }
        }
    }

private:
    static constexpr uint64_t kNextGeneration = uint64_t{1} << 32; ///< added to a slot's state
    static constexpr unsigned kIndexBits = 36;
    static constexpr uint64_t kIndexMask = (uint64_t{1} << kIndexBits) - 1;
    static constexpr uint64_t kGenerations = 1u << 24; ///< of a slot that is used up
    static constexpr uint32_t kChunks = (1u << 28) / kChunkSize;

    /// Of all tables of the type. Never destroyed: objects of static lifetime may own tables.
    struct AllSlots {
        // Self-synchronised: a chunk, once there, stays.
        std::array<std::atomic<Chunk *>, kChunks> chunks{};
        Mutex mutex;
        uint32_t chunk_count NX_GUARDED_BY(mutex) = 0;
        Chunk *without_owner NX_GUARDED_BY(mutex) = nullptr;

        /// Null: there are no more.
        Chunk *
        take(HandleTable &owner) {
            const MutexLock lock(mutex);
            Chunk *chunk = without_owner;
            if (chunk) {
                without_owner = chunk->next;
            } else {
                if (chunk_count == kChunks) return nullptr;
                chunk = new Chunk;
                chunk->first = chunk_count * kChunkSize;
                chunks[chunk_count++].store(chunk, std::memory_order_release);
            }
            chunk->owner.store(&owner, std::memory_order_release);
            return chunk;
        }

        void
        giveBack(Chunk &chunk) noexcept {
            chunk.owner.store(nullptr, std::memory_order_release);
            const MutexLock lock(mutex);
            chunk.next = std::exchange(without_owner, &chunk);
        }
    };
    static_assert(std::is_trivially_destructible_v<AllSlots>);
    static inline constinit AllSlots all_slots;

    uint64_t
    tokenOf(uint64_t state, uint32_t index) const noexcept {
        return tag_ | (generationOf(state) % kGenerations) << kIndexBits | index;
    }

    static uint64_t
    generationOf(uint64_t state) noexcept {
        return state >> 32;
    }

    bool
    takeSlotLocked(uint32_t &index) NX_REQUIRES(mutex_) {
        if (!free_.empty()) {
            index = free_.back();
            free_.pop_back();
            return true;
        }
        for (;; ++used_) {
            if (used_ == kChunkSize) {
                free_.reserve(slot_count_ + kChunkSize); // so that freeing a slot never allocates
                Chunk *const chunk = all_slots.take(*this);
                if (!chunk) return false;
                chunk->next = std::exchange(chunks_, chunk);
                slot_count_ += kChunkSize;
                used_ = 0;
            }
            if (isUsedUp(chunks_->slots[used_])) continue;
            index = chunks_->first + used_++;
            return true;
        }
    }

    static bool
    isUsedUp(const Slot &s) noexcept {
        return generationOf(s.state.load(std::memory_order_relaxed)) == kGenerations;
    }

    static Slot &
    slot(uint32_t index) noexcept {
        return all_slots.chunks[index / kChunkSize].load(std::memory_order_acquire)->slots[index % kChunkSize];
    }

    Slot *
    locate(uint64_t token) noexcept {
        const uint64_t index = token & kIndexMask;
        if (token >> 60 != tag_ >> 60 || index >= uint64_t{kChunks} * kChunkSize) return nullptr;
        Chunk *const chunk = all_slots.chunks[index / kChunkSize].load(std::memory_order_acquire);
        if (!chunk || chunk->owner.load(std::memory_order_acquire) != this) return nullptr;
        return &chunk->slots[index % kChunkSize];
    }

    static bool
    matches(uint64_t state, uint64_t token) noexcept {
        const uint64_t generation = generationOf(state);
        return (generation & 1) && generation == (token >> kIndexBits) % kGenerations;
    }

    void
    unpin(uint32_t index) noexcept NX_EXCLUDES(mutex_) {
        Slot &s = slot(index);
        const uint64_t before = s.state.fetch_sub(1, std::memory_order_acq_rel);
        const bool last = (before & 0xffffffff) == 1;
        const bool removed = !(generationOf(before) & 1);
        if (!last || !removed) return;
        s.object.reset();
        if (isUsedUp(s)) return;
        const MutexLock lock(mutex_);
        free_.push_back(index);
    }

    const uint64_t tag_;
    Mutex mutex_;
    std::vector<uint32_t> free_ NX_GUARDED_BY(mutex_);
    Chunk *chunks_ NX_GUARDED_BY(mutex_) = nullptr;    ///< the newest first
    size_t slot_count_ NX_GUARDED_BY(mutex_) = 0;      ///< in them
    uint32_t used_ NX_GUARDED_BY(mutex_) = kChunkSize; ///< so many of the newest chunk have been used
};

} // namespace nx
