// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// One request between memory and objects. All that it has of an object is sorted, so that what lies in a row there is
// one stretch, wherever its pieces are in memory:
//
//   READ   each stretch is read in parts, all of one state of the object: that of the first answer
//   WRITE  the stretch has to be the object: it is one PUT, or a multipart upload
//
// The pieces are immutable; the rest is guarded by the client's mutex while it is posted.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nixlx/engine.h"
#include "obj/exchange.h"

namespace nx::obj {

class Transfer final : public Job {
public:
    /// INVALID_PARAM: a place that no object has, or objects that would be written in part.
    static Result<std::unique_ptr<Transfer>>
    create(const nixlx::Plan &plan, uint64_t part_bytes);

    void
    restart() noexcept override;
    bool
    next(Exchange &exchange) override;
    void
    done(Exchange &exchange) override;
    bool
    accepts(Exchange &exchange) override;
    bool
    undo(Exchange &exchange) override;

private:
    /// Bytes in a row in an object.
    struct Stretch {
        const Piece *first;
        uint64_t offset;
        uint64_t length;
        size_t pin; ///< index
    };

    struct Upload {
        enum class Stage : uint8_t { kBeginning, kParts, kWhole, kCompleting, kDoubt, kLooking, kDone };
        struct Part {
            std::string etag, checksum;
        };

        const Stretch *stretch;
        uint64_t part_bytes;
        Stage stage = Stage::kBeginning;
        std::string id = {};
        std::vector<Part> parts = {};
        size_t begun = 0, done = 0; ///< parts
        Place place = {};           ///< of the next one
    };

    Transfer(bool writes, uint64_t part_bytes) : writes_(writes), part_bytes_(part_bytes) {}

    bool
    nextRead(Exchange &exchange);
    bool
    nextOfUpload(Upload &upload, Exchange &exchange);
    void
    pin(Exchange &exchange);
    static std::string
    listOfParts(const Upload &upload);

    const bool writes_;
    const uint64_t part_bytes_;
    std::vector<Piece> pieces_;
    std::vector<Stretch> stretches_;
    std::vector<std::string> pins_; ///< the ETag that an object has to have, once one is known

    size_t stretch_ = 0; ///< the next one
    uint64_t at_ = 0;    ///< in it
    Place place_;        ///< likewise
    std::vector<Upload> uploads_;
};

} // namespace nx::obj
