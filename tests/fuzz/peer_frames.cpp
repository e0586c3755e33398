// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Frames of peers: a refusal is a MISMATCH with a sentence; what is accepted is written back as it came.
#include "kit/peer/frames.h"

#include "fuzz/invariant.h"

namespace {

using namespace nx::kit;

void
checkRefusal(const nx::Status &status) {
    NX_INVARIANT(status.code() == NIXL_ERR_MISMATCH);
    NX_INVARIANT(!status.message().empty() && status.message().size() < 1000);
}

/// Decodes, writes back and compares. Frames may be longer than what this version defines.
template<class Decode, class Encode>
void
roundTrip(std::string_view body, Decode decode, Encode encode) {
    const auto frame = decode(body);
    if (!frame.ok()) return checkRefusal(frame.status());
    std::string again;
    encode(again, *frame);
    NX_INVARIANT(body.starts_with(std::string_view(again).substr(kHeadBytes)));
}

void
checkRuns(std::string_view runs) {
    Layout layout;
    const nx::Status added = addRuns(runs, layout);
    if (!added.ok()) return checkRefusal(added);
    NX_INVARIANT(layout.blocks().size() == runs.size() / kRunBytes);
    uint64_t start = 0;
    for (const Blocks &blocks : layout.blocks()) {
        NX_INVARIANT(blocks.start == start && blocks.length > 0 && blocks.count > 0);
        start += blocks.length * blocks.count;
        // Whatever is allowed lies inside, however the sums wrap.
        const Window window{.key = blocks.window, .rights = kMayRead, .address = blocks.address, .length = 1 << 20};
        if (!checkAccess(window, blocks, kMayRead).ok()) continue;
        for (const uint64_t block : {uint64_t{0}, blocks.count / 2, blocks.count - 1}) {
            const uint64_t inside = blocks.address + block * blocks.stride - window.address;
            NX_INVARIANT(inside <= window.length && blocks.length <= window.length - inside);
        }
    }
    NX_INVARIANT(layout.totalBytes() == start);
    std::array<Piece, 8> pieces;
    if (start > 0) NX_INVARIANT(layout.pieces(start - 1, 1, pieces) == 1 && pieces[0].bytes == 1);
}

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view bytes = nx::fuzz::text(data, size);
    const auto head = decodeHead(bytes.substr(0, kHeadBytes));
    if (!head.ok()) {
        checkRefusal(head.status());
        return 0;
    }
    const std::string_view body = bytes.substr(kHeadBytes);
    switch (head->type) {
    case FrameType::kHello:
        if (const auto hello = decodeHello(body); hello.ok() && hello->major != kProtocolMajor) break;
        roundTrip(body, decodeHello, encodeHello);
        break;
    case FrameType::kWindow: roundTrip(body, decodeWindow, encodeWindow); break;
    case FrameType::kRevoke:
    case FrameType::kRevoked:
        roundTrip(body, decodeKey, [&](std::string &out, WindowKey key) { encodeKey(out, head->type, key); });
        break;
    case FrameType::kRequest:
        if (const auto request = decodeRequest(body); request.ok()) {
            checkRuns(request->runs);
        } else {
            checkRefusal(request.status());
        }
        break;
    case FrameType::kRuns:
        if (const auto runs = decodeRuns(body); runs.ok()) {
            checkRuns(runs->runs);
        } else {
            checkRefusal(runs.status());
        }
        break;
    case FrameType::kNote: roundTrip(body, decodeNote, encodeNote); break;
    case FrameType::kCancel: roundTrip(body, decodeCancel, encodeCancel); break;
    case FrameType::kDone:
    case FrameType::kGoodbye:
        roundTrip(body, decodeDone,
                  [&](std::string &out, const DoneFrame &done) { encodeDone(out, head->type, done); });
        break;
    case FrameType::kWriteData:
    case FrameType::kReadData:
        if (bytes.size() < kDataHeadBytes) break;
        if (const auto data_head = decodeDataHead(bytes.substr(0, kDataHeadBytes)); data_head.ok()) {
            const auto again = encodeDataHead(*data_head);
            NX_INVARIANT(bytes.starts_with(std::string_view(again.data(), again.size())));
        }
        break;
    case FrameType::kAsk:
    case FrameType::kAnswer:
    case FrameType::kPing: break;
    }
    return 0;
}
