// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs a fuzz target over every file of the given folders, in compilers without libFuzzer. Each file is also replayed
// cut at every length, which is what a peer that stops sending looks like.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "fuzz/invariant.h"

namespace {

/// Runs the target on a copy of exactly this size, so that a sanitizer sees the first byte read beyond it.
void
runOn(const std::vector<char> &bytes, size_t size) {
    const std::vector<uint8_t> input(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    LLVMFuzzerTestOneInput(input.data(), input.size());
}

} // namespace

int
main(int argc, char **argv) {
    size_t files = 0;
    for (int i = 1; i < argc; ++i) {
        for (const auto &entry : std::filesystem::directory_iterator(argv[i])) {
            std::ifstream file(entry.path(), std::ios::binary);
            const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
            std::printf("%s\n", entry.path().filename().c_str());
            std::fflush(stdout);
            for (size_t size = 0; size <= bytes.size(); ++size) runOn(bytes, size);
            ++files;
        }
    }
    std::printf("%zu files replayed\n", files);
    return files > 0 ? 0 : 1;
}
