// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The stores that take the suite.
#include "directories/contract.h"

#include <dlfcn.h>
#include <filesystem>
#include <poll.h>

#include "support/etcd_server.h"
#include "support/eventually.h"
#include "support/tcpstore_server.h"
#include "support/temp_dir.h"

namespace {
thread_local std::string sentence;
} // namespace

/// In place of libnixl's, so that the test sees what stores say.
nixl_status_t
nixlx::fail(nixl_status_t status, std::string text) noexcept {
    sentence = std::move(text);
    return status;
}

namespace nx::test {

namespace {

class Folder final : public Place {
public:
    std::string
    address() const override {
        return outer_ / "directory";
    }

    void
    lose() override {
        std::filesystem::rename(address(), outer_ / "elsewhere");
    }

    void
    restore() override {
        std::filesystem::rename(outer_ / "elsewhere", address());
    }

    Folder() {
        std::filesystem::create_directory(address());
    }

private:
    const TempDir outer_;
};

class Etcd final : public Place {
public:
    std::string
    address() const override {
        return server_.url();
    }

    void
    lose() override {
        server_.kill();
    }

    void
    restore() override {
        server_.start();
    }

private:
    EtcdServer server_{{"--max-request-bytes=70000000"}};
};

std::string
etcdDeviation(const std::string &claim) {
    if (claim == "BlobsHaveOneByteTo64MiB") {
        return "etcd takes 1.5 MiB unless it is told otherwise, and then seconds for 64 MiB (plugins/stores/etcd)";
    }
    return EtcdServer::missing();
}

class TcpStore final : public Place {
public:
    std::string
    address() const override {
        return server_.endpoint();
    }

    void
    lose() override {
        server_.stop();
    }

    void
    restore() override {
        server_.start();
    }

private:
    TcpStoreServer server_{TcpStoreServer::Kind::kOlder}; // the stricter one; the other in plugins/stores/tcpstore
};

std::string
tcpStoreDeviation(const std::string &claim) {
    if (claim.starts_with("TheWatch")) return "a TCPStore tells nothing";
    if (claim == "WhatAKilledProcessHasPublishedGoesWithIt" ||
        claim == "AChildThatAPublisherLeavesBehindKeepsNothing") {
        return "a TCPStore has no leases";
    }
    if (claim == "ALaterStartTakesTheNameOfAnEarlierOne" || claim == "TwoStartsThatPublishAtOnceLeaveOneWhole") {
        return "in a TCPStore the last writer of each key wins";
    }
    return "";
}

const nixlx_store_t *
storeOf(const std::string &name) {
    const std::string file = NX_PLUGIN_DIR "/libstore_" + name + ".so";
    void *library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE); // as the agent loads it
    if (!library) throw std::runtime_error(::dlerror());
    const auto init = reinterpret_cast<const nixlx_store_t *(*)()>(::dlsym(library, "nixlx_plugin_store_init"));
    if (!init) throw std::runtime_error(file + " is no store");
    return init();
}

/// An agent in this process that hosts.
class Rendezvous final : public Place {
public:
    static constexpr std::chrono::seconds kLease{2};

    std::string
    address() const override {
        return address_;
    }

    void
    lose() override {
        host_.reset();
    }

    void
    restore() override {
        nixlx::DirectoryParams params;
        params.agent = "the test's host";
        params.incarnation = {2, ++starts_};
        params.address = address_;
        params.lease = kLease;
        ::setenv("NIXL_RENDEZVOUS_LISTEN", address_.c_str(), 1);
        host_.reset(storeOf("rendezvous")->open(&params));
        ::unsetenv("NIXL_RENDEZVOUS_LISTEN");
        std::string blob;
        const auto patience = std::chrono::steady_clock::now() + kPatience;
        if (host_->fetch("nobody", "metadata", blob, patience) == NIXL_ERR_NOT_FOUND) return;
        throw std::runtime_error(sentence);
    }

