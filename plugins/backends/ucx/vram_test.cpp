// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: memory that UCX calls a GPU's is registered, found, moved in every direction and told of like any other.
// Method: two agents over gpu_double.cpp. What UCX itself does with a GPU needs one.
#include <atomic>
#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/agent_pair.h"

namespace nx::ucx {
namespace {

using nx::test::Buffer;
using nx::test::listOf;
using nx::test::registrationOf;

constexpr size_t kSize = 1 << 20;
constexpr uint64_t kDevice = 3;

/// Buffers one after the other, on the GPU or not.
class Vram : public testing::Test {
protected:
    Vram() {
        void *library = dlopen(NX_UCX_GPU_DOUBLE, RTLD_NOW | RTLD_LOCAL);
        EXPECT_TRUE(library) << dlerror();
        if (library) set_gpu_ = reinterpret_cast<SetGpu *>(dlsym(library, "nxTestSetGpu"));
        EXPECT_TRUE(set_gpu_);
        declareGpu(false);
    }
    ~Vram() override {
        if (set_gpu_) set_gpu_(0, 0, false);
    }

    void
    declareGpu(bool first_context_only) {
        if (set_gpu_) set_gpu_(gpu.address(), gpu.size(), first_context_only);
    }

    nixlBasicDesc
    local(nixl_mem_t memory) const {
        return memory == VRAM_SEG ? gpu.desc(0, kSize, kDevice) : host.desc(0, kSize);
    }

    nixlBasicDesc
    remote(nixl_mem_t memory) const {
        return memory == VRAM_SEG ? gpu.desc(kSize, kSize, kDevice) : host.desc(kSize, kSize);
    }

    static unsigned char *
    at(const nixlBasicDesc &desc) {
        return reinterpret_cast<unsigned char *>(desc.addr);
    }

    void
    registerAll() {
        for (const nixl_mem_t memory : {DRAM_SEG, VRAM_SEG}) {
            ASSERT_EQ(pair.a->registerMem(registrationOf({local(memory)}, memory)), NIXL_SUCCESS) << nixlx::lastError();
            ASSERT_EQ(pair.b->registerMem(registrationOf({remote(memory)}, memory)), NIXL_SUCCESS)
                << nixlx::lastError();
        }
        pair.exchange();
    }

    /// Moves a pattern between A's and B's memory; the report's path.
    std::string
    move(nixl_xfer_op_t operation, nixl_mem_t from, nixl_mem_t to) {
        nixlXferReqH *request = nullptr;
        nixl_opt_args_t args;
        args.notif = "moved";
        EXPECT_EQ(pair.a->createXferReq(operation, listOf({local(from)}, from), listOf({remote(to)}, to), pair.b.name,
                                        request, &args),
                  NIXL_SUCCESS)
            << nixlx::lastError();
        if (!request) return "";
        const nixlBasicDesc source = operation == NIXL_WRITE ? local(from) : remote(to);
        const nixlBasicDesc sink = operation == NIXL_WRITE ? remote(to) : local(from);
        for (size_t i = 0; i < kSize; ++i) at(source)[i] = static_cast<unsigned char>(i * 31 + i / 251 + operation);
        std::fill_n(at(sink), kSize, 0);
        EXPECT_EQ(pair.run(request), NIXL_SUCCESS) << nixlx::lastError();
        EXPECT_TRUE(std::equal(at(source), at(source) + kSize, at(sink)));
        EXPECT_THAT(pair.receive(pair.b, pair.a.name, 1), testing::ElementsAre("moved"));
        nixlx::Report report;
        EXPECT_EQ(pair.a->getXferReport(request, report), NIXL_SUCCESS);
        EXPECT_EQ(pair.release(request), NIXL_SUCCESS);
        return report.path;
    }

