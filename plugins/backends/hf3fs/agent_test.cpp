// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: HF3FS moves every byte or says which it did not, whatever the library answers; memory is copied or not as
// mem_config says, and a request posted again moves today's bytes; without 3FS it says what is missing. Method: an
// agent over the double of the library (double.h), which is told what to do wrong.
#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <sys/mman.h>
#include <sys/stat.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hf3fs/double.h"
#include "support/file_agent.h"

namespace nx::hf3fs {
namespace {

using nx::test::Buffer;
using nx::test::eventually;
using nx::test::fromDouble;
using nx::test::listOf;
using nx::test::registrationOf;
using nx::test::Setting;
using test::Counts;
using test::Faults;
using testing::HasSubstr;

void
setFaults(const Faults &faults) {
    fromDouble<test::SetFaults>("NIXL_HF3FS_LIBRARY", "nxTestSetFaults")(faults);
}

Counts
counts() {
    return fromDouble<test::GetCounts>("NIXL_HF3FS_LIBRARY", "nxTestCounts")();
}

class Hf3fs : public testing::Test, protected nx::test::FileAgent {
protected:
    Hf3fs() {
        std::filesystem::create_directories(mount + "/3fs-virt/iovs");
    }
    ~Hf3fs() override {
        setFaults({});
        agent.reset();
        const Counts left = counts();
        EXPECT_STREQ(left.violation, "");
        EXPECT_EQ(left.files, 0);
        EXPECT_EQ(left.rooms, 0);
        EXPECT_EQ(left.rings, 0);
        EXPECT_TRUE(std::filesystem::is_empty(mount + "/3fs-virt/iovs"));
        const std::string ours = "nixl-hf3fs-" + std::to_string(::getpid()) + "-";
        for (const auto &file : std::filesystem::directory_iterator("/dev/shm")) {
            EXPECT_FALSE(file.path().filename().string().starts_with(ours)) << file.path();
        }
    }

    nixl_status_t
    create(nixl_b_params_t params = {}) {
        params.emplace("mount_point", mount);
        return createBackend("HF3FS", params);
    }

    const std::string mount = folder / "mount";
};

// ---- Creation ------------------------------------------------------------------------------------------------------

TEST_F(Hf3fs, SaysWhatIsMissingAndThatPosixServesInstead) {
    const auto expectRefusal = [&](const nixl_b_params_t &params, const std::string &what) {
        EXPECT_EQ(create(params), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), testing::AllOf(HasSubstr(what), HasSubstr("POSIX serves files")));
    };
    expectRefusal({{"mount_point", folder / "nowhere"}}, "nowhere' (mount_point): ");
    expectRefusal({{"mount_point", folder.path()}}, "is not in a mount of 3FS");
    expectRefusal({{"mount_point", ""}}, "(mount_point)");
    {
        const Setting none("NIXL_HF3FS_LIBRARY", "/nonexistent/libhf3fs_api_shared.so");
        EXPECT_EQ(create(), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(),
                    testing::AllOf(HasSubstr("cannot load 3FS"), HasSubstr("NIXL_HF3FS_LIBRARY"),
                                   HasSubstr("POSIX serves files")));
    }
    {
        const Setting other("NIXL_HF3FS_LIBRARY", "libm.so.6");
        EXPECT_EQ(create(), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("hf3fs_prep_io"));
    }
    for (const Faults &faults : {Faults{.room_error = ENOMEM}, Faults{.ring_error = ENOMEM}}) {
        setFaults(faults);
        EXPECT_EQ(create(), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("no ring of 16 entries (iopool_size)"));
    }
}

TEST_F(Hf3fs, FindsTheLibraryWhereTheProgramsOf3fsLook) {
    const std::filesystem::path library(nixlx::configValue("NIXL_HF3FS_LIBRARY").value_or(""));
    {
        const Setting here("HF3FS_LIB_DIR", library.parent_path().c_str());
        const Setting none("NIXL_HF3FS_LIBRARY", "");
        EXPECT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    }
    agent.reset();
}

TEST_F(Hf3fs, RefusesOptionsThatCannotBe) {
    for (const char *value : {"-1", "0", "many", "1048577", ""}) {
        EXPECT_EQ(create({{"iopool_size", value}}), NIXL_ERR_BACKEND) << value;
        EXPECT_THAT(nixlx::lastError(), HasSubstr("parameter iopool_size"));
    }
    for (const char *value : {"", "DRAM", "vram"}) {
        EXPECT_EQ(create({{"mem_config", value}}), NIXL_ERR_BACKEND) << value;
        EXPECT_THAT(nixlx::lastError(), HasSubstr("one of auto, dram, dram_zc"));
    }
    for (const char *value : {"1", "3", "64", "1048576"}) {
        EXPECT_EQ(create({{"iopool_size", value}}), NIXL_SUCCESS) << value << " " << nixlx::lastError();
    }
}

// ---- Files ---------------------------------------------------------------------------------------------------------

TEST_F(Hf3fs, AFileThatIsNotOn3fsOrThat3fsRefusesIsNotRegistered) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const int fd = open("a");
    setFaults({.foreign = true});
    EXPECT_EQ(agent->registerMem(fileOf(fd)), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("is not on 3FS; POSIX serves it"));
    for (int error : {EBADF, EINVAL}) {
        setFaults({.file_error = error});
        EXPECT_EQ(agent->registerMem(fileOf(fd)), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("cannot be registered with 3FS: the system says"));
    }
    setFaults({});
    add(fileOf(fd));
    add(fileOf(fd)); // once more, by a descriptor of its own
    add(fileOf(1000, "rw:" + (folder / "a")));
    EXPECT_EQ(counts().files, 3);
    EXPECT_EQ(agent->deregisterMem(fileOf(fd)), NIXL_SUCCESS);
    EXPECT_EQ(counts().files, 2);
}

