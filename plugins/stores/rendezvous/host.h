// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Where an agent listens: it answers whoever greets, and while it is the host, has members. What strangers cost is
// bounded. Confined to its loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "loop/loop.h"
#include "rendezvous/line.h"
#include "rendezvous/table.h"

namespace nx::rendezvous {

class Host {
public:
    struct Limits {
        size_t guests = 256; ///< connections that are no member's; one more, and the oldest goes
        size_t members = 4096;
        size_t buffered_bytes = size_t{256} << 20; ///< of messages that are not whole; beyond it the largest goes
        std::chrono::milliseconds first{5000};     ///< until a guest is a member, or is hung up on
        Table::Limits table;
    };

    struct Owner {
        std::function<Message()> greeting;            ///< what to say
        std::function<void(const Message &)> greeted; ///< somebody has; may open() or resign()
    };

    static Result<std::unique_ptr<Host>>
    create(Loop &loop, int socket, Table::Duration lease, const Limits &limits, Owner owner);
    ~Host();
    Host(const Host &) = delete;
    Host &
    operator=(const Host &) = delete;

    /// It is the host from now on, with nothing in its table.
    void
    open();
    /// It is not any more: its members are hung up on.
    void
    resign();

    bool
    isHost() const noexcept {
        return table_.has_value();
    }

private:
    struct Guest {
        std::shared_ptr<Line> line;
        Loop::Clock::time_point since;
        std::optional<Message> greeting;
        bool member = false;
    };

    Host(Loop &loop, int socket, Table::Duration lease, const Limits &limits, Owner owner);

    void
    accept();
    void
    onMessage(Table::Id id, const Message &message);
    void
    onArrived();
    void
    join(Table::Id id);
    void
    hangUp(Table::Id id);
    void
    tick();

    Loop &loop_;
    const int socket_;
    const Table::Duration lease_;
    const Limits limits_;
    const Owner owner_;
    std::optional<Table> table_; ///< of the host
    std::map<Table::Id, Guest> guests_;
    Table::Id last_id_ = 0;
    Loop::Timer timer_ = 0, pause_ = 0;
};

} // namespace nx::rendezvous
