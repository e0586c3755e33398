// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a peer of SHM writes into its ring, through to the inbox. Steps of two bytes, what happens and an argument: a
// record of a kind with so many of the bytes that follow, or with a size in front of them, a look, a fetch, fields that
// change. No more arrives than was sent, and nothing once the peer has broken the rules.
#include "shm/inlet.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "fuzz/invariant.h"
#include "shm/outbox.h"
#include "wire/limits.h"

namespace {

using namespace nx::shm;

struct alignas(64) Memory {
    std::byte bytes[kRingBytes];
};

class Peer {
public:
    void
    put(uint8_t kind, std::string_view head, std::string_view body) {
        if (writer_.put(kind, head, body) <= RingWriter::Put::kDoneWake) sent_ += body.size();
    }

    /// Writes where the next message would be, or where it was.
    void
    spoil(uint8_t argument) {
        spoilt_ = true;
        const uint64_t at = fields_.position() + argument % 4;
        fields_.word(at) = at + 1;
        fields_.head(at) = uint32_t{argument} << (argument % 16 + 4) | argument % 8;
    }

    void
    look() {
        const Inlet::Taken taken = inlet_.take();
        NX_INVARIANT(!broken_ || (taken.broken && !taken.arrived && !taken.answer && !taken.answered));
        NX_INVARIANT(!(taken.broken && (taken.stalled || taken.more)));
        NX_INVARIANT(taken.broken || taken.stalled || taken.more || inlet_.empty());
        NX_INVARIANT(!taken.stalled || !inbox_.empty());
        broken_ = taken.broken;
        more_ = taken.more;
    }

    void
    fetch() {
        notif_list_t arrived;
        (void)inbox_.takeAll(arrived);
        for (const auto &[sender, message] : arrived) {
            NX_INVARIANT(sender == "peer");
            NX_INVARIANT(message.size() <= nx::wire::kNotificationBytesMax);
            received_ += message.size();
        }
        NX_INVARIANT(spoilt_ || received_ <= sent_);
    }

    void
    end() {
        do {
            look();
        } while (more_);
        fetch();
    }

private:
    const std::unique_ptr<Memory> memory_ = std::make_unique<Memory>(); // a sanitizer sees what lies beyond
    RingMemory fields_{memory_.get()};
    RingWriter writer_{memory_.get()};
    nx::kit::Inbox inbox_{"fuzz"};
    Inlet inlet_{memory_.get(), inbox_, "peer", 1};
    uint64_t sent_ = 0, received_ = 0;
    bool broken_ = false, more_ = false, spoilt_ = false;
};

} // namespace

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 1 << 16) return 0;
    Peer peer;
    for (size_t i = 0; i + 2 <= size;) {
        const uint8_t what = data[i], argument = data[i + 1];
        i += 2;
        const uint8_t kind = what / 8;
        switch (what % 8) {
        case 0:
        case 1:
        case 2: { // with a size in front that is right, or nearly so
            const size_t length = std::min<size_t>(argument, size - i);
            const uint64_t whole = length + kind / 8 + (what % 8 == 2 ? uint64_t{1} << kind % 64 : 0);
            const std::string_view head(reinterpret_cast<const char *>(&whole), what % 8 == 0 ? 0 : sizeof whole);
            peer.put(what % 8 == 0 ? kind % 10 : static_cast<uint8_t>(Record::kFirst), head,
                     nx::fuzz::text(data + i, length));
            i += length;
            break;
        }
        case 3: { // as long as the ring takes it
            const std::string body(std::min<size_t>(size_t{argument} * 57, RingWriter::kMessageBytesMax), 'b');
            peer.put(kind % 10, {}, body);
            break;
        }
        case 4:
        case 5: peer.look(); break;
        case 6: peer.fetch(); break;
        case 7: peer.spoil(argument); break;
        }
    }
    peer.end();
    return 0;
}
