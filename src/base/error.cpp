// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <cstring>

namespace nx {

const std::string &
Status::message() const noexcept {
    static const std::string empty;
    return error_ ? error_->message : empty;
}

Status
Status::withContext(const std::string &context) && {
    if (error_) error_->message = context + ": " + error_->message;
    return std::move(*this);
}

std::string
withErrno(const std::string &what, int errnum) {
    char buffer[128];
    const char *text = strerror_r(errnum, buffer, sizeof buffer); // the GNU variant
    return what + ": " + text + " (errno " + std::to_string(errnum) + ")";
}

std::string
Quoted::operator()(std::string_view text, size_t limit) const {
    static const char digits[] = "0123456789abcdef";
    std::string out = "'";
    for (size_t i = 0; i < text.size(); ++i) {
        if (i == limit) return out + "'... (" + std::to_string(text.size()) + " bytes)";
        const auto c = static_cast<unsigned char>(text[i]);
        if (c < 0x20 || c >= 0x7f) {
            out += {'\\', 'x', digits[c >> 4], digits[c & 15]};
        } else {
            out += text[i];
        }
    }
    return out + "'";
}

} // namespace nx
