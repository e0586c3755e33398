// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/directory.h"

#include <algorithm>
#include <system_error>

#include "wire/limits.h"

namespace nx::rendezvous {

namespace {

constexpr std::chrono::hours kLongest{1}; // later time points may overflow

bool
isName(const std::string &text) {
    return !text.empty() && text.size() <= kNameBytesMax;
}

} // namespace

Result<std::unique_ptr<Directory>>
Directory::open(const nixlx::DirectoryParams &params) {
    auto given = endpointsIn(params.address);
    if (!given.ok()) return std::move(given).status();
    auto place = placeFor(nixlx::configValue("NIXL_RENDEZVOUS_LISTEN").value_or(""),
                          nixlx::configValue("NIXL_LISTEN_ADDRESS").value_or(""));
    if (!place.ok()) return std::move(place).status();
    auto news = WakeFd::create();
    if (!news.ok()) return std::move(news).status();
    return std::unique_ptr<Directory>(new Directory(params, *std::move(given), *std::move(place), *std::move(news)));
}

Directory::Directory(const nixlx::DirectoryParams &params, std::vector<Endpoint> given, Place place, WakeFd news)
    : params_(params),
      given_(std::move(given)),
      place_(std::move(place)),
      news_(std::move(news)) {}

Directory::~Directory() {
    if (!thread_.joinable()) return;
    // Without a host it goes by itself.
    if (published_) (void)withdraw(std::chrono::steady_clock::now() + std::chrono::seconds(1));
    loop_->stop();
    thread_.join();
    member_.reset();
}

/// Not in the constructor: whoever opens a directory may fork before he uses it.
Status
Directory::start() {
    if (thread_.joinable()) return {};
    auto loop = Loop::create();
    if (!loop.ok()) return std::move(loop).status();
    const Self self{params_.agent, params_.incarnation, static_cast<bool>(place_.socket)};
    auto member = Member::create(**loop, self, given_, place_, params_.lease,
                                 {.ended = [this](nixlx::DirectoryEnd end) { onEnd(std::move(end)); },
                                  .found = [this](const std::string &agent) { onFound(agent); }});
    if (!member.ok()) return std::move(member).status();
    loop_ = *std::move(loop);
    member_ = *std::move(member);
    try {
        thread_ = Thread("nixl-rendezvous", [this] { loop_->run(); });
    }
    catch (const std::system_error &error) {
        member_.reset();
        return {NIXL_ERR_NO_MEMORY, std::string("the thread of the rendezvous cannot be started: ") + error.what()};
    }
    return {};
}

Member::Outcome
Directory::ask(Message request, Deadline deadline) {
    if (auto status = start(); !status.ok()) return {std::move(status), nullptr};
    const auto id = request.id = ++calls_;
    {
        const MutexLock lock(mutex_);
        call_ = id;
        outcome_.reset();
    }
    loop_->post([this, id, request = std::move(request)] {
        member_->ask({request, [this, id](Member::Outcome outcome) { onOutcome(id, std::move(outcome)); }});
    });
    const MutexLock lock(mutex_);
    const auto longest = std::chrono::steady_clock::now() + kLongest;
    for (;;) {
        if (outcome_) return *std::exchange(outcome_, std::nullopt);
        const auto until = std::min({deadline, end_, longest});
        if (std::chrono::steady_clock::now() >= until) break;
        changed_.waitUntil(mutex_, until);
    }
    call_ = 0;
    loop_->post([this, id] { member_->giveUp(id); });
    return {{NIXL_ERR_TIMEOUT, "the rendezvous did not answer in time"}, nullptr};
}

void
Directory::onOutcome(uint64_t id, Member::Outcome outcome) {
    const MutexLock lock(mutex_);
    if (call_ != id) return;
    outcome_ = std::move(outcome);
    changed_.notifyAll();
}

nixl_status_t
Directory::told(const Status &status) const {
    if (status.ok()) return NIXL_SUCCESS;
    return nixlx::fail(status.code(),
                       "directory rendezvous://" + quoted(params_.address, 300) + ": " + status.message());
}

nixl_status_t
Directory::publish(const std::string &label, std::string_view blob, Deadline deadline) {
    if (blob.empty() || blob.size() > wire::kBlobBytesMax) {
        return told(
            {NIXL_ERR_INVALID_PARAM, "metadata of " + std::to_string(blob.size()) + " bytes cannot be published"});
    }
    if (!isName(label)) {
        return told({NIXL_ERR_INVALID_PARAM, "a label of " + std::to_string(label.size()) + " bytes"});
    }
    Message request;
    request.type = Type::kPublish;
    request.text = label;
    request.blob = std::make_shared<const std::string>(blob);
    published_ = true;
    return told(ask(std::move(request), deadline).status);
}

nixl_status_t
Directory::fetch(const std::string &agent, const std::string &label, std::string &blob, Deadline deadline) {
    if (!isName(agent) || !isName(label)) {
        return told({NIXL_ERR_INVALID_PARAM,
                     "an agent's name of " + std::to_string(agent.size()) + " bytes, or a label of " +
                         std::to_string(label.size())});
    }
    Message request;
    request.type = Type::kFetch;
    request.name = agent;
    request.text = label;
    const auto outcome = ask(std::move(request), deadline);
    if (outcome.blob) blob = *outcome.blob;
    return told(outcome.status);
}

nixl_status_t
Directory::withdraw(Deadline deadline) {
    if (!published_) return NIXL_SUCCESS;
    Message request;
    request.type = Type::kWithdraw;
    return told(ask(std::move(request), deadline).status);
}

void
Directory::endBy(Deadline deadline) noexcept {
    const MutexLock lock(mutex_);
    end_ = deadline;
    changed_.notifyAll();
}

void *
Directory::ability(std::string_view name, uint32_t version) noexcept {
    const bool asked = name == nixlx::DirectoryWatch::kName && version <= nixlx::DirectoryWatch::kVersion;
    return asked ? static_cast<nixlx::DirectoryWatch *>(this) : nullptr;
}

// ---- The watch

int
Directory::descriptor() const noexcept {
    return news_.get();
}

nixl_status_t
Directory::takeEnded(std::vector<nixlx::DirectoryEnd> &ended) {
    const MutexLock lock(mutex_);
    news_.drain();
    std::move(ended_.begin(), ended_.end(), std::back_inserter(ended));
    ended_.clear();
    return NIXL_SUCCESS;
}

void
Directory::forget(const std::string &agent) noexcept {
    {
        const MutexLock lock(mutex_);
        followed_.erase(agent);
        std::erase_if(ended_, [&](const nixlx::DirectoryEnd &end) { return end.agent == agent; });
    }
    if (loop_) loop_->post([this, agent] { member_->forget(agent); });
}

void
Directory::onEnd(nixlx::DirectoryEnd end) {
    const MutexLock lock(mutex_);
    if (followed_.erase(end.agent) == 0) return;
    ended_.push_back(std::move(end));
    news_.wake();
}

/// What was told of it before is over.
void
Directory::onFound(const std::string &agent) {
    const MutexLock lock(mutex_);
    followed_.insert(agent);
    std::erase_if(ended_, [&](const nixlx::DirectoryEnd &end) { return end.agent == agent; });
}

} // namespace nx::rendezvous
