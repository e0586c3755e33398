// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A carrier between two sessions of plugins/kit/peer in one process, with its own clock: streams of bytes that overtake
// each other, queues that are full, pieces that are kept for a while before they are given back, pauses, and an end at
// any byte. All of it follows from the seed. Owned by one caller.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kit/peer/session.h"

namespace nx::test {

class SimulatedLink {
public:
    struct Character {
        size_t capacity = size_t{1} << 20; ///< bytes of one stream in one direction
        size_t burst = size_t{1} << 20;    ///< bytes moved at once, at most
        unsigned keep_percent = 0;         ///< how often pieces are kept until the next turn
        uint64_t time_per_step = 0;        ///< at most
    };

    SimulatedLink(kit::Session &left, kit::Session &right, size_t stream_count, uint64_t seed, Character character)
        : ends_{End{&left, std::vector<Direction>(stream_count), 0},
                End{&right, std::vector<Direction>(stream_count), 0}},
          character_(character),
          random_(seed) {}

    uint64_t now = 0;

    uint64_t
    below(uint64_t bound) {
        return random_() % bound;
    }

    /// One side does nothing until then: it neither moves bytes nor looks at the clock.
    void
    pause(size_t end, uint64_t until) {
        ends_[end].paused_until = until;
    }

    /// A random stream takes a turn, on a random side. Whether bytes moved.
    bool
    step() {
        if (character_.time_per_step > 0) now += below(character_.time_per_step + 1);
        const size_t end = below(2);
        if (ends_[end].paused_until > now) return false;
        const size_t stream = below(ends_[end].out.size());
        const bool moved = below(2) ? send(end, stream) : receive(end, stream);
        kit::Session &session = *ends_[end].session;
        if (now >= session.deadline()) session.tick(now);
        return moved;
    }

    /// Until nothing moves any more. Takes what is kept back first.
    void
    pump() {
        bool moved = true;
        while (moved) {
            moved = false;
            for (size_t end = 0; end < 2; ++end) {
                for (size_t stream = 0; stream < ends_[end].out.size(); ++stream) {
                    moved |= send(end, stream);
                    moved |= receive(end, stream);
                }
            }
        }
    }

    /// What is kept is given back, without a byte.
    void
    giveBack() {
        for (End &end : ends_) {
            for (size_t stream = 0; stream < end.out.size(); ++stream) {
                Direction &direction = end.out[stream];
                if (std::exchange(direction.sending, false)) end.session->sent(stream, 0);
                if (std::exchange(direction.receiving, false)) end.session->received(stream, 0);
            }
        }
    }

private:
    static constexpr size_t kPiecesMax = 5;

    struct Direction {
        std::string pipe; ///< from this end to the other
        size_t at = 0;
        std::array<kit::Piece, kPiecesMax> from{};
        size_t from_count = 0;
        bool sending = false;
        std::array<kit::Piece, kPiecesMax> into{};
        size_t into_count = 0;
        bool receiving = false;
    };

    struct End {
        kit::Session *session;
        std::vector<Direction> out;
        uint64_t paused_until;
    };

    bool
    keeps() {
        return character_.keep_percent > 0 && below(100) < character_.keep_percent;
    }

    size_t
    some(size_t most) {
        most = std::min(most, character_.burst);
        return character_.burst >= character_.capacity ? most : below(most + 1);
    }

    bool
    send(size_t end, size_t stream) {
        Direction &direction = ends_[end].out[stream];
        kit::Session &session = *ends_[end].session;
        if (!direction.sending) {
            direction.from_count = session.output(stream, direction.from);
            if (direction.from_count == 0) return false;
            direction.sending = true;
            if (keeps()) return true;
        }
        direction.sending = false;
        size_t left = some(character_.capacity - (direction.pipe.size() - direction.at));
        size_t moved = 0;
        for (size_t i = 0; i < direction.from_count && left > 0; ++i) {
            const size_t bytes = std::min(left, direction.from[i].bytes);
            direction.pipe.append(direction.from[i].address, bytes);
            moved += bytes;
            left -= bytes;
        }
        session.sent(stream, moved);
        return moved > 0;
    }

    bool
    receive(size_t end, size_t stream) {
        Direction &direction = ends_[end].out[stream];
        Direction &source = ends_[1 - end].out[stream];
        kit::Session &session = *ends_[end].session;
        if (!direction.receiving) {
            if (source.at == source.pipe.size()) return false;
            direction.into_count = session.input(stream, direction.into);
            if (direction.into_count == 0) return false;
            direction.receiving = true;
            if (keeps()) return true;
        }
        direction.receiving = false;
        size_t left = some(source.pipe.size() - source.at);
        size_t moved = 0;
        for (size_t i = 0; i < direction.into_count && left > 0; ++i) {
            const size_t bytes = std::min(left, direction.into[i].bytes);
            std::memcpy(direction.into[i].address, source.pipe.data() + source.at, bytes);
            source.at += bytes;
            moved += bytes;
            left -= bytes;
        }
        if (source.at == source.pipe.size()) {
            source.pipe.clear();
            source.at = 0;
        }
        session.received(stream, moved);
        return moved > 0;
    }

    std::array<End, 2> ends_;
    const Character character_;
    std::mt19937_64 random_;
};

} // namespace nx::test
