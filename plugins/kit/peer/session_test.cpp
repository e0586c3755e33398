// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Each rule of the protocol by itself, between two sessions over a link that moves everything at once.
// simulation_test.cpp puts them together.
#include "kit/peer/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/no_memory.h"
#include "support/simulated_link.h"

namespace nx::kit {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using State = Session::State;

constexpr uint32_t kAll = kMayRead | kMayWrite | kMayCopy;

SessionOptions
options(const std::string &name, size_t stream_count) {
    SessionOptions made;
    made.hello.name = name;
    made.stream_count = stream_count;
    made.question = 77;
    return made;
}

struct Side {
    Side(const std::string &name, size_t stream_count) : session(options(name, stream_count), inbox, 0) {}

    std::vector<std::string>
    fetch() {
        notif_list_t list;
        for (const auto question : inbox.takeAll(list)) {
            EXPECT_EQ(question, 77u);
            session.notesFetched();
        }
        std::vector<std::string> messages;
        for (auto &[sender, message] : list) messages.push_back(message);
        return messages;
    }

    Inbox inbox{"test"};
    Session session;
    std::string memory = std::string(1 << 20, '.');
};

/// A speaks to B over a link; B has a window of all its memory.
struct PeersOver : testing::Test {
    explicit PeersOver(size_t stream_count)
        : a("A", stream_count),
          b("B", stream_count),
          link(a.session, b.session, stream_count, 1, {}) {
        window = {.key = {3, 1},
                  .rights = kAll,
                  .memory = VRAM_SEG,
                  .device = 4,
                  .address = reinterpret_cast<uint64_t>(b.memory.data()),
                  .length = b.memory.size()};
        EXPECT_TRUE(b.session.announce(window).ok());
    }

    void
    fill(Request &request, nixl_xfer_op_t operation, uint64_t bytes, uint64_t remote_offset = 0) const {
        request.operation = operation;
        request.local.clear();
        request.remote.clear();
        ASSERT_TRUE(request.local.add({.address = reinterpret_cast<uint64_t>(a.memory.data()), .length = bytes}));
        ASSERT_TRUE(
            request.remote.add({.address = window.address + remote_offset, .length = bytes, .window = window.key}));
    }

    Side a, b;
    test::SimulatedLink link;
    Window window;
};

struct Peers : PeersOver {
    Peers() : PeersOver(3) {}
};

struct PeersOverOneStream : PeersOver {
    PeersOverOneStream() : PeersOver(1) {}
};

/// Feeds a session with bytes by hand.
void
feed(Session &session, size_t stream, std::string_view bytes) {
    while (!bytes.empty()) {
        std::array<Piece, 1> piece;
        if (session.input(stream, piece) == 0) return;
        const size_t count = std::min(bytes.size(), piece[0].bytes);
        std::memcpy(piece[0].address, bytes.data(), count);
        session.received(stream, count);
        bytes.remove_prefix(count);
    }
}

/// Brings all that one session has to say on a stream to the other.
void
carry(Session &from, Session &to, size_t stream) {
    std::array<Piece, 4> pieces;
    while (const size_t count = from.output(stream, pieces)) {
        size_t bytes = 0;
        for (size_t i = 0; i < count; ++i) {
            feed(to, stream, {pieces[i].address, pieces[i].bytes});
            bytes += pieces[i].bytes;
        }
        from.sent(stream, bytes);
    }
}

std::string
greeting(uint16_t major = kProtocolMajor) {
    std::string bytes;
    encodeHello(bytes, {.major = major, .name = "stranger"});
    return bytes;
}

/// What a session says to whoever feeds it `bytes` on stream 0.
struct Victim : testing::Test {
    void
    expectRefusal(std::string_view bytes, const std::string &why) {
        feed(side.session, 0, bytes);
        EXPECT_EQ(side.session.state(), State::kClosing);
        EXPECT_EQ(side.session.reason().code(), NIXL_ERR_MISMATCH);
        EXPECT_THAT(side.session.reason().message(), HasSubstr(why));
        std::string said;
        std::array<Piece, 1> piece;
        while (side.session.output(0, piece) > 0) {
            said.append(piece[0].address, piece[0].bytes);
            side.session.sent(0, piece[0].bytes);
        }
        EXPECT_THAT(said, HasSubstr(why.substr(0, 40))); // goodbye tells it
        EXPECT_EQ(side.session.state(), State::kEnded);
    }

