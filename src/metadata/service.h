// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What an exchange asks of its agent. Called on the exchange's thread, one call at a time; the exchange moves blobs and
// does not look into them. The functions must not throw.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "loop/endpoint.h"
#include "nixlx/security.h"
#include "wire/metadata.h"

namespace nx::metadata {

/// One end of a protected connection.
using Session = std::unique_ptr<nixlx::SecureSession>;

/// Metadata as it is sent. Whoever sends the same shares it.
using Blob = std::shared_ptr<const std::string>;

struct Loaded {
    Status status;
    std::string agent;               ///< whose metadata it was, if it was loaded
    bool wants_answer = false;       ///< the sender understands answers
    bool too_early = false;          ///< not loaded, but could be once another backend is created here
    wire::Incarnation incarnation{}; ///< of the start whose metadata it was; zeros: it does not say
};

struct Service {
    std::string agent; ///< the own name
    wire::Incarnation incarnation{};
    /// A session for a connection that was taken in, or made. Empty: agents speak plainly, and anybody may.
    std::function<Result<Session>(bool accepts)> secure;
    std::function<Loaded(std::string_view blob)> load;
    std::function<Result<Blob>()> publish; ///< the own metadata; the same blob until something changed
    /// Somebody says that `start` of `agent` is to be forgotten; he is no peer of ours if he does not say which.
    std::function<Status(const std::string &agent, const std::optional<wire::Incarnation> &start)> invalidate;
    /// A session for `service` if it wants one, else none.
    Result<Session>
    session(bool accepts) const {
        if (!secure) return Session();
        return secure(accepts);
    }
    /// The metadata of `agent` that was loaded last was fetched there. May be empty.
    std::function<void(const std::string &agent, const Endpoint &from)> fetched;
};

} // namespace nx::metadata
