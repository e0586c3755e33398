// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A backend outside NIXL's tree that reaches the other processes of its host: the kit's peer protocol over Unix
// sockets. Who loads a peer connects to it. Its requests and messages go over that socket, and their answers; what the
// peer wants goes over the peer's own. One thread moves the bytes, also while the program calls nothing.
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <sys/socket.h>
#include <tuple>

#include <base/thread.h>
#include <kit/acceptor.h>
#include <kit/nixl14.h>
#include <kit/peer/socket_link.h>

namespace {

using namespace nx;
using namespace nx::kit;
using Clock = std::chrono::steady_clock;
using Link = std::shared_ptr<SocketLink>;

constexpr LocalSocketKind kKind{"nixl-unix-", SOCK_STREAM};
constexpr size_t kLinksMax = 4096;   // of one engine, in both directions
constexpr uint64_t kPingMs = 10'000; // the system tells who has died; this is for those who stand still
constexpr uint64_t kSilenceMs = 30'000;
constexpr auto kEndLimit = std::chrono::seconds(1);

nixl_status_t
report(const Status &status) {
    return status.ok() ? NIXL_SUCCESS : nixlx::fail(status.code(), status.message());
}

Status
unknown(std::string_view peer) {
    return {NIXL_ERR_NOT_FOUND, "agent " + quoted(peer) + " is not known; load its metadata"};
}

/// Device, address and length. A range that is registered twice is one window.
using Range = std::tuple<uint64_t, uint64_t, uint64_t>;

/// A registration of this agent or of a peer: requests need no more of it than its window.
struct Memory final : nixlBackendMD {
    Memory(WindowKey window, Range range = {}) : nixlBackendMD(true), window(window), range(range) {}

    const WindowKey window;
    const Range range; ///< of an own one
};

struct Transfer final : nixlBackendReqH {
    struct Posted : Request {
        std::atomic<nixl_status_t> status{NIXL_ERR_NOT_POSTED}; ///< written when the request is complete
    };

    Link link;
    Posted request;
};

class Engine final : public nixlx::Engine,
                     public nixlx::RemotePeers,
                     public nixlx::Notifications,
                     public nixlx::ForcedQuiet {
public:
    static nixlx::Engine *
    create(const nixlBackendInitParams *params) {
        auto listener = LocalListener::create(kKind);
        auto loop = Loop::create();
        if (!listener.ok()) throw std::runtime_error(listener.message());
        if (!loop.ok()) throw std::runtime_error(loop.message());
        return new Engine(params->localAgent, *std::move(listener), *std::move(loop));
    }
    ~Engine() override {
        loop_->post([this] { acceptor_.stop(); });
        {
            const MutexLock lock(mutex_);
            for (const auto &[number, link] : links_) link->use()->close();
            const auto deadline = std::min(end_by_, Clock::now() + kEndLimit);
            while (!links_.empty() && ended_.waitUntil(mutex_, deadline)) {}
            for (const auto &[number, link] : links_) link->use()->linkLost("this agent has ended");
        }
        loop_->stop();
        thread_.join();
    }
    void
    endBy(Clock::time_point deadline) override {
        end_by_ = deadline;
    }
    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<RemotePeers, Notifications, ForcedQuiet>(this, name, version);
    }

