// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/editions.h"

#include <algorithm>

namespace nx::agent {

Status
Editions::judge(const wire::Metadata &metadata) const {
    const auto refused = [&](nixl_status_t status, const std::string &why) -> Status {
        return {status, "the metadata of agent " + quoted(metadata.agent) + " is refused: " + why};
    };
    if (!metadata.trailer || !metadata.trailer->edition) {
        return refused(NIXL_ERR_MISMATCH, "it is signed and does not say which start of the agent it is of, and when");
    }
    const auto known = names_.find(metadata.agent);
    if (known == names_.end()) return {};
    const auto &[current, replaced] = known->second;
    const auto &edition = *metadata.trailer->edition;
    const auto &incarnation = metadata.trailer->incarnation;
    if (std::find(replaced.begin(), replaced.end(), incarnation) != replaced.end()) {
        return refused(NIXL_ERR_NOT_ALLOWED, "it is old: it is of a start that a later one has replaced");
    }
    if (incarnation != current.incarnation) {
        constexpr auto slack = static_cast<uint64_t>(std::chrono::milliseconds(kClocksDiffer).count());
        if (edition.started_ms >= current.started_ms || current.started_ms - edition.started_ms <= slack) return {};
        return refused(NIXL_ERR_NOT_ALLOWED,
                       "it is old: by its clock its start began " +
                           std::to_string((current.started_ms - edition.started_ms) / 1000) +
                           " s before the one that is known; if it is the later one, set its host's clock right");
    }
    if (edition.epoch >= current.epoch) return {};
    return refused(NIXL_ERR_NOT_ALLOWED,
                   "it is old: its epoch is " + std::to_string(edition.epoch) + ", and " +
                       std::to_string(current.epoch) + " was loaded; get it again from the agent");
}

void
Editions::note(const wire::Metadata &metadata) {
    const auto &edition = *metadata.trailer->edition;
    const auto [entry, is_new] = names_.try_emplace(metadata.agent);
    auto &[current, replaced] = entry->second;
    if (is_new) {
        order_.push_back(metadata.agent);
        if (order_.size() > kNamesMax) {
            names_.erase(order_.front());
            order_.pop_front();
        }
    }
    if (is_new || current.incarnation != metadata.trailer->incarnation) {
        if (!is_new) replaced.push_back(current.incarnation);
        if (replaced.size() > kStartsMax) replaced.pop_front();
        current = {metadata.trailer->incarnation, edition.started_ms, 0};
    }
    if (edition.whole) current.epoch = std::max(current.epoch, edition.epoch);
}

} // namespace nx::agent
