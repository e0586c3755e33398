// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/bell.h"

#include <stdexcept>

namespace nx::kit {

namespace {

WakeFd
createWake() {
    auto wake = WakeFd::create();
    if (!wake.ok()) throw std::runtime_error(wake.message());
    return *std::move(wake);
}

} // namespace

Bell::Bell() : wake_(createWake()) {}

bool
Bell::arm() noexcept {
    if (state_.exchange(State::kQuiet) == State::kRung) return false;
    // Whoever rang last may wake only after this: then the sleeper looks once in vain, and comes here again.
    wake_.drain();
    State quiet = State::kQuiet;
    return state_.compare_exchange_strong(quiet, State::kArmed);
}

} // namespace nx::kit
