// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a peer sees a window exactly while it is open, whole or not at all, and cannot change the board; what is no
// board is refused.
// Method: both sides in one process, a child that reads; every way to write that the system offers.
#include "shm/board.h"

#include <atomic>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "support/eventually.h"
#include "support/temp_dir.h"

namespace nx::shm {
namespace {

using kit::WindowKey;

constexpr uint32_t kLastGeneration = UINT32_MAX / 2;
constexpr uint64_t kKept = 4096; // closed windows whose entries wait for the same window

class BoardOfPeer : public testing::Test {
protected:
    BoardOfPeer() : board_(Board::create()), board(**board_), peer_(PeerBoard::map(descriptor())), peer(**peer_) {}

    Fd
    descriptor() const {
        return Fd(::dup(board.descriptor()));
    }

    WindowKey
    open(const WindowInfo &window) const {
        const auto key = board.open(window);
        EXPECT_TRUE(key.ok()) << key.message();
        return *key;
    }

    /// After this and another one a new window takes the entry of the closed one with the smallest address.
    void
    useEntriesUp() const {
        for (uint64_t i = 1; i < kKept; ++i) board.close(open({.address = i << 30, .length = 1}));
    }

    /// The entries as the owner has them in its memory.
    BoardEntry *
    entries() const {
        std::ifstream maps("/proc/self/maps");
        for (std::string line; std::getline(maps, line);) {
            if (line.find("nixl-shm-board") == std::string::npos || line.find("rw-s") == std::string::npos) continue;
            return reinterpret_cast<BoardEntry *>(std::stoull(line, nullptr, 16) + 4096);
        }
        return nullptr;
    }

private:
    const Result<std::unique_ptr<Board>> board_;

protected:
    Board &board;

private:
    const Result<std::unique_ptr<PeerBoard>> peer_;

protected:
    const PeerBoard &peer;
};

TEST_F(BoardOfPeer, ShowsAWindowWhileItIsOpen) {
    const WindowInfo window{.address = 0x1000, .length = 0x100, .device = 3, .block = 5, .offset = 7};
    const WindowKey key = open(window);
    EXPECT_EQ(peer.look(key), window);
    EXPECT_FALSE(peer.look({key.id, key.generation + 1}));
    EXPECT_FALSE(peer.look({key.id + 1, key.generation}));
    EXPECT_TRUE(board.close(key));
    EXPECT_FALSE(peer.look(key));
    EXPECT_FALSE(peer.allows(key, 0x1000, 1));
    EXPECT_FALSE(board.close(key)) << "it is closed already";
}

TEST_F(BoardOfPeer, AWindowThatIsShutCanBeReopenedOrForgotten) {
    const WindowInfo window{.address = 0x1000, .length = 0x100};
    const WindowKey key = open(window);
    EXPECT_TRUE(board.shut(key));
    EXPECT_FALSE(peer.look(key));
    EXPECT_FALSE(board.shut(key)) << "it is";
    board.reopen(key);
    EXPECT_EQ(peer.look(key), window);
    board.reopen(key);
    board.forget(key);
    EXPECT_EQ(peer.look(key), window) << "nobody has shut it";
    EXPECT_TRUE(board.shut(key));
    board.forget(key);
    EXPECT_FALSE(peer.look(key));
    board.reopen(key);
    EXPECT_FALSE(peer.look(key)) << "it is forgotten";
    EXPECT_EQ(open(window), key);
}

TEST_F(BoardOfPeer, AWindowThatIsShutKeepsItsPlace) {
    const WindowInfo window{.address = 1, .length = 1};
    const WindowKey key = open(window);
    ASSERT_TRUE(board.shut(key));
    useEntriesUp();
    for (uint64_t i = 1; i < 3; ++i) EXPECT_NE(open({.address = i << 50, .length = 1}).id, key.id);
    board.reopen(key);
    EXPECT_EQ(peer.look(key), window);
}

TEST_F(BoardOfPeer, WhoOpensAWindowThatAnotherHasShutHasIt) {
    const WindowInfo window{.address = 0x1000, .length = 0x100};
    const WindowKey key = open(window);
    ASSERT_TRUE(board.shut(key));
    EXPECT_EQ(open(window), key);
    EXPECT_EQ(peer.look(key), window);
    board.forget(key); // the first
    EXPECT_EQ(peer.look(key), window);
    EXPECT_TRUE(board.close(key));
    EXPECT_FALSE(peer.look(key));
}

TEST_F(BoardOfPeer, AllowsWhatLiesInside) {
    const WindowKey key = open({.address = 0x1000, .length = 0x100});
    EXPECT_TRUE(peer.allows(key, 0x1000, 0x100));
    EXPECT_TRUE(peer.allows(key, 0x10ff, 1));
    EXPECT_TRUE(peer.allows(key, 0x1100, 0));
    EXPECT_FALSE(peer.allows(key, 0x0fff, 1));
    EXPECT_FALSE(peer.allows(key, 0x1000, 0x101));
    EXPECT_FALSE(peer.allows(key, 0x1100, 1));
    EXPECT_FALSE(peer.allows(key, 0x1001, UINT64_MAX));
    EXPECT_FALSE(peer.allows(key, UINT64_MAX, 2));
    const WindowKey top = open({.address = UINT64_MAX - 9, .length = 10});
    EXPECT_TRUE(peer.allows(top, UINT64_MAX - 9, 10));
    EXPECT_FALSE(peer.allows(top, UINT64_MAX, 2));
    EXPECT_FALSE(peer.allows(top, 0, 1)) << "it wraps";
}

TEST_F(BoardOfPeer, NoKeyIsAnotherPlaceInMemory) {
    (void)open({.address = 0x1000, .length = 0x100});
    for (const uint32_t id : {kWindowsMax - 1, kWindowsMax, kWindowsMax + 1, UINT32_MAX}) {
        for (const uint32_t generation : {uint32_t{0}, uint32_t{1}, kLastGeneration, UINT32_MAX}) {
            EXPECT_FALSE(peer.look({id, generation})) << id;
        }
    }
}

TEST_F(BoardOfPeer, TheSameRangeIsTheSameWindowAndClosedAsOften) {
    const WindowInfo window{.address = 0x1000, .length = 0x100};
    const WindowKey key = open(window);
    EXPECT_EQ(open(window), key);
    EXPECT_FALSE(board.close(key));
    EXPECT_TRUE(peer.look(key));
    EXPECT_TRUE(board.close(key));
    EXPECT_FALSE(peer.look(key));
    EXPECT_EQ(open(window), key) << "as before it was closed";
    WindowInfo other = window;
    other.block = 1;
    EXPECT_NE(open(other), key) << "the same range in another place";
}

TEST_F(BoardOfPeer, AnEntryThatIsUsedAgainHasAnotherKey) {
    const WindowKey first = open({.address = 0x1000, .length = 0x100});
    board.close(first);
    useEntriesUp();
    const WindowKey second = open({.address = 0x2000, .length = 0x100});
    ASSERT_EQ(second.id, first.id);
    EXPECT_NE(second.generation, first.generation);
    EXPECT_FALSE(peer.look(first));
    EXPECT_TRUE(peer.allows(second, 0x2000, 0x100));
    EXPECT_NE(open({.address = 0x1000, .length = 0x100}).id, first.id);
}

TEST_F(BoardOfPeer, AnEntryIsNotUsedAgainAfterItsLastGeneration) {
    const WindowKey first = open({.address = 0x1000, .length = 0x100});
    board.close(first);
    useEntriesUp();
    BoardEntry *const entry = entries() + first.id;
    ASSERT_EQ(entry->state, 2 * first.generation);
    entry->state = 2 * (kLastGeneration - 1);
    const WindowKey last = open({.address = 0x2000, .length = 0x100});
    ASSERT_EQ(last, (WindowKey{first.id, kLastGeneration}));
    EXPECT_TRUE(peer.look(last));
    EXPECT_TRUE(board.close(last));
    EXPECT_FALSE(peer.look(last));
    for (uint64_t i = 0; i < 3; ++i) EXPECT_NE(open({.address = 0x2000 + i, .length = 0x100}).id, first.id);
}

TEST_F(BoardOfPeer, AllCanBeClosedAtOnce) {
    const WindowKey one = open({.address = 0x1000, .length = 0x100}), two = open({.address = 0x2000, .length = 0x100});
    board.closeAll();
    EXPECT_FALSE(peer.look(one));
    EXPECT_FALSE(peer.look(two));
    EXPECT_FALSE(board.close(one));
}

TEST_F(BoardOfPeer, AReaderSeesAWindowWholeOrNotAtAll) {
    board.close(open({.address = 1, .length = 1}));
    useEntriesUp();
    std::atomic<uint64_t> key{0};
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> seen{0}, torn{0};
    std::jthread reader([&] {
        while (!stop) {
            const uint64_t now = key;
            const auto window = peer.look({static_cast<uint32_t>(now >> 32), static_cast<uint32_t>(now)});
            if (!window) continue;
            ++seen;
            const uint64_t a = window->address;
            torn +=
                window->length != a + 1 || window->device != a + 2 || window->block != a + 3 || window->offset != a + 4;
        }
    });
    uint32_t id = 0;
    for (uint64_t i = 2; i < 30000 || seen == 0; ++i) {
        const WindowKey opened =
            open({.address = i, .length = i + 1, .device = i + 2, .block = i + 3, .offset = i + 4});
        id = opened.id;
        key = uint64_t{opened.id} << 32 | opened.generation;
        board.close(opened);
        if (i % 64 == 0) std::this_thread::yield();
    }
    stop = true;
    reader.join();
    EXPECT_EQ(id, 0u) << "always the same entry";
    EXPECT_EQ(torn, 0u);
}

// ---- Another process -----------------------------------------------------------------------------------------------

TEST_F(BoardOfPeer, AChildSeesWhatHappensAfterItHasMapped) {
    int up[2], down[2];
    ASSERT_EQ(::pipe2(up, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(down, O_CLOEXEC), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        auto mapped = PeerBoard::map(Fd(::dup(board.descriptor())));
        WindowKey key;
        char byte = 0;
        if (!mapped.ok() || ::write(up[1], "m", 1) != 1) ::_exit(1);
        if (::read(down[0], &key, sizeof key) != sizeof key) ::_exit(2);
        if (!(*mapped)->allows(key, 0x5000, 0x10)) ::_exit(3);
        if (::write(up[1], "o", 1) != 1 || ::read(down[0], &byte, 1) != 1) ::_exit(4);
        ::_exit((*mapped)->look(key) ? 5 : 0);
    }
    char byte = 0;
    ASSERT_EQ(::read(up[0], &byte, 1), 1);
    const WindowKey key = open({.address = 0x5000, .length = 0x10});
    ASSERT_EQ(::write(down[1], &key, sizeof key), static_cast<ssize_t>(sizeof key));
    ASSERT_EQ(::read(up[0], &byte, 1), 1);
    board.close(key);
    ASSERT_EQ(::write(down[1], "c", 1), 1);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    for (const int fd : {up[0], up[1], down[0], down[1]}) ::close(fd);
}

TEST_F(BoardOfPeer, NobodyElseCanWriteToIt) {
    const WindowKey key = open({.address = 0x1000, .length = 0x100});
    const std::string path = "/proc/self/fd/" + std::to_string(board.descriptor());
    const Fd again(::open(path.c_str(), O_RDWR | O_CLOEXEC)), given = descriptor();
    ASSERT_TRUE(again);
    for (const Fd *fd : {&again, &given}) {
        EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd->get(), 0), MAP_FAILED);
        EXPECT_EQ(::mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, fd->get(), 0), MAP_FAILED);
        EXPECT_EQ(::pwrite(fd->get(), "x", 1, 0), -1);
        EXPECT_EQ(::ftruncate(fd->get(), 0), -1);
        EXPECT_EQ(::ftruncate(fd->get(), off_t{1} << 30), -1);
        EXPECT_EQ(::fallocate(fd->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8192), -1);
        void *const readable = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd->get(), 0);
        ASSERT_NE(readable, MAP_FAILED);
        EXPECT_EQ(::mprotect(readable, 4096, PROT_READ | PROT_WRITE), -1);
        EXPECT_EQ(::madvise(readable, 4096, MADV_REMOVE), -1);
        ::munmap(readable, 4096);
        EXPECT_EQ(::fcntl(fd->get(), F_ADD_SEALS, F_SEAL_WRITE), -1) << "nor hinder the owner";
    }
    EXPECT_TRUE(peer.allows(key, 0x1000, 0x100));
}

