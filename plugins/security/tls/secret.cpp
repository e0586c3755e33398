// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "tls/secret.h"

#include <algorithm>
#include <bitset>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/ownership.h"

namespace nx::tls {

namespace {

constexpr size_t kRandomBytesMin = 16;
constexpr size_t kDifferentBytesMin = 8; // so many are in any 16 random bytes, and not in "passwordpassword"
constexpr char kHowTo[] = "; make a key with: (umask 077; openssl rand -base64 32 > FILE)";

bool
isHex(unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

bool
isPrintable(unsigned char c) {
    return c >= ' ' && c <= '~';
}

/// How many random bytes it can be made of, taking text for hexadecimal digits or base64.
size_t
randomBytesIn(std::span<const unsigned char> secret) {
    if (std::all_of(secret.begin(), secret.end(), isHex)) return secret.size() / 2;
    if (std::all_of(secret.begin(), secret.end(), isPrintable)) return secret.size() * 3 / 4;
    return secret.size();
}

size_t
differentBytesIn(std::span<const unsigned char> secret) {
    std::bitset<256> seen;
    for (const auto byte : secret) seen.set(byte);
    return seen.count();
}

std::string
octal(mode_t mode) {
    char text[8];
    std::snprintf(text, sizeof text, "%04o", static_cast<unsigned>(mode & 07777));
    return text;
}

/// What others may do with the file, as for the keys of other servers: of root's own, a group may be given to read it.
Status
checkAccess(const struct stat &info) {
    if (!S_ISREG(info.st_mode)) return {NIXL_ERR_INVALID_PARAM, "it is no regular file"};
    if (const auto problem = changeableByOthers("it", info); !problem.empty()) return {NIXL_ERR_NOT_ALLOWED, problem};
    const mode_t others = info.st_uid == 0 ? S_IRWXO : S_IRWXO | S_IRWXG;
    if ((info.st_mode & others) == 0) return {};
    return {NIXL_ERR_NOT_ALLOWED,
            "it can be read by others (mode " + octal(info.st_mode) + "); take that away with chmod go-rwx"};
}

/// Into the page; how many bytes.
Result<size_t>
readInto(std::span<unsigned char> place, int fd) {
    size_t got = 0;
    while (got < place.size()) {
        const ssize_t more = ::read(fd, place.data() + got, place.size() - got);
        if (more < 0 && errno == EINTR) continue;
        if (more < 0) return {NIXL_ERR_NOT_FOUND, withErrno("read", errno)};
        if (more == 0) break;
        got += static_cast<size_t>(more);
    }
    return got;
}

struct Derivation {
    std::string_view purpose;
    std::span<unsigned char> key;
};

/// HKDF with SHA-256 (RFC 5869).
bool
derive(std::span<const unsigned char> secret, const Derivation &wanted) {
    const std::unique_ptr<EVP_KDF, decltype(&EVP_KDF_free)> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr), EVP_KDF_free);
    const std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(kdf ? EVP_KDF_CTX_new(kdf.get()) : nullptr,
                                                                            EVP_KDF_CTX_free);
    if (!context) return false;
    char digest[] = "SHA256", salt[] = "nixl control plane 1";
    const auto bytes = [](const char *name, const void *data, size_t size) {
        return OSSL_PARAM_construct_octet_string(name, const_cast<void *>(data), size);
    };
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        bytes(OSSL_KDF_PARAM_KEY, secret.data(), secret.size()),
        bytes(OSSL_KDF_PARAM_SALT, salt, sizeof salt - 1),
        bytes(OSSL_KDF_PARAM_INFO, wanted.purpose.data(), wanted.purpose.size()),
        OSSL_PARAM_construct_end(),
    };
    return EVP_KDF_derive(context.get(), wanted.key.data(), wanted.key.size(), params) == 1;
}

} // namespace

Result<HiddenPage>
HiddenPage::make() {
    void *bytes = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) return {NIXL_ERR_NO_MEMORY, withErrno("memory for the key", errno)};
    // Older kernels know neither; the key works without.
    (void)::madvise(bytes, kBytes, MADV_DONTDUMP);
    (void)::madvise(bytes, kBytes, MADV_WIPEONFORK);
    return HiddenPage(static_cast<unsigned char *>(bytes));
}

HiddenPage::HiddenPage(HiddenPage &&other) noexcept : bytes_(std::exchange(other.bytes_, nullptr)) {}

HiddenPage::~HiddenPage() {
    if (!bytes_) return;
    OPENSSL_cleanse(bytes_, kBytes);
    ::munmap(bytes_, kBytes);
}

Result<std::unique_ptr<Secret>>
Secret::read(const std::string &path) {
    const auto refused = [](nixl_status_t code, const std::string &why) { return Status(code, why + kHowTo); };
    const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (!file) {
        const auto code = errno == EACCES || errno == EPERM ? NIXL_ERR_NOT_ALLOWED : NIXL_ERR_NOT_FOUND;
        return refused(code, withErrno("open", errno));
    }
    struct stat info;
    if (::fstat(file.get(), &info) != 0) return {NIXL_ERR_NOT_FOUND, withErrno("stat", errno)};
    if (auto status = checkAccess(info); !status.ok()) return status;

    auto page = HiddenPage::make();
    auto source = HiddenPage::make();
    if (!page.ok() || !source.ok()) return page.ok() ? std::move(source).status() : std::move(page).status();
    const auto place = source->bytes().first<kSecretBytesMax + 1>();
    auto size = readInto(place, file.get());
    if (!size.ok()) return std::move(size).status();
    if (*size > kSecretBytesMax) {
        return refused(NIXL_ERR_INVALID_PARAM,
                       "it has more than " + std::to_string(kSecretBytesMax) + " bytes, so it is no key");
    }
    while (*size > 0 && (place[*size - 1] == '\n' || place[*size - 1] == '\r')) --*size; // an editor's line end
    const std::span<const unsigned char> secret = place.first(*size);
    if (randomBytesIn(secret) < kRandomBytesMin || differentBytesIn(secret) < kDifferentBytesMin) {
        return refused(NIXL_ERR_INVALID_PARAM,
                       "it is weak: fewer than " + std::to_string(kRandomBytesMin) +
                           " random bytes, or too few different ones");
    }
    const auto keys = page->bytes();
    unsigned char id[sizeof(Id)];
    if (!derive(secret, {"channel", keys.subspan(0, kKeyBytes)}) ||
        !derive(secret, {"metadata", keys.subspan(kKeyBytes, kKeyBytes)}) || !derive(secret, {"id", id})) {
        return {NIXL_ERR_BACKEND, "OpenSSL's HKDF failed"};
    }
    Id shown;
    std::copy(std::begin(id), std::end(id), shown.begin());
    return std::unique_ptr<Secret>(new Secret(*std::move(page), shown));
}

} // namespace nx::tls
