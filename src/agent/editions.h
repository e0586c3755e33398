// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Which signed metadata of peers was loaded last, so that what is older is not taken for new when a store or whoever
// carries it hands it out again. Kept when a peer is forgotten. Owned by one
// caller at a time.
#pragma once

#include <chrono>
#include <deque>
#include <string>
#include <unordered_map>

#include "base/error.h"
#include "wire/metadata.h"

namespace nx::agent {

class Editions {
public:
    /// Two starts of a name are in the order of their clocks if these are further apart. The clocks of a fleet agree
    /// better than that, and no agent returns from an earlier start that soon.
    static constexpr std::chrono::minutes kClocksDiffer{5};
    static constexpr size_t kNamesMax = 65'536; ///< beyond it the name that was noted first is forgotten
    static constexpr size_t kStartsMax = 64;    ///< of a name, that others have replaced

    /// NOT_ALLOWED: it is older than what was noted of its agent. MISMATCH: it does not say how old it is.
    Status
    judge(const wire::Metadata &metadata) const;

    /// It was judged well, and is loaded.
    void
    note(const wire::Metadata &metadata);

private:
    struct Start {
        wire::Incarnation incarnation{};
        uint64_t started_ms = 0;
        uint64_t epoch = 0; ///< the highest of all that was whole
    };
    struct Name {
        Start current;
        std::deque<wire::Incarnation> replaced;
    };

    std::unordered_map<std::string, Name> names_;
    std::deque<std::string> order_; ///< as they were noted first
};

} // namespace nx::agent