TEST_F(BoardOfPeer, TakesMemoryForWhatIsUsed) {
    struct stat status{};
    ASSERT_EQ(::fstat(board.descriptor(), &status), 0);
    EXPECT_LE(status.st_blocks * 512, 64 << 10);
    for (uint64_t i = 0; i < 1000; ++i) (void)open({.address = i << 20, .length = 1});
    ASSERT_EQ(::fstat(board.descriptor(), &status), 0);
    EXPECT_LE(status.st_blocks * 512, 1000 * 64 + (64 << 10));
}

// ---- What is no board ----------------------------------------------------------------------------------------------

constexpr size_t kBytes = 4096 + size_t{kWindowsMax} * sizeof(BoardEntry);

Fd
memoryOf(size_t bytes, int seals, unsigned flags = 0) {
    Fd memory(::memfd_create("nixl-test-board", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags));
    if (memory && ::ftruncate(memory.get(), static_cast<off_t>(bytes)) != 0) return {};
    if (memory) ::fcntl(memory.get(), F_ADD_SEALS, seals);
    return memory;
}

void
expectRefused(Fd descriptor, const char *what) {
    const auto board = PeerBoard::map(std::move(descriptor));
    ASSERT_FALSE(board.ok()) << what;
    EXPECT_EQ(board.code(), NIXL_ERR_MISMATCH) << what << ": " << board.message();
    EXPECT_FALSE(board.message().empty());
}

