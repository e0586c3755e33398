// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "tcpstore/directory.h"

#include <algorithm>
#include <charconv>
#include <poll.h>

#include "wire/key_name.h"
#include "wire/limits.h"

namespace nx::tcpstore {

namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;

constexpr auto kConnectPause = 20ms; // between tries while the store is not there yet

Result<milliseconds>
limit(const char *name, milliseconds otherwise) {
    const auto text = nixlx::configValue(name);
    if (!text) return otherwise;
    uint32_t value = 0;
    const auto [end, failure] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (failure == std::errc() && end == text->data() + text->size()) return milliseconds(value);
    return {NIXL_ERR_INVALID_PARAM,
            std::string(name) + " is " + quoted(*text) + ", which is no number of milliseconds"};
}

/// INVALID_PARAM: it is longer than the store takes.
Result<std::string>
keyOf(const std::string &agent, const std::string &label) {
    auto key = "nixl/agents/" + wire::keyName(label) + "/" + wire::keyName(agent) + "/NULL_AGENT";
    if (key.size() < kKeyBytesMax) return key;
    return {NIXL_ERR_INVALID_PARAM,
            "the label and the agent's name are too long for a TCPStore, whose keys have " +
                std::to_string(kKeyBytesMax) + " bytes at most"};
}

nixl_status_t
told(const Status &status) {
    return status.ok() ? NIXL_SUCCESS : nixlx::fail(status.code(), status.message());
}

} // namespace

Result<std::unique_ptr<Directory>>
Directory::open(const nixlx::DirectoryParams &params) {
    auto endpoint = Endpoint::parse(params.address);
    if (!endpoint.ok()) return std::move(endpoint).status();
    if (auto key = keyOf(params.agent, "metadata"); !key.ok()) return std::move(key).status();
    auto patience = limit("NIXL_TCPSTORE_TIMEOUT_MS", 30'000ms);
    if (!patience.ok()) return std::move(patience).status();
    auto operation = limit("NIXL_TCPSTORE_OP_TIMEOUT_MS", 5'000ms);
    if (!operation.ok()) return std::move(operation).status();
    auto wake = WakeFd::create();
    if (!wake.ok()) return std::move(wake).status();
    return std::unique_ptr<Directory>(
        new Directory(params.agent, *std::move(endpoint), {*patience, *operation}, *std::move(wake)));
}

Directory::Directory(std::string agent, Endpoint endpoint, const Limits &limits, WakeFd wake)
    : agent_(std::move(agent)),
      endpoint_(std::move(endpoint)),
      patience_(limits.patience),
      operation_(limits.operation),
      wake_(std::move(wake)),
      connection_(endpoint_, end_, wake_) {}

Directory::~Directory() {
    // A store that is not there now has nothing to be removed by the time that it is.
    if (connection_.isOpen()) (void)tryWithdraw(std::chrono::steady_clock::now() + 1s);
}

template<class Body>
Status
Directory::connected(Deadline deadline, Body body) {
    deadline = std::min(deadline, std::chrono::steady_clock::now() + operation_);
    for (bool again = connection_.isOpen();; again = false) {
        if (!connection_.isOpen()) {
            if (auto status = connection_.open(deadline); !status.ok()) return status;
        }
        was_there_ = true;
        auto status = body(deadline);
        if (connection_.isOpen() || !again || status.code() != NIXL_ERR_BACKEND) return status;
    }
}

nixl_status_t
Directory::publish(const std::string &label, std::string_view blob, Deadline deadline) {
    if (blob.empty() || blob.size() > wire::kBlobBytesMax) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "metadata of " + std::to_string(blob.size()) + " bytes cannot be published");
    }
    return told(tryPublish(label, blob, deadline));
}

Status
Directory::tryPublish(const std::string &label, std::string_view blob, Deadline deadline) {
    auto key = keyOf(agent_, label);
    if (!key.ok()) return std::move(key).status();
    for (;;) {
        auto status = connected(deadline, [&](Deadline by) { return connection_.set(*key, blob, by); });
        if (status.ok()) {
            published_[*key] = blob;
            return {};
        }
        if (was_there_ && status.code() == NIXL_ERR_BACKEND && blob.size() > kValueBytesSure) {
            return {NIXL_ERR_INVALID_PARAM,
                    status.message() + "; it takes 8 MiB at most, and these are " + std::to_string(blob.size()) +
                        " bytes: publish less under one label"};
        }
        // The program that has the store may be started after this one.
        const auto pause = std::chrono::steady_clock::now() + kConnectPause;
        if (was_there_ || status.code() != NIXL_ERR_BACKEND || pause >= std::min(deadline, end_.load())) return status;
        pollfd woken{wake_.get(), POLLIN, 0};
        ::poll(&woken, 1, static_cast<int>(kConnectPause.count()));
    }
}

nixl_status_t
Directory::fetch(const std::string &agent, const std::string &label, std::string &blob, Deadline deadline) {
    auto found = tryFetch(agent, label, deadline);
    if (!found.ok()) return told(found.status());
    blob = *std::move(found);
    return NIXL_SUCCESS;
}

Result<std::string>
Directory::tryFetch(const std::string &agent, const std::string &label, Deadline deadline) {
    auto key = keyOf(agent, label);
    if (!key.ok()) return std::move(key).status();
    std::string blob;
    auto status = connected(deadline, [&](Deadline by) -> Status {
        blob.clear();
        // Stores of the older kind close the connection when asked for what is not there.
        auto there = connection_.has(*key, by);
        if (!there.ok() || !*there) return std::move(there).status();
        auto value = connection_.get(*key, wire::kBlobBytesMax, by);
        if (!value.ok()) return std::move(value).status();
        blob = *std::move(value);
        return {};
    });
    if (!status.ok() && !was_there_ && status.code() == NIXL_ERR_BACKEND) {
        return {NIXL_ERR_NOT_FOUND, "the store is not there yet: " + status.message()};
    }
    if (!status.ok()) return status;
    if (!blob.empty()) return blob;
    return {NIXL_ERR_NOT_FOUND, "agent " + quoted(agent) + " has published nothing under " + quoted(label)};
}

nixl_status_t
Directory::withdraw(Deadline deadline) {
    return told(tryWithdraw(deadline));
}

Status
Directory::tryWithdraw(Deadline deadline) {
    while (!published_.empty()) {
        const auto &[key, blob] = *published_.begin();
        auto status = connected(deadline, [&](Deadline by) -> Status {
            // What another start of the agent has written since is its own.
            auto there = connection_.has(key, by);
            if (!there.ok() || !*there) return std::move(there).status();
            auto value = connection_.get(key, wire::kBlobBytesMax, by);
            if (!value.ok()) return std::move(value).status();
            return *value == blob ? connection_.remove(key, by) : Status();
        });
        if (!status.ok()) return status;
        published_.erase(published_.begin());
    }
    return {};
}

void
Directory::endBy(Deadline deadline) noexcept {
    end_.store(deadline);
    wake_.wake();
}

} // namespace nx::tcpstore
