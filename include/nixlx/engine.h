// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What we add for plugin authors. A backend of ours implements nixlBackendEngine (so that it is a NIXL 1.4 plugin) and
// nixlx::Engine: plans instead of descriptor lists, cancellation that settles, cost, sentences. The agent finds the
// second face through the plugin's descriptor, a plain C struct that is read from the file before any of its code runs.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "backend/backend_engine.h"
#include "nixl_types.h"

#pragma GCC visibility push(default)

namespace nixlx {

// ---- Plans -------------------------------------------------------------------------------------------------------

/// A registration that runs refer to by its index in the plan.
struct Segment {
    nixlBackendMD *metadata; ///< of this engine; of those that runs refer to: valid in prepare() and while posted
    uint64_t device_id;
};

/// `count` blocks of `length` bytes. Block i goes between local + i * local_stride and remote + i * remote_stride,
/// modulo 2^64 (strides may step backwards). Each block lies inside one segment on each side.
struct Run {
    uint64_t local;
    uint64_t remote;
    uint64_t length;
    uint64_t local_stride;
    uint64_t remote_stride;
    uint64_t count;
    uint32_t local_segment;
    uint32_t remote_segment;
};

/// A transfer, compressed. Immutable; owned by the agent and valid until Engine::release returns. The segments are all
/// that the lists were prepared with: one that no run refers to is not part of the transfer and must not be looked at.
struct Plan {
    nixl_xfer_op_t operation;
    nixl_mem_t local_memory;
    nixl_mem_t remote_memory;
    std::string_view remote_agent; ///< the own name for local transfers
    std::span<const Segment> local_segments;
    std::span<const Segment> remote_segments;
    std::span<const Run> runs;
    uint64_t total_bytes;
    uint64_t block_count; ///< sum of the runs' counts
};

// ---- The second face of an engine --------------------------------------------------------------------------------

/// What an engine knows about one request.
struct RequestInfo {
    std::string path;  ///< how the bytes travel, for people: "ucx 1.13.1, shared memory"
    std::string error; ///< why the request failed, one sentence; empty if it did not
};

/// Rules: calls for different requests may come from different threads at once; calls for one request never overlap.
/// A final status from post() or check() promises that the engine will not touch the request's memory any more.
/// A failing call explains itself with nixlx::fail(). No function throws.
class Engine {
public:
    /// Prepares a request that can be posted many times.
    virtual nixl_status_t
    prepare(const Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) = 0;

    /// Starts it. `notification` (null: none) reaches the peer after all data is visible there, without help from the
    /// caller when the progress thread is on. SUCCESS, IN_PROG or an error; must not block and must not work longer
    /// than about a millisecond.
    virtual nixl_status_t
    post(nixlBackendReqH *request, const std::string *notification) = 0;

    virtual nixl_status_t
    check(nixlBackendReqH *request) = 0;

    /// Asks a posted request to end early. Keep calling check() until it is final; its status is then
    /// NIXL_ERR_CANCELED, or SUCCESS if it had finished first. Idempotent.
    virtual void
    cancel(nixlBackendReqH *request) = 0;

    /// A cancelled request does not become quiet, for example because its peer stands still: drops what it runs on,
    /// normally the connection to the peer, so that check() is final soon and the memory is not touched afterwards,
    /// whatever the peer does later. The peer is lost with it: other requests to it end with
    /// NIXL_ERR_REMOTE_DISCONNECT, and so may this one. False: this engine cannot; nothing changed.
    virtual bool
    forceQuiet(nixlBackendReqH *request) = 0;

    /// Bytes that the last post has moved so far, never fewer than before; nothing if the engine cannot tell. A few
    /// nanoseconds.
    virtual std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const = 0;

    /// A number that changes whenever anything moves or ends on the path that the posted request uses, normally the
    /// connection to its peer, whichever request it belongs to: one that waits for its turn behind others has not
    /// stalled. Nothing if the engine cannot tell, and then no stall limit applies. A few nanoseconds. An engine whose
    /// requests do not wait for each other need not override it.
    virtual std::optional<uint64_t>
    pathMark(const nixlBackendReqH *request) const {
        return bytesDone(request);
    }

    /// Frees a request that is not posted or whose status is final.
    virtual void
    release(nixlBackendReqH *request) = 0;

    virtual RequestInfo
    describe(const nixlBackendReqH *request) const = 0;

    /// Predicted duration of a plan in microseconds, or nothing if the engine has no model.
    virtual std::optional<double>
    predict(const Plan &plan) const = 0;

