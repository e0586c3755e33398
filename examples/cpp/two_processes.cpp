// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Two processes: the initiator reads a buffer of the target's, row by row. Metadata goes through the agents' listeners.
//
//     two_processes --mode target                   # listens at port 5555, or --port N
//     two_processes --mode initiator                # in another terminal, or with --ip A.B.C.D on another machine
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "nixl.h"
#include "utils/serdes/serdes.h"

namespace {

constexpr size_t kRows = 10, kColumns = 16;
constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kAskAgain = std::chrono::seconds(3);
constexpr const char *kUsage = "usage: two_processes --mode target|initiator [--ip 127.0.0.1] [--port 5555]";

struct WrongArguments : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Options {
    std::string mode;
    std::string ip = "127.0.0.1";
    uint16_t port = 5555;
};

uint16_t
portOf(std::string_view text) {
    uint16_t port = 0;
    const auto [end, error] = std::from_chars(text.begin(), text.end(), port);
    if (error != std::errc() || end != text.end() || port == 0) {
        throw WrongArguments("'" + std::string(text) + "' is no port; it must be 1 to 65535");
    }
    return port;
}

Options
parse(int count, char **arguments) {
    Options options;
    for (int i = 1; i < count; i += 2) {
        const std::string_view name = arguments[i];
        if (i + 1 == count) throw WrongArguments("'" + std::string(name) + "' needs a value");
        if (name == "--mode") {
            options.mode = arguments[i + 1];
        } else if (name == "--ip") {
            options.ip = arguments[i + 1];
        } else if (name == "--port") {
            options.port = portOf(arguments[i + 1]);
        } else {
            throw WrongArguments("there is no option '" + std::string(name) + "'");
        }
    }
    if (options.mode != "target" && options.mode != "initiator") {
        throw WrongArguments("--mode must be target or initiator");
    }
    return options;
}

/// Turns a failed call into an exception that says what NIXL said.
void
check(nixl_status_t status) {
    if (status < 0) throw std::runtime_error(nixlx::lastError() + " (" + nixlEnumStrings::statusStr(status) + ")");
}

/// The same of a call that waited, until `event` or for 60 s.
void
checkInTime(nixl_status_t status, const std::string &event) {
    check(status);
    if (status == NIXL_IN_PROG) throw std::runtime_error(event + " did not come in 60 s");
}

/// Calls `done` until it is true: nothing tells of metadata that a peer sends.
void
waitFor(const std::string &event, const std::function<bool()> &done) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!done()) {
        if (std::chrono::steady_clock::now() > end) throw std::runtime_error(event + " did not happen in 60 s");
        std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
}

/// One of the two: an agent that listens, with one registered matrix.
class Peer {
public:
    Peer(const std::string &name, uint16_t listen_port, float content)
        : agent_(name, nixlAgentConfig(true, true, listen_port)),
          matrix_(kRows * kColumns, content) {
        nixlBackendH *backend;
        check(agent_.createBackend("UCX", {}, backend));
        registered_.addDesc(
            nixlBlobDesc(reinterpret_cast<uintptr_t>(matrix_.data()), matrix_.size() * sizeof(float), 0, ""));
        check(agent_.registerMem(registered_));
    }

    void
    serveAsTarget() {
        waitFor("the visit of an initiator", [&] { return knows("initiator"); });
        // The initiator does not know our addresses. Notifications travel over the backend, like the data.
        nixlSerDes bytes;
        check(rows().serialize(&bytes));
        check(agent_.genNotif("initiator", bytes.exportStr()));
        const nixl_blob_t message = nextMessage("initiator");
        if (message != "Done_reading") throw std::runtime_error("the initiator sent '" + message + "'");
        std::cout << "target: the initiator has read the matrix\n";
        leave("initiator");
    }

    void
    readAsInitiator(const Options &options) {
        meetTarget(options, {DRAM_SEG});
        nixlSerDes bytes;
        check(bytes.importStr(nextMessage("target")));
        const nixl_xfer_dlist_t target_rows(&bytes);
        meetTarget(options, target_rows); // it answers from the moment it listens, perhaps before it has registered

        nixl_opt_args_t arguments;
        arguments.notif = "Done_reading"; // goes out after the data was read
        nixlXferReqH *request;
        check(agent_.createXferReq(NIXL_READ, rows(), target_rows, "target", request, &arguments));
        check(agent_.postXferReq(request));
        checkInTime(agent_.waitXfer(request, kPatience), "the end of the transfer");
        if (!std::ranges::all_of(matrix_, [](float number) { return number == 1; })) {
            throw std::runtime_error("not every number arrived");
        }
        std::cout << "initiator: all " << matrix_.size() << " numbers arrived\n";
        check(agent_.releaseXferReq(request));
        leave("target");
    }

private:
    bool
    knows(const std::string &name, const nixl_xfer_dlist_t &memory = {DRAM_SEG}) const {
        return agent_.checkRemoteMD(name, memory) == NIXL_SUCCESS;
    }

    /// Asks the target's listener for its metadata and sends it ours, until this memory of the target is known; again
    /// and again, since it may start after us.
    void
    meetTarget(const Options &options, const nixl_xfer_dlist_t &memory) {
        nixl_opt_args_t where;
        where.ipAddr = options.ip;
        where.port = options.port;
        auto next_try = std::chrono::steady_clock::now();
        waitFor("an answer of the target at " + options.ip + ":" + std::to_string(options.port), [&] {
            if (knows("target", memory)) return true;
            if (std::chrono::steady_clock::now() < next_try) return false;
            check(agent_.fetchRemoteMD("target", &where));
            check(agent_.sendLocalMD(&where));
            next_try += kAskAgain;
            return false;
        });
    }

    nixl_blob_t
    nextMessage(const std::string &sender) {
        nixl_notifs_t messages;
        checkInTime(agent_.waitNotifs(messages, kPatience), "a notification of the " + sender);
        return messages.at(sender).front();
    }

    nixl_xfer_dlist_t
    rows() const {
        nixl_xfer_dlist_t list(DRAM_SEG);
        for (size_t i = 0; i < kRows; ++i) {
            list.addDesc(
                nixlBasicDesc(reinterpret_cast<uintptr_t>(&matrix_[i * kColumns]), kColumns * sizeof(float), 0));
        }
        return list;
    }

    void
    leave(const std::string &peer) {
        check(agent_.invalidateRemoteMD(peer));
        check(agent_.deregisterMem(registered_));
    }

    nixlAgent agent_;
    std::vector<float> matrix_;
    nixl_reg_dlist_t registered_{DRAM_SEG};
};

} // namespace

int
main(int count, char **arguments) {
    try {
        const Options options = parse(count, arguments);
        if (options.mode == "target") {
            Peer(options.mode, options.port, 1).serveAsTarget();
        } else {
            Peer(options.mode, 0, 0).readAsInitiator(options); // port 0: the system chooses, nobody needs to know
        }
    }
    catch (const WrongArguments &error) {
        std::cerr << "two_processes: " << error.what() << "\n" << kUsage << "\n";
        return 2;
    }
    catch (const std::exception &error) {
        std::cerr << "two_processes: " << error.what() << "\n";
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
