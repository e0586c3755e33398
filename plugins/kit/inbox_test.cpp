// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/inbox.h"

#include <gtest/gtest.h>

#include "wire/limits.h"

namespace nx::kit {
namespace {

TEST(Inbox, HandsOutWhatCameInItsOrder) {
    Inbox inbox("test");
    EXPECT_TRUE(inbox.empty());
    ASSERT_TRUE(inbox.put("a", "1"));
    ASSERT_TRUE(inbox.put("b", ""));
    ASSERT_TRUE(inbox.put("a", "2"));
    notif_list_t out{{"earlier", "0"}};
    EXPECT_TRUE(inbox.takeAll(out).empty());
    EXPECT_EQ(out, (notif_list_t{{"earlier", "0"}, {"a", "1"}, {"b", ""}, {"a", "2"}}));
    EXPECT_TRUE(inbox.empty());
}

TEST(Inbox, HasNoLimitOfCount) {
    Inbox inbox("test");
    for (int i = 0; i < 200'000; ++i) ASSERT_TRUE(inbox.put("a", std::to_string(i))) << i;
    notif_list_t out;
    inbox.takeAll(out);
    EXPECT_EQ(out.size(), 200'000u);
}

TEST(Inbox, AFloodTakesTheSendersOwnShareOnly) {
    Inbox inbox("test");
    const std::string message(kShareBytes / 4, 'x');
    size_t kept = 0;
    while (inbox.put("loud", message)) ++kept;
    EXPECT_EQ(kept, 3u) << "the fourth does not fit beside names and overhead";
    EXPECT_TRUE(inbox.put("quiet", message));
    notif_list_t out;
    inbox.takeAll(out);
    EXPECT_TRUE(inbox.put("loud", message));
}

TEST(Inbox, TakesOneMessageOfTheLargestSizeAndNoneBeyond) {
    Inbox inbox("test");
    EXPECT_FALSE(inbox.put("a", std::string(wire::kNotificationBytesMax + 1, 'x')));
    EXPECT_TRUE(inbox.put("a", std::string(wire::kNotificationBytesMax, 'x')));
    EXPECT_FALSE(inbox.put("a", std::string(wire::kNotificationBytesMax, 'x')));
}

TEST(Inbox, CountsWhatIsLost) {
    Inbox inbox("test");
    for (int i = 0; i < 5; ++i) inbox.drop("a");
    inbox.dropMalformed("it is malformed");
    EXPECT_EQ(inbox.droppedCount(), 6u);
}

TEST(Inbox, GivesQuestionsBackWithWhatTheyAskAbout) {
    Inbox inbox("test");
    EXPECT_TRUE(inbox.ask("a", 1));
    ASSERT_TRUE(inbox.put("a", "x"));
    EXPECT_FALSE(inbox.ask("a", 2));
    notif_list_t out;
    EXPECT_EQ(inbox.takeAll(out), (std::vector<CreditReceiver::Question>{2}));
}

} // namespace
} // namespace nx::kit
