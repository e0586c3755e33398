// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: whatever the system answers, status and bytes agree, no request bears the error of another, and no slot is
// lost. Method: the mover over a double of the queue that keeps files in memory and does to operations, by seed, all
// that a system may do to them.
#include "posix/mover.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "kit/files/file_plan.h"
#include "posix/memory.h"
#include "support/eventually.h"

namespace nx::posix {
namespace {

constexpr uint64_t kPage = 4096;

/// A file in memory. Its descriptors: an even one, and the odd one behind it, which is direct.
class FileDouble final : public kit::File {
public:
    FileDouble(int number, bool direct, size_t size) : contents(size), number_(number), direct_(direct) {}

    Result<int>
    use() override {
        ++uses;
        return 2 * number_ + (direct_ ? 1 : 0);
    }
    void
    done() noexcept override {
        --uses;
    }
    Result<int>
    buffered() override {
        EXPECT_GT(uses, 0);
        return 2 * number_;
    }
    bool
    direct() const noexcept override {
        return direct_;
    }
    bool
    readOnly() const noexcept override {
        return false;
    }
    std::string
    name() const override {
        return "'file " + std::to_string(number_) + "'";
    }

    std::vector<std::byte> contents;
    int uses = 0;

private:
    const int number_;
    const bool direct_;
};

struct Faults {
    double any = 0;     ///< of all operations
    double fatal = 0;   ///< of these
    double refusal = 0; ///< of submissions
    bool in_order = false;
};

/// Moves at completion, in an order of its own.
class QueueDouble final : public Queue {
public:
    QueueDouble(size_t depth, std::vector<std::shared_ptr<FileDouble>> &files, Faults faults, uint64_t seed)
        : depth_(depth),
          files_(files),
          faults_(faults),
          random_(seed) {}
    ~QueueDouble() override {
        EXPECT_TRUE(holds || in_flight_.empty());
        for (const Operation &operation : in_flight_) perform(operation);
    }

    const char *
    name() const noexcept override {
        return "double";
    }
    size_t
    depth() const noexcept override {
        return depth_;
    }
    int
    descriptor() const noexcept override {
        return -1;
    }
    bool
    arm() noexcept override {
        return in_flight_.empty();
    }

    size_t
    submit(std::span<const Operation> operations) noexcept override {
        size_t taken = std::min(operations.size(), depth_ - in_flight_.size());
        if (chance(faults_.refusal)) taken = taken > 0 ? random_() % taken : 0;
        for (const Operation &operation : operations.first(taken)) {
            for (const Operation &other : in_flight_) {
                EXPECT_NE(other.tag, operation.tag);
                if (other.fd / 2 != operation.fd / 2 || other.fd == operation.fd) continue;
                EXPECT_FALSE(operation.kind == Operation::Kind::kWrite && sharePage(other, operation))
                    << "a page is written direct and through the page cache at once";
            }
            in_flight_.push_back(operation);
        }
        most_in_flight = std::max(most_in_flight, in_flight_.size());
        return taken;
    }

    size_t
    reap(std::span<Completion> completions) noexcept override {
        if (in_flight_.empty() || holds) return 0;
        const size_t count = faults_.in_order ? std::min(completions.size(), in_flight_.size())
                                              : random_() % (1 + std::min(completions.size(), in_flight_.size()));
        for (size_t i = 0; i < count; ++i) {
            const size_t which = faults_.in_order ? 0 : random_() % in_flight_.size();
            const Operation operation = in_flight_[which];
            in_flight_.erase(in_flight_.begin() + static_cast<ptrdiff_t>(which));
            completions[i] = {operation.tag, perform(operation)};
            ++performed;
        }
        return count;
    }

