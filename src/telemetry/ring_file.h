// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The agent's end of a ring file (nixlx/telemetry_ring.h). Written with pwrite instead of through a mapping: a file
// that somebody truncates, or a disk that is full, then ends in an error and not in a signal, and a batch costs five
// calls. Owned by one caller at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "nixlx/telemetry_ring.h"

namespace nx::telemetry {

/// The name of an agent's file: the agent's own, unless that cannot be a file name of its own (it contains '/' or NUL,
/// is "." or "..", begins with '%', or has more than 255 bytes). Then '%' and the name, with '/', '%' and NUL written
/// as %XX; if that is too long, cut, with "%~" and a checksum of the whole name behind it.
std::string
ringFileName(const std::string &agent);

class RingFile {
public:
    /// Opens or makes the file of `agent` in `directory`, which is made (mode 0700) if it is not there; mode 0600.
    /// Events that nobody has read yet stay. A ring of another version or capacity, or a damaged one, is replaced.
    ///
    /// NOT_ALLOWED: another agent of this name has it open. INVALID_PARAM: `capacity` is no power of two of 2 or more.
    /// BACKEND: the directory or the file is not safe to use or is something else than a ring, then untouched; or the
    /// system refused.
    static Result<RingFile>
    open(const std::string &directory, const std::string &agent, uint64_t capacity);

    RingFile(RingFile &&) noexcept = default;
    RingFile &
    operator=(RingFile &&) = delete;
    ~RingFile();

    /// Looks how far the reader is. If the file was truncated or overwritten meanwhile, makes an empty ring of it and
    /// sets `restarted`.
    Status
    begin(bool &restarted);

    /// False if the ring is full.
    bool
    put(const nixlTelemetryEvent &event);

    /// Shows the reader what was put since begin().
    Status
    end();

    const std::string &
    path() const noexcept {
        return path_;
    }

private:
    RingFile(Fd fd, std::string path, const nixlx::TelemetryRingHeader &header);

    Fd fd_;
    std::string path_;
    uint64_t mask_;
    uint64_t write_pos_;
    uint64_t room_ = 0;
    struct Slot {
        nixl_telemetry_event_type_t type;
        uint32_t padding;
        uint64_t value;
    };
    std::vector<Slot> pending_;
};

} // namespace nx::telemetry
