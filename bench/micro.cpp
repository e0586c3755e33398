// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What the calls on the data path cost without Python: two agents in one process, one thread that calls.
// `nixl_micro [BACKEND]`, by default LOOPBACK. Prints the median and the 99th percentile of each row.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iostream>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "nixl.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBlockBytes = 4096;
constexpr size_t kBlockCount = 8192;
constexpr size_t kBatch = 100; ///< calls timed together where one is too short for the clock
constexpr size_t kRowCount = 1'000'000;
constexpr size_t kRowBytes = kBlockBytes * kBlockCount / kRowCount / 2;
constexpr size_t kIndexCount = 20'000;
constexpr auto kWarmUp = std::chrono::milliseconds(100);
constexpr auto kDuration = std::chrono::milliseconds(500);
constexpr auto kPatience = std::chrono::seconds(10);

nixl_status_t
check(nixl_status_t status) {
    if (status < 0) throw std::runtime_error(nixlx::lastError() + " (" + nixlEnumStrings::statusStr(status) + ")");
    return status;
}

/// An agent with one backend and one registered buffer.
struct Node {
    nixlAgent agent;
    std::vector<uint8_t> buffer;

    Node(const std::string &name, const std::string &backend, bool use_progress_thread, uint8_t content)
        : agent(name, nixlAgentConfig(use_progress_thread)),
          buffer(kBlockBytes * kBlockCount, content) {
        nixlBackendH *handle;
        check(agent.createBackend(backend, {}, handle));
        nixl_reg_dlist_t registered(DRAM_SEG);
        registered.addDesc(nixlBlobDesc(reinterpret_cast<uintptr_t>(buffer.data()), buffer.size(), 0, ""));
        check(agent.registerMem(registered));
    }

    /// Every other of the first blocks, so that nothing can be merged.
    nixl_xfer_dlist_t
    blocks(size_t count) const {
        nixl_xfer_dlist_t list(DRAM_SEG);
        const auto address = reinterpret_cast<uintptr_t>(buffer.data());
        for (size_t i = 0; i < count; ++i) list.addDesc(nixlBasicDesc(address + 2 * i * kBlockBytes, kBlockBytes, 0));
        return list;
    }
};

/// `count` different numbers below kRowCount, in an order that has no pattern.
std::vector<int>
shuffled(size_t count) {
    std::vector<int> numbers(kRowCount);
    std::iota(numbers.begin(), numbers.end(), 0);
    std::ranges::shuffle(numbers, std::mt19937(1));
    numbers.resize(count);
    return numbers;
}

/// Lets `sample` add one figure in nanoseconds at a time, over and over, and prints what it added after the warm-up.
template<class Sample>
void
row(const std::string &title, Sample sample) {
    std::vector<double> figures;
    const auto repeat = [&](Clock::duration duration) {
        const auto end = Clock::now() + duration;
        while (Clock::now() < end) sample(figures);
    };
    repeat(kWarmUp);
    figures.clear();
    repeat(kDuration);
    std::ranges::sort(figures);
    std::cout << title << ": " << figures[figures.size() / 2] << " ns, 99 % " << figures[figures.size() * 99 / 100]
              << " ns (" << figures.size() << " samples)\n";
}

