// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/tcp_probe.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ifaddrs.h>
#include <memory>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <set>

#include "base/fd.h"

namespace nx::ucx {

namespace {

using Clock = std::chrono::steady_clock;

// A round trip, and some patience with a busy host.
constexpr std::chrono::milliseconds kLimit{150};
// A network that is so much slower than another is no loss, and many peers may have a silent one.
constexpr std::chrono::milliseconds kLimitAfterAnother{20};

/// The ports may differ.
bool
sameHost(const sockaddr &one, const sockaddr_storage &other) {
    if (one.sa_family != other.ss_family) return false;
    if (one.sa_family == AF_INET) {
        return reinterpret_cast<const sockaddr_in &>(one).sin_addr.s_addr ==
            reinterpret_cast<const sockaddr_in &>(other).sin_addr.s_addr;
    }
    return one.sa_family == AF_INET6 &&
        std::memcmp(&reinterpret_cast<const sockaddr_in6 &>(one).sin6_addr,
                    &reinterpret_cast<const sockaddr_in6 &>(other).sin6_addr, sizeof(in6_addr)) == 0;
}

/// A connection that is being made to each listener.
class Attempts {
public:
    explicit Attempts(const std::vector<TcpListener> &listeners) {
        for (const auto &[at, ambiguous] : listeners) {
            sockets_.emplace_back(::socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            const int socket = sockets_.back().get();
            const bool taken =
                socket >= 0 && ::connect(socket, reinterpret_cast<const sockaddr *>(&at), sizeof at) == 0;
            outcomes_.push_back(taken ? 0 : errno);
        }
    }

    /// Of each: 0 (it took the connection), an errno, or EINPROGRESS while it has not answered.
    const std::vector<int> &
    outcomes() const noexcept {
        return outcomes_;
    }

    bool
    isWaiting() const {
        return std::find(outcomes_.begin(), outcomes_.end(), EINPROGRESS) != outcomes_.end();
    }

    /// For the next answer. False: none until then.
    bool
    wait(Clock::time_point deadline) {
        std::vector<pollfd> waiting;
        for (size_t i = 0; i < sockets_.size(); ++i) {
            waiting.push_back({outcomes_[i] == EINPROGRESS ? sockets_[i].get() : -1, POLLOUT, 0}); // -1: passed over
        }
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
        const int ready = ::poll(waiting.data(), waiting.size(), static_cast<int>(std::max<int64_t>(left.count(), 0)));
        if (ready <= 0) return ready < 0 && errno == EINTR;
        for (size_t i = 0; i < sockets_.size(); ++i) {
            if (waiting[i].revents != 0) outcomes_[i] = outcomeOf(sockets_[i].get());
        }
        return true;
    }

    /// Where it connects from.
    sockaddr_storage
    source(size_t index) const {
        sockaddr_storage source{};
        socklen_t size = sizeof source;
        ::getsockname(sockets_[index].get(), reinterpret_cast<sockaddr *>(&source), &size);
        return source;
    }

private:
    static int
    outcomeOf(int socket) {
        int error = 0;
        socklen_t size = sizeof error;
        return ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
    }

    std::vector<Fd> sockets_;
    std::vector<int> outcomes_;
};

} // namespace

Status
probeListeners(std::vector<TcpListener> listeners) {
    std::erase_if(listeners, [](const TcpListener &listener) { return listener.ambiguous; });
    if (listeners.empty()) return {};
    Attempts attempts(listeners);
    const auto refuses = [](int outcome) { return outcome == ECONNREFUSED; };
    const auto mayRefuse = [](int outcome) { return outcome == ECONNREFUSED || outcome == EINPROGRESS; };
    const auto all = [&](auto is) { return std::all_of(attempts.outcomes().begin(), attempts.outcomes().end(), is); };
    const auto deadline = Clock::now() + kLimit;
    while (attempts.isWaiting() && all(mayRefuse) && attempts.wait(deadline)) {}
    if (!all(refuses)) return {};
    return {NIXL_ERR_BACKEND, "its process has ended: nothing listens at " + textOf(listeners) + " any more"};
}

TcpPaths
tryPaths(const std::vector<TcpListener> &listeners) {
    TcpPaths paths;
    if (listeners.empty()) return paths;
    Attempts attempts(listeners);
    const auto usable = [&](size_t i) { return attempts.outcomes()[i] == 0 && !listeners[i].ambiguous; };
    bool any_usable = false;
    auto deadline = Clock::now() + kLimit;
    do {
        for (size_t i = 0; !any_usable && i < listeners.size(); ++i) {
            if (!usable(i)) continue;
            any_usable = true;
            deadline = std::min(deadline, Clock::now() + kLimitAfterAnother);
        }
    } while (attempts.isWaiting() && attempts.wait(deadline));
    for (size_t i = 0; any_usable && i < listeners.size(); ++i) {
        usable(i) ? paths.sources.push_back(attempts.source(i)) : paths.unusable.push_back(listeners[i]);
    }
    return paths;
}

std::vector<std::string>
devicesToUse(const std::vector<TcpListener> &own, const std::vector<sockaddr_storage> &sources) {
    ifaddrs *list = nullptr;
    if (::getifaddrs(&list) != 0) return {};
    const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> interfaces(list, &::freeifaddrs);
    std::set<std::string> others, used; // by name, since a device can have several addresses
    for (const ifaddrs *each = list; each; each = each->ifa_next) {
        if (!each->ifa_addr) continue;
        const auto isThis = [&](const sockaddr_storage &at) { return sameHost(*each->ifa_addr, at); };
        if (std::any_of(sources.begin(), sources.end(), isThis)) used.insert(each->ifa_name);
        const bool is_own = std::any_of(own.begin(), own.end(), [&](const auto &mine) { return isThis(mine.at); });
        if (is_own && !(each->ifa_flags & IFF_LOOPBACK)) others.insert(each->ifa_name);
    }
    std::erase_if(used, [&](const std::string &name) { return others.erase(name) == 0; });
    if (others.empty()) return {};
    return {used.begin(), used.end()};
}

} // namespace nx::ucx
