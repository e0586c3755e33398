// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The descriptor classes of the API and their lists. Values; one thread at a time each.
#include "nixl_descriptors.h"

#include <algorithm>
#include <iostream>
#include <limits>
#include <map>
#include <sstream>
#include <stdexcept>
#include <type_traits>

#include "backend/backend_aux.h"
#include "base/error.h"
#include "utils/common/nixl_log.h"
#include "wire/descriptors.h"
#include "wire/serdes_access.h"

namespace {

constexpr size_t kRangeBytes = sizeof(nixlBasicDesc);

std::string
rangeText(const nixlBasicDesc &desc) {
    std::ostringstream text;
    text << "address 0x" << std::hex << desc.addr << std::dec << ", length " << desc.len << ", device " << desc.devId;
    return text.str();
}

nixlBasicDesc
rangeOrZeros(const nixl_blob_t &blob, bool size_is_right) {
    return size_is_right ? nx::wire::rangeFromBytes(blob) : nixlBasicDesc(0, 0, 0);
}

nixl_blob_t
serializedWith(const nixlBasicDesc &desc, const std::string &tail) {
    nixl_blob_t bytes;
    bytes.reserve(kRangeBytes + tail.size());
    bytes.append(nx::wire::rangeBytes(desc)).append(tail);
    return bytes;
}

template<class T>
inline constexpr bool kHasWireForm = std::is_same_v<T, nixlBasicDesc> || std::is_same_v<T, nixlBlobDesc>;

} // namespace

nixlBasicDesc::nixlBasicDesc(const nixl_blob_t &blob) : nixlBasicDesc(rangeOrZeros(blob, blob.size() == kRangeBytes)) {}

bool
nixlBasicDesc::covers(const nixlBasicDesc &query) const noexcept {
    // Only differences that cannot wrap: lengths near 2^64 come from the wire.
    if (query.devId != devId || query.addr < addr) return false;
    const size_t offset = query.addr - addr;
    const bool ends_in_memory = query.len == 0 || query.len - 1 <= std::numeric_limits<uintptr_t>::max() - query.addr;
    return ends_in_memory && offset <= len && query.len <= len - offset;
}

bool
nixlBasicDesc::overlaps(const nixlBasicDesc &query) const {
    if (query.devId != devId || len == 0 || query.len == 0) return false;
    return query.addr >= addr ? query.addr - addr < len : addr - query.addr < query.len;
}

nixl_blob_t
nixlBasicDesc::serialize() const {
    return nixl_blob_t(nx::wire::rangeBytes(*this));
}

void
nixlBasicDesc::print(const std::string &suffix) const {
    NIXL_INFO << "descriptor: " << rangeText(*this) << suffix;
}

nixlBlobDesc::nixlBlobDesc(const nixl_blob_t &blob)
    : nixlBasicDesc(rangeOrZeros(blob, blob.size() >= kRangeBytes)),
      metaInfo(blob.size() > kRangeBytes ? blob.substr(kRangeBytes) : nixl_blob_t()) {}

nixl_blob_t
nixlBlobDesc::serialize() const {
    return serializedWith(*this, metaInfo);
}

void
nixlBlobDesc::print(const std::string &suffix) const {
    nixlBasicDesc::print(", meta " + nx::quoted(metaInfo) + suffix);
}

nixlRemoteDesc::nixlRemoteDesc(const nixl_blob_t &blob)
    : nixlBasicDesc(rangeOrZeros(blob, blob.size() >= kRangeBytes)),
      remoteAgent(blob.size() > kRangeBytes ? blob.substr(kRangeBytes) : std::string()) {}

nixl_blob_t
nixlRemoteDesc::serialize() const {
    return serializedWith(*this, remoteAgent);
}

void
nixlRemoteDesc::print(const std::string &suffix) const {
    nixlBasicDesc::print(", agent " + nx::quoted(remoteAgent) + suffix);
}

void
nixlStrideDesc::print(const std::string &suffix) const {
    nixlBasicDesc::print(", stride " + std::to_string(stride) + ", count " + std::to_string(count) + suffix);
}

template<class T>
nixlDescList<T>::nixlDescList(const nixl_mem_t &type, const int &init_size)
    : type(type),
      descs(static_cast<size_t>(init_size)) {}

template<class T> nixlDescList<T>::nixlDescList(nixlSerDes *deserializer) : type(DRAM_SEG) {
    if constexpr (kHasWireForm<T>) {
        if (!deserializer) return;
        auto reader = nixlx::SerDesAccess::reader(*deserializer);
        nx::wire::List<T> list;
        if constexpr (std::is_same_v<T, nixlBasicDesc>) {
            list = nx::wire::decodeBasicList(reader);
        } else {
            list = nx::wire::decodeBlobList(reader);
        }
        if (!reader.ok()) {
            NIXL_ERROR << "Deserialization failed, " << std::move(reader).status().message()
                       << "; the descriptor list stays empty";
            return;
        }
        nixlx::SerDesAccess::advance(*deserializer, reader);
        type = list.memory;
        descs = std::move(list.descs);
    }
}

