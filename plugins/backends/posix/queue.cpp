// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/queue.h"

#include <cerrno>
#include <stdexcept>
#include <sys/epoll.h>
#include <unistd.h>

namespace nx::posix {

int64_t
perform(const Operation &operation) noexcept {
    const auto offset = static_cast<off_t>(operation.offset);
    const auto count = static_cast<int>(operation.vector_count);
    ssize_t result = 0;
    switch (operation.kind) {
    case Operation::Kind::kRead: result = ::preadv(operation.fd, operation.vectors, count, offset); break;
    case Operation::Kind::kWrite: result = ::pwritev(operation.fd, operation.vectors, count, offset); break;
    case Operation::Kind::kSync: result = ::fdatasync(operation.fd); break;
    case Operation::Kind::kSyncFolder: result = ::fsync(operation.fd); break;
    }
    return result < 0 ? -errno : result;
}

Fd
either(int first, int second) {
    Fd both(::epoll_create1(EPOLL_CLOEXEC));
    bool added = static_cast<bool>(both);
    for (const int fd : {first, second}) {
        epoll_event event{.events = EPOLLIN, .data = {}};
        added = added && ::epoll_ctl(both.get(), EPOLL_CTL_ADD, fd, &event) == 0;
    }
    if (!added) throw std::runtime_error(withErrno("epoll", errno));
    return both;
}

} // namespace nx::posix
