// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "obj/driver.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <ctime>

#include <aws/auth/auth.h>
#include <aws/auth/credentials.h>
#include <aws/auth/signable.h>
#include <aws/auth/signing.h>
#include <aws/auth/signing_config.h>
#include <aws/auth/signing_result.h>
#include <aws/checksums/crc.h>
#include <aws/common/clock.h>
#include <aws/common/date_time.h>
#include <aws/common/string.h>
#include <aws/common/task_scheduler.h>
#include <aws/http/connection.h>
#include <aws/http/connection_manager.h>
#include <aws/http/proxy.h>
#include <aws/http/request_response.h>
#include <aws/io/channel.h>
#include <aws/io/channel_bootstrap.h>
#include <aws/io/event_loop.h>
#include <aws/io/host_resolver.h>
#include <aws/io/socket.h>
#include <aws/io/stream.h>
#include <aws/io/tls_channel_handler.h>
#include <aws/sdkutils/aws_profile.h>

#include "base/mutex.h"

namespace nx::obj {

namespace {

constexpr uint32_t kConnectMs = 3000;
constexpr size_t kReadBytes = size_t{128} << 10; // at once from a socket; the CRT's own is 16 KiB
constexpr uint64_t kIdleMs = 15000;              // before a server may close
constexpr uint64_t kCredentialsS = 60;           // before they expire

/// Once, for the life of the process: other engines of it use the library, and its threads may outlive an engine.
aws_allocator *
library() {
    static aws_allocator *const allocator = [] {
        aws_allocator *made = aws_default_allocator();
        aws_auth_library_init(made); // and all that it needs
        g_aws_channel_max_fragment_size = kReadBytes;
        return made;
    }();
    return allocator;
}

aws_byte_cursor
cursorOf(std::string_view text) noexcept {
    return aws_byte_cursor_from_array(text.data(), text.size());
}

std::string_view
viewOf(aws_byte_cursor cursor) noexcept {
    return {reinterpret_cast<const char *>(cursor.ptr), cursor.len};
}

/// Threads that begin meanwhile have all signals blocked.
class SignalsBlocked {
public:
    SignalsBlocked() noexcept {
        sigset_t all;
        sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~SignalsBlocked() {
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }
    SignalsBlocked(const SignalsBlocked &) = delete;

private:
    sigset_t before_;
};

/// The CRT's references.
template<class T, auto kRelease> struct Release {
    void
    operator()(T *owned) const noexcept {
        kRelease(owned);
    }
};
template<class T, auto kRelease> using Owned = std::unique_ptr<T, Release<T, kRelease>>;

using EventLoops = Owned<aws_event_loop_group, aws_event_loop_group_release>;
using Resolver = Owned<aws_host_resolver, aws_host_resolver_release>;
using Bootstrap = Owned<aws_client_bootstrap, aws_client_bootstrap_release>;
using Tls = Owned<aws_tls_ctx, aws_tls_ctx_release>;
using Provider = Owned<aws_credentials_provider, aws_credentials_provider_release>;
using Message = Owned<aws_http_message, aws_http_message_release>;
using Signable = Owned<aws_signable, aws_signable_destroy>;
using Profiles = Owned<aws_profile_collection, aws_profile_collection_release>;
using Text = Owned<aws_string, aws_string_destroy>;

Status
failed(nixl_status_t status, const std::string &what) {
    return {status, what + ": " + aws_error_str(aws_last_error())};
}

// ---- Bodies of requests ------------------------------------------------------------------------------------------

/// Reads what a receiver has to send. The CRT refers to it, and to the receiver through it, until onEnd() only.
struct Body {
    aws_input_stream stream{};
    Receiver &receiver;
    const uint64_t length;
    uint64_t position = 0;

