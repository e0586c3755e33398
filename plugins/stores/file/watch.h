// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Which agents are looked at, and which of them have ended: inotify on their folders. An event says only where to look;
// what is there decides, but for the end of a process, which is told a moment before its lock is gone. Owned.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>

#include "base/error.h"
#include "base/fd.h"
#include "nixlx/directory.h"

namespace nx::file_store {

class Watch final : public nixlx::DirectoryWatch {
public:
    /// NO_MEMORY: the system has no more of them.
    static Result<Watch>
    create(const std::string &root);

    /// Before anything of the agent's folder `name` is read: what changes afterwards is not missed.
    void
    look(const std::string &agent, const std::string &name);
    /// What was read is of this start.
    void
    found(const std::string &agent, const std::string &start);
    /// Nothing was read; unless something was before, the agent is not looked at any more.
    void
    foundNothing(const std::string &agent);

    int
    descriptor() const noexcept override;
    nixl_status_t
    takeEnded(std::vector<nixlx::DirectoryEnd> &ended) override;
    void
    forget(const std::string &agent) noexcept override;

private:
    struct Followed {
        std::string name;  ///< of its folder
        std::string start; ///< empty: nothing was read yet
        int number = -1;   ///< inotify's
    };

    /// What the events so far say of an agent.
    struct Hint {
        bool gone = false;   ///< inotify does not look at the folder any more
        bool closed = false; ///< the lease was closed
    };

    Watch(Fd inotify, std::string root) : inotify_(std::move(inotify)), root_(std::move(root)) {}

    std::unordered_map<std::string, Hint>
    readEvents();
    void
    watch(const std::string &agent, Followed &followed);
    /// What has become of the agent; nothing if it is what it was, or cannot be seen.
    std::optional<nixlx::DirectoryEnd>
    examine(const std::string &agent, Followed &followed, const Hint &hint);

    Fd inotify_;
    std::string root_;
    std::unordered_map<std::string, Followed> followed_;
    std::unordered_map<int, std::string> agents_; ///< by inotify's number
    bool told_full_ = false;
};

} // namespace nx::file_store
