// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Prints the events that an agent writes into its ring file, as they come, until Ctrl-C:
//
//   NIXL_TELEMETRY_ENABLE=y NIXL_TELEMETRY_DIR=/run/user/1000/nixl my_program &
//   telemetry_reader [--once] /run/user/1000/nixl/my_agent
//
// What is printed is taken out of the ring. --once ends when the ring is empty. One reader per ring.
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <iostream>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

#include "nixlx/telemetry_ring.h"

namespace {

volatile std::sig_atomic_t stop = 0;

/// A number with its unit, for example "xfer_time 70 us".
std::string
describe(const nixlTelemetryEvent &event) {
    using Type = nixl_telemetry_event_type_t;
    std::string text = nixlEnumStrings::telemetryEventTypeStr(event.eventType_) + " " + std::to_string(event.value_);
    switch (event.eventType_) {
    case Type::AGENT_TX_BYTES:
    case Type::AGENT_RX_BYTES:
    case Type::AGENT_MEMORY_REGISTERED:
    case Type::AGENT_MEMORY_DEREGISTERED: return text + " bytes";
    case Type::AGENT_XFER_TIME:
    case Type::AGENT_XFER_POST_TIME: return text + " us";
    default: return text;
    }
}

/// Prints what is in the ring. Not through a mapping: a file that is cut meanwhile would end the program.
/// Returns why the file is no ring, or an empty string.
std::string
drain(int fd) {
    struct stat info;
    nixlx::TelemetryRingHeader header;
    if (::fstat(fd, &info) != 0 || ::pread(fd, &header, sizeof header, 0) < 0) return std::strerror(errno);
    std::string problem = nixlx::telemetryRingProblem(header, static_cast<uint64_t>(info.st_size));
    if (!problem.empty()) return problem;
    // The agent wrote the events before the position that was just read.
    std::atomic_thread_fence(std::memory_order_acquire);
    uint64_t next = header.read_pos;
    for (; next != header.write_pos; next = (next + 1) & header.mask) {
        nixlTelemetryEvent event;
        const auto offset = static_cast<off_t>(nixlx::telemetryRingOffset(next));
        if (::pread(fd, &event, sizeof event, offset) != sizeof event) return "it was cut";
        std::cout << describe(event) << "\n";
    }
    std::cout << std::flush;
    // Only now may the agent use their slots again.
    std::atomic_thread_fence(std::memory_order_release);
    if (next != header.read_pos &&
        ::pwrite(fd, &next, sizeof next, offsetof(nixlx::TelemetryRingHeader, read_pos)) != sizeof next) {
        return std::strerror(errno);
    }
    return {};
}

} // namespace

int
main(int argc, char **argv) {
    const bool once = argc > 1 && std::string(argv[1]) == "--once";
    if (argc != (once ? 3 : 2)) {
        std::cerr << "usage: telemetry_reader [--once] FILE\n"
                     "FILE is the ring of one agent: NIXL_TELEMETRY_DIR/<agent>\n";
        return 2;
    }
    const char *path = argv[argc - 1];

    struct sigaction action = {};
    action.sa_handler = [](int) { stop = 1; };
    ::sigaction(SIGINT, &action, nullptr);
    ::sigaction(SIGTERM, &action, nullptr);

    const int fd = ::open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        std::cerr << "telemetry_reader: " << path << ": " << std::strerror(errno) << "\n";
        return 1;
    }
    std::string problem;
    do {
        problem = drain(fd);
        const timespec pause{0, 100'000'000};
        if (problem.empty() && !once && !stop) ::nanosleep(&pause, nullptr); // a signal ends it early
    } while (problem.empty() && !once && !stop);
    ::close(fd);
    if (problem.empty()) return 0;
    std::cerr << "telemetry_reader: " << path << " is no telemetry ring: " << problem << "\n";
    return 1;
}
