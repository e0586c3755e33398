// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "obj/answer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <strings.h>

#include "base/error.h"

namespace nx::obj {

namespace {

bool
isNamed(std::string_view name, std::string_view wanted) noexcept {
    return name.size() == wanted.size() && strncasecmp(name.data(), wanted.data(), name.size()) == 0;
}

bool
isSpace(char c) noexcept {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/// All of it, or nothing.
std::optional<uint64_t>
number(std::string_view text) noexcept {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return {};
    return value;
}

constexpr std::array<std::pair<std::string_view, char>, 5> kEntities{
    {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}}};

/// "&#34;", "&#x22;": of ASCII only; 0: it is none.
char
numericEntity(std::string_view &text) noexcept {
    const size_t end = text.find(';');
    if (!text.starts_with("&#") || end == std::string_view::npos || end > 8) return 0;
    std::string_view digits = text.substr(2, end - 2);
    const bool hexadecimal = digits.starts_with('x');
    if (hexadecimal) digits.remove_prefix(1);
    unsigned value = 0;
    const auto [stop, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, hexadecimal ? 16 : 10);
    if (error != std::errc() || stop != digits.data() + digits.size() || value == 0 || value > 127) return 0;
    text.remove_prefix(end + 1);
    return static_cast<char>(value);
}

std::string
unescaped(std::string_view text) {
    std::string plain;
    while (!text.empty()) {
        if (text.front() == '&') {
            const auto known = std::find_if(kEntities.begin(), kEntities.end(),
                                            [&](const auto &entity) { return text.starts_with(entity.first); });
            if (known != kEntities.end()) {
                plain += known->second;
                text.remove_prefix(known->first.size());
                continue;
            }
            if (const char c = numericEntity(text)) {
                plain += c;
                continue;
            }
        }
        plain += text.front();
        text.remove_prefix(1);
    }
    return plain;
}

struct Known {
    std::string_view code;
    Verdict::Next next;
    nixl_status_t status;
    std::string_view advice;
};

constexpr Verdict::Next kRetry = Verdict::Next::kRetry, kSlower = Verdict::Next::kSlower, kFail = Verdict::Next::kFail;

/// What S3 calls its errors.
constexpr Known kKnown[] = {
    {"InternalError", kRetry, NIXL_ERR_BACKEND, ""},
    {"RequestTimeout", kRetry, NIXL_ERR_BACKEND, ""},
    {"OperationAborted", kRetry, NIXL_ERR_BACKEND, ""},
    {"ConditionalRequestConflict", kRetry, NIXL_ERR_BACKEND, ""},
    {"BadDigest", kRetry, NIXL_ERR_INTEGRITY, ""},
    {"XAmzContentChecksumMismatch", kRetry, NIXL_ERR_INTEGRITY, ""},
    {"IncompleteBody", kRetry, NIXL_ERR_BACKEND, ""},
    {"SlowDown", kSlower, NIXL_ERR_BACKEND, ""},
    {"ServiceUnavailable", kSlower, NIXL_ERR_BACKEND, ""},
    {"Throttling", kSlower, NIXL_ERR_BACKEND, ""},
    {"RequestTimeTooSkewed", Verdict::Next::kClock, NIXL_ERR_NOT_ALLOWED, "set the clock of this host"},
    {"ExpiredToken", Verdict::Next::kCredentials, NIXL_ERR_NOT_ALLOWED, "give new credentials"},
    {"InvalidToken", Verdict::Next::kCredentials, NIXL_ERR_NOT_ALLOWED, "give new credentials"},
    {"NoSuchKey", kFail, NIXL_ERR_NOT_FOUND, ""},
    {"NoSuchBucket", kFail, NIXL_ERR_NOT_FOUND, "create the bucket or set \"bucket\""},
    {"InvalidAccessKeyId", kFail, NIXL_ERR_NOT_ALLOWED, "check \"access_key\" or where the credentials come from"},
    {"XAdminUserNotFound", kFail, NIXL_ERR_NOT_ALLOWED,
     "check \"access_key\" or where the credentials come from"}, // versitygw's
    {"SignatureDoesNotMatch", kFail, NIXL_ERR_NOT_ALLOWED,
     "check \"secret_key\" or where the credentials come from, and what is between here and the server"},
    {"AuthorizationHeaderMalformed", kFail, NIXL_ERR_NOT_ALLOWED, "check \"region\""},
    {"PreconditionFailed", kFail, NIXL_ERR_MISMATCH, ""},
};

/// Where there is no code, or one that is not known.
Known
knownByHttp(int http) noexcept {
    switch (http) {
    case 401:
    case 403: return {"", kFail, NIXL_ERR_NOT_ALLOWED, "check the credentials and what they allow"};
    case 404: return {"", kFail, NIXL_ERR_NOT_FOUND, ""};
    case 408:
    case 500:
    case 502:
    case 504: return {"", kRetry, NIXL_ERR_BACKEND, ""};
    case 412: return {"", kFail, NIXL_ERR_MISMATCH, ""};
    case 429:
    case 503: return {"", kSlower, NIXL_ERR_BACKEND, ""};
    default: return {"", kFail, NIXL_ERR_BACKEND, ""};
    }
}

} // namespace

void
Answer::take(std::string_view name, std::string_view value) {
    if (isNamed(name, "etag")) etag = value;
    else if (isNamed(name, "content-length")) length = number(value);
    else if (isNamed(name, "content-range")) range = parseContentRange(value);
    else if (isNamed(name, "x-amz-checksum-crc32c")) checksum = value;
    else if (isNamed(name, "x-amz-request-id")) request_id = value;
    else if (isNamed(name, "x-amz-bucket-region")) region = value;
    else if (isNamed(name, "location")) location = value;
    else if (isNamed(name, "date")) date = value;
    else if (isNamed(name, "retry-after")) {
        retry_after = std::chrono::seconds(std::min<uint64_t>(number(value).value_or(0), 3600));
    }
}

std::optional<ContentRange>
parseContentRange(std::string_view value) noexcept {
    if (!value.starts_with("bytes ")) return {};
    value.remove_prefix(6);
    const size_t dash = value.find('-'), slash = value.find('/');
    if (dash == std::string_view::npos || slash == std::string_view::npos || slash < dash) return {};
    const auto first = number(value.substr(0, dash)), last = number(value.substr(dash + 1, slash - dash - 1));
    if (!first || !last || *first > *last) return {};
    const std::string_view total_text = value.substr(slash + 1);
    if (total_text == "*") return ContentRange{*first, *last, {}};
    const auto total = number(total_text);
    if (!total || *total <= *last) return {};
    return ContentRange{*first, *last, total};
}

std::string_view
xmlRoot(std::string_view text) noexcept {
    for (;;) {
        while (!text.empty() && isSpace(text.front())) text.remove_prefix(1);
        const bool prolog = text.starts_with("<?"), comment = text.starts_with("<!");
        if (!prolog && !comment) break;
        const size_t end = text.find('>');
        if (end == std::string_view::npos) return {};
        text.remove_prefix(end + 1);
    }
    if (!text.starts_with('<')) return {};
    text.remove_prefix(1);
    std::string_view name = text.substr(0, text.find_first_of(" \t\r\n/>"));
    if (const size_t colon = name.find(':'); colon != std::string_view::npos) name.remove_prefix(colon + 1);
    return name;
}

std::string
xmlText(std::string_view text, std::string_view element) {
    for (size_t at = text.find('<'); at != std::string_view::npos; at = text.find('<', at + 1)) {
        std::string_view rest = text.substr(at + 1);
        if (!rest.starts_with(element)) continue;
        rest.remove_prefix(element.size());
        if (rest.empty() || (rest.front() != '>' && !isSpace(rest.front()))) continue;
        const size_t begin = rest.find('>');
        if (begin == std::string_view::npos) return {};
        rest.remove_prefix(begin + 1);
        const std::string_view inside = rest.substr(0, rest.find('<'));
        rest.remove_prefix(inside.size());
        if (!rest.starts_with("</")) continue; // cut off, or there are others in it
        return unescaped(inside);
    }
    return {};
}

std::string
xmlEscaped(std::string_view text) {
    std::string escaped;
    for (const char c : text) {
        const auto entity =
            std::find_if(kEntities.begin(), kEntities.end(), [&](const auto &each) { return each.second == c; });
        if (entity == kEntities.end()) escaped += c;
        else escaped += entity->first;
    }
    return escaped;
}

Verdict
judge(const Answer &answer) {
    const bool error = xmlRoot(answer.text) == "Error";
    const std::string code = error ? xmlText(answer.text, "Code") : "";
    Known known = knownByHttp(answer.http);
    for (const Known &each : kKnown) {
        if (each.code == code) known = each;
    }
    const auto append = [](std::string &to, const std::string &what, const std::string &value) {
        if (!value.empty()) to += ", " + what + " " + quoted(value, 200);
    };
    std::string reason = "the server says " + (code.empty() ? std::string() : code.substr(0, 80) + " (") +
        std::to_string(answer.http) + (code.empty() ? "" : ")");
    // The code is of a stranger, too.
    for (char &c : reason) c = static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e ? '?' : c;
    if (error) append(reason, "message", xmlText(answer.text, "Message"));
    std::string id = answer.request_id;
    if (id.empty() && error) id = xmlText(answer.text, "RequestId");
    append(reason, "request id", id);
    const std::string region = !answer.region.empty() || !error ? answer.region : xmlText(answer.text, "Region");
    if (answer.http >= 300 && answer.http < 400) {
        append(reason, "which sends requests to", answer.location);
        append(reason, "the bucket's region is", region);
        reason += "; this backend does not follow: set \"endpoint_override\" or \"region\"";
    } else if (known.next == kFail && !region.empty() && known.code == "AuthorizationHeaderMalformed") {
        append(reason, "the bucket's region is", region);
    }
    if (!known.advice.empty()) reason += "; " + std::string(known.advice);
    return {known.next, known.status, std::move(reason)};
}

} // namespace nx::obj
