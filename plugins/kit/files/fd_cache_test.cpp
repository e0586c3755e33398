// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: descriptors stay open while they are used, and few while they are not; those used lately stay; none is lost.
// Method: slots over descriptors of /dev/null; threads that use few slots at once.
#include "kit/files/fd_cache.h"

#include <fcntl.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "base/thread.h"

namespace nx::kit {
namespace {

Fd
newFd() {
    return Fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
}

class FdCacheTest : public testing::Test {
protected:
    ~FdCacheTest() override {
        for (auto &slot : slots_) cache_.drop(*slot);
        EXPECT_EQ(cache_.openCount(), 0u);
    }

    FdCache::Slot &
    newSlot() {
        return *slots_.emplace_back(std::make_unique<FdCache::Slot>());
    }

    /// Uses it once, and opens it for that if it is not open. True: it was.
    bool
    touch(FdCache::Slot &slot) {
        const bool open = slot.use() >= 0;
        if (!open) cache_.fill(slot, newFd());
        cache_.done(slot);
        return open;
    }

    static constexpr size_t kOpenMax = 4;
    FdCache cache_{kOpenMax};
    std::vector<std::unique_ptr<FdCache::Slot>> slots_;
};

TEST_F(FdCacheTest, FewStayOpen) {
    for (size_t i = 0; i < 100; ++i) {
        EXPECT_FALSE(touch(newSlot()));
        EXPECT_EQ(cache_.openCount(), std::min(i + 1, kOpenMax));
    }
    EXPECT_TRUE(touch(*slots_.back()));
    EXPECT_FALSE(touch(*slots_.front()));
}

TEST_F(FdCacheTest, OneThatIsUsedAgainAndAgainStaysOpen) {
    auto &favourite = newSlot();
    touch(favourite);
    for (size_t i = 0; i < 100; ++i) {
        touch(newSlot());
        EXPECT_TRUE(touch(favourite)) << i;
    }
}

TEST_F(FdCacheTest, ThoseInUseStayOpenWhateverTheirNumberAndAreClosedAfterIt) {
    std::vector<int> fds;
    for (size_t i = 0; i < 100; ++i) {
        auto &slot = newSlot();
        ASSERT_EQ(slot.use(), -1);
        cache_.fill(slot, newFd());
        fds.push_back(slot.get());
    }
    EXPECT_EQ(cache_.openCount(), 100u);
    for (size_t i = 0; i < 100; ++i) {
        EXPECT_EQ(slots_[i]->get(), fds[i]);
        cache_.done(*slots_[i]);
    }
    EXPECT_EQ(cache_.openCount(), kOpenMax);
}

TEST_F(FdCacheTest, ASecondDescriptorGoesWithTheFirst) {
    auto &slot = newSlot();
    ASSERT_EQ(slot.use(), -1);
    EXPECT_EQ(slot.second(), -1);
    cache_.fill(slot, newFd());
    cache_.fillSecond(slot, newFd());
    EXPECT_NE(slot.second(), slot.get());
    EXPECT_EQ(cache_.openCount(), 2u);
    cache_.done(slot);
    ASSERT_TRUE(cache_.closeSome());
    EXPECT_EQ(cache_.openCount(), 0u);
    EXPECT_EQ(slot.use(), -1);
    EXPECT_EQ(slot.second(), -1);
    cache_.done(slot);
    EXPECT_FALSE(cache_.closeSome());
}

TEST_F(FdCacheTest, AFailureToOpenIsTriedAgainWhileOneCanBeClosed) {
    for (size_t i = 0; i < kOpenMax; ++i) touch(newSlot());
    size_t tries = 0;
    Fd fd = cache_.open([&] {
        ++tries;
        errno = EMFILE;
        return cache_.openCount() > 0 ? Fd() : newFd();
    });
    EXPECT_TRUE(fd);
    EXPECT_EQ(tries, 2u);
    fd = cache_.open([&] {
        errno = EMFILE;
        return Fd();
    });
    EXPECT_FALSE(fd);
    EXPECT_EQ(errno, EMFILE);
    touch(*slots_.front());
    fd = cache_.open([&] {
        errno = ENOENT;
        return Fd();
    });
    EXPECT_EQ(errno, ENOENT);
    EXPECT_EQ(cache_.openCount(), 1u);
}

TEST_F(FdCacheTest, ThreadsNeverSeeADescriptorThatIsClosedOrAnothers) {
    constexpr size_t kSlots = 8, kThreads = 4, kRounds = 5000;
    struct Owned {
        FdCache::Slot slot;
        Mutex mutex;
        Fd file;
    };
    std::vector<Owned> owned(kSlots);
    for (size_t i = 0; i < kSlots; ++i) {
        owned[i].file = Fd(::memfd_create("nixl-test", MFD_CLOEXEC));
        const char mark = static_cast<char>('a' + i);
        ASSERT_EQ(::pwrite(owned[i].file.get(), &mark, 1, 0), 1);
    }
    std::atomic<size_t> wrong = 0;
    {
        std::vector<Thread> threads;
        for (size_t t = 0; t < kThreads; ++t) {
            threads.emplace_back("test", [&, t] {
                for (size_t round = 0; round < kRounds; ++round) {
                    const size_t i = (round * (2 * t + 1) + t) % kSlots;
                    Owned &one = owned[i];
                    int fd = one.slot.use();
                    if (fd < 0) {
                        const MutexLock lock(one.mutex);
                        if (one.slot.get() < 0) {
                            cache_.fill(one.slot, Fd(::fcntl(one.file.get(), F_DUPFD_CLOEXEC, 0)));
                        }
                        fd = one.slot.get();
                    }
                    char mark = 0;
                    if (::pread(fd, &mark, 1, 0) != 1 || mark != static_cast<char>('a' + i)) ++wrong;
                    cache_.done(one.slot);
                }
            });
        }
    }
    EXPECT_EQ(wrong, 0u);
    EXPECT_LE(cache_.openCount(), kOpenMax + 1);
    for (auto &one : owned) cache_.drop(one.slot);
}

} // namespace
} // namespace nx::kit
