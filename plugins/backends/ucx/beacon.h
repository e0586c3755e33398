// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How engines of one host learn at once that another has ended, with its process or without: each listens on a Unix
// socket with a random abstract name; who is interested connects, and reads end-of-file when the listener is gone. No
// byte is ever exchanged. UCX itself notices a dead process after about a second and a closed engine never.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace nx::ucx {

/// Owned by one caller.
class Beacon {
public:
    static Result<Beacon>
    create();

    /// What peers are told.
    const std::string &
    name() const noexcept {
        return name_;
    }

    /// Readable when somebody has connected.
    int
    get() const noexcept {
        return listener_.get();
    }

    /// Takes in those who have connected and forgets those who have left. Does not block.
    void
    accept();

private:
    Beacon(std::string name, Fd listener) : name_(std::move(name)), listener_(std::move(listener)) {}

    std::string name_;
    Fd listener_;
    std::vector<Fd> watchers_;
};

/// A descriptor that becomes readable when the beacon is gone. NOT_FOUND: it is gone already, or cannot be reached.
/// INVALID_PARAM: `name` is not the name of a beacon.
Result<Fd>
watchBeacon(std::string_view name);

} // namespace nx::ucx
