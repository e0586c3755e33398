// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Reads a plugin's descriptor (nixlx/engine.h) out of its file, so that a plugin can be refused before any of its code
// runs. Pure functions over a file descriptor; every offset and count in the file is treated as hostile.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/error.h"
#include "nixlx/engine.h"

namespace nx::plugin {

/// The fields of a descriptor that are plain data.
struct Identity {
    uint32_t magic = 0;
    uint32_t struct_size = 0;
    uint32_t api_version = 0;
    uint32_t capabilities = 0;
    std::string kind;
    std::string name;
    std::string version;
    std::string abi;
    std::string build_id;
    std::string conflicts;
    std::array<uint8_t, sizeof(nixlx_plugin_descriptor_t::partners)> partners{};
};

/// From the bytes of a descriptor up to, not including, the field `create`.
inline constexpr size_t kIdentityBytes = offsetof(nixlx_plugin_descriptor_t, create);
/// What every descriptor of this major version has.
inline constexpr size_t kDescriptorBytesMin = offsetof(nixlx_plugin_descriptor_t, companion);
Identity
parseIdentity(const void *bytes);

/// The descriptor in an ELF64 shared object of this machine; nothing if it has none. MISMATCH: the file is no such
/// object or is damaged. Looks the symbol up through the section headers, which every linker writes; of a file without
/// them nothing is known, as of a plugin written for NIXL 1.4.
Result<std::optional<Identity>>
readIdentity(int fd);

} // namespace nx::plugin