    /// A fatal error was answered to an operation there; so many bytes were moved there.
    std::function<void(int file, uint64_t offset)> on_error = [](int, uint64_t) {};
    std::function<void(int file, uint64_t offset, uint64_t bytes)> on_moved = [](int, uint64_t, uint64_t) {};
    size_t performed = 0, faulted = 0, most_in_flight = 0;
    bool holds = false; ///< what is in flight, until its end
    std::vector<int> syncs;
    int sync_error = 0;

private:
    bool
    chance(double probability) {
        return std::uniform_real_distribution<>()(random_) < probability;
    }

    static uint64_t
    lengthOf(const Operation &operation) {
        uint64_t length = 0;
        for (uint32_t i = 0; i < operation.vector_count; ++i) length += operation.vectors[i].iov_len;
        return length;
    }

    static bool
    sharePage(const Operation &a, const Operation &b) {
        return a.offset / kPage <= (b.offset + lengthOf(b) - 1) / kPage &&
            b.offset / kPage <= (a.offset + lengthOf(a) - 1) / kPage;
    }

    static bool
    isAligned(const Operation &operation) {
        return operation.offset % kPage == 0 && lengthOf(operation) % kPage == 0 &&
            std::all_of(operation.vectors, operation.vectors + operation.vector_count, [](const iovec &vector) {
                   return reinterpret_cast<uintptr_t>(vector.iov_base) % 512 == 0 && vector.iov_len % 512 == 0;
               });
    }

    int64_t
    perform(const Operation &operation) {
        if (operation.kind == Operation::Kind::kSync) {
            syncs.push_back(operation.fd / 2);
            return sync_error ? -sync_error : 0;
        }
        FileDouble &file = *files_[static_cast<size_t>(operation.fd / 2)];
        if (operation.fd % 2 && !isAligned(operation)) {
            ADD_FAILURE() << "misaligned";
            return -EINVAL;
        }
        const uint64_t length = lengthOf(operation);
        EXPECT_LE(length, kPieceBytes);
        uint64_t bytes = std::min(length, file.contents.size() - std::min(file.contents.size(), operation.offset));
        if (chance(faults_.any)) {
            ++faulted;
            if (chance(faults_.fatal)) {
                on_error(operation.fd / 2, operation.offset);
                const int errors[] = {EIO, ENOSPC, EDQUOT, EFBIG, EROFS, EBADF, ENOMEM};
                return -errors[random_() % std::size(errors)];
            }
            const int passing[] = {EINTR, EAGAIN, ECANCELED};
            const uint64_t shorter[] = {1, 511, 512, 4095, 4096, bytes / 2, bytes - std::min<uint64_t>(bytes, 1)};
            if (random_() % 2) return -passing[random_() % std::size(passing)];
            const uint64_t cut = shorter[random_() % std::size(shorter)];
            if (cut > 0) bytes = std::min(bytes, cut);
        }
        uint64_t left = bytes;
        std::byte *place = file.contents.data() + operation.offset;
        for (const iovec *vector = operation.vectors; left > 0; ++vector) {
            const uint64_t part = std::min<uint64_t>(left, vector->iov_len);
            if (operation.kind == Operation::Kind::kRead) std::memcpy(vector->iov_base, place, part);
            else std::memcpy(place, vector->iov_base, part);
            place += part;
            left -= part;
        }
        if (bytes > 0) on_moved(operation.fd / 2, operation.offset, bytes);
        else on_error(operation.fd / 2, operation.offset); // the end
        return static_cast<int64_t>(bytes);
    }

    const size_t depth_;
    std::vector<std::shared_ptr<FileDouble>> &files_;
    const Faults faults_;
    std::mt19937_64 random_;
    std::vector<Operation> in_flight_;
};

/// A request between memory of its own and places of files.
struct Request {
    Request(nixl_xfer_op_t operation, std::vector<FileMemory> &files, size_t bytes)
        : memory_room(bytes + kPage),
          memory(memory_room.data() + (kPage - reinterpret_cast<uintptr_t>(memory_room.data()) % kPage)) {
        for (FileMemory &file : files) segments.push_back({&file, 0});
        plan = {.operation = operation,
                .local_memory = DRAM_SEG,
                .remote_memory = FILE_SEG,
                .remote_agent = "A",
                .local_segments = {},
                .remote_segments = segments,
                .runs = {},
                .total_bytes = 0,
                .block_count = 0};
    }

