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

/// One ability, and one that the library does not know.
class Engine final : public nixlx::Engine, public nixlx::Costs {
public:
    nixl_status_t
    registerMem(const nixlBlobDesc &, nixl_mem_t, nixlBackendMD *&) override {
        return nixlx::fail(NIXL_ERR_NOT_SUPPORTED, "this engine only exists");
    }
    nixl_status_t
    prepare(const nixlx::Plan &, const nixl_opt_b_args_t *, nixlBackendReqH *&) override {
        return NIXL_ERR_NOT_SUPPORTED;
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
    nixlx::RequestInfo
    describe(const nixlBackendReqH *) const override {
        return {"described", ""};
    }
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *) const override {
        return {};
    }
    std::optional<nixlx::Cost>
    cost(nixl_mem_t, nixl_mem_t, std::string_view) const override {
        return nixlx::Cost{42, 1, 0.5};
    }
    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return name == "levitation" ? this : nixlx::offer<Costs>(this, name, version);
    }
};

const nixlx_option kOptions[] = {{"depth", "int", "16", "requests in flight", "threads"},
                                 {"mode", "a|b", "a", "which way", ""}};

} // namespace

extern "C" NIXL_PLUGIN_EXPORT const char *
test_plugin_calls() {
    std::lock_guard lock(mutex);
    return calls.c_str();
}

nixlBackendPlugin *
nixl_plugin_init() {
    note('i');
    return nixlBackendPluginCreator<EngineStub>::create(NIXL_PLUGIN_API_VERSION, "DESCRIBED", "3.2.1", {{"mode", "b"}},
                                                        {DRAM_SEG, FILE_SEG});
}

void
nixl_plugin_fini() {
    note('f');
}

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION + 7, // a newer minor version
    .capabilities = NIXLX_CAP_MERGE_RANGES,
    .kind = "backend",
    .name = "DESCRIBED",
    .version = "3.2.1",
    .abi = NIXLX_ABI_TAG,
    .build_id = "test",
    .conflicts = "VINTAGE,OTHER",
    .partners = {NIXLX_MEMORY(FILE_SEG), 0, 0, 0, NIXLX_MEMORY(DRAM_SEG)},
    .create = [](const nixlBackendInitParams *) -> nixlx::Engine * { return new Engine; },
    .options = kOptions,
    .option_size = sizeof(nixlx_option),
    .option_count = 2,
};
