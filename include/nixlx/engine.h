// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What we add for plugin authors. A backend of ours is an Engine and its abilities: plans instead of descriptor lists,
// cancellation that settles, cost, sentences. The agent gets it through the plugin's descriptor, a plain C struct that
// is read from the file before any of its code runs. For programs that know NIXL 1.4 only, the kit makes 1.4's engine
// from it (docs/plugin-guide.md).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend_aux.h"
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
    /// Since 3.2: of a transfer that comes in several plans, because it goes through memory in between.
    bool is_part = false;
};

// ---- The engine ----------------------------------------------------------------------------------------------------

/// What an engine knows about one request.
struct RequestInfo {
    std::string path;  ///< how the bytes travel, for people: "ucx 1.13.1, shared memory"
    std::string error; ///< why the request failed, one sentence; empty if it did not
};

/// A whole backend: memory and requests. What only some backends have are abilities, which ability() hands out.
///
/// Rules: calls for different requests may come from different threads at once; calls for one request never overlap.
/// A final status from post() or check() promises that the engine will not touch the request's memory any more.
/// NIXL_ERR_REMOTE_DISCONNECT as the outcome of whatever call or request concerns a peer says that the peer is lost;
/// nothing else has to be called for it. A failing call explains itself with nixlx::fail(). What a function throws
/// becomes its failure (std::bad_alloc: NIXL_ERR_NO_MEMORY); those that let go of something (deregisterMem, unloadMD,
/// release) must have done so first. Names are NIXL 1.4's where the meaning is.
class Engine {
public:
    virtual ~Engine() = default;

    // ---- Memory ----

    /// Registers one range. `mem.metaInfo` is the user's blob (path, key, device string).
    virtual nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) = 0;
    virtual nixl_status_t
    deregisterMem(nixlBackendMD *meta) {
        delete meta;
        return NIXL_SUCCESS;
    }

    /// The remote side of an own registration, for transfers within the agent; unloadMD frees it unless it is the same
    /// pointer.
    virtual nixl_status_t
    loadLocalMD(nixlBackendMD *input, nixlBackendMD *&output) {
        output = input;
        return NIXL_SUCCESS;
    }
    /// Frees what loadLocalMD or RemotePeers::loadRemoteMD returned.
    virtual nixl_status_t
    unloadMD(nixlBackendMD *loaded) {
        delete loaded;
        return NIXL_SUCCESS;
    }

    // ---- Requests ----

    /// Prepares a request that can be posted many times.
    virtual nixl_status_t
    prepare(const Plan &plan, const nixl_opt_b_args_t *args, nixlBackendReqH *&request) = 0;

    /// Starts it. `notification` (null: none; never without the ability) reaches the peer after all data is visible
    /// there, without help from the caller when the progress thread is on. SUCCESS, IN_PROG or an error; must not block
    /// and must not work longer than about a millisecond.
    virtual nixl_status_t
    post(nixlBackendReqH *request, const std::string *notification) = 0;

    virtual nixl_status_t
    check(nixlBackendReqH *request) = 0;

    /// Asks a posted request to end early. Keep calling check() until it is final; its status is then
    /// NIXL_ERR_CANCELED, or SUCCESS if it had finished first. Idempotent.
    virtual void
    cancel(nixlBackendReqH *request) = 0;

    /// Frees a request that is not posted or whose status is final.
    virtual void
    release(nixlBackendReqH *request) {
        delete request;
    }

    /// Also of one that is final, whose memory may have been deregistered or unloaded since.
    virtual RequestInfo
    describe(const nixlBackendReqH *request) const = 0;

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

    // ---- Life ----

    /// Called when no request is posted any more and the engine is about to be destroyed: until `deadline` it may end
    /// in order what else is under way, and then does it by force.
    virtual void
    endBy(std::chrono::steady_clock::time_point deadline) {
        static_cast<void>(deadline);
    }

    /// The ability of that name, as a pointer to its class, if the engine has it in that version or a newer one; else
    /// null. The same answer for the engine's life. See offer() and abilityOf().
    virtual void *
    ability(std::string_view name, uint32_t version) noexcept {
        static_cast<void>(name);
        static_cast<void>(version);
        return nullptr;
    }
};

// ---- Abilities -----------------------------------------------------------------------------------------------------
//
// The rules of Engine hold for their functions. A newer version of an ability only adds virtual functions at its end,
// so that it serves those who ask for an older one. New abilities change no version.

/// The engine moves data to and from other agents. Needs Notifications beside it.
class RemotePeers {
public:
    static constexpr std::string_view kName = "remote-peers";
    static constexpr uint32_t kVersion = 1;

    /// How a peer reaches this engine; must not be empty.
    virtual nixl_status_t
    getConnInfo(std::string &info) const = 0;

