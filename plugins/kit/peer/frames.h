// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What sessions say to each other (docs/wire.md, "Peers"): frames with 8 bytes of head, read by the one reader. Every
// decoder answers MISMATCH with a sentence to what is no such frame. Pure functions; views point into the bytes given.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "kit/peer/layout.h"
#include "wire/metadata.h"

namespace nx::kit {

enum class FrameType : uint32_t {
    kHello = 1, ///< the first one in each direction
    kWindow,    ///< you may reach this memory
    kRevoke,    ///< not any more
    kRevoked,   ///< I copy nothing there any more
    kRequest,   ///< move these bytes
    kRuns,      ///< more of where they lie on your side
    kNote,      ///< a part of a notification
    kAsk,       ///< are my notifications so far fetched?
    kAnswer,    ///< they are
    kCancel,    ///< end this request early
    kDone,      ///< a request of yours has ended here
    kPing,      ///< I am alive
    kGoodbye,   ///< the last one
    kWriteData, ///< bytes of a request of mine
    kReadData,  ///< bytes of a request of yours
};

inline constexpr uint16_t kProtocolMajor = 1;
inline constexpr uint16_t kProtocolMinor = 0;
inline constexpr size_t kHeadBytes = 8;
inline constexpr size_t kDataHeadBytes = 24;                  ///< with the frame's head
inline constexpr size_t kFrameBytesMax = size_t{64} << 10;    ///< without payload of requests
inline constexpr size_t kPayloadBytesMax = size_t{256} << 10; ///< of requests, in one frame
inline constexpr size_t kRunBytes = 40;
inline constexpr size_t kRunsPerFrameMax = (kFrameBytesMax - 64) / kRunBytes;
inline constexpr size_t kNotePartBytesMax = kFrameBytesMax - 64;
inline constexpr size_t kSentenceBytesMax = 512; ///< longer ones are cut

inline bool
isData(FrameType type) {
    return type == FrameType::kWriteData || type == FrameType::kReadData;
}

struct FrameHead {
    FrameType type;
    uint32_t body_bytes;
};

struct Hello {
    uint16_t major = kProtocolMajor;
    uint16_t minor = kProtocolMinor;
    uint64_t features = 0; ///< unknown bits are ignored
    wire::Incarnation incarnation{};
    std::string name{};
};

/// The first frame of a request; `runs` are raw, the first of `run_count`, see Runs.
struct RequestFrame {
    uint64_t id;
    nixl_xfer_op_t operation;
    bool has_note;
    uint64_t total_bytes;
    uint64_t run_count;
    std::string_view runs;
};

struct RunsFrame {
    uint64_t id;
    std::string_view runs;
};

struct NoteFrame {
    uint64_t id; ///< of the request that it belongs to; 0: none
    uint64_t total_bytes;
    std::string_view part;
};

struct DoneFrame {
    uint64_t id; ///< of a request; 0 in a goodbye
    nixl_status_t status;
    std::string_view sentence;
};

struct DataHead {
    FrameType type;
    uint64_t id;
    uint64_t offset; ///< of the payload among the request's bytes
    uint32_t bytes;  ///< of payload, which follows
};

Result<FrameHead>
decodeHead(std::string_view bytes);

/// Writes one frame to the end of `out`.
void
encodeHello(std::string &out, const Hello &hello);
void
encodeWindow(std::string &out, const Window &window);
/// kRevoke and kRevoked.
void
encodeKey(std::string &out, FrameType type, WindowKey key);
/// With the first blocks of `remote`. How many that were.
size_t
encodeRequest(std::string &out, uint64_t id, nixl_xfer_op_t operation, bool has_note, const Layout &remote);
/// With the blocks of `remote` from `first` on. How many that were.
size_t
encodeRuns(std::string &out, uint64_t id, const Layout &remote, size_t first);
void
encodeNote(std::string &out, const NoteFrame &note);
void
encodeCancel(std::string &out, uint64_t id);
/// kDone and kGoodbye.
void
encodeDone(std::string &out, FrameType type, const DoneFrame &done);
/// kAsk, kAnswer and kPing.
void
encodeEmpty(std::string &out, FrameType type);
std::array<char, kDataHeadBytes>
encodeDataHead(const DataHead &head);

Result<Hello>
decodeHello(std::string_view body);
Result<Window>
decodeWindow(std::string_view body);
Result<WindowKey>
decodeKey(std::string_view body);
Result<RequestFrame>
decodeRequest(std::string_view body);
Result<RunsFrame>
decodeRuns(std::string_view body);
/// Adds raw runs of a frame to a layout. MISMATCH: a run is empty, or too many bytes.
Status
addRuns(std::string_view runs, Layout &layout);
Result<NoteFrame>
decodeNote(std::string_view body);
Result<uint64_t>
decodeCancel(std::string_view body);
Result<DoneFrame>
decodeDone(std::string_view body);
/// `bytes` are kDataHeadBytes.
Result<DataHead>
decodeDataHead(std::string_view bytes);

} // namespace nx::kit
