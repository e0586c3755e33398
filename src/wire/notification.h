// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The notification message of network backends: nixlSerDes with the fields `name` (sender's agent) and `msg`. Pure
// functions.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace nx::wire {

struct Notification {
    std::string sender;
    std::string message;
};

/// INVALID_PARAM: the message is longer than any notification may be (limits.h).
Status
checkNotification(std::string_view message);

std::string
encodeNotification(std::string_view sender, std::string_view message);

/// MISMATCH: not a notification.
Result<Notification>
decodeNotification(std::string_view bytes);

} // namespace nx::wire
