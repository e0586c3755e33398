// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The smallest complete backend: copies DRAM within one agent, with the installed headers only.
#include <cstring>
#include <utility>

#include <backend/backend_plugin.h>
#include <nixlx/engine.h>

namespace {

class Engine final : public nixlBackendEngine {
public:
    using nixlBackendEngine::nixlBackendEngine;

    bool
    supportsRemote() const override {
        return false;
    }
    bool
    supportsLocal() const override {
        return true;
    }
    bool
    supportsNotif() const override {
        return false;
    }
    nixl_mem_list_t
    getSupportedMems() const override {
        return {DRAM_SEG};
    }
    nixl_status_t
    registerMem(const nixlBlobDesc &, const nixl_mem_t &, nixlBackendMD *&out) override {
        out = new nixlBackendMD(true);
        return NIXL_SUCCESS;
    }
    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override {
        delete meta;
        return NIXL_SUCCESS;
    }
    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) override {
        output = input;
        return NIXL_SUCCESS;
    }
    nixl_status_t
    unloadMD(nixlBackendMD *) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    connect(const std::string &) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    disconnect(const std::string &) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    prepXfer(const nixl_xfer_op_t &,
             const nixl_meta_dlist_t &,
             const nixl_meta_dlist_t &,
             const std::string &,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *) const override {
        handle = new nixlBackendReqH;
        return NIXL_SUCCESS;
    }
    nixl_status_t
    postXfer(const nixl_xfer_op_t &operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &,
             nixlBackendReqH *&,
             const nixl_opt_b_args_t *) const override {
        for (int i = 0; i < local.descCount(); ++i) {
            auto *target = reinterpret_cast<void *>(local[i].addr);
            auto *source = reinterpret_cast<void *>(remote[i].addr);
            if (operation == NIXL_WRITE) std::swap(target, source);
            std::memmove(target, source, local[i].len);
        }
        return NIXL_SUCCESS;
    }
    nixl_status_t
    checkXfer(nixlBackendReqH *) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    releaseReqH(nixlBackendReqH *handle) const override {
        delete handle;
        return NIXL_SUCCESS;
    }
};

} // namespace

nixlBackendPlugin *
nixl_plugin_init() {
    return nixlBackendPluginCreator<Engine>::create(NIXL_PLUGIN_API_VERSION, "OUTSIDE", "0.1", {}, {DRAM_SEG});
}

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {NIXLX_PLUGIN_MAGIC,
                                                                      sizeof(nixlx_plugin_descriptor_t),
                                                                      NIXLX_PLUGIN_API_VERSION,
                                                                      0,
                                                                      "backend",
                                                                      "OUTSIDE",
                                                                      "0.1",
                                                                      NIXLX_ABI_TAG,
                                                                      "",
                                                                      "",
                                                                      nullptr,
                                                                      nullptr,
                                                                      0,
                                                                      0};
