// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/relay.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <string>

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace nx::test {

namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr size_t kHeldMax = 64 << 10, kHeldMaxDelayed = 4 << 20;
constexpr size_t kPart = 16 << 10;
constexpr int kSocketBuffer = 64 << 10;
// Those of loopback are as large as these buffers; a window should hold many.
constexpr int kSegment = 4 << 10;
constexpr milliseconds kSaved{100};
constexpr int kSteps = 100; ///< a rate is given out in so many parts a second

sockaddr_in
loopback(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int
tcpSocket() {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // Before it connects or listens: the window is made of them.
    for (const int option : {SO_RCVBUF, SO_SNDBUF}) {
        setsockopt(fd, SOL_SOCKET, option, &kSocketBuffer, sizeof kSocketBuffer);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &kSegment, sizeof kSegment);
    return fd;
}

} // namespace

struct Relay::Line {
    struct Part {
        std::string bytes;
        Clock::time_point due;
    };

    struct Pipe {
        std::deque<Part> parts;
        size_t held = 0; ///< in the parts
        size_t sent = 0; ///< of the first part
        uint64_t passed = 0;
        bool ended = false; ///< nothing more is taken
        bool closed = false;
        short events = 0; ///< to wait for: POLLIN at its source, POLLOUT at its sink
    };

    Line(int client, int target) : ends{client, target} {
        const int on = 1;
        for (const int fd : ends) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    ~Line() {
        if (!over()) {
            const linger reset{1, 0};
            for (const int fd : ends) setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
        for (const int fd : ends) ::close(fd);
    }
    Line(const Line &) = delete;
    Line &
    operator=(const Line &) = delete;

    bool
    over() const {
        return pipes[0].closed && pipes[1].closed;
    }

    const std::array<int, 2> ends; ///< the source of each way; the other one is its sink
    std::array<Pipe, 2> pipes;
};

Relay::Relay(uint16_t target_port) : target_port_(target_port) {
    listener_ = tcpSocket();
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    auto *const generic = reinterpret_cast<sockaddr *>(&address);
    if (listener_ < 0 || wake_ < 0 || bind(listener_, generic, size) != 0 || listen(listener_, SOMAXCONN) != 0 ||
        getsockname(listener_, generic, &size) != 0) {
        const std::string why = std::strerror(errno);
        ::close(listener_);
        ::close(wake_);
        throw std::runtime_error("relay: listening on 127.0.0.1: " + why);
    }
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
}

Relay::~Relay() {
    change([this] { ending_ = true; });
    thread_.join();
    ::close(listener_);
    ::close(wake_);
}

template<class Change>
void
Relay::change(Change change) {
    {
        std::lock_guard lock(mutex_);
        change();
    }
    eventfd_write(wake_, 1);
}

void
Relay::setRate(Way way, uint64_t bytes_per_second) {
    change([&] { links_[static_cast<size_t>(way)].rate = bytes_per_second; });
}

void
Relay::setDelay(Way way, milliseconds delay) {
    change([&] { links_[static_cast<size_t>(way)].delay = delay; });
}

void
Relay::stop(Way way) {
    change([&] { links_[static_cast<size_t>(way)].stopped = true; });
}

void
Relay::goOn(Way way) {
    change([&] { links_[static_cast<size_t>(way)].stopped = false; });
}

void
Relay::stop() {
    change([&] { links_[0].stopped = links_[1].stopped = true; });
}

void
Relay::goOn() {
    change([&] { links_[0].stopped = links_[1].stopped = false; });
}

void
Relay::halfClose(Way way) {
    change([&] {
        for (auto &line : lines_) line->pipes[static_cast<size_t>(way)].ended = true;
    });
}

void
Relay::resetAt(Way way, uint64_t bytes) {
    change([&] { links_[static_cast<size_t>(way)].reset_at = bytes; });
}

uint64_t
Relay::passed(Way way) const {
    std::lock_guard lock(mutex_);
    return links_[static_cast<size_t>(way)].passed;
}

uint64_t
Relay::connections() const {
    std::lock_guard lock(mutex_);
    return connections_;
}

void
Relay::run() {
    for (;;) {
        std::vector<pollfd> fds{{wake_, POLLIN, 0}, {listener_, POLLIN, 0}};
        auto until = Clock::time_point::max();
        {
            std::lock_guard lock(mutex_);
            if (ending_) return lines_.clear();
            std::erase_if(lines_, [this](auto &line) { return !serve(*line); });
            for (const auto &line : lines_) {
                for (size_t end = 0; end < 2; ++end) {
                    const short events = static_cast<short>((line->pipes[end].events & POLLIN) |
                                                            (line->pipes[1 - end].events & POLLOUT));
                    // Without events poll would report, again and again, that the other side has closed.
                    fds.push_back({events ? line->ends[end] : -1, events, 0});
                    const auto &parts = line->pipes[end].parts;
                    if (parts.empty() || links_[end].stopped || line->pipes[end].events & POLLOUT) continue;
                    until = std::min(until, std::max(parts.front().due, links_[end].next));
                }
            }
        }
        const auto left = std::chrono::duration_cast<nanoseconds>(until - Clock::now());
        const auto whole = std::max(nanoseconds(0), left).count();
        const timespec timeout{whole / 1'000'000'000, whole % 1'000'000'000};
        ::ppoll(fds.data(), fds.size(), until == Clock::time_point::max() ? nullptr : &timeout, nullptr);
        if (eventfd_t count; fds[0].revents) eventfd_read(wake_, &count);
        if (fds[1].revents) accept();
    }
}

void
Relay::accept() {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return;
    const int target = tcpSocket();
    auto line = std::make_unique<Line>(client, target); // resets the client if the target refuses
    const sockaddr_in address = loopback(target_port_);
    // Past a detour to here.
    if (syscall(SYS_connect, target, &address, sizeof address) != 0) return;
    std::lock_guard lock(mutex_);
    lines_.push_back(std::move(line));
    ++connections_;
}

/// False: it is over.
bool
Relay::serve(Line &line) {
    return pass(line, 0) && pass(line, 1) && !line.over();
}

/// Moves what can be moved one way. False: reset it.
bool
Relay::pass(Line &line, size_t way) {
    auto &pipe = line.pipes[way];
    pipe.events = 0;
    if (!take(line, way) || !give(line, way)) return false;
    if (pipe.passed >= links_[way].reset_at) return false;
    if (hasRoom(line, way)) pipe.events |= POLLIN;
    if (pipe.ended && pipe.parts.empty() && !pipe.closed) {
        shutdown(line.ends[1 - way], SHUT_WR);
        pipe.closed = true;
    }
    return true;
}

bool
Relay::hasRoom(const Line &line, size_t way) const {
    const auto &pipe = line.pipes[way];
    return !pipe.ended && pipe.held < (links_[way].delay.count() > 0 ? kHeldMaxDelayed : kHeldMax);
}

bool
Relay::take(Line &line, size_t way) const {
    auto &pipe = line.pipes[way];
    while (hasRoom(line, way)) {
        char bytes[kPart];
        const ssize_t count = recv(line.ends[way], bytes, sizeof bytes, MSG_DONTWAIT);
        if (count < 0) return errno == EAGAIN;
        const auto size = static_cast<size_t>(count);
        pipe.ended = size == 0;
        if (size > 0) pipe.parts.push_back({{bytes, size}, Clock::now() + links_[way].delay});
        pipe.held += size;
    }
    return true;
}

bool
Relay::give(Line &line, size_t way) {
    auto &pipe = line.pipes[way];
    auto &link = links_[way];
    while (!pipe.parts.empty() && !link.stopped && pipe.passed < link.reset_at) {
        const auto now = Clock::now();
        auto &part = pipe.parts.front();
        if (now < part.due || now < link.next) return true;
        const uint64_t step = link.rate ? std::max<uint64_t>(link.rate / kSteps, 1) : UINT64_MAX;
        const uint64_t size = std::min({part.bytes.size() - pipe.sent, step, link.reset_at - pipe.passed});
        const ssize_t count =
            send(line.ends[1 - way], part.bytes.data() + pipe.sent, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0) {
            pipe.events |= POLLOUT;
            return errno == EAGAIN;
        }
        const auto sent = static_cast<size_t>(count);
        if (link.rate) {
            // What was not used, because this thread did not run, is saved up.
            link.next = std::max(link.next, now - kSaved) + nanoseconds(sent * 1'000'000'000 / link.rate);
        }
        pipe.sent += sent;
        pipe.held -= sent;
        pipe.passed += sent;
        link.passed += sent;
        if (pipe.sent < part.bytes.size()) continue;
        pipe.parts.pop_front();
        pipe.sent = 0;
    }
    return true;
}

} // namespace nx::test
