// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// etcd as a directory. All that a start publishes hangs on one lease: it goes at once when the lease is given back, or
// by itself when nobody renews it (keeper.h). The anchor of an agent (keys.h) says whose the name is; what lies under
// another lease than the anchor is of another start, and is not found. Owned, but for endBy().
#pragma once

#include <atomic>
#include <map>
#include <set>
#include <unordered_map>

#include "etcd/answers.h"
#include "etcd/client.h"
#include "etcd/keeper.h"
#include "etcd/keys.h"
#include "nixlx/directory.h"

namespace nx::etcd {

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
    /// An agent of whom something was fetched.
    struct Followed {
        std::string start; ///< empty: of an agent of NIXL 1.4
        std::string anchor;
        std::string start_key;
    };

    Directory(const nixlx::DirectoryParams &params, Settings settings, WakeFd news);

    Status
    tryPublish(const std::string &label, std::string_view blob, Deadline deadline);
    Status
    tryFetch(const std::string &agent, const std::string &label, std::string &blob, Deadline deadline);
    Status
    tryWithdraw(Deadline deadline);
    Status
    lease(Deadline deadline);
    Result<TxnAnswer>
    txn(const std::string &compare, const std::string &success, const std::string &failure, Deadline deadline);
    Status
    revoke(int64_t lease, Deadline deadline);
    /// Publishes again what has gone with the lease, as it does when etcd was away for longer than that.
    void
    restore(Deadline deadline);
    void
    lookAt(std::vector<std::string> agents, std::vector<nixlx::DirectoryEnd> &ended, Deadline deadline);
    void
    follow(const std::string &agent, const std::string &start);
    nixl_status_t
    told(const Status &status) const;

    const std::string agent_;
    const std::string start_; ///< in digits
    const std::chrono::seconds ttl_;
    const Settings settings_;
    const Keys keys_;
    std::atomic<Deadline> end_{Deadline::max()};
    Client client_;
    Keeper keeper_;
    int64_t lease_ = 0;
    bool has_published_ = false;                                 ///< once, perhaps withdrawn since
    bool unpublished_ = false;                                   ///< some of published_ is not there
    std::map<std::string, std::string> published_;               ///< by label
    std::unordered_map<std::string, Followed> followed_;         ///< by agent
    std::unordered_map<std::string, std::string> agents_by_key_; ///< of anchors and starts
    std::set<std::string> missing_;                              ///< agents that may have gone, or etcd was away
};

} // namespace nx::etcd
