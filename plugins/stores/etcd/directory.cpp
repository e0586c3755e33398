// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "etcd/directory.h"

#include <algorithm>
#include <system_error>

#include "utils/common/nixl_log.h"
#include "wire/limits.h"

namespace nx::etcd {

namespace {

using namespace std::chrono_literals;

constexpr auto kLookLimit = 2000ms;    // for what takeEnded() asks
constexpr auto kRestoreLimit = 5000ms; // for all that is published again
constexpr auto kLookPause = 500ms;     // between looks at those that may have gone
constexpr size_t kLooksAtOnce = 100;   // etcd takes 128
constexpr size_t kNameBytesMax = 4096;

std::string
digitsOf(const std::array<uint8_t, 16> &incarnation) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const auto byte : incarnation) (text += kDigits[byte >> 4]) += kDigits[byte & 15];
    return text;
}

std::string
putOf(const std::string &key, std::string_view value, int64_t lease) {
    return "{\"request_put\":{\"key\":\"" + toBase64(key) + "\",\"value\":\"" + toBase64(value) + "\",\"lease\":\"" +
        std::to_string(lease) + "\"}}";
}

std::string
rangeOf(const std::string &key) {
    return "{\"request_range\":{\"key\":\"" + toBase64(key) + "\"}}";
}

std::string
isEqual(const std::string &key, const char *target, const char *field, const std::string &value) {
    return std::string("{\"target\":\"") + target + "\",\"result\":\"EQUAL\",\"key\":\"" + toBase64(key) + "\",\"" +
        field + "\":\"" + value + "\"}";
}

/// What was found of the range with this number; null: nothing.
const Pair *
only(const TxnAnswer &answer, size_t range) {
    return range < answer.found.size() && !answer.found[range].empty() ? &answer.found[range].front() : nullptr;
}

} // namespace

Result<std::unique_ptr<Directory>>
Directory::open(const nixlx::DirectoryParams &params) {
    auto settings = settingsFor(params.address);
    if (!settings.ok()) return std::move(settings).status();
    auto news = WakeFd::create();
    if (!news.ok()) return std::move(news).status();
    return std::unique_ptr<Directory>(new Directory(params, *std::move(settings), *std::move(news)));
}

Directory::Directory(const nixlx::DirectoryParams &params, Settings settings, WakeFd news)
    : agent_(params.agent),
      start_(digitsOf(params.incarnation)),
      ttl_(std::max(1s, std::chrono::ceil<std::chrono::seconds>(params.lease))),
      settings_(std::move(settings)),
      keys_(settings_.space),
      client_(settings_, end_),
      keeper_(settings_, keys_, ttl_, keys_.anchor(agent_), std::move(news)) {}

Directory::~Directory() {
    // Without etcd it goes by itself.
    if (keeper_.isReachable()) (void)tryWithdraw(Client::Clock::now() + 1s);
}

nixl_status_t
Directory::told(const Status &status) const {
    return status.ok() ? NIXL_SUCCESS : nixlx::fail(status.code(), status.message());
}

Result<TxnAnswer>
Directory::txn(const std::string &compare, const std::string &success, const std::string &failure, Deadline deadline) {
    const auto answer = client_.post(
        "/v3/kv/txn", "{\"compare\":[" + compare + "],\"success\":[" + success + "],\"failure\":[" + failure + "]}",
        deadline);
    if (!answer.ok()) return {answer.code(), answer.message()};
    return txnIn(*answer);
}

Status
Directory::lease(Deadline deadline) {
    if (lease_ != 0) return {};
    auto answer = client_.post("/v3/lease/grant", "{\"TTL\":\"" + std::to_string(ttl_.count()) + "\"}", deadline);
    if (!answer.ok()) return std::move(answer).status();
    auto granted = leaseIn(*answer);
    if (!granted.ok()) return std::move(granted).status();
    if (granted->id == 0) return {NIXL_ERR_MISMATCH, "the answer is not etcd's: a lease without a number"};
    lease_ = granted->id;
    try {
        keeper_.keep(lease_);
    }
    catch (const std::system_error &error) {
        return {NIXL_ERR_NO_MEMORY, std::string("starting the thread that renews the lease failed: ") + error.what()};
    }
    return {};
}

Status
Directory::revoke(int64_t lease, Deadline deadline) {
    auto answer = client_.post("/v3/lease/revoke", "{\"ID\":\"" + std::to_string(lease) + "\"}", deadline);
    return answer.code() == NIXL_ERR_NOT_FOUND ? Status() : std::move(answer).status();
}

