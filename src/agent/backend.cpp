// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/backend.h"

namespace nx::agent {

namespace {

template<class... Abilities>
std::tuple<Abilities *...>
abilitiesOf(nixlx::Engine &engine, const std::tuple<Abilities *...> &) {
    return {nixlx::abilityOf<Abilities>(engine)...};
}

} // namespace

Backend::Backend(std::shared_ptr<const plugin::BackendPlugin> plugin,
                 nixl_backend_t type,
                 nixl_b_params_t params,
                 std::unique_ptr<nixlx::Engine> engine,
                 const LegacyEngine *legacy)
    : type(std::move(type)),
      plugin_(std::move(plugin)),
      params_(std::move(params)),
      engine_(std::move(engine)),
      legacy_(legacy),
      abilities_(abilitiesOf(*engine_, decltype(abilities_)())),
      memories_(setOf(legacy ? legacy->engine().getSupportedMems() : plugin_->memories())),
      remote(std::get<nixlx::RemotePeers *>(abilities_)),
      to_self(legacy ? legacy->engine().supportsLocal() : plugin_->capabilities() & NIXLX_CAP_LOCAL),
      notif(std::get<nixlx::Notifications *>(abilities_)),
      merges_ranges(plugin_->capabilities() & NIXLX_CAP_MERGE_RANGES),
      polled(!waiting()) {}

Backend::Backend(const Backend &local, const Backend &remote, std::unique_ptr<nixlx::Engine> engine, bool polled)
    : type(local.type + "+" + remote.type),
      leader(&remote.shown()),
      engine_(std::move(engine)),
      legacy_(nullptr),
      abilities_(abilitiesOf(*engine_, decltype(abilities_)())),
      memories_(),
      remote(remote.remote),
      to_self(remote.to_self),
      notif(remote.notif),
      merges_ranges(false),
      polled(polled) {}

std::shared_ptr<Backend>
Backend::create(std::shared_ptr<const plugin::BackendPlugin> plugin,
                const nixlBackendInitParams &init,
                nixl_b_params_t params) {
    std::unique_ptr<nixlx::Engine> engine;
    const LegacyEngine *legacy = nullptr;
    if (!plugin->isLegacy()) {
        engine = plugin->create(init);
    } else if (auto made = plugin->createLegacy(init)) {
        auto adapter = std::make_unique<LegacyEngine>(std::move(made));
        legacy = adapter.get();
        engine = std::move(adapter);
    }
    if (!engine) return nullptr;
    return std::shared_ptr<Backend>(
        new Backend(std::move(plugin), init.type, std::move(params), std::move(engine), legacy));
}

std::shared_ptr<Backend>
Backend::joining(const Backend &local, const Backend &remote, std::unique_ptr<nixlx::Engine> engine, bool polled) {
    return std::shared_ptr<Backend>(new Backend(local, remote, std::move(engine), polled));
}

} // namespace nx::agent
