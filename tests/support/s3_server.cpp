// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/s3_server.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/certificate.h"
#include "support/eventually.h"

namespace nx::test {

namespace {

namespace fs = std::filesystem;

constexpr char kProgram[] = NX_VERSITYGW;

std::string
randomKey() {
    std::random_device random;
    std::string key;
    while (key.size() < 20) key += "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[random() % 36];
    return key;
}

/// The port on which a process listens; 0: none (yet).
uint16_t
listeningPort(pid_t pid) {
    const std::string process = "/proc/" + std::to_string(pid);
    std::set<std::string> sockets;
    std::error_code error;
    for (const auto &entry : fs::directory_iterator(process + "/fd", error)) {
        sockets.insert(fs::read_symlink(entry.path(), error).string());
    }
    std::ifstream table(process + "/net/tcp");
    for (std::string line; std::getline(table, line);) {
        std::istringstream words(line);
        const std::vector<std::string> fields{std::istream_iterator<std::string>(words), {}};
        constexpr size_t kLocal = 1, kState = 3, kInode = 9;
        if (fields.size() <= kInode || fields[kState] != "0A") continue;
        if (!sockets.contains("socket:[" + fields[kInode] + "]")) continue;
        return static_cast<uint16_t>(std::stoul(fields[kLocal].substr(fields[kLocal].find(':') + 1), nullptr, 16));
    }
    return 0;
}

} // namespace

std::string
S3Server::whyNot() {
    return fs::exists(kProgram) ? "" : "there is no S3 server " + std::string(kProgram) + "; tools/extras makes it";
}

S3Server::S3Server(const Options &options) : options_(options), access_key_(randomKey()), secret_key_(randomKey()) {
    fs::create_directory(folder_ / "objects");
    if (options_.tls) writeCertificate(ca(), folder_ / "key.pem");
    start();
}

S3Server::~S3Server() {
    kill();
}

std::string
S3Server::endpoint() const {
    return (options_.tls ? "https://127.0.0.1:" : "http://127.0.0.1:") + std::to_string(port_);
}

fs::path
S3Server::bucket(const std::string &name) const {
    const fs::path path = fs::path(folder_ / "objects") / name;
    fs::create_directory(path);
    return path;
}

size_t
S3Server::leftovers(const std::string &name) const {
    const fs::path uploads = bucket(name) / ".sgwtmp";
    size_t count = 0;
    if (fs::exists(uploads)) {
        for (const auto &entry : fs::recursive_directory_iterator(uploads)) count += entry.is_regular_file();
    }
    return count;
}

void
S3Server::pause() {
    ::kill(pid_, SIGSTOP);
}

void
S3Server::goOn() {
    ::kill(pid_, SIGCONT);
}

void
S3Server::kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
}

void
S3Server::restart() {
    start();
}

void
S3Server::start() {
    std::vector<std::string> words{kProgram, "--port", "127.0.0.1:" + std::to_string(port_), "--keep-alive"};
    if (options_.tls) words.insert(words.end(), {"--cert", ca(), "--key", folder_ / "key.pem"});
    if (!options_.virtual_domain.empty()) words.insert(words.end(), {"--virtual-domain", options_.virtual_domain});
    words.insert(words.end(), {"posix", folder_ / "objects"});
    // Nothing of ours, which may have other keys or a proxy in it.
    std::vector<std::string> settings{"ROOT_ACCESS_KEY=" + access_key_, "ROOT_SECRET_KEY=" + secret_key_};
    const auto pointers = [](std::vector<std::string> &texts) {
        std::vector<char *> result;
        for (auto &text : texts) result.push_back(text.data());
        result.push_back(nullptr);
        return result;
    };
    const auto arguments = pointers(words), environment = pointers(settings);
    const std::string log = folder_ / "log";

    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
    if (pid_ == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) ::_exit(1);
        const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        ::dup2(out, STDOUT_FILENO);
        ::dup2(out, STDERR_FILENO);
        ::execve(arguments[0], arguments.data(), environment.data());
        ::_exit(127);
    }
    bool ended = false;
    eventually([&] {
        ended = ::waitpid(pid_, nullptr, WNOHANG) == pid_;
        return ended || (port_ = listeningPort(pid_)) != 0;
    });
    if (ended) pid_ = -1;
    if (port_ != 0) return;
    std::ostringstream said;
    said << std::ifstream(log).rdbuf();
    kill();
    throw std::runtime_error(std::string(kProgram) + " does not listen; it said: " + said.str());
}

} // namespace nx::test
