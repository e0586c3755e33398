// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A board of SHM that a peer has filled as it likes: what is no board is a MISMATCH with a sentence; what is allowed
// lies inside the window that the board shows.
#include "shm/board.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz/invariant.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace nx::shm;
    constexpr size_t kPage = 4096;
    const size_t info = std::min(size, sizeof(BoardInfo));
    nx::Fd memory(::memfd_create("nixl-fuzz-board", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    const size_t bytes = kPage + size_t{kWindowsMax} * sizeof(BoardEntry);
    NX_INVARIANT(memory && ::ftruncate(memory.get(), static_cast<off_t>(bytes)) == 0);
    NX_INVARIANT(::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    NX_INVARIANT(::pwrite(memory.get(), data, info, 0) == static_cast<ssize_t>(info));
    const size_t left = size - info;
    NX_INVARIANT(::pwrite(memory.get(), data + info, left, kPage) == static_cast<ssize_t>(left));
    const auto board = PeerBoard::map(std::move(memory));
    if (!board.ok()) {
        NX_INVARIANT(board.code() == NIXL_ERR_MISMATCH);
        NX_INVARIANT(!board.message().empty() && board.message().size() < 1000);
        return 0;
    }
    for (size_t i = 0; i * sizeof(BoardEntry) < left; ++i) {
        uint32_t state = 0;
        std::memcpy(&state, data + info + i * sizeof(BoardEntry),
                    std::min(sizeof state, left - i * sizeof(BoardEntry)));
        for (const uint32_t generation : {state / 2, state, uint32_t{0}, UINT32_MAX}) {
            const nx::kit::WindowKey key{static_cast<uint32_t>(i), generation};
            const auto window = (*board)->look(key);
            NX_INVARIANT(window.has_value() == (state == (generation * 2 | 1)));
            if (!window) {
                NX_INVARIANT(!(*board)->allows(key, 0, 0));
                continue;
            }
            const uint64_t end = window->address + window->length;
            for (const uint64_t address : {uint64_t{0}, window->address, window->address - 1, end, end - 1}) {
                for (const uint64_t length :
                     {uint64_t{0}, uint64_t{1}, window->length, window->length + 1, ~uint64_t{0}}) {
                    if (!(*board)->allows(key, address, length)) continue;
                    NX_INVARIANT(address - window->address <= window->length);
                    NX_INVARIANT(length <= window->length - (address - window->address));
                }
            }
        }
    }
    for (const uint32_t id : {kWindowsMax, UINT32_MAX}) NX_INVARIANT(!(*board)->look({id, 0}));
    return 0;
}
