// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Method: time is a number here; what the table sends is kept by member.
#include "rendezvous/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::rendezvous {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr auto kLease = 10'000ms;

class RendezvousTable : public testing::Test {
protected:
    void
    join(Table::Id id, const std::string &name, uint8_t start, const std::string &address = "") {
        Message hello;
        hello.type = Type::kHello;
        hello.name = name;
        hello.start = {start};
        hello.text = address;
        table_.join(id, hello, now_);
    }

    /// The status of the answer.
    int
    publish(Table::Id id, const std::string &label, const std::string &blob, bool again = false) {
        Message message;
        message.type = Type::kPublish;
        message.id = ++calls_;
        message.flag = again;
        message.text = label;
        message.blob = std::make_shared<const std::string>(blob);
        EXPECT_TRUE(table_.receive(id, message, now_));
        return last(id, Type::kAnswer).status;
    }

    void
    withdraw(Table::Id id) {
        Message message;
        message.type = Type::kWithdraw;
        message.id = ++calls_;
        EXPECT_TRUE(table_.receive(id, message, now_));
    }

    /// What was found; "" nothing.
    std::string
    fetch(Table::Id id, const std::string &name, const std::string &label) {
        Message message;
        message.type = Type::kFetch;
        message.id = ++calls_;
        message.name = name;
        message.text = label;
        sent_[id].clear();
        EXPECT_TRUE(table_.receive(id, message, now_));
        const auto answer = sent_[id].back();
        EXPECT_EQ(answer.id, calls_);
        if (answer.type == Type::kFound) return *answer.blob;
        EXPECT_EQ(answer.status, NIXL_ERR_NOT_FOUND);
        return "";
    }

    void
    follow(Table::Id id, const std::string &name, uint8_t start) {
        Message message;
        message.type = Type::kFollow;
        message.name = name;
        message.start = {start};
        EXPECT_TRUE(table_.receive(id, message, now_));
    }

    /// "a" for an end, "a!" for one whose place another start has.
    std::vector<std::string>
    gone(Table::Id id) {
        std::vector<std::string> names;
        for (const auto &message : sent_[id]) {
            if (message.type == Type::kGone) names.push_back(message.name + (message.flag ? "!" : ""));
        }
        sent_[id].clear();
        return names;
    }

    Message
    last(Table::Id id, Type type) {
        for (auto it = sent_[id].rbegin(); it != sent_[id].rend(); ++it) {
            if (it->type == type) return *it;
        }
        return {};
    }

    std::vector<Table::Id>
    pass(std::chrono::milliseconds time) {
        now_ += time;
        return table_.tick(now_);
    }

    Table::Time now_{1h};
    std::map<Table::Id, std::vector<Message>> sent_;
    uint64_t calls_ = 0;
    Table table_{kLease, {.labels = 3, .follows = 2, .blob_bytes = 100}, [this](Table::Id id, const Message &message) {
                     sent_[id].push_back(message);
                 }};
};

TEST_F(RendezvousTable, GivesWhatIsPublishedToWhoAsks) {
    join(1, "a", 1);
    join(2, "b", 2);
    EXPECT_EQ(publish(1, "metadata", "x"), NIXL_SUCCESS);
    EXPECT_EQ(fetch(2, "a", "metadata"), "x");
    EXPECT_EQ(publish(1, "metadata", "y"), NIXL_SUCCESS);
    EXPECT_EQ(fetch(2, "a", "metadata"), "y");
    EXPECT_EQ(fetch(2, "a", "other"), "");
    withdraw(1);
    EXPECT_EQ(fetch(2, "a", "metadata"), "");
    EXPECT_THAT(gone(2), IsEmpty()) << "told before the fetch";
}

TEST_F(RendezvousTable, ALaterStartTakesTheName) {
    join(1, "a", 1);
    join(2, "a", 2);
    join(3, "reader", 3);
    EXPECT_EQ(publish(1, "metadata", "first"), NIXL_SUCCESS);
    EXPECT_EQ(fetch(3, "a", "metadata"), "first");
    EXPECT_EQ(publish(2, "metadata", "second"), NIXL_SUCCESS);
    EXPECT_THAT(gone(3), ElementsAre("a!"));
    EXPECT_THAT(gone(1), ElementsAre("a!")) << "so that it does not publish again at the next host";
    EXPECT_EQ(publish(1, "metadata", "again", true), NIXL_ERR_NOT_ALLOWED);
    withdraw(1);
    EXPECT_EQ(fetch(3, "a", "metadata"), "second");
    withdraw(2);
    EXPECT_EQ(publish(1, "metadata", "again", true), NIXL_SUCCESS) << "the name is free";
}

TEST_F(RendezvousTable, WhoIsSilentForALeaseIsGone) {
    join(1, "a", 1);
    join(2, "reader", 2);
    publish(1, "metadata", "x");
    fetch(2, "a", "metadata");
    for (int i = 0; i < 9; ++i) {
        EXPECT_THAT(pass(kLease / 10), IsEmpty());
        table_.heard(2, now_);
    }
    EXPECT_THAT(gone(2), IsEmpty());
    EXPECT_THAT(pass(kLease / 10), ElementsAre(1));
    EXPECT_THAT(gone(2), ElementsAre("a"));
    Message alive;
    EXPECT_FALSE(table_.receive(1, alive, now_)) << "it is no member";
}

