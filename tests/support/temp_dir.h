// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A folder of its own for one test, removed with all it holds.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace nx::test {

class TempDir {
public:
    TempDir() : path_((std::filesystem::temp_directory_path() / "nixl-test-XXXXXX").string()) {
        if (!::mkdtemp(path_.data())) throw std::runtime_error("mkdtemp " + path_);
    }
    ~TempDir() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TempDir(const TempDir &) = delete;
    TempDir &
    operator=(const TempDir &) = delete;

    const std::string &
    path() const {
        return path_;
    }

    /// Writes a file (mode 0644) and returns its path.
    std::string
    write(const std::string &name, std::string_view content) const {
        const auto file = path_ + "/" + name;
        std::ofstream(file, std::ios::binary) << content;
        using std::filesystem::perms;
        std::filesystem::permissions(file, perms::owner_read | perms::owner_write | perms::group_read |
                                               perms::others_read);
        return file;
    }

private:
    std::string path_;
};

} // namespace nx::test
