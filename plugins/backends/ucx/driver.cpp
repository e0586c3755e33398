// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/driver.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <ucp/api/ucp.h>
#include <ucs/config/global_opts.h>
#include <utility>

#include "kit/vendor_library.h"
#include "nixlx/engine.h"
#include "ucx/close_on_exec.h"
#include "ucx/library_choice.h"
#include "ucx/supply.h"

namespace nx::ucx {

const Code kNotConnected = UCS_ERR_NOT_CONNECTED;

// The functions used of libucp, and of libucs, which it brings along. All of them exist since 1.13.
#define NX_UCX_FUNCTIONS(X) \
    X(ucp_get_version) \
    X(ucp_get_version_string) \
    X(ucp_config_read) \
    X(ucp_config_modify) \
    X(ucp_config_print) \
    X(ucp_config_release) \
    X(ucp_init_version) \
    X(ucp_cleanup) \
    X(ucp_context_query) \
    X(ucp_worker_create) \
    X(ucp_worker_destroy) \
    X(ucp_worker_query) \
    X(ucp_worker_release_address) \
    X(ucp_worker_progress) \
    X(ucp_worker_get_efd) \
    X(ucp_worker_arm) \
    X(ucp_worker_flush_nbx) \
    X(ucp_worker_set_am_recv_handler) \
    X(ucp_ep_create) \
    X(ucp_ep_close_nbx) \
    X(ucp_ep_flush_nbx) \
    X(ucp_ep_evaluate_perf) \
    X(ucp_ep_rkey_unpack) \
    X(ucp_rkey_destroy) \
    X(ucp_mem_map) \
    X(ucp_mem_unmap) \
    X(ucp_mem_query) \
    X(ucp_rkey_pack) \
    X(ucp_rkey_buffer_release) \
    X(ucp_put_nbx) \
    X(ucp_get_nbx) \
    X(ucp_am_send_nbx) \
    X(ucp_am_data_release) \
    X(ucp_request_free) \
    X(ucs_status_string) \
    X(ucs_global_opts_get_value) \
    X(ucs_global_opts_set_value)

struct Library::Api {
#define NX_UCX_MEMBER(name) decltype(&::name) name;
    NX_UCX_FUNCTIONS(NX_UCX_MEMBER)
#undef NX_UCX_MEMBER
};

namespace {

using Api = Library::Api;

constexpr unsigned kApiMajor = 1, kApiMinor = 13;
constexpr unsigned kMessageId = 0, kQuestionId = 1;

// UCX takes packed addresses and keys without their length, so bytes that were cut short make it read past their end.
// It then finds zeros of ours.
constexpr size_t kPadding = 4096;
constexpr std::chrono::seconds kCopiesLimit{1};

// What UCX takes, found by experiment (scarcity_test.cpp) and then some: each network interface costs a few
// descriptors, and the peer's connections to us take one each. What is there already needs no more address space.
constexpr size_t kMiB = size_t{1} << 20;
constexpr Supply kForContext{.descriptors = 64, .address_space = 256 * kMiB, .thread = true};
constexpr Supply kForWorker{.descriptors = 48, .address_space = 128 * kMiB, .thread = true};
constexpr Supply kForEndpoint{.descriptors = 24, .address_space = 32 * kMiB};

std::string
padded(const std::string &bytes) {
    std::string copy;
    copy.reserve(bytes.size() + kPadding);
    copy.append(bytes).append(kPadding, '\0');
    return copy;
}

} // namespace

nixl_status_t
statusOf(Code code) noexcept {
    switch (code) {
    case UCS_OK: return NIXL_SUCCESS;
    case UCS_INPROGRESS:
    case UCS_ERR_BUSY: return NIXL_IN_PROG;
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_ENDPOINT_TIMEOUT:
    case UCS_ERR_CANCELED:
    case UCS_ERR_SHMEM_SEGMENT: // the peer has just given its memory back
    case UCS_ERR_UNREACHABLE: return NIXL_ERR_REMOTE_DISCONNECT;
    case UCS_ERR_INVALID_PARAM: return NIXL_ERR_INVALID_PARAM;
    default: return NIXL_ERR_BACKEND;
    }
}

// ---- Library -------------------------------------------------------------------------------------------------------

namespace {

using Origin = kit::VendorLibrary::Origin;

/// `choice`: made if both the system and a Python package have it.
std::string
whyTaken(Origin origin, const LibrarySearch &search, const std::optional<LibraryChoice> &choice) {
    switch (origin) {
    case Origin::kNamed: return "named by " + search.named_by;
    case Origin::kProcess: return "loaded by this process before";
    case Origin::kSystem: return choice && !choice->package ? choice->why : "the system's";
    case Origin::kPackage: return choice && choice->package ? choice->why : "the Python package's";
    }
    return {};
}

} // namespace

Library::Library() : api_(std::make_unique<Api>()) {}
Library::~Library() = default;

Result<const Library *>
Library::load(const LibrarySearch &search) {
    // Never destroyed: engines may live until the process ends.
    static auto &mutex = *new Mutex;
    static auto &loaded = *new std::map<void *, std::unique_ptr<Library>>;

    const MutexLock lock(mutex);
    if (auto status = trySupply(kForContext); !status.ok()) return status; // it starts things as it is loaded
    std::optional<LibraryChoice> choice;
    const auto prefersPackage = [&](const std::string &of_system, const std::string &of_package) {
        choice = chooseLibrary(of_system, of_package, search.has_rdma_devices);
        return choice->package;
    };
    auto found = kit::VendorLibrary::load(
        {.name = "UCX",
         .soname = "libucp.so.0",
         .path = search.path,
         .wheel_folders = {"libucx/lib"},
         .advice = "install libucx0 or the Python package libucx-cu12, or name the file with NIXL_UCX_LIBRARY",
         .deep_bind = search.deep_bind,
         .prefers_package = prefersPackage});
    if (!found.ok()) return std::move(found).status();
    const std::string &path = found->path();
    if (path.find(search.expected_soname) == std::string::npos) {
        return {NIXL_ERR_BACKEND,
                "UCX was taken from " + path + ", whose path lacks " + quoted(search.expected_soname) +
                    " of NIXL_UCX_EXPECTED_SONAME"};
    }
    if (const auto it = loaded.find(found->handle()); it != loaded.end()) return it->second.get();

    std::unique_ptr<Library> library(new Library);
    Api &api = *library->api_;
#define NX_UCX_SYMBOL(name) kit::vendorSymbol(#name, api.name),
    Status resolved = found->resolve({NX_UCX_FUNCTIONS(NX_UCX_SYMBOL)}, "version 1.13 or later");
#undef NX_UCX_SYMBOL
    if (!resolved.ok()) return resolved;
    closeDescriptorsOnExec(reinterpret_cast<const void *>(api.ucs_status_string));
    unsigned major = 0, release = 0;
    api.ucp_get_version(&major, &library->minor_, &release);
    library->version_ = api.ucp_get_version_string();
    library->path_ = path;
    library->why_ = whyTaken(found->origin(), search, choice);
    if (major != kApiMajor || library->minor_ < kApiMinor) {
        return {NIXL_ERR_BACKEND,
                "UCX at " + path + " is version " + library->version_ + "; 1.13 or a later 1.x is needed"};
    }
    return loaded.emplace(found->handle(), std::move(library)).first->second.get();
}

std::string
Library::text(Code code) const {
    return api_->ucs_status_string(static_cast<ucs_status_t>(code));
}

// ---- Context -------------------------------------------------------------------------------------------------------

namespace {

/// The names of UCP's own options that this library knows, as lines "UCX_NAME=...".
std::string
knownOptions(const Api &api, const ucp_config_t *config) {
    char *text = nullptr;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    if (!stream) return {};
    api.ucp_config_print(config, stream, nullptr,
                         static_cast<ucs_config_print_flags_t>(UCS_CONFIG_PRINT_CONFIG | UCS_CONFIG_PRINT_HIDDEN));
    std::fclose(stream);
    std::string known(text, size);
    std::free(text);
    return known;
}

// The smallest, should there be several UCX in the process.
std::atomic<size_t> request_size{SIZE_MAX};

/// UCX before 1.21 looks, when it destroys a worker, at the data type of answers to a peer still queued. It has
/// never set that, and ends the process over what lies there by chance (seen with 1.13, 1.15 and 1.18). Zeros are the
/// plain type, of which nothing is to be given back. `behind`: a request ends there, see ucp_tag_recv_nbr.
void
clearNewRequest(void *behind) {
    const size_t size = request_size.load(std::memory_order_relaxed);
    std::memset(static_cast<char *>(behind) - size, 0, size);
}

void
learnRequestSize(const Api &api, ucp_context_h context) {
    ucp_context_attr_t attributes{};
    attributes.field_mask = UCP_ATTR_FIELD_REQUEST_SIZE;
    const size_t size = api.ucp_context_query(context, &attributes) == UCS_OK ? attributes.request_size : 0;
    size_t smallest = request_size;
    while (size < smallest && !request_size.compare_exchange_weak(smallest, size)) {}
}

} // namespace

Result<std::unique_ptr<Context>>
Context::create(const Library &library, const ContextOptions &options) {
    if (auto status = trySupply(kForContext); !status.ok()) return status;
    const Api &api = library.api();
    ucp_config_t *config = nullptr;
    if (const auto status = api.ucp_config_read(nullptr, nullptr, &config); status != UCS_OK) {
        return {NIXL_ERR_BACKEND, "UCX cannot read its configuration: " + library.text(status)};
    }
    const std::string known = knownOptions(api, config);
    for (const Setting &setting : options.settings) {
        // UCX up to 1.17 takes any name and warns about the unknown ones when a worker is created. Those of transports
        // are not among the printed ones; there it knows them without the transport's own prefix.
        const bool known_here = library.minorVersion() >= 18 || setting.name.starts_with("MM_") ||
            known.find("UCX_" + setting.name + "=") != std::string::npos;
        if (!known_here && !setting.from_user) continue;
        api.ucp_config_modify(config, setting.name.c_str(), setting.value.c_str());
    }

    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED | UCP_PARAM_FIELD_NAME;
    params.features = UCP_FEATURE_RMA | UCP_FEATURE_AMO32 | UCP_FEATURE_AMO64 | UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    params.mt_workers_shared = 1; // registrations run beside workers that progress
    params.name = options.name.c_str();
    if (!library.endsBusyWorkers()) {
        params.field_mask |= UCP_PARAM_FIELD_REQUEST_INIT;
        params.request_init = &clearNewRequest; // first called for a worker
    }
    ucp_context_h handle = nullptr;
    const auto status = api.ucp_init_version(kApiMajor, kApiMinor, &params, config, &handle);
    api.ucp_config_release(config);
    if (status != UCS_OK) return {NIXL_ERR_BACKEND, "UCX cannot start: " + library.text(status)};
    learnRequestSize(api, handle);
    return std::unique_ptr<Context>(new Context(library, handle));
}

Context::~Context() {
    library_.api().ucp_cleanup(handle_);
}

Result<Mapping>
Context::map(void *address, size_t length) {
    const Api &api = library_.api();
    const MutexLock lock(mutex_);
    ucp_mem_map_params_t params{};
    params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
    params.address = address;
    params.length = length;
    Mapping mapping;
    if (const auto status = api.ucp_mem_map(handle_, &params, &mapping.handle); status != UCS_OK) {
        return {NIXL_ERR_BACKEND, "UCX cannot register the memory: " + library_.text(status)};
    }
    ucp_mem_attr_t attributes{};
    attributes.field_mask = UCP_MEM_ATTR_FIELD_MEM_TYPE;
    void *key = nullptr;
    size_t key_size = 0;
    auto status = api.ucp_mem_query(mapping.handle, &attributes);
    if (status == UCS_OK) status = api.ucp_rkey_pack(handle_, mapping.handle, &key, &key_size);
    if (status != UCS_OK) {
        api.ucp_mem_unmap(handle_, mapping.handle);
        return {NIXL_ERR_BACKEND, "UCX cannot make a key for the memory: " + library_.text(status)};
    }
    mapping.context = this;
    mapping.host_memory = attributes.mem_type == UCS_MEMORY_TYPE_HOST;
    mapping.key.assign(static_cast<const char *>(key), key_size);
    api.ucp_rkey_buffer_release(key);
    return mapping;
}

void
Context::unmap(ucp_mem *handle) noexcept {
    if (!handle) return;
    const MutexLock lock(mutex_);
    library_.api().ucp_mem_unmap(handle_, handle);
}

// ---- Callbacks: the functions UCX calls -----------------------------------------------------------------------------

struct Callbacks {
    /// UCX is C: nothing may be thrown through it.
    template<class Call, class Otherwise>
    static auto
    guarded(Call call, Otherwise otherwise) noexcept {
        try {
            return call();
        }
        catch (...) {
            return otherwise();
        }
    }

