// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A process with one agent that does what the lines from its socket say; tests/support/peer_process.h starts it.
// Between the lines it makes progress. It answers each line with "ok", "ok VALUE" or "STATUS sentence".
//
//   create AGENT BACKEND PROGRESS_THREAD [NAME=VALUE ...]
//   register SIZE SEED            the address of new registered memory that holds the pattern of the seed
//   share SIZE SEED               the same in memory that peers can map (nixlx/memory.h)
//   another AGENT                 its metadata: one more agent, which has registered the memory registered last
//   holds SEED                    whether the memory registered last holds it
//   metadata / load HEX           its metadata blob / the name of the agent whose metadata it has loaded
//   notify AGENT TEXT / received  sends a message / how many have arrived
//   post READ|WRITE AGENT ADDRESS SIZE   between the memory registered last and the agent's; does not wait
//   storm AGENT ADDRESS SIZE      writes the memory registered last there, again and again, each with a notification
//   calm                          ends that: how many were done; "STATUS" behind it if the last was refused
//   publish / withdraw / fetch AGENT     at the directory of NIXL_METADATA_STORE; waits for the outcome
//   knows AGENT                   whether its metadata is loaded
//   fork                          leaves a child behind that holds all it holds, until the socket's other end is closed
//   quit                          destroys the agent; no answer
#include <atomic>
#include <memory>
#include <poll.h>
#include <sstream>
#include <thread>
#include <unistd.h>
#include <vector>

#include "nixlx/memory.h"
#include "support/peer_process.h"

namespace nx::test {
namespace {

class Peer {
public:
    ~Peer() {
        stop_ = true;
        if (storm_.joinable()) storm_.join();
    }

    /// The answer's value. Throws std::runtime_error.
    std::string
    obey(const std::string &line) {
        std::istringstream in(line);
        std::string verb;
        in >> verb;
        if (verb == "create") return create(in);
        if (verb == "register") return registerMemory(in);
        if (verb == "share") return share(in);
        if (verb == "another") return another(in);
        if (verb == "holds") return holds(in);
        if (verb == "metadata") return toHex(agent_->metadata());
        if (verb == "load") return load(in);
        if (verb == "notify") return notify(in);
        if (verb == "received") return received();
        if (verb == "post") return post(in);
        if (verb == "storm") return storm(in);
        if (verb == "calm") return calm();
        if (verb == "publish") return settled((*agent_)->sendLocalMD());
        if (verb == "withdraw") return settled((*agent_)->invalidateLocalMD());
        if (verb == "fetch") return fetch(in);
        if (verb == "knows") return knows(in);
        if (verb == "fork") return leaveChild();
        throw std::runtime_error("what is " + verb + "?");
    }

    void
    progress() {
        if (agent_ && agent_->agent) (*agent_)->getNotifs(agent_->inbox);
    }

    bool
    needsProgress() const {
        return agent_ && !options_.progress_thread;
    }

private:
    std::string
    create(std::istringstream &in) {
        std::string name, param;
        in >> name >> options_.backend >> options_.progress_thread;
        while (in >> param) {
            const size_t equals = param.find('=');
            options_.params[param.substr(0, equals)] = param.substr(equals + 1);
        }
        agent_ = std::make_unique<PairedAgent>(name, options_);
        return "";
    }

    std::string
    registerMemory(std::istringstream &in) {
        size_t size = 0;
        uint64_t seed = 0;
        in >> size >> seed;
        memory_.push_back(std::make_unique<Buffer>(size));
        memory_.back()->fill(seed);
        require((*agent_)->registerMem(registrationOf({memory_.back()->desc()})), "register");
        return std::to_string(memory_.back()->address());
    }

    std::string
    share(std::istringstream &in) {
        size_t size = 0;
        uint64_t seed = 0;
        in >> size >> seed;
        shared_.emplace_back(nixlx::allocShared(size), nixlx::freeShared);
        const auto address = reinterpret_cast<uintptr_t>(shared_.back().get());
        if (!address) throw std::runtime_error("no shareable memory");
        Buffer pattern(size);
        pattern.fill(seed);
        std::memcpy(shared_.back().get(), pattern.data(), size);
        require((*agent_)->registerMem(registrationOf({{address, size, 0}})), "register");
        return std::to_string(address);
    }

    std::string
    another(std::istringstream &in) {
        std::string name;
        in >> name;
        auto &agent = *others_.emplace_back(std::make_unique<PairedAgent>(name, options_));
        require(agent->registerMem(registrationOf({memory_.back()->desc()})), "register");
        return toHex(agent.metadata());
    }

