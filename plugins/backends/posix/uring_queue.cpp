// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/uring_queue.h"

#include <cerrno>

namespace nx::posix {

namespace {

Status
refused(const std::string &what, int error) {
    return {NIXL_ERR_BACKEND,
            withErrno("io_uring: " + what, error) +
                "; the kernel, or what this program is confined by (a container's seccomp profile, "
                "kernel.io_uring_disabled), does not allow it"};
}

} // namespace

Result<std::unique_ptr<Queue>>
UringQueue::create(unsigned depth) {
    std::unique_ptr<UringQueue> queue(new UringQueue);
    if (Status status = queue->open(depth); !status.ok()) return status;
    if (Status status = queue->tryIt(); !status.ok()) return status;
    return std::unique_ptr<Queue>(std::move(queue));
}

Status
UringQueue::open(unsigned depth) {
    int error = -io_uring_queue_init(depth, &ring_, IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL);
    if (error == EINVAL) error = -io_uring_queue_init(depth, &ring_, IORING_SETUP_CLAMP); // before Linux 5.18
    if (error) return refused("io_uring_setup", error);
    is_open_ = true;
    depth_ = std::min(depth, ring_.sq.ring_entries);
    io_uring_ring_dontfork(&ring_); // a child of fork has no part in it
    return {};
}

/// Setting up may be allowed and entering not; an old kernel may not know an operation.
Status
UringQueue::tryIt() {
    io_uring_probe *const probe = io_uring_get_probe_ring(&ring_);
    if (!probe) return refused("asking for its operations", ENOSYS);
    bool known = true;
    for (const int operation : {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC}) {
        known = known && io_uring_opcode_supported(probe, operation);
    }
    io_uring_free_probe(probe);
    if (!known) return refused("its operations on files", EOPNOTSUPP);
    io_uring_prep_nop(io_uring_get_sqe(&ring_));
    if (const int entered = io_uring_submit_and_wait(&ring_, 1); entered < 0)
        return refused("io_uring_enter", -entered);
    io_uring_cqe *done = nullptr;
    if (const int error = io_uring_peek_cqe(&ring_, &done)) return refused("io_uring_enter", -error);
    io_uring_cqe_seen(&ring_, done);
    return {};
}

UringQueue::~UringQueue() {
    if (!is_open_) return;
    while (in_flight_ > 0) {
        flush();
        io_uring_cqe *done = nullptr;
        if (io_uring_wait_cqe(&ring_, &done) != 0) continue;
        io_uring_cqe_seen(&ring_, done);
        --in_flight_;
    }
    io_uring_queue_exit(&ring_);
}

size_t
UringQueue::submit(std::span<const Operation> operations) noexcept {
    size_t taken = 0;
    for (const Operation &operation : operations) {
        io_uring_sqe *const entry = in_flight_ < depth_ ? io_uring_get_sqe(&ring_) : nullptr;
        if (!entry) break;
        const iovec *const vectors = operation.vectors;
        // Of one vector there is nothing to be copied into the kernel.
        const bool single = operation.vector_count == 1;
        const auto length = single ? static_cast<unsigned>(vectors->iov_len) : 0;
        switch (operation.kind) {
        case Operation::Kind::kRead:
            if (single) io_uring_prep_read(entry, operation.fd, vectors->iov_base, length, operation.offset);
            else io_uring_prep_readv(entry, operation.fd, vectors, operation.vector_count, operation.offset);
            break;
        case Operation::Kind::kWrite:
            if (single) io_uring_prep_write(entry, operation.fd, vectors->iov_base, length, operation.offset);
            else io_uring_prep_writev(entry, operation.fd, vectors, operation.vector_count, operation.offset);
            break;
        case Operation::Kind::kSync: io_uring_prep_fsync(entry, operation.fd, IORING_FSYNC_DATASYNC); break;
        case Operation::Kind::kSyncFolder: io_uring_prep_fsync(entry, operation.fd, 0); break;
        }
        io_uring_sqe_set_data64(entry, operation.tag);
        ++in_flight_, ++unsubmitted_, ++taken;
    }
    flush();
    return taken;
}

/// What the kernel does not take now, because it is short of memory or its completions are full, it takes later.
void
UringQueue::flush() noexcept {
    while (unsubmitted_ > 0) {
        const int submitted = io_uring_submit(&ring_);
        if (submitted == -EINTR) continue;
        if (submitted <= 0) return;
        unsubmitted_ -= static_cast<size_t>(submitted);
    }
}

size_t
UringQueue::reap(std::span<Completion> completions) noexcept {
    if (unsubmitted_ > 0) flush();
    size_t count = 0;
    unsigned head;
    io_uring_cqe *done;
    io_uring_for_each_cqe(&ring_, head, done) {
        if (count == completions.size()) break;
        completions[count++] = {done->user_data, done->res};
    }
    io_uring_cq_advance(&ring_, static_cast<unsigned>(count));
    in_flight_ -= count;
    return count;
}

bool
UringQueue::arm() noexcept {
    return unsubmitted_ == 0 && io_uring_cq_ready(&ring_) == 0; // the ring itself can be polled
}

} // namespace nx::posix
