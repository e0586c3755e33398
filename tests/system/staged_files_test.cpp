// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: memory of a peer and a file of this agent, which no backend joins, exchange bytes exactly, whatever happens to
// the file, and as one request. Method: POSIX with SHM, with UCX as programs ask for it (its companion serves the host)
// and with UCX over its own way; real files that are there, short, read-only or full.
#include <filesystem>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/agent_pair.h"
#include "support/temp_dir.h"
#include "system/file_agent.h"

namespace nx::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Link {
    const char *name;
    const char *backend;
    bool progress_thread;
};

void
PrintTo(const Link &link, std::ostream *out) {
    *out << link.name;
}

class StagedFiles : public testing::TestWithParam<Link> {
protected:
    static constexpr size_t kSize = (size_t{9} << 20) + 4321;

    StagedFiles() : memory(kSize) {
        const auto &link = GetParam();
        const PairOptions options{.backend = link.backend, .params = {}, .progress_thread = link.progress_thread};
        pair = std::make_unique<AgentPair>(options);
        nixlBackendH *files = nullptr;
        require(pair->a->createBackend("POSIX", {}, files), "create POSIX");
        require(pair->b->registerMem(registrationOf({memory.desc()})), "register at B");
        pair->exchange();
    }

    void
    add(uint64_t id, const std::string &meta_info) const {
        require(pair->a->registerMem(FileAgent::fileList(id, meta_info)), "register " + meta_info);
    }

    /// All of B's memory and a place in the file.
    nixlXferReqH *
    request(nixl_xfer_op_t operation, uint64_t file, uint64_t offset = 0) const {
        nixlXferReqH *made = nullptr;
        require(pair->a->createXferReq(operation, listOf({{offset, kSize, file}}, FILE_SEG), listOf({memory.desc()}),
                                       "B", made),
                "create");
        return made;
    }

    Outcome
    run(nixlXferReqH *request, const nixl_opt_args_t *args = nullptr) const {
        const auto posted = pair->a->postXferReq(request, args);
        Outcome outcome{posted == NIXL_IN_PROG ? pair->a->waitXfer(request, std::chrono::seconds(60)) : posted, {}};
        require(pair->a->getXferReport(request, outcome.report), "report");
        return outcome;
    }

    const TempDir dir;
    const Buffer memory;
    std::unique_ptr<AgentPair> pair;
};

