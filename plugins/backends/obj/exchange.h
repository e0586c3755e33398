// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A request to the server and its answer, tried as often as it takes; and a job, which is made of them. An Exchange is
// owned by whoever works on it: the client while it waits, the lane while it is sent. A job's functions for the client
// are called with the client's mutex held.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "kit/request_base.h"
#include "obj/answer.h"
#include "obj/memory.h"

namespace nx::obj {

/// A part of an object, and the memory for it.
struct Piece {
    const Object *object = nullptr;
    uint64_t offset = 0; ///< in the object
    uint64_t length = 0;
    char *memory = nullptr;
};

/// A place in pieces that lie in a row in the object.
struct Place {
    const Piece *piece = nullptr;
    uint64_t offset = 0; ///< in the piece

    /// As much memory as lies in a row there, at most `length` bytes of it; behind it afterwards.
    struct Memory {
        char *begin;
        uint64_t length;
    };
    Memory
    take(uint64_t length) noexcept {
        while (offset == piece->length) {
            ++piece;
            offset = 0;
        }
        const Memory taken{piece->memory + offset, std::min(length, piece->length - offset)};
        offset += taken.length;
        return taken;
    }
};

class Job;

enum class Verb : uint8_t { kGet, kPut, kHead, kBegin, kPutPart, kComplete, kAbort, kLook };

struct Exchange {
    Job *job = nullptr;
    Verb verb = Verb::kGet;
    const Object *object = nullptr;
    uint64_t offset = 0; ///< in the object
    uint64_t length = 0; ///< bytes of it
    Place place;         ///< the memory
    size_t index = 0;    ///< the job's
    unsigned part = 0;   ///< of a multipart upload, from 1
    std::string upload;  ///< its id
    std::string etag;    ///< what the object has to be
    std::string text;    ///< the body, if it is not memory

    unsigned attempt = 0;
    std::chrono::steady_clock::time_point due{}; ///< for the next one
    Answer answer;                               ///< to the last one
    std::string checksum;                        ///< what the last one sent
};

/// Something that exchanges are made for. Owned by one caller at a time, as kit::RequestBase is.
class Job : public kit::RequestBase {
public:
    /// As posted anew.
    virtual void
    restart() noexcept = 0;

    /// The next exchange to begin. False: there is none now; if nothing is in flight either, there is none at all.
    virtual bool
    next(Exchange &exchange) = 0;

    /// It has a good answer, and all bytes. What is not right is a fail().
    virtual void
    done(Exchange &exchange) = 0;

    /// The server has this answer, which is not good. True: that was what it had to say.
    virtual bool
    accepts(Exchange &) {
        return false;
    }

    /// When it has ended: what is to be undone at the server, one after another; it needs nothing of the job.
    virtual bool
    undo(Exchange &) {
        return false;
    }

    size_t in_flight = 0;   ///< exchanges, those that wait for their next attempt too
    bool is_active = false; ///< in the client's list
    bool left_out = false;  ///< an exchange was given up
    Job *next_active = nullptr;
};

} // namespace nx::obj
