// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: agents of several processes meet at a folder, and notice each other's ends. Method: processes that publish and
// are killed, stopped and left behind as others start under their names.
#include <cstdlib>
#include <gtest/gtest.h>

#include "nixlx/report.h"
#include "support/peer_process.h"
#include "support/temp_dir.h"

namespace nx::test {
namespace {

class DirectoryProcesses : public testing::Test {
protected:
    DirectoryProcesses() {
        ::setenv("NIXL_METADATA_STORE", ("file://" + folder_.path().string()).c_str(), 1); // the children have it, too
        a_ = std::make_unique<PairedAgent>("A", options());
    }
    ~DirectoryProcesses() override {
        ::unsetenv("NIXL_METADATA_STORE");
    }

    static PairOptions
    options() {
        return {"UCX", {}, true};
    }

    bool
    knows(const std::string &peer) const {
        return (*a_)->checkRemoteMD(peer, nixl_xfer_dlist_t(DRAM_SEG)) == NIXL_SUCCESS;
    }

    void
    fetch(const std::string &peer) const {
        require((*a_)->fetchRemoteMD(peer), "fetch");
        require((*a_)->waitMetadata(kPatience), "wait for " + peer);
        ASSERT_TRUE(knows(peer));
    }

    const TempDir folder_;
    std::unique_ptr<PairedAgent> a_;
};

TEST_F(DirectoryProcesses, MeetBothWaysAndMoveData) {
    PeerProcess b("B", options());
    const nixlBasicDesc there = b.offer(4096, 7);
    require((*a_)->sendLocalMD(), "send");
    b.ask("fetch A");
    b.ask("publish");
    fetch("B");
    Buffer local(4096);
    require((*a_)->registerMem(registrationOf({local.desc()})), "register");
    nixlXferReqH *request = nullptr;
    require((*a_)->createXferReq(NIXL_READ, listOf({local.desc()}), listOf({there}), "B", request), "create");
    auto status = (*a_)->postXferReq(request);
    eventually([&] { return status != NIXL_IN_PROG || (status = (*a_)->getXferStatus(request)) != NIXL_IN_PROG; });
    EXPECT_EQ(status, NIXL_SUCCESS) << nixlx::lastError();
    EXPECT_TRUE(local.holds(7));
    require((*a_)->invalidateLocalMD(), "invalidate");
    EXPECT_TRUE(eventually([&] { return b.ask("knows A") == "no"; }));
    a_.reset(); // before its memory
}

TEST_F(DirectoryProcesses, APeerThatWithdrawsIsForgotten) {
    PeerProcess b("B", options());
    b.ask("publish");
    fetch("B");
    b.ask("withdraw");
    EXPECT_TRUE(eventually([&] { return !knows("B"); }));
}

TEST_F(DirectoryProcesses, APeerThatIsKilledIsForgottenAndMayReturn) {
    for (int round = 0; round < 3; ++round) {
        PeerProcess b("B", options());
        b.ask("publish");
        fetch("B");
        b.kill();
        ASSERT_TRUE(eventually([&] { return !knows("B"); })) << round;
    }
    require((*a_)->fetchRemoteMD("B"), "fetch");
    EXPECT_EQ((*a_)->waitMetadata(kPatience), NIXL_ERR_NOT_FOUND) << nixlx::lastError();
}

TEST_F(DirectoryProcesses, APeerThatLeavesAChildBehindIsForgotten) {
    PeerProcess b("B", options());
    b.ask("publish");
    fetch("B");
    b.ask("fork");
    b.kill();
    EXPECT_TRUE(eventually([&] { return !knows("B"); }));
}

TEST_F(DirectoryProcesses, AStoppedPeerStaysUntilAnotherTakesItsNameWhichIsFetched) {
    PeerProcess b("B", options());
    b.offer(4096, 7);
    b.ask("publish");
    fetch("B");
    b.signal(SIGSTOP);
    PeerProcess later("B", options());
    EXPECT_TRUE(knows("B")) << "it is stopped, not gone";
    const nixlBasicDesc there = later.offer(1 << 20, 8);
    later.ask("publish");
    EXPECT_TRUE(eventually([&] { return (*a_)->checkRemoteMD("B", listOf({there})) == NIXL_SUCCESS; }));
    b.kill();
    EXPECT_TRUE(knows("B"));
}

} // namespace
} // namespace nx::test
