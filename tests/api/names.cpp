// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a program or plugin that uses any public name of NIXL compiles and links. Method: every name once, with the
// type, value and defaults that NIXL gives it; the pointers to functions make the linker look for each definition.
// Compiled with -Wall -Wextra -Werror by two compilers.
#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "backend/backend_aux.h"
#include "backend/backend_engine.h"
#include "backend/backend_plugin.h"
#include "nixl.h"
#include "nixl_descriptors.h"
#include "nixl_params.h"
#include "nixl_types.h"
#include "nixlx/directory.h"
#include "nixlx/engine.h"
#include "nixlx/limits.h"
#include "nixlx/memory.h"
#include "nixlx/report.h"
#include "nixlx/telemetry_ring.h"
#include "telemetry/telemetry_exporter.h"
#include "telemetry/telemetry_plugin.h"
#include "telemetry_event.h"
#include "utils/common/nixl_log.h"
#include "utils/common/nixl_time.h"
#include "utils/serdes/serdes.h"

namespace {

template<class A, class B> constexpr bool same = std::is_same_v<A, B>;

// ---- Enumerations and constants ----------------------------------------------------------------------------------

static_assert(DRAM_SEG == 0 && VRAM_SEG == 1 && BLK_SEG == 2 && OBJ_SEG == 3 && FILE_SEG == 4);
static_assert(sizeof(nixl_mem_t) == 4);
static_assert(NIXL_READ == 0 && NIXL_WRITE == 1 && sizeof(nixl_xfer_op_t) == 4);
static_assert(NIXL_IN_PROG == 1 && NIXL_SUCCESS == 0 && NIXL_ERR_NOT_POSTED == -1 && NIXL_ERR_INVALID_PARAM == -2);
static_assert(NIXL_ERR_BACKEND == -3 && NIXL_ERR_NOT_FOUND == -4 && NIXL_ERR_MISMATCH == -5);
static_assert(NIXL_ERR_NOT_ALLOWED == -6 && NIXL_ERR_REPOST_ACTIVE == -7 && NIXL_ERR_UNKNOWN == -8);
static_assert(NIXL_ERR_NOT_SUPPORTED == -9 && NIXL_ERR_REMOTE_DISCONNECT == -10 && NIXL_ERR_CANCELED == -11);
static_assert(NIXL_ERR_NO_TELEMETRY == -12 && NIXL_ERR_TIMEOUT == -13 && NIXL_ERR_STALE == -14);
static_assert(NIXL_ERR_INTEGRITY == -15 && NIXL_ERR_NO_MEMORY == -16 && NIXL_ERR_FORKED == -17);
static_assert(static_cast<int>(nixl_thread_sync_t::NIXL_THREAD_SYNC_NONE) == 0);
static_assert(static_cast<int>(nixl_thread_sync_t::NIXL_THREAD_SYNC_STRICT) == 1);
static_assert(static_cast<int>(nixl_thread_sync_t::NIXL_THREAD_SYNC_RW) == 2);
static_assert(nixl_thread_sync_t::NIXL_THREAD_SYNC_DEFAULT == nixl_thread_sync_t::NIXL_THREAD_SYNC_NONE);
static_assert(static_cast<int>(nixl_cost_t::ANALYTICAL_BACKEND) == 0);

static_assert(default_comm_port == 8888 && same<decltype(default_comm_port), const uint16_t>);
static_assert(std::string_view(NIXL_INIT_AGENT).empty());
static_assert(NIXL_PLUGIN_API_VERSION == 1);
static_assert(MAX_TELEMETRY_QUEUE_SIZE == 1000);

// ---- Aliases and structs -----------------------------------------------------------------------------------------

static_assert(same<nixl_backend_t, std::string> && same<nixl_blob_t, std::string>);
static_assert(same<nixl_telemetry_plugin_t, std::string>);
static_assert(same<nixl_mem_list_t, std::vector<nixl_mem_t>>);
static_assert(same<nixl_b_params_t, std::unordered_map<std::string, std::string>>);
static_assert(same<nixl_notifs_t, std::unordered_map<std::string, std::vector<nixl_blob_t>>>);
static_assert(same<nixl_query_resp_t, std::optional<nixl_b_params_t>> && same<nixlMemViewH, void *>);
static_assert(same<chrono_point_t, std::chrono::steady_clock::time_point>);
static_assert(same<chrono_period_us_t, std::chrono::microseconds>);
static_assert(same<nixl_opt_args_t, nixlAgentOptionalArgs> && same<nixl_xfer_telem_t, nixlXferTelemetry>);
static_assert(same<nixl_xfer_dlist_t, nixlDescList<nixlBasicDesc>>);
static_assert(same<nixl_reg_dlist_t, nixlDescList<nixlBlobDesc>>);
static_assert(same<nixl_remote_dlist_t, nixlDescList<nixlRemoteDesc>>);
static_assert(same<nixl_local_dlist_t, nixlDescList<nixlBasicDesc>>);
static_assert(same<nixl_meta_dlist_t, nixlDescList<nixlMetaDesc>>);
static_assert(same<nixl_remote_meta_dlist_t, nixlDescList<nixlRemoteMetaDesc>>);
static_assert(same<nixl_stride_dlist_t, nixlMetaStrideDescList> && same<nixl_opt_b_args_t, nixlBackendOptionalArgs>);
static_assert(same<notif_list_t, std::vector<std::pair<std::string, std::string>>>);

using Opaque = std::tuple<nixlSerDes *, nixlDlistH *, nixlBackendH *, nixlXferReqH *, nixlAgentData *>;
static_assert(std::tuple_size_v<Opaque> == 5);

// Binary contract: sizes and order.
static_assert(sizeof(nixlBasicDesc) == 24 && offsetof(nixlBasicDesc, addr) == 0);
static_assert(offsetof(nixlBasicDesc, len) == 8 && offsetof(nixlBasicDesc, devId) == 16);
static_assert(sizeof(nixlTelemetryEvent) == 16);
static_assert(offsetof(nixlAgentConfig, useListenThread) == 1 && offsetof(nixlAgentConfig, listenPort) == 2);
static_assert(offsetof(nixlAgentConfig, syncMode) == 4 && offsetof(nixlAgentConfig, captureTelemetry) == 8);
static_assert(offsetof(nixlAgentConfig, pthrDelay) == 16 && offsetof(nixlAgentConfig, lthrDelay) == 24);
static_assert(offsetof(nixlAgentConfig, etcdWatchTimeout) == 32 && sizeof(nixlAgentConfig) == 40);
static_assert(sizeof(nixlAgent) == sizeof(void *));
static_assert(!std::is_copy_constructible_v<nixlAgent> && !std::is_move_constructible_v<nixlAgent>);
static_assert(std::is_convertible_v<nixl_mem_t, nixl_xfer_dlist_t>, "f({DRAM_SEG}) is written");

bool
optionalArguments() {
    nixl_opt_args_t args;
    bool good = args.backends.empty() && !args.notif && args.notifMsg.empty() && !args.hasNotif && !args.skipDescMerge;
    good = good && !args.includeConnInfo && args.ipAddr.empty() && args.port == 8888 && args.metadataLabel.empty();
    return good && args.customParam.empty();
}

bool
transferTelemetry() {
    nixl_xfer_telem_t telemetry;
    telemetry.startTime = std::chrono::steady_clock::now();
    telemetry.postDuration = telemetry.xferDuration = std::chrono::microseconds(1);
    return telemetry.totalBytes == 0 && telemetry.descCount == 0;
}

bool
configuration() {
    const nixlAgentConfig plain;
    bool good = plain.useProgThread == nixlAgentConfig::kDefaultUseProgThread && !plain.useProgThread;
    good = good && plain.useListenThread == nixlAgentConfig::kDefaultUseListenThread && !plain.useListenThread;
    good = good && plain.listenPort == nixlAgentConfig::kDefaultListenPort && plain.listenPort == 8888;
    good = good && plain.syncMode == nixlAgentConfig::kDefaultSyncMode;
    good = good && plain.captureTelemetry == nixlAgentConfig::kDefaultCaptureTelemetry && !plain.captureTelemetry;
    good = good && plain.pthrDelay == nixlAgentConfig::kDefaultPthrDelayUs && plain.pthrDelay == 0;
    good = good && plain.lthrDelay == nixlAgentConfig::kDefaultLthrDelayUs && plain.lthrDelay == 100000;
    good = good && plain.etcdWatchTimeout == nixlAgentConfig::kDefaultEtcdWatchTimeout;
    const nixlAgentConfig one(true);
    const nixlAgentConfig all(true, true, 5, nixl_thread_sync_t::NIXL_THREAD_SYNC_RW, 4, 1, 2, true,
                              std::chrono::microseconds(9));
    static_assert(!std::is_convertible_v<bool, nixlAgentConfig>, "explicit");
    static_assert(noexcept(nixlAgentConfig(true)));
    good = good && one.useProgThread && all.useListenThread && all.listenPort == 5 && all.pthrDelay == 1;
    return good && all.lthrDelay == 2 && all.captureTelemetry && all.etcdWatchTimeout.count() == 9;
}

bool
strings() {
    using namespace nixlEnumStrings;
    bool good = memTypeStr(DRAM_SEG) == "DRAM_SEG" && xferOpStr(NIXL_WRITE) == "WRITE";
    good = good && statusStr(NIXL_ERR_BACKEND) == "NIXL_ERR_BACKEND";
    good = good && telemetryEventTypeStr(nixl_telemetry_event_type_t::AGENT_XFER_TIME) == "agent_xfer_time";
    good = good && telemetryErrorStatusLabel(nixl_telemetry_event_type_t::AGENT_ERR_BACKEND) == "backend";
    return good && default_metadata_label == "metadata" && !default_partial_metadata_label.empty() &&
        nixl_null_agent == "NULL_AGENT";
}

// ---- Descriptors -------------------------------------------------------------------------------------------------

template<class T>
bool
useList(const T &element) {
    nixlDescList<T> list(DRAM_SEG);
    list.reserve(4);
    list.addDesc(element);
    list.emplace(element) = element;
    list[0] = element;
    const auto &constant = list;
    bool good = constant.getType() == DRAM_SEG && constant.descCount() == 2 && !constant.isEmpty();
    good = good && constant[1] == element && constant.end() - constant.begin() == 2 && list.end() - list.begin() == 2;
    good = good && constant.getIndex(element) == 0 && constant.trim().descCount() == 2;
    good = good && constant.to_string().starts_with("DescList") && constant.to_string(true).starts_with("DescList");
    list.remDesc(1);
    nixlSerDes out;
    (void)constant.serialize(&out);
    nixlDescList<T> copy(list);
    good = good && copy == list;
    copy.resize(3);
    copy.clear();
    void (nixlDescList<T>::*print)() const = &nixlDescList<T>::print;
    return good && copy.isEmpty() && print && nixlDescList<T>(VRAM_SEG, 1).descCount() == 1;
}

bool
descriptors() {
    const nixlBasicDesc basic(0x1000, 64, 0);
    bool good = basic.covers(nixlBasicDesc(0x1010, 8, 0)) && basic.overlaps(nixlBasicDesc(0x103f, 8, 0));
    good = good && nixlBasicDesc(basic.serialize()) == basic && basic < nixlBasicDesc(0x1001, 1, 0);
    good = good && basic != nixlBasicDesc(0x1001, 1, 0) && noexcept(basic.covers(basic));
    const nixlBlobDesc blob(0x1000, 64, 0, "meta");
    good = good && nixlBlobDesc(blob.serialize()) == blob && nixlBlobDesc(basic, "meta") == blob;
    good = good && nixlBlobDesc(0x1000, 64, 0).metaInfo.empty();
    const nixlRemoteDesc remote(0x1000, 64, 0, "peer");
    good = good && nixlRemoteDesc(remote.serialize()) == remote && nixlRemoteDesc(basic, "peer") == remote;
    good = good && remote.remoteAgent == "peer";
    const nixlStrideDesc stride(0x1000, 64, 0, 128, 4);
    good = good && stride.stride == 128 && stride.count == 4;
    basic.print("");
    blob.print("");
    remote.print("");
    stride.print("");

    nixlBackendMD metadata(true);
    const nixlMetaDesc meta(0x1000, 64, 0, &metadata);
    meta.print("");
    nixlRemoteMetaDesc remote_meta("peer");
    static_cast<nixlMetaDesc &>(remote_meta) = meta;
    const nixlMetaStrideDesc meta_stride(0x1000, 64, 0, &metadata, 128, 4);
    good = good && meta_stride.getMetaDesc(1, 1).addr == 0x1080;
    nixl_stride_dlist_t strides(DRAM_SEG);
    strides.addDesc(meta_stride);
    size_t run_size = 0;
    good = good && strides.flatSize() == 4 && strides.find(1, run_size).addr == 0x1000 && run_size == 3;
    return good && useList(basic) && useList(blob) && useList(remote) && useList(stride) && useList(meta) &&
        useList(remote_meta);
}

bool
serialiser() {
    nixlSerDes out, in;
    bool good = out.addStr("tag", "text") == NIXL_SUCCESS && out.addBuf("raw", "ab", ssize_t{2}) == NIXL_SUCCESS;
    good = good && in.importStr(out.exportStr()) == NIXL_SUCCESS && in.getStr("tag") == "text";
    char raw[2];
    good = good && in.getBufLen("raw") == 2 && in.getBuf("raw", raw, 2) == NIXL_SUCCESS && raw[1] == 'b';
    const auto text = nixlSerDes::_bytesToString("xy", 2);
    nixlSerDes::_stringToBytes(raw, text, 2);
    nixl_xfer_dlist_t list(DRAM_SEG);
    list.addDesc(nixlBasicDesc(1, 2, 3));
    nixlSerDes list_out, list_in;
    good = good && list.serialize(&list_out) == NIXL_SUCCESS && list_in.importStr(list_out.exportStr()) == NIXL_SUCCESS;
    return good && nixl_xfer_dlist_t(&list_in) == list && raw[0] == 'x';
}

// ---- The agent: exact signatures ---------------------------------------------------------------------------------

using Opt = const nixl_opt_args_t *;
template<class... Args> using Method = nixl_status_t (nixlAgent::*)(Args...);
template<class... Args> using ConstMethod = nixl_status_t (nixlAgent::*)(Args...) const;

const Method<std::vector<nixl_backend_t> &> kGetAvailPlugins = &nixlAgent::getAvailPlugins;
const ConstMethod<const nixl_backend_t &, nixl_mem_list_t &, nixl_b_params_t &> kGetPluginParams =
    &nixlAgent::getPluginParams;
const ConstMethod<const nixlBackendH *, nixl_mem_list_t &, nixl_b_params_t &> kGetBackendParams =
    &nixlAgent::getBackendParams;
const Method<const nixl_backend_t &, const nixl_b_params_t &, nixlBackendH *&> kCreateBackend =
    &nixlAgent::createBackend;
const Method<const nixl_reg_dlist_t &, Opt> kRegisterMem = &nixlAgent::registerMem;
const Method<const nixl_reg_dlist_t &, Opt> kDeregisterMem = &nixlAgent::deregisterMem;
const ConstMethod<const nixl_reg_dlist_t &, std::vector<nixl_query_resp_t> &, Opt> kQueryMem = &nixlAgent::queryMem;
const Method<const std::string &, Opt> kMakeConnection = &nixlAgent::makeConnection;
const ConstMethod<const std::string &, const nixl_xfer_dlist_t &, nixlDlistH *&, Opt> kPrepRemote =
    &nixlAgent::prepXferDlist;
const ConstMethod<const nixl_xfer_dlist_t &, nixlDlistH *&, Opt> kPrepLocal = &nixlAgent::prepXferDlist;
const ConstMethod<const std::string &, const nixlDescList<nixlStrideDesc> &, nixlDlistH *&, Opt> kPrepRemoteStrided =
    &nixlAgent::prepXferDlist;
const ConstMethod<const nixlDescList<nixlStrideDesc> &, nixlDlistH *&, Opt> kPrepLocalStrided =
    &nixlAgent::prepXferDlist;
const ConstMethod<const nixl_xfer_op_t &,
                  const nixlDlistH *,
                  const std::vector<int> &,
                  const nixlDlistH *,
                  const std::vector<int> &,
                  nixlXferReqH *&,
                  Opt>
    kMakeXferReq = &nixlAgent::makeXferReq;
const ConstMethod<nixl_xfer_op_t,
                  const nixlDlistH &,
                  std::span<const int>,
                  const nixlDlistH &,
                  std::span<const int>,
                  nixlXferReqH *&,
                  Opt>
    kMakeXferReqSpans = &nixlAgent::makeXferReq;
const ConstMethod<const nixl_xfer_op_t &,
                  const nixl_xfer_dlist_t &,
                  const nixl_xfer_dlist_t &,
                  const std::string &,
                  nixlXferReqH *&,
                  Opt>
    kCreateXferReq = &nixlAgent::createXferReq;
const ConstMethod<const nixlXferReqH *, std::chrono::microseconds &, std::chrono::microseconds &, nixl_cost_t &, Opt>
    kEstimateXferCost = &nixlAgent::estimateXferCost;
const ConstMethod<nixlXferReqH *, Opt> kPostXferReq = &nixlAgent::postXferReq;
const ConstMethod<nixlXferReqH *> kGetXferStatus = &nixlAgent::getXferStatus;
const ConstMethod<const nixlXferReqH *, nixl_xfer_telem_t &> kGetXferTelemetry = &nixlAgent::getXferTelemetry;
const ConstMethod<const nixlXferReqH *, nixlBackendH *&> kQueryXferBackend = &nixlAgent::queryXferBackend;
const ConstMethod<nixlXferReqH *> kReleaseXferReq = &nixlAgent::releaseXferReq;
const ConstMethod<const nixl_remote_dlist_t &, nixlMemViewH &, Opt> kPrepMemViewRemote = &nixlAgent::prepMemView;
const ConstMethod<const nixl_local_dlist_t &, nixlMemViewH &, Opt> kPrepMemViewLocal = &nixlAgent::prepMemView;
void (nixlAgent::*const kReleaseMemView)(nixlMemViewH) const = &nixlAgent::releaseMemView;
const ConstMethod<nixlDlistH *> kReleasedDlistH = &nixlAgent::releasedDlistH;
const Method<nixl_notifs_t &, Opt> kGetNotifs = &nixlAgent::getNotifs;
const ConstMethod<const std::string &, const nixl_blob_t &, Opt> kGenNotif = &nixlAgent::genNotif;
const ConstMethod<nixl_blob_t &> kGetLocalMD = &nixlAgent::getLocalMD;
const ConstMethod<const nixl_reg_dlist_t &, nixl_blob_t &, Opt> kGetLocalPartialMD = &nixlAgent::getLocalPartialMD;
const Method<const nixl_blob_t &, std::string &> kLoadRemoteMD = &nixlAgent::loadRemoteMD;
const Method<const std::string &> kInvalidateRemoteMD = &nixlAgent::invalidateRemoteMD;
const ConstMethod<Opt> kSendLocalMD = &nixlAgent::sendLocalMD;
const ConstMethod<const nixl_reg_dlist_t &, Opt> kSendLocalPartialMD = &nixlAgent::sendLocalPartialMD;
const Method<std::string, Opt> kFetchRemoteMD = &nixlAgent::fetchRemoteMD;
const ConstMethod<Opt> kInvalidateLocalMD = &nixlAgent::invalidateLocalMD;
const ConstMethod<std::string, const nixl_xfer_dlist_t &> kCheckRemoteMD = &nixlAgent::checkRemoteMD;
const ConstMethod<const nixlXferReqH *, nixlx::Report &> kGetXferReport = &nixlAgent::getXferReport;
const ConstMethod<const nixlXferReqH *, const nixlx::Limits &> kSetXferLimits = &nixlAgent::setXferLimits;
const ConstMethod<nixlXferReqH *> kCancelXferReq = &nixlAgent::cancelXferReq;
const ConstMethod<nixlXferReqH *> kDropXferReq = &nixlAgent::dropXferReq;
const ConstMethod<std::chrono::milliseconds, const nixl_opt_args_t *> kWaitMetadata = &nixlAgent::waitMetadata;
using Timeout = std::optional<std::chrono::microseconds>;
const ConstMethod<nixlXferReqH *, Timeout> kWaitXfer = &nixlAgent::waitXfer;
const ConstMethod<std::span<nixlXferReqH *const>, Timeout, std::vector<size_t> &> kWaitAny = &nixlAgent::waitAny;
const Method<nixl_notifs_t &, Timeout, Opt> kWaitNotifs = &nixlAgent::waitNotifs;
const Method<int &> kEventFd = &nixlAgent::eventFd;
const ConstMethod<uint16_t &> kGetListenPort = &nixlAgent::getListenPort;
const ConstMethod<const nixl_backend_t &, const std::string &, std::string &> kGetPluginOption =
    &nixlAgent::getPluginOption;
const ConstMethod<const nixlBackendH *, nixl_backend_t &> kGetBackendType = &nixlAgent::getBackendType;

/// Calls with every default argument left out; never run.
[[maybe_unused]] void
callWithDefaults(nixlAgent &agent,
                 nixlDlistH *dlist,
                 nixlXferReqH *request,
                 const nixlDescList<nixlStrideDesc> &strided,
                 nixlMemViewH view) {
    const nixl_reg_dlist_t registered(DRAM_SEG);
    const nixl_xfer_dlist_t transferred(DRAM_SEG);
    nixl_notifs_t notifs;
    nixl_blob_t blob;
    std::chrono::microseconds duration, margin;
    nixl_cost_t method;
    agent.registerMem(registered);
    agent.deregisterMem(registered);
    agent.makeConnection("peer");
    agent.checkRemoteMD("peer", {DRAM_SEG});
    agent.prepXferDlist(NIXL_INIT_AGENT, transferred, dlist);
    agent.prepXferDlist("peer", transferred, dlist);
    agent.prepXferDlist(transferred, dlist);
    agent.prepXferDlist("peer", strided, dlist);
    agent.prepXferDlist(strided, dlist);
    const std::vector<int> indices{0};
    agent.makeXferReq(NIXL_READ, dlist, indices, dlist, indices, request);
    agent.makeXferReq(NIXL_READ, *dlist, std::span<const int>(indices), *dlist, std::span<const int>(indices), request);
    agent.createXferReq(NIXL_WRITE, transferred, transferred, "peer", request);
    agent.estimateXferCost(request, duration, margin, method);
    agent.postXferReq(request);
    agent.prepMemView(nixl_remote_dlist_t(DRAM_SEG), view);
    agent.prepMemView(transferred, view);
    agent.getNotifs(notifs);
    agent.genNotif("peer", "message");
    agent.getLocalPartialMD(registered, blob);
    agent.sendLocalMD();
    agent.sendLocalPartialMD(registered);
    agent.fetchRemoteMD("peer");
    agent.invalidateLocalMD();
}

template<class... Methods>
bool
allThere(Methods... methods) {
    return ((methods != nullptr) && ...);
}

bool
agentMethods() {
    return allThere(kGetAvailPlugins, kGetPluginParams, kGetBackendParams, kCreateBackend, kRegisterMem, kDeregisterMem,
                    kQueryMem, kMakeConnection, kPrepRemote, kPrepLocal, kPrepRemoteStrided, kPrepLocalStrided,
                    kMakeXferReq, kMakeXferReqSpans, kCreateXferReq, kEstimateXferCost, kPostXferReq, kGetXferStatus,
                    kGetXferTelemetry, kQueryXferBackend, kReleaseXferReq, kPrepMemViewRemote, kPrepMemViewLocal,
                    kReleaseMemView, kReleasedDlistH, kGetNotifs, kGenNotif, kGetLocalMD, kGetLocalPartialMD,
                    kLoadRemoteMD, kInvalidateRemoteMD, kSendLocalMD, kSendLocalPartialMD, kFetchRemoteMD,
                    kInvalidateLocalMD, kCheckRemoteMD, kGetPluginOption, kGetXferReport, kSetXferLimits,
                    kCancelXferReq, kDropXferReq, kWaitMetadata, kWaitXfer, kWaitAny, kWaitNotifs, kEventFd,
                    kGetListenPort, kGetBackendType);
}

bool
agent() {
    nixlAgent agent("names", nixlAgentConfig());
    std::vector<nixl_backend_t> plugins;
    return agent.getAvailPlugins(plugins) == NIXL_SUCCESS;
}

bool
report() {
    const nixlx::Report report;
    const nixlx::Candidate candidate;
    bool good = report.status == NIXL_ERR_NOT_POSTED && report.backend.empty() && report.path.empty();
    good = good && report.candidates.empty() && report.total_bytes == 0 && report.descriptor_count == 0;
    good = good && report.bytes_done == 0 && report.attempts == 0 && !report.settling && !report.stuck;
    good = good && report.error.empty();
    good = good && candidate.backend.empty() && !candidate.chosen && candidate.predicted_us < 0;
    return good && candidate.reason.empty() && nixlx::lastError().empty();
}

bool
limits() {
    const nixlx::Limits limits;
    return !limits.deadline && !limits.stall && nixlx::Limits::kNone > std::chrono::hours(24);
}

// ---- Backend plugins ---------------------------------------------------------------------------------------------

/// Implements every virtual function with `override`, so that each must exist with exactly this signature.
class Engine final : public nixlBackendEngine {
public:
    explicit Engine(const nixlBackendInitParams *params) : nixlBackendEngine(params) {
        std::string value;
        initErr = setInitParam("names", "x") != NIXL_SUCCESS || setInitParam("names", "y") != NIXL_ERR_NOT_ALLOWED ||
            getInitParam("names", value) != NIXL_SUCCESS || getInitParam("none", value) != NIXL_ERR_INVALID_PARAM;
        addTelemetryEvent(nixl_telemetry_event_type_t::AGENT_MEMORY_REGISTERED, localAgent.size() + enableTelemetry_);
    }

