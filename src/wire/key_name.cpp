// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "wire/key_name.h"

namespace nx::wire {

std::string
keyName(std::string_view name) {
    std::string text;
    for (size_t i = 0; i < name.size(); ++i) {
        const auto next = name.substr(i + 1, 2);
        if (name[i] == '/') {
            text += "%2F";
        } else if (name[i] == '%' && (next == "2F" || next == "25")) {
            text += "%25";
        } else {
            text += name[i];
        }
    }
    return text;
}

} // namespace nx::wire