    static Body &
    of(aws_input_stream *stream) noexcept {
        return *static_cast<Body *>(stream->impl);
    }
};

int
seekBody(aws_input_stream *stream, int64_t offset, aws_stream_seek_basis basis) {
    if (basis != AWS_SSB_BEGIN || offset != 0) return aws_raise_error(AWS_IO_STREAM_INVALID_SEEK_POSITION);
    Body::of(stream).position = 0;
    return AWS_OP_SUCCESS;
}

int
readBody(aws_input_stream *stream, aws_byte_buf *room) {
    Body &body = Body::of(stream);
    while (room->len < room->capacity && body.position < body.length) {
        const size_t size = std::min<uint64_t>(room->capacity - room->len, body.length - body.position);
        const size_t filled =
            body.receiver.fill(body.position, reinterpret_cast<char *>(room->buffer) + room->len, size);
        room->len += filled;
        body.position += filled;
    }
    return AWS_OP_SUCCESS;
}

int
statusOfBody(aws_input_stream *stream, aws_stream_status *status) {
    status->is_valid = true;
    status->is_end_of_stream = Body::of(stream).position == Body::of(stream).length;
    return AWS_OP_SUCCESS;
}

int
lengthOfBody(aws_input_stream *stream, int64_t *length) {
    *length = static_cast<int64_t>(Body::of(stream).length);
    return AWS_OP_SUCCESS;
}

constexpr aws_input_stream_vtable kBodyFunctions = {
    .seek = seekBody,
    .read = readBody,
    .get_status = statusOfBody,
    .get_length = lengthOfBody,
    .acquire = nullptr,
    .release = nullptr,
};

void
destroyBody(void *body) {
    delete static_cast<Body *>(body);
}

aws_input_stream *
newBody(Receiver &receiver, uint64_t length) {
    auto *body = new Body{.receiver = receiver, .length = length};
    body->stream.impl = body;
    body->stream.vtable = &kBodyFunctions;
    aws_ref_count_init(&body->stream.ref_count, body, destroyBody);
    return &body->stream;
}

// ---- Tasks -------------------------------------------------------------------------------------------------------

struct Task {
    aws_task task{};
    std::function<void()> body;
};

void
runTask(aws_task *, void *argument, aws_task_status status) {
    const std::unique_ptr<Task> task(static_cast<Task *>(argument));
    if (status == AWS_TASK_STATUS_RUN_READY) task->body();
}

} // namespace

// ---- The library -------------------------------------------------------------------------------------------------

std::string
regionOfProfile() {
    aws_allocator *const allocator = library();
    const auto read = [&](aws_string *path, aws_profile_source_type type) {
        const Text owned(path);
        return Profiles(owned ? aws_profile_collection_new_from_file(allocator, path, type) : nullptr);
    };
    const Profiles config = read(aws_get_config_file_path(allocator, nullptr), AWS_PST_CONFIG);
    const Text name(aws_get_profile_name(allocator, nullptr));
    if (!config || !name) return {};
    const aws_profile *const profile = aws_profile_collection_get_profile(config.get(), name.get());
    const Text wanted(aws_string_new_from_c_str(allocator, "region"));
    const aws_profile_property *const region = profile ? aws_profile_get_property(profile, wanted.get()) : nullptr;
    return region ? aws_string_c_str(aws_profile_property_get_value(region)) : "";
}

uint32_t
crc32c(const void *data, size_t size, uint32_t previous) noexcept {
    return aws_checksums_crc32c_ex(static_cast<const uint8_t *>(data), size, previous);
}

std::string
base64Of(uint32_t crc) {
    static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    const uint64_t bits = uint64_t{crc} << 4; // six digits of six bits
    for (int shift = 30; shift >= 0; shift -= 6) text += kDigits[bits >> shift & 63];
    return text + "==";
}

Failure
failureOf(int error) {
    const std::string reason = std::string(aws_error_str(error));
    switch (error) {
    case AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE:
    case AWS_IO_TLS_UNKNOWN_ROOT_CERTIFICATE:
    case AWS_IO_TLS_NO_ROOT_CERTIFICATE_FOUND:
    case AWS_IO_TLS_CERTIFICATE_EXPIRED:
    case AWS_IO_TLS_CERTIFICATE_NOT_YET_VALID:
    case AWS_IO_TLS_BAD_CERTIFICATE:
    case AWS_IO_TLS_PEER_CERTIFICATE_EXPIRED:
    case AWS_IO_TLS_BAD_PEER_CERTIFICATE:
    case AWS_IO_TLS_PEER_CERTIFICATE_REVOKED:
    case AWS_IO_TLS_PEER_CERTIFICATE_UNKNOWN:
    case AWS_IO_TLS_INVALID_CERTIFICATE_CHAIN:
    case AWS_IO_TLS_HOST_NAME_MISMATCH:
        return {false, NIXL_ERR_NOT_ALLOWED,
                "no secure connection: " + reason +
                    "; the server has to speak TLS, with a certificate for its name that the system or \"ca_bundle\" "
                    "trusts"};
    case AWS_ERROR_OOM: return {false, NIXL_ERR_NO_MEMORY, reason};
    default: return {true, NIXL_ERR_BACKEND, reason};
    }
}

struct Driver::State {
    std::string host, host_header, region;
    uint32_t port = 0;
    EventLoops loops;
    Resolver resolver;
    Bootstrap bootstrap;
    Tls tls;
    aws_tls_connection_options tls_options{};
    aws_http_connection_manager *manager = nullptr; ///< there as long as something has a connection of it
    std::atomic<bool> connects{false};              ///< it has our reference
    std::atomic<int> tls_failure{0};
    Provider provider; ///< null: the credentials are the program's
    std::atomic<int64_t> clock_offset_ms{0};

