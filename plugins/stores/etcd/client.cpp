// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "etcd/client.h"

#include <algorithm>
#include <array>
#include <mutex>

#include <curl/curl.h>
#include <nlohmann/json.hpp>

#include "etcd/answers.h"
#include "wire/limits.h"

namespace nx::etcd {

namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;

constexpr auto kConnect = 2000ms;
constexpr auto kTry = 2000ms;         // of one member, if there are others
constexpr auto kElection = 3000ms;    // without a leader there is no answer; then it is a failure
constexpr auto kElectionPause = 50ms; // between questions meanwhile
constexpr size_t kAnswerBytesMax = (wire::kBlobBytesMax / 3 + 1) * 4 + (size_t{1} << 20);

enum GrpcCode : int64_t {
    kInvalidArgument = 3,
    kDeadlineExceeded = 4,
    kNotFound = 5,
    kPermissionDenied = 7,
    kResourceExhausted = 8,
    kUnavailable = 14,
    kUnauthenticated = 16
};

bool
has(const std::string &text, const char *part) {
    return text.find(part) != std::string::npos;
}

nixl_status_t
statusOf(const Refusal &refusal) {
    if (has(refusal.text, "too large") || has(refusal.text, "larger than max")) return NIXL_ERR_INVALID_PARAM;
    if (has(refusal.text, "database space exceeded")) return NIXL_ERR_NO_MEMORY;
    if (has(refusal.text, "authentication failed") || has(refusal.text, "user name is empty") ||
        has(refusal.text, "authentication is not enabled")) {
        return NIXL_ERR_NOT_ALLOWED;
    }
    switch (refusal.code) {
    case kNotFound: return NIXL_ERR_NOT_FOUND;
    case kPermissionDenied:
    case kUnauthenticated: return NIXL_ERR_NOT_ALLOWED;
    case kDeadlineExceeded: return NIXL_ERR_TIMEOUT;
    default: return NIXL_ERR_BACKEND;
    }
}

std::string
adviceFor(const Refusal &refusal, nixl_status_t status) {
    if (status == NIXL_ERR_INVALID_PARAM) return "; raise --max-request-bytes of etcd, or publish less under one label";
    if (status == NIXL_ERR_NO_MEMORY) return "; compact and defragment etcd, and disarm its alarm";
    if (has(refusal.text, "user name is empty")) return "; set NIXL_ETCD_USER and NIXL_ETCD_PASSWORD";
    return {};
}

} // namespace

/// One question and what has come of it. Owned by its client; its address must not change.
class Exchange {
public:
    Exchange(const Settings &settings, const std::string &url, const std::string &body, const std::string &token)
        : easy_(::curl_easy_init()),
          body_(body) {
        if (!easy_) throw std::bad_alloc();
        ::curl_easy_setopt(easy_, CURLOPT_URL, url.c_str());
        ::curl_easy_setopt(easy_, CURLOPT_PROTOCOLS_STR, "http,https");
        ::curl_easy_setopt(easy_, CURLOPT_PROXY, ""); // etcd is asked directly, whatever the environment says
        ::curl_easy_setopt(easy_, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
        ::curl_easy_setopt(easy_, CURLOPT_NOSIGNAL, 1L);
        ::curl_easy_setopt(easy_, CURLOPT_QUICK_EXIT, 1L); // not even for the resolver
        ::curl_easy_setopt(easy_, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(kConnect.count()));
        ::curl_easy_setopt(easy_, CURLOPT_TCP_KEEPALIVE, 1L);
        ::curl_easy_setopt(easy_, CURLOPT_TCP_KEEPIDLE, 5L);
        ::curl_easy_setopt(easy_, CURLOPT_TCP_KEEPINTVL, 5L);
        ::curl_easy_setopt(easy_, CURLOPT_POST, 1L);
        ::curl_easy_setopt(easy_, CURLOPT_POSTFIELDS, body_.data());
        ::curl_easy_setopt(easy_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body_.size()));
        header("Content-Type: application/json");
        header("Expect:"); // of large bodies: do not ask first
        if (!token.empty()) header("Authorization: " + token);
        ::curl_easy_setopt(easy_, CURLOPT_HTTPHEADER, headers_);
        ::curl_easy_setopt(easy_, CURLOPT_WRITEFUNCTION, take);
        ::curl_easy_setopt(easy_, CURLOPT_WRITEDATA, this);
        ::curl_easy_setopt(easy_, CURLOPT_PRIVATE, this);
        ::curl_easy_setopt(easy_, CURLOPT_ERRORBUFFER, problem_.data());
        file(CURLOPT_CAINFO, settings.authorities);
        file(CURLOPT_SSLCERT, settings.certificate);
        file(CURLOPT_SSLKEY, settings.key);
    }
    ~Exchange() {
        if (multi_) ::curl_multi_remove_handle(multi_, easy_);
        ::curl_easy_cleanup(easy_);
        ::curl_slist_free_all(headers_);
    }
    Exchange(const Exchange &) = delete;
    Exchange &
    operator=(const Exchange &) = delete;

