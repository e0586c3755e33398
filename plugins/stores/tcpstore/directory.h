// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// PyTorch's TCPStore as a directory, under the keys of NIXL: "nixl/agents/<label>/<agent>/NULL_AGENT". It has no leases
// and tells nothing: what was written last is there until somebody removes it. Owned, but for endBy().
#pragma once

#include <atomic>
#include <map>
#include <memory>

#include "nixlx/directory.h"
#include "tcpstore/connection.h"

namespace nx::tcpstore {

class Directory final : public nixlx::Directory {
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
    std::chrono::milliseconds
    patience() const noexcept override {
        return patience_;
    }

private:
    struct Limits {
        std::chrono::milliseconds patience;
        std::chrono::milliseconds operation;
    };

    Directory(std::string agent, Endpoint endpoint, const Limits &limits, WakeFd wake);

    Status
    tryPublish(const std::string &label, std::string_view blob, Deadline deadline);
    Result<std::string>
    tryFetch(const std::string &agent, const std::string &label, Deadline deadline);
    Status
    tryWithdraw(Deadline deadline);
    /// Calls `body` with a connection; once more with a new one if it turns out that the store was restarted.
    template<class Body>
    Status
    connected(Deadline deadline, Body body);

    const std::string agent_;
    const Endpoint endpoint_;
    const std::chrono::milliseconds patience_, operation_;
    const WakeFd wake_;
    std::atomic<Deadline> end_{Deadline::max()};
    Connection connection_;
    bool was_there_ = false;                       ///< the store has answered once
    std::map<std::string, std::string> published_; ///< by key
};

} // namespace nx::tcpstore
