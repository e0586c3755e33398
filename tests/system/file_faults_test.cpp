// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: what the system refuses, and what ends in the middle, ends exactly: full disks, limits, rights, kernels without
// io_uring, I/O that is under way when its descriptor, its file or its request goes, processes and machines that end
// after a durable write. Method: a child process that does it to itself, memory in which the kernel waits
// (held_memory.h), and a file system on a loop device that is cut off.
#include <algorithm>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <memory>
#include <set>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "support/child.h"
#include "support/temp_dir.h"
#include "system/descriptors.h"
#include "system/file_agent.h"
#include "system/held_memory.h"

namespace nx::test {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

class FileFaults : public testing::TestWithParam<How> {
protected:
    const TempDir dir;
};

INSTANTIATE_TEST_SUITE_P(Posix, FileFaults, testing::ValuesIn(kHows), nameOf);

/// Bytes in a file that are not zero.
uint64_t
bytesIn(const std::string &path) {
    const std::string contents = contentsOf(path);
    return contents.size() - static_cast<size_t>(std::count(contents.begin(), contents.end(), '\0'));
}

// ---- What the system refuses ----------------------------------------------------------------------------------------

TEST_P(FileFaults, AFullDiskTakesWhatItCountsAndTakesTheRestLater) {
    constexpr size_t kSize = size_t{4} << 20, kRoom = size_t{1} << 20;
    const auto body = [&] {
        const Buffer memory(kSize);
        std::memset(memory.data(), 'x', kSize);
        const std::string ballast = dir.write("ballast", std::string(kRoom / 4, 'b'));
        FileAgent agent(GetParam());
        agent.add(memory);
        ASSERT_EQ(agent.addFile(900, "rw,create:" + (dir / "data")), NIXL_SUCCESS) << nixlx::lastError();
        nixlXferReqH *write = agent.request(NIXL_WRITE, memory, 900);
        nixl_xfer_dlist_t pieces(DRAM_SEG), places(FILE_SEG);
        for (size_t i = 0; i < kSize; i += 4096) {
            pieces.addDesc(memory.desc(i, 4000));
            places.addDesc({i, 4000, 900});
        }
        for (nixlXferReqH *request : {write, agent.request(NIXL_WRITE, pieces, places)}) {
            ASSERT_EQ(::truncate((dir / "data").c_str(), 0), 0);
            const Outcome outcome = agent.run(request);
            EXPECT_EQ(outcome.status, NIXL_ERR_BACKEND);
            EXPECT_THAT(outcome.report.error, HasSubstr(dir / "data"));
            EXPECT_THAT(outcome.report.error, HasSubstr(std::strerror(ENOSPC)));
            EXPECT_EQ(outcome.report.bytes_done, bytesIn(dir / "data"));
            EXPECT_GT(outcome.report.bytes_done, 0u);
        }
        // Room for half a MiB: exactly that can be written.
        ASSERT_EQ(::truncate((dir / "data").c_str(), 0), 0);
        ASSERT_EQ(::unlink(ballast.c_str()), 0);
        expectSuccess(
            agent.move(NIXL_WRITE, listOf({memory.desc(0, kRoom / 2)}), listOf({{0, kRoom / 2, 900}}, FILE_SEG)));
        EXPECT_EQ(bytesIn(dir / "data"), kRoom / 2);
    };
    const auto reason = inChild([&] { return mountTmpfs(dir.path().string(), "size=1m"); }, body);
    if (!reason.empty()) GTEST_SKIP() << reason;
}

TEST_P(FileFaults, AFileSizeLimitFailsAndCountsAndEndsNoProcess) {
    // The kernel cuts the write that crosses the limit, refuses the next one with EFBIG, and sends SIGXFSZ to whoever
    // made it, whose default is to end the process. A library must not be the reason for that.
    constexpr size_t kSize = 300000, kLimit = 100000;
    const auto body = [&] {
        const std::string path = dir / "data";
        const Buffer memory(kSize);
        std::memset(memory.data(), 'x', kSize);
        FileAgent agent(GetParam());
        agent.add(memory);
        ASSERT_EQ(agent.addFile(900, "rw,create:" + path), NIXL_SUCCESS) << nixlx::lastError();
        const rlimit limit{kLimit, RLIM_INFINITY};
        ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
        expectFailure(agent.move(NIXL_WRITE, memory, 900), NIXL_ERR_BACKEND, kLimit, {path, std::strerror(EFBIG)});
        EXPECT_EQ(bytesIn(path), kLimit);
        expectFailure(agent.move(NIXL_WRITE, memory, 900, kLimit), NIXL_ERR_BACKEND, 0, {path, std::strerror(EFBIG)});
        expectSuccess(agent.move(NIXL_WRITE, listOf({memory.desc(0, 1000)}), listOf({{5, 1000, 900}}, FILE_SEG)));
        sigset_t pending;
        ASSERT_EQ(::sigpending(&pending), 0);
        EXPECT_EQ(::sigismember(&pending, SIGXFSZ), 0) << "it waits for the program to unblock it";
    };
    EXPECT_EQ(inChild(body), "");
    // In memory nothing is left to the kernel's workers.
    const auto reason = inChild([&] { return mountTmpfs(dir.path().string(), ""); }, body);
    if (!reason.empty()) GTEST_SKIP() << reason;
}

TEST_P(FileFaults, WithoutADescriptorLeftAPathIsRefusedAndTheRestGoesOn) {
    const auto body = [&] {
        dir.write("one", std::string(1000, '1'));
        dir.write("two", std::string(1000, '2'));
        const Buffer memory(1000);
        FileAgent agent(GetParam());
        const OpenFile one(dir / "one", O_RDWR);
        agent.add(memory);
        // Whatever is free is taken.
        std::vector<int> taken;
        {
            const DescriptorLimit limit(openDescriptors() + 20);
            for (int fd; (fd = ::dup(*one)) >= 0;) taken.push_back(fd);
            EXPECT_EQ(agent.addFile(900, "rw:" + (dir / "two")), NIXL_ERR_BACKEND);
            EXPECT_THAT(nixlx::lastError(), HasSubstr(dir / "two"));
            EXPECT_THAT(nixlx::lastError(), HasSubstr(std::strerror(EMFILE)));
            ASSERT_EQ(agent.addFile(one.id()), NIXL_SUCCESS) << nixlx::lastError();
            expectSuccess(agent.move(NIXL_READ, memory, one.id()));
            EXPECT_EQ(memory.data()[999], '1');
            // A second agent cannot start, and says why.
            EXPECT_THROW(FileAgent(GetParam(), {}, "B"), std::runtime_error);
            for (const int fd : taken) ::close(fd);
        }
        EXPECT_EQ(agent.addFile(900, "rw:" + (dir / "two")), NIXL_SUCCESS) << nixlx::lastError();
        expectSuccess(agent.move(NIXL_READ, memory, 900));
        EXPECT_EQ(memory.data()[999], '2');
    };
    EXPECT_EQ(inChild(body), "");
}

TEST_P(FileFaults, RightsAreThoseOfTheProcess) {
    const auto body = [&] {
        dir.write("secret", "secret");
        dir.write("public", "public");
        ASSERT_EQ(::chmod((dir / "secret").c_str(), 0600), 0);
        ASSERT_EQ(::chmod((dir / "public").c_str(), 0444), 0);
        ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
        const Buffer memory(6);
        FileAgent agent(GetParam());
        agent.add(memory);
        ASSERT_EQ(::setgroups(0, nullptr), 0);
        ASSERT_EQ(::setresgid(65534, 65534, 65534), 0);
        ASSERT_EQ(::setresuid(65534, 65534, 65534), 0);
        for (const std::string &meta_info : {"ro:" + (dir / "secret"), "rw:" + (dir / "secret"),
                                             "rw:" + (dir / "public"), "rw,create:" + (dir / "new")}) {
            EXPECT_EQ(agent.addFile(900, meta_info), NIXL_ERR_BACKEND);
            EXPECT_THAT(nixlx::lastError(), HasSubstr(meta_info.substr(meta_info.find('/'))));
            EXPECT_THAT(nixlx::lastError(), HasSubstr(std::strerror(EACCES)));
        }
        ASSERT_EQ(agent.addFile(900, "ro:" + (dir / "public")), NIXL_SUCCESS) << nixlx::lastError();
        expectSuccess(agent.move(NIXL_READ, memory, 900));
        EXPECT_EQ(std::memcmp(memory.data(), "public", 6), 0);
    };
    if (::getuid() != 0) GTEST_SKIP() << "becoming another user needs root";
    EXPECT_EQ(inChild(body), "");
}

TEST_P(FileFaults, AReadOnlyFileSystemIsReadOnly) {
    const auto body = [&] {
        dir.write("data", "data");
        ASSERT_EQ(::mount("none", dir.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
        const Buffer memory(4);
        FileAgent agent(GetParam());
        agent.add(memory);
        for (const std::string &meta_info : {"rw:" + (dir / "data"), "rw,create:" + (dir / "new")}) {
            EXPECT_EQ(agent.addFile(900, meta_info), NIXL_ERR_BACKEND);
            EXPECT_THAT(nixlx::lastError(), HasSubstr(meta_info.substr(meta_info.find('/'))));
            EXPECT_THAT(nixlx::lastError(), HasSubstr(std::strerror(EROFS)));
        }
        ASSERT_EQ(agent.addFile(900, "ro:" + (dir / "data")), NIXL_SUCCESS) << nixlx::lastError();
        expectSuccess(agent.move(NIXL_READ, memory, 900));
        EXPECT_EQ(std::memcmp(memory.data(), "data", 4), 0);
    };
    const auto reason = inChild([&] { return mountTmpfs(dir.path().string(), "size=1m"); }, body);
    if (!reason.empty()) GTEST_SKIP() << reason;
}

TEST_P(FileFaults, AForkedChildIsToldAndHarmsNobody) {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "the thread sanitizer lets the child of a program with threads start none";
#endif
    const Buffer memory(1 << 20);
    FileAgent agent(GetParam());
    agent.add(memory);
    const OpenFile file(dir / "data", O_RDWR | O_CREAT);
    const std::string other = dir.write("other", "other");
    ASSERT_EQ(agent.addFile(file.id()), NIXL_SUCCESS);
    nixlXferReqH *write = agent.request(NIXL_WRITE, memory, file.id());
    for (uint64_t round = 1; round <= 10; ++round) {
        memory.fill(round);
        const nixl_status_t posted = agent->postXferReq(write); // under way, perhaps
        const pid_t child = ::fork();
        if (child == 0) {
            const bool is_told = agent->postXferReq(write) == NIXL_ERR_FORKED && agent->getXferStatus(write) < 0;
            const_cast<std::unique_ptr<nixlAgent> &>(agent.paired.agent).reset();
            // A new agent of its own works.
            const FileAgent own(GetParam(), {}, "child");
            own.add(memory);
            const bool works = own.addFile(900, "ro:" + other) == NIXL_SUCCESS &&
                own.move(NIXL_READ, listOf({memory.desc(0, 5)}), listOf({{0, 5, 900}}, FILE_SEG)).status ==
                    NIXL_SUCCESS;
            ::_exit(is_told && works ? 0 : 1);
        }
        EXPECT_EQ(agent.finish(write, posted), NIXL_SUCCESS) << nixlx::lastError();
        int status = -1;
        EXPECT_TRUE(eventually([&] { return ::waitpid(child, &status, WNOHANG) == child; }, std::chrono::seconds(20)))
            << "the child hangs";
        if (status != 0) ::kill(child, SIGKILL);
        ASSERT_EQ(status, 0);
        const Buffer back(memory.size());
        ASSERT_EQ(::pread(*file, back.data(), back.size(), 0), static_cast<ssize_t>(back.size()));
        ASSERT_TRUE(back.holds(round));
    }
    EXPECT_EQ(agent->releaseXferReq(write), NIXL_SUCCESS);
}

// ---- Kernels that refuse a queue ------------------------------------------------------------------------------------

/// This process's system calls of these numbers fail with `error`.
std::string
refuse(std::initializer_list<uint32_t> calls, int error) {
    std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
    for (const uint32_t call : calls) {
        filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1));
        filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)));
    }
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0) {
        return "";
    }
    return std::string("a filter of system calls: ") + std::strerror(errno);
}

