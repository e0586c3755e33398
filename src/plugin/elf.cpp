// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "plugin/elf.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <elf.h>
#include <unistd.h>
#include <vector>

namespace nx::plugin {

namespace {

constexpr char kSymbol[] = "nixlx_plugin_descriptor";
// Far above what a linker makes of a plugin; bounds what a hostile file can make us read.
constexpr uint64_t kTableBytesMax = uint64_t{64} << 20;

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr Elf64_Half kMachine = EM_AARCH64;
#else
#error "which ELF machine is this?"
#endif

Status
damaged(const std::string &how) {
    return {NIXL_ERR_MISMATCH, "damaged shared object: " + how};
}

/// Reads exactly `size` bytes at `offset`; false if the file has fewer.
bool
readAt(int fd, uint64_t offset, void *out, size_t size) {
    auto *next = static_cast<char *>(out);
    while (size) {
        if (offset > static_cast<uint64_t>(INT64_MAX)) return false;
        const ssize_t got = ::pread(fd, next, size, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        next += got;
        offset += static_cast<uint64_t>(got);
        size -= static_cast<size_t>(got);
    }
    return true;
}

template<class T>
bool
readTable(int fd, uint64_t offset, uint64_t count, std::vector<T> &out) {
    if (count > kTableBytesMax / sizeof(T)) return false;
    out.resize(count);
    return readAt(fd, offset, out.data(), count * sizeof(T));
}

std::string
text(const char *field, size_t size) {
    return {field, strnlen(field, size)};
}

Status
checkHeader(const Elf64_Ehdr &header) {
    const auto refuse = [](const char *why) { return Status(NIXL_ERR_MISMATCH, why); };
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return refuse("not a shared object (no ELF header)");
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) {
        return refuse("not a 64-bit little-endian shared object");
    }
    if (header.e_machine != kMachine) return refuse("made for another processor");
    if (header.e_type != ET_DYN) return refuse("an ELF file, but not a shared object");
    return {};
}

/// Where the file keeps the `size` bytes that are loaded at `address`; nothing if not wholly in it.
std::optional<uint64_t>
fileOffset(const std::vector<Elf64_Phdr> &segments, uint64_t address, uint64_t size) {
    for (const auto &segment : segments) {
        if (segment.p_type != PT_LOAD || address < segment.p_vaddr) continue;
        const uint64_t inside = address - segment.p_vaddr;
        if (inside > segment.p_filesz || size > segment.p_filesz - inside) continue;
        uint64_t offset;
        if (!__builtin_add_overflow(segment.p_offset, inside, &offset)) return offset;
    }
    return {};
}

/// The defined dynamic symbol `kSymbol`; nothing if there is none.
Result<std::optional<Elf64_Sym>>
findSymbol(int fd, const Elf64_Ehdr &header) {
    std::vector<Elf64_Shdr> sections;
    if (header.e_shnum && header.e_shentsize != sizeof(Elf64_Shdr)) return damaged("section headers of a wrong size");
    if (!readTable(fd, header.e_shoff, header.e_shnum, sections)) return damaged("section headers beyond its end");
    for (const auto &section : sections) {
        if (section.sh_type != SHT_DYNSYM) continue;
        if (section.sh_entsize != sizeof(Elf64_Sym)) return damaged("dynamic symbols of a wrong size");
        if (section.sh_link >= sections.size()) return damaged("dynamic symbols without names");
        const auto &names_section = sections[section.sh_link];
        std::vector<Elf64_Sym> symbols;
        std::vector<char> names;
        if (!readTable(fd, section.sh_offset, section.sh_size / sizeof(Elf64_Sym), symbols) ||
            !readTable(fd, names_section.sh_offset, names_section.sh_size, names)) {
            return damaged("dynamic symbols beyond its end");
        }
        for (const auto &symbol : symbols) {
            if (symbol.st_shndx == SHN_UNDEF || symbol.st_name >= names.size()) continue;
            // Compared with its NUL, which must lie inside the table too.
            if (names.size() - symbol.st_name < sizeof kSymbol) continue;
            if (std::memcmp(&names[symbol.st_name], kSymbol, sizeof kSymbol) == 0) return std::optional(symbol);
        }
    }
    return std::optional<Elf64_Sym>{};
}

} // namespace

Identity
parseIdentity(const void *bytes) {
    nixlx_plugin_descriptor_t raw{};
    std::memcpy(static_cast<void *>(&raw), bytes, kIdentityBytes);
    Identity identity;
    identity.magic = raw.magic;
    identity.struct_size = raw.struct_size;
    identity.api_version = raw.api_version;
    identity.capabilities = raw.capabilities;
    identity.kind = text(raw.kind, sizeof raw.kind);
    identity.name = text(raw.name, sizeof raw.name);
    identity.version = text(raw.version, sizeof raw.version);
    identity.abi = text(raw.abi, sizeof raw.abi);
    identity.build_id = text(raw.build_id, sizeof raw.build_id);
    identity.conflicts = text(raw.conflicts, sizeof raw.conflicts);
    std::copy(std::begin(raw.partners), std::end(raw.partners), identity.partners.begin());
    return identity;
}

Result<std::optional<Identity>>
readIdentity(int fd) {
    Elf64_Ehdr header;
    if (!readAt(fd, 0, &header, sizeof header)) {
        return {NIXL_ERR_MISMATCH, "not a shared object (too short for an ELF header)"};
    }
    if (auto status = checkHeader(header); !status.ok()) return status;
    auto symbol = findSymbol(fd, header);
    if (!symbol.ok()) return std::move(symbol).status();
    if (!*symbol) return std::optional<Identity>{};
    if ((*symbol)->st_size < kIdentityBytes) {
        return damaged("its descriptor has " + std::to_string((*symbol)->st_size) + " bytes instead of at least " +
                       std::to_string(kIdentityBytes));
    }
    std::vector<Elf64_Phdr> segments;
    if (header.e_phentsize != sizeof(Elf64_Phdr) || !readTable(fd, header.e_phoff, header.e_phnum, segments)) {
        return damaged("program headers of a wrong size or beyond its end");
    }
    const auto offset = fileOffset(segments, (*symbol)->st_value, kIdentityBytes);
    std::array<char, kIdentityBytes> bytes;
    if (!offset || !readAt(fd, *offset, bytes.data(), bytes.size())) {
        return damaged("its descriptor lies outside the file");
    }
    return std::optional(parseIdentity(bytes.data()));
}

} // namespace nx::plugin