    void
    add(size_t at_memory, uint64_t offset, uint64_t length, uint32_t file, uint64_t count = 1, uint64_t stride = 0) {
        runs.push_back(
            {reinterpret_cast<uint64_t>(memory) + at_memory, offset, length, length, stride, count, 0, file});
        plan.runs = runs;
        plan.block_count += count;
        plan.total_bytes += count * length;
    }

    Transfer &
    transfer(bool durable = false) {
        if (!made) made = std::make_unique<Transfer>(plan, durable);
        return *made;
    }

    std::vector<std::byte> memory_room;
    std::byte *memory;
    std::vector<nixlx::Segment> segments;
    std::vector<nixlx::Run> runs;
    nixlx::Plan plan;
    std::unique_ptr<Transfer> made;
};

void
drive(Mover &mover, Request &request) {
    for (int i = 0; i < 1'000'000 && !request.transfer().quiet(); ++i) mover.tryDrive();
    ASSERT_TRUE(request.transfer().quiet()) << "it does not end";
}

class MoverTest : public testing::Test {
protected:
    void
    makeFiles(size_t count, bool direct, size_t size) {
        for (size_t i = 0; i < count; ++i) {
            files_.push_back(std::make_shared<FileDouble>(static_cast<int>(files_.size()), direct, size));
            memories_.emplace_back(files_.back(), direct ? Alignment{kPage, 512, 512} : Alignment{});
        }
    }

    QueueDouble &
    makeMover(size_t depth, Faults faults, uint64_t seed = 1) {
        auto queue = std::make_unique<QueueDouble>(depth, files_, faults, seed);
        QueueDouble &made = *queue;
        mover_ = std::make_unique<Mover>(std::move(queue), bell_, 1000);
        return made;
    }

