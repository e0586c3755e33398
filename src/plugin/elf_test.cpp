// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a descriptor is read out of a real plugin, and no damaged or foreign file does more than give a sentence.
// Method: a plugin made by the build, cut at many lengths and with bytes changed by a seeded generator.
#include "plugin/elf.h"

#include <elf.h>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <random>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"

namespace nx::plugin {
namespace {

const std::string kDescribed = NX_TEST_PLUGIN_DIR "/libplugin_DESCRIBED.so";
const std::string kVintage = NX_TEST_PLUGIN_DIR "/libplugin_VINTAGE.so";

std::string
contentOf(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

Result<std::optional<Identity>>
readBytes(std::string_view bytes) {
    const Fd fd(::memfd_create("elf_test", MFD_CLOEXEC));
    EXPECT_EQ(::pwrite(fd.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return readIdentity(fd.get());
}

TEST(Elf, ReadsTheDescriptorOfAPluginThatIsNotLoaded) {
    auto identity = readBytes(contentOf(kDescribed));
    ASSERT_TRUE(identity.ok()) << identity.message();
    ASSERT_TRUE(*identity);
    EXPECT_EQ((*identity)->magic, NIXLX_PLUGIN_MAGIC);
    EXPECT_EQ((*identity)->struct_size, sizeof(nixlx_plugin_descriptor_t));
    EXPECT_EQ((*identity)->api_version, NIXLX_PLUGIN_API_VERSION + 7);
    EXPECT_EQ((*identity)->capabilities, NIXLX_CAP_MERGE_RANGES);
    EXPECT_EQ((*identity)->kind, "backend");
    EXPECT_EQ((*identity)->name, "DESCRIBED");
    EXPECT_EQ((*identity)->version, "3.2.1");
    EXPECT_EQ((*identity)->abi, NIXLX_ABI_TAG);
    EXPECT_EQ((*identity)->conflicts, "VINTAGE,OTHER");
}

TEST(Elf, FindsNoDescriptorInAPluginWithoutOne) {
    auto identity = readBytes(contentOf(kVintage));
    ASSERT_TRUE(identity.ok()) << identity.message();
    EXPECT_FALSE(*identity);
}

TEST(Elf, SaysWhatAForeignFileIs) {
    EXPECT_EQ(readBytes("").message(), "not a shared object (too short for an ELF header)");
    EXPECT_EQ(readBytes(std::string(4096, 'x')).message(), "not a shared object (no ELF header)");
    const auto changed = [](size_t offset, char value) {
        auto bytes = contentOf(kDescribed);
        bytes[offset] = value;
        return readBytes(bytes).message();
    };
    EXPECT_EQ(changed(EI_CLASS, ELFCLASS32), "not a 64-bit little-endian shared object");
    EXPECT_EQ(changed(EI_DATA, ELFDATA2MSB), "not a 64-bit little-endian shared object");
    EXPECT_EQ(changed(offsetof(Elf64_Ehdr, e_machine), EM_386), "made for another processor");
    EXPECT_EQ(changed(offsetof(Elf64_Ehdr, e_type), ET_EXEC), "an ELF file, but not a shared object");
}

TEST(Elf, RefusesADescriptorThatIsTooSmallOrOutsideTheFile) {
    auto bytes = contentOf(kDescribed);
    Elf64_Ehdr header;
    std::memcpy(&header, bytes.data(), sizeof header);
    const auto find = [&]() -> size_t {
        for (int i = 0; i < header.e_shnum; ++i) {
            Elf64_Shdr section, names;
            std::memcpy(&section, &bytes[header.e_shoff + i * sizeof section], sizeof section);
            if (section.sh_type != SHT_DYNSYM) continue;
            std::memcpy(&names, &bytes[header.e_shoff + section.sh_link * sizeof names], sizeof names);
            for (size_t at = section.sh_offset; at < section.sh_offset + section.sh_size; at += sizeof(Elf64_Sym)) {
                Elf64_Sym symbol;
                std::memcpy(&symbol, &bytes[at], sizeof symbol);
                const char *name = &bytes[names.sh_offset + symbol.st_name];
                if (std::strcmp(name, "nixlx_plugin_descriptor") == 0) return at;
            }
        }
        return 0;
    };
    const size_t at = find();
    ASSERT_NE(at, 0u);
    const auto with = [&](auto field, auto value) {
        auto copy = bytes;
        Elf64_Sym symbol;
        std::memcpy(&symbol, &copy[at], sizeof symbol);
        symbol.*field = value;
        std::memcpy(&copy[at], &symbol, sizeof symbol);
        return readBytes(copy).message();
    };
    EXPECT_EQ(with(&Elf64_Sym::st_size, Elf64_Xword{8}),
              "damaged shared object: its descriptor has 8 bytes instead of at least " +
                  std::to_string(kIdentityBytes));
    EXPECT_EQ(with(&Elf64_Sym::st_value, ~Elf64_Addr{0} - 8),
              "damaged shared object: its descriptor lies outside the file");
}

TEST(Elf, SurvivesEveryTruncation) {
    const auto bytes = contentOf(kDescribed);
    const size_t step = std::max<size_t>(1, bytes.size() / 1000);
    size_t refused = 0;
    for (size_t length = 0; length < bytes.size(); length += length < 1024 ? 1 : step) {
        if (!readBytes(std::string_view(bytes).substr(0, length)).ok()) ++refused;
    }
    // The section headers stand at the end, so that every shorter file lacks some.
    EXPECT_GT(refused, 1000u);
    EXPECT_TRUE(readBytes(bytes).ok());
}

TEST(Elf, SurvivesChangedBytes) {
    const auto bytes = contentOf(kDescribed);
    Elf64_Ehdr header;
    std::memcpy(&header, bytes.data(), sizeof header);
    std::mt19937_64 random(20);
    size_t refused = 0;
    for (int round = 0; round < 3000; ++round) {
        auto copy = bytes;
        // Headers and section headers are what the reader follows; hit them often.
        const size_t region = round % 3;
        const size_t begin = region == 0 ? 0 : region == 1 ? header.e_shoff : 0;
        const size_t end = region == 0 ? 0x400 : copy.size();
        for (int change = 0; change < 4; ++change) {
            copy[begin + random() % (end - begin)] = static_cast<char>(random());
        }
        if (!readBytes(copy).ok()) ++refused;
    }
    EXPECT_GT(refused, 100u);
}

} // namespace
} // namespace nx::plugin
