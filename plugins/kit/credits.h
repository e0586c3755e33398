// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How much of a peer's inbox notifications may take, counted at both ends: nothing is sent that has no place where it
// arrives, and one sender's flood takes nobody else's place (docs/design/0009). Free of I/O, threads and clocks: a
// carrier brings the messages, and the question and its answer by which a sender learns that places are free again.
//
//     sender:   take() or wait; send it; if shouldAsk(), send the question behind it, over the same channel
//     receiver: admit() what arrives; ask() on a question: answer it at once, or when fetchAll() gives it back
//     sender:   answered(): all that went over the channel before the question has been fetched
//
// A channel is a path on which nothing overtakes anything. A peer that keeps no credits is never asked: there the
// carrier calls completed() when a message has left this process. Each object is owned by one caller at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nx::kit {

/// What one sender's messages that nobody has fetched may take of a receiver's memory.
inline constexpr uint64_t kShareBytes = uint64_t{64} << 20;

/// What each message counts besides its bytes and its sender's name.
inline constexpr uint64_t kMessageOverhead = 128;

/// All messages together of senders that nobody has made known. A sender's name is what it says of itself: without
/// this limit a hostile process had as many shares as it can invent names.
inline constexpr uint64_t kStrangersBytes = uint64_t{1} << 30;

/// Questions that wait for their answer at one receiver; beyond it they are answered too early.
inline constexpr size_t kQuestionsMax = 16384;

inline constexpr uint64_t
messageCost(std::string_view sender, std::string_view message) noexcept {
    return kMessageOverhead + sender.size() + message.size();
}

/// A sender's account of one peer.
class CreditSender {
public:
    explicit CreditSender(size_t channel_count) : channels_(channel_count) {}

    /// Takes a place for a message that goes out over `channel` next. False: there is none; nothing changed, except
    /// that the peer should be asked.
    bool
    take(size_t channel, uint64_t cost);

    /// The same for a message that goes out later, see sent() and release().
    bool
    reserve(uint64_t cost);

    /// A message with a reserved place goes out.
    void
    sent(size_t channel, uint64_t cost) noexcept;

    /// A reserved place is not needed after all.
    void
    release(uint64_t cost) noexcept;

    /// A message has left for a peer that keeps no credits, or could not be sent.
    void
    completed(size_t channel, uint64_t cost) noexcept;

    /// Whether it is time to ask, over each channel that something went over.
    bool
    wantsAnswer() const noexcept {
        return taken_ > kShareBytes / 2 || !hasPlace(taken_, refused_);
    }

    /// Whether it is time for a question over this channel.
    bool
    shouldAsk(size_t channel) const noexcept;

    /// A question goes out behind all that went out before; one per channel at a time.
    void
    asked(size_t channel) noexcept;

    /// What was sent before the question has been fetched. No effect without a question.
    void
    answered(size_t channel) noexcept;

    /// The question got lost.
    void
    unanswered(size_t channel) noexcept;

    /// Neither known to be fetched nor, without credits, completed.
    uint64_t
    taken() const noexcept {
        return taken_;
    }

private:
    /// One that is larger than a share has a place while half of the share is free: how much of it is fetched is not
    /// known before the peer is asked, which is done from half of the share on.
    static constexpr bool
    hasPlace(uint64_t taken, uint64_t cost) noexcept {
        if (cost > kShareBytes) return taken <= kShareBytes / 2;
        return taken <= kShareBytes && cost <= kShareBytes - taken;
    }

    struct Channel {
        uint64_t sent = 0;                ///< all that went out, ever
        uint64_t acknowledged = 0;        ///< so much of it takes no place any more
        std::optional<uint64_t> asked_at; ///< `sent` at the question on its way
    };

    std::vector<Channel> channels_;
    uint64_t taken_ = 0;
    uint64_t refused_ = 0; ///< what found no place since the last one that did; 0: nothing
};

/// A receiver's account of all its senders. What arrived is always fetched as a whole.
class CreditReceiver {
public:
    /// Chosen by the carrier.
    using Question = uint64_t;

    /// A sender counts by itself, whatever strangers send.
    void
    setKnown(std::string_view sender, bool known);

    /// Whether the message has a place, which it then takes: in its sender's share, or beside it if it is larger than
    /// one, since what comes over different channels comes in any order.
    bool
    admit(std::string_view sender, uint64_t cost);

    /// True: answer it now. False: it comes back from fetchAll().
    bool
    ask(std::string_view sender, Question question);

    /// All that was admitted is fetched. The questions that are to be answered now.
    std::vector<Question>
    fetchAll();

private:
    struct Share {
        uint64_t taken = 0;     ///< by messages no larger than a share
        uint64_t oversized = 0; ///< the one larger than that; 0: none
        uint64_t round = 0;     ///< since when these count; an older round: nothing is taken
        bool known = false;
    };
    struct Hash : std::hash<std::string_view> {
        using is_transparent = void;
    };
    using Shares = std::unordered_map<std::string, Share, Hash, std::equal_to<>>;

    /// Null: nothing is known of it.
    Share *
    find(std::string_view sender);

    Shares shares_;
    Shares::value_type *last_ = nullptr; ///< the one found last
    uint64_t round_ = 0;                 ///< counts what was fetched, so that no share need be touched for it
    uint64_t strangers_taken_ = 0;
    std::vector<Question> questions_;
};

} // namespace nx::kit