TEST_F(Hf3fs, ADescriptorThatTheProgramClosesLeadsToItsFileAllTheSame) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const int fd = open("mine");
    Buffer buffer(4096);
    buffer.fill(1);
    add(registrationOf({buffer.desc()}));
    add(fileOf(fd));
    ::close(fd);
    ASSERT_EQ(open("another"), fd);
    EXPECT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_SUCCESS) << sentence;
    EXPECT_EQ(contents("mine").size(), 4096u);
    EXPECT_EQ(contents("another"), "");
}

// ---- Memory --------------------------------------------------------------------------------------------------------

/// Pages that begin a file in /dev/shm, which the program has mapped.
class SharedPages {
public:
    explicit SharedPages(size_t size) : size_(size) {
        std::string path = "/dev/shm/nixl-test-XXXXXX";
        const int fd = ::mkstemp(path.data());
        if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(size)) != 0) throw std::runtime_error("cannot make " + path);
        base_ = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        ::close(fd);
        path_ = path;
    }
    ~SharedPages() {
        ::munmap(base_, size_);
        ::unlink(path_.c_str());
    }
    SharedPages(const SharedPages &) = delete;

    nixlBasicDesc
    desc(size_t offset, size_t length) const {
        return {reinterpret_cast<uintptr_t>(base_) + offset, length, 0};
    }

    std::span<unsigned char>
    bytes() const {
        return {static_cast<unsigned char *>(base_), size_};
    }

private:
    const size_t size_;
    void *base_;
    std::string path_;
};

TEST_F(Hf3fs, MemoryThat3fsCanMapIsNotCopiedAndOtherIs) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const SharedPages shared(1 << 20);
    const Buffer buffer(1 << 20);
    const int fd = open("a");
    add(fileOf(fd));
    const Counts before = counts();
    add(registrationOf({shared.desc(0, 4096)}));
    add(registrationOf({shared.desc(5000, 100000)})); // the same lent memory
    add(registrationOf({buffer.desc()}));
    EXPECT_EQ(counts().lent - before.lent, 1u);
    for (size_t i = 0; i < shared.bytes().size(); ++i) shared.bytes()[i] = static_cast<unsigned char>(i * 7 + i / 251);
    const auto places = [&](size_t size) { return listOf({{0, size, static_cast<uint64_t>(fd)}}, FILE_SEG); };
    nixlXferReqH *straight = request(NIXL_WRITE, listOf({shared.desc(5000, 100000)}), places(100000));
    EXPECT_EQ(run(straight), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_GT(counts().straight, before.straight);
    EXPECT_EQ(counts().copied, before.copied);
    const std::string file = contents("a");
    ASSERT_EQ(file.size(), 100000u);
    EXPECT_TRUE(std::equal(file.begin(), file.end(), shared.bytes().begin() + 5000,
                           [](char a, unsigned char b) { return static_cast<unsigned char>(a) == b; }));
    nixlXferReqH *copied = request(NIXL_READ, listOf({buffer.desc(1, 100000)}), places(100000));
    EXPECT_EQ(run(copied), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_GT(counts().copied, before.copied);
    EXPECT_EQ(std::memcmp(buffer.data() + 1, file.data(), file.size()), 0);
    for (nixlXferReqH *each : {straight, copied}) EXPECT_EQ(agent->releaseXferReq(each), NIXL_SUCCESS);
}

TEST_F(Hf3fs, ReplacesNoFilesAsAWhole) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    open("a");
    EXPECT_EQ(agent->registerMem(fileOf(1000, "rw,atomic:" + (folder / "a"))), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("cannot replace a file as a whole ('atomic'), POSIX can"));
    EXPECT_EQ(agent->registerMem(fileOf(1000, "rw:" + (folder / "a"))), NIXL_SUCCESS) << nixlx::lastError();
}

