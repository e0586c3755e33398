// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/inlet.h"

#include <cstring>
#include <new>

#include "shm/outbox.h"
#include "wire/limits.h"

namespace nx::shm {

namespace {

constexpr size_t kAtOnce = 256;                  // messages of one look
constexpr size_t kPartsAtOnce = size_t{1} << 20; // how far a peer's word about a size is believed in advance

} // namespace

Inlet::Taken
Inlet::take() {
    Taken taken;
    if (!mutex_.try_lock()) return taken; // somebody is at it
    const MutexLock lock(mutex_, std::adopt_lock);
    size_t count = 0;
    try {
        for (; count < kAtOnce && !broken_; ++count) {
            uint8_t kind = 0;
            const auto next = ring_.next(kind, body_);
            if (next == RingReader::Next::kNone) return taken;
            if (next == RingReader::Next::kBroken) {
                broken_ = true;
            } else if (handleLocked(kind, body_, taken)) {
                ring_.pop();
            } else if (!broken_) {
                taken.stalled = true;
                return taken;
            }
        }
    }
    catch (const std::bad_alloc &) {
        if (count == 0) throw; // else what was taken so far must be told of
    }
    taken.broken = broken_;
    taken.more = !broken_;
    return taken;
}

bool
Inlet::handleLocked(uint8_t kind, std::string &body, Taken &taken) {
    switch (static_cast<Record>(kind)) {
    case Record::kNote:
        if (parts_size_) return refuseLocked();
        return deliverLocked(body, taken);
    case Record::kFirst: {
        uint64_t size = 0;
        if (parts_size_ || body.size() <= sizeof size) return refuseLocked();
        std::memcpy(&size, body.data(), sizeof size);
        if (size > wire::kNotificationBytesMax || size <= body.size() - sizeof size) return refuseLocked();
        parts_.reserve(std::min<size_t>(size, kPartsAtOnce));
        parts_.assign(body, sizeof size);
        parts_size_ = size;
        return true;
    }
    case Record::kMore:
    case Record::kLast: {
        const bool last = static_cast<Record>(kind) == Record::kLast;
        // The last part was added before, if the inbox had no place for the whole then.
        if (!parts_size_) return refuseLocked();
        if (parts_.size() < *parts_size_) {
            if (body.empty() || body.size() > *parts_size_ - parts_.size()) return refuseLocked();
            if (last != (body.size() == *parts_size_ - parts_.size())) return refuseLocked();
            parts_.append(body);
        }
        if (!last) return true;
        if (!deliverLocked(parts_, taken)) return false;
        parts_size_.reset();
        parts_ = {};
        return true;
    }
    case Record::kDrop:
        parts_size_.reset();
        parts_ = {};
        return true;
    case Record::kAsk:
        if (parts_size_) return refuseLocked();
        taken.answer |= inbox_.ask(sender_, question_);
        return true;
    case Record::kAnswer: taken.answered = true; return true;
    }
    return refuseLocked();
}

bool
Inlet::refuseLocked() noexcept {
    broken_ = true;
    return false;
}

bool
Inlet::deliverLocked(std::string &message, Taken &taken) {
    // put() takes it by value: a refused message must still be there.
    if (!inbox_.put(sender_, message)) return false;
    taken.arrived = true;
    return true;
}

bool
Inlet::arm() noexcept {
    const MutexLock lock(mutex_);
    return ring_.arm();
}

void
Inlet::disarm() noexcept {
    const MutexLock lock(mutex_);
    ring_.disarm();
}

} // namespace nx::shm