    Mutex mutex;
    CondVar changed;
    const aws_credentials *credentials NX_GUARDED_BY(mutex) = nullptr;
    bool fetching NX_GUARDED_BY(mutex) = false;
    std::function<void(Status)> then NX_GUARDED_BY(mutex);
    bool loops_ended NX_GUARDED_BY(mutex) = false;

    ~State() {
        aws_tls_connection_options_clean_up(&tls_options);
        if (credentials) aws_credentials_release(credentials);
    }

    Status
    openTls(const Options &options);
    Status
    openManager(const Options &options);
    Status
    openCredentials(const Options &options);
};

Status
Driver::State::openTls(const Options &options) {
    aws_tls_ctx_options tls_context{};
    aws_tls_ctx_options_init_default_client(&tls_context, library());
    Status status;
    if (!options.ca_bundle.empty() &&
        aws_tls_ctx_options_override_default_trust_store_from_path(&tls_context, nullptr, options.ca_bundle.c_str()) !=
            AWS_OP_SUCCESS) {
        status = failed(NIXL_ERR_INVALID_PARAM, "the certificates in " + quoted(options.ca_bundle, 200));
    }
    if (status.ok()) {
        tls.reset(aws_tls_client_ctx_new(library(), &tls_context));
        if (!tls) {
            status = failed(NIXL_ERR_INVALID_PARAM,
                            options.ca_bundle.empty() ? "the system's certificates"
                                                      : "the certificates in " + quoted(options.ca_bundle, 200));
        }
    }
    aws_tls_ctx_options_clean_up(&tls_context);
    if (!status.ok() || !options.tls) return status;
    aws_tls_connection_options_init_from_ctx(&tls_options, tls.get());
    const auto negotiated = [](aws_channel_handler *, aws_channel_slot *, int error, void *argument) {
        if (error != 0) static_cast<State *>(argument)->tls_failure = error;
    };
    aws_tls_connection_options_set_callbacks(&tls_options, negotiated, nullptr, nullptr, this);
    const aws_byte_cursor name = cursorOf(host);
    if (aws_tls_connection_options_set_server_name(&tls_options, library(), &name) != AWS_OP_SUCCESS) {
        return failed(NIXL_ERR_INVALID_PARAM, "the host " + quoted(host) + " for TLS");
    }
    return {};
}

Status
Driver::State::openManager(const Options &options) {
    aws_socket_options socket{};
    socket.type = AWS_SOCKET_STREAM;
    socket.domain = AWS_SOCKET_IPV4;
    socket.connect_timeout_ms = kConnectMs;
    socket.tcp_nodelay = AWS_SOCKET_TCP_NODELAY_ON;
    proxy_env_var_settings proxy{};
    proxy.env_var_type = AWS_HPEV_ENABLE;
    aws_http_connection_manager_options manager_options{};
    manager_options.bootstrap = bootstrap.get();
    manager_options.initial_window_size = SIZE_MAX;
    manager_options.socket_options = &socket;
    manager_options.tls_connection_options = options.tls ? &tls_options : nullptr;
    manager_options.host = cursorOf(host);
    manager_options.port = port;
    manager_options.proxy_ev_settings = &proxy;
    manager_options.max_connections = options.connection_count;
    manager_options.max_connection_idle_in_milliseconds = kIdleMs;
    manager = aws_http_connection_manager_new(library(), &manager_options);
    connects = manager != nullptr;
    return manager ? Status() : failed(NIXL_ERR_BACKEND, "connections to " + quoted(host) + " cannot be made");
}

Status
Driver::State::openCredentials(const Options &options) {
    if (options.credentials) {
        const Credentials &given = *options.credentials;
        const MutexLock lock(mutex);
        credentials = aws_credentials_new(library(), cursorOf(given.access_key), cursorOf(given.secret_key),
                                          cursorOf(given.session_token), UINT64_MAX);
        return credentials ? Status() : failed(NIXL_ERR_INVALID_PARAM, "the credentials");
    }
    aws_credentials_provider_chain_default_options chain{};
    chain.bootstrap = bootstrap.get();
    chain.tls_ctx = tls.get();
    provider.reset(aws_credentials_provider_new_chain_default(library(), &chain));
    return provider ? Status() : failed(NIXL_ERR_BACKEND, "the search for credentials cannot begin");
}

Result<std::unique_ptr<Driver>>
Driver::open(const Options &options) {
    aws_allocator *const allocator = library();
    const SignalsBlocked signals_blocked;
    auto state = std::make_shared<State>();
    state->host = options.host;
    state->port = options.port;
    state->region = options.region;
    state->host_header = options.endpoint().substr(options.endpoint().find("//") + 2);
    // Called when the last loop has ended, with a reference of its own.
    auto *kept = new std::shared_ptr<State>(state);
    const aws_shutdown_callback_options ended{
        .shutdown_callback_fn =
            [](void *argument) {
                const std::unique_ptr<std::shared_ptr<State>> owned(static_cast<std::shared_ptr<State> *>(argument));
                State &state = **owned;
                {
                    const MutexLock lock(state.mutex);
                    state.loops_ended = true;
                }
                state.changed.notifyAll();
            },
        .shutdown_callback_user_data = kept,
    };
    state->loops.reset(aws_event_loop_group_new_default(allocator, options.thread_count, &ended));
    if (!state->loops) {
        delete kept;
        return failed(NIXL_ERR_BACKEND, "event loops cannot be made");
    }
    std::unique_ptr<Driver> driver(new Driver(state));
    aws_host_resolver_default_options resolver{};
    resolver.max_entries = 16;
    resolver.el_group = state->loops.get();
    state->resolver.reset(aws_host_resolver_new_default(allocator, &resolver));
    aws_client_bootstrap_options bootstrap{};
    bootstrap.event_loop_group = state->loops.get();
    bootstrap.host_resolver = state->resolver.get();
    if (state->resolver) state->bootstrap.reset(aws_client_bootstrap_new(allocator, &bootstrap));
    if (!state->bootstrap) return failed(NIXL_ERR_BACKEND, "connections cannot be made");
    // Certificates take a while to read.
    if (options.tls || !options.credentials) {
        if (Status status = state->openTls(options); !status.ok()) return status;
    }
    if (Status status = state->openManager(options); !status.ok()) return status;
    if (Status status = state->openCredentials(options); !status.ok()) return status;
    return driver;
}

Driver::Driver(std::shared_ptr<State> state) : state_(std::move(state)) {}

Driver::~Driver() {
    close(std::chrono::steady_clock::now() + std::chrono::seconds(1));
}

void
Driver::stopConnecting() noexcept {
    if (state_->connects.exchange(false)) aws_http_connection_manager_release(state_->manager);
}

int
Driver::takeTlsFailure() noexcept {
    return state_->tls_failure.load(std::memory_order_relaxed) == 0 ? 0 : state_->tls_failure.exchange(0);
}

void
Driver::close(std::chrono::steady_clock::time_point deadline) noexcept {
    State &state = *state_;
    state.provider.reset();
    stopConnecting();
    state.bootstrap.reset();
    state.resolver.reset();
    state.loops.reset();
    const MutexLock lock(state.mutex);
    while (!state.loops_ended && state.changed.waitUntil(state.mutex, deadline)) {}
}

void
Driver::run(std::function<void()> body, std::chrono::milliseconds after) {
    auto *task = new Task{.body = std::move(body)};
    aws_task_init(&task->task, runTask, task, "nixl");
    aws_event_loop *const loop = aws_event_loop_group_get_loop_at(state_->loops.get(), 0);
    uint64_t now = 0;
    if (after.count() == 0 || aws_event_loop_current_clock_time(loop, &now) != AWS_OP_SUCCESS) {
        aws_event_loop_schedule_task_now(loop, &task->task);
    } else {
        aws_event_loop_schedule_task_future(loop, &task->task,
                                            now + static_cast<uint64_t>(std::chrono::nanoseconds(after).count()));
    }
}

// ---- Credentials -------------------------------------------------------------------------------------------------

bool
Driver::credentialsReady(std::function<void(Status)> then) {
    State &state = *state_;
    bool good = false;
    {
        const MutexLock lock(state.mutex);
        good = state.credentials != nullptr;
        if (good) {
            const uint64_t end = aws_credentials_get_expiration_timepoint_seconds(state.credentials);
            if (end == UINT64_MAX || end > static_cast<uint64_t>(::time(nullptr)) + kCredentialsS) return true;
        }
        // Those that end soon are used while new ones come.
        if (state.fetching) return good;
        state.fetching = true;
        state.then = std::move(then);
    }
    auto *kept = new std::shared_ptr<State>(state_);
    const auto fetched = [](aws_credentials *credentials, int error, void *argument) {
        const std::unique_ptr<std::shared_ptr<State>> owned(static_cast<std::shared_ptr<State> *>(argument));
        State &state = **owned;
        std::function<void(Status)> then;
        {
            const MutexLock lock(state.mutex);
            state.fetching = false;
            then = std::move(state.then);
            state.then = nullptr;
            if (credentials) {
                if (state.credentials) aws_credentials_release(state.credentials);
                aws_credentials_acquire(credentials);
                state.credentials = credentials;
            }
        }
        if (!then) return;
        then(credentials ? Status()
                         : Status(NIXL_ERR_NOT_ALLOWED,
                                  std::string("no credentials were found (") + aws_error_str(error) +
                                      "); give \"access_key\" and \"secret_key\", or set up the environment, a "
                                      "profile, or the role of the container or instance"));
    };
    if (aws_credentials_provider_get_credentials(state.provider.get(), fetched, kept) != AWS_OP_SUCCESS) {
        fetched(nullptr, aws_last_error(), kept);
    }
    return good;
}

void
Driver::dropCredentials() noexcept {
    State &state = *state_;
    const MutexLock lock(state.mutex);
    if (!state.provider || !state.credentials) return;
    aws_credentials_release(state.credentials);
    state.credentials = nullptr;
}

void
Driver::setClock(const std::string &date) noexcept {
    aws_date_time server{}, here{};
    const aws_byte_cursor text = cursorOf(date);
    if (aws_date_time_init_from_str_cursor(&server, &text, AWS_DATE_FORMAT_AUTO_DETECT) != AWS_OP_SUCCESS) return;
    aws_date_time_init_now(&here);
    state_->clock_offset_ms =
        static_cast<int64_t>(aws_date_time_as_millis(&server)) - static_cast<int64_t>(aws_date_time_as_millis(&here));
}

// ---- Lines -------------------------------------------------------------------------------------------------------

struct Line::State {
    State(Driver &driver, Receiver &receiver) noexcept : driver(driver), receiver(receiver) {}

