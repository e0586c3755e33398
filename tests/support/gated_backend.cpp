// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "support/gated_backend.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>

#include "kit/nixl14.h"
#include "loopback/engine.h"

namespace nx::test {
namespace {

class Control final : public GatedControl {
public:
    void
    reset() override {
        std::lock_guard lock(mutex_);
        gates_ = {};
        holding_ = cancelled_held_ = false;
        next_number_ = bytes_done_ = path_mark_ = 0;
        finished_.clear();
        aborted_.clear();
        path_ = "gated";
        prediction_ = -1;
        opened_.notify_all();
    }

    void
    fail(EngineCall call, nixl_status_t status, uint64_t count, uint64_t skipped) override {
        std::lock_guard lock(mutex_);
        Gate &gate = gateOf(call);
        gate.status = status;
        gate.failures = count;
        gate.skipped = skipped;
    }

    void
    raise(EngineCall call, Thrown thrown) override {
        std::lock_guard lock(mutex_);
        gateOf(call).thrown = thrown;
    }

    void
    close(EngineCall call) override {
        std::lock_guard lock(mutex_);
        gateOf(call).closed = true;
    }

    void
    open(EngineCall call) override {
        std::lock_guard lock(mutex_);
        gateOf(call).closed = false;
        opened_.notify_all();
    }

    uint64_t
    waiting(EngineCall call) const override {
        std::lock_guard lock(mutex_);
        return gates_[static_cast<size_t>(call)].waiting;
    }

    uint64_t
    count(EngineCall call) const override {
        std::lock_guard lock(mutex_);
        return gates_[static_cast<size_t>(call)].calls;
    }

    void
    holdTransfers() override {
        std::lock_guard lock(mutex_);
        holding_ = true;
    }

    void
    finish(uint64_t number) override {
        std::lock_guard lock(mutex_);
        finished_.insert(number);
        ringLocked();
    }

    void
    abort(uint64_t number, nixl_status_t status) override {
        std::lock_guard lock(mutex_);
        aborted_[number] = status;
        ringLocked();
    }

    void
    finishAll() override {
        std::lock_guard lock(mutex_);
        holding_ = false;
        ringLocked();
    }

    void
    setBytesDone(uint64_t bytes) override {
        std::lock_guard lock(mutex_);
        bytes_done_ = bytes;
    }

    void
    movePath() override {
        std::lock_guard lock(mutex_);
        ++path_mark_;
    }

    void
    holdCancelled() override {
        std::lock_guard lock(mutex_);
        cancelled_held_ = true;
    }

    void
    settleCancelled() override {
        std::lock_guard lock(mutex_);
        cancelled_held_ = false;
        ringLocked();
    }

    void
    setPath(const std::string &path) override {
        std::lock_guard lock(mutex_);
        path_ = path;
    }

    void
    setPrediction(double micros) override {
        std::lock_guard lock(mutex_);
        prediction_ = micros;
    }

    // ---- The engines' side

    void
    join(kit::Bell &bell) {
        std::lock_guard lock(mutex_);
        bells_.insert(&bell);
    }

    void
    leave(kit::Bell &bell) {
        std::lock_guard lock(mutex_);
        bells_.erase(&bell);
    }

    /// Counts, waits for the gate, and returns SUCCESS or the failure that was ordered, explained.
    nixl_status_t
    enter(EngineCall call) {
        std::unique_lock lock(mutex_);
        Gate &gate = gateOf(call);
        ++gate.calls;
        ++gate.waiting;
        opened_.wait(lock, [&] { return !gate.closed; });
        if (gate.waiting) --gate.waiting; // zero after a reset
        const Thrown thrown = std::exchange(gate.thrown, Thrown::kNothing);
        if (thrown == Thrown::kBadAlloc) throw std::bad_alloc();
        if (thrown == Thrown::kForeign) throw 42;
        if (!gate.failures) return NIXL_SUCCESS;
        if (gate.skipped) {
            --gate.skipped;
            return NIXL_SUCCESS;
        }
        --gate.failures;
        return nixlx::fail(gate.status, "the test ordered this failure");
    }

    /// The number of a new post; nothing if it is not to be held.
    std::optional<uint64_t>
    hold() {
        std::lock_guard lock(mutex_);
        return holding_ ? std::optional(next_number_++) : std::nullopt;
    }

