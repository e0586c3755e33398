// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// NIXL's tagged byte format (docs/wire.md): written and read strictly in order. Reading is safe on hostile bytes: a
// wrong tag, an impossible length or an early end gives an empty string, a negative length or MISMATCH, and the
// cursor stays. Not thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <sys/types.h>

#include "nixl_types.h"

#pragma GCC visibility push(default)

namespace nixlx {
struct SerDesAccess;
}

class nixlSerDes {
private:
    friend struct nixlx::SerDesAccess; // libnixl's descriptor lists are written and read in place

    std::string workingStr;
    ssize_t des_offset;

public:
    nixlSerDes();

    nixl_status_t
    addStr(const std::string &tag, const std::string &str);
    /// The next field if it carries `tag`, otherwise "".
    std::string
    getStr(const std::string &tag);

    nixl_status_t
    addBuf(const std::string &tag, const void *buf, ssize_t len);
    /// Length of the next field if it carries `tag`, otherwise negative.
    ssize_t
    getBufLen(const std::string &tag) const;
    /// Copies the next field if it carries `tag` and has exactly `len` bytes; MISMATCH otherwise.
    nixl_status_t
    getBuf(const std::string &tag, void *buf, ssize_t len);

    /// All bytes, prefix included.
    std::string
    exportStr() const;
    /// Starts reading `sdbuf` from its beginning. MISMATCH if the prefix is missing.
    nixl_status_t
    importStr(const std::string &sdbuf);

    static std::string
    _bytesToString(const void *buf, ssize_t size);
    static void
    _stringToBytes(void *fill_buf, const std::string &s, ssize_t size);
};

#pragma GCC visibility pop
