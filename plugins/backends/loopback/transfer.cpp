// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "loopback/transfer.h"

#include <algorithm>
#include <new>

#include "wire/notification.h"

namespace nx::loopback {

Transfer::Transfer(const nixlx::Plan &plan, std::shared_ptr<Endpoint> sender, std::shared_ptr<Endpoint> peer)
    : plan_(plan),
      sender_(std::move(sender)),
      peer_(std::move(peer)),
      windows_(plan.runs.size()) {}

nixl_status_t
Transfer::post(const std::string *notification) {
    waits_for_inbox_ = false;
    run_ = block_ = offset_ = 0;
    begin();
    return enter([&] {
        const nixl_status_t opened = open(notification);
        return opened == NIXL_SUCCESS ? step() : opened;
    });
}

nixl_status_t
Transfer::advance() {
    return enter([this] { return step(); });
}

template<class Transition>
nixl_status_t
Transfer::enter(Transition transition) noexcept {
    nixl_status_t status;
    try {
        status = transition();
    }
    catch (const std::bad_alloc &) {
        status = fail(NIXL_ERR_NO_MEMORY, "out of memory"); // short enough to need none
    }
    if (status == NIXL_IN_PROG) return status;
    kit::Bell &bell = sender_->bell(); // the transfer may be gone once it is final
    status = finish(status == NIXL_SUCCESS);
    bell.ring();
    return status;
}

nixl_status_t
Transfer::open(const std::string *notification) {
    if (notification) {
        if (const auto status = wire::checkNotification(*notification); !status.ok()) {
            return fail(status.code(), status.message());
        }
    }
    has_notification_ = notification;
    if (notification) notification_ = *notification;
    if (!peer_->alive()) return fail(NIXL_ERR_REMOTE_DISCONNECT, "agent " + quoted(peer_->agent()) + " is gone");
    for (size_t i = 0; i < windows_.size(); ++i) {
        const nixlx::Run &run = plan_.runs[i];
        Pair &windows = windows_[i];
        windows.local = static_cast<LocalMemory *>(plan_.local_segments[run.local_segment].metadata)->window;
        if (i > 0 && run.remote_segment == plan_.runs[i - 1].remote_segment) {
            windows.remote = windows_[i - 1].remote;
            continue;
        }
        const auto &memory = *static_cast<RemoteMemory *>(plan_.remote_segments[run.remote_segment].metadata);
        windows.remote = memory.owner->find(memory.key);
        if (!windows.remote) {
            return fail(NIXL_ERR_NOT_FOUND,
                        "agent " + quoted(peer_->agent()) + " has no registration of " + toString(memory.key) +
                            " any more; load its new metadata");
        }
    }
    return NIXL_SUCCESS;
}

nixl_status_t
Transfer::step() {
    if (stopping()) return NIXL_ERR_CANCELED;
    const nixl_status_t moved = moveSlice();
    return moved == NIXL_SUCCESS ? deliver() : moved;
}

nixl_status_t
Transfer::moveSlice() {
    uint64_t bytes_left = kSliceBytes;
    uint64_t blocks_left = kSliceBlocks;
    for (; run_ < plan_.runs.size(); ++run_, block_ = 0) {
        const nixlx::Run &run = plan_.runs[run_];
        Window &local = *windows_[run_].local;
        Window &remote = *windows_[run_].remote;
        const Window::Pin local_pin(local), remote_pin(remote);
        if (!local_pin) return refuse(local, true);
        if (!remote_pin) return refuse(remote, false);

        for (; block_ < run.count; ++block_, offset_ = 0) {
            if (!bytes_left || !blocks_left) return NIXL_IN_PROG;
            const uint64_t local_address = run.local + block_ * run.local_stride;
            const uint64_t remote_address = run.remote + block_ * run.remote_stride;
            if (!local.contains(local_address, run.length)) return refuse(local, true);
            if (!remote.contains(remote_address, run.length)) return refuse(remote, false);

            const uint64_t part = std::min(run.length - offset_, bytes_left);
            const Status copied = plan_.operation == NIXL_READ
                ? Window::copy(remote, remote_address + offset_, local, local_address + offset_, part)
                : Window::copy(local, local_address + offset_, remote, remote_address + offset_, part);
            if (!copied.ok()) return fail(copied.code(), copied.message());
            moved(part);
            offset_ += part;
            bytes_left -= part;
            --blocks_left;
            if (offset_ < run.length) return NIXL_IN_PROG;
        }
    }
    return NIXL_SUCCESS;
}

nixl_status_t
Transfer::deliver() {
    if (!has_notification_) return NIXL_SUCCESS;
    const nixl_status_t delivered = peer_->deliverOrTell(sender_, notification_);
    waits_for_inbox_ = delivered == NIXL_IN_PROG;
    if (delivered == NIXL_ERR_REMOTE_DISCONNECT) {
        return fail(delivered, "agent " + quoted(peer_->agent()) + " went before it got the notification");
    }
    return delivered;
}

nixl_status_t
Transfer::refuse(const Window &window, bool local) {
    if (!local && !peer_->alive()) {
        return fail(NIXL_ERR_REMOTE_DISCONNECT, "agent " + quoted(peer_->agent()) + " went during the transfer");
    }
    const nixlx::Run &run = plan_.runs[run_];
    const uint64_t address = local ? run.local + block_ * run.local_stride : run.remote + block_ * run.remote_stride;
    const WindowKey range{window.key().memory, window.key().device_id, address, run.length, window.key().name};
    const bool ended = window.contains(address, run.length);
    return fail(ended ? NIXL_ERR_NOT_FOUND : NIXL_ERR_NOT_ALLOWED,
                (local ? "this agent" : "agent " + quoted(peer_->agent())) + " refused access to " + toString(range) +
                    ": its registration " + toString(window.key()) + (ended ? " has ended" : " does not contain it"));
}

Progress::Progress() : thread_("nixl-loopback", [this] { run(); }) {}

Progress::~Progress() {
    {
        const MutexLock lock(mutex_);
        stopping_ = true;
    }
    wake_.notifyOne();
    thread_.join();
}

void
Progress::add(Transfer &transfer) {
    {
        const MutexLock lock(mutex_);
        appendLocked(transfer);
        fruitless_ = 0;
    }
    wake_.notifyOne();
}

void
Progress::look() {
    {
        const MutexLock lock(mutex_);
        fruitless_ = 0;
    }
    wake_.notifyOne();
}

void
Progress::appendLocked(Transfer &transfer) {
    transfer.next = nullptr;
    (last_ ? last_->next : first_) = &transfer;
    last_ = &transfer;
    ++length_;
}

void
Progress::run() {
    while (Transfer *const transfer = takeNext()) {
        const bool finished = transfer->advance() != NIXL_IN_PROG;
        const bool waits = !finished && transfer->waitsForInbox();
        const MutexLock lock(mutex_);
        fruitless_ = waits ? fruitless_ + 1 : 0;
        if (!finished) appendLocked(*transfer);
    }
}

Transfer *
Progress::takeNext() {
    const MutexLock lock(mutex_);
    // More turns than transfers: since the last call of look() each of them has had one, whatever was on at that time.
    while (!stopping_ && (!first_ || fruitless_ > length_)) wake_.wait(mutex_);
    if (stopping_) return nullptr;
    Transfer *const transfer = first_;
    first_ = transfer->next;
    if (!first_) last_ = nullptr;
    --length_;
    return transfer;
}

} // namespace nx::loopback
