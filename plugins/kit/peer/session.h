// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One end of what two peers of ours say to each other over a carrier that we own (docs/design/0013, docs/wire.md):
// windows, transfers, notifications, cancellation, liveness. No I/O, no clock, no thread, no lock but the inbox's;
// nothing blocks. Owned by one caller at a time.
//
// The carrier has one or more streams: no order between them, order and no loss within one. Stream 0 carries control;
// payload goes over all others, or over stream 0 if it is the only one. It asks where bytes come from and go to, moves
// them, and says how many:
//
//     n = session.output(stream, pieces); sent = writev(pieces, n);    session.sent(stream, sent);
//     n = session.input(stream, pieces);  got = readv(pieces, n);      session.received(stream, got);
//     while (Request *request = session.nextEnded()) ...;              session.tick(now);
//
// Payload is never copied: pieces of it lie in the memory of requests and windows, which the carrier may touch between
// a call and its answer. Until then (an asynchronous carrier) that memory is not quiet, and neither the request nor
// the revocation of the window ends.
//
//     request:  idle -> queued -> announced (framed) | copying (by the caller) -> [waits for the note's place] -> ended
//     session:  greeting -> open -> closing -> ended; from each of them to ended when the link is gone
#pragma once

#include <array>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "kit/inbox.h"
#include "kit/peer/frames.h"
#include "wire/limits.h"

namespace nx::kit {

// What one peer may make the other keep. Beyond a limit: the own side waits; a peer that goes on is hung up on.
inline constexpr size_t kRequestsMax = 1024;           ///< announced and not ended, in one direction
inline constexpr size_t kRunsMax = size_t{1} << 20;    ///< of all those requests together
inline constexpr size_t kWindowsMax = size_t{1} << 20; ///< announced to one peer
inline constexpr size_t kStreamsMax = 64;
/// Notifications that are not whole, or wait for the data of their request: what credits allow at most.
inline constexpr uint64_t kNoteBytesHeldMax = kShareBytes + wire::kNotificationBytesMax;
inline constexpr size_t kAnswerBytesMax = size_t{32} << 20; ///< answers that the peer does not take

/// What moves payload between memory of this side and the peer: a part of Request, and of what the peer asked for.
struct Transfer {
    nixl_xfer_op_t operation = NIXL_WRITE;
    Layout local;            ///< where the payload lies on this side
    uint64_t id = 0;         ///< slot, and how often it was used
    bool own = false;        ///< of this side's requests
    uint64_t cut = 0;        ///< bytes in frames that were begun
    uint64_t moved = 0;      ///< bytes placed here, or handed to the carrier
    unsigned lent_count = 0; ///< streams whose pieces of it the carrier has
    bool over = false;       ///< it ends as soon as nothing is lent
    Status outcome;
};

/// One transfer of this side. The caller owns it, fills `operation`, `local` and `remote`, and may post it again after
/// it ended; it must stay where it is and may not be changed in between.
struct Request : Transfer {
    Layout remote; ///< in windows of the peer; as many bytes as `local`

    enum class Phase { kIdle, kQueued, kAnnounced, kCopying, kNoting };
    // Kept by the session:
    Phase phase = Phase::kIdle;
    std::optional<std::string> note;
    bool confirmed = false; ///< the peer has handed over all that is read
    bool cancelled = false;
    bool stop = false; ///< who copies ends early, and says so with copied()
};

struct SessionOptions {
    Hello hello;                           ///< the own name and incarnation
    size_t stream_count = 2;               ///< 1 to kStreamsMax, the same at both ends
    uint64_t ping_after = 1000;            ///< this side says that it is alive so often, in the caller's unit of time
    uint64_t dead_after = 3000;            ///< silence after which the peer is dead
    CreditReceiver::Question question = 0; ///< comes back from Inbox::takeAll; then call notesFetched
};

class Session {
public:
    enum class State {
        kGreeting, ///< the peer has not greeted; everything may be said already
        kOpen,
        kClosing, ///< every request is ending; goodbye is on its way, what arrives is thrown away
        kEnded,   ///< nothing goes out or comes in any more
    };

    /// Notifications go to `inbox`, which outlives the session.
    Session(SessionOptions options, Inbox &inbox, uint64_t now);
    Session(const Session &) = delete;
    Session &
    operator=(const Session &) = delete;

    // ---- Bytes -----------------------------------------------------------------------------------------------------

    /// Where the next bytes of a stream come from: the number of pieces, 0 if there is nothing to send now. Each call
    /// that answers more than 0 is followed by sent(), before the next one.
    size_t
    output(size_t stream, std::span<Piece> pieces);

