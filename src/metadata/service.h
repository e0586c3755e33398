// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What an exchange asks of its agent. Called on the exchange's thread, one call at a time; the exchange moves blobs and
// does not look into them. The functions must not throw.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "metadata/endpoint.h"
#include "wire/metadata.h"

namespace nx::metadata {

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
    std::function<Loaded(std::string_view blob)> load;
    std::function<Result<Blob>()> publish; ///< the own metadata; the same blob until something changed
    std::function<Status(const std::string &agent)> invalidate;
    /// The metadata of `agent` that was loaded last was fetched there. May be empty.
    std::function<void(const std::string &agent, const Endpoint &from)> fetched;
};

} // namespace nx::metadata
