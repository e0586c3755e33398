// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/certificate.h"

#include <cstdio>
#include <memory>
#include <stdexcept>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

namespace nx::test {

namespace {

void
must(bool right, const char *what) {
    if (!right) throw std::runtime_error(std::string("certificate: ") + what);
}

template<class Write>
void
write(const std::string &path, Write write) {
    std::FILE *const file = std::fopen(path.c_str(), "w");
    must(file, "cannot write the file");
    const bool written = write(file) == 1;
    must(std::fclose(file) == 0 && written, "cannot write the file");
}

void
extend(X509 *certificate, int kind, const char *value) {
    const std::unique_ptr<X509_EXTENSION, decltype(&X509_EXTENSION_free)> extension(
        X509V3_EXT_conf_nid(nullptr, nullptr, kind, value), &X509_EXTENSION_free);
    must(extension && X509_add_ext(certificate, extension.get(), -1), "cannot add an extension");
}

} // namespace

void
writeCertificate(const std::string &certificate_path, const std::string &key_path) {
    const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(EVP_EC_gen("P-256"), &EVP_PKEY_free);
    const std::unique_ptr<X509, decltype(&X509_free)> certificate(X509_new(), &X509_free);
    must(key && certificate, "cannot make a key");
    X509 *const x = certificate.get();
    constexpr long kDay = 24 * 3600;
    X509_set_version(x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -kDay);
    X509_gmtime_adj(X509_getm_notAfter(x), kDay);
    X509_NAME *const name = X509_get_subject_name(x);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char *>("nixl test"), -1, -1,
                               0);
    X509_set_issuer_name(x, name);
    X509_set_pubkey(x, key.get());
    extend(x, NID_subject_alt_name, "IP:127.0.0.1,DNS:localhost,DNS:*.localhost");
    extend(x, NID_basic_constraints, "critical,CA:TRUE");
    must(X509_sign(x, key.get(), EVP_sha256()) != 0, "cannot sign");
    write(certificate_path, [&](std::FILE *file) { return PEM_write_X509(file, x); });
    write(key_path, [&](std::FILE *file) {
        return PEM_write_PrivateKey(file, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    });
}

} // namespace nx::test
