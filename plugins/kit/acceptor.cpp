// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/acceptor.h"

#include <sys/epoll.h>

#include "utils/common/nixl_log.h"

namespace nx::kit {

namespace {

constexpr auto kAgain = std::chrono::milliseconds(100);

} // namespace

void
Acceptor::start() {
    if (stopped_) return;
    // Without it peers wait for an answer in vain, and use something else.
    if (!loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { meet(); }).ok()) {
        loop_.after(kAgain, [this] { start(); });
    }
}

void
Acceptor::stop() {
    stopped_ = true;
    loop_.unwatch(listener_.get());
}

void
Acceptor::meet() {
    Status status;
    try {
        auto socket = listener_.accept();
        if (socket.ok() && *socket) met_(*std::move(socket));
        status = std::move(socket).status();
    }
    catch (const std::exception &error) {
        status = {NIXL_ERR_BACKEND, error.what()};
    }
    if (status.ok()) return;
    NIXL_INFO << owner_ << " cannot meet a peer of this host: " << status.message();
    loop_.unwatch(listener_.get());
    loop_.after(kAgain, [this] { start(); });
}

} // namespace nx::kit