    // ---- Memory ----

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t, nixlBackendMD *&out) override {
        const MutexLock lock(mutex_);
        auto &[window, users] = windows_[{mem.devId, mem.addr, mem.len}];
        if (users == 0) {
            const uint64_t number = ++last_number_;
            window = {.key = {static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32)},
                      .rights = kMayRead | kMayWrite,
                      .device = mem.devId,
                      .address = mem.addr,
                      .length = mem.len};
        }
        auto memory = std::make_unique<Memory>(window.key, Range{mem.devId, mem.addr, mem.len});
        if (++users == 1) {
            for (const auto &[number, link] : links_) announce(link->use(), window);
        }
        out = memory.release();
        return NIXL_SUCCESS;
    }
    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override {
        const std::unique_ptr<Memory> memory(static_cast<Memory *>(meta));
        const MutexLock lock(mutex_);
        const auto found = windows_.find(memory->range);
        if (--found->second.users > 0) return NIXL_SUCCESS;
        windows_.erase(found);
        for (const auto &[number, link] : links_) {
            const auto session = link->use();
            static_cast<void>(session->revoke(memory->window));
            while (session->nextQuiet()) {
            } // it is at once: the peer does not copy by itself, and the socket holds nothing
        }
        return NIXL_SUCCESS;
    }

    // ---- Peers ----

    nixl_status_t
    getConnInfo(std::string &info) const override {
        info = acceptor_.name() + " " + host_;
        return NIXL_SUCCESS;
    }
    nixl_status_t
    getPublicData(const nixlBackendMD *meta, std::string &data) const override {
        const WindowKey window = static_cast<const Memory *>(meta)->window;
        data.assign(reinterpret_cast<const char *>(&window), sizeof window);
        return NIXL_SUCCESS;
    }
    nixl_status_t
    validatePeer(const std::string &connection_info,
                 const std::string *,
                 std::span<const std::string> public_data) const override {
        for (const std::string &data : public_data) {
            if (const auto window = windowOf(data); !window.ok()) return report(window.status());
        }
        return report(socketOf(connection_info).status());
    }
    nixl_status_t
    loadPeer(const std::string &remote_agent, const std::string &connection_info, const std::string *) override {
        const auto socket = socketOf(connection_info);
        if (!socket.ok()) return report(socket.status());
        return report(load(remote_agent, *socket));
    }
    nixl_status_t
    connect(const std::string &remote_agent) override {
        return report(find(remote_agent).status()); // loadPeer did
    }
    nixl_status_t
    disconnect(const std::string &remote_agent) override {
        const MutexLock lock(mutex_);
        const auto peer = peers_.extract(remote_agent);
        if (!peer) return report(unknown(remote_agent));
        inbox_.setKnown(remote_agent, false);
        peer.mapped().link->use()->close();
        return NIXL_SUCCESS;
    }
    nixl_status_t
    loadRemoteMD(const nixlBlobDesc &mem, nixl_mem_t, const std::string &, nixlBackendMD *&output) override {
        const auto window = windowOf(mem.metaInfo);
        if (!window.ok()) return report(window.status());
        output = new Memory(*window);
        return NIXL_SUCCESS;
    }
    nixl_status_t
    getNotifs(notif_list_t &notifications) override {
        for (const uint64_t number : inbox_.takeAll(notifications)) {
            const MutexLock lock(mutex_);
            if (const auto found = links_.find(number); found != links_.end()) found->second->use()->notesFetched();
        }
        return NIXL_SUCCESS;
    }
    nixl_status_t
    genNotif(const std::string &remote_agent, const std::string &message) const override {
        const auto link = const_cast<Engine *>(this)->find(remote_agent);
        if (!link.ok()) return report(link.status());
        return report((*link)->use()->sendNote(message));
    }

    // ---- Requests ----

    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *, nixlBackendReqH *&request) override {
        auto link = find(std::string(plan.remote_agent));
        if (!link.ok()) return report(link.status());
        auto made = std::make_unique<Transfer>();
        made->link = *std::move(link);
        made->request.operation = plan.operation;
        for (const nixlx::Run &run : plan.runs) {
            const auto *memory = static_cast<const Memory *>(plan.remote_segments[run.remote_segment].metadata);
            made->request.local.add({run.local, run.length, run.local_stride, run.count});
            made->request.remote.add({run.remote, run.length, run.remote_stride, run.count, memory->window});
        }
        request = made.release();
        return NIXL_SUCCESS;
    }
    nixl_status_t
    post(nixlBackendReqH *request, const std::string *notification) override {
        auto &[link, posted] = transferOf(request);
        posted.status = NIXL_IN_PROG;
        const auto note = notification ? std::optional(*notification) : std::nullopt;
        if (Status status = link->use()->post(posted, note); !status.ok()) {
            posted.status = status.code();
            return report(posted.outcome = std::move(status));
        }
        return posted.status;
    }
    nixl_status_t
    check(nixlBackendReqH *request) override {
        return transferOf(request).request.status;
    }
    void
    cancel(nixlBackendReqH *request) override {
        transferOf(request).link->use()->cancel(transferOf(request).request);
    }
    bool
    forceQuiet(nixlBackendReqH *request) override {
        transferOf(request).link->use()->linkLost("a request that was cancelled did not end in time");
        return true;
    }
    nixlx::RequestInfo
    describe(const nixlBackendReqH *request) const override {
        const auto &[link, posted] = transferOf(request);
        return {"Unix socket", posted.status < 0 ? posted.outcome.message() : ""};
    }
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const override {
        const auto session = transferOf(request).link->look();
        return transferOf(request).request.moved;
    }
    std::optional<uint64_t>
    pathMark(const nixlBackendReqH *request) const override {
        return transferOf(request).link->look()->pathMark();
    }