    bool
    supportsRemote() const override {
        return false;
    }
    bool
    supportsLocal() const override {
        return true;
    }
    bool
    supportsNotif() const override {
        return false;
    }
    nixl_mem_list_t
    getSupportedMems() const override {
        return {};
    }
    nixl_status_t
    registerMem(const nixlBlobDesc &, const nixl_mem_t &, nixlBackendMD *&) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    deregisterMem(nixlBackendMD *) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    connect(const std::string &) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    disconnect(const std::string &) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    unloadMD(nixlBackendMD *) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    prepXfer(const nixl_xfer_op_t &,
             const nixl_meta_dlist_t &,
             const nixl_meta_dlist_t &,
             const std::string &,
             nixlBackendReqH *&,
             const nixl_opt_b_args_t * = nullptr) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    postXfer(const nixl_xfer_op_t &,
             const nixl_meta_dlist_t &,
             const nixl_meta_dlist_t &,
             const std::string &,
             nixlBackendReqH *&,
             const nixl_opt_b_args_t * = nullptr) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    checkXfer(nixlBackendReqH *) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    releaseReqH(nixlBackendReqH *) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    prepMemView(const nixl_remote_meta_dlist_t &, nixlMemViewH &, const nixl_opt_b_args_t * = nullptr) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    prepMemView(const nixl_meta_dlist_t &, nixlMemViewH &, const nixl_opt_b_args_t * = nullptr) const override {
        return NIXL_SUCCESS;
    }
    void
    releaseMemView(nixlMemViewH) const override {}
    nixl_status_t
    getPublicData(const nixlBackendMD *, std::string &) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    getConnInfo(std::string &) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    loadRemoteConnInfo(const std::string &, const std::string &) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    loadRemoteMD(const nixlBlobDesc &, const nixl_mem_t &, const std::string &, nixlBackendMD *&) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    loadLocalMD(nixlBackendMD *, nixlBackendMD *&) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    getNotifs(notif_list_t &) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    genNotif(const std::string &, const std::string &) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    queryMem(const nixl_reg_dlist_t &, std::vector<nixl_query_resp_t> &) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    estimateXferCost(const nixl_xfer_op_t &,
                     const nixl_meta_dlist_t &,
                     const nixl_meta_dlist_t &,
                     const std::string &,
                     nixlBackendReqH *const &,
                     std::chrono::microseconds &,
                     std::chrono::microseconds &,
                     nixl_cost_t &,
                     const nixl_opt_args_t * = nullptr) const override {
        return NIXL_SUCCESS;
    }
};

/// An engine that is made by a factory.
class FactoryEngine {
public:
    static std::unique_ptr<nixlBackendEngine>
    create(const nixlBackendInitParams &params) {
        return std::make_unique<Engine>(&params);
    }
};

bool
plugin() {
    nixl_b_params_t params{{"key", "value"}};
    nixlBackendInitParams init;
    init.localAgent = "agent";
    init.type = "NAMES";
    init.customParams = &params;
    bool good = !init.enableProgTh && init.pthrDelay == 0 && same<decltype(init.pthrDelay), nixlTime::us_t>;
    good = good && init.syncMode == nixl_thread_sync_t::NIXL_THREAD_SYNC_DEFAULT && !init.enableTelemetry_;
    init.enableTelemetry_ = true;

    const nixlStaticPluginCreatorFunc creator = []() -> nixlBackendPlugin * {
        return nixlBackendPluginCreator<Engine>::create(NIXL_PLUGIN_API_VERSION, "NAMES", "1", {{"a", "b"}},
                                                        {DRAM_SEG});
    };
    nixlBackendPlugin *plugin = creator();
    good = good && plugin->api_version == 1 && std::strcmp(plugin->get_plugin_name(), "NAMES") == 0;
    good = good && std::strcmp(plugin->get_plugin_version(), "1") == 0 && plugin->get_backend_options().size() == 1;
    good = good && plugin->get_backend_mems() == nixl_mem_list_t{DRAM_SEG};
    nixlBackendEngine *engine = plugin->create_engine(&init);
    good = good && engine && !engine->getInitErr() && engine->getType() == "NAMES";
    good = good && engine->getCustomParams().size() == 2 && engine->getTelemetryEvents().size() == 1;
    plugin->destroy_engine(engine);
    plugin = nixlBackendPluginCreator<FactoryEngine>::create(NIXL_PLUGIN_API_VERSION, "NAMES", "1", {}, {});
    engine = plugin->create_engine(&init);
    good = good && engine;
    plugin->destroy_engine(engine);

    const nixlBackendConnMD connection;
    const nixlBackendReqH request;
    const nixl_opt_b_args_t args;
    (void)request;
    good = good && connection.dstIpAddress.empty() && connection.dstPort == 0;
    return good && args.notifMsg.empty() && !args.hasNotif && args.customParam.empty();
}

class SecondFace final : public nixlx::Engine,
                         public nixlx::RemotePeers,
                         public nixlx::Notifications,
                         public nixlx::ForcedQuiet,
                         public nixlx::Costs,
                         public nixlx::Waiting,
                         public nixlx::Barrier,
                         public nixlx::Queries,
                         public nixlx::MemoryViews {
public:
    nixl_status_t
    registerMem(const nixlBlobDesc &, nixl_mem_t, nixlBackendMD *&) override {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    nixl_status_t
    deregisterMem(nixlBackendMD *) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    shutOut(std::span<nixlBackendMD *const>) override {
        return NIXL_SUCCESS;
    }
    void
    letIn(std::span<nixlBackendMD *const>) noexcept override {}
    nixl_status_t
    prepare(const nixlx::Plan &, const nixl_opt_b_args_t *, nixlBackendReqH *&) override {
        return NIXL_ERR_NOT_SUPPORTED;
    }
    nixl_status_t
    post(nixlBackendReqH *, const std::string *) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    check(nixlBackendReqH *) override {
        return NIXL_SUCCESS;
    }
    void
    cancel(nixlBackendReqH *) override {}
    void
    release(nixlBackendReqH *) override {}
    nixlx::RequestInfo
    describe(const nixlBackendReqH *) const override {
        return {};
    }
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *) const override {
        return 3;
    }
    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<nixlx::RemotePeers, nixlx::Notifications, nixlx::ForcedQuiet, nixlx::Costs, nixlx::Waiting,
                            nixlx::Barrier, nixlx::Queries, nixlx::MemoryViews>(this, name, version);
    }
    nixl_status_t
    getConnInfo(std::string &) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    getPublicData(const nixlBackendMD *, std::string &) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    validatePeer(const std::string &, const std::string *, std::span<const std::string>) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    loadPeer(const std::string &, const std::string &, const std::string *) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    connect(const std::string &) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    disconnect(const std::string &) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    loadRemoteMD(const nixlBlobDesc &, nixl_mem_t, const std::string &, nixlBackendMD *&) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    getNotifs(notif_list_t &) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    genNotif(const std::string &, const std::string &) const override {
        return NIXL_SUCCESS;
    }
    bool
    forceQuiet(nixlBackendReqH *) override {
        return false;
    }
    std::optional<nixlx::Cost>
    cost(nixl_mem_t, nixl_mem_t, std::string_view) const override {
        return nixlx::Cost{.start_us = 1, .block_us = 0, .byte_us = 0};
    }
    int
    descriptor() const noexcept override {
        return -1;
    }
    bool
    arm() noexcept override {
        return true;
    }
    nixl_status_t
    queryMem(const nixl_reg_dlist_t &, std::vector<nixl_query_resp_t> &) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    prepMemView(const nixl_remote_meta_dlist_t &, nixlMemViewH &, const nixl_opt_b_args_t *) const override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    prepMemView(const nixl_meta_dlist_t &, nixlMemViewH &, const nixl_opt_b_args_t *) const override {
        return NIXL_SUCCESS;
    }
    void
    releaseMemView(nixlMemViewH) const override {}
};

