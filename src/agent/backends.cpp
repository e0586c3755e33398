// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Creating backends and finding them by handle.
#include "agent/agent_state.h"
#include "base/last_error.h"
#include "utils/common/nixl_log.h"

using nx::Result;
using nx::Status;
using nx::agent::Backend;
using nx::agent::Backends;

namespace {

bool
contains(const std::vector<std::string> &names, const std::string &name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

} // namespace

Status
nixlAgentData::createBackend(const nixl_backend_t &type, const nixl_b_params_t &params, nixlBackendH *&handle) {
    // One at a time: whether the type exists, or excludes another, is true until this one is there.
    const nx::MutexLock creating(creation_mutex);
    const auto before = local_state.get();
    const auto is_same = [&](const auto &other) { return other->type == type; };
    if (std::any_of(before->backends.begin(), before->backends.end(), is_same)) {
        return {NIXL_ERR_INVALID_PARAM, "backend " + nx::quoted(type) + " exists already in this agent"};
    }
    auto plugin = nx::plugin::Manager::instance().load(type);
    if (!plugin.ok()) return std::move(plugin).status();
    for (const auto &other : before->backends) {
        if (contains((*plugin)->conflicts(), other->type) || contains(other->plugin().conflicts(), type)) {
            return {NIXL_ERR_NOT_ALLOWED,
                    "backend " + nx::quoted(type) + " cannot be used beside " + nx::quoted(other->type) +
                        " in one agent"};
        }
    }

    nixl_b_params_t own_params = params;
    nixlBackendInitParams init;
    init.localAgent = name;
    init.type = type;
    init.customParams = &own_params;
    init.enableProgTh = config.useProgThread;
    init.pthrDelay = config.pthrDelay;
    // Engines of 1.4 size their locking from this: ours may call from any thread, and from its own.
    init.syncMode = nixl_thread_sync_t::NIXL_THREAD_SYNC_RW;
    init.enableTelemetry_ = recorder != nullptr; // else nobody takes the engine's events
    const std::string prefix = "backend initialization error for '" + type + "': ";
    std::shared_ptr<Backend> backend;
    nx::clearBackendSentence();
    const auto created = nx::guarded("creating the engine", [&]() -> nixl_status_t {
        backend = Backend::create(*plugin, init, params);
        return backend ? NIXL_SUCCESS : NIXL_ERR_BACKEND;
    });
    // What the plugin manager says of an engine that it could not make has the prefix.
    if (created < 0) return {created, nx::takeBackendSentence(prefix + "the plugin gave no engine")};
    if (backend->remote && !backend->notif) {
        return {NIXL_ERR_BACKEND, prefix + "it reaches other agents but cannot notify them"};
    }
    if (backend->legacy() && backend->local) { // as NIXL 1.4 does
        const auto status = backend->call("connect", [&](auto &) { return backend->legacy()->engine().connect(name); });
        if (status < 0) {
            return {
                status,
                prefix +
                    nx::takeBackendSentence("connecting to itself failed with " + nixlEnumStrings::statusStr(status))};
        }
    }

    {
        const nx::MutexLock lock(local_mutex);
        auto next = local_state.copy();
        backend->order = next.backends.size();
        const uint64_t token = backend_handles.insert(std::make_unique<std::shared_ptr<Backend>>(backend));
        backend_tokens.push_back(token);
        next.backends.push_back(std::move(backend));
        local_state.set(std::move(next));
        handle = reinterpret_cast<nixlBackendH *>(token);
    }
    NIXL_DEBUG << "agent " << nx::quoted(name) << ": created backend " << type;
    // Peers may have been quicker than this agent.
    const nx::MutexLock lock(exchange_mutex);
    if (exchange) exchange->retry();
    return {};
}

std::shared_ptr<Backend>
nixlAgentData::backendOf(const nixlBackendH *handle) const {
    auto pin = backend_handles.find(reinterpret_cast<uint64_t>(handle));
    return pin ? *pin : nullptr;
}

nixlBackendH *
nixlAgentData::handleOf(const Backend &backend) const {
    const nx::MutexLock lock(local_mutex);
    return reinterpret_cast<nixlBackendH *>(backend_tokens[backend.order]);
}

Result<Backends>
nixlAgentData::candidates(const nixl_opt_args_t *args) const {
    if (!args || args->backends.empty()) {
        const auto now = local_state.get();
        return now->backends;
    }
    Backends hinted;
    for (const auto *handle : args->backends) {
        auto backend = backendOf(handle);
        if (!backend) return {NIXL_ERR_INVALID_PARAM, "a backend hint is no backend of this agent"};
        if (std::find(hinted.begin(), hinted.end(), backend) == hinted.end()) hinted.push_back(std::move(backend));
    }
    return hinted;
}
