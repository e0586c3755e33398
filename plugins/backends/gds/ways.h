// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The two ways to move pieces: a call of cuFile for each, which GDS_MT does, and batches, which GDS does. Confined to a
// thread each.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "gds/mover.h"

namespace nx::gds {

/// A call, or another one for what it left, until all is done.
class CallWay final : public Way {
public:
    explicit CallWay(const Driver &driver) noexcept : driver_(driver) {}

    size_t
    pieceCountMax() const noexcept override {
        return 1;
    }
    void
    move(std::span<Piece> pieces) noexcept override;

private:
    const Driver &driver_;
};

/// A batch of cuFile's, which takes one submission at a time. What it does not take, and what it leaves of a piece, is
/// moved by calls, each of which has an answer of its own.
class BatchWay final : public Way {
public:
    /// What cuFile says.
    static Result<std::unique_ptr<Way>>
    create(const Driver &driver, unsigned entry_count_max);
    ~BatchWay() override;

    size_t
    pieceCountMax() const noexcept override {
        return entries_.size();
    }
    void
    move(std::span<Piece> pieces) noexcept override;

private:
    BatchWay(const Driver &driver, unsigned entry_count_max);
    bool
    submit(std::span<const Piece> pieces) noexcept;
    void
    collect(std::span<Piece> pieces) noexcept;
    static bool
    account(Piece &piece, const abi::BatchEvent &event) noexcept;
    void
    renew() noexcept;

    const Driver &driver_;
    CallWay calls_;
    abi::BatchHandle batch_ = nullptr; ///< null: cuFile gives none any more
    // With room for all from the beginning.
    std::vector<abi::BatchEntry> entries_;
    std::vector<abi::BatchEvent> events_;
    std::vector<bool> ended_;
};

} // namespace nx::gds
