// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/last_error.h"

#include <utility>

#include "nixlx/engine.h"
#include "nixlx/report.h"

namespace nx {

namespace {
thread_local std::string backend_sentence;
thread_local std::string last_error;
} // namespace

void
clearBackendSentence() noexcept {
    backend_sentence.clear();
}

std::string
takeBackendSentence(const std::string &otherwise) {
    return backend_sentence.empty() ? otherwise : std::exchange(backend_sentence, {});
}

void
setLastError(std::string sentence) noexcept {
    last_error = std::move(sentence);
}

} // namespace nx

namespace nixlx {

nixl_status_t
fail(nixl_status_t status, std::string sentence) noexcept {
    nx::backend_sentence = std::move(sentence);
    return status;
}

const std::string &
lastError() noexcept {
    return nx::last_error;
}

} // namespace nixlx
