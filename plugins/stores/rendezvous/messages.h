// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What agents say to a rendezvous and it to them, as bytes (docs/wire.md). Pure functions; the bytes may be a
// stranger's.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace nx::rendezvous {

inline constexpr size_t kNameBytesMax = 4096; ///< of agents and labels
inline constexpr size_t kAddressBytesMax = 300;
inline constexpr size_t kRosterMax = 16;

using Start = std::array<uint8_t, 16>; ///< the incarnation of an agent's start
using Blob = std::shared_ptr<const std::string>;

enum class Role : uint8_t {
    kGuest,  ///< does not listen
    kDeputy, ///< listens and can take over
    kHost
};

enum class Type : uint8_t {
    kHello = 1, ///< both sides, first: who I am
    kJoin,      ///< to the host: I am a member from now on
    kAlive,     ///< both sides
    kPublish,   ///< members: calls with an id, answered with kAnswer or kFound
    kWithdraw,
    kFetch,
    kFollow, ///< tell me when this start is not there any more
    kForget, ///< do not
    kAnswer, ///< the host
    kFound,
    kGone,
    kRoster ///< who can take over
};

struct Deputy {
    std::string name;
    std::string address;

    bool
    operator==(const Deputy &) const = default;
};

/// Which of the fields a type has: docs/wire.md. Others are not sent.
struct Message {
    Type type = Type::kAlive;
    Role role = Role::kGuest;
    bool flag = false;  ///< kPublish: this start has published before; kGone: another start has its place
    int32_t status = 0; ///< kAnswer
    uint64_t id = 0;    ///< of a call; 0: no answer but a refusal is awaited
    Start start{};      ///< of the sender (kHello), or of the agent that is followed, found or gone
    std::string name;   ///< of an agent
    std::string text;   ///< a label, a sentence; kHello: where the sender listens, "host:port", ":port" or empty
    std::string host;   ///< kHello: where the sender's host is; empty: it has none
    Blob blob;          ///< kPublish, kFound; never null there
    std::vector<Deputy> roster;

    bool
    operator==(const Message &other) const;
};

/// Frames end where `blob` does, which is not copied into them.
struct Frame {
    std::string head;
    Blob blob; ///< may be null
};

Frame
encode(const Message &message);

/// Finds the messages in a stream. Keeps what belongs to a frame that is not whole: no more than has arrived. Owned by
/// one caller.
class Reader {
public:
    void
    add(std::string_view bytes);

    /// Nothing: more bytes are needed. MISMATCH: it is no rendezvous that speaks; the reader is of no use any more.
    /// The first message is a kHello, and there is no other.
    Result<std::optional<Message>>
    next();

    /// Memory held.
    size_t
    buffered() const noexcept {
        return buffer_.capacity();
    }

private:
    std::string buffer_;
    size_t taken_ = 0;
    bool greeted_ = false;
};

} // namespace nx::rendezvous
