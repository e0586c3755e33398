// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A rendezvous as a directory: calls wait here for what a Member does on a thread of its own, which the first call
// starts. Owned, but for endBy().
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "loop/loop.h"
#include "nixlx/directory.h"
#include "rendezvous/member.h"

namespace nx::rendezvous {

class Directory final : public nixlx::Directory, public nixlx::DirectoryWatch {
public:
    static Result<std::unique_ptr<Directory>>
    open(const nixlx::DirectoryParams &params);
    ~Directory() override;

    nixl_status_t
    publish(const std::string &label, std::string_view blob, Deadline deadline) override;
    nixl_status_t
    fetch(const std::string &agent, const std::string &label, std::string &blob, Deadline deadline) override;
    nixl_status_t
    withdraw(Deadline deadline) override;
    void
    endBy(Deadline deadline) noexcept override;
    void *
    ability(std::string_view name, uint32_t version) noexcept override;

    int
    descriptor() const noexcept override;
    nixl_status_t
    takeEnded(std::vector<nixlx::DirectoryEnd> &ended) override;
    void
    forget(const std::string &agent) noexcept override;

private:
    Directory(const nixlx::DirectoryParams &params, std::vector<Endpoint> given, Place place, WakeFd news);

    Status
    start();
    Member::Outcome
    ask(Message request, Deadline deadline);
    nixl_status_t
    told(const Status &status) const;
    // On the loop's thread:
    void
    onOutcome(uint64_t id, Member::Outcome outcome);
    void
    onEnd(nixlx::DirectoryEnd end);
    void
    onFound(const std::string &agent);

    const nixlx::DirectoryParams params_;
    const std::vector<Endpoint> given_;
    const Place place_;
    const WakeFd news_;
    uint64_t calls_ = 0;
    bool published_ = false;
    std::unique_ptr<Loop> loop_;     ///< from the first call on
    std::unique_ptr<Member> member_; ///< confined to the loop

    Mutex mutex_;
    CondVar changed_;
    Deadline end_ NX_GUARDED_BY(mutex_) = Deadline::max();
    uint64_t call_ NX_GUARDED_BY(mutex_) = 0; ///< whose outcome is awaited
    std::optional<Member::Outcome> outcome_ NX_GUARDED_BY(mutex_);
    std::set<std::string> followed_ NX_GUARDED_BY(mutex_); ///< agents whose end is to be told
    std::vector<nixlx::DirectoryEnd> ended_ NX_GUARDED_BY(mutex_);
    Thread thread_; ///< last: it uses the others
};

} // namespace nx::rendezvous
