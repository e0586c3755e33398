// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The suites that show what a backend does, through the public API only. Each test is a claim, named by its test:
//
//   Any      holds for every backend: what it registers, moves and refuses, and how requests end
//   Remote   for one that reaches other agents: metadata, notifications, peers that come and go
//   Storage  for one with files, objects or block devices
//
// A backend joins with one line in its build file (nixl_add_contract, cmake/NixlContract.cmake), which names the suites
// that it passes. What more there is to say about it says backendUnderTest(): how a store is made, and the claims that
// do not hold for it by its nature, each with a sentence that is shown and counted when the test is skipped.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "support/agent_pair.h"

namespace nx::test {

/// Something that keeps bytes when nobody has it registered.
struct Store {
    nixlBlobDesc registration;   ///< device id and name; address and length are the test's to choose
    nixl_blob_t query_name = {}; ///< what queryMem is asked by; empty: the name of the registration
};

/// One kind of store that a backend works with, and how a test comes by such stores.
struct StoreKind {
    std::string name; ///< one word, part of the test's name: "File"
    nixl_mem_t memory = FILE_SEG;
    /// Makes an empty store that takes `size` bytes, different from all others that exist. It is destroyed when nobody
    /// has it registered. Both throw an exception if they cannot.
    std::function<Store(size_t size)> make;
    std::function<void(const Store &)> destroy = [](const Store &) {};
    /// It has no end but its size: what was never written is there and reads as something. True for block devices.
    bool has_no_end = false;

    // What a backend may leave out, the sentence of its deviation being "a test cannot make a store that ...".

    std::function<Store()> missing = {}; ///< names a store that does not exist
    /// A store that holds `contents` and cannot be written by this process.
    std::function<Store(const std::string &contents)> make_read_only = {};
    /// A store that takes no byte more.
    std::function<Store()> make_full = {};
};

/// What a request of agent A moves data to and from in the suite Any.
enum class Reach {
    kPeer,   ///< memory of agent B, for a backend that passes Remote
    kStore,  ///< a store, for a backend that passes Storage
    kWithin, ///< memory of A itself, for a backend that passes neither
};

/// How a suite is run: the parameter of its tests.
struct Mode {
    bool progress_thread = false;
    Reach reach = Reach::kPeer;
    StoreKind store = {}; ///< if the reach is kStore
};

void
PrintTo(const Mode &mode, std::ostream *out);

/// A claim is the name of a test: "Any.MovesEverySizeFromEveryAlignment".
struct BackendUnderTest {
    nixl_b_params_t params = {};
    std::vector<StoreKind> stores = {};
    /// Without a progress thread data moves only while the target calls into its agent too.
    bool target_must_call = false;
    /// Why the claim does not hold for this backend in this mode; empty if it does.
    std::function<std::string(const std::string &claim, const Mode &mode)> deviation = [](const std::string &,
                                                                                          const Mode &) { return ""; };
};

/// Defined by the backend in a source of its own, or as BackendUnderTest{} for one that gives none.
BackendUnderTest
backendUnderTest();

/// A pair of agents with the backend, not yet introduced to each other.
class Contract : public testing::TestWithParam<Mode> {
protected:
    void
    SetUp() override;
    void
    TearDown() override;

    static const BackendUnderTest &
    backend();

    static PairOptions
    options();

    static bool
    targetMustCall() {
        return backend().target_must_call && !GetParam().progress_thread && GetParam().reach == Reach::kPeer;
    }

    /// A new buffer that outlives both agents: a test that fails may leave transfers running.
    Buffer &
    buffer(size_t size) {
        return *buffers_.emplace_back(std::make_unique<Buffer>(size));
    }

    static void
    registerAt(PairedAgent &agent, std::initializer_list<nixlBasicDesc> ranges) {
        require(agent->registerMem(registrationOf(ranges)), "register at " + agent.name);
    }

    nixlDlistH *
    prepare(const std::string &agent, const nixl_xfer_dlist_t &list) {
        nixlDlistH *handle = nullptr;
        require(pair->a->prepXferDlist(agent, list, handle), "prepare a list of '" + agent + "'");
        return handle;
    }

private:
    std::vector<std::unique_ptr<Buffer>> buffers_;

protected:
    std::unique_ptr<AgentPair> pair; // behind the buffers: it goes first
};

class Remote : public Contract {
protected:
    /// A request of A between the whole of two registered buffers, all known already.
    nixlXferReqH *
    makeRequest(nixl_xfer_op_t operation,
                const nixl_xfer_dlist_t &local,
                const nixl_xfer_dlist_t &remote,
                const nixl_opt_args_t *args = nullptr) {
        nixlXferReqH *request = nullptr;
        require(pair->a->createXferReq(operation, local, remote, pair->b.name, request, args), "create");
        return request;
    }
};

/// A store of one test, and what it is registered as. Destroyed with the test, after the agents.
class OwnedStore {
public:
    OwnedStore(const StoreKind &kind, Store store) : kind_(kind), store_(std::move(store)) {}
    ~OwnedStore() {
        kind_.destroy(store_);
    }
    OwnedStore(const OwnedStore &) = delete;
    OwnedStore &
    operator=(const OwnedStore &) = delete;

