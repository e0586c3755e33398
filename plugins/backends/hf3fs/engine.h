// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The engine between files of 3FS and memory of the host: memory.h knows what is registered, way.h moves, the rest is
// the kit's. Every function may be called from any thread, as nixlx::Engine asks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hf3fs/memory.h"
#include "kit/files/file_engine.h"

namespace nx::hf3fs {

inline constexpr size_t kOptionCount = 3;
extern const nixlx_option kOptions[kOptionCount];

class Engine final : public kit::FileEngine {
public:
    /// Throws with a sentence.
    static nixlx::Engine *
    create(const nixlBackendInitParams *params);

private:
    Engine(const std::string &agent,
           Copying copying,
           std::shared_ptr<const Driver> driver,
           std::vector<std::unique_ptr<kit::FileWay>> ways);

    Status
    add(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) override;

    const std::shared_ptr<const Driver> driver_;
    Lender lender_;
};

} // namespace nx::hf3fs