    void
    start(void *multi) {
        if (::curl_multi_add_handle(multi, easy_) != CURLM_OK) throw std::bad_alloc();
        multi_ = multi;
    }

    void
    ended(CURLcode code) noexcept {
        ended_ = true;
        code_ = code;
    }

    bool
    over() const noexcept {
        return ended_;
    }

    /// What is wrong with the transport; empty: nothing.
    std::string
    problem() const {
        if (too_large_) return "the answer has more than " + std::to_string(kAnswerBytesMax) + " bytes";
        if (code_ == CURLE_OK) return {};
        return problem_[0] ? problem_.data() : ::curl_easy_strerror(code_);
    }

    bool
    tooLarge() const noexcept {
        return too_large_;
    }

    long
    httpStatus() const {
        long status = 0;
        ::curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &status);
        return status;
    }

    std::string &
    answer() noexcept {
        return answer_;
    }

private:
    void
    header(const std::string &line) {
        auto *longer = ::curl_slist_append(headers_, line.c_str());
        if (!longer) throw std::bad_alloc();
        headers_ = longer;
    }

    void
    file(CURLoption option, const std::string &path) {
        if (!path.empty()) ::curl_easy_setopt(easy_, option, path.c_str());
    }

    static size_t
    take(const char *bytes, size_t, size_t count, void *self) noexcept {
        auto &exchange = *static_cast<Exchange *>(self);
        exchange.too_large_ = exchange.answer_.size() + count > kAnswerBytesMax;
        if (exchange.too_large_) return 0; // which ends it
        try {
            exchange.answer_.append(bytes, count);
        }
        catch (const std::bad_alloc &) {
            return 0;
        }
        return count;
    }

    CURL *const easy_;
    const std::string body_;
    curl_slist *headers_ = nullptr;
    void *multi_ = nullptr;
    std::array<char, CURL_ERROR_SIZE> problem_{};
    std::string answer_;
    CURLcode code_ = CURLE_OK;
    bool ended_ = false, too_large_ = false;
};

namespace {

/// What etcd's refusal means for whoever asked. `again`: another member, or the same one a moment later, may serve.
Status
refused(const std::string &endpoint, Exchange &exchange, bool &again) {
    const auto refusal = refusalIn(exchange.answer());
    const long http = exchange.httpStatus();
    again = http == 503 || http == 504;
    if (!refusal) {
        return {NIXL_ERR_BACKEND,
                endpoint + " answered with HTTP status " + std::to_string(http) +
                    " and nothing that etcd says; is it etcd 3.4 or newer?"};
    }
    again = again || refusal->code == kUnavailable;
    const auto status = statusOf(*refusal);
    return {status, "etcd at " + endpoint + " answered: " + refusal->text + adviceFor(*refusal, status)};
}

} // namespace

Client::Client(const Settings &settings, const std::atomic<Time> &end) : settings_(settings), end_(end) {}

Client::~Client() {
    stream_.reset();
    if (auto *multi = multi_.load()) ::curl_multi_cleanup(multi);
}

Status
Client::ready() {
    if (multi_.load()) return {};
    static std::once_flag once;
    std::call_once(once, [] { ::curl_global_init(CURL_GLOBAL_DEFAULT); });
    auto *multi = ::curl_multi_init();
    if (!multi) return {NIXL_ERR_NO_MEMORY, "the client of etcd cannot be made: libcurl gives no handle"};
    multi_.store(multi);
    return {};
}

void
Client::wake() const noexcept {
    if (auto *multi = multi_.load()) ::curl_multi_wakeup(multi);
}

void
Client::next() noexcept {
    current_ = (current_ + 1) % settings_.endpoints.size();
    token_.clear();
}

