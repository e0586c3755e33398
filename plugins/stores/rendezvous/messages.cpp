// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "rendezvous/messages.h"

#include <algorithm>
#include <cstring>

#include "wire/limits.h"
#include "wire/reader.h"
#include "wire/writer.h"

namespace nx::rendezvous {

namespace {

constexpr std::string_view kMark = "nxmeet\r\n";
constexpr uint16_t kVersion = 1;
constexpr size_t kSentenceBytesMax = 2048;
constexpr size_t kRestBytesMax = size_t{16} << 10; // of a frame without a blob and a roster
constexpr size_t kRosterBytesMax = kRosterMax * (kNameBytesMax + kAddressBytesMax + 8) + 16;

size_t
bytesMax(Type type) {
    if (type == Type::kPublish || type == Type::kFound) return wire::kBlobBytesMax + kRestBytesMax;
    return type == Type::kRoster ? kRosterBytesMax : kRestBytesMax;
}

void
put(wire::Writer &writer, std::string_view text) {
    writer.rawInteger(static_cast<uint32_t>(text.size()));
    writer.raw(text);
}

void
put(wire::Writer &writer, const Start &start) {
    writer.raw({reinterpret_cast<const char *>(start.data()), start.size()});
}

std::string
takeText(wire::Reader &reader, std::string_view what, size_t bytes_min, size_t bytes_max) {
    const auto bytes = reader.takeRawInteger<uint32_t>(what);
    if (bytes < bytes_min || bytes > bytes_max) reader.fail(quoted(what) + " has " + std::to_string(bytes) + " bytes");
    return std::string(reader.takeRaw(what, bytes));
}

std::string
takeName(wire::Reader &reader, std::string_view what) {
    return takeText(reader, what, 1, kNameBytesMax);
}

Start
takeStart(wire::Reader &reader) {
    Start start{};
    const auto bytes = reader.takeRaw("start", start.size());
    if (reader.ok()) std::memcpy(start.data(), bytes.data(), start.size());
    return start;
}

bool
takeFlag(wire::Reader &reader) {
    const auto flag = reader.takeRawInteger<uint8_t>("flag");
    if (flag > 1) reader.fail("a flag is " + std::to_string(flag));
    return flag == 1;
}

void
takeHello(wire::Reader &reader, Message &message) {
    if (reader.takeRaw("mark", kMark.size()) != kMark) reader.fail("it does not start with \"nxmeet\"");
    const auto version = reader.takeRawInteger<uint16_t>("version");
    if (version != kVersion) reader.fail("it speaks version " + std::to_string(version) + ", not 1");
    const auto role = reader.takeRawInteger<uint8_t>("role");
    if (role > static_cast<uint8_t>(Role::kHost)) reader.fail("there is no role " + std::to_string(role));
    message.role = static_cast<Role>(role);
    message.start = takeStart(reader);
    message.name = takeName(reader, "name");
    message.text = takeText(reader, "address", 0, kAddressBytesMax);
    message.host = takeText(reader, "host", 0, kAddressBytesMax);
}

void
takeRoster(wire::Reader &reader, Message &message) {
    const auto count = reader.takeRawInteger<uint32_t>("count");
    if (count > kRosterMax) reader.fail("a roster of " + std::to_string(count));
    for (uint32_t i = 0; i < count && reader.ok(); ++i) {
        auto name = takeName(reader, "name");
        message.roster.push_back({std::move(name), takeText(reader, "address", 1, kAddressBytesMax)});
    }
}

/// The rest of the frame.
Blob
takeBlob(wire::Reader &reader) {
    const auto bytes = reader.remaining();
    if (bytes == 0 || bytes > wire::kBlobBytesMax) reader.fail("metadata of " + std::to_string(bytes) + " bytes");
    return std::make_shared<const std::string>(reader.takeRaw("metadata", bytes));
}

Result<Message>
decode(Type type, std::string_view body) {
    wire::Reader reader(body);
    Message message;
    message.type = type;
    switch (type) {
    case Type::kHello: takeHello(reader, message); break;
    case Type::kJoin:
    case Type::kAlive: break;
    case Type::kPublish:
        message.id = reader.takeRawInteger<uint64_t>("id");
        message.flag = takeFlag(reader);
        message.text = takeName(reader, "label");
        message.blob = takeBlob(reader);
        break;
    case Type::kWithdraw: message.id = reader.takeRawInteger<uint64_t>("id"); break;
    case Type::kFetch:
        message.id = reader.takeRawInteger<uint64_t>("id");
        message.name = takeName(reader, "name");
        message.text = takeName(reader, "label");
        break;
    case Type::kFollow:
        message.start = takeStart(reader);
        message.name = takeName(reader, "name");
        break;
    case Type::kForget: message.name = takeName(reader, "name"); break;
    case Type::kAnswer:
        message.id = reader.takeRawInteger<uint64_t>("id");
        message.status = reader.takeRawInteger<int32_t>("status");
        message.text = takeText(reader, "sentence", 0, kSentenceBytesMax);
        break;
    case Type::kFound:
        message.id = reader.takeRawInteger<uint64_t>("id");
        message.start = takeStart(reader);
        message.blob = takeBlob(reader);
        break;
    case Type::kGone:
        message.flag = takeFlag(reader);
        message.start = takeStart(reader);
        message.name = takeName(reader, "name");
        break;
    case Type::kRoster: takeRoster(reader, message); break;
    }
    if (reader.ok() && reader.remaining() > 0) reader.fail("bytes behind the last field");
    if (!reader.ok()) return std::move(reader).status();
    return message;
}

Status
noRendezvous(const std::string &why) {
    return {NIXL_ERR_MISMATCH, "what it says is not a rendezvous's: " + why};
}

} // namespace

bool
Message::operator==(const Message &other) const {
    const bool same_blob = blob && other.blob ? *blob == *other.blob : blob == other.blob;
    return same_blob && type == other.type && role == other.role && flag == other.flag && status == other.status &&
        id == other.id && start == other.start && name == other.name && text == other.text && host == other.host &&
        roster == other.roster;
}

Frame
encode(const Message &message) {
    std::string body;
    wire::Writer writer(body);
    switch (message.type) {
    case Type::kHello:
        writer.raw(kMark);
        writer.rawInteger(kVersion);
        writer.rawInteger(static_cast<uint8_t>(message.role));
        put(writer, message.start);
        put(writer, message.name);
        put(writer, message.text);
        put(writer, message.host);
        break;
    case Type::kJoin:
    case Type::kAlive: break;
    case Type::kPublish:
        writer.rawInteger(message.id);
        writer.rawInteger(static_cast<uint8_t>(message.flag));
        put(writer, message.text);
        break;
    case Type::kWithdraw: writer.rawInteger(message.id); break;
    case Type::kFetch:
        writer.rawInteger(message.id);
        put(writer, message.name);
        put(writer, message.text);
        break;
    case Type::kFollow:
        put(writer, message.start);
        put(writer, message.name);
        break;
    case Type::kForget: put(writer, message.name); break;
    case Type::kAnswer:
        writer.rawInteger(message.id);
        writer.rawInteger(message.status);
        put(writer, std::string_view(message.text).substr(0, kSentenceBytesMax));
        break;
    case Type::kFound:
        writer.rawInteger(message.id);
        put(writer, message.start);
        break;
    case Type::kGone:
        writer.rawInteger(static_cast<uint8_t>(message.flag));
        put(writer, message.start);
        put(writer, message.name);
        break;
    case Type::kRoster:
        writer.rawInteger(static_cast<uint32_t>(message.roster.size()));
        for (const auto &deputy : message.roster) {
            put(writer, deputy.name);
            put(writer, deputy.address);
        }
        break;
    }
    std::string head;
    wire::Writer head_writer(head);
    head_writer.rawInteger(static_cast<uint32_t>(body.size() + (message.blob ? message.blob->size() : 0)));
    head_writer.rawInteger(static_cast<uint8_t>(message.type));
    head += body;
    return {std::move(head), message.blob};
}

void
Reader::add(std::string_view bytes) {
    buffer_.erase(0, taken_);
    taken_ = 0;
    buffer_.append(bytes);
}

Result<std::optional<Message>>
Reader::next() {
    constexpr size_t kHeadBytes = sizeof(uint32_t) + 1;
    if (taken_ == buffer_.size() && taken_ > 0) {
        taken_ = 0;
        std::string().swap(buffer_);
    }
    const std::string_view here = std::string_view(buffer_).substr(taken_);
    if (here.size() < kHeadBytes) return std::optional<Message>();
    uint32_t bytes = 0;
    std::memcpy(&bytes, here.data(), sizeof bytes);
    const auto number = static_cast<uint8_t>(here[sizeof bytes]);
    if (number < 1 || number > static_cast<uint8_t>(Type::kRoster)) {
        return noRendezvous("there is no message of type " + std::to_string(number));
    }
    const auto type = static_cast<Type>(number);
    if ((type == Type::kHello) == greeted_) return noRendezvous(greeted_ ? "it greets again" : "it does not greet");
    if (bytes > bytesMax(type)) {
        return noRendezvous("it declares " + std::to_string(bytes) + " bytes; at most " +
                            std::to_string(bytesMax(type)) + " are accepted");
    }
    if (here.size() - kHeadBytes < bytes) return std::optional<Message>();
    auto message = decode(type, here.substr(kHeadBytes, bytes));
    if (!message.ok()) return noRendezvous(message.message());
    greeted_ = true;
    taken_ += kHeadBytes + bytes;
    return std::optional(*std::move(message));
}

} // namespace nx::rendezvous
