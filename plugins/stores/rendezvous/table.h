// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a host knows: its members, what they have published under their names, who follows whom, and whose lease is
// over.
// No sockets and no clock: it is told what happens and when, and says what is to be sent. Owned by one caller.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <unordered_map>

#include "rendezvous/messages.h"

namespace nx::rendezvous {

class Table {
public:
    using Clock = std::chrono::steady_clock;
    using Time = Clock::time_point;
    using Duration = std::chrono::milliseconds;
    using Id = uint64_t; ///< of a member's connection
    using Send = std::function<void(Id to, const Message &message)>;

    struct Limits {
        size_t labels = 1024;                ///< of an agent
        size_t follows = 65'536;             ///< of a member
        size_t blob_bytes = size_t{1} << 30; ///< of all that is published
    };

    /// `lease`: what a member that is not heard of any more has published stays for so long. `send` must not call back.
    Table(Duration lease, const Limits &limits, Send send);

    /// A member, with its greeting, whose address is complete or empty.
    void
    join(Id id, const Message &hello, Time now);

    /// Bytes of it have arrived.
    void
    heard(Id id, Time now);

    /// A message of a member. False: members do not say that.
    bool
    receive(Id id, const Message &message, Time now);

    /// Its connection is gone. It may come back with another one, and has a tenth of a lease for it: an agent whose
    /// connection broke does so at once, and one that does not has ended.
    void
    leave(Id id, Time now);

    /// What time brings. Members that were silent for a lease are none any more: they are returned, and leave() need
    /// not be called.
    std::vector<Id>
    tick(Time now);

private:
    struct Member {
        std::string name;
        Start start{};
        std::string address; ///< where it can take over; empty: it cannot
        Time heard;
        size_t follows = 0;
    };

    /// What the start that has the name has published.
    struct Entry {
        Start start{};
        std::map<std::string, Blob> blobs; ///< by label
        Time due = Time::max();            ///< its start has no connection, and has so long to make one
    };

    struct Follow {
        Id id = 0;
        Start start{};
        /// Who comes from another host is not told before that anybody is lost: he may be on his way, too.
        Time earliest;
        Time due = Time::max(); ///< it is not there, and has so long to appear
    };

    enum class End { kWithdrawn, kReplaced, kLost };

    void
    publish(Id id, const Member &member, const Message &message, Time now);
    void
    fetch(Id id, Member &member, const Message &message, Time now);
    void
    follow(Id id, Member &member, const Message &message, Time now);
    void
    unfollow(Id id, Member &member, const std::string &name);
    /// Nothing is left under the name; kReplaced: another start is about to have it.
    void
    remove(const std::string &name, End end, Time now);
    void
    tellFollowers(const std::string &name, const Start &gone, End end, Time now);
    void
    drop(Id id, Time now, Duration grace);
    void
    answer(Id id, uint64_t call, nixl_status_t status, const std::string &sentence) const;
    /// Who can take over, to all members if it has changed.
    bool
    renewRoster();

    const Duration lease_;
    const Limits limits_;
    const Send send_;
    std::map<Id, Member> members_;
    std::map<std::string, Entry> entries_;                           ///< by agent
    std::unordered_map<std::string, std::vector<Follow>> followers_; ///< by agent
    size_t blob_bytes_ = 0;
    Message roster_;
};

} // namespace nx::rendezvous
