// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/credentials.h"

#include "base/boundary.h"
#include "base/config.h"
#include "base/last_error.h"
#include "plugin/manager.h"
#include "wire/limits.h"
#include "wire/metadata.h"

namespace nx::agent {

namespace {

constexpr char kOption[] = "NIXL_SECRET_FILE";

/// Calls the plugin, which may throw and explains its failures with nixlx::fail().
template<class Call>
Status
asked(const char *function, Call call) {
    clearBackendSentence();
    const auto status = nx::guarded(function, call);
    return status < 0 ? Status(status, takeBackendSentence(std::string(function) + " failed")) : Status();
}

} // namespace

Credentials::Credentials(const std::string &agent) : broken_(open(agent)) {}

// An option that is there and empty is a mistake in a script, and no reason to trust everybody.
Status
Credentials::open(const std::string &agent) {
    const auto option = configString(kOption);
    if (!option.ok()) return {option.code(), option.message()};
    if (!*option) return {};
    const std::string context = std::string(kOption) + " is " + quoted(**option, 300);
    if ((*option)->empty()) {
        return {NIXL_ERR_INVALID_PARAM, context + "; give it the path of a file with a key, or unset it"};
    }
    auto plugin = plugin::Manager::instance().loadSecurity();
    if (!plugin.ok()) return std::move(plugin).status().withContext(context);
    const nixlx::SecurityParams params{.agent = agent, .secret_file = **option};
    nixlx::Security *opened = nullptr;
    auto status = asked("open", [&] { opened = (*plugin)->object()->open(&params); });
    if (!status.ok()) return std::move(status).withContext(context);
    if (!opened) return {NIXL_ERR_INVALID_PARAM, context + ": " + takeBackendSentence("the plugin refused it")};
    security_ = std::shared_ptr<nixlx::Security>(opened, [plugin = *plugin](nixlx::Security *gone) { delete gone; });
    return {};
}

Result<std::string>
Credentials::sign(std::string blob) const {
    if (!broken_.ok()) return usable();
    if (!security_) return blob;
    std::string signature;
    auto status = asked("sign", [&] { return security_->sign(blob, signature); });
    if (!status.ok()) return status;
    wire::appendSignature(blob, signature);
    return blob;
}

Result<std::unique_ptr<nixlx::SecureSession>>
Credentials::session(bool accepts) const {
    std::unique_ptr<nixlx::SecureSession> session;
    auto status = asked("open", [&] { session.reset(security_->open(accepts)); });
    if (!status.ok()) return status;
    if (!session) return {NIXL_ERR_BACKEND, takeBackendSentence("the security plugin opens no connection")};
    return session;
}

Status
Credentials::check(std::string_view blob) const {
    if (!broken_.ok()) return usable();
    if (!security_) return {};
    const auto found = wire::findSignature(blob);
    if (!found.ok()) return {found.code(), found.message()};
    if (!*found) {
        return {NIXL_ERR_NOT_ALLOWED,
                "the metadata is not signed, or cut, and this agent takes only what is signed with its key "
                "(NIXL_SECRET_FILE); give its agent the same key"};
    }
    const auto &[agent, content, signature] = **found;
    auto status = asked("verify", [&] { return security_->verify(agent, content, signature); });
    return std::move(status).withContext("the metadata in the name of agent " + quoted(agent) + " is refused");
}

} // namespace nx::agent