    /// Connection info that only peers of ours read (it travels behind the metadata blob's last field); may be empty.
    virtual nixl_status_t
    getPeerInfo(std::string &info) const = 0;

    /// What getPeerInfo of the peer returned. Called once per peer, after loadRemoteConnInfo and before loadRemoteMD.
    /// Bytes from the network: check everything.
    virtual nixl_status_t
    loadPeerInfo(const std::string &remote_agent, const std::string &info) = 0;

    /// Judges what a peer published and changes nothing: its connection info, its getPeerInfo (null: none) and the
    /// public data of its registrations. Asked before an earlier start of the peer is given up for this one, so that
    /// damaged bytes cost nobody a peer. SUCCESS: it could be loaded, as far as bytes can tell.
    virtual nixl_status_t
    validatePeer(const std::string &connection_info,
                 const std::string *peer_info,
                 std::span<const std::string> public_data) const = 0;

    /// Called when no request is posted any more and the engine is about to be destroyed: until `deadline` it may end
    /// in order what else is under way, and then does it by force.
    virtual void
    endBy(std::chrono::steady_clock::time_point deadline) {
        static_cast<void>(deadline);
    }

protected:
    ~Engine() = default;
};

// ---- Services of the agent's library -----------------------------------------------------------------------------

/// Remembers `sentence` for the calling thread and returns `status`: `return nixlx::fail(NIXL_ERR_BACKEND, "...")`.
/// The agent adds context, shows it in lastError() and logs it once.
nixl_status_t
fail(nixl_status_t status, std::string sentence) noexcept;

/// Value of a NIXL option: the environment variable `name`, else the entry of the configuration file. Nothing if
/// neither has it. Throws std::runtime_error if the configuration file is broken.
std::optional<std::string>
configValue(const std::string &name);

} // namespace nixlx

// ---- The plugin descriptor ---------------------------------------------------------------------------------------

#define NIXLX_PLUGIN_MAGIC 0x584c584eu
#define NIXLX_PLUGIN_API_VERSION 2u

/// Engine may be given the union of touching ranges instead of each range (see registerMem).
#define NIXLX_CAP_MERGE_RANGES 1u
/// The target checks every access against its registrations.
#define NIXLX_CAP_TARGET_CHECKED 2u

// What must agree between a plugin and libnixl for C++ objects to cross: compiler family, C++ library and its ABI.
#define NIXLX_STR2(x) #x
#define NIXLX_STR(x) NIXLX_STR2(x)
#if defined(__GLIBCXX__)
#define NIXLX_ABI_TAG "itanium libstdc++ cxx11=" NIXLX_STR(_GLIBCXX_USE_CXX11_ABI)
#else
#define NIXLX_ABI_TAG "itanium other"
#endif

extern "C" {

/// One row of a backend's option table.
struct nixlx_option {
    const char *name;
    const char *type; ///< "bool", "int", "size", "string", or the choices "a|b"
    const char *default_value;
    const char *help;
};

/// Plain data. The fields before `extend` are read from the file without loading it; append only.
struct nixlx_plugin_descriptor_t {
    uint32_t magic;
    uint32_t struct_size;
    uint32_t api_version;
    uint32_t capabilities;
    char kind[16];      ///< "backend"
    char name[32];      ///< "UCX"
    char version[32];   ///< of the plugin
    char abi[64];       ///< NIXLX_ABI_TAG
    char build_id[64];  ///< of the tree it was built from, for people
    char conflicts[64]; ///< names of backends that may not exist beside it, comma separated
    nixlx::Engine *(*extend)(nixlBackendEngine *engine); ///< the second face of an engine of this plugin
    const struct nixlx_option *options;
    uint32_t option_count;
    uint32_t reserved;
};

// A built-in plugin is compiled with NIXLX_BUILTIN set to its name, which goes into its symbols.
#ifdef NIXLX_BUILTIN
#define NIXLX_JOIN2(a, b) a##_##b
#define NIXLX_JOIN(a, b) NIXLX_JOIN2(a, b)
#define NIXLX_PLUGIN_SYMBOL(symbol) NIXLX_JOIN(symbol, NIXLX_BUILTIN)
#else
#define NIXLX_PLUGIN_SYMBOL(symbol) symbol
#endif

/// Exported by every plugin of ours.
extern const struct nixlx_plugin_descriptor_t NIXLX_PLUGIN_SYMBOL(nixlx_plugin_descriptor);
}

#pragma GCC visibility pop
