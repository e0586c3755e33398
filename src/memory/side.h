// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One side of transfers: a descriptor list resolved against registered windows and compressed. A regular list of any
// length is one run; where a list has no pattern, 16 bytes per element stand in a table. Immutable once resolved: share
// freely.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "memory/range_index.h"
#include "nixl_descriptors.h"
#include "nixlx/engine.h"

namespace nx::memory {

class Side {
public:
    static constexpr uint32_t kTable = UINT32_MAX;   ///< a run of elements that no stride describes
    static constexpr uint32_t kCut = UINT32_MAX - 1; ///< a run of one element that spans several windows

    /// Elements [first, first + count). Of a strided run, element first + i starts at address + i * stride and has
    /// `length` bytes; for the other kinds ask element() and pieces().
    struct Run {
        uint64_t first;
        uint64_t address; ///< kTable: index of its first row; kCut: index of its first piece
        uint64_t length;
        uint64_t stride; ///< kCut: number of its pieces
        uint64_t count;
        uint32_t window; ///< index into windows() and segments(), or kTable or kCut

        bool
        isStrided() const noexcept {
            return window < kCut;
        }
    };

    /// Bytes inside one window: an element, or a piece of a cut one.
    struct Extent {
        uint64_t address;
        uint64_t length;
        uint32_t window;
    };

    /// Which face of its mappings a side shows to the backend.
    enum class Face {
        kMetadata,
        kToSelf, ///< the remote side of transfers to oneself
    };

    /// NOT_FOUND: an element is not covered by `index` (the sentence names it); INVALID_PARAM: an element's end
    /// passes the last address, or there are more than 2^31 - 1 elements.
    static Result<Side>
    resolve(const RangeIndex &index, std::span<const nixlBasicDesc> elements, Face face = Face::kMetadata);
    static Result<Side>
    resolve(const RangeIndex &index, std::span<const nixlStrideDesc> elements, Face face = Face::kMetadata);

    uint64_t
    size() const noexcept {
        return size_;
    }

    const std::vector<Run> &
    runs() const noexcept {
        return runs_;
    }

    /// Those that elements lie in, each once. Valid as long as this side.
    const std::vector<const Window *> &
    windows() const noexcept {
        return windows_;
    }

    /// What the backend knows them by, in the same order. Only while a window is not revoked may the backend see its.
    const std::vector<nixlx::Segment> &
    segments() const noexcept {
        return segments_;
    }

    /// The same as the remote side of transfers to oneself. Made when first asked for, and kept.
    std::span<const nixlx::Segment>
    segmentsToSelf() const;

    /// Requires index < size(). `hint` remembers the run between calls; start with 0.
    const Run &
    runOf(uint64_t index, size_t &hint) const noexcept {
        const Run &likely = runs_[hint];
        if (index - likely.first < likely.count) return likely;
        return findRun(index, hint);
    }

    /// Element `index`, which is in `run`. Of a cut one only the length and the window kCut are of use.
    Extent
    element(const Run &run, uint64_t index) const noexcept {
        const uint64_t offset = index - run.first;
        if (run.window == kTable) {
            const Row &row = rows_[run.address + offset];
            return {row.address, row.length, row.window};
        }
        return {run.address + offset * run.stride, run.length, run.window};
    }

    /// Of these elements together; those outside count nothing.
    uint64_t
    bytesOf(std::span<const int> indices) const noexcept;

    /// element() of it will follow: the table is too large for the caches.
    void
    prefetch(const Run &run, uint64_t index) const noexcept {
        if (run.window == kTable) __builtin_prefetch(&rows_[run.address + (index - run.first)]);
    }

    std::span<const Extent>
    pieces(const Run &cut) const noexcept {
        return {pieces_.data() + cut.address, static_cast<size_t>(cut.stride)};
    }

    /// True if a window has been revoked since.
    bool
    stale() const noexcept;

    /// Bytes of memory held, for limits and tests.
    size_t
    memoryBytes() const noexcept;

private:
    class Resolver;

    struct Row {
        uint64_t address;
        uint32_t length;
        uint32_t window;
    };

    template<class Desc>
    static Result<Side>
    resolveAll(const RangeIndex &index, std::span<const Desc> elements, Face face);

    void
    fillStarts();
    const Run &
    findRun(uint64_t index, size_t &hint) const noexcept;

    std::vector<Run> runs_;
    std::vector<Row> rows_;
    std::vector<Extent> pieces_;
    RangeIndex index_; ///< keeps the windows
    std::vector<const Window *> windows_;
    std::vector<nixlx::Segment> segments_;
    mutable std::shared_ptr<const std::vector<nixlx::Segment>> segments_to_self_; ///< under a mutex of all sides
    std::vector<uint32_t> starts_; // of many runs: which one holds element i << bucket_shift_
    int bucket_shift_ = 0;
    uint64_t size_ = 0;
};

} // namespace nx::memory
