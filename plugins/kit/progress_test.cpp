// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Claim: the progress thread does what is there, sleeps on descriptors in between, is woken by events, nudges and
// changes, and lets go of what is removed; it leaves everything to callers who come often, and to nobody else; whoever
// waits for a mutex gets it although others poll. Method: a thing that counts the calls; visits at made-up times; two
// threads and a mutex.
#include <gtest/gtest.h>

#include <chrono>
#include <stdexcept>
#include <sys/resource.h>
#include <thread>

#include "kit/handover_mutex.h"
#include "kit/progress.h"
#include "support/eventually.h"
#include "support/no_memory.h"

namespace nx::kit {
namespace {

using std::chrono::microseconds;
using test::eventually;

/// Does the work that it is given; a descriptor tells of it, or nothing does.
class Thing final : public Driven {
public:
    explicit Thing(bool has_descriptor = true) {
        if (has_descriptor) event_ = *WakeFd::create();
    }

    /// Another one of these; the thread is not told but for the descriptor.
    void
    give() {
        ++given_;
        if (event_) event_->wake();
    }

    bool
    isDone() const {
        return done_ == given_;
    }

    bool
    isArmed() const {
        return armed_;
    }

    uint64_t
    calls() const {
        return calls_;
    }

    std::optional<bool>
    tryDrive() noexcept override {
        ++calls_;
        armed_ = false;
        if (starves && !no_memory_) no_memory_.emplace();
        if (event_) event_->drain();
        return done_.exchange(given_) != given_;
    }

    bool
    arm() noexcept override {
        ++calls_;
        return !refuses_sleep && isDone();
    }

    int
    descriptor() const noexcept override {
        armed_ = true; // the last that is asked before the thread sleeps
        ++calls_;
        return event_ ? event_->get() : -1;
    }

