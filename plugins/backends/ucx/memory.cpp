// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/memory.h"

#include <utility>

#include "ucx/address.h"
#include "ucx/runtime.h"

namespace nx::ucx {

namespace {

// The key of a range without bytes: UCX reads zeros as "reachable through nothing". Not empty, since peers of NIXL 1.4
// hand it to UCX in any case.
const std::string kEmptyRangeKey(16, '\0');

} // namespace

Result<std::unique_ptr<LocalMemory>>
LocalMemory::create(Runtime &runtime, const nixlBasicDesc &range, nixl_mem_t memory) {
    std::unique_ptr<LocalMemory> local(new LocalMemory(runtime, range));
    if (range.len == 0) {
        local->public_data_ = kEmptyRangeKey;
        runtime.addMemory(*local);
        return local;
    }
    auto *const address = reinterpret_cast<void *>(range.addr);
    Keys keys;
    auto plain = runtime.pool().context(Fabric::kPlain).map(address, range.len);
    if (!plain.ok()) return std::move(plain).status();
    keys.plain = plain->key;
    const bool host_memory = plain->host_memory;
    local->hold(Fabric::kPlain, *std::move(plain));
    if (memory == VRAM_SEG && host_memory) {
        local->unmap();
        return {NIXL_ERR_BACKEND,
                "UCX takes this VRAM for host memory; the UCX at " + runtime.library().path() +
                    " has no support for the GPU, or the address is not one of the GPU"};
    }
    if (memory == VRAM_SEG ? runtime.makeLocalFabric() : runtime.hasLocalFabric()) local->share();
    if (const Mapping *shared = local->mapping(Fabric::kLocal)) keys.local = shared->key;
    local->public_data_ = encodeKeys(keys);
    runtime.addMemory(*local);
    return local;
}

void
LocalMemory::share() {
    if (length_ == 0 || std::exchange(share_tried_, true)) return;
    auto mapped = runtime_->pool().context(Fabric::kLocal).map(reinterpret_cast<void *>(address_), length_);
    if (mapped.ok()) hold(Fabric::kLocal, *std::move(mapped));
}

void
LocalMemory::hold(Fabric fabric, Mapping mapping) {
    Context &context = runtime_->pool().context(fabric);
    mappings_[static_cast<size_t>(fabric)] = {new Mapping(std::move(mapping)), [&context](const Mapping *gone) {
                                                  context.unmap(gone->handle);
                                                  delete gone;
                                              }};
}

LocalMemory::~LocalMemory() {
    if (!runtime_) return;
    runtime_->removeMemory(*this);
    unmap();
}

void
LocalMemory::unmap() noexcept {
    if (!runtime_) return;
    for (auto &mapping : mappings_) mapping.reset();
    runtime_ = nullptr;
}

RemoteMemory::RemoteMemory(Runtime &runtime, std::shared_ptr<Connection> connection, Keys keys)
    : nixlBackendMD(false),
      runtime_(runtime),
      connection_(std::move(connection)),
      keys_(std::move(keys)),
      unpacked_(std::make_unique<ucp_rkey *[]>(runtime.pool().workerCount() * kFabricCount)) {
    if (!reachable(Fabric::kLocal)) connection_->addPlainOnly();
}

RemoteMemory::~RemoteMemory() {
    if (!reachable(Fabric::kLocal)) connection_->removePlainOnly();
    for (const Fabric fabric : {Fabric::kPlain, Fabric::kLocal}) {
        for (size_t i = 0; i < runtime_.pool().workerCount(); ++i) {
            if (ucp_rkey *key = unpacked(fabric, i)) releaseKey(connection_->worker(fabric, i), key);
        }
    }
}

Result<ucp_rkey *>
RemoteMemory::key(Fabric fabric, size_t worker, Endpoint &endpoint) {
    ucp_rkey *&slot = unpacked(fabric, worker);
    if (slot) return slot;
    const std::string &packed = fabric == Fabric::kLocal ? keys_.local : keys_.plain;
    if (auto status = checkKey(packed, connection_->refusedDomains(fabric)); !status.ok()) return status;
    auto unpacked = endpoint.unpackKey(packed);
    if (unpacked.ok()) slot = *unpacked;
    return unpacked;
}

} // namespace nx::ucx
