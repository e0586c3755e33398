// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/peer/frames.h"

#include <algorithm>
#include <cstring>

#include "wire/limits.h"
#include "wire/reader.h"
#include "wire/writer.h"

namespace nx::kit {

namespace {

constexpr std::string_view kMagic = "nxpeer\r\n";

/// Head, body, and the length once it is known.
class FrameWriter : public wire::Writer {
public:
    FrameWriter(std::string &out, FrameType type) : Writer(out), out_(out), start_(out.size()) {
        rawInteger(uint32_t{0});
        rawInteger(static_cast<uint32_t>(type));
    }

    ~FrameWriter() {
        const auto body_bytes = static_cast<uint32_t>(out_.size() - start_ - kHeadBytes);
        std::memcpy(out_.data() + start_, &body_bytes, sizeof body_bytes);
    }

    FrameWriter(const FrameWriter &) = delete;
    FrameWriter &
    operator=(const FrameWriter &) = delete;

private:
    std::string &out_;
    const size_t start_;
};

void
writeKey(FrameWriter &writer, WindowKey key) {
    writer.rawInteger(key.id);
    writer.rawInteger(key.generation);
}

WindowKey
readKey(wire::Reader &reader) {
    WindowKey key;
    key.id = reader.takeRawInteger<uint32_t>("window");
    key.generation = reader.takeRawInteger<uint32_t>("generation");
    return key;
}

size_t
writeRuns(FrameWriter &writer, const Layout &remote, size_t first) {
    const auto runs = remote.blocks().subspan(first, std::min(remote.blocks().size() - first, kRunsPerFrameMax));
    writer.rawInteger(static_cast<uint32_t>(runs.size() * kRunBytes));
    for (const Blocks &run : runs) {
        writer.rawInteger(run.address);
        writer.rawInteger(run.length);
        writer.rawInteger(run.stride);
        writer.rawInteger(run.count);
        writeKey(writer, run.window);
    }
    return runs.size();
}

std::string_view
readRuns(wire::Reader &reader) {
    const auto bytes = reader.takeRawInteger<uint32_t>("bytes of runs");
    if (bytes == 0 || bytes % kRunBytes != 0) reader.fail(std::to_string(bytes) + " bytes are no list of runs");
    return reader.takeRaw("runs", bytes);
}

template<class T>
Result<T>
finished(wire::Reader &reader, T value, const char *frame) {
    if (!reader.ok()) return std::move(reader).status().withContext(frame);
    return value;
}

} // namespace

Result<FrameHead>
decodeHead(std::string_view bytes) {
    wire::Reader reader(bytes);
    const auto body_bytes = reader.takeRawInteger<uint32_t>("length");
    const auto type = reader.takeRawInteger<uint32_t>("type");
    const FrameHead head{static_cast<FrameType>(type), body_bytes};
    if (type == 0 || type > static_cast<uint32_t>(FrameType::kReadData)) {
        reader.fail("there is no frame of type " + std::to_string(type));
    }
    const size_t bytes_min = isData(head.type) ? kDataHeadBytes - kHeadBytes + 1 : 0;
    const size_t bytes_max =
        isData(head.type) ? kDataHeadBytes - kHeadBytes + kPayloadBytesMax : kFrameBytesMax - kHeadBytes;
    if (body_bytes < bytes_min || body_bytes > bytes_max) {
        reader.fail("it declares " + std::to_string(body_bytes) + " bytes; " + std::to_string(bytes_min) + " to " +
                    std::to_string(bytes_max) + " are accepted");
    }
    return finished(reader, head, "not a frame of a peer");
}

void
encodeHello(std::string &out, const Hello &hello) {
    FrameWriter writer(out, FrameType::kHello);
    writer.raw(kMagic);
    writer.rawInteger(hello.major);
    writer.rawInteger(hello.minor);
    writer.rawInteger(hello.features);
    writer.raw({reinterpret_cast<const char *>(hello.incarnation.data()), hello.incarnation.size()});
    writer.rawInteger(static_cast<uint32_t>(hello.name.size()));
    writer.raw(hello.name);
}

Result<Hello>
decodeHello(std::string_view body) {
    wire::Reader reader(body);
    Hello hello;
    if (reader.takeRaw("mark", kMagic.size()) != kMagic) reader.fail("it does not begin with the mark of a peer");
    hello.major = reader.takeRawInteger<uint16_t>("version");
    hello.minor = reader.takeRawInteger<uint16_t>("minor version");
    // What follows is defined by the version.
    if (reader.ok() && hello.major != kProtocolMajor) return hello;
    hello.features = reader.takeRawInteger<uint64_t>("features");
    const std::string_view incarnation = reader.takeRaw("incarnation", hello.incarnation.size());
    if (reader.ok()) std::memcpy(hello.incarnation.data(), incarnation.data(), incarnation.size());
    const auto name_bytes = reader.takeRawInteger<uint32_t>("length of the name");
    if (name_bytes == 0 || name_bytes > wire::kNameBytesMax) {
        reader.fail("a name of " + std::to_string(name_bytes) + " bytes; a name has 1 to " +
                    std::to_string(wire::kNameBytesMax));
    }
    hello.name = reader.takeRaw("name", name_bytes);
    return finished(reader, std::move(hello), "greeting");
}

void
encodeWindow(std::string &out, const Window &window) {
    FrameWriter writer(out, FrameType::kWindow);
    writeKey(writer, window.key);
    writer.rawInteger(window.rights);
    writer.rawInteger(static_cast<uint32_t>(window.memory));
    writer.rawInteger(window.device);
    writer.rawInteger(window.address);
    writer.rawInteger(window.length);
}

Result<Window>
decodeWindow(std::string_view body) {
    wire::Reader reader(body);
    Window window;
    window.key = readKey(reader);
    window.rights = reader.takeRawInteger<uint32_t>("rights");
    const auto memory = reader.takeRawInteger<uint32_t>("memory type");
    if (memory > FILE_SEG) reader.fail("there is no memory type " + std::to_string(memory));
    window.memory = static_cast<nixl_mem_t>(memory);
    window.device = reader.takeRawInteger<uint64_t>("device");
    window.address = reader.takeRawInteger<uint64_t>("address");
    window.length = reader.takeRawInteger<uint64_t>("length");
    if (window.length > ~window.address) reader.fail("it ends behind the end of memory");
    return finished(reader, window, "window");
}

void
encodeKey(std::string &out, FrameType type, WindowKey key) {
    FrameWriter writer(out, type);
    writeKey(writer, key);
}

Result<WindowKey>
decodeKey(std::string_view body) {
    wire::Reader reader(body);
    const WindowKey key = readKey(reader);
    return finished(reader, key, "revocation");
}

size_t
encodeRequest(std::string &out, uint64_t id, nixl_xfer_op_t operation, bool has_note, const Layout &remote) {
    FrameWriter writer(out, FrameType::kRequest);
    writer.rawInteger(id);
    writer.rawInteger(static_cast<uint16_t>(operation));
    writer.rawInteger(static_cast<uint16_t>(has_note));
    writer.rawInteger(remote.totalBytes());
    writer.rawInteger(uint64_t{remote.blocks().size()});
    return writeRuns(writer, remote, 0);
}

Result<RequestFrame>
decodeRequest(std::string_view body) {
    wire::Reader reader(body);
    RequestFrame frame{};
    frame.id = reader.takeRawInteger<uint64_t>("id");
    const auto operation = reader.takeRawInteger<uint16_t>("operation");
    const auto has_note = reader.takeRawInteger<uint16_t>("note");
    if (operation > NIXL_WRITE) reader.fail("there is no operation " + std::to_string(operation));
    if (has_note > (operation == NIXL_WRITE)) reader.fail("it has no notification of the kind it says");
    frame.operation = static_cast<nixl_xfer_op_t>(operation);
    frame.has_note = has_note != 0;
    frame.total_bytes = reader.takeRawInteger<uint64_t>("bytes");
    frame.run_count = reader.takeRawInteger<uint64_t>("number of runs");
    frame.runs = readRuns(reader);
    return finished(reader, frame, "request");
}

size_t
encodeRuns(std::string &out, uint64_t id, const Layout &remote, size_t first) {
    FrameWriter writer(out, FrameType::kRuns);
    writer.rawInteger(id);
    return writeRuns(writer, remote, first);
}

Result<RunsFrame>
decodeRuns(std::string_view body) {
    wire::Reader reader(body);
    RunsFrame frame{};
    frame.id = reader.takeRawInteger<uint64_t>("id");
    frame.runs = readRuns(reader);
    return finished(reader, frame, "runs");
}

Status
addRuns(std::string_view runs, Layout &layout) {
    wire::Reader reader(runs);
    while (reader.ok() && reader.remaining() > 0) {
        Blocks blocks;
        blocks.address = reader.takeRawInteger<uint64_t>("address");
        blocks.length = reader.takeRawInteger<uint64_t>("length");
        blocks.stride = reader.takeRawInteger<uint64_t>("stride");
        blocks.count = reader.takeRawInteger<uint64_t>("count");
        blocks.window = readKey(reader);
        if (reader.ok() && !layout.add(blocks)) reader.fail("a run is empty, or there are too many bytes");
    }
    return std::move(reader).status();
}

void
encodeNote(std::string &out, const NoteFrame &note) {
    FrameWriter writer(out, FrameType::kNote);
    writer.rawInteger(note.id);
    writer.rawInteger(note.total_bytes);
    writer.rawInteger(static_cast<uint32_t>(note.part.size()));
    writer.raw(note.part);
}

Result<NoteFrame>
decodeNote(std::string_view body) {
    wire::Reader reader(body);
    NoteFrame note{};
    note.id = reader.takeRawInteger<uint64_t>("id");
    note.total_bytes = reader.takeRawInteger<uint64_t>("bytes");
    if (note.total_bytes > wire::kNotificationBytesMax) {
        reader.fail("it declares " + std::to_string(note.total_bytes) + " bytes; the limit is " +
                    std::to_string(wire::kNotificationBytesMax));
    }
    const auto part_bytes = reader.takeRawInteger<uint32_t>("bytes of this part");
    note.part = reader.takeRaw("part", part_bytes);
    if (note.part.empty() && note.total_bytes > 0) reader.fail("a part of it is empty");
    return finished(reader, note, "notification");
}

void
encodeCancel(std::string &out, uint64_t id) {
    FrameWriter(out, FrameType::kCancel).rawInteger(id);
}

Result<uint64_t>
decodeCancel(std::string_view body) {
    wire::Reader reader(body);
    const auto id = reader.takeRawInteger<uint64_t>("id");
    return finished(reader, id, "cancellation");
}

void
encodeDone(std::string &out, FrameType type, const DoneFrame &done) {
    FrameWriter writer(out, type);
    const std::string_view sentence = done.sentence.substr(0, kSentenceBytesMax);
    writer.rawInteger(done.id);
    writer.rawInteger(static_cast<int32_t>(done.status));
    writer.rawInteger(static_cast<uint32_t>(sentence.size()));
    writer.raw(sentence);
}

Result<DoneFrame>
decodeDone(std::string_view body) {
    wire::Reader reader(body);
    DoneFrame done{};
    done.id = reader.takeRawInteger<uint64_t>("id");
    const auto status = reader.takeRawInteger<int32_t>("status");
    if (status > NIXL_SUCCESS || status < NIXL_ERR_FORKED) {
        reader.fail("there is no final status " + std::to_string(status));
    }
    done.status = static_cast<nixl_status_t>(status);
    const auto sentence_bytes = reader.takeRawInteger<uint32_t>("length of the sentence");
    if (sentence_bytes > kSentenceBytesMax) {
        reader.fail("a sentence of " + std::to_string(sentence_bytes) + " bytes; the limit is " +
                    std::to_string(kSentenceBytesMax));
    }
    done.sentence = reader.takeRaw("sentence", sentence_bytes);
    return finished(reader, done, "end");
}

void
encodeEmpty(std::string &out, FrameType type) {
    const FrameWriter writer(out, type);
}

std::array<char, kDataHeadBytes>
encodeDataHead(const DataHead &head) {
    std::array<char, kDataHeadBytes> bytes;
    const uint32_t body_bytes = kDataHeadBytes - kHeadBytes + head.bytes;
    std::memcpy(bytes.data(), &body_bytes, sizeof body_bytes);
    std::memcpy(bytes.data() + 4, &head.type, sizeof head.type);
    std::memcpy(bytes.data() + 8, &head.id, sizeof head.id);
    std::memcpy(bytes.data() + 16, &head.offset, sizeof head.offset);
    return bytes;
}

Result<DataHead>
decodeDataHead(std::string_view bytes) {
    wire::Reader reader(bytes);
    DataHead head{};
    const auto body_bytes = reader.takeRawInteger<uint32_t>("length");
    head.type = static_cast<FrameType>(reader.takeRawInteger<uint32_t>("type"));
    head.id = reader.takeRawInteger<uint64_t>("id");
    head.offset = reader.takeRawInteger<uint64_t>("offset");
    head.bytes = body_bytes - (kDataHeadBytes - kHeadBytes);
    return finished(reader, head, "data");
}

} // namespace nx::kit