    /// So many bytes went out, 0 included; the carrier does not need their memory any more.
    void
    sent(size_t stream, size_t bytes);

    /// Where the next bytes of a stream go to. 0: none may be taken from it until more has arrived on stream 0. Each
    /// call that answers more than 0 is followed by received(), before the next one.
    size_t
    input(size_t stream, std::span<Piece> pieces);

    /// So many bytes have arrived there, 0 included.
    void
    received(size_t stream, size_t bytes);

    /// The carrier has lost the peer, for this reason. What is lent must still be given back. If the peer may copy by
    /// itself, call it only once the peer can not, because its process has ended: windows become quiet with it, also
    /// after the session has ended in another way.
    void
    linkLost(const std::string &why);

    // ---- Time ------------------------------------------------------------------------------------------------------

    /// Call it at deadline() or earlier, after what has arrived was taken.
    void
    tick(uint64_t now);

    /// When tick() is due.
    uint64_t
    deadline() const noexcept;

    // ---- State -----------------------------------------------------------------------------------------------------

    State
    state() const noexcept {
        return state_;
    }

    /// Who the peer is; null before its greeting.
    const Hello *
    peer() const noexcept {
        return peer_ ? &*peer_ : nullptr;
    }

    /// Why the session is closing or ended: NIXL_ERR_REMOTE_DISCONNECT, or MISMATCH for a peer that broke the rules.
    const Status &
    reason() const noexcept {
        return reason_;
    }

    /// Changes whenever payload of a request or its end comes or goes, of whichever side's: see Engine::pathMark.
    uint64_t
    pathMark() const noexcept {
        return path_mark_;
    }

    /// Ends in order: requests end with NIXL_ERR_REMOTE_DISCONNECT, notifications that were taken go out, then goodbye.
    /// At once and without goodbye if the only stream is within a frame of data.
    void
    close();

    // ---- Windows ---------------------------------------------------------------------------------------------------

    /// Lets the peer reach memory. INVALID_PARAM: the id is in use, or there are too many.
    Status
    announce(const Window &window);

    /// Stops it: accesses that run end with NOT_FOUND. The memory is quiet when nextQuiet() names the window, which
    /// needs the peer's answer only if it may copy. INVALID_PARAM: no such window, or revoked already.
    Status
    revoke(WindowKey key);

    std::optional<WindowKey>
    nextQuiet();

    /// A window that the peer has announced; null: none, or revoked.
    const Window *
    peerWindow(uint32_t id) const;

    // ---- Requests --------------------------------------------------------------------------------------------------

    /// Starts it; `note` reaches the peer after all data is visible there. The payload goes through the streams and is
    /// checked at the peer. Failure: nothing changed.
    Status
    post(Request &request, std::optional<std::string> note = {});

    /// The same for a caller that moves the bytes itself, from now on until copied(), while `request.stop` is false.
    /// Its remote side is checked here. NOT_FOUND, NOT_ALLOWED: no window of the peer allows it.
    Status
    postCopy(Request &request, std::optional<std::string> note = {});

    /// The caller touches no memory of the request any more.
    void
    copied(Request &request, Status outcome);

    /// Ends it early, with NIXL_ERR_CANCELED if it has not ended by itself before the peer has stopped. No effect on a
    /// request that has ended.
    void
    cancel(Request &request);

    /// A request that has ended, each once; null: none. `outcome` says how; its memory is quiet.
    Request *
    nextEnded();

    // ---- Notifications ---------------------------------------------------------------------------------------------

    /// Success, or REPOST_ACTIVE: the peer has no place before it fetches others; or why it is no notification.
    Status
    sendNote(std::string note);

    /// The inbox has given back `options.question`.
    void
    notesFetched();

private:
    /// What the peer asked for.
    struct Inbound : Transfer {
        uint64_t generation = 0; ///< of `id`, 0: never used
        bool active = false;
        uint64_t total_bytes = 0;
        uint64_t run_count = 0;
        bool wants_note = false;
        bool before_question = false; ///< its note waits, and the question came behind it
        std::optional<std::string> note;
    };

    struct Slot {
        Request *request = nullptr;
        uint64_t generation = 0;
    };

    struct OutgoingNote {
        uint64_t id;
        std::string message;
        size_t sent_bytes = 0;
        bool is_question = false;
    };

    struct IncomingNote {
        uint64_t id = 0;
        uint64_t total_bytes = 0;
        std::string message;
    };

    struct OwnWindow {
        Window window;
        bool revoked = false;
        bool acknowledged = false; ///< the peer copies nothing there any more
    };