    Side side{"victim", 2};
};

// ---- Greeting ------------------------------------------------------------------------------------------------------

TEST_F(Peers, GreetEachOtherAndAnnounceWindows) {
    EXPECT_EQ(a.session.state(), State::kGreeting);
    EXPECT_EQ(a.session.peer(), nullptr);
    link.pump();
    EXPECT_EQ(a.session.state(), State::kOpen);
    ASSERT_NE(a.session.peer(), nullptr);
    EXPECT_EQ(a.session.peer()->name, "B");
    EXPECT_EQ(b.session.peer()->name, "A");
    ASSERT_NE(a.session.peerWindow(3), nullptr);
    EXPECT_EQ(a.session.peerWindow(3)->memory, VRAM_SEG);
    EXPECT_EQ(a.session.peerWindow(3)->length, b.memory.size());
    EXPECT_EQ(a.session.peerWindow(4), nullptr);
}

TEST_F(Victim, RefusesAnotherMajorVersionWithASentence) {
    expectRefusal(greeting(2), "the peer speaks version 2, this side version 1; use the same release");
}

TEST_F(Victim, IgnoresUnknownFeatures) {
    std::string bytes;
    encodeHello(bytes, {.minor = 9, .features = ~uint64_t{0}, .name = "later"});
    feed(side.session, 0, bytes);
    EXPECT_EQ(side.session.state(), State::kOpen);
    EXPECT_EQ(side.session.peer()->features, ~uint64_t{0});
}

TEST_F(Victim, RefusesASecondGreeting) {
    expectRefusal(greeting() + greeting(), "agent 'stranger' broke the protocol: a second greeting");
}

TEST_F(Victim, RefusesAFrameBeforeTheGreeting) {
    std::string bytes;
    encodeEmpty(bytes, FrameType::kPing);
    expectRefusal(bytes, "a frame before the greeting");
}

TEST_F(Victim, RefusesWhatIsNoFrame) {
    expectRefusal(std::string(8, 'x'), "not a frame of a peer");
}

// ---- Transfers -----------------------------------------------------------------------------------------------------

TEST_F(Peers, WriteMovesAllBytesAndEndsOnce) {
    Request request;
    fill(request, NIXL_WRITE, 700000, 1000);
    for (size_t i = 0; i < 700000; ++i) a.memory[i] = static_cast<char>(i * 7);
    ASSERT_TRUE(a.session.post(request).ok());
    EXPECT_EQ(a.session.nextEnded(), nullptr);
    link.pump();
    EXPECT_EQ(a.session.nextEnded(), &request);
    EXPECT_EQ(a.session.nextEnded(), nullptr);
    EXPECT_TRUE(request.outcome.ok());
    EXPECT_EQ(request.moved, 700000u);
    EXPECT_EQ(b.memory.substr(1000, 700000), a.memory.substr(0, 700000));
    EXPECT_EQ(b.memory[999], '.');
    EXPECT_EQ(b.memory[701000], '.');
}

TEST_F(PeersOverOneStream, ReadAndWriteMoveAllBytes) {
    Request write;
    fill(write, NIXL_WRITE, 300000);
    a.memory.assign(a.memory.size(), 'w');
    ASSERT_TRUE(a.session.post(write, "written").ok());
    link.pump();
    EXPECT_EQ(a.session.nextEnded(), &write);
    EXPECT_EQ(b.memory.substr(0, 300000), std::string(300000, 'w'));
    EXPECT_THAT(b.fetch(), ElementsAre("written"));

    Request read;
    fill(read, NIXL_READ, 300000, 300000);
    ASSERT_TRUE(a.session.post(read, "read").ok());
    link.pump();
    EXPECT_EQ(a.session.nextEnded(), &read);
    EXPECT_TRUE(read.outcome.ok());
    EXPECT_EQ(a.memory.substr(0, 300000), std::string(300000, '.'));
    EXPECT_THAT(b.fetch(), ElementsAre("read"));
}

TEST_F(Peers, RequestOfManyRunsIsOneRequest) {
    Request request;
    constexpr uint64_t count = 3 * kRunsPerFrameMax;
    ASSERT_TRUE(request.local.add({.address = reinterpret_cast<uint64_t>(a.memory.data()), .length = count}));
    for (uint64_t i = 0; i < count; ++i) {
        // Every second byte, from the end.
        ASSERT_TRUE(
            request.remote.add({.address = window.address + 2 * (count - 1 - i), .length = 1, .window = window.key}));
    }
    for (uint64_t i = 0; i < count; ++i) a.memory[i] = static_cast<char>('a' + i % 26);
    ASSERT_TRUE(a.session.post(request).ok());
    link.pump();
    ASSERT_EQ(a.session.nextEnded(), &request);
    EXPECT_TRUE(request.outcome.ok()) << request.outcome.message();
    for (uint64_t i = 0; i < count; ++i) {
        ASSERT_EQ(b.memory[2 * (count - 1 - i)], a.memory[i]) << i;
        ASSERT_EQ(b.memory[2 * (count - 1 - i) + 1], '.') << i;
    }
}

TEST_F(Peers, PiecesOfTheTargetTellItsMemory) {
    Request request;
    fill(request, NIXL_READ, 100);
    ASSERT_TRUE(a.session.post(request).ok());
    carry(a.session, b.session, 0);
    std::array<Piece, 4> pieces;
    ASSERT_EQ(b.session.output(1, pieces), 2u);
    EXPECT_EQ(pieces[0].bytes, kDataHeadBytes);
    EXPECT_EQ(pieces[1].address, b.memory.data()); // not copied
    EXPECT_EQ(pieces[1].memory, VRAM_SEG);
    EXPECT_EQ(pieces[1].device, 4u);
}

TEST_F(Peers, MoreRequestsThanMayBeAnnouncedWaitForEachOther) {
    std::vector<Request> requests(kRequestsMax + 100);
    for (Request &request : requests) {
        fill(request, NIXL_WRITE, 8);
        ASSERT_TRUE(a.session.post(request).ok());
    }
    link.pump();
    size_t ended = 0;
    while (const Request *request = a.session.nextEnded()) {
        EXPECT_TRUE(request->outcome.ok());
        ++ended;
    }
    EXPECT_EQ(ended, requests.size());
}

TEST_F(Peers, RequestCanBePostedAgainAfterItEndedAndNotBefore) {
    Request request;
    fill(request, NIXL_WRITE, 8);
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(a.session.post(request).ok());
        EXPECT_EQ(a.session.post(request).code(), NIXL_ERR_REPOST_ACTIVE);
        link.pump();
        EXPECT_EQ(a.session.nextEnded(), &request);
    }
}