    /// What only peers of ours read (it travels behind the metadata blob's last field); may be empty.
    virtual nixl_status_t
    getPeerInfo(std::string &info) const {
        info.clear();
        return NIXL_SUCCESS;
    }

    /// The key that a peer needs for this registration; may be empty.
    virtual nixl_status_t
    getPublicData(const nixlBackendMD *meta, std::string &data) const = 0;

    /// Judges what a peer published and changes nothing: its getConnInfo, its getPeerInfo (null: none) and the public
    /// data of its registrations. Asked before an earlier start of the peer is given up for this one, so that damaged
    /// bytes cost nobody a peer. SUCCESS: it could be loaded, as far as bytes can tell.
    virtual nixl_status_t
    validatePeer(const std::string &connection_info,
                 const std::string *peer_info,
                 std::span<const std::string> public_data) const = 0;

    /// Takes up a peer, by its getConnInfo and its getPeerInfo (null: none), before any loadRemoteMD of it. Bytes from
    /// the network: check everything. The same peer again is fine. NOT_SUPPORTED: this engine does not reach it,
    /// another might. A failure leaves a peer that was not known unknown.
    virtual nixl_status_t
    loadPeer(const std::string &remote_agent, const std::string &connection_info, const std::string *peer_info) = 0;

    /// Connects now, where a connection is made when first needed otherwise.
    virtual nixl_status_t
    connect(const std::string &remote_agent) = 0;

    /// Forgets a peer. NOT_FOUND: it was not known.
    virtual nixl_status_t
    disconnect(const std::string &remote_agent) = 0;

    /// A registration of a loaded peer; `mem.metaInfo` is its public data.
    virtual nixl_status_t
    loadRemoteMD(const nixlBlobDesc &mem,
                 nixl_mem_t memory,
                 const std::string &remote_agent,
                 nixlBackendMD *&output) = 0;

protected:
    ~RemotePeers() = default;
};

/// Messages between agents.
class Notifications {
public:
    static constexpr std::string_view kName = "notifications";
    static constexpr uint32_t kVersion = 1;

    /// Appends what arrived. The list is given empty.
    virtual nixl_status_t
    getNotifs(notif_list_t &notifications) = 0;

    virtual nixl_status_t
    genNotif(const std::string &remote_agent, const std::string &message) const = 0;

protected:
    ~Notifications() = default;
};

/// Cancelled requests can be ended whatever the peer does.
class ForcedQuiet {
public:
    static constexpr std::string_view kName = "forced-quiet";
    static constexpr uint32_t kVersion = 1;

    /// A cancelled request does not become quiet, for example because its peer stands still: drops what it runs on,
    /// normally the connection to the peer, so that check() is final soon and the memory is not touched afterwards,
    /// whatever the peer does later. The peer is lost with it: other requests to it end with
    /// NIXL_ERR_REMOTE_DISCONNECT, and so may this one. False: not this one; nothing changed.
    virtual bool
    forceQuiet(nixlBackendReqH *request) = 0;

protected:
    ~ForcedQuiet() = default;
};

/// What a transfer takes: `start_us` and for each block and byte so much more.
struct Cost {
    double start_us;
    double block_us;
    double byte_us;
};

/// Microseconds.
[[gnu::visibility("hidden")]] inline double
predict(const Cost &cost, const Plan &plan) noexcept {
    return cost.start_us + cost.block_us * static_cast<double>(plan.block_count) +
        cost.byte_us * static_cast<double>(plan.total_bytes);
}

/// The engine knows what its transfers cost; the agent predicts, compares and chooses from it.
class Costs {
public:
    static constexpr std::string_view kName = "costs";
    static constexpr uint32_t kVersion = 1;

    /// Between these memories of this agent and of `remote_agent` (the own name: within the agent), as things are now.
    /// Nothing: not known, for example because the peer is gone. Does not block.
    virtual std::optional<Cost>
    cost(nixl_mem_t local, nixl_mem_t remote, std::string_view remote_agent) const = 0;

protected:
    ~Costs() = default;
};

/// Whoever waits for the engine can sleep. Something changes when a request ends, in whichever call or thread, when a
/// notification arrives, when a peer is lost, and without a progress thread also when there is anything to be done by
/// whoever calls check() or getNotifs() next.
class Waiting {
public:
    static constexpr std::string_view kName = "waiting";
    static constexpr uint32_t kVersion = 1;

    /// To be polled for reading, by several at once, and never read; constant. After an arm() that was true it becomes
    /// readable as soon as something changes, and stays so until arm() is called again.
    virtual int
    descriptor() const noexcept = 0;

    /// The last call before sleeping; calls do not overlap. True: nothing has changed since the last call, and
    /// descriptor() will become readable as soon as something does. False: something has, or the engine cannot tell:
    /// ask it for what you wait for, and arm it again. Does not block. A thread that never sleeps does not call it, and
    /// pays nothing for those who do.
    virtual bool
    arm() noexcept = 0;

protected:
    ~Waiting() = default;
};

