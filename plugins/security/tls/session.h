// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One end of a TLS 1.3 connection whose ends prove to each other that they have the shared key (an external pre-shared
// key with ephemeral Diffie-Hellman). Nothing but that is offered or taken: no certificates, no older versions, no
// resumption, no early data. Confined to one caller at a time.
#pragma once

#include <memory>
#include <openssl/ssl.h>
#include <string>

#include "nixlx/security.h"
#include "tls/secret.h"
#include "tls/security.h"

namespace nx::tls {

class Session final : public nixlx::SecureSession {
public:
    /// A stranger's first message is at most this long, headers included: ours have about 300 bytes.
    static constexpr size_t kHelloBytesMax = 4096;

    /// What all sessions of an agent have in common. BACKEND: this OpenSSL cannot do it.
    static Result<TlsContext>
    makeContext();

    Session(SSL_CTX &context, const Secret &secret, bool accepts);

    nixl_status_t
    begin(std::string &out) override;
    nixl_status_t
    receive(std::string_view bytes, std::string &plain, std::string &out) override;
    bool
    proven() const noexcept override {
        return proven_;
    }
    nixl_status_t
    send(std::string_view plain, std::string &out) override;

private:
    // OpenSSL asks these for the shared key.
    static int
    keyToConnect(SSL *tls, const EVP_MD *digest, const unsigned char **id, size_t *id_bytes, SSL_SESSION **session);
    static int
    keyToAccept(SSL *tls, const unsigned char *id, size_t id_bytes, SSL_SESSION **session);

    nixl_status_t
    startTls();
    nixl_status_t
    takeHello(std::string_view &bytes, std::string &whole);
    nixl_status_t
    shakeHands();
    nixl_status_t
    read(std::string &plain);
    void
    takeOut(std::string &out);
    nixl_status_t
    failed(int result);

    SSL_CTX &context_;
    const Secret &secret_;
    const bool accepts_;
    std::string hello_; ///< of a stranger, until it is whole: only then is memory spent on him
    std::unique_ptr<SSL, decltype(&SSL_free)> tls_{nullptr, SSL_free};
    BIO *in_ = nullptr, *out_ = nullptr; ///< tls_'s
    bool proven_ = false;
    bool other_key_ = false; ///< the connecting end named a key that is not ours
};

} // namespace nx::tls
