// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Who can change a file or a folder besides root and the user of this process. Pure functions.
#pragma once

#include <string>
#include <sys/stat.h>

namespace nx {

/// Why somebody else can change what `info` describes, as a sentence that begins with `thing`; empty if nobody can.
std::string
changeableByOthers(const std::string &thing, const struct stat &info);

} // namespace nx
