// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Typed reading of a backend's parameters. Unknown keys are left alone, as NIXL does; a value that cannot be read is
// kept as a sentence, the first one wins, and the default is returned so that reading goes straight through:
//
//     ParamReader in(init_params->customParams);
//     const uint64_t workers = in.number("num_workers", 1, {.min = 1, .max = 64});
//     if (!in.status().ok()) ...
//
// Owned by one caller. The map must outlive the reader.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/error.h"
#include "nixl_types.h"

namespace nx::kit {

struct NumberRange {
    uint64_t min = 0;
    uint64_t max = UINT64_MAX;
};

class ParamReader {
public:
    /// Null means no parameters.
    explicit ParamReader(const nixl_b_params_t *params) noexcept : params_(params) {}

    bool
    has(const std::string &name) const;

    /// The text as it is.
    std::string
    text(const std::string &name, const std::string &otherwise = {}) const;

    /// y, yes, on, 1, true, enable and their opposites in any case.
    bool
    boolean(const std::string &name, bool otherwise);

    /// Decimal or 0x.
    uint64_t
    number(const std::string &name, uint64_t otherwise, NumberRange range = {});

    /// One of `choices`, spelt exactly so.
    std::string
    choice(const std::string &name, const std::string &otherwise, std::initializer_list<const char *> choices);

    /// The parts between commas, blanks around them removed, empty ones left out.
    std::vector<std::string>
    list(const std::string &name) const;

    /// The first failure, INVALID_PARAM, naming parameter and value.
    const Status &
    status() const noexcept {
        return status_;
    }

private:
    const std::string *
    find(const std::string &name) const;

    void
    refuse(const std::string &name, const std::string &value, const std::string &expected);

    const nixl_b_params_t *params_;
    Status status_;
};

/// The parts of `text` between commas, blanks around them removed, empty ones left out.
std::vector<std::string>
splitList(const std::string &text);

} // namespace nx::kit
