// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/backend.h"

namespace nx::agent {

/// What a backend is made of.
struct Backend::Parts {
    std::shared_ptr<const plugin::BackendPlugin> plugin;
    nixl_backend_t type;
    nixl_b_params_t params;
    std::unique_ptr<nixlx::Engine> engine;
    const LegacyEngine *legacy = nullptr;
    MemorySet memories = 0;
    bool local = false;
};

Backend::Backend(Parts parts)
    : type(std::move(parts.type)),
      remote(nixlx::abilityOf<nixlx::RemotePeers>(*parts.engine)),
      local(parts.local),
      notif(nixlx::abilityOf<nixlx::Notifications>(*parts.engine)),
      merges_ranges(parts.plugin->capabilities() & NIXLX_CAP_MERGE_RANGES),
      plugin_(std::move(parts.plugin)),
      params_(std::move(parts.params)),
      engine_(std::move(parts.engine)),
      legacy_(parts.legacy),
      memories_(parts.memories) {}

std::shared_ptr<Backend>
Backend::create(std::shared_ptr<const plugin::BackendPlugin> plugin,
                const nixlBackendInitParams &init,
                nixl_b_params_t params) {
    Parts parts;
    parts.plugin = plugin;
    parts.type = init.type;
    parts.params = std::move(params);
    if (plugin->isLegacy()) {
        auto engine = plugin->createLegacy(init);
        if (!engine) return nullptr;
        parts.memories = setOf(engine->getSupportedMems());
        parts.local = engine->supportsLocal();
        auto adapter = std::make_unique<LegacyEngine>(std::move(engine));
        parts.legacy = adapter.get();
        parts.engine = std::move(adapter);
    } else {
        parts.engine = plugin->create(init);
        if (!parts.engine) return nullptr;
        parts.memories = setOf(plugin->memories());
        parts.local = plugin->capabilities() & NIXLX_CAP_LOCAL;
    }
    return std::shared_ptr<Backend>(new Backend(std::move(parts)));
}

} // namespace nx::agent