TEST(FileQueues, WhereTheKernelRefusesOneAnotherServesUnlessItWasAskedForByName) {
    struct Case {
        const char *what;
        std::initializer_list<uint32_t> refused;
        int error;
        const char *option; ///< of the queue that cannot be had
        const char *word;   ///< in the sentence that says so
    };
    const Case cases[] = {
        {"as containers do",
         {SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register},
         EPERM,
         "use_uring",
         "io_uring"},
        {"as old kernels do",
         {SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register},
         ENOSYS,
         "use_uring",
         "io_uring"},
        {"neither of the kernel's", {SYS_io_uring_setup, SYS_io_setup}, EPERM, "use_aio", "AIO"},
    };
    for (const Case &each : cases) {
        SCOPED_TRACE(each.what);
        const TempDir dir;
        dir.write("data", "data");
        const auto body = [&] {
            PairOptions options{.backend = "POSIX", .params = {{each.option, "true"}}, .notifications = false};
            try {
                const PairedAgent refused("A", options);
                ADD_FAILURE() << "asked for by name it must not be replaced";
            }
            catch (const std::runtime_error &error) {
                EXPECT_THAT(error.what(), HasSubstr("NIXL_ERR_BACKEND"));
                EXPECT_THAT(error.what(), HasSubstr(each.word));
                EXPECT_THAT(error.what(), HasSubstr(std::strerror(each.error)));
            }
            options.params.clear();
            PairedAgent agent("A", options);
            const Buffer memory(4);
            require(agent->registerMem(registrationOf({memory.desc()})), "register");
            require(agent->registerMem(FileAgent::fileList(900, "ro:" + (dir / "data"))), "register");
            nixlXferReqH *read = nullptr;
            require(
                agent->createXferReq(NIXL_READ, listOf({memory.desc()}), listOf({{0, 4, 900}}, FILE_SEG), "A", read),
                "create");
            const nixl_status_t posted = agent->postXferReq(read);
            EXPECT_EQ(posted == NIXL_IN_PROG ? agent->waitXfer(read, kPatience) : posted, NIXL_SUCCESS);
            EXPECT_EQ(std::memcmp(memory.data(), "data", 4), 0);
            nixlx::Report report;
            require(agent->getXferReport(read, report), "report");
            EXPECT_THAT(report.path, testing::Not(HasSubstr(each.word))) << "the path names what was refused";
            EXPECT_NE(report.path, "");
            EXPECT_EQ(agent->releaseXferReq(read), NIXL_SUCCESS);
        };
        const auto reason = inChild([&] { return refuse(each.refused, each.error); }, body);
        if (!reason.empty()) GTEST_SKIP() << reason;
    }
}

