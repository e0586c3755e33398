// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What two engines say to each other over their socket, which keeps messages whole: who they are and what they share,
// that a ring has something in it, and where a block of shareable memory is. A message is a byte that says what it is,
// and plain integers in the order of the machine, which both are on. Descriptors travel beside them.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "kit/local_socket.h"

namespace nx::shm {

inline constexpr kit::LocalSocketKind kSockets{"nixl-shm-", SOCK_SEQPACKET};

struct Message {
    enum class Type : uint8_t {
        kHello = 'H',     ///< `listener`, `agent`; who connects gives the region and its board, the other its board
        kRefused = 'R',   ///< `text` says why
        kBell = 'B',      ///< look into the ring
        kWantBlock = 'W', ///< block `number`, please
        kBlock = 'M',     ///< block `number`, of `bytes` bytes, with its descriptor
        kNoBlock = 'N',   ///< there is no block `number`
    };

    Type type = Type::kBell;
    std::string listener{};
    std::string agent{};
    std::string text{};
    uint64_t number = 0;
    uint64_t bytes = 0;
    std::array<Fd, 2> descriptors{};
};

/// Without the descriptors.
std::string
encode(const Message &message);

/// MISMATCH: not a message.
Result<Message>
decode(std::string_view bytes);

/// How many descriptors travel with a message; of a hello that of who connects.
size_t
descriptorCount(Message::Type type) noexcept;

/// Does not block. False: the other side is gone, or has not taken what was said before.
bool
send(const Fd &socket, const Message &message) noexcept;

/// One that has no more to it than that. Does not block, needs no memory.
bool
ringBell(const Fd &socket) noexcept;

/// The next message; none: there is none now. REMOTE_DISCONNECT: the other side is gone. MISMATCH: it said something
/// else. Does not block.
Result<std::optional<Message>>
receive(const Fd &socket);

/// The same, waiting for one. NOT_FOUND: none came in time.
Result<Message>
await(const Fd &socket, std::chrono::milliseconds limit);

} // namespace nx::shm