    Rendezvous() {
        restore();
    }

private:
    /// Of 127.0.0.1, free a moment ago.
    static std::string
    freeAddress() {
        return TcpStoreServer(TcpStoreServer::Kind::kOlder).endpoint();
    }

    const std::string address_ = freeAddress();
    uint8_t starts_ = 0;
    std::unique_ptr<nixlx::Directory> host_;
};

std::string
storeName(const testing::TestParamInfo<StoreUnderTest> &info) {
    return info.param.name;
}

} // namespace

std::string
takeSentence() {
    return std::exchange(sentence, {});
}

void
DirectoryContract::SetUp() {
    const std::string test = testing::UnitTest::GetInstance()->current_test_info()->name();
    const std::string deviation = GetParam().deviation(test.substr(0, test.find('/')));
    if (!deviation.empty()) GTEST_SKIP() << deviation;
    store_ = storeOf(GetParam().name);
    place_ = GetParam().place();
}

std::unique_ptr<nixlx::Directory>
DirectoryContract::start(const std::string &agent) {
    nixlx::DirectoryParams params;
    params.agent = agent;
    params.address = place_->address();
    params.incarnation = {1, ++starts_};
    params.lease = GetParam().lease;
    (void)takeSentence();
    return std::unique_ptr<nixlx::Directory>(store_->open(&params));
}

DirectoryContract::Deadline
DirectoryContract::soon() {
    return std::chrono::steady_clock::now() + kPatience;
}

std::chrono::milliseconds
DirectoryContract::leaseAndMore() const {
    return GetParam().lease + kPatience;
}

nixl_status_t
DirectoryContract::publish(nixlx::Directory &directory, const std::string &label, std::string_view blob) {
    (void)takeSentence();
    return directory.publish(label, blob, soon());
}

std::string
DirectoryContract::found(nixlx::Directory &reader, const std::string &agent, const std::string &label) {
    std::string blob = "untouched";
    (void)takeSentence();
    const auto status = reader.fetch(agent, label, blob, soon());
    if (status == NIXL_SUCCESS) return blob;
    EXPECT_EQ(blob, "untouched") << "a failing call writes nothing";
    EXPECT_NE(takeSentence(), "") << "a failing call explains itself";
    return nixlEnumStrings::statusStr(status);
}

std::vector<std::string>
DirectoryContract::ended(nixlx::Directory &reader, std::chrono::milliseconds patience) {
    auto *watch = static_cast<nixlx::DirectoryWatch *>(
        reader.ability(nixlx::DirectoryWatch::kName, nixlx::DirectoryWatch::kVersion));
    if (!watch) throw std::runtime_error("the store does not watch");
    std::vector<nixlx::DirectoryEnd> ends;
    eventually(
        [&] {
            pollfd readable{watch->descriptor(), POLLIN, 0};
            if (::poll(&readable, 1, 0) == 1) {
                EXPECT_EQ(watch->takeEnded(ends), NIXL_SUCCESS);
            }
            return !ends.empty();
        },
        patience);
    std::vector<std::string> agents;
    for (const auto &end : ends) {
        EXPECT_FALSE(end.why.empty());
        agents.push_back(end.agent);
    }
    return agents;
}

INSTANTIATE_TEST_SUITE_P(Stores,
                         DirectoryContract,
                         testing::Values(StoreUnderTest{.name = "file",
                                                        .place = [] { return std::make_unique<Folder>(); }},
                                         StoreUnderTest{.name = "etcd",
                                                        .place = [] { return std::make_unique<Etcd>(); },
                                                        .lease = std::chrono::seconds(1),
                                                        .kills = 2,
                                                        .deviation = etcdDeviation},
                                         StoreUnderTest{.name = "rendezvous",
                                                        .place = [] { return std::make_unique<Rendezvous>(); },
                                                        .lease = Rendezvous::kLease,
                                                        .kills = 5},
                                         StoreUnderTest{.name = "tcpstore",
                                                        .place = [] { return std::make_unique<TcpStore>(); },
                                                        .deviation = tcpStoreDeviation}),
                         storeName);

} // namespace nx::test
