// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: with O_DIRECT, too, whatever is asked for is moved, no byte beside it, and files end where they should. Method:
// ragged pieces, odd memory and neighbours within one block, over each queue of the backend.
#include <algorithm>
#include <tuple>

#include "system/file_agent.h"

namespace nx::test {
namespace {

/// A file is opened with O_DIRECT by path, or by a descriptor of the program's.
class FilesDirect : public FilesTest {
protected:
    void
    SetUp() override {
        const std::string path = dir.write("probe", "x");
        const int fd = ::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
        if (fd < 0) GTEST_SKIP() << "no direct I/O in " << dir.path() << ": " << std::strerror(errno);
        ::close(fd);
    }
};

INSTANTIATE_TEST_SUITE_P(Posix, FilesDirect, testing::ValuesIn(kHows), nameOf);

TEST_P(FilesDirect, MisalignedPiecesMoveExactlyTheirBytes) {
    constexpr size_t kSize = 300001;
    const std::string path = file("data", kSize, 1);
    const OpenFile direct(path, O_RDWR | O_DIRECT);
    ASSERT_EQ(agent().addFile(900, "rw,direct:" + path), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(agent().addFile(direct.id()), NIXL_SUCCESS) << nixlx::lastError();
    std::string expected = contentsOf(path);
    uint64_t seed = 1;
    for (const auto &[at_memory, offset, length] :
         std::initializer_list<std::tuple<size_t, size_t, size_t>>{{0, 0, 4096},
                                                                   {0, 0, 8192},
                                                                   {1, 0, 4096},
                                                                   {0, 1, 4096},
                                                                   {0, 4096, 100},
                                                                   {3, 511, 1026},
                                                                   {0, 512, 512},
                                                                   {512, 4096, 65536},
                                                                   {1, 4095, 70003},
                                                                   {0, 0, kSize},
                                                                   {7, 1, kSize - 1},
                                                                   {0, 200000, kSize - 200000}}) {
        for (const uint64_t id : {uint64_t{900}, direct.id()}) {
            SCOPED_TRACE(std::to_string(length) + " bytes at " + std::to_string(offset) + ", memory at " +
                         std::to_string(at_memory));
            const Buffer &memory = this->memory(length, at_memory);
            memory.fill(++seed);
            expectSuccess(agent().move(NIXL_WRITE, memory, id, offset));
            expected.replace(offset, length, reinterpret_cast<const char *>(memory.data()), length);
            ASSERT_EQ(contentsOf(path), expected) << "a byte beside it was changed, or one of it was not";
            memory.clear();
            expectSuccess(agent().move(NIXL_READ, memory, id, offset));
            ASSERT_TRUE(memory.holds(seed));
        }
    }
}

TEST_P(FilesDirect, WritingPastTheEndMakesTheFileAsLongAsItsBytes) {
    const std::string path = file("data", 5000, 1);
    ASSERT_EQ(agent().addFile(900, "rw,direct:" + path), NIXL_SUCCESS) << nixlx::lastError();
    std::string expected = contentsOf(path);
    for (const auto &[offset, length] : {std::pair<size_t, size_t>{4999, 2}, {5001, 100}, {8192, 5}, {20000, 4097}}) {
        const Buffer &memory = this->memory(length);
        std::memset(memory.data(), static_cast<int>(length % 100), length);
        expectSuccess(agent().move(NIXL_WRITE, memory, 900, offset));
        expected.resize(std::max(expected.size(), offset + length));
        expected.replace(offset, length, reinterpret_cast<const char *>(memory.data()), length);
        ASSERT_EQ(contentsOf(path), expected) << length << " bytes at " << offset;
    }
    // Read past the end, in parts: those that moved count, and no others.
    constexpr unsigned char kUntouched = 0xee;
    const Buffer &memory = this->memory(10000);
    std::memset(memory.data(), kUntouched, memory.size());
    const Outcome outcome = agent().move(NIXL_READ, memory, 900, 20000);
    const auto untouched = static_cast<size_t>(std::count(memory.data(), memory.data() + memory.size(), kUntouched));
    expectFailure(outcome, NIXL_ERR_BACKEND, memory.size() - untouched, {path, "ends there"});
    EXPECT_LE(outcome.report.bytes_done, 4097u);
}

TEST_P(FilesDirect, NeighboursWithinABlockDoNotLoseEachOthersBytes) {
    // Whoever reads a block, changes a part and writes it back must not do so while another does.
    constexpr size_t kRequests = 60, kPiece = 100, kRounds = 20;
    const std::string path = dir.write("data", std::string(kRequests * kPiece, 'x'));
    const OpenFile direct(path, O_RDWR | O_DIRECT);
    ASSERT_EQ(agent().addFile(900, "rw,direct:" + path), NIXL_SUCCESS) << nixlx::lastError();
    ASSERT_EQ(agent().addFile(direct.id()), NIXL_SUCCESS) << nixlx::lastError();
    const Buffer &memory = this->memory(kRequests * kPiece);
    std::vector<nixlXferReqH *> requests;
    for (size_t i = 0; i < kRequests; ++i) {
        requests.push_back(agent().request(NIXL_WRITE, listOf({memory.desc(i * kPiece, kPiece)}),
                                           listOf({{i * kPiece, kPiece, i % 3 ? 900 : direct.id()}}, FILE_SEG)));
    }
    for (size_t round = 1; round <= kRounds; ++round) {
        memory.fill(round);
        std::vector<nixl_status_t> posted;
        for (nixlXferReqH *request : requests) posted.push_back(agent()->postXferReq(request));
        for (size_t i = 0; i < kRequests; ++i) ASSERT_EQ(agent().finish(requests[i], posted[i]), NIXL_SUCCESS);
        const std::string found = contentsOf(path);
        ASSERT_EQ(found.size(), memory.size());
        for (size_t i = 0; i < memory.size(); ++i) {
            ASSERT_EQ(static_cast<unsigned char>(found[i]), memory.data()[i])
                << "byte " << i << ", of request " << i / kPiece << ", in round " << round;
        }
    }
    for (nixlXferReqH *request : requests) EXPECT_EQ(agent()->releaseXferReq(request), NIXL_SUCCESS);
}

TEST_P(FilesDirect, WholePagesAndRaggedNeighboursOfOtherRequestsBothArrive) {
    // Pages go past the system's cache, ragged pieces through it, in which they may share a large folio.
    constexpr size_t kPage = 4096, kPages = 64, kRounds = 30;
    const std::string path = dir.write("data", std::string(kPages * kPage, 'x'));
    const OpenFile buffered(path, O_RDWR);
    ASSERT_EQ(agent().addFile(900, "rw,direct:" + path), NIXL_SUCCESS) << nixlx::lastError();
    const Buffer &memory = this->memory(kPages * kPage);
    std::vector<nixlXferReqH *> requests;
    std::vector<std::pair<size_t, size_t>> pieces; // offset and length
    for (size_t i = 0; i < kPages; ++i) {
        if (i % 2) pieces.emplace_back(i * kPage + 100, 1000);
        else pieces.emplace_back(i * kPage, kPage);
    }
    for (const auto &[offset, length] : pieces) {
        requests.push_back(agent().request(NIXL_WRITE, listOf({memory.desc(offset, length)}),
                                           listOf({{offset, length, 900}}, FILE_SEG)));
    }
    std::string expected = contentsOf(path);
    for (size_t round = 1; round <= kRounds; ++round) {
        memory.fill(round);
        ASSERT_EQ(::readahead(*buffered, 0, kPages * kPage), 0);
        std::vector<nixl_status_t> posted;
        for (nixlXferReqH *request : requests) posted.push_back(agent()->postXferReq(request));
        for (size_t i = 0; i < requests.size(); ++i) {
            ASSERT_EQ(agent().finish(requests[i], posted[i]), NIXL_SUCCESS) << nixlx::lastError();
        }
        for (const auto &[offset, length] : pieces) {
            expected.replace(offset, length, reinterpret_cast<const char *>(memory.data()) + offset, length);
        }
        const std::string found = contentsOf(path);
        ASSERT_EQ(found.size(), expected.size());
        const auto [is, should] = std::mismatch(found.begin(), found.end(), expected.begin());
        ASSERT_EQ(is, found.end()) << "byte " << is - found.begin() << " in round " << round;
    }
    for (nixlXferReqH *request : requests) EXPECT_EQ(agent()->releaseXferReq(request), NIXL_SUCCESS);
}

} // namespace
} // namespace nx::test
