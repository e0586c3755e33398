// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One instantiated backend of an agent: the plugin and its engine, and the boundary between them and the agent. All
// calls go through it: they may throw whatever they like, and nothing of ours expects it to. Immutable after creation;
// shared with everything that holds memory or requests of it, so that the engine goes last.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "agent/legacy_engine.h"
#include "base/boundary.h"
#include "base/last_error.h"
#include "plugin/manager.h"

namespace nx::agent {

class Backend {
public:
    /// Null if the plugin's code refused or threw; its sentence is in takeBackendSentence(). `params`: those of `init`.
    static std::shared_ptr<Backend>
    create(std::shared_ptr<const plugin::BackendPlugin> plugin,
           const nixlBackendInitParams &init,
           nixl_b_params_t params);

    /// What stages between memory that `local` reaches and memory that `remote` reaches, which outlive it. It is in no
    /// list of backends; callers see it as `remote`. `polled`: nobody wakes who waits for it.
    static std::shared_ptr<Backend>
    joining(const Backend &local, const Backend &remote, std::unique_ptr<nixlx::Engine> engine, bool polled);

    ~Backend() {
        (void)guarded("destroying the engine", [&] { engine_.reset(); });
    }

    Backend(const Backend &) = delete;
    Backend &
    operator=(const Backend &) = delete;

    /// Calls a function of the engine, or of an ability: `body(ability)`, with no sentence of an earlier call left
    /// behind. NOT_SUPPORTED: it does not have the ability.
    template<class Ability = nixlx::Engine, class Body>
    nixl_status_t
    call(const char *function, Body body) const {
        clearBackendSentence();
        return guarded(function, [&]() {
            if constexpr (std::is_same_v<Ability, nixlx::Engine>) {
                return body(*engine_);
            } else {
                auto *ability = std::get<Ability *>(abilities_);
                if (ability) return body(*ability);
                if constexpr (!std::is_void_v<decltype(body(*ability))>) return NIXL_ERR_NOT_SUPPORTED;
            }
        });
    }

    /// Asks the engine for a value: `body(engine)`. An empty one if it throws.
    template<class Body>
    auto
    ask(Body body) const noexcept {
        using Value = decltype(body(*engine_));
        try {
            return body(*engine_);
        }
        catch (...) {
            return Value{};
        }
    }

    /// Nothing if the engine has no model.
    std::optional<nixlx::Cost>
    cost(nixl_mem_t local, nixl_mem_t remote, std::string_view remote_agent) const noexcept {
        auto *costs = std::get<nixlx::Costs *>(abilities_);
        if (!costs) return {};
        return ask([&](nixlx::Engine &) { return costs->cost(local, remote, remote_agent); });
    }

    /// Null: it cannot be slept on.
    nixlx::Waiting *
    waiting() const noexcept {
        return std::get<nixlx::Waiting *>(abilities_);
    }

    /// Null: no peer uses its registrations by itself.
    nixlx::Barrier *
    barrier() const noexcept {
        return std::get<nixlx::Barrier *>(abilities_);
    }

    bool
    supports(nixl_mem_t memory) const noexcept {
        return contains(memories_, memory);
    }

    /// It moves data between this agent's memory of the one kind and an agent's of the other.
    bool
    moves(nixl_mem_t own, nixl_mem_t other) const noexcept {
        return legacy_ ? supports(own) && supports(other) : contains(plugin_->partners()[own], other);
    }

    nixl_mem_list_t
    memories() const {
        return listOf(memories_);
    }

    /// Null unless its plugin was written for NIXL 1.4.
    const LegacyEngine *
    legacy() const noexcept {
        return legacy_;
    }

    const plugin::BackendPlugin &
    plugin() const noexcept {
        return *plugin_;
    }

    /// With what the engine was created; of NIXL 1.4's also what it added.
    const nixl_b_params_t &
    params() const noexcept {
        return legacy_ ? legacy_->engine().getCustomParams() : params_;
    }

    const nixl_backend_t type;
    // Set before the backend is shared:
    size_t order = 0;               ///< position in the order of creation
    nixlBackendH *handle = nullptr; ///< of the agent that has it

    /// The backend of which this one is the companion: callers see that one. Null: it stands for itself.
    std::atomic<const Backend *> leader{nullptr};

    /// What callers see of it: its leader, or itself.
    const Backend &
    shown() const noexcept {
        const Backend *const seen = leader.load(std::memory_order_acquire);
        return seen ? *seen : *this;
    }

    bool
    isCompanion() const noexcept {
        return leader.load(std::memory_order_acquire) != nullptr;
    }

private:
    Backend(std::shared_ptr<const plugin::BackendPlugin> plugin,
            nixl_backend_t type,
            nixl_b_params_t params,
            std::unique_ptr<nixlx::Engine> engine,
            const LegacyEngine *legacy);
    Backend(const Backend &local, const Backend &remote, std::unique_ptr<nixlx::Engine> engine, bool polled);

    const std::shared_ptr<const plugin::BackendPlugin> plugin_; ///< null of a joined one
    const nixl_b_params_t params_;
    std::unique_ptr<nixlx::Engine> engine_;
    const LegacyEngine *const legacy_;
    /// Null: the engine does not have it.
    const std::tuple<nixlx::RemotePeers *,
                     nixlx::Notifications *,
                     nixlx::ForcedQuiet *,
                     nixlx::Costs *,
                     nixlx::Waiting *,
                     nixlx::Barrier *,
                     nixlx::Queries *,
                     nixlx::MemoryViews *>
        abilities_;
    const MemorySet memories_;

public:
    const bool remote;  ///< it reaches other agents
    const bool to_self; ///< it moves data within one agent
    const bool notif;
    const bool merges_ranges;
    const bool polled; ///< who waits for its transfers has to look again and again
};

using BackendList = std::vector<std::shared_ptr<Backend>>; ///< in the order of creation

} // namespace nx::agent
