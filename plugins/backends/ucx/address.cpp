// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/address.h"

#include <algorithm>
#include <arpa/inet.h>
#include <bit>
#include <cstdint>
#include <cstring>
#include <netinet/in.h>

namespace nx::ucx {

namespace {

/// Steps through the bytes; knows how many remain, so it cannot read past their end. The first failure stays and
/// everything after it is zero or empty.
class Cursor {
public:
    Cursor(std::string_view object, std::string_view bytes) : object_(object), bytes_(bytes) {}

    bool
    ok() const noexcept {
        return status_.ok();
    }

    size_t
    remaining() const noexcept {
        return bytes_.size() - position_;
    }

    std::string_view
    take(std::string_view field, size_t count) {
        if (ok() && count > remaining()) {
            fail(std::string(field) + " has " + std::to_string(count) + " bytes, " + std::to_string(remaining()) +
                 " remain");
        }
        if (!ok()) return {};
        position_ += count;
        return bytes_.substr(position_ - count, count);
    }

    size_t
    position() const noexcept {
        return position_;
    }

    template<class Value>
    Value
    value(std::string_view field) {
        Value read{};
        if (const auto bytes = take(field, sizeof read); ok()) std::memcpy(&read, bytes.data(), sizeof read);
        return read;
    }

    /// Requires remaining() > 0.
    uint8_t
    peek() const {
        return static_cast<uint8_t>(bytes_[position_]);
    }

    uint8_t
    byte(std::string_view field) {
        return value<uint8_t>(field);
    }

    void
    fail(const std::string &reason) {
        if (!ok()) return;
        status_ = {NIXL_ERR_INVALID_PARAM,
                   "this is no " + std::string(object_) + " of UCX: at byte " + std::to_string(position_) + " of " +
                       std::to_string(bytes_.size()) + " " + reason};
    }

    Status
    status() && {
        return std::move(status_);
    }

private:
    const std::string_view object_;
    const std::string_view bytes_;
    size_t position_ = 0;
    Status status_;
};

// ---- Worker addresses -----------------------------------------------------------------------------------------------

enum class Version : uint8_t { k1 = 0, k2 = 1 };

// Header
constexpr uint8_t kVersionMask = 0x0f, kHasName = 1, kHasUuid = 2, kHasClient = 4;
constexpr uint8_t kNoDevices = 0xff;
// Flags beside the lengths
constexpr uint8_t kLast = 0x80, kEmptyDevice = 0x80, kHasPaths = 0x40, kHasSystemDevice = 0x20, kHasEndpoint = 0x40;
constexpr uint8_t kDeviceLengthMask = 0x1f, kInterfaceLengthMask = 0x3f;
constexpr unsigned kDomainsMax = 64;
// Attributes in version 2: sizes are in units of 64 bytes
constexpr uint16_t kTakesMessages = 2, kSegmentSizeMin = 4;

/// UCX has the names of transports in addresses as checksums.
constexpr uint16_t
nameChecksum(std::string_view name) {
    uint16_t checksum = 0xffff;
    for (const char character : name) {
        checksum ^= static_cast<uint8_t>(character);
        for (int bit = 0; bit < 8; ++bit) {
            checksum = static_cast<uint16_t>((checksum >> 1) ^ (checksum & 1 ? 0x8408 : 0));
        }
    }
    return static_cast<uint16_t>(~checksum);
}

enum class Reach { kHost, kNetwork };

/// A transport takes its parts of an address for granted. UCX ignores those it does not know.
struct Transport {
    uint16_t checksum;
    Reach reach;
    uint8_t device_bytes_min, interface_bytes_min;
    bool maps_segments = false; ///< its keys name memory of the peer that is then mapped, unchecked
};

constexpr uint16_t kTcp = nameChecksum("tcp");

constexpr Transport kTransports[] = {
    {nameChecksum("self"), Reach::kHost, 0, 8},        {kTcp, Reach::kNetwork, 6, 2},
    {nameChecksum("posix"), Reach::kHost, 8, 8, true}, {nameChecksum("cma"), Reach::kHost, 8, 4},
    {nameChecksum("knem"), Reach::kHost, 8, 0},        {nameChecksum("sysv"), Reach::kHost, 8, 8, true},
    {nameChecksum("xpmem"), Reach::kHost, 8, 8},       {nameChecksum("rc_verbs"), Reach::kNetwork, 3, 0},
    {nameChecksum("rc_mlx5"), Reach::kNetwork, 3, 1},  {nameChecksum("dc_mlx5"), Reach::kNetwork, 3, 1},
    {nameChecksum("ud_verbs"), Reach::kNetwork, 3, 3}, {nameChecksum("ud_mlx5"), Reach::kNetwork, 3, 3},
    {nameChecksum("cuda_copy"), Reach::kHost, 0, 8},   {nameChecksum("cuda_ipc"), Reach::kHost, 1, 1},
    {nameChecksum("gdr_copy"), Reach::kHost, 0, 8},    {nameChecksum("rocm_copy"), Reach::kHost, 0, 8},
    {nameChecksum("rocm_ipc"), Reach::kHost, 1, 1},
};

constexpr uint16_t kPosix = nameChecksum("posix");

/// A segment lies with a process or with the system; else its folder must follow. `address` has 8 bytes or more.
bool
namesPosixSegment(std::string_view address) {
    constexpr uint64_t kInProcess = uint64_t{1} << 63, kInSystem = uint64_t{1} << 62,
                       kWithNamespace = uint64_t{1} << 60;
    uint64_t segment;
    std::memcpy(&segment, address.data(), sizeof segment);
    const std::string_view rest = address.substr(sizeof segment);
    if (segment & kWithNamespace && rest.size() < sizeof(uint32_t)) return false;
    return segment & (kInProcess | kInSystem) || (!rest.empty() && rest.back() == '\0');
}

struct Device {
    uint8_t domain;
    std::string_view address;
};

/// One network interface as TCP names it.
struct TcpPlace {
    std::string_view device, interface;
    size_t part; ///< the index of the device
};

/// Where a device stands in the address.
struct Part {
    size_t begin, end;
    size_t last_flag_at;
};

class Address {
public:
    explicit Address(std::string_view bytes) : cursor_("worker address", bytes) {
        if (bytes.size() < kAddressBytesMin || bytes.size() > kAddressBytesMax) {
            cursor_.fail("it ends; it must have " + std::to_string(kAddressBytesMin) + " to " +
                         std::to_string(kAddressBytesMax) + " bytes");
        }
        header();
        bool last = cursor_.ok() && cursor_.remaining() > 0 && cursor_.peek() == kNoDevices;
        if (last) cursor_.byte("no devices");
        while (cursor_.ok() && !last) last = device();
        if (cursor_.remaining() > 0) cursor_.fail("it should end");
    }