// ---- Under way ------------------------------------------------------------------------------------------------------

/// A read of a file into memory in which it waits, begun.
class FilesUnderWay : public FileFaults {
protected:
    static constexpr size_t kSize = size_t{8} << 20; // many pieces, of which the first waits
    static constexpr int kNumber = 700;              // of a descriptor, which nobody else gets

    void
    SetUp() override {
        for (size_t i = 0; i < kSize; ++i) contents[i] = static_cast<char>(i / 4096 % 127 + i % 127 + 1); // no zero
        path = dir.write("data", contents);
        held = std::make_unique<HeldMemory>(kSize);
        agent = std::make_unique<FileAgent>(GetParam());
        agent->add(held->buffer);
        held->buffer.clear(); // all of it is there
    }

    void
    TearDown() override {
        if (held) held->letGo();
        agent.reset();
    }

    /// Posts it and returns when the kernel waits for the memory; why not, if it does not.
    std::string
    begin(nixlXferReqH *read) {
        if (const std::string reason = held->hold(); !reason.empty()) return reason;
        posted = (*agent)->postXferReq(read);
        EXPECT_FALSE(held->timedOut()) << "the post waited for the data";
        bool is_over = false;
        eventually([&] {
            is_over = posted != NIXL_IN_PROG || (*agent)->getXferStatus(read) != NIXL_IN_PROG;
            return held->touched() || is_over;
        });
        EXPECT_FALSE(held->timedOut()) << "a question for the status waited for the data";
        return is_over ? "the queue keeps the memory, nobody waits for it" : "";
    }