double
nanosecondsSince(Clock::time_point start) {
    return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

class Bench {
public:
    explicit Bench(const std::string &backend)
        : target_("target", backend, true, 0x11),
          initiator_("initiator", backend, false, 0x22) {
        nixl_blob_t metadata;
        check(target_.agent.getLocalMD(metadata));
        check(initiator_.agent.loadRemoteMD(metadata, peer_));
    }

    void
    run() {
        transfers(1);
        transfers(256);
        const auto request = newRequest(1);
        check(initiator_.agent.postXferReq(request));
        finish(request);
        row("getXferStatus of a request that is done", [&](std::vector<double> &figures) {
            const auto start = Clock::now();
            for (size_t i = 0; i < kBatch; ++i) check(initiator_.agent.getXferStatus(request));
            figures.push_back(nanosecondsSince(start) / kBatch);
        });
        row("getNotifs when nothing came", [&](std::vector<double> &figures) {
            nixl_notifs_t messages;
            const auto start = Clock::now();
            for (size_t i = 0; i < kBatch; ++i) check(initiator_.agent.getNotifs(messages));
            figures.push_back(nanosecondsSince(start) / kBatch);
        });
        check(initiator_.agent.releaseXferReq(request));
        std::vector<int> order(kRowCount);
        std::iota(order.begin(), order.end(), 0);
        lists("in order", order);
        lists("in random order", shuffled(kRowCount));
    }

private:
    Node target_;
    Node initiator_;
    std::string peer_;

    nixlXferReqH *
    newRequest(size_t block_count) {
        nixlXferReqH *request;
        check(initiator_.agent.createXferReq(NIXL_WRITE, initiator_.blocks(block_count), target_.blocks(block_count),
                                             peer_, request));
        return request;
    }

    void
    finish(nixlXferReqH *request) {
        const auto end = Clock::now() + kPatience;
        while (check(initiator_.agent.getXferStatus(request)) != NIXL_SUCCESS) {
            if (Clock::now() > end) throw std::runtime_error("a transfer did not end in 10 s");
        }
    }

    /// Preparing many rows, and picking from them.
    void
    lists(const std::string &title, const std::vector<int> &order) {
        const auto rows = [&](const Node &node) {
            nixl_xfer_dlist_t list(DRAM_SEG);
            const auto address = reinterpret_cast<uintptr_t>(node.buffer.data());
            for (const int i : order) list.addDesc(nixlBasicDesc(address + i * 2 * kRowBytes, kRowBytes, 0));
            return list;
        };
        const auto local_rows = rows(initiator_);
        nixlDlistH *local, *remote;
        row("prepXferDlist, 1 M rows " + title, [&](std::vector<double> &figures) {
            const auto start = Clock::now();
            check(initiator_.agent.prepXferDlist(NIXL_INIT_AGENT, local_rows, local));
            figures.push_back(nanosecondsSince(start));
            check(initiator_.agent.releasedDlistH(local));
        });
        check(initiator_.agent.prepXferDlist(NIXL_INIT_AGENT, local_rows, local));
        check(initiator_.agent.prepXferDlist(peer_, rows(target_), remote));
        const auto indices = shuffled(kIndexCount);
        row("makeXferReq, 20 k of 1 M rows " + title, [&](std::vector<double> &figures) {
            nixlXferReqH *request;
            const auto start = Clock::now();
            check(initiator_.agent.makeXferReq(NIXL_WRITE, local, indices, remote, indices, request));
            figures.push_back(nanosecondsSince(start));
            check(initiator_.agent.releaseXferReq(request));
        });
        check(initiator_.agent.releasedDlistH(local));
        check(initiator_.agent.releasedDlistH(remote));
    }

    void
    transfers(size_t block_count) {
        const auto request = newRequest(block_count);
        const std::string blocks = std::to_string(block_count) + " x 4 KiB";
        row("postXferReq, " + blocks, [&](std::vector<double> &figures) {
            const auto start = Clock::now();
            check(initiator_.agent.postXferReq(request));
            figures.push_back(nanosecondsSince(start));
            finish(request);
        });
        row("post to done, " + blocks, [&](std::vector<double> &figures) {
            const auto start = Clock::now();
            check(initiator_.agent.postXferReq(request));
            finish(request);
            figures.push_back(nanosecondsSince(start));
        });
        check(initiator_.agent.releaseXferReq(request));
        if (target_.buffer[0] != 0x22 || target_.buffer[(2 * block_count - 1) * kBlockBytes - 1] != 0x22 ||
            target_.buffer[kBlockBytes] != 0x11) {
            throw std::runtime_error("the target does not hold what was written");
        }
    }
};

} // namespace

int
main(int argc, char **argv) {
    try {
        Bench(argc > 1 ? argv[1] : "LOOPBACK").run();
        return 0;
    }
    catch (const std::exception &error) {
        std::cerr << "nixl_micro: " << error.what() << "\n";
        return 1;
    }
}
