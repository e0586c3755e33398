// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A named thread that is joined by its owner. All signals are blocked in it, so that a program's handlers run on the
// program's own threads. docs/threads.md lists every use.
#pragma once

#include <functional>
#include <string>
#include <thread>

namespace nx {

class Thread {
public:
    Thread() noexcept = default;
    /// Starts `body`. `name` is cut to 15 bytes, what the kernel keeps. Throws std::system_error if the system refuses.
    Thread(const std::string &name, std::function<void()> body);
    Thread(Thread &&) noexcept = default;
    Thread &
    operator=(Thread &&other) noexcept;
    ~Thread();

    bool
    joinable() const noexcept {
        return thread_.joinable();
    }

    void
    join();

    /// True on this thread.
    bool
    isCurrent() const noexcept {
        return thread_.get_id() == std::this_thread::get_id();
    }

private:
    std::thread thread_;
};

} // namespace nx
