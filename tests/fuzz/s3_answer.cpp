// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An S3 server's answer: lines "name: value", an empty one, a body. A verdict has a printable sentence and one of the
// statuses for a failure; a range that is read lies within its object; what is found in XML is in it, and what is
// escaped is found again.
#include "obj/answer.h"

#include <algorithm>

#include "fuzz/invariant.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    std::string_view text = nx::fuzz::text(data, size);
    nx::obj::Answer answer;
    answer.http = size > 0 ? data[0] * 4 : 0;
    for (size_t end; (end = text.find('\n')) != std::string_view::npos;) {
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(end + 1);
        const size_t colon = line.find(": ");
        if (colon == std::string_view::npos) break;
        answer.take(line.substr(0, colon), line.substr(colon + 2));
    }
    answer.text = text;
    if (answer.range) {
        NX_INVARIANT(answer.range->first <= answer.range->last);
        NX_INVARIANT(!answer.range->total || answer.range->last < *answer.range->total);
    }
    const nx::obj::Verdict verdict = nx::obj::judge(answer);
    NX_INVARIANT(verdict.status < 0);
    NX_INVARIANT(!verdict.reason.empty() && verdict.reason.size() < 5000);
    NX_INVARIANT(
        std::all_of(verdict.reason.begin(), verdict.reason.end(), [](char c) { return c >= ' ' && c <= '~'; }));
    for (const char *element : {"Code", "Message", "UploadId"}) {
        NX_INVARIANT(nx::obj::xmlText(text, element).size() <= text.size());
    }
    NX_INVARIANT(nx::obj::xmlRoot(text).size() <= text.size());
    const std::string value(text.substr(0, 100));
    NX_INVARIANT(nx::obj::xmlText("<E>" + nx::obj::xmlEscaped(value) + "</E>", "E") == value);
    return 0;
}
