// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "metadata/directory_client.h"

#include <algorithm>
#include <sys/epoll.h>
#include <system_error>

#include "base/boundary.h"
#include "base/last_error.h"
#include "utils/common/nixl_log.h"

namespace nx::metadata {

namespace {

using std::chrono::milliseconds;

// Between questions for what is not there yet; it grows from the first to the second.
constexpr milliseconds kPauseMin{5}, kPauseMax{100};
constexpr milliseconds kStoreLimit{5000}; // one call of the store

} // namespace

Result<std::unique_ptr<DirectoryClient>>
DirectoryClient::create(DirectoryService service,
                        std::shared_ptr<nixlx::Directory> directory,
                        Limits::Time patience,
                        const Limits &limits) {
    auto loop = Loop::create();
    if (!loop.ok()) return std::move(loop).status();
    std::unique_ptr<DirectoryClient> client(
        new DirectoryClient(std::move(service), std::move(directory), patience, limits, *std::move(loop)));
    client->loop_->post([raw = client.get()] { raw->watch(); });
    try {
        client->thread_ = Thread("nixl-directory", [raw = client.get()] { raw->loop_->run(); });
    }
    catch (const std::system_error &error) {
        return {NIXL_ERR_NO_MEMORY, std::string("starting the thread of the directory failed: ") + error.what()};
    }
    return client;
}

DirectoryClient::DirectoryClient(DirectoryService service,
                                 std::shared_ptr<nixlx::Directory> directory,
                                 Limits::Time patience,
                                 const Limits &limits,
                                 std::unique_ptr<Loop> loop)
    : service_(std::move(service)),
      limits_(limits),
      patience_(patience),
      loop_(std::move(loop)),
      directory_(std::move(directory)) {}

DirectoryClient::~DirectoryClient() {
    if (!thread_.joinable()) return;
    directory_->endBy(Loop::Clock::now() + limits_.shutdown);
    loop_->post([this] { end(); });
    thread_.join();
}

void
DirectoryClient::end() {
    ending_ = true;
    const auto waiting = std::exchange(waiting_, {});
    for (const auto &fetch : waiting) {
        loop_->cancel(fetch->timer);
        fetch->done({NIXL_ERR_CANCELED, "the agent ended before it was done"});
    }
    if (watch_) loop_->unwatch(watch_->descriptor());
    directory_.reset(); // what is published goes with it
    loop_->stop();
}

void
DirectoryClient::watch() {
    watch_ = static_cast<nixlx::DirectoryWatch *>(
        directory_->ability(nixlx::DirectoryWatch::kName, nixlx::DirectoryWatch::kVersion));
    if (!watch_) return;
    const auto status = loop_->watch(watch_->descriptor(), EPOLLIN, [this](uint32_t) { takeEnded(); });
    if (status.ok()) return;
    NIXL_WARN << "directory: agent " << quoted(service_.agent)
              << " will not see other agents end there: " << status.message();
    watch_ = nullptr;
}

void
DirectoryClient::takeEnded() {
    std::vector<nixlx::DirectoryEnd> ended;
    const auto status = ask([&](auto &) { return watch_->takeEnded(ended); });
    if (!status.ok()) {
        // It would be called again at once, and for ever.
        NIXL_WARN << "directory: agent " << quoted(service_.agent)
                  << " does not see other agents end there any more: " << status.message();
        loop_->unwatch(watch_->descriptor());
        watch_ = nullptr;
    }
    for (const auto &end : ended) follow(end);
}

void
DirectoryClient::follow(const nixlx::DirectoryEnd &end) {
    const auto it = known_.find(end.agent);
    if (it == known_.end()) return;
    const auto known = std::move(it->second);
    known_.erase(it);
    NIXL_INFO << "directory: agent " << quoted(service_.agent) << ": agent " << quoted(end.agent)
              << " is gone: " << end.why;
    service_.ended(end.agent, known.start);
    if (!end.replaced) return;
    // Programs that were there first need not notice that a peer was restarted.
    const auto done = [this, agent = end.agent](const Status &outcome) {
        if (outcome.ok()) return;
        NIXL_INFO << "directory: agent " << quoted(service_.agent) << ": the new start of agent " << quoted(agent)
                  << " was not loaded: " << outcome.message();
    };
    begin({end.agent, known.label, done, Loop::Clock::now() + patience_, kPauseMin});
}

template<class Call>
Status
DirectoryClient::ask(Call call) {
    clearBackendSentence();
    const auto status = guarded("the store", [&] { return call(*directory_); });
    if (status >= 0) return {};
    return {status, takeBackendSentence(std::string("the store failed with ") + nixlEnumStrings::statusStr(status))};
}

Result<DirectoryClient::Done>
DirectoryClient::opened(const std::string &name, const std::string &address) {
    if (!ledger_.open(address, limits_.calls)) {
        return {NIXL_ERR_NO_MEMORY,
                std::to_string(limits_.calls) + " calls of this kind have no outcome yet; wait for them first"};
    }
    return Done(
        [this, name, address](const Status &outcome) { ledger_.conclude(address, name, service_.agent, outcome); });
}

Status
DirectoryClient::publish(const std::string &name, const std::string &label, Blob blob) {
    auto done = opened(name, "own");
    if (!done.ok()) return std::move(done).status();
    loop_->post([this, label, blob = std::move(blob), done = *std::move(done)] {
        done(ask([&](auto &directory) { return directory.publish(label, *blob, Loop::Clock::now() + kStoreLimit); }));
    });
    return {};
}

Status
DirectoryClient::withdraw(const std::string &name) {
    auto done = opened(name, "own");
    if (!done.ok()) return std::move(done).status();
    loop_->post([this, done = *std::move(done)] {
        done(ask([&](auto &directory) { return directory.withdraw(Loop::Clock::now() + kStoreLimit); }));
    });
    return {};
}

Status
DirectoryClient::fetch(const std::string &name, const std::string &agent, const std::string &label) {
    if (agent.empty()) return {NIXL_ERR_INVALID_PARAM, "a directory needs the name of the agent that is looked for"};
    auto done = opened(name, "agent " + agent);
    if (!done.ok()) return std::move(done).status();
    begin({agent, label, *std::move(done), Loop::Clock::now() + patience_, kPauseMin});
    return {};
}

void
DirectoryClient::refetch(const std::string &agent, const std::string &label, Done done) {
    begin({agent, label, std::move(done), Time::min(), kPauseMin});
}

void
DirectoryClient::begin(Fetch fetch) {
    loop_->post([this, fetch = std::make_shared<Fetch>(std::move(fetch))] { attempt(fetch); });
}

void
DirectoryClient::attempt(const std::shared_ptr<Fetch> &fetch) {
    waiting_.erase(fetch);
    std::string blob;
    auto status = ask([&](auto &directory) {
        return directory.fetch(fetch->agent, fetch->label, blob, Loop::Clock::now() + kStoreLimit);
    });
    bool may_come = status.code() == NIXL_ERR_NOT_FOUND;
    if (status.ok()) {
        auto loaded = service_.load(blob, fetch->agent);
        may_come = loaded.too_early;
        status = std::move(loaded.status);
        if (status.ok()) {
            known_[fetch->agent] = {loaded.incarnation, fetch->label};
            service_.fetched(fetch->agent, fetch->label);
        } else if (watch_ && !known_.contains(fetch->agent)) {
            watch_->forget(fetch->agent);
        }
    }
    const auto now = Loop::Clock::now();
    if (!may_come || now >= fetch->due || ending_) return fetch->done(status);
    const auto left = std::chrono::ceil<milliseconds>(fetch->due - now);
    fetch->timer = loop_->after(std::min(fetch->pause, left), [this, fetch] { attempt(fetch); });
    fetch->pause = std::min(2 * fetch->pause, kPauseMax);
    waiting_.insert(fetch);
}

Status
DirectoryClient::wait(milliseconds timeout) {
    return ledger_.wait({}, Loop::Clock::now() + std::min<milliseconds>(timeout, kLongestWait));
}

} // namespace nx::metadata
