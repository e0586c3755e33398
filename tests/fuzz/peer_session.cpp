// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A session whose peer says anything, while requests of its own run and windows come and go. Memory changes only where
// a window or a read allows it; every request ends once; a session that ends has a sentence. The first byte: how many
// streams. Then turns: a byte for what happens, and for bytes of the peer one for how many follow.
#include "fuzz/invariant.h"
#include "kit/peer/session.h"

namespace {

using namespace nx::kit;

constexpr size_t kPartBytes = 256;

/// What lies where: guards between what may change.
struct Memory {
    std::string bytes = std::string(9 * kPartBytes, '.');

    std::string_view
    part(size_t index) const {
        return std::string_view(bytes).substr(index * kPartBytes, kPartBytes);
    }

    uint64_t
    address(size_t index) const {
        return reinterpret_cast<uint64_t>(part(index).data());
    }
};

enum Part { kWritable = 1, kReadable = 3, kSource = 5, kTarget = 7 };

class Victim {
public:
    explicit Victim(size_t stream_count) : session_(options(stream_count), inbox_, 0) {
        announce();
        for (size_t i = 0; i < requests_.size(); ++i) {
            requests_[i].operation = i % 2 ? NIXL_READ : NIXL_WRITE;
            const size_t part = i % 2 ? kTarget : kSource;
            requests_[i].local.add({.address = memory_.address(part), .length = 16, .stride = 64, .count = 4});
            requests_[i].remote.add({.address = 1000, .length = 64, .window = {1, 1}});
        }
    }

    ~Victim() {
        session_.linkLost("the end of the input");
        for (Request &request : requests_) {
            if (request.phase == Request::Phase::kCopying) session_.copied(request, nx::Status());
        }
        takeEnded();
        NX_INVARIANT(running_ == 0);
        NX_INVARIANT(session_.state() == Session::State::kEnded);
        checkMemory();
    }

    void
    turn(uint8_t what, std::string_view &bytes) {
        if (what < 128) {
            const size_t count = bytes.empty() ? 0 : std::min<size_t>(static_cast<uint8_t>(bytes[0]), bytes.size() - 1);
            const std::string_view said = bytes.empty() ? bytes : bytes.substr(1, count);
            bytes.remove_prefix(std::min(bytes.size(), count + 1));
            hear(what % stream_count_, said);
        } else {
            act(what);
        }
        takeEnded();
        checkMemory();
        if (session_.state() >= Session::State::kClosing) {
            NX_INVARIANT(!session_.reason().ok() && session_.reason().message().size() < 4000);
        }
    }

private:
    SessionOptions
    options(size_t stream_count) {
        stream_count_ = stream_count;
        SessionOptions made;
        made.hello.name = "victim";
        made.stream_count = stream_count;
        return made;
    }

    void
    announce() {
        ++generation_;
        static_cast<void>(session_.announce({.key = {1, generation_},
                                             .rights = kMayWrite | kMayCopy,
                                             .address = memory_.address(kWritable),
                                             .length = kPartBytes}));
        static_cast<void>(session_.announce(
            {.key = {2, 1}, .rights = kMayRead, .address = memory_.address(kReadable), .length = kPartBytes}));
    }

    void
    hear(size_t stream, std::string_view said) {
        while (!said.empty()) {
            std::array<Piece, 2> pieces;
            const size_t count = session_.input(stream, pieces);
            if (count == 0) return;
            size_t got = 0;
            for (size_t i = 0; i < count && !said.empty(); ++i) {
                const size_t bytes = std::min(said.size(), pieces[i].bytes);
                said.copy(pieces[i].address, bytes);
                said.remove_prefix(bytes);
                got += bytes;
            }
            session_.received(stream, got);
        }
    }

    void
    say() {
        for (size_t stream = 0; stream < stream_count_; ++stream) {
            std::array<Piece, 3> pieces;
            while (const size_t count = session_.output(stream, pieces)) {
                size_t bytes = 0;
                for (size_t i = 0; i < count; ++i) bytes += pieces[i].bytes;
                session_.sent(stream, bytes);
            }
        }
    }

    void
    act(uint8_t what) {
        Request &request = requests_[what % requests_.size()];
        switch ((what >> 3) % 9) {
        case 0:
            if (session_.post(request, "note").ok()) ++running_;
            return;
        case 1:
            if (session_.postCopy(request).ok()) ++running_;
            return;
        case 2:
            if (request.phase == Request::Phase::kCopying) session_.copied(request, nx::Status());
            return;
        case 3: return session_.cancel(request);
        case 4: static_cast<void>(session_.revoke({1, generation_})); return;
        case 5:
            while (session_.nextQuiet()) announce();
            return;
        case 6: {
            static_cast<void>(session_.sendNote("plain"));
            notif_list_t list;
            for (const auto question : inbox_.takeAll(list)) {
                static_cast<void>(question);
                session_.notesFetched();
            }
            return;
        }
        case 7: return session_.tick(now_ += 100);
        default: return say();
        }
    }

    void
    takeEnded() {
        while (session_.nextEnded()) --running_;
        NX_INVARIANT(running_ <= requests_.size());
    }

    void
    checkMemory() const {
        for (const size_t index : {0, 2, 3, 4, 5, 6, 8}) {
            NX_INVARIANT(memory_.part(index).find_first_not_of('.') == std::string_view::npos);
        }
        for (size_t i = 0; i < kPartBytes; ++i) NX_INVARIANT(i % 64 < 16 || memory_.part(kTarget)[i] == '.');
    }

    size_t stream_count_ = 1;
    Memory memory_;
    Inbox inbox_{"fuzz"};
    Session session_;
    std::array<Request, 4> requests_;
    size_t running_ = 0;
    uint32_t generation_ = 0;
    uint64_t now_ = 0;
};

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    std::string_view bytes = nx::fuzz::text(data + 1, size - 1);
    Victim victim(1 + data[0] % 3);
    while (!bytes.empty()) {
        const auto what = static_cast<uint8_t>(bytes[0]);
        bytes.remove_prefix(1);
        victim.turn(what, bytes);
    }
    return 0;
}