    Status
    status() && {
        return std::move(cursor_).status();
    }

    uint64_t
    segmentDomains() const noexcept {
        return segment_domains_;
    }

    const std::vector<TcpPlace> &
    tcpPlaces() const noexcept {
        return tcp_places_;
    }

    const std::vector<Part> &
    parts() const noexcept {
        return parts_;
    }

    /// Some transport other than TCP may lead there from another host.
    bool
    hasOtherNetwork() const noexcept {
        return has_other_network_;
    }

private:
    void
    header() {
        const uint8_t first = cursor_.byte("header");
        version_ = static_cast<Version>(first & kVersionMask);
        if (version_ > Version::k2) cursor_.fail("the format has an unknown version");
        const uint8_t flags = version_ == Version::k1 ? first >> 4 : cursor_.byte("header");
        if (version_ == Version::k1 || flags & kHasUuid) cursor_.take("identifier", sizeof(uint64_t));
        if (flags & kHasClient) cursor_.take("client identifier", sizeof(uint64_t));
        if (flags & kHasName) cursor_.take("name", cursor_.byte("name length"));
    }

    /// True if it is the last one.
    bool
    device() {
        const size_t begin = cursor_.position();
        const Extended domain = extended("memory domain", version_ == Version::k1 ? 0x1f : 0x7f);
        const size_t last_flag_at = cursor_.position();
        const Extended length = extended("device address length", kDeviceLengthMask);
        if (length.flags & kHasPaths && cursor_.byte("number of paths") == 0) cursor_.fail("there is no path");
        if (length.flags & kHasSystemDevice) cursor_.byte("system device");
        const std::string_view address = cursor_.take("device address", length.value);
        bool last = domain.flags & kEmptyDevice;
        if (!last && domain.value >= kDomainsMax) cursor_.fail("there cannot be that many memory domains");
        while (cursor_.ok() && !last) last = transport({domain.value, address});
        parts_.push_back({begin, cursor_.position(), last_flag_at});
        return length.flags & kLast;
    }

