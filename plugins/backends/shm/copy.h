// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The two ways to copy: within memory that is mapped here, and by the kernel between this process and another.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/error.h"
#include "shm/board.h"

namespace nx::shm {

/// As memcpy. `streaming`: past the caches, where the processor can; for pieces of a copy that is larger than they are.
void
copyBytes(void *to, const void *from, size_t bytes, bool streaming) noexcept;

/// Copies between this process and another of its host. A process number may come to stand for another process, and a
/// process may run another program: every copy begins with a byte of the other's guard (board.h), so that it fails
/// there before anything is touched. Any thread.
class KernelCopy {
public:
    static constexpr size_t kPiecesMax = 1023; ///< what the kernel takes, less the guard

    /// Pieces of one call; too large for small stacks. Owned by one caller.
    class Pieces {
    public:
        Pieces() noexcept {} // the arrays are left as they are

        /// Joins it to the one before where they touch. Requires that there is room: kPiecesMax.
        void
        add(uint64_t local, uint64_t remote, size_t bytes) noexcept;

        bool
        empty() const noexcept {
            return remote_count_ == 0;
        }

    private:
        friend class KernelCopy;

        size_t local_count_ = 0, remote_count_ = 0;
        std::array<iovec, kPiecesMax + 1> local_, remote_; ///< from the second on; the first has room for the guard
    };

    struct Outcome {
        uint64_t bytes = 0;   ///< from the first piece on
        bool gone = false;    ///< the process is not there any more, or runs another program
        bool refused = false; ///< the system does not allow it any more
        std::string why;      ///< not empty: it has failed
    };

    KernelCopy(pid_t process, const BoardInfo &board) noexcept : process_(process), board_(board) {}

    /// Whether the system lets this process copy both ways, tried with memory that is there for it. NOT_SUPPORTED: no,
    /// and why. MISMATCH: the number stands for another process.
    Status
    probe() const;

    /// `write`: to the other process. Uses the pieces up. What the kernel breaks off it is asked for again, so that the
    /// sentence names the byte at which it cannot go on.
    Outcome
    copy(bool write, Pieces &pieces) const;

private:
    ssize_t
    call(bool write, std::span<const iovec> local, std::span<const iovec> remote) const noexcept;

    const pid_t process_;
    const BoardInfo board_;
};

} // namespace nx::shm
