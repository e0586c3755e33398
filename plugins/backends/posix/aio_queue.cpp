// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/aio_queue.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <sys/syscall.h>
#include <unistd.h>

namespace nx::posix {

namespace {

constexpr size_t kEvents = 64; ///< per system call

uint16_t
opcodeOf(Operation::Kind kind) noexcept {
    switch (kind) {
    case Operation::Kind::kRead: return IOCB_CMD_PREADV;
    case Operation::Kind::kWrite: return IOCB_CMD_PWRITEV;
    case Operation::Kind::kSync: return IOCB_CMD_FDSYNC;
    case Operation::Kind::kSyncFolder: return IOCB_CMD_FSYNC;
    }
    return IOCB_CMD_NOOP;
}

bool
syncs(const Operation &operation) noexcept {
    return operation.kind == Operation::Kind::kSync || operation.kind == Operation::Kind::kSyncFolder;
}

} // namespace

Result<std::unique_ptr<Queue>>
AioQueue::create(unsigned depth) {
    auto wake = WakeFd::create();
    if (!wake.ok()) return std::move(wake).status();
    std::unique_ptr<AioQueue> queue(new AioQueue(depth, *std::move(wake)));
    if (::syscall(SYS_io_setup, depth, &queue->context_) != 0) {
        const int error = errno;
        return {NIXL_ERR_BACKEND,
                withErrno("Linux AIO: io_setup for " + std::to_string(depth) + " operations", error) +
                    (error == EAGAIN ? "; fs.aio-max-nr is used up" : "; the kernel does not allow it")};
    }
    return std::unique_ptr<Queue>(std::move(queue));
}

AioQueue::AioQueue(unsigned depth, WakeFd wake) : wake_(std::move(wake)), blocks_(depth) {
    done_.reserve(depth);
}

AioQueue::~AioQueue() {
    if (context_) ::syscall(SYS_io_destroy, context_); // waits
}

size_t
AioQueue::submit(std::span<const Operation> operations) noexcept {
    std::array<iocb *, kEvents> pointers;
    const size_t count = std::min({operations.size(), pointers.size(), blocks_.size() - in_flight_});
    for (size_t i = 0; i < count; ++i) {
        const Operation &operation = operations[i];
        iocb &block = blocks_[operation.tag];
        block = {};
        block.aio_data = operation.tag;
        block.aio_lio_opcode = opcodeOf(operation.kind);
        block.aio_fildes = static_cast<uint32_t>(operation.fd);
        if (!syncs(operation)) {
            block.aio_buf = reinterpret_cast<uint64_t>(operation.vectors);
            block.aio_nbytes = operation.vector_count;
            block.aio_offset = static_cast<int64_t>(operation.offset);
        }
        block.aio_flags = IOCB_FLAG_RESFD;
        block.aio_resfd = static_cast<uint32_t>(wake_.get());
        pointers[i] = &block;
    }
    size_t taken = 0;
    while (taken < count) {
        const long submitted = ::syscall(SYS_io_submit, context_, count - taken, &pointers[taken]);
        const int error = errno;
        if (submitted > 0) {
            taken += static_cast<size_t>(submitted);
            continue;
        }
        if (submitted == 0 || error == EAGAIN) break;
        if (error == EINTR) continue;
        // It is about the first of them.
        const Operation &operation = operations[taken++];
        int64_t result = -error;
        if (error == EINVAL && syncs(operation)) result = perform(operation); // not every file system has it
        done_.push_back({operation.tag, result});
    }
    in_flight_ += taken;
    return taken;
}

/// What the kernel has completed.
void
AioQueue::collect() noexcept {
    std::array<io_event, kEvents> events;
    while (in_flight_ > done_.size()) {
        timespec now{};
        const long count = ::syscall(SYS_io_getevents, context_, 0L, events.size(), events.data(), &now);
        for (long i = 0; i < count; ++i) {
            const io_event &event = events[static_cast<size_t>(i)];
            done_.push_back({event.data, event.res});
        }
        if (count < static_cast<long>(events.size())) return;
    }
}

size_t
AioQueue::reap(std::span<Completion> completions) noexcept {
    if (done_.empty()) collect();
    const size_t count = std::min(completions.size(), done_.size());
    for (size_t i = 0; i < count; ++i) {
        completions[i] = done_.back();
        done_.pop_back();
    }
    in_flight_ -= count;
    return count;
}

bool
AioQueue::arm() noexcept {
    wake_.drain();
    collect(); // what completes from here on makes it readable
    return done_.empty();
}

} // namespace nx::posix
