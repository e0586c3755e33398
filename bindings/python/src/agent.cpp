// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// nixlAgent for Python: handles are ints, failures are exceptions, and no call into the agent holds the GIL.
#include "agent.h"

#include <nanobind/stl/chrono.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include "arrays.h"
#include "descriptors.h"
#include "enums.h"
#include "errors.h"
#include "gil.h"
#include "nixl.h"
#include "text.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace nx::python {
namespace {

using Handle = uintptr_t;
using Handles = std::vector<Handle>;
using Operation = Member<nixl_xfer_op_t>;

/// An agent whose end, which may wait for transfers, does not hold the GIL either. It ends with its object, or when the
/// interpreter does: before the interpreter destroys memory, in any order, that transfers and peers still use.
class Agent {
public:
    explicit Agent(std::unique_ptr<nixlAgent> agent) : agent_(std::move(agent)) {
        living().push_back(this);
    }
    Agent(const Agent &) = delete;
    Agent &
    operator=(const Agent &) = delete;

    ~Agent() {
        {
            const WithoutGil unlocked;
            agent_.reset();
        }
        std::erase(living(), this);
    }

    /// Throws std::runtime_error once endAll() has ended it.
    nixlAgent *
    operator->() {
        if (!agent_) {
            throw std::runtime_error("the interpreter is ending, and so that it can free memory its agents have ended");
        }
        return agent_.get();
    }

    /// Called when the interpreter ends, before it destroys anything. A child of fork leaves its parent's agents alone.
    static void
    endAll() {
        std::erase_if(living(), [](const Agent *agent) { return agent->process_ != getpid(); });
        ending_thread = PyThread_get_thread_ident();
        // Daemon threads may still be in calls. One that does not come back keeps its agent, and all others.
        const auto limit = std::chrono::steady_clock::now() + kCallsLimit;
        while (calls_under_way > 0) {
            if (std::chrono::steady_clock::now() > limit) return;
            Py_BEGIN_ALLOW_THREADS;
            std::this_thread::sleep_for(std::chrono::microseconds(100));
            Py_END_ALLOW_THREADS;
        }
        while (!living().empty()) {
            auto agent = std::move(living().front()->agent_);
            living().erase(living().begin());
            const WithoutGil unlocked;
            agent.reset();
        }
    }

private:
    static constexpr std::chrono::seconds kCallsLimit{1};

    /// In the order of their creation. Guarded by the GIL, and never destroyed: agents may outlive static objects.
    static std::vector<Agent *> &
    living() {
        static auto &agents = *new std::vector<Agent *>;
        return agents;
    }

