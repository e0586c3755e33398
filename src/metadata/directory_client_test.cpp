// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: whatever a store does, nobody hangs, every call gets its outcome, and one failure is told once. Method: a store
// that waits, throws, lies and cannot be watched when the test says so. Real stores are in tests/directories.
#include "metadata/directory_client.h"

#include <algorithm>
#include <atomic>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mutex.h"
#include "support/eventually.h"

namespace nx::metadata {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kLong = 60'000ms;

/// What the test and the store's thread share.
struct Control {
    nx::Mutex mutex;
    nx::CondVar changed;
    std::vector<std::string> calls;           ///< "publish metadata", in their order
    std::map<std::string, std::string> blobs; ///< by agent
    std::string throws;                       ///< by every call; empty: none
    nixl_status_t answer = NIXL_SUCCESS;      ///< of every call, unless the store has its own
    bool blocks = false;                      ///< every call waits until this is false, or for endBy()
    std::chrono::steady_clock::time_point end = std::chrono::steady_clock::time_point::max();
    std::vector<nixlx::DirectoryEnd> ended;
    std::vector<std::string> forgotten;
    bool gone = false; ///< the directory object

    void
    set(auto change) {
        const nx::MutexLock lock(mutex);
        change(*this);
        changed.notifyAll();
    }

    bool
    has(auto predicate) {
        const nx::MutexLock lock(mutex);
        return predicate(*this);
    }

    bool
    called(const std::string &call) {
        return has([&](auto &self) { return std::count(self.calls.begin(), self.calls.end(), call) > 0; });
    }
};

class Store final : public nixlx::Directory, public nixlx::DirectoryWatch {
public:
    Store(Control &control, int watched) : control_(control), watched_(watched) {}

    ~Store() override {
        control_.set([](auto &control) { control.gone = true; });
    }

    nixl_status_t
    publish(const std::string &label, std::string_view blob, Deadline) override {
        return answer("publish " + label, [&] { control_.blobs["own"] = blob; });
    }

    nixl_status_t
    fetch(const std::string &agent, const std::string &, std::string &blob, Deadline) override {
        bool found = false;
        const auto status = answer("fetch " + agent, [&] {
            const auto it = control_.blobs.find(agent);
            found = it != control_.blobs.end();
            if (found) blob = it->second;
        });
        return status < 0 || found ? status : nixlx::fail(NIXL_ERR_NOT_FOUND, "agent " + agent + " is not there");
    }

    nixl_status_t
    withdraw(Deadline) override {
        return answer("withdraw", [] {});
    }

    void
    endBy(Deadline deadline) noexcept override {
        control_.set([&](auto &control) { control.end = deadline; });
    }

    void *
    ability(std::string_view name, uint32_t) noexcept override {
        return name == kName && watched_ >= 0 ? static_cast<nixlx::DirectoryWatch *>(this) : nullptr;
    }

    int
    descriptor() const noexcept override {
        return watched_;
    }

    nixl_status_t
    takeEnded(std::vector<nixlx::DirectoryEnd> &ended) override {
        return answer("takeEnded", [&] {
            uint64_t count;
            while (::read(watched_, &count, sizeof count) > 0) {}
            ended = std::exchange(control_.ended, {});
        });
    }

    void
    forget(const std::string &agent) noexcept override {
        control_.set([&](auto &control) { control.forgotten.push_back(agent); });
    }

private:
    template<class Do>
    nixl_status_t
    answer(const std::string &call, Do act) {
        const nx::MutexLock lock(control_.mutex);
        control_.calls.push_back(call);
        while (control_.blocks) {
            if (!control_.changed.waitUntil(control_.mutex, control_.end)) {
                return nixlx::fail(NIXL_ERR_TIMEOUT, "the store was ended");
            }
        }
        if (!control_.throws.empty()) throw std::runtime_error(control_.throws);
        if (control_.answer < 0) return control_.answer;
        act();
        return NIXL_SUCCESS;
    }