TEST_F(RendezvousTable, ABrokenConnectionMayComeBackWithinATenthOfTheLease) {
    join(1, "a", 1);
    join(2, "reader", 2);
    publish(1, "metadata", "x");
    fetch(2, "a", "metadata");
    table_.leave(1, now_);
    pass(kLease / 20);
    join(3, "a", 1);
    pass(kLease / 2);
    EXPECT_THAT(gone(2), IsEmpty());
    table_.leave(3, now_);
    pass(kLease / 10);
    EXPECT_THAT(gone(2), ElementsAre("a"));
}

TEST_F(RendezvousTable, WhoseNewConnectionIsThereBeforeTheOldOneIsGoneStays) {
    join(1, "a", 1);
    join(2, "reader", 2);
    publish(1, "metadata", "x");
    join(3, "a", 1);
    table_.leave(1, now_);
    pass(kLease / 2);
    EXPECT_EQ(fetch(2, "a", "metadata"), "x");
}

TEST_F(RendezvousTable, ThoseWhoComeFromAnotherHostWaitALeaseForEachOther) {
    join(1, "reader", 1);
    follow(1, "a", 2);
    follow(1, "b", 3);
    for (int i = 0; i < 9; ++i) {
        pass(kLease / 10);
        table_.heard(1, now_);
    }
    join(2, "a", 2);
    publish(2, "metadata", "x", true);
    EXPECT_THAT(gone(1), IsEmpty());
    pass(kLease / 10 - 1ms);
    table_.heard(1, now_);
    EXPECT_THAT(gone(1), IsEmpty());
    pass(1ms);
    EXPECT_THAT(gone(1), ElementsAre("b")) << "it did not come";
    table_.heard(1, now_);
    table_.heard(2, now_);
    pass(kLease / 2);
    withdraw(2);
    EXPECT_THAT(gone(1), ElementsAre("a"));
}

TEST_F(RendezvousTable, WhoComesFromAnotherHostIsNotToldOfALossTooSoon) {
    join(1, "a", 1);
    publish(1, "metadata", "x");
    table_.leave(1, now_);
    join(2, "reader", 2);
    follow(2, "a", 1);
    pass(kLease / 5);
    EXPECT_THAT(gone(2), IsEmpty()) << "it may be on its way";
    EXPECT_EQ(fetch(2, "nobody", "metadata"), "");
    table_.heard(2, now_);
    pass(kLease * 4 / 5);
    EXPECT_THAT(gone(2), ElementsAre("a"));
}

TEST_F(RendezvousTable, WhoWasRestartedMeanwhileIsToldOf) {
    join(1, "early", 1);
    follow(1, "a", 2);
    join(2, "a", 3);
    publish(2, "metadata", "x");
    EXPECT_THAT(gone(1), ElementsAre("a!"));
    join(3, "late", 4);
    follow(3, "a", 2);
    EXPECT_THAT(gone(3), ElementsAre("a!"));
}

TEST_F(RendezvousTable, ListsThoseWhoCanTakeOver) {
    join(1, "b", 1, "10.0.0.1:1");
    EXPECT_THAT(last(1, Type::kRoster).roster, ElementsAre(Deputy{"b", "10.0.0.1:1"}));
    join(2, "guest", 2);
    EXPECT_THAT(last(2, Type::kRoster).roster, ElementsAre(Deputy{"b", "10.0.0.1:1"}));
    join(3, "a", 3, "10.0.0.2:1");
    for (const Table::Id id : {1, 2, 3}) {
        EXPECT_THAT(last(id, Type::kRoster).roster, ElementsAre(Deputy{"a", "10.0.0.2:1"}, Deputy{"b", "10.0.0.1:1"}));
    }
    sent_.clear();
    table_.leave(1, now_);
    EXPECT_THAT(last(2, Type::kRoster).roster, ElementsAre(Deputy{"a", "10.0.0.2:1"}));
    for (int i = 0; i < 40; ++i) join(100 + static_cast<Table::Id>(i), "n" + std::to_string(i), 9, "10.0.0.3:1");
    EXPECT_EQ(last(2, Type::kRoster).roster.size(), kRosterMax);
}

TEST_F(RendezvousTable, IsBounded) {
    join(1, "a", 1);
    join(2, "reader", 2);
    for (const char *label : {"1", "2", "3"}) EXPECT_EQ(publish(1, label, "x"), NIXL_SUCCESS);
    EXPECT_EQ(publish(1, "4", "x"), NIXL_ERR_NO_MEMORY);
    EXPECT_EQ(publish(1, "3", std::string(99, 'x')), NIXL_ERR_NO_MEMORY);
    EXPECT_EQ(publish(1, "3", std::string(98, 'x')), NIXL_SUCCESS);
    EXPECT_EQ(publish(2, "1", "x"), NIXL_ERR_NO_MEMORY);
    withdraw(1);
    EXPECT_EQ(publish(2, "1", std::string(100, 'x')), NIXL_SUCCESS) << "all of it is free again";
    follow(1, "p", 1);
    follow(1, "q", 1);
    follow(1, "r", 1);
    table_.heard(1, now_ + kLease);
    pass(kLease);
    EXPECT_THAT(gone(1), testing::UnorderedElementsAre("p", "q"));
}

TEST_F(RendezvousTable, MembersDoNotSpeakAsHosts) {
    join(1, "a", 1);
    for (const auto type : {Type::kHello, Type::kJoin, Type::kAnswer, Type::kFound, Type::kGone, Type::kRoster}) {
        Message message;
        message.type = type;
        EXPECT_FALSE(table_.receive(1, message, now_));
    }
}

} // namespace
} // namespace nx::rendezvous
