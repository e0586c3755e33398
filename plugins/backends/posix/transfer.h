// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One request: which part of its plan comes next, and what is left to be done when that has come to its end.
//
//   stage        begins when what was before is done        moves
//   kBuffered    it is posted                               what goes through the page cache
//   kDirect      there are files for direct I/O             whole pages of those
//   kSync        it is to be durable                        nothing: files are synced
//   kPublish     it writes to files that are atomic         nothing: new versions take their paths
//   kSyncFolder  these are to be durable                    nothing: the folders of these are synced
//   kEnd         nothing is left to begin                   nothing: it is final
//
// A page that is written both ways at once could lose bytes, so that no stage begins before the one before it is done:
// in another order than that of the plan all the same, which promises none. Once it publishes a cancel comes too late.
//
// What the mover needs (mover.h) is guarded by the mover's mutex while the request is posted; the rest is immutable.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kit/files/file_version.h"
#include "kit/request_base.h"
#include "posix/pieces.h"

namespace nx::posix {

class Mover;
struct OpenFile;

inline constexpr uint64_t kSmallReadBytes = uint64_t{256} << 10;
inline constexpr uint64_t kSmallReadBlocks = 64;

class Transfer final : public kit::RequestBase {
public:
    /// `plan` outlives it. `durable`: what it writes is on the device before it succeeds.
    Transfer(const nixlx::Plan &plan, bool durable);

    bool
    writes() const noexcept {
        return writes_;
    }

    /// It reads so little by way of the page cache that, if all is there, it may be read at once.
    bool
    isSmallRead() const noexcept {
        return is_small_read_;
    }

    /// Why it cannot be posted: it would write to what was opened for reading, or is a part of what has to be whole.
    const Status &
    refusal() const noexcept {
        return refusal_;
    }

    // ---- For the mover

    enum class Stage : uint8_t { kBuffered, kDirect, kSync, kPublish, kSyncFolder, kEnd };

    /// As posted anew.
    void
    rewind() noexcept;

    /// To the next stage, as long as the present one has nothing to begin and nothing in flight. False: it is at the
    /// last one.
    bool
    hasMore() noexcept;

    /// No more of it is to be begun.
    bool
    isOver() const noexcept {
        return stage < Stage::kPublish ? stopping() : has_failed_;
    }

    /// As fail(), in any stage. For who drives it.
    void
    failNow(nixl_status_t status, std::string sentence) noexcept {
        has_failed_ = true;
        fail(status, std::move(sentence));
    }

    /// What stands for a file in this request: its version, if it is atomic.
    kit::File *
    fileOf(const FileMemory &memory) const noexcept {
        return memory.atomic ? versionOf(memory.file.get()) : memory.file.get();
    }

    /// What is next in the stages behind kSync.
    kit::FileVersion &
    nextVersion() const noexcept {
        return *versions_[begun].version;
    }
    /// Likewise in those that sync. Null: there is nothing to be synced.
    kit::File *
    nextToSync() const noexcept;

    /// Versions are not used any more; those that were not published are gone.
    void
    dropVersions() noexcept {
        for (Version &each : versions_) each.version->drop();
    }

    /// It belongs to the present stage.
    bool
    wants(const Piece &piece) const noexcept {
        return piece.direct == (stage == Stage::kDirect);
    }

    Pieces pieces;
    Stage stage = Stage::kEnd;
    size_t in_flight = 0; ///< operations
    uint64_t bytes_in_flight = 0;
    size_t begun = 0;         ///< of a stage that moves nothing
    OpenFile *open = nullptr; ///< the one used last, while it is in use
    bool is_active = false;   ///< in the mover's list
    bool left_out = false;    ///< something that was begun was given up
    Transfer *next = nullptr; ///< in the mover's list

private:
    struct Version {
        const kit::File *file;
        std::unique_ptr<kit::FileVersion> version;
    };

    size_t
    countOf(Stage stage) const noexcept;
    kit::FileVersion *
    versionOf(const kit::File *file) const noexcept;

    const bool writes_;
    const bool durable_; ///< and writes
    bool syncs_folders_ = false;
    bool has_failed_ = false;          ///< since it was posted
    std::vector<kit::File *> to_sync_; ///< but for versions
    std::vector<Version> versions_;    ///< by file
    bool has_buffered_ = false, has_direct_ = false;
    bool is_small_read_ = false;
    Status refusal_;
};

} // namespace nx::posix
