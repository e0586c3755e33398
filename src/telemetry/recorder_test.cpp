// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: every event is handed over or counted as lost. Method: an exporter that writes down what it is given and stops
// before a batch when told to; destroying the recorder ends every wait.
#include "telemetry/recorder.h"

#include <atomic>
#include <condition_variable>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "support/eventually.h"

namespace nx::telemetry {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Type = nixl_telemetry_event_type_t;

/// What an exporter was given: "( tx_bytes 5 )" for one batch. Outlives it.
class Log {
public:
    void
    append(const std::string &word) {
        std::lock_guard lock(mutex_);
        words_.push_back(word);
    }

    std::vector<std::string>
    words() const {
        std::lock_guard lock(mutex_);
        return words_;
    }

    void
    close() {
        std::lock_guard lock(mutex_);
        open_ = false;
    }

    void
    open() {
        std::lock_guard lock(mutex_);
        open_ = true;
        changed_.notify_all();
    }

    void
    pass() {
        std::unique_lock lock(mutex_);
        ++waiting_;
        changed_.wait(lock, [&] { return open_; });
        --waiting_;
    }

    std::atomic<size_t> room{SIZE_MAX}; ///< events that the exporter still takes

    bool
    somebodyWaits() const {
        std::lock_guard lock(mutex_);
        return !open_ && waiting_ > 0;
    }

private:
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::string> words_;
    bool open_ = true;
    int waiting_ = 0;
};

std::string
word(Type type, uint64_t value) {
    return nixlEnumStrings::telemetryEventTypeStr(type).substr(6) + " " + std::to_string(value);
}

class Exporter : public nixlTelemetryExporter {
public:
    explicit Exporter(Log &log) : nixlTelemetryExporter({"agent", 8}), log_(log) {}
    ~Exporter() override {
        log_.append("gone");
    }

    nixl_status_t
    exportEvent(const nixlTelemetryEvent &event) override {
        if (event.value_ == 666) throw std::runtime_error("this one is evil");
        if (log_.room == 0) return NIXL_ERR_NO_MEMORY;
        --log_.room;
        log_.append(word(event.eventType_, event.value_));
        return NIXL_SUCCESS;
    }

private:
    void
    onBatchBegin() noexcept override {
        log_.pass();
        log_.append("(");
    }
    void
    onBatchEnd() noexcept override {
        log_.append(")");
    }

    Log &log_;
};

Settings
settings(size_t queue_events) {
    Settings settings;
    settings.queue_events = queue_events;
    settings.interval = std::chrono::milliseconds(0);
    settings.enabled.fill(true);
    return settings;
}

class TelemetryRecorder : public testing::Test {
protected:
    std::unique_ptr<Recorder>
    make(const Settings &settings) {
        return std::make_unique<Recorder>(settings, std::make_shared<Exporter>(log_), [this](auto &events) {
            events.insert(events.end(), gathered_.begin(), gathered_.end());
            gathered_.clear();
        });
    }

