// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The two ways to move pieces: a call of cuFile for each, which GDS_MT does, and batches, which GDS does. Confined to a
// thread each.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gds/driver.h"
#include "gds/memory.h"
#include "kit/files/file_mover.h"

namespace nx::gds {

/// What both have in common: codes of cuFile's, and the context that memory of a GPU needs.
class Way : public kit::FileWay {
public:
    explicit Way(const Driver &driver) noexcept : driver_(driver) {}

    /// In one context.
    bool
    joins(const kit::FilePiece &first, const kit::FilePiece &other) const noexcept override;
    nixl_status_t
    statusOf(const kit::FilePiece &piece) const noexcept override;
    std::string
    reasonOf(const kit::FilePiece &piece) const override;

protected:
    /// Makes their context the thread's.
    void
    enter(std::span<const kit::FilePiece> pieces) noexcept;

    const Driver &driver_;

private:
    abi::Context current_ = nullptr;
};

/// A call, or another one for what it left, until all is done.
class CallWay final : public Way {
public:
    using Way::Way;

    size_t
    pieceCountMax() const noexcept override {
        return 1;
    }
    void
    move(std::span<kit::FilePiece> pieces) noexcept override;
};

/// A batch of cuFile's, which takes one submission at a time. What it does not take, and what it leaves of a piece, is
/// moved by calls, each of which has an answer of its own.
class BatchWay final : public Way {
public:
    /// What cuFile says.
    static Result<std::unique_ptr<kit::FileWay>>
    create(const Driver &driver, unsigned entry_count_max);
    ~BatchWay() override;

    size_t
    pieceCountMax() const noexcept override {
        return entries_.size();
    }
    void
    move(std::span<kit::FilePiece> pieces) noexcept override;

private:
    BatchWay(const Driver &driver, unsigned entry_count_max);
    bool
    submit(std::span<const kit::FilePiece> pieces) noexcept;
    void
    collect(std::span<kit::FilePiece> pieces) noexcept;
    static bool
    account(kit::FilePiece &piece, const abi::BatchEvent &event) noexcept;
    void
    renew() noexcept;

    CallWay calls_;
    abi::BatchHandle batch_ = nullptr; ///< null: cuFile gives none any more
    // With room for all from the beginning.
    std::vector<abi::BatchEntry> entries_;
    std::vector<abi::BatchEvent> events_;
    std::vector<bool> ended_;
};

} // namespace nx::gds
