// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One instantiated backend of an agent: the plugin, its engine and the face the agent speaks to. Immutable after
// creation; shared with everything that holds memory or requests of it, so that the engine goes last.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "agent/guarded.h"
#include "agent/legacy_engine.h"
#include "base/last_error.h"
#include "plugin/manager.h"

namespace nx::agent {

class Backend {
public:
    /// Takes over `engine`, which `plugin` created.
    Backend(std::shared_ptr<const plugin::BackendPlugin> plugin, nixlBackendEngine *engine)
        : type(engine->getType()),
          memories(engine->getSupportedMems()),
          remote(engine->supportsRemote()),
          local(engine->supportsLocal()),
          notif(engine->supportsNotif()),
          merges_ranges(plugin->capabilities() & NIXLX_CAP_MERGE_RANGES),
          legacy(engine),
          plugin_(std::move(plugin)),
          engine_(engine),
          extended_(plugin_->extend(engine)) {}

    ~Backend() {
        (void)guarded("destroy_engine", [&] { plugin_->destroy(engine_); });
    }

    Backend(const Backend &) = delete;
    Backend &
    operator=(const Backend &) = delete;

    /// Calls a method of 1.4, the only way to them: `body(engine)`, with no sentence of an earlier call left behind.
    template<class Body>
    nixl_status_t
    call(const char *method, Body body) const {
        clearBackendSentence();
        return guarded(method, [&] { return body(*engine_); });
    }

    nixlx::Engine &
    face() {
        return extended_ ? *extended_ : static_cast<nixlx::Engine &>(legacy);
    }

    bool
    isLegacy() const noexcept {
        return !extended_;
    }

    bool
    supports(nixl_mem_t memory) const {
        return std::find(memories.begin(), memories.end(), memory) != memories.end();
    }

    const plugin::BackendPlugin &
    plugin() const noexcept {
        return *plugin_;
    }

    const nixl_backend_t type;
    size_t order = 0; ///< position in the order of creation; set before the backend is shared
    const nixl_mem_list_t memories;
    const bool remote;
    const bool local;
    const bool notif;
    const bool merges_ranges;
    LegacyEngine legacy;

private:
    const std::shared_ptr<const plugin::BackendPlugin> plugin_;
    nixlBackendEngine *const engine_;
    nixlx::Engine *const extended_;
};

} // namespace nx::agent