    /// IN_PROG: still held; SUCCESS: do the work now; otherwise the status to end with.
    nixl_status_t
    verdict(uint64_t number, bool cancelled) const {
        std::lock_guard lock(mutex_);
        if (const auto found = aborted_.find(number); found != aborted_.end()) return found->second;
        if (cancelled) return cancelled_held_ ? NIXL_IN_PROG : NIXL_ERR_CANCELED;
        return !holding_ || finished_.contains(number) ? NIXL_SUCCESS : NIXL_IN_PROG;
    }

    uint64_t
    bytesDone() const {
        std::lock_guard lock(mutex_);
        return bytes_done_;
    }

    uint64_t
    pathMark() const {
        std::lock_guard lock(mutex_);
        return bytes_done_ + path_mark_;
    }

    std::string
    path() const {
        std::lock_guard lock(mutex_);
        return path_;
    }

    std::optional<double>
    prediction() const {
        std::lock_guard lock(mutex_);
        return prediction_ < 0 ? std::nullopt : std::optional(prediction_);
    }

private:
    struct Gate {
        uint64_t calls = 0;
        uint64_t waiting = 0;
        bool closed = false;
        nixl_status_t status = NIXL_SUCCESS;
        uint64_t failures = 0;
        uint64_t skipped = 0;
        Thrown thrown = Thrown::kNothing;
    };

    /// There is something to be seen by whoever asks for a status.
    void
    ringLocked() {
        for (kit::Bell *bell : bells_) bell->ring();
    }

    Gate &
    gateOf(EngineCall call) {
        return gates_[static_cast<size_t>(call)];
    }

    mutable std::mutex mutex_;
    std::condition_variable opened_;
    std::array<Gate, static_cast<size_t>(EngineCall::kCount)> gates_;
    bool holding_ = false;
    bool cancelled_held_ = false;
    uint64_t next_number_ = 0;
    uint64_t bytes_done_ = 0;
    uint64_t path_mark_ = 0;      ///< besides bytes_done_
    std::set<kit::Bell *> bells_; ///< of the engines
    std::set<uint64_t> finished_;
    std::map<uint64_t, nixl_status_t> aborted_;
    std::string path_ = "gated";
    double prediction_ = -1;
};

Control &
control() {
    static Control instance;
    return instance;
}

/// A request of the loopback engine behind the gates. Owned.
struct GatedRequest : nixlBackendReqH {
    nixlBackendReqH *inner = nullptr;
    std::optional<uint64_t> held; ///< the post's number while it is held
    uint64_t moved = 0;           ///< what it had moved when it ended without being let go
    std::optional<std::string> notification;
    std::atomic<bool> cancelled{false};
    bool forced = false;
    nixl_status_t status = NIXL_ERR_NOT_POSTED;
    std::string error;
};

class GatedEngine : public loopback::Engine, public nixlx::ForcedQuiet, public nixlx::Barrier {
public:
    static std::unique_ptr<GatedEngine>
    create(const nixlBackendInitParams &params) {
        if (control().enter(EngineCall::kCreate) != NIXL_SUCCESS) return nullptr;
        return std::make_unique<GatedEngine>(&params);
    }

    explicit GatedEngine(const nixlBackendInitParams *params) : Engine(params) {
        control().join(bell());
    }

    ~GatedEngine() override {
        control().leave(bell());
    }

    nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t nixl_mem, nixlBackendMD *&out) override {
        return behind(EngineCall::kRegister, [&] { return Engine::registerMem(mem, nixl_mem, out); });
    }

    nixl_status_t
    deregisterMem(nixlBackendMD *meta) override {
        return lettingGo(EngineCall::kDeregister, [&] { return Engine::deregisterMem(meta); });
    }

    nixl_status_t
    shutOut(std::span<nixlBackendMD *const>) override {
        return control().enter(EngineCall::kShutOut);
    }

    void
    letIn(std::span<nixlBackendMD *const>) noexcept override {
        (void)control().enter(EngineCall::kLetIn);
    }

    nixl_status_t
    getPublicData(const nixlBackendMD *meta, std::string &data) const override {
        return behind(EngineCall::kPublicData, [&] { return Engine::getPublicData(meta, data); });
    }

    nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) override {
        return behind(EngineCall::kLoadLocal, [&] { return Engine::loadLocalMD(input, output); });
    }

    nixl_status_t
    loadRemoteMD(const nixlBlobDesc &input,
                 nixl_mem_t nixl_mem,
                 const std::string &remote_agent,
                 nixlBackendMD *&output) override {
        return behind(EngineCall::kLoadRemote,
                      [&] { return Engine::loadRemoteMD(input, nixl_mem, remote_agent, output); });
    }

    nixl_status_t
    unloadMD(nixlBackendMD *input) override {
        return lettingGo(EngineCall::kUnload, [&] { return Engine::unloadMD(input); });
    }

    nixl_status_t
    getConnInfo(std::string &info) const override {
        return behind(EngineCall::kConnectionInfo, [&] { return Engine::getConnInfo(info); });
    }

    nixl_status_t
    loadPeer(const std::string &remote_agent,
             const std::string &connection_info,
             const std::string *peer_info) override {
        return behind(EngineCall::kLoadPeer,
                      [&] { return Engine::loadPeer(remote_agent, connection_info, peer_info); });
    }

    nixl_status_t
    connect(const std::string &remote_agent) override {
        return behind(EngineCall::kConnect, [&] { return Engine::connect(remote_agent); });
    }

    nixl_status_t
    disconnect(const std::string &remote_agent) override {
        return behind(EngineCall::kDisconnect, [&] { return Engine::disconnect(remote_agent); });
    }

    nixl_status_t
    getPeerInfo(std::string &info) const override {
        return behind(EngineCall::kPeerInfo, [&] { return Engine::getPeerInfo(info); });
    }

    nixl_status_t
    validatePeer(const std::string &connection_info,
                 const std::string *peer_info,
                 std::span<const std::string> public_data) const override {
        return behind(EngineCall::kValidatePeer,
                      [&] { return Engine::validatePeer(connection_info, peer_info, public_data); });
    }

    nixl_status_t
    getNotifs(notif_list_t &notifications) override {
        return behind(EngineCall::kFetchNotifications, [&] { return Engine::getNotifs(notifications); });
    }

    nixl_status_t
    genNotif(const std::string &remote_agent, const std::string &message) const override {
        return behind(EngineCall::kNotify, [&] { return Engine::genNotif(remote_agent, message); });
    }

    // ---- Requests

    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) override {
        return wrap(request, [&](nixlBackendReqH *&inner) { return Engine::prepare(plan, args, inner); });
    }

    nixl_status_t
    post(nixlBackendReqH *request, const std::string *notification) override {
        return start(*static_cast<GatedRequest *>(request), notification);
    }

    nixl_status_t
    check(nixlBackendReqH *request) override {
        return advance(*static_cast<GatedRequest *>(request));
    }

    void
    cancel(nixlBackendReqH *request) override {
        auto &gated_request = *static_cast<GatedRequest *>(request);
        (void)control().enter(EngineCall::kCancel);
        gated_request.cancelled = true;
        Engine::cancel(gated_request.inner);
    }

    bool
    forceQuiet(nixlBackendReqH *request) override {
        auto &gated_request = *static_cast<GatedRequest *>(request);
        if (control().enter(EngineCall::kForceQuiet) != NIXL_SUCCESS) return false;
        gated_request.forced = true;
        return true;
    }

    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const override {
        const auto &gated_request = *static_cast<const GatedRequest *>(request);
        if (gated_request.held) return control().bytesDone();
        return std::max(gated_request.moved, *Engine::bytesDone(gated_request.inner));
    }

    std::optional<uint64_t>
    pathMark(const nixlBackendReqH *request) const override {
        if (static_cast<const GatedRequest *>(request)->held) return control().pathMark();
        return Engine::pathMark(request);
    }

    void
    release(nixlBackendReqH *request) override {
        const std::unique_ptr<GatedRequest> gated_request(static_cast<GatedRequest *>(request));
        (void)control().enter(EngineCall::kRelease);
        Engine::release(gated_request->inner);
    }

    nixlx::RequestInfo
    describe(const nixlBackendReqH *request) const override {
        return {control().path(), static_cast<const GatedRequest *>(request)->error};
    }

    std::optional<nixlx::Cost>
    cost(nixl_mem_t, nixl_mem_t, std::string_view) const override {
        (void)control().enter(EngineCall::kPredict);
        const auto prediction = control().prediction();
        return prediction ? std::optional(nixlx::Cost{*prediction, 0, 0}) : std::nullopt;
    }

    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        if (void *more = nixlx::offer<ForcedQuiet, Barrier>(this, name, version)) return more;
        return Engine::ability(name, version);
    }

