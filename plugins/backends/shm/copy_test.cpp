// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: copies move just the bytes they were given; a copy by the kernel never touches another process than the one
// that made the board, says how far it came and why no further, and its probe says what the system refuses.
// Method: every length and alignment between guard bytes; forked children that die, run another program, have holes in
// their memory, or may not be copied from and to (not dumpable, seccomp).
#include "shm/copy.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <memory>
#include <random>
#include <string>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "support/eventually.h"

namespace nx::shm {
namespace {

uint64_t
addressOf(const void *pointer) {
    return reinterpret_cast<uint64_t>(pointer);
}

// ---- Mapped memory -------------------------------------------------------------------------------------------------

TEST(CopyBytes, MovesJustTheBytes) {
    constexpr size_t kMargin = 64;
    std::mt19937_64 random(1);
    std::vector<size_t> lengths{0, 1, 63, 64, 65, 4095, 4096, 4097, 4159, 4160, 10000, 65536, 1 << 17};
    for (int i = 0; i < 20; ++i) lengths.push_back(random() % 20000);
    std::vector<std::byte> from((1 << 17) + 2 * kMargin + 64), to(from.size());
    for (auto &byte : from) byte = static_cast<std::byte>(random());
    for (const size_t length : lengths) {
        for (const size_t offset : {size_t{0}, size_t{1}, size_t{31}, size_t{63}}) {
            for (const bool streaming : {false, true}) {
                const size_t source = kMargin + random() % 64;
                const std::byte mark{0xa5};
                const auto after = to.begin() + static_cast<ptrdiff_t>(length + 2 * kMargin + 64);
                std::fill(to.begin(), after, mark);
                copyBytes(&to[kMargin + offset], &from[source], length, streaming);
                const auto begin = to.begin() + static_cast<ptrdiff_t>(kMargin + offset);
                const auto end = begin + static_cast<ptrdiff_t>(length);
                ASSERT_TRUE(std::equal(begin, end, from.begin() + static_cast<ptrdiff_t>(source))) << length;
                ASSERT_EQ(std::count(to.begin(), begin, mark), begin - to.begin()) << length;
                ASSERT_EQ(std::count(end, after, mark), after - end) << length;
            }
        }
    }
}

TEST(CopyBytes, IsThereForWhoeverIsToldOfIt) {
    constexpr size_t kBytes = 64 << 10;
    std::vector<uint64_t> from(kBytes / 8), to(kBytes / 8);
    std::atomic<uint64_t> told{0}, seen{0};
    std::atomic<size_t> wrong{0};
    constexpr uint64_t kRounds = 200;
    std::jthread reader([&] {
        for (uint64_t round = 1; round <= kRounds; ++round) {
            while (told < round) std::this_thread::yield();
            wrong += static_cast<size_t>(std::count(to.begin(), to.end(), round)) != to.size();
            seen = round;
        }
    });
    for (uint64_t round = 1; round <= kRounds; ++round) {
        std::fill(from.begin(), from.end(), round);
        copyBytes(to.data(), from.data(), kBytes, true);
        told = round;
        while (seen < round) std::this_thread::yield();
    }
    reader.join();
    EXPECT_EQ(wrong, 0u);
}

// ---- Copies by the kernel ------------------------------------------------------------------------------------------

/// A board as a peer sees it.
struct Own {
    std::unique_ptr<Board> board;
    BoardInfo info{};

    Own() {
        auto created = Board::create();
        if (!created.ok()) return;
        board = *std::move(created);
        const auto mapped = PeerBoard::map(Fd(::dup(board->descriptor())));
        if (mapped.ok()) info = (*mapped)->info();
    }
};

/// Memory that begins at the same address in children; its own in each of them.
class Pages {
public:
    explicit Pages(size_t count)
        : bytes(count * kPage),
          data(
              static_cast<char *>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    }
    ~Pages() {
        ::munmap(data, bytes);
    }
    Pages(const Pages &) = delete;
    Pages &
    operator=(const Pages &) = delete;

    static constexpr size_t kPage = 4096;
    const size_t bytes;
    char *const data;
};

/// A child that makes a board of its own, does `begin`, and then lives until it is killed.
class Child {
public:
    explicit Child(const std::function<void()> &begin = [] {}) {
        int fds[2];
        if (::pipe2(fds, O_CLOEXEC) != 0) return;
        pid = ::fork();
        if (pid == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            const Own own;
            begin();
            if (::write(fds[1], &own.info, sizeof info) != sizeof info) ::_exit(1);
            for (;;) ::pause();
        }
        ::close(fds[1]);
        EXPECT_EQ(::read(fds[0], &info, sizeof info), static_cast<ssize_t>(sizeof info));
        ::close(fds[0]);
    }
    ~Child() {
        kill();
    }
    Child(const Child &) = delete;
    Child &
    operator=(const Child &) = delete;