    std::string
    holds(std::istringstream &in) const {
        uint64_t seed = 0;
        in >> seed;
        return memory_.back()->holds(seed) ? "yes" : "no";
    }

    std::string
    load(std::istringstream &in) const {
        std::string hex, loaded;
        in >> hex;
        require((*agent_)->loadRemoteMD(fromHex(hex), loaded), "load");
        return loaded;
    }

    std::string
    fetch(std::istringstream &in) const {
        std::string from;
        in >> from;
        return settled((*agent_)->fetchRemoteMD(from));
    }

    std::string
    knows(std::istringstream &in) const {
        std::string peer;
        in >> peer;
        return (*agent_)->checkRemoteMD(peer, nixl_xfer_dlist_t(DRAM_SEG)) == NIXL_SUCCESS ? "yes" : "no";
    }

    /// What a call that exchanges metadata came to.
    std::string
    settled(nixl_status_t begun) const {
        require(begun, "begin");
        require((*agent_)->waitMetadata(kPatience), "wait");
        return "";
    }

    std::string
    notify(std::istringstream &in) const {
        std::string to, text;
        in >> to >> text;
        require((*agent_)->genNotif(to, text), "notify");
        return "";
    }

    std::string
    received() const {
        size_t count = 0;
        for (const auto &[sender, messages] : agent_->inbox) count += messages.size();
        return std::to_string(count);
    }

    std::string
    post(std::istringstream &in) const {
        std::string operation, to;
        nixlBasicDesc there(0, 0, 0);
        in >> operation >> to >> there.addr >> there.len;
        nixlXferReqH *request = nullptr;
        require((*agent_)->createXferReq(operation == "READ" ? NIXL_READ : NIXL_WRITE,
                                         listOf({memory_.back()->desc(0, there.len)}), listOf({there}), to, request),
                "create");
        if ((*agent_)->postXferReq(request) < 0) require(NIXL_ERR_BACKEND, "post");
        return "";
    }

    std::string
    storm(std::istringstream &in) {
        std::string to;
        nixlBasicDesc there(0, 0, 0);
        in >> to >> there.addr >> there.len;
        nixlXferReqH *request = nullptr;
        require((*agent_)->createXferReq(NIXL_WRITE, listOf({memory_.back()->desc(0, there.len)}), listOf({there}), to,
                                         request),
                "create");
        stop_ = false;
        storm_ = std::thread([this, request] { writeAgainAndAgain(request); });
        return "";
    }

    void
    writeAgainAndAgain(nixlXferReqH *request) {
        nixl_opt_args_t args;
        for (done_ = 0, status_ = NIXL_SUCCESS; !stop_ && status_ == NIXL_SUCCESS; ++done_) {
            args.notif = std::to_string(done_);
            status_ = (*agent_)->postXferReq(request, &args);
            while (status_ == NIXL_IN_PROG) status_ = (*agent_)->getXferStatus(request);
            if (status_ != NIXL_SUCCESS) return;
        }
    }

    std::string
    calm() {
        stop_ = true;
        storm_.join();
        return std::to_string(done_) + (status_ == NIXL_SUCCESS ? "" : " " + nixlEnumStrings::statusStr(status_));
    }

    static std::string
    leaveChild() {
        const pid_t child = fork();
        if (child < 0) throw std::runtime_error("fork");
        if (child > 0) return "";
        pollfd hung_up{PeerProcess::kPeerSocket, 0, 0};
        ::poll(&hung_up, 1, -1);
        _exit(0);
    }

    PairOptions options_;
    std::vector<std::unique_ptr<Buffer>> memory_; // outlives the agents
    std::vector<std::unique_ptr<void, void (*)(void *)>> shared_;
    std::unique_ptr<PairedAgent> agent_;
    std::vector<std::unique_ptr<PairedAgent>> others_;
    std::atomic<bool> stop_{false};
    uint64_t done_ = 0; // the thread's while it runs, like status_
    nixl_status_t status_ = NIXL_SUCCESS;
    std::thread storm_;
};

int
serve(int socket) {
    Peer peer;
    for (std::string line;;) {
        pollfd readable{socket, POLLIN, 0};
        while (::poll(&readable, 1, peer.needsProgress() ? 0 : -1) == 0) peer.progress();
        peer.progress();
        if (!readLine(socket, line, kPatience) || line == "quit") return 0;
        std::string answer;
        try {
            answer = peer.obey(line);
            answer = answer.empty() ? "ok" : "ok " + answer;
        }
        catch (const std::exception &error) {
            answer = error.what();
        }
        if (!writeLine(socket, answer)) return 0;
    }
}

} // namespace
} // namespace nx::test

int
main() {
    return nx::test::serve(nx::test::PeerProcess::kPeerSocket);
}
