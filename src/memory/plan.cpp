// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "memory/plan.h"

#include <algorithm>
#include <array>
#include <utility>

namespace nx::memory {

namespace {

// Collects blocks into runs. A block that continues the previous one on both sides is merged into it; blocks of equal
// length at a constant step on both sides become one run.
class Builder {
public:
    Builder(const PlanRequest &request, std::shared_ptr<const Side> local, std::shared_ptr<const Side> remote)
        : request_(request),
          local_(*local),
          remote_(*remote) {
        plan_->local = std::move(local);
        plan_->remote = std::move(remote);
    }

    /// At most so many blocks will be added.
    void
    expect(size_t blocks) {
        plan_->runs.reserve(blocks);
    }

    void
    add(uint64_t local, uint32_t local_window, uint64_t remote, uint32_t remote_window, uint64_t length) {
        append(local, remote, length, local_window, remote_window);
    }

    // Pairs element `local_indices[at]` with `remote_indices[at]` and so on, up to the first pair that is not in these
    // strided runs of equal lengths. Returns its position.
    size_t
    addStreak(const Side::Run &local,
              std::span<const int> local_indices,
              const Side::Run &remote,
              std::span<const int> remote_indices,
              size_t at) {
        for (; at < local_indices.size(); ++at) {
            const uint64_t l = static_cast<uint64_t>(local_indices[at]) - local.first;
            const uint64_t r = static_cast<uint64_t>(remote_indices[at]) - remote.first;
            if (l >= local.count || r >= remote.count) break;
            append(local.address + l * local.stride, remote.address + r * remote.stride, local.length, local.window,
                   remote.window);
        }
        return at;
    }

    // `count` blocks at once, each `length` long and neither touching its neighbour on both sides.
    void
    addRun(const Side::Run &local, uint64_t local_at, const Side::Run &remote, uint64_t remote_at, uint64_t count) {
        const bool dense = request_.merge && local.stride == local.length && remote.stride == remote.length;
        if (dense || count == 1) {
            add(local_at, local.window, remote_at, remote.window, local.length * count);
            return;
        }
        plan_->runs.push_back(
            {local_at, remote_at, local.length, local.stride, remote.stride, count, local.window, remote.window});
        last_local_ = local_at + (count - 1) * local.stride;
        last_remote_ = remote_at + (count - 1) * remote.stride;
    }

    // One element of each side, of equal length.
    void
    addPair(const Side::Run &local_run,
            const Side::Extent &local,
            const Side::Run &remote_run,
            const Side::Extent &remote) {
        if (local_run.window != Side::kCut && remote_run.window != Side::kCut) {
            add(local.address, local.window, remote.address, remote.window, local.length);
            return;
        }
        const auto locals = local_run.window == Side::kCut ? local_.pieces(local_run) : std::span(&local, 1);
        const auto remotes = remote_run.window == Side::kCut ? remote_.pieces(remote_run) : std::span(&remote, 1);
        size_t l = 0, r = 0;
        uint64_t l_done = 0, r_done = 0;
        while (l < locals.size() && r < remotes.size()) {
            const uint64_t length = std::min(locals[l].length - l_done, remotes[r].length - r_done);
            add(locals[l].address + l_done, locals[l].window, remotes[r].address + r_done, remotes[r].window, length);
            if ((l_done += length) == locals[l].length) ++l, l_done = 0;
            if ((r_done += length) == remotes[r].length) ++r, r_done = 0;
        }
    }

    std::unique_ptr<OwnedPlan>
    finish() {
        auto &owned = *plan_;
        auto &plan = owned.plan;
        if (owned.runs.capacity() / 2 > owned.runs.size()) owned.runs.shrink_to_fit();
        owned.remote_agent = request_.remote_agent;
        for (const auto &run : owned.runs) {
            plan.block_count += run.count;
            plan.total_bytes += run.length * run.count;
        }
        plan.operation = request_.operation;
        plan.local_memory = request_.local_memory;
        plan.remote_memory = request_.remote_memory;
        plan.remote_agent = owned.remote_agent;
        plan.local_segments = local_.segments();
        plan.remote_segments = remote_.segments();
        plan.runs = owned.runs;
        return std::move(plan_);
    }

private:
    void
    append(uint64_t local, uint64_t remote, uint64_t length, uint32_t local_segment, uint32_t remote_segment) {
        auto &runs = plan_->runs;
        const uint64_t local_step = local - std::exchange(last_local_, local);
        const uint64_t remote_step = remote - std::exchange(last_remote_, remote);
        if (!runs.empty()) {
            nixlx::Run &run = runs.back();
            if (run.local_segment == local_segment && run.remote_segment == remote_segment) {
                if (request_.merge && local_step == run.length && remote_step == run.length) {
                    last_local_ -= local_step;
                    last_remote_ -= remote_step;
                    if (run.count == 1) {
                        run.length += length;
                        return;
                    }
                    // The run's last block grows and becomes the start of a run of its own.
                    const uint64_t grown = run.length + length;
                    --run.count;
                    runs.push_back({last_local_, last_remote_, grown, 0, 0, 1, local_segment, remote_segment});
                    return;
                }
                if (run.length == length) {
                    if (run.count == 1) {
                        run.local_stride = local_step;
                        run.remote_stride = remote_step;
                        run.count = 2;
                        return;
                    }
                    if (local_step == run.local_stride && remote_step == run.remote_stride) {
                        ++run.count;
                        return;
                    }
                }
            }
        }
        runs.push_back({local, remote, length, 0, 0, 1, local_segment, remote_segment});
    }

