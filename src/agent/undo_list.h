// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What takes back the steps that have been done, the last first, unless all of them are kept. Owned by one caller.
#pragma once

#include <functional>
#include <utility>
#include <vector>

namespace nx::agent {

class UndoList {
public:
    UndoList() = default;
    UndoList(const UndoList &) = delete;
    UndoList &
    operator=(const UndoList &) = delete;

    ~UndoList() {
        for (; !undos_.empty(); undos_.pop_back()) undos_.back()();
    }

    /// Of a step that has just been done; must not throw. If there is no memory to remember it, it runs at once.
    template<class Undo>
    void
    push(Undo undo) {
        try {
            undos_.emplace_back(undo);
        }
        catch (...) {
            undo();
            throw;
        }
    }

    bool
    empty() const noexcept {
        return undos_.empty();
    }

    void
    keep() noexcept {
        undos_.clear();
    }

private:
    std::vector<std::function<void()>> undos_;
};

} // namespace nx::agent
