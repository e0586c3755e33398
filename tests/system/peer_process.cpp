// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A process with one agent that does what the lines from its socket say; tests/support/peer_process.h starts it.
// Between the lines it makes progress. It answers each line with "ok", "ok VALUE" or "STATUS sentence".
//
//   create AGENT BACKEND PROGRESS_THREAD [NAME=VALUE ...]
//   register SIZE SEED            the address of new registered memory that holds the pattern of the seed
//   holds SEED                    whether the memory registered last holds it
//   metadata / load HEX           its metadata blob / the name of the agent whose metadata it has loaded
//   notify AGENT TEXT / received  sends a message / how many have arrived
//   post READ|WRITE AGENT ADDRESS SIZE   between the memory registered last and the agent's; does not wait
//   publish / withdraw / fetch AGENT     at the directory of NIXL_DIRECTORY; waits for the outcome
//   knows AGENT                   whether its metadata is loaded
//   fork                          leaves a child behind that holds all it holds, until the socket's other end is closed
//   quit                          destroys the agent; no answer
#include <memory>
#include <poll.h>
#include <sstream>
#include <unistd.h>
#include <vector>

#include "support/peer_process.h"

namespace nx::test {
namespace {

class Peer {
public:
    /// The answer's value. Throws std::runtime_error.
    std::string
    obey(const std::string &line) {
        std::istringstream in(line);
        std::string verb;
        in >> verb;
        if (verb == "create") return create(in);
        if (verb == "register") return registerMemory(in);
        if (verb == "holds") return holds(in);
        if (verb == "metadata") return toHex(agent_->metadata());
        if (verb == "load") return load(in);
        if (verb == "notify") return notify(in);
        if (verb == "received") return received();
        if (verb == "post") return post(in);
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
    std::vector<std::unique_ptr<Buffer>> memory_; // outlives the agent
    std::unique_ptr<PairedAgent> agent_;
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
