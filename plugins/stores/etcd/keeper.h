// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What goes on between the calls of a directory, on a thread of its own: the lease is renewed, and a stream tells which
// keys go. A stream is never resumed: with each that begins all that is followed has to be looked at once, and so
// nothing is missed, whether etcd was restarted, compacted, or brought back from an older state. Self-synchronised.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "etcd/client.h"
#include "etcd/keys.h"

namespace nx::etcd {

class Keeper {
public:
    using Time = Client::Time;

    struct News {
        bool lease_lost = false;
        bool look_at_all = false;         ///< whatever is followed may have gone
        std::vector<std::string> deleted; ///< keys
    };

    /// `lease`: how long what is published stays without us; `probe`: a key that may be asked for.
    Keeper(const Settings &settings, const Keys &keys, std::chrono::milliseconds lease, std::string probe, WakeFd news);
    ~Keeper();

    /// Renews this lease from now on; 0: none. Throws std::system_error if the thread, when it is first needed, cannot
    /// be made.
    void
    keep(int64_t lease);
    /// From now on it matters which keys go. Likewise.
    void
    follow();

    /// What has happened since.
    News
    take();
    /// Readable while take() has something, or lookAt()'s time has come.
    int
    descriptor() const noexcept {
        return news_fd_.get();
    }
    void
    lookAgainAt(Time when);

    /// etcd has answered for so long without a gap that what has gone there did not go because etcd was away.
    bool
    isSettled() const;
    /// It did at the last try.
    bool
    isReachable() const;

private:
    void
    startLocked() NX_REQUIRES(mutex_);
    void
    run() noexcept;
    /// What is due; until when to sleep.
    Time
    step();
    void
    beat(int64_t lease);
    void
    readStream();
    void
    openStream();
    void
    reached(bool now, const std::string &why);

    const Settings &settings_;
    const Keys &keys_;
    const std::chrono::milliseconds period_; ///< of renewals
    const std::chrono::milliseconds pause_;  ///< after one that failed
    /// In which others, after an outage, have renewed their leases, or published again what went with them.
    const std::chrono::milliseconds gap_;
    const std::string probe_;
    const WakeFd news_fd_;
    std::atomic<Time> end_{Time::max()};
    Client client_; ///< confined to the thread, but for its wake()

    // Confined to the thread:
    Time next_beat_{}, next_stream_{};
    std::chrono::milliseconds stream_pause_{0};

    mutable Mutex mutex_;
    bool ending_ NX_GUARDED_BY(mutex_) = false;
    int64_t lease_ NX_GUARDED_BY(mutex_) = 0;
    bool following_ NX_GUARDED_BY(mutex_) = false;
    bool reachable_ NX_GUARDED_BY(mutex_) = true;
    Time since_ NX_GUARDED_BY(mutex_) = Time::min(); ///< of the last gap
    Time look_again_ NX_GUARDED_BY(mutex_) = Time::max();
    News news_ NX_GUARDED_BY(mutex_);
    Thread thread_; ///< last: it uses the others
};

} // namespace nx::etcd
