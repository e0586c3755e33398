// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The engine of both backends, GDS and GDS_MT, between files and memory of the host or of a GPU, by way of cuFile:
// memory.h knows what is registered, ways.h moves, the rest is the kit's. Every function may be called from any thread,
// as nixlx::Engine asks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gds/memory.h"
#include "kit/files/file_engine.h"

namespace nx::gds {

inline constexpr size_t kBatchOptionCount = 3, kThreadOptionCount = 1;
extern const nixlx_option kBatchOptions[kBatchOptionCount];   ///< GDS's
extern const nixlx_option kThreadOptions[kThreadOptionCount]; ///< GDS_MT's

/// Which kinds of memory move to which, of both.
inline constexpr uint8_t kMemory = NIXLX_MEMORY(DRAM_SEG) | NIXLX_MEMORY(VRAM_SEG), kFiles = NIXLX_MEMORY(FILE_SEG);

class Engine final : public kit::FileEngine {
public:
    /// GDS and GDS_MT. Throw with a sentence.
    static nixlx::Engine *
    createBatched(const nixlBackendInitParams *params);
    static nixlx::Engine *
    createThreaded(const nixlBackendInitParams *params);

private:
    struct Kind {
        const char *how; ///< "batches": for people
        const char *thread_name;
        uint64_t bytes_max; ///< of what a thread takes at once
    };
    Engine(const Kind &kind,
           const std::string &agent,
           std::shared_ptr<Ledger> ledger,
           std::vector<std::unique_ptr<kit::FileWay>> ways);

    Status
    add(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) override;

    const std::shared_ptr<Ledger> ledger_;
};

} // namespace nx::gds
