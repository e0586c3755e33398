// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a rendezvous and its members hear: the same messages and the same refusal however the bytes are cut, written
// again as they came, and memory in proportion to what arrived. A host's table takes them all and stays within its
// limits. The first byte says how to cut.
#include "rendezvous/messages.h"

#include <algorithm>

#include "fuzz/invariant.h"
#include "rendezvous/table.h"

namespace {

using nx::rendezvous::Message;
using nx::rendezvous::Table;

struct Outcome {
    std::vector<Message> messages;
    std::string refusal;

    bool
    operator==(const Outcome &) const = default;
};

Outcome
read(std::string_view bytes, size_t piece) {
    Outcome outcome;
    nx::rendezvous::Reader reader;
    for (size_t at = 0; at < bytes.size(); at += piece) {
        reader.add(bytes.substr(at, piece));
        for (;;) {
            auto message = reader.next();
            if (!message.ok()) {
                NX_INVARIANT(message.code() == NIXL_ERR_MISMATCH && message.message().size() < 500);
                outcome.refusal = message.message();
                return outcome;
            }
            if (!*message) break;
            outcome.messages.push_back(**message);
        }
        NX_INVARIANT(reader.buffered() <= 2 * (at + piece) + (64 << 10));
    }
    return outcome;
}

/// Two members, the second of which says the same.
void
serve(const std::vector<Message> &messages) {
    Table::Time now{};
    size_t sent = 0;
    Table table(std::chrono::milliseconds(100), {.labels = 4, .follows = 4, .blob_bytes = 64},
                [&](Table::Id, const Message &message) {
                    ++sent;
                    if (message.blob) NX_INVARIANT(message.blob->size() <= 64);
                });
    for (const auto &message : messages) {
        for (const Table::Id id : {1, 2}) {
            auto hello = message;
            hello.start[0] = static_cast<uint8_t>(hello.start[0] + id);
            if (message.type == nx::rendezvous::Type::kHello) table.join(id, hello, now);
            (void)table.receive(id, message, now);
        }
        now += std::chrono::milliseconds(7);
        (void)table.tick(now);
    }
    NX_INVARIANT(sent <= 64 * (messages.size() + 1));
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
    for (const auto &message : whole.messages) {
        const auto frame = nx::rendezvous::encode(message);
        again += frame.head;
        if (frame.blob) again += *frame.blob;
    }
    NX_INVARIANT(bytes.starts_with(again));
    serve(whole.messages);
    return 0;
}
