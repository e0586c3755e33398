// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "etcd/keeper.h"

#include <algorithm>

#include "etcd/answers.h"
#include "utils/common/nixl_log.h"

namespace nx::etcd {

namespace {

using namespace std::chrono_literals;

constexpr auto kStreamPauseMin = 20ms, kStreamPauseMax = 1000ms;
constexpr size_t kDeletedMax = 100'000; // beyond it all that is followed is looked at

} // namespace

Keeper::Keeper(const Settings &settings,
               const Keys &keys,
               std::chrono::milliseconds lease,
               std::string probe,
               WakeFd news)
    : settings_(settings),
      keys_(keys),
      period_(lease / 3),
      pause_(lease / 20),
      gap_(lease / 2),
      probe_(std::move(probe)),
      news_fd_(std::move(news)),
      client_(settings_, end_) {}

Keeper::~Keeper() {
    {
        const MutexLock lock(mutex_);
        ending_ = true;
    }
    end_.store(Client::Clock::now());
    client_.wake();
    if (thread_.joinable()) thread_.join();
}

void
Keeper::startLocked() {
    if (!thread_.joinable()) thread_ = Thread("nixl-etcd", [this] { run(); });
}

void
Keeper::keep(int64_t lease) {
    {
        const MutexLock lock(mutex_);
        if (lease != 0) startLocked();
        lease_ = lease;
        news_.lease_lost = false;
    }
    client_.wake();
}

void
Keeper::follow() {
    {
        const MutexLock lock(mutex_);
        if (following_) return;
        startLocked();
        following_ = true;
    }
    client_.wake();
}

Keeper::News
Keeper::take() {
    const MutexLock lock(mutex_);
    news_fd_.drain();
    return std::exchange(news_, {});
}

void
Keeper::lookAgainAt(Time when) {
    {
        const MutexLock lock(mutex_);
        look_again_ = std::min(look_again_, when);
    }
    client_.wake();
}

bool
Keeper::isSettled() const {
    const MutexLock lock(mutex_);
    return reachable_ && (since_ == Time::min() || Client::Clock::now() - since_ >= gap_);
}

bool
Keeper::isReachable() const {
    const MutexLock lock(mutex_);
    return reachable_;
}

void
Keeper::reached(bool now, const std::string &why) {
    const MutexLock lock(mutex_);
    if (!now || !reachable_) since_ = Client::Clock::now();
    if (std::exchange(reachable_, now) == now) return;
    if (now) {
        NIXL_INFO << "directory: etcd is back";
    } else {
        NIXL_WARN << "directory: etcd is away: " << why << "; peers that are known stay known";
    }
}

void
Keeper::run() noexcept {
    for (;;) {
        Time until = Client::Clock::now() + pause_;
        try {
            {
                const MutexLock lock(mutex_);
                if (ending_) return;
            }
            until = step();
        }
        catch (const std::exception &error) {
            reached(false, error.what()); // no memory: tried again
        }
        client_.wait(until);
    }
}

Keeper::Time
Keeper::step() {
    int64_t lease = 0;
    bool following = false;
    Time until = Time::max();
    {
        const MutexLock lock(mutex_);
        lease = lease_;
        following = following_;
        if (look_again_ <= Client::Clock::now()) {
            look_again_ = Time::max();
            news_fd_.wake();
        }
        until = look_again_;
    }
    if (following) {
        readStream();
        if (!client_.hasStream()) {
            if (Client::Clock::now() >= next_stream_) openStream();
            until = std::min(until, next_stream_);
        }
    }
    if (lease == 0 && !following) return until;
    if (next_beat_ == Time()) next_beat_ = Client::Clock::now() + period_;
    if (Client::Clock::now() >= next_beat_) beat(lease);
    return std::min(until, next_beat_);
}

// Also without a lease: so that it is known whether what has gone went because etcd was away.
void
Keeper::beat(int64_t lease) {
    const auto begun = Client::Clock::now();
    const auto asked = lease != 0
        ? client_.post("/v3/lease/keepalive", "{\"ID\":\"" + std::to_string(lease) + "\"}", begun + period_)
        : client_.post("/v3/kv/range", "{\"keys_only\":true,\"key\":\"" + toBase64(probe_) + "\"}", begun + period_);
    next_beat_ = begun + period_;
    // What was on its way on a connection through an outage may be on its way for as long again.
    if (asked.ok() && !isReachable()) client_.closeStream();
    reached(asked.ok(), asked.message());
    if (!asked.ok()) {
        next_beat_ = std::min(next_beat_, Client::Clock::now() + pause_);
        return;
    }
    if (lease == 0) return;
    const auto kept = leaseIn(*asked);
    if (!kept.ok() || kept->seconds > 0) return;
    const MutexLock lock(mutex_);
    if (lease_ != lease) return;
    lease_ = 0;
    news_.lease_lost = true;
    news_fd_.wake();
}

void
Keeper::openStream() {
    const auto all = keys_.all();
    const auto opened = client_.openStream("/v3/watch",
                                           "{\"create_request\":{\"key\":\"" + toBase64(all) + "\",\"range_end\":\"" +
                                               toBase64(endOf(all)) + "\",\"filters\":[\"NOPUT\"]}}");
    stream_pause_ = std::clamp<std::chrono::milliseconds>(2 * stream_pause_, kStreamPauseMin, kStreamPauseMax);
    next_stream_ = Client::Clock::now() + stream_pause_;
    if (!opened.ok()) reached(false, opened.message());
}

void
Keeper::readStream() {
    if (!client_.hasStream()) return;
    const auto lines = client_.streamLines();
    std::string failure = lines.message();
    for (const auto &line : lines.ok() ? *lines : std::vector<std::string>()) {
        auto notice = noticeIn(line);
        failure = notice.ok() ? notice->failure : notice.message();
        if (!failure.empty()) break;
        const MutexLock lock(mutex_);
        if (notice->created) {
            news_.look_at_all = true;
            stream_pause_ = 0ms;
        }
        if (news_.deleted.size() + notice->deleted.size() > kDeletedMax) {
            news_.deleted.clear();
            notice->deleted.clear();
            news_.look_at_all = true;
        }
        std::move(notice->deleted.begin(), notice->deleted.end(), std::back_inserter(news_.deleted));
        if (news_.look_at_all || !news_.deleted.empty()) news_fd_.wake();
    }
    if (failure.empty()) return;
    client_.closeStream();
    next_stream_ = Client::Clock::now() + stream_pause_;
    reached(false, failure);
    next_beat_ = Client::Clock::now(); // is it only the stream?
}

} // namespace nx::etcd
