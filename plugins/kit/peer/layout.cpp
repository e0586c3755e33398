// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/peer/layout.h"

#include <algorithm>

namespace nx::kit {

namespace {

constexpr uint64_t kLayoutBytesMax = uint64_t{1} << 63;
constexpr size_t kBlocksKept = 64;

bool
contains(const Window &window, const Blocks &blocks) {
    int64_t distance; // from the first block to the last
    if (__builtin_mul_overflow(static_cast<int64_t>(blocks.stride), blocks.count - 1, &distance)) return false;
    uint64_t last;
    if (__builtin_add_overflow(blocks.address, distance, &last)) return false;
    // Strides are equal, so what lies between the first and the last block lies inside if these do.
    const uint64_t low = std::min(blocks.address, last);
    const uint64_t high = std::max(blocks.address, last);
    return low >= window.address && blocks.length <= window.length &&
        high - window.address <= window.length - blocks.length;
}

} // namespace

Status
checkAccess(const Window &window, const Blocks &blocks, uint32_t rights) {
    if (!contains(window, blocks)) {
        return {NIXL_ERR_NOT_FOUND,
                std::to_string(blocks.count) + " blocks of " + std::to_string(blocks.length) + " bytes from address " +
                    std::to_string(blocks.address) + " on are not all in window " + std::to_string(window.key.id)};
    }
    if ((window.rights & rights) != rights) {
        return {NIXL_ERR_NOT_ALLOWED,
                "window " + std::to_string(window.key.id) + " may not be " +
                    (rights & ~window.rights & kMayCopy        ? "copied by the peer itself"
                         : rights & ~window.rights & kMayWrite ? "written"
                                                               : "read")};
    }
    return {};
}

bool
Layout::add(Blocks blocks) {
    uint64_t bytes;
    if (blocks.length == 0 || blocks.count == 0) return false;
    if (__builtin_mul_overflow(blocks.length, blocks.count, &bytes)) return false;
    if (bytes > kLayoutBytesMax - total_bytes_) return false;
    if (blocks.stride == blocks.length) blocks.length = bytes; // one block, and one piece
    if (blocks.length == bytes) {
        blocks.stride = 0;
        blocks.count = 1;
    }
    blocks.start = total_bytes_;
    blocks_.push_back(blocks);
    total_bytes_ += bytes;
    return true;
}

void
Layout::clear() {
    blocks_.clear();
    if (blocks_.capacity() > kBlocksKept) std::vector<Blocks>().swap(blocks_);
    total_bytes_ = 0;
}

size_t
Layout::pieces(uint64_t offset, uint64_t bytes, std::span<Piece> out) const {
    auto at = std::upper_bound(blocks_.begin(), blocks_.end(), offset,
                               [](uint64_t value, const Blocks &blocks) { return value < blocks.start; });
    --at;
    uint64_t block = (offset - at->start) / at->length;
    uint64_t inside = (offset - at->start) % at->length;
    size_t count = 0;
    while (bytes > 0 && count < out.size()) {
        const uint64_t piece = std::min(bytes, at->length - inside);
        out[count++] = {reinterpret_cast<char *>(at->address + block * at->stride + inside), piece, at->memory,
                        at->device};
        bytes -= piece;
        inside = 0;
        if (++block == at->count) {
            block = 0;
            ++at;
        }
    }
    return count;
}

} // namespace nx::kit
