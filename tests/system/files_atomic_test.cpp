// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a file that is registered with "atomic" is, to whoever looks at its path at any moment, a version that one
// request has written as a whole, whatever becomes of the others; none leaves anything beside it. Method: each way in
// which a request can end, over each queue; readers that look all the time; writers that are killed; the program's own
// renameat() and the like, which stand in for those of the C library, in plugins too, and can fail.
#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "support/child.h"
#include "support/temp_dir.h"
#include "system/descriptors.h"
#include "system/file_agent.h"
#include "system/held_memory.h"

namespace nx::test {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

class FilesAtomic : public FilesTest {
protected:
    /// Everything in the folder, hidden names too.
    std::vector<std::string>
    names() const {
        std::vector<std::string> found;
        for (const auto &entry : std::filesystem::directory_iterator(dir.path()))
            found.push_back(entry.path().filename());
        std::sort(found.begin(), found.end());
        return found;
    }

    using Names = std::vector<std::string>;

    const std::string path = dir / "data";
};

INSTANTIATE_TEST_SUITE_P(Posix, FilesAtomic, testing::ValuesIn(kHows), nameOf);

// ---- Calls that stand in for the C library's ------------------------------------------------------------------------

/// What is done with names and the device while it exists, in order. One at a time; calls may come from any thread.
class Calls {
public:
    explicit Calls(std::string failing = "") : failing_(std::move(failing)) {
        current = this;
    }
    ~Calls() {
        current = nullptr;
    }
    Calls(const Calls &) = delete;
    Calls &
    operator=(const Calls &) = delete;

    std::string
    all() const {
        const std::lock_guard lock(mutex_);
        return all_;
    }

    /// True: it fails, with errno.
    static bool
    note(const std::string &call) {
        Calls *const calls = current;
        if (!calls) return false;
        const std::lock_guard lock(calls->mutex_);
        calls->all_ += (calls->all_.empty() ? "" : " ") + call;
        errno = EIO;
        return call == calls->failing_;
    }

private:
    static inline std::atomic<Calls *> current{nullptr};

    const std::string failing_;
    mutable std::mutex mutex_;
    std::string all_;
};

/// So many of this one byte; empty, or where it is not so.
std::string
unlessAll(const std::string &text, size_t size, char byte) {
    if (text.size() != size) return std::to_string(text.size()) + " bytes, not " + std::to_string(size);
    const size_t at = text.find_first_not_of(byte);
    return at == text.npos ? "" : "another byte at " + std::to_string(at);
}

void
fillWith(const Buffer &memory, char byte) {
    std::memset(memory.data(), byte, memory.size());
}

ino_t
inodeOf(const std::string &path) {
    struct stat info{};
    EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
    return info.st_ino;
}

// ---- What a write does ----------------------------------------------------------------------------------------------

TEST_P(FilesAtomic, AWriteReplacesTheFileAndWhatItDoesNotWriteIsZeroOrAbsent) {
    dir.write("data", std::string(100000, 'o'));
    ASSERT_EQ(::chmod(path.c_str(), 0640), 0);
    const OpenFile reader(path, O_RDONLY); // of the old version
    const ino_t before = inodeOf(path);
    const Buffer &memory = this->memory(20);
    fillWith(memory, 'n');
    ASSERT_EQ(agent().addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(names(), Names{"data"});
    expectSuccess(agent().move(NIXL_WRITE, listOf({memory.desc(0, 10), memory.desc(10, 10)}),
                               listOf({{5, 10, 900}, {100, 10, 900}}, FILE_SEG)));
    const std::string zeros5(5, '\0'), zeros85(85, '\0'), ten(10, 'n');
    EXPECT_EQ(contentsOf(path), zeros5 + ten + zeros85 + ten);
    EXPECT_NE(inodeOf(path), before);
    struct stat info{};
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0640u);
    EXPECT_EQ(names(), Names{"data"});
    char old[6]{};
    ASSERT_EQ(::pread(*reader, old, 5, 99995), 5);
    EXPECT_STREQ(old, "ooooo");
    // What is read by us is the new version, and has its length.
    fillWith(memory, 'x');
    expectSuccess(agent().move(NIXL_READ, listOf({memory.desc(0, 10)}), listOf({{100, 10, 900}}, FILE_SEG)));
    EXPECT_EQ(memory.data()[9], 'n');
    expectFailure(agent().move(NIXL_READ, memory, 900, 100), NIXL_ERR_BACKEND, 10, {path, "the file ends there"});
}

TEST_P(FilesAtomic, TheFirstWriteMakesAFileThatMayBeMissing) {
    const Buffer &memory = this->memory(1000);
    fillWith(memory, 'n');
    EXPECT_EQ(agent().addFile(900, "rw,atomic:" + path), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), testing::AllOf(HasSubstr(path), HasSubstr("register it with 'create'")));
    const mode_t mask = ::umask(027);
    ASSERT_EQ(agent().addFile(900, "rw,atomic,create:" + path), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(names(), Names{}) << "an empty file is not what anybody wrote";
    expectFailure(agent().move(NIXL_READ, memory, 900), NIXL_ERR_NOT_FOUND, 0,
                  {path, "is not there yet, the first WRITE makes it"});
    expectSuccess(agent().move(NIXL_WRITE, listOf({memory.desc(0, 0)}), listOf({{0, 0, 900}}, FILE_SEG)));
    EXPECT_EQ(names(), Names{}) << "nothing was written";
    expectSuccess(agent().move(NIXL_WRITE, memory, 900));
    ::umask(mask);
    EXPECT_EQ(names(), Names{"data"});
    EXPECT_EQ(contentsOf(path), std::string(1000, 'n'));
    struct stat info{};
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0640u);
    fillWith(memory, 'x');
    expectSuccess(agent().move(NIXL_READ, memory, 900));
    EXPECT_EQ(memory.data()[999], 'n');
}

