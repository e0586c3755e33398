// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is registered: memory of the process, of which there is nothing to know, and objects. Objects are immutable,
// their table is self-synchronised.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "backend/backend_aux.h"
#include "base/error.h"
#include "base/mutex.h"

namespace nx::obj {

class Memory final : public nixlBackendMD {
public:
    Memory() : nixlBackendMD(true) {}
};

struct Object {
    /// For sentences: "'a/b'".
    std::string
    name() const {
        return quoted(key);
    }

    const std::string key;
    const std::string path; ///< of its URL, encoded
};

class ObjectMemory final : public nixlBackendMD {
public:
    explicit ObjectMemory(std::shared_ptr<const Object> object) : nixlBackendMD(true), object(std::move(object)) {}

    const std::shared_ptr<const Object> object;
};

class Objects {
public:
    /// `prefix`: of every path: "/" or "/bucket/".
    explicit Objects(std::string prefix) : prefix_(std::move(prefix)) {}

    /// The object that a descriptor means: its key is the name, or the device id in decimal. INVALID_PARAM: no object
    /// has this key.
    Result<std::shared_ptr<const Object>>
    named(const nixlBlobDesc &desc) const;

    /// Likewise, of a registration. INVALID_PARAM also: another object that is registered has this device id.
    Result<std::shared_ptr<const Object>>
    add(const nixlBlobDesc &registration);

private:
    const std::string prefix_;
    Mutex mutex_;
    std::unordered_map<uint64_t, std::weak_ptr<const Object>> by_device_ NX_GUARDED_BY(mutex_);
    size_t sweep_at_ NX_GUARDED_BY(mutex_) = 1024; ///< entries at which the dead ones go
};

/// Every byte but letters, digits, "-._~" and "/" as %XX: as it is sent and signed.
std::string
encodePath(std::string_view key);
/// Likewise, "/" too.
std::string
encodeQuery(std::string_view value);

} // namespace nx::obj
