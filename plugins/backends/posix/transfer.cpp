// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "posix/transfer.h"

#include <algorithm>

namespace nx::posix {

Transfer::Transfer(const nixlx::Plan &plan, bool durable)
    : pieces(plan),
      writes_((plan.operation == NIXL_WRITE) != pieces.filesAreLocal()),
      durable_(durable && writes_) {
    std::vector<kit::File *> files; // that it writes to, or has versions of
    bool has_atomic = false;
    for (const nixlx::Run &run : plan.runs) {
        const FileMemory &memory = pieces.fileOf(run);
        const uint64_t page = memory.alignment.page;
        const auto whole = [&](uint64_t bytes) { return page > 0 && bytes % page == 0; };
        has_direct_ = has_direct_ || page > 0;
        has_buffered_ = has_buffered_ || !whole(pieces.offsetOf(run)) || !whole(run.length) ||
            (run.count > 1 && !whole(pieces.strideOf(run)));
        has_atomic = has_atomic || memory.atomic;
        if (!writes_ && !memory.atomic) continue;
        kit::File *const file = memory.file.get();
        if (!files.empty() && files.back() == file) continue;
        if (writes_ && file->readOnly() && refusal_.ok()) {
            refusal_ = {NIXL_ERR_NOT_ALLOWED, file->name() + " is open for reading only; register it for writing"};
        }
        if (plan.is_part && memory.atomic && refusal_.ok()) {
            refusal_ = {NIXL_ERR_NOT_SUPPORTED,
                        file->name() +
                            " is read and replaced as a whole ('atomic'), and this transfer comes in parts, as no "
                            "backend joins the two memories; register it without, or move it from and to memory of "
                            "the host"};
        }
        files.push_back(file);
    }
    is_small_read_ =
        !writes_ && !has_direct_ && plan.total_bytes <= kSmallReadBytes && plan.block_count <= kSmallReadBlocks;
    if (!durable_ && !has_atomic) return;
    std::sort(files.begin(), files.end());
    files.erase(std::unique(files.begin(), files.end()), files.end());
    const kit::FileVersion *beside = nullptr;
    for (kit::File *const file : files) {
        auto version = file->version(writes_, beside);
        if (!version && durable_) to_sync_.push_back(file);
        if (!version) continue;
        beside = version.get();
        syncs_folders_ = syncs_folders_ || durable_ || (writes_ && version->lasts());
        versions_.push_back({file, std::move(version)});
    }
}

kit::FileVersion *
Transfer::versionOf(const kit::File *file) const noexcept {
    const auto found = std::lower_bound(versions_.begin(), versions_.end(), file,
                                        [](const Version &each, const kit::File *file) { return each.file < file; });
    return found->version.get();
}

void
Transfer::rewind() noexcept {
    pieces.restart();
    stage = has_buffered_ ? Stage::kBuffered : Stage::kDirect;
    in_flight = bytes_in_flight = 0;
    begun = 0;
    open = nullptr;
    is_active = left_out = has_failed_ = false;
}

bool
Transfer::hasMore() noexcept {
    if (stage == Stage::kBuffered || stage == Stage::kDirect) {
        if (!pieces.atEnd()) return true;
        if (in_flight > 0) return false;
        if (stage == Stage::kBuffered && has_direct_) {
            stage = Stage::kDirect;
            pieces.restart();
            return true;
        }
        stage = Stage::kSync;
    }
    while (stage != Stage::kEnd) {
        if (begun < countOf(stage)) return true;
        if (in_flight > 0) return false;
        const Stage next = static_cast<Stage>(static_cast<uint8_t>(stage) + 1);
        if (next == Stage::kPublish && countOf(next) > 0 && stopping()) return false; // nobody sees anything of it
        stage = next;
        begun = 0;
    }
    return false;
}

kit::File *
Transfer::nextToSync() const noexcept {
    const bool folders = stage == Stage::kSyncFolder;
    if (!folders && begun < to_sync_.size()) return to_sync_[begun];
    const size_t which = folders ? begun : begun - to_sync_.size();
    kit::FileVersion *const version = versions_[which].version.get();
    if (version->folder() < 0) return nullptr; // no byte was written
    const bool again = folders && which > 0 && versions_[which - 1].version->folder() == version->folder();
    return again ? nullptr : version;
}

size_t
Transfer::countOf(Stage stage) const noexcept {
    switch (stage) {
    case Stage::kSync: return to_sync_.size() + (durable_ ? versions_.size() : 0);
    case Stage::kPublish: return writes_ ? versions_.size() : 0;
    case Stage::kSyncFolder: return syncs_folders_ ? versions_.size() : 0;
    default: return 0;
    }
}

} // namespace nx::posix
