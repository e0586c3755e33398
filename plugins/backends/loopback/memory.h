// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What can be read and written: a Window is one registered range of one agent, a Store is what stands behind ranges of
// files, objects and block devices. DRAM and VRAM windows address the process's memory directly. The two nixlBackendMD
// classes are what the agent holds on behalf of a registration, its own or a peer's.
#pragma once

#include <array>
#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "backend/backend_aux.h"
#include "base/error.h"
#include "base/mutex.h"

namespace nx::loopback {

class Endpoint;

inline constexpr uint64_t kStoreBytesMax = uint64_t{1} << 30; ///< what one store may hold

bool
isStorage(nixl_mem_t memory) noexcept;

/// The contents of one file, object or block device. Grows where it is written; holes read as zeros. Guarded.
class Store {
public:
    Store(nixl_mem_t memory, std::string name) : memory_(memory), name_(std::move(name)) {}

    /// NO_MEMORY beyond kStoreBytesMax. Throws std::bad_alloc.
    Status
    write(uint64_t offset, const std::byte *from, uint64_t length);

    /// BACKEND: a file or object ends before `offset + length`. A block device has no end.
    Status
    read(uint64_t offset, std::byte *to, uint64_t length) const;

    /// One past the last byte that was written.
    uint64_t
    size() const;

private:
    static constexpr uint64_t kPageBytes = uint64_t{64} << 10;
    using Page = std::array<std::byte, kPageBytes>;

    const nixl_mem_t memory_;
    const std::string name_;
    mutable Mutex mutex_;
    std::map<uint64_t, std::unique_ptr<Page>> pages_ NX_GUARDED_BY(mutex_);
    uint64_t size_ NX_GUARDED_BY(mutex_) = 0;
};

/// What identifies a window at its owner. Made from a registration by the owner and from metadata by its peers, which
/// must come to the same result: it is the whole of what a peer has to know.
struct WindowKey {
    nixl_mem_t memory;
    uint64_t device_id;
    uint64_t address; ///< offset in a store
    uint64_t length;  ///< UINT64_MAX: unbounded
    std::string name; ///< of a store; empty if the device id names it

    auto
    operator<=>(const WindowKey &) const = default;
};

/// `name` is the registration's metaInfo, or the public data a peer published for it.
WindowKey
windowKey(const nixlBasicDesc &range, nixl_mem_t memory, const std::string &name);

/// "DRAM_SEG 0x1000 + 64, device 0", for sentences.
std::string
toString(const WindowKey &key);

/// One registered range. Accesses happen under a Pin; once close() has returned there are none and will be none.
/// Self-synchronised.
class Window {
public:
    /// Permission to access; false if the window is closed.
    class Pin {
    public:
        explicit Pin(Window &window) noexcept : window_(window), held_(window.enter()) {}
        ~Pin() {
            window_.leave();
        }
        Pin(const Pin &) = delete;
        Pin &
        operator=(const Pin &) = delete;

        explicit
        operator bool() const noexcept {
            return held_;
        }

    private:
        Window &window_;
        const bool held_;
    };

    Window(WindowKey key, std::shared_ptr<Store> store) : key_(std::move(key)), store_(std::move(store)) {}

    const WindowKey &
    key() const noexcept {
        return key_;
    }

    bool
    contains(uint64_t address, uint64_t length) const noexcept {
        return address >= key_.address && length <= key_.length && address - key_.address <= key_.length - length;
    }

    /// Refuses new accesses and waits for the present ones, at most one slice of a transfer each.
    void
    close() noexcept;

    /// Moves `length` bytes. Both windows are pinned and contain the ranges. Throws std::bad_alloc.
    static Status
    copy(const Window &from, uint64_t from_address, const Window &to, uint64_t to_address, uint64_t length);

private:
    bool
    enter() noexcept {
        return !(state_.fetch_add(2, std::memory_order_acquire) & kClosed);
    }
    void
    leave() noexcept;

    std::byte *
    memory(uint64_t address) const noexcept {
        return reinterpret_cast<std::byte *>(address);
    }

    static constexpr uint32_t kClosed = 1;
    const WindowKey key_;
    const std::shared_ptr<Store> store_; ///< null for memory
    std::atomic<uint32_t> state_{0};     ///< twice the number of pins, plus kClosed
};

/// A registration of this agent.
class LocalMemory : public nixlBackendMD {
public:
    explicit LocalMemory(std::shared_ptr<Window> window) : nixlBackendMD(true), window(std::move(window)) {}

    const std::shared_ptr<Window> window;
};

/// A registration of a peer, as its metadata described it. Whether it exists is found out at each post.
class RemoteMemory : public nixlBackendMD {
public:
    RemoteMemory(std::shared_ptr<Endpoint> owner, WindowKey key)
        : nixlBackendMD(false),
          owner(std::move(owner)),
          key(std::move(key)) {}

    const std::shared_ptr<Endpoint> owner;
    const WindowKey key;
};

} // namespace nx::loopback