    Outcome
    end(nixlXferReqH *read) {
        held->letGo();
        Outcome outcome{agent->finish(read, posted), {}};
        require((*agent)->getXferReport(read, outcome.report), "report");
        return outcome;
    }

    /// Bytes of the file in memory. What did not arrive is zeros, anything else a failure.
    uint64_t
    arrived() const {
        const unsigned char *found = held->buffer.data();
        uint64_t count = 0;
        for (size_t i = 0; i < kSize; ++i) {
            if (found[i] == static_cast<unsigned char>(contents[i])) {
                ++count;
            } else if (found[i] != 0) {
                ADD_FAILURE() << "a foreign byte arrived at " << i;
                break;
            }
        }
        return count;
    }

    std::string contents = std::string(kSize, '\0');
    std::string path;
    std::unique_ptr<HeldMemory> held;
    std::unique_ptr<FileAgent> agent;
    nixl_status_t posted = NIXL_IN_PROG;
};

// With the others it is the caller of the post who copies, and who would wait.
INSTANTIATE_TEST_SUITE_P(Posix, FilesUnderWay, testing::Values(kHows[3], kHows[4], kHows[5]), nameOf);

TEST_P(FilesUnderWay, ACancelledReadIsFinalWhenTheKernelHasLetGoOfTheMemory) {
    ASSERT_EQ(agent->addFile(900, "ro:" + path), NIXL_SUCCESS);
    nixlXferReqH *read = agent->request(NIXL_READ, held->buffer, 900);
    if (const auto reason = begin(read); !reason.empty()) GTEST_SKIP() << reason;
    EXPECT_EQ((*agent)->cancelXferReq(read), NIXL_SUCCESS);
    EXPECT_EQ((*agent)->getXferStatus(read), NIXL_IN_PROG) << "the kernel still writes into the memory";
    EXPECT_EQ((*agent)->releaseXferReq(read), NIXL_ERR_REPOST_ACTIVE);
    EXPECT_EQ((*agent)->deregisterMem(registrationOf({held->buffer.desc()})), NIXL_ERR_REPOST_ACTIVE);
    nixlx::Report report;
    ASSERT_EQ((*agent)->getXferReport(read, report), NIXL_SUCCESS);
    EXPECT_TRUE(report.settling && report.stuck);
    const Outcome outcome = end(read);
    EXPECT_EQ(outcome.status, arrived() == kSize ? NIXL_SUCCESS : NIXL_ERR_CANCELED) << outcome.report.error;
    EXPECT_EQ(outcome.report.bytes_done, arrived());
    // Nothing arrives any more: a whole other read of the file goes through the same queue meanwhile.
    std::memset(held->buffer.data(), 0x5a, kSize);
    const Buffer other(kSize);
    agent->add(other);
    expectSuccess(agent->move(NIXL_READ, other, 900));
    EXPECT_EQ(std::memcmp(other.data(), contents.data(), kSize), 0);
    EXPECT_EQ(std::count(held->buffer.data(), held->buffer.data() + kSize, 0x5a), static_cast<ptrdiff_t>(kSize));
    EXPECT_EQ((*agent)->releaseXferReq(read), NIXL_SUCCESS);
    agent.reset();
}

