// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: no address or key that passes the check ends the process that hands it to UCX, nor the peer it leads to.
// Method: damage genuine ones in many reproducible ways and use what is accepted, in child processes whose deaths are
// counted. A program of its own, since children need a parent without UCX in it. NIXL_UCX_LIBRARY chooses the UCX,
// UCX_* configures it; NIXL_UCX_MUTATIONS=n tries n instead of a few, NIXL_UCX_FIRST_MUTATION=m begins with the m-th.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <random>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/eventually.h"
#include "ucx/address.h"
#include "ucx/connection.h"
#include "ucx/driver.h"
#include "ucx/options.h"

namespace nx::ucx {
namespace {

constexpr std::chrono::milliseconds kPatience{20}; ///< with a peer that may not answer

constexpr uint32_t kReadsOfAProcess = 40, kReadsOfAWorker = 8;

enum class Damaged { kAddress, kKey };

struct Case {
    Fabric fabric;
    Damaged damaged;
    const char *address_version;
};

/// What the processes of a test share.
struct Shared {
    std::atomic<uint32_t> next{0};     ///< the mutation that is tried
    std::atomic<uint32_t> accepted{0}; ///< passed the check
    std::atomic<uint32_t> connected{0};
    std::atomic<uint32_t> served{0}; ///< all operations ended
    std::atomic<bool> peer_ready{false};
    pid_t peer;
    uint32_t address_bytes, key_bytes;
    char address[4096], key[4096];
    uint64_t memory;
};

class NoSink final : public MessageSink {
public:
    void
    arrived(std::string_view) override {}
    void
    refused(const char *) override {}
    bool
    asked(Worker &, std::string_view, void *) override {
        return false;
    }
    void
    giveBack(Worker &) noexcept override {}
};

/// UCX as an engine sets it up, on the loopback interface: damaged addresses must not lead to other machines.
struct Node {
    explicit Node(const Case &which) {
        setenv("UCX_ADDRESS_VERSION", which.address_version, 1);
        setenv("UCX_LOG_LEVEL", "fatal", 0);
        setenv("UCX_HANDLE_ERRORS", "none", 0);
        Options options;
        options.devices = {"lo"};
        options.library.path = nixlx::configValue("NIXL_UCX_LIBRARY").value_or("");
        auto library = Library::load(options.library);
        if (!library.ok()) abandon(library.message());
        const bool local = which.fabric == Fabric::kLocal;
        const unsigned version = (*library)->minorVersion();
        auto made = Context::create(
            **library, {"node", local ? localSettings(options, version) : plainSettings(options, version)});
        if (!made.ok()) abandon(made.message());
        context = *std::move(made);
        makeWorker();
        auto mapped = context->map(memory, sizeof memory);
        if (!mapped.ok()) abandon(mapped.message());
        mapping = *std::move(mapped);
    }

    /// The one before stays for ever: UCX may not let go of it.
    void
    makeWorker() {
        auto created = Worker::create(*context, "node:0", sink);
        if (!created.ok()) abandon(created.message());
        worker = (*std::move(created)).release();
    }

    [[noreturn]] static void
    abandon(const std::string &why) {
        std::fprintf(stderr, "hostile test: %s\n", why.c_str());
        _exit(1);
    }