    Control &control_;
    const int watched_;
};

class DirectoryClientTest : public testing::Test {
protected:
    /// `watched`: the descriptor of the store's ability to watch; -1: it has none.
    std::unique_ptr<DirectoryClient>
    start(int watched = -1, Limits::Time patience = 0ms, const Limits &limits = {}) {
        DirectoryService service;
        service.agent = "me";
        service.load = [this](std::string_view blob, const std::string &agent) {
            ++loads_;
            Loaded loaded;
            if (blob != "metadata of " + agent) {
                loaded.status = {NIXL_ERR_MISMATCH, "it is another agent's"};
            } else {
                loaded.incarnation = {7};
                loaded.too_early = early_.load();
                if (early_) loaded.status = {NIXL_ERR_BACKEND, "no common backend"};
            }
            return loaded;
        };
        service.fetched = [this](const std::string &agent, const std::string &) {
            control_.set([&](auto &) { fetched_.push_back(agent); });
        };
        service.ended = [this](const std::string &agent, const wire::Incarnation &) {
            control_.set([&](auto &) { ended_.push_back(agent); });
        };
        auto made =
            DirectoryClient::create(std::move(service), std::make_shared<Store>(control_, watched), patience, limits);
        EXPECT_TRUE(made.ok()) << made.message();
        return made.ok() ? *std::move(made) : nullptr;
    }

    static Status
    fetch(DirectoryClient &client, const std::string &agent) {
        return client.fetch("fetchRemoteMD", agent, "metadata");
    }

    static Status
    publish(DirectoryClient &client) {
        return client.publish("sendLocalMD", "metadata", std::make_shared<const std::string>("mine"));
    }