private:
    template<class Body>
    static nixl_status_t
    behind(EngineCall call, Body body) {
        const nixl_status_t ordered = control().enter(call);
        return ordered == NIXL_SUCCESS ? body() : ordered;
    }

    /// Throws only after it has let go: nobody could do so later.
    template<class Body>
    static nixl_status_t
    lettingGo(EngineCall call, Body body) {
        try {
            return behind(call, body);
        }
        catch (...) {
            (void)body();
            throw;
        }
    }

    template<class Prepare>
    static nixl_status_t
    wrap(nixlBackendReqH *&request, Prepare prepare_inner) {
        return behind(EngineCall::kPrepare, [&] {
            auto made = std::make_unique<GatedRequest>();
            const nixl_status_t status = prepare_inner(made->inner);
            if (status == NIXL_SUCCESS) request = made.release();
            return status;
        });
    }

    nixl_status_t
    start(GatedRequest &request, const std::string *notification) {
        request.cancelled = request.forced = false;
        request.moved = 0;
        request.held.reset();
        const nixl_status_t ordered = control().enter(EngineCall::kPost);
        if (ordered != NIXL_SUCCESS) return end(request, ordered, "the test ordered this failure");
        request.notification = notification ? std::optional(*notification) : std::nullopt;
        request.held = control().hold();
        if (request.held) return end(request, NIXL_IN_PROG, {});
        return postInner(request);
    }

    nixl_status_t
    advance(GatedRequest &request) {
        const nixl_status_t ordered = control().enter(EngineCall::kCheck);
        if (ordered != NIXL_SUCCESS) {
            // A final status promises quiet memory.
            if (!request.held) settleInner(request);
            request.held.reset();
            return end(request, ordered, "the test ordered this failure");
        }
        if (!request.held) {
            if (request.status != NIXL_IN_PROG) return request.status;
            const nixl_status_t status = Engine::check(request.inner);
            return end(request, status, Engine::describe(request.inner).error);
        }
        const nixl_status_t verdict =
            request.forced ? NIXL_ERR_REMOTE_DISCONNECT : control().verdict(*request.held, request.cancelled);
        if (verdict == NIXL_IN_PROG) return verdict;
        request.held.reset();
        if (verdict == NIXL_SUCCESS) return postInner(request);
        request.moved = control().bytesDone();
        const std::string why =
            verdict == NIXL_ERR_CANCELED ? "the request was cancelled" : "the test ordered this failure";
        return nixlx::fail(end(request, verdict, why), why);
    }

    nixl_status_t
    postInner(GatedRequest &request) {
        const std::string *notification = request.notification ? &*request.notification : nullptr;
        const nixl_status_t status = Engine::post(request.inner, notification);
        return end(request, status, Engine::describe(request.inner).error);
    }

    void
    settleInner(GatedRequest &request) {
        if (request.status != NIXL_IN_PROG) return;
        Engine::cancel(request.inner);
        while (Engine::check(request.inner) == NIXL_IN_PROG) {}
    }

    static nixl_status_t
    end(GatedRequest &request, nixl_status_t status, const std::string &error) {
        request.status = status;
        request.error = status < 0 ? error : std::string();
        return status;
    }
};

} // namespace
} // namespace nx::test

extern "C" NIXL_PLUGIN_EXPORT nx::test::GatedControl *
nx_test_gated_control() {
    return &nx::test::control();
}

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_MERGE_RANGES | NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "GATED",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {31, 31, 31, 31, 31},
    .create = [](const nixlBackendInitParams *params) -> nixlx::Engine * {
        return nx::test::GatedEngine::create(*params).release();
    },
    .options = nullptr,
    .option_size = sizeof(nixlx_option),
    .option_count = 0,
};

extern "C" NIXL_PLUGIN_EXPORT nixlBackendPlugin *
nixl_plugin_init() {
    return nx::kit::nixl14Plugin<nixlx_plugin_descriptor>();
}
