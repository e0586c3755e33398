// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "obj/transfer.h"

#include <algorithm>
#include <tuple>

namespace nx::obj {

namespace {

// S3's.
constexpr uint64_t kPartCountMax = 10000;
constexpr uint64_t kUploadPartBytesMin = uint64_t{5} << 20;
constexpr uint64_t kObjectBytesMax = uint64_t{5} << 40;

Status
checkWhole(const Piece &piece, uint64_t wanted) {
    if (piece.offset == wanted) return {};
    return {
        NIXL_ERR_INVALID_PARAM,
        "object " + piece.object->name() + " would be written from offset " + std::to_string(piece.offset) +
            " on, after " + std::to_string(wanted) +
            " bytes: an object is written as a whole, by descriptors of one request that begin at offset 0 and leave "
            "no gap"};
}

} // namespace

Result<std::unique_ptr<Transfer>>
Transfer::create(const nixlx::Plan &plan, uint64_t part_bytes) {
    const bool objects_are_local = plan.local_memory == OBJ_SEG;
    std::unique_ptr<Transfer> made(new Transfer((plan.operation == NIXL_WRITE) != objects_are_local, part_bytes));
    std::vector<Piece> &pieces = made->pieces_;
    pieces.reserve(plan.block_count);
    for (const nixlx::Run &run : plan.runs) {
        if (run.length == 0) continue;
        const nixlx::Segment &segment =
            objects_are_local ? plan.local_segments[run.local_segment] : plan.remote_segments[run.remote_segment];
        const Object *const object = static_cast<const ObjectMemory *>(segment.metadata)->object.get();
        for (uint64_t i = 0; i < run.count; ++i) {
            const uint64_t local = run.local + i * run.local_stride, remote = run.remote + i * run.remote_stride;
            const uint64_t offset = objects_are_local ? local : remote;
            if (offset > INT64_MAX || run.length > INT64_MAX - offset) {
                return {NIXL_ERR_INVALID_PARAM,
                        std::to_string(run.length) + " bytes at offset " + std::to_string(offset) + ": object " +
                            object->name() + " does not reach so far; the offset is negative, or has wrapped around"};
            }
            pieces.push_back(
                {object, offset, run.length, reinterpret_cast<char *>(objects_are_local ? remote : local)});
        }
    }
    // Registrations of one name may be several objects; their bytes are in the same one at the server.
    const auto keyOf = [](const Piece &piece) { return std::tie(piece.object->key, piece.offset); };
    const auto before = [&](const Piece &a, const Piece &b) {
        return a.object == b.object ? a.offset < b.offset : keyOf(a) < keyOf(b);
    };
    if (!std::is_sorted(pieces.begin(), pieces.end(), before)) std::sort(pieces.begin(), pieces.end(), before);
    for (const Piece &piece : pieces) {
        Stretch *const last = made->stretches_.empty() ? nullptr : &made->stretches_.back();
        const bool same =
            last && (last->first->object == piece.object || last->first->object->key == piece.object->key);
        const uint64_t end = same ? last->offset + last->length : 0;
        if (made->writes_) {
            if (Status status = checkWhole(piece, end); !status.ok()) return status;
            if (end + piece.length > kObjectBytesMax) {
                return {NIXL_ERR_INVALID_PARAM, "object " + piece.object->name() + " would have more than 5 TiB"};
            }
        }
        if (same && piece.offset == end) {
            last->length += piece.length;
        } else {
            if (!same) made->pins_.emplace_back();
            made->stretches_.push_back({&piece, piece.offset, piece.length, made->pins_.size() - 1});
        }
    }
    return made;
}

void
Transfer::restart() noexcept {
    stretch_ = 0;
    at_ = 0;
    place_ = {};
    for (std::string &pinned : pins_) pinned.clear();
    uploads_.clear();
}

bool
Transfer::next(Exchange &exchange) {
    if (!writes_) return nextRead(exchange);
    for (Upload &upload : uploads_) {
        if (!nextOfUpload(upload, exchange)) continue;
        exchange.index = static_cast<size_t>(&upload - uploads_.data());
        exchange.object = upload.stretch->first->object;
        exchange.upload = upload.id;
        return true;
    }
    if (stretch_ == stretches_.size()) return false;
    const Stretch &stretch = stretches_[stretch_++];
    const uint64_t part_bytes =
        std::max({part_bytes_, kUploadPartBytesMin, (stretch.length + kPartCountMax - 1) / kPartCountMax});
    exchange.object = stretch.first->object;
    exchange.length = stretch.length;
    exchange.place = {stretch.first, 0};
    if (stretch.length <= part_bytes) {
        exchange.verb = Verb::kPut;
        return true;
    }
    exchange.verb = Verb::kBegin;
    exchange.index = uploads_.size();
    Upload upload{.stretch = &stretch, .part_bytes = part_bytes};
    upload.parts.resize((stretch.length + part_bytes - 1) / part_bytes);
    upload.place = exchange.place;
    uploads_.push_back(std::move(upload));
    return true;
}

bool
Transfer::nextRead(Exchange &exchange) {
    if (stretch_ == stretches_.size()) return false;
    const Stretch &stretch = stretches_[stretch_];
    if (at_ == 0) place_ = {stretch.first, 0};
    exchange.verb = Verb::kGet;
    exchange.object = stretch.first->object;
    exchange.offset = stretch.offset + at_;
    exchange.length = std::min(part_bytes_, stretch.length - at_);
    exchange.place = place_;
    exchange.index = stretch.pin;
    exchange.etag = pins_[stretch.pin];
    for (uint64_t left = exchange.length; left > 0;) left -= place_.take(left).length;
    at_ += exchange.length;
    if (at_ == stretch.length) {
        ++stretch_;
        at_ = 0;
    }
    return true;
}

bool
Transfer::nextOfUpload(Upload &upload, Exchange &exchange) {
    using Stage = Upload::Stage;
    switch (upload.stage) {
    case Stage::kParts: {
        if (upload.begun == upload.parts.size()) return false;
        exchange.verb = Verb::kPutPart;
        exchange.offset = upload.begun * upload.part_bytes;
        exchange.length = std::min(upload.part_bytes, upload.stretch->length - exchange.offset);
        exchange.place = upload.place;
        exchange.part = static_cast<unsigned>(++upload.begun);
        for (uint64_t left = exchange.length; left > 0;) left -= upload.place.take(left).length;
        return true;
    }
    case Stage::kWhole:
        upload.stage = Stage::kCompleting;
        exchange.verb = Verb::kComplete;
        exchange.text = listOfParts(upload);
        return true;
    case Stage::kDoubt:
        upload.stage = Stage::kLooking;
        exchange.verb = Verb::kLook;
        return true;
    default: return false;
    }
}

std::string
Transfer::listOfParts(const Upload &upload) {
    std::string text = "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
    for (size_t i = 0; i < upload.parts.size(); ++i) {
        const Upload::Part &part = upload.parts[i];
        text +=
            "<Part><PartNumber>" + std::to_string(i + 1) + "</PartNumber><ETag>" + xmlEscaped(part.etag) + "</ETag>";
        if (!part.checksum.empty()) text += "<ChecksumCRC32C>" + part.checksum + "</ChecksumCRC32C>";
        text += "</Part>";
    }
    return text + "</CompleteMultipartUpload>";
}

void
Transfer::done(Exchange &exchange) {
    Upload *const upload =
        exchange.verb == Verb::kGet || exchange.verb == Verb::kPut ? nullptr : &uploads_[exchange.index];
    switch (exchange.verb) {
    case Verb::kGet: pin(exchange); break;
    case Verb::kPut: moved(exchange.length); break;
    case Verb::kBegin:
        upload->id = xmlText(exchange.answer.text, "UploadId");
        upload->stage = Upload::Stage::kParts;
        break;
    case Verb::kPutPart:
        upload->parts[exchange.part - 1] = {exchange.answer.etag, exchange.checksum};
        if (++upload->done == upload->parts.size()) upload->stage = Upload::Stage::kWhole;
        break;
    case Verb::kLook:
        if (exchange.answer.length != upload->stretch->length) {
            fail(NIXL_ERR_BACKEND,
                 "object " + exchange.object->name() +
                     ": the server lost its parts before they were put together; "
                     "write it again");
            break;
        }
        [[fallthrough]];
    case Verb::kComplete:
        upload->stage = Upload::Stage::kDone;
        moved(upload->stretch->length);
        break;
    default: break;
    }
}

/// All parts are of one state of the object.
void
Transfer::pin(Exchange &exchange) {
    std::string &pinned = pins_[exchange.index];
    const std::string &etag = exchange.answer.etag;
    if (pinned.empty()) pinned = etag;
    if (pinned == etag) {
        moved(exchange.length);
        return;
    }
    fail(NIXL_ERR_MISMATCH,
         "object " + exchange.object->name() + " was changed while it was read (ETag " + quoted(pinned) + ", then " +
             quoted(etag) + "); read it again");
}

bool
Transfer::accepts(Exchange &exchange) {
    const Answer &answer = exchange.answer;
    if (exchange.verb != Verb::kComplete || exchange.attempt == 0 || answer.http != 404 ||
        xmlText(answer.text, "Code") != "NoSuchUpload") {
        return false;
    }
    // An earlier try may have done it, its answer having been lost.
    uploads_[exchange.index].stage = Upload::Stage::kDoubt;
    return true;
}

bool
Transfer::undo(Exchange &exchange) {
    for (Upload &upload : uploads_) {
        if (upload.id.empty() || upload.stage == Upload::Stage::kDone) continue;
        exchange.object = upload.stretch->first->object;
        exchange.upload = std::move(upload.id);
        upload.id.clear();
        return true;
    }
    return false;
}

} // namespace nx::obj