nixl_status_t
Directory::publish(const std::string &label, std::string_view blob, Deadline deadline) {
    if (blob.empty() || blob.size() > wire::kBlobBytesMax) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "metadata of " + std::to_string(blob.size()) + " bytes cannot be published");
    }
    if (label.empty() || label.size() > kNameBytesMax) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "a label of " + std::to_string(label.size()) + " bytes cannot be used in etcd");
    }
    const auto status = tryPublish(label, blob, deadline);
    if (status.ok()) published_[label] = blob;
    return told(status);
}

// With one question if the name is ours. If it is not: who has it is found out with it, and the name is taken, unless
// somebody else was quicker.
Status
Directory::tryPublish(const std::string &label, std::string_view blob, Deadline deadline) {
    const auto anchor = keys_.anchor(agent_);
    bool mine = has_published_;
    for (;;) {
        if (auto status = lease(deadline); !status.ok()) return status;
        const auto put = putOf(keys_.entry(agent_, label), blob, lease_);
        const auto ours = isEqual(anchor, "VALUE", "value", toBase64(start_)) + "," +
            isEqual(anchor, "LEASE", "lease", std::to_string(lease_));
        auto answer = mine ? txn(ours, put, rangeOf(anchor), deadline) : txn("", rangeOf(anchor), "", deadline);
        if (answer.ok() && mine && answer->succeeded) return {};
        if (answer.ok()) {
            const Pair *const holder = only(*answer, 0);
            const bool other = holder && holder->value != start_;
            if (other && has_published_) {
                return {NIXL_ERR_NOT_ALLOWED,
                        "another start of this agent has published since; give every agent a name of its own"};
            }
            const int64_t earlier = holder ? holder->lease : 0;
            answer = txn(isEqual(anchor, "MOD", "mod_revision", std::to_string(holder ? holder->changed : 0)),
                         putOf(anchor, start_, lease_) + "," + putOf(keys_.start(start_), agent_, lease_) + "," + put,
                         "", deadline);
            if (answer.ok() && answer->succeeded) {
                has_published_ = true;
                if (!published_.empty()) { // that went with an earlier lease
                    unpublished_ = true;
                    keeper_.lookAgainAt(Client::Clock::now());
                }
                if (earlier != 0 && earlier != lease_) (void)revoke(earlier, deadline); // else it goes by itself
                return {};
            }
            mine = has_published_;
        }
        if (!answer.ok()) {
            if (answer.code() != NIXL_ERR_NOT_FOUND) return std::move(answer).status();
            lease_ = 0; // it went meanwhile
        }
        if (Client::Clock::now() >= std::min(deadline, end_.load())) {
            return {NIXL_ERR_TIMEOUT, "etcd gives the name to one start after another, or ends each lease"};
        }
    }
}

nixl_status_t
Directory::fetch(const std::string &agent, const std::string &label, std::string &blob, Deadline deadline) {
    if (agent.size() > kNameBytesMax || label.empty() || label.size() > kNameBytesMax) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "an agent's name of " + std::to_string(agent.size()) + " bytes or a label of " +
                               std::to_string(label.size()) + " bytes cannot be used in etcd");
    }
    return told(tryFetch(agent, label, blob, deadline));
}

Status
Directory::tryFetch(const std::string &agent, const std::string &label, std::string &blob, Deadline deadline) {
    const auto key = keys_.entry(agent, label);
    auto answer = txn("", rangeOf(keys_.anchor(agent)) + "," + rangeOf(key), "", deadline);
    // The texts that programs of NIXL 1.4 look for.
    const std::string failed = "Failed to fetch metadata from etcd for agent: " + agent;
    if (!answer.ok()) return std::move(answer).status().withContext(failed);
    const Pair *const anchor = only(*answer, 0), *const entry = only(*answer, 1);
    // Without an anchor there is nothing to tell one start from another by, and only 1.4 leaves it so.
    if (!entry || entry->value.empty() || entry->lease != (anchor ? anchor->lease : 0)) {
        return {NIXL_ERR_NOT_FOUND, failed + " (Watch timed out for key: " + key + ")"};
    }
    if (entry->value.size() > wire::kBlobBytesMax) {
        return {NIXL_ERR_MISMATCH, failed + ": " + std::to_string(entry->value.size()) + " bytes are no metadata"};
    }
    try {
        if (anchor) follow(agent, anchor->value);
    }
    catch (const std::system_error &error) {
        return {NIXL_ERR_NO_MEMORY, failed + ": the thread that follows etcd cannot be started: " + error.what()};
    }
    blob = entry->value;
    return {};
}