TEST(NoBoard, IsRefused) {
    expectRefused({}, "nothing");
    expectRefused(Fd(::open("/dev/zero", O_RDWR | O_CLOEXEC)), "a device");
    expectRefused(Fd(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC)), "a file");
    expectRefused(memoryOf(kBytes, F_SEAL_GROW), "memory that can be made shorter");
    expectRefused(memoryOf(kBytes - 1, F_SEAL_SHRINK), "memory that is too short");
    expectRefused(memoryOf(kBytes, F_SEAL_SHRINK), "zeros");
    const test::TempDir folder;
    const Fd file(::open((folder / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(kBytes)), 0);
    expectRefused(Fd(::dup(file.get())), "a file that can be made shorter");
}

TEST(NoBoard, HugePagesAreRefused) {
    Fd memory = memoryOf(size_t{66} << 20, F_SEAL_SHRINK, MFD_HUGETLB);
    if (!memory || ::fcntl(memory.get(), F_GET_SEALS) < 0) GTEST_SKIP() << "the system has no huge pages";
    expectRefused(std::move(memory), "huge pages, which may run out when they are touched");
}

TEST(NoBoard, AnotherVersionIsRefused) {
    auto own = Board::create();
    ASSERT_TRUE(own.ok()) << own.message();
    auto mapped = PeerBoard::map(Fd(::dup((*own)->descriptor())));
    ASSERT_TRUE(mapped.ok()) << mapped.message();
    for (const auto field : {&BoardInfo::magic, &BoardInfo::version}) {
        BoardInfo info = (*mapped)->info();
        info.*field += 1;
        Fd memory = memoryOf(kBytes, F_SEAL_SHRINK);
        ASSERT_EQ(::pwrite(memory.get(), &info, sizeof info, 0), static_cast<ssize_t>(sizeof info));
        expectRefused(std::move(memory), "another version");
    }
}

} // namespace
} // namespace nx::shm