TEST_F(Hf3fs, WhatIsLentInVainIsCopied) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const SharedPages shared(8192);
    const int fd = open("a");
    add(fileOf(fd));
    setFaults({.wrap_error = EINVAL});
    add(registrationOf({shared.desc(0, 4096)}));
    setFaults({});
    std::filesystem::rename(mount + "/3fs-virt/iovs", mount + "/3fs-virt/gone");
    add(registrationOf({shared.desc(4096, 4096)}));
    std::filesystem::rename(mount + "/3fs-virt/gone", mount + "/3fs-virt/iovs");
    const Counts before = counts();
    nixlXferReqH *write =
        request(NIXL_WRITE, listOf({shared.desc(0, 4096), shared.desc(4096, 4096)}),
                listOf({{4096, 4096, static_cast<uint64_t>(fd)}, {0, 4096, static_cast<uint64_t>(fd)}}, FILE_SEG));
    EXPECT_EQ(run(write), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(counts().straight, before.straight);
    EXPECT_EQ(counts().copied - before.copied, 2u);
    EXPECT_EQ(contents("a").size(), 8192u);
    EXPECT_EQ(agent->releaseXferReq(write), NIXL_SUCCESS);
}

TEST_F(Hf3fs, AllIsCopiedIfThatIsWanted) {
    ASSERT_EQ(create({{"mem_config", "dram"}}), NIXL_SUCCESS) << nixlx::lastError();
    const SharedPages shared(8192);
    const Counts before = counts();
    add(registrationOf({shared.desc(0, 8192)}));
    EXPECT_EQ(counts().lent, before.lent);
}

TEST_F(Hf3fs, WithoutCopiesPagesAreExchangedAndGivenBack) {
    ASSERT_EQ(create({{"mem_config", "dram_zc"}}), NIXL_SUCCESS) << nixlx::lastError();
    Buffer buffer(64 << 10); // and its page of surplus
    buffer.fill(1);
    const int fd = open("a");
    add(fileOf(fd));
    const Counts before = counts();
    add(registrationOf({buffer.desc()}));
    add(registrationOf({buffer.desc(100, 200)}));
    EXPECT_EQ(counts().lent - before.lent, 1u);
    EXPECT_EQ(buffer.firstDifference(1), buffer.size());
    EXPECT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_SUCCESS) << sentence;
    buffer.clear();
    EXPECT_EQ(run(NIXL_READ, buffer, fd), NIXL_SUCCESS) << sentence;
    EXPECT_EQ(buffer.firstDifference(1), buffer.size());
    EXPECT_EQ(counts().copied, before.copied);
    EXPECT_GT(counts().straight, before.straight);
    EXPECT_EQ(agent->deregisterMem(registrationOf({buffer.desc()})), NIXL_SUCCESS);
    EXPECT_EQ(agent->deregisterMem(registrationOf({buffer.desc(100, 200)})), NIXL_SUCCESS);
    EXPECT_EQ(buffer.firstDifference(1), buffer.size());
    EXPECT_TRUE(std::filesystem::is_empty(mount + "/3fs-virt/iovs"));
    // What is no whole page, or not the process's own alone, is refused, and stays as it was.
    for (const nixlBasicDesc &desc : {buffer.desc(1, 4096), buffer.desc(0, 4095)}) {
        EXPECT_EQ(agent->registerMem(registrationOf({desc})), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("mem_config auto copies"));
    }
    for (const Faults &faults : {Faults{.wrap_error = EINVAL}, Faults{.wrap_error = ENOMEM}}) {
        setFaults(faults);
        EXPECT_EQ(agent->registerMem(registrationOf({buffer.desc()})), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("the memory cannot be registered with 3FS"));
    }
    EXPECT_EQ(buffer.firstDifference(1), buffer.size());
}

