// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "tcpstore/connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

namespace nx::tcpstore {

namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;

enum Query : uint8_t { kValidate = 0, kSet = 1, kGet = 3, kCheck = 5, kDelete = 8 };

constexpr uint32_t kMagic = 0x3C85F7CE;
constexpr uint8_t kReady = 0, kNotReady = 1;
constexpr auto kResolverStep = 20ms; // an end is noticed so late while a name is looked up
constexpr size_t kPart = size_t{1} << 20;

template<class Number>
std::string
raw(Number number) {
    std::string bytes(sizeof number, '\0');
    std::memcpy(bytes.data(), &number, sizeof number);
    return bytes;
}

std::string
query(Query what) {
    return {static_cast<char>(what)};
}

/// As torch's own client writes it.
std::string
keyed(const std::string &key) {
    return raw<uint64_t>(key.size() + 1) + "/" + key;
}

std::string
checkOf(const std::string &key) {
    return query(kCheck) + raw<uint64_t>(1) + keyed(key);
}

} // namespace

/// A look-up of a name, which the C library does on a thread of its own. Given up, it stays until it is done.
struct Connection::LookUp {
    std::string host, port;
    addrinfo hints{};
    gaicb request{};

    LookUp(const Endpoint &endpoint) : host(endpoint.host), port(endpoint.port) {
        hints.ai_socktype = SOCK_STREAM;
        request.ar_name = host.c_str();
        request.ar_service = port.c_str();
        request.ar_request = &hints;
    }

    /// A numeric host is its own address: true, without waiting.
    bool
    isNumeric() {
        addrinfo numeric = hints;
        numeric.ai_flags |= AI_NUMERICHOST;
        return ::getaddrinfo(host.c_str(), port.c_str(), &numeric, &request.ar_result) == 0;
    }

    ~LookUp() {
        if (request.ar_result) ::freeaddrinfo(request.ar_result);
    }
};

Result<Endpoint>
Endpoint::parse(const std::string &text) {
    const auto colon = text.rfind(':');
    Endpoint endpoint;
    if (colon != std::string::npos) {
        endpoint.host = text.substr(0, colon);
        endpoint.port = text.substr(colon + 1);
    }
    if (endpoint.host.starts_with('[') && endpoint.host.ends_with(']')) {
        endpoint.host = endpoint.host.substr(1, endpoint.host.size() - 2);
    }
    const bool number = !endpoint.port.empty() && endpoint.port.size() <= 5 &&
        endpoint.port.find_first_not_of("0123456789") == std::string::npos;
    const auto port = number ? std::stoul(endpoint.port) : 0;
    if (port == 0 || port > 65535 || endpoint.host.empty() || endpoint.host.find('\0') != std::string::npos) {
        return {NIXL_ERR_INVALID_PARAM, quoted(text, 200) + " is no endpoint of a TCPStore; write host:port"};
    }
    return endpoint;
}

Status
Connection::broken(Status status) {
    socket_.reset();
    return std::move(status).withContext("TCPStore at " + endpoint_.host + ":" + endpoint_.port);
}