// Lets all that is under way go on, and sleeps at most until then.
void
Client::drive(Time until) {
    auto *multi = multi_.load();
    int running = 0;
    ::curl_multi_perform(multi, &running);
    bool news = false;
    int left = 0;
    while (const auto *message = ::curl_multi_info_read(multi, &left)) {
        if (message->msg != CURLMSG_DONE) continue;
        Exchange *exchange = nullptr;
        ::curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &exchange);
        exchange->ended(message->data.result);
        news = true;
    }
    const auto pause = std::chrono::ceil<milliseconds>(std::min(until, end_.load()) - Clock::now());
    if (news || pause.count() <= 0) return;
    ::curl_multi_poll(multi, nullptr, 0, static_cast<int>(std::min<int64_t>(pause.count(), 60'000)), nullptr);
    ::curl_multi_perform(multi, &running);
}

void
Client::wait(Time until) {
    if (ready().ok()) drive(until);
}

bool
Client::attempt(const std::string &path, const std::string &body, Time deadline, Result<std::string> &outcome) {
    Exchange exchange(settings_, endpoint() + path, body, token_);
    exchange.start(multi_.load());
    for (bool asked = false; !exchange.over(); asked = true) {
        const auto limit = std::min(deadline, end_.load());
        if (asked && Clock::now() >= limit) break;
        drive(limit);
    }
    if (!exchange.over()) {
        outcome = Status(NIXL_ERR_TIMEOUT, "etcd at " + endpoint() + " did not answer in time");
        return true;
    }
    if (exchange.tooLarge()) {
        outcome = Status(NIXL_ERR_MISMATCH, "etcd at " + endpoint() + ": " + exchange.problem());
        return false;
    }
    if (const auto problem = exchange.problem(); !problem.empty()) {
        outcome = Status(NIXL_ERR_BACKEND, "etcd at " + endpoint() + " cannot be asked: " + problem);
        return true;
    }
    if (exchange.httpStatus() == 200) {
        outcome = std::move(exchange.answer());
        return false;
    }
    bool again = false;
    outcome = refused(endpoint(), exchange, again);
    return again;
}

Status
Client::authenticate(Time deadline) {
    if (settings_.user.empty() || !token_.empty()) return {};
    const nlohmann::json who = {{"name", settings_.user}, {"password", settings_.password}};
    const auto body = who.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    Result<std::string> outcome = Status();
    attempt("/v3/auth/authenticate", body, deadline, outcome);
    if (!outcome.ok()) return std::move(outcome).status();
    auto token = tokenIn(*outcome);
    if (!token.ok()) return std::move(token).status();
    token_ = *std::move(token);
    return {};
}

Result<std::string>
Client::post(const std::string &path, const std::string &body, Time deadline) {
    if (auto status = ready(); !status.ok()) return status;
    const size_t members = settings_.endpoints.size();
    const auto begun = Clock::now();
    bool renewed = false; // the token
    for (size_t tries = 1;; ++tries) {
        const auto limit = members > 1 ? std::min(deadline, Clock::now() + kTry) : deadline;
        Result<std::string> outcome = authenticate(limit);
        bool again = true;
        if (outcome.ok()) {
            again = attempt(path, body, limit, outcome);
        } else if (outcome.code() == NIXL_ERR_NOT_ALLOWED) {
            return outcome;
        }
        if (outcome.ok()) return outcome;
        // Tokens end after a while, and with the member that gave them.
        if (outcome.code() == NIXL_ERR_NOT_ALLOWED && !token_.empty() && !std::exchange(renewed, true)) {
            token_.clear();
            continue;
        }
        const auto now = Clock::now();
        if (!again || now >= std::min(deadline, end_.load())) return outcome;
        next();
        const bool answers = outcome.code() == NIXL_ERR_BACKEND && has(outcome.message(), "answered");
        if (tries >= members && !(answers && now < begun + kElection)) return outcome;
        if (tries >= members) {
            for (const auto until = now + kElectionPause; Clock::now() < std::min(until, end_.load());) drive(until);
        }
    }
}

Status
Client::openStream(const std::string &path, const std::string &body) {
    closeStream();
    if (auto status = ready(); !status.ok()) return status;
    if (auto status = authenticate(Clock::now() + kTry); !status.ok()) return status;
    stream_ = std::make_unique<Exchange>(settings_, endpoint() + path, body, token_);
    stream_->start(multi_.load());
    stream_member_ = current_;
    return {};
}

void
Client::closeStream() {
    stream_.reset();
}

bool
Client::hasStream() const noexcept {
    return stream_ && stream_member_ == current_;
}

Result<std::vector<std::string>>
Client::streamLines() {
    std::vector<std::string> lines;
    auto &bytes = stream_->answer();
    size_t begin = 0;
    for (size_t end; (end = bytes.find('\n', begin)) != std::string::npos; begin = end + 1) {
        lines.push_back(bytes.substr(begin, end - begin));
    }
    bytes.erase(0, begin);
    if (!lines.empty() || !stream_->over()) return lines;
    auto problem = stream_->problem();
    if (problem.empty() && stream_->httpStatus() != 200) {
        bool again = false;
        problem = refused(endpoint(), *stream_, again).message();
        token_.clear();
    }
    if (problem.empty()) problem = "it was closed";
    stream_.reset();
    next();
    return {NIXL_ERR_BACKEND, problem};
}

} // namespace nx::etcd