TEST_F(Peers, RequestOfNothingEndsAtOnce) {
    Request request;
    ASSERT_TRUE(a.session.post(request, "nothing").ok());
    EXPECT_EQ(a.session.nextEnded(), &request);
    link.pump();
    EXPECT_THAT(b.fetch(), ElementsAre("nothing"));
}

TEST_F(Peers, SidesOfDifferentLengthAreRefused) {
    Request request;
    fill(request, NIXL_WRITE, 8);
    request.local.clear();
    EXPECT_EQ(a.session.post(request).code(), NIXL_ERR_INVALID_PARAM);
}

// ---- Windows -------------------------------------------------------------------------------------------------------

TEST_F(Peers, AccessOutsideAWindowIsRefusedAndTheSessionLivesOn) {
    ASSERT_TRUE(b.session.announce({.key = {4, 1}, .rights = kMayRead, .address = window.address, .length = 10}).ok());
    ASSERT_TRUE(b.session.announce({.key = {5, 1}, .rights = kMayWrite, .address = window.address, .length = 10}).ok());
    const uint64_t size = b.memory.size();
    const std::vector<std::tuple<nixl_xfer_op_t, Blocks, nixl_status_t>> refusals = {
        {NIXL_WRITE, {.address = size, .length = 8, .window = {3, 1}}, NIXL_ERR_NOT_FOUND},
        {NIXL_WRITE, {.address = size - 7, .length = 8, .window = {3, 1}}, NIXL_ERR_NOT_FOUND},
        {NIXL_WRITE, {.address = uint64_t{0} - 1, .length = 8, .window = {3, 1}}, NIXL_ERR_NOT_FOUND},
        {NIXL_READ, {.address = 0, .length = 4, .stride = size, .count = 2, .window = {3, 1}}, NIXL_ERR_NOT_FOUND},
        {NIXL_READ, {.address = 0, .length = 8, .window = {3, 2}}, NIXL_ERR_NOT_FOUND},
        {NIXL_READ, {.address = 0, .length = 8, .window = {9, 1}}, NIXL_ERR_NOT_FOUND},
        {NIXL_WRITE, {.address = 0, .length = 8, .window = {4, 1}}, NIXL_ERR_NOT_ALLOWED},
        {NIXL_READ, {.address = 0, .length = 8, .window = {5, 1}}, NIXL_ERR_NOT_ALLOWED},
    };
    for (const auto &[operation, asked, status] : refusals) {
        Request request;
        fill(request, operation, 8);
        request.remote.clear();
        Blocks remote = asked;
        remote.address += window.address;
        ASSERT_TRUE(request.remote.add(remote));
        ASSERT_TRUE(a.session.post(request).ok());
        link.pump();
        ASSERT_EQ(a.session.nextEnded(), &request);
        EXPECT_EQ(request.outcome.code(), status);
        EXPECT_THAT(request.outcome.message(), HasSubstr("agent 'B' says: '"));
    }
    EXPECT_EQ(b.memory, std::string(size, '.'));
    EXPECT_EQ(a.memory, std::string(size, '.'));
    EXPECT_EQ(a.session.state(), State::kOpen);
    EXPECT_EQ(b.session.state(), State::kOpen);
}

TEST_F(Peers, NoteOfARefusedRequestIsNotSeen) {
    Request request;
    fill(request, NIXL_WRITE, 8, b.memory.size());
    ASSERT_TRUE(a.session.post(request, "never").ok());
    link.pump();
    ASSERT_EQ(a.session.nextEnded(), &request);
    EXPECT_THAT(b.fetch(), IsEmpty());
    EXPECT_EQ(b.session.state(), State::kOpen);
}

TEST_F(Peers, RevokedWindowIsQuietAndRefusesAfterwards) {
    link.pump();
    ASSERT_TRUE(b.session.revoke(window.key).ok());
    EXPECT_EQ(b.session.revoke(window.key).code(), NIXL_ERR_INVALID_PARAM);
    EXPECT_FALSE(b.session.nextQuiet()); // the peer may copy, and has not answered
    link.pump();
    EXPECT_EQ(b.session.nextQuiet(), window.key);
    EXPECT_EQ(a.session.peerWindow(3), nullptr);
    Request request;
    fill(request, NIXL_WRITE, 8);
    ASSERT_TRUE(a.session.post(request).ok());
    link.pump();
    EXPECT_EQ(request.outcome.code(), NIXL_ERR_NOT_FOUND);
    // The id may be used again.
    window.key.generation = 2;
    EXPECT_TRUE(b.session.announce(window).ok());
    fill(request, NIXL_WRITE, 8);
    ASSERT_EQ(a.session.nextEnded(), &request);
    ASSERT_TRUE(a.session.post(request).ok());
    link.pump();
    EXPECT_TRUE(request.outcome.ok()) << request.outcome.message();
}

