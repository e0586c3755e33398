// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "tls/session.h"

#include <algorithm>
#include <openssl/err.h>

namespace nx::tls {

namespace {

constexpr unsigned char kSuite[] = {0x13, 0x01}; // TLS_AES_128_GCM_SHA256
constexpr char kSuiteName[] = "TLS_AES_128_GCM_SHA256";
constexpr size_t kReadBytes = 16 << 10; // a TLS record
constexpr size_t kRecordHeadBytes = 5;
constexpr unsigned char kHandshakeRecord = 22;
constexpr char kNoKey[] = "it does not prove itself: it speaks without a key, or is no agent";
constexpr char kOtherKey[] = "it has another key; give all agents of a group the same NIXL_SECRET_FILE";

/// What OpenSSL takes for a key. Null: there is no memory for it.
SSL_SESSION *
keyFor(SSL *tls, const Secret &secret) {
    SSL_SESSION *session = SSL_SESSION_new();
    const SSL_CIPHER *suite = SSL_CIPHER_find(tls, kSuite);
    if (session && suite &&
        SSL_SESSION_set1_master_key(session, secret.channel().data(), secret.channel().size()) == 1 &&
        SSL_SESSION_set_cipher(session, suite) == 1 && SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1) {
        return session;
    }
    SSL_SESSION_free(session);
    return nullptr;
}

} // namespace

int
Session::keyToConnect(SSL *tls,
                      const EVP_MD *digest,
                      const unsigned char **id,
                      size_t *id_bytes,
                      SSL_SESSION **session) {
    *session = nullptr;
    *id = nullptr;
    *id_bytes = 0;
    if (digest && !EVP_MD_is_a(digest, "SHA256")) return 1;
    const Secret &secret = static_cast<const Session *>(SSL_get_app_data(tls))->secret_;
    *session = keyFor(tls, secret);
    if (!*session) return 0;
    *id = reinterpret_cast<const unsigned char *>(secret.id().data());
    *id_bytes = secret.id().size();
    return 1;
}

int
Session::keyToAccept(SSL *tls, const unsigned char *id, size_t id_bytes, SSL_SESSION **session) {
    *session = nullptr;
    Session &self = *static_cast<Session *>(SSL_get_app_data(tls));
    self.other_key_ = std::string_view(reinterpret_cast<const char *>(id), id_bytes) != self.secret_.id();
    if (self.other_key_) return 1; // without a key there is no handshake
    *session = keyFor(tls, self.secret_);
    return *session ? 1 : 0;
}

Result<TlsContext>
Session::makeContext() {
    ERR_clear_error();
    TlsContext context(SSL_CTX_new(TLS_method()), SSL_CTX_free);
    const bool able = context && SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION) == 1 &&
        SSL_CTX_set_max_proto_version(context.get(), TLS1_3_VERSION) == 1 &&
        SSL_CTX_set_ciphersuites(context.get(), kSuiteName) == 1 && SSL_CTX_set_num_tickets(context.get(), 0) == 1;
    if (!able) {
        const char *reason = ERR_reason_error_string(ERR_peek_last_error());
        return {NIXL_ERR_BACKEND, std::string("OpenSSL offers no TLS 1.3: ") + (reason ? reason : "no reason given")};
    }
    SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS | SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_psk_use_session_callback(context.get(), keyToConnect);
    SSL_CTX_set_psk_find_session_callback(context.get(), keyToAccept);
    return context;
}

Session::Session(SSL_CTX &context, const Secret &secret, bool accepts)
    : context_(context),
      secret_(secret),
      accepts_(accepts) {}

nixl_status_t
Session::startTls() {
    ERR_clear_error();
    tls_.reset(SSL_new(&context_));
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    if (!tls_ || !in_ || !out_) {
        BIO_free(in_);
        BIO_free(out_);
        tls_.reset();
        return nixlx::fail(NIXL_ERR_NO_MEMORY, "no memory for a connection");
    }
    SSL_set_bio(tls_.get(), in_, out_);
    SSL_set_app_data(tls_.get(), this);
    if (accepts_) {
        SSL_set_accept_state(tls_.get());
    } else {
        SSL_set_connect_state(tls_.get());
        // Whoever accepts with a certificate instead of the key fails: none is trusted.
        SSL_set_verify(tls_.get(), SSL_VERIFY_PEER, nullptr);
    }
    return NIXL_SUCCESS;
}

nixl_status_t
Session::begin(std::string &out) {
    if (accepts_) return NIXL_SUCCESS; // the other end begins
    if (auto status = startTls(); status < 0) return status;
    const auto status = shakeHands();
    takeOut(out);
    return status;
}

