// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A folder of its own for a test, removed with all its contents when it goes. Owned.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace nx::test {

class TempDir {
public:
    TempDir() {
        std::string pattern = (std::filesystem::temp_directory_path() / "nixl-test-XXXXXX").string();
        if (!mkdtemp(pattern.data())) throw std::runtime_error("cannot make a folder like " + pattern);
        path_ = pattern;
    }
    ~TempDir() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TempDir(const TempDir &) = delete;
    TempDir &
    operator=(const TempDir &) = delete;

    const std::filesystem::path &
    path() const noexcept {
        return path_;
    }

    std::string
    operator/(const std::string &name) const {
        return (path_ / name).string();
    }

    /// Writes a file and returns its path.
    std::string
    write(const std::string &name, const std::string &contents) const {
        const std::string path = *this / name;
        std::ofstream file(path, std::ios::binary);
        file << contents;
        if (!file.flush()) throw std::runtime_error("cannot write " + path);
        return path;
    }

private:
    std::filesystem::path path_;
};

} // namespace nx::test