TEST_F(Hf3fs, AWritePostedAgainSendsTodaysBytes) {
    for (const char *mem_config : {"auto", "dram", "dram_zc"}) {
        ASSERT_EQ(create({{"mem_config", mem_config}}), NIXL_SUCCESS) << nixlx::lastError();
        Buffer buffer(64 << 10);
        const int fd = open("a");
        add(registrationOf({buffer.desc()}));
        add(fileOf(fd));
        nixlXferReqH *write = request(NIXL_WRITE, listOf({buffer.desc()}),
                                      listOf({{0, buffer.size(), static_cast<uint64_t>(fd)}}, FILE_SEG));
        for (uint64_t seed = 1; seed < 4; ++seed) {
            buffer.fill(seed);
            ASSERT_EQ(run(write), NIXL_SUCCESS) << nixlx::lastError();
            EXPECT_EQ(std::memcmp(contents("a").data(), buffer.data(), buffer.size()), 0) << mem_config << seed;
        }
        EXPECT_EQ(agent->releaseXferReq(write), NIXL_SUCCESS);
        agent.reset(); // before its memory
    }
}

// ---- Faults --------------------------------------------------------------------------------------------------------

/// With a file and a buffer that is longer than what a thread takes at once.
class Hf3fsFaults : public Hf3fs, public testing::WithParamInterface<const char *> {
protected:
    ~Hf3fsFaults() override {
        setFaults({});
        agent.reset(); // before the buffer
    }

    void
    SetUp() override {
        ASSERT_EQ(create({{"mem_config", GetParam()}}), NIXL_SUCCESS) << nixlx::lastError();
        fd = open("a");
        add(registrationOf({buffer.desc()}));
        add(fileOf(fd));
        buffer.fill(1);
        ASSERT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_SUCCESS) << sentence;
    }

    void
    expectAllMoves() {
        buffer.fill(++seed);
        EXPECT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_SUCCESS) << sentence;
        buffer.clear();
        EXPECT_EQ(run(NIXL_READ, buffer, fd), NIXL_SUCCESS) << sentence;
        EXPECT_EQ(buffer.firstDifference(seed), buffer.size());
    }

    static constexpr size_t kSize = 5 << 20;
    Buffer buffer{kSize};
    int fd = -1;
    uint64_t seed = 1;
};

INSTANTIATE_TEST_SUITE_P(Each, Hf3fsFaults, testing::Values("dram", "dram_zc"));

TEST_P(Hf3fsFaults, ShortCountsAreContinued) {
    setFaults({.short_percent = 90});
    expectAllMoves();
    setFaults({.io_error = EINTR, .error_percent = 50, .short_percent = 50, .few = true});
    expectAllMoves();
}

TEST_P(Hf3fsFaults, AReadBeyondTheEndFailsWithWhatWasThere) {
    const Buffer small(98304);
    add(registrationOf({small.desc()}));
    EXPECT_EQ(run(NIXL_READ, small, fd, kSize - 60), NIXL_ERR_BACKEND);
    EXPECT_THAT(sentence, HasSubstr("reading 98304 bytes at offset 5242820 ended after 60: the file ends there"));
    EXPECT_EQ(agent->deregisterMem(registrationOf({small.desc()})), NIXL_SUCCESS);
}

TEST_P(Hf3fsFaults, EveryErrorNamesFileOffsetWantedAndMoved) {
    for (const auto &[code, status] : {std::pair{EIO, NIXL_ERR_BACKEND},
                                       {ENOSPC, NIXL_ERR_BACKEND},
                                       {EBADF, NIXL_ERR_NOT_FOUND},
                                       {EACCES, NIXL_ERR_NOT_ALLOWED},
                                       {EINVAL, NIXL_ERR_INVALID_PARAM},
                                       {7001, NIXL_ERR_BACKEND}}) {
        for (const Faults &faults :
             {Faults{.io_error = code, .error_percent = 100}, Faults{.prep_error = code, .prep_percent = 100}}) {
            setFaults(faults);
            EXPECT_EQ(run(NIXL_WRITE, buffer, fd, 8192), status);
            EXPECT_THAT(sentence, HasSubstr(folder / "a"));
            EXPECT_THAT(sentence, HasSubstr("writing "));
            EXPECT_THAT(sentence, testing::ContainsRegex("bytes at offset [0-9]+ ended after 0: .*"));
            EXPECT_THAT(sentence, HasSubstr(std::to_string(code)));
        }
    }
    setFaults({});
    expectAllMoves();
}