/// Peers use registrations by themselves, so that who deregisters has to wait for them.
class Barrier {
public:
    static constexpr std::string_view kName = "barrier";
    static constexpr uint32_t kVersion = 1;

    /// The last before these are deregistered, all of one call of the program's: no peer begins to use them any more,
    /// and when it returns SUCCESS none uses them. Waits 150 ms at most. A failure leaves them all as they were;
    /// REPOST_ACTIVE: because a peer that stands still uses one of them.
    virtual nixl_status_t
    shutOut(std::span<nixlBackendMD *const> registrations) = 0;

    /// They are not deregistered after all: peers may use them as before shutOut() succeeded.
    virtual void
    letIn(std::span<nixlBackendMD *const> registrations) noexcept = 0;

protected:
    ~Barrier() = default;
};

/// Questions about storage.
class Queries {
public:
    static constexpr std::string_view kName = "queries";
    static constexpr uint32_t kVersion = 1;

    /// One answer for each descriptor, nothing for what is not there.
    virtual nixl_status_t
    queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const = 0;

protected:
    ~Queries() = default;
};

/// Views of memory that kernels on a device work with. A view is the engine's own pointer.
class MemoryViews {
public:
    static constexpr std::string_view kName = "memory-views";
    static constexpr uint32_t kVersion = 1;

    virtual nixl_status_t
    prepMemView(const nixl_remote_meta_dlist_t &remote, nixlMemViewH &view, const nixl_opt_b_args_t *args) const = 0;
    virtual nixl_status_t
    prepMemView(const nixl_meta_dlist_t &local, nixlMemViewH &view, const nixl_opt_b_args_t *args) const = 0;
    virtual void
    releaseMemView(nixlMemViewH view) const = 0;

protected:
    ~MemoryViews() = default;
};

#pragma GCC visibility push(hidden)
/// The ability of an engine that another part of the program made; null: it has none.
template<class Ability>
Ability *
abilityOf(Engine &engine) noexcept {
    return static_cast<Ability *>(engine.ability(Ability::kName, Ability::kVersion));
}

/// For Engine::ability(): `engine` as that one of the `Abilities`, its base classes, that is asked for.
template<class... Abilities, class Self>
void *
offer(Self *engine, std::string_view name, uint32_t version) noexcept {
    void *found = nullptr;
    ((name == Abilities::kName && version <= Abilities::kVersion ? (found = static_cast<Abilities *>(engine)) : found),
     ...);
    return found;
}
#pragma GCC visibility pop

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
/// Another major version is another interface. A minor version only appends fields.
#define NIXLX_PLUGIN_API_MAJOR 3u
#define NIXLX_PLUGIN_API_MINOR 2u
#define NIXLX_PLUGIN_API_VERSION (NIXLX_PLUGIN_API_MAJOR << 16 | NIXLX_PLUGIN_API_MINOR)

// Properties of a backend, the bits of `capabilities`:
/// Engine may be given the union of touching ranges instead of each range (see registerMem).
#define NIXLX_CAP_MERGE_RANGES 1u
/// Moves data within one agent.
#define NIXLX_CAP_LOCAL 2u

// What must agree between a plugin and libnixl for C++ objects to cross: compiler family, C++ library and its ABI.
#define NIXLX_STR2(x) #x
#define NIXLX_STR(x) NIXLX_STR2(x)
#if defined(__GLIBCXX__)
#define NIXLX_ABI_TAG "itanium libstdc++ cxx11=" NIXLX_STR(_GLIBCXX_USE_CXX11_ABI)
#else
#define NIXLX_ABI_TAG "itanium other"
#endif

/// A set of kinds of memory: NIXLX_MEMORY(DRAM_SEG) | NIXLX_MEMORY(FILE_SEG).
#define NIXLX_MEMORY(kind) (1u << (kind))

extern "C" {

/// One row of a backend's option table.
struct nixlx_option {
    const char *name;
    const char *type; ///< "bool", "int", "size", "string", or the choices "a|b"
    const char *default_value;
    const char *help;
    const char *role; ///< what programs ask every backend for: "threads"; empty: nothing of that kind
};

/// Plain data. The fields before `create` are read from the file without loading it; append only.
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
    uint8_t
        partners[8]; ///< by the kind of local memory: the kinds of remote memory (or store) it moves data to and from
    nixlx::Engine *(*create)(const nixlBackendInitParams *params); ///< owned by the caller; throws with a sentence
    const struct nixlx_option *options;
    uint32_t option_size; ///< of a row
    uint32_t option_count;
    /// Since 3.1: a backend that serves peers of the same host in this one's stead, where both sides have it. The agent
    /// creates it together with this one; from outside it is a path of this one. Null: none.
    const char *companion = nullptr;
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