TEST_P(FilesAtomic, ManyFilesAndAnOrdinaryOneInARequestWithAnyWords) {
    constexpr size_t kFiles = 9, kSize = 50000;
    for (const std::string words : {"", "direct,", "noatime,sync,"}) {
        SCOPED_TRACE(words);
        for (const bool durable : {false, true}) {
            const Buffer memory(kFiles * kSize);
            const FileAgent agent(GetParam(), {{"durable", durable ? "yes" : "no"}});
            agent.add(memory);
            const size_t before = openDescriptors();
            nixl_xfer_dlist_t pieces(DRAM_SEG), places(FILE_SEG);
            nixl_reg_dlist_t files(FILE_SEG);
            for (size_t i = 0; i < kFiles; ++i) {
                const std::string folder = dir / std::to_string(i % 3);
                ::mkdir(folder.c_str(), 0755);
                const std::string atomic = i % 4 ? "atomic," : "";
                files.addDesc(
                    nixlBlobDesc(0, 0, i, "rw," + words + atomic + "create:" + folder + "/" + std::to_string(i)));
                for (const size_t part : {size_t{1}, size_t{0}}) { // back to front
                    pieces.addDesc(memory.desc(i * kSize + part * 20000, part ? 30000 : 20000));
                    places.addDesc({part * 20000, part ? size_t{30000} : size_t{20000}, i});
                }
            }
            if (agent->registerMem(files) != NIXL_SUCCESS) {
                ASSERT_THAT(nixlx::lastError(), HasSubstr("no direct I/O")); // in memory, before Linux 6.6
                continue;
            }
            for (uint64_t round = 1; round <= 2; ++round) {
                memory.fill(round);
                expectSuccess(agent.move(NIXL_WRITE, pieces, places));
                memory.clear();
                expectSuccess(agent.move(NIXL_READ, pieces, places));
                EXPECT_TRUE(memory.holds(round));
            }
            EXPECT_EQ(agent->deregisterMem(files), NIXL_SUCCESS);
            EXPECT_LE(openDescriptors(), before + 1) << "whatever waits";
            for (const char *folder : {"0", "1", "2"}) {
                for (const auto &entry : std::filesystem::directory_iterator(dir / folder)) {
                    EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path();
                    EXPECT_EQ(entry.file_size(), kSize);
                }
            }
        }
    }
}

