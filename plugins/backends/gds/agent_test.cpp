// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: GDS and GDS_MT move every byte or say which they did not, whatever cuFile answers; nothing is registered twice
// or let go too early; without a driver they say what is missing. Method: an agent over the doubles of cuFile and of
// the CUDA driver (double.h), which are told what to do wrong.
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gds/abi.h"
#include "gds/double.h"
#include "support/file_agent.h"

namespace nx::gds {
namespace {

using nx::test::Buffer;
using nx::test::eventually;
using nx::test::fromDouble;
using nx::test::listOf;
using nx::test::registrationOf;
using nx::test::require;
using nx::test::Setting;
using test::Counts;
using test::Faults;
using testing::HasSubstr;

void
setFaults(const Faults &faults) {
    fromDouble<test::SetFaults>("NIXL_CUFILE_LIBRARY", "nxTestSetFaults")(faults);
}

Counts
counts() {
    return fromDouble<test::GetCounts>("NIXL_CUFILE_LIBRARY", "nxTestCounts")();
}

/// Memory of a GPU, which is the host's here.
class GpuBuffer {
public:
    GpuBuffer(int gpu, size_t size) : gpu_(gpu), size_(size) {
        void *context = nullptr;
        cuda<int(void **, int)>("cuDevicePrimaryCtxRetain")(&context, gpu);
        cuda<int(void *)>("cuCtxPushCurrent_v2")(context);
        cuda<int(uint64_t *, size_t)>("cuMemAlloc_v2")(&address_, size);
        cuda<int(void **)>("cuCtxPopCurrent_v2")(&context);
        cuda<int(int)>("cuDevicePrimaryCtxRelease_v2")(gpu);
    }
    ~GpuBuffer() {
        cuda<int(uint64_t)>("cuMemFree_v2")(address_);
    }
    GpuBuffer(const GpuBuffer &) = delete;

    std::span<unsigned char>
    bytes() const {
        return {reinterpret_cast<unsigned char *>(address_), size_};
    }

    nixlBasicDesc
    desc(size_t offset, size_t length) const {
        return {address_ + offset, length, static_cast<uint64_t>(gpu_)};
    }

private:
    template<class Function>
    static Function *
    cuda(const char *name) {
        return fromDouble<Function>("NIXL_CUDA_LIBRARY", name);
    }

    const int gpu_;
    const size_t size_;
    uint64_t address_ = 0;
};

class Gds : public testing::TestWithParam<const char *>, protected nx::test::FileAgent {
protected:
    ~Gds() override {
        setFaults({});
        agent.reset();
        const Counts left = counts();
        EXPECT_STREQ(left.violation, "");
        EXPECT_EQ(left.drivers_open, 0);
        EXPECT_EQ(left.files, 0);
        EXPECT_EQ(left.buffers, 0);
        EXPECT_EQ(left.batches, 0);
        EXPECT_EQ(left.contexts, 0);
    }

    static bool
    batched() {
        return GetParam() == std::string("GDS");
    }

