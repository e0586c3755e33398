// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/params.h"

#include <charconv>
#include <strings.h>

namespace nx::kit {

namespace {

bool
isOneOf(const std::string &text, std::initializer_list<const char *> words) {
    for (const char *word : words) {
        if (strcasecmp(text.c_str(), word) == 0) return true;
    }
    return false;
}

bool
parseNumber(const std::string &text, uint64_t &value) {
    const bool hexadecimal = text.starts_with("0x") || text.starts_with("0X");
    const char *first = text.data() + (hexadecimal ? 2 : 0);
    const char *last = text.data() + text.size();
    const auto [end, failure] = std::from_chars(first, last, value, hexadecimal ? 16 : 10);
    return failure == std::errc{} && end == last;
}

} // namespace

bool
ParamReader::has(const std::string &name) const {
    return find(name) != nullptr;
}

std::string
ParamReader::text(const std::string &name, const std::string &otherwise) const {
    const std::string *value = find(name);
    return value ? *value : otherwise;
}

bool
ParamReader::boolean(const std::string &name, bool otherwise) {
    const std::string *value = find(name);
    if (!value) return otherwise;
    if (isOneOf(*value, {"y", "yes", "on", "1", "true", "enable"})) return true;
    if (isOneOf(*value, {"n", "no", "off", "0", "false", "disable"})) return false;
    refuse(name, *value, "a truth value (yes, no, on, off, true, false, 1, 0)");
    return otherwise;
}

uint64_t
ParamReader::number(const std::string &name, uint64_t otherwise, NumberRange range) {
    const std::string *value = find(name);
    if (!value) return otherwise;
    uint64_t number = 0;
    if (parseNumber(*value, number) && number >= range.min && number <= range.max) return number;
    std::string expected = "a whole number";
    if (range.max != UINT64_MAX) {
        expected += " from " + std::to_string(range.min) + " to " + std::to_string(range.max);
    } else if (range.min > 0) {
        expected += " of at least " + std::to_string(range.min);
    }
    refuse(name, *value, expected);
    return otherwise;
}

std::string
ParamReader::choice(const std::string &name,
                    const std::string &otherwise,
                    std::initializer_list<const char *> choices) {
    const std::string *value = find(name);
    if (!value) return otherwise;
    std::string expected = "one of";
    const char *separator = " ";
    for (const char *candidate : choices) {
        if (*value == candidate) return *value;
        expected += separator;
        expected += candidate;
        separator = ", ";
    }
    refuse(name, *value, expected);
    return otherwise;
}

std::vector<std::string>
ParamReader::list(const std::string &name) const {
    return splitList(text(name));
}

const std::string *
ParamReader::find(const std::string &name) const {
    if (!params_) return nullptr;
    const auto it = params_->find(name);
    return it == params_->end() ? nullptr : &it->second;
}

void
ParamReader::refuse(const std::string &name, const std::string &value, const std::string &expected) {
    if (!status_.ok()) return;
    status_ =
        Status(NIXL_ERR_INVALID_PARAM, "parameter " + name + " is " + quoted(value) + ", which is not " + expected);
}

std::vector<std::string>
splitList(const std::string &text) {
    constexpr const char *kBlanks = " \t";
    std::vector<std::string> parts;
    for (size_t begin = 0; begin <= text.size();) {
        const size_t comma = std::min(text.find(',', begin), text.size());
        const size_t first = text.find_first_not_of(kBlanks, begin);
        if (first < comma) {
            const size_t last = text.find_last_not_of(kBlanks, comma - 1);
            parts.push_back(text.substr(first, last - first + 1));
        }
        begin = comma + 1;
    }
    return parts;
}

} // namespace nx::kit