const nixlx_option kOption = {"name", "int", "1", "help", "threads"};
[[maybe_unused]] const nixlx_plugin_descriptor_t kDescriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_MERGE_RANGES | NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "NAMES",
    .version = "1",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {NIXLX_MEMORY(DRAM_SEG) | NIXLX_MEMORY(FILE_SEG)},
    .create = [](const nixlBackendInitParams *) -> nixlx::Engine * { return new SecondFace; },
    .options = &kOption,
    .option_size = sizeof(nixlx_option),
    .option_count = 1,
};
static_assert(NIXLX_PLUGIN_API_VERSION >> 16 == NIXLX_PLUGIN_API_MAJOR);

bool
sharedMemory() {
    void *memory = nixlx::allocShared(10);
    const auto block = nixlx::findShared(reinterpret_cast<uint64_t>(memory), 10);
    const bool good = memory && block && block->id != 0 && block->base <= reinterpret_cast<uint64_t>(memory) &&
        block->bytes >= 10 && block->descriptor >= 0;
    nixlx::freeShared(memory);
    return good;
}

bool
pluginServices() {
    const nixlx::Segment segment{};
    const nixlx::Run run{};
    const nixlx::Plan plan{};
    const nixlx::RequestInfo info{};
    static_assert(std::is_abstract_v<nixlx::Engine>);
    bool good = !segment.metadata && run.count == 0 && plan.runs.empty() && info.error.empty();
    const std::unique_ptr<nixlx::Engine> engine(kDescriptor.create(nullptr));
    auto *costs = nixlx::abilityOf<nixlx::Costs>(*engine);
    good = good && costs && nixlx::predict(*costs->cost(DRAM_SEG, FILE_SEG, ""), plan) == 1 &&
        engine->pathMark(nullptr) == 3u;
    auto *waiting = nixlx::abilityOf<nixlx::Waiting>(*engine);
    good = good && waiting && waiting->arm() && waiting->descriptor() == -1;
    return good && nixlx::fail(NIXL_ERR_BACKEND, "names") == NIXL_ERR_BACKEND &&
        !nixlx::configValue("NIXL_NO_SUCH_NAME");
}

