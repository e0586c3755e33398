// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The listener's stream: the same messages and the same refusal however the bytes are cut, nothing but the sender's
// bytes in them, and memory in proportion to what arrived. The first byte says how to cut.
#include "wire/frame.h"

#include <algorithm>
#include <vector>

#include "fuzz/invariant.h"

namespace {

struct Outcome {
    std::vector<std::pair<nx::wire::Verb, std::string>> messages;
    std::string refusal;

    bool
    operator==(const Outcome &) const = default;
};

Outcome
read(std::string_view bytes, size_t piece) {
    Outcome outcome;
    nx::wire::FrameReader reader;
    for (size_t at = 0; at < bytes.size(); at += piece) {
        reader.add(bytes.substr(at, piece));
        for (;;) {
            const auto message = reader.next();
            if (!message.ok()) {
                NX_INVARIANT(message.code() == NIXL_ERR_MISMATCH && message.message().size() < 500);
                outcome.refusal = message.message();
                return outcome;
            }
            if (!*message) break;
            outcome.messages.emplace_back((*message)->verb, (*message)->payload);
        }
        NX_INVARIANT(reader.capacity() <= 2 * (at + piece) + (64 << 10));
    }
    return outcome;
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const size_t piece = 1 + data[0];
    const std::string_view bytes = nx::fuzz::text(data + 1, size - 1);
    const Outcome whole = read(bytes, std::max<size_t>(bytes.size(), 1));
    NX_INVARIANT(read(bytes, piece) == whole);

    std::string again;
    for (const auto &[verb, payload] : whole.messages) {
        again += nx::wire::encodeFrame(verb, payload);
        if (verb == nx::wire::Verb::kInvalidate) {
            const auto [agent, start] = nx::wire::decodeInvalidation(payload);
            NX_INVARIANT(!agent.empty() && payload == (start ? nx::wire::encodeInvalidation(agent, *start) : agent));
        }
        if (verb != nx::wire::Verb::kAnswer) continue;
        const auto answer = nx::wire::decodeAnswer(payload);
        NX_INVARIANT(answer.ok() || answer.code() == NIXL_ERR_MISMATCH);
    }
    NX_INVARIANT(bytes.starts_with(again));
    return 0;
}
