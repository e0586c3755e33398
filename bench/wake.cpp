// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How soon who sleeps is woken, and what he costs meanwhile: `nixl_wake BACKEND threaded|polled [SECONDS]` prints one
// JSON object. One agent waits for notifications, with a progress thread or without; another sends some, at random
// distances, each with the time at which it was given to genNotif. It does so in a process of its own; in a thread
// where BACKEND reaches no other process (LOOPBACK, and LEGACY, a plugin as NIXL 1.4 knows them). BARE is no backend
// but a socket between the two: what the system takes for one wake-up.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <poll.h>
#include <random>
#include <stdexcept>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "nixl.h"

namespace {

using Clock = std::chrono::steady_clock; // one for all processes of the machine
using std::chrono::microseconds;
using std::chrono::nanoseconds;

constexpr auto kPatience = std::chrono::seconds(20);

struct Case {
    std::string backend;
    bool progress_thread = false;
    double seconds = 2;

    bool
    isBare() const {
        return backend == "BARE";
    }

    bool
    sameProcess() const {
        return backend == "LOOPBACK" || backend == "LEGACY";
    }

    /// Between two messages, on average. Where nobody can be woken a wait is looked after ever more seldom: a long one.
    microseconds
    distance() const {
        return backend == "LEGACY" ? microseconds(200'000) : microseconds(1000);
    }
};

void
check(nixl_status_t status, const char *what) {
    if (status >= 0) return;
    throw std::runtime_error(std::string(what) + ": " + nixlEnumStrings::statusStr(status) + ": " + nixlx::lastError());
}

std::unique_ptr<nixlAgent>
makeAgent(const std::string &name, const Case &tested, bool progress_thread) {
    auto agent = std::make_unique<nixlAgent>(name, nixlAgentConfig(progress_thread));
    nixlBackendH *backend = nullptr;
    check(agent->createBackend(tested.backend, {}, backend), "createBackend");
    return agent;
}

/// Reads metadata to its end, and sends a message for each byte that comes from `go`, until that is closed.
void
send(const Case &tested, int metadata, int go) {
    std::string blob, peer;
    char part[4096];
    for (ssize_t got; (got = ::read(metadata, part, sizeof part)) > 0;) blob.append(part, static_cast<size_t>(got));
    std::unique_ptr<nixlAgent> agent;
    if (!tested.isBare()) {
        agent = makeAgent("sender", tested, false);
        check(agent->loadRemoteMD(blob, peer), "loadRemoteMD");
        check(agent->makeConnection(peer), "makeConnection");
    }
    std::minstd_rand random(1);
    std::uniform_real_distribution<> factor(0.5, 1.5);
    nixl_notifs_t none;
    while (::read(go, part, 1) == 1) {
        std::this_thread::sleep_for(tested.distance() * factor(random));
        const int64_t now = Clock::now().time_since_epoch().count();
        if (!agent) {
            if (::write(go, &now, sizeof now) != sizeof now) return;
            continue;
        }
        check(agent->genNotif(peer, std::string(reinterpret_cast<const char *>(&now), sizeof now)), "genNotif");
        check(agent->getNotifs(none), "getNotifs"); // progress
    }
}

nanoseconds
processorTime() {
    timespec now{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return std::chrono::seconds(now.tv_sec) + nanoseconds(now.tv_nsec);
}

/// Waits for a message and returns what it holds; nothing: none has come.
using Wait = std::function<std::optional<int64_t>(microseconds)>;

Wait
waitOnSocket(int socket) {
    return [socket](microseconds timeout) -> std::optional<int64_t> {
        pollfd each{socket, POLLIN, 0};
        int64_t sent = 0;
        if (::poll(&each, 1, static_cast<int>(timeout.count() / 1000)) != 1) return {};
        if (::read(socket, &sent, sizeof sent) != sizeof sent) throw std::runtime_error("the sender has ended");
        return sent;
    };
}

Wait
waitWith(nixlAgent &agent) {
    return [&agent](microseconds timeout) -> std::optional<int64_t> {
        nixl_notifs_t notifs;
        check(agent.waitNotifs(notifs, timeout), "waitNotifs");
        if (notifs.empty()) return {};
        int64_t sent = 0;
        std::memcpy(&sent, notifs.begin()->second.at(0).data(), sizeof sent);
        return sent;
    };
}

/// Of a core, in percent.
double
costOfWaiting(const Wait &wait, double seconds) {
    const microseconds time(static_cast<int64_t>(seconds * 1e6));
    const auto before = processorTime();
    if (wait(time)) throw std::runtime_error("something happened while nothing was to happen");
    return 100 * std::chrono::duration<double>(processorTime() - before) / time;
}

std::vector<double>
wakeUps(const Wait &wait, int go, double seconds) {
    std::vector<double> all;
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    while (Clock::now() < end) {
        if (::write(go, "1", 1) != 1) throw std::runtime_error("the sender has ended");
        const auto sent = wait(kPatience);
        const int64_t now = Clock::now().time_since_epoch().count();
        if (!sent) throw std::runtime_error("no message came");
        all.push_back(static_cast<double>(now - *sent) / 1e3);
    }
    std::sort(all.begin(), all.end());
    return all;
}

void
measure(const Case &tested, int metadata, int go) {
    std::unique_ptr<nixlAgent> agent;
    nixl_blob_t blob;
    if (!tested.isBare()) {
        agent = makeAgent("waiter", tested, tested.progress_thread);
        check(agent->getLocalMD(blob), "getLocalMD");
    }
    if (::write(metadata, blob.data(), blob.size()) != static_cast<ssize_t>(blob.size())) {
        throw std::runtime_error("the sender has ended");
    }
    ::close(metadata);
    const Wait wait = agent ? waitWith(*agent) : waitOnSocket(go);
    wakeUps(wait, go, tested.seconds / 10); // the connection, the caches
    const double idle = costOfWaiting(wait, tested.seconds);
    const auto all = wakeUps(wait, go, tested.seconds);
    const auto at = [&](size_t percent) { return all[std::min(all.size() - 1, all.size() * percent / 100)]; };
    std::printf("{\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"count\": %zu, \"idle_percent\": %.3f}\n",
                at(50), at(99), all.back(), all.size(), idle);
    std::fflush(stdout);
}

/// Whoever fails says why and takes the program with him.
template<class Part>
void
attempt(const char *who, Part part) {
    try {
        part();
    }
    catch (const std::exception &error) {
        std::fprintf(stderr, "nixl_wake: %s: %s\n", who, error.what());
        ::_exit(1);
    }
}

} // namespace

int
main(int argc, char **argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: nixl_wake BACKEND threaded|polled [SECONDS]\n");
        return 2;
    }
    const Case tested{argv[1], std::strcmp(argv[2], "threaded") == 0, argc > 3 ? std::atof(argv[3]) : 2};
    int metadata[2], go[2];
    if (::pipe(metadata) != 0 || ::socketpair(AF_UNIX, SOCK_STREAM, 0, go) != 0) return 1;
    std::thread sender;
    if (tested.sameProcess()) {
        sender = std::thread([&] { attempt("sender", [&] { send(tested, metadata[0], go[0]); }); });
    } else if (::fork() == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        ::close(metadata[1]);
        ::close(go[1]);
        attempt("sender", [&] { send(tested, metadata[0], go[0]); });
        ::_exit(0);
    }
    attempt("waiter", [&] { measure(tested, metadata[1], go[1]); });
    ::close(go[1]);
    if (sender.joinable()) {
        sender.join();
    } else {
        ::wait(nullptr);
    }
    return 0;
}
