// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The folder of files as a directory. In it each agent has a folder, which begins to exist with its first publication:
//
//     <agent>.agent/.start       the start of the agent that has published here, and whether it exists (lease.h)
//     <agent>.agent/<label>.md   the number of that start, a line's end, and the blob
//
// Files are written beside and renamed, so that a reader finds all of one or all of another. Whoever changes what is in
// an agent's folder locks the folder; readers lock nothing. Owned, but for endBy().
#pragma once

#include <atomic>
#include <optional>

#include "file/files.h"
#include "file/lease.h"
#include "file/watch.h"
#include "nixlx/directory.h"

namespace nx::file_store {

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
    void *
    ability(std::string_view name, uint32_t version) noexcept override;

private:
    Directory(std::string root, std::string folder, std::string start, std::chrono::milliseconds limit)
        : root_(std::move(root)),
          folder_(std::move(folder)),
          start_(std::move(start)),
          limit_(limit) {}

    Status
    tryPublish(const std::string &label, std::string_view blob, Deadline deadline);
    Status
    tryFetch(const std::string &agent, const std::string &label, std::string &blob);
    Status
    tryWithdraw(Deadline deadline);
    /// Removes what agents have left behind that ended without a word: some of them, chosen at random.
    void
    sweep(const Fd &root) const;
    nixl_status_t
    told(Status status) const;

    const std::string root_;
    const std::string folder_; ///< the own agent's, a name
    const std::string start_;
    const std::chrono::milliseconds limit_; ///< of leases of other hosts
    std::optional<Watch> watch_;            ///< nothing: the system has no more
    std::optional<Lease> lease_;            ///< something is published
    bool has_published_ = false;            ///< once, perhaps withdrawn since
    std::atomic<Deadline> end_{Deadline::max()};
};

} // namespace nx::file_store
