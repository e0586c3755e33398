// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "etcd/settings.h"

#include "nixlx/engine.h"

namespace nx::etcd {

namespace {

/// With a scheme and without a slash at the end; empty: it is none.
std::string
endpointIn(std::string_view text) {
    std::string endpoint(text);
    if (endpoint.find("://") == std::string::npos) endpoint = "http://" + endpoint;
    if (endpoint.ends_with('/')) endpoint.pop_back();
    const auto host = endpoint.substr(endpoint.find("://") + 3);
    const bool known = endpoint.starts_with("http://") || endpoint.starts_with("https://");
    // Credentials have options of their own, which are not logged.
    const bool plain = host.find_first_of("/?#@\\ ") == std::string::npos;
    for (const char c : host) {
        if (c < ' ' || c > '~') return {};
    }
    return known && plain && !host.empty() && host.front() != ':' ? endpoint : "";
}

} // namespace

Result<Settings>
settingsFor(const std::string &address) {
    Settings settings;
    for (size_t at = 0; at <= address.size();) {
        const auto end = std::min(address.find_first_of(",;", at), address.size());
        const auto part = address.substr(at, end - at);
        at = end + 1;
        if (part.empty()) continue;
        auto endpoint = endpointIn(part);
        if (endpoint.empty()) {
            return {NIXL_ERR_INVALID_PARAM,
                    quoted(part, 200) + " is no endpoint of etcd; write for example http://127.0.0.1:2379"};
        }
        settings.endpoints.push_back(std::move(endpoint));
    }
    if (settings.endpoints.empty()) {
        return {NIXL_ERR_INVALID_PARAM, "no endpoint of etcd is given; write for example http://127.0.0.1:2379"};
    }
    settings.space = nixlx::configValue("NIXL_ETCD_NAMESPACE").value_or("/nixl/agents/");
    settings.user = nixlx::configValue("NIXL_ETCD_USER").value_or("");
    settings.password = nixlx::configValue("NIXL_ETCD_PASSWORD").value_or("");
    settings.authorities = nixlx::configValue("NIXL_ETCD_CA_FILE").value_or("");
    settings.certificate = nixlx::configValue("NIXL_ETCD_CERT_FILE").value_or("");
    settings.key = nixlx::configValue("NIXL_ETCD_KEY_FILE").value_or("");
    return settings;
}

} // namespace nx::etcd
