// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/link.h"

#include <algorithm>
#include <unistd.h>

namespace nx::shm {

namespace {

// For tests: agents of one process are to each other like those of two, and the kernel copies or does not.
#if defined(NX_SHM_TEST_KERNEL) || defined(NX_SHM_TEST_RELAY)
constexpr bool kKnowsThisProcess = false;
#else
constexpr bool kKnowsThisProcess = true;
#endif

Status
probe(const KernelCopy &kernel) {
#if defined(NX_SHM_TEST_RELAY)
    return {NIXL_ERR_NOT_SUPPORTED, "this is a test"};
#else
    return kernel.probe();
#endif
}

constexpr auto kBlockLimit = std::chrono::seconds(1);
constexpr int64_t kInviteGap = 10'000'000, kInviteGapMax = 1'000'000'000; // ns

} // namespace

std::shared_ptr<Link>
Link::create(Meeting meeting, kit::Inbox &inbox, ServedWindows &windows, const std::string &own_agent) {
    return std::shared_ptr<Link>(new Link(std::move(meeting), inbox, windows, own_agent));
}

Link::Link(Meeting meeting, kit::Inbox &inbox, ServedWindows &windows, const std::string &own_agent)
    : socket_(std::move(meeting.socket)),
      process_(kit::processOf(socket_.get())),
      process_number_(kit::processNumber(socket_.get())),
      this_process_(kKnowsThisProcess && process_number_ == ::getpid()),
      connected_here_(meeting.connected_here),
      listener_(std::move(meeting.listener)),
      agent_(std::move(meeting.agent)),
      number_(meeting.number),
      region_(std::move(meeting.region)),
      board_(std::move(meeting.board)),
      kernel_(process_number_, board_->info()),
      may_copy_(probe(kernel_)),
      kernel_copies_(may_copy_.ok()),
      marker_(region().marks[connected_here_ ? 0 : 1]),
      marks_(region().marks[connected_here_ ? 1 : 0]),
      relay_(&region().relays[connected_here_ ? 0 : 1]),
      relay_of_peer_(&region().relays[connected_here_ ? 1 : 0], windows),
      outbox_(Port(region().rings[connected_here_ ? 0 : 1], socket_), own_agent, agent_),
      inlet_(region().rings[connected_here_ ? 1 : 0], inbox, agent_, number_) {}

void
Link::end() noexcept {
    if (ended_.exchange(true)) return;
    outbox_.end();
    const MutexLock lock(blocks_mutex_);
    block_came_.notifyAll();
}

void
Link::invite() noexcept {
    const int64_t now = std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
    int64_t due = invite_due_.load(std::memory_order_relaxed);
    // The longer in vain, the seldomer.
    const int64_t gap = invite_gap_.load(std::memory_order_relaxed);
    const int64_t next = now - due > kInviteGapMax ? kInviteGap : std::min(2 * gap, kInviteGapMax);
    if (now < due || !invite_due_.compare_exchange_strong(due, now + next, std::memory_order_relaxed)) return;
    invite_gap_.store(next, std::memory_order_relaxed);
    ringBell(socket_);
}

std::optional<WindowInfo>
Link::look(kit::WindowKey key) {
    return board_->look(key);
}

std::shared_ptr<const PeerBlock>
Link::block(uint64_t number) {
    const auto deadline = std::chrono::steady_clock::now() + kBlockLimit;
    const MutexLock lock(blocks_mutex_);
    for (;;) {
        Block &block = blocks_[number];
        if (block.came) {
            block.mapping = block.came;
            return std::exchange(block.came, {});
        }
        if (auto mapping = block.mapping.lock()) return mapping;
        if (ended() || std::exchange(block.refused, false)) return {};
        if (!block.asked && !send(socket_, {.type = Message::Type::kWantBlock, .number = number})) return {};
        block.asked = true;
        if (!block_came_.waitUntil(blocks_mutex_, deadline)) return {};
    }
}

void
Link::blockCame(Message message) noexcept {
    std::shared_ptr<const PeerBlock> came;
    try {
        if (message.type == Message::Type::kBlock && checkShared(message.descriptors[0], message.bytes).ok()) {
            auto mapping = Mapping::map(message.descriptors[0], message.bytes, Mapping::Access::kReadWrite);
            if (mapping.ok()) came = std::make_shared<const PeerBlock>(*std::move(mapping));
        }
    }
    catch (const std::bad_alloc &) {
    }
    const MutexLock lock(blocks_mutex_);
    const auto found = blocks_.find(message.number);
    if (found == blocks_.end() || !found->second.asked) return; // nobody asked
    found->second.asked = false;
    found->second.refused = !came;
    found->second.came = std::move(came);
    block_came_.notifyAll();
}

} // namespace nx::shm