    nixl_status_t
    create(const nixl_b_params_t &params = {}) {
        return createBackend(GetParam(), params);
    }
};

INSTANTIATE_TEST_SUITE_P(Both, Gds, testing::Values("GDS", "GDS_MT"));

// ---- Creation ------------------------------------------------------------------------------------------------------

TEST_P(Gds, SaysWhatIsMissingAndThatPosixServesInstead) {
    const auto expectRefusal = [&](const std::string &what) {
        EXPECT_EQ(create(), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), testing::AllOf(HasSubstr(what), HasSubstr("POSIX serves files")));
    };
    {
        const Setting none("NIXL_CUDA_LIBRARY", "/nonexistent/libcuda.so.1");
        expectRefusal("cannot load the CUDA driver");
    }
    const auto set_cuda = fromDouble<void(int, bool)>("NIXL_CUDA_LIBRARY", "nxTestSetCuda");
    set_cuda(100, false);
    expectRefusal("does not start: CUDA says CUDA_ERROR_NO_DEVICE (100)");
    set_cuda(0, true);
    expectRefusal("has no device");
    set_cuda(0, false);
    {
        const Setting none("NIXL_CUFILE_LIBRARY", "/nonexistent/libcufile.so.0");
        expectRefusal("cannot load cuFile");
    }
    {
        const Setting other("NIXL_CUFILE_LIBRARY", "libm.so.6");
        EXPECT_EQ(create(), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("cuFileDriverOpen"));
    }
    setFaults({.open_error = 5033});
    expectRefusal("cuFileDriverOpen of cuFile 1.14");
    EXPECT_THAT(nixlx::lastError(), HasSubstr("NVFS_SETUP_ERROR (5033)"));
}

TEST_P(Gds, TakesTheLibraryOfTheProcessUnlessItWouldHang) {
    counts(); // loads the double
    const Setting none("NIXL_CUFILE_LIBRARY", "");
    if (::access("/proc/modules", R_OK) == 0) {
        EXPECT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    } else {
        EXPECT_EQ(create(), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("does not start without /proc/modules: No such file"));
    }
    agent.reset();
}

TEST_P(Gds, AcceptsADriverThatIsOpenAlready) {
    setFaults({.open_error = abi::kDriverAlreadyOpen});
    EXPECT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
}

TEST_P(Gds, RefusesOptionsThatCannotBe) {
    const std::vector<std::string> names = batched()
        ? std::vector<std::string>{"batch_pool_size", "batch_limit", "max_request_size"}
        : std::vector<std::string>{"thread_count"};
    for (const std::string &name : names) {
        for (const char *value : {"-1", "many", "1.5", "", "99999999999999999999"}) {
            EXPECT_EQ(create({{name, value}}), NIXL_ERR_BACKEND) << name << " " << value;
            EXPECT_THAT(nixlx::lastError(), HasSubstr("parameter " + name));
        }
    }
    if (!batched()) return;
    for (const std::string &name : names) EXPECT_EQ(create({{name, "0"}}), NIXL_ERR_BACKEND) << name;
    setFaults({.setup_error = 5022});
    EXPECT_EQ(create(), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(),
                HasSubstr("no batch of 128 entries (batch_limit) can be had: cuFile says INVALID_"));
}

TEST_P(Gds, ExcludesTheOther) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    nixlBackendH *backend = nullptr;
    EXPECT_EQ(agent->createBackend(batched() ? "GDS_MT" : "GDS", {}, backend), NIXL_ERR_NOT_ALLOWED);
    EXPECT_EQ(backend, nullptr);
}

// ---- Files ---------------------------------------------------------------------------------------------------------

TEST_P(Gds, RegistrationsOfOneFileShareItAndNoFate) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const int first = open("a"), second = open("a"), copy = ::dup(first);
    descriptors.push_back(copy);
    const nixl_reg_dlist_t by_path = fileOf(1000, "rw:" + (folder / "a"));
    Buffer buffer(10000);
    add(registrationOf({buffer.desc()}));
    for (int fd : {first, first, second, copy}) add(fileOf(fd));
    add(by_path);
    EXPECT_EQ(counts().files, 1);
    uint64_t seed = 0;
    const auto expectMoves = [&](int fd) {
        buffer.fill(++seed);
        ASSERT_EQ(run(NIXL_WRITE, buffer, fd, 100), NIXL_SUCCESS) << sentence;
        buffer.clear();
        ASSERT_EQ(run(NIXL_READ, buffer, fd, 100), NIXL_SUCCESS) << sentence;
        EXPECT_EQ(buffer.firstDifference(seed), buffer.size());
    };
    for (int fd : {first, second, copy, 1000}) expectMoves(fd);
    EXPECT_EQ(agent->deregisterMem(fileOf(first)), NIXL_SUCCESS);
    for (int fd : {first, second, copy, 1000}) expectMoves(fd);
    EXPECT_EQ(agent->deregisterMem(fileOf(first)), NIXL_SUCCESS);
    EXPECT_EQ(agent->deregisterMem(by_path), NIXL_SUCCESS);
    for (int fd : {second, copy}) expectMoves(fd);
    EXPECT_EQ(agent->deregisterMem(fileOf(second)), NIXL_SUCCESS);
    EXPECT_EQ(agent->deregisterMem(fileOf(copy)), NIXL_SUCCESS);
    EXPECT_EQ(counts().files, 0);
}

TEST_P(Gds, TwoAgentsHaveOneFile) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const auto other = std::move(agent);
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const int fd = open("a");
    require(other->registerMem(fileOf(fd)), "register at the other");
    add(fileOf(fd));
    EXPECT_EQ(counts().files, 1);
    EXPECT_EQ(other->deregisterMem(fileOf(fd)), NIXL_SUCCESS);
    Buffer buffer(4096);
    add(registrationOf({buffer.desc()}));
    EXPECT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_SUCCESS) << sentence;
}