TEST_P(FilesAtomic, ItsOwnReplacementsAreNotStaleUnderAnyIdAndThoseOfOthersAre) {
    dir.write("data", std::string(1000, '0'));
    const Buffer &memory = this->memory(1000);
    ASSERT_EQ(agent().addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(agent().addFile(901, "rw,atomic,sync:" + path), NIXL_SUCCESS) << nixlx::lastError();
    for (const char version : {'1', '2', '3'}) {
        fillWith(memory, version);
        expectSuccess(agent().move(NIXL_WRITE, memory, version == '2' ? 901 : 900));
        for (const uint64_t id : {900u, 901u}) {
            fillWith(memory, 'x');
            expectSuccess(agent().move(NIXL_READ, memory, id));
            EXPECT_EQ(memory.data()[999], version);
        }
    }
    dir.write("other", std::string(1000, 'o'));
    ASSERT_EQ(::rename((dir / "other").c_str(), path.c_str()), 0);
    for (const uint64_t id : {900u, 901u}) {
        expectFailure(agent().move(NIXL_READ, memory, id), NIXL_ERR_STALE, 0, {path, "somebody replaced it"});
    }
    // Who writes need not know what was there.
    fillWith(memory, '4');
    expectSuccess(agent().move(NIXL_WRITE, memory, 901));
    expectSuccess(agent().move(NIXL_READ, memory, 900));
    ASSERT_EQ(::unlink(path.c_str()), 0);
    expectFailure(agent().move(NIXL_READ, memory, 900), NIXL_ERR_NOT_FOUND, 0, {path});
    expectSuccess(agent().move(NIXL_WRITE, memory, 900));
    EXPECT_EQ(contentsOf(path), std::string(1000, '4'));
    EXPECT_EQ(names(), Names{"data"});
}

// ---- What others see ------------------------------------------------------------------------------------------------

TEST_P(FilesAtomic, WhoLooksAllTheTimeNeverSeesATornOrMissingFile) {
    constexpr size_t kSize = 300000, kRewrites = 200;
    dir.write("data", std::string(kSize, 'a'));
    int fds[2];
    ASSERT_EQ(::pipe(fds), 0);
    std::fflush(nullptr);
    const pid_t reader = ::fork(); // before there are threads
    if (reader == 0) {
        ::close(fds[1]);
        std::string text(kSize + 1, '\0');
        std::string seen;
        size_t looks = 0;
        pollfd over{fds[0], POLLIN, 0};
        for (; ::poll(&over, 1, 0) == 0; ++looks) {
            const int fd = ::open(path.c_str(), O_RDONLY);
            if (fd < 0) ::_exit(2);
            size_t size = 0;
            for (ssize_t part; (part = ::read(fd, text.data() + size, text.size() - size)) > 0;)
                size += static_cast<size_t>(part);
            ::close(fd);
            if (size != kSize) ::_exit(3);
            if (text.find_first_not_of(text[0]) != kSize) ::_exit(4);
            if (!seen.ends_with(text[0])) seen += text[0];
        }
        ::_exit(looks > 3 && seen.size() > 3 ? 0 : 5);
    }
    ::close(fds[0]);
    const Buffer &memory = this->memory(kSize);
    ASSERT_EQ(agent().addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    nixl_xfer_dlist_t pieces(DRAM_SEG), places(FILE_SEG);
    for (size_t at = 0; at < kSize; at += 7000) {
        const size_t length = std::min<size_t>(7000, kSize - at);
        pieces.addDesc(memory.desc(kSize - at - length, length)); // back to front
        places.addDesc({at, length, 900});
    }
    nixlXferReqH *write = agent().request(NIXL_WRITE, pieces, places);
    for (size_t i = 0; i < kRewrites; ++i) {
        fillWith(memory, static_cast<char>('a' + i % 26));
        ASSERT_EQ(agent().run(write).status, NIXL_SUCCESS);
    }
    EXPECT_EQ(agent()->releaseXferReq(write), NIXL_SUCCESS);
    ::close(fds[1]);
    int status = 0;
    ::waitpid(reader, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
        << "2: missing, 3: of another length, 4: torn, 5: the reader saw too little: " << WEXITSTATUS(status);
    EXPECT_EQ(names(), Names{"data"});
}

TEST_P(FilesAtomic, OfTwoRequestsAtOnceEachIsWhole) {
    constexpr size_t kSize = 400000, kRounds = 30;
    const Buffer &memory = this->memory(kSize), &other = this->memory(kSize), &back = this->memory(kSize);
    fillWith(memory, 'a');
    fillWith(other, 'b');
    ASSERT_EQ(agent().addFile(900, "rw,create,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    nixlXferReqH *const writes[] = {agent().request(NIXL_WRITE, memory, 900), agent().request(NIXL_WRITE, other, 900)};
    nixlXferReqH *const read = agent().request(NIXL_READ, back, 900);
    expectSuccess(agent().run(writes[0]));
    for (size_t i = 0; i < kRounds; ++i) {
        const nixl_status_t posted[] = {agent()->postXferReq(writes[i % 2]), agent()->postXferReq(writes[1 - i % 2])};
        // A reader of ours in the middle has one version from its first byte to its last.
        ASSERT_EQ(agent().run(read).status, NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(static_cast<size_t>(std::count(back.data(), back.data() + kSize, back.data()[0])), kSize);
        ASSERT_EQ(agent().finish(writes[i % 2], posted[0]), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_EQ(agent().finish(writes[1 - i % 2], posted[1]), NIXL_SUCCESS) << nixlx::lastError();
        const std::string found = contentsOf(path);
        ASSERT_EQ(unlessAll(found, kSize, found.starts_with('a') ? 'a' : 'b'), "");
        EXPECT_EQ(names(), Names{"data"});
        ASSERT_EQ(agent().run(read).status, NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_EQ(std::memcmp(back.data(), found.data(), kSize), 0);
    }
    for (nixlXferReqH *request : {writes[0], writes[1], read})
        EXPECT_EQ(agent()->releaseXferReq(request), NIXL_SUCCESS);
}

// ---- Requests that do not succeed -----------------------------------------------------------------------------------

TEST_P(FilesAtomic, AFullDiskLeavesTheOldFilesAndTheirRoom) {
    constexpr size_t kSize = size_t{4} << 20, kOld = 1000;
    const auto body = [&] {
        const Buffer memory(kSize + kOld);
        fillWith(memory, 'n');
        dir.write("data", std::string(kOld, 'o'));
        dir.write("small", std::string(kOld, 'o'));
        FileAgent agent(GetParam());
        agent.add(memory);
        ASSERT_EQ(agent.addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_EQ(agent.addFile(901, "rw,atomic:" + (dir / "small")), NIXL_SUCCESS) << nixlx::lastError();
        for (int round = 0; round < 3; ++round) {
            // The other file of the request could be replaced, and is not.
            const Outcome outcome = agent.move(NIXL_WRITE, listOf({memory.desc(kSize, kOld), memory.desc(0, kSize)}),
                                               listOf({{0, kOld, 901}, {0, kSize, 900}}, FILE_SEG));
            EXPECT_EQ(outcome.status, NIXL_ERR_BACKEND);
            EXPECT_THAT(outcome.report.error, HasSubstr("': writing")); // of the small one if that comes too late
            EXPECT_THAT(outcome.report.error, HasSubstr(std::strerror(ENOSPC)));
            EXPECT_GT(outcome.report.bytes_done, 0u);
            EXPECT_LT(outcome.report.bytes_done, kSize);
            EXPECT_EQ(names(), (Names{"data", "small"}));
            EXPECT_EQ(contentsOf(path), std::string(kOld, 'o'));
            EXPECT_EQ(contentsOf(dir / "small"), std::string(kOld, 'o'));
        }
        expectSuccess(
            agent.move(NIXL_WRITE, listOf({memory.desc(0, kSize / 8)}), listOf({{0, kSize / 8, 900}}, FILE_SEG)));
        EXPECT_EQ(unlessAll(contentsOf(path), kSize / 8, 'n'), "");
    };
    const auto reason = inChild([&] { return mountTmpfs(dir.path().string(), "size=1m"); }, body);
    if (!reason.empty()) GTEST_SKIP() << reason;
}

TEST_P(FilesAtomic, AFileSystemThatBecomesReadOnlyIsTold) {
    const auto body = [&] {
        const Buffer memory(1000);
        dir.write("data", std::string(1000, 'o'));
        FileAgent agent(GetParam());
        agent.add(memory);
        ASSERT_EQ(agent.addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_EQ(::mount("none", dir.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
        expectFailure(
            agent.move(NIXL_WRITE, memory, 900), NIXL_ERR_NOT_ALLOWED, 0,
            {"a new file for '" + path + "' cannot be made beside it", std::strerror(EROFS), "'ro:' can read it"});
        expectSuccess(agent.move(NIXL_READ, memory, 900));
        EXPECT_EQ(agent.addFile(901, "rw,atomic:" + path), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("a new file for '" + path + "' cannot be made beside it"));
        EXPECT_EQ(contentsOf(path), std::string(1000, 'o'));
    };
    const auto reason = inChild([&] { return mountTmpfs(dir.path().string(), "size=1m"); }, body);
    if (!reason.empty()) GTEST_SKIP() << reason;
}

TEST_P(FilesAtomic, RightsAreThoseToTheFolder) {
    if (::getuid() != 0) GTEST_SKIP() << "becoming another user needs root";
    const auto body = [&] {
        dir.write("data", std::string(1000, 'o'));
        ASSERT_EQ(::chmod(path.c_str(), 0444), 0); // to be read; what replaces it is another file
        ASSERT_EQ(::chmod(dir.path().c_str(), 0777), 0);
        const Buffer memory(1000);
        fillWith(memory, 'n');
        FileAgent agent(GetParam());
        agent.add(memory);
        ASSERT_EQ(::setgroups(0, nullptr), 0);
        ASSERT_EQ(::setresgid(65534, 65534, 65534), 0);
        ASSERT_EQ(::setresuid(65534, 65534, 0), 0);
        ASSERT_EQ(agent.addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
        ASSERT_EQ(::seteuid(0), 0);
        ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
        ASSERT_EQ(::setresuid(65534, 65534, 65534), 0);
        EXPECT_EQ(agent.addFile(901, "rw,atomic:" + path), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("'atomic' needs the right to write to the folder"));
        if (!GetParam().progress_thread) { // whose rights stay as they were
            expectFailure(agent.move(NIXL_WRITE, memory, 900), NIXL_ERR_NOT_ALLOWED, 0,
                          {path, std::strerror(EACCES), "'atomic' needs the right to write to the folder"});
        }
        EXPECT_EQ(contentsOf(path), std::string(1000, 'o'));
        EXPECT_EQ(names(), Names{"data"});
    };
    EXPECT_EQ(inChild(body), "");
}

TEST_P(FilesAtomic, AFolderThatIsGoneIsNotFound) {
    const std::string folder = dir / "folder", file = folder + "/data";
    ASSERT_EQ(agent().addFile(900, "rw,create,atomic:" + file), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(),
                testing::AllOf(HasSubstr("the folder of '" + file), HasSubstr(std::strerror(ENOENT)),
                               HasSubstr("make it first")));
    ASSERT_EQ(::mkdir(folder.c_str(), 0755), 0);
    const Buffer &memory = this->memory(1000);
    ASSERT_EQ(agent().addFile(900, "rw,create,atomic:" + file), NIXL_SUCCESS) << nixlx::lastError();
    expectSuccess(agent().move(NIXL_WRITE, memory, 900));
    std::filesystem::remove_all(folder);
    expectFailure(agent().move(NIXL_WRITE, memory, 900), NIXL_ERR_NOT_FOUND, 0,
                  {"the folder of '" + file, std::strerror(ENOENT)});
    ASSERT_EQ(::mkdir(folder.c_str(), 0755), 0);
    expectSuccess(agent().move(NIXL_WRITE, memory, 900));
    EXPECT_EQ(std::filesystem::file_size(file), 1000u);
    // A folder has taken the name: nothing can take it from that.
    ASSERT_EQ(::unlink(file.c_str()), 0);
    ASSERT_EQ(::mkdir(file.c_str(), 0755), 0);
    expectFailure(agent().move(NIXL_WRITE, memory, 900), NIXL_ERR_BACKEND, 1000,
                  {"for '" + file + "' cannot take its place", std::strerror(EISDIR)});
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

TEST_P(FilesAtomic, WithoutADescriptorLeftNothingIsReplacedAndNothingIsLeft) {
    constexpr size_t kFiles = 80;
    const DescriptorLimit limit(openDescriptors() + 70); // the agent has some of them
    const Buffer &memory = this->memory(kFiles);
    nixl_xfer_dlist_t pieces(DRAM_SEG), places(FILE_SEG), fewer_pieces(DRAM_SEG), fewer_places(FILE_SEG);
    for (size_t i = 0; i < kFiles; ++i) {
        ASSERT_EQ(agent().addFile(1000 + i, "rw,create,atomic:" + (dir / std::to_string(i))), NIXL_SUCCESS)
            << nixlx::lastError();
        pieces.addDesc(memory.desc(i, 1));
        places.addDesc({0, 1, 1000 + i});
        if (i % 2) fewer_pieces.addDesc(memory.desc(i, 1));
        if (i % 2) fewer_places.addDesc({0, 1, 1000 + i});
    }
    const size_t before = openDescriptors();
    for (int round = 0; round < 2; ++round) {
        const Outcome outcome = agent().move(NIXL_WRITE, pieces, places);
        EXPECT_EQ(outcome.status, NIXL_ERR_NO_MEMORY);
        EXPECT_THAT(outcome.report.error, testing::AllOf(HasSubstr(std::strerror(EMFILE)), HasSubstr("ulimit -n")));
        EXPECT_EQ(names(), Names{});
        EXPECT_LE(openDescriptors(), before + 1);
    }
    expectSuccess(agent().move(NIXL_WRITE, fewer_pieces, fewer_places));
    EXPECT_EQ(names().size(), kFiles / 2);
}

TEST_P(FilesAtomic, CancelledAtAnyMomentItIsReplacedOrAsBeforeAsTheStatusSays) {
    constexpr size_t kSize = size_t{4} << 20, kRounds = 40;
    const Buffer &memory = this->memory(kSize);
    ASSERT_EQ(agent().addFile(900, "rw,create,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    nixlXferReqH *write = agent().request(NIXL_WRITE, memory, 900);
    fillWith(memory, 'a');
    expectSuccess(agent().run(write));
    char now = 'a';
    size_t cancelled = 0;
    for (size_t round = 0; round < kRounds; ++round) {
        const char next = static_cast<char>('a' + round % 26);
        fillWith(memory, next);
        const nixl_status_t posted = agent()->postXferReq(write);
        for (size_t polls = round % 8; polls > 0; --polls) agent()->getXferStatus(write);
        ASSERT_EQ(agent()->cancelXferReq(write), NIXL_SUCCESS);
        const nixl_status_t status = agent().finish(write, posted);
        ASSERT_THAT(status, AnyOf(NIXL_SUCCESS, NIXL_ERR_CANCELED)) << nixlx::lastError();
        if (status == NIXL_SUCCESS) now = next;
        cancelled += status != NIXL_SUCCESS;
        EXPECT_EQ(unlessAll(contentsOf(path), kSize, now), "");
        EXPECT_EQ(names(), Names{"data"});
    }
    EXPECT_GT(cancelled, 0u) << "the test has cancelled nothing";
    EXPECT_EQ(agent()->releaseXferReq(write), NIXL_SUCCESS);
}

// ---- In the middle --------------------------------------------------------------------------------------------------

/// Requests that wait in their memory.
class FilesAtomicUnderWay : public FilesAtomic {
protected:
    static constexpr size_t kSize = size_t{2} << 20;

    /// Posts it and returns when somebody waits for the memory; why not, if nobody does.
    std::string
    begin(HeldMemory &held, nixlXferReqH *request) {
        if (const std::string reason = held.hold(); !reason.empty()) return reason;
        posted = agent()->postXferReq(request);
        bool is_over = false;
        eventually([&] {
            is_over = posted != NIXL_IN_PROG || agent()->getXferStatus(request) != NIXL_IN_PROG;
            return held.touched() || is_over;
        });
        return is_over ? "the queue keeps the memory, nobody waits for it" : "";
    }

    nixl_status_t posted = NIXL_IN_PROG;
};

// With the others it is the caller, or the only thread, who copies, and who would wait.
INSTANTIATE_TEST_SUITE_P(Posix, FilesAtomicUnderWay, testing::Values(kHows[1], kHows[4], kHows[5]), nameOf);

/// The same where reads, too, are those of other threads.
class FilesAtomicRead : public FilesAtomicUnderWay {};

INSTANTIATE_TEST_SUITE_P(Posix, FilesAtomicRead, testing::Values(kHows[4], kHows[5]), nameOf);

TEST_P(FilesAtomicUnderWay, TheRequestThatEndsLastWins) {
    HeldMemory held(kSize);
    held.buffer.clear();
    agent().add(held.buffer);
    const Buffer &memory = this->memory(kSize);
    fillWith(memory, 'n');
    dir.write("data", "old");
    ASSERT_EQ(agent().addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(agent().addFile(901, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    nixlXferReqH *slow = agent().request(NIXL_WRITE, held.buffer, 900);
    if (const auto reason = begin(held, slow); !reason.empty()) GTEST_SKIP() << reason;
    EXPECT_EQ(contentsOf(path), "old");
    EXPECT_EQ(names(), (Names{".data.nixl-0", "data"}));
    // Whoever registers it leaves it alone while it is held, and another request can write.
    ASSERT_EQ(agent().addFile(902, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    expectSuccess(agent().move(NIXL_WRITE, memory, 901));
    EXPECT_EQ(unlessAll(contentsOf(path), kSize, 'n'), "");
    EXPECT_EQ(names(), (Names{".data.nixl-0", "data"}));
    held.letGo();
    EXPECT_EQ(agent().finish(slow, posted), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(unlessAll(contentsOf(path), kSize, '\0'), "");
    EXPECT_EQ(names(), Names{"data"});
    expectSuccess(agent().move(NIXL_READ, memory, 902));
    EXPECT_EQ(memory.data()[0], '\0');
    EXPECT_EQ(agent()->releaseXferReq(slow), NIXL_SUCCESS);
}

TEST_P(FilesAtomicUnderWay, ADeadlineAndAReleaseLeaveTheOldFile) {
    HeldMemory held(kSize);
    held.buffer.clear();
    agent().add(held.buffer);
    dir.write("data", "old");
    ASSERT_EQ(agent().addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    nixlXferReqH *write = agent().request(NIXL_WRITE, held.buffer, 900);
    ASSERT_EQ(agent()->setXferLimits(write, {.deadline = std::chrono::milliseconds(20)}), NIXL_SUCCESS);
    if (const auto reason = begin(held, write); !reason.empty()) GTEST_SKIP() << reason;
    EXPECT_TRUE(eventually([&] {
        nixlx::Report report;
        return agent()->getXferStatus(write) != NIXL_IN_PROG ||
            (agent()->getXferReport(write, report) == NIXL_SUCCESS && report.stuck);
    }));
    EXPECT_EQ(agent()->releaseXferReq(write), NIXL_ERR_REPOST_ACTIVE);
    held.letGo();
    EXPECT_EQ(agent().finish(write, posted), NIXL_ERR_TIMEOUT);
    EXPECT_EQ(contentsOf(path), "old");
    EXPECT_EQ(names(), Names{"data"});
    EXPECT_EQ(agent()->releaseXferReq(write), NIXL_SUCCESS);
}

TEST_P(FilesAtomicRead, AReadHasTheVersionWithWhichItBegan) {
    HeldMemory held(kSize);
    held.buffer.clear();
    agent().add(held.buffer);
    const Buffer &memory = this->memory(kSize);
    dir.write("data", std::string(kSize, 'o'));
    ASSERT_EQ(agent().addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    nixlXferReqH *read = agent().request(NIXL_READ, held.buffer, 900);
    if (const auto reason = begin(held, read); !reason.empty()) GTEST_SKIP() << reason;
    fillWith(memory, 'n');
    expectSuccess(agent().move(NIXL_WRITE, memory, 900));
    held.letGo();
    EXPECT_EQ(agent().finish(read, posted), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(static_cast<size_t>(std::count(held.buffer.data(), held.buffer.data() + kSize, 'o')), kSize);
    expectSuccess(agent().run(read));
    EXPECT_EQ(static_cast<size_t>(std::count(held.buffer.data(), held.buffer.data() + kSize, 'n')), kSize);
    EXPECT_EQ(agent()->releaseXferReq(read), NIXL_SUCCESS);
}

TEST_P(FilesAtomic, AProcessThatIsKilledLeavesTheOldVersionAndAFileThatTheNextRemoves) {
    constexpr size_t kSize = size_t{1} << 20;
    size_t left = 0;
    for (int round = 0; round < 8; ++round) {
        dir.write("data", std::string(kSize, 'o'));
        std::fflush(nullptr);
        const pid_t writer = ::fork();
        if (writer == 0) {
            const Buffer memory(kSize);
            fillWith(memory, 'n');
            const FileAgent agent(GetParam());
            agent.add(memory);
            if (agent.addFile(900, "rw,atomic:" + path) != NIXL_SUCCESS) ::_exit(1);
            while (agent.move(NIXL_WRITE, memory, 900).status == NIXL_SUCCESS) {}
            ::_exit(1);
        }
        EXPECT_TRUE(eventually([&] { return std::filesystem::exists(dir / ".data.nixl-0"); }));
        ASSERT_EQ(::kill(writer, SIGKILL), 0);
        int status = 0;
        ::waitpid(writer, &status, 0);
        EXPECT_TRUE(WIFSIGNALED(status));
        const std::string found = contentsOf(path);
        EXPECT_EQ(unlessAll(found, kSize, found.starts_with('n') ? 'n' : 'o'), "");
        EXPECT_LE(names().size(), 2u);
        left += names().size() - 1;
    }
    dir.write(".data.nixl-3", "left, too");
    dir.write(".data.nixl-x", "no name of ours");
    const OpenFile held(dir.write(".data.nixl-2", "somebody's"), O_RDONLY);
    ASSERT_EQ(::flock(*held, LOCK_SH), 0);
    ASSERT_EQ(agent().addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(names(), (Names{".data.nixl-2", ".data.nixl-x", "data"}));
    EXPECT_GT(left, 0u) << "the test has not killed one in the middle";
}

/// Over threads, whose calls are those that stand in.
class FilesAtomicCalls : public FilesAtomic {};

INSTANTIATE_TEST_SUITE_P(Posix, FilesAtomicCalls, testing::Values(kHows[4], kHows[5]), nameOf);

TEST_P(FilesAtomicCalls, DurableIsTheFileBeforeItsNameAndTheFolderAfterIt) {
    const Buffer memory(1000);
    for (const bool durable : {false, true}) {
        const FileAgent agent(GetParam(), {{"durable", durable ? "yes" : "no"}});
        agent.add(memory);
        for (const std::string words : {"", "sync,"}) {
            const std::string other = dir / "other"; // of the same folder, which is synced once
            ASSERT_EQ(agent.addFile(900, "rw,create,atomic," + words + "noatime:" + path), NIXL_SUCCESS);
            ASSERT_EQ(agent.addFile(901, "rw,create,atomic," + words + "noatime:" + other), NIXL_SUCCESS);
            {
                const Calls calls;
                expectSuccess(agent.move(NIXL_WRITE, listOf({memory.desc(0, 10), memory.desc(10, 10)}),
                                         listOf({{0, 10, 900}, {0, 10, 901}}, FILE_SEG)));
                EXPECT_EQ(calls.all(),
                          durable             ? "fdatasync fdatasync renameat renameat fsync"
                              : words.empty() ? "renameat renameat"
                                              : "renameat renameat fsync");
            }
            const Calls none;
            expectSuccess(agent.move(NIXL_WRITE, listOf({memory.desc(0, 0)}), listOf({{0, 0, 900}}, FILE_SEG)));
            EXPECT_EQ(none.all(), "");
            EXPECT_EQ(std::filesystem::file_size(path), 10u) << "no byte was written";
            ASSERT_EQ(agent.removeFile(900), NIXL_SUCCESS);
            ASSERT_EQ(agent.removeFile(901), NIXL_SUCCESS);
        }
    }
}

TEST_P(FilesAtomicCalls, EachStepThatFailsIsNamed) {
    agent({{"durable", "yes"}});
    const Buffer &memory = this->memory(1000);
    dir.write("data", "old");
    ASSERT_EQ(agent().addFile(900, "rw,atomic:" + path), NIXL_SUCCESS) << nixlx::lastError();
    const std::pair<std::string, std::string> steps[] = {
        {"fdatasync", "'" + path + "' could not be made durable"},
        {"renameat", "the new file '.data.nixl-0' for '" + path + "' cannot be put in its place"},
        {"fsync", "'" + path + "' is replaced, but its name could not be made durable"},
    };
    for (const auto &[step, sentence] : steps) {
        SCOPED_TRACE(step);
        const Calls calls(step);
        expectFailure(agent().move(NIXL_WRITE, memory, 900), NIXL_ERR_BACKEND, 1000, {sentence, std::strerror(EIO)});
        EXPECT_EQ(contentsOf(path).size(), step == "fsync" ? 1000u : 3u);
        EXPECT_EQ(names(), Names{"data"});
    }
    expectSuccess(agent().move(NIXL_WRITE, memory, 900));
    expectSuccess(agent().move(NIXL_READ, memory, 900));
}

// ---- What cannot be -------------------------------------------------------------------------------------------------

TEST_P(FilesAtomic, WhatItWouldReplaceWronglyIsRefused) {
    dir.write("data", "data");
    ASSERT_EQ(::symlink(path.c_str(), (dir / "link").c_str()), 0);
    ASSERT_EQ(::mkdir((dir / "folder").c_str(), 0755), 0);
    ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0644), 0);
    const std::pair<std::string, std::string> refused[] = {
        {"ro,atomic:" + path, "'atomic' is about what is written"},
        {"rw,atomic:" + (dir / "link"), "it is a symbolic link, which 'atomic' would replace"},
        {"rw,create,atomic:" + (dir / "folder"), "is a directory"},
        {"rw,create,atomic:" + (dir / "folder/"), "is a directory"},
        {"rw,create,atomic:" + (dir / "new/"), "is a directory"},
        {"rw,create,atomic:" + (dir / "folder/.."), "is a directory"},
        {"rw,atomic:" + (dir / "pipe"), "is a pipe"},
        {"rw,atomic:/dev/null", "is a device, which 'atomic' would replace by a file"},
        {"rw,create,atomic:" + path + "/x", std::strerror(ENOTDIR)},
        {"rw,create,atomic:" + (dir / std::string(256, 'x')), std::strerror(ENAMETOOLONG)},
    };
    const auto before = names();
    for (const auto &[meta_info, why] : refused) {
        EXPECT_THAT(agent().addFile(900, meta_info), AnyOf(NIXL_ERR_BACKEND, NIXL_ERR_INVALID_PARAM)) << meta_info;
        EXPECT_THAT(nixlx::lastError(), HasSubstr(why)) << meta_info;
    }
    EXPECT_EQ(names(), before);
    EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
    // As long as names can be.
    const Buffer &memory = this->memory(10);
    const std::string longest(255, 'x');
    ASSERT_EQ(agent().addFile(900, "rw,create,atomic:" + (dir / longest)), NIXL_SUCCESS) << nixlx::lastError();
    expectSuccess(agent().move(NIXL_WRITE, memory, 900));
    EXPECT_EQ(std::filesystem::file_size(dir / longest), 10u);
}

TEST_P(FilesAtomic, ARootIsNotLeft) {
    ASSERT_EQ(::mkdir((dir / "root").c_str(), 0755), 0);
    ASSERT_EQ(::mkdir((dir / "root/folder").c_str(), 0755), 0);
    ASSERT_EQ(::mkdir((dir / "outside").c_str(), 0755), 0);
    ASSERT_EQ(::symlink((dir / "outside").c_str(), (dir / "root/link").c_str()), 0);
    agent({{"root", dir / "root"}});
    const Buffer &memory = this->memory(10);
    for (const std::string file : {"link/x", "../outside/x", "folder/../../outside/x", "/etc/x"}) {
        EXPECT_EQ(agent().addFile(900, "rw,create,atomic:" + file), NIXL_ERR_BACKEND) << file;
        EXPECT_THAT(nixlx::lastError(), HasSubstr("has to be beneath the root")) << file;
    }
    uint64_t id = 900;
    for (const std::string &file : Names{"x", "folder/x", "folder/../y", dir / "root/folder/z"}) {
        ASSERT_EQ(agent().addFile(id, "rw,create,atomic:" + file), NIXL_SUCCESS) << file << ": " << nixlx::lastError();
        expectSuccess(agent().move(NIXL_WRITE, memory, id));
        expectSuccess(agent().move(NIXL_READ, memory, id++));
    }
    // The folder becomes a way out.
    std::filesystem::remove_all(dir / "root/folder");
    ASSERT_EQ(::symlink((dir / "outside").c_str(), (dir / "root/folder").c_str()), 0);
    expectFailure(agent().move(NIXL_WRITE, memory, 901), NIXL_ERR_NOT_ALLOWED, 0, {"beneath the root"});
    EXPECT_TRUE(std::filesystem::is_empty(dir / "outside"));
}

} // namespace

bool
noteCall(const char *call) {
    return Calls::note(call);
}

} // namespace nx::test

/// Instead of the C library's.
extern "C" __attribute__((visibility("default"))) int
renameat(int from_folder, const char *from, int to_folder, const char *to) noexcept {
    if (nx::test::noteCall("renameat")) return -1;
    return static_cast<int>(::syscall(SYS_renameat2, from_folder, from, to_folder, to, 0));
}

/// Likewise.
extern "C" __attribute__((visibility("default"))) int
fdatasync(int fd) {
    return nx::test::noteCall("fdatasync") ? -1 : static_cast<int>(::syscall(SYS_fdatasync, fd));
}

/// Likewise.
extern "C" __attribute__((visibility("default"))) int
fsync(int fd) {
    return nx::test::noteCall("fsync") ? -1 : static_cast<int>(::syscall(SYS_fsync, fd));
}
