// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "etcd/keys.h"

#include "wire/key_name.h"

namespace nx::etcd {

std::string
Keys::anchor(std::string_view agent) const {
    return entry(agent, {});
}

std::string
Keys::entry(std::string_view agent, std::string_view label) const {
    return all() + wire::keyName(agent) + "/" + std::string(label);
}

std::string
Keys::start(std::string_view digits) const {
    return all() + "/" + std::string(digits); // no agent has an empty name
}

std::string
Keys::all() const {
    return space_ + "/";
}

std::string
endOf(std::string prefix) {
    while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
    if (prefix.empty()) return std::string(1, '\0'); // all there are
    prefix.back() = static_cast<char>(prefix.back() + 1);
    return prefix;
}

} // namespace nx::etcd