private:
    struct Registered {
        Window window;
        size_t users = 0;
    };
    struct Peer {
        Link link;
        std::string socket; ///< its name
    };

    Engine(const std::string &agent, LocalListener listener, std::unique_ptr<Loop> loop)
        : agent_(agent),
          inbox_(owner()),
          loop_(std::move(loop)),
          acceptor_(*loop_, std::move(listener), owner(), [this](Fd socket) {
              const MutexLock lock(mutex_);
              if (links_.size() < kLinksMax) add(std::move(socket));
          }) {
        acceptor_.start();
        thread_ = Thread("nixl-unix", [this] { loop_->run(); });
    }

    std::string
    owner() const {
        return "backend UNIX of agent " + quoted(agent_);
    }

    static Transfer &
    transferOf(const nixlBackendReqH *request) {
        return *static_cast<Transfer *>(const_cast<nixlBackendReqH *>(request));
    }

    static Result<WindowKey>
    windowOf(const std::string &public_data) {
        WindowKey window;
        if (public_data.size() != sizeof window) return {NIXL_ERR_MISMATCH, "not a key of a UNIX backend"};
        std::memcpy(&window, public_data.data(), sizeof window);
        return window;
    }

    /// The name of the socket in connection info.
    Result<std::string>
    socketOf(const std::string &connection_info) const {
        std::string name = connection_info.substr(0, connection_info.find(' '));
        if (Status checked = checkLocalName(kKind, name); !checked.ok()) return checked;
        if (connection_info == name + " " + host_) return name;
        return {NIXL_ERR_NOT_SUPPORTED, "it runs on another host, in another container or for another user"};
    }

    Status
    load(const std::string &agent, const std::string &socket) {
        const MutexLock lock(mutex_);
        const auto known = peers_.find(agent);
        if (known != peers_.end() && known->second.link->look()->state() <= Session::State::kOpen) {
            if (known->second.socket == socket) return {};
            return {NIXL_ERR_NOT_ALLOWED, "agent " + quoted(agent) + " has another socket; disconnect it first"};
        }
        if (links_.size() >= kLinksMax) return {NIXL_ERR_BACKEND, std::to_string(kLinksMax) + " links are in use"};
        auto connected = connectLocal(kKind, socket);
        if (!connected.ok()) return {NIXL_ERR_BACKEND, "agent " + quoted(agent) + ": " + connected.message()};
        peers_[agent] = {add(*std::move(connected)), socket};
        inbox_.setKnown(agent, true);
        return {};
    }

    /// The agent itself is reached as all others are.
    Result<Link>
    find(const std::string &agent) {
        if (agent == agent_) {
            if (Status loaded = load(agent, acceptor_.name()); !loaded.ok()) return loaded;
        }
        const MutexLock lock(mutex_);
        const auto found = peers_.find(agent);
        return found == peers_.end() ? Result<Link>(unknown(agent)) : found->second.link;
    }

    Link
    add(Fd socket) NX_REQUIRES(mutex_) {
        const uint64_t number = ++last_number_;
        const auto requestEnded = [](Request &request) {
            static_cast<Transfer::Posted &>(request).status = request.outcome.code();
        };
        const auto ended = [this, number] {
            const MutexLock lock(mutex_);
            links_.erase(number);
            ended_.notifyAll();
        };
        SessionOptions options{.hello = {.name = agent_},
                               .stream_count = 1,
                               .ping_after = kPingMs,
                               .dead_after = kSilenceMs,
                               .question = number};
        auto link = SocketLink::start(*loop_, std::move(socket), std::move(options), inbox_, {requestEnded, ended});
        links_.emplace(number, link);
        const auto session = link->use(); // all are there before the first request is looked at
        for (const auto &[range, registered] : windows_) announce(session, registered.window);
        return link;
    }

    static void
    announce(const SocketLink::Access &session, const Window &window) {
        if (Status told = session->announce(window); !told.ok()) session->linkLost(told.message());
    }

    const std::string agent_;
    Clock::time_point end_by_ = Clock::time_point::max();
    const std::string host_ = hostIdentity();
    Inbox inbox_;
    Mutex mutex_; // before those of links
    CondVar ended_;
    std::map<Range, Registered> windows_ NX_GUARDED_BY(mutex_);
    std::map<std::string, Peer> peers_ NX_GUARDED_BY(mutex_); ///< those that were loaded
    std::map<uint64_t, Link> links_ NX_GUARDED_BY(mutex_); ///< all that have not ended, of peers that loaded this, too
    uint64_t last_number_ NX_GUARDED_BY(mutex_) = 0;
    const std::unique_ptr<Loop> loop_;
    Acceptor acceptor_;
    Thread thread_;
};

} // namespace

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "UNIX",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {NIXLX_MEMORY(DRAM_SEG)},
    .create = Engine::create,
    .options = nullptr,
    .option_size = sizeof(nixlx_option),
    .option_count = 0,
};

nixlBackendPlugin *
nixl_plugin_init() {
    return nx::kit::nixl14Plugin<nixlx_plugin_descriptor>();
}