template<class T>
void
nixlDescList<T>::resize(const size_t &count) {
    descs.resize(count);
}

template<class T>
void
nixlDescList<T>::addDesc(const T &desc) {
    descs.push_back(desc);
}

template<class T>
void
nixlDescList<T>::remDesc(const int &index) {
    if (index < 0 || static_cast<size_t>(index) >= descs.size()) {
        throw std::out_of_range("remDesc: index " + std::to_string(index) + " is outside a list of " +
                                std::to_string(descs.size()));
    }
    descs.erase(descs.begin() + index);
}

template<class T>
nixlDescList<nixlBasicDesc>
nixlDescList<T>::trim() const {
    nixlDescList<nixlBasicDesc> trimmed(type);
    trimmed.reserve(descs.size());
    for (const nixlBasicDesc &desc : descs) trimmed.addDesc(desc);
    return trimmed;
}

template<class T>
int
nixlDescList<T>::getIndex(const nixlBasicDesc &query) const {
    const auto found =
        std::find_if(descs.begin(), descs.end(), [&](const nixlBasicDesc &desc) { return desc == query; });
    return found == descs.end() ? static_cast<int>(NIXL_ERR_NOT_FOUND) : static_cast<int>(found - descs.begin());
}

template<class T>
nixl_status_t
nixlDescList<T>::serialize(nixlSerDes *serializer) const {
    if constexpr (std::is_same_v<T, nixlRemoteMetaDesc>) {
        return NIXL_ERR_NOT_SUPPORTED;
    } else if constexpr (kHasWireForm<T>) {
        if (!serializer) return NIXL_ERR_INVALID_PARAM;
        std::string &bytes = nixlx::SerDesAccess::bytes(*serializer);
        const std::span<const T> elements(descs);
        bytes.reserve(bytes.size() + nx::wire::encodedSize(elements));
        nx::wire::Writer writer(bytes);
        nx::wire::encodeList(writer, type, elements);
        return NIXL_SUCCESS;
    } else {
        return NIXL_ERR_INVALID_PARAM;
    }
}

template<class T>
void
nixlDescList<T>::print() const {
    std::cout << to_string(true) << '\n';
    for (const nixlBasicDesc &desc : descs) std::cout << "    " << rangeText(desc) << '\n';
    std::cout.flush();
}

template<class T>
std::string
nixlDescList<T>::to_string(bool compact) const {
    std::string text = "DescList of mem type " + std::to_string(type);
    if (!compact) {
        if (nixlx::logEnabled(nixlx::LogLevel::kInfo)) {
            for (const T &desc : descs) desc.print("");
        }
        return text;
    }
    std::map<size_t, size_t> count_of_length;
    for (const nixlBasicDesc &desc : descs) ++count_of_length[desc.len];
    text += " with " + std::to_string(descs.size()) + " descs, len:count";
    for (const auto &[length, count] : count_of_length) {
        text += " " + std::to_string(length) + ":" + std::to_string(count);
    }
    return text;
}

template class nixlDescList<nixlBasicDesc>;
template class nixlDescList<nixlBlobDesc>;
template class nixlDescList<nixlRemoteDesc>;
template class nixlDescList<nixlStrideDesc>;
template class nixlDescList<nixlMetaDesc>;
template class nixlDescList<nixlRemoteMetaDesc>;
template class nixlDescList<nixlMetaStrideDesc>;

size_t
nixlMetaStrideDescList::flatSize() const {
    return descs.empty() ? 0 : descs.back().start_idx + descs.back().count;
}

const nixlMetaStrideDesc &
nixlMetaStrideDescList::find(size_t flat_idx, size_t &run_size) const {
    const auto behind =
        std::upper_bound(descs.begin(), descs.end(), flat_idx,
                         [](size_t idx, const nixlMetaStrideDesc &desc) { return idx < desc.start_idx; });
    if (behind == descs.begin() || flat_idx - std::prev(behind)->start_idx >= std::prev(behind)->count) {
        throw std::out_of_range("find: block " + std::to_string(flat_idx) + " is outside a list of " +
                                std::to_string(flatSize()) + " blocks");
    }
    const nixlMetaStrideDesc &found = *std::prev(behind);
    run_size = found.count - (flat_idx - found.start_idx);
    return found;
}