// ---- Directories -------------------------------------------------------------------------------------------------

class Store final : public nixlx::Directory, public nixlx::DirectoryWatch {
public:
    nixl_status_t
    publish(const std::string &, std::string_view, Deadline) override {
        return NIXL_SUCCESS;
    }
    nixl_status_t
    fetch(const std::string &, const std::string &, std::string &, Deadline) override {
        return NIXL_ERR_NOT_FOUND;
    }
    nixl_status_t
    withdraw(Deadline) override {
        return NIXL_SUCCESS;
    }
    void
    endBy(Deadline) noexcept override {}
    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<nixlx::DirectoryWatch>(this, name, version);
    }
    int
    descriptor() const noexcept override {
        return -1;
    }
    nixl_status_t
    takeEnded(std::vector<nixlx::DirectoryEnd> &ended) override {
        ended.push_back({.agent = "gone", .why = "a reason"});
        return NIXL_SUCCESS;
    }
    void
    forget(const std::string &) noexcept override {}
};

const nixlx_store_t kStore = {
    .api_version = NIXLX_DIRECTORY_API_VERSION,
    .open = [](const nixlx::DirectoryParams *) -> nixlx::Directory * { return new Store; },
};

bool
directories() {
    const nixlx::DirectoryParams params;
    bool good = params.agent.empty() && params.address.empty() && params.lease == std::chrono::seconds(10);
    good = good && params.incarnation == std::array<uint8_t, 16>{};
    const std::unique_ptr<nixlx::Directory> store(kStore.open(&params));
    const auto now = std::chrono::steady_clock::now();
    std::string blob;
    good = good && store->publish("label", "blob", now) == NIXL_SUCCESS && store->withdraw(now) == NIXL_SUCCESS;
    good = good && store->fetch("agent", "label", blob, now) == NIXL_ERR_NOT_FOUND && !store->ability("none", 1);
    store->endBy(now);
    void *ability = store->ability(nixlx::DirectoryWatch::kName, nixlx::DirectoryWatch::kVersion);
    auto *watch = static_cast<nixlx::DirectoryWatch *>(ability);
    std::vector<nixlx::DirectoryEnd> ended;
    good = good && watch && watch->descriptor() == -1 && watch->takeEnded(ended) == NIXL_SUCCESS && ended.size() == 1;
    if (watch) watch->forget("gone");
    return good;
}

