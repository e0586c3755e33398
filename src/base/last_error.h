// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The calling thread's two sentences: what a backend just said about a failing call (nixlx::fail), and what the last
// failed API call said (nixlx::lastError).
#pragma once

#include <string>

#include "base/error.h"

namespace nx {

/// Forgets what a backend said; call before calling into one.
void
clearBackendSentence() noexcept;

/// Takes what the backend said since the last clear; `otherwise` if it said nothing.
std::string
takeBackendSentence(const std::string &otherwise);

/// Makes `sentence` what nixlx::lastError() returns on this thread.
void
setLastError(std::string sentence) noexcept;

} // namespace nx
