// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a backend plugin exports: libplugin_<NAME>.so with nixl_plugin_init and, optionally, nixl_plugin_fini.
// Plugins of ours also export nixlx_plugin_descriptor (nixlx/engine.h).
#pragma once

#include <exception>
#include <type_traits>

#include "backend/backend_engine.h"
#include "utils/common/nixl_log.h"

#pragma GCC visibility push(default)

namespace nixlx {
nixl_status_t
fail(nixl_status_t status, std::string sentence) noexcept; // nixlx/engine.h
}

#define NIXL_PLUGIN_API_VERSION 1
#define NIXL_PLUGIN_EXPORT __attribute__((visibility("default")))

class nixlBackendPlugin {
public:
    int api_version;
    nixlBackendEngine *(*create_engine)(const nixlBackendInitParams *init_params);
    void (*destroy_engine)(nixlBackendEngine *engine);
    const char *(*get_plugin_name)();
    const char *(*get_plugin_version)();
    nixl_b_params_t (*get_backend_options)();
    nixl_mem_list_t (*get_backend_mems)();
};

typedef nixlBackendPlugin *(*nixlStaticPluginCreatorFunc)();

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
nixl_plugin_init();
extern "C" NIXL_PLUGIN_EXPORT void
nixl_plugin_fini();

/// Builds the plugin object of an engine with a constructor `Engine(const nixlBackendInitParams *)` or a static
/// `Engine::create(const nixlBackendInitParams &)` that returns an owning (smart or raw) pointer. An exception in
/// either gives a null engine and becomes the sentence of the failed createBackend.
template<typename Engine> class nixlBackendPluginCreator {
public:
    static nixlBackendPlugin *
    create(int api_version,
           const char *name,
           const char *version,
           const nixl_b_params_t &params,
           const nixl_mem_list_t &mems) {
        static const char *plugin_name;
        static const char *plugin_version;
        static nixl_b_params_t plugin_params;
        static nixl_mem_list_t plugin_mems;
        plugin_name = name;
        plugin_version = version;
        plugin_params = params;
        plugin_mems = mems;
        static nixlBackendPlugin plugin = {api_version,
                                           createEngine,
                                           [](nixlBackendEngine *engine) { delete engine; },
                                           []() { return plugin_name; },
                                           []() { return plugin_version; },
                                           []() { return plugin_params; },
                                           []() { return plugin_mems; }};
        return &plugin;
    }

private:
    static nixlBackendEngine *
    createEngine(const nixlBackendInitParams *init_params) {
        try {
            if constexpr (requires { Engine::create(*init_params); }) {
                auto engine = Engine::create(*init_params);
                if constexpr (std::is_pointer_v<decltype(engine)>) {
                    return engine;
                } else {
                    return engine.release();
                }
            } else {
                return new Engine(init_params);
            }
        }
        catch (const std::exception &e) {
            // The agent logs it, with the sentence.
            (void)nixlx::fail(NIXL_ERR_BACKEND, e.what());
            return nullptr;
        }
    }
};

#pragma GCC visibility pop