/// Collects the first message of whoever connects. `whole` is not empty once it is there.
nixl_status_t
Session::takeHello(std::string_view &bytes, std::string &whole) {
    const auto byte = [&](size_t at) { return static_cast<unsigned char>(hello_[at]); };
    while (!bytes.empty()) {
        size_t wanted = kRecordHeadBytes;
        if (hello_.size() >= kRecordHeadBytes) wanted += size_t{byte(3)} << 8 | byte(4);
        const size_t part = std::min(wanted - hello_.size(), bytes.size());
        hello_.append(bytes.substr(0, part));
        bytes.remove_prefix(part);
        if (byte(0) != kHandshakeRecord || (hello_.size() > 1 && byte(1) != 3)) {
            return nixlx::fail(NIXL_ERR_NOT_ALLOWED, kNoKey);
        }
        if (hello_.size() < kRecordHeadBytes) return NIXL_SUCCESS;
        wanted = kRecordHeadBytes + (size_t{byte(3)} << 8 | byte(4));
        if (wanted > kHelloBytesMax) return nixlx::fail(NIXL_ERR_NOT_ALLOWED, kNoKey);
        if (hello_.size() < wanted) continue;
        whole.swap(hello_);
        std::string().swap(hello_);
        return startTls();
    }
    return NIXL_SUCCESS;
}

nixl_status_t
Session::receive(std::string_view bytes, std::string &plain, std::string &out) {
    std::string hello;
    if (!tls_) {
        if (!accepts_) return nixlx::fail(NIXL_ERR_BACKEND, "the connection has not begun");
        if (const auto status = takeHello(bytes, hello); status < 0) return status;
        if (!tls_) return NIXL_SUCCESS;
    }
    for (const std::string_view part : {std::string_view(hello), bytes}) {
        if (part.empty()) continue;
        if (BIO_write(in_, part.data(), static_cast<int>(part.size())) != static_cast<int>(part.size())) {
            return nixlx::fail(NIXL_ERR_NO_MEMORY, "no memory for what has arrived");
        }
    }
    auto status = proven_ ? NIXL_SUCCESS : shakeHands();
    if (status >= 0 && proven_) status = read(plain);
    takeOut(out);
    return status;
}

nixl_status_t
Session::shakeHands() {
    ERR_clear_error();
    const int result = SSL_do_handshake(tls_.get());
    if (result != 1) return failed(result);
    if (SSL_session_reused(tls_.get()) != 1) return nixlx::fail(NIXL_ERR_NOT_ALLOWED, kOtherKey);
    proven_ = true;
    return NIXL_SUCCESS;
}

nixl_status_t
Session::read(std::string &plain) {
    char bytes[kReadBytes];
    for (;;) {
        ERR_clear_error();
        const int got = SSL_read(tls_.get(), bytes, sizeof bytes);
        if (got <= 0) return failed(got);
        plain.append(bytes, static_cast<size_t>(got));
    }
}

nixl_status_t
Session::send(std::string_view plain, std::string &out) {
    if (!proven_) return nixlx::fail(NIXL_ERR_BACKEND, "the other end has not proven itself");
    while (!plain.empty()) {
        ERR_clear_error();
        const auto part = std::min(plain.size(), kReadBytes);
        const int put = SSL_write(tls_.get(), plain.data(), static_cast<int>(part));
        if (put <= 0) return failed(put);
        plain.remove_prefix(static_cast<size_t>(put));
    }
    takeOut(out);
    return NIXL_SUCCESS;
}

void
Session::takeOut(std::string &out) {
    char *bytes = nullptr;
    const long size = BIO_get_mem_data(out_, &bytes);
    if (size <= 0) return;
    out.append(bytes, static_cast<size_t>(size));
    (void)BIO_reset(out_);
}

/// What an unfinished call means: more bytes are needed, which is no failure, or why not.
nixl_status_t
Session::failed(int result) {
    const int error = SSL_get_error(tls_.get(), result);
    if (error == SSL_ERROR_WANT_READ) return NIXL_SUCCESS;
    if (error == SSL_ERROR_ZERO_RETURN) return nixlx::fail(NIXL_ERR_REMOTE_DISCONNECT, "it ended the connection");
    const auto code = ERR_peek_error();
    const int reason = ERR_GET_REASON(code);
    const char *text = ERR_reason_error_string(code);
    const std::string why = text ? text : "no reason given";
    ERR_clear_error();
    if (proven_) return nixlx::fail(NIXL_ERR_MISMATCH, "the bytes of its connection were changed: " + why);
    const bool refused = reason == SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE || reason == SSL_R_TLSV1_ALERT_DECRYPT_ERROR;
    if (other_key_ || refused || reason == SSL_R_BINDER_DOES_NOT_VERIFY) {
        return nixlx::fail(NIXL_ERR_NOT_ALLOWED, kOtherKey);
    }
    if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST) {
        return nixlx::fail(NIXL_ERR_NOT_ALLOWED, kNoKey);
    }
    return nixlx::fail(NIXL_ERR_NOT_ALLOWED, "it does not prove that it has the key: " + why);
}

} // namespace nx::tls
