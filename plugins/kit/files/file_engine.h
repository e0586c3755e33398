// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// An engine between memory and files whose requests a FileMover moves. A backend derives its own from it, which knows
// what is registered, and gives it its ways to move. Every function may be called from any thread, as nixlx::Engine
// asks.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/fd.h"
#include "kit/bell.h"
#include "kit/files/file_mover.h"
#include "kit/files/files.h"
#include "nixlx/engine.h"

namespace nx::kit {

/// For whoever creates an engine, which fails with an exception: throws the sentence.
inline void
orThrow(const Status &status) {
    if (!status.ok()) throw std::runtime_error(status.message());
}

template<class T>
T
orThrow(Result<T> result) {
    orThrow(result.status());
    return *std::move(result);
}

/// A descriptor of our own, for a library that keeps the one it is given: a program may close the one it has registered
/// at any time. As File::use().
Result<Fd>
ownDescriptor(File &file);

class FileEngine : public nixlx::Engine, public nixlx::Queries, public nixlx::Costs, public nixlx::Waiting {
public:
    nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) final;
    nixl_status_t
    queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const final;

    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) final;
    nixl_status_t
    post(nixlBackendReqH *request, const std::string *notification) final;
    nixl_status_t
    check(nixlBackendReqH *request) final;
    void
    cancel(nixlBackendReqH *request) final;
    nixlx::RequestInfo
    describe(const nixlBackendReqH *request) const final;
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const final;
    std::optional<uint64_t>
    pathMark(const nixlBackendReqH *request) const final;
    std::optional<nixlx::Cost>
    cost(nixl_mem_t local, nixl_mem_t remote, std::string_view remote_agent) const final;

    int
    descriptor() const noexcept final {
        return bell_.descriptor();
    }
    bool
    arm() noexcept final {
        return bell_.arm();
    }

    void *
    ability(std::string_view name, uint32_t version) noexcept final {
        return nixlx::offer<Queries, Costs, Waiting>(this, name, version);
    }

protected:
    struct Setup {
        std::string agent;
        std::string path; ///< how data travels, for people
        std::string thread_name;
        uint64_t bytes_max; ///< of what a thread takes at once
        nixlx::Cost cost;
        std::shared_ptr<const void> uses; ///< what the ways refer to
    };
    FileEngine(Setup setup, std::vector<std::unique_ptr<FileWay>> ways);

    /// As registerMem(). The metadata of a file is a FileMemory.
    virtual Status
    add(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) = 0;

    Files files_; ///< keeps no descriptors open: backends have their own

private:
    const Setup setup_;
    Bell bell_;
    FileMover mover_;
};

} // namespace nx::kit