TEST_P(FilesUnderWay, ADeadlineEndsAReadWhenTheKernelHasLetGoOfTheMemory) {
    ASSERT_EQ(agent->addFile(900, "ro:" + path), NIXL_SUCCESS);
    nixlXferReqH *read = agent->request(NIXL_READ, held->buffer, 900);
    ASSERT_EQ((*agent)->setXferLimits(read, {.deadline = std::chrono::milliseconds(20)}), NIXL_SUCCESS);
    if (const auto reason = begin(read); !reason.empty()) GTEST_SKIP() << reason;
    EXPECT_TRUE(eventually([&] {
        nixlx::Report report;
        return (*agent)->getXferStatus(read) != NIXL_IN_PROG ||
            ((*agent)->getXferReport(read, report) == NIXL_SUCCESS && report.stuck);
    }));
    EXPECT_EQ((*agent)->getXferStatus(read), NIXL_IN_PROG);
    const Outcome outcome = end(read);
    EXPECT_EQ(outcome.status, arrived() == kSize ? NIXL_SUCCESS : NIXL_ERR_TIMEOUT) << outcome.report.error;
    EXPECT_EQ((*agent)->releaseXferReq(read), NIXL_SUCCESS);
}

TEST_P(FilesUnderWay, AFileCutMeanwhileEndsTheReadWithWhatWasThere) {
    ASSERT_EQ(agent->addFile(900, "ro:" + path), NIXL_SUCCESS);
    nixlXferReqH *read = agent->request(NIXL_READ, held->buffer, 900);
    if (const auto reason = begin(read); !reason.empty()) GTEST_SKIP() << reason;
    ASSERT_EQ(::truncate(path.c_str(), 10000), 0);
    const Outcome outcome = end(read);
    // The pieces behind the end may have been read before the cut, or be zeros by now: the system says how many came.
    if (outcome.status != NIXL_SUCCESS) {
        EXPECT_EQ(outcome.status, NIXL_ERR_BACKEND);
        EXPECT_THAT(outcome.report.error, HasSubstr(path));
    }
    EXPECT_GE(outcome.report.bytes_done, arrived());
    EXPECT_EQ((*agent)->releaseXferReq(read), NIXL_SUCCESS);
    expectFailure(agent->move(NIXL_READ, held->buffer, 900), NIXL_ERR_BACKEND, 10000, {path});
}

TEST_P(FilesUnderWay, ADescriptorClosedMeanwhileReachesNoOtherFile) {
    // The program closes what it registered, and another file gets the number.
    dir.write("innocent", std::string(kSize, 'i'));
    OpenFile data(path, O_RDWR, kNumber);
    const uint64_t id = data.id();
    ASSERT_EQ(agent->addFile(id), NIXL_SUCCESS);
    nixlXferReqH *read = agent->request(NIXL_READ, held->buffer, id);
    if (const auto reason = begin(read); !reason.empty()) GTEST_SKIP() << reason;
    data.close();
    const OpenFile innocent(dir / "innocent", O_RDWR, kNumber);
    ASSERT_EQ(innocent.id(), id);
    const Outcome outcome = end(read);
    EXPECT_EQ(outcome.report.bytes_done, arrived());
    if (outcome.status != NIXL_SUCCESS) {
        EXPECT_THAT(outcome.status, AnyOf(NIXL_ERR_NOT_FOUND, NIXL_ERR_STALE));
        EXPECT_THAT(outcome.report.error, HasSubstr(std::to_string(id)));
    }
    EXPECT_EQ((*agent)->releaseXferReq(read), NIXL_SUCCESS);
}