/// Carries until the receiver has lent the place for ten bytes of data that are on their way.
void
runIntoTheMiddle(Session &from, Session &to, size_t stream, std::span<Piece> lent) {
    carry(from, to, 0);
    std::array<Piece, 4> pieces;
    ASSERT_EQ(from.output(stream, pieces), 2u);
    feed(to, stream, {pieces[0].address, pieces[0].bytes});
    from.sent(stream, pieces[0].bytes + 10);
    ASSERT_GT(to.input(stream, lent), 0u);
}

TEST_F(Peers, RevocationWaitsForPiecesThatTheCarrierHas) {
    window.rights = kMayRead | kMayWrite;
    window.key = {8, 1};
    ASSERT_TRUE(b.session.announce(window).ok());
    Request request;
    fill(request, NIXL_WRITE, 1000);
    ASSERT_TRUE(a.session.post(request).ok());
    std::array<Piece, 1> lent;
    runIntoTheMiddle(a.session, b.session, 1, lent);
    EXPECT_EQ(lent[0].address, b.memory.data());
    ASSERT_TRUE(b.session.revoke(window.key).ok());
    EXPECT_FALSE(b.session.nextQuiet());
    b.session.received(1, 10);
    EXPECT_EQ(b.session.nextQuiet(), window.key);
    // What comes now is thrown away.
    b.memory.assign(b.memory.size(), 'q');
    link.pump();
    EXPECT_EQ(b.memory, std::string(b.memory.size(), 'q'));
    ASSERT_EQ(a.session.nextEnded(), &request);
    EXPECT_EQ(request.outcome.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(request.outcome.message(), HasSubstr("deregistered during the transfer"));
}

// ---- The initiator copies ------------------------------------------------------------------------------------------

TEST_F(Peers, CopyIsCheckedHereAndNeedsNoFrame) {
    link.pump();
    Request request;
    fill(request, NIXL_WRITE, 8, b.memory.size());
    EXPECT_EQ(a.session.postCopy(request).code(), NIXL_ERR_NOT_FOUND);
    fill(request, NIXL_WRITE, 8);
    ASSERT_TRUE(a.session.postCopy(request, "copied").ok());
    EXPECT_EQ(a.session.nextEnded(), nullptr);
    a.session.copied(request, Status());
    EXPECT_EQ(a.session.nextEnded(), &request);
    EXPECT_TRUE(request.outcome.ok());
    link.pump();
    EXPECT_THAT(b.fetch(), ElementsAre("copied"));
}

TEST_F(Peers, CopyNeedsTheRight) {
    ASSERT_TRUE(b.session.announce({.key = {4, 1}, .rights = kMayWrite, .address = window.address, .length = 10}).ok());
    link.pump();
    window.key = {4, 1};
    Request request;
    fill(request, NIXL_WRITE, 8);
    EXPECT_EQ(a.session.postCopy(request).code(), NIXL_ERR_NOT_ALLOWED);
}

TEST_F(Peers, RevocationStopsCopiesAndWaitsForThem) {
    link.pump();
    Request request;
    fill(request, NIXL_READ, 8);
    ASSERT_TRUE(a.session.postCopy(request).ok());
    ASSERT_TRUE(b.session.revoke(window.key).ok());
    link.pump();
    EXPECT_TRUE(request.stop);
    EXPECT_FALSE(b.session.nextQuiet());
    a.session.copied(request, Status(NIXL_ERR_BACKEND, "stopped"));
    EXPECT_EQ(request.outcome.code(), NIXL_ERR_NOT_FOUND);
    link.pump();
    EXPECT_EQ(b.session.nextQuiet(), window.key);
}

TEST_F(Peers, WindowThatThePeerMayCopyIsNotQuietBeforeItCanNot) {
    link.pump();
    ASSERT_TRUE(b.session.revoke(window.key).ok());
    b.session.tick(100000); // came too late itself: no death
    ASSERT_EQ(b.session.state(), State::kOpen);
    b.session.tick(b.session.deadline());
    for (int i = 0; i < 5 && b.session.state() != State::kEnded; ++i) b.session.tick(b.session.deadline());
    ASSERT_EQ(b.session.state(), State::kEnded);
    EXPECT_FALSE(b.session.nextQuiet());
    b.session.linkLost("its process has ended");
    EXPECT_EQ(b.session.nextQuiet(), window.key);
}

// ---- Notifications -------------------------------------------------------------------------------------------------

TEST_F(Peers, NotesArriveInTheirOrderAndEmptyOnesToo) {
    const std::string large(300000, 'x');
    for (const std::string &note : {std::string("1"), std::string(), large, std::string("3")}) {
        ASSERT_TRUE(a.session.sendNote(note).ok());
    }
    link.pump();
    EXPECT_THAT(b.fetch(), ElementsAre("1", "", large, "3"));
}

TEST_F(Peers, NoteIsNotSeenBeforeAllDataOfItsRequest) {
    Request request;
    fill(request, NIXL_WRITE, 600000);
    ASSERT_TRUE(a.session.post(request, "after the data").ok());
    // All arrives but what one of the two data streams has.
    carry(a.session, b.session, 0);
    std::array<Piece, 4> kept;
    ASSERT_GT(a.session.output(2, kept), 0u);
    carry(a.session, b.session, 1);
    EXPECT_THAT(b.fetch(), IsEmpty());
    a.session.sent(2, 0);
    link.pump();
    EXPECT_THAT(b.fetch(), ElementsAre("after the data"));
    EXPECT_EQ(a.session.nextEnded(), &request);
}

TEST_F(Peers, SenderWaitsForAPlaceAndGoesOnWhenNotesAreFetched) {
    const std::string large(size_t{20} << 20, 'x');
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(a.session.sendNote(large).ok()) << i;
    EXPECT_EQ(a.session.sendNote(large).code(), NIXL_ERR_REPOST_ACTIVE);
    Request request;
    fill(request, NIXL_WRITE, 8);
    ASSERT_TRUE(a.session.post(request, large).ok());
    link.pump();
    EXPECT_EQ(a.session.nextEnded(), nullptr);                             // its data is there, its note has no place
    EXPECT_EQ(a.session.sendNote("small").code(), NIXL_ERR_REPOST_ACTIVE); // requests go first
    EXPECT_EQ(b.fetch().size(), 3u);
    link.pump();
    EXPECT_EQ(a.session.nextEnded(), &request);
    EXPECT_TRUE(a.session.sendNote("small").ok());
    link.pump();
    EXPECT_EQ(b.fetch().size(), 2u);
    EXPECT_EQ(b.inbox.droppedCount(), 0u);
}

TEST_F(Peers, RequestThatWaitsForAPlaceCanBeCancelled) {
    const std::string large(size_t{40} << 20, 'x');
    ASSERT_TRUE(a.session.sendNote(large).ok());
    std::array<Request, 2> requests;
    fill(requests[0], NIXL_WRITE, 8);
    fill(requests[1], NIXL_READ, 8);
    for (Request &request : requests) ASSERT_TRUE(a.session.post(request, large).ok());
    link.pump();
    for (Request &request : requests) a.session.cancel(request);
    link.pump();
    for (const Request &request : requests) EXPECT_EQ(request.outcome.code(), NIXL_ERR_CANCELED);
    EXPECT_EQ(b.fetch().size(), 1u);
    EXPECT_EQ(b.session.state(), State::kOpen);
}

// ---- Cancellation --------------------------------------------------------------------------------------------------

TEST_F(Peers, CancelledRequestEndsWhenThePeerHasStopped) {
    Request request;
    fill(request, NIXL_READ, 1000);
    ASSERT_TRUE(a.session.post(request).ok());
    carry(a.session, b.session, 0);
    a.session.cancel(request);
    a.session.cancel(request);
    EXPECT_EQ(a.session.nextEnded(), nullptr);
    carry(a.session, b.session, 0);
    carry(b.session, a.session, 0);
    ASSERT_EQ(a.session.nextEnded(), &request);
    EXPECT_EQ(request.outcome.code(), NIXL_ERR_CANCELED);
    link.pump();
    EXPECT_EQ(a.session.nextEnded(), nullptr);
    EXPECT_EQ(a.memory, std::string(a.memory.size(), '.'));
}

TEST_F(Peers, CancelledWriteEndsCanceledAndItsDataIsThrownAway) {
    Request request;
    fill(request, NIXL_WRITE, 1000);
    ASSERT_TRUE(a.session.post(request, "never").ok());
    std::array<Piece, 1> lent;
    runIntoTheMiddle(a.session, b.session, 1, lent);
    carry(b.session, a.session, 0);
    a.session.cancel(request);
    carry(a.session, b.session, 0);
    std::array<Piece, 1> control;
    EXPECT_EQ(b.session.output(0, control), 0u); // no answer: B's carrier still has a piece
    b.session.received(1, 10);
    EXPECT_EQ(b.session.output(0, control), 1u);
    b.session.sent(0, 0);
    b.memory.assign(b.memory.size(), 'q');
    link.pump();
    ASSERT_EQ(a.session.nextEnded(), &request);
    EXPECT_EQ(request.outcome.code(), NIXL_ERR_CANCELED);
    EXPECT_EQ(b.memory, std::string(b.memory.size(), 'q'));
    EXPECT_THAT(b.fetch(), IsEmpty());
    // The slot is free again, and the streams are in step.
    fill(request, NIXL_WRITE, 1000);
    ASSERT_TRUE(a.session.post(request).ok());
    link.pump();
    EXPECT_TRUE(request.outcome.ok());
}

TEST_F(Peers, QueuedRequestAndCopyAreCancelledToo) {
    link.pump();
    std::array<Request, 2> requests;
    for (Request &request : requests) fill(request, NIXL_WRITE, 8);
    ASSERT_TRUE(a.session.post(requests[0]).ok());
    a.session.cancel(requests[0]);
    EXPECT_EQ(a.session.nextEnded(), &requests[0]);
    ASSERT_TRUE(a.session.postCopy(requests[1]).ok());
    a.session.cancel(requests[1]);
    EXPECT_EQ(a.session.nextEnded(), nullptr);
    EXPECT_TRUE(requests[1].stop);
    a.session.copied(requests[1], Status(NIXL_ERR_BACKEND, "stopped"));
    EXPECT_EQ(a.session.nextEnded(), &requests[1]);
    for (Request &request : requests) {
        EXPECT_EQ(request.outcome.code(), NIXL_ERR_CANCELED);
        a.session.cancel(request); // no effect
    }
    EXPECT_EQ(a.session.nextEnded(), nullptr);
}

// ---- Liveness and end ----------------------------------------------------------------------------------------------

TEST_F(Peers, SayThatTheyAreAliveWhenSilent) {
    link.pump();
    for (uint64_t now = 0; now < 60000; now += 500) {
        a.session.tick(now);
        b.session.tick(now);
        link.pump();
    }
    EXPECT_EQ(a.session.state(), State::kOpen);
    EXPECT_EQ(b.session.state(), State::kOpen);
}

TEST_F(Peers, WhoComesLateSaysAtOnceThatItIsAlive) {
    link.pump();
    a.session.tick(1000);
    link.pump(); // it has been said
    std::array<Piece, 1> said;
    ASSERT_EQ(a.session.output(0, said), 0u);
    a.session.tick(3100); // else the peer would hear nothing until 4100
    EXPECT_EQ(a.session.output(0, said), 1u);
}

TEST_F(Peers, SilentPeerIsDeadAndEveryRequestEndsOnce) {
    link.pump();
    std::array<Request, 3> requests;
    for (Request &request : requests) fill(request, NIXL_WRITE, 8);
    ASSERT_TRUE(a.session.post(requests[0]).ok());
    ASSERT_TRUE(a.session.postCopy(requests[1]).ok());
    ASSERT_TRUE(a.session.post(requests[2], "note").ok());
    uint64_t now = 0;
    for (; a.session.state() != State::kEnded && now < 60000; now += 100) a.session.tick(now);
    EXPECT_GE(now, 3000u);
    EXPECT_LE(now, 3500u);
    EXPECT_THAT(a.session.reason().message(), HasSubstr("agent 'B' has been silent for too long"));
    EXPECT_TRUE(requests[1].stop);
    size_t ended = 0;
    while (const Request *request = a.session.nextEnded()) {
        EXPECT_EQ(request->outcome.code(), NIXL_ERR_REMOTE_DISCONNECT);
        ++ended;
    }
    EXPECT_EQ(ended, 2u);
    a.session.copied(requests[1], Status());
    EXPECT_EQ(a.session.nextEnded(), &requests[1]);
    EXPECT_EQ(requests[1].outcome.code(), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_EQ(a.session.nextEnded(), nullptr);
    EXPECT_EQ(a.session.deadline(), std::numeric_limits<uint64_t>::max());
    EXPECT_EQ(a.session.post(requests[0]).code(), NIXL_ERR_REMOTE_DISCONNECT);
}

TEST_F(Peers, OwnPauseIsNotTheSilenceOfThePeer) {
    link.pump();
    a.session.tick(500);
    a.session.tick(500000);
    EXPECT_EQ(a.session.state(), State::kOpen);
}

TEST_F(Peers, PeerIsAliveWhileBytesMoveHoweverSlowly) {
    link.pump();
    Request request;
    fill(request, NIXL_READ, 100);
    ASSERT_TRUE(a.session.post(request).ok());
    uint64_t now = 0;
    std::array<Piece, 2> pieces;
    carry(a.session, b.session, 0);
    // B says nothing but its data, one byte in a time in which it would nearly be dead.
    while (b.session.output(1, pieces) > 0) {
        feed(a.session, 1, {pieces[0].address, 1});
        b.session.sent(1, 1);
        for (int i = 0; i < 29; ++i) a.session.tick(now += 100);
        ASSERT_EQ(a.session.state(), State::kOpen) << now;
    }
    EXPECT_GT(now, 100 * 2900u);
    EXPECT_EQ(request.moved, 100u);
    EXPECT_EQ(a.session.nextEnded(), nullptr); // B has not said that these were the bytes
    carry(b.session, a.session, 0);
    EXPECT_EQ(a.session.nextEnded(), &request);
    EXPECT_TRUE(request.outcome.ok());
}

TEST_F(Peers, CloseTellsThePeerBehindWhatWasSaid) {
    ASSERT_TRUE(a.session.sendNote("last words").ok());
    Request mine, theirs;
    fill(mine, NIXL_WRITE, 8);
    fill(theirs, NIXL_WRITE, 8);
    ASSERT_TRUE(b.session.post(theirs).ok());
    ASSERT_TRUE(a.session.post(mine).ok());
    a.session.close();
    EXPECT_EQ(a.session.nextEnded(), &mine);
    link.pump();
    EXPECT_EQ(a.session.state(), State::kEnded);
    EXPECT_EQ(b.session.state(), State::kEnded);
    EXPECT_THAT(b.fetch(), ElementsAre("last words"));
    EXPECT_EQ(b.session.nextEnded(), &theirs);
    EXPECT_EQ(theirs.outcome.code(), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_THAT(b.session.reason().message(), HasSubstr("agent 'A' has closed the connection"));
}

TEST_F(Peers, GoodbyeWaitsForRunningCopies) {
    link.pump();
    Request request;
    fill(request, NIXL_WRITE, 8);
    ASSERT_TRUE(a.session.postCopy(request).ok());
    a.session.close();
    EXPECT_TRUE(request.stop);
    link.pump();
    EXPECT_EQ(b.session.state(), State::kOpen);
    ASSERT_TRUE(b.session.revoke(window.key).ok());
    EXPECT_FALSE(b.session.nextQuiet());
    a.session.copied(request, Status(NIXL_ERR_BACKEND, "stopped"));
    link.pump();
    EXPECT_EQ(b.session.state(), State::kEnded);
    EXPECT_EQ(b.session.nextQuiet(), window.key);
}

TEST_F(Peers, LostLinkEndsARequestOnlyWhenItsPiecesAreBack) {
    Request request;
    fill(request, NIXL_WRITE, 1000);
    ASSERT_TRUE(a.session.post(request).ok());
    std::array<Piece, 2> pieces;
    while (a.session.output(0, pieces) > 0) a.session.sent(0, pieces[0].bytes);
    ASSERT_EQ(a.session.output(1, pieces), 2u);
    a.session.linkLost("connection reset");
    EXPECT_EQ(a.session.nextEnded(), nullptr);
    a.session.sent(1, 0);
    EXPECT_EQ(a.session.nextEnded(), &request);
    EXPECT_EQ(request.outcome.code(), NIXL_ERR_REMOTE_DISCONNECT);
    EXPECT_THAT(request.outcome.message(), HasSubstr("connection reset"));
    EXPECT_EQ(a.session.output(1, pieces), 0u);
    EXPECT_EQ(a.session.input(0, pieces), 0u);
}

// ---- Hostile peers -------------------------------------------------------------------------------------------------

std::string
requestFrame(uint64_t id, nixl_xfer_op_t operation, uint64_t bytes, bool has_note = false) {
    Layout remote;
    EXPECT_TRUE(remote.add({.address = 0, .length = bytes, .window = {1, 1}}));
    std::string frame;
    encodeRequest(frame, id, operation, has_note, remote);
    return frame;
}

TEST_F(Victim, RefusesSlotsOutOfTurn) {
    expectRefusal(greeting() + requestFrame(kRequestsMax + 5, NIXL_WRITE, 8), "slot that is not the next one");
}

TEST_F(Victim, RefusesGenerationsOutOfTurn) {
    expectRefusal(greeting() + requestFrame(2 * kRequestsMax, NIXL_WRITE, 8), "slot that is in use");
}

TEST_F(Victim, RefusesMoreRunsThanTheLimit) {
    std::string frame = requestFrame(kRequestsMax, NIXL_WRITE, 8);
    const uint64_t too_many = kRunsMax + 1;
    std::memcpy(frame.data() + kHeadBytes + 20, &too_many, sizeof too_many);
    expectRefusal(greeting() + frame, "requests of more than 1048576 runs");
}

TEST_F(Victim, RefusesMoreHeldNotificationsThanTheLimit) {
    char memory[8];
    ASSERT_TRUE(side.session
                    .announce({.key = {1, 1},
                               .rights = kMayWrite,
                               .address = reinterpret_cast<uint64_t>(memory),
                               .length = sizeof memory})
                    .ok());
    std::string bytes = greeting();
    Layout remote;
    ASSERT_TRUE(remote.add({.address = reinterpret_cast<uint64_t>(memory), .length = sizeof memory, .window = {1, 1}}));
    const std::string note(size_t{1} << 20, 'x');
    for (uint64_t slot = 0; slot < 193; ++slot) {
        const uint64_t id = kRequestsMax + slot;
        encodeRequest(bytes, id, NIXL_WRITE, true, remote);
        for (size_t at = 0; at < note.size(); at += kNotePartBytesMax) {
            encodeNote(bytes, {id, note.size(), std::string_view(note).substr(at, kNotePartBytesMax)});
        }
        feed(side.session, 0, bytes);
        bytes.clear();
    }
    EXPECT_EQ(side.session.state(), State::kClosing);
    EXPECT_THAT(side.session.reason().message(), HasSubstr("more notifications than it has places for"));
}

TEST_F(Victim, RefusesMoreAnswersThanTheLimit) {
    feed(side.session, 0, greeting());
    std::array<Piece, 1> kept;
    ASSERT_EQ(side.session.output(0, kept), 1u); // the peer takes nothing from here on
    uint64_t generation = 0;
    while (side.session.state() == State::kOpen && generation < 1000000) {
        feed(side.session, 0, requestFrame(++generation * kRequestsMax, NIXL_WRITE, 8)); // no such window
    }
    EXPECT_EQ(side.session.state(), State::kClosing);
    EXPECT_THAT(side.session.reason().message(), HasSubstr("takes none of the answers"));
}

TEST_F(Victim, CountsAnswersToQuestionsToo) {
    feed(side.session, 0, greeting());
    std::array<Piece, 1> kept;
    ASSERT_EQ(side.session.output(0, kept), 1u);
    std::string questions;
    for (int i = 0; i < 8000; ++i) encodeEmpty(questions, FrameType::kAsk);
    for (int i = 0; i < 600 && side.session.state() == State::kOpen; ++i) feed(side.session, 0, questions);
    EXPECT_THAT(side.session.reason().message(), HasSubstr("takes none of the answers"));
}

TEST_F(Victim, RefusesWindowsTwice) {
    std::string bytes = greeting();
    encodeWindow(bytes, {.key = {1, 1}, .length = 1});
    encodeWindow(bytes, {.key = {1, 2}, .length = 1});
    expectRefusal(bytes, "is announced while that id is in use");
}

TEST_F(Victim, RefusesRevocationsOfNothing) {
    std::string bytes = greeting();
    encodeKey(bytes, FrameType::kRevoke, {1, 1});
    expectRefusal(bytes, "is revoked and was not announced");
}

TEST_F(Victim, RefusesControlOnAStreamOfData) {
    feed(side.session, 0, greeting());
    std::string bytes;
    encodeEmpty(bytes, FrameType::kPing);
    feed(side.session, 1, bytes);
    EXPECT_THAT(side.session.reason().message(), HasSubstr("does not belong on stream 1"));
}

TEST_F(Victim, DataBeforeItsRequestWaits) {
    feed(side.session, 0, greeting());
    const auto head = encodeDataHead({FrameType::kWriteData, kRequestsMax, 0, 8});
    feed(side.session, 1, {head.data(), head.size()});
    std::array<Piece, 1> piece;
    EXPECT_EQ(side.session.input(1, piece), 0u);
    EXPECT_EQ(side.session.state(), State::kOpen);
    feed(side.session, 0, requestFrame(kRequestsMax, NIXL_WRITE, 8)); // refused: its data is thrown away
    EXPECT_EQ(side.session.input(1, piece), 1u);
    EXPECT_EQ(piece[0].bytes, 8u);
}

TEST_F(Victim, RefusesDataOfRequestsThatCannotCome) {
    feed(side.session, 0, greeting());
    const auto head = encodeDataHead({FrameType::kWriteData, 2 * kRequestsMax, 0, 8});
    feed(side.session, 1, {head.data(), head.size()});
    std::array<Piece, 1> piece;
    EXPECT_EQ(side.session.input(1, piece), 0u);
    EXPECT_THAT(side.session.reason().message(), HasSubstr("data of a request that was not announced"));
}

TEST_F(Peers, DataBeyondItsRequestEndsTheSession) {
    link.pump();
    Layout remote;
    ASSERT_TRUE(remote.add({.address = window.address, .length = 8, .window = window.key}));
    std::string frame;
    encodeRequest(frame, kRequestsMax, NIXL_WRITE, false, remote);
    feed(b.session, 0, frame);
    const auto head = encodeDataHead({FrameType::kWriteData, kRequestsMax, 4, 8});
    feed(b.session, 1, {head.data(), head.size()});
    std::array<Piece, 1> piece;
    b.session.input(1, piece);
    EXPECT_THAT(b.session.reason().message(), HasSubstr("more data than the request has"));
    EXPECT_EQ(b.memory, std::string(b.memory.size(), '.'));
}

// ---- Memory --------------------------------------------------------------------------------------------------------

/// Moves everything both ways until the request has ended; the streams of data with and without memory to allocate.
void
moveFrames(PeersOver &peers, nixl_xfer_op_t operation, bool without_memory, size_t stream_count) {
    Request request;
    peers.fill(request, operation, peers.a.memory.size());
    ASSERT_TRUE(peers.a.session.post(request).ok());
    size_t rounds = 0;
    const auto move = [&] {
        for (; rounds < 100 && request.phase != Request::Phase::kIdle; ++rounds) {
            for (size_t stream = 0; stream < stream_count; ++stream) {
                carry(peers.a.session, peers.b.session, stream);
                carry(peers.b.session, peers.a.session, stream);
            }
        }
    };
    if (without_memory) {
        const test::NoMemory none;
        move();
    } else {
        move();
    }
    EXPECT_EQ(peers.a.session.nextEnded(), &request);
    EXPECT_TRUE(request.outcome.ok()) << request.outcome.message();
}

template<class Carried> struct Frames : Carried {
    static constexpr size_t kStreams = std::is_same_v<Carried, Peers> ? 3 : 1;
};
using Carriers = testing::Types<Peers, PeersOverOneStream>;
TYPED_TEST_SUITE(Frames, Carriers);

TYPED_TEST(Frames, MoveWithoutAnAllocation) {
    constexpr size_t kFrames = 40;
    this->a.memory.assign(kFrames * kPayloadBytesMax, 'a');
    this->b.memory.assign(kFrames * kPayloadBytesMax, 'b');
    ASSERT_TRUE(this->b.session.revoke(this->window.key).ok());
    this->window.key = {4, 1};
    this->window.address = reinterpret_cast<uint64_t>(this->b.memory.data());
    this->window.length = this->b.memory.size();
    ASSERT_TRUE(this->b.session.announce(this->window).ok());
    this->link.pump();
    for (const bool without_memory : {false, false, true}) { // what is made once is there then
        moveFrames(*this, NIXL_WRITE, without_memory, this->kStreams);
        this->b.memory.assign(this->b.memory.size(), 'b');
        moveFrames(*this, NIXL_READ, without_memory, this->kStreams);
        EXPECT_TRUE(this->a.memory == this->b.memory);
        this->a.memory.assign(this->a.memory.size(), 'a');
    }
}

} // namespace
} // namespace nx::kit
