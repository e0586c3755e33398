// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An agent with one backend that moves files, and what tests of such a backend do with it, for doubles of its library
// that fail as a test wishes. Owned by the test.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <dlfcn.h>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/agent_pair.h"
#include "support/temp_dir.h"

namespace nx::test {

/// A function of the library that the setting `library` names.
template<class Function>
Function *
fromDouble(const char *library, const char *name) {
    void *const handle = dlopen(nixlx::configValue(library).value_or("").c_str(), RTLD_NOW | RTLD_LOCAL);
    auto *const function = handle ? reinterpret_cast<Function *>(dlsym(handle, name)) : nullptr;
    if (!function) throw std::runtime_error(std::string(name) + " is not in the double");
    return function;
}

/// A setting of the environment, for as long as it lives.
class Setting {
public:
    Setting(const char *name, const char *value) : name_(name), before_(nixlx::configValue(name)) {
        setenv(name, value, 1);
    }
    ~Setting() {
        if (before_) setenv(name_, before_->c_str(), 1);
        else unsetenv(name_);
    }
    Setting(const Setting &) = delete;

private:
    const char *const name_;
    const std::optional<std::string> before_;
};

class FileAgent {
public:
    ~FileAgent() {
        agent.reset();
        for (int fd : descriptors) ::close(fd);
    }

protected:
    nixl_status_t
    createBackend(const std::string &name, const nixl_b_params_t &params) {
        nixlAgentConfig config;
        agent = std::make_unique<nixlAgent>("A", config);
        nixlBackendH *backend = nullptr;
        return agent->createBackend(name, params, backend);
    }

    int
    open(const std::string &name, int flags = O_RDWR | O_CREAT) {
        descriptors.push_back(::open((folder / name).c_str(), flags | O_CLOEXEC, 0644));
        return descriptors.back();
    }

    static nixl_reg_dlist_t
    fileOf(uint64_t device, const std::string &name = "") {
        nixl_reg_dlist_t list(FILE_SEG);
        list.addDesc(nixlBlobDesc(0, 0, device, name));
        return list;
    }

    void
    add(const nixl_reg_dlist_t &list) {
        require(agent->registerMem(list), "register");
    }

    nixlXferReqH *
    request(nixl_xfer_op_t operation, const nixl_xfer_dlist_t &local, const nixl_xfer_dlist_t &remote) {
        nixlXferReqH *made = nullptr;
        require(agent->createXferReq(operation, local, remote, "A", made), "create a request");
        return made;
    }

    nixl_status_t
    finish(nixlXferReqH *request) {
        nixl_status_t status = NIXL_IN_PROG;
        eventually([&] { return (status = agent->getXferStatus(request)) != NIXL_IN_PROG; });
        return status;
    }

    nixl_status_t
    run(nixlXferReqH *request) {
        const nixl_status_t posted = agent->postXferReq(request);
        return posted == NIXL_IN_PROG ? finish(request) : posted;
    }

    /// Writes, or reads, all of a buffer that is registered.
    nixl_status_t
    run(nixl_xfer_op_t operation, const Buffer &buffer, int fd, size_t offset = 0) {
        nixlXferReqH *made = request(operation, listOf({buffer.desc()}),
                                     listOf({{offset, buffer.size(), static_cast<uint64_t>(fd)}}, FILE_SEG));
        const nixl_status_t status = run(made);
        sentence = status < 0 ? nixlx::lastError() : "";
        EXPECT_EQ(agent->releaseXferReq(made), NIXL_SUCCESS);
        return status;
    }

    /// Posts 16 requests at once that write all of a buffer, in 40 pieces each, every other one to the file `bad`,
    /// whose I/Os may fail. Compares what was written where no request failed. Returns how many did.
    size_t
    writeMixed(const Buffer &from, const std::string &good, int good_fd, const std::string &bad, int bad_fd) {
        constexpr size_t kRequests = 16, kPieces = 40;
        const size_t piece_size = from.size() / kRequests / kPieces, size = piece_size * kPieces;
        const auto placeOf = [](size_t piece) { return piece % 2 ? piece : kPieces - 2 - piece; };
        std::vector<nixlXferReqH *> requests;
        for (size_t i = 0; i < kRequests; ++i) {
            nixl_xfer_dlist_t local(DRAM_SEG), remote(FILE_SEG);
            for (size_t piece = 0; piece < kPieces; ++piece) {
                local.addDesc(from.desc(i * size + piece * piece_size, piece_size));
                remote.addDesc({i * size + placeOf(piece) * piece_size, piece_size,
                                static_cast<uint64_t>(i % 2 ? bad_fd : good_fd)});
            }
            requests.push_back(request(NIXL_WRITE, local, remote));
        }
        std::shuffle(requests.begin(), requests.end(), random_);
        for (nixlXferReqH *each : requests) static_cast<void>(agent->postXferReq(each)); // it may have ended
        size_t failed = 0;
        for (nixlXferReqH *each : requests) failed += finish(each) != NIXL_SUCCESS;
        for (nixlXferReqH *each : requests) EXPECT_EQ(agent->releaseXferReq(each), NIXL_SUCCESS);
        const std::string good_bytes = contents(good), bad_bytes = contents(bad);
        for (size_t i = 0; i < kRequests * kPieces; ++i) {
            const size_t request = i / kPieces, piece = i % kPieces;
            if (request % 2 && failed > 0) continue;
            const std::string &file = request % 2 ? bad_bytes : good_bytes;
            EXPECT_EQ(file.compare(request * size + placeOf(piece) * piece_size, piece_size,
                                   reinterpret_cast<const char *>(from.data()) + i * piece_size, piece_size),
                      0)
                << "request " << request << ", piece " << piece;
        }
        return failed;
    }

    std::string
    contents(const std::string &name) const {
        std::ifstream file(folder / name, std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }

    TempDir folder;
    std::vector<int> descriptors;
    std::unique_ptr<nixlAgent> agent;
    std::string sentence; ///< of the last buffer that was run

private:
    std::mt19937_64 random_{20261129};
};

} // namespace nx::test