Status
Connection::await(int socket, short events, Time deadline) {
    for (;;) {
        const auto left = std::chrono::ceil<milliseconds>(std::min(deadline, end_.load()) - Clock::now()).count();
        if (left <= 0) return {NIXL_ERR_TIMEOUT, "it did not answer in time"};
        pollfd fds[] = {{socket, events, 0}, {wake_.get(), POLLIN, 0}};
        const int ready = ::poll(fds, 2, static_cast<int>(std::min<int64_t>(left, 60'000)));
        if (ready < 0 && errno != EINTR) return {NIXL_ERR_BACKEND, withErrno("poll", errno)};
        if (fds[1].revents) wake_.drain();
        if (fds[0].revents) return {};
    }
}

/// By the library's own threads.
Status
Connection::find(std::unique_ptr<LookUp> &look_up, Time deadline) {
    gaicb *list[] = {&look_up->request};
    if (const int error = ::getaddrinfo_a(GAI_NOWAIT, list, 1, nullptr)) {
        return {NIXL_ERR_BACKEND, std::string("looking up the name: ") + ::gai_strerror(error)};
    }
    while (::gai_error(list[0]) == EAI_INPROGRESS) {
        if (Clock::now() >= std::min(deadline, end_.load())) {
            if (::gai_cancel(list[0]) != EAI_CANCELED)
                static_cast<void>(look_up.release()); // the library still uses it
            return {NIXL_ERR_TIMEOUT, "its name was not found in time"};
        }
        const timespec step{0, std::chrono::nanoseconds(kResolverStep).count()};
        ::gai_suspend(list, 1, &step);
    }
    if (const int error = ::gai_error(list[0])) {
        return {NIXL_ERR_BACKEND, std::string("its name cannot be looked up: ") + ::gai_strerror(error)};
    }
    return {};
}

Status
Connection::connect(Time deadline) {
    auto look_up = std::make_unique<LookUp>(endpoint_);
    if (!look_up->isNumeric()) {
        if (auto status = find(look_up, deadline); !status.ok()) return status;
    }
    Status last{NIXL_ERR_BACKEND, "its name has no address"};
    for (const auto *address = look_up->request.ar_result; address; address = address->ai_next) {
        Fd socket(::socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        if (!socket) return {NIXL_ERR_NO_MEMORY, withErrno("socket", errno)};
        const int on = 1;
        ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        int error = ::connect(socket.get(), address->ai_addr, address->ai_addrlen) == 0 ? 0 : errno;
        if (error == EINPROGRESS) {
            last = await(socket.get(), POLLOUT, deadline);
            if (!last.ok()) return last;
            socklen_t size = sizeof error;
            ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
        }
        if (error == 0) {
            socket_ = std::move(socket);
            return {};
        }
        last = {NIXL_ERR_BACKEND, withErrno("connect", error)};
    }
    return last;
}

Status
Connection::open(Time deadline) {
    if (auto status = connect(deadline); !status.ok()) return broken(std::move(status));
    // A store that does not know the first says nothing, and one of torch 2.2 to 2.4 does not know PING.
    if (auto status = send(query(kValidate) + raw(kMagic), {}, deadline); !status.ok()) return status;
    auto answers = has("nixl/is there a store", deadline);
    if (answers.ok()) return {};
    return std::move(answers).status().withContext("is it the store of torch 2.2 or newer?");
}

Status
Connection::send(std::string_view head, std::string_view body, Time deadline) {
    for (auto bytes : {head, body}) {
        while (!bytes.empty()) {
            const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent >= 0) {
                bytes.remove_prefix(static_cast<size_t>(sent));
            } else if (errno == EAGAIN) {
                if (auto status = await(socket_.get(), POLLOUT, deadline); !status.ok())
                    return broken(std::move(status));
            } else if (errno != EINTR) {
                return broken({NIXL_ERR_BACKEND, withErrno("send", errno)});
            }
        }
    }
    return {};
}

Status
Connection::receive(void *bytes, size_t count, Time deadline) {
    for (size_t done = 0; done < count;) {
        const ssize_t got = ::recv(socket_.get(), static_cast<char *>(bytes) + done, count - done, 0);
        if (got > 0) {
            done += static_cast<size_t>(got);
        } else if (got == 0) {
            return broken({NIXL_ERR_BACKEND, "it closed the connection"});
        } else if (errno == EAGAIN) {
            if (auto status = await(socket_.get(), POLLIN, deadline); !status.ok()) return broken(std::move(status));
        } else if (errno != EINTR) {
            return broken({NIXL_ERR_BACKEND, withErrno("receive", errno)});
        }
    }
    return {};
}

Status
Connection::set(const std::string &key, std::string_view value, Time deadline) {
    const auto head = query(kSet) + keyed(key) + raw<uint64_t>(value.size());
    if (auto status = send(head, value, deadline); !status.ok()) return status;
    // It is not answered.
    auto there = has(key, deadline);
    if (!there.ok()) return std::move(there).status();
    return *there ? Status() : broken({NIXL_ERR_BACKEND, "it does not have what it was given"});
}

Result<bool>
Connection::has(const std::string &key, Time deadline) {
    uint8_t answer = 0;
    if (auto status = send(checkOf(key), {}, deadline); !status.ok()) return status;
    if (auto status = receive(&answer, sizeof answer, deadline); !status.ok()) return status;
    if (answer == kReady || answer == kNotReady) return answer == kReady;
    return broken({NIXL_ERR_MISMATCH, "its answer is not a TCPStore's"});
}

Result<std::string>
Connection::get(const std::string &key, size_t bytes_max, Time deadline) {
    uint64_t size = 0;
    if (auto status = send(query(kGet) + keyed(key), {}, deadline); !status.ok()) return status;
    if (auto status = receive(&size, sizeof size, deadline); !status.ok()) return status;
    if (size > bytes_max) {
        return broken({NIXL_ERR_MISMATCH,
                       "it has " + std::to_string(size) + " bytes there, more than " + std::to_string(bytes_max)});
    }
    std::string value;
    while (value.size() < size) { // memory for what comes, not for what is promised
        const auto before = value.size();
        value.resize(before + std::min<size_t>(kPart, size - before));
        if (auto status = receive(value.data() + before, value.size() - before, deadline); !status.ok()) return status;
    }
    return value;
}

Status
Connection::remove(const std::string &key, Time deadline) {
    int64_t count = 0;
    if (auto status = send(query(kDelete) + keyed(key), {}, deadline); !status.ok()) return status;
    return receive(&count, sizeof count, deadline);
}

} // namespace nx::tcpstore
