// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A plugin with a full descriptor. Its functions count their calls in the descriptor-free export test_plugin_calls:
// "i" for each init, "f" for each fini.
#include <mutex>
#include <string>

#include "backend/backend_plugin.h"
#include "engine_stub.h"
#include "nixlx/engine.h"

namespace {

std::mutex mutex;
std::string calls;

void
note(char call) {
    std::lock_guard lock(mutex);
    calls += call;
}

class Engine final : public EngineStub, public nixlx::Engine {
public:
    using EngineStub::EngineStub;

    nixl_status_t
    prepare(const nixlx::Plan &, const nixl_opt_b_args_t *, nixlBackendReqH *&) override {
        return nixlx::fail(NIXL_ERR_NOT_SUPPORTED, "this engine only exists");
    }
    nixl_status_t
    post(nixlBackendReqH *, const std::string *) override {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    nixl_status_t
    check(nixlBackendReqH *) override {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    void
    cancel(nixlBackendReqH *) override {}
    bool
    forceQuiet(nixlBackendReqH *) override {
        return false;
    }
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *) const override {
        return {};
    }
    void
    release(nixlBackendReqH *) override {}
    nixlx::RequestInfo
    describe(const nixlBackendReqH *) const override {
        return {"described", ""};
    }
    std::optional<double>
    predict(const nixlx::Plan &) const override {
        return 42;
    }
    nixl_status_t
    getPeerInfo(std::string &) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    loadPeerInfo(const std::string &, const std::string &) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    validatePeer(const std::string &, const std::string *, std::span<const std::string>) const override {
        return NIXL_SUCCESS;
    }
};

const nixlx_option kOptions[] = {{"depth", "int", "16", "requests in flight"}, {"mode", "a|b", "a", "which way"}};

} // namespace

extern "C" NIXL_PLUGIN_EXPORT const char *
test_plugin_calls() {
    std::lock_guard lock(mutex);
    return calls.c_str();
}

nixlBackendPlugin *
nixl_plugin_init() {
    note('i');
    return nixlBackendPluginCreator<Engine>::create(NIXL_PLUGIN_API_VERSION, "DESCRIBED", "3.2.1", {{"mode", "b"}},
                                                    {DRAM_SEG, FILE_SEG});
}

void
nixl_plugin_fini() {
    note('f');
}

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_TARGET_CHECKED,
    .kind = "backend",
    .name = "DESCRIBED",
    .version = "3.2.1",
    .abi = NIXLX_ABI_TAG,
    .build_id = "test",
    .conflicts = "VINTAGE,OTHER",
    .extend = [](nixlBackendEngine *engine) -> nixlx::Engine * { return static_cast<Engine *>(engine); },
    .options = kOptions,
    .option_count = 2,
    .reserved = 0,
};
