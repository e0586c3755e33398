// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A relay of SHM whose sending side is hostile: steps of 12 bytes write a field of a slot, now and then the owner
// serves. Only bytes within the open window change, and calls return.
#include "shm/relay.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "fuzz/invariant.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace nx::shm;
    static const std::unique_ptr<Board> board = *Board::create();
    static ServedWindows windows(board->view());
    constexpr size_t kBytes = 10'000, kMargin = 16;
    const std::unique_ptr<std::byte[]> memory(new std::byte[kBytes + 2 * kMargin]()); // a sanitizer sees what is beyond
    const uint64_t address = reinterpret_cast<uint64_t>(memory.get()) + kMargin;
    const auto window = *board->open({.address = address, .length = kBytes});
    const auto shared = std::make_unique<RelayMemory>();
    std::memset(shared->slots[0].bytes, 0xff, RelayMemory::kSlotBytes);
    RelayServer server(shared.get(), windows);
    for (; size >= 12; data += 12, size -= 12) {
        RelayMemory::Slot &slot = shared->slots[data[0] % RelayMemory::kSlots];
        uint64_t value = 0;
        std::memcpy(&value, data + 4, sizeof value);
        switch (data[1] % 8) {
        case 0: slot.word = value; break;
        case 1: slot.address = address + value; break;
        case 2: slot.window = window.id + static_cast<uint32_t>(value); break;
        case 3: slot.generation = window.generation + static_cast<uint32_t>(value); break;
        case 4: slot.length = static_cast<uint32_t>(value); break;
        case 5: slot.flags = static_cast<uint32_t>(value); break;
        default: NX_INVARIANT(server.serve() <= 4 * RelayMemory::kSlots); break;
        }
    }
    const auto untouched = [](const std::byte *at) {
        return std::all_of(at, at + kMargin, [](std::byte byte) { return byte == std::byte{0}; });
    };
    NX_INVARIANT(untouched(memory.get()) && untouched(memory.get() + kMargin + kBytes));
    board->close(window);
    return 0;
}
