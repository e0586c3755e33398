// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Another process with an agent in it (tests/system/peer_process.cpp), and what a test says to it: one line each way
// over a socket. It can be stopped and killed at any moment; it ends with its owner. Owned.
#pragma once

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <poll.h>
#include <spawn.h>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

#include "nixl_descriptors.h"
#include "support/agent_pair.h"
#include "support/eventually.h"

namespace nx::test {

/// Blobs travel through lines as two hexadecimal digits per byte.
inline std::string
toHex(const std::string &bytes) {
    static const char digits[] = "0123456789abcdef";
    std::string text;
    for (const unsigned char byte : bytes) (text += digits[byte >> 4]) += digits[byte & 15];
    return text;
}

inline std::string
fromHex(const std::string &text) {
    std::string bytes;
    for (size_t i = 0; i + 1 < text.size(); i += 2) {
        bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
    }
    return bytes;
}

/// One line from a socket, without its end. False at the end of the stream, or if `patience` passes first.
inline bool
readLine(int fd, std::string &line, std::chrono::milliseconds patience) {
    line.clear();
    const auto deadline = std::chrono::steady_clock::now() + patience;
    for (char part[4096];;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        pollfd readable{fd, POLLIN, 0};
        if (::poll(&readable, 1, static_cast<int>(std::max<int64_t>(left.count(), 0))) <= 0) return false;
        ssize_t count = recv(fd, part, sizeof part, MSG_PEEK);
        if (count <= 0) return false;
        const auto *end = static_cast<const char *>(std::memchr(part, '\n', static_cast<size_t>(count)));
        if (end) count = end - part + 1;
        if (recv(fd, part, static_cast<size_t>(count), 0) != count) return false;
        line.append(part, static_cast<size_t>(count));
        if (!end) continue;
        line.pop_back();
        return true;
    }
}

inline bool
writeLine(int fd, std::string line) {
    line += '\n';
    for (size_t done = 0; done < line.size();) {
        const ssize_t count = send(fd, line.data() + done, line.size() - done, MSG_NOSIGNAL);
        if (count < 0) return false;
        done += static_cast<size_t>(count);
    }
    return true;
}

class PeerProcess {
public:
    /// Starts the process and its agent. Throws std::runtime_error with its sentence.
    PeerProcess(std::string agent, const PairOptions &options) : name(std::move(agent)) {
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw std::runtime_error("socketpair");
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, fds[1], kPeerSocket);
        // It lies beside the test's own program.
        std::string program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "nx_peer_process";
        char *arguments[] = {program.data(), nullptr};
        const int failed = posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ);
        posix_spawn_file_actions_destroy(&actions);
        ::close(fds[1]);
        socket_ = fds[0];
        if (failed) throw std::runtime_error(program + ": " + std::strerror(failed));
        std::string create = "create " + name + " " + options.backend + (options.progress_thread ? " 1" : " 0");
        for (const auto &[key, value] : options.params) create += " " + key + "=" + value;
        ask(create);
    }
    ~PeerProcess() {
        if (pid_ > 0) kill();
        ::close(socket_);
    }
    PeerProcess(const PeerProcess &) = delete;
    PeerProcess &
    operator=(const PeerProcess &) = delete;

    /// Says `line` and returns the value of the answer. Throws std::runtime_error with the peer's sentence.
    std::string
    ask(const std::string &line) {
        std::string answer;
        if (!writeLine(socket_, line) || !readLine(socket_, answer, kPatience)) {
            throw std::runtime_error(name + " gave no answer to: " + line.substr(0, 80));
        }
        if (answer.starts_with("ok")) return answer.size() > 3 ? answer.substr(3) : "";
        throw std::runtime_error(name + ": " + line.substr(0, 80) + ": " + answer);
    }

    /// `size` new bytes, registered, as Buffer::fill(seed) fills them.
    nixlBasicDesc
    offer(size_t size, uint64_t seed) {
        const auto where = ask("register " + std::to_string(size) + " " + std::to_string(seed));
        return {std::stoull(where), size, 0};
    }

    nixl_blob_t
    metadata() {
        return fromHex(ask("metadata"));
    }

    void
    load(const nixl_blob_t &blob) {
        ask("load " + toHex(blob));
    }

    void
    signal(int number) const {
        ::kill(pid_, number);
        int status = 0;
        if (number == SIGSTOP) waitpid(pid_, &status, WUNTRACED);
    }

    /// SIGKILL; returns when the process is gone.
    void
    kill() {
        signal(SIGKILL);
        (void)wait();
    }

    /// Lets the agent end in order. The process's exit status, or minus the signal that ended it.
    int
    quit() {
        writeLine(socket_, "quit");
        return wait();
    }

    const std::string name;
    static constexpr int kPeerSocket = 3; ///< where the process finds its end

private:
    int
    wait() {
        int status = 0;
        eventually([&] { return waitpid(pid_, &status, WNOHANG) != 0; });
        pid_ = -1;
        return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
    }

    pid_t pid_ = -1;
    int socket_ = -1;
};

} // namespace nx::test
