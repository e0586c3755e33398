// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What etcd's JSON gateway says, of 3.4 to 3.6, and what is said to it. The bytes may be a stranger's: whatever they
// are, the outcome is a value or MISMATCH, in memory in proportion to them. Pure functions, fuzzed (tests/fuzz).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace nx::etcd {

std::string
toBase64(std::string_view bytes);
/// Nothing: it is none.
std::optional<std::string>
fromBase64(std::string_view text);

struct Pair {
    std::string key;
    std::string value;
    int64_t lease = 0;   ///< 0: none
    int64_t changed = 0; ///< the revision in which it was written last
};

struct TxnAnswer {
    bool succeeded = false;
    std::vector<std::vector<Pair>> found; ///< of each range in the branch that was taken; empty for other operations
};

Result<TxnAnswer>
txnIn(std::string_view body);

struct Lease {
    int64_t id = 0;
    int64_t seconds = 0; ///< 0: it is over
};

/// Of a grant, or of a keepalive.
Result<Lease>
leaseIn(std::string_view body);

Result<std::string>
tokenIn(std::string_view body);

/// One line of a watch.
struct Notice {
    bool created = false;
    std::string failure; ///< the watch is over; empty: it is not
    std::vector<std::string> deleted;
};

Result<Notice>
noticeIn(std::string_view line);

/// Why a request failed.
struct Refusal {
    int64_t code = 0; ///< of gRPC; 0: it does not say
    std::string text;
};

/// Nothing: the body is no answer of etcd's.
std::optional<Refusal>
refusalIn(std::string_view body);

} // namespace nx::etcd
