// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/options.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>

#include "kit/params.h"

namespace nx::ucx {

const nixlx_option kOptionTable[kOptionCount] = {
    {"ucx_devices", "string", "", "network devices to use, \"mlx5_0:1, mlx5_1\"; empty: all", ""},
    {"device_list", "string", "", "the same, older name; both are joined", ""},
    {"num_workers", "int", "1", "workers shared by the calling threads (1-64)", ""},
    {"num_threads", "int", "0", "threads with a worker each that large requests are split over (0-64)", "threads"},
    {"split_batch_size", "int", "1024", "blocks from which a request is split over the threads; 0: always", ""},
    {"ucx_num_device_channels", "int", "4", "accepted; channels of the GPU interface", ""},
    {"ucx_error_handling_mode", "none|peer", "peer", "peer: the death of a peer is noticed; none: never", ""},
    {"ucx_ep_close_force", "bool", "false", "close connections without waiting for what was given last", ""},
    {"engine_config", "string", "", "settings of UCX, \"NAME=VALUE,NAME=VALUE\"; the environment's UCX_NAME wins", ""},
    {"ucx_library", "string", "", "file of libucp.so.0; else NIXL_UCX_LIBRARY, else the one found (README)", ""},
};

namespace {

constexpr uint64_t kWorkersMax = 64;

Result<bool>
configFlag(const std::string &name, bool otherwise) {
    const auto text = nixlx::configValue(name);
    if (!text) return otherwise;
    const nixl_b_params_t one{{name, *text}};
    kit::ParamReader in(&one);
    const bool value = in.boolean(name, otherwise);
    if (!in.status().ok()) return {in.status().code(), in.status().message()};
    return value;
}

Result<std::vector<Setting>>
parseEngineConfig(const std::string &text) {
    std::vector<Setting> settings;
    for (const std::string &part : kit::splitList(text)) {
        const size_t equals = part.find('=');
        if (equals == std::string::npos || equals == 0) {
            return {NIXL_ERR_INVALID_PARAM,
                    "parameter engine_config has " + nx::quoted(part) + ", which is not NAME=VALUE"};
        }
        std::string name = part.substr(0, equals);
        if (name.starts_with("UCX_")) name.erase(0, 4);
        settings.push_back({std::move(name), part.substr(equals + 1), true});
    }
    return settings;
}

/// What the environment (or the configuration file) says about each setting takes the place of ours; UCX itself
/// already knows what is in the environment, so that setting it again changes nothing.
std::vector<Setting>
withUsersChoice(std::vector<Setting> settings) {
    for (Setting &setting : settings) {
        if (auto value = nixlx::configValue("UCX_" + setting.name)) {
            setting.value = *value;
            setting.from_user = true;
        }
    }
    return settings;
}

void
append(std::vector<Setting> &settings, const std::vector<Setting> &more) {
    settings.insert(settings.end(), more.begin(), more.end());
}

/// Without adaptive progress: with it a transport that only receives is put to sleep after each message, and UCX's own
/// thread must be woken for the next one, which takes several times as long as the message (seen over shared memory,
/// and over TCP with 1.22). To poll costs nothing in shared memory and under a microsecond for the network.
std::vector<Setting>
commonSettings() {
    return {{"RNDV_THRESH", "inf"}, {"MAX_RMA_RAILS", "2"}, {"ADAPTIVE_PROGRESS", "n"}};
}

} // namespace

Result<Options>
Options::read(const nixl_b_params_t *params) {
    kit::ParamReader in(params);
    Options options;
    for (const char *name : {"device_list", "ucx_devices"}) {
        for (std::string device : in.list(name)) {
            if (device.find(':') == std::string::npos) device += ":1";
            if (std::find(options.devices.begin(), options.devices.end(), device) == options.devices.end()) {
                options.devices.push_back(std::move(device));
            }
        }
    }
    options.num_workers = in.number("num_workers", 1, {.min = 1, .max = kWorkersMax});
    options.num_threads = in.number("num_threads", 0, {.min = 0, .max = kWorkersMax});
    options.split_batch_size = std::max<uint64_t>(in.number("split_batch_size", 1024), 1); // 0: always
    in.number("ucx_num_device_channels", 4);
    options.detect_death = in.choice("ucx_error_handling_mode", "peer", {"none", "peer"}) == "peer";
    options.close_by_force = in.boolean("ucx_ep_close_force", false);
    options.library.path = in.text("ucx_library");
    if (!in.status().ok()) return {in.status().code(), in.status().message()};

    auto engine_config = parseEngineConfig(in.text("engine_config"));
    if (!engine_config.ok()) return std::move(engine_config).status();
    options.engine_config = *std::move(engine_config);

    options.library.named_by = "ucx_library";
    if (options.library.path.empty()) {
        options.library.named_by = "NIXL_UCX_LIBRARY";
        options.library.path = nixlx::configValue(options.library.named_by).value_or("");
    }
    options.library.has_rdma_devices = RdmaDevices::find().any;
    options.library.expected_soname = nixlx::configValue("NIXL_UCX_EXPECTED_SONAME").value_or("");
    const auto deep_bind = configFlag("NIXL_UCX_DEEPBIND", false);
    if (!deep_bind.ok()) return {deep_bind.code(), deep_bind.message()};
    options.library.deep_bind = *deep_bind;
    const auto companions = configFlag("NIXL_COMPANIONS", true);
    if (!companions.ok()) return {companions.code(), companions.message()};
    options.links_serve_dram = !*companions;
    return options;
}

RdmaDevices
RdmaDevices::find(const std::string &folder) {
    RdmaDevices devices;
    std::error_code error;
    for (const auto &device : std::filesystem::directory_iterator(folder, error)) {
        devices.any = true;
        const auto driver = std::filesystem::read_symlink(device.path() / "device" / "driver", error);
        if (!error && driver.filename() == "efa") devices.efa = true;
    }
    return devices;
}

std::vector<Setting>
plainSettings(const Options &options, unsigned minor_version, const RdmaDevices &devices) {
    std::vector<Setting> settings = commonSettings();
    // UCX 1.13 aborts when a peer with 1.23 connects that sees its shared memory. Where the death of peers is to be
    // noticed it does not use shared memory here.
    if (minor_version < 14 && options.detect_death) append(settings, {{"TLS", "^shm"}});
    if (devices.any) append(settings, {{"IB_PCI_RELAXED_ORDERING", "try"}, {"RC_FENCE", "none"}});
    if (devices.efa) append(settings, {{"ADDRESS_VERSION", "v2"}});
    if (devices.efa && minor_version >= 19) append(settings, {{"MAX_COMPONENT_MDS", "32"}});
    // For memory of GPUs: all network devices near one, and staging through host memory although deaths are noticed.
    if (minor_version >= 21) append(settings, {{"MAX_HCA_PER_GPU", "auto"}});
    if (minor_version >= 22) append(settings, {{"RNDV_PIPELINE_ERROR_HANDLING", "y"}});
    append(settings, options.engine_config);
    settings = withUsersChoice(std::move(settings));
    if (!options.devices.empty()) {
        std::string joined;
        for (const std::string &device : options.devices) joined += (joined.empty() ? "" : ",") + device;
        settings.push_back({"NET_DEVICES", joined, true});
    }
    return settings;
}

bool
allowsSharedMemory(const Options &options) {
    std::vector<Setting> settings{{"TLS", ""}};
    append(settings, options.engine_config);
    std::string choice;
    for (const Setting &setting : withUsersChoice(std::move(settings))) {
        if (setting.name == "TLS") choice = setting.value;
    }
    const bool excludes = choice.starts_with('^');
    const auto names = kit::splitList(choice.substr(excludes ? 1 : 0));
    const auto has = [&](const std::set<std::string> &wanted) {
        return std::any_of(names.begin(), names.end(), [&](const std::string &name) { return wanted.contains(name); });
    };
    if (excludes) return !has({"shm", "sm", "mm"});
    return names.empty() || has({"all", "shm", "sm", "mm", "posix", "sysv", "xpmem"});
}

std::vector<Setting>
localSettings(const Options &options, unsigned minor_version) {
    // Links tell of deaths, and earlier. UCX's own look (seen with 1.13 and 1.18) ends this process if a peer died
    // while it was connecting.
    std::vector<Setting> settings = commonSettings();
    settings.push_back({"KEEPALIVE_INTERVAL", "inf"});
    append(settings, options.engine_config);
    // Shared memory, not the network: it would win nothing here, and fabric devices need not be opened twice.
    append(settings, {{"TLS", "^tcp"}});
    settings = withUsersChoice(std::move(settings));
    settings.push_back({"NET_DEVICES", "lo", true});
    // ERROR_HANDLING is the switch that lets the transports be used where the death of peers is noticed. RX_BUFS_GROW
    // keeps a worker, of which there is one per peer, to what its queue of 256 (before 1.18: 64) needs.
    if (minor_version >= 18) {
        append(settings,
               withUsersChoice({{"POSIX_ERROR_HANDLING", "y"},
                                {"SYSV_ERROR_HANDLING", "y"},
                                {"POSIX_RX_BUFS_GROW", "264"},
                                {"SYSV_RX_BUFS_GROW", "264"}}));
    } else {
        append(settings, {{"MM_ERROR_HANDLING", "y"}, {"MM_RX_BUFS_GROW", "72"}});
    }
    return settings;
}

Result<std::optional<size_t>>
requestedWorker(const std::string &custom_param, size_t worker_count) {
    constexpr std::string_view kKey = "worker_id=";
    const size_t at = custom_param.find(kKey);
    if (at == std::string::npos) return std::optional<size_t>{};
    const char *first = custom_param.data() + at + kKey.size();
    const char *last = custom_param.data() + custom_param.size();
    size_t index = 0;
    const auto [end, failure] = std::from_chars(first, last, index);
    if (failure != std::errc{} || index >= worker_count) {
        return {NIXL_ERR_INVALID_PARAM,
                "custom parameter " + nx::quoted(custom_param) +
                    " asks for a worker that does not exist; worker_id is 0 to " + std::to_string(worker_count - 1)};
    }
    return std::optional<size_t>(index);
}

} // namespace nx::ucx
