// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The keys in etcd, NIXL 1.4's and one of ours, of an agent "a" in the namespace "/nixl/agents/":
//
//     /nixl/agents//a/metadata   what it has published under the label "metadata"
//     /nixl/agents//a/           the anchor, whose removal tells 1.4's agents that it has gone; its value is the start
//                                that has the name (1.4's agents leave it empty)
//     /nixl/agents///<start>     of that start: it goes when another one takes the name, too
//
// Immutable.
#pragma once

#include <string>
#include <string_view>

namespace nx::etcd {

class Keys {
public:
    explicit Keys(std::string space) : space_(std::move(space)) {}

    /// An agent's name is written as wire::keyName does, a label as it is.
    std::string
    anchor(std::string_view agent) const;
    std::string
    entry(std::string_view agent, std::string_view label) const;
    std::string
    start(std::string_view digits) const;
    /// What all keys begin with.
    std::string
    all() const;

private:
    const std::string space_;
};

/// The first key behind all that begin with `prefix`, as etcd wants it.
std::string
endOf(std::string prefix);

} // namespace nx::etcd
