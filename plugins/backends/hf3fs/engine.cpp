// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "hf3fs/engine.h"

#include <algorithm>
#include <utility>

#include "hf3fs/way.h"
#include "kit/params.h"

namespace nx::hf3fs {

const nixlx_option kOptions[kOptionCount] = {
    {"mount_point", "string", "/mnt/3fs/", "a path in the mount of 3FS", ""},
    {"mem_config", "string", "auto",
     "auto: memory that 3FS can map is not copied; dram: all is copied; dram_zc: nothing is", ""},
    {"iopool_size", "int", "64", "I/Os in flight (1-1048576)", ""},
};

namespace {

constexpr uint64_t kThreads = 4;
constexpr uint64_t kBytesMax = uint64_t{4} << 20; // of a thread at once

Copying
copyingOf(const std::string &mem_config) {
    if (mem_config == "dram") return Copying::kAlways;
    return mem_config == "dram_zc" ? Copying::kNever : Copying::kWhereNeeded;
}

} // namespace

nixlx::Engine *
Engine::create(const nixlBackendInitParams *params) {
    kit::ParamReader in(params->customParams);
    const std::string mount_point = in.text("mount_point", "/mnt/3fs/");
    const std::string mem_config = in.choice("mem_config", "auto", {"auto", "dram", "dram_zc"});
    const uint64_t entry_count = in.number("iopool_size", 64, {.min = 1, .max = 1 << 20});
    kit::orThrow(in.status());
    std::shared_ptr<const Driver> driver = kit::orThrow(Driver::open(mount_point));
    const uint64_t thread_count = std::min(kThreads, entry_count);
    std::vector<std::unique_ptr<kit::FileWay>> ways;
    for (uint64_t i = 0; i < thread_count; ++i) {
        ways.push_back(kit::orThrow(RingWay::create(*driver, entry_count / thread_count, kBytesMax)));
    }
    return new Engine(params->localAgent, copyingOf(mem_config), std::move(driver), std::move(ways));
}

Engine::Engine(const std::string &agent,
               Copying copying,
               std::shared_ptr<const Driver> driver,
               std::vector<std::unique_ptr<kit::FileWay>> ways)
    : FileEngine({.agent = agent,
                  .path = "3FS at " + driver->mountPoint(),
                  .thread_name = "nixl-hf3fs",
                  .bytes_max = kBytesMax,
                  // Only files of 3FS are registered here, and this is the short way to them.
                  .cost = {.start_us = 10, .block_us = 1, .byte_us = 1 / 1e4},
                  .uses = driver},
                 std::move(ways)),
      driver_(std::move(driver)),
      lender_(*driver_, copying) {}

Status
Engine::add(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) {
    if (memory == DRAM_SEG) {
        auto lent = lender_.lend(mem.addr, mem.len);
        if (!lent.ok()) return std::move(lent).status();
        out = new HostMemory(*std::move(lent));
        return {};
    }
    if (memory != FILE_SEG) {
        return {NIXL_ERR_NOT_SUPPORTED,
                "3FS has to do with DRAM_SEG and FILE_SEG, not with " + nixlEnumStrings::memTypeStr(memory)};
    }
    auto file = files_.add(mem);
    if (!file.ok()) return std::move(file).status();
    auto made = FileMemory::create(*driver_, *std::move(file));
    if (!made.ok()) return std::move(made).status();
    out = made->release();
    return {};
}

} // namespace nx::hf3fs
