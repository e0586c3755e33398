// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An agent with POSIX over one of its queues, and the usual steps of a test with it. Public API only. Owned.
#pragma once

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <string>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/agent_pair.h"
#include "support/temp_dir.h"
#include "system/descriptors.h"

namespace nx::test {

/// How the backend of a test is made; the parameter of most of them.
struct How {
    const char *name;
    const char *option; ///< of the backend, which chooses its queue
    bool progress_thread;
};

inline const How kHows[] = {
    {"UringPolled", "use_uring", false},       {"UringThreaded", "use_uring", true},
    {"AioPolled", "use_aio", false},           {"AioThreaded", "use_aio", true},
    {"ThreadsPolled", "use_posix_aio", false}, {"ThreadsThreaded", "use_posix_aio", true},
};

inline std::string
nameOf(const testing::TestParamInfo<How> &info) {
    return info.param.name;
}

inline void
PrintTo(const How &how, std::ostream *out) {
    *out << how.name;
}

/// A descriptor, closed with it.
class OpenFile {
public:
    OpenFile(const std::string &path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
        if (fd_ < 0) throw std::runtime_error("open " + path + ": " + std::strerror(errno));
    }
    /// As the first number from `number` on that is free.
    OpenFile(const std::string &path, int flags, int number) {
        const OpenFile file(path, flags);
        fd_ = ::fcntl(*file, F_DUPFD_CLOEXEC, number);
        if (fd_ < 0) throw std::runtime_error("dup " + path + ": " + std::strerror(errno));
    }
    explicit OpenFile(int fd) : fd_(fd) {}
    ~OpenFile() {
        close();
    }
    OpenFile(const OpenFile &) = delete;
    OpenFile &
    operator=(const OpenFile &) = delete;

    int
    operator*() const noexcept {
        return fd_;
    }

    uint64_t
    id() const noexcept {
        return static_cast<uint64_t>(fd_);
    }

    void
    close() {
        if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    }

private:
    int fd_;
};

inline std::string
contentsOf(const std::string &path) {
    const OpenFile file(path, O_RDONLY);
    std::string text;
    char part[65536];
    for (ssize_t count; (count = ::read(*file, part, sizeof part)) > 0;) text.append(part, static_cast<size_t>(count));
    return text;
}

/// How a transfer ended.
struct Outcome {
    nixl_status_t status;
    nixlx::Report report;
};

/// The transfer failed with this status, `bytes` of it moved, and its sentence has all these words.
inline void
expectFailure(const Outcome &outcome, nixl_status_t status, uint64_t bytes, std::initializer_list<std::string> words) {
    EXPECT_EQ(outcome.status, status) << outcome.report.error;
    EXPECT_EQ(outcome.report.bytes_done, bytes) << outcome.report.error;
    for (const std::string &word : words) EXPECT_THAT(outcome.report.error, testing::HasSubstr(word));
}

inline void
expectSuccess(const Outcome &outcome) {
    EXPECT_EQ(outcome.status, NIXL_SUCCESS) << outcome.report.error;
    EXPECT_EQ(outcome.report.bytes_done, outcome.report.total_bytes);
    EXPECT_EQ(outcome.report.error, "");
}

class FileAgent {
public:
    explicit FileAgent(const How &how, nixl_b_params_t params = {}, const std::string &name = "A")
        : paired(name, options(how, std::move(params))) {}

    nixlAgent *
    operator->() const {
        return paired.agent.get();
    }

    void
    add(const Buffer &memory) const {
        require(paired->registerMem(registrationOf({memory.desc()})), "register memory");
    }

    /// All of a file, by its descriptor or by `meta_info`.
    nixl_status_t
    addFile(uint64_t id, const std::string &meta_info = "") const {
        return paired->registerMem(fileList(id, meta_info));
    }

    nixl_status_t
    removeFile(uint64_t id) const {
        return paired->deregisterMem(fileList(id, ""));
    }

    /// Throws std::runtime_error if there can be none.
    nixlXferReqH *
    request(nixl_xfer_op_t operation, const nixl_xfer_dlist_t &memory, const nixl_xfer_dlist_t &places) const {
        nixlXferReqH *made = nullptr;
        require(paired->createXferReq(operation, memory, places, paired.name, made), "create");
        return made;
    }

    nixlXferReqH *
    request(nixl_xfer_op_t operation, const Buffer &memory, uint64_t file, uint64_t offset = 0) const {
        return request(operation, listOf({memory.desc()}), listOf({{offset, memory.size(), file}}, FILE_SEG));
    }

    /// Waits for the end of one that was posted.
    nixl_status_t
    finish(nixlXferReqH *request, nixl_status_t posted) const {
        return posted == NIXL_IN_PROG ? paired->waitXfer(request, kPatience) : posted;
    }

    /// Posts it, waits for its end and asks what became of it.
    Outcome
    run(nixlXferReqH *request) const {
        Outcome outcome{finish(request, paired->postXferReq(request)), {}};
        require(paired->getXferReport(request, outcome.report), "report");
        return outcome;
    }

    template<class... Lists>
    Outcome
    move(nixl_xfer_op_t operation, const Lists &...lists) const {
        nixlXferReqH *made = request(operation, lists...);
        Outcome outcome = run(made);
        require(paired->releaseXferReq(made), "release");
        return outcome;
    }

    const PairedAgent paired;

    static nixl_reg_dlist_t
    fileList(uint64_t id, const std::string &meta_info) {
        nixl_reg_dlist_t list(FILE_SEG);
        list.addDesc(nixlBlobDesc(0, 0, id, meta_info));
        return list;
    }

private:
    static PairOptions
    options(const How &how, nixl_b_params_t params) {
        params[how.option] = "true";
        return {.backend = "POSIX",
                .params = std::move(params),
                .progress_thread = how.progress_thread,
                .notifications = false};
    }
};

/// An agent, its memory, and a folder for its files.
class FilesTest : public testing::TestWithParam<How> {
protected:
    FileAgent &
    agent(nixl_b_params_t params = {}) {
        if (!agent_) agent_ = std::make_unique<FileAgent>(GetParam(), std::move(params));
        return *agent_;
    }

    /// Registered with the agent, and there until it is gone.
    Buffer &
    memory(size_t size, size_t offset = 0) {
        Buffer &made = *buffers_.emplace_back(std::make_unique<Buffer>(size, offset));
        agent().add(made);
        return made;
    }

    /// With what is made when something is first needed.
    size_t
    openDescriptorsOfAnAgentThatWorks() {
        const Buffer &memory = this->memory(1);
        EXPECT_EQ(agent().addFile(1, "ro:" + file("first", 1, 1)), NIXL_SUCCESS) << nixlx::lastError();
        expectSuccess(agent().move(NIXL_READ, memory, 1));
        EXPECT_EQ(agent().removeFile(1), NIXL_SUCCESS);
        int fd = -1; // for whoever sleeps
        EXPECT_EQ(agent()->eventFd(fd), NIXL_SUCCESS);
        return openDescriptors();
    }

    std::string
    file(const std::string &name, size_t size, uint64_t seed) {
        const Buffer contents(size);
        contents.fill(seed);
        return dir.write(name, {reinterpret_cast<const char *>(contents.data()), size});
    }

    const TempDir dir;

private:
    std::vector<std::unique_ptr<Buffer>> buffers_;
    std::unique_ptr<FileAgent> agent_; // behind the buffers: it goes first
};

} // namespace nx::test