TEST_P(FilesUnderWay, ADescriptorClosedDuringAWriteLeavesOtherFilesAlone) {
    dir.write("innocent", std::string(kSize, 'i'));
    for (int round = 0; round < 20; ++round) {
        OpenFile data(path, O_RDWR, kNumber);
        const uint64_t id = data.id();
        ASSERT_EQ(agent->addFile(id), NIXL_SUCCESS);
        nixlXferReqH *write = agent->request(NIXL_WRITE, held->buffer, id);
        const nixl_status_t now = (*agent)->postXferReq(write);
        data.close();
        const OpenFile innocent(dir / "innocent", O_RDWR, kNumber);
        ASSERT_EQ(innocent.id(), id);
        const nixl_status_t status = agent->finish(write, now);
        EXPECT_THAT(status, AnyOf(NIXL_SUCCESS, NIXL_ERR_NOT_FOUND, NIXL_ERR_STALE));
        EXPECT_EQ((*agent)->releaseXferReq(write), NIXL_SUCCESS);
        EXPECT_EQ(agent->removeFile(id), NIXL_SUCCESS);
        ASSERT_TRUE(contentsOf(dir / "innocent") == std::string(kSize, 'i')) << "was written in round " << round;
    }
}

// ---- Durable --------------------------------------------------------------------------------------------------------

constexpr size_t kRecord = 64 << 10;
constexpr size_t kRecords = 32; // in the file, written again and again

/// Writes record after record, durable, and tells of each that is done, until it is killed. One place after the other,
/// or, if the words say "atomic", each in place of the one before.
[[noreturn]] void
writeUntilKilled(const How &how, const std::string &words, const std::string &path, int tell) {
    const Buffer memory(kRecord);
    const FileAgent agent(how, {{"durable", "yes"}});
    agent.add(memory);
    require(agent.addFile(900, "rw,create" + words + ":" + path), "register");
    for (uint64_t i = 0;; ++i) {
        memory.fill(i + 1);
        const Outcome outcome = agent.move(NIXL_WRITE, memory, 900, words.empty() ? i % kRecords * kRecord : 0);
        if (outcome.status != NIXL_SUCCESS) throw std::runtime_error(outcome.report.error);
        if (::write(tell, &i, sizeof i) != sizeof i) throw std::runtime_error("nobody listens");
    }
}

/// Starts a writer, kills it after `count` records were done, and returns how many those were in the end.
uint64_t
killAfter(uint64_t count, const How &how, const std::string &path, const std::string &words = "") {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    std::fflush(nullptr);
    const pid_t pid = ::fork();
    if (pid == 0) {
        try {
            writeUntilKilled(how, words, path, fds[1]);
        }
        catch (const std::exception &error) {
            std::fprintf(stderr, "the writer: %s\n", error.what());
        }
        ::_exit(1);
    }
    ::close(fds[1]);
    uint64_t last = 0, done = 0;
    while (::read(fds[0], &last, sizeof last) == sizeof last) {
        done = last + 1;
        if (done == count) ::kill(pid, SIGKILL);
    }
    ::close(fds[0]);
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return done;
}

/// Each record is there that was said to be. Only the one that was being written when the process was killed may be
/// the old one, the new one or a mixture.
void
expectRecords(const std::string &path, uint64_t done) {
    const std::string contents = contentsOf(path);
    const Buffer record(kRecord);
    for (uint64_t i = done > kRecords ? done - kRecords : 0; i < done; ++i) {
        if (i % kRecords == done % kRecords) continue;
        ASSERT_GE(contents.size(), (i % kRecords + 1) * kRecord) << "record " << i << " of " << done;
        record.fill(i + 1);
        ASSERT_EQ(std::memcmp(contents.data() + i % kRecords * kRecord, record.data(), kRecord), 0)
            << "record " << i << " of " << done << " is lost";
    }
}

/// The last version that was said to be there, or the one that was being written then, is, as a whole.
void
expectVersion(const std::string &path, uint64_t done) {
    const std::string contents = contentsOf(path);
    ASSERT_EQ(contents.size(), kRecord);
    const Buffer record(kRecord);
    const auto holds = [&](uint64_t seed) {
        record.fill(seed);
        return std::memcmp(contents.data(), record.data(), kRecord) == 0;
    };
    EXPECT_TRUE(holds(done) || holds(done + 1)) << "version " << done << " is lost, or the file is torn";
}

