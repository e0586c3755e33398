// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An immutable value that many read while somebody replaces it.
#pragma once

#include <memory>
#include <utility>

#include "base/mutex.h"

namespace nx {

/// A value of a snapshot as it was when it was asked for, kept for as long as this object exists. It has to be given a
/// name before it is looked into: the end of a temporary is the end of the value, which `for (auto &x : *get())` would
/// not survive.
template<class T> class Held {
public:
    explicit Held(std::shared_ptr<const T> value) noexcept : value_(std::move(value)) {}

    const T &
    operator*() const & noexcept {
        return *value_;
    }
    const T &
    operator*() const && = delete;

    const T *
    operator->() const & noexcept {
        return value_.get();
    }
    const T *
    operator->() const && = delete;

    /// One member of the value; the whole is kept with it.
    template<class Member>
    Held<Member>
    part(Member T::*member) const {
        return Held<Member>(std::shared_ptr<const Member>(value_, &(value_.get()->*member)));
    }

    /// To find out later whether a value is this one; does not keep it.
    std::weak_ptr<const T>
    identity() const noexcept {
        return value_;
    }

    bool
    is(const std::weak_ptr<const T> &identity) const noexcept {
        return identity.lock() == value_;
    }

private:
    std::shared_ptr<const T> value_;
};

/// A shared immutable value that can be replaced. Self-synchronised.
template<class T> class Snapshot {
public:
    Snapshot() : value_(std::make_shared<const T>()) {}

    Held<T>
    get() const {
        const MutexLock lock(mutex_);
        return Held<T>(value_);
    }

    /// To be changed and set.
    T
    copy() const {
        const auto now = get();
        return *now;
    }

    void
    set(T value) {
        set(std::make_shared<const T>(std::move(value)));
    }

    void
    set(std::shared_ptr<const T> next) noexcept {
        const MutexLock lock(mutex_);
        value_.swap(next);
    }

private:
    mutable Mutex mutex_;
    std::shared_ptr<const T> value_ NX_GUARDED_BY(mutex_);
};

} // namespace nx
