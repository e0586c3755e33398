// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A certificate for tests with TLS. Free function, thread-safe.
#pragma once

#include <string>

namespace nx::test {

/// Writes a new key and a certificate of it for 127.0.0.1 and localhost, signed by itself, in PEM. Throws
/// std::runtime_error.
void
writeCertificate(const std::string &certificate, const std::string &key);

} // namespace nx::test