// ---- Telemetry ---------------------------------------------------------------------------------------------------

class Exporter final : public nixlTelemetryExporter {
public:
    using nixlTelemetryExporter::nixlTelemetryExporter;
    nixl_status_t
    exportEvent(const nixlTelemetryEvent &event) override {
        return event.value_ == 1 ? NIXL_SUCCESS : NIXL_ERR_UNKNOWN;
    }

private:
    void
    onBatchBegin() noexcept override {}
    void
    onBatchEnd() noexcept override {}
};

bool
telemetry() {
    using Type = nixl_telemetry_event_type_t;
    constexpr Type types[] = {
        Type::AGENT_TX_BYTES,          Type::AGENT_RX_BYTES,          Type::AGENT_TX_REQUESTS_NUM,
        Type::AGENT_RX_REQUESTS_NUM,   Type::AGENT_MEMORY_REGISTERED, Type::AGENT_MEMORY_DEREGISTERED,
        Type::AGENT_XFER_TIME,         Type::AGENT_XFER_POST_TIME,    Type::AGENT_ERR_NOT_POSTED,
        Type::AGENT_ERR_INVALID_PARAM, Type::AGENT_ERR_BACKEND,       Type::AGENT_ERR_NOT_FOUND,
        Type::AGENT_ERR_MISMATCH,      Type::AGENT_ERR_NOT_ALLOWED,   Type::AGENT_ERR_REPOST_ACTIVE,
        Type::AGENT_ERR_UNKNOWN,       Type::AGENT_ERR_NOT_SUPPORTED, Type::AGENT_ERR_REMOTE_DISCONNECT,
        Type::AGENT_ERR_CANCELED,      Type::AGENT_ERR_NO_TELEMETRY,  Type::AGENT_TELEMETRY_EVENTS_DROPPED,
        Type::AGENT_ERR_TIMEOUT,       Type::AGENT_ERR_STALE,         Type::AGENT_ERR_INTEGRITY,
        Type::AGENT_ERR_NO_MEMORY,     Type::AGENT_ERR_FORKED};
    static_assert(std::size(types) == nixl_telemetry_event_type_count);
    static_assert(std::tuple_size_v<nixl_telemetry_metric_mask_t> == nixl_telemetry_event_type_count);
    static_assert(TELEMETRY_VERSION == 4);
    bool good = true;
    for (size_t i = 0; i < std::size(types); ++i) good = good && static_cast<size_t>(types[i]) == i;
    good = good && TELEMETRY_BUFFER_SIZE_VAR == std::string("NIXL_TELEMETRY_BUFFER_SIZE");
    good = good && TELEMETRY_RUN_INTERVAL_VAR == std::string("NIXL_TELEMETRY_RUN_INTERVAL");
    good = good && TELEMETRY_ENABLED_METRICS_VAR == std::string("NIXL_TELEMETRY_ENABLED_METRICS");
    good = good && nixlTelemetryEventTypeForStatus(NIXL_ERR_BACKEND) == Type::AGENT_ERR_BACKEND;
    const nixlTelemetryMetricDescriptor &metrics = telemetryMetricDescriptor(Type::AGENT_ERR_BACKEND);
    good = good && std::strcmp(metrics.counterName, telemetry_error_family_name) == 0;

    const exporter_creator_fn_t creator = [](const nixlTelemetryExporterInitParams &params) {
        return std::unique_ptr<nixlTelemetryExporter>(new Exporter(params));
    };
    static_assert(static_cast<unsigned>(nixl_telemetry_plugin_api_version::V1) == 1);
    static_assert(static_cast<unsigned>(nixl_telemetry_plugin_api_version::V2) == 2);
    const nixlTelemetryPlugin own(nixl_telemetry_plugin_api_version::V2, creator, "names", "1");
    nixlTelemetryPlugin *made =
        nixlTelemetryPluginCreator<Exporter>::create(nixl_telemetry_plugin_api_version::V2, "names", "1");
    good = good && own.getName() == made->getName() && own.getVersion() == "1" && made->api_version == own.api_version;
    const auto exporter = made->create_exporter({"agent", 5});
    good = good && exporter->getMaxEventsBuffered() == 5;
    good =
        good && exporter->withBatch([&] { return exporter->exportEvent({Type::AGENT_TX_BYTES, 1}); }) == NIXL_SUCCESS;
    nixlx::TelemetryRingHeader ring;
    ring.capacity = 2;
    ring.mask = 1;
    good = good && ring.write_pos == 0 && ring.read_pos == 0 && ring.version == ring.expected_version;
    good = good && nixlx::telemetryRingProblem(ring, nixlx::telemetryRingOffset(ring.capacity)).empty();
    try {
        throw nixlTelemetryBindFailed("port taken");
    }
    catch (const std::runtime_error &error) {
        return good && error.what() == std::string("port taken");
    }
}