    static void
    finished(void *request, ucs_status_t status, void *user) {
        auto *operation = static_cast<Operation *>(user);
        operation->driver_api->ucp_request_free(request);
        operation->finished(status);
    }

    static void
    failed(void *user, ucp_ep_h, ucs_status_t status) {
        auto *endpoint = static_cast<Endpoint *>(user);
        if (endpoint->failure_ == kDone) endpoint->failure_ = status;
        endpoint->died_ = true;
        endpoint->worker_.mutex_.assertHeld();
        endpoint->worker_.some_failed_ = true; // closed after the progress call: not allowed in here
    }

    static ucs_status_t
    arrived(void *user, const void *, size_t, void *data, size_t length, const ucp_am_recv_param_t *param) {
        auto *worker = static_cast<Worker *>(user);
        const auto take = [&] {
            if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) {
                worker->sink_.refused("it came by rendezvous");
            } else {
                worker->sink_.arrived({static_cast<const char *>(data), length});
            }
        };
        guarded(take, [&] { guarded([&] { worker->sink_.refused("there is no memory for it"); }, [] {}); });
        return UCS_OK;
    }

    /// UCX tells the sender of a rendezvous message when this, or ucp_am_data_release, has let go of it.
    static ucs_status_t
    asked(void *user, const void *header, size_t header_length, void *data, size_t, const ucp_am_recv_param_t *param) {
        auto *worker = static_cast<Worker *>(user);
        worker->mutex_.assertHeld();
        if (worker->answers_at_once_ || !(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) return UCS_OK;
        const std::string_view sender(static_cast<const char *>(header), header_length);
        const auto take = [&] {
            worker->mutex_.assertHeld();
            return worker->ask(sender, data) ? UCS_INPROGRESS : UCS_OK;
        };
        return guarded(take, [] { return UCS_OK; }); // answered too early
    }
};

// ---- Worker --------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<Worker>>
Worker::create(Context &context, const std::string &name, MessageSink &sink) {
    const Library &library = context.library();
    const Api &api = library.api();
    if (auto status = trySupply(kForWorker); !status.ok()) return status;
    ucp_worker_params_t params{};
    params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_NAME;
    params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
    params.name = name.c_str();
    ucp_worker_h handle = nullptr;
    if (const auto status = api.ucp_worker_create(context.handle_, &params, &handle); status != UCS_OK) {
        return {NIXL_ERR_BACKEND, "UCX cannot create a worker: " + library.text(status)};
    }
    std::unique_ptr<Worker> worker(new Worker(context, handle, sink));

    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
        UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kMessageId;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = &Callbacks::arrived;
    handler.arg = worker.get();
    ucp_worker_attr_t attributes{};
    attributes.field_mask = UCP_WORKER_ATTR_FIELD_ADDRESS;
    auto status = api.ucp_worker_set_am_recv_handler(handle, &handler);
    handler.id = kQuestionId;
    handler.cb = &Callbacks::asked;
    if (status == UCS_OK) status = api.ucp_worker_set_am_recv_handler(handle, &handler);
    if (status == UCS_OK) status = api.ucp_worker_query(handle, &attributes);
    if (status != UCS_OK) return {NIXL_ERR_BACKEND, "UCX cannot set up a worker: " + library.text(status)};
    worker->address_.assign(reinterpret_cast<const char *>(attributes.address), attributes.address_length);
    api.ucp_worker_release_address(handle, attributes.address);
    status = api.ucp_worker_get_efd(handle, &worker->event_fd_);
    if (status != UCS_OK) return {NIXL_ERR_BACKEND, "UCX cannot be slept on: " + library.text(status)};
    return worker;
}

Worker::~Worker() {
    const Api &api = context_.library().api();
    answerAll();
    endCopies(); // some UCX end the process that destroys a worker with copies left
    // UCX warns of each operation of its own that a dead or busy peer has left open, perhaps of thousands, and nobody
    // can do anything about them. Errors and the user's own choice of level stay.
    static Mutex mutex; // the level is one of the whole process
    const MutexLock lock(mutex);
    char level[16] = "";
    const bool lowered = !nixlx::configValue("UCX_LOG_LEVEL") &&
        api.ucs_global_opts_get_value("LOG_LEVEL", level, sizeof level) == UCS_OK && strcasecmp(level, "warn") == 0 &&
        api.ucs_global_opts_set_value("LOG_LEVEL", "error") == UCS_OK;
    api.ucp_worker_destroy(handle_);
    if (lowered) api.ucs_global_opts_set_value("LOG_LEVEL", level);
}

bool
Worker::progress() {
    bool happened = !retired_ && context_.library().api().ucp_worker_progress(handle_) != 0;
    if (some_failed_) closeFailed();
    if (called_.load(std::memory_order_acquire)) takeCalls();
    for (size_t left = tasks_.size(); left > 0 && !tasks_.empty(); --left) {
        happened = true;
        Task &task = tasks_.pop();
        if (task.advance()) tasks_.push(task);
    }
    return happened;
}

void
Worker::endCopies() {
    if (retired_) return;
    const auto deadline = std::chrono::steady_clock::now() + kCopiesLimit;
    while (context_.library().api().ucp_worker_progress(handle_) != 0 && std::chrono::steady_clock::now() < deadline) {}
}

std::optional<bool>
Worker::tryDrive() noexcept {
    if (!mutex_.try_lock()) return {};
    const MutexLock lock(mutex_, std::adopt_lock);
    return progress();
}

bool
Worker::arm() noexcept {
    const MutexLock lock(mutex_);
    return !progress() && armLocked();
}

bool
Worker::armLocked() noexcept {
    if (!tasks_.empty() || some_failed_ || called_) return false;
    if (retired_) return true;
    return context_.library().api().ucp_worker_arm(handle_) != UCS_ERR_BUSY;
}

bool
Worker::idle() {
    const MutexLock lock(mutex_);
    if (cut_off_) return false;
    const Api &api = context_.library().api();
    const ucp_request_param_t param{};
    void *request = api.ucp_worker_flush_nbx(handle_, &param);
    if (!UCS_PTR_IS_PTR(request)) return true;
    api.ucp_request_free(request);
    return false;
}

void
Worker::wake(Task &task) noexcept {
    const MutexLock lock(calls_mutex_);
    woken_.push(task);
    called_.store(true, std::memory_order_release);
}

/// Answers need no memory: it is taken with the question.
bool
Worker::ask(std::string_view sender, void *question) {
    answering_.reserve(asked_ + 1);
    {
        const MutexLock lock(calls_mutex_);
        answered_.reserve(asked_ + 1);
    }
    if (!sink_.asked(*this, sender, question)) return false;
    ++asked_;
    return true;
}

void
Worker::answer(void *question) noexcept {
    const MutexLock lock(calls_mutex_);
    answered_.push_back(question);
    called_.store(true, std::memory_order_release);
}

void
Worker::takeCalls() {
    {
        const MutexLock lock(calls_mutex_);
        called_.store(false, std::memory_order_relaxed);
        while (!woken_.empty()) tasks_.push(woken_.pop());
        answering_.swap(answered_);
    }
    for (void *question : answering_) context_.library().api().ucp_am_data_release(handle_, question);
    asked_ -= answering_.size();
    answering_.clear();
}

void
Worker::drop(Task &task) {
    tasks_.remove(task);
    const MutexLock lock(calls_mutex_);
    woken_.remove(task);
}

void
Worker::answerAll() {
    answers_at_once_ = true;
    sink_.giveBack(*this);
    takeCalls();
}

void
Worker::closeFailed() {
    some_failed_ = false;
    for (size_t i = endpoints_.size(); i-- > 0;) {
        if (endpoints_[i]->failure_ != kDone) endpoints_[i]->closeNow(); // leaves the list
    }
}

// ---- Endpoint ------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<Endpoint>>
Endpoint::create(Worker &worker, const std::string &address, bool detect_death) {
    const Library &library = worker.context_.library();
    if (auto status = trySupply(kForEndpoint); !status.ok()) return status;
    std::unique_ptr<Endpoint> endpoint(new Endpoint(worker, detect_death));
    const std::string bytes = padded(address);
    ucp_ep_params_t params{};
    params.field_mask =
        UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.address = reinterpret_cast<const ucp_address_t *>(bytes.data());
    params.err_mode = detect_death ? UCP_ERR_HANDLING_MODE_PEER : UCP_ERR_HANDLING_MODE_NONE;
    params.err_handler.cb = &Callbacks::failed;
    params.err_handler.arg = endpoint.get();
    const auto status = library.api().ucp_ep_create(worker.handle_, &params, &endpoint->handle_);
    if (status != UCS_OK) {
        endpoint->handle_ = nullptr;
        return {statusOf(status), "UCX cannot connect: " + library.text(status)};
    }
    worker.mutex_.assertHeld();
    worker.endpoints_.push_back(endpoint.get());
    endpoint->created_ = true;
    return endpoint;
}

Endpoint::~Endpoint() {
    if (!created_) return; // create() failed and holds the lock
    const MutexLock lock(worker_.mutex_);
    if (handle_) closeNow();
    if (farewell_) farewell_->endpoint = nullptr;
}

Code
Endpoint::outcome(void *pointer) const noexcept {
    if (!pointer) return kDone;
    if (UCS_PTR_IS_ERR(pointer)) return UCS_PTR_STATUS(pointer);
    return kPending;
}

namespace {

ucp_request_param_t
reportTo(Operation &operation) {
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    param.cb.send = &Callbacks::finished;
    param.user_data = &operation;
    return param;
}

ucp_request_param_t
dataParam(Operation &operation, const Mapping &mapping, const Context &context) {
    ucp_request_param_t param = reportTo(operation);
    param.op_attr_mask |= UCP_OP_ATTR_FLAG_MULTI_SEND;
    if (mapping.context == &context) {
        param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
        param.memh = mapping.handle;
    }
    return param;
}

} // namespace

Code
Endpoint::put(const void *from,
              size_t length,
              uint64_t to,
              ucp_rkey *key,
              const Mapping &mapping,
              Operation &operation) {
    if (!handle_) return failure_ ? failure_ : kNotConnected;
    const Api &api = worker_.context_.library().api();
    operation.driver_api = &api;
    const auto param = dataParam(operation, mapping, worker_.context_);
    return outcome(api.ucp_put_nbx(handle_, from, length, to, key, &param));
}

Code
Endpoint::get(void *to, size_t length, uint64_t from, ucp_rkey *key, const Mapping &mapping, Operation &operation) {
    if (!handle_) return failure_ ? failure_ : kNotConnected;
    const Api &api = worker_.context_.library().api();
    operation.driver_api = &api;
    const auto param = dataParam(operation, mapping, worker_.context_);
    return outcome(api.ucp_get_nbx(handle_, to, length, from, key, &param));
}

Code
Endpoint::flush(Operation &operation) {
    if (!handle_) return failure_ ? failure_ : kNotConnected;
    const Api &api = worker_.context_.library().api();
    operation.driver_api = &api;
    const auto param = reportTo(operation);
    return outcome(api.ucp_ep_flush_nbx(handle_, &param));
}

Code
Endpoint::send(std::string_view bytes, Operation &operation) {
    if (!handle_ || farewell_) return failure_ ? failure_ : kNotConnected;
    const Api &api = worker_.context_.library().api();
    operation.driver_api = &api;
    auto param = reportTo(operation);
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    param.flags = UCP_AM_SEND_FLAG_EAGER;
    param.memory_type = UCS_MEMORY_TYPE_HOST;
    return outcome(api.ucp_am_send_nbx(handle_, kMessageId, nullptr, 0, bytes.data(), bytes.size(), &param));
}

Code
Endpoint::ask(std::string_view sender, Operation &operation) {
    static const char nothing = 0; // never fetched
    if (!handle_ || farewell_) return failure_ ? failure_ : kNotConnected;
    const Api &api = worker_.context_.library().api();
    operation.driver_api = &api;
    auto param = reportTo(operation);
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    param.flags = UCP_AM_SEND_FLAG_RNDV;
    param.memory_type = UCS_MEMORY_TYPE_HOST;
    return outcome(api.ucp_am_send_nbx(handle_, kQuestionId, sender.data(), sender.size(), &nothing, 1, &param));
}

Result<ucp_rkey *>
Endpoint::unpackKey(const std::string &key) {
    const Library &library = worker_.context_.library();
    if (!handle_) return {NIXL_ERR_REMOTE_DISCONNECT, "the connection is closed"};
    const std::string bytes = padded(key);
    ucp_rkey *unpacked = nullptr;
    if (const auto status = library.api().ucp_ep_rkey_unpack(handle_, bytes.data(), &unpacked); status != UCS_OK) {
        return {statusOf(status), "UCX cannot read the peer's memory key: " + library.text(status)};
    }
    return unpacked;
}

std::optional<double>
Endpoint::estimate(size_t bytes) const {
    if (!handle_) return {};
    ucp_ep_evaluate_perf_param_t param{};
    param.field_mask = UCP_EP_PERF_PARAM_FIELD_MESSAGE_SIZE;
    param.message_size = bytes;
    ucp_ep_evaluate_perf_attr_t attributes{};
    attributes.field_mask = UCP_EP_PERF_ATTR_FIELD_ESTIMATED_TIME;
    if (worker_.context_.library().api().ucp_ep_evaluate_perf(handle_, &param, &attributes) != UCS_OK) return {};
    return attributes.estimated_time;
}

void
Endpoint::abandon(Code reason) {
    if (failure_ == kDone) failure_ = reason;
    died_ = true;
    if (handle_) closeNow();
}

void
Endpoint::close(bool orderly) {
    if (!handle_ || (orderly && farewell_)) return;
    // Flush first, then close by force: unlike UCX's own flushing close this can still be cut short. UCX allows force
    // only where it looks after the death of peers.
    if (orderly && detect_death_ && failure_ == kDone) {
        auto farewell = std::make_unique<Farewell>(*this);
        if (flush(*farewell) == kPending) {
            farewell_ = farewell.release();
            return;
        }
        flushed_ = true;
    }
    closeNow();
}

void
Endpoint::Farewell::finished(Code code) noexcept {
    if (endpoint) {
        endpoint->flushed_ = code == kDone && endpoint->failure_ == kDone;
        endpoint->farewell_ = nullptr;
        if (endpoint->failure_ == kDone) endpoint->failure_ = kNotConnected;
        endpoint->worker_.mutex_.assertHeld();
        endpoint->worker_.some_failed_ = true; // closed after the progress call: not allowed in here
    }
    delete this;
}

void
Endpoint::closeNow() {
    const Api &api = worker_.context_.library().api();
    if (failure_ == kDone) failure_ = kNotConnected;
    worker_.mutex_.assertHeld();
    std::erase(worker_.endpoints_, this);
    worker_.forgotten_.driver_api = &api;
    auto param = reportTo(worker_.forgotten_);
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = detect_death_ && !flushed_ ? UCP_EP_CLOSE_FLAG_FORCE : 0;
    // The handle goes first: the call ends outstanding operations, whose owners may look.
    api.ucp_ep_close_nbx(std::exchange(handle_, nullptr), &param);
}

void
releaseKey(Worker &worker, ucp_rkey *key) noexcept {
    const MutexLock lock(worker.mutex());
    worker.context().library().api().ucp_rkey_destroy(key);
}

} // namespace nx::ucx
