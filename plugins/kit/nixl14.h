// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An engine (nixlx::Engine) as a plugin of NIXL 1.4: for programs that know no other. Its requests bring a plan that is
// made of 1.4's lists.
#pragma once

#include <memory>
#include <string>

#include "backend/backend_plugin.h"
#include "base/memory_set.h"
#include "nixlx/engine.h"

namespace nx::kit {

/// Thread-safe as far as the engine is; 1.4 asks for no more.
class Nixl14Engine : public nixlBackendEngine {
public:
    /// Creates the engine that `descriptor` describes; throws what it throws.
    Nixl14Engine(const nixlBackendInitParams *params, const nixlx_plugin_descriptor_t &descriptor);
    ~Nixl14Engine() override;

    bool
    supportsRemote() const override;
    bool
    supportsLocal() const override;
    bool
    supportsNotif() const override;
    nixl_mem_list_t
    getSupportedMems() const override;

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, const nixl_mem_t &memory, nixlBackendMD *&out) override;
    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override;
    nixl_status_t
    connect(const std::string &remote_agent) override;
    nixl_status_t
    disconnect(const std::string &remote_agent) override;
    nixl_status_t
    unloadMD(nixlBackendMD *input) override;

    nixl_status_t
    prepXfer(const nixl_xfer_op_t &operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *opt_args = nullptr) const override;
    nixl_status_t
    postXfer(const nixl_xfer_op_t &operation,
             const nixl_meta_dlist_t &local,
             const nixl_meta_dlist_t &remote,
             const std::string &remote_agent,
             nixlBackendReqH *&handle,
             const nixl_opt_b_args_t *opt_args = nullptr) const override;
    nixl_status_t
    checkXfer(nixlBackendReqH *handle) const override;
    nixl_status_t
    releaseReqH(nixlBackendReqH *handle) const override;

    nixl_status_t
    prepMemView(const nixl_remote_meta_dlist_t &remote,
                nixlMemViewH &view,
                const nixl_opt_b_args_t *args = nullptr) const override;
    nixl_status_t
    prepMemView(const nixl_meta_dlist_t &local,
                nixlMemViewH &view,
                const nixl_opt_b_args_t *args = nullptr) const override;
    void
    releaseMemView(nixlMemViewH view) const override;

    nixl_status_t
    getPublicData(const nixlBackendMD *meta, std::string &data) const override;
    nixl_status_t
    getConnInfo(std::string &info) const override;
    nixl_status_t
    loadRemoteConnInfo(const std::string &remote_agent, const std::string &info) override;
    nixl_status_t
    loadRemoteMD(const nixlBlobDesc &mem,
                 const nixl_mem_t &memory,
                 const std::string &remote_agent,
                 nixlBackendMD *&out) override;
    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&out) override;
    nixl_status_t
    getNotifs(notif_list_t &out) override;
    nixl_status_t
    genNotif(const std::string &remote_agent, const std::string &message) const override;
    nixl_status_t
    queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const override;
    nixl_status_t
    estimateXferCost(const nixl_xfer_op_t &operation,
                     const nixl_meta_dlist_t &local,
                     const nixl_meta_dlist_t &remote,
                     const std::string &remote_agent,
                     nixlBackendReqH *const &handle,
                     std::chrono::microseconds &duration,
                     std::chrono::microseconds &margin,
                     nixl_cost_t &method,
                     const nixl_opt_args_t *opt_args = nullptr) const override;

private:
    template<class Ability, class Body>
    nixl_status_t
    with(Body body) const;

    const nixlx_plugin_descriptor_t &descriptor_;
    const std::unique_ptr<nixlx::Engine> engine_;
};

/// What a plugin's nixl_plugin_init returns. `options`: what 1.4's programs are told of, empty values included.
template<const nixlx_plugin_descriptor_t &kDescriptor>
nixlBackendPlugin *
nixl14Plugin(const nixl_b_params_t &options = {}) {
    struct Engine final : Nixl14Engine {
        explicit Engine(const nixlBackendInitParams *params) : Nixl14Engine(params, kDescriptor) {}
    };
    return nixlBackendPluginCreator<Engine>::create(NIXL_PLUGIN_API_VERSION, kDescriptor.name, kDescriptor.version,
                                                    options, listOf(memoriesOf(kDescriptor.partners)));
}

} // namespace nx::kit