// ---- Helpers -----------------------------------------------------------------------------------------------------

bool
clocks() {
    static_assert(same<nixlTime::ns_t, uint64_t> && same<nixlTime::us_t, uint64_t> && same<nixlTime::ms_t, uint64_t>);
    static_assert(same<nixlTime::sec_t, uint64_t>);
    const nixlTime::microseconds pulled_in{};
    return nixlTime::getNs() && nixlTime::getUs() && nixlTime::getMs() <= nixlTime::getUs() &&
        nixlTime::getSec() <= nixlTime::getMs() && pulled_in.count() == 0;
}

bool
logging(bool yes) {
    // As statements of an if without braces, which a macro can break.
    if (!yes) NIXL_FATAL << "not reached";
    if (!yes) NIXL_PFATAL << "not reached";
    else NIXL_TRACE << "trace " << 1;
    NIXL_DEBUG << "debug";
    NIXL_INFO << "info";
    NIXL_PTRACE << "trace";
    NIXL_PDEBUG << "debug";
    NIXL_PINFO << "info";
    if (!yes) {
        NIXL_WARN << "warn";
        NIXL_ERROR << "error";
        NIXL_PWARN << "warn";
        NIXL_PERROR << "error";
        NIXL_ERROR_FUNC << "error";
    }
    NIXL_ASSERT(yes) << "assert";
    NIXL_ASSERT_ALWAYS(yes) << "assert";
    return !nixl_strerror(2).empty();
}

} // namespace

