// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What the tests with dying peers share: an agent "A" here, which survives, and its peers in processes of their own.
#pragma once

#include <cstdio>
#include <list>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "support/peer_process.h"

namespace nx::test {

/// How agents meet over UCX.
enum class Way {
    kLocal, ///< over shared memory
    kTcp    ///< over the network, as peers of NIXL 1.4 do: without the trailer that tells ours of each other
};

struct Setup {
    Way way;
    bool progress_thread;
    const char *backend = "UCX";
};

inline auto
allSetups() {
    return testing::Values(Setup{Way::kLocal, false}, Setup{Way::kLocal, true}, Setup{Way::kTcp, false},
                           Setup{Way::kTcp, true});
}

/// A backend for peers of this host.
inline auto
localSetups(const char *backend) {
    return testing::Values(Setup{Way::kLocal, false, backend}, Setup{Way::kLocal, true, backend});
}

inline std::string
nameOf(const testing::TestParamInfo<Setup> &info) {
    return std::string(info.param.way == Way::kLocal ? "Local" : "Tcp") +
        (info.param.progress_thread ? "Threaded" : "Polled");
}

class Survivor : public testing::TestWithParam<Setup> {
public:
    /// A peer that is loaded here, and memory of equal size on both sides.
    struct Met {
        Met(const std::string &name, const PairOptions &options, Buffer &local)
            : process(name, options),
              local(local) {}

        PeerProcess process;
        nixlBasicDesc there{0, 0, 0}; ///< its memory
        Buffer &local;                ///< ours for transfers with it
    };

    Survivor() : a("A", options()) {}

    /// A new process whose memory holds the pattern of `seed`, introduced to A and A to it.
    Met &
    start(const std::string &name, size_t size, uint64_t seed) {
        auto &met = met_.emplace_back(name, options(), registered(size));
        met.there = met.process.offer(size, seed);
        meet(met.process);
        return met;
    }

    /// Metadata as the other side gets to see it.
    static nixl_blob_t
    shown(nixl_blob_t blob) {
        if (GetParam().way == Way::kTcp) blob.resize(std::min(blob.size(), blob.rfind("nixlxTrailer")));
        return blob;
    }

    /// Tells each of the other.
    void
    meet(PeerProcess &peer) const {
        a.load(shown(peer.metadata()));
        peer.load(shown(a.metadata()));
    }

    /// Polls a request of A, and lets A make progress, until its status is final.
    nixl_status_t
    finish(nixlXferReqH *request, nixl_status_t status) const {
        eventually(
            [&] {
                for (int i = 0; i < 100 && status == NIXL_IN_PROG; ++i) status = a->getXferStatus(request);
                return status != NIXL_IN_PROG;
            },
            std::chrono::seconds(20));
        return status;
    }

    /// One transfer of the whole memory.
    nixl_status_t
    run(nixl_xfer_op_t operation, const Met &peer, const std::string &message = "") const {
        nixlXferReqH *request = nullptr;
        nixl_opt_args_t args;
        if (!message.empty()) args.notif = message;
        nixl_status_t status = a->createXferReq(operation, listOf({peer.local.desc()}), listOf({peer.there}),
                                                peer.process.name, request, &args);
        if (status != NIXL_SUCCESS) return status;
        status = finish(request, a->postXferReq(request));
        EXPECT_EQ(a->releaseXferReq(request), NIXL_SUCCESS) << nixlx::lastError();
        return status;
    }

    /// The N of UCX 1.N, as a report tells it.
    unsigned
    ucxMinor(const Met &peer) const {
        nixlXferReqH *request = nullptr;
        nixlx::Report report;
        require(
            a->createXferReq(NIXL_READ, listOf({peer.local.desc()}), listOf({peer.there}), peer.process.name, request),
            "create");
        require(a->getXferReport(request, report), "report");
        require(a->releaseXferReq(request), "release");
        unsigned minor = 0;
        EXPECT_EQ(std::sscanf(report.path.c_str(), "ucx 1.%u", &minor), 1) << report.path;
        return minor;
    }

    /// Zeroed memory of A, registered, valid until the test ends.
    Buffer &
    registered(size_t size) {
        Buffer &buffer = *buffers_.emplace_back(std::make_unique<Buffer>(size));
        require(a->registerMem(registrationOf({buffer.desc()})), "register at A");
        return buffer;
    }

    /// Data moves only if the peer takes part.
    static bool
    needsItsPeer() {
        return std::string(GetParam().backend) == "UCX";
    }

    static PairOptions
    options() {
        return {GetParam().backend, {}, GetParam().progress_thread};
    }

private:
    std::vector<std::unique_ptr<Buffer>> buffers_; // outlive the agent, whose transfers may still run

public:
    PairedAgent a;

private:
    std::list<Met> met_;
};

} // namespace nx::test
