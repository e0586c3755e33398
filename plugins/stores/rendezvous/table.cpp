// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/table.h"

#include <algorithm>

namespace nx::rendezvous {

Table::Table(Duration lease, const Limits &limits, Send send) : lease_(lease), limits_(limits), send_(std::move(send)) {
    roster_.type = Type::kRoster;
}

void
Table::join(Id id, const Message &hello, Time now) {
    members_[id] = {hello.name, hello.start, hello.text, now, 0};
    const auto entry = entries_.find(hello.name);
    if (entry != entries_.end() && entry->second.start == hello.start) entry->second.due = Time::max();
    if (!renewRoster()) send_(id, roster_);
}

void
Table::heard(Id id, Time now) {
    if (const auto member = members_.find(id); member != members_.end()) member->second.heard = now;
}

bool
Table::receive(Id id, const Message &message, Time now) {
    const auto it = members_.find(id);
    if (it == members_.end()) return false;
    Member &member = it->second;
    switch (message.type) {
    case Type::kAlive: return true;
    case Type::kPublish: publish(id, member, message, now); return true;
    case Type::kWithdraw: {
        const auto entry = entries_.find(member.name);
        if (entry != entries_.end() && entry->second.start == member.start) remove(member.name, End::kWithdrawn, now);
        answer(id, message.id, NIXL_SUCCESS, "");
        return true;
    }
    case Type::kFetch: fetch(id, member, message, now); return true;
    case Type::kFollow: follow(id, member, message, now); return true;
    case Type::kForget: unfollow(id, member, message.name); return true;
    default: return false;
    }
}

void
Table::publish(Id id, const Member &member, const Message &message, Time now) {
    const auto refuse = [&](nixl_status_t status, const std::string &why) { answer(id, message.id, status, why); };
    const auto entry = entries_.find(member.name);
    const bool other = entry != entries_.end() && entry->second.start != member.start;
    if (other && message.flag) {
        return refuse(NIXL_ERR_NOT_ALLOWED,
                      "another start of this agent has published since; give every agent a name of its own");
    }
    const bool known = entry != entries_.end() && !other;
    const auto old = known ? entry->second.blobs.find(message.text) : decltype(entry->second.blobs.find("")){};
    const bool replaces = known && old != entry->second.blobs.end();
    if (known && !replaces && entry->second.blobs.size() >= limits_.labels) {
        return refuse(NIXL_ERR_NO_MEMORY,
                      "this agent has published under " + std::to_string(limits_.labels) + " labels");
    }
    const size_t left = blob_bytes_ - (replaces ? old->second->size() : 0);
    if (message.blob->size() > limits_.blob_bytes - std::min(limits_.blob_bytes, left)) {
        return refuse(NIXL_ERR_NO_MEMORY,
                      "the rendezvous holds " + std::to_string(blob_bytes_) + " bytes of metadata, of at most " +
                          std::to_string(limits_.blob_bytes));
    }
    blob_bytes_ = left + message.blob->size();
    if (replaces) {
        old->second = message.blob;
    } else {
        if (other) remove(member.name, End::kReplaced, now);
        auto &mine = entries_[member.name];
        mine.start = member.start;
        mine.blobs[message.text] = message.blob;
    }
    // Those who came from another host may have asked for it before it was here.
    const auto followers = followers_.find(member.name);
    if (!known && followers != followers_.end()) {
        for (auto &follow : followers->second) {
            if (follow.start == member.start) follow.due = Time::max();
        }
        auto others = followers->second;
        std::erase_if(others, [&](const Follow &f) { return f.start == member.start; });
        for (const auto &follow : others) tellFollowers(member.name, follow.start, End::kReplaced, now);
    }
    answer(id, message.id, NIXL_SUCCESS, "");
}

void
Table::remove(const std::string &name, End end, Time now) {
    const auto it = entries_.find(name);
    const auto start = it->second.start;
    for (const auto &[label, blob] : it->second.blobs) blob_bytes_ -= blob->size();
    entries_.erase(it);
    tellFollowers(name, start, end, now);
    if (end != End::kReplaced) return;
    Message gone;
    gone.type = Type::kGone;
    gone.flag = true;
    gone.start = start;
    gone.name = name;
    for (const auto &[id, member] : members_) {
        if (member.name == name && member.start == start) send_(id, gone);
    }
}

void
Table::tellFollowers(const std::string &name, const Start &start, End end, Time now) {
    const auto it = followers_.find(name);
    if (it == followers_.end()) return;
    Message gone;
    gone.type = Type::kGone;
    gone.flag = end == End::kReplaced;
    gone.start = start;
    gone.name = name;
    std::erase_if(it->second, [&](Follow &follow) {
        if (follow.start != start) return false;
        if (end == End::kLost && follow.earliest > now) {
            follow.due = follow.earliest;
            return false;
        }
        const auto member = members_.find(follow.id);
        if (member != members_.end()) --member->second.follows;
        send_(follow.id, gone);
        return true;
    });
    if (it->second.empty()) followers_.erase(it);
}

void
Table::fetch(Id id, Member &member, const Message &message, Time now) {
    const auto nothing = [&](const std::string &why) {
        answer(id, message.id, NIXL_ERR_NOT_FOUND, "agent " + quoted(message.name) + " has published nothing" + why);
    };
    const auto entry = entries_.find(message.name);
    if (entry == entries_.end()) return nothing("");
    const auto blob = entry->second.blobs.find(message.text);
    if (blob == entry->second.blobs.end()) return nothing(" under " + quoted(message.text));
    unfollow(id, member, message.name);
    if (member.follows >= limits_.follows) {
        return answer(id, message.id, NIXL_ERR_NO_MEMORY,
                      "this agent follows " + std::to_string(limits_.follows) + " others");
    }
    ++member.follows;
    followers_[message.name].push_back({id, entry->second.start, now, Time::max()});
    Message found;
    found.type = Type::kFound;
    found.id = message.id;
    found.start = entry->second.start;
    found.blob = blob->second;
    send_(id, found);
}

void
Table::follow(Id id, Member &member, const Message &message, Time now) {
    unfollow(id, member, message.name);
    if (member.follows >= limits_.follows) return;
    const auto entry = entries_.find(message.name);
    const bool here = entry != entries_.end();
    ++member.follows;
    const bool same = here && entry->second.start == message.start;
    followers_[message.name].push_back({id, message.start, now + lease_, same ? Time::max() : now + lease_});
    if (here && !same) tellFollowers(message.name, message.start, End::kReplaced, now);
}

void
Table::unfollow(Id id, Member &member, const std::string &name) {
    const auto it = followers_.find(name);
    if (it == followers_.end()) return;
    member.follows -= std::erase_if(it->second, [&](const Follow &follow) { return follow.id == id; });
    if (it->second.empty()) followers_.erase(it);
}

void
Table::leave(Id id, Time now) {
    if (members_.contains(id)) drop(id, now, lease_ / 10);
}

void
Table::drop(Id id, Time now, Duration grace) {
    const auto member = members_.extract(id).mapped();
    for (auto it = followers_.begin(); it != followers_.end();) {
        std::erase_if(it->second, [&](const Follow &follow) { return follow.id == id; });
        it = it->second.empty() ? followers_.erase(it) : std::next(it);
    }
    const bool elsewhere = std::any_of(members_.begin(), members_.end(), [&](const auto &other) {
        return other.second.name == member.name && other.second.start == member.start;
    });
    const auto entry = entries_.find(member.name);
    if (!elsewhere && entry != entries_.end() && entry->second.start == member.start) entry->second.due = now + grace;
    renewRoster();
}

std::vector<Table::Id>
Table::tick(Time now) {
    std::vector<Id> silent;
    for (const auto &[id, member] : members_) {
        if (now - member.heard >= lease_) silent.push_back(id);
    }
    for (const auto id : silent) drop(id, now, Duration(0));
    std::vector<std::string> over;
    for (const auto &[name, entry] : entries_) {
        if (entry.due <= now) over.push_back(name);
    }
    for (const auto &name : over) remove(name, End::kLost, now);
    std::vector<std::pair<std::string, Start>> absent;
    for (const auto &[name, follows] : followers_) {
        for (const auto &follow : follows) {
            if (follow.due <= now) absent.emplace_back(name, follow.start);
        }
    }
    for (const auto &[name, start] : absent) tellFollowers(name, start, End::kLost, now);
    return silent;
}

void
Table::answer(Id id, uint64_t call, nixl_status_t status, const std::string &sentence) const {
    if (call == 0 && status == NIXL_SUCCESS) return;
    Message message;
    message.type = Type::kAnswer;
    message.id = call;
    message.status = status;
    message.text = sentence;
    send_(id, message);
}

bool
Table::renewRoster() {
    std::map<std::string, std::string> deputies;
    for (const auto &[id, member] : members_) {
        if (!member.address.empty()) deputies[member.name] = member.address;
    }
    std::vector<Deputy> roster;
    for (const auto &[name, address] : deputies) {
        if (roster.size() < kRosterMax) roster.push_back({name, address});
    }
    if (roster == roster_.roster) return false;
    roster_.roster = std::move(roster);
    for (const auto &[id, member] : members_) send_(id, roster_);
    return true;
}

} // namespace nx::rendezvous
