// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What transfers within one host cost a C++ program: two processes on a core each, without progress threads; the target
// spins on getNotifs. `nixl_probe BACKEND private|mapped [SECONDS]` prints a JSON object per row: its name, the median
// of its rounds, the 10th and 90th percentile, the path. Knows nothing that NIXL 1.4 does not have, so that the same
// program runs on the original's library, too; but for memory that is mapped, which only ours gives.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <numeric>
#include <random>
#include <sched.h>
#include <stdexcept>
#include <string>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "nixl.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kKiB = 1024, kMiB = 1024 * kKiB;
constexpr size_t kBytes = 128 * kMiB;
constexpr size_t kRounds = 15;
constexpr auto kPatience = std::chrono::seconds(20);
const std::string kEcho(16, 'e'), kCount(16, 'c'), kQuit(16, 'q');

nixl_status_t
check(nixl_status_t status, const char *what) {
    if (status < 0) throw std::runtime_error(std::string(what) + ": " + nixlEnumStrings::statusStr(status));
    return status;
}

uint8_t *
allocate(bool mapped) {
    if (mapped) {
        using Allocate = void *(*)(size_t);
        const auto allocate = reinterpret_cast<Allocate>(::dlsym(RTLD_DEFAULT, "_ZN5nixlx11allocSharedEm"));
        if (!allocate) throw std::runtime_error("this libnixl has no memory that peers map");
        return static_cast<uint8_t *>(allocate(kBytes));
    }
    void *const memory =
        ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no memory");
    return static_cast<uint8_t *>(memory);
}

void
bindTo(int core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    ::sched_setaffinity(0, sizeof cores, &cores);
}

/// Blobs between the two processes, by a socket.
void
sendBlob(int socket, const std::string &blob) {
    const uint64_t size = blob.size();
    if (::write(socket, &size, sizeof size) != sizeof size) std::abort();
    for (size_t at = 0; at < size;)
        at += static_cast<size_t>(std::max<ssize_t>(0, ::write(socket, blob.data() + at, size - at)));
}

std::string
receiveBlob(int socket) {
    uint64_t size = 0;
    if (::read(socket, &size, sizeof size) != sizeof size) throw std::runtime_error("the other process has ended");
    std::string blob(size, '\0');
    for (size_t at = 0; at < size;) {
        const ssize_t got = ::read(socket, blob.data() + at, size - at);
        if (got <= 0) throw std::runtime_error("the other process has ended");
        at += static_cast<size_t>(got);
    }
    return blob;
}

struct Node {
    nixlAgent agent;
    nixlBackendH *backend = nullptr;
    uint8_t *buffer;
    std::string peer;
    uintptr_t peer_buffer = 0;

    Node(const std::string &name, const std::string &type, bool mapped, int socket, uint8_t content)
        : agent(name, nixlAgentConfig(false)),
          buffer(allocate(mapped)) {
        std::memset(buffer, content, kBytes);
        nixl_b_params_t params;
        nixl_mem_list_t memories;
        check(agent.getPluginParams(type, memories, params), "getPluginParams");
        check(agent.createBackend(type, params, backend), "createBackend");
        nixl_reg_dlist_t list(DRAM_SEG);
        list.addDesc(nixlBlobDesc(reinterpret_cast<uintptr_t>(buffer), kBytes, 0, ""));
        check(agent.registerMem(list), "registerMem");
        std::string blob;
        check(agent.getLocalMD(blob), "getLocalMD");
        sendBlob(socket, blob);
        sendBlob(socket, std::to_string(reinterpret_cast<uintptr_t>(buffer)));
        check(agent.loadRemoteMD(receiveBlob(socket), peer), "loadRemoteMD");
        peer_buffer = std::stoull(receiveBlob(socket));
    }
};

void
runTarget(Node &node) {
    for (;;) {
        nixl_notifs_t notifs;
        check(node.agent.getNotifs(notifs), "getNotifs");
        for (const auto &[sender, messages] : notifs) {
            for (const auto &message : messages) {
                if (message == kQuit) return;
                if (message == kEcho) check(node.agent.genNotif(node.peer, message), "genNotif");
            }
        }
    }
}

class Initiator {
public:
    Initiator(Node &node, double seconds) : node_(node), seconds_(seconds) {}

    void
    run() {
        firstMegabyte();
        for (const auto &[name, size] : std::vector<std::pair<std::string, size_t>>{
                 {"4 KiB", 4 * kKiB}, {"64 KiB", 64 * kKiB}, {"1 MiB", kMiB}, {"64 MiB", 64 * kMiB}}) {
            transfers(name + " WRITE", NIXL_WRITE, {{0, size}}, "");
            transfers(name + " READ", NIXL_READ, {{0, size}}, "");
        }
        transfers("8 B WRITE", NIXL_WRITE, {{0, 8}}, "");
        transfers("4 KiB WRITE + notification", NIXL_WRITE, {{0, 4 * kKiB}}, kCount);
        measure("notification round trip", [this] {
            check(node_.agent.genNotif(node_.peer, kEcho), "genNotif");
            for (nixl_notifs_t notifs; notifs.empty();) check(node_.agent.getNotifs(notifs), "getNotifs");
        });
        for (const size_t count : {256, 8192}) {
            std::vector<std::pair<size_t, size_t>> blocks;
            for (size_t i = 0; i < count; ++i) blocks.emplace_back(i * 4 * kKiB, 4 * kKiB);
            transfers(std::to_string(count) + " x 4 KiB WRITE, scattered", NIXL_WRITE, blocks, "");
        }
        check(node_.agent.genNotif(node_.peer, kQuit), "genNotif");
    }

private:
    using Blocks = std::vector<std::pair<size_t, size_t>>;

