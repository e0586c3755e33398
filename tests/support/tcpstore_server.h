// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A double of the server of PyTorch's TCPStore, with what tells its two kinds apart: the one over libuv (torch's
// default since 2.4) and the older one. On a port of 127.0.0.1 that the system chooses. Self-synchronised: it works on
// a thread of its own.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <list>
#include <map>
#include <netinet/in.h>
#include <poll.h>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace nx::test {

class TcpStoreServer {
public:
    enum class Kind { kLibuv, kOlder };

    explicit TcpStoreServer(Kind kind = Kind::kLibuv) : kind_(kind) {
        start();
    }
    ~TcpStoreServer() {
        stop();
    }
    TcpStoreServer(const TcpStoreServer &) = delete;
    TcpStoreServer &
    operator=(const TcpStoreServer &) = delete;

    std::string
    endpoint() const {
        return "127.0.0.1:" + std::to_string(port_);
    }

    uint16_t
    port() const noexcept {
        return port_;
    }

    /// Ends as a process does: nobody listens, connections are closed.
    void
    stop() {
        if (!thread_.joinable()) return;
        ending_ = true;
        thread_.join();
        ::close(listener_);
    }

    /// Again, on the same port.
    void
    start() {
        listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        const int on = 1;
        ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(port_);
        socklen_t size = sizeof address;
        if (::bind(listener_, reinterpret_cast<sockaddr *>(&address), size) != 0 || ::listen(listener_, 128) != 0 ||
            ::getsockname(listener_, reinterpret_cast<sockaddr *>(&address), &size) != 0) {
            throw std::runtime_error(std::string("the store cannot listen: ") + std::strerror(errno));
        }
        port_ = ntohs(address.sin_port);
        ending_ = false;
        thread_ = std::thread([this] { run(); });
    }

    /// While it does not run. Keys as they are in the store, with the "/" in front.
    std::map<std::string, std::string> contents;

private:
    struct Guest {
        int fd;
        std::string in;
        std::string out;
        bool validated = false;
    };

    struct Short {}; ///< the question is not there as a whole yet
    struct Close {}; ///< as the server does

    /// Takes a question apart.
    struct Reader {
        const std::string &bytes;
        size_t at = 0;

        template<class Number>
        Number
        number() {
            Number value;
            std::memcpy(&value, take(sizeof value), sizeof value);
            return value;
        }
        std::string
        text(size_t bytes_max) {
            const auto size = number<uint64_t>();
            if (size > bytes_max) throw Close();
            return {take(size), size};
        }
        const char *
        take(size_t count) {
            if (bytes.size() - at < count) throw Short();
            at += count;
            return bytes.data() + at - count;
        }
    };

    template<class Number>
    static void
    put(std::string &out, Number value) {
        out.append(reinterpret_cast<const char *>(&value), sizeof value);
    }

    void
    run() {
        std::list<Guest> guests;
        while (!ending_) {
            std::vector<pollfd> fds{{listener_, POLLIN, 0}};
            for (const auto &guest : guests) {
                fds.push_back({guest.fd, static_cast<short>(guest.out.empty() ? POLLIN : POLLIN | POLLOUT), 0});
            }
            ::poll(fds.data(), fds.size(), 10);
            size_t i = 0;
            std::erase_if(guests, [&](Guest &guest) {
                if (fds[++i].revents == 0 || serve(guest)) return false;
                ::close(guest.fd);
                return true;
            });
            const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd >= 0) guests.push_back({fd, {}, {}});
        }
        for (const auto &guest : guests) ::close(guest.fd);
    }

    /// False: the connection is over.
    bool
    serve(Guest &guest) {
        char part[65536];
        for (ssize_t got; (got = ::recv(guest.fd, part, sizeof part, 0)) != -1;) {
            if (got == 0) return false;
            guest.in.append(part, static_cast<size_t>(got));
        }
        if (errno != EAGAIN) return false;
        try {
            while (!guest.in.empty()) answer(guest);
        }
        catch (const Short &) {
        }
        catch (const Close &) {
            return false;
        }
        const ssize_t sent = ::send(guest.fd, guest.out.data(), guest.out.size(), MSG_NOSIGNAL);
        if (sent > 0) guest.out.erase(0, static_cast<size_t>(sent));
        return sent >= 0 || errno == EAGAIN;
    }

    void
    answer(Guest &guest) {
        const bool older = kind_ == Kind::kOlder;
        const size_t key_max = older ? SIZE_MAX : 8192, value_max = older ? SIZE_MAX : size_t{8} << 20;
        Reader reader{guest.in};
        const auto what = reader.number<uint8_t>();
        if (!guest.validated && what != 0) {
            if (older) throw Close();
            guest.in.clear(); // silently
            return;
        }
        switch (what) {
        case 0:
            if (guest.validated || reader.number<uint32_t>() != 0x3C85F7CE) throw Close();
            guest.validated = true;
            break;
        case 1: {
            const auto key = reader.text(key_max);
            contents[key] = reader.text(value_max);
            break;
        }
        case 3: {
            const auto it = contents.find(reader.text(key_max));
            if (it == contents.end() && older) throw Close();
            const std::string value = it == contents.end() ? "" : it->second;
            put<uint64_t>(guest.out, value.size());
            guest.out += value;
            break;
        }
        case 5: {
            bool all = true;
            for (auto count = reader.number<uint64_t>(); count > 0; --count) {
                all = contents.contains(reader.text(key_max)) && all;
            }
            put<uint8_t>(guest.out, all ? 0 : 1);
            break;
        }
        case 8: put<int64_t>(guest.out, static_cast<int64_t>(contents.erase(reader.text(key_max)))); break;
        case 13: put(guest.out, reader.number<uint32_t>()); break;
        default: throw Close();
        }
        guest.in.erase(0, reader.at);
    }

    const Kind kind_;
    uint16_t port_ = 0;
    int listener_ = -1;
    std::atomic<bool> ending_ = false;
    std::thread thread_;
};

} // namespace nx::test