TEST_P(Gds, AFileThatCuFileHasForReadingIsNotWrittenThroughThat) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const int both = open("a"), reader = open("a", O_RDONLY);
    add(fileOf(reader));
    EXPECT_EQ(agent->registerMem(fileOf(both)), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("HANDLE_ALREADY_REGISTERED (5028); open it once"));
    EXPECT_EQ(agent->deregisterMem(fileOf(reader)), NIXL_SUCCESS);
    add(fileOf(both));
    add(fileOf(reader));
    Buffer buffer(4096);
    add(registrationOf({buffer.desc()}));
    EXPECT_EQ(run(NIXL_WRITE, buffer, reader), NIXL_ERR_NOT_ALLOWED);
    EXPECT_EQ(run(NIXL_WRITE, buffer, both), NIXL_SUCCESS) << sentence;
    EXPECT_EQ(run(NIXL_READ, buffer, reader), NIXL_SUCCESS) << sentence;
}

TEST_P(Gds, ADescriptorThatTheProgramClosesLeadsToItsFileAllTheSame) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const int fd = open("mine");
    Buffer buffer(4096);
    buffer.fill(1);
    add(registrationOf({buffer.desc()}));
    add(fileOf(fd));
    ::close(fd);
    ASSERT_EQ(open("another"), fd);
    EXPECT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_SUCCESS) << sentence;
    EXPECT_EQ(contents("mine").size(), 4096u);
    EXPECT_EQ(contents("another"), "");
}

TEST_P(Gds, AFileThatCuFileRefusesIsNotRegistered) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const int fd = open("a");
    for (int code : {5018, 5020, 5022, 5025, 5027, 5028}) {
        setFaults({.file_error = code});
        EXPECT_EQ(agent->registerMem(fileOf(fd)), NIXL_ERR_BACKEND);
        EXPECT_THAT(nixlx::lastError(), HasSubstr("(" + std::to_string(code) + ")"));
        EXPECT_THAT(nixlx::lastError(), testing::Conditional(code == 5027, HasSubstr("/run/udev"), testing::_));
    }
    setFaults({});
    add(fileOf(fd));
}

// ---- Memory of GPUs ------------------------------------------------------------------------------------------------

TEST_P(Gds, MovesMemoryOfEachGpuWithItsContext) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    constexpr size_t kSize = 64 << 10;
    const int fd = open("a");
    const uint64_t file = static_cast<uint64_t>(fd);
    const GpuBuffer first(0, kSize), second(1, kSize);
    Buffer host(kSize);
    add(registrationOf({host.desc()}));
    add(registrationOf({first.desc(0, kSize), second.desc(0, kSize)}, VRAM_SEG));
    add(fileOf(fd));
    EXPECT_EQ(counts().buffers, 2);
    // One request has both, in turns.
    nixl_xfer_dlist_t local(VRAM_SEG), remote(FILE_SEG);
    for (size_t i = 0; i < 32; ++i) {
        const size_t half = i * kSize / 32;
        local.addDesc(first.desc(half, kSize / 32));
        local.addDesc(second.desc(half, kSize / 32));
        remote.addDesc({2 * half, kSize / 32, file});
        remote.addDesc({2 * half + kSize / 32, kSize / 32, file});
    }
    for (size_t i = 0; i < kSize; ++i) {
        first.bytes()[i] = static_cast<unsigned char>(i * 7 + i / 251);
        second.bytes()[i] = static_cast<unsigned char>(i * 11 + i / 253);
    }
    nixlXferReqH *write = request(NIXL_WRITE, local, remote), *read = request(NIXL_READ, local, remote);
    EXPECT_EQ(run(write), NIXL_SUCCESS) << nixlx::lastError();
    std::fill(first.bytes().begin(), first.bytes().end(), 0);
    std::fill(second.bytes().begin(), second.bytes().end(), 0);
    EXPECT_EQ(run(read), NIXL_SUCCESS) << nixlx::lastError();
    for (size_t i = 0; i < kSize; ++i) {
        ASSERT_EQ(first.bytes()[i], static_cast<unsigned char>(i * 7 + i / 251)) << i;
        ASSERT_EQ(second.bytes()[i], static_cast<unsigned char>(i * 11 + i / 253)) << i;
    }
    EXPECT_EQ(run(NIXL_WRITE, host, fd), NIXL_SUCCESS) << sentence;
    // The file on the local side.
    nixlXferReqH *swapped =
        request(NIXL_WRITE, listOf({{0, kSize, file}}, FILE_SEG), listOf({first.desc(0, kSize)}, VRAM_SEG));
    EXPECT_EQ(run(swapped), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(std::equal(host.data(), host.data() + kSize, first.bytes().begin()));
    for (nixlXferReqH *each : {write, read, swapped}) EXPECT_EQ(agent->releaseXferReq(each), NIXL_SUCCESS);
}

