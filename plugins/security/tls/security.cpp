// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "tls/security.h"

#include <array>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "tls/session.h"

namespace nx::tls {

namespace {

// A signature: what made it, the key that did, the HMAC.
constexpr std::string_view kMadeByKey = "key1";
constexpr size_t kCodeBytes = 32;

using Code = std::array<unsigned char, kCodeBytes>;

bool
authenticate(const Secret &secret, std::string_view bytes, Code &code) {
    size_t size = 0;
    return EVP_Q_mac(nullptr, "HMAC", nullptr, "SHA256", nullptr, secret.signing().data(), secret.signing().size(),
                     reinterpret_cast<const unsigned char *>(bytes.data()), bytes.size(), code.data(), code.size(),
                     &size) != nullptr &&
        size == code.size();
}

} // namespace

Result<std::unique_ptr<Security>>
Security::create(const nixlx::SecurityParams &params) {
    // The program may end while agents of static storage still need the library.
    OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
    auto secret = Secret::read(params.secret_file);
    if (!secret.ok()) return std::move(secret).status();
    auto context = Session::makeContext();
    if (!context.ok()) return std::move(context).status();
    return std::unique_ptr<Security>(new Security(*std::move(secret), *std::move(context)));
}

nixlx::SecureSession *
Security::open(bool accepts) {
    return new Session(*context_, *secret_, accepts);
}

nixl_status_t
Security::sign(std::string_view bytes, std::string &signature) {
    Code code;
    if (!authenticate(*secret_, bytes, code)) return nixlx::fail(NIXL_ERR_BACKEND, "OpenSSL's HMAC failed");
    signature.append(kMadeByKey).append(secret_->id()).append(code.begin(), code.end());
    return NIXL_SUCCESS;
}

nixl_status_t
Security::verify(std::string_view, std::string_view bytes, std::string_view signature) {
    const size_t id_bytes = secret_->id().size();
    if (signature.size() != kMadeByKey.size() + id_bytes + kCodeBytes || !signature.starts_with(kMadeByKey)) {
        return nixlx::fail(NIXL_ERR_MISMATCH, "the signature is none that a shared key makes");
    }
    if (signature.substr(kMadeByKey.size(), id_bytes) != secret_->id()) {
        return nixlx::fail(NIXL_ERR_NOT_ALLOWED, "it was signed with another key");
    }
    Code code;
    if (!authenticate(*secret_, bytes, code)) return nixlx::fail(NIXL_ERR_BACKEND, "OpenSSL's HMAC failed");
    if (CRYPTO_memcmp(code.data(), signature.data() + kMadeByKey.size() + id_bytes, code.size()) != 0) {
        return nixlx::fail(NIXL_ERR_MISMATCH, "it was changed after it was signed, or the signature was");
    }
    return NIXL_SUCCESS;
}

} // namespace nx::tls
