// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An agent with a shared key: TLS 1.3 whose ends prove that they have the key, and HMAC-SHA256 signatures.
// Self-synchronised.
#pragma once

#include <memory>
#include <openssl/ssl.h>

#include "nixlx/security.h"
#include "tls/secret.h"

namespace nx::tls {

using TlsContext = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;

class Security final : public nixlx::Security {
public:
    /// As Secret::read. BACKEND: OpenSSL cannot do what is needed here.
    static Result<std::unique_ptr<Security>>
    create(const nixlx::SecurityParams &params);

    nixlx::SecureSession *
    open(bool accepts) override;

    nixl_status_t
    sign(std::string_view bytes, std::string &signature) override;

    nixl_status_t
    verify(std::string_view agent, std::string_view bytes, std::string_view signature) override;

private:
    Security(std::unique_ptr<const Secret> secret, TlsContext context)
        : secret_(std::move(secret)),
          context_(std::move(context)) {}

    const std::unique_ptr<const Secret> secret_;
    const TlsContext context_;
};

} // namespace nx::tls
