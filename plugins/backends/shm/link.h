// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One engine of this host, and what is shared with it: the region with a ring and marks for each direction, its board,
// and blocks of its memory that are mapped here. Serves both directions, whoever has connected. Self-synchronised.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <sys/types.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "shm/board.h"
#include "shm/copy.h"
#include "shm/inlet.h"
#include "shm/mapping.h"
#include "shm/marks.h"
#include "shm/outbox.h"
#include "shm/relay.h"
#include "shm/talk.h"

namespace nx::shm {

/// What a byte costs through the relay and by the kernel, learnt while they are used: which is quicker depends on where
/// the two processes run, and changes when they move. Any thread.
class Pace {
public:
    /// Now and then it is the slower one's turn, so that it may become the quicker one.
    bool
    prefersRelay() noexcept {
        const bool quicker = relay_.load(std::memory_order_relaxed) <= kernel_.load(std::memory_order_relaxed);
        return (turns_.fetch_add(1, std::memory_order_relaxed) % kTurns == kTurns - 1) != quicker;
    }

    void
    relayTook(uint64_t bytes, std::chrono::nanoseconds time) noexcept {
        learn(relay_, bytes, time);
    }

    void
    kernelTook(uint64_t bytes, std::chrono::nanoseconds time) noexcept {
        learn(kernel_, bytes, time);
    }

private:
    static constexpr uint32_t kTurns = 32;

    static void
    learn(std::atomic<uint64_t> &pace, uint64_t bytes, std::chrono::nanoseconds time) noexcept {
        const uint64_t sample = static_cast<uint64_t>(time.count()) * 1024 / bytes + 1;
        const uint64_t known = pace.load(std::memory_order_relaxed);
        pace.store(known ? (known + sample) / 2 : sample, std::memory_order_relaxed);
    }

    std::atomic<uint64_t> relay_{0}, kernel_{0}; ///< ns for 1,024 bytes, lately; 0: never used
    std::atomic<uint32_t> turns_{0};
};

/// What the two ends of a link share; of each pair the first belongs to who has connected. All bytes 0 at first.
struct Region {
    alignas(64) std::atomic<uint32_t> ending[2]; ///< not 0: this end goes, in order
    alignas(64) char rings[2][kRingBytes];       ///< out of this end
    alignas(64) char marks[2][kMarkTableBytes];  ///< of this end, in the other's memory
    RelayMemory relays[2];                       ///< of transfers that this end starts
};

class Link : public std::enable_shared_from_this<Link> {
public:
    /// What two engines have exchanged when they met.
    struct Meeting {
        Fd socket;
        Mapping region;
        bool connected_here = false; ///< this side has made the region
        std::string listener;        ///< of the peer: which engine it is
        std::string agent;           ///< its name
        std::unique_ptr<PeerBoard> board;
        uint64_t number = 0; ///< of this link, never another's
    };

    /// Finds out whether the kernel copies, see mayCopy(). `inbox` and `windows` outlive it.
    static std::shared_ptr<Link>
    create(Meeting meeting, kit::Inbox &inbox, ServedWindows &windows, const std::string &own_agent);

    const std::string &
    listener() const noexcept {
        return listener_;
    }
    const std::string &
    agent() const noexcept {
        return agent_;
    }
    uint64_t
    number() const noexcept {
        return number_;
    }
    bool
    connectedHere() const noexcept {
        return connected_here_;
    }
    const Fd &
    socket() const noexcept {
        return socket_;
    }
    /// Readable when the peer's process has ended; none: the system cannot tell.
    const Fd &
    process() const noexcept {
        return process_;
    }

    // ---- Life

    /// Nothing goes over it any more.
    bool
    ended() const noexcept {
        return ended_.load(std::memory_order_acquire);
    }
    /// The peer's agent is going, and will end the link.
    bool
    isEnding() const noexcept {
        return region().ending[connected_here_ ? 1 : 0].load(std::memory_order_relaxed) != 0;
    }
    /// This agent is.
    void
    announceEnd() noexcept {
        region().ending[connected_here_ ? 0 : 1].store(1, std::memory_order_relaxed);
    }

    /// What is said to who uses it afterwards: REMOTE_DISCONNECT.
    Status
    gone() const {
        return {NIXL_ERR_REMOTE_DISCONNECT, "peer " + quoted(agent_) + " is gone: its process or its agent has ended"};
    }

    /// Once. Whoever waits for the peer is told.
    void
    end() noexcept;

