// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "obj/memory.h"

#include <algorithm>
#include <cctype>

namespace nx::obj {

namespace {

constexpr size_t kKeyBytesMax = 1024; // S3's

std::string
encode(std::string_view text, bool keep_slash) {
    static constexpr char kDigits[] = "0123456789ABCDEF";
    std::string encoded;
    encoded.reserve(text.size());
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        const bool plain = (byte < 0x80 && std::isalnum(byte)) || c == '-' || c == '.' || c == '_' || c == '~';
        if (plain || (keep_slash && c == '/')) {
            encoded += c;
        } else {
            encoded += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
        }
    }
    return encoded;
}

} // namespace

std::string
encodePath(std::string_view key) {
    return encode(key, true);
}

std::string
encodeQuery(std::string_view value) {
    return encode(value, false);
}

Result<std::shared_ptr<const Object>>
Objects::named(const nixlBlobDesc &desc) const {
    const std::string key = desc.metaInfo.empty() ? std::to_string(desc.devId) : desc.metaInfo;
    if (key.empty() || key.size() > kKeyBytesMax) {
        return {NIXL_ERR_INVALID_PARAM,
                "an object's name has 1 to 1024 bytes; " + quoted(key) + " has " + std::to_string(key.size())};
    }
    return std::shared_ptr<const Object>(new Object{key, prefix_ + encodePath(key)});
}

Result<std::shared_ptr<const Object>>
Objects::add(const nixlBlobDesc &registration) {
    Result<std::shared_ptr<const Object>> made = named(registration);
    if (!made.ok()) return made;
    const std::string &key = (*made)->key;
    const MutexLock lock(mutex_);
    std::weak_ptr<const Object> &known = by_device_[registration.devId];
    if (const auto object = known.lock()) {
        if (object->key == key) return object;
        return {NIXL_ERR_INVALID_PARAM,
                "device id " + std::to_string(registration.devId) + " is object " + object->name() +
                    " already; give object " + quoted(key) + " an id of its own"};
    }
    known = *made;
    if (by_device_.size() >= sweep_at_) {
        std::erase_if(by_device_, [](const auto &entry) { return entry.second.expired(); });
        sweep_at_ = std::max<size_t>(1024, 2 * by_device_.size());
    }
    return made;
}

} // namespace nx::obj
