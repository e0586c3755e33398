// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Types that the agent and a backend engine hand each other.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "nixl_descriptors.h"
#include "nixl_types.h"
#include "utils/common/nixl_time.h"

#pragma GCC visibility push(default)

/// What an engine is created with. The pointers are valid during creation only.
class nixlBackendInitParams {
public:
    std::string localAgent;
    nixl_backend_t type;
    nixl_b_params_t *customParams = nullptr;
    bool enableProgTh = false;
    nixlTime::us_t pthrDelay = 0;
    nixl_thread_sync_t syncMode = nixl_thread_sync_t::NIXL_THREAD_SYNC_DEFAULT;
    bool enableTelemetry_ = false;
};

struct nixlBackendOptionalArgs {
    nixl_blob_t notifMsg;
    bool hasNotif = false;
    nixl_blob_t customParam;
};
using nixl_opt_b_args_t = nixlBackendOptionalArgs;

/// An engine's own state of one request.
class nixlBackendReqH {
public:
    nixlBackendReqH() = default;
    virtual ~nixlBackendReqH() = default;
};

/// An engine's own state of one registration, local or remote.
class nixlBackendMD {
protected:
    bool isPrivateMD;

public:
    nixlBackendMD(bool is_private) : isPrivateMD(is_private) {}
    virtual ~nixlBackendMD() = default;
};

class nixlBackendConnMD {
public:
    std::string dstIpAddress;
    uint16_t dstPort = 0;
};

/// A range together with the engine's registration that covers it.
class nixlMetaDesc : public nixlBasicDesc {
public:
    nixlBackendMD *metadataP = nullptr;

    using nixlBasicDesc::nixlBasicDesc;
    nixlMetaDesc() = default;

    nixlMetaDesc(const uintptr_t &addr, const size_t &len, const uint64_t &dev_id, nixlBackendMD *metadata)
        : nixlBasicDesc(addr, len, dev_id),
          metadataP(metadata) {}

    friend bool
    operator==(const nixlMetaDesc &a, const nixlMetaDesc &b) noexcept {
        return static_cast<const nixlBasicDesc &>(a) == static_cast<const nixlBasicDesc &>(b) &&
            a.metadataP == b.metadataP;
    }

    void
    print(const std::string &suffix) const {
        nixlBasicDesc::print(suffix);
    }
};
using nixl_meta_dlist_t = nixlDescList<nixlMetaDesc>;

struct nixlRemoteMetaDesc : public nixlMetaDesc {
    std::string remoteAgent;

    using nixlMetaDesc::nixlMetaDesc;
    nixlRemoteMetaDesc() = default;
    nixlRemoteMetaDesc(const std::string &remote_agent) : remoteAgent(remote_agent) {}

    friend bool
    operator==(const nixlRemoteMetaDesc &a, const nixlRemoteMetaDesc &b) noexcept {
        return static_cast<const nixlMetaDesc &>(a) == static_cast<const nixlMetaDesc &>(b) &&
            a.remoteAgent == b.remoteAgent;
    }
};
using nixl_remote_meta_dlist_t = nixlDescList<nixlRemoteMetaDesc>;

/// The strided form of nixlMetaDesc (called nixlStrideDesc in 1.4, before that name became public).
class nixlMetaStrideDesc : public nixlMetaDesc {
public:
    size_t stride = 0;
    size_t count = 0;
    size_t start_idx = 0; ///< index of the first block in the flat list

    using nixlMetaDesc::nixlMetaDesc;
    nixlMetaStrideDesc() = default;

    nixlMetaStrideDesc(const uintptr_t &addr,
                       const size_t &len,
                       const uint64_t &dev_id,
                       nixlBackendMD *metadata,
                       const size_t &stride,
                       const size_t &count,
                       const size_t &start_idx = 0)
        : nixlMetaDesc(addr, len, dev_id, metadata),
          stride(stride),
          count(count),
          start_idx(start_idx) {}

    /// `size` consecutive blocks from block `idx` of this element, as one range.
    nixlMetaDesc
    getMetaDesc(size_t idx, size_t size = 1) const {
        return nixlMetaDesc(addr + idx * stride, len * size, devId, metadataP);
    }
};

class nixlMetaStrideDescList : public nixlDescList<nixlMetaStrideDesc> {
public:
    using nixlDescList<nixlMetaStrideDesc>::nixlDescList;

    /// Number of blocks in all elements.
    size_t
    flatSize() const;

    /// The element that holds block `flat_idx`; `run_size` becomes the number of blocks from there to its end.
    /// Throws std::out_of_range.
    const nixlMetaStrideDesc &
    find(size_t flat_idx, size_t &run_size) const;
};
using nixl_stride_dlist_t = nixlMetaStrideDescList;

typedef std::vector<std::pair<std::string, std::string>> notif_list_t; ///< (sender's agent name, message)

extern template class nixlDescList<nixlMetaDesc>;
extern template class nixlDescList<nixlRemoteMetaDesc>;
extern template class nixlDescList<nixlMetaStrideDesc>;

#pragma GCC visibility pop
