// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "utils/serdes/serdes.h"

#include <algorithm>
#include <cstring>

#include "utils/common/nixl_log.h"
#include "wire/reader.h"
#include "wire/serdes_access.h"
#include "wire/writer.h"

using nixlx::SerDesAccess;
using nx::wire::kPrefix;

namespace {

/// Programs look for "Deserialization failed, missing nixlSerDes tag" in the log.
nixl_status_t
logFailure(nx::wire::Reader &&reader) {
    NIXL_ERROR << "Deserialization failed, " << std::move(reader).status().message();
    return NIXL_ERR_MISMATCH;
}

} // namespace

nixlSerDes::nixlSerDes() : workingStr(kPrefix), des_offset(static_cast<ssize_t>(kPrefix.size())) {}

nixl_status_t
nixlSerDes::addStr(const std::string &tag, const std::string &str) {
    nx::wire::Writer(workingStr).field(tag, str);
    return NIXL_SUCCESS;
}

std::string
nixlSerDes::getStr(const std::string &tag) {
    auto reader = SerDesAccess::reader(*this);
    const std::string_view payload = reader.take(tag);
    if (!reader.ok()) {
        logFailure(std::move(reader));
        return "";
    }
    SerDesAccess::advance(*this, reader);
    return std::string(payload);
}

nixl_status_t
nixlSerDes::addBuf(const std::string &tag, const void *buf, ssize_t len) {
    if (len < 0 || (!buf && len > 0)) return NIXL_ERR_INVALID_PARAM;
    nx::wire::Writer(workingStr).field(tag, {static_cast<const char *>(buf), static_cast<size_t>(len)});
    return NIXL_SUCCESS;
}

ssize_t
nixlSerDes::getBufLen(const std::string &tag) const {
    auto reader = SerDesAccess::reader(*this);
    const std::string_view payload = reader.take(tag);
    if (!reader.ok()) return logFailure(std::move(reader));
    return static_cast<ssize_t>(payload.size());
}

nixl_status_t
nixlSerDes::getBuf(const std::string &tag, void *buf, ssize_t len) {
    if (len < 0 || (!buf && len > 0)) return NIXL_ERR_INVALID_PARAM;
    auto reader = SerDesAccess::reader(*this);
    const std::string_view payload = reader.take(tag);
    if (!reader.ok()) return logFailure(std::move(reader));
    if (payload.size() != static_cast<size_t>(len)) return NIXL_ERR_MISMATCH;
    if (len > 0) std::memcpy(buf, payload.data(), payload.size());
    SerDesAccess::advance(*this, reader);
    return NIXL_SUCCESS;
}

std::string
nixlSerDes::exportStr() const {
    return workingStr;
}

nixl_status_t
nixlSerDes::importStr(const std::string &sdbuf) {
    nx::wire::Reader reader(sdbuf);
    reader.takePrefix();
    if (!reader.ok()) return logFailure(std::move(reader));
    workingStr = sdbuf;
    SerDesAccess::advance(*this, reader);
    return NIXL_SUCCESS;
}

std::string
nixlSerDes::_bytesToString(const void *buf, ssize_t size) {
    return buf && size > 0 ? std::string(static_cast<const char *>(buf), static_cast<size_t>(size)) : "";
}

void
nixlSerDes::_stringToBytes(void *fill_buf, const std::string &s, ssize_t size) {
    if (!fill_buf || size <= 0) return;
    // `size` is the caller's buffer; a shorter string must not be read past its end.
    const size_t copied = std::min(s.size(), static_cast<size_t>(size));
    std::memcpy(fill_buf, s.data(), copied);
    std::memset(static_cast<char *>(fill_buf) + copied, 0, static_cast<size_t>(size) - copied);
}
