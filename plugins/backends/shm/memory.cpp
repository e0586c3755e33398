// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/memory.h"

#include <fcntl.h>

#include "wire/reader.h"
#include "wire/writer.h"

namespace nx::shm {

void
Blocks::add(const nixlx::SharedBlock &block) {
    const MutexLock lock(mutex_);
    Use &use = uses_[block.id];
    use.base = block.base;
    ++use.registrations;
}

void
Blocks::remove(uint64_t id) noexcept {
    const MutexLock lock(mutex_);
    const auto found = uses_.find(id);
    if (found != uses_.end() && --found->second.registrations == 0) uses_.erase(found);
}

std::optional<Blocks::Open>
Blocks::open(uint64_t id) const {
    const MutexLock lock(mutex_);
    const auto found = uses_.find(id);
    if (found == uses_.end()) return {};
    const auto block = nixlx::findShared(found->second.base, 1);
    if (!block || block->id != id) return {};
    Fd copy(::fcntl(block->descriptor, F_DUPFD_CLOEXEC, 0));
    if (!copy) return {};
    return Open{std::move(copy), block->bytes};
}

std::string
encodeKey(kit::WindowKey key) {
    std::string bytes;
    wire::Writer out(bytes);
    out.rawInteger(key.id);
    out.rawInteger(key.generation);
    return bytes;
}

Result<kit::WindowKey>
decodeKey(std::string_view bytes) {
    wire::Reader in(bytes);
    kit::WindowKey key;
    key.id = in.takeRawInteger<uint32_t>("the window");
    key.generation = in.takeRawInteger<uint32_t>("its generation");
    if (in.ok() && in.remaining() > 0) in.fail("bytes behind the key");
    if (!in.ok()) return std::move(in).status().withContext("the key of a registration");
    return key;
}

} // namespace nx::shm
