// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "etcd/keys.h"

namespace nx::etcd {

namespace {

std::string
written(std::string_view agent) {
    std::string text;
    for (size_t i = 0; i < agent.size(); ++i) {
        const auto next = agent.substr(i + 1, 2);
        if (agent[i] == '/') {
            text += "%2F";
        } else if (agent[i] == '%' && (next == "2F" || next == "25")) {
            text += "%25";
        } else {
            text += agent[i];
        }
    }
    return text;
}

} // namespace

std::string
Keys::anchor(std::string_view agent) const {
    return entry(agent, {});
}

std::string
Keys::entry(std::string_view agent, std::string_view label) const {
    return all() + written(agent) + "/" + std::string(label);
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