    std::atomic<bool> retry_is_due{false}; ///< of Links: its outbox is looked at again soon

    // ---- Messages

    Outbox &
    outbox() noexcept {
        return outbox_;
    }
    Inlet &
    inlet() noexcept {
        return inlet_;
    }

    // ---- Memory of the peer

    /// A range of the peer's memory while nobody can end its registration. Waits for those who copy with all others.
    class Access {
    public:
        explicit Access(Link &link) noexcept : link_(link), slot_(link.marker_.enter()) {}
        ~Access() {
            link_.marker_.leave(slot_);
        }
        Access(const Access &) = delete;
        Access &
        operator=(const Access &) = delete;

        /// The window is open, and contains the range.
        bool
        allows(kit::WindowKey key, uint64_t address, uint64_t length) const noexcept {
            return link_.board_->allows(key, address, length);
        }

    private:
        Link &link_;
        const int slot_;
    };

    /// The peer is in this process, its memory is there as it is.
    bool
    isThisProcess() const noexcept {
        return this_process_;
    }

    /// Why the kernel did not copy when the two met; success: it did.
    const Status &
    mayCopy() const noexcept {
        return may_copy_;
    }

    bool
    kernelCopies() const noexcept {
        return kernel_copies_.load(std::memory_order_relaxed);
    }

    /// Not any more. True: once.
    bool
    kernelRefuses() noexcept {
        return kernel_copies_.exchange(false, std::memory_order_relaxed);
    }

    const KernelCopy &
    kernel() const noexcept {
        return kernel_;
    }

    /// Pieces of transfers that this side starts.
    RelaySender &
    relay() noexcept {
        return relay_;
    }

    /// Of transfers in blocks of that many bytes: small ones cost the kernel more.
    Pace &
    paceOf(uint64_t block_bytes) noexcept {
        return paces_[block_bytes < kSmallBlockBytes ? 1 : 0];
    }

    /// Asks the peer to look into the relay all the time, if its callers look often anyway. Seldom does something.
    void
    invite() noexcept;

    /// The window as the peer's board shows it; none: it is closed.
    std::optional<WindowInfo>
    look(kit::WindowKey key);

    /// A block of the peer's memory, mapped; asks the peer for it if it is not yet. Not on the thread that serves the
    /// link. Null: it cannot be had now.
    std::shared_ptr<const PeerBlock>
    block(uint64_t number);

    /// The peer's answer.
    void
    blockCame(Message message) noexcept;

    // ---- The peer in memory of this side

    /// Pieces of transfers that the peer starts.
    RelayServer &
    relayOfPeer() noexcept {
        return relay_of_peer_;
    }

    /// The peer has left every place of ours at which it was when the snapshot was taken, or is gone.
    bool
    quiet(MarkWatch::Snapshot &snapshot) const noexcept {
        return ended() || marks_.quiet(snapshot);
    }

    MarkWatch::Snapshot
    marksNow() const noexcept {
        return marks_.snapshot();
    }

private:
    static constexpr uint64_t kSmallBlockBytes = 16 << 10;

    struct Block {
        std::weak_ptr<const PeerBlock> mapping;
        std::shared_ptr<const PeerBlock> came; ///< until somebody takes it
        bool asked = false;                    ///< and not answered
        bool refused = false;                  ///< and nobody has seen that
    };

    Link(Meeting meeting, kit::Inbox &inbox, ServedWindows &windows, const std::string &own_agent);

    Region &
    region() const noexcept {
        return *reinterpret_cast<Region *>(region_.data());
    }

    const Fd socket_;
    const Fd process_;
    const pid_t process_number_;
    const bool this_process_;
    const bool connected_here_;
    const std::string listener_, agent_;
    const uint64_t number_;
    const Mapping region_;
    const std::unique_ptr<PeerBoard> board_;
    const KernelCopy kernel_;
    const Status may_copy_;
    std::atomic<bool> kernel_copies_;
    Marker marker_;
    const MarkWatch marks_;
    RelaySender relay_;
    RelayServer relay_of_peer_;
    Pace paces_[2];
    std::atomic<int64_t> invite_due_{0}, invite_gap_{0}; ///< ns of the steady clock
    Outbox outbox_;
    Inlet inlet_;
    std::atomic<bool> ended_{false};
    Mutex blocks_mutex_;
    CondVar block_came_;
    std::map<uint64_t, Block> blocks_ NX_GUARDED_BY(blocks_mutex_);
};

} // namespace nx::shm