    /// True if it is the last one of its device.
    bool
    transport(const Device &device) {
        const auto checksum = cursor_.value<uint16_t>("transport");
        version_ == Version::k1 ? attributes() : shortAttributes();
        const Extended length = extended("interface address length", kInterfaceLengthMask);
        const std::string_view address = cursor_.take("interface address", length.value);
        // Endpoints are named in messages between workers, not in what a worker gives away.
        if (length.flags & kHasEndpoint) cursor_.fail("an endpoint is named");
        if (checksum == kTcp) tcp_places_.push_back({device.address, address, parts_.size()});
        Reach reach = Reach::kNetwork; // for all we know
        for (const Transport &known : kTransports) {
            if (known.checksum != checksum) continue;
            reach = known.reach;
            if (device.address.size() < known.device_bytes_min || length.value < known.interface_bytes_min) {
                cursor_.fail("the address is too short for its transport");
            }
            if (checksum == kPosix && cursor_.ok() && !namesPosixSegment(address)) {
                cursor_.fail("the shared-memory segment has no place");
            }
            if (known.maps_segments && cursor_.ok()) segment_domains_ |= uint64_t{1} << device.domain;
        }
        has_other_network_ |= reach == Reach::kNetwork && checksum != kTcp;
        return length.flags & kLast;
    }

    // UCX computes with these and, with an odd one among them, chooses nonsense or fails an assertion.
    void
    attributes() {
        constexpr float kSecondsMax = 1e3F, kBytesPerSecondMax = 1e18F;
        const auto overhead = cursor_.value<float>("overhead"), bandwidth = cursor_.value<float>("bandwidth"),
                   latency = cursor_.value<float>("latency");
        for (const float seconds : {overhead, latency}) {
            if (!(seconds >= 0 && seconds <= kSecondsMax)) cursor_.fail("a time is impossible");
        }
        if (!(bandwidth > 0 && bandwidth <= kBytesPerSecondMax)) cursor_.fail("the bandwidth is impossible");
        cursor_.take("priority and abilities", sizeof(uint32_t));
    }

    /// Version 2 has these in a byte each: a fraction and an exponent, of which 0 means zero and 15 no number.
    void
    shortAttributes() {
        constexpr uint8_t kExponent = 0x0f;
        const uint8_t overhead = cursor_.byte("overhead"), bandwidth = cursor_.byte("bandwidth"),
                      latency = cursor_.byte("latency");
        for (const uint8_t seconds : {overhead, latency}) {
            if ((seconds & kExponent) == kExponent) cursor_.fail("a time is impossible");
        }
        if ((bandwidth & kExponent) == kExponent || (bandwidth & kExponent) == 0) {
            cursor_.fail("the bandwidth is impossible");
        }
        cursor_.byte("priority");
        const auto segment_size = cursor_.value<uint16_t>("segment size"),
                   abilities = cursor_.value<uint16_t>("abilities");
        if (abilities & kTakesMessages && segment_size < kSegmentSizeMin) cursor_.fail("the segments are too small");
    }

    struct Extended {
        uint8_t flags;
        uint8_t value;
    };

    /// A value in the bits of `mask` beside flags. In version 2 all of them set mean that it stands in the next byte.
    Extended
    extended(std::string_view field, uint8_t mask) {
        const uint8_t byte = cursor_.byte(field);
        uint8_t value = byte & mask;
        if (version_ == Version::k2 && value == mask) value = cursor_.byte(field);
        return {static_cast<uint8_t>(byte & ~mask), value};
    }

