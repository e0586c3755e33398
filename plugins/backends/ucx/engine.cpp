// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/engine.h"

#include <algorithm>
#include <stdexcept>

#include "ucx/address.h"
#include "wire/notification.h"

namespace nx::ucx {

namespace {

// What a transfer costs where UCX has no figure, and for blocks, of which it has none. Its estimates of these sizes
// give the rest.
constexpr nixlx::Cost kLocalCost{2, 0.5, 1 / 7e3}, kPlainCost{20, 2, 1 / 2e3};
constexpr size_t kSmallEstimate = 4 << 10, kLargeEstimate = 64 << 20;

nixl_status_t
failed(Status status) {
    const nixl_status_t code = status.code();
    return nixlx::fail(code, std::move(std::move(status).error().message));
}

template<class T>
nixl_status_t
failed(Result<T> &result) {
    return failed(std::move(result).status());
}

Options
readOptions(const nixlBackendInitParams &init_params) {
    auto options = Options::read(init_params.customParams);
    if (!options.ok()) throw std::invalid_argument(options.message());
    return *std::move(options);
}

/// A message on its own; deletes itself when UCX has sent it.
class Notice final : public Operation {
public:
    Notice(const std::string &sender, const std::string &message) : bytes_(wire::encodeNotification(sender, message)) {}

    /// kDone or kPending: it is on its way, and this object is not the caller's any more.
    static Code
    send(std::unique_ptr<Notice> notice,
         Endpoint &endpoint,
         Outbox &outbox,
         Fabric fabric,
         size_t worker,
         uint64_t cost) {
        const Code code = endpoint.send(notice->bytes_, *notice);
        if (code == kPending) {
            notice->fabric_ = fabric;
            notice->worker_ = worker;
            notice->cost_ = cost;
            notice->outbox_ = outbox.shared_from_this();
            static_cast<void>(notice.release());
        } else if (code == kDone) {
            outbox.completed(fabric, worker, cost);
        } else {
            outbox.notSent(fabric, worker, cost);
        }
        return code;
    }