    struct Stream {
        bool carries_data = false;
        // In: a frame, or as much of the next ones as is here.
        std::vector<char> buffer;
        size_t filled = 0;
        size_t wanted = kHeadBytes;
        std::optional<DataHead> stalled; ///< data of a request that is not known yet
        Transfer *into = nullptr;        ///< null: what is left is thrown away
        uint64_t in_offset = 0;
        uint64_t in_left = 0;
        bool in_lent = false;
        // Out: a frame of data.
        std::array<char, kDataHeadBytes> head;
        size_t head_left = 0;
        Transfer *from = nullptr; ///< null: what is left is filled up
        uint64_t out_offset = 0;
        uint64_t out_left = 0;
        bool out_lent = false;
    };

    bool
    running() const noexcept {
        return state_ <= State::kOpen;
    }

    void
    nextControl();
    void
    announceRequest(Request &request);
    void
    nextData(Stream &stream);
    void
    parse(size_t stream);
    bool
    resolve(Stream &stream);
    Piece
    toThrowAway(uint64_t bytes);

    void
    handle(FrameType type, std::string_view body);
    void
    handleHello(std::string_view body);
    void
    handleWindow(std::string_view body);
    void
    handleRevoke(std::string_view body);
    void
    handleRevoked(std::string_view body);
    void
    handleRequest(std::string_view body);
    void
    handleRuns(std::string_view body);
    void
    handleNote(std::string_view body);
    void
    handleAsk();
    void
    handleCancel(std::string_view body);
    void
    handleDone(std::string_view body);
    void
    handleGoodbye(std::string_view body);

    void
    takeRuns(std::string_view runs);
    Status
    allow(Inbound &inbound);
    Inbound *
    findInbound(uint64_t id);
    void
    deliver(std::string note);
    void
    completeWrite(Inbound &inbound);
    void
    releaseNote(Inbound &inbound, uint64_t held);
    void
    askInbox();
    void
    answerDone(uint64_t id, const Status &outcome);
    void
    checkAnswers();

    Status
    checkPost(const Request &request, const std::optional<std::string> &note) const;
    void
    begin(Request &request, std::optional<std::string> note, Request::Phase phase);
    void
    moveDone(Transfer &transfer);
    void
    takePlace(Request &request);
    void
    noteOrFinish(Request &request);
    void
    serveWaiters();
    void
    askIfDue();
    void
    finish(Transfer &transfer, Status outcome);
    void
    settle(Transfer &transfer);
    void
    checkQuiet();
    void
    acknowledgeRevocations();

    void
    end(State state, nixl_status_t code, std::string why);
    std::string
    peerName() const;
    void
    violated(const std::string &rule);
    uint64_t
    heldCost(uint64_t note_bytes) const noexcept;

    const SessionOptions options_;
    Inbox &inbox_;
    State state_ = State::kGreeting;
    Status reason_;
    std::optional<Hello> peer_;
    std::vector<Stream> streams_;

    std::string control_; ///< frames that go out on stream 0
    size_t control_at_ = 0;
    std::string pending_;     ///< those behind them; what the carrier has does not move
    size_t answer_bytes_ = 0; ///< in `pending_`, caused by the peer
    bool goodbye_ = false;    ///< it is in one of both

    std::vector<Slot> slots_; ///< own requests that were announced
    std::vector<uint32_t> free_slots_;
    std::deque<Request *> queued_;
    Request *announcing_ = nullptr; ///< so many of its runs are announced:
    size_t announced_runs_ = 0;
    size_t runs_out_ = 0; ///< of all announced requests
    std::vector<Request *> copying_;
    std::deque<Request *> waiters_; ///< for a place of their notes
    std::deque<Request *> ended_;
    std::deque<OutgoingNote> notes_;
    CreditSender credits_{1};

    std::deque<Inbound> inbounds_;
    Inbound *assembling_ = nullptr;
    size_t runs_in_ = 0;
    std::optional<IncomingNote> note_in_;
    uint64_t note_bytes_held_ = 0;
    bool question_ = false; ///< of the peer, not answered
    size_t notes_before_question_ = 0;

    std::vector<Transfer *> senders_; ///< those with payload to send, served in turn
    size_t turn_ = 0;

    std::unordered_map<uint32_t, OwnWindow> windows_;
    std::vector<uint32_t> revoked_; ///< those that are not quiet
    bool peer_stopped_ = false;     ///< it copies nothing any more
    std::deque<WindowKey> quiet_;
    std::unordered_map<uint32_t, Window> peer_windows_;
    std::vector<WindowKey> revocations_; ///< of the peer, not acknowledged

    std::vector<char> scratch_; ///< what is thrown away

    uint64_t path_mark_ = 0;
    uint64_t heard_at_;
    uint64_t pinged_at_;
    bool heard_ = false; ///< since the last tick
};

} // namespace nx::kit
