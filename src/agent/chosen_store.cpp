// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/chosen_store.h"

#include <cctype>

#include "base/config.h"

namespace nx::agent {

namespace {

constexpr size_t kShown = 300;

std::string
inCapitals(std::string text) {
    for (char &c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    return text;
}

} // namespace

Result<std::optional<ChosenStore>>
chosenStore(const std::vector<std::string> &installed) {
    std::optional<ChosenStore> chosen;
    for (const auto &store : installed) {
        for (const char *end : {"_ENDPOINTS", "_ENDPOINT"}) {
            const auto option = "NIXL_" + inCapitals(store) + end;
            const auto address = configString(option);
            if (!address.ok()) return {address.code(), address.message()};
            if (!*address || (*address)->empty()) continue;
            auto setting = option + " is " + quoted(**address, kShown);
            if (chosen) return {NIXL_ERR_MISMATCH, chosen->setting + ", and " + setting + "; set one of them only"};
            chosen = ChosenStore{store, **address, std::move(setting)};
        }
    }
    if (chosen) return chosen;
    const auto url = configString("NIXL_METADATA_STORE");
    if (!url.ok()) return {url.code(), url.message()};
    if (!*url || (*url)->empty()) return chosen;
    auto setting = "NIXL_METADATA_STORE is " + quoted(**url, kShown);
    const auto colon = (*url)->find("://");
    if (colon == std::string::npos || colon == 0) {
        return {NIXL_ERR_MISMATCH, setting + ", which is not <store>://<address>, for example file:///run/nixl"};
    }
    chosen = ChosenStore{(*url)->substr(0, colon), (*url)->substr(colon + 3), std::move(setting)};
    return chosen;
}

} // namespace nx::agent