INSTANTIATE_TEST_SUITE_P(,
                         StagedFiles,
                         testing::Values(Link{"ShmPolled", "SHM", false},
                                         Link{"ShmThreaded", "SHM", true},
                                         Link{"UcxPolled", "UCX", false},
                                         Link{"UcxThreaded", "UCX", true}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST_P(StagedFiles, MemoryOfAPeerGoesToAFileAndBack) {
    add(7, "rw,create:" + (dir / "cache"));
    memory.fill(1);
    auto *const save = request(NIXL_READ, 7, 512);
    const auto saved = run(save);
    expectSuccess(saved);
    EXPECT_THAT(saved.report.path, AllOf(HasSubstr("through host memory"), HasSubstr("POSIX (")));
    EXPECT_EQ(saved.report.backend, GetParam().backend);
    const std::string contents = contentsOf(dir / "cache");
    ASSERT_EQ(contents.size(), kSize + 512);
    EXPECT_EQ(std::memcmp(contents.data() + 512, memory.data(), kSize), 0);

    memory.clear();
    nixl_opt_args_t args;
    args.notif = "restored";
    auto *const restore = request(NIXL_WRITE, 7, 512);
    expectSuccess(run(restore, &args));
    EXPECT_EQ(pair->receive(pair->b, "A", 1), std::vector<nixl_blob_t>{"restored"});
    EXPECT_TRUE(memory.holds(1));
}

TEST_P(StagedFiles, AFileThatEndsTooSoonSaysWhereAndWhatArrived) {
    const size_t there = (size_t{3} << 20) + 100;
    add(7, "ro:" + dir.write("short", std::string(there, 'x')));
    const auto outcome = run(request(NIXL_WRITE, 7));
    EXPECT_EQ(outcome.status, NIXL_ERR_BACKEND);
    EXPECT_THAT(
        outcome.report.error,
        AllOf(HasSubstr("of FILE_SEG of 'A' over POSIX"), HasSubstr(dir / "short"), HasSubstr("the file ends there")));
    size_t arrived = 0;
    for (size_t i = 0; i < kSize; ++i) arrived += memory.data()[i] == 'x';
    EXPECT_EQ(outcome.report.bytes_done, arrived);
    EXPECT_LE(arrived, there);
}

TEST_P(StagedFiles, AFileThatCannotBeWrittenSaysSo) {
    const std::string path = dir.write("read-only", "x");
    add(7, "ro:" + path);
    memory.fill(1);
    expectFailure(run(request(NIXL_READ, 7)), NIXL_ERR_NOT_ALLOWED, 0, {"over POSIX", path});
    EXPECT_EQ(contentsOf(path), "x");
}

TEST_P(StagedFiles, AFileThatIsReplacedAsAWholeIsNotInParts) {
    const std::string path = dir.write("data", std::string(kSize, 'x'));
    add(7, "rw,atomic:" + path);
    memory.fill(1);
    for (const auto operation : {NIXL_READ, NIXL_WRITE}) {
        expectFailure(run(request(operation, 7)), NIXL_ERR_NOT_SUPPORTED, 0,
                      {"over POSIX", path, "this transfer comes in parts"});
        EXPECT_TRUE(memory.holds(1));
        EXPECT_EQ(contentsOf(path), std::string(kSize, 'x'));
    }
    // What is one part is whole.
    nixlXferReqH *small = nullptr;
    ASSERT_EQ(
        pair->a->createXferReq(NIXL_READ, listOf({{0, 1000, 7}}, FILE_SEG), listOf({memory.desc(0, 1000)}), "B", small),
        NIXL_SUCCESS);
    expectSuccess(run(small));
    EXPECT_EQ(std::filesystem::file_size(path), 1000u);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST_P(StagedFiles, OneThatIsCancelledEndsAsSuchOrWasDone) {
    add(7, "rw,create:" + (dir / "cache"));
    memory.fill(1);
    auto *const made = request(NIXL_READ, 7);
    for (int round = 0; round < 20; ++round) {
        const auto posted = pair->a->postXferReq(made);
        ASSERT_GE(posted, 0) << nixlx::lastError();
        ASSERT_EQ(pair->a->cancelXferReq(made), NIXL_SUCCESS);
        nixlx::Report report;
        const auto status = pair->finish(made, posted);
        ASSERT_EQ(pair->a->getXferReport(made, report), NIXL_SUCCESS);
        EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_CANCELED) << report.error;
        EXPECT_LE(report.bytes_done, kSize);
    }
    EXPECT_EQ(pair->release(made), NIXL_SUCCESS);
    EXPECT_TRUE(memory.holds(1));
}

TEST_P(StagedFiles, APeerThatGoesEndsIt) {
    add(7, "rw,create:" + (dir / "cache"));
    auto *const made = request(NIXL_READ, 7);
    const auto posted = pair->a->postXferReq(made);
    ASSERT_GE(posted, 0) << nixlx::lastError();
    pair->b.agent.reset();
    const auto status = posted == NIXL_IN_PROG ? pair->a->waitXfer(made, std::chrono::seconds(60)) : posted;
    EXPECT_TRUE(status == NIXL_SUCCESS || status == NIXL_ERR_REMOTE_DISCONNECT || status == NIXL_ERR_NOT_FOUND)
        << nixlEnumStrings::statusStr(status) << ": " << nixlx::lastError();
    EXPECT_EQ(pair->a->releaseXferReq(made), NIXL_SUCCESS);
}

} // namespace
} // namespace nx::test