TEST_P(Hf3fsFaults, ARingThatIsFullNowAndThenIsWaitedFor) {
    setFaults({.prep_error = EAGAIN, .prep_percent = 70});
    expectAllMoves();
    setFaults({.prep_error = EAGAIN, .prep_percent = 100});
    EXPECT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_ERR_BACKEND);
    EXPECT_THAT(sentence, HasSubstr("ended after 0: the system says"));
    setFaults({});
    expectAllMoves();
}

TEST_P(Hf3fsFaults, ALibraryThatFailsForGoodFailsRequestsOnceTheirMemoryIsQuiet) {
    for (const Faults &faults : {Faults{.submit_error = EIO}, Faults{.wait_error = EIO}}) {
        setFaults(faults);
        const Counts before = counts();
        nixlXferReqH *write =
            request(NIXL_WRITE, listOf({buffer.desc()}), listOf({{0, kSize, static_cast<uint64_t>(fd)}}, FILE_SEG));
        ASSERT_EQ(agent->postXferReq(write), NIXL_IN_PROG);
        if (GetParam() == std::string("dram_zc")) {
            ASSERT_TRUE(eventually([&] { return counts().straight > before.straight; }));
            // 3FS may use the memory: it is not over before the library says so.
            EXPECT_EQ(agent->releaseXferReq(write), NIXL_ERR_REPOST_ACTIVE);
            setFaults({});
            EXPECT_THAT(finish(write), testing::AnyOf(NIXL_ERR_CANCELED, NIXL_SUCCESS));
        } else {
            EXPECT_EQ(finish(write), NIXL_ERR_BACKEND);
            EXPECT_THAT(nixlx::lastError(), HasSubstr("ended after 0: the system says"));
        }
        EXPECT_EQ(agent->releaseXferReq(write), NIXL_SUCCESS);
        setFaults({});
        expectAllMoves();
    }
}

TEST_P(Hf3fsFaults, ACancelledRequestEndsWhenNothingIsInFlight) {
    setFaults({.held = true});
    nixlXferReqH *write =
        request(NIXL_WRITE, listOf({buffer.desc()}), listOf({{0, kSize, static_cast<uint64_t>(fd)}}, FILE_SEG));
    ASSERT_EQ(agent->postXferReq(write), NIXL_IN_PROG);
    ASSERT_TRUE(eventually([] { return counts().waiting > 0; }));
    EXPECT_EQ(agent->cancelXferReq(write), NIXL_SUCCESS);
    EXPECT_EQ(agent->getXferStatus(write), NIXL_IN_PROG); // its memory is in use
    EXPECT_EQ(agent->releaseXferReq(write), NIXL_ERR_REPOST_ACTIVE);
    setFaults({});
    EXPECT_THAT(finish(write), testing::AnyOf(NIXL_ERR_CANCELED, NIXL_SUCCESS));
    EXPECT_EQ(agent->releaseXferReq(write), NIXL_SUCCESS);
    expectAllMoves();
}

// ---- By chance -----------------------------------------------------------------------------------------------------

TEST_P(Hf3fsFaults, StatusAndBytesAgreeWhateverFails) {
    const int innocent = open("innocent");
    struct stat info{};
    ASSERT_EQ(::fstat(fd, &info), 0);
    add(fileOf(innocent));
    unsigned failures = 0;
    for (uint64_t round = 0; round < 60; ++round) {
        setFaults({.seed = round,
                   .only_inode = info.st_ino,
                   .prep_error = EAGAIN,
                   .prep_percent = round % 4 == 1 ? 20u : 0u,
                   .io_error = round % 2 ? EIO : 7001,
                   .error_percent = round % 3 ? 1u : 0u,
                   .short_percent = 20,
                   .few = round % 2 == 0});
        buffer.fill(round + 100);
        const unsigned before = counts().failed;
        const size_t failed = writeMixed(buffer, "innocent", innocent, "a", fd);
        const unsigned injected = counts().failed - before;
        EXPECT_EQ(failed > 0, injected > 0) << round;
        EXPECT_LE(failed, injected) << round;
        failures += failed;
    }
    EXPECT_GT(failures, 0u);
    setFaults({});
    expectAllMoves();
}

} // namespace
} // namespace nx::hf3fs
