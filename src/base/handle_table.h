// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Handles for callers: index and generation behind an opaque pointer. A look-up pins the object, so that another
// thread's release cannot free it meanwhile; a stale, foreign or doubled handle finds nothing. Self-synchronised:
// find() takes no lock and allocates nothing; insert() and remove() take a mutex.
//
// A token: kind (4 bits) | owner (12) | generation (24) | index (24). Its kind is never 0, so it is never null and lies
// outside the addresses of user space.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace nx {

template<class T> class HandleTable {
    struct Slot {
        // generation (32 bits, odd while occupied) | pins (32)
        std::atomic<uint64_t> state{0};
        std::unique_ptr<T> object;
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

    /// `kind` 1..15 tells tables of different types apart, `owner` tables of different agents.
    HandleTable(unsigned kind, unsigned owner) noexcept
        : tag_(static_cast<uint64_t>(kind & 15) << 60 | static_cast<uint64_t>(owner & 0xfff) << 48) {}

    ~HandleTable() {
        for (auto &chunk : chunks_) delete[] chunk.load();
    }

    HandleTable(const HandleTable &) = delete;
    HandleTable &
    operator=(const HandleTable &) = delete;

    /// 0 if the table is full (16 million objects).
    uint64_t
    insert(std::unique_ptr<T> object) {
        std::lock_guard lock(mutex_);
        uint32_t index;
        if (!free_.empty()) {
            index = free_.back();
            free_.pop_back();
        } else {
            if (size_ == kChunks * kChunkSize) return 0;
            index = size_;
            auto &chunk = chunks_[index / kChunkSize];
            if (!chunk.load(std::memory_order_relaxed)) {
                free_.reserve(index + kChunkSize); // so that freeing a slot never allocates
                chunk.store(new Slot[kChunkSize], std::memory_order_release);
            }
            ++size_;
        }
        Slot &s = slot(index);
        s.object = std::move(object);
        const uint64_t generation = (s.state.load(std::memory_order_relaxed) >> 32) + 1;
        s.state.store(generation << 32, std::memory_order_release);
        return tag_ | (generation & kGenerationMask) << 24 | index;
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
        } while (!s->state.compare_exchange_weak(state, state + (uint64_t{1} << 32) + 1, std::memory_order_acq_rel));
        unpin(static_cast<uint32_t>(token & kIndexMask));
        return true;
    }

    /// Calls `visit(token)` for every object that exists at some moment of the call.
    template<class Visit>
    void
    forEach(Visit visit) {
        uint32_t size;
        {
            std::lock_guard lock(mutex_);
            size = size_;
        }
        for (uint32_t index = 0; index < size; ++index) {
            const uint64_t generation = slot(index).state.load(std::memory_order_acquire) >> 32;
            if (generation & 1) visit(tag_ | (generation & kGenerationMask) << 24 | index);
        }
    }

private:
    static constexpr uint64_t kIndexMask = (1u << 24) - 1;
    static constexpr uint64_t kGenerationMask = (1u << 24) - 1;
    static constexpr uint32_t kChunkSize = 1024;
    static constexpr uint32_t kChunks = (1u << 24) / kChunkSize;

    Slot &
    slot(uint32_t index) noexcept {
        return chunks_[index / kChunkSize].load(std::memory_order_acquire)[index % kChunkSize];
    }

    Slot *
    locate(uint64_t token) noexcept {
        if ((token >> 48) != (tag_ >> 48)) return nullptr;
        const auto index = static_cast<uint32_t>(token & kIndexMask);
        Slot *chunk = chunks_[index / kChunkSize].load(std::memory_order_acquire);
        return chunk ? &chunk[index % kChunkSize] : nullptr;
    }

    static bool
    matches(uint64_t state, uint64_t token) noexcept {
        const uint64_t generation = state >> 32;
        return (generation & 1) && (generation & kGenerationMask) == (token >> 24 & kGenerationMask);
    }

    void
    unpin(uint32_t index) noexcept {
        Slot &s = slot(index);
        const uint64_t before = s.state.fetch_sub(1, std::memory_order_acq_rel);
        const bool last = (before & 0xffffffff) == 1;
        const bool removed = !((before >> 32) & 1);
        if (!last || !removed) return;
        s.object.reset();
        std::lock_guard lock(mutex_);
        free_.push_back(index);
    }

    const uint64_t tag_;
    // Self-synchronised: a chunk, once there, stays.
    std::array<std::atomic<Slot *>, kChunks> chunks_{};
    // Guarded by mutex_:
    std::mutex mutex_;
    std::vector<uint32_t> free_;
    uint32_t size_ = 0;
};

} // namespace nx
