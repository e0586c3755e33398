// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/engine.h"

#include <stdexcept>

#include "ucx/address.h"
#include "wire/notification.h"

namespace nx::ucx {

namespace {

// How 1.4's release may help a cancelled request to its end; it must not block.
constexpr int kReleaseChecks = 64;

// What a transfer costs where UCX has no figure: seconds to begin with, per block and per byte.
struct CostModel {
    double start, block, byte;
};
constexpr CostModel kLocalCost{2e-6, 0.5e-6, 1 / 7e9}, kPlainCost{20e-6, 2e-6, 1 / 2e9};

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
    if (!options.ok()) {
        nixlx::fail(NIXL_ERR_BACKEND, options.message());
        throw std::invalid_argument(options.message());
    }
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

uint32_t
segmentOf(std::vector<nixlx::Segment> &segments, const nixlMetaDesc &desc) {
    if (segments.empty() || segments.back().metadata != desc.metadataP || segments.back().device_id != desc.devId) {
        segments.push_back({desc.metadataP, desc.devId});
    }
    return static_cast<uint32_t>(segments.size() - 1);
}

Result<std::unique_ptr<OwnedPlan>>
makePlan(nixl_xfer_op_t operation,
         const nixl_meta_dlist_t &local,
         const nixl_meta_dlist_t &remote,
         const std::string &remote_agent) {
    if (local.descCount() != remote.descCount()) {
        return {NIXL_ERR_INVALID_PARAM,
                "the two lists have " + std::to_string(local.descCount()) + " and " +
                    std::to_string(remote.descCount()) + " elements; they must be equally long"};
    }
    auto owned = std::make_unique<OwnedPlan>();
    owned->remote_agent = remote_agent;
    uint64_t total = 0;
    for (int i = 0; i < local.descCount(); ++i) {
        const nixlMetaDesc &from = local[i], &to = remote[i];
        if (from.len != to.len) {
            return {NIXL_ERR_INVALID_PARAM,
                    "element " + std::to_string(i) + " has " + std::to_string(from.len) + " bytes here and " +
                        std::to_string(to.len) + " at the peer"};
        }
        total += from.len;
        if (!dynamic_cast<const LocalMemory *>(from.metadataP)) {
            return {NIXL_ERR_INVALID_PARAM,
                    "local element " + std::to_string(i) + " is not registered with this backend"};
        }
        if (!dynamic_cast<const RemoteMemory *>(to.metadataP)) {
            return {NIXL_ERR_INVALID_PARAM, "remote element " + std::to_string(i) + " was not loaded by this backend"};
        }
        const uint32_t local_segment = segmentOf(owned->local_segments, from);
        const uint32_t remote_segment = segmentOf(owned->remote_segments, to);
        if (!owned->runs.empty()) {
            nixlx::Run &last = owned->runs.back();
            if (last.local_segment == local_segment && last.remote_segment == remote_segment &&
                last.local + last.length == from.addr && last.remote + last.length == to.addr) {
                last.length += from.len;
                continue;
            }
        }
        owned->runs.push_back({from.addr, to.addr, from.len, 0, 0, 1, local_segment, remote_segment});
    }
    owned->plan = {.operation = operation,
                   .local_memory = local.getType(),
                   .remote_memory = remote.getType(),
                   .remote_agent = owned->remote_agent,
                   .local_segments = owned->local_segments,
                   .remote_segments = owned->remote_segments,
                   .runs = owned->runs,
                   .total_bytes = total,
                   .block_count = owned->runs.size()};
    return owned;
}

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
    : nixlBackendEngine(init_params),
      runtime_(
          std::make_unique<Runtime>(init_params->localAgent, readOptions(*init_params), init_params->enableProgTh)) {}

Engine::~Engine() = default;

// ---- Memory --------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::registerMem(const nixlBlobDesc &mem, const nixl_mem_t &memory, nixlBackendMD *&out) {
    if (memory != DRAM_SEG && memory != VRAM_SEG) {
        return nixlx::fail(NIXL_ERR_NOT_SUPPORTED, "UCX moves DRAM and VRAM only");
    }
    auto local = LocalMemory::create(*runtime_, mem, memory);
    if (!local.ok()) return failed(local);
    out = (*std::move(local)).release();
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::deregisterMem(nixlBackendMD *meta) {
    delete meta;
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::getPublicData(const nixlBackendMD *meta, std::string &out) const {
    out = static_cast<const LocalMemory *>(meta)->publicData();
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadRemoteMD(const nixlBlobDesc &mem,
                     const nixl_mem_t &,
                     const std::string &remote_agent,
                     nixlBackendMD *&out) {
    auto connection = runtime_->peer(remote_agent);
    if (!connection) return unknownPeer(remote_agent);
    auto keys = decodeKeys(mem.metaInfo, connection->refusedDomains(Fabric::kPlain));
    if (!keys.ok()) return failed(keys);
    out = new RemoteMemory(*runtime_, std::move(connection), *std::move(keys));
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadLocalMD(nixlBackendMD *input, nixlBackendMD *&out) {
    const nixlBlobDesc desc(0, 0, 0, static_cast<const LocalMemory *>(input)->publicData());
    return loadRemoteMD(desc, DRAM_SEG, localAgent, out);
}

nixl_status_t
Engine::unloadMD(nixlBackendMD *input) {
    delete input;
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::prepMemView(const nixl_remote_meta_dlist_t &, nixlMemViewH &, const nixl_opt_b_args_t *) const {
    return nixlx::fail(NIXL_ERR_NOT_SUPPORTED, "this UCX backend is built without the GPU device interface");
}

nixl_status_t
Engine::prepMemView(const nixl_meta_dlist_t &, nixlMemViewH &, const nixl_opt_b_args_t *) const {
    return nixlx::fail(NIXL_ERR_NOT_SUPPORTED, "this UCX backend is built without the GPU device interface");
}

// ---- Peers ---------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::getConnInfo(std::string &out) const {
    out = runtime_->worker(0).address();
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadRemoteConnInfo(const std::string &remote_agent, const std::string &info) {
    if (remote_agent == localAgent) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM, "the own agent needs no connection information");
    }
    if (auto status = runtime_->addPeer(remote_agent, info); !status.ok()) return failed(std::move(status));
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::getPeerInfo(std::string &info) const {
    info = encodePeerInfo(runtime_->ownInfo());
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::loadPeerInfo(const std::string &remote_agent, const std::string &info) {
    auto decoded = decodePeerInfo(info);
    if (!decoded.ok()) return failed(decoded);
    auto connection = runtime_->peer(remote_agent);
    if (!connection) return unknownPeer(remote_agent);
    if (auto status = connection->setPeerInfo(*decoded, runtime_->isSameHost(*decoded)); !status.ok()) {
        return failed(std::move(status));
    }
    return NIXL_SUCCESS;
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
    if (remote_agent == localAgent) return NIXL_SUCCESS; // connected when first used
    auto connection = runtime_->peer(remote_agent);
    if (!connection) return unknownPeer(remote_agent);
    const Fabric fabric = connection->fabric();
    {
        std::lock_guard lock(connection->worker(fabric, 0).mutex());
        if (auto endpoint = connection->endpoint(fabric, 0); !endpoint.ok()) return failed(endpoint);
    }
    runtime_->nudge(0);
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::disconnect(const std::string &remote_agent) {
    return runtime_->removePeer(remote_agent) ? NIXL_SUCCESS : unknownPeer(remote_agent);
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
    auto connection = runtime_->peer(remote_agent);
    if (!connection) return unknownPeer(remote_agent);
    const Fabric fabric = connection->fabric();
    const size_t index = runtime_->workerOfThisThread();
    Worker &worker = connection->worker(fabric, index);
    Outbox &outbox = connection->outbox();
    const uint64_t cost = kit::messageCost(localAgent, message);
    if (!outbox.reserve(cost)) {
        runtime_->nudge(index);
        runtime_->progress(&worker); // whoever tries again until there is a place brings it about
        if (connection->gone()) return nixlx::fail(NIXL_ERR_REMOTE_DISCONNECT, connection->sentence());
        return nixlx::fail(NIXL_ERR_REPOST_ACTIVE,
                           std::to_string(kit::kShareBytes >> 20) + " MiB of notifications to peer " +
                               quoted(remote_agent) +
                               " are on their way or wait there to be fetched; send it again later");
    }
    auto notice = std::make_unique<Notice>(localAgent, message);
    {
        std::lock_guard lock(worker.mutex());
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
    runtime_->nudge(index);
    return NIXL_SUCCESS;
}

// ---- Transfers: nixlx::Engine --------------------------------------------------------------------------------------

Result<size_t>
Engine::chooseWorker(const nixl_opt_b_args_t *args) const {
    if (args && !args->customParam.empty()) {
        auto requested = requestedWorker(args->customParam, runtime_->options().num_workers);
        if (!requested.ok()) return std::move(requested).status();
        if (*requested) return **requested;
    }
    return runtime_->workerOfThisThread();
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

void
Engine::endBy(std::chrono::steady_clock::time_point deadline) {
    runtime_->endBy(deadline);
}

void
Engine::release(nixlBackendReqH *request) {
    delete request;
}

nixlx::RequestInfo
Engine::describe(const nixlBackendReqH *request) const {
    const auto &transfer = *static_cast<const Transfer *>(request);
    const Library &library = runtime_->library();
    const char *way = transfer.fabric() == Fabric::kLocal ? ", shared memory (same host)" : ", network";
    return {"ucx " + library.version() + " " + library.path() + way, transfer.error()};
}

std::optional<double>
Engine::predictSeconds(const std::string &remote_agent, uint64_t bytes, uint64_t blocks) const {
    auto connection = runtime_->peer(remote_agent);
    if (!connection || connection->gone()) return {};
    const Fabric fabric = connection->fabric();
    const CostModel &model = fabric == Fabric::kLocal ? kLocalCost : kPlainCost;
    const double modelled =
        model.start + model.block * static_cast<double>(blocks) + model.byte * static_cast<double>(bytes);
    std::unique_lock lock(connection->worker(fabric, 0).mutex(), std::try_to_lock);
    if (!lock) return modelled;
    auto endpoint = connection->endpoint(fabric, 0);
    const auto seconds = endpoint.ok() ? (*endpoint)->estimate(bytes) : std::nullopt;
    // UCX knows nothing of blocks.
    return seconds && *seconds > 0 ? *seconds + model.block * static_cast<double>(blocks) : modelled;
}

std::optional<double>
Engine::predict(const nixlx::Plan &plan) const {
    const auto seconds = predictSeconds(std::string(plan.remote_agent), plan.total_bytes, plan.block_count);
    if (!seconds) return {};
    return *seconds * 1e6;
}

// ---- Transfers: NIXL 1.4 -------------------------------------------------------------------------------------------

nixl_status_t
Engine::prepXfer(const nixl_xfer_op_t &operation,
                 const nixl_meta_dlist_t &local,
                 const nixl_meta_dlist_t &remote,
                 const std::string &remote_agent,
                 nixlBackendReqH *&handle,
                 const nixl_opt_b_args_t *opt_args) const {
    auto worker = chooseWorker(opt_args);
    if (!worker.ok()) return failed(worker);
    auto plan = makePlan(operation, local, remote, remote_agent);
    if (!plan.ok()) return failed(plan);
    auto transfer = Transfer::create(*runtime_, *std::move(plan), *worker);
    if (!transfer.ok()) return failed(transfer);
    handle = (*std::move(transfer)).release();
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::postXfer(const nixl_xfer_op_t &,
                 const nixl_meta_dlist_t &,
                 const nixl_meta_dlist_t &,
                 const std::string &,
                 nixlBackendReqH *&handle,
                 const nixl_opt_b_args_t *opt_args) const {
    return transferOf(handle).post(opt_args && opt_args->hasNotif ? &opt_args->notifMsg : nullptr);
}

nixl_status_t
Engine::checkXfer(nixlBackendReqH *handle) const {
    return transferOf(handle).check();
}

nixl_status_t
Engine::releaseReqH(nixlBackendReqH *handle) const {
    Transfer &transfer = transferOf(handle);
    transfer.cancel();
    for (int i = 0; i < kReleaseChecks && !transfer.quiet(); ++i) transfer.check();
    if (!transfer.quiet()) {
        return nixlx::fail(NIXL_ERR_REPOST_ACTIVE,
                           "the request is cancelled, but UCX still works on it; release it again later");
    }
    delete handle;
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::estimateXferCost(const nixl_xfer_op_t &,
                         const nixl_meta_dlist_t &local,
                         const nixl_meta_dlist_t &,
                         const std::string &remote_agent,
                         nixlBackendReqH *const &,
                         std::chrono::microseconds &duration,
                         std::chrono::microseconds &margin,
                         nixl_cost_t &method,
                         const nixl_opt_args_t *) const {
    uint64_t bytes = 0;
    for (const nixlMetaDesc &desc : local) bytes += desc.len;
    const auto seconds = predictSeconds(remote_agent, bytes, static_cast<uint64_t>(local.descCount()));
    if (!seconds) return unknownPeer(remote_agent);
    duration = std::chrono::microseconds(static_cast<int64_t>(*seconds * 1e6 + 0.5));
    margin = std::chrono::microseconds(0);
    method = nixl_cost_t::ANALYTICAL_BACKEND;
    return NIXL_SUCCESS;
}

} // namespace nx::ucx
