// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Which backend serves a request. Pure decisions over facts that the agent gathered.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nixlx/report.h"

namespace nx::route {

struct Option {
    std::string backend;
    bool usable = false;
    std::string obstacle;               ///< why it is not usable
    std::optional<double> predicted_us; ///< what the backend expects; nothing if it has no model
    bool staged = false;                ///< two backends, through host memory; only where no single one is usable
};

struct Choice {
    std::optional<size_t> chosen; ///< index into the options; nothing if none is usable
    std::vector<nixlx::Candidate> candidates;
};

/// `options` stand in the caller's order of preference if `hinted`, else in the order the backends were created. The
/// first usable hint wins; without hints the cheapest prediction does, and where nothing is predicted the earliest
/// created. Equal facts give equal choices.
Choice
choose(std::span<const Option> options, bool hinted);

} // namespace nx::route