    void
    kill() {
        if (pid <= 0) return;
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
        pid = -1;
    }

    /// What is there, whatever a board says.
    std::string
    peek(const void *address, size_t bytes) const {
        std::string text(bytes, 0);
        const iovec here{text.data(), bytes}, there{const_cast<void *>(address), bytes};
        text.resize(static_cast<size_t>(std::max<ssize_t>(0, ::process_vm_readv(pid, &here, 1, &there, 1, 0))));
        return text;
    }

    pid_t pid = -1;
    BoardInfo info{};
};

class KernelCopies : public testing::Test {
protected:
    void
    SetUp() override {
        const Child child;
        const Status allowed = KernelCopy(child.pid, child.info).probe();
        if (!allowed.ok()) GTEST_SKIP() << allowed.message();
    }

    const std::unique_ptr<KernelCopy::Pieces> pieces = std::make_unique<KernelCopy::Pieces>();
};

TEST_F(KernelCopies, GoBothWays) {
    const Pages there(512), here(512);
    std::memset(there.data, 't', there.bytes);
    const Child child;
    const KernelCopy kernel(child.pid, child.info);
    std::memset(here.data, 'h', here.bytes);
    // As many pieces as go at once, none of which touches another.
    for (size_t i = 0; i < KernelCopy::kPiecesMax; ++i) {
        pieces->add(addressOf(here.data) + 2048 * i, addressOf(there.data) + 2048 * (KernelCopy::kPiecesMax - 1 - i),
                    9);
    }
    auto outcome = kernel.copy(true, *pieces);
    EXPECT_EQ(outcome.why, "");
    EXPECT_EQ(outcome.bytes, 9 * KernelCopy::kPiecesMax);
    const std::string now = child.peek(there.data, there.bytes);
    ASSERT_EQ(now.size(), there.bytes);
    for (size_t i = 0; i < now.size(); ++i) {
        ASSERT_EQ(now[i], i % 2048 < 9 && i / 2048 < KernelCopy::kPiecesMax ? 'h' : 't') << i;
    }
    KernelCopy::Pieces back;
    back.add(addressOf(here.data) + 1, addressOf(there.data) + 2047, 3);
    EXPECT_FALSE(back.empty());
    outcome = kernel.copy(false, back);
    EXPECT_EQ(outcome.bytes, 3u);
    EXPECT_EQ(outcome.why, "");
    EXPECT_EQ(std::string(here.data, 5), "hthhh");
}

TEST_F(KernelCopies, OfNothingAreDone) {
    const Child child;
    EXPECT_TRUE(pieces->empty());
    pieces->add(1, 1, 0);
    EXPECT_TRUE(pieces->empty());
    const auto outcome = KernelCopy(child.pid, child.info).copy(true, *pieces);
    EXPECT_EQ(outcome.bytes, 0u);
    EXPECT_EQ(outcome.why, "");
}

TEST_F(KernelCopies, JoinWhatTouchesOnEitherSide) {
    const Pages there(2), here(2);
    const Child child;
    for (size_t i = 0; i < here.bytes; ++i) here.data[i] = static_cast<char>('a' + i % 23);
    // In a row here, turned round in pairs there; more pieces than the arrays hold, if none were joined.
    std::string expected(here.bytes, 0);
    for (size_t i = 0; i + 4 <= here.bytes; i += 4) {
        for (size_t k = 0; k < 4; ++k) {
            pieces->add(addressOf(here.data) + i + k, addressOf(there.data) + i + k, 1);
            expected[i + k] = here.data[i + k];
        }
    }
    const auto outcome = KernelCopy(child.pid, child.info).copy(true, *pieces);
    EXPECT_EQ(outcome.why, "");
    EXPECT_EQ(outcome.bytes, here.bytes);
    EXPECT_TRUE(child.peek(there.data, there.bytes) == expected);

    KernelCopy::Pieces turned;
    for (size_t i = 0; i + 2 <= 2000; i += 2) {
        turned.add(addressOf(here.data) + i, addressOf(there.data) + (i ^ 2), 2);
        std::memcpy(&expected[i ^ 2], &here.data[i], 2);
    }
    EXPECT_EQ(KernelCopy(child.pid, child.info).copy(true, turned).bytes, 2000u);
    EXPECT_TRUE(child.peek(there.data, there.bytes) == expected);
}

TEST_F(KernelCopies, StopAtAHoleThereAndSayWhere) {
    const Pages there(8), here(8);
    std::memset(here.data, 'h', here.bytes);
    char *const hole = there.data + 3 * Pages::kPage;
    const Child child([&] { ::munmap(hole, Pages::kPage); });
    for (const bool write : {true, false}) {
        for (const size_t piece : {Pages::kPage, size_t{1000}, there.bytes}) {
            KernelCopy::Pieces some;
            for (size_t at = 0; at < there.bytes; at += piece) {
                some.add(addressOf(here.data) + at, addressOf(there.data) + at, std::min(piece, there.bytes - at));
            }
            const auto outcome = KernelCopy(child.pid, child.info).copy(write, some);
            EXPECT_EQ(outcome.bytes, 3 * Pages::kPage) << piece;
            EXPECT_FALSE(outcome.gone);
            char address[32];
            std::snprintf(address, sizeof address, "0x%lx there", static_cast<unsigned long>(addressOf(hole)));
            EXPECT_NE(outcome.why.find(address), std::string::npos) << outcome.why;
        }
    }
}

TEST_F(KernelCopies, StopAtAHoleHereAndSayWhere) {
    const Pages there(8), here(8);
    const Child child;
    char *const hole = here.data + 5 * Pages::kPage;
    ::mprotect(hole, Pages::kPage, PROT_NONE);
    pieces->add(addressOf(here.data), addressOf(there.data), here.bytes);
    const auto outcome = KernelCopy(child.pid, child.info).copy(true, *pieces);
    EXPECT_EQ(outcome.bytes, 5 * Pages::kPage);
    EXPECT_FALSE(outcome.gone);
    char address[32];
    std::snprintf(address, sizeof address, "0x%lx here", static_cast<unsigned long>(addressOf(hole)));
    EXPECT_NE(outcome.why.find(address), std::string::npos) << outcome.why;
}

/// A process that does not run what made the board: nothing of it may change.
void
expectUntouched(const Child &child, pid_t pid, const BoardInfo &info, const Pages &there) {
    const Pages here(1);
    std::memset(here.data, 'h', here.bytes);
    const std::string before = child.peek(there.data, there.bytes);
    ASSERT_EQ(before.size(), there.bytes) << "the target is there, so that a copy could reach it";
    for (const bool write : {true, false}) {
        KernelCopy::Pieces some;
        some.add(addressOf(here.data), addressOf(there.data), here.bytes);
        const auto outcome = KernelCopy(pid, info).copy(write, some);
        EXPECT_EQ(outcome.bytes, 0u);
        EXPECT_TRUE(outcome.gone);
        EXPECT_FALSE(outcome.why.empty());
    }
    EXPECT_TRUE(child.peek(there.data, there.bytes) == before) << "the other process is changed";
    EXPECT_EQ(std::string(here.data, here.bytes).find_first_not_of('h'), std::string::npos);
    EXPECT_EQ(KernelCopy(pid, info).probe().code(), NIXL_ERR_MISMATCH);
}

TEST_F(KernelCopies, TouchNoOtherProcessThatHasTheNumber) {
    const Pages there(1);
    std::memset(there.data, 't', there.bytes);
    const Child owner, other;
    expectUntouched(other, other.pid, owner.info, there);
}

TEST_F(KernelCopies, TouchNoChildOfTheProcess) {
    const Pages there(1);
    std::memset(there.data, 't', there.bytes);
    const Own own;
    const Child child; // has what this process had, but not its guard
    expectUntouched(child, child.pid, own.info, there);
}

TEST_F(KernelCopies, TouchNoProgramThatCameAfterIt) {
    const Child child;
    BoardInfo before{};
    // It says what its board was, and then runs another program.
    int fds[2], running[2];
    ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(running, O_CLOEXEC), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        const Own own;
        (void)!::write(fds[1], &own.info, sizeof own.info);
        ::execl("/bin/sleep", "sleep", "1000", nullptr);
        ::_exit(1);
    }
    ::close(running[1]);
    ASSERT_EQ(::read(fds[0], &before, sizeof before), static_cast<ssize_t>(sizeof before));
    char byte;
    EXPECT_EQ(::read(running[0], &byte, 1), 0) << "closed by execve";
    const Pages here(1);
    pieces->add(addressOf(here.data), addressOf(here.data), here.bytes);
    const auto outcome = KernelCopy(pid, before).copy(true, *pieces);
    EXPECT_EQ(outcome.bytes, 0u);
    EXPECT_TRUE(outcome.gone) << outcome.why;
    EXPECT_EQ(KernelCopy(pid, before).probe().code(), NIXL_ERR_MISMATCH);
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    for (const int fd : {fds[0], fds[1], running[0]}) ::close(fd);
}

TEST_F(KernelCopies, SayThatAProcessHasEnded) {
    const Pages here(1);
    Child child;
    const pid_t pid = child.pid;
    const KernelCopy kernel(pid, child.info);
    const auto copyFails = [&] {
        KernelCopy::Pieces some;
        some.add(addressOf(here.data), addressOf(here.data), here.bytes);
        const auto outcome = kernel.copy(true, some);
        EXPECT_TRUE(outcome.why.empty() || outcome.gone) << outcome.why;
        return !outcome.why.empty();
    };
    EXPECT_FALSE(copyFails());
    ::kill(pid, SIGKILL);
    EXPECT_TRUE(test::eventually(copyFails)) << "dying, then dead and not waited for";
    child.kill();
    EXPECT_TRUE(copyFails());
    EXPECT_EQ(kernel.probe().code(), NIXL_ERR_MISMATCH);
}

// ---- What the system refuses ---------------------------------------------------------------------------------------

TEST(KernelCopyProbe, AllowsWhatGoes) {
    const Child child;
    const Status allowed = KernelCopy(child.pid, child.info).probe();
    if (allowed.code() == NIXL_ERR_NOT_SUPPORTED) GTEST_SKIP() << allowed.message();
    EXPECT_TRUE(allowed.ok()) << allowed.message();
}

TEST(KernelCopyProbe, KnowsThatANumberMeansNothingHere) {
    const Own own;
    const Status refused = KernelCopy(0, own.info).probe();
    EXPECT_EQ(refused.code(), NIXL_ERR_NOT_SUPPORTED);
    EXPECT_NE(refused.message().find("namespace"), std::string::npos) << refused.message();
}

/// Runs `probe` in a child and gives the sentence that it returns.
std::string
inChild(const std::function<std::string()> &probe) {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) return "no pipe";
    const pid_t pid = ::fork();
    if (pid == 0) {
        const std::string text = probe();
        ::_exit(::write(fds[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1);
    }
    ::close(fds[1]);
    std::string all;
    char part[512];
    for (ssize_t count; (count = ::read(fds[0], part, sizeof part)) > 0;) all.append(part, static_cast<size_t>(count));
    ::close(fds[0]);
    int status = 0;
    ::waitpid(pid, &status, 0);
    return status == 0 ? all : all + " (ended with " + std::to_string(status) + ")";
}

/// The sentence of a probe of a child that has set its dumpable flag so, by a process without privileges.
std::string
probeOfDumpable(int dumpable) {
    return inChild([dumpable]() -> std::string {
        if (::getuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) return "cannot give up privileges";
        const Child child([dumpable] { ::prctl(PR_SET_DUMPABLE, dumpable); });
        const Status status = KernelCopy(child.pid, child.info).probe();
        return std::to_string(status.code()) + " " + status.message();
    });
}

TEST(KernelCopyProbe, SaysThatAProcessIsNotDumpable) {
    const std::string may = probeOfDumpable(1), may_not = probeOfDumpable(0);
    if (may.find("ptrace_scope") != std::string::npos) GTEST_SKIP() << may;
    EXPECT_EQ(may, "0 ");
    EXPECT_TRUE(may_not.starts_with(std::to_string(NIXL_ERR_NOT_SUPPORTED))) << may_not;
    EXPECT_NE(may_not.find("not dumpable"), std::string::npos) << may_not;
}

TEST(KernelCopyProbe, SaysThatAFilterForbidsTheCalls) {
    struct Case {
        long call;
        int error;
        const char *word;
    };
    for (const Case &refused :
         {Case{SYS_process_vm_readv, ENOSYS, "no such call"}, Case{SYS_process_vm_readv, EPERM, "seccomp"},
          Case{SYS_process_vm_writev, ENOSYS, "no such call"}, Case{SYS_process_vm_writev, EPERM, "seccomp"}}) {
        const Child target;
        const std::string said = inChild([&]() -> std::string {
            sock_filter filter[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(refused.call), 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(refused.error)),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
            };
            const sock_fprog program{sizeof filter / sizeof *filter, filter};
            ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return "no filter";
            const Status status = KernelCopy(target.pid, target.info).probe();
            return std::to_string(status.code()) + " " + status.message();
        });
        if (said == "no filter") GTEST_SKIP() << "the system takes no seccomp filters";
        EXPECT_TRUE(said.starts_with(std::to_string(NIXL_ERR_NOT_SUPPORTED))) << said;
        if (said.find("ptrace_scope") == std::string::npos) {
            EXPECT_NE(said.find(refused.word), std::string::npos) << said;
        }
    }
}

} // namespace
} // namespace nx::shm
