// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What an agent proves itself to its peers with, and checks them by: a security plugin, if a key is configured
// (NIXL_SECRET_FILE). A key that cannot be used lets nothing pass. Immutable.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "nixlx/security.h"

namespace nx::agent {

class Credentials {
public:
    /// Reads the option. What is wrong with it is said by everything that needs it.
    explicit Credentials(const std::string &agent);

    /// There is a key, or there should be: whoever has none is a stranger.
    bool
    required() const noexcept {
        return security_ || !broken_.ok();
    }

    /// Why nothing may be exchanged, if there is a key that cannot be used.
    Status
    usable() const {
        if (broken_.ok()) return {};
        return {broken_.code(), broken_.message()};
    }

    /// The blob with a signature; without a key as it is.
    Result<std::string>
    sign(std::string blob) const;

    /// One end of a connection to another agent. Only with a key.
    Result<std::unique_ptr<nixlx::SecureSession>>
    session(bool accepts) const;

    /// NOT_ALLOWED: it is not signed, or by a stranger. MISMATCH: it was changed. Without a key all pass.
    Status
    check(std::string_view blob) const;

private:
    Status
    open(const std::string &agent);

    std::shared_ptr<nixlx::Security> security_; ///< null: there is no key, or it is broken
    Status broken_;
};

} // namespace nx::agent
