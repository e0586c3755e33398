// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One request between memory and files, cut into pieces that threads move (file_mover.h). What the mover needs is
// guarded by the mover's mutex while the request is posted; the rest is immutable.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "backend/backend_aux.h"
#include "kit/cursor.h"
#include "kit/files/files.h"
#include "kit/request_base.h"

namespace nx::kit {

/// What a backend's metadata of a file derives from. Immutable.
class FileMemory : public nixlBackendMD {
public:
    explicit FileMemory(std::shared_ptr<File> file) : nixlBackendMD(true), file(std::move(file)) {}

    const std::shared_ptr<File> file;
};

class FileTransfer;

/// What one operation of a backend moves. Owned by the thread that has taken it.
struct FilePiece {
    FileTransfer *transfer = nullptr;
    const FileMemory *file = nullptr;
    const nixlBackendMD *memory_metadata = nullptr;
    char *memory = nullptr;
    uint64_t offset = 0; ///< in the file
    uint64_t length = 0;

    // What came of it:
    uint64_t done = 0;   ///< bytes
    bool failed = false; ///< it ended before its last byte, for the reason that code or event says
    int code = 0;        ///< an errno, or the backend's; 0: the file ends there, or takes no more
    int event = 0;       ///< the backend's
};

class FileTransfer final : public RequestBase {
public:
    /// `plan` outlives it, and its files have a FileMemory.
    explicit FileTransfer(const nixlx::Plan &plan);

    bool
    writes() const noexcept {
        return writes_;
    }

    /// Why it cannot be posted: it would write to what was opened for reading.
    const Status &
    refusal() const noexcept {
        return refusal_;
    }

    // ---- For the mover

    /// As posted anew.
    void
    rewind() noexcept;

    bool
    atEnd() const noexcept {
        return cursor_.blocks_left == 0;
    }

    /// The next piece, of `length_max` bytes at most. Length 0: nothing is left.
    FilePiece
    next(uint64_t length_max) noexcept;

    /// The last piece comes again.
    void
    putBack() noexcept {
        cursor_ = last_;
    }

    size_t users = 0;      ///< threads that have pieces of it
    bool left_out = false; ///< a piece was given up
    bool queued = false;   ///< it waits for a thread
    FileTransfer *next_queued = nullptr;

private:
    const nixlx::Plan &plan_;
    const bool files_are_local_, writes_;
    Status refusal_;
    Cursor cursor_, last_; ///< where the next piece begins, and where the last one began
};

} // namespace nx::kit
