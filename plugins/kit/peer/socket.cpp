// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/peer/socket.h"

#include <cerrno>
#include <cstring>
#include <sys/socket.h>
#include <sys/uio.h>

namespace nx::kit {

namespace {

constexpr size_t kPiecesMax = 128; ///< in one call of the system

/// Pieces in the form that the system takes.
struct Vector {
    std::array<Piece, kPiecesMax> pieces;
    std::array<iovec, kPiecesMax> vector;

    msghdr
    message(size_t count) {
        for (size_t i = 0; i < count; ++i) vector[i] = {pieces[i].address, pieces[i].bytes};
        msghdr message{};
        message.msg_iov = vector.data();
        message.msg_iovlen = count;
        return message;
    }
};

bool
receive(Session &session, size_t stream, int socket, size_t limit) {
    Vector to;
    for (size_t moved = 0; moved < limit;) {
        const size_t count = session.input(stream, to.pieces);
        if (count == 0) return false;
        msghdr message = to.message(count);
        const ssize_t bytes = ::recvmsg(socket, &message, 0);
        const int error = errno;
        session.received(stream, bytes > 0 ? static_cast<size_t>(bytes) : 0);
        if (bytes > 0) {
            moved += static_cast<size_t>(bytes);
        } else if (bytes == 0) {
            session.linkLost("its side of the connection is closed");
        } else if (error == EAGAIN) {
            return false;
        } else if (error != EINTR) {
            session.linkLost(withErrno("receiving", error));
        }
    }
    return true;
}

bool
send(Session &session, size_t stream, int socket, size_t limit) {
    Vector from;
    for (size_t moved = 0; moved < limit;) {
        const size_t count = session.output(stream, from.pieces);
        if (count == 0) return false;
        const msghdr message = from.message(count);
        const ssize_t bytes = ::sendmsg(socket, &message, MSG_NOSIGNAL);
        const int error = errno;
        session.sent(stream, bytes > 0 ? static_cast<size_t>(bytes) : 0);
        if (bytes > 0) {
            moved += static_cast<size_t>(bytes);
        } else if (error == EPIPE || error == ECONNRESET || error == EAGAIN) {
            return false; // the other side is gone when all is taken that it has sent: receive() notices
        } else if (error != EINTR) {
            session.linkLost(withErrno("sending", error));
        }
    }
    return true;
}

} // namespace

bool
pump(Session &session, size_t stream, int socket, size_t limit) {
    const bool more = receive(session, stream, socket, limit);
    return send(session, stream, socket, limit) || more;
}

} // namespace nx::kit
