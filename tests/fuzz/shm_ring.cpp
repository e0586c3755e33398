// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A ring of SHM whose other side is hostile: its first bytes say what lies in the ring, the others what happens, in
// steps of a byte and an argument; between the calls the memory changes. Calls return, stay inside, and say nothing
// that cannot be.
#include "shm/ring.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "fuzz/invariant.h"

namespace {

using namespace nx::shm;

struct alignas(64) Memory {
    std::byte bytes[kRingBytes];
};

/// So that a sanitizer sees what lies beyond, each in memory of its own.
struct Ring {
    std::unique_ptr<Memory> memory = std::make_unique<Memory>();
    RingMemory fields{memory.get()};
};

void
read(RingReader &reader, RingMemory fields, bool takes) {
    uint8_t kind = 0;
    std::string message;
    const uint64_t at = fields.position();
    const RingReader::Next next = reader.next(kind, message);
    NX_INVARIANT(next != RingReader::Next::kMessage || message.size() <= RingWriter::kMessageBytesMax);
    NX_INVARIANT(next != RingReader::Next::kNone || reader.empty());
    NX_INVARIANT(fields.position() == at);
    if (takes) reader.pop();
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const Ring ring;
    constexpr size_t kSteps = 2;
    // The header and some cells, from a first position that the other side chooses.
    const size_t filled = std::min<size_t>(size / 2, 512);
    std::memcpy(ring.memory->bytes, data, std::min<size_t>(filled, 136));
    const uint64_t first = ring.fields.position();
    for (size_t i = 136, cell = 0; i < filled; i += 12, ++cell) {
        uint64_t word = 0;
        uint32_t head = 0;
        std::memcpy(&word, data + i, std::min<size_t>(sizeof word, filled - i));
        if (i + 8 < filled) std::memcpy(&head, data + i + 8, std::min<size_t>(sizeof head, filled - i - 8));
        ring.fields.word(first + cell) = word;
        ring.fields.head(first + cell) = head;
    }
    RingReader reader(ring.memory.get());
    RingWriter writer(ring.memory.get());
    bool broken = false;
    const std::string body(RingWriter::kMessageBytesMax, 'b');
    for (size_t i = filled; i + kSteps <= size; i += kSteps) {
        const uint8_t argument = data[i + 1];
        const uint64_t at = ring.fields.position();
        switch (data[i] % 8) {
        case 0: read(reader, ring.fields, false); break;
        case 1: read(reader, ring.fields, true); break;
        case 2:
            if (reader.arm()) NX_INVARIANT(reader.empty() && ring.fields.armed() == 1);
            break;
        case 3:
        case 4: {
            const size_t length = std::min(body.size(), size_t{argument} * (data[i] % 8 == 3 ? 1 : 57));
            const size_t head = length / 2;
            const auto put = writer.put(argument, std::string_view(body).substr(0, head),
                                        std::string_view(body).substr(0, length - head));
            NX_INVARIANT(!broken || put == RingWriter::Put::kBroken);
            broken = put == RingWriter::Put::kBroken;
            break;
        }
        case 5: ring.fields.position() = at + argument - 128; break;
        case 6: ring.fields.word(at + argument / 16) = at + argument / 16 + argument % 16 - 7; break;
        case 7: ring.fields.head(at + argument / 16) = uint32_t{argument} << (argument % 16 * 2); break;
        }
    }
    return 0;
}
