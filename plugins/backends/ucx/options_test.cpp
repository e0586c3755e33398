// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: what a program or an administrator asks for is what UCX is told, and mistakes are refused by name.
#include "ucx/options.h"

#include <filesystem>
#include <gtest/gtest.h>

#include "support/temp_dir.h"

namespace nx::ucx {
namespace {

const Setting *
find(const std::vector<Setting> &settings, const std::string &name) {
    const Setting *found = nullptr; // the last one wins
    for (const Setting &setting : settings) {
        if (setting.name == name) found = &setting;
    }
    return found;
}

Options
read(const nixl_b_params_t &params) {
    auto options = Options::read(&params);
    EXPECT_TRUE(options.ok()) << options.message();
    return options.ok() ? *options : Options{};
}

TEST(UcxOptions, HaveTheDefaultsOfNixl) {
    const Options options = read({});
    EXPECT_EQ(options.num_workers, 1u);
    EXPECT_EQ(options.num_threads, 0u);
    EXPECT_EQ(options.split_batch_size, 1024u);
    EXPECT_TRUE(options.detect_death);
    EXPECT_FALSE(options.close_by_force);
    EXPECT_TRUE(options.devices.empty());
}

TEST(UcxOptions, SplitEveryRequestFromNoBlocksOn) {
    EXPECT_EQ(read({{"split_batch_size", "0"}}).split_batch_size, 1u);
}

TEST(UcxOptions, AcceptWhatThePluginAdvertises) {
    const Options options = read({{"ucx_devices", ""}, {"num_workers", "1"}, {"ucx_error_handling_mode", "peer"}});
    EXPECT_TRUE(options.devices.empty());
    EXPECT_TRUE(options.detect_death);
}

TEST(UcxOptions, JoinBothDeviceListsAndAddThePort) {
    const Options options = read({{"device_list", "mlx5_0,mlx5_1:2, mlx5_2"}, {"ucx_devices", "mlx5_0 , mlx5_3"}});
    EXPECT_EQ(options.devices, (std::vector<std::string>{"mlx5_0:1", "mlx5_1:2", "mlx5_2:1", "mlx5_3:1"}));
    EXPECT_EQ(find(plainSettings(options, 22), "NET_DEVICES")->value, "mlx5_0:1,mlx5_1:2,mlx5_2:1,mlx5_3:1");
}

TEST(UcxOptions, KeepTheLocalContextOffTheNetwork) {
    const Options options = read({{"device_list", "mlx5_0"}});
    EXPECT_EQ(find(localSettings(options, 22), "NET_DEVICES")->value, "lo");
}

TEST(UcxOptions, SwitchSharedMemoryByTheNameTheVersionKnows) {
    const Options options = read({});
    EXPECT_EQ(find(localSettings(options, 13), "MM_ERROR_HANDLING")->value, "y");
    EXPECT_EQ(find(localSettings(options, 13), "POSIX_ERROR_HANDLING"), nullptr);
    EXPECT_EQ(find(localSettings(options, 22), "POSIX_ERROR_HANDLING")->value, "y");
    EXPECT_EQ(find(localSettings(options, 22), "SYSV_ERROR_HANDLING")->value, "y");
    EXPECT_EQ(find(localSettings(options, 13), "MM_RX_BUFS_GROW")->value, "72");
    EXPECT_EQ(find(localSettings(options, 22), "SYSV_RX_BUFS_GROW")->value, "264");
}

TEST(UcxOptions, KeepPollingWhoeverSends) {
    EXPECT_EQ(find(localSettings(read({}), 13), "ADAPTIVE_PROGRESS")->value, "n");
    EXPECT_EQ(find(plainSettings(read({}), 13), "ADAPTIVE_PROGRESS")->value, "n");
    EXPECT_EQ(find(localSettings(read({{"engine_config", "ADAPTIVE_PROGRESS=y"}}), 13), "ADAPTIVE_PROGRESS")->value,
              "y");
}

TEST(UcxOptions, NeverSwitchThePlainContext) {
    for (const Setting &setting : plainSettings(read({}), 22)) {
        EXPECT_FALSE(setting.name.ends_with("ERROR_HANDLING") && !setting.name.starts_with("RNDV_")) << setting.name;
    }
}

TEST(UcxOptions, TellUcxOfTheDevicesThereAre) {
    test::TempDir folder;
    const auto settings = [&](unsigned minor_version) {
        return plainSettings(read({}), minor_version, RdmaDevices::find(folder.path().string()));
    };
    EXPECT_EQ(find(settings(22), "RC_FENCE"), nullptr);
    EXPECT_FALSE(RdmaDevices::find(folder / "none").any);

    const auto add = [&](const std::string &device, const std::string &driver) {
        const std::string place = folder / device + "/device";
        std::filesystem::create_directories(place);
        std::filesystem::create_symlink("../../../bus/pci/drivers/" + driver, place + "/driver");
    };
    add("mlx5_0", "mlx5_core");
    EXPECT_EQ(find(settings(22), "RC_FENCE")->value, "none");
    EXPECT_EQ(find(settings(22), "ADDRESS_VERSION"), nullptr);
    add("rdmap0s6", "efa");
    EXPECT_EQ(find(settings(22), "RC_FENCE")->value, "none");
    EXPECT_EQ(find(settings(13), "ADDRESS_VERSION")->value, "v2");
    EXPECT_EQ(find(settings(13), "MAX_COMPONENT_MDS"), nullptr);
    EXPECT_EQ(find(settings(19), "MAX_COMPONENT_MDS")->value, "32");
}

TEST(UcxOptions, ServeGpusWithTheVersionsThatCan) {
    EXPECT_EQ(find(plainSettings(read({}), 20), "MAX_HCA_PER_GPU"), nullptr);
    EXPECT_EQ(find(plainSettings(read({}), 21), "MAX_HCA_PER_GPU")->value, "auto");
    EXPECT_EQ(find(plainSettings(read({}), 21), "RNDV_PIPELINE_ERROR_HANDLING"), nullptr);
    EXPECT_EQ(find(plainSettings(read({}), 22), "RNDV_PIPELINE_ERROR_HANDLING")->value, "y");
    EXPECT_EQ(find(plainSettings(read({{"engine_config", "MAX_HCA_PER_GPU=1"}}), 22), "MAX_HCA_PER_GPU")->value, "1");
}

TEST(UcxOptions, KeepSharedMemoryFromTheVersionThatNewerPeersWouldAbort) {
    EXPECT_EQ(find(plainSettings(read({}), 13), "TLS")->value, "^shm");
    EXPECT_EQ(find(plainSettings(read({}), 14), "TLS"), nullptr);
    EXPECT_EQ(find(plainSettings(read({{"ucx_error_handling_mode", "none"}}), 13), "TLS"), nullptr);
    EXPECT_EQ(find(plainSettings(read({{"engine_config", "TLS=tcp"}}), 13), "TLS")->value, "tcp");
}

TEST(UcxOptions, SayWhetherTheChosenTransportsHaveSharedMemory) {
    const auto allows = [](const std::string &transports) {
        return allowsSharedMemory(read({{"engine_config", "TLS=" + transports}}));
    };
    EXPECT_TRUE(allowsSharedMemory(read({})));
    EXPECT_TRUE(allows("all"));
    EXPECT_TRUE(allows("posix"));
    EXPECT_TRUE(allows("^tcp"));
    EXPECT_TRUE(allows("^sysv"));
    EXPECT_FALSE(allows("tcp"));
    EXPECT_FALSE(allows("^shm"));
}

TEST(UcxOptions, ReadEngineConfig) {
    const Options options = read({{"engine_config", "UCX_TLS=tcp, MAX_RMA_RAILS=1"}});
    EXPECT_EQ(find(plainSettings(options, 22), "TLS")->value, "tcp");
    EXPECT_EQ(find(plainSettings(options, 22), "MAX_RMA_RAILS")->value, "1");
}

TEST(UcxOptions, RefuseWhatTheyCannotRead) {
    const nixl_b_params_t bad[] = {
        {{"num_workers", "0"}},       {{"num_workers", "many"}},         {{"num_threads", "65"}},
        {{"split_batch_size", "-1"}}, {{"ucx_ep_close_force", "maybe"}}, {{"ucx_error_handling_mode", "failover"}},
        {{"engine_config", "TLS"}},   {{"engine_config", "=x"}},         {{"ucx_num_device_channels", "-1"}}};
    for (const auto &params : bad) {
        const auto options = Options::read(&params);
        EXPECT_EQ(options.code(), NIXL_ERR_INVALID_PARAM) << params.begin()->first;
        EXPECT_NE(options.message().find(params.begin()->first), std::string::npos) << options.message();
    }
}

TEST(UcxOptions, IgnoreUnknownKeys) {
    EXPECT_EQ(read({{"colour", "blue"}}).num_workers, 1u);
}

TEST(RequestedWorker, ReadsWorkerId) {
    EXPECT_EQ(**requestedWorker("worker_id=2", 4), 2u);
    EXPECT_EQ(**requestedWorker("a=1;worker_id=0;b", 4), 0u);
    EXPECT_FALSE(requestedWorker("", 4)->has_value());
    EXPECT_FALSE(requestedWorker("something else", 4)->has_value());
}

TEST(RequestedWorker, RefusesWorkersThatDoNotExist) {
    for (const char *bad : {"worker_id=4", "worker_id=", "worker_id=-1", "worker_id=99999999999999999999"}) {
        EXPECT_EQ(requestedWorker(bad, 4).code(), NIXL_ERR_INVALID_PARAM) << bad;
    }
}

} // namespace
} // namespace nx::ucx
