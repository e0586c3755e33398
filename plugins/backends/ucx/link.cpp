// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/link.h"

#include <algorithm>
#include <cerrno>
#include <poll.h>

#include "ucx/peer_info.h"

namespace nx::ucx {

Status
sendOffer(const Fd &link, const std::vector<std::string> &addresses) {
    const std::string bytes = encodeOffer(addresses);
    if (::send(link.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size())) return {};
    return {NIXL_ERR_BACKEND, withErrno("answering an engine of this host", errno)};
}

Result<std::vector<std::string>>
receiveOffer(const Fd &link, std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    pollfd fd{link.get(), POLLIN, 0};
    for (int ready = -1; ready <= 0;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        ready = ::poll(&fd, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
        const bool interrupted = ready < 0 && errno == EINTR;
        if (ready <= 0 && !interrupted) return {NIXL_ERR_NOT_FOUND, "its process does not answer"};
    }
    std::string bytes(kOfferBytesMax, '\0');
    const ssize_t size = ::recv(link.get(), bytes.data(), bytes.size(), 0);
    if (size <= 0) return {NIXL_ERR_NOT_FOUND, "its engine has ended"};
    bytes.resize(static_cast<size_t>(size));
    return decodeOffer(bytes);
}

} // namespace nx::ucx
