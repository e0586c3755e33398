// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An engine that does nothing, for test plugins that need one to exist.
#pragma once

#include "backend/backend_engine.h"

class EngineStub : public nixlBackendEngine {
public:
    explicit EngineStub(const nixlBackendInitParams *params) : nixlBackendEngine(params) {}

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
    registerMem(const nixlBlobDesc &, const nixl_mem_t &, nixlBackendMD *&) override {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    nixl_status_t
    deregisterMem(nixlBackendMD *) override {
        return NIXL_ERR_NOT_SUPPORTED;
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
    unloadMD(nixlBackendMD *) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    prepXfer(const nixl_xfer_op_t &,
             const nixl_meta_dlist_t &,
             const nixl_meta_dlist_t &,
             const std::string &,
             nixlBackendReqH *&,
             const nixl_opt_b_args_t *) const override {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    nixl_status_t
    postXfer(const nixl_xfer_op_t &,
             const nixl_meta_dlist_t &,
             const nixl_meta_dlist_t &,
             const std::string &,
             nixlBackendReqH *&,
             const nixl_opt_b_args_t *) const override {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    nixl_status_t
    checkXfer(nixlBackendReqH *) const override {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    nixl_status_t
    releaseReqH(nixlBackendReqH *) const override {
        return NIXL_SUCCESS;
    }
};
