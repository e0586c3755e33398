// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The smallest complete backend: copies DRAM within one agent, with the installed headers only.
#include <cstring>
#include <utility>

#include <nixlx/engine.h>

namespace {

struct Copy final : nixlBackendReqH {
    explicit Copy(const nixlx::Plan &plan) : plan(plan) {}

    const nixlx::Plan &plan;
    uint64_t bytes_done = 0;
};

class Engine final : public nixlx::Engine {
public:
    nixl_status_t
    registerMem(const nixlBlobDesc &, nixl_mem_t, nixlBackendMD *&out) override {
        out = new nixlBackendMD(true);
        return NIXL_SUCCESS;
    }
    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *, nixlBackendReqH *&request) override {
        request = new Copy(plan);
        return NIXL_SUCCESS;
    }
    nixl_status_t
    post(nixlBackendReqH *request, const std::string *) override {
        auto &copy = *static_cast<Copy *>(request);
        for (const nixlx::Run &run : copy.plan.runs) {
            for (uint64_t i = 0; i < run.count; ++i) {
                auto *target = reinterpret_cast<void *>(run.local + i * run.local_stride);
                auto *source = reinterpret_cast<void *>(run.remote + i * run.remote_stride);
                if (copy.plan.operation == NIXL_WRITE) std::swap(target, source);
                std::memmove(target, source, run.length);
            }
        }
        copy.bytes_done = copy.plan.total_bytes;
        return NIXL_SUCCESS;
    }
    nixl_status_t
    check(nixlBackendReqH *) override {
        return NIXL_SUCCESS;
    }
    void
    cancel(nixlBackendReqH *) override {}
    nixlx::RequestInfo
    describe(const nixlBackendReqH *) const override {
        return {"memmove", ""};
    }
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const override {
        return static_cast<const Copy *>(request)->bytes_done;
    }
};

} // namespace

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "OUTSIDE",
    .version = "0.1",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {NIXLX_MEMORY(DRAM_SEG)},
    .create = [](const nixlBackendInitParams *) -> nixlx::Engine * { return new Engine; },
    .options = nullptr,
    .option_size = sizeof(nixlx_option),
    .option_count = 0,
};