    Log log_;
    std::vector<nixlTelemetryEvent> gathered_; ///< for the thread; set before it runs
};

nixl_xfer_telem_t
transfer(uint64_t bytes) {
    nixl_xfer_telem_t measured;
    measured.postDuration = std::chrono::microseconds(3);
    measured.xferDuration = std::chrono::microseconds(70);
    measured.totalBytes = bytes;
    return measured;
}

TEST_F(TelemetryRecorder, HandsOverWhatIsQueuedWhenItGoes) {
    auto slow = settings(8);
    slow.interval = std::chrono::hours(1);
    auto recorder = make(slow);
    recorder->add(Type::AGENT_MEMORY_REGISTERED, 5);
    recorder->add(Type::AGENT_ERR_BACKEND, 1);
    EXPECT_THAT(log_.words(), IsEmpty()) << "an hour has not passed";
    recorder.reset();
    EXPECT_THAT(log_.words(), ElementsAre("(", "memory_registered 5", "err_backend 1", ")", "gone"));
}

TEST_F(TelemetryRecorder, HandsOverByItself) {
    auto recorder = make(settings(8));
    for (uint64_t i = 1; i <= 3; ++i) {
        recorder->add(Type::AGENT_TX_BYTES, i);
        EXPECT_TRUE(test::eventually([&] { return log_.words().size() == 3 * i; })) << "event " << i;
    }
    EXPECT_THAT(log_.words(), ElementsAre("(", "tx_bytes 1", ")", "(", "tx_bytes 2", ")", "(", "tx_bytes 3", ")"));
}

TEST_F(TelemetryRecorder, ATransferIsFourEventsInTheOrderOf14) {
    auto recorder = make(settings(8));
    recorder->addTransfer(NIXL_WRITE, transfer(4096));
    EXPECT_TRUE(test::eventually([&] { return log_.words().size() == 6; }));
    recorder->addTransfer(NIXL_READ, transfer(64));
    recorder.reset();
    EXPECT_THAT(log_.words(),
                ElementsAre("(", "xfer_post_time 3", "xfer_time 70", "tx_bytes 4096", "tx_requests_num 1", ")", "(",
                            "xfer_post_time 3", "xfer_time 70", "rx_bytes 64", "rx_requests_num 1", ")", "gone"));
}

TEST_F(TelemetryRecorder, CountsWhatTheQueueHasNoRoomForAndTakesTransfersWholeOrNot) {
    log_.close();
    auto recorder = make(settings(6));
    recorder->add(Type::AGENT_TX_BYTES, 1);
    ASSERT_TRUE(test::eventually([&] { return log_.somebodyWaits(); })) << "the thread stands before its first batch";
    recorder->addTransfer(NIXL_WRITE, transfer(64));
    recorder->addTransfer(NIXL_WRITE, transfer(65)); // four do not fit into the two that are left
    recorder->add(Type::AGENT_TX_BYTES, 2);
    recorder->add(Type::AGENT_TX_BYTES, 3);
    recorder->add(Type::AGENT_TX_BYTES, 4);
    log_.open();
    recorder.reset();
    EXPECT_THAT(log_.words(),
                ElementsAre("(", "tx_bytes 1", ")", "(", "telemetry_events_dropped 5", "xfer_post_time 3",
                            "xfer_time 70", "tx_bytes 64", "tx_requests_num 1", "tx_bytes 2", "tx_bytes 3", ")",
                            "gone"));
}

TEST_F(TelemetryRecorder, ATransferThatNeverFitsIsCounted) {
    auto recorder = make(settings(2));
    recorder->addTransfer(NIXL_WRITE, transfer(64));
    EXPECT_TRUE(test::eventually([&] { return log_.words().size() == 3; }));
    EXPECT_THAT(log_.words(), ElementsAre("(", "telemetry_events_dropped 4", ")"));
}

TEST_F(TelemetryRecorder, ReportsWhatTheExporterDidNotTake) {
    auto recorder = make(settings(8));
    recorder->add(Type::AGENT_TX_BYTES, 1);
    ASSERT_TRUE(test::eventually([&] { return log_.words().size() == 3; }));
    recorder->add(Type::AGENT_TX_BYTES, 666); // throws
    ASSERT_TRUE(test::eventually([&] { return log_.words().size() == 5; }));
    recorder->add(Type::AGENT_TX_BYTES, 2);
    recorder.reset();
    EXPECT_THAT(
        log_.words(),
        ElementsAre("(", "tx_bytes 1", ")", "(", ")", "(", "telemetry_events_dropped 1", "tx_bytes 2", ")", "gone"));
}

TEST_F(TelemetryRecorder, DropsNoCountThatCouldNotBeReported) {
    log_.room = 0;
    auto recorder = make(settings(8));
    for (size_t i = 0; i < 3; ++i) {
        recorder->add(Type::AGENT_TX_BYTES, 1);
        ASSERT_TRUE(test::eventually([&] { return log_.words().size() == 2 * (i + 1); }));
    }
    log_.room = 1;
    recorder.reset();
    EXPECT_THAT(log_.words(),
                ElementsAre("(", ")", "(", ")", "(", ")", "(", "telemetry_events_dropped 3", ")", "gone"));
}

TEST_F(TelemetryRecorder, OnlyRecordsWhatIsEnabled) {
    auto some = settings(8);
    some.enabled.fill(false);
    some.enabled[static_cast<size_t>(Type::AGENT_TX_BYTES)] = true;
    gathered_ = {{Type::AGENT_XFER_TIME, 1}, {Type::AGENT_TX_BYTES, 9}, {static_cast<Type>(77), 1}};
    auto recorder = make(some);
    recorder->add(Type::AGENT_ERR_BACKEND, 1);
    recorder->add(static_cast<Type>(77), 1);
    recorder->addTransfer(NIXL_READ, transfer(64));
    recorder->addTransfer(NIXL_WRITE, transfer(64));
    recorder.reset();
    EXPECT_THAT(log_.words(), ElementsAre("(", "tx_bytes 64", "tx_bytes 9", ")", "gone"));
}

TEST_F(TelemetryRecorder, SleepsWhileThereIsNothing) {
    auto recorder = make(settings(8));
    recorder->add(Type::AGENT_TX_BYTES, 1);
    recorder.reset();
    EXPECT_THAT(log_.words(), ElementsAre("(", "tx_bytes 1", ")", "gone")) << "no batch without events";
}

TEST_F(TelemetryRecorder, LosesNoEventOfManyThreads) {
    constexpr uint64_t kThreads = 4, kEvents = 2000;
    auto recorder = make(settings(64));
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < kThreads; ++t) {
        threads.emplace_back([&] {
            for (uint64_t i = 0; i < kEvents; ++i) recorder->add(Type::AGENT_TX_REQUESTS_NUM, 1);
        });
    }
    for (auto &thread : threads) thread.join();
    recorder.reset();
    uint64_t total = 0;
    for (const auto &word : log_.words()) {
        if (const auto blank = word.find(' '); blank != std::string::npos) total += std::stoull(word.substr(blank));
    }
    EXPECT_EQ(total, kThreads * kEvents) << "handed over or counted as dropped";
}

} // namespace
} // namespace nx::telemetry