    Cursor cursor_;
    Version version_ = Version::k1;
    uint64_t segment_domains_ = 0;
    std::vector<TcpPlace> tcp_places_;
    std::vector<Part> parts_;
    bool has_other_network_ = false;
};

// TCP's address of a device: flags, family, then a number or, for the loopback device, what identifies the namespace.
constexpr uint8_t kLoopbackDevice = 1;
constexpr size_t kFamilyAt = 1, kHostAt = 2;

bool
isLoopback(const TcpPlace &place) {
    return place.device[0] & kLoopbackDevice;
}

bool
isHere(const TcpPlace &place, const std::vector<TcpPlace> &own) {
    return std::any_of(own.begin(), own.end(), [&](const auto &mine) { return mine.device == place.device; });
}

/// The family is not set where nobody can try.
sockaddr_storage
listenerAt(const TcpPlace &place, const std::vector<TcpPlace> &own) {
    const bool loopback = isLoopback(place);
    const std::string_view host = place.device.substr(kHostAt);
    const uint8_t family = static_cast<uint8_t>(place.device[kFamilyAt]);
    sockaddr_in v4{};
    sockaddr_in6 v6{};
    sockaddr_storage listener{};
    if (loopback && !isHere(place, own)) return listener;
    if (family == AF_INET && (loopback || host.size() == sizeof v4.sin_addr)) {
        v4.sin_family = AF_INET;
        v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (!loopback) std::memcpy(&v4.sin_addr, host.data(), host.size());
        std::memcpy(&v4.sin_port, place.interface.data(), sizeof v4.sin_port);
        std::memcpy(&listener, &v4, sizeof v4);
    } else if (family == AF_INET6 && (loopback || host.size() == sizeof v6.sin6_addr)) {
        v6.sin6_family = AF_INET6;
        v6.sin6_addr = in6addr_loopback;
        if (!loopback) std::memcpy(&v6.sin6_addr, host.data(), host.size());
        std::memcpy(&v6.sin6_port, place.interface.data(), sizeof v6.sin6_port);
        std::memcpy(&listener, &v6, sizeof v6);
    }
    return listener;
}

} // namespace

Status
checkAddress(std::string_view address) {
    return Address(address).status();
}

uint64_t
segmentDomains(std::string_view address) {
    return Address(address).segmentDomains();
}

std::vector<TcpListener>
tcpListeners(std::string_view address, std::string_view own) {
    const Address theirs(address), ours(own);
    std::vector<TcpListener> listeners;
    if (theirs.hasOtherNetwork()) return listeners;
    const auto &places = theirs.tcpPlaces();
    const bool elsewhere = std::any_of(places.begin(), places.end(), [&](const TcpPlace &place) {
        return isLoopback(place) && !isHere(place, ours.tcpPlaces());
    });
    for (const TcpPlace &place : places) {
        const sockaddr_storage at = listenerAt(place, ours.tcpPlaces());
        if (at.ss_family != 0) listeners.push_back({at, elsewhere && isHere(place, ours.tcpPlaces())});
    }
    return listeners;
}

std::string
withoutListeners(std::string_view address, std::string_view own, const std::vector<TcpListener> &left_out) {
    const Address theirs(address), ours(own);
    std::vector<bool> stays(theirs.parts().size(), true);
    for (const TcpPlace &place : theirs.tcpPlaces()) {
        const sockaddr_storage at = listenerAt(place, ours.tcpPlaces());
        for (const TcpListener &listener : left_out) {
            if (std::memcmp(&listener.at, &at, sizeof at) == 0) stays[place.part] = false;
        }
    }
    std::string rest(address.substr(0, theirs.parts().empty() ? address.size() : theirs.parts().front().begin));
    size_t last_flag_at = 0;
    for (size_t i = 0; i < stays.size(); ++i) {
        if (!stays[i]) continue;
        const Part &part = theirs.parts()[i];
        last_flag_at = rest.size() + part.last_flag_at - part.begin;
        rest += address.substr(part.begin, part.end - part.begin);
    }
    if (last_flag_at == 0) return std::string(address); // nothing is left, or there was no device
    rest[last_flag_at] = static_cast<char>(rest[last_flag_at] | kLast);
    return rest;
}

std::string
textOf(const std::vector<TcpListener> &listeners) {
    std::string text;
    for (const TcpListener &listener : listeners) {
        char host[INET6_ADDRSTRLEN] = "";
        if (!text.empty()) text += ", ";
        if (listener.at.ss_family == AF_INET) {
            const auto &ip = reinterpret_cast<const sockaddr_in &>(listener.at);
            ::inet_ntop(AF_INET, &ip.sin_addr, host, sizeof host);
            text += host + (":" + std::to_string(ntohs(ip.sin_port)));
        } else {
            const auto &ip = reinterpret_cast<const sockaddr_in6 &>(listener.at);
            ::inet_ntop(AF_INET6, &ip.sin6_addr, host, sizeof host);
            text += "[" + std::string(host) + "]:" + std::to_string(ntohs(ip.sin6_port));
        }
    }
    return text;
}

// ---- Memory keys ----------------------------------------------------------------------------------------------------

namespace {

constexpr uint8_t kMemoryTypeMax = 8; // UCX takes it for an index

// Behind the keys of the domains: a system device, and the distance (3 bytes) to each device there.
constexpr size_t kTailBytesMax = 1 + 3 * 256;

} // namespace

Status
checkKey(std::string_view key, uint64_t refused_domains) {
    Cursor cursor("memory key", key);
    if (key.size() < kKeyBytesMin || key.size() > kKeyBytesMax) {
        cursor.fail("it ends; it must have " + std::to_string(kKeyBytesMin) + " to " + std::to_string(kKeyBytesMax) +
                    " bytes");
    }
    const auto domains = cursor.value<uint64_t>("memory domains");
    if (domains & refused_domains) cursor.fail("a domain is named whose memory would be mapped unchecked");
    if (cursor.byte("memory type") > kMemoryTypeMax) cursor.fail("the memory type is unknown");
    for (int i = std::popcount(domains); i > 0 && cursor.ok(); --i) {
        cursor.take("a domain's key", cursor.byte("length of a domain's key"));
    }
    if (cursor.remaining() > kTailBytesMax) cursor.fail("it should end");
    return std::move(cursor).status();
}

} // namespace nx::ucx
