// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A real etcd of its own for a test, of one member or several, on ports of 127.0.0.1 that were free, over a folder that
// goes with it. It elects and ends leases quickly, and goes with this process. Owned.
#pragma once

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdexcept>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "support/eventually.h"
#include "support/temp_dir.h"

namespace nx::test {

class EtcdServer {
public:
    /// Why there can be none here; empty: there can.
    static std::string
    missing() {
        if (::access(NX_PLUGIN_DIR "/libstore_etcd.so", F_OK) != 0) return "the store etcd was not built";
        return program().empty() ? "there is no etcd (tools/extras etcd)" : "";
    }

    /// `options`: further ones of the command line.
    explicit EtcdServer(std::vector<std::string> options = {}, size_t members = 1)
        : options_(std::move(options)),
          members_(members) {
        for (int tries = 0; tries < 5; ++tries) {
            assignPorts();
            if (tryStart()) return;
        }
        throw std::runtime_error("etcd does not start: " + lastWords());
    }

    ~EtcdServer() {
        kill();
    }
    EtcdServer(const EtcdServer &) = delete;
    EtcdServer &
    operator=(const EtcdServer &) = delete;

    uint16_t
    port(size_t member = 0) const {
        return members_[member].client_port;
    }

    std::string
    url(size_t member = 0) const {
        return scheme_ + "://127.0.0.1:" + std::to_string(port(member));
    }

    /// As NIXL_ETCD_ENDPOINTS takes them.
    std::string
    urls() const {
        std::string all;
        for (size_t i = 0; i < members_.size(); ++i) all += (i ? "," : "") + url(i);
        return all;
    }

    void
    kill(size_t member) {
        auto &pid = members_[member].pid;
        if (pid <= 0) return;
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
        pid = -1;
    }

    void
    kill() {
        for (size_t i = 0; i < members_.size(); ++i) kill(i);
    }

    void
    signal(int number) {
        for (const auto &member : members_) ::kill(member.pid, number);
    }

    /// Those that do not run, on what they had.
    void
    start() {
        if (!tryStart()) throw std::runtime_error("etcd does not start again: " + lastWords());
    }

    /// Its contents are lost, as with a disk.
    void
    forget() {
        kill();
        std::filesystem::remove_all(folder_ / "data");
    }

    /// Takes TLS from its clients only from now on, the next start.
    void
    setScheme(const std::string &scheme, std::vector<std::string> options) {
        scheme_ = scheme;
        options_ = std::move(options);
    }

    const TempDir &
    folder() const {
        return folder_;
    }

private:
    struct Member {
        uint16_t client_port = 0;
        uint16_t peer_port = 0;
        pid_t pid = -1;
    };

    static std::string
    program() {
        for (const char *path : {NX_SOURCE_DIR "/build/etcd/etcd", "/usr/bin/etcd"}) {
            if (::access(path, X_OK) == 0) return path;
        }
        return {};
    }

    void
    assignPorts() {
        std::vector<int> sockets; // all at once, so that no port is given twice
        const auto take = [&](uint16_t &port) {
            const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            sockaddr_in address{};
            address.sin_family = AF_INET;
            address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            socklen_t size = sizeof address;
            if (fd < 0 || ::bind(fd, reinterpret_cast<sockaddr *>(&address), size) != 0 ||
                ::getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size) != 0) {
                throw std::runtime_error(std::string("no port: ") + std::strerror(errno));
            }
            sockets.push_back(fd);
            port = ntohs(address.sin_port);
        };
        for (auto &member : members_) {
            take(member.client_port);
            take(member.peer_port);
        }
        for (const int fd : sockets) ::close(fd);
    }

    static std::string
    local(uint16_t port) {
        return "http://127.0.0.1:" + std::to_string(port);
    }

    bool
    tryStart() {
        std::string cluster;
        for (size_t i = 0; i < members_.size(); ++i) {
            cluster += (i ? ",m" : "m") + std::to_string(i) + "=" + local(members_[i].peer_port);
        }
        for (size_t i = 0; i < members_.size(); ++i) {
            auto &member = members_[i];
            if (member.pid > 0) continue;
            const auto name = "m" + std::to_string(i);
            std::vector<std::string> words{program(),
                                           "--name=" + name,
                                           "--data-dir=" + (folder_ / ("data/" + name)),
                                           "--listen-client-urls=" + url(i),
                                           "--advertise-client-urls=" + url(i),
                                           "--listen-peer-urls=" + local(member.peer_port),
                                           "--initial-advertise-peer-urls=" + local(member.peer_port),
                                           "--initial-cluster=" + cluster,
                                           "--heartbeat-interval=20",
                                           "--election-timeout=200",
                                           "--unsafe-no-fsync",
                                           "--logger=zap",
                                           "--log-outputs=stderr"};
            words.insert(words.end(), options_.begin(), options_.end());
            member.pid = run(words, folder_ / (name + ".log"));
        }
        return eventually([&] { return !allRun() || allListen(); }) && allRun();
    }

    static pid_t
    run(const std::vector<std::string> &words, const std::string &log) {
        std::vector<char *> arguments;
        for (const auto &word : words) arguments.push_back(const_cast<char *>(word.c_str()));
        arguments.push_back(nullptr);
        const pid_t parent = ::getpid();
        const pid_t pid = ::fork();
        if (pid != 0) return pid;
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) ::_exit(1);
        const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
        ::dup2(out, STDOUT_FILENO);
        ::dup2(out, STDERR_FILENO);
        ::execv(arguments[0], arguments.data());
        ::_exit(127);
    }

    bool
    allRun() {
        for (auto &member : members_) {
            if (::waitpid(member.pid, nullptr, WNOHANG) == 0) continue;
            member.pid = -1;
            return false;
        }
        return true;
    }

    bool
    allListen() const {
        for (const auto &member : members_) {
            const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            sockaddr_in address{};
            address.sin_family = AF_INET;
            address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            address.sin_port = htons(member.client_port);
            const bool listens = ::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0;
            ::close(fd);
            if (!listens) return false;
        }
        return true;
    }

    std::string
    lastWords() const {
        std::ifstream log(folder_ / "m0.log");
        std::string line, last;
        while (std::getline(log, line)) last = line;
        return last;
    }

    TempDir folder_;
    std::string scheme_ = "http";
    std::vector<std::string> options_;
    std::vector<Member> members_;
};

} // namespace nx::test
