// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What etcd may answer: every reader gives a value or MISMATCH with a short sentence, and base64 is read as it is
// written.
#include "etcd/answers.h"

#include "fuzz/invariant.h"

namespace {

template<class T>
void
judge(const nx::Result<T> &result) {
    NX_INVARIANT(result.ok() || (result.code() == NIXL_ERR_MISMATCH && result.message().size() < 200));
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view bytes = nx::fuzz::text(data, size);
    using namespace nx::etcd;
    judge(txnIn(bytes));
    judge(leaseIn(bytes));
    judge(noticeIn(bytes));
    const auto token = tokenIn(bytes);
    judge(token);
    if (token.ok()) NX_INVARIANT(!token->empty() && token->find_first_of("\r\n") == std::string::npos);
    const auto refusal = refusalIn(bytes);
    if (refusal) NX_INVARIANT(refusal->code != 0 || !refusal->text.empty());

    NX_INVARIANT(fromBase64(toBase64(bytes)) == bytes);
    const auto decoded = fromBase64(bytes);
    if (decoded) NX_INVARIANT(decoded->size() <= bytes.size());
    return 0;
}
