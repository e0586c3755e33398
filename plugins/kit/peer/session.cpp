// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/peer/session.h"

#include <algorithm>

#include "wire/notification.h"

namespace nx::kit {

namespace {

constexpr size_t kScratchBytes = size_t{64} << 10;
constexpr size_t kControlKept = size_t{1} << 20;
constexpr char kZeros[size_t{16} << 10] = {};

size_t
slotOf(uint64_t id) {
    return id % kRequestsMax;
}

uint64_t
generationOf(uint64_t id) {
    return id / kRequestsMax;
}

bool
touches(const Layout &layout, WindowKey key) {
    return std::ranges::any_of(layout.blocks(), [&](const Blocks &blocks) { return blocks.window == key; });
}

uint64_t
later(uint64_t at, uint64_t after) {
    return at + std::min(after, std::numeric_limits<uint64_t>::max() - at);
}

std::string
text(WindowKey key) {
    return "window " + std::to_string(key.id) + " (generation " + std::to_string(key.generation) + ")";
}

Status
unknownWindow(WindowKey key) {
    return {NIXL_ERR_NOT_FOUND,
            text(key) + " is not registered, or not any more; load the metadata of its agent again"};
}

} // namespace

Session::Session(SessionOptions options, Inbox &inbox, uint64_t now)
    : options_(std::move(options)),
      inbox_(inbox),
      streams_(options_.stream_count),
      heard_at_(now),
      pinged_at_(now) {
    for (Stream &stream : streams_) {
        const bool control = &stream == &streams_.front();
        stream.carries_data = !control || streams_.size() == 1;
        stream.buffer.resize(control ? kFrameBytesMax : kDataHeadBytes);
    }
    encodeHello(pending_, options_.hello);
}

// ---- Bytes out -----------------------------------------------------------------------------------------------------

size_t
Session::output(size_t index, std::span<Piece> pieces) {
    Stream &stream = streams_[index];
    if (state_ == State::kEnded || pieces.empty()) return 0;
    if (stream.head_left + stream.out_left == 0) {
        if (index == 0) {
            if (control_.empty()) nextControl();
            if (!control_.empty()) {
                pieces[0] = {control_.data() + control_at_, control_.size() - control_at_};
                return 1;
            }
        }
        if (stream.carries_data && running()) nextData(stream);
    }
    size_t count = 0;
    if (stream.head_left > 0) {
        pieces[count++] = {stream.head.data() + kDataHeadBytes - stream.head_left, stream.head_left};
    }
    if (stream.out_left == 0 || count == pieces.size()) return count;
    if (!stream.from) {
        // The request has ended within a frame, whose length is known to the peer.
        pieces[count] = {const_cast<char *>(kZeros), std::min<size_t>(stream.out_left, sizeof kZeros)};
        return count + 1;
    }
    stream.out_lent = true;
    ++stream.from->lent_count;
    return count + stream.from->local.pieces(stream.out_offset, stream.out_left, pieces.subspan(count));
}

void
Session::sent(size_t index, size_t bytes) {
    Stream &stream = streams_[index];
    if (stream.head_left + stream.out_left == 0) { // control
        control_at_ += bytes;
        if (control_at_ < control_.size()) return;
        control_.clear();
        control_at_ = 0;
        if (goodbye_ && state_ == State::kClosing) state_ = State::kEnded;
        return;
    }
    const size_t of_head = std::min(bytes, stream.head_left);
    bytes -= of_head;
    stream.head_left -= of_head;
    stream.out_offset += bytes;
    stream.out_left -= bytes;
    if (!stream.out_lent) return;
    Transfer &transfer = *stream.from;
    stream.out_lent = false;
    --transfer.lent_count;
    transfer.moved += bytes;
    path_mark_ += bytes;
    if (transfer.over || stream.out_left == 0) stream.from = nullptr;
    if (transfer.over) {
        if (transfer.lent_count == 0) settle(transfer);
    } else if (transfer.moved == transfer.local.totalBytes()) {
        moveDone(transfer);
    }
}

/// Makes the next bytes of control, when all before them are out.
void
Session::nextControl() {
    if (control_.capacity() > kControlKept) std::string().swap(control_);
    if (pending_.empty() && running()) {
        if (announcing_) {
            announced_runs_ += encodeRuns(pending_, announcing_->id, announcing_->remote, announced_runs_);
        } else if (!queued_.empty()) {
            announceRequest(*queued_.front());
        }
        if (announcing_ && announced_runs_ == announcing_->remote.blocks().size()) {
            Request &request = *std::exchange(announcing_, nullptr);
            if (request.operation == NIXL_WRITE) {
                senders_.push_back(&request);
                if (request.note) takePlace(request);
            }
        }
    }
    if (pending_.empty() && !notes_.empty()) {
        OutgoingNote &note = notes_.front();
        if (note.is_question) {
            encodeEmpty(pending_, FrameType::kAsk);
        } else {
            const auto part = std::string_view(note.message).substr(note.sent_bytes, kNotePartBytesMax);
            encodeNote(pending_, {note.id, note.message.size(), part});
            note.sent_bytes += part.size();
        }
        if (note.sent_bytes == note.message.size()) notes_.pop_front();
    }
    if (pending_.empty() && state_ == State::kClosing && copying_.empty() && !goodbye_) {
        encodeDone(pending_, FrameType::kGoodbye, {0, reason_.code(), reason_.message()});
        goodbye_ = true;
    }
    control_.swap(pending_);
    answer_bytes_ = 0;
}

void
Session::announceRequest(Request &request) {
    if (request.remote.blocks().size() > kRunsMax - runs_out_) return;
    if (free_slots_.empty()) {
        if (slots_.size() == kRequestsMax) return;
        free_slots_.push_back(static_cast<uint32_t>(slots_.size()));
        slots_.emplace_back();
    }
    queued_.pop_front();
    const uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    slots_[slot].request = &request;
    request.id = ++slots_[slot].generation * kRequestsMax + slot;
    request.phase = Request::Phase::kAnnounced;
    runs_out_ += request.remote.blocks().size();
    const bool has_note = request.note && request.operation == NIXL_WRITE;
    announced_runs_ = encodeRequest(pending_, request.id, request.operation, has_note, request.remote);
    announcing_ = &request;
}

/// Begins a frame of data, of whichever transfer has its turn.
void
Session::nextData(Stream &stream) {
    if (senders_.empty()) return;
    turn_ %= senders_.size();
    Transfer &transfer = *senders_[turn_];
    const uint64_t left = transfer.local.totalBytes() - transfer.cut;
    const auto bytes = static_cast<uint32_t>(std::min<uint64_t>(left, kPayloadBytesMax));
    const FrameType type = transfer.own ? FrameType::kWriteData : FrameType::kReadData;
    stream.head = encodeDataHead({type, transfer.id, transfer.cut, bytes});
    stream.head_left = kDataHeadBytes;
    stream.from = &transfer;
    stream.out_offset = transfer.cut;
    stream.out_left = bytes;
    transfer.cut += bytes;
    if (bytes == left) {
        senders_.erase(senders_.begin() + static_cast<ptrdiff_t>(turn_));
    } else {
        ++turn_;
    }
}

// ---- Bytes in ------------------------------------------------------------------------------------------------------

size_t
Session::input(size_t index, std::span<Piece> pieces) {
    Stream &stream = streams_[index];
    if (state_ == State::kEnded || pieces.empty()) return 0;
    if (state_ == State::kGreeting && index > 0) return 0;
    if (running() && stream.stalled && !resolve(stream)) return 0;
    if (!running()) {
        pieces[0] = toThrowAway(kScratchBytes);
        return 1;
    }
    if (stream.in_left == 0) {
        // What follows a head of data goes elsewhere: there, not a byte too many.
        const size_t until = stream.carries_data ? stream.wanted : stream.buffer.size();
        pieces[0] = {stream.buffer.data() + stream.filled, until - stream.filled};
        return 1;
    }
    if (!stream.into) {
        pieces[0] = toThrowAway(stream.in_left);
        return 1;
    }
    stream.in_lent = true;
    ++stream.into->lent_count;
    return stream.into->local.pieces(stream.in_offset, stream.in_left, pieces);
}

Piece
Session::toThrowAway(uint64_t bytes) {
    scratch_.resize(kScratchBytes);
    return {scratch_.data(), std::min<size_t>(bytes, kScratchBytes)};
}

void
Session::received(size_t index, size_t bytes) {
    Stream &stream = streams_[index];
    heard_ |= bytes > 0;
    if (!running() && !stream.in_lent) return;
    if (stream.in_left == 0) {
        stream.filled += bytes;
        if (bytes > 0) parse(index);
        return;
    }
    stream.in_offset += bytes;
    stream.in_left -= bytes;
    if (!stream.in_lent) return;
    Transfer &transfer = *stream.into;
    stream.in_lent = false;
    --transfer.lent_count;
    transfer.moved += bytes;
    path_mark_ += bytes;
    if (transfer.over || stream.in_left == 0) stream.into = nullptr;
    if (transfer.over) {
        if (transfer.lent_count == 0) settle(transfer);
    } else if (transfer.moved == transfer.local.totalBytes()) {
        moveDone(transfer);
    }
}

void
Session::parse(size_t index) {
    Stream &stream = streams_[index];
    size_t at = 0;
    while (running()) {
        const std::string_view here(stream.buffer.data() + at, stream.filled - at);
        stream.wanted = kHeadBytes;
        if (here.size() < kHeadBytes) break;
        const auto head = decodeHead(here.substr(0, kHeadBytes));
        if (!head.ok()) return violated(head.message());
        if (isData(head->type) ? !stream.carries_data : index != 0) {
            return violated("a frame of type " + std::to_string(static_cast<uint32_t>(head->type)) +
                            " does not belong on stream " + std::to_string(index));
        }
        stream.wanted = isData(head->type) ? kDataHeadBytes : kHeadBytes + head->body_bytes;
        if (here.size() < stream.wanted) break;
        at += stream.wanted;
        if (!isData(head->type)) {
            handle(head->type, here.substr(kHeadBytes, head->body_bytes));
            continue;
        }
        const auto data = decodeDataHead(here.substr(0, kDataHeadBytes));
        if (!data.ok()) return violated(data.message());
        stream.stalled = *data;
        stream.wanted = kHeadBytes;
        break;
    }
    stream.filled -= at;
    std::copy_n(stream.buffer.begin() + static_cast<ptrdiff_t>(at), stream.filled, stream.buffer.begin());
}

/// Finds where the payload behind a head of data goes. False: not yet, or the session is ending.
bool
Session::resolve(Stream &stream) {
    const DataHead head = *stream.stalled;
    const size_t slot = slotOf(head.id);
    const uint64_t generation = generationOf(head.id);
    Transfer *transfer = nullptr;
    if (head.type == FrameType::kWriteData) {
        Inbound *inbound = slot < inbounds_.size() ? &inbounds_[slot] : nullptr;
        const uint64_t known = inbound ? inbound->generation : 0;
        const bool assembling = inbound && inbound == assembling_ && generation == known;
        if (assembling || (generation == known + 1 && streams_.size() > 1)) return false;
        if (generation == 0 || generation > known) {
            violated("data of a request that was not announced");
            return false;
        }
        if (inbound && inbound->active && inbound->id == head.id) transfer = inbound;
        if (transfer && transfer->operation != NIXL_WRITE) {
            violated("data for a request that reads");
            return false;
        }
    } else {
        if (slot >= slots_.size() || generation == 0 || generation > slots_[slot].generation) {
            violated("data of a request that was not made");
            return false;
        }
        Request *request = slots_[slot].request;
        if (request && request->id == head.id) transfer = request;
        if (transfer && transfer->operation != NIXL_READ) {
            violated("data for a request that writes");
            return false;
        }
    }
    if (transfer && transfer->over) transfer = nullptr;
    if (transfer) {
        const uint64_t total = transfer->local.totalBytes();
        if (head.bytes > total - transfer->cut || head.offset > total || head.bytes > total - head.offset) {
            violated("more data than the request has");
            return false;
        }
        transfer->cut += head.bytes;
    }
    stream.stalled.reset();
    stream.into = transfer;
    stream.in_offset = head.offset;
    stream.in_left = head.bytes;
    return true;
}

// ---- Frames --------------------------------------------------------------------------------------------------------

void
Session::handle(FrameType type, std::string_view body) {
    if (type != FrameType::kHello && !peer_) return violated("a frame before the greeting");
    switch (type) {
    case FrameType::kHello: return handleHello(body);
    case FrameType::kWindow: return handleWindow(body);
    case FrameType::kRevoke: return handleRevoke(body);
    case FrameType::kRevoked: return handleRevoked(body);
    case FrameType::kRequest: return handleRequest(body);
    case FrameType::kRuns: return handleRuns(body);
    case FrameType::kNote: return handleNote(body);
    case FrameType::kAsk: return handleAsk();
    case FrameType::kAnswer: credits_.answered(0); return serveWaiters();
    case FrameType::kCancel: return handleCancel(body);
    case FrameType::kDone: return handleDone(body);
    case FrameType::kGoodbye: return handleGoodbye(body);
    case FrameType::kPing:
    case FrameType::kWriteData:
    case FrameType::kReadData: return;
    }
}

void
Session::handleHello(std::string_view body) {
    if (peer_) return violated("a second greeting");
    auto hello = decodeHello(body);
    if (!hello.ok()) return violated(hello.message());
    if (hello->major != kProtocolMajor) {
        return violated("the peer speaks version " + std::to_string(hello->major) + ", this side version " +
                        std::to_string(kProtocolMajor) + "; use the same release on both sides");
    }
    peer_ = std::move(*hello);
    state_ = State::kOpen;
}

void
Session::handleWindow(std::string_view body) {
    const auto window = decodeWindow(body);
    if (!window.ok()) return violated(window.message());
    const uint32_t id = window->key.id;
    if (std::ranges::any_of(revocations_, [&](WindowKey key) { return key.id == id; }) || peer_windows_.contains(id)) {
        return violated(text(window->key) + " is announced while that id is in use");
    }
    if (peer_windows_.size() == kWindowsMax) return violated("more than " + std::to_string(kWindowsMax) + " windows");
    peer_windows_.emplace(id, *window);
}

void
Session::handleRevoke(std::string_view body) {
    const auto key = decodeKey(body);
    if (!key.ok()) return violated(key.message());
    const auto found = peer_windows_.find(key->id);
    if (found == peer_windows_.end() || found->second.key != *key) {
        return violated(text(*key) + " is revoked and was not announced");
    }
    const bool may_copy = found->second.rights & kMayCopy;
    peer_windows_.erase(found);
    if (!may_copy) return;
    for (Request *request : copying_) request->stop |= touches(request->remote, *key);
    revocations_.push_back(*key);
    acknowledgeRevocations();
}

void
Session::acknowledgeRevocations() {
    std::erase_if(revocations_, [this](WindowKey key) {
        const auto there = [&](const Request *request) { return touches(request->remote, key); };
        if (std::ranges::any_of(copying_, there)) return false;
        if (running()) encodeKey(pending_, FrameType::kRevoked, key);
        answer_bytes_ += kHeadBytes + sizeof key;
        return true;
    });
    checkAnswers();
}

void
Session::handleRevoked(std::string_view body) {
    const auto key = decodeKey(body);
    if (!key.ok()) return violated(key.message());
    const auto found = windows_.find(key->id);
    if (found == windows_.end() || found->second.window.key != *key || !found->second.revoked) {
        return violated(text(*key) + " is given back and was not revoked");
    }
    found->second.acknowledged = true;
    checkQuiet();
}

void
Session::handleRequest(std::string_view body) {
    const auto frame = decodeRequest(body);
    if (!frame.ok()) return violated(frame.message());
    const size_t slot = slotOf(frame->id);
    if (assembling_) return violated("a request within another");
    if (slot > inbounds_.size()) return violated("a request in a slot that is not the next one");
    if (slot == inbounds_.size()) inbounds_.emplace_back();
    Inbound &inbound = inbounds_[slot];
    if (inbound.active || generationOf(frame->id) != inbound.generation + 1) {
        return violated("a request in a slot that is in use");
    }
    if (frame->run_count == 0 || frame->run_count > kRunsMax - runs_in_) {
        return violated("requests of more than " + std::to_string(kRunsMax) + " runs");
    }
    ++inbound.generation;
    inbound.id = frame->id;
    inbound.operation = frame->operation;
    inbound.cut = inbound.moved = 0;
    inbound.over = false;
    inbound.active = true;
    inbound.total_bytes = frame->total_bytes;
    inbound.run_count = frame->run_count;
    inbound.wants_note = frame->has_note;
    runs_in_ += frame->run_count;
    assembling_ = &inbound;
    takeRuns(frame->runs);
}

void
Session::handleRuns(std::string_view body) {
    const auto frame = decodeRuns(body);
    if (!frame.ok()) return violated(frame.message());
    if (!assembling_ || assembling_->id != frame->id) return violated("runs of no request");
    takeRuns(frame->runs);
}

void
Session::takeRuns(std::string_view runs) {
    Inbound &inbound = *assembling_;
    if (Status added = addRuns(runs, inbound.local); !added.ok()) return violated(added.message());
    const size_t count = inbound.local.blocks().size();
    if (count > inbound.run_count) return violated("more runs than the request has");
    if (count < inbound.run_count) return;
    if (inbound.local.totalBytes() != inbound.total_bytes) return violated("a request whose bytes do not add up");
    assembling_ = nullptr;
    if (Status allowed = allow(inbound); !allowed.ok()) return finish(inbound, std::move(allowed));
    if (inbound.operation == NIXL_READ) senders_.push_back(&inbound);
}

/// Whether the peer may do what it asks for. Now, when the last run is here: whatever was revoked before counts.
Status
Session::allow(Inbound &inbound) {
    for (Blocks &blocks : inbound.local.blocks()) {
        const auto found = windows_.find(blocks.window.id);
        if (found == windows_.end() || found->second.window.key != blocks.window || found->second.revoked) {
            return unknownWindow(blocks.window);
        }
        const Window &window = found->second.window;
        const uint32_t right = inbound.operation == NIXL_WRITE ? kMayWrite : kMayRead;
        if (Status allowed = checkAccess(window, blocks, right); !allowed.ok()) return allowed;
        blocks.memory = window.memory;
        blocks.device = window.device;
    }
    return {};
}

Session::Inbound *
Session::findInbound(uint64_t id) {
    const size_t slot = slotOf(id);
    if (slot >= inbounds_.size() || generationOf(id) > inbounds_[slot].generation) {
        violated("it speaks of a request that was not announced");
        return nullptr;
    }
    return inbounds_[slot].active && inbounds_[slot].id == id ? &inbounds_[slot] : nullptr;
}

void
Session::handleNote(std::string_view body) {
    const auto frame = decodeNote(body);
    if (!frame.ok()) return violated(frame.message());
    const uint64_t held = heldCost(frame->total_bytes);
    if (!note_in_) {
        if (held > kNoteBytesHeldMax - note_bytes_held_) return violated("more notifications than it has places for");
        note_bytes_held_ += held;
        note_in_ = {frame->id, frame->total_bytes, {}};
    }
    if (note_in_->id != frame->id || note_in_->total_bytes != frame->total_bytes ||
        frame->part.size() > note_in_->total_bytes - note_in_->message.size()) {
        return violated("a notification whose parts do not fit together");
    }
    note_in_->message.append(frame->part);
    if (note_in_->message.size() < note_in_->total_bytes) return;

    std::string message = std::move(note_in_->message);
    note_in_.reset();
    Inbound *inbound = frame->id == 0 ? nullptr : findInbound(frame->id);
    if (!running()) return;
    if (inbound) {
        if (!inbound->wants_note || inbound->note) return violated("a notification too many for a request");
        inbound->note = std::move(message);
        return completeWrite(*inbound);
    }
    note_bytes_held_ -= held;
    if (frame->id == 0) deliver(std::move(message)); // otherwise its request has ended
}

void
Session::deliver(std::string note) {
    if (!inbox_.put(peer_->name, std::move(note))) inbox_.drop(peer_->name);
}

void
Session::handleAsk() {
    if (question_) return violated("a second question before the answer");
    question_ = true;
    for (Inbound &inbound : inbounds_) {
        if (!inbound.note) continue;
        inbound.before_question = true;
        ++notes_before_question_;
    }
    askInbox();
}

void
Session::askInbox() {
    if (question_ && notes_before_question_ == 0 && inbox_.ask(peer_->name, options_.question)) notesFetched();
}

void
Session::notesFetched() {
    if (!question_ || notes_before_question_ > 0 || !running()) return;
    question_ = false;
    encodeEmpty(pending_, FrameType::kAnswer);
    answer_bytes_ += kHeadBytes;
    checkAnswers();
}

void
Session::handleCancel(std::string_view body) {
    const auto id = decodeCancel(body);
    if (!id.ok()) return violated(id.message());
    Inbound *inbound = findInbound(*id);
    if (running() && inbound) finish(*inbound, Status(NIXL_ERR_CANCELED, "it was cancelled"));
}

void
Session::handleDone(std::string_view body) {
    const auto done = decodeDone(body);
    if (!done.ok()) return violated(done.message());
    const size_t slot = slotOf(done->id);
    if (slot >= slots_.size() || generationOf(done->id) > slots_[slot].generation) {
        return violated("the end of a request that was not made");
    }
    Request *request = slots_[slot].request;
    if (!request || request->id != done->id || request->phase != Request::Phase::kAnnounced || request->confirmed) {
        return violated("a second end of a request");
    }
    if (done->status != NIXL_SUCCESS) {
        return finish(*request,
                      Status(done->status,
                             "agent " + quoted(peer_->name) + " says: " + quoted(done->sentence, kSentenceBytesMax)));
    }
    if (request->operation == NIXL_WRITE) return finish(*request, Status());
    // What is read may have been filled up: that it was not is said here, and it may still be on its way.
    request->confirmed = true;
    if (request->moved == request->local.totalBytes()) noteOrFinish(*request);
}

void
Session::handleGoodbye(std::string_view body) {
    const auto goodbye = decodeDone(body);
    if (!goodbye.ok()) return violated(goodbye.message());
    peer_stopped_ = true;
    end(State::kEnded, NIXL_ERR_REMOTE_DISCONNECT,
        peerName() + " has closed the connection: " + quoted(goodbye->sentence, kSentenceBytesMax));
}

void
Session::answerDone(uint64_t id, const Status &outcome) {
    const size_t before = pending_.size();
    encodeDone(pending_, FrameType::kDone, {id, outcome.code(), outcome.message()});
    answer_bytes_ += pending_.size() - before;
    checkAnswers();
}

void
Session::checkAnswers() {
    if (answer_bytes_ > kAnswerBytesMax) violated("it takes none of the answers that it asks for");
}

// ---- The end of a transfer -----------------------------------------------------------------------------------------

/// All bytes have been placed here, or handed to the carrier.
void
Session::moveDone(Transfer &transfer) {
    if (!transfer.own) {
        if (transfer.operation == NIXL_READ) return finish(transfer, Status());
        return completeWrite(static_cast<Inbound &>(transfer));
    }
    auto &request = static_cast<Request &>(transfer);
    if (request.operation == NIXL_READ && request.confirmed) noteOrFinish(request);
}

void
Session::completeWrite(Inbound &inbound) {
    if (inbound.over || inbound.moved < inbound.total_bytes || (inbound.wants_note && !inbound.note)) return;
    if (inbound.note) {
        const uint64_t held = heldCost(inbound.note->size());
        deliver(std::move(*inbound.note));
        inbound.note.reset();
        releaseNote(inbound, held);
    }
    finish(inbound, Status());
}

/// The note of a request that waits for its data does so no longer.
void
Session::releaseNote(Inbound &inbound, uint64_t held) {
    note_bytes_held_ -= held;
    if (!std::exchange(inbound.before_question, false)) return;
    --notes_before_question_;
    askInbox();
}

void
Session::noteOrFinish(Request &request) {
    if (!request.note) return finish(request, Status());
    request.phase = Request::Phase::kNoting;
    takePlace(request);
}

/// Ends the request, at once or when the carrier has given back what it was lent.
void
Session::finish(Transfer &transfer, Status outcome) {
    if (transfer.over) return;
    transfer.over = true;
    transfer.outcome = std::move(outcome);
    std::erase(senders_, &transfer);
    if (transfer.own) {
        auto &request = static_cast<Request &>(transfer);
        if (request.phase == Request::Phase::kQueued) std::erase(queued_, &request);
        if (request.note) std::erase(waiters_, &request);
        if (announcing_ == &request) announcing_ = nullptr;
    }
    for (Stream &stream : streams_) {
        if (stream.into == &transfer && !stream.in_lent) stream.into = nullptr;
        if (stream.from == &transfer && !stream.out_lent) stream.from = nullptr;
    }
    if (transfer.lent_count == 0) settle(transfer);
}

/// Nobody touches its memory any more.
void
Session::settle(Transfer &transfer) {
    ++path_mark_;
    if (transfer.own) {
        auto &request = static_cast<Request &>(transfer);
        if (request.id != 0) {
            slots_[slotOf(request.id)].request = nullptr;
            free_slots_.push_back(static_cast<uint32_t>(slotOf(request.id)));
            runs_out_ -= request.remote.blocks().size();
            request.id = 0;
        }
        request.note.reset();
        request.phase = Request::Phase::kIdle;
        ended_.push_back(&request);
        return;
    }
    auto &inbound = static_cast<Inbound &>(transfer);
    inbound.active = false;
    inbound.local.clear();
    runs_in_ -= inbound.run_count;
    if (assembling_ == &inbound) assembling_ = nullptr;
    if (inbound.note) {
        const uint64_t held = heldCost(inbound.note->size());
        inbound.note.reset();
        releaseNote(inbound, held);
    }
    if (running()) answerDone(inbound.id, inbound.outcome);
    checkQuiet();
}

// ---- Requests ------------------------------------------------------------------------------------------------------

Status
Session::checkPost(const Request &request, const std::optional<std::string> &note) const {
    if (request.phase != Request::Phase::kIdle) return {NIXL_ERR_REPOST_ACTIVE, "the request is running"};
    if (!running()) return {NIXL_ERR_REMOTE_DISCONNECT, reason_.message()};
    if (request.local.totalBytes() != request.remote.totalBytes()) {
        return {NIXL_ERR_INVALID_PARAM,
                std::to_string(request.local.totalBytes()) + " bytes here, " +
                    std::to_string(request.remote.totalBytes()) + " at the peer"};
    }
    if (request.remote.blocks().size() > kRunsMax) {
        return {NIXL_ERR_INVALID_PARAM,
                std::to_string(request.remote.blocks().size()) + " runs; the limit is " + std::to_string(kRunsMax)};
    }
    return note ? wire::checkNotification(*note) : Status();
}

void
Session::begin(Request &request, std::optional<std::string> note, Request::Phase phase) {
    request.own = true;
    request.phase = phase;
    request.note = std::move(note);
    request.cut = request.moved = 0;
    request.over = request.confirmed = request.cancelled = request.stop = false;
    request.outcome = Status();
}

Status
Session::post(Request &request, std::optional<std::string> note) {
    if (Status checked = checkPost(request, note); !checked.ok()) return checked;
    begin(request, std::move(note), Request::Phase::kQueued);
    if (request.local.totalBytes() == 0) {
        noteOrFinish(request);
    } else {
        queued_.push_back(&request);
    }
    return {};
}

Status
Session::postCopy(Request &request, std::optional<std::string> note) {
    if (Status checked = checkPost(request, note); !checked.ok()) return checked;
    const uint32_t rights = kMayCopy | (request.operation == NIXL_WRITE ? kMayWrite : kMayRead);
    for (const Blocks &blocks : request.remote.blocks()) {
        const Window *window = peerWindow(blocks.window.id);
        if (!window || window->key != blocks.window) return unknownWindow(blocks.window);
        if (Status allowed = checkAccess(*window, blocks, rights); !allowed.ok()) return allowed;
    }
    begin(request, std::move(note), Request::Phase::kCopying);
    copying_.push_back(&request);
    return {};
}

void
Session::copied(Request &request, Status outcome) {
    std::erase(copying_, &request);
    if (!running()) {
        finish(request, Status(NIXL_ERR_REMOTE_DISCONNECT, reason_.message()));
    } else if (outcome.ok()) {
        request.moved = request.local.totalBytes();
        noteOrFinish(request);
    } else if (request.cancelled) {
        finish(request, Status(NIXL_ERR_CANCELED, "it was cancelled"));
    } else if (request.stop) {
        finish(request, Status(NIXL_ERR_NOT_FOUND, "agent " + quoted(peer_->name) + " has deregistered the memory"));
    } else {
        finish(request, std::move(outcome));
    }
    acknowledgeRevocations();
}

void
Session::cancel(Request &request) {
    if (request.phase == Request::Phase::kIdle || request.over || std::exchange(request.cancelled, true)) return;
    switch (request.phase) {
    case Request::Phase::kCopying: request.stop = true; return;
    case Request::Phase::kAnnounced:
        encodeCancel(pending_, request.id);
        if (announcing_ == &request) announcing_ = nullptr;
        return;
    default: finish(request, Status(NIXL_ERR_CANCELED, "it was cancelled"));
    }
}

Request *
Session::nextEnded() {
    if (ended_.empty()) return nullptr;
    Request *request = ended_.front();
    ended_.pop_front();
    return request;
}

// ---- Notifications -------------------------------------------------------------------------------------------------

uint64_t
Session::heldCost(uint64_t note_bytes) const noexcept {
    return messageCost(peer_->name, {}) + note_bytes;
}

Status
Session::sendNote(std::string note) {
    if (Status checked = wire::checkNotification(note); !checked.ok()) return checked;
    if (!running()) return {NIXL_ERR_REMOTE_DISCONNECT, reason_.message()};
    const bool taken = waiters_.empty() && credits_.take(0, messageCost(options_.hello.name, note));
    if (taken) notes_.push_back({0, std::move(note)});
    askIfDue();
    if (taken) return {};
    return {NIXL_ERR_REPOST_ACTIVE,
            std::to_string(kShareBytes >> 20) + " MiB of notifications wait at " + peerName() +
                " to be fetched; send it again later"};
}

/// The note of the request goes out, now or when the peer has a place.
void
Session::takePlace(Request &request) {
    waiters_.push_back(&request);
    serveWaiters();
    if (request.cancelled && request.phase == Request::Phase::kNoting) {
        finish(request, Status(NIXL_ERR_CANCELED, "it was cancelled"));
    }
}

void
Session::serveWaiters() {
    while (!waiters_.empty()) {
        Request &request = *waiters_.front();
        if (!credits_.take(0, messageCost(options_.hello.name, *request.note))) break;
        waiters_.pop_front();
        const bool with_data = request.phase == Request::Phase::kAnnounced;
        notes_.push_back({with_data ? request.id : 0, std::move(*request.note)});
        request.note.reset();
        if (!with_data) finish(request, Status());
    }
    askIfDue();
}

void
Session::askIfDue() {
    if (!credits_.shouldAsk(0)) return;
    credits_.asked(0);
    notes_.push_back({0, {}, 0, true});
}

// ---- Windows -------------------------------------------------------------------------------------------------------

Status
Session::announce(const Window &window) {
    if (windows_.size() >= kWindowsMax) {
        return {NIXL_ERR_INVALID_PARAM, "a peer may have " + std::to_string(kWindowsMax) + " windows"};
    }
    if (window.length > ~window.address) return {NIXL_ERR_INVALID_PARAM, "the window ends behind the end of memory"};
    if (!windows_.try_emplace(window.key.id, OwnWindow{window}).second) {
        return {NIXL_ERR_INVALID_PARAM, text(window.key) + ": the id is in use"};
    }
    if (running()) encodeWindow(pending_, window);
    return {};
}

Status
Session::revoke(WindowKey key) {
    const auto found = windows_.find(key.id);
    if (found == windows_.end() || found->second.window.key != key || found->second.revoked) {
        return {NIXL_ERR_INVALID_PARAM, text(key) + " is not announced"};
    }
    found->second.revoked = true;
    found->second.acknowledged = !(found->second.window.rights & kMayCopy);
    revoked_.push_back(key.id);
    if (running()) encodeKey(pending_, FrameType::kRevoke, key);
    for (Inbound &inbound : inbounds_) {
        // One whose runs are not all here is judged when they are.
        if (!inbound.active || &inbound == assembling_ || !touches(inbound.local, key)) continue;
        finish(inbound, Status(NIXL_ERR_NOT_FOUND, text(key) + " was deregistered during the transfer"));
    }
    checkQuiet();
    return {};
}

void
Session::checkQuiet() {
    std::erase_if(revoked_, [this](uint32_t id) {
        const OwnWindow &own = windows_.at(id);
        if (!own.acknowledged && !peer_stopped_) return false;
        for (const Inbound &inbound : inbounds_) {
            if (inbound.active && &inbound != assembling_ && touches(inbound.local, own.window.key)) return false;
        }
        quiet_.push_back(own.window.key);
        windows_.erase(id);
        return true;
    });
}

std::optional<WindowKey>
Session::nextQuiet() {
    if (quiet_.empty()) return {};
    const WindowKey key = quiet_.front();
    quiet_.pop_front();
    return key;
}

const Window *
Session::peerWindow(uint32_t id) const {
    const auto found = peer_windows_.find(id);
    return found == peer_windows_.end() ? nullptr : &found->second;
}

// ---- Time and end --------------------------------------------------------------------------------------------------

uint64_t
Session::deadline() const noexcept {
    if (state_ == State::kEnded) return std::numeric_limits<uint64_t>::max();
    const uint64_t dead = later(heard_at_, options_.dead_after);
    return running() ? std::min(dead, later(pinged_at_, options_.ping_after)) : dead;
}

void
Session::tick(uint64_t now) {
    if (state_ == State::kEnded) return;
    // Who comes too late has not listened meanwhile: that is no silence of the peer.
    const uint64_t due = deadline();
    heard_at_ = heard_ ? now : later(heard_at_, now > due ? now - due : 0);
    heard_ = false;
    if (now >= later(heard_at_, options_.dead_after)) {
        return end(State::kEnded, NIXL_ERR_REMOTE_DISCONNECT, peerName() + " has been silent for too long");
    }
    if (!running() || now < later(pinged_at_, options_.ping_after)) return;
    // Whatever was said meanwhile, for it is not known when: the peer would wait twice as long for who comes late.
    if (control_.empty() && pending_.empty()) encodeEmpty(pending_, FrameType::kPing);
    pinged_at_ = now;
}

std::string
Session::peerName() const {
    return peer_ ? "agent " + quoted(peer_->name) : std::string("a peer that has not greeted");
}

void
Session::close() {
    end(State::kClosing, NIXL_ERR_REMOTE_DISCONNECT, "the connection was closed at the other side of its agent");
}

void
Session::linkLost(const std::string &why) {
    peer_stopped_ = true;
    end(State::kEnded, NIXL_ERR_REMOTE_DISCONNECT, "the connection to " + peerName() + " is lost: " + why);
    checkQuiet();
}

void
Session::violated(const std::string &rule) {
    if (!running()) return;
    notes_.clear();
    end(State::kClosing, NIXL_ERR_MISMATCH, peerName() + " broke the protocol: " + rule);
}

void
Session::end(State state, nixl_status_t code, std::string why) {
    if (state_ == State::kEnded || (state == State::kClosing && !running())) return;
    const bool was_running = running();
    // Within a frame of data nothing else can be said, and to fill it up could look like a write that is complete.
    const Stream &control = streams_.front();
    state_ = control.head_left + control.out_left > 0 ? State::kEnded : state;
    if (!was_running) return;
    reason_ = Status(code, std::move(why));
    // A request may be in two of them.
    std::vector<Request *> requests(queued_.begin(), queued_.end());
    requests.insert(requests.end(), waiters_.begin(), waiters_.end());
    for (const Slot &slot : slots_) {
        if (slot.request) requests.push_back(slot.request);
    }
    for (Request *request : requests) finish(*request, Status(NIXL_ERR_REMOTE_DISCONNECT, reason_.message()));
    for (Request *request : copying_) request->stop = true;
    for (Inbound &inbound : inbounds_) {
        if (inbound.active) finish(inbound, Status(NIXL_ERR_REMOTE_DISCONNECT, reason_.message()));
    }
    note_in_.reset();
    checkQuiet();
}

} // namespace nx::kit