    Buffer gpu{2 * kSize}, host{2 * kSize};
    nx::test::AgentPair pair{{.backend = "UCX", .params = {{"ucx_library", NX_UCX_GPU_DOUBLE}}}};

private:
    using SetGpu = void(uintptr_t, size_t, bool);
    SetGpu *set_gpu_ = nullptr;
};

/// Of the agents made while it exists; the others here have none.
struct Companions {
    Companions() {
        setenv("NIXL_COMPANIONS", "y", 1);
    }
    ~Companions() {
        setenv("NIXL_COMPANIONS", "n", 1);
    }
};

class VramBesideACompanion : Companions, public Vram {
protected:
    static size_t
    linkThreads() {
        size_t count = 0;
        for (const auto &task : std::filesystem::directory_iterator("/proc/self/task")) {
            std::string name;
            std::getline(std::ifstream(task.path() / "comm"), name);
            count += name == "nixl-ucx-links";
        }
        return count;
    }
};

TEST_F(Vram, MovesInEveryDirection) {
    registerAll();
    for (const auto operation : {NIXL_WRITE, NIXL_READ}) {
        for (const auto from : {DRAM_SEG, VRAM_SEG}) {
            for (const auto to : {DRAM_SEG, VRAM_SEG}) {
                SCOPED_TRACE(nixlEnumStrings::xferOpStr(operation) + " between " + nixlEnumStrings::memTypeStr(from) +
                             " here and " + nixlEnumStrings::memTypeStr(to) + " there");
                EXPECT_THAT(move(operation, from, to), testing::HasSubstr("gpu_double"));
            }
        }
    }
}

TEST_F(Vram, TakesTheNetworkWhereSharedMemoryCannotHaveIt) {
    declareGpu(true);
    registerAll();
    for (const auto operation : {NIXL_WRITE, NIXL_READ}) {
        EXPECT_THAT(move(operation, VRAM_SEG, VRAM_SEG), testing::HasSubstr(", network"));
        EXPECT_THAT(move(operation, VRAM_SEG, DRAM_SEG), testing::HasSubstr(", network"));
        EXPECT_THAT(move(operation, DRAM_SEG, VRAM_SEG), testing::HasSubstr(", network"));
    }
}

TEST_F(VramBesideACompanion, CostsNothingUntilThereIsSome) {
    ASSERT_EQ(pair.a->registerMem(registrationOf({local(DRAM_SEG)})), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(pair.b->registerMem(registrationOf({remote(DRAM_SEG)})), NIXL_SUCCESS) << nixlx::lastError();
    pair.exchange();
    EXPECT_EQ(pair.a->makeConnection(pair.b.name), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_THAT(move(NIXL_WRITE, DRAM_SEG, DRAM_SEG), testing::StartsWith("SHM: "));
    EXPECT_EQ(linkThreads(), 0u);
}

TEST_F(VramBesideACompanion, MovesOverSharedMemoryOfUcx) {
    registerAll();
    EXPECT_TRUE(nx::test::eventually([] { return linkThreads() == 2; })); // a thread names itself
    for (const auto operation : {NIXL_WRITE, NIXL_READ}) {
        EXPECT_THAT(move(operation, DRAM_SEG, DRAM_SEG), testing::StartsWith("SHM: "));
        EXPECT_THAT(move(operation, VRAM_SEG, VRAM_SEG), testing::HasSubstr(", shared memory (same host)"));
        EXPECT_THAT(move(operation, DRAM_SEG, VRAM_SEG), testing::HasSubstr(", shared memory (same host)"));
        // B's DRAM was registered, with the keys that peers get, before there was any VRAM.
        EXPECT_THAT(move(operation, VRAM_SEG, DRAM_SEG), testing::HasSubstr(", network"));
    }
    Buffer more(kSize);
    ASSERT_EQ(pair.b->registerMem(registrationOf({more.desc()})), NIXL_SUCCESS) << nixlx::lastError();
    pair.exchange();
    nixlXferReqH *request = nullptr;
    ASSERT_EQ(pair.a->createXferReq(NIXL_WRITE, listOf({local(VRAM_SEG)}, VRAM_SEG), listOf({more.desc()}), pair.b.name,
                                    request),
              NIXL_SUCCESS)
        << nixlx::lastError();
    EXPECT_EQ(pair.run(request), NIXL_SUCCESS) << nixlx::lastError();
    nixlx::Report report;
    EXPECT_EQ(pair.a->getXferReport(request, report), NIXL_SUCCESS);
    EXPECT_THAT(report.path, testing::HasSubstr(", shared memory (same host)"));
    EXPECT_EQ(pair.release(request), NIXL_SUCCESS);
}

TEST_F(VramBesideACompanion, MayFirstComeFromManyThreadsAtOnce) {
    constexpr size_t kThreads = 8, kPart = kSize / kThreads;
    std::atomic<size_t> refused{0};
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kThreads; ++i) {
        threads.emplace_back([&, i] {
            const Buffer &memory = i % 2 ? gpu : host;
            const nixl_mem_t kind = i % 2 ? VRAM_SEG : DRAM_SEG;
            for (const size_t at : {size_t{0}, kSize}) {
                const auto &agent = at ? pair.b : pair.a;
                const auto part = memory.desc(at + i * kPart, kPart, i % 2 ? kDevice : 0);
                refused += agent->registerMem(registrationOf({part}, kind)) != NIXL_SUCCESS;
                refused += agent->deregisterMem(registrationOf({part}, kind)) != NIXL_SUCCESS;
                refused += agent->registerMem(registrationOf({part}, kind)) != NIXL_SUCCESS;
            }
        });
    }
    for (auto &thread : threads) thread.join();
    EXPECT_EQ(refused, 0u);
    registerAll();
    EXPECT_THAT(move(NIXL_WRITE, VRAM_SEG, VRAM_SEG), testing::HasSubstr(", shared memory (same host)"));
    EXPECT_THAT(move(NIXL_READ, DRAM_SEG, VRAM_SEG), testing::HasSubstr(", shared memory (same host)"));
}

TEST_F(Vram, IsFoundByItsKindAndItsDevice) {
    registerAll();
    const nixlBasicDesc here = local(VRAM_SEG), there = remote(VRAM_SEG);
    const auto create = [&](nixl_mem_t memory, uint64_t device) {
        nixlXferReqH *request = nullptr;
        const auto status =
            pair.a->createXferReq(NIXL_WRITE, listOf({here}, VRAM_SEG),
                                  listOf({{there.addr, there.len, device}}, memory), pair.b.name, request);
        if (request) {
            EXPECT_EQ(pair.release(request), NIXL_SUCCESS);
        }
        return status;
    };
    EXPECT_EQ(create(VRAM_SEG, kDevice), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(create(VRAM_SEG, kDevice + 1), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(create(DRAM_SEG, kDevice), NIXL_ERR_NOT_FOUND);
}

TEST_F(Vram, IsRefusedBesideTheGpu) {
    EXPECT_EQ(pair.a->registerMem(registrationOf({host.desc()}, VRAM_SEG)), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), testing::HasSubstr("takes this VRAM for host memory"));
    // One of several: nothing of the list stays registered.
    EXPECT_EQ(pair.a->registerMem(registrationOf({local(VRAM_SEG), host.desc()}, VRAM_SEG)), NIXL_ERR_BACKEND);
    EXPECT_EQ(pair.a->deregisterMem(registrationOf({local(VRAM_SEG)}, VRAM_SEG)), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(pair.a->registerMem(registrationOf({local(VRAM_SEG)}, VRAM_SEG)), NIXL_SUCCESS) << nixlx::lastError();
}

} // namespace
} // namespace nx::ucx