    /// `length` 0: all of it, also what it does not hold yet.
    nixl_reg_dlist_t
    registration(size_t offset = 0, size_t length = 0) const {
        nixl_reg_dlist_t list(kind_.memory);
        list.addDesc(nixlBlobDesc(offset, length, device(), store_.registration.metaInfo));
        return list;
    }

    nixlBasicDesc
    desc(size_t offset, size_t length) const {
        return {offset, length, device()};
    }

    nixl_xfer_dlist_t
    list(size_t offset, size_t length) const {
        return listOf({desc(offset, length)}, kind_.memory);
    }

    /// What queryMem is asked by.
    nixlBlobDesc
    question() const {
        const nixl_blob_t &name = store_.query_name;
        return {0, 0, device(), name.empty() ? store_.registration.metaInfo : name};
    }

private:
    uint64_t
    device() const {
        return store_.registration.devId;
    }

    const StoreKind kind_;
    const Store store_;
};

/// What requests of A move data to and from, with an image in memory: for memory the image is the memory itself, a
/// store is written from it and read into it.
class FarSide {
public:
    using Ranges = std::vector<std::pair<size_t, size_t>>; ///< offset and length of each

    FarSide(AgentPair &pair, const Mode &mode, Buffer &image, const Ranges &ranges);

    Buffer &
    image() const {
        return image_;
    }

    /// Brings the image into the store, and what the store holds into the image. Nothing to do where it is memory.
    void
    push() const;
    void
    pull() const;

    /// Takes back what was registered.
    nixl_status_t
    deregister() const;

    nixlBasicDesc
    desc(size_t offset, size_t length) const {
        return store_ ? store_->desc(offset, length) : image_.desc(offset, length);
    }

    nixlBasicDesc
    desc() const {
        return desc(0, image_.size());
    }

    nixl_xfer_dlist_t
    list(std::initializer_list<nixlBasicDesc> descs) const {
        return listOf(descs, memory());
    }

    /// All of it.
    nixl_xfer_dlist_t
    list() const {
        return list({desc()});
    }

    nixl_mem_t
    memory() const {
        return store_ ? mode_.store.memory : DRAM_SEG;
    }

    const std::string &
    agent() const {
        return owner().name;
    }

private:
    void
    moveImage(nixl_xfer_op_t operation) const;

    const PairedAgent &
    owner() const {
        return mode_.reach == Reach::kPeer ? pair_.b : pair_.a;
    }

    AgentPair &pair_;
    const Mode mode_;
    Buffer &image_;
    std::optional<OwnedStore> store_;
    nixl_reg_dlist_t registered_;
};

class Any : public Contract {
protected:
    /// What A's requests move data to and from: registered as `ranges` if it is memory, as a whole if it is a store,
    /// and known to A. A store holds the image, which is all zeros.
    FarSide &
    farSide(size_t size, const FarSide::Ranges &ranges);

    FarSide &
    farSide(size_t size) {
        return farSide(size, {{0, size}});
    }

    nixlXferReqH *
    makeRequest(nixl_xfer_op_t operation, const nixl_xfer_dlist_t &local, const nixl_xfer_dlist_t &far) {
        nixlXferReqH *request = nullptr;
        require(pair->a->createXferReq(operation, local, far, farAgent(), request), "create");
        return request;
    }

    static std::string
    farAgent() {
        return GetParam().reach == Reach::kPeer ? "B" : "A";
    }

    /// Before the agents are replaced.
    void
    forgetFarSides() {
        pair.reset();
        far_sides_.clear();
    }

private:
    std::vector<std::unique_ptr<FarSide>> far_sides_;
};

class Storage : public Contract {
protected:
    OwnedStore &
    store(Store made) {
        return *stores_.emplace_back(std::make_unique<OwnedStore>(kind(), std::move(made)));
    }

    /// A new store that takes `size` bytes.
    OwnedStore &
    store(size_t size) {
        return store(kind().make(size));
    }

    static const StoreKind &
    kind() {
        return GetParam().store;
    }

    nixlXferReqH *
    makeRequest(nixl_xfer_op_t operation, const nixl_xfer_dlist_t &local, const nixl_xfer_dlist_t &places) {
        nixlXferReqH *request = nullptr;
        require(pair->a->createXferReq(operation, local, places, "A", request), "create");
        return request;
    }

    /// Makes a request of A, runs it to its end and releases it.
    nixl_status_t
    move(nixl_xfer_op_t operation, const nixl_xfer_dlist_t &local, const nixl_xfer_dlist_t &places) {
        nixlXferReqH *request = makeRequest(operation, local, places);
        const nixl_status_t status = pair->run(request);
        EXPECT_EQ(pair->a->getXferReport(request, report), NIXL_SUCCESS);
        EXPECT_EQ(pair->a->releaseXferReq(request), NIXL_SUCCESS);
        return status;
    }

    nixlx::Report report; ///< of the last move()

private:
    std::vector<std::unique_ptr<OwnedStore>> stores_;
};

} // namespace nx::test