TEST_P(Gds, MemoryOfAGpuIsRegisteredOnce) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const GpuBuffer gpu(1, 8192);
    const auto range = [&](size_t offset, size_t length) {
        return registrationOf({gpu.desc(offset, length)}, VRAM_SEG);
    };
    add(range(0, 4096));
    add(range(0, 4096));
    add(range(1000, 100));
    EXPECT_EQ(counts().buffers, 1);
    EXPECT_EQ(agent->registerMem(range(2048, 4096)), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("MEMORY_ALREADY_REGISTERED (5023)"));
    EXPECT_EQ(agent->deregisterMem(range(0, 4096)), NIXL_SUCCESS);
    EXPECT_EQ(agent->deregisterMem(range(0, 4096)), NIXL_SUCCESS);
    EXPECT_EQ(counts().buffers, 1);
    EXPECT_EQ(agent->deregisterMem(range(1000, 100)), NIXL_SUCCESS);
    EXPECT_EQ(counts().buffers, 0);
}

TEST_P(Gds, MemoryThatIsNotThatGpusIsRefused) {
    ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
    const GpuBuffer gpu(1, 4096);
    const Buffer host(4096);
    nixlBasicDesc desc = gpu.desc(0, 4096);
    for (uint64_t other : {0, 2, 1 << 30}) {
        desc.devId = other;
        EXPECT_EQ(agent->registerMem(registrationOf({desc}, VRAM_SEG)), NIXL_ERR_BACKEND) << other;
        EXPECT_THAT(nixlx::lastError(), HasSubstr(other == 0 ? "is GPU 1's" : "is no GPU"));
    }
    EXPECT_EQ(agent->registerMem(registrationOf({host.desc()}, VRAM_SEG)), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("not a GPU's"));
    setFaults({.buffer_error = 5036});
    EXPECT_EQ(agent->registerMem(registrationOf({gpu.desc(0, 4096)}, VRAM_SEG)), NIXL_ERR_BACKEND);
    EXPECT_THAT(nixlx::lastError(), HasSubstr("GPU_MEMORY_PINNING_FAILED (5036)"));
}

// ---- Pieces --------------------------------------------------------------------------------------------------------

TEST_P(Gds, CutsWhatIsLong) {
    ASSERT_EQ(create(batched() ? nixl_b_params_t{{"batch_limit", "3"}, {"max_request_size", "1000"}}
                               : nixl_b_params_t{{"thread_count", "3"}}),
              NIXL_SUCCESS)
        << nixlx::lastError();
    const int fd = open("a");
    Buffer buffer(batched() ? 12345 : 40 << 20);
    buffer.fill(1);
    add(registrationOf({buffer.desc()}));
    add(fileOf(fd));
    const Counts before = counts();
    ASSERT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_SUCCESS) << sentence;
    const Counts after = counts();
    buffer.clear();
    ASSERT_EQ(run(NIXL_READ, buffer, fd), NIXL_SUCCESS) << sentence;
    EXPECT_EQ(buffer.firstDifference(1), buffer.size());
    if (batched()) {
        EXPECT_EQ(after.submissions - before.submissions, 13u);
    }
    EXPECT_LE(after.piece_max, size_t{16} << 20);
}

