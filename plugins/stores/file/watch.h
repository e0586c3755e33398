// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Which agents are looked at, and which of them have ended: inotify on their folders. An event says only where to look;
// what is there decides, but for the end of a process, which is told a moment before its lock is gone. Agents of other
// hosts are looked at again and again. Owned.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/error.h"
#include "base/fd.h"
#include "file/lease.h"
#include "nixlx/directory.h"

namespace nx::file_store {

class Watch final : public nixlx::DirectoryWatch {
public:
    /// `beat`: called each third of `lease` once keepTime() has been. NO_MEMORY: the system has no more of what it
    /// needs for that; without inotify, which is logged, only agents of other hosts are seen to end.
    static Result<Watch>
    create(const std::string &root, std::chrono::milliseconds lease, std::function<void()> beat);

    void
    keepTime();

    /// Before anything of the agent's folder `name` is read: what changes afterwards is not missed.
    void
    look(const std::string &agent, const std::string &name);
    /// What was read is of this start.
    void
    found(const std::string &agent, const LeaseState &lease);
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
        bool remote = false;
        int number = -1; ///< inotify's
    };

    /// What the events so far say of an agent.
    struct Hint {
        bool gone = false;   ///< inotify does not look at the folder any more
        bool closed = false; ///< the lease was closed
    };

    Watch(std::string root, std::chrono::milliseconds lease, std::function<void()> beat)
        : root_(std::move(root)),
          lease_(lease),
          beat_(std::move(beat)) {}

    std::unordered_map<std::string, Hint>
    readEvents();
    void
    watch(const std::string &agent, Followed &followed);
    /// What has become of the agent; nothing if it is what it was, or cannot be seen.
    std::optional<nixlx::DirectoryEnd>
    examine(const std::string &agent, Followed &followed, const Hint &hint);

    Fd epoll_, timer_, inotify_; ///< the first is readable when one of the others is
    std::string root_;
    std::chrono::milliseconds lease_;
    std::function<void()> beat_;
    bool keeps_time_ = false;
    std::unordered_map<std::string, Followed> followed_;
    std::unordered_map<int, std::string> agents_; ///< by inotify's number
    bool told_full_ = false;
};

} // namespace nx::file_store