    std::unique_ptr<nixlAgent> agent_;
    const pid_t process_ = getpid();
};

template<class T>
T *
fromHandle(Handle handle) {
    return reinterpret_cast<T *>(handle);
}

Handle
toHandle(const void *pointer) {
    return reinterpret_cast<Handle>(pointer);
}

nixl_opt_args_t
optionsFor(const Handles &backends) {
    nixl_opt_args_t options;
    for (Handle backend : backends) {
        options.backends.push_back(fromHandle<nixlBackendH>(backend));
    }
    return options;
}

/// An empty message means none.
nixl_opt_args_t
optionsFor(const Handles &backends, Text &message) {
    nixl_opt_args_t options = optionsFor(backends);
    if (!message.value.empty()) options.notif = std::move(message.value);
    return options;
}

nixl_opt_args_t
peerOptions(Text &ip_addr, const Port &port) {
    nixl_opt_args_t options;
    options.ipAddr = std::move(ip_addr.value);
    options.port = port.number();
    return options;
}

nb::dict
toDict(const nixl_b_params_t &params) {
    nb::dict out;
    for (const auto &[key, value] : params) {
        out[toStr(key)] = toStr(value);
    }
    return out;
}

nixl_b_params_t
toParams(nb::dict dict) {
    nixl_b_params_t params;
    for (auto [key, value] : dict) {
        std::string name;
        std::string text;
        if (!readText(key.ptr(), name) || !readText(value.ptr(), text)) {
            throw nb::type_error("backend parameters must be str, both names and values");
        }
        params.insert_or_assign(std::move(name), std::move(text));
    }
    return params;
}

nb::tuple
describe(const nixl_mem_list_t &mems, const nixl_b_params_t &params) {
    nb::list names;
    for (nixl_mem_t mem : mems) {
        names.append(nixlEnumStrings::memTypeStr(mem));
    }
    return nb::make_tuple(toDict(params), names);
}

// ---- Configuration -----------------------------------------------------------------------------------------------

/// A property that reads and writes `member` through the Python type `As`.
template<class As, class T>
void
bindField(nb::class_<nixlAgentConfig> &type, const char *name, T nixlAgentConfig::*member, const char *doc) {
    type.def_prop_rw(
        name, [member](const nixlAgentConfig &self) { return As{self.*member}; },
        [member](nixlAgentConfig &self, As value) {
            if constexpr (std::is_same_v<As, Flag>) {
                self.*member = value.value;
            } else {
                self.*member = value;
            }
        },
        doc);
}

void
bindConfig(nb::module_ &module) {
    using Config = nixlAgentConfig;
    nb::class_<Config> type(module, "nixlAgentConfig", "Configuration of an nixlAgent.");
    type.def(nb::init<>());
    type.def(
        "__init__",
        [](Config *self, Flag use_prog_thread, Flag use_listen_thread, const Port &port,
           const Member<nixl_thread_sync_t> &sync_mode, unsigned int num_workers, uint64_t pthr_delay_us,
           uint64_t lthr_delay_us, Flag capture_telemetry, std::chrono::microseconds etcd_watch_timeout) {
            new (self) Config(use_prog_thread.value, use_listen_thread.value, port.port(), sync_mode, num_workers,
                              pthr_delay_us, lthr_delay_us, capture_telemetry.value, etcd_watch_timeout);
        },
        "use_prog_thread"_a, "use_listen_thread"_a = Flag{Config::kDefaultUseListenThread},
        "port"_a = Config::kDefaultListenPort, "sync_mode"_a = toMember(Config::kDefaultSyncMode), "num_workers"_a = 1u,
        "pthr_delay_us"_a = Config::kDefaultPthrDelayUs, "lthr_delay_us"_a = Config::kDefaultLthrDelayUs,
        "capture_telemetry"_a = Flag{Config::kDefaultCaptureTelemetry},
        "etcd_watch_timeout"_a = Config::kDefaultEtcdWatchTimeout,
        "The positional form of older programs; `num_workers` is ignored.");
    bindField<Flag>(type, "useProgThread", &Config::useProgThread, "Backends make progress on their own thread.");
    bindField<Flag>(type, "useListenThread", &Config::useListenThread, "Listen for other agents' metadata.");
    type.def_prop_rw(
        "listenPort", [](const Config &self) { return self.listenPort; },
        [](Config &self, const Port &port) { self.listenPort = port.port(); }, "0 lets the system choose.");
    type.def_prop_rw(
        "syncMode", [](const Config &self) { return toMember(self.syncMode); },
        [](Config &self, const Member<nixl_thread_sync_t> &mode) { self.syncMode = mode; },
        "Accepted; every mode is thread-safe.");
    bindField<Flag>(type, "captureTelemetry", &Config::captureTelemetry, "Measure each transfer.");
    bindField<uint64_t>(type, "pthrDelay", &Config::pthrDelay, "Microseconds; accepted.");
    bindField<uint64_t>(type, "lthrDelay", &Config::lthrDelay, "Microseconds; accepted.");
    bindField<std::chrono::microseconds>(type, "etcdWatchTimeout", &Config::etcdWatchTimeout, "A timedelta.");
}

// ---- What is known of a transfer ---------------------------------------------------------------------------------

int64_t
microseconds(std::chrono::nanoseconds duration) {
    return std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
}

void
bindTelemetry(nb::module_ &module) {
    using Telemetry = nixl_xfer_telem_t;
    nb::class_<Telemetry>(module, "nixlXferTelemetry", "What was measured about one finished transfer.")
        .def(nb::init<>())
        .def_prop_ro(
            "startTime", [](const Telemetry &self) { return microseconds(self.startTime.time_since_epoch()); },
            "Microseconds of the monotonic clock.")
        .def_prop_ro(
            "postDuration", [](const Telemetry &self) { return microseconds(self.postDuration); },
            "Microseconds of the post call.")
        .def_prop_ro(
            "xferDuration", [](const Telemetry &self) { return microseconds(self.xferDuration); },
            "Microseconds from post to completion.")
        .def_ro("totalBytes", &Telemetry::totalBytes)
        .def_ro("descCount", &Telemetry::descCount,
                "Descriptors: as given to initialize_xfer, after merging of make_prepped_xfer.");
}

void
bindReport(nb::module_ &module) {
    using nixlx::Candidate;
    using nixlx::Report;
    nb::class_<Candidate>(module, "XferCandidate", "Why one backend was or was not chosen for a request.")
        .def_ro("backend", &Candidate::backend)
        .def_ro("chosen", &Candidate::chosen)
        .def_prop_ro(
            "predicted_us",
            [](const Candidate &self) -> nb::object {
                return self.predicted_us < 0 ? nb::object(nb::none()) : nb::float_(self.predicted_us);
            },
            "Predicted duration in microseconds, or None.")
        .def_ro("reason", &Candidate::reason)
        .def("__repr__", [](const Candidate &self) {
            return "<" + self.backend + (self.chosen ? ", chosen: " : ": ") + self.reason + ">";
        });
    nb::class_<Report>(module, "XferReport", "Snapshot of one request.")
        .def_prop_ro(
            "status", [](const Report &self) { return toMember(self.status); }, "An nixl_status_t.")
        .def_ro("backend", &Report::backend, "The backend that moves the data.")
        .def_ro("path", &Report::path, "How the bytes travel, in the backend's words.")
        .def_ro("candidates", &Report::candidates, "XferCandidate list, in the order of consideration.")
        .def_ro("total_bytes", &Report::total_bytes)
        .def_ro("descriptor_count", &Report::descriptor_count, "Descriptors after merging.")
        .def_ro("bytes_done", &Report::bytes_done, "Moved by the last post, as far as the backend knows.")
        .def_ro("attempts", &Report::attempts, "Times posted.")
        .def_ro("settling", &Report::settling, "Cancelled, but the buffers are not quiet yet.")
        .def_ro("stuck", &Report::stuck, "Settling for longer than the settle guard (150 ms).")
        .def_prop_ro(
            "error", [](const Report &self) { return toStr(self.error); },
            "The sentence of a failed request, otherwise empty.")
        .def("__repr__", [](const Report &self) {
            return "<XferReport " + nixlEnumStrings::statusStr(self.status) + " over " + self.backend + ": " +
                self.path + ">";
        });
}

// ---- The agent ---------------------------------------------------------------------------------------------------

void
bindBackends(nb::class_<Agent> &type) {
    type.def(
        "getAvailPlugins",
        [](Agent &self) {
            std::vector<nixl_backend_t> plugins;
            checked([&] { return self->getAvailPlugins(plugins); });
            return plugins;
        },
        "Names of all plugins.");
    type.def(
        "getPluginParams",
        [](Agent &self, const Text &type) {
            nixl_mem_list_t mems;
            nixl_b_params_t params;
            checked([&] { return self->getPluginParams(type.value, mems, params); });
            return describe(mems, params);
        },
        "type"_a, "(options, kinds of memory) that a plugin advertises. nixlNotFoundError: no such plugin.");
    type.def(
        "getPluginOption",
        [](Agent &self, const Text &type, const Text &role) {
            std::string option;
            checked([&] { return self->getPluginOption(type.value, role.value, option); });
            return option;
        },
        "type"_a, "role"_a,
        "Name of the option of a plugin that plays a role, such as \"threads\"; \"\" if none does or the plugin was "
        "written for NIXL 1.4. nixlNotFoundError: no such plugin; nixlBackendError: it cannot be used.");
    type.def(
        "getBackendParams",
        [](Agent &self, Handle backend) {
            nixl_mem_list_t mems;
            nixl_b_params_t params;
            checked([&] { return self->getBackendParams(fromHandle<nixlBackendH>(backend), mems, params); });
            return describe(mems, params);
        },
        "backend"_a, "(options, kinds of memory) of a created backend.");
    type.def(
        "createBackend",
        [](Agent &self, const Text &type, nb::dict params) {
            const nixl_b_params_t options = toParams(params);
            nixlBackendH *backend = nullptr;
            checked([&] { return self->createBackend(type.value, options, backend); });
            return toHandle(backend);
        },
        "type"_a, "params"_a,
        "Creates a backend and returns its handle. nixlInvalidParamError: exists already; nixlNotAllowedError: "
        "conflicts with another; nixlNotFoundError: no such plugin; nixlBackendError: the plugin refused.");
    type.def(
        "getBackendType",
        [](Agent &self, Handle backend) {
            std::string name;
            checked([&] { return self->getBackendType(fromHandle<nixlBackendH>(backend), name); });
            return name;
        },
        "backend"_a, "Name of a backend of this agent. nixlInvalidParamError: the handle is not one.");
}

void
bindMemory(nb::class_<Agent> &type) {
    type.def(
        "registerMem",
        [](Agent &self, const nixl_reg_dlist_t &descs, const Handles &backends) {
            const nixl_opt_args_t options = optionsFor(backends);
            return toMember(checked([&] { return self->registerMem(descs, &options); }));
        },
        "descs"_a, "backends"_a = Handles(),
        "Registers every descriptor with each candidate backend; succeeds if one took the list. nixlNotFoundError: no "
        "backend for this memory; nixlBackendError: all refused.");
    type.def(
        "deregisterMem",
        [](Agent &self, const nixl_reg_dlist_t &descs, const Handles &backends) {
            const nixl_opt_args_t options = optionsFor(backends);
            return toMember(checked([&] { return self->deregisterMem(descs, &options); }));
        },
        "descs"_a, "backends"_a = Handles(),
        "Each descriptor must equal a registered one, otherwise nixlNotFoundError.");
    type.def(
        "queryMem",
        [](Agent &self, const nixl_reg_dlist_t &descs, Handle backend) {
            const nixl_opt_args_t options = optionsFor(Handles{backend});
            std::vector<nixl_query_resp_t> responses;
            checked([&] { return self->queryMem(descs, responses, &options); });
            nb::list out;
            for (const nixl_query_resp_t &response : responses) {
                out.append(response ? nb::object(toDict(*response)) : nb::none());
            }
            return out;
        },
        "descs"_a, "backend"_a, "Per descriptor a dict of properties, or None if the file or object is absent.");
    type.def(
        "makeConnection",
        [](Agent &self, const Text &remote_agent, const Handles &backends) {
            const nixl_opt_args_t options = optionsFor(backends);
            return toMember(checked([&] { return self->makeConnection(remote_agent.value, &options); }));
        },
        "remote_agent"_a, "backends"_a,
        "Connects now instead of on first use. nixlNotFoundError: its metadata is not loaded.");
}

constexpr const char *kPrepDoc =
    "Resolves a list once for many requests and returns its handle. agent_name: \"\" for local memory, a peer's or the "
    "own name for the remote side. nixlNotFoundError: the agent or a descriptor is unknown.";

template<class List>
Handle
prepare(Agent &self, const std::string &agent_name, const List &descs, const Handles &backends) {
    const nixl_opt_args_t options = optionsFor(backends);
    nixlDlistH *list = nullptr;
    checked([&] { return self->prepXferDlist(agent_name, descs, list, &options); });
    return toHandle(list);
}

Handle
prepareRows(Agent &self, const std::string &agent_name, nixl_mem_t type, const Rows &rows, const Handles &backends) {
    if (rows.columns() == 5) return prepare(self, agent_name, strideListOfRows(type, rows), backends);
    if (auto strided = compressRows(type, rows)) return prepare(self, agent_name, *strided, backends);
    return prepare(self, agent_name, listOfRows(type, rows), backends);
}

void
bindRequests(nb::class_<Agent> &type) {
    type.def(
        "prepXferDlist",
        [](Agent &self, const Text &agent_name, const nixl_xfer_dlist_t &descs, const Handles &backend) {
            return prepare(self, agent_name.value, descs, backend);
        },
        "agent_name"_a, "descs"_a, "backend"_a = Handles(), kPrepDoc);
    type.def(
        "prepXferDlist",
        [](Agent &self, const nixl_xfer_dlist_t &descs, const Handles &backend) {
            return prepare(self, NIXL_INIT_AGENT, descs, backend);
        },
        "descs"_a, "backend"_a = Handles(), kPrepDoc);
    type.def(
        "prepXferDlist",
        [](Agent &self, const Text &agent_name, const Member<nixl_mem_t> &mem_type, nb::handle descs,
           const Handles &backend) {
            return prepareRows(self, agent_name.value, mem_type, Rows(descs, {3, 5}), backend);
        },
        "agent_name"_a, "mem_type"_a, "descs"_a, "backend"_a = Handles(),
        "The same from a C-contiguous array of int64 or uint64: N x 3 (address, length in bytes, device id) or N x 5 "
        "(address, length, device id, stride, count: `count` blocks of `length` bytes, `stride` bytes apart). "
        "ValueError: another shape, layout or dtype.");
    type.def(
        "makeXferReq",
        [](Agent &self, const Operation &operation, Handle local_side, nb::handle local_indices, Handle remote_side,
           nb::handle remote_indices, Text notif_msg, const Handles &backend, Flag skip_desc_merg) {
            const Indices local(local_indices);
            const Indices remote(remote_indices);
            nixl_opt_args_t options = optionsFor(backend, notif_msg);
            options.skipDescMerge = skip_desc_merg.value;
            if (!local_side || !remote_side) raiseStatus(NIXL_ERR_INVALID_PARAM, "a handle of a prepared list is 0");
            nixlXferReqH *request = nullptr;
            checked([&] {
                return self->makeXferReq(operation, *fromHandle<nixlDlistH>(local_side), local.values(),
                                         *fromHandle<nixlDlistH>(remote_side), remote.values(), request, &options);
            });
            return toHandle(request);
        },
        "operation"_a, "local_side"_a, "local_indices"_a, "remote_side"_a, "remote_indices"_a, "notif_msg"_a = Text(),
        "backend"_a = Handles(), "skip_desc_merg"_a = Flag(),
        "Makes a request from two prepared lists: element local_indices[i] with element remote_indices[i]. A "
        "one-dimensional contiguous int32 array is used without a copy. nixlInvalidParamError: sides, counts, an index "
        "out of range or lengths that differ; ValueError: an index list that is not one-dimensional.");
    type.def(
        "createXferReq",
        [](Agent &self, const Operation &operation, const nixl_xfer_dlist_t &local_descs,
           const nixl_xfer_dlist_t &remote_descs, const Text &remote_agent, Text notif_msg, const Handles &backend) {
            const nixl_opt_args_t options = optionsFor(backend, notif_msg);
            nixlXferReqH *request = nullptr;
            checked([&] {
                return self->createXferReq(operation, local_descs, remote_descs, remote_agent.value, request, &options);
            });
            return toHandle(request);
        },
        "operation"_a, "local_descs"_a, "remote_descs"_a, "remote_agent"_a, "notif_msg"_a = Text(),
        "backend"_a = Handles(),
        "Makes a request from two lists of equal count and lengths. nixlInvalidParamError: they differ; "
        "nixlNotFoundError: the agent or a descriptor is unknown.");
    type.def(
        "estimateXferCost",
        [](Agent &self, Handle req_handle) {
            std::chrono::microseconds duration{};
            std::chrono::microseconds margin{};
            nixl_cost_t method{};
            checked(
                [&] { return self->estimateXferCost(fromHandle<nixlXferReqH>(req_handle), duration, margin, method); });
            return nb::make_tuple(duration.count(), margin.count(), static_cast<int>(method));
        },
        "req_handle"_a, "(duration in us, margin in us, number of an nixl_cost_t).");
}

nixl_status_t
post(Agent &self, Handle request, Text &message) {
    if (message.value.empty()) { // keeps the message given at creation
        return checked([&] { return self->postXferReq(fromHandle<nixlXferReqH>(request)); });
    }
    const nixl_opt_args_t options = optionsFor(Handles(), message);
    return checked([&] { return self->postXferReq(fromHandle<nixlXferReqH>(request), &options); });
}

nixl_status_t
poll(Agent &self, Handle request) {
    return checked([&] { return self->getXferStatus(fromHandle<nixlXferReqH>(request)); });
}

/// Seconds, of which infinitely many are no limit. What is not a number of milliseconds becomes one that is refused.
std::optional<std::chrono::milliseconds>
toLimit(std::optional<double> seconds) {
    if (!seconds) return {};
    if (std::isinf(*seconds) && *seconds > 0) return nixlx::Limits::kNone;
    if (!(std::fabs(*seconds) < 1e9)) return std::chrono::milliseconds(-1);
    return std::chrono::milliseconds(static_cast<int64_t>(std::ceil(*seconds * 1000)));
}

/// "DONE" or "PROC", the strings of nixl_agent.transfer.
nb::handle
toState(nixl_status_t status) {
    static PyObject *const done = PyUnicode_InternFromString("DONE");
    static PyObject *const running = PyUnicode_InternFromString("PROC");
    return status == NIXL_SUCCESS ? done : running;
}

nb::list
messagesOf(nb::dict notif_map, const std::string &agent) {
    nb::str key = toStr(agent);
    if (PyObject *known = PyDict_GetItemWithError(notif_map.ptr(), key.ptr()))
        return nb::cast<nb::list>(nb::handle(known));
    if (PyErr_Occurred()) throw nb::python_error();
    nb::list fresh;
    notif_map[key] = fresh;
    return fresh;
}

/// Appends what `fetch` gets to the dict, and raises if it failed.
template<class Fetch>
nixl_status_t
fetchNotifs(nb::dict notif_map, Fetch fetch) {
    nixl_notifs_t arrived;
    std::string sentence;
    const nixl_status_t status = statusOf([&] {
        const nixl_status_t result = fetch(arrived);
        if (result < 0) sentence = nixlx::lastError();
        return result;
    });
    // First what arrived: another backend's failure must not lose it.
    for (const auto &[agent, messages] : arrived) {
        nb::list list = messagesOf(notif_map, agent);
        for (const nixl_blob_t &message : messages) {
            list.append(toBytes(message));
        }
    }
    if (status < 0) raiseStatus(status, sentence);
    return status;
}

void
fetchNotifs(Agent &self, nb::dict notif_map, const nixl_opt_args_t *options) {
    fetchNotifs(notif_map, [&](nixl_notifs_t &arrived) { return self->getNotifs(arrived, options); });
}

/// Nothing, or infinitely many: for ever.
std::optional<std::chrono::microseconds>
toTimeout(std::optional<double> seconds) {
    if (!seconds || *seconds > 1e9) return {};
    if (std::isnan(*seconds)) throw nb::value_error("timeout is not a number");
    return std::chrono::microseconds(static_cast<int64_t>(std::ceil(std::max(*seconds, 0.0) * 1e6)));
}

/// `wait` waits for the time it is given and returns NIXL_IN_PROG when that is over. In slices, so that signals are
/// heard, and the interpreter's end; longer ones the longer it takes, since each costs as much as a wake-up.
template<class Wait>
nixl_status_t
inSlices(std::optional<double> seconds, Wait wait) {
    constexpr std::chrono::microseconds kSliceMin = std::chrono::milliseconds(100);
    constexpr std::chrono::microseconds kSliceMax = std::chrono::milliseconds(500); // kCallsLimit is longer
    const auto timeout = toTimeout(seconds);
    const auto start = std::chrono::steady_clock::now();
    for (;;) {
        const auto waited = std::chrono::floor<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
        auto slice = std::clamp(waited / 2, kSliceMin, kSliceMax);
        const bool last = timeout && *timeout - waited <= slice;
        if (last) slice = *timeout - waited;
        const nixl_status_t status = wait(slice);
        if (status != NIXL_IN_PROG || last) return status;
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
}

std::vector<size_t>
waitAny(Agent &self, const Handles &requests, std::optional<double> timeout) {
    std::vector<nixlXferReqH *> handles;
    for (const Handle request : requests) handles.push_back(fromHandle<nixlXferReqH>(request));
    std::vector<size_t> which;
    inSlices(timeout, [&](auto slice) { return checked([&] { return self->waitAny(handles, slice, which); }); });
    return which;
}

void
bindWaiting(nb::class_<Agent> &type) {
    type.def(
        "_wait",
        [](Agent &self, Handle reqh, std::optional<double> timeout) {
            return toState(inSlices(timeout, [&](auto slice) {
                return checked([&] { return self->waitXfer(fromHandle<nixlXferReqH>(reqh), slice); });
            }));
        },
        "reqh"_a, "timeout"_a = nb::none());
    type.def("_waitAny", &waitAny, "reqhs"_a, "timeout"_a = nb::none());
    type.def(
        "_waitNotifs",
        [](Agent &self, std::optional<double> timeout, const Handles &backends) {
            const nixl_opt_args_t options = optionsFor(backends);
            nb::dict notifs;
            inSlices(timeout, [&](auto slice) {
                return fetchNotifs(notifs, [&](nixl_notifs_t &arrived) {
                    return self->waitNotifs(arrived, slice, backends.empty() ? nullptr : &options);
                });
            });
            return notifs;
        },
        "timeout"_a = nb::none(), "backends"_a = Handles());
    // All that a loop does when its descriptor is readable: the positions of requests that are done, of those that do
    // not run for another reason, and what arrived. One call: each waits for its turn beside a thread that computes.
    type.def("_look", [](Agent &self, const Handles &requests, bool for_notifs) {
        std::vector<size_t> done, others;
        nb::dict arrived;
        fetchNotifs(arrived, [&](nixl_notifs_t &notifs) {
            for (size_t i = 0; i < requests.size(); ++i) {
                const auto status = self->getXferStatus(fromHandle<nixlXferReqH>(requests[i]));
                if (status != NIXL_IN_PROG) (status == NIXL_SUCCESS ? done : others).push_back(i);
            }
            const auto status = for_notifs ? self->getNotifs(notifs) : NIXL_SUCCESS;
            int fd = -1;
            return status < 0 ? status : self->eventFd(fd);
        });
        return nb::make_tuple(done, others, arrived);
    });
    type.def(
        "eventFd",
        [](Agent &self) {
            int fd = -1;
            checked([&] { return self->eventFd(fd); });
            return fd;
        },
        "The descriptor of an event loop; serves it.");
}

void
bindTransfers(nb::class_<Agent> &type) {
    type.def(
        "postXferReq", [](Agent &self, Handle reqh, Text notif_msg) { return toMember(post(self, reqh, notif_msg)); },
        "reqh"_a, "notif_msg"_a = Text(),
        "Starts the request, or starts it again. An empty message keeps the one given at creation. "
        "nixlRepostActiveError: still running.");
    type.def(
        "getXferStatus", [](Agent &self, Handle reqh) { return toMember(poll(self, reqh)); }, "reqh"_a,
        "NIXL_SUCCESS or NIXL_IN_PROG; a failed request raises.");
    // What nixl_agent's methods call: without named arguments, which cost the binding library time.
    type.def("_post", [](Agent &self, Handle reqh, Text notif_msg) { return toState(post(self, reqh, notif_msg)); });
    type.def("_poll", [](Agent &self, Handle reqh) { return toState(poll(self, reqh)); });
    type.def(
        "getXferTelemetry",
        [](Agent &self, Handle reqh) {
            nixl_xfer_telem_t telemetry;
            checked([&] { return self->getXferTelemetry(fromHandle<nixlXferReqH>(reqh), telemetry); });
            return telemetry;
        },
        "reqh"_a,
        "What was measured; all zero while the request runs. nixlNoTelemetryError: not captured; "
        "nixlNotPostedError: never posted.");
    type.def(
        "getXferReport",
        [](Agent &self, Handle reqh) {
            nixlx::Report report;
            checked([&] { return self->getXferReport(fromHandle<nixlXferReqH>(reqh), report); });
            return report;
        },
        "reqh"_a, "Snapshot of a request: path, candidates, attempts, error. Beyond NIXL 1.4.");
    type.def(
        "queryXferBackend",
        [](Agent &self, Handle reqh) {
            nixlBackendH *backend = nullptr;
            checked([&] { return self->queryXferBackend(fromHandle<nixlXferReqH>(reqh), backend); });
            return toHandle(backend);
        },
        "reqh"_a, "Handle of the backend that moves the data.");
    type.def(
        "releaseXferReq",
        [](Agent &self, Handle reqh) {
            return toMember(checked([&] { return self->releaseXferReq(fromHandle<nixlXferReqH>(reqh)); }));
        },
        "reqh"_a, "Cancels if running. nixlRepostActiveError: buffers not quiet yet, the handle stays valid.");
    type.def(
        "setXferLimits",
        [](Agent &self, Handle reqh, std::optional<double> deadline, std::optional<double> stall) {
            const nixlx::Limits limits{toLimit(deadline), toLimit(stall)};
            return toMember(checked([&] { return self->setXferLimits(fromHandle<nixlXferReqH>(reqh), limits); }));
        },
        "reqh"_a, "deadline"_a = nb::none(), "stall"_a = nb::none(),
        "How long each later post may take, and how long without progress, in seconds; inf for no limit, None for as "
        "it was. nixlInvalidParamError: not from 0.001 to 86400; nixlRepostActiveError: it runs. Beyond NIXL 1.4.");
    type.def(
        "cancelXferReq",
        [](Agent &self, Handle reqh) {
            return toMember(checked([&] { return self->cancelXferReq(fromHandle<nixlXferReqH>(reqh)); }));
        },
        "reqh"_a, "Asks a running request to end; returns at once. Beyond NIXL 1.4.");
    type.def(
        "dropXferReq",
        [](Agent &self, Handle reqh) {
            return toMember(checked([&] { return self->dropXferReq(fromHandle<nixlXferReqH>(reqh)); }));
        },
        "reqh"_a, "Gives the handle away without waiting; a running transfer is cancelled. Beyond NIXL 1.4.");
    type.def(
        "releasedDlistH",
        [](Agent &self, Handle handle) {
            return toMember(checked([&] { return self->releasedDlistH(fromHandle<nixlDlistH>(handle)); }));
        },
        "handle"_a, "Releases a prepared list.");
}

template<class List>
Handle
prepareView(Agent &self, const List &dlist, const Handles &backends) {
    const nixl_opt_args_t options = optionsFor(backends);
    nixlMemViewH view = nullptr;
    checked([&] { return self->prepMemView(dlist, view, &options); });
    return toHandle(view);
}

void
bindViews(nb::class_<Agent> &type) {
    type.def("prepMemView", &prepareView<nixl_remote_dlist_t>, "dlist"_a, "backends"_a = Handles(),
             "A view of other agents' memory for device code.");
    type.def("prepMemView", &prepareView<nixl_local_dlist_t>, "dlist"_a, "backends"_a = Handles(),
             "A view of local memory for device code.");
    type.def(
        "releaseMemView",
        [](Agent &self, Handle mvh) {
            const WithoutGil unlocked;
            self->releaseMemView(fromHandle<void>(mvh));
        },
        "mvh"_a);
}

void
bindNotifications(nb::class_<Agent> &type) {
    type.def(
        "getNotifs",
        [](Agent &self, nb::dict notif_map, const Handles &backends) {
            const nixl_opt_args_t options = optionsFor(backends);
            fetchNotifs(self, notif_map, backends.empty() ? nullptr : &options);
            return notif_map;
        },
        "notif_map"_a, "backends"_a = Handles(),
        "Appends what arrived to the dict (sender -> list of bytes) and returns it. Makes progress when there is no "
        "progress thread.");
    type.def(
        "genNotif",
        [](Agent &self, const Text &remote_agent, const Text &msg, const Handles &backends) {
            const nixl_opt_args_t options = optionsFor(backends);
            return toMember(checked([&] { return self->genNotif(remote_agent.value, msg.value, &options); }));
        },
        "remote_agent"_a, "msg"_a, "backends"_a = Handles(),
        "Sends a message that is not ordered with any transfer; an empty one is sent too.");
    // What nixl_agent's methods call where no backend is named, see _post.
    type.def("_newNotifs", [](Agent &self) {
        nb::dict notifs;
        fetchNotifs(self, notifs, nullptr);
        return notifs;
    });
    type.def("_genNotif", [](Agent &self, const Text &remote_agent, const Text &msg) {
        checked([&] { return self->genNotif(remote_agent.value, msg.value); });
    });
}

nixl_opt_args_t
partialOptions(const Handles &backends, Flag inc_conn_info) {
    nixl_opt_args_t options = optionsFor(backends);
    options.includeConnInfo = inc_conn_info.value;
    return options;
}

void
bindLocalMetadata(nb::class_<Agent> &type) {
    type.def(
        "getLocalMD",
        [](Agent &self) {
            nixl_blob_t blob;
            checked([&] { return self->getLocalMD(blob); });
            return toBytes(blob);
        },
        "Everything a peer needs, as bytes.");
    type.def(
        "getLocalPartialMD",
        [](Agent &self, const nixl_reg_dlist_t &descs, Flag inc_conn_info, const Handles &backends) {
            const nixl_opt_args_t options = partialOptions(backends, inc_conn_info);
            nixl_blob_t blob;
            checked([&] { return self->getLocalPartialMD(descs, blob, &options); });
            return toBytes(blob);
        },
        "descs"_a, "inc_conn_info"_a = Flag(), "backends"_a = Handles(),
        "Metadata of some registrations, as bytes. nixlNotFoundError: not registered.");
    type.def(
        "sendLocalMD",
        [](Agent &self, Text ip_addr, const Port &port) {
            const nixl_opt_args_t options = peerOptions(ip_addr, port);
            return toMember(checked([&] { return self->sendLocalMD(&options); }));
        },
        "ip_addr"_a = Text(), "port"_a = 0, "Sends to a listening agent, or to the central store without an address.");
    type.def(
        "sendLocalPartialMD",
        [](Agent &self, const nixl_reg_dlist_t &descs, Flag inc_conn_info, const Handles &backends, Text ip_addr,
           const Port &port, Text label) {
            nixl_opt_args_t options = partialOptions(backends, inc_conn_info);
            options.ipAddr = std::move(ip_addr.value);
            options.port = port.number();
            options.metadataLabel = std::move(label.value);
            return toMember(checked([&] { return self->sendLocalPartialMD(descs, &options); }));
        },
        "descs"_a, "inc_conn_info"_a = Flag(), "backends"_a = Handles(), "ip_addr"_a = Text(), "port"_a = 0,
        "label"_a = Text());
    type.def(
        "invalidateLocalMD",
        [](Agent &self, Text ip_addr, const Port &port) {
            const nixl_opt_args_t options = peerOptions(ip_addr, port);
            return toMember(checked([&] { return self->invalidateLocalMD(&options); }));
        },
        "ip_addr"_a = Text(), "port"_a = 0);
    type.def(
        "waitMetadata",
        [](Agent &self, int64_t timeout_ms, Text ip_addr, const Port &port) {
            const nixl_opt_args_t options = peerOptions(ip_addr, port);
            return toMember(
                checked([&] { return self->waitMetadata(std::chrono::milliseconds(timeout_ms), &options); }));
        },
        "timeout_ms"_a, "ip_addr"_a = Text(), "port"_a = 0,
        "Waits for the outcome of the calls that exchange metadata; NIXL_IN_PROG when the time is over.");
    type.def(
        "getListenPort",
        [](Agent &self) {
            uint16_t port = 0;
            checked([&] { return self->getListenPort(port); });
            return port;
        },
        "Port of the metadata listener. nixlNotFoundError: the agent does not listen.");
}

void
bindRemoteMetadata(nb::class_<Agent> &type) {
    type.def(
        "loadRemoteMD",
        [](Agent &self, const Text &remote_metadata) {
            std::string name;
            checked([&] { return self->loadRemoteMD(remote_metadata.value, name); });
            return toBytes(name);
        },
        "remote_metadata"_a,
        "Loads a peer's metadata and returns its name as bytes. nixlMismatchError: not metadata; nixlNotAllowedError: "
        "contradicts what was loaded before; nixlBackendError: no backend in common.");
    type.def(
        "invalidateRemoteMD",
        [](Agent &self, const Text &remote_agent) {
            return toMember(statusOf([&] { return self->invalidateRemoteMD(remote_agent.value); }));
        },
        "remote_agent"_a, "Forgets a peer. Never raises; returns the status.");
    type.def(
        "fetchRemoteMD",
        [](Agent &self, const Text &remote_agent, Text ip_addr, const Port &port, Text label) {
            nixl_opt_args_t options = peerOptions(ip_addr, port);
            options.metadataLabel = std::move(label.value);
            return toMember(checked([&] { return self->fetchRemoteMD(remote_agent.value, &options); }));
        },
        "remote_agent"_a, "ip_addr"_a = Text(), "port"_a = 0, "label"_a = Text(),
        "Asks for a peer's metadata; it arrives later.");
    type.def(
        "checkRemoteMD",
        [](Agent &self, const Text &remote_name, const nixl_xfer_dlist_t &descs) {
            return toMember(statusOf([&] { return self->checkRemoteMD(remote_name.value, descs); }));
        },
        "remote_name"_a, "descs"_a,
        "NIXL_SUCCESS when the peer is known and one backend resolves all descriptors. Never raises.");
}

} // namespace

void
bindAgent(nb::module_ &module) {
    bindConfig(module);
    bindTelemetry(module);
    bindReport(module);

    nb::class_<Agent> type(module, "nixlAgent",
                           "The agent. Every method may be called from any thread and lets other Python threads run "
                           "meanwhile. Handles are ints and end with the agent.");
    type.def(
        "__init__",
        [](Agent *self, const Text &name, const nixlAgentConfig &config) {
            std::unique_ptr<nixlAgent> agent;
            {
                const WithoutGil unlocked;
                agent = std::make_unique<nixlAgent>(name.value, config);
            }
            new (self) Agent(std::move(agent));
        },
        "name"_a, "config"_a, "ValueError: an empty name; RuntimeError: a broken configuration.");
    bindBackends(type);
    bindMemory(type);
    bindRequests(type);
    bindTransfers(type);
    bindWaiting(type);
    bindViews(type);
    bindNotifications(type);
    bindLocalMetadata(type);
    bindRemoteMetadata(type);

    // Hooks run in reverse order: those of programs that imported this module first may still use agents.
    nb::module_::import_("atexit").attr("register")(nb::cpp_function(&Agent::endAll));
    pthread_atfork(nullptr, nullptr, [] { calls_under_way = 0; }); // the other threads stay with the parent
}

} // namespace nx::python
