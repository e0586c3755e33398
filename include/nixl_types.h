// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The basic types of the NIXL API: enumerations, aliases and small structs, equal to NIXL 1.4 in name, value and
// layout. New enumerators stand at the end of their enum and are marked "beyond 1.4".
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#pragma GCC visibility push(default)

/// Kind of memory a descriptor list speaks about. Serialised as four bytes.
enum nixl_mem_t { DRAM_SEG = 0, VRAM_SEG = 1, BLK_SEG = 2, OBJ_SEG = 3, FILE_SEG = 4 };

/// Direction of a transfer, seen from the agent that creates it: READ fills local memory, WRITE fills remote memory.
enum nixl_xfer_op_t { NIXL_READ = 0, NIXL_WRITE = 1 };

/// Result of every call. Negative values are failures; the sentence behind a failure is `nixlx::lastError()`.
enum nixl_status_t {
    NIXL_IN_PROG = 1,
    NIXL_SUCCESS = 0,
    NIXL_ERR_NOT_POSTED = -1,
    NIXL_ERR_INVALID_PARAM = -2,
    NIXL_ERR_BACKEND = -3,
    NIXL_ERR_NOT_FOUND = -4,
    NIXL_ERR_MISMATCH = -5,
    NIXL_ERR_NOT_ALLOWED = -6,
    NIXL_ERR_REPOST_ACTIVE = -7,
    NIXL_ERR_UNKNOWN = -8,
    NIXL_ERR_NOT_SUPPORTED = -9,
    NIXL_ERR_REMOTE_DISCONNECT = -10,
    NIXL_ERR_CANCELED = -11,
    NIXL_ERR_NO_TELEMETRY = -12,
    // Beyond 1.4:
    NIXL_ERR_TIMEOUT = -13,   ///< the request's deadline or stall limit passed; its buffers are quiet
    NIXL_ERR_STALE = -14,     ///< another file has taken the place of the one that was registered
    NIXL_ERR_INTEGRITY = -15, ///< the bytes that arrived are not the bytes that were sent
    NIXL_ERR_NO_MEMORY = -16, ///< an allocation failed; nothing was changed
    NIXL_ERR_FORKED = -17     ///< the agent was created by a parent process
};

/// Accepted for compatibility. Every call of ours is safe from any thread in every mode.
enum class nixl_thread_sync_t {
    NIXL_THREAD_SYNC_NONE = 0,
    NIXL_THREAD_SYNC_STRICT = 1,
    NIXL_THREAD_SYNC_RW = 2,
    NIXL_THREAD_SYNC_DEFAULT = NIXL_THREAD_SYNC_NONE
};

/// How a transfer cost was found.
enum class nixl_cost_t { ANALYTICAL_BACKEND = 0 };

namespace nixlEnumStrings {
/// "DRAM_SEG" and so on; "BAD_SEG" for a value outside the enum.
std::string
memTypeStr(const nixl_mem_t &mem);
/// "READ", "WRITE" or "BAD_OP".
std::string
xferOpStr(const nixl_xfer_op_t &op);
/// The enumerator's name, for example "NIXL_ERR_BACKEND"; "BAD_STATUS" for a value outside the enum.
std::string
statusStr(const nixl_status_t &status);
} // namespace nixlEnumStrings

class nixlSerDes;
class nixlDlistH;
class nixlBackendH;
class nixlXferReqH;
class nixlAgentData;

using nixl_backend_t = std::string;
using nixl_telemetry_plugin_t = std::string;
using nixl_blob_t = std::string; ///< may hold any bytes, NUL included
using nixl_mem_list_t = std::vector<nixl_mem_t>;
using nixl_b_params_t = std::unordered_map<std::string, std::string>;
using nixl_notifs_t = std::unordered_map<std::string, std::vector<nixl_blob_t>>; ///< sender's agent name -> messages
using nixl_query_resp_t = std::optional<nixl_b_params_t>;
using nixlMemViewH = void *;
using chrono_point_t = std::chrono::steady_clock::time_point;
using chrono_period_us_t = std::chrono::microseconds;

inline constexpr uint16_t default_comm_port = 8888;
extern const std::string default_metadata_label;         ///< "metadata"
extern const std::string default_partial_metadata_label; ///< "partial_metadata"
extern const std::string nixl_null_agent;                ///< "NULL_AGENT": a hole in a remote memory view
#define NIXL_INIT_AGENT ""

/// Optional arguments of most calls. A field that a call does not name is ignored by it.
struct nixlAgentOptionalArgs {
    std::vector<nixlBackendH *> backends; ///< candidates, in order of preference; empty means all
    std::optional<nixl_blob_t> notif;     ///< message for the target, delivered after the data is visible
    nixl_blob_t notifMsg;                 ///< older form of `notif`, used when `notif` is empty and hasNotif is set
    bool hasNotif = false;
    bool skipDescMerge = false;   ///< makeXferReq: keep one descriptor per index
    bool includeConnInfo = false; ///< partial metadata: also send how to connect
    std::string ipAddr;           ///< metadata calls: a non-empty address selects peer to peer
    int port = default_comm_port;
    std::string metadataLabel; ///< name of a partial blob in a central store
    nixl_blob_t customParam;   ///< passed to the backend by createXferReq and prepMemView
};
using nixl_opt_args_t = nixlAgentOptionalArgs;

/// What was measured about one finished transfer.
struct nixlXferTelemetry {
    chrono_point_t startTime;
    chrono_period_us_t postDuration{};
    chrono_period_us_t xferDuration{};
    size_t totalBytes = 0;
    size_t descCount = 0; ///< after merging
};
using nixl_xfer_telem_t = nixlXferTelemetry;

#pragma GCC visibility pop