    Driver::State &
    shared() const noexcept {
        return *driver.state_;
    }

    void
    connected(aws_http_connection *made, int error);
    void
    start();
    Message
    signedMessage();
    void
    end(int error) noexcept {
        receiver.onEnd(error);
    }
    void
    endLater(int error) {
        driver.run([this, error] { end(error); });
    }

    Driver &driver;
    Receiver &receiver;
    HttpRequest request; ///< what is to be sent

    enum class Phase : uint8_t { kIdle, kConnecting, kSending };
    Mutex mutex;
    Phase phase NX_GUARDED_BY(mutex) = Phase::kIdle;
    bool closed NX_GUARDED_BY(mutex) = false; ///< what is under way is to end
    /// Changed by whoever sends only, with the mutex held.
    aws_http_connection *connection = nullptr;
};

Line::Line(Driver &driver, Receiver &receiver) : state_(std::make_unique<State>(driver, receiver)) {}

Line::~Line() {
    rest();
}

void
Line::send(HttpRequest request) {
    State &state = *state_;
    state.request = std::move(request);
    {
        const MutexLock lock(state.mutex);
        state.closed = false;
        state.phase = State::Phase::kConnecting;
    }
    if (state.connection && aws_http_connection_new_requests_allowed(state.connection)) {
        state.start();
        return;
    }
    rest();
    aws_http_connection_manager_acquire_connection(
        state.shared().manager,
        [](aws_http_connection *made, int error, void *argument) {
            static_cast<State *>(argument)->connected(made, error);
        },
        &state);
}

bool
Line::close() noexcept {
    State &state = *state_;
    const MutexLock lock(state.mutex);
    if (state.phase == State::Phase::kIdle) return false;
    state.closed = true;
    if (state.phase == State::Phase::kConnecting) return true;
    aws_http_connection_close(state.connection);
    return false;
}

bool
Line::connects() const noexcept {
    const MutexLock lock(state_->mutex);
    return state_->phase == State::Phase::kConnecting;
}

void
Line::rest() noexcept {
    State &state = *state_;
    aws_http_connection *given_back = nullptr;
    {
        const MutexLock lock(state.mutex);
        std::swap(given_back, state.connection);
    }
    if (given_back) aws_http_connection_manager_release_connection(state.shared().manager, given_back);
}

void
Line::State::connected(aws_http_connection *made, int error) {
    {
        const MutexLock lock(mutex);
        connection = made;
        if (!made) phase = Phase::kIdle;
    }
    if (made) start();
    else endLater(error ? error : AWS_ERROR_HTTP_CONNECTION_CLOSED);
}

Message
Line::State::signedMessage() {
    const Driver::State &common = shared();
    aws_allocator *const allocator = library();
    Message message(aws_http_message_new_request(allocator));
    aws_http_message_set_request_method(message.get(), aws_byte_cursor_from_c_str(request.method));
    aws_http_message_set_request_path(message.get(), cursorOf(request.target));
    const auto add = [&](std::string_view name, std::string_view value) {
        aws_http_message_add_header(message.get(), {cursorOf(name), cursorOf(value), {}});
    };
    add("Host", common.host_header);
    add("User-Agent", "nixl");
    for (const auto &[name, value] : request.headers) add(name, value);
    if (request.body_bytes > 0 || request.method[0] == 'P') {
        add("Content-Length", std::to_string(request.body_bytes));
    }
    if (request.body_bytes > 0) {
        aws_input_stream *const body = newBody(receiver, request.body_bytes);
        aws_http_message_set_body_stream(message.get(), body);
        aws_input_stream_release(body); // the message has one of its own
    }
    aws_signing_config_aws config{};
    config.config_type = AWS_SIGNING_CONFIG_AWS;
    config.algorithm = AWS_SIGNING_ALGORITHM_V4;
    config.signature_type = AWS_ST_HTTP_REQUEST_HEADERS;
    config.region = cursorOf(common.region);
    config.service = cursorOf("s3");
    config.signed_body_value =
        request.body_bytes > 0 ? g_aws_signed_body_value_unsigned_payload : g_aws_signed_body_value_empty_sha256;
    config.signed_body_header = AWS_SBHT_X_AMZ_CONTENT_SHA256;
    aws_date_time_init_now(&config.date);
    if (const int64_t offset = common.clock_offset_ms) {
        aws_date_time_init_epoch_millis(&config.date, aws_date_time_as_millis(&config.date) + offset);
    }
    {
        Driver::State &guarded = shared();
        const MutexLock lock(guarded.mutex);
        config.credentials = guarded.credentials;
        if (config.credentials) aws_credentials_acquire(config.credentials);
    }
    if (!config.credentials) {
        aws_raise_error(AWS_AUTH_SIGNING_NO_CREDENTIALS);
        return {};
    }
    // With credentials at hand the callback comes before the call returns.
    struct Outcome {
        aws_http_message *message;
        int error = AWS_ERROR_UNKNOWN;
    } outcome{message.get()};
    const Signable signable(aws_signable_new_http_request(allocator, message.get()));
    const int begun = aws_sign_request_aws(
        allocator, signable.get(), reinterpret_cast<const aws_signing_config_base *>(&config),
        [](aws_signing_result *result, int error, void *argument) {
            auto &out = *static_cast<Outcome *>(argument);
            out.error = error;
            if (error == 0 &&
                aws_apply_signing_result_to_http_request(out.message, library(), result) != AWS_OP_SUCCESS) {
                out.error = aws_last_error();
            }
        },
        &outcome);
    aws_credentials_release(config.credentials);
    if (begun != AWS_OP_SUCCESS) return {};
    if (outcome.error != 0) {
        aws_raise_error(outcome.error);
        return {};
    }
    return message;
}

void
Line::State::start() {
    const auto fail = [&] {
        {
            const MutexLock lock(mutex);
            phase = Phase::kIdle;
        }
        endLater(aws_last_error());
    };
    const Message message = signedMessage();
    if (!message) {
        fail();
        return;
    }
    aws_http_make_request_options options{};
    options.self_size = sizeof(options);
    options.request = message.get();
    options.user_data = this;
    options.on_response_headers = [](aws_http_stream *stream, aws_http_header_block block,
                                     const aws_http_header *headers, size_t count, void *argument) {
        if (block == AWS_HTTP_HEADER_BLOCK_INFORMATIONAL) return AWS_OP_SUCCESS;
        int http = 0;
        aws_http_stream_get_incoming_response_status(stream, &http);
        Receiver &receiver = static_cast<State *>(argument)->receiver;
        for (size_t i = 0; i < count; ++i) receiver.onHeader(http, viewOf(headers[i].name), viewOf(headers[i].value));
        return AWS_OP_SUCCESS;
    };
    options.on_response_body = [](aws_http_stream *, const aws_byte_cursor *data, void *argument) {
        static_cast<State *>(argument)->receiver.onBody(reinterpret_cast<const char *>(data->ptr), data->len);
        return AWS_OP_SUCCESS;
    };
    options.on_complete = [](aws_http_stream *stream, int error, void *argument) {
        State &state = *static_cast<State *>(argument);
        aws_http_stream_release(stream);
        {
            const MutexLock lock(state.mutex);
            state.phase = Phase::kIdle;
        }
        state.end(error);
    };
    aws_http_stream *const stream = aws_http_connection_make_request(connection, &options);
    if (!stream) {
        fail();
        return;
    }
    int error = 0;
    {
        const MutexLock lock(mutex);
        if (closed) error = AWS_ERROR_HTTP_STREAM_CANCELLED;
        else if (aws_http_stream_activate(stream) != AWS_OP_SUCCESS) error = aws_last_error();
        phase = error ? Phase::kIdle : Phase::kSending;
    }
    if (error == 0) return;
    aws_http_stream_release(stream);
    endLater(error);
}

} // namespace nx::obj
