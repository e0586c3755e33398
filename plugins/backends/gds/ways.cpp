// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "gds/ways.h"

#include <algorithm>
#include <cerrno>
#include <string>

namespace nx::gds {

namespace {

constexpr unsigned kFruitlessMax = 1000; // calls in a row that bring nothing

abi::Context
contextOf(const kit::FilePiece &piece) noexcept {
    return static_cast<const Memory *>(piece.memory_metadata)->context;
}

abi::FileHandle
handleOf(const kit::FilePiece &piece) noexcept {
    return static_cast<const FileMemory *>(piece.file)->handle;
}

const char *
nameOfEvent(int status) noexcept {
    switch (status) {
    case abi::kInvalid: return "INVALID";
    case abi::kCanceled: return "CANCELED";
    case abi::kTimeout: return "TIMEOUT";
    case abi::kFailed: return "FAILED";
    default: return "of a kind that this library does not know";
    }
}

/// Bytes, or the negative of an errno or of a code of cuFile's.
ssize_t
call(const abi::FileApi &api, const kit::FilePiece &piece) noexcept {
    const auto offset = static_cast<off_t>(piece.offset + piece.done);
    char *const memory = piece.memory + piece.done;
    const size_t length = piece.length - piece.done;
    const abi::FileHandle handle = handleOf(piece);
    const ssize_t result = piece.transfer->writes() ? api.cuFileWrite(handle, memory, length, offset, 0)
                                                    : api.cuFileRead(handle, memory, length, offset, 0);
    return result == -1 ? -errno : result;
}

} // namespace

bool
Way::joins(const kit::FilePiece &first, const kit::FilePiece &other) const noexcept {
    return contextOf(first) == contextOf(other);
}

nixl_status_t
Way::statusOf(const kit::FilePiece &piece) const noexcept {
    return gds::statusOf(piece.code);
}

std::string
Way::reasonOf(const kit::FilePiece &piece) const {
    if (!piece.event) return textOf(piece.code);
    const std::string text =
        std::string("its event is ") + nameOfEvent(piece.event) + " (" + std::to_string(piece.event) + ")";
    return piece.code ? text + ", " + textOf(piece.code) : text;
}

void
Way::enter(std::span<const kit::FilePiece> pieces) noexcept {
    const abi::Context context = contextOf(pieces.front());
    if (context != current_) driver_.makeCurrent(current_ = context);
}

void
CallWay::move(std::span<kit::FilePiece> pieces) noexcept {
    enter(pieces);
    for (kit::FilePiece &piece : pieces) {
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

Result<std::unique_ptr<kit::FileWay>>
BatchWay::create(const Driver &driver, unsigned entry_count_max) {
    std::unique_ptr<BatchWay> way(new BatchWay(driver, entry_count_max));
    const abi::FileError error = driver.file().cuFileBatchIOSetUp(&way->batch_, entry_count_max);
    if (!error.err) return std::unique_ptr<kit::FileWay>(std::move(way));
    way->batch_ = nullptr;
    return driver.failure("no batch of " + std::to_string(entry_count_max) + " entries (batch_limit) can be had",
                          error);
}

BatchWay::BatchWay(const Driver &driver, unsigned entry_count_max)
    : Way(driver),
      calls_(driver),
      entries_(entry_count_max),
      events_(entry_count_max),
      ended_(entry_count_max) {}

BatchWay::~BatchWay() {
    if (batch_) driver_.file().cuFileBatchIODestroy(batch_);
}

void
BatchWay::move(std::span<kit::FilePiece> pieces) noexcept {
    enter(pieces);
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
BatchWay::submit(std::span<const kit::FilePiece> pieces) noexcept {
    for (size_t i = 0; i < pieces.size(); ++i) {
        const kit::FilePiece &piece = pieces[i];
        entries_[i] = {.mode = abi::kBatchMode,
                       .memory = piece.memory,
                       .file_offset = static_cast<off_t>(piece.offset),
                       .memory_offset = 0,
                       .size = piece.length,
                       .file = handleOf(piece),
                       .operation = piece.transfer->writes() ? abi::kBatchWrite : abi::kBatchRead,
                       .cookie = &entries_[i]};
    }
    return driver_.file().cuFileBatchIOSubmit(batch_, static_cast<unsigned>(pieces.size()), entries_.data(), 0).err ==
        0;
}

void
BatchWay::collect(std::span<kit::FilePiece> pieces) noexcept {
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
BatchWay::account(kit::FilePiece &piece, const abi::BatchEvent &event) noexcept {
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
