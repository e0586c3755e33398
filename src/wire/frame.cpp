// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "wire/frame.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "wire/limits.h"
#include "wire/writer.h"

namespace nx::wire {

namespace {

constexpr std::string_view kMark = "NIXLCOMM:";
constexpr size_t kVerbBytes = 4;
constexpr size_t kLengthBytes = sizeof(uint64_t);
constexpr size_t kHeadBytes = kMark.size() + kVerbBytes; // of the body
constexpr size_t kSentenceBytesMax = 2048;
constexpr size_t kAnswerBytesMax = 2 * kSentenceBytesMax;
// NIXL cuts what it reads at each mark and ignores pieces of fewer than 4 bytes: in such pieces a start is told.
constexpr size_t kPieceBytes = 2;
constexpr size_t kStartBytes = sizeof(Incarnation) / kPieceBytes * (kMark.size() + kPieceBytes);

struct VerbRule {
    Verb verb;
    std::string_view name;
    size_t payload_min, payload_max;
};

constexpr std::array<VerbRule, 4> kRules{{
    {Verb::kLoad, "LOAD", 0, kBlobBytesMax},
    {Verb::kSend, "SEND", 0, 0},
    {Verb::kInvalidate, "INVL", 1, kNameBytesMax + kStartBytes},
    {Verb::kAnswer, "DONE", 1, kAnswerBytesMax},
}};

Status
notAFrame(const std::string &why) {
    return {NIXL_ERR_MISMATCH, "not a frame of NIXL: " + why};
}

} // namespace

std::string
encodeFrameHead(Verb verb, size_t payload_bytes) {
    const auto rule = std::find_if(kRules.begin(), kRules.end(), [&](const auto &r) { return r.verb == verb; });
    const uint64_t length = kHeadBytes + payload_bytes;
    std::string head;
    head.reserve(kLengthBytes + kHeadBytes);
    head.append(reinterpret_cast<const char *>(&length), sizeof length);
    head.append(kMark);
    head.append(rule->name);
    return head;
}

std::string
encodeFrame(Verb verb, std::string_view payload) {
    return encodeFrameHead(verb, payload.size()).append(payload);
}

std::string
encodeInvalidation(std::string_view agent, const Incarnation &start) {
    std::string payload(agent);
    const std::string_view bytes(reinterpret_cast<const char *>(start.data()), start.size());
    for (size_t at = 0; at < bytes.size(); at += kPieceBytes) {
        payload.append(kMark).append(bytes.substr(at, kPieceBytes));
    }
    return payload;
}

Invalidation
decodeInvalidation(std::string_view payload) noexcept {
    if (payload.size() <= kStartBytes) return {payload, std::nullopt};
    const auto name = payload.substr(0, payload.size() - kStartBytes);
    Incarnation start{};
    auto rest = payload.substr(name.size());
    for (size_t at = 0; at < start.size(); at += kPieceBytes) {
        if (!rest.starts_with(kMark)) return {payload, std::nullopt};
        std::memcpy(&start[at], rest.data() + kMark.size(), kPieceBytes);
        rest.remove_prefix(kMark.size() + kPieceBytes);
    }
    return {name, start};
}

std::string
encodeAnswer(const Answer &answer) {
    std::string payload;
    Writer writer(payload);
    writer.prefix();
    writer.integer("status", static_cast<int32_t>(answer.status));
    writer.field("why", std::string_view(answer.sentence).substr(0, kSentenceBytesMax));
    return payload;
}

Result<Answer>
decodeAnswer(std::string_view payload) {
    Reader reader(payload);
    reader.takePrefix();
    Answer answer;
    answer.status = static_cast<nixl_status_t>(reader.takeInteger<int32_t>("status"));
    answer.sentence = reader.take("why");
    if (!reader.ok()) return std::move(reader).status().withContext("answer");
    return answer;
}

void
FrameReader::add(std::string_view bytes) {
    buffer_.erase(0, taken_);
    taken_ = 0;
    buffer_.append(bytes);
}

Result<std::optional<Message>>
FrameReader::next() {
    if (taken_ == buffer_.size() && taken_ > 0) {
        taken_ = 0;
        std::string().swap(buffer_);
    }
    const std::string_view here = std::string_view(buffer_).substr(taken_);
    if (here.size() < kLengthBytes) return std::optional<Message>();
    uint64_t length;
    std::memcpy(&length, here.data(), sizeof length);
    if (length < kHeadBytes || length > kHeadBytes + kBlobBytesMax) {
        return notAFrame("it declares " + std::to_string(length) + " bytes; " + std::to_string(kHeadBytes) + " to " +
                         std::to_string(kHeadBytes + kBlobBytesMax) + " are accepted");
    }
    const std::string_view body = here.substr(kLengthBytes);
    const std::string_view mark = body.substr(0, kMark.size());
    if (mark != kMark.substr(0, mark.size())) return notAFrame("it does not start with \"NIXLCOMM:\"");
    if (body.size() < kHeadBytes) return std::optional<Message>();

    const std::string_view name = body.substr(kMark.size(), kVerbBytes);
    const auto rule = std::find_if(kRules.begin(), kRules.end(), [&](const auto &r) { return r.name == name; });
    if (rule == kRules.end()) return notAFrame("there is no verb " + quoted(name));
    const uint64_t payload_bytes = length - kHeadBytes;
    if (payload_bytes < rule->payload_min || payload_bytes > rule->payload_max) {
        return notAFrame("a message " + std::string(name) + " of " + std::to_string(payload_bytes) + " bytes; " +
                         std::to_string(rule->payload_min) + " to " + std::to_string(rule->payload_max) +
                         " are accepted");
    }
    if (body.size() < length) return std::optional<Message>();
    taken_ += kLengthBytes + length;
    return std::optional(Message{rule->verb, body.substr(kHeadBytes, payload_bytes)});
}

} // namespace nx::wire