    alignas(64) char memory[256]{};
    NoSink sink;
    std::unique_ptr<Context> context;
    Worker *worker = nullptr;
    Mapping mapping;
};

/// The `seed`-th way to damage `genuine`: bytes changed, moved, or cut out together with the length before them.
std::string
damaged(const std::string &genuine, uint32_t seed) {
    constexpr char kEdges[] = {'\x00', '\x01', '\x7f', '\x80', '\xff'};
    std::mt19937 random(seed);
    std::string bytes = genuine;
    const auto anywhere = [&] { return random() % bytes.size(); };
    switch (seed % 6) {
    case 0: bytes[anywhere()] ^= static_cast<char>(1u << random() % 8); break;
    case 1: bytes[anywhere()] = static_cast<char>(random()); break;
    case 2: bytes[anywhere()] = kEdges[random() % std::size(kEdges)]; break;
    case 3:
        for (auto count = 2 + random() % 3; count > 0; --count) bytes[anywhere()] = static_cast<char>(random());
        break;
    case 4: bytes.replace(anywhere(), 2, genuine.substr(anywhere(), 2)); break;
    case 5:
        for (int tries = 0; tries < 100; ++tries) {
            const size_t at = anywhere();
            const unsigned length = static_cast<unsigned char>(bytes[at]) & 0x1f;
            if (length == 0 || length > bytes.size() - at - 1) continue;
            const unsigned cut = random() % 2 ? length : 1 + random() % length;
            bytes[at] = static_cast<char>(bytes[at] - static_cast<char>(cut));
            bytes.erase(at + 1 + length - cut, cut);
            break;
        }
    }
    return bytes;
}

/// Lock held. The other process may need this processor.
void
step(Worker &worker) {
    if (!worker.progress()) sched_yield();
}

/// Gives its address and key away and serves whoever comes, until it is killed.
[[noreturn]] void
servePeer(const Case &which, Shared &shared) {
    Node &node = *new Node(which);
    shared.address_bytes = static_cast<uint32_t>(node.worker->address().copy(shared.address, sizeof shared.address));
    shared.key_bytes = static_cast<uint32_t>(node.mapping.key.copy(shared.key, sizeof shared.key));
    shared.memory = reinterpret_cast<uint64_t>(node.memory);
    shared.peer_ready = true;
    std::lock_guard lock(node.worker->mutex());
    for (;;) step(*node.worker);
}

class Finish final : public Operation {
public:
    void
    finished(Code) noexcept override {
        --pending;
    }
    int pending = 0;
};

void
use(Node &node, Shared &shared, const std::string &address, const std::string &key) {
    Finish &finish = *new Finish; // outlives what UCX keeps of it
    static const std::string message(100, 'm');
    std::unique_lock lock(node.worker->mutex());
    auto endpoint = Endpoint::create(*node.worker, address, true);
    if (endpoint.ok()) {
        ++shared.connected;
        Endpoint &to = **endpoint;
        const auto start = [&](Code code) { finish.pending += code == kPending; };
        start(to.send(message, finish));
        const auto unpacked = to.unpackKey(key);
        if (unpacked.ok()) {
            start(to.put(node.memory, 64, shared.memory, *unpacked, node.mapping, finish));
            start(to.get(node.memory + 64, 64, shared.memory + 64, *unpacked, node.mapping, finish));
        }
        start(to.flush(finish));
        const auto end = std::chrono::steady_clock::now() + kPatience;
        while (finish.pending > 0 && std::chrono::steady_clock::now() < end) step(*node.worker);
        if (finish.pending == 0) ++shared.served;
        to.close(false);
        lock.unlock();
        if (unpacked.ok()) releaseKey(*node.worker, *unpacked);
        lock.lock();
    }
    for (int i = 0; i < 20; ++i) node.worker->progress();
    lock.unlock(); // the endpoint's end takes it
}

[[noreturn]] void
readDamaged(const Case &which, Shared &shared, uint32_t count) {
    Node &node = *new Node(which);
    const std::string address(shared.address, shared.address_bytes), key(shared.key, shared.key_bytes);
    const uint32_t end = std::min(count, shared.next + kReadsOfAProcess);
    for (uint32_t i = shared.next; i < end; ++i) {
        shared.next = i;
        alarm(10); // one that hangs counts as a death
        const bool of_address = which.damaged == Damaged::kAddress;
        const std::string bytes = damaged(of_address ? address : key, i);
        const std::string &used_address = of_address ? bytes : address, &used_key = of_address ? key : bytes;
        if (!checkAddress(used_address).ok() || !checkKey(used_key, segmentDomains(used_address)).ok()) continue;
        ++shared.accepted;
        if (i % kReadsOfAWorker == 0) node.makeWorker();
        use(node, shared, used_address, used_key);
    }
    shared.next = end;
    kill(shared.peer, SIGKILL); // first, so that it need not deal with the end of this process
    _exit(0);
}

template<class Body>
pid_t
inChild(Body body) {
    const pid_t child = fork();
    if (child != 0) return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    body();
    _exit(0);
}

std::string
describe(const Case &which, const Shared &shared, int status) {
    const bool of_address = which.damaged == Damaged::kAddress;
    const std::string genuine(of_address ? shared.address : shared.key,
                              of_address ? shared.address_bytes : shared.key_bytes);
    const std::string bytes = damaged(genuine, shared.next);
    std::string text = "mutation " + std::to_string(shared.next) + ": status " + std::to_string(status) + ":";
    if (bytes.size() != genuine.size()) text += " length " + std::to_string(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) {
        if (bytes[i] == genuine[i]) continue;
        char change[64];
        std::snprintf(change, sizeof change, " [%zu] %02x -> %02x", i, static_cast<unsigned char>(genuine[i]),
                      static_cast<unsigned char>(bytes[i]));
        text += change;
    }
    return text;
}

class Hostile : public testing::TestWithParam<Case> {};

TEST_P(Hostile, BytesThatPassTheCheckEndNoProcess) {
    const Case which = GetParam();
    const auto wanted = nixlx::configValue("NIXL_UCX_MUTATIONS");
    const auto count = static_cast<uint32_t>(wanted ? std::stoul(*wanted) : kReadsOfAProcess);
    auto *const shared =
        new (mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Shared;
    const auto first = nixlx::configValue("NIXL_UCX_FIRST_MUTATION");
    if (first) shared->next = static_cast<uint32_t>(std::stoul(*first));
    int deaths = 0;
    while (shared->next < count) {
        shared->peer_ready = false;
        shared->peer = inChild([&] { servePeer(which, *shared); });
        ASSERT_TRUE(nx::test::eventually([&] { return shared->peer_ready.load(); }));
        const pid_t reader = inChild([&] { readDamaged(which, *shared, count); });
        std::map<pid_t, int> ends;
        for (int i = 0; i < 2; ++i) {
            int status = 0;
            const pid_t ended = waitpid(-1, &status, 0);
            if (i == 0) kill(ended == reader ? shared->peer : reader, SIGKILL);
            ends[ended] = status;
        }
        ASSERT_FALSE(WIFEXITED(ends[reader]) && WEXITSTATUS(ends[reader]) != 0);
        ASSERT_FALSE(WIFEXITED(ends[shared->peer]));
        const bool reader_died = WIFSIGNALED(ends[reader]) && WTERMSIG(ends[reader]) != SIGKILL;
        const bool peer_died = WTERMSIG(ends[shared->peer]) != SIGKILL;
        if (!reader_died && !peer_died) continue;
        ++deaths;
        ADD_FAILURE() << (reader_died ? "died, " : "the peer died, ")
                      << describe(which, *shared, WTERMSIG(ends[reader_died ? reader : shared->peer]));
        ++shared->next;
    }
    std::printf("%u tried, %u accepted, %u connected, %u served, %d deaths\n", count, shared->accepted.load(),
                shared->connected.load(), shared->served.load(), deaths);
    EXPECT_GT(shared->accepted, 0u);
}

INSTANTIATE_TEST_SUITE_P(All,
                         Hostile,
                         testing::Values(Case{Fabric::kPlain, Damaged::kAddress, "v1"},
                                         Case{Fabric::kPlain, Damaged::kAddress, "v2"},
                                         Case{Fabric::kLocal, Damaged::kAddress, "v1"},
                                         Case{Fabric::kLocal, Damaged::kAddress, "v2"},
                                         Case{Fabric::kPlain, Damaged::kKey, "v1"},
                                         Case{Fabric::kLocal, Damaged::kKey, "v1"}),
                         [](const auto &info) {
                             return std::string(info.param.fabric == Fabric::kPlain ? "Plain" : "Local") +
                                 (info.param.damaged == Damaged::kAddress ? "Address" : "Key") +
                                 info.param.address_version;
                         });

} // namespace
} // namespace nx::ucx
