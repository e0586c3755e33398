// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/talk.h"

#include <cerrno>
#include <cstring>
#include <poll.h>

#include "wire/limits.h"
#include "wire/reader.h"
#include "wire/writer.h"

namespace nx::shm {

namespace {

constexpr uint32_t kVersion = 1;
constexpr size_t kTextBytesMax = 1024;
constexpr size_t kMessageBytesMax = 32 + 256 + wire::kNameBytesMax;
constexpr size_t kDescriptorsMax = 2;

void
writeText(wire::Writer &out, std::string_view text) {
    out.rawInteger(static_cast<uint32_t>(text.size()));
    out.raw(text);
}

std::string
readText(wire::Reader &in, size_t bytes_max) {
    const auto size = in.takeRawInteger<uint32_t>("a text's length");
    if (size > bytes_max) in.fail("a text of " + std::to_string(size) + " bytes");
    return std::string(in.takeRaw("a text", in.ok() ? size : 0));
}

bool
isKnown(uint8_t type) {
    return std::strchr("HRBWMN", type) && type != 0;
}

} // namespace

std::string
encode(const Message &message) {
    std::string bytes;
    wire::Writer out(bytes);
    out.rawInteger(static_cast<uint8_t>(message.type));
    switch (message.type) {
    case Message::Type::kHello:
        out.rawInteger(kVersion);
        writeText(out, message.listener);
        writeText(out, message.agent);
        break;
    case Message::Type::kRefused: writeText(out, std::string_view(message.text).substr(0, kTextBytesMax)); break;
    case Message::Type::kBell: break;
    case Message::Type::kBlock: out.rawInteger(message.bytes); [[fallthrough]];
    case Message::Type::kWantBlock:
    case Message::Type::kNoBlock: out.rawInteger(message.number); break;
    }
    return bytes;
}

Result<Message>
decode(std::string_view bytes) {
    wire::Reader in(bytes);
    Message message;
    const auto type = in.takeRawInteger<uint8_t>("the type");
    if (in.ok() && !isKnown(type)) in.fail("no message of this backend");
    message.type = static_cast<Message::Type>(type);
    if (in.ok()) {
        switch (message.type) {
        case Message::Type::kHello:
            if (in.takeRawInteger<uint32_t>("the version") != kVersion) in.fail("another version of this backend");
            message.listener = readText(in, kTextBytesMax);
            message.agent = readText(in, wire::kNameBytesMax);
            if (Status name = kit::checkLocalName(kSockets, message.listener); !name.ok()) in.fail(name.message());
            break;
        case Message::Type::kRefused: message.text = readText(in, kTextBytesMax); break;
        case Message::Type::kBell: break;
        case Message::Type::kBlock: message.bytes = in.takeRawInteger<uint64_t>("the size"); [[fallthrough]];
        case Message::Type::kWantBlock:
        case Message::Type::kNoBlock: message.number = in.takeRawInteger<uint64_t>("the number"); break;
        }
    }
    if (in.ok() && in.remaining() > 0) in.fail("bytes behind the message");
    if (!in.ok()) return std::move(in).status();
    return message;
}

size_t
descriptorCount(Message::Type type) noexcept {
    return type == Message::Type::kHello ? 2 : type == Message::Type::kBlock ? 1 : 0;
}

bool
send(const Fd &socket, const Message &message) noexcept {
    try {
        std::string bytes = encode(message);
        iovec piece{bytes.data(), bytes.size()};
        alignas(cmsghdr) char room[CMSG_SPACE(kDescriptorsMax * sizeof(int))] = {};
        int descriptors[kDescriptorsMax];
        size_t count = 0;
        for (const Fd &fd : message.descriptors) {
            if (fd) descriptors[count++] = fd.get();
        }
        msghdr header{};
        header.msg_iov = &piece;
        header.msg_iovlen = 1;
        if (count > 0) {
            header.msg_control = room;
            header.msg_controllen = CMSG_SPACE(count * sizeof(int));
            cmsghdr *const control = CMSG_FIRSTHDR(&header);
            control->cmsg_level = SOL_SOCKET;
            control->cmsg_type = SCM_RIGHTS;
            control->cmsg_len = CMSG_LEN(count * sizeof(int));
            std::memcpy(CMSG_DATA(control), descriptors, count * sizeof(int));
        }
        return ::sendmsg(socket.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
    }
    catch (const std::bad_alloc &) {
        return false;
    }
}

bool
ringBell(const Fd &socket) noexcept {
    const char bell = static_cast<char>(Message::Type::kBell);
    return ::send(socket.get(), &bell, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
}

Result<std::optional<Message>>
receive(const Fd &socket) {
    char bytes[kMessageBytesMax];
    iovec piece{bytes, sizeof bytes};
    alignas(cmsghdr) char room[CMSG_SPACE(kDescriptorsMax * sizeof(int))];
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = room;
    header.msg_controllen = sizeof room;
    const ssize_t size = ::recvmsg(socket.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return std::optional<Message>();
    if (size <= 0) return {NIXL_ERR_REMOTE_DISCONNECT, "the other side has closed the connection"};
    std::array<Fd, kDescriptorsMax> descriptors;
    size_t count = 0;
    for (cmsghdr *control = CMSG_FIRSTHDR(&header); control; control = CMSG_NXTHDR(&header, control)) {
        if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
        const size_t given = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < given; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(control) + i * sizeof fd, sizeof fd);
            Fd owned(fd);
            if (count < descriptors.size()) descriptors[count++] = std::move(owned);
        }
    }
    if (header.msg_flags & MSG_CTRUNC) {
        return {NIXL_ERR_BACKEND, "a descriptor from the other side was refused; too many are open (ulimit -n)"};
    }
    if (header.msg_flags & MSG_TRUNC) return {NIXL_ERR_MISMATCH, "a message that is too long"};
    auto message = decode({bytes, static_cast<size_t>(size)});
    if (!message.ok()) return std::move(message).status();
    if (count > descriptorCount(message->type)) return {NIXL_ERR_MISMATCH, "descriptors that nobody asked for"};
    message->descriptors = std::move(descriptors);
    return std::optional<Message>(*std::move(message));
}

Result<Message>
await(const Fd &socket, std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    for (;;) {
        auto message = receive(socket);
        if (!message.ok()) return std::move(message).status();
        if (*message) return **std::move(message);
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        if (left.count() <= 0) return {NIXL_ERR_NOT_FOUND, "it does not answer; it may stand still"};
        pollfd fd{socket.get(), POLLIN, 0};
        ::poll(&fd, 1, static_cast<int>(left.count()));
    }
}

} // namespace nx::shm
