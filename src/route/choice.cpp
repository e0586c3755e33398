// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "route/choice.h"

namespace nx::route {

Choice
choose(std::span<const Option> options, bool hinted) {
    Choice choice;
    size_t usable = 0;
    for (size_t i = 0; i < options.size(); ++i) {
        const auto &option = options[i];
        if (!option.usable) continue;
        ++usable;
        if (!choice.chosen) {
            choice.chosen = i;
        } else if (!hinted && option.predicted_us) {
            const auto &best = options[*choice.chosen].predicted_us;
            if (!best || *option.predicted_us < *best) choice.chosen = i;
        }
    }

    for (size_t i = 0; i < options.size(); ++i) {
        const auto &option = options[i];
        nixlx::Candidate candidate;
        candidate.backend = option.backend;
        candidate.chosen = choice.chosen == i;
        candidate.predicted_us = option.predicted_us.value_or(-1);
        if (!option.usable) {
            candidate.reason = option.obstacle;
        } else if (option.staged) {
            candidate.reason = "no single backend joins the two memories; these two do, through host memory";
        } else if (usable == 1) {
            candidate.reason = "the only backend that reaches both sides";
        } else if (candidate.chosen) {
            candidate.reason = hinted ? "first usable in the caller's order of preference"
                : option.predicted_us ? "cheapest prediction of " + std::to_string(usable) + " usable backends"
                                      : "created first of " + std::to_string(usable) + " usable backends";
        } else {
            const bool dearer = !hinted && option.predicted_us;
            candidate.reason = hinted ? "usable, later in the caller's order of preference"
                : dearer              ? "usable, not cheaper by prediction"
                                      : "usable, predicts nothing and was created later or beside one that predicts";
        }
        choice.candidates.push_back(std::move(candidate));
    }
    return choice;
}

} // namespace nx::route
