// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "wire/notification.h"

#include "wire/limits.h"
#include "wire/writer.h"

namespace nx::wire {

namespace {

constexpr std::string_view kSenderTag = "name";
constexpr std::string_view kMessageTag = "msg";

} // namespace

Status
checkNotification(std::string_view message) {
    if (message.size() <= kNotificationBytesMax) return {};
    return {NIXL_ERR_INVALID_PARAM,
            "a notification of " + std::to_string(message.size()) + " bytes is too long; the limit is " +
                std::to_string(kNotificationBytesMax)};
}

std::string
encodeNotification(std::string_view sender, std::string_view message) {
    std::string bytes;
    bytes.reserve(kPrefix.size() + fieldSize(kSenderTag, sender.size()) + fieldSize(kMessageTag, message.size()));
    Writer writer(bytes);
    writer.prefix();
    writer.field(kSenderTag, sender);
    writer.field(kMessageTag, message);
    return bytes;
}

Result<Notification>
decodeNotification(std::string_view bytes) {
    Reader reader(bytes);
    reader.takePrefix();
    const std::string_view sender = reader.take(kSenderTag);
    const std::string_view message = reader.take(kMessageTag);
    if (!reader.ok()) return std::move(reader).status().withContext("notification");
    return Notification{std::string(sender), std::string(message)};
}

} // namespace nx::wire
