// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Where plugin files are: a list of named files and directories. Nothing is cached; a file that appears later is found.
// Owned: one caller at a time.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "plugin/loader.h"

namespace nx::plugin {

/// Lines NAME=path, blank ones, and comments from '#' on; blanks around names and paths do not count. NOT_FOUND: the
/// file cannot be read; MISMATCH: a line is something else.
Result<std::map<std::string, std::string>>
readPluginList(const std::string &path);

/// The option NIXL_PLUGIN_DIR, else the folder `plugins` beside the library that this code is part of.
Result<std::string>
defaultPluginDirectory();

/// What the file named by the option NIXL_PLUGIN_LIST says; empty without the option.
Result<std::map<std::string, std::string>>
configuredPluginList();

class Catalog {
public:
    Catalog(const Kind &kind, std::vector<std::string> directories, std::map<std::string, std::string> listed)
        : kind_(kind),
          directories_(std::move(directories)),
          listed_(std::move(listed)) {}

    /// Names of the listed and found files, sorted, each once.
    std::vector<std::string>
    names() const;

    /// The file of `name`: as listed, else from the first directory that has one. NOT_FOUND with the places searched.
    Result<std::string>
    find(const std::string &name) const;

    /// Searches `directory` before the others; one that is searched already keeps its place. NOT_FOUND: no directory.
    Status
    addDirectory(const std::string &directory);

private:
    const Kind &kind_;
    std::vector<std::string> directories_;
    const std::map<std::string, std::string> listed_;
};

} // namespace nx::plugin