TEST_P(FileFaults, DurableWritesAreOutOfThePageCacheWhenTheyAreDone) {
    struct {
        uint64_t offset, length;
    } range{0, 0};
    struct {
        uint64_t cached, dirty, written_back, evicted, recently_evicted;
    } pages{};
    constexpr long kCacheStat = 451;
    {
        const OpenFile probe(dir.write("probe", "x"), O_RDWR);
        if (::syscall(kCacheStat, *probe, &range, &pages, 0) != 0) {
            GTEST_SKIP() << "the kernel does not tell of its page cache: " << std::strerror(errno);
        }
        if (pages.dirty == 0) GTEST_SKIP() << "in " << dir.path() << " no page is dirty after a write";
        ::fsync(*probe);
        ::syscall(kCacheStat, *probe, &range, &pages, 0);
        if (pages.dirty != 0) GTEST_SKIP() << "in " << dir.path() << " pages are dirty even after fsync";
    }
    const Buffer memory(1 << 20);
    const FileAgent agent(GetParam(), {{"durable", "yes"}});
    agent.add(memory);
    const OpenFile file(dir / "data", O_RDWR | O_CREAT);
    ASSERT_EQ(agent.addFile(file.id()), NIXL_SUCCESS);
    for (uint64_t i = 1; i <= 5; ++i) {
        memory.fill(i);
        expectSuccess(agent.move(NIXL_WRITE, memory, file.id(), i << 19)); // halves overwritten, halves new
        ASSERT_EQ(::syscall(kCacheStat, *file, &range, &pages, 0), 0);
        EXPECT_EQ(pages.dirty, 0u) << "write " << i;
        EXPECT_EQ(pages.written_back, 0u) << "write " << i;
    }
}

TEST_P(FileFaults, DurableWritesOutliveTheProcess) {
    for (const uint64_t count : {1u, 40u, 100u}) {
        const std::string path = dir / std::to_string(count);
        const uint64_t done = killAfter(count, GetParam(), path);
        EXPECT_GE(done, count);
        // The pages that are clean leave the cache: what is read then comes from the disk.
        const OpenFile file(path, O_RDONLY);
        EXPECT_EQ(::posix_fadvise(*file, 0, 0, POSIX_FADV_DONTNEED), 0);
        expectRecords(path, done);
    }
}

/// A block device of 64 MiB over a file "disk" of the folder. Throws std::runtime_error where there can be none.
class LoopDevice {
public:
    static constexpr uint64_t kSize = 64 << 20;

    explicit LoopDevice(const TempDir &dir) {
        const OpenFile file(dir.write("disk", ""), O_RDWR);
        const OpenFile control("/dev/loop-control", O_RDWR);
        const int number = ::ioctl(*control, LOOP_CTL_GET_FREE);
        if (number < 0 || ::ftruncate(*file, kSize) != 0) throw std::runtime_error("no loop device is free");
        path_ = "/dev/loop" + std::to_string(number);
        device_ = std::make_unique<OpenFile>(path_, O_RDWR);
        loop_info64 info{};
        info.lo_flags = LO_FLAGS_AUTOCLEAR;
        if (::ioctl(**device_, LOOP_SET_FD, *file) != 0) throw std::runtime_error("LOOP_SET_FD");
        ::ioctl(**device_, LOOP_SET_STATUS64, &info);
    }

    const std::string &
    path() const noexcept {
        return path_;
    }

    uint64_t
    id() const noexcept {
        return device_->id();
    }

    /// What is written is in the file.
    void
    flush() const {
        if (::fsync(static_cast<int>(id())) != 0) throw std::runtime_error("fsync " + path_);
    }

private:
    std::string path_;
    std::unique_ptr<OpenFile> device_;
};

class BlockDevices : public FilesTest {};

INSTANTIATE_TEST_SUITE_P(Posix, BlockDevices, testing::ValuesIn(kHows), nameOf);