// A plugin defines these; declared by the headers, exported by the attributes.
NIXL_PLUGIN_EXPORT nixlBackendPlugin *
nixl_plugin_init() {
    return nullptr;
}
const nixlx_store_t *
nixlx_plugin_store_init() {
    return &kStore;
}
NIXL_PLUGIN_EXPORT void
nixl_plugin_fini() {}
NIXL_TELEMETRY_PLUGIN_EXPORT nixlTelemetryPlugin *
nixl_telemetry_plugin_init() {
    return nullptr;
}
NIXL_TELEMETRY_PLUGIN_EXPORT void
nixl_telemetry_plugin_fini() {}

int
main() {
    const std::pair<const char *, bool> checks[] = {
        {"optional arguments", optionalArguments()},
        {"transfer telemetry", transferTelemetry()},
        {"configuration", configuration()},
        {"strings", strings()},
        {"descriptors", descriptors()},
        {"serialiser", serialiser()},
        {"agent methods", agentMethods()},
        {"agent", agent()},
        {"report", report()},
        {"limits", limits()},
        {"shared memory", sharedMemory()},
        {"plugin", plugin()},
        {"plugin services", pluginServices()},
        {"directories", directories()},
        {"telemetry", telemetry()},
        {"clocks", clocks()},
        {"logging", logging(true)},
    };
    int wrong = 0;
    for (const auto &[name, good] : checks) {
        if (good) continue;
        NIXL_ERROR << "wrong: " << name;
        ++wrong;
    }
    return wrong;
}
