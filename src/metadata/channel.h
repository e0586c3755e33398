// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One TCP connection that carries frames, either way. It never blocks, serves no further while its receiver does not
// take what is written to it, and ends when a limit of time is reached. With a session, nothing is read out of it or
// said over it before both ends have proven themselves, and all that is said is protected. Confined to its loop.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/fd.h"
#include "loop/loop.h"
#include "metadata/limits.h"
#include "metadata/service.h"
#include "wire/frame.h"

namespace nx::metadata {

/// Memory of what is received and of the metadata that is sent, counted over all channels of an exchange.
struct Budget {
    size_t used = 0;
    size_t max = 0;
    std::function<void()> exceeded; ///< makes room
};

class Channel : public std::enable_shared_from_this<Channel> {
public:
    class Owner {
    public:
        /// May close the channel.
        virtual void
        onMessage(Channel &channel, const wire::Message &message) = 0;
        /// It ended by itself: it is closed, and the owner may drop it. Not called for close().
        virtual void
        onEnd(Channel &channel, const Status &why) = 0;
        /// All that was sent is with the system. Only for channels that were waiting for it, or were released.
        virtual void
        onWritten(Channel &channel) = 0;

    protected:
        ~Owner() = default;
    };

    /// Who asks on it. On one that we made we do: it may be quiet for long, and answers are read while more is asked.
    enum class Side { kAccepted, kMade };

    /// `peer`: its address, for people. `session`: null for plain frames; else the first thing is the proof, for which
    /// there is Limits::prove.
    static Result<std::shared_ptr<Channel>>
    open(Loop &loop,
         Fd socket,
         std::string peer,
         const Limits &limits,
         Budget &budget,
         Owner &owner,
         Side side,
         Session session);
    ~Channel();
    Channel(const Channel &) = delete;
    Channel &
    operator=(const Channel &) = delete;

    void
    send(std::string bytes);
    /// Both, in this order. Who else sends the blob has it in common with this channel.
    void
    send(std::string head, Blob blob);

    /// Until release(), messages that follow are neither read nor given out, and the payload of the message that was
    /// given out last stays valid.
    void
    hold();
    void
    release();

    void
    close();

    bool
    isOpen() const noexcept {
        return static_cast<bool>(socket_);
    }

    /// All that was sent is with the system.
    bool
    written() const noexcept {
        return out_.empty() && sealed_.empty();
    }

    /// All that was sent is with the peer's system.
    bool
    delivered() const;

    /// A whole message has arrived; with a session: it has proven itself.
    bool
    proven() const noexcept {
        return proven_;
    }

    /// Memory of what was received and not dealt with.
    size_t
    buffered() const noexcept {
        return counted_;
    }

    const std::string &
    peer() const noexcept {
        return peer_;
    }

private:
    using Time = Loop::Clock::time_point;

    Channel(Loop &loop,
            Fd socket,
            std::string peer,
            const Limits &limits,
            Budget &budget,
            Owner &owner,
            Side side,
            Session session);

    Status
    begin();
    std::string
    whatIsMissing() const;
    bool
    writing() const noexcept;
    bool
    reading() const noexcept;
    std::string_view
    nextToWrite();
    void
    endLater(const Status &why);
    bool
    takeIn(std::string_view bytes);
    bool
    openSealed(std::string_view bytes, std::string &plain);
    void
    onReady(uint32_t events);
    void
    read();
    bool
    giveOutMessages();
    void
    write();
    void
    watchSocket();
    void
    giveOutLater();
    void
    count();
    void
    watchTime();
    void
    onTime();
    void
    end(Status why);

    Loop &loop_;
    Fd socket_;
    const std::string peer_;
    const Limits &limits_;
    Budget &budget_;
    Owner &owner_;
    const Side side_;
    const Session session_; ///< null: plain
    wire::FrameReader in_;
    std::deque<Blob> out_;
    size_t out_sent_ = 0;       ///< of the first
    std::string sealed_;        ///< what of it, or of the proof, is on its way; with a session only
    size_t sealed_sent_ = 0;    ///< of that
    size_t unproven_bytes_ = 0; ///< read before the proof
    size_t counted_ = 0;        ///< in the budget
    bool proven_ = false;
    bool held_ = false;
    bool tells_written_ = false; ///< the owner is told when all is written
    uint32_t events_ = 0;
    // Limits of time; the maximum: none.
    Time first_due_ = Time::max();
    Time frame_due_ = Time::max();
    Time write_due_ = Time::max();
    Time timer_due_ = Time::max();
    Loop::Timer timer_ = 0;
};

} // namespace nx::metadata