    const PlanRequest &request_;
    const Side &local_;
    const Side &remote_;
    std::unique_ptr<OwnedPlan> plan_ = std::make_unique<OwnedPlan>();
    uint64_t last_local_ = 0; ///< start of the last block of the last run
    uint64_t last_remote_ = 0;
};

Status
lengthsDiffer(uint64_t pair, uint64_t local_length, uint64_t remote_length) {
    return {NIXL_ERR_INVALID_PARAM,
            "pair " + std::to_string(pair) + ": the local element has " + std::to_string(local_length) +
                " bytes, the remote one " + std::to_string(remote_length)};
}

Status
outside(const char *which, int index, size_t position, const Side &side) {
    return {NIXL_ERR_INVALID_PARAM,
            std::string(which) + " index " + std::to_string(index) + " at position " + std::to_string(position) +
                " is outside the prepared list of " + std::to_string(side.size()) + " elements"};
}

} // namespace

Result<std::unique_ptr<OwnedPlan>>
planAll(const PlanRequest &request, std::shared_ptr<const Side> local_side, std::shared_ptr<const Side> remote_side) {
    const Side &local = *local_side, &remote = *remote_side;
    if (local.size() != remote.size()) {
        return {NIXL_ERR_INVALID_PARAM,
                "the local list has " + std::to_string(local.size()) + " elements, the remote list " +
                    std::to_string(remote.size())};
    }
    Builder builder(request, std::move(local_side), std::move(remote_side));
    size_t l = 0, r = 0;
    for (uint64_t at = 0; at < local.size();) {
        const auto &lr = local.runOf(at, l);
        const auto &rr = remote.runOf(at, r);
        const auto le = local.element(lr, at);
        const auto re = remote.element(rr, at);
        if (le.length != re.length) return lengthsDiffer(at, le.length, re.length);
        uint64_t count = 1;
        if (lr.isStrided() && rr.isStrided()) {
            count = std::min(lr.first + lr.count, rr.first + rr.count) - at;
            builder.addRun(lr, le.address, rr, re.address, count);
        } else {
            builder.addPair(lr, le, rr, re);
        }
        at += count;
    }
    return builder.finish();
}

Result<std::unique_ptr<OwnedPlan>>
planIndexed(const PlanRequest &request,
            std::shared_ptr<const Side> local_side,
            std::span<const int> local_indices,
            std::shared_ptr<const Side> remote_side,
            std::span<const int> remote_indices) {
    const Side &local = *local_side, &remote = *remote_side;
    if (local_indices.empty() || local_indices.size() != remote_indices.size()) {
        return {NIXL_ERR_INVALID_PARAM,
                std::to_string(local_indices.size()) + " local and " + std::to_string(remote_indices.size()) +
                    " remote indices: the counts must be equal and not zero"};
    }
    Builder builder(request, std::move(local_side), std::move(remote_side));
    builder.expect(local_indices.size());
    struct Place {
        uint64_t index;
        const Side::Run *run;
    };
    constexpr size_t kChunk = 64;
    std::array<Place, kChunk> locals, remotes;
    size_t l = 0, r = 0;
    const auto place = [](const Side &side, int index, size_t &hint, Place &out) {
        out.index = static_cast<uint64_t>(static_cast<int64_t>(index));
        if (out.index >= side.size()) return false;
        out.run = &side.runOf(out.index, hint);
        side.prefetch(*out.run, out.index);
        return true;
    };
    size_t at = 0;
    const auto placeBoth = [&](size_t i) -> Status {
        if (!place(local, local_indices[at + i], l, locals[i])) {
            return outside("local", local_indices[at + i], at + i, local);
        }
        if (!place(remote, remote_indices[at + i], r, remotes[i])) {
            return outside("remote", remote_indices[at + i], at + i, remote);
        }
        return {};
    };
    while (at < local_indices.size()) {
        if (auto status = placeBoth(0); !status.ok()) return status;
        const Side::Run &local_run = *locals[0].run, &remote_run = *remotes[0].run;
        if (local_run.isStrided() && remote_run.isStrided()) {
            if (local_run.length != remote_run.length) return lengthsDiffer(at, local_run.length, remote_run.length);
            at = builder.addStreak(local_run, local_indices, remote_run, remote_indices, at);
            continue;
        }
        // In random order nearly every row of a table is a cache miss. A chunk's are waited for together.
        const size_t count = std::min(kChunk, local_indices.size() - at);
        for (size_t i = 1; i < count; ++i) {
            if (auto status = placeBoth(i); !status.ok()) return status;
        }
        for (size_t i = 0; i < count; ++i) {
            const auto le = local.element(*locals[i].run, locals[i].index);
            const auto re = remote.element(*remotes[i].run, remotes[i].index);
            if (le.length != re.length) return lengthsDiffer(at + i, le.length, re.length);
            builder.addPair(*locals[i].run, le, *remotes[i].run, re);
        }
        at += count;
    }
    return builder.finish();
}

} // namespace nx::memory
