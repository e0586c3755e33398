// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/link.h"

namespace nx::shm {

namespace {

constexpr auto kBlockLimit = std::chrono::seconds(1);

} // namespace

std::shared_ptr<Link>
Link::create(Meeting meeting, kit::Inbox &inbox, const std::string &own_agent) {
    return std::shared_ptr<Link>(new Link(std::move(meeting), inbox, own_agent));
}

Link::Link(Meeting meeting, kit::Inbox &inbox, const std::string &own_agent)
    : socket_(std::move(meeting.socket)),
      process_(kit::processOf(socket_.get())),
      process_number_(kit::processNumber(socket_.get())),
      connected_here_(meeting.connected_here),
      listener_(std::move(meeting.listener)),
      agent_(std::move(meeting.agent)),
      number_(meeting.number),
      region_(std::move(meeting.region)),
      board_(std::move(meeting.board)),
      kernel_(process_number_, board_->info()),
      may_copy_(kernel_.probe()),
      marker_(region().marks[connected_here_ ? 0 : 1]),
      marks_(region().marks[connected_here_ ? 1 : 0]),
      outbox_(Port(region().rings[connected_here_ ? 0 : 1], socket_), own_agent, agent_),
      inlet_(region().rings[connected_here_ ? 1 : 0], inbox, agent_, number_) {}

void
Link::end() noexcept {
    if (ended_.exchange(true)) return;
    outbox_.end();
    const MutexLock lock(blocks_mutex_);
    block_came_.notifyAll();
}

std::optional<WindowInfo>
Link::look(kit::WindowKey key) {
    return board_->look(key);
}

std::shared_ptr<const Mapping>
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
    std::shared_ptr<const Mapping> came;
    try {
        if (message.type == Message::Type::kBlock && checkShared(message.descriptors[0], message.bytes).ok()) {
            auto mapping = Mapping::map(message.descriptors[0], message.bytes, Mapping::Access::kReadWrite);
            if (mapping.ok()) came = std::make_shared<const Mapping>(*std::move(mapping));
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
