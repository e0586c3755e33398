// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "etcd/answers.h"

#include <array>
#include <charconv>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace nx::etcd {

namespace {

using Json = nlohmann::json;

constexpr int kDepthMax = 16;
constexpr size_t kValuesMax = 100'000; // a value costs some 50 times its shortest text
constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What is wrong with an answer. Does not leave this file.
struct Malformed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

Json
parsed(std::string_view text) {
    size_t values = 0;
    return Json::parse(text, [&](int depth, Json::parse_event_t, Json &) {
        if (depth > kDepthMax || ++values > kValuesMax)
            throw Malformed("it is nested too deeply or has too many parts");
        return true;
    });
}

/// The member, or null, as for all that etcd leaves out because it is zero or empty.
const Json &
member(const Json &object, const char *name) {
    static const Json none;
    if (object.is_null()) return none;
    if (!object.is_object()) throw Malformed(std::string("there is no object around ") + name);
    const auto it = object.find(name);
    return it == object.end() ? none : *it;
}

const Json &
list(const Json &object, const char *name) {
    static const Json empty = Json::array();
    const auto &found = member(object, name);
    if (found.is_null()) return empty;
    if (!found.is_array()) throw Malformed(std::string(name) + " is no list");
    return found;
}

std::string
text(const Json &object, const char *name) {
    const auto &found = member(object, name);
    if (found.is_null()) return {};
    if (!found.is_string()) throw Malformed(std::string(name) + " is no text");
    return found.get_ref<const std::string &>();
}

bool
flag(const Json &object, const char *name) {
    const auto &found = member(object, name);
    if (found.is_null()) return false;
    if (!found.is_boolean()) throw Malformed(std::string(name) + " is neither true nor false");
    return found.get<bool>();
}

/// 64 bits come as text, since JavaScript has 53; smaller ones as numbers.
int64_t
number(const Json &object, const char *name) {
    const auto &found = member(object, name);
    if (found.is_null()) return 0;
    if (found.is_number_integer()) return found.get<int64_t>();
    int64_t value = 0;
    if (found.is_string()) {
        const auto &digits = found.get_ref<const std::string &>();
        const auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
        if (failure == std::errc() && end == digits.data() + digits.size()) return value;
    }
    throw Malformed(std::string(name) + " is no number");
}

std::string
bytes(const Json &object, const char *name) {
    auto decoded = fromBase64(text(object, name));
    if (!decoded) throw Malformed(std::string(name) + " is not in base64");
    return *std::move(decoded);
}

std::vector<Pair>
pairs(const Json &range) {
    std::vector<Pair> found;
    for (const auto &kv : list(range, "kvs")) {
        found.push_back({bytes(kv, "key"), bytes(kv, "value"), number(kv, "lease"), number(kv, "mod_revision")});
    }
    return found;
}

Refusal
refusal(const Json &answer) {
    // In the middle of a stream it is in an object of its own.
    const auto &error = member(answer, "error");
    const Json &said = error.is_object() ? error : answer;
    Refusal refusal;
    refusal.code = number(said, "code");
    if (refusal.code == 0) refusal.code = number(said, "grpc_code");
    refusal.text = text(said, "message");
    if (refusal.text.empty() && error.is_string()) refusal.text = error.get<std::string>();
    return refusal;
}

template<class Read>
auto
read(std::string_view body, Read read) -> Result<decltype(read(Json()))> {
    try {
        return read(parsed(body));
    }
    catch (const Malformed &error) {
        return {NIXL_ERR_MISMATCH, std::string("the answer is not etcd's: ") + error.what()};
    }
    catch (const Json::exception &) {
        return {NIXL_ERR_MISMATCH, "the answer is not etcd's: it is no JSON"};
    }
}

} // namespace

std::string
toBase64(std::string_view bytes) {
    std::string out;
    out.reserve((bytes.size() + 2) / 3 * 4);
    for (size_t i = 0; i < bytes.size(); i += 3) {
        const auto part = bytes.substr(i, 3);
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; ++k) bits = bits << 8 | (k < part.size() ? static_cast<unsigned char>(part[k]) : 0u);
        for (size_t k = 0; k < 4; ++k) out += k <= part.size() ? kDigits[bits >> (18 - 6 * k) & 63] : '=';
    }
    return out;
}

std::optional<std::string>
fromBase64(std::string_view text) {
    static const auto values = [] {
        std::array<uint8_t, 256> table;
        table.fill(255);
        for (uint8_t i = 0; i < 64; ++i) table[static_cast<unsigned char>(kDigits[i])] = i;
        return table;
    }();
    if (text.size() % 4 != 0) return {};
    while (!text.empty() && text.back() == '=') text.remove_suffix(1);
    std::string out;
    out.reserve(text.size() / 4 * 3 + 2);
    uint32_t bits = 0;
    for (size_t i = 0; i < text.size(); ++i) {
        const auto value = values[static_cast<unsigned char>(text[i])];
        if (value == 255) return {};
        bits = bits << 6 | value;
        if (i % 4 != 0) out += static_cast<char>(bits >> (6 - 2 * (i % 4)));
    }
    if (text.size() % 4 == 1) return {};
    return out;
}

Result<TxnAnswer>
txnIn(std::string_view body) {
    return read(body, [](const Json &answer) {
        TxnAnswer txn;
        txn.succeeded = flag(answer, "succeeded");
        for (const auto &response : list(answer, "responses")) {
            txn.found.push_back(pairs(member(response, "response_range")));
        }
        return txn;
    });
}

Result<Lease>
leaseIn(std::string_view body) {
    return read(body, [](const Json &answer) {
        const auto &result = member(answer, "result");
        const Json &lease = result.is_null() ? answer : result;
        return Lease{number(lease, "ID"), number(lease, "TTL")};
    });
}

Result<std::string>
tokenIn(std::string_view body) {
    return read(body, [](const Json &answer) {
        auto token = text(answer, "token");
        if (token.empty() || token.find_first_of("\r\n") != std::string::npos) throw Malformed("it has no token");
        return token;
    });
}

Result<Notice>
noticeIn(std::string_view line) {
    return read(line, [](const Json &answer) {
        Notice notice;
        if (!member(answer, "error").is_null()) {
            notice.failure = refusal(answer).text;
            if (notice.failure.empty()) notice.failure = "it gives no reason";
            return notice;
        }
        const auto &result = member(answer, "result");
        notice.created = flag(result, "created");
        if (flag(result, "canceled")) {
            notice.failure = text(result, "cancel_reason");
            if (notice.failure.empty()) notice.failure = "the watch was cancelled";
        }
        for (const auto &event : list(result, "events")) {
            if (text(event, "type") == "DELETE") notice.deleted.push_back(bytes(member(event, "kv"), "key"));
        }
        return notice;
    });
}

std::optional<Refusal>
refusalIn(std::string_view body) {
    const auto said = read(body, refusal);
    if (!said.ok() || (said->code == 0 && said->text.empty())) return {};
    return *said;
}

} // namespace nx::etcd
