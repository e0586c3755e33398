// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How a thread moves pieces: through two rings of its own, one for each direction, straight from and to memory that 3FS
// knows, by way of a room of its own for other memory. Confined to a thread, but for its making.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hf3fs/driver.h"
#include "kit/files/file_mover.h"

namespace nx::hf3fs {

class RingWay final : public kit::FileWay {
public:
    /// `bytes_max`: of the pieces that it is given at once. What the library says.
    static Result<std::unique_ptr<kit::FileWay>>
    create(const Driver &driver, size_t entry_count, uint64_t bytes_max);

    size_t
    pieceCountMax() const noexcept override {
        return entries_.size();
    }
    void
    move(std::span<kit::FilePiece> pieces) noexcept override;
    nixl_status_t
    statusOf(const kit::FilePiece &piece) const noexcept override;
    std::string
    reasonOf(const kit::FilePiece &piece) const override;

private:
    /// What there is to know of a piece while it moves.
    struct Entry {
        kit::FilePiece *piece;
        const abi::Iov *iov; ///< that its bytes are in
        char *bytes;         ///< its memory, or the place for it in the room
        bool in_flight;
        unsigned fruitless; ///< answers in a row that brought nothing
    };

    RingWay(const Driver &driver, size_t entry_count, uint64_t bytes_max);
    int
    makeReady() noexcept;
    void
    assign(std::span<kit::FilePiece> pieces) noexcept;
    int
    begin(Ring &ring, std::span<Entry> entries) noexcept;
    int
    collect(Ring &ring, bool submitted) noexcept;
    void
    account(Entry &entry, int64_t result) noexcept;
    void
    fail(kit::FilePiece &piece, int code) noexcept;

    const Driver &driver_;
    const uint64_t bytes_max_;
    // Null: it has been given up, and is to be made anew.
    std::unique_ptr<Ring> reading_, writing_;
    std::unique_ptr<Room> room_;
    // With room for all from the beginning.
    std::vector<Entry> entries_;
    std::vector<abi::Completion> completions_;
    size_t in_flight_ = 0;
    bool failed_ = false; ///< one of the pieces, so that no more is begun
};

} // namespace nx::hf3fs
