// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "base/ownership.h"

#include <cstdio>
#include <unistd.h>

namespace nx {

// A group with the owner's own number holds only the owner (the user private groups of most distributions, whose umask
// makes everything group-writable).
std::string
changeableByOthers(const std::string &thing, const struct stat &info) {
    if (info.st_uid != 0 && info.st_uid != ::geteuid()) {
        return thing + " belongs to user " + std::to_string(info.st_uid) +
            ", neither root nor the user of this process (" + std::to_string(::geteuid()) + ")";
    }
    const bool group_writes = (info.st_mode & S_IWGRP) && info.st_gid != info.st_uid;
    if (group_writes || (info.st_mode & S_IWOTH)) {
        char mode[8];
        std::snprintf(mode, sizeof mode, "%04o", static_cast<unsigned>(info.st_mode & 07777));
        return thing + " can be written by others (mode " + mode + "); take that away with chmod go-w";
    }
    return {};
}

} // namespace nx