    std::atomic<bool> refuses_sleep{false};
    bool starves = false; ///< its thread has no memory from the first call on

private:
    std::optional<WakeFd> event_;
    std::optional<test::NoMemory> no_memory_;
    std::atomic<uint64_t> given_{0}, done_{0};
    mutable std::atomic<uint64_t> calls_{0};
    mutable std::atomic<bool> armed_{false};
};

TEST(ProgressThread, DoesWhatIsThereAndSleepsUntilTheDescriptorTellsOfMore) {
    Thing thing;
    thing.give();
    ProgressThread thread("test");
    thread.add(thing);
    for (int round = 0; round < 20; ++round) {
        ASSERT_TRUE(eventually([&] { return thing.isDone() && thing.isArmed(); })) << round;
        thing.give();
    }
    EXPECT_TRUE(eventually([&] { return thing.isDone(); }));
}

TEST(ProgressThread, IsWokenByANudgeWhereThereIsNoDescriptor) {
    Thing thing(false);
    ProgressThread thread("test");
    thread.add(thing);
    for (int round = 0; round < 20; ++round) {
        ASSERT_TRUE(eventually([&] { return thing.isArmed(); })) << round;
        thing.give();
        thread.nudge();
        ASSERT_TRUE(eventually([&] { return thing.isDone(); })) << round;
    }
}

TEST(ProgressThread, TakesInWhatIsAddedWhileItSleepsAndLetsGoOfWhatIsRemoved) {
    Thing sleeping;
    ProgressThread thread("test");
    thread.add(sleeping);
    for (int round = 0; round < 50; ++round) {
        ASSERT_TRUE(eventually([&] { return sleeping.isArmed(); })) << round;
        Thing other(round % 2 == 0);
        other.give();
        thread.add(other);
        ASSERT_TRUE(eventually([&] { return other.isDone(); })) << round;
        thread.remove(other);
        const uint64_t calls = other.calls();
        other.give();
        sleeping.give();
        ASSERT_TRUE(eventually([&] { return sleeping.isDone(); })) << round;
        EXPECT_EQ(other.calls(), calls) << round;
    }
}

TEST(ProgressThread, LooksAgainAtWhatCannotTell) {
    Thing thing(false);
    thing.refuses_sleep = true;
    ProgressThread thread("test");
    thread.add(thing);
    for (int round = 0; round < 20; ++round) {
        thing.give();
        ASSERT_TRUE(eventually([&] { return thing.isDone(); })) << round;
    }
    EXPECT_FALSE(thing.isArmed());
    thing.refuses_sleep = false;
    EXPECT_TRUE(eventually([&] { return thing.isArmed(); }));
}

TEST(ProgressThread, TakesOverWhenTheCallersHaveGone) {
    Thing thing;
    ProgressThread thread("test");
    thread.add(thing);
    for (int round = 0; round < 20; ++round) {
        for (int visits = 0; visits < 100'000; ++visits) thread.visit();
        thing.give();
        ASSERT_TRUE(eventually([&] { return thing.isDone(); })) << round;
    }
}

TEST(ProgressThread, GoesOnWithoutMemory) {
    Thing thing, others[8];
    thing.starves = true;
    ProgressThread thread("test");
    thread.add(thing);
    for (Thing &other : others) {
        thread.add(other);
        ASSERT_TRUE(eventually([&] { return thing.isArmed() && other.isArmed(); }));
        other.give();
        ASSERT_TRUE(eventually([&] { return other.isDone(); }));
    }
}

TEST(ProgressThread, TouchesNothingOnceItIsStopped) {
    Thing thing;
    ProgressThread thread("test");
    thread.add(thing);
    ASSERT_TRUE(eventually([&] { return thing.isArmed(); }));
    thread.stop();
    const uint64_t calls = thing.calls();
    thing.give();
    thread.nudge();
    thread.stop();
    EXPECT_EQ(thing.calls(), calls);
}

TEST(ProgressThread, SaysWhatTheSystemRefuses) {
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    const rlimit none{0, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    std::string said;
    try {
        ProgressThread thread("test");
    }
    catch (const std::runtime_error &error) {
        said = error.what();
    }
    setrlimit(RLIMIT_NOFILE, &before);
    EXPECT_EQ(said, "eventfd: Too many open files (errno 24)");
}

TEST(Attendance, SaysNothingBeforeItHasLookedLongEnough) {
    const Attendance::Time start{};
    Attendance attendance(0, start);
    EXPECT_FALSE(attendance.look(1000, start + microseconds(19)));
    EXPECT_TRUE(attendance.look(1000, start + microseconds(20)));
}

TEST(Attendance, TellsThoseWhoSpinFromThoseWhoNap) {
    const Attendance::Time start{};
    Attendance spinning(7, start);
    EXPECT_EQ(spinning.look(27, start + microseconds(20)), true); // every microsecond
    EXPECT_EQ(spinning.look(127, start + microseconds(420)), true);
    // Four requests are looked at, then the caller naps: hardly driven, however long that goes on.
    Attendance napping(0, start);
    uint64_t visits = 0;
    for (int round = 1; round <= 10; ++round) {
        visits += 4;
        EXPECT_EQ(napping.look(visits, start + round * microseconds(250)), false) << round;
    }
    Attendance nobody(3, start);
    EXPECT_EQ(nobody.look(3, start + microseconds(20)), false);
}

TEST(Attendance, SeesASingleVisit) {
    const Attendance::Time start{};
    Attendance attendance(3, start);
    EXPECT_TRUE(attendance.none(3));
    EXPECT_FALSE(attendance.none(4));
    ASSERT_TRUE(attendance.look(4, start + microseconds(60)));
    EXPECT_TRUE(attendance.none(4));
}

TEST(HandoverMutex, PassesFromThePollingThreadToTheOneThatWaits) {
    for (int round = 0; round < 100; ++round) {
        HandoverMutex mutex;
        std::atomic<bool> had_it{false};
        mutex.lock();
        std::thread waiting([&] {
            const std::lock_guard lock(mutex);
            had_it = true;
        });
        ASSERT_TRUE(eventually([&] { return mutex.contended(); }));
        mutex.unlock();
        while (!mutex.try_lock()) {}
        EXPECT_TRUE(had_it) << "the polling thread took it again before the waiting one, round " << round;
        mutex.unlock();
        waiting.join();
    }
}

} // namespace
} // namespace nx::kit
