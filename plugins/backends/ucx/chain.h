// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A queue of objects that belong to somebody else, linked through their member `next`: adding to it cannot fail, so it
// may be done where UCX calls us. An object is in one chain at a time. Guarded by its owner.
#pragma once

#include <cstddef>
#include <utility>

namespace nx::ucx {

template<class T> class Chain {
public:
    bool
    empty() const noexcept {
        return !first_;
    }

    size_t
    size() const noexcept {
        return size_;
    }

    /// Requires that there is one.
    T &
    front() const noexcept {
        return *first_;
    }

    void
    push(T &object) noexcept {
        object.next = nullptr;
        *(first_ ? &last_->next : &first_) = &object;
        last_ = &object;
        ++size_;
    }

    /// Requires that there is one.
    T &
    pop() noexcept {
        --size_;
        return *std::exchange(first_, first_->next);
    }

    /// False: it is not among them.
    bool
    remove(T &object) noexcept {
        bool found = false;
        for (size_t left = size_; left > 0; --left) { // once round
            T &each = pop();
            if (&each == &object) {
                found = true;
            } else {
                push(each);
            }
        }
        return found;
    }

private:
    T *first_ = nullptr;
    T *last_ = nullptr; ///< valid unless empty
    size_t size_ = 0;
};

} // namespace nx::ucx
