// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What agents say to each other's listeners (docs/wire.md): 8 bytes of length, then "NIXLCOMM:", a verb of four letters
// and its payload. One message per frame: whatever a payload contains is payload.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "wire/metadata.h"

namespace nx::wire {

enum class Verb {
    kLoad,       ///< "LOAD": a metadata blob, empty if there is nothing to publish
    kSend,       ///< "SEND": send me yours; no payload
    kInvalidate, ///< "INVL": forget the agent of this name; ours also say which start of it
    kAnswer,     ///< "DONE": what became of a LOAD; ours, sent to those whose trailer has kFeatureAnswers
};

struct Message {
    Verb verb;
    std::string_view payload;
};

/// What stands before the payload of a frame.
std::string
encodeFrameHead(Verb verb, size_t payload_bytes);
std::string
encodeFrame(Verb verb, std::string_view payload);

struct Invalidation {
    std::string_view agent;
    std::optional<Incarnation> start; ///< absent: it was NIXL that sent it, or a stranger
};

/// Payload of an invalidation. NIXL reads the name and passes over the rest.
std::string
encodeInvalidation(std::string_view agent, const Incarnation &start);
Invalidation
decodeInvalidation(std::string_view payload) noexcept;

struct Answer {
    nixl_status_t status = NIXL_SUCCESS;
    std::string sentence; ///< why not; empty on success
};

/// Payload of an answer. A long sentence is cut.
std::string
encodeAnswer(const Answer &answer);
/// MISMATCH: not an answer.
Result<Answer>
decodeAnswer(std::string_view payload);

/// Finds the messages in a stream of bytes. Keeps what belongs to a frame that is not whole yet: as much as has
/// arrived, whatever the frame declares. Owned by one caller.
class FrameReader {
public:
    void
    add(std::string_view bytes);

    /// The next whole message; its payload stays valid until the next call of a function that is not const. Nothing:
    /// more bytes are needed. MISMATCH: the bytes are no frame, found as early as they show it; the reader is of no
    /// use any more.
    Result<std::optional<Message>>
    next();

    /// Part of a frame is here, and not all of it.
    bool
    midFrame() const noexcept {
        return buffer_.size() > taken_;
    }

    /// Memory held, in bytes: none between messages.
    size_t
    capacity() const noexcept {
        return buffer_.empty() ? 0 : buffer_.capacity();
    }

private:
    std::string buffer_;
    size_t taken_ = 0; ///< bytes of messages given out
};

} // namespace nx::wire