    void
    finished(Code) noexcept override {
        outbox_->completed(fabric_, worker_, cost_);
        delete this;
    }

private:
    const std::string bytes_;
    // Of one that is under way:
    std::shared_ptr<Outbox> outbox_;
    Fabric fabric_ = Fabric::kPlain;
    size_t worker_ = 0;
    uint64_t cost_ = 0;
};

Transfer &
transferOf(nixlBackendReqH *request) {
    return *static_cast<Transfer *>(request);
}

nixl_status_t
unknownPeer(const std::string &name) {
    return nixlx::fail(NIXL_ERR_NOT_FOUND, "peer " + quoted(name) + " is not known to UCX; load its metadata first");
}

} // namespace

Engine::Engine(const nixlBackendInitParams *init_params)
    : agent_(init_params->localAgent),
      runtime_(
          std::make_unique<Runtime>(init_params->localAgent, readOptions(*init_params), init_params->enableProgTh)) {}

Engine::~Engine() = default;

// ---- Memory --------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) {
    if (memory != DRAM_SEG && memory != VRAM_SEG) {
        return nixlx::fail(NIXL_ERR_NOT_SUPPORTED, "UCX moves DRAM and VRAM only");
    }
    auto local = LocalMemory::create(*runtime_, mem, memory);
    if (!local.ok()) return failed(local);
    out = (*std::move(local)).release();
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::getPublicData(const nixlBackendMD *meta, std::string &out) const {
    out = static_cast<const LocalMemory *>(meta)->publicData();
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadRemoteMD(const nixlBlobDesc &mem, nixl_mem_t, const std::string &remote_agent, nixlBackendMD *&out) {
    auto connection = runtime_->peers().find(remote_agent);
    if (!connection) return unknownPeer(remote_agent);
    auto keys = decodeKeys(mem.metaInfo, connection->refusedDomains(Fabric::kPlain));
    if (!keys.ok()) return failed(keys);
    out = new RemoteMemory(*runtime_, std::move(connection), *std::move(keys));
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadLocalMD(nixlBackendMD *input, nixlBackendMD *&out) {
    const nixlBlobDesc desc(0, 0, 0, static_cast<const LocalMemory *>(input)->publicData());
    return loadRemoteMD(desc, DRAM_SEG, agent_, out);
}

// ---- Peers ---------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::getConnInfo(std::string &out) const {
    out = runtime_->pool().address();
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::getPeerInfo(std::string &info) const {
    info = encodePeerInfo(runtime_->ownInfo());
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadPeer(const std::string &remote_agent, const std::string &connection_info, const std::string *peer_info) {
    if (remote_agent == agent_) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM, "the own agent needs no connection information");
    }
    std::optional<PeerInfo> info;
    if (peer_info) {
        auto decoded = decodePeerInfo(*peer_info);
        if (!decoded.ok()) return failed(decoded);
        info = *std::move(decoded);
    }
    const bool known = runtime_->peers().find(remote_agent) != nullptr;
    if (auto status = runtime_->peers().add(remote_agent, connection_info); !status.ok())
        return failed(std::move(status));
    if (!info) return NIXL_SUCCESS;
    auto status = runtime_->peers().find(remote_agent)->setPeerInfo(*info, runtime_->isSameHost(*info));
    if (status.ok()) return NIXL_SUCCESS;
    if (!known) runtime_->peers().remove(remote_agent);
    return failed(std::move(status));
}

nixl_status_t
Engine::validatePeer(const std::string &connection_info,
                     const std::string *peer_info,
                     std::span<const std::string> public_data) const {
    if (auto status = checkAddress(connection_info); !status.ok()) return failed(std::move(status));
    if (peer_info) {
        if (auto decoded = decodePeerInfo(*peer_info); !decoded.ok()) return failed(decoded);
    }
    const uint64_t refused_domains = segmentDomains(connection_info);
    for (const std::string &key : public_data) {
        if (auto keys = decodeKeys(key, refused_domains); !keys.ok()) return failed(keys);
    }
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::connect(const std::string &remote_agent) {
    if (remote_agent == agent_) return NIXL_SUCCESS; // connected when first used
    auto connection = runtime_->peers().find(remote_agent);
    if (!connection) return unknownPeer(remote_agent);
    const Fabric fabric = connection->fabric(false);
    {
        const MutexLock lock(connection->worker(fabric, 0).mutex());
        if (auto endpoint = connection->endpoint(fabric, 0); !endpoint.ok()) return failed(endpoint);
    }
    runtime_->pool().nudge(0);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::disconnect(const std::string &remote_agent) {
    return runtime_->peers().remove(remote_agent) ? NIXL_SUCCESS : unknownPeer(remote_agent);
}

// ---- Notifications -------------------------------------------------------------------------------------------------

nixl_status_t
Engine::getNotifs(notif_list_t &out) {
    runtime_->takeNotifications(out);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::genNotif(const std::string &remote_agent, const std::string &message) const {
    if (auto status = wire::checkNotification(message); !status.ok()) return failed(std::move(status));
    auto connection = runtime_->peers().find(remote_agent);
    if (!connection) return unknownPeer(remote_agent);
    const Fabric fabric = connection->fabric(false);
    const size_t index = runtime_->pool().workerOfThisThread();
    Worker &worker = connection->worker(fabric, index);
    Outbox &outbox = connection->outbox();
    const uint64_t cost = kit::messageCost(agent_, message);
    if (!outbox.reserve(cost)) {
        runtime_->pool().nudge(index);
        runtime_->pool().progress(&worker); // whoever tries again until there is a place brings it about
        if (connection->gone()) return nixlx::fail(NIXL_ERR_REMOTE_DISCONNECT, connection->sentence());
        return nixlx::fail(NIXL_ERR_REPOST_ACTIVE,
                           std::to_string(kit::kShareBytes >> 20) + " MiB of notifications to peer " +
                               quoted(remote_agent) +
                               " are on their way or wait there to be fetched; send it again later");
    }
    auto notice = std::make_unique<Notice>(agent_, message);
    {
        const MutexLock lock(worker.mutex());
        auto endpoint = connection->endpoint(fabric, index);
        if (!endpoint.ok()) {
            outbox.release(cost);
            return failed(endpoint);
        }
        outbox.sent(fabric, index, cost);
        const Code code = Notice::send(std::move(notice), **endpoint, outbox, fabric, index, cost);
        if (code < 0) {
            return nixlx::fail(statusOf(code),
                               "UCX cannot send a notification to peer " + quoted(remote_agent) + ": " +
                                   runtime_->library().text(code));
        }
    }
    runtime_->pool().nudge(index);
    return NIXL_SUCCESS;
}

// ---- Requests --------------------------------------------------------------------------------------

Result<size_t>
Engine::chooseWorker(const nixl_opt_b_args_t *args) const {
    if (args && !args->customParam.empty()) {
        auto requested = requestedWorker(args->customParam, runtime_->options().num_workers);
        if (!requested.ok()) return std::move(requested).status();
        if (*requested) return **requested;
    }
    return runtime_->pool().workerOfThisThread();
}

nixl_status_t
Engine::prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) {
    auto worker = chooseWorker(args);
    if (!worker.ok()) return failed(worker);
    auto transfer = Transfer::create(*runtime_, plan, *worker);
    if (!transfer.ok()) return failed(transfer);
    request = (*std::move(transfer)).release();
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::post(nixlBackendReqH *request, const std::string *notification) {
    return transferOf(request).post(notification);
}

nixl_status_t
Engine::check(nixlBackendReqH *request) {
    return transferOf(request).check();
}

void
Engine::cancel(nixlBackendReqH *request) {
    transferOf(request).cancel();
}

bool
Engine::forceQuiet(nixlBackendReqH *request) {
    return transferOf(request).forceQuiet();
}

std::optional<uint64_t>
Engine::bytesDone(const nixlBackendReqH *request) const {
    return static_cast<const Transfer *>(request)->bytesDone();
}

std::optional<uint64_t>
Engine::pathMark(const nixlBackendReqH *request) const {
    return static_cast<const Transfer *>(request)->pathMark();
}

int
Engine::descriptor() const noexcept {
    return runtime_->pool().descriptor();
}

bool
Engine::arm() noexcept {
    return runtime_->pool().arm();
}

void
Engine::endBy(std::chrono::steady_clock::time_point deadline) {
    runtime_->endBy(deadline);
}

nixlx::RequestInfo
Engine::describe(const nixlBackendReqH *request) const {
    const auto &transfer = *static_cast<const Transfer *>(request);
    const Library &library = runtime_->library();
    const char *way = transfer.fabric() == Fabric::kLocal ? ", shared memory (same host)" : ", network";
    return transfer.describe("ucx " + library.version() + " " + library.path() + " (" + library.why() + ")" + way);
}

std::optional<nixlx::Cost>
Engine::cost(nixl_mem_t local, nixl_mem_t remote, std::string_view remote_agent) const {
    auto connection = runtime_->peers().find(std::string(remote_agent));
    if (!connection || connection->gone()) return {};
    const Fabric fabric = connection->fabric(local == VRAM_SEG || remote == VRAM_SEG);
    nixlx::Cost cost = fabric == Fabric::kLocal ? kLocalCost : kPlainCost;
    kit::HandoverMutex &mutex = connection->worker(fabric, 0).mutex();
    if (!mutex.try_lock()) return cost;
    const MutexLock lock(mutex, std::adopt_lock);
    auto endpoint = connection->endpoint(fabric, 0);
    if (!endpoint.ok()) return cost;
    const auto small = (*endpoint)->estimate(kSmallEstimate), large = (*endpoint)->estimate(kLargeEstimate);
    if (!small || !large || *small <= 0 || *large <= *small) return cost;
    cost.byte_us = (*large - *small) * 1e6 / (kLargeEstimate - kSmallEstimate);
    cost.start_us = std::max(0.0, *small * 1e6 - cost.byte_us * kSmallEstimate);
    return cost;
}

} // namespace nx::ucx
