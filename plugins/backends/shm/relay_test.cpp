// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a piece is copied once, by whoever has taken it, or not at all; the owner touches nothing outside its open
// windows, and whoever closes one knows when nobody copies there any more; what the other side writes into the slots
// spoils pieces, nothing else.
// Method: both sides in one process, one after the other and in threads; slots full of odd words.
#include "shm/relay.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "support/eventually.h"

namespace nx::shm {
namespace {

constexpr size_t kSlots = RelayMemory::kSlots, kSlotBytes = RelayMemory::kSlotBytes;

class Relay : public testing::Test {
protected:
    Relay() : board_(*Board::create()), windows(board_->view()), memory(std::make_unique<RelayMemory>()) {
        const auto opened = board_->open({.address = addressOf(0), .length = there.size()});
        window = *opened;
        for (size_t i = 0; i < here.size(); ++i) here[i] = static_cast<std::byte>(i * 7 + 1);
    }

    uint64_t
    addressOf(size_t offset) const {
        return reinterpret_cast<uint64_t>(there.data()) + offset;
    }

    RelaySender::Piece
    piece(size_t offset, size_t bytes, bool write = true) {
        return {.local = here.data() + offset,
                .remote = addressOf(offset),
                .window = window,
                .length = static_cast<uint32_t>(bytes),
                .write = write,
                .streams = false};
    }

    RelaySender::End
    reap() {
        return sender.reap(over);
    }

