// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "loopback/memory.h"

#include <algorithm>
#include <cstring>

namespace nx::loopback {

bool
isStorage(nixl_mem_t memory) noexcept {
    return memory == BLK_SEG || memory == OBJ_SEG || memory == FILE_SEG;
}

Status
Store::write(uint64_t offset, const std::byte *from, uint64_t length) {
    const MutexLock lock(mutex_);
    for (uint64_t done = 0; done < length;) {
        const uint64_t at = offset + done;
        auto found = pages_.find(at / kPageBytes);
        if (found == pages_.end()) {
            if ((pages_.size() + 1) * kPageBytes > kStoreBytesMax) {
                return {NIXL_ERR_NO_MEMORY,
                        "store " + quoted(name_) + " is full: it holds at most " + std::to_string(kStoreBytesMax) +
                            " bytes"};
            }
            found = pages_.emplace(at / kPageBytes, std::make_unique<Page>()).first;
        }
        const uint64_t part = std::min(length - done, kPageBytes - at % kPageBytes);
        std::memcpy(found->second->data() + at % kPageBytes, from + done, part);
        done += part;
    }
    if (length) size_ = std::max(size_, offset + length);
    return {};
}

Status
Store::read(uint64_t offset, std::byte *to, uint64_t length) const {
    const MutexLock lock(mutex_);
    if (memory_ != BLK_SEG && offset + length > size_) {
        return {NIXL_ERR_BACKEND,
                "store " + quoted(name_) + " holds " + std::to_string(size_) + " bytes; a read of " +
                    std::to_string(length) + " at " + std::to_string(offset) + " passes its end"};
    }
    for (uint64_t done = 0; done < length;) {
        const uint64_t at = offset + done;
        const uint64_t part = std::min(length - done, kPageBytes - at % kPageBytes);
        const auto found = pages_.find(at / kPageBytes);
        if (found == pages_.end()) {
            std::memset(to + done, 0, part);
        } else {
            std::memcpy(to + done, found->second->data() + at % kPageBytes, part);
        }
        done += part;
    }
    return {};
}

uint64_t
Store::size() const {
    const MutexLock lock(mutex_);
    return size_;
}

WindowKey
windowKey(const nixlBasicDesc &range, nixl_mem_t memory, const std::string &name) {
    WindowKey key{memory, range.devId, range.addr, range.len, {}};
    if (isStorage(memory)) {
        key.name = name;
        if (key.length == 0) key.length = UINT64_MAX;
        // So that no offset of the window can wrap around.
        key.length = std::min<uint64_t>(key.length, UINT64_MAX - key.address);
    }
    return key;
}

std::string
toString(const WindowKey &key) {
    char address[32];
    std::snprintf(address, sizeof(address), "0x%llx", static_cast<unsigned long long>(key.address));
    return nixlEnumStrings::memTypeStr(key.memory) + " " + address + " + " + std::to_string(key.length) + ", device " +
        std::to_string(key.device_id) + (key.name.empty() ? "" : ", name " + quoted(key.name));
}

void
Window::close() noexcept {
    uint32_t state = state_.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed;
    while (state != kClosed) {
        state_.wait(state, std::memory_order_acquire);
        state = state_.load(std::memory_order_acquire);
    }
}

void
Window::leave() noexcept {
    if (state_.fetch_sub(2, std::memory_order_acq_rel) == (2 | kClosed)) state_.notify_all();
}

Status
Window::copy(const Window &from, uint64_t from_address, const Window &to, uint64_t to_address, uint64_t length) {
    if (!from.store_ && !to.store_) {
        // Not memcpy: an agent may move data within one buffer.
        if (length) std::memmove(to.memory(to_address), from.memory(from_address), length);
        return {};
    }
    if (!from.store_) return to.store_->write(to_address, from.memory(from_address), length);
    if (!to.store_) return from.store_->read(from_address, to.memory(to_address), length);
    std::array<std::byte, 16 << 10> bounce;
    for (uint64_t done = 0; done < length;) {
        const uint64_t part = std::min<uint64_t>(length - done, bounce.size());
        if (Status status = from.store_->read(from_address + done, bounce.data(), part); !status.ok()) return status;
        if (Status status = to.store_->write(to_address + done, bounce.data(), part); !status.ok()) return status;
        done += part;
    }
    return {};
}

} // namespace nx::loopback