TEST_P(Gds, ManySmallOnesGoTogether) {
    if (!batched()) GTEST_SKIP() << "GDS_MT makes a call for each";
    ASSERT_EQ(create({{"batch_limit", "7"}}), NIXL_SUCCESS) << nixlx::lastError();
    const int fd = open("a");
    Buffer buffer(100 * 64);
    buffer.fill(1);
    add(registrationOf({buffer.desc()}));
    add(fileOf(fd));
    nixl_xfer_dlist_t local(DRAM_SEG), remote(FILE_SEG);
    for (size_t i = 0; i < 100; ++i) {
        local.addDesc(buffer.desc(i * 64, 64));
        remote.addDesc({(99 - i) * 64, 64, static_cast<uint64_t>(fd)});
    }
    nixlXferReqH *made = request(NIXL_WRITE, local, remote);
    const Counts before = counts();
    ASSERT_EQ(run(made), NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_EQ(counts().submissions - before.submissions, 15u);
    const std::string file = contents("a");
    ASSERT_EQ(file.size(), buffer.size());
    for (size_t i = 0; i < 100; ++i) {
        EXPECT_EQ(file.substr((99 - i) * 64, 64), std::string(reinterpret_cast<char *>(buffer.data()) + i * 64, 64));
    }
    EXPECT_EQ(agent->releaseXferReq(made), NIXL_SUCCESS);
}

// ---- Faults --------------------------------------------------------------------------------------------------------

/// With a file and a buffer.
class GdsFaults : public Gds {
protected:
    void
    SetUp() override {
        ASSERT_EQ(create(), NIXL_SUCCESS) << nixlx::lastError();
        fd = open("a");
        add(registrationOf({buffer.desc()}));
        add(fileOf(fd));
        buffer.fill(1);
        ASSERT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_SUCCESS) << sentence;
    }

    void
    expectAllMoves() {
        buffer.fill(++seed);
        EXPECT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_SUCCESS) << sentence;
        buffer.clear();
        EXPECT_EQ(run(NIXL_READ, buffer, fd), NIXL_SUCCESS) << sentence;
        EXPECT_EQ(buffer.firstDifference(seed), buffer.size());
    }

    static constexpr size_t kSize = 100000;
    Buffer buffer{kSize};
    int fd = -1;
    uint64_t seed = 1;
};

INSTANTIATE_TEST_SUITE_P(Both, GdsFaults, testing::Values("GDS", "GDS_MT"));

TEST_P(GdsFaults, ShortCountsAreContinued) {
    setFaults({.short_percent = 100});
    expectAllMoves();
    setFaults({.io_error = EINTR, .error_percent = 50, .short_percent = 50});
    if (!batched()) expectAllMoves(); // of a batch it is an event that failed
}

TEST_P(GdsFaults, AReadBeyondTheEndFailsWithWhatWasThere) {
    EXPECT_EQ(run(NIXL_READ, buffer, fd, 40), NIXL_ERR_BACKEND);
    EXPECT_THAT(sentence, HasSubstr("reading 100000 bytes at offset 40 ended after 99960: the file ends there"));
}

TEST_P(GdsFaults, EveryErrorNamesFileOffsetWantedAndMoved) {
    for (const auto &[code, status] : {std::pair{EIO, NIXL_ERR_BACKEND},
                                       {ENOSPC, NIXL_ERR_BACKEND},
                                       {EOPNOTSUPP, NIXL_ERR_NOT_SUPPORTED},
                                       {5008, NIXL_ERR_NOT_SUPPORTED},
                                       {5012, NIXL_ERR_INVALID_PARAM},
                                       {5025, NIXL_ERR_NOT_ALLOWED},
                                       {5030, NIXL_ERR_BACKEND},
                                       {5044, NIXL_ERR_BACKEND}}) {
        setFaults({.io_error = code, .error_percent = 100});
        EXPECT_EQ(run(NIXL_WRITE, buffer, fd, 8192), status);
        EXPECT_THAT(sentence, HasSubstr(folder / "a"));
        EXPECT_THAT(sentence, HasSubstr("writing 100000 bytes at offset 8192 ended after 0: "));
        EXPECT_THAT(sentence, HasSubstr(std::to_string(code) + ")"));
    }
    setFaults({});
    expectAllMoves();
}

TEST_P(GdsFaults, AnEventThatIsNotCompleteIsAnError) {
    if (!batched()) GTEST_SKIP() << "GDS_MT has no events";
    for (const auto &[event, name] : {std::pair{abi::kInvalid, "INVALID"},
                                      {abi::kCanceled, "CANCELED"},
                                      {abi::kTimeout, "TIMEOUT"},
                                      {abi::kFailed, "FAILED"},
                                      {0x80, "of a kind"}}) {
        setFaults({.event_status = event, .event_percent = 100});
        EXPECT_EQ(run(NIXL_READ, buffer, fd), NIXL_ERR_BACKEND);
        EXPECT_THAT(sentence, HasSubstr(std::string("ended after 0: its event is ") + name));
        EXPECT_THAT(sentence, HasSubstr("IO_ERROR (5044)"));
    }
    setFaults({});
    expectAllMoves();
}

