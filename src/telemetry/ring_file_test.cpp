// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: the bytes of NIXL's ring, and no file of somebody else touched. Method: plays the reader on the file, and
// plants everything in its way that a file system has.
#include "telemetry/ring_file.h"

#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <csignal>
#include <sys/stat.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "golden/golden.h"
#include "support/temp_dir.h"
#include "telemetry/buffer_exporter.h"

namespace nx::telemetry {
namespace {

using nixlx::TelemetryRingHeader;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Type = nixl_telemetry_event_type_t;

/// The file's bytes.
std::string
contents(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

TelemetryRingHeader
headerOf(const std::string &bytes) {
    TelemetryRingHeader header;
    std::memcpy(&header, bytes.data(), std::min(bytes.size(), sizeof header));
    return header;
}

template<class T>
std::string
bytesOf(const T &value) {
    return {reinterpret_cast<const char *>(&value), sizeof value};
}

mode_t
modeOf(const std::string &path) {
    struct stat info;
    return ::lstat(path.c_str(), &info) == 0 ? info.st_mode & 07777 : 0;
}

/// Takes all events like a reader: their values.
std::vector<uint64_t>
take(const std::string &path) {
    const std::string bytes = contents(path);
    auto header = headerOf(bytes);
    EXPECT_EQ(nixlx::telemetryRingProblem(header, bytes.size()), "");
    std::vector<uint64_t> values;
    for (; header.read_pos != header.write_pos; header.read_pos = (header.read_pos + 1) & header.mask) {
        uint64_t value;
        std::memcpy(&value, &bytes[nixlx::telemetryRingOffset(header.read_pos) + 8], sizeof value);
        values.push_back(value);
    }
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(offsetof(TelemetryRingHeader, read_pos));
    file.write(reinterpret_cast<const char *>(&header.read_pos), sizeof header.read_pos);
    return values;
}

/// Puts `values` as one batch; how many fitted.
size_t
put(RingFile &ring, std::initializer_list<uint64_t> values, bool expect_restart = false) {
    bool restarted = false;
    const auto begun = ring.begin(restarted);
    EXPECT_TRUE(begun.ok()) << begun.message();
    EXPECT_EQ(restarted, expect_restart);
    size_t fitted = 0;
    for (const uint64_t value : values) fitted += ring.put({Type::AGENT_TX_BYTES, value});
    const auto ended = ring.end();
    EXPECT_TRUE(ended.ok()) << ended.message();
    return fitted;
}

class TelemetryRing : public testing::Test {
protected:
    RingFile
    open(uint64_t capacity = 8, const std::string &agent = "agent") {
        auto ring = RingFile::open(folder_.path().string(), agent, capacity);
        if (!ring.ok()) throw std::runtime_error(ring.message());
        return *std::move(ring);
    }

    std::string
    refusal(const std::string &agent = "agent", uint64_t capacity = 8) {
        const auto ring = RingFile::open(folder_.path().string(), agent, capacity);
        EXPECT_FALSE(ring.ok());
        return ring.message();
    }

    const test::TempDir folder_;
    const std::string file_ = folder_ / "agent";
};

TEST_F(TelemetryRing, HasTheBytesThatNixlWrites) {
    // The recorded head is that of a ring of 4096 with one event; the rest of it is zero.
    const std::string golden = test::golden("telemetry_ring_head.bin");
    auto ring = open(4096);
    bool restarted = false;
    ASSERT_TRUE(ring.begin(restarted).ok());
    ASSERT_TRUE(ring.put({Type::AGENT_MEMORY_REGISTERED, 0x2000}));
    ASSERT_TRUE(ring.end().ok());
    const std::string ours = contents(file_);
    EXPECT_EQ(ours.size(), 40u + 4096 * 16);
    EXPECT_EQ(ours.substr(0, golden.size()), golden);
}

TEST_F(TelemetryRing, ContinuesARingThatNixlWrote) {
    std::string golden = test::golden("telemetry_ring_head.bin");
    golden.resize(40 + 4096 * 16);
    folder_.write("agent", golden);
    ASSERT_EQ(::chmod(file_.c_str(), 0644), 0);
    auto ring = open(4096);
    EXPECT_EQ(put(ring, {7}), 1u);
    EXPECT_THAT(take(file_), ElementsAre(0x2000, 7));
    EXPECT_EQ(modeOf(file_), 0600u);
}

TEST_F(TelemetryRing, IsFullWithOneSlotFreeAndGoesRound) {
    auto ring = open(4);
    EXPECT_EQ(put(ring, {1, 2, 3, 4, 5}), 3u);
    EXPECT_EQ(put(ring, {6}), 0u);
    EXPECT_THAT(take(file_), ElementsAre(1, 2, 3));
    EXPECT_EQ(put(ring, {7, 8}), 2u);
    EXPECT_EQ(put(ring, {9, 10}), 1u);
    EXPECT_THAT(take(file_), ElementsAre(7, 8, 9));
    EXPECT_EQ(headerOf(contents(file_)).write_pos, 2u);
}

TEST_F(TelemetryRing, KeepsUnreadEventsOverARestart) {
    {
        auto ring = open();
        EXPECT_EQ(put(ring, {1, 2}), 2u);
    }
    auto ring = open();
    EXPECT_EQ(put(ring, {3}), 1u);
    EXPECT_THAT(take(file_), ElementsAre(1, 2, 3));
}

TEST_F(TelemetryRing, MakesItsFolderAndFilePrivate) {
    const auto mask = ::umask(0);
    const std::string folder = folder_ / "new";
    const auto ring = RingFile::open(folder + "//", "agent", 8);
    ::umask(mask);
    ASSERT_TRUE(ring.ok()) << ring.message();
    EXPECT_EQ(modeOf(folder), 0700u);
    EXPECT_EQ(modeOf(folder + "/agent"), 0600u);
}

TEST_F(TelemetryRing, NeedsAPowerOfTwo) {
    for (const uint64_t capacity : {0, 1, 3, 4095}) {
        EXPECT_THAT(refusal("agent", capacity), HasSubstr("must be a power of two of at least 2"));
    }
    EXPECT_FALSE(std::filesystem::exists(file_));
}

TEST_F(TelemetryRing, BelongsToOneAgentAtATime) {
    auto ring = std::make_unique<RingFile>(open());
    const auto second = RingFile::open(folder_.path().string(), "agent", 8);
    EXPECT_EQ(second.code(), NIXL_ERR_NOT_ALLOWED);
    EXPECT_THAT(second.message(), HasSubstr("in use by another agent of this name"));
    // A forked child, which has the descriptor too, does not keep it.
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::close(pipe[1]);
        char byte;
        [[maybe_unused]] const auto got = ::read(pipe[0], &byte, 1);
        ::_exit(0);
    }
    ring.reset();
    EXPECT_TRUE(RingFile::open(folder_.path().string(), "agent", 8).ok());
    ::close(pipe[1]);
    ::close(pipe[0]);
    ::waitpid(child, nullptr, 0);
}

TEST_F(TelemetryRing, ReplacesRingsOfAnotherVersionOrCapacityAndEmptyFiles) {
    TelemetryRingHeader old;
    old.version = old.expected_version = 3;
    old.capacity = 8;
    old.mask = 7;
    auto broken = old;
    broken.version = TELEMETRY_VERSION;
    broken.write_pos = 8;
    for (const auto &bytes :
         {bytesOf(old) + std::string(128, 'x'), bytesOf(broken) + std::string(128, 'x'), bytesOf(old), std::string()}) {
        folder_.write("agent", bytes);
        // A reader that has the old one open keeps it as it is.
        const int reader = ::open(file_.c_str(), O_RDONLY | O_CLOEXEC);
        auto ring = open();
        EXPECT_EQ(put(ring, {1}), 1u);
        EXPECT_THAT(take(file_), ElementsAre(1));
        struct stat info;
        EXPECT_EQ(::fstat(reader, &info), 0);
        EXPECT_EQ(static_cast<size_t>(info.st_size), bytes.size());
        EXPECT_EQ(info.st_nlink, 0u);
        ::close(reader);
    }
    { auto larger = open(16); }
    EXPECT_EQ(contents(file_).size(), 40u + 16 * 16);
}

TEST_F(TelemetryRing, LeavesFilesThatAreNoRingAlone) {
    for (const std::string &bytes : {std::string("my diary"), std::string(200, 'x'), std::string(200, '\0')}) {
        folder_.write("agent", bytes);
        ASSERT_EQ(::chmod(file_.c_str(), 0640), 0);
        EXPECT_THAT(refusal(), AllOf(HasSubstr(file_), HasSubstr("it is no ring file"), HasSubstr("move it away")));
        EXPECT_EQ(contents(file_), bytes);
        EXPECT_EQ(modeOf(file_), 0640u);
    }
}

TEST_F(TelemetryRing, RefusesLinksAndEverythingThatIsNoFile) {
    const std::string target = folder_.write("target", "precious");
    ASSERT_EQ(::chmod(target.c_str(), 0640), 0);
    ASSERT_EQ(::symlink(target.c_str(), file_.c_str()), 0);
    EXPECT_THAT(refusal(), HasSubstr("it is a symbolic link"));
    ASSERT_EQ(::unlink(file_.c_str()), 0);
    ASSERT_EQ(::symlink((folder_ / "nowhere").c_str(), file_.c_str()), 0);
    EXPECT_THAT(refusal(), HasSubstr("it is a symbolic link"));
    EXPECT_FALSE(std::filesystem::exists(folder_ / "nowhere"));
    ASSERT_EQ(::unlink(file_.c_str()), 0);
    ASSERT_EQ(::link(target.c_str(), file_.c_str()), 0);
    EXPECT_THAT(refusal(), HasSubstr("it has 2 names (hard links)"));
    ASSERT_EQ(::unlink(file_.c_str()), 0);
    ASSERT_EQ(::mkfifo(file_.c_str(), 0600), 0);
    EXPECT_THAT(refusal(), HasSubstr("it is no regular file"));
    ASSERT_EQ(::unlink(file_.c_str()), 0);
    ASSERT_EQ(::mkdir(file_.c_str(), 0700), 0);
    EXPECT_THAT(refusal(), HasSubstr("open: Is a directory"));
    ASSERT_EQ(::rmdir(file_.c_str()), 0);
    EXPECT_EQ(contents(target), "precious");
    EXPECT_EQ(modeOf(target), 0640u);
}

TEST_F(TelemetryRing, RefusesFilesOfOthers) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
    { auto ring = open(); }
    ASSERT_EQ(::chown(file_.c_str(), 12345, 0), 0);
    const auto before = contents(file_);
    EXPECT_THAT(refusal(), HasSubstr("it belongs to user 12345"));
    EXPECT_EQ(contents(file_), before);
    ASSERT_EQ(::chown(folder_.path().c_str(), 12345, 0), 0);
    EXPECT_THAT(refusal("other"), HasSubstr("the folder belongs to user 12345"));
}

TEST_F(TelemetryRing, RefusesFoldersThatOthersControl) {
    EXPECT_EQ(::chmod(folder_.path().c_str(), 0777), 0);
    EXPECT_THAT(refusal(), HasSubstr("the folder can be written by others (mode 0777)"));
    EXPECT_EQ(::chmod(folder_.path().c_str(), 01777), 0);
    { auto shared = open(); }
    EXPECT_EQ(::chmod(folder_.path().c_str(), 0700), 0);

    const test::TempDir links;
    ASSERT_EQ(::symlink(folder_.path().c_str(), (links / "link").c_str()), 0);
    for (const char *end : {"", "/", "//"}) {
        EXPECT_THAT(RingFile::open(links / "link" + end, "other", 8).message(),
                    HasSubstr("no folder, or a symbolic link"));
    }
    links.write("file", "");
    EXPECT_THAT(RingFile::open(links / "file", "other", 8).message(), HasSubstr("no folder"));
    EXPECT_THAT(RingFile::open(links / "a/b", "other", 8).message(), HasSubstr("No such file or directory"));
    EXPECT_FALSE(std::filesystem::exists(folder_ / "other"));
}

TEST_F(TelemetryRing, NoNameLeavesTheFolder) {
    const std::string outside = folder_ / "ring";
    const std::string huge(4096, 'n');
    for (const std::string &agent : {std::string("../x"), std::string("/etc/x"), std::string("."), std::string(".."),
                                     std::string("a\0b", 3), std::string("a/../../b"), huge, huge + "/"}) {
        const auto ring = RingFile::open(outside, agent, 8);
        EXPECT_TRUE(ring.ok()) << ring.message();
    }
    size_t inside = 0;
    for (const auto &entry : std::filesystem::directory_iterator(outside)) inside += entry.is_regular_file();
    EXPECT_EQ(inside, 8u);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

TEST(TelemetryRingName, IsTheAgentsWhereItCanBe) {
    for (const char *plain : {"agent", "...", ".hidden", "a%2Fb", "name with blanks", "\xc3\xa4"}) {
        EXPECT_EQ(ringFileName(plain), plain);
    }
    EXPECT_EQ(ringFileName(std::string(255, 'n')), std::string(255, 'n'));
}

TEST(TelemetryRingName, IsNeverThatOfAnotherAgent) {
    EXPECT_EQ(ringFileName("a/b"), "%a%2Fb");
    EXPECT_EQ(ringFileName("%a%2Fb"), "%%25a%252Fb");
    EXPECT_EQ(ringFileName("."), "%.");
    EXPECT_EQ(ringFileName(".."), "%..");
    EXPECT_EQ(ringFileName(std::string("a\0", 2)), "%a%00");
    const auto one = ringFileName(std::string(300, 'n')), other = ringFileName(std::string(301, 'n'));
    EXPECT_EQ(one.size(), 255u);
    EXPECT_EQ(other.size(), 255u);
    EXPECT_NE(one, other);
    EXPECT_EQ(one.substr(0, 10), "%nnnnnnnnn");
    EXPECT_NE(ringFileName(one), one);
}

TEST_F(TelemetryRing, SurvivesItsFileBeingTruncatedOrOverwritten) {
    auto ring = open();
    EXPECT_EQ(put(ring, {1}), 1u);
    for (const off_t size : {0, 20, 60, 100000}) {
        ASSERT_EQ(::truncate(file_.c_str(), size), 0);
        EXPECT_EQ(put(ring, {2, 3}, true), 2u);
        EXPECT_THAT(take(file_), ElementsAre(2, 3));
    }
    {
        std::fstream file(file_, std::ios::binary | std::ios::in | std::ios::out);
        file.write("\xff\xff\xff\xff\xff\xff\xff\xff", 8);
    }
    EXPECT_EQ(put(ring, {4}, true), 1u);
    EXPECT_EQ(put(ring, {5}), 1u);
    EXPECT_THAT(take(file_), ElementsAre(4, 5));
    ASSERT_EQ(::unlink(file_.c_str()), 0);
    EXPECT_EQ(put(ring, {6}), 1u) << "nobody sees it, nothing breaks";
}

/// Stands for a full disk: the system refuses in the same places.
void
limitFileSize(rlim_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit limit;
    limit.rlim_cur = limit.rlim_max = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
}

TEST_F(TelemetryRing, EndsInASentenceWhenTheDiskIsFull) {
    EXPECT_EXIT(
        {
            limitFileSize(100);
            const auto ring = RingFile::open(folder_.path().string(), "agent", 8);
            std::fprintf(stderr, "%s\n", ring.message().c_str());
            ::_exit(std::filesystem::exists(file_) ? 2 : 0);
        },
        testing::ExitedWithCode(0), "agent' cannot be used: allocating 168 bytes: File too large");
    EXPECT_EXIT(
        {
            auto ring = open();
            limitFileSize(100);
            bool restarted = false;
            (void)ring.begin(restarted);
            for (uint64_t i = 0; i < 7; ++i) (void)ring.put({Type::AGENT_TX_BYTES, i});
            const auto status = ring.end();
            std::fprintf(stderr, "%s\n", status.message().c_str());
            ::_exit(headerOf(contents(file_)).write_pos);
        },
        testing::ExitedWithCode(0), "pwrite: File too large");
}

TEST(TelemetryRingHeader, EveryFieldIsChecked) {
    TelemetryRingHeader good;
    good.capacity = 8;
    good.mask = 7;
    const auto problem = [&](auto change, uint64_t size = 168) {
        auto header = good;
        change(header);
        return nixlx::telemetryRingProblem(header, size);
    };
    EXPECT_EQ(problem([](auto &) {}), "");
    EXPECT_THAT(problem([](auto &) {}, 39), HasSubstr("less than a header"));
    EXPECT_THAT(problem([](auto &) {}, 167), HasSubstr("it has 167 bytes"));
    EXPECT_THAT(problem([](auto &) {}, 169), HasSubstr("it has 169 bytes"));
    EXPECT_THAT(problem([](auto &h) { h.version = 5; }), HasSubstr("version is 5, not 4"));
    EXPECT_THAT(problem([](auto &h) { h.mask = 8; }), HasSubstr("mask 8"));
    EXPECT_THAT(problem([](auto &h) { h.capacity = 7; }), HasSubstr("capacity is 7"));
    EXPECT_THAT(problem([](auto &h) { h.capacity = 0, h.mask = UINT64_MAX; }), HasSubstr("capacity is 0"));
    EXPECT_THAT(problem([](auto &h) { h.capacity = uint64_t{1} << 60, h.mask = h.capacity - 1; }, 40),
                HasSubstr("capacity is 1152921504606846976"));
    EXPECT_THAT(problem([](auto &h) { h.write_pos = 8; }), HasSubstr("write 8"));
    EXPECT_THAT(problem([](auto &h) { h.read_pos = UINT64_MAX; }), HasSubstr("read 18446744073709551615"));
}

/// The exporter around the file, made as the agent makes it.
class TelemetryBufferExporter : public TelemetryRing {
protected:
    void
    SetUp() override {
        ::setenv("NIXL_TELEMETRY_DIR", folder_.path().c_str(), 1);
    }
    void
    TearDown() override {
        ::unsetenv("NIXL_TELEMETRY_DIR");
    }

    static std::unique_ptr<nixlTelemetryExporter>
    make(size_t events = 8) {
        return bufferPlugin().create_exporter({"agent", events});
    }
};

TEST_F(TelemetryBufferExporter, WritesABatchAtItsEnd) {
    auto exporter = make();
    exporter->withBatch([&] {
        EXPECT_EQ(exporter->exportEvent({Type::AGENT_RX_BYTES, 5}), NIXL_SUCCESS);
        EXPECT_THAT(take(file_), IsEmpty());
    });
    EXPECT_THAT(take(file_), ElementsAre(5));
}

TEST_F(TelemetryBufferExporter, RefusesWhatTheRingHasNoRoomFor) {
    auto exporter = make(2);
    exporter->withBatch([&] {
        EXPECT_EQ(exporter->exportEvent({Type::AGENT_RX_BYTES, 5}), NIXL_SUCCESS);
        EXPECT_EQ(exporter->exportEvent({Type::AGENT_RX_BYTES, 6}), NIXL_ERR_NO_MEMORY);
    });
    EXPECT_THAT(take(file_), ElementsAre(5));
}

TEST_F(TelemetryBufferExporter, WarnsOnceOfADamagedFile) {
    auto exporter = make();
    testing::internal::CaptureStderr();
    for (int i = 0; i < 3; ++i) {
        ASSERT_EQ(::truncate(file_.c_str(), 0), 0);
        exporter->withBatch([&] { return exporter->exportEvent({Type::AGENT_RX_BYTES, 5}); });
    }
    const auto log = testing::internal::GetCapturedStderr();
    EXPECT_THAT(log, HasSubstr("was changed by somebody else"));
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
    EXPECT_THAT(take(file_), ElementsAre(5));
}

TEST_F(TelemetryBufferExporter, TellsATakenFileFromABrokenConfiguration) {
    auto first = make();
    EXPECT_THROW(make(), nixlTelemetryBindFailed);
    first.reset();
    EXPECT_NO_THROW(make());
    EXPECT_THROW(make(3), std::runtime_error);
    ::unsetenv("NIXL_TELEMETRY_DIR");
    try {
        make();
        FAIL();
    }
    catch (const std::runtime_error &error) {
        EXPECT_THAT(error.what(), HasSubstr("NIXL_TELEMETRY_DIR is not set"));
    }
}

} // namespace
} // namespace nx::telemetry
