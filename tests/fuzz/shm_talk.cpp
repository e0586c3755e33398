// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a peer of SHM says over its socket, behind a byte that says how many descriptors come along: what is no message
// is refused with a sentence, what is one is encoded to the same bytes again, and no descriptor is left open.
#include "shm/talk.h"

#include <cstring>
#include <unistd.h>

#include "fuzz/invariant.h"
#include "wire/limits.h"

namespace {

using namespace nx::shm;

constexpr size_t kDescriptorsMax = 3;

/// The number that the next descriptor would have.
int
nextDescriptor() {
    const int fd = ::dup(STDERR_FILENO);
    NX_INVARIANT(fd >= 0);
    ::close(fd);
    return fd;
}

void
say(const nx::Fd &socket, std::string_view bytes, size_t count) {
    iovec piece{const_cast<char *>(bytes.data()), bytes.size()};
    alignas(cmsghdr) char room[CMSG_SPACE(kDescriptorsMax * sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    if (count > 0) {
        header.msg_control = room;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        cmsghdr *const control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(count * sizeof(int));
        for (size_t i = 0; i < count; ++i) {
            const int fd = STDERR_FILENO;
            std::memcpy(CMSG_DATA(control) + i * sizeof fd, &fd, sizeof fd);
        }
    }
    NX_INVARIANT(::sendmsg(socket.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2 || size > 1 << 16) return 0;
    const size_t count = data[0] % (kDescriptorsMax + 1);
    const std::string_view bytes = nx::fuzz::text(data + 1, size - 1);

    const auto decoded = decode(bytes);
    if (decoded.ok()) {
        NX_INVARIANT(encode(*decoded) == bytes);
        NX_INVARIANT(decoded->agent.size() <= nx::wire::kNameBytesMax);
        NX_INVARIANT(decoded->type != Message::Type::kHello ||
                     nx::kit::checkLocalName(kSockets, decoded->listener).ok());
    } else {
        NX_INVARIANT(decoded.code() == NIXL_ERR_MISMATCH);
        NX_INVARIANT(!decoded.message().empty() && decoded.message().size() < 1000);
    }

    int fds[2];
    const int next = nextDescriptor();
    {
        NX_INVARIANT(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
        const nx::Fd here(fds[0]), there(fds[1]);
        say(there, bytes, count);
        const auto received = receive(here);
        NX_INVARIANT(!received.ok() || (*received && decoded.ok() && encode(**received) == bytes));
        NX_INVARIANT(received.ok() || received.code() != NIXL_ERR_REMOTE_DISCONNECT);
        NX_INVARIANT(received.ok() || !received.message().empty());
        if (received.ok()) {
            size_t taken = 0;
            for (const nx::Fd &fd : (*received)->descriptors) taken += static_cast<bool>(fd);
            NX_INVARIANT(taken == count && taken <= descriptorCount((*received)->type));
        }
        const auto after = receive(here);
        NX_INVARIANT(after.ok() && !*after);
    }
    NX_INVARIANT(nextDescriptor() == next);
    return 0;
}