    std::vector<std::shared_ptr<FileDouble>> files_;
    std::vector<FileMemory> memories_;
    kit::Bell bell_;
    std::unique_ptr<Mover> mover_;
};

void
scribble(std::byte *memory, size_t bytes, std::mt19937_64 &random) {
    for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
        const uint64_t word = random();
        std::memcpy(memory + at, &word, std::min(sizeof(word), bytes - at));
    }
}

TEST_F(MoverTest, WhatIsInFlightAtItsEndFindsAllThatItRefersTo) {
    constexpr size_t kBytes = size_t{256} << 10;
    makeFiles(1, false, kBytes);
    makeFiles(1, true, kBytes);
    QueueDouble &queue = makeMover(16, {});
    queue.holds = true;
    Request plain(NIXL_WRITE, memories_, kBytes), bounced(NIXL_WRITE, memories_, kBytes + 1);
    std::mt19937_64 random(1);
    scribble(plain.memory, kBytes, random);
    scribble(bounced.memory, kBytes + 1, random);
    plain.add(0, 0, kBytes, 0);
    bounced.add(1, 0, kBytes, 1);
    mover_->post(plain.transfer(), false);
    mover_->post(bounced.transfer(), false);
    ASSERT_EQ(queue.most_in_flight, 2u);
    mover_.reset();
    EXPECT_EQ(std::memcmp(files_[0]->contents.data(), plain.memory, kBytes), 0);
    EXPECT_EQ(std::memcmp(files_[1]->contents.data(), bounced.memory + 1, kBytes), 0);
}

/// Requests whose regions of the files are their own, so that whatever happens there is theirs.
void
faultedRound(uint64_t seed, size_t &faulted, size_t &failures) {
    constexpr uint64_t kRegion = uint64_t{1} << 16, kRoom = kRegion + kPage;
    constexpr size_t kFiles = 4, kRequests = 12, kDepth = 16;
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    std::vector<std::shared_ptr<FileDouble>> files;
    std::vector<FileMemory> memories;
    for (size_t i = 0; i < kFiles; ++i) {
        const bool direct = i % 2;
        // Of some the last region lies beyond the end.
        const uint64_t size = kRequests * kRegion - (i == 2 ? kRegion / 2 + random() % 1000 : 0);
        files.push_back(std::make_shared<FileDouble>(static_cast<int>(i), direct, size));
        scribble(files.back()->contents.data(), size, random);
        memories.emplace_back(files.back(), direct ? Alignment{kPage, 512, 512} : Alignment{});
    }
    const auto before = [&] {
        std::vector<std::vector<std::byte>> contents;
        for (const auto &file : files) contents.push_back(file->contents);
        return contents;
    }();
    const Faults faults{.any = 0.5, .fatal = random() % 3 ? 0.01 : 0.0, .refusal = 0.2};
    auto made = std::make_unique<QueueDouble>(kDepth, files, faults, seed);
    QueueDouble &queue = *made;
    std::vector<uint64_t> moved(kRequests), errors(kRequests);
    queue.on_error = [&](int, uint64_t offset) { ++errors[offset / kRegion]; };
    queue.on_moved = [&](int, uint64_t offset, uint64_t bytes) { moved[offset / kRegion] += bytes; };
    kit::Bell bell;
    Mover mover(std::move(made), bell, 2); // fewer files at once than there are
    std::vector<std::unique_ptr<Request>> requests;
    for (size_t i = 0; i < kRequests; ++i) {
        const auto operation = random() % 2 ? NIXL_READ : NIXL_WRITE;
        auto &request = *requests.emplace_back(std::make_unique<Request>(operation, memories, kFiles * kRoom));
        scribble(request.memory, kFiles * kRoom, random);
        for (uint32_t file = 0; file < kFiles; ++file) {
            const uint64_t grain = random() % 2 ? 512 : 1;
            const uint64_t skew =
                random() % 2 ? random() % kPage / grain * grain : 0; // memory that is aligned otherwise
            for (uint64_t offset = random() % 1000 / grain * grain; offset < kRegion;) {
                const uint64_t length =
                    std::min((1 + random() % (random() % 2 ? 30 : 10000)) * grain, kRegion - offset);
                request.add(file * kRoom + skew + offset, i * kRegion + offset, length, file);
                offset += length + (random() % 2 ? random() % 1000 / grain * grain : 0);
            }
        }
    }
    std::vector<std::vector<std::byte>> memory_before;
    for (auto &request : requests) {
        memory_before.emplace_back(request->memory, request->memory + kFiles * kRoom);
        mover.post(request->transfer(), false);
    }
    const size_t cancelled = random() % (2 * kRequests);
    if (cancelled < kRequests) {
        for (uint64_t turns = random() % 60; turns > 0; --turns) mover.tryDrive();
        requests[cancelled]->transfer().cancel();
        mover.look();
    }
    for (size_t i = 0; i < kRequests; ++i) {
        Request &request = *requests[i];
        drive(mover, request);
        const nixl_status_t status = request.transfer().status();
        const bool ended_early = status == NIXL_ERR_CANCELED && i == cancelled;
        ASSERT_EQ(status < 0, errors[i] > 0 || ended_early) << request.transfer().describe("").error;
        ASSERT_EQ(request.transfer().bytesDone(), moved[i]);
        if (errors[i] > 0) {
            ++failures;
            ASSERT_NE(request.transfer().describe("").error.find("'file "), std::string::npos);
        }
        if (status < 0) continue;
        ASSERT_EQ(moved[i], request.plan.total_bytes);
        // As it must be, and no byte beside.
        std::vector<std::byte> expected_memory = memory_before[i];
        for (uint32_t file = 0; file < kFiles; ++file) {
            const auto region = before[file].begin() + static_cast<ptrdiff_t>(i * kRegion);
            const uint64_t there =
                std::min<uint64_t>(kRegion, before[file].size() - std::min(before[file].size(), i * kRegion));
            std::vector<std::byte> expected(region, region + static_cast<ptrdiff_t>(there));
            for (const nixlx::Run &run : request.runs) {
                if (run.remote_segment != file) continue;
                const uint64_t at = run.local - reinterpret_cast<uint64_t>(request.memory);
                if (request.plan.operation == NIXL_READ) {
                    std::memcpy(&expected_memory[at], &before[file][run.remote], run.length);
                } else {
                    std::memcpy(&expected[run.remote - i * kRegion], &memory_before[i][at], run.length);
                }
            }
            ASSERT_EQ(std::memcmp(&files[file]->contents[i * kRegion], expected.data(), there), 0);
        }
        ASSERT_EQ(std::memcmp(request.memory, expected_memory.data(), expected_memory.size()), 0);
    }
    for (const auto &file : files) ASSERT_EQ(file->uses, 0);
    faulted += queue.faulted;
}

TEST(MoverProperty, StatusAndBytesAgreeInAHundredThousandFaultedOperations) {
    size_t faulted = 0, failures = 0, rounds = 0;
    for (uint64_t seed = 1; faulted < 100'000 && !testing::Test::HasFailure(); ++seed, ++rounds) {
        faultedRound(seed, faulted, failures);
    }
    EXPECT_GT(failures, rounds) << "requests that failed";
    std::cout << faulted << " faults, " << rounds << " rounds, " << failures << " requests failed\n";
}

TEST_F(MoverTest, NoSlotIsLost) {
    makeFiles(1, false, size_t{64} << 20);
    QueueDouble &queue = makeMover(32, {.any = 0.5, .fatal = 0.1, .refusal = 0.3});
    size_t failed = 0;
    for (int round = 0; round < 500; ++round) {
        Request request(NIXL_WRITE, memories_, 100 * 4096);
        request.add(0, 0, 4096, 0, 100, 8192); // not side by side: an operation each
        mover_->post(request.transfer(), false);
        drive(*mover_, request);
        failed += request.transfer().status() < 0;
    }
    EXPECT_GT(failed, 100u);
    queue.most_in_flight = 0;
    Request first(NIXL_WRITE, memories_, 1000 * 4096), second(NIXL_WRITE, memories_, 1000 * 4096);
    for (Request *request : {&first, &second}) {
        request->add(0, 0, 4096, 0, 1000, 8192);
        mover_->post(request->transfer(), true);
    }
    drive(*mover_, first);
    drive(*mover_, second);
    EXPECT_EQ(queue.most_in_flight, 32u);
}

TEST_F(MoverTest, BlocksSideBySideInAFileAreOneOperation) {
    makeFiles(1, false, size_t{64} << 20);
    QueueDouble &queue = makeMover(32, {.in_order = true});
    Request request(NIXL_WRITE, memories_, 1000 * 8192 + 8192);
    for (size_t i = 0; i < 1000; ++i) request.add((999 - i) * 8192, i * 8192, 8192, 0); // backwards in memory
    mover_->post(request.transfer(), false);
    drive(*mover_, request);
    EXPECT_EQ(request.transfer().status(), NIXL_SUCCESS);
    EXPECT_EQ(queue.performed, (1000 * 8192 + kPieceBytes - 1) / kPieceBytes);
}

TEST_F(MoverTest, ARequestLeavesHalfOfTheQueueToOthers) {
    makeFiles(2, false, size_t{64} << 20);
    QueueDouble &queue = makeMover(32, {});
    Request request(NIXL_READ, memories_, 1000 * 4096);
    request.add(0, 0, 4096, 0, 1000, 8192);
    mover_->post(request.transfer(), false);
    drive(*mover_, request);
    EXPECT_EQ(queue.most_in_flight, 16u);
}

TEST_F(MoverTest, ADurableWriteSyncsEachFileOnceBehindItsBytes) {
    makeFiles(3, false, size_t{8} << 20);
    QueueDouble &queue = makeMover(32, {.any = 0.2, .fatal = 0});
    for (const bool fails : {false, true}) {
        Request request(NIXL_WRITE, memories_, size_t{8} << 20);
        request.add(0, 0, size_t{4} << 20, 0);
        request.add(size_t{4} << 20, 100, 100, 2);
        request.add(size_t{5} << 20, size_t{4} << 20, size_t{1} << 20, 0);
        uint64_t moved = 0;
        queue.on_moved = [&](int, uint64_t, uint64_t bytes) {
            EXPECT_TRUE(queue.syncs.empty());
            moved += bytes;
        };
        queue.syncs.clear();
        queue.sync_error = fails ? EIO : 0;
        mover_->post(request.transfer(true), false);
        drive(*mover_, request);
        EXPECT_EQ(moved, request.plan.total_bytes);
        EXPECT_EQ(request.transfer().bytesDone(), moved);
        std::sort(queue.syncs.begin(), queue.syncs.end());
        EXPECT_EQ(request.transfer().status(), fails ? NIXL_ERR_BACKEND : NIXL_SUCCESS);
        if (fails) {
            EXPECT_NE(request.transfer().describe("").error.find("could not be made durable"), std::string::npos);
        } else {
            EXPECT_EQ(queue.syncs, (std::vector<int>{0, 2}));
        }
    }
    Request read(NIXL_READ, memories_, 100);
    read.add(0, 0, 100, 0);
    queue.syncs.clear();
    queue.on_moved = [](int, uint64_t, uint64_t) {};
    mover_->post(read.transfer(true), false);
    drive(*mover_, read);
    EXPECT_TRUE(queue.syncs.empty()) << "a READ makes nothing durable";
}

TEST_F(MoverTest, AFailureSaysWhatWasWantedAndMoved) {
    makeFiles(1, false, 5000);
    makeMover(32, {.in_order = true});
    Request request(NIXL_READ, memories_, 8192);
    request.add(0, 4096, 2000, 0);
    mover_->post(request.transfer(), false);
    drive(*mover_, request);
    EXPECT_EQ(request.transfer().status(), NIXL_ERR_BACKEND);
    EXPECT_EQ(request.transfer().describe("").error,
              "'file 0': reading 2000 bytes at offset 4096 ended after 904: the file ends there");
    EXPECT_EQ(request.transfer().bytesDone(), 904u);
}

TEST_F(MoverTest, WhatIsInterruptedForEverFails) {
    makeFiles(1, false, 5000);
    makeMover(32, {.any = 1, .fatal = 0});
    Request request(NIXL_READ, memories_, 8192);
    request.add(0, 5000, 1, 0);
    mover_->post(request.transfer(), false);
    drive(*mover_, request);
    EXPECT_EQ(request.transfer().status(), NIXL_ERR_BACKEND);
}

TEST_F(MoverTest, AnOffsetThatNoFileHasIsRefused) {
    makeFiles(1, false, 5000);
    Request request(NIXL_READ, memories_, 8192);
    request.add(0, uint64_t{1} << 63, 100, 0);
    EXPECT_EQ(kit::checkOffsets(request.plan).code(), NIXL_ERR_INVALID_PARAM);
    Request wraps(NIXL_READ, memories_, 8192);
    wraps.add(0, INT64_MAX - 10, 100, 0);
    EXPECT_EQ(kit::checkOffsets(wraps.plan).code(), NIXL_ERR_INVALID_PARAM);
    Request last(NIXL_READ, memories_, 8192);
    last.add(0, INT64_MAX - 100, 100, 0);
    EXPECT_TRUE(kit::checkOffsets(last.plan).ok());
}

} // namespace
} // namespace nx::posix
