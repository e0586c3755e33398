// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "gds/ways.h"

#include <algorithm>
#include <cerrno>
#include <string>

namespace nx::gds {

namespace {

constexpr unsigned kFruitlessMax = 1000; // calls in a row that bring nothing

/// Bytes, or the negative of an errno or of a code of cuFile's.
ssize_t
call(const abi::FileApi &api, const Piece &piece) noexcept {
    const auto offset = static_cast<off_t>(piece.offset + piece.done);
    char *const memory = piece.memory + piece.done;
    const size_t length = piece.length - piece.done;
    const ssize_t result = piece.transfer->writes() ? api.cuFileWrite(piece.file->handle, memory, length, offset, 0)
                                                    : api.cuFileRead(piece.file->handle, memory, length, offset, 0);
    return result == -1 ? -errno : result;
}

} // namespace

void
CallWay::move(std::span<Piece> pieces) noexcept {
    for (Piece &piece : pieces) {
        for (unsigned fruitless = 0; piece.done < piece.length && !piece.failed && !piece.transfer->stopping();) {
            const ssize_t result = call(driver_.file(), piece);
            if (result > 0) {
                piece.done += std::min(static_cast<uint64_t>(result), piece.length - piece.done);
                fruitless = 0;
            } else if ((result != -EINTR && result != -EAGAIN) || ++fruitless > kFruitlessMax) {
                piece.failed = true;
                piece.code = static_cast<int>(-result);
            }
        }
    }
}

// ---- Batches -------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<Way>>
BatchWay::create(const Driver &driver, unsigned entry_count_max) {
    std::unique_ptr<BatchWay> way(new BatchWay(driver, entry_count_max));
    const abi::FileError error = driver.file().cuFileBatchIOSetUp(&way->batch_, entry_count_max);
    if (!error.err) return std::unique_ptr<Way>(std::move(way));
    way->batch_ = nullptr;
    return driver.failure("no batch of " + std::to_string(entry_count_max) + " entries (batch_limit) can be had",
                          error);
}

BatchWay::BatchWay(const Driver &driver, unsigned entry_count_max)
    : driver_(driver),
      calls_(driver),
      entries_(entry_count_max),
      events_(entry_count_max),
      ended_(entry_count_max) {}

BatchWay::~BatchWay() {
    if (batch_) driver_.file().cuFileBatchIODestroy(batch_);
}

void
BatchWay::move(std::span<Piece> pieces) noexcept {
    if (batch_) {
        if (submit(pieces)) {
            collect(pieces);
        } else {
            renew(); // it may have begun some of them
        }
    }
    calls_.move(pieces);
}

bool
BatchWay::submit(std::span<const Piece> pieces) noexcept {
    for (size_t i = 0; i < pieces.size(); ++i) {
        const Piece &piece = pieces[i];
        entries_[i] = {.mode = abi::kBatchMode,
                       .memory = piece.memory,
                       .file_offset = static_cast<off_t>(piece.offset),
                       .memory_offset = 0,
                       .size = piece.length,
                       .file = piece.file->handle,
                       .operation = piece.transfer->writes() ? abi::kBatchWrite : abi::kBatchRead,
                       .cookie = &entries_[i]};
    }
    return driver_.file().cuFileBatchIOSubmit(batch_, static_cast<unsigned>(pieces.size()), entries_.data(), 0).err ==
        0;
}

void
BatchWay::collect(std::span<Piece> pieces) noexcept {
    std::fill(ended_.begin(), ended_.end(), false);
    unsigned fruitless = 0;
    for (size_t left = pieces.size(); left > 0;) {
        auto count = static_cast<unsigned>(left);
        timespec timeout{.tv_sec = 1, .tv_nsec = 0};
        const abi::FileError error =
            driver_.file().cuFileBatchIOGetStatus(batch_, count, &count, events_.data(), &timeout);
        if (error.err) {
            if (++fruitless <= kFruitlessMax) continue;
            renew();
            for (size_t i = 0; i < pieces.size(); ++i) {
                if (ended_[i]) continue;
                pieces[i].failed = true;
                pieces[i].code = error.err;
            }
            return;
        }
        for (const abi::BatchEvent &event : std::span(events_).first(std::min<size_t>(count, events_.size()))) {
            const auto index = static_cast<size_t>(static_cast<abi::BatchEntry *>(event.cookie) - entries_.data());
            if (index >= pieces.size() || ended_[index] || !account(pieces[index], event)) continue;
            ended_[index] = true;
            --left;
        }
    }
}

/// False: the event is not the last one of its piece.
bool
BatchWay::account(Piece &piece, const abi::BatchEvent &event) noexcept {
    if (event.status == abi::kWaiting || event.status == abi::kPending) return false;
    const auto bytes = static_cast<ssize_t>(event.bytes);
    if (event.status == abi::kComplete && bytes >= 0) {
        piece.done = std::min(event.bytes, piece.length); // a call moves the rest, or learns why not
    } else {
        piece.failed = true;
        piece.event = event.status;
        piece.code = bytes < 0 ? static_cast<int>(-bytes) : 0;
    }
    return true;
}

/// Ends what the batch has begun, and begins with another one.
void
BatchWay::renew() noexcept {
    driver_.file().cuFileBatchIOCancel(batch_);
    driver_.file().cuFileBatchIODestroy(batch_);
    batch_ = nullptr;
    if (driver_.file().cuFileBatchIOSetUp(&batch_, static_cast<unsigned>(entries_.size())).err) batch_ = nullptr;
}

} // namespace nx::gds
