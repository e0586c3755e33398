// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/backends.h"

#include <algorithm>

#include "base/config.h"
#include "base/last_error.h"
#include "utils/common/nixl_log.h"

namespace nx::agent {

namespace {

bool
contains(const std::vector<std::string> &names, const std::string &name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

} // namespace

/// Beside these.
Result<std::shared_ptr<Backend>>
Backends::make(const nixl_backend_t &type,
               const nixl_b_params_t &params,
               bool telemetry,
               const BackendList &others) const {
    auto plugin = plugin::Manager::instance().load(type);
    if (!plugin.ok()) return std::move(plugin).status();
    for (const auto &other : others) {
        if (contains((*plugin)->conflicts(), other->type) || contains(other->plugin().conflicts(), type)) {
            return {NIXL_ERR_NOT_ALLOWED,
                    "backend " + quoted(type) + " cannot be used beside " + quoted(other->type) + " in one agent"};
        }
    }

    nixl_b_params_t own_params = params;
    nixlBackendInitParams init;
    init.localAgent = agent_;
    init.type = type;
    init.customParams = &own_params;
    init.enableProgTh = config_.useProgThread;
    init.pthrDelay = config_.pthrDelay;
    // Engines of 1.4 size their locking from this: ours may call from any thread, and from its own.
    init.syncMode = nixl_thread_sync_t::NIXL_THREAD_SYNC_RW;
    init.enableTelemetry_ = telemetry;
    const std::string prefix = "backend initialization error for '" + type + "': ";
    std::shared_ptr<Backend> backend;
    clearBackendSentence();
    const auto created = guarded("creating the engine", [&]() -> nixl_status_t {
        backend = Backend::create(*plugin, init, params);
        return backend ? NIXL_SUCCESS : NIXL_ERR_BACKEND;
    });
    // What the plugin manager says of an engine that it could not make has the prefix.
    if (created < 0) return {created, takeBackendSentence(prefix + "the plugin gave no engine")};
    if (backend->remote && !backend->notif) {
        return {NIXL_ERR_BACKEND, prefix + "it reaches other agents but cannot notify them"};
    }
    if (backend->legacy() && backend->to_self) { // as NIXL 1.4 does
        const auto status =
            backend->call("connect", [&](auto &) { return backend->legacy()->engine().connect(agent_); });
        if (status < 0) {
            return {status,
                    prefix +
                        takeBackendSentence("connecting to itself failed with " + nixlEnumStrings::statusStr(status))};
        }
    }
    return backend;
}

/// Null: it has none, the agent has it already, or it cannot be had; then the leader does all.
std::shared_ptr<Backend>
Backends::companionFor(const Backend &leader, bool telemetry, const BackendList &others) const {
    const std::string &type = leader.plugin().companion();
    if (type.empty()) return nullptr;
    if (std::any_of(others.begin(), others.end(), [&](const auto &other) { return other->type == type; })) {
        return nullptr;
    }
    auto made = make(type, {}, telemetry, others);
    if (made.ok()) return *std::move(made);
    NIXL_INFO << "agent " << quoted(agent_) << ": backend " << leader.type << " has no companion " << type
              << " for peers of this host: " << made.message();
    return nullptr;
}

Status
Backends::insert(std::shared_ptr<Backend> backend, BackendList &list) {
    backend->order = list.size();
    backend->handle =
        reinterpret_cast<nixlBackendH *>(handles_.insert(std::make_unique<std::shared_ptr<Backend>>(backend)));
    if (!backend->handle) return {NIXL_ERR_NO_MEMORY, "this process has no handle left for a backend"};
    list.push_back(std::move(backend));
    return {};
}

Status
Backends::create(const nixl_backend_t &type, const nixl_b_params_t &params, bool telemetry, nixlBackendH *&handle) {
    // One at a time: whether the type exists, or excludes another, is true until this one is there.
    const MutexLock creating(mutex_);
    auto next = all_.copy();
    for (const auto &other : next) {
        if (other->type != type) continue;
        if (!other->isCompanion() || !params.empty()) {
            return {NIXL_ERR_INVALID_PARAM, "backend " + quoted(type) + " exists already in this agent"};
        }
        other->leader = nullptr; // from now on a backend like any other
        handle = other->handle;
        return {};
    }
    auto wanted = configBool("NIXL_COMPANIONS");
    if (!wanted.ok()) return std::move(wanted).status();
    auto backend = make(type, params, telemetry, next);
    if (!backend.ok()) return std::move(backend).status();
    const auto companion = wanted->value_or(true) ? companionFor(**backend, telemetry, next) : nullptr;
    if (companion) {
        companion->leader = backend->get();
        if (auto status = insert(companion, next); !status.ok()) return status;
    }
    if (auto status = insert(*backend, next); !status.ok()) {
        if (companion) handles_.remove(reinterpret_cast<uint64_t>(companion->handle)); // or its engine would stay
        return status;
    }
    all_.set(std::move(next));
    handle = (*backend)->handle;
    NIXL_DEBUG << "agent " << quoted(agent_) << ": created backend " << type;
    return {};
}

std::shared_ptr<Backend>
Backends::find(const nixlBackendH *handle) const {
    const auto pin = handles_.find(reinterpret_cast<uint64_t>(handle));
    return pin ? *pin : nullptr;
}

Result<Held<BackendList>>
Backends::candidates(const nixl_opt_args_t *args) const {
    if (!isHinted(args)) return all();
    BackendList hinted;
    for (const auto *handle : args->backends) {
        auto backend = find(handle);
        if (!backend) return {NIXL_ERR_INVALID_PARAM, "a backend hint is no backend of this agent"};
        const auto backends = all();
        for (const auto &companion : *backends) {
            if (companion->leader == backend.get()) hinted.push_back(companion);
        }
        if (std::find(hinted.begin(), hinted.end(), backend) == hinted.end()) hinted.push_back(std::move(backend));
    }
    return Held(std::make_shared<const BackendList>(std::move(hinted)));
}

} // namespace nx::agent