nixl_status_t
Directory::withdraw(Deadline deadline) {
    return told(tryWithdraw(deadline));
}

Status
Directory::tryWithdraw(Deadline deadline) {
    if (lease_ == 0) {
        published_.clear();
        return {};
    }
    keeper_.keep(0);
    if (auto status = revoke(lease_, deadline); !status.ok()) {
        keeper_.keep(lease_); // nothing was changed
        return status;
    }
    lease_ = 0;
    published_.clear();
    return {};
}

void
Directory::endBy(Deadline deadline) noexcept {
    end_.store(deadline);
    client_.wake();
}

void *
Directory::ability(std::string_view name, uint32_t version) noexcept {
    const bool asked = name == nixlx::DirectoryWatch::kName && version <= nixlx::DirectoryWatch::kVersion;
    return asked ? static_cast<nixlx::DirectoryWatch *>(this) : nullptr;
}

// ---- The watch

void
Directory::follow(const std::string &agent, const std::string &start) {
    keeper_.follow();
    forget(agent);
    Followed followed{start, keys_.anchor(agent), keys_.start(start)};
    agents_by_key_[followed.anchor] = agent;
    if (!start.empty()) agents_by_key_[followed.start_key] = agent;
    followed_[agent] = std::move(followed);
}

void
Directory::forget(const std::string &agent) noexcept {
    const auto it = followed_.find(agent);
    if (it == followed_.end()) return;
    agents_by_key_.erase(it->second.anchor);
    agents_by_key_.erase(it->second.start_key);
    missing_.erase(agent);
    followed_.erase(it);
}

int
Directory::descriptor() const noexcept {
    return keeper_.descriptor();
}

nixl_status_t
Directory::takeEnded(std::vector<nixlx::DirectoryEnd> &ended) {
    const auto news = keeper_.take();
    if (news.lease_lost) {
        lease_ = 0;
        unpublished_ = !published_.empty();
    }
    if (unpublished_) restore(Client::Clock::now() + kRestoreLimit);
    for (const auto &key : news.deleted) {
        if (const auto it = agents_by_key_.find(key); it != agents_by_key_.end()) missing_.insert(it->second);
    }
    if (news.look_at_all) {
        for (const auto &[agent, followed] : followed_) missing_.insert(agent);
    }
    const std::vector<std::string> agents(missing_.begin(), missing_.end());
    const auto deadline = Client::Clock::now() + kLookLimit;
    for (size_t at = 0; at < agents.size(); at += kLooksAtOnce) {
        const auto first = agents.begin() + static_cast<ptrdiff_t>(at);
        const auto count = std::min(kLooksAtOnce, agents.size() - at);
        lookAt({first, first + static_cast<ptrdiff_t>(count)}, ended, deadline);
    }
    if (unpublished_ || !missing_.empty()) keeper_.lookAgainAt(Client::Clock::now() + kLookPause);
    return NIXL_SUCCESS;
}

void
Directory::lookAt(std::vector<std::string> agents, std::vector<nixlx::DirectoryEnd> &ended, Deadline deadline) {
    std::string ranges;
    for (const auto &agent : agents) ranges += (ranges.empty() ? "" : ",") + rangeOf(followed_[agent].anchor);
    const auto answer = txn("", ranges, "", deadline);
    if (!answer.ok()) return; // later, then
    const bool settled = keeper_.isSettled();
    for (size_t i = 0; i < agents.size(); ++i) {
        const auto &agent = agents[i];
        const Pair *const anchor = only(*answer, i);
        if (anchor && anchor->value == followed_[agent].start) {
            missing_.erase(agent);
        } else if (anchor) {
            ended.push_back({agent, "another start of it has taken its place", true});
            forget(agent);
        } else if (settled) {
            ended.push_back({agent, "it was withdrawn, or its process has ended", false});
            forget(agent);
        }
    }
}

void
Directory::restore(Deadline deadline) {
    unpublished_ = false;
    for (const auto &[label, blob] : published_) {
        const auto status = tryPublish(label, blob, deadline);
        if (status.ok()) continue;
        NIXL_WARN << "directory: agent " << quoted(agent_) << " is not found in etcd any more: " << status.message();
        unpublished_ = status.code() != NIXL_ERR_NOT_ALLOWED;
        if (!unpublished_) published_.clear();
        return;
    }
    unpublished_ = false;
}

} // namespace nx::etcd