    Control control_;
    std::atomic<bool> early_ = false; ///< what is found cannot be loaded yet
    std::atomic<int> loads_ = 0;
    std::vector<std::string> fetched_, ended_; ///< under the control's mutex
};

TEST_F(DirectoryClientTest, TellsTheStoresOutcomeOnce) {
    const auto client = start();
    control_.set([](auto &control) { control.blobs["a"] = "metadata of a"; });
    ASSERT_TRUE(publish(*client).ok());
    ASSERT_TRUE(fetch(*client, "a").ok());
    EXPECT_TRUE(client->wait(kLong).ok());
    EXPECT_THAT(fetched_, ElementsAre("a"));
    EXPECT_EQ(control_.blobs["own"], "mine");

    ASSERT_TRUE(fetch(*client, "nobody").ok());
    const auto missing = client->wait(kLong);
    EXPECT_EQ(missing.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(missing.message(), HasSubstr("agent nobody is not there"));
    EXPECT_TRUE(client->wait(kLong).ok()) << "told twice";
}

TEST_F(DirectoryClientTest, AsksAgainForWhatIsNotThereYet) {
    const auto client = start(-1, kLong);
    early_ = true;
    ASSERT_TRUE(fetch(*client, "a").ok());
    EXPECT_TRUE(eventually([&] { return control_.has([](auto &c) { return c.calls.size() >= 3; }); }));
    EXPECT_EQ(client->wait(0ms).code(), NIXL_IN_PROG);
    control_.set([](auto &control) { control.blobs["a"] = "metadata of a"; });
    EXPECT_TRUE(eventually([&] { return loads_ >= 2; }));
    EXPECT_EQ(client->wait(0ms).code(), NIXL_IN_PROG) << "what could not be loaded yet was given up";
    early_ = false;
    EXPECT_TRUE(client->wait(kLong).ok());
    EXPECT_THAT(fetched_, ElementsAre("a"));
}

TEST_F(DirectoryClientTest, AStoreThatWaitsHoldsUpNobodyAndEndsInTime) {
    Limits limits;
    limits.shutdown = 50ms;
    auto client = start(-1, kLong, limits);
    control_.set([](auto &control) { control.blocks = true; });
    ASSERT_TRUE(publish(*client).ok());
    ASSERT_TRUE(eventually([&] { return control_.called("publish metadata"); }));
    ASSERT_TRUE(fetch(*client, "a").ok());
    EXPECT_EQ(client->wait(1ms).code(), NIXL_IN_PROG);
    EXPECT_TRUE(control_.has([](auto &c) { return c.calls.size() == 1; })) << "two calls of the store at once";
    const auto begun = std::chrono::steady_clock::now();
    client.reset();
    EXPECT_LT(std::chrono::steady_clock::now() - begun, 30s);
    EXPECT_TRUE(control_.gone);
}

TEST_F(DirectoryClientTest, DoesWhatWasAskedForBeforeItEnds) {
    auto client = start(-1, kLong);
    ASSERT_TRUE(fetch(*client, "a").ok()); // waits
    ASSERT_TRUE(publish(*client).ok());
    client.reset();
    EXPECT_EQ(control_.blobs["own"], "mine");
    EXPECT_TRUE(control_.gone);
    EXPECT_TRUE(fetched_.empty());
}

TEST_F(DirectoryClientTest, WhatAStoreThrowsIsTheOutcomeOfTheCallOnly) {
    const auto client = start();
    control_.set([](auto &control) { control.throws = "no route"; });
    const std::function<Status()> calls[] = {[&] { return publish(*client); }, [&] { return fetch(*client, "a"); },
                                             [&] { return client->withdraw("invalidateLocalMD"); }};
    for (const auto &call : calls) {
        ASSERT_TRUE(call().ok());
        const auto outcome = client->wait(kLong);
        EXPECT_EQ(outcome.code(), NIXL_ERR_BACKEND);
        EXPECT_THAT(outcome.message(), HasSubstr("the store threw: no route"));
    }
    control_.set([](auto &control) { control.throws.clear(); });
    ASSERT_TRUE(publish(*client).ok());
    EXPECT_TRUE(client->wait(kLong).ok());
}

TEST_F(DirectoryClientTest, AStoreThatGivesNoReasonStillGetsASentence) {
    const auto client = start();
    control_.set([](auto &control) { control.answer = NIXL_ERR_BACKEND; });
    ASSERT_TRUE(publish(*client).ok());
    EXPECT_THAT(client->wait(kLong).message(), HasSubstr("the store failed with NIXL_ERR_BACKEND"));
}

TEST_F(DirectoryClientTest, MetadataOfAnotherAgentIsRefusedAndNotWatched) {
    const nx::Fd events(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    const auto client = start(events.get(), kLong);
    control_.set([](auto &control) { control.blobs["a"] = "metadata of b"; });
    ASSERT_TRUE(fetch(*client, "a").ok());
    EXPECT_EQ(client->wait(kLong).code(), NIXL_ERR_MISMATCH);
    EXPECT_THAT(control_.forgotten, ElementsAre("a"));
    EXPECT_TRUE(fetched_.empty());
}

TEST_F(DirectoryClientTest, TellsOfAgentsThatEndOnceAndOnlyOfThoseThatWereLoaded) {
    const nx::Fd events(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    const auto client = start(events.get());
    control_.set([](auto &control) { control.blobs["a"] = "metadata of a"; });
    ASSERT_TRUE(fetch(*client, "a").ok());
    ASSERT_TRUE(client->wait(kLong).ok());
    control_.set(
        [](auto &control) { control.ended = {{"stranger", "it was withdrawn"}, {"a", "its process has ended"}}; });
    ASSERT_EQ(::eventfd_write(events.get(), 1), 0);
    ASSERT_TRUE(eventually([&] { return control_.has([&](auto &) { return !ended_.empty(); }); }));
    control_.set([](auto &control) { control.ended = {{"a", "its process has ended"}}; });
    ASSERT_EQ(::eventfd_write(events.get(), 1), 0);
    ASSERT_TRUE(eventually([&] { return control_.has([](auto &c) { return c.ended.empty(); }); }));
    ASSERT_TRUE(publish(*client).ok()); // done after what was told before it
    ASSERT_TRUE(client->wait(kLong).ok());
    EXPECT_THAT(ended_, ElementsAre("a"));
}

TEST_F(DirectoryClientTest, FetchesTheNextStartOfAnAgent) {
    const nx::Fd events(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    const auto client = start(events.get(), kLong);
    control_.set([](auto &control) { control.blobs["a"] = "metadata of a"; });
    ASSERT_TRUE(fetch(*client, "a").ok());
    ASSERT_TRUE(client->wait(kLong).ok());
    control_.set([](auto &control) {
        control.ended = {{"a", "another start has its name", true}};
        control.blobs.clear();
    });
    ASSERT_EQ(::eventfd_write(events.get(), 1), 0);
    ASSERT_TRUE(eventually([&] { return control_.has([&](auto &) { return !ended_.empty(); }); }));
    EXPECT_THAT(fetched_, ElementsAre("a"));
    control_.set([](auto &control) { control.blobs["a"] = "metadata of a"; });
    EXPECT_TRUE(eventually([&] { return control_.has([&](auto &) { return fetched_.size() == 2; }); }));
}

TEST_F(DirectoryClientTest, AWatchThatFailsIsGivenUpAndNotAskedForEver) {
    const nx::Fd events(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    const auto client = start(events.get());
    control_.set([](auto &control) { control.throws = "lost sight"; });
    ASSERT_EQ(::eventfd_write(events.get(), 1), 0); // stays readable
    ASSERT_TRUE(eventually([&] { return control_.called("takeEnded"); }));
    control_.set([](auto &control) {
        control.throws.clear();
        control.blobs["a"] = "metadata of a";
    });
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(fetch(*client, "a").ok());
        ASSERT_TRUE(client->wait(kLong).ok());
    }
    EXPECT_EQ(std::count(control_.calls.begin(), control_.calls.end(), "takeEnded"), 1);
}

// epoll refuses the descriptor of an ordinary file.
TEST_F(DirectoryClientTest, AWatchThatCannotBeWaitedForCostsNothingElse) {
    const nx::Fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    const auto client = start(file.get());
    control_.set([](auto &control) { control.blobs["a"] = "metadata of a"; });
    ASSERT_TRUE(fetch(*client, "a").ok());
    EXPECT_TRUE(client->wait(kLong).ok());
    EXPECT_FALSE(control_.called("takeEnded"));
}

TEST_F(DirectoryClientTest, RefusesMoreCallsThanItCanKeep) {
    Limits limits;
    limits.calls = 2;
    const auto client = start(-1, kLong, limits);
    EXPECT_TRUE(fetch(*client, "a").ok());
    EXPECT_TRUE(fetch(*client, "a").ok());
    const auto refused = fetch(*client, "a");
    EXPECT_EQ(refused.code(), NIXL_ERR_NO_MEMORY);
    EXPECT_THAT(refused.message(), HasSubstr("2 calls of this kind have no outcome yet"));
    EXPECT_TRUE(fetch(*client, "b").ok());
    EXPECT_EQ(fetch(*client, "").code(), NIXL_ERR_INVALID_PARAM);
}

TEST_F(DirectoryClientTest, ARefetchIsAskedForOnceAndTellsNobodyElse) {
    const auto client = start(-1, kLong);
    std::optional<Status> outcome;
    client->refetch("a", "metadata", [&](const Status &status) {
        control_.set([&](auto &) { outcome.emplace(status.code(), status.message()); });
    });
    ASSERT_TRUE(eventually([&] { return control_.has([&](auto &) { return outcome.has_value(); }); }));
    EXPECT_EQ(outcome->code(), NIXL_ERR_NOT_FOUND);
    EXPECT_TRUE(client->wait(0ms).ok());
    EXPECT_EQ(control_.calls.size(), 1u);
}

} // namespace
} // namespace nx::metadata