    nixlXferReqH *
    request(nixl_xfer_op_t operation, const Blocks &blocks, const std::string &note) {
        nixl_xfer_dlist_t local(DRAM_SEG), remote(DRAM_SEG);
        std::vector<size_t> order(blocks.size());
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), std::mt19937(1)); // else neighbours are one block
        for (size_t i = 0; i < blocks.size(); ++i) {
            const auto &[from, length] = blocks[i];
            const size_t to = blocks[order[i]].first;
            local.addDesc(nixlBasicDesc(reinterpret_cast<uintptr_t>(node_.buffer) + from, length, 0));
            remote.addDesc(nixlBasicDesc(node_.peer_buffer + to, length, 0));
        }
        nixl_opt_args_t args;
        args.backends = {node_.backend};
        if (!note.empty()) {
            args.hasNotif = true;
            args.notifMsg = note;
        }
        nixlXferReqH *made = nullptr;
        check(node_.agent.createXferReq(operation, local, remote, node_.peer, made, &args), "createXferReq");
        return made;
    }

    void
    finish(nixlXferReqH *handle) {
        nixl_status_t status = check(node_.agent.postXferReq(handle), "postXferReq");
        if (status != NIXL_IN_PROG) return;
        for (const auto end = Clock::now() + kPatience; status == NIXL_IN_PROG;) {
            for (int i = 0; i < 1000 && status == NIXL_IN_PROG; ++i) {
                status = check(node_.agent.getXferStatus(handle), "getXferStatus");
            }
            if (Clock::now() > end) throw std::runtime_error("a transfer does not end");
        }
    }

    void
    firstMegabyte() {
        nixlXferReqH *const handle = request(NIXL_WRITE, {{0, kMiB}}, "");
        const auto started = Clock::now();
        finish(handle);
        const double us = std::chrono::duration<double, std::micro>(Clock::now() - started).count();
        print("first 1 MiB to a peer", us, us, us);
        check(node_.agent.releaseXferReq(handle), "releaseXferReq");
    }

    void
    transfers(const std::string &name, nixl_xfer_op_t operation, const Blocks &blocks, const std::string &note) {
        nixlXferReqH *const handle = request(operation, blocks, note);
        measure(name, [&] { finish(handle); });
        check(node_.agent.releaseXferReq(handle), "releaseXferReq");
    }

    template<class Step>
    void
    measure(const std::string &name, Step step) {
        const auto took = [&](size_t count) {
            const auto started = Clock::now();
            for (size_t i = 0; i < count; ++i) step();
            return std::chrono::duration<double, std::micro>(Clock::now() - started).count() /
                static_cast<double>(count);
        };
        const double once = (took(2), took(4));
        const size_t count = std::max<size_t>(1, static_cast<size_t>(seconds_ * 1e6 / kRounds / once));
        took(count);
        std::vector<double> rounds(kRounds);
        for (double &round : rounds) round = took(count);
        std::sort(rounds.begin(), rounds.end());
        print(name, rounds[kRounds / 2], rounds[kRounds / 10], rounds[kRounds * 9 / 10]);
    }

    static void
    print(const std::string &name, double median, double low, double high) {
        std::printf("{\"row\": \"%s\", \"us\": %.3f, \"p10\": %.3f, \"p90\": %.3f}\n", name.c_str(), median, low, high);
        std::fflush(stdout);
    }

    Node &node_;
    const double seconds_;
};

} // namespace

int
main(int argc, char **argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: nixl_probe BACKEND private|mapped [SECONDS per row]\n");
        return 2;
    }
    const bool mapped = std::strcmp(argv[2], "mapped") == 0;
    const double seconds = argc > 3 ? std::atof(argv[3]) : 0.3;
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 1;
    const pid_t child = ::fork();
    try {
        if (child == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            ::close(ends[0]);
            bindTo(1);
            Node node("target", argv[1], mapped, ends[1], 1);
            runTarget(node);
            ::_exit(0);
        }
        ::close(ends[1]);
        bindTo(0);
        Node node("initiator", argv[1], mapped, ends[0], 2);
        Initiator(node, seconds).run();
        int status = 0;
        ::waitpid(child, &status, 0);
        std::fflush(stdout);
        ::_exit(status); // the original's library crashes at times in its agents' destructors
    }
    catch (const std::exception &error) {
        std::fprintf(stderr, "nixl_probe: %s: %s\n", child == 0 ? "target" : "initiator", error.what());
        ::_exit(1);
    }
}
