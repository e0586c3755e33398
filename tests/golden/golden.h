// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Reads the recorded bytes of NIXL 1.5.1 that lie beside this file; index.json says what each holds.
#pragma once

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

namespace nx::test {

inline std::string
golden(const std::string &name) {
    const std::string path = std::string(NX_SOURCE_DIR) + "/tests/golden/" + name;
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot open " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

} // namespace nx::test
