// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A UCX for tests that believes in a GPU: the real library, which the dynamic loader finds behind this one, except that
// it calls the memory of one range a GPU's. The bytes stay in host memory, so UCX can move them.
#include <atomic>
#include <cstdint>
#include <dlfcn.h>
#include <ucp/api/ucp.h>

namespace {

std::atomic<uintptr_t> begin{0}, end{0};
std::atomic<bool> for_first_context_only{false};
std::atomic<unsigned> maps{0};

template<class Function>
Function *
real(const char *name) {
    return reinterpret_cast<Function *>(dlsym(RTLD_NEXT, name));
}

bool
isOfGpu(const void *address) {
    const auto place = reinterpret_cast<uintptr_t>(address);
    return place >= begin && place < end;
}

} // namespace

extern "C" {

/// The GPU's memory from now on. `first_only`: of the contexts that map it in turn, only every other one can.
__attribute__((visibility("default"))) void
nxTestSetGpu(uintptr_t address, size_t length, bool first_only) {
    begin = address;
    end = address + length;
    for_first_context_only = first_only;
    maps = 0;
}

__attribute__((visibility("default"))) ucs_status_t
ucp_mem_map(ucp_context_h context, const ucp_mem_map_params_t *params, ucp_mem_h *handle) {
    if (for_first_context_only && isOfGpu(params->address) && maps++ % 2 == 1) return UCS_ERR_UNSUPPORTED;
    return real<decltype(ucp_mem_map)>("ucp_mem_map")(context, params, handle);
}

__attribute__((visibility("default"))) ucs_status_t
ucp_mem_query(const ucp_mem_h handle, ucp_mem_attr_t *attributes) {
    ucp_mem_attr_t where{};
    where.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS;
    const auto query = real<decltype(ucp_mem_query)>("ucp_mem_query");
    ucs_status_t status = query(handle, &where);
    if (status == UCS_OK) status = query(handle, attributes);
    if (status == UCS_OK && isOfGpu(where.address)) attributes->mem_type = UCS_MEMORY_TYPE_CUDA;
    return status;
}

} // extern "C"