    std::vector<std::byte> here{16 * kSlotBytes}, there{16 * kSlotBytes};
    const std::unique_ptr<Board> board_;
    ServedWindows windows;
    const std::unique_ptr<RelayMemory> memory;
    kit::WindowKey window;
    RelaySender sender{memory.get()};
    RelayServer server{memory.get(), windows};
    RelaySender::Piece over{};
};

using End = RelaySender::End;

TEST_F(Relay, CarriesWhatIsWrittenAndWhatIsRead) {
    sender.offer(piece(3, kSlotBytes));
    std::fill(here.begin(), here.begin() + kSlotBytes + 3, std::byte{9}); // it was read by then
    EXPECT_EQ(reap(), End::kNone);
    EXPECT_FALSE(server.empty());
    EXPECT_EQ(server.serve(), 1u);
    EXPECT_TRUE(server.empty());
    EXPECT_EQ(reap(), End::kDone);
    EXPECT_EQ(over.remote, addressOf(3));
    EXPECT_EQ(there[2], std::byte{0});
    for (size_t i = 3; i < kSlotBytes + 3; ++i) ASSERT_EQ(there[i], static_cast<std::byte>(i * 7 + 1)) << i;
    EXPECT_EQ(there[kSlotBytes + 3], std::byte{0});

    sender.offer(piece(5, 100, false));
    EXPECT_EQ(server.serve(), 1u);
    EXPECT_EQ(here[5], std::byte{9}) << "before it is reaped";
    EXPECT_EQ(reap(), End::kDone);
    EXPECT_EQ(here[4], std::byte{9});
    EXPECT_TRUE(std::equal(here.begin() + 5, here.begin() + 105, there.begin() + 5));
    EXPECT_EQ(here[105], std::byte{9});
}

TEST_F(Relay, HoldsSoManyAndGivesThemBackInOrder) {
    for (size_t round = 0, at = 0; round < 5; ++round) {
        for (size_t i = 0; i < kSlots; ++i) {
            ASSERT_FALSE(sender.full());
            sender.offer(piece(at + i, 1));
        }
        ASSERT_TRUE(sender.full());
        EXPECT_EQ(server.serve(), kSlots);
        for (size_t i = 0; i < kSlots; ++i) {
            ASSERT_EQ(reap(), End::kDone);
            ASSERT_EQ(over.remote, addressOf(at + i));
        }
        ASSERT_EQ(reap(), End::kNone);
        at += kSlots + 1;
    }
}

TEST_F(Relay, WhatNobodyHasTakenIsWithdrawnTheNewestFirst) {
    for (size_t i = 0; i < 3; ++i) sender.offer(piece(i, 1));
    EXPECT_EQ(server.serve(), 3u);
    for (size_t i = 3; i < 6; ++i) sender.offer(piece(i, 1));
    for (const size_t i : {5, 4, 3}) {
        ASSERT_TRUE(sender.withdraw(over));
        EXPECT_EQ(over.remote, addressOf(i));
    }
    EXPECT_FALSE(sender.withdraw(over)) << "done already";
    EXPECT_EQ(server.serve(), 0u);
    EXPECT_EQ(there[3], std::byte{0});
    sender.offer(piece(7, 1)); // in the place of those that are gone
    EXPECT_EQ(server.serve(), 1u);
    for (const size_t i : {0, 1, 2, 7}) {
        ASSERT_EQ(reap(), End::kDone);
        EXPECT_EQ(over.remote, addressOf(i));
    }
    EXPECT_FALSE(sender.withdraw(over));
    EXPECT_EQ(sender.outstanding(), 0u);
}

TEST_F(Relay, TouchesNothingOutsideOpenWindows) {
    const auto refused = [&](RelaySender::Piece wrong) {
        sender.offer(wrong);
        EXPECT_EQ(server.serve(), 1u);
        return reap() == End::kRefused;
    };
    for (const bool write : {true, false}) {
        EXPECT_TRUE(refused({.local = here.data(),
                             .remote = addressOf(0) - 1,
                             .window = window,
                             .length = 2,
                             .write = write,
                             .streams = false}));
        EXPECT_TRUE(refused({.local = here.data(),
                             .remote = addressOf(there.size() - 1),
                             .window = window,
                             .length = 2,
                             .write = write,
                             .streams = false}));
        EXPECT_TRUE(refused({.local = here.data(),
                             .remote = addressOf(0),
                             .window = {window.id + 1, 1},
                             .length = 1,
                             .write = write,
                             .streams = false}));
        EXPECT_TRUE(refused({.local = here.data(),
                             .remote = UINT64_MAX,
                             .window = window,
                             .length = 1,
                             .write = write,
                             .streams = false}));
    }
    board_->close(window);
    EXPECT_TRUE(refused(piece(0, 1)));
    EXPECT_TRUE(std::all_of(there.begin(), there.end(), [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST_F(Relay, WakesTheOwnerThatSleepsOnce) {
    EXPECT_FALSE(sender.attended());
    EXPECT_FALSE(sender.mustWake()) << "the owner has not been there yet";
    ASSERT_TRUE(server.arm());
    EXPECT_FALSE(sender.attended());
    sender.offer(piece(0, 1));
    EXPECT_TRUE(sender.mustWake());
    sender.offer(piece(1, 1));
    EXPECT_FALSE(sender.mustWake());
    EXPECT_FALSE(server.arm()) << "something is there";
    EXPECT_FALSE(sender.mustWake());
    EXPECT_EQ(server.serve(), 2u);
    ASSERT_TRUE(server.arm());
    server.attend();
    EXPECT_TRUE(sender.attended());
    sender.offer(piece(2, 1));
    EXPECT_FALSE(sender.mustWake());
}

TEST_F(Relay, HasOneUser) {
    EXPECT_TRUE(sender.take());
    EXPECT_FALSE(sender.take());
    sender.giveBack();
    EXPECT_TRUE(sender.take());
}

TEST_F(Relay, WordsThatCannotBeSpoilPiecesAndNothingElse) {
    std::mt19937_64 random(1);
    for (size_t round = 0; round < 20'000; ++round) {
        const size_t at = random() % (here.size() - kSlotBytes);
        if (!sender.full()) sender.offer(piece(at, 1 + random() % kSlotBytes, random() % 2));
        RelayMemory::Slot &slot = memory->slots[random() % kSlots];
        switch (random() % 6) {
        case 0: slot.word = random() % 200; break;
        case 1: slot.length = static_cast<uint32_t>(random()); break;
        case 2: slot.address = addressOf(there.size()) - random() % 20'000; break;
        case 3: slot.window = static_cast<uint32_t>(random()); break;
        case 4: server.serve(); break;
        default: reap(); break;
        }
    } // a sanitizer tells of what lies beyond
}

TEST_F(Relay, PiecesThatAreWithdrawnWhileTheOwnerLooksAreCopiedByOneOfTheTwo) {
    std::atomic<bool> over_all{false};
    std::thread owner([&] {
        while (!over_all) server.serve();
    });
    constexpr size_t kBytes = 256;
    size_t done = 0, taken_back = 0;
    for (size_t round = 0; round < 20'000; ++round) {
        const size_t offset = round % (there.size() / kBytes) * kBytes;
        std::memset(here.data() + offset, static_cast<int>(round), kBytes);
        sender.offer(piece(offset, kBytes));
        if (round % 3 == 0 && sender.withdraw(over)) {
            // The owner has not begun: what is there belongs to the round before, all of it.
            ASSERT_TRUE(std::all_of(there.begin() + offset, there.begin() + offset + kBytes,
                                    [&](std::byte byte) { return byte == there[offset]; }));
            std::memset(there.data() + offset, static_cast<int>(round), kBytes);
            ++taken_back;
        } else {
            ASSERT_TRUE(test::eventually([&] { return reap() == End::kDone; }));
            ++done;
        }
        ASSERT_EQ(std::memcmp(here.data() + offset, there.data() + offset, kBytes), 0) << round;
    }
    over_all = true;
    owner.join();
    EXPECT_GT(done, 0u);
    RecordProperty("withdrawn", static_cast<int>(taken_back));
}

TEST_F(Relay, NobodyCopiesAfterTheBarrierOfAClosedWindow) {
    std::atomic<bool> over_all{false};
    std::thread owner([&] {
        while (!over_all) server.serve();
    });
    std::thread starter([&] {
        while (!over_all) {
            if (!sender.full()) sender.offer(piece(0, kSlotBytes));
            while (reap() != End::kNone) {}
        }
    });
    for (size_t round = 0; round < 500; ++round) {
        board_->close(window);
        auto marks = windows.watch().snapshot();
        ASSERT_TRUE(test::eventually([&] { return windows.watch().quiet(marks); }));
        std::memset(there.data(), 0xee, kSlotBytes);
        for (size_t i = 0; i < kSlotBytes; ++i) ASSERT_EQ(there[i], std::byte{0xee}) << "round " << round;
        const auto again = board_->open({.address = addressOf(0), .length = there.size()});
        ASSERT_EQ(*again, window) << "the same range";
    }
    over_all = true;
    owner.join();
    starter.join();
}

} // namespace
} // namespace nx::shm