TEST_P(BlockDevices, TakeAndGiveBlocksByPathAndByDescriptor) {
    std::unique_ptr<LoopDevice> device;
    try {
        device = std::make_unique<LoopDevice>(dir);
    }
    catch (const std::runtime_error &error) {
        GTEST_SKIP() << "a loop device: " << error.what();
    }
    const auto listAt = [](uint64_t id, uint64_t offset, size_t size) { return listOf({{offset, size, id}}, BLK_SEG); };
    constexpr size_t kPart = (size_t{3} << 20) + 512;
    const Buffer &whole = memory(LoopDevice::kSize), &part = memory(kPart, 1), &beyond = memory(8192);
    for (const auto &[id, meta_info] : {std::pair<uint64_t, std::string>{70000, "rw:" + device->path()},
                                        {70001, "rw,direct:" + device->path()},
                                        {device->id(), ""}}) {
        SCOPED_TRACE(meta_info);
        nixl_reg_dlist_t registration(BLK_SEG);
        registration.addDesc(nixlBlobDesc(0, LoopDevice::kSize, id, meta_info));
        ASSERT_EQ(agent()->registerMem(registration), NIXL_SUCCESS) << nixlx::lastError();
        whole.fill(id);
        expectSuccess(agent().move(NIXL_WRITE, listOf({whole.desc()}), listAt(id, 0, LoopDevice::kSize)));
        expectSuccess(agent().move(NIXL_READ, listOf({part.desc()}), listAt(id, 5 * 512 + 100, kPart)));
        EXPECT_EQ(std::memcmp(part.data(), whole.data() + 5 * 512 + 100, kPart), 0);
        part.fill(id + 1);
        expectSuccess(agent().move(NIXL_WRITE, listOf({part.desc()}), listAt(id, 7 * 512, kPart)));
        device->flush();
        const std::string disk = contentsOf(dir / "disk");
        ASSERT_EQ(disk.size(), LoopDevice::kSize);
        EXPECT_EQ(std::memcmp(disk.data() + 7 * 512, part.data(), kPart), 0);
        EXPECT_EQ(std::memcmp(disk.data() + 7 * 512 + kPart, whole.data() + 7 * 512 + kPart,
                              LoopDevice::kSize - 7 * 512 - kPart),
                  0);
        nixlXferReqH *made = nullptr;
        EXPECT_EQ(agent()->createXferReq(NIXL_READ, listOf({beyond.desc()}), listAt(id, LoopDevice::kSize - 4096, 8192),
                                         "A", made),
                  NIXL_ERR_NOT_FOUND)
            << "it ends before";
        EXPECT_EQ(agent()->deregisterMem(registration), NIXL_SUCCESS) << nixlx::lastError();
    }
}

/// A file system of its own on a loop device, to be cut off as by a loss of power.
class CutDisk {
public:
    CutDisk(const TempDir &dir, const std::string &mount_point) : mount_point_(mount_point), loop_(dir) {
        const std::string make = "mkfs.ext4 -q -F " + loop_.path() + " >/dev/null 2>&1";
        if (std::system(make.c_str()) != 0) throw std::runtime_error("there is no mkfs.ext4");
        ::mkdir(mount_point.c_str(), 0755);
        mount();
    }
    ~CutDisk() {
        ::umount2(mount_point_.c_str(), MNT_DETACH);
    }
    CutDisk(const CutDisk &) = delete;
    CutDisk &
    operator=(const CutDisk &) = delete;

    /// Nothing that is in memory reaches the disk any more; then the machine starts again.
    void
    cut() {
        {
            const OpenFile root(mount_point_, O_RDONLY);
            const uint32_t without_log = 2; // EXT4_GOING_FLAGS_NOLOGFLUSH
            if (::ioctl(*root, _IOR('X', 125, uint32_t), &without_log) != 0) {
                throw std::runtime_error(std::string("EXT4_IOC_SHUTDOWN: ") + std::strerror(errno));
            }
        }
        // The kernel may still be putting away the writer that was killed.
        if (!eventually([this] { return ::umount(mount_point_.c_str()) == 0; })) throw std::runtime_error("umount");
        mount();
    }

private:
    void
    mount() const {
        if (::mount(loop_.path().c_str(), mount_point_.c_str(), "ext4", 0, nullptr) != 0) {
            throw std::runtime_error("mount " + loop_.path() + ": " + std::strerror(errno));
        }
    }

    const std::string mount_point_;
    const LoopDevice loop_;
};

TEST_P(FileFaults, DurableWritesOutliveALossOfPower) {
    std::unique_ptr<CutDisk> disk;
    const auto prepare = [&]() -> std::string {
        if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
            return std::string("a file system of the test's own: ") + std::strerror(errno);
        }
        try {
            disk = std::make_unique<CutDisk>(dir, dir / "mounted");
            // What is not durable is lost: else the test would show nothing.
            std::ofstream(dir / "mounted/not durable") << "not durable" << std::flush;
            disk->cut();
        }
        catch (const std::runtime_error &error) {
            return std::string("a file system of the test's own: ") + error.what();
        }
        if (std::filesystem::exists(dir / "mounted/not durable") && bytesIn(dir / "mounted/not durable") > 0) {
            return "the file system does not lose what was not durable";
        }
        return "";
    };
    const auto body = [&] {
        for (const uint64_t count : {3u, 50u}) {
            const std::string path = dir / "mounted/data" + std::to_string(count);
            const uint64_t done = killAfter(count, GetParam(), path);
            disk->cut();
            ASSERT_TRUE(std::filesystem::exists(path));
            expectRecords(path, done);
            const std::string whole = dir / "mounted/whole" + std::to_string(count);
            const uint64_t versions = killAfter(count, GetParam(), whole, ",atomic");
            disk->cut();
            ASSERT_TRUE(std::filesystem::exists(whole));
            expectVersion(whole, versions);
        }
        disk.reset();
    };
    const auto reason = inChild(prepare, body);
    if (!reason.empty()) GTEST_SKIP() << reason;
}

} // namespace
} // namespace nx::test
