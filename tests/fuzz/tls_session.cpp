// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What strangers send to who has a key: nothing of it is taken for proven or said, and it ends with a sentence. The
// first byte says which end they speak to and how the bytes are cut.
#include <cstdlib>
#include <fstream>
#include <sys/stat.h>
#include <unistd.h>

#include "base/last_error.h"
#include "fuzz/invariant.h"
#include "tls/security.h"

namespace {

nx::tls::Security &
security() {
    static const auto made = [] {
        std::string path = "/tmp/nixl-fuzz-XXXXXX";
        ::close(::mkstemp(path.data()));
        std::ofstream(path) << "qL3vN8xT2mZ7rB5cY0wK9dF4hJ6gS1pA";
        auto opened = nx::tls::Security::create({"A", path});
        ::unlink(path.c_str());
        NX_INVARIANT(opened.ok());
        return *std::move(opened);
    }();
    return *made;
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const std::string_view bytes = nx::fuzz::text(data + 1, size - 1);
    const size_t piece = data[0] & 0x7f ? size_t{data[0] & 0x7fU} : size;
    const std::unique_ptr<nixlx::SecureSession> session(security().open(data[0] & 0x80));
    std::string plain, out;
    NX_INVARIANT(session->begin(out) == NIXL_SUCCESS);
    for (size_t at = 0; at < bytes.size(); at += piece) {
        nx::clearBackendSentence();
        const auto status = session->receive(bytes.substr(at, piece), plain, out);
        NX_INVARIANT(!session->proven() && plain.empty() && out.size() < 4096);
        if (status >= 0) continue;
        const auto why = nx::takeBackendSentence("");
        NX_INVARIANT(!why.empty() && why.size() < 500 && why.find("qL3v") == std::string::npos);
        break;
    }
    return 0;
}