TEST_P(GdsFaults, WhatABatchRefusesIsMovedByCalls) {
    if (!batched()) GTEST_SKIP() << "GDS_MT has no batches";
    for (int code : {5022, 5030, 5035, 5037, 5039, 5040, 5049}) {
        setFaults({.submit_error = code});
        expectAllMoves();
    }
    setFaults({.setup_error = 5030, .submit_error = 5035}); // none can be had any more
    expectAllMoves();
    setFaults({});
    expectAllMoves();
}

TEST_P(GdsFaults, ABatchThatCannotBeAskedFailsItsRequestOnly) {
    if (!batched()) GTEST_SKIP() << "GDS_MT has no batches";
    setFaults({.status_error = 5041});
    EXPECT_EQ(run(NIXL_WRITE, buffer, fd), NIXL_ERR_BACKEND);
    EXPECT_THAT(sentence, HasSubstr("INTERNAL_BATCH_GETSTATUS_ERROR (5041)"));
    setFaults({});
    expectAllMoves();
}

// ---- Waiting, cancelling -------------------------------------------------------------------------------------------

TEST_P(Gds, WhatFindsNoThreadFreeWaitsAndCanBeCancelled) {
    ASSERT_EQ(create({{batched() ? "batch_pool_size" : "thread_count", "1"}}), NIXL_SUCCESS) << nixlx::lastError();
    const int fd = open("a");
    Buffer buffer(4096);
    buffer.fill(1);
    add(registrationOf({buffer.desc()}));
    add(fileOf(fd));
    std::vector<nixlXferReqH *> requests;
    for (size_t i = 0; i < 20; ++i) {
        requests.push_back(request(NIXL_WRITE, listOf({buffer.desc()}),
                                   listOf({{i * 4096, 4096, static_cast<uint64_t>(fd)}}, FILE_SEG)));
    }
    setFaults({.held = true});
    for (nixlXferReqH *each : requests) ASSERT_EQ(agent->postXferReq(each), NIXL_IN_PROG);
    ASSERT_TRUE(eventually([] { return counts().waiting == 1; }));
    EXPECT_EQ(agent->cancelXferReq(requests[7]), NIXL_SUCCESS);
    EXPECT_EQ(agent->getXferStatus(requests[7]), NIXL_ERR_CANCELED);
    EXPECT_EQ(agent->cancelXferReq(requests[0]), NIXL_SUCCESS);
    EXPECT_EQ(agent->getXferStatus(requests[0]), NIXL_IN_PROG); // its memory is in use
    EXPECT_EQ(agent->releaseXferReq(requests[0]), NIXL_ERR_REPOST_ACTIVE);
    setFaults({});
    for (size_t i = 1; i < requests.size(); ++i) {
        EXPECT_EQ(finish(requests[i]), i == 7 ? NIXL_ERR_CANCELED : NIXL_SUCCESS) << i;
    }
    EXPECT_EQ(finish(requests[0]), NIXL_SUCCESS); // it was complete before it could be left
    for (nixlXferReqH *each : requests) EXPECT_EQ(agent->releaseXferReq(each), NIXL_SUCCESS);
    EXPECT_EQ(contents("a").size(), 20u * 4096);
}

// ---- By chance -----------------------------------------------------------------------------------------------------

TEST_P(GdsFaults, StatusAndBytesAgreeWhateverFails) {
    const int innocent = open("innocent");
    struct stat info{};
    ASSERT_EQ(::fstat(fd, &info), 0);
    add(fileOf(innocent));
    const Buffer sources(16 * kSize);
    add(registrationOf({sources.desc()}));
    unsigned failures = 0;
    for (uint64_t round = 0; round < 60; ++round) {
        setFaults({.seed = round,
                   .only_inode = info.st_ino,
                   .submit_error = round % 5 == 4 ? 5035 : 0,
                   .io_error = round % 2 ? EIO : 5030,
                   .error_percent = round % 3 ? 1u : 0u,
                   .short_percent = 20,
                   .event_status = abi::kFailed,
                   .event_percent = round % 4 == 1 ? 1u : 0u,
                   .few_events = round % 2 == 0});
        sources.fill(round + 100);
        const unsigned before = counts().failed;
        const size_t failed = writeMixed(sources, "innocent", innocent, "a", fd);
        const unsigned injected = counts().failed - before;
        // What fails in a batch that is refused as a whole is done again.
        if (round % 5 != 4) {
            EXPECT_EQ(failed > 0, injected > 0) << round;
        }
        EXPECT_LE(failed, injected) << round;
        failures += failed;
    }
    EXPECT_GT(failures, 0u);
    setFaults({});
    expectAllMoves();
}

} // namespace
} // namespace nx::gds
