// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: plugins of every shape end in a usable object or in a sentence. Method: the plugins of tests/plugins.
#include "plugin/manager.h"

#include <algorithm>
#include <dlfcn.h>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include "base/last_error.h"
#include "plugin/loader.h"
#include "support/temp_dir.h"

namespace nx::plugin {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::UnorderedElementsAre;

const std::string kFolder = NX_TEST_PLUGIN_DIR;

std::string
pluginFile(const std::string &name) {
    return kFolder + "/libplugin_" + name + ".so";
}

/// The calls that the plugin DESCRIBED noted.
std::string
callsOfDescribed() {
    void *library = ::dlopen(pluginFile("DESCRIBED").c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (!library) return {};
    const auto calls = reinterpret_cast<const char *(*)()>(::dlsym(library, "test_plugin_calls"));
    const std::string text = calls();
    ::dlclose(library);
    return text;
}

class PluginManager : public testing::Test {
protected:
    Manager manager_{{kFolder}};
    nixl_b_params_t params_;

    nixlBackendInitParams
    initParams(const std::string &type) {
        nixlBackendInitParams init;
        init.localAgent = "agent";
        init.type = type;
        init.customParams = &params_;
        return init;
    }
};

TEST_F(PluginManager, ListsWhatIsInItsDirectory) {
    EXPECT_THAT(manager_.available(), AllOf(Contains("VINTAGE"), Contains("DESCRIBED"), Contains("EMPTY")));
    EXPECT_TRUE(std::ranges::is_sorted(manager_.available()));
    EXPECT_THAT(manager_.loaded(), IsEmpty());
}

TEST_F(PluginManager, LoadsAPluginWrittenForNixl14) {
    auto plugin = manager_.load("VINTAGE");
    ASSERT_TRUE(plugin.ok()) << plugin.message();
    EXPECT_EQ((*plugin)->name(), "VINTAGE");
    EXPECT_EQ((*plugin)->version(), "1.4.0");
    EXPECT_THAT((*plugin)->options(), IsEmpty());
    EXPECT_EQ((*plugin)->optionFor("threads"), "");
    EXPECT_THAT((*plugin)->memories(), IsEmpty());
    EXPECT_EQ((*plugin)->capabilities(), 0u);
    EXPECT_THAT((*plugin)->conflicts(), IsEmpty());

    ASSERT_TRUE((*plugin)->isLegacy());
    const auto engine = (*plugin)->createLegacy(initParams("VINTAGE"));
    ASSERT_NE(engine, nullptr);
    EXPECT_EQ(engine->getType(), "VINTAGE");
    EXPECT_TRUE(engine->supportsRemote());
}

TEST_F(PluginManager, LoadsADescribedPlugin) {
    auto plugin = manager_.load("DESCRIBED");
    ASSERT_TRUE(plugin.ok()) << plugin.message();
    EXPECT_EQ((*plugin)->version(), "3.2.1");
    EXPECT_THAT((*plugin)->options(), UnorderedElementsAre(testing::Pair("mode", "b"), testing::Pair("depth", "16")))
        << "what the plugin says, and the rest from its table";
    EXPECT_EQ((*plugin)->optionFor("threads"), "depth");
    EXPECT_EQ((*plugin)->optionFor(""), "");
    EXPECT_EQ((*plugin)->optionFor("no such role"), "");
    EXPECT_THAT((*plugin)->memories(), ElementsAre(DRAM_SEG, FILE_SEG));
    EXPECT_EQ((*plugin)->capabilities(), NIXLX_CAP_MERGE_RANGES);
    EXPECT_THAT((*plugin)->conflicts(), ElementsAre("VINTAGE", "OTHER"));

    EXPECT_EQ((*plugin)->partners()[DRAM_SEG], NIXLX_MEMORY(FILE_SEG));

    ASSERT_FALSE((*plugin)->isLegacy()) << "of a newer minor version";
    const auto engine = (*plugin)->create(initParams("DESCRIBED"));
    ASSERT_NE(engine, nullptr);
    auto *costs = nixlx::abilityOf<nixlx::Costs>(*engine);
    ASSERT_NE(costs, nullptr);
    const auto cost = costs->cost(DRAM_SEG, FILE_SEG, "self");
    ASSERT_TRUE(cost);
    nixlx::Plan plan{};
    plan.block_count = 3;
    plan.total_bytes = 10;
    EXPECT_EQ(nixlx::predict(*cost, plan), 42 + 3 + 5);
    EXPECT_EQ(nixlx::abilityOf<nixlx::RemotePeers>(*engine), nullptr);
    EXPECT_EQ(engine->ability(nixlx::Costs::kName, nixlx::Costs::kVersion + 1), nullptr) << "newer than it has";
    EXPECT_EQ(engine->ability("no such ability", 1), nullptr);
}

TEST_F(PluginManager, RemembersAPluginWhileItIsHeld) {
    const auto before = callsOfDescribed();
    auto first = manager_.load("DESCRIBED");
    auto second = manager_.load("DESCRIBED");
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(*first, *second);
    EXPECT_THAT(manager_.loaded(), ElementsAre("DESCRIBED"));
    EXPECT_EQ(callsOfDescribed(), before + "i");
    first->reset();
    EXPECT_THAT(manager_.loaded(), ElementsAre("DESCRIBED"));
    second->reset();
    EXPECT_THAT(manager_.loaded(), IsEmpty());
    EXPECT_EQ(callsOfDescribed(), before + "if");
}

TEST_F(PluginManager, APluginMayOutliveTheManager) {
    auto manager = std::make_unique<Manager>(std::vector{kFolder});
    auto plugin = *manager->load("VINTAGE");
    manager.reset();
    EXPECT_EQ(plugin->name(), "VINTAGE");
    plugin.reset();
}

TEST_F(PluginManager, ThreadsNeverInitialiseAPluginTwiceAtOnce) {
    const auto before = callsOfDescribed();
    std::vector<std::thread> threads;
    std::atomic<int> failures = 0;
    for (int i = 0; i < 8; ++i) {
        threads.emplace_back([&] {
            for (int round = 0; round < 50; ++round) {
                if (!manager_.load("DESCRIBED").ok()) ++failures;
            }
        });
    }
    for (auto &thread : threads) thread.join();
    EXPECT_EQ(failures, 0);
    const auto calls = callsOfDescribed().substr(before.size());
    ASSERT_GE(calls.size(), 2u);
    for (size_t i = 0; i < calls.size(); ++i) ASSERT_EQ(calls[i], i % 2 ? 'f' : 'i') << calls;
}

TEST_F(PluginManager, NamesThePlacesWhereAPluginIsNot) {
    auto plugin = manager_.load("NOWHERE");
    EXPECT_EQ(plugin.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(plugin.message(), AllOf(HasSubstr("Plugin file does not exist"), HasSubstr(kFolder)));
    EXPECT_THAT(manager_.load("vintage").message(), HasSubstr("did you mean 'VINTAGE'?"));
    EXPECT_THAT(manager_.loaded(), IsEmpty());
}

TEST_F(PluginManager, LoadsWhatWasNeverListed) {
    const test::TempDir folder;
    Manager manager({folder.path().string()});
    EXPECT_THAT(manager.available(), IsEmpty());
    std::filesystem::copy_file(pluginFile("SILENT"), folder / "libplugin_LATE.so");
    EXPECT_TRUE(manager.load("LATE").ok());
}

TEST_F(PluginManager, SearchesAnAddedDirectory) {
    Manager manager({});
    EXPECT_EQ(manager.load("VINTAGE").code(), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(manager.addDirectory("/nonexistent").code(), NIXL_ERR_NOT_FOUND);
    ASSERT_TRUE(manager.addDirectory(kFolder).ok());
    EXPECT_TRUE(manager.load("VINTAGE").ok());
}

TEST_F(PluginManager, RefusesAnotherApiVersion) {
    auto plugin = manager_.load("WRONG_VERSION");
    EXPECT_EQ(plugin.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(plugin.message(), AllOf(HasSubstr("api_version is 7"), HasSubstr("has 1")));
}

TEST_F(PluginManager, RefusesAnotherAbiBeforeAnyCodeRuns) {
    auto plugin = manager_.load("WRONG_ABI"); // its code would abort
    EXPECT_EQ(plugin.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(plugin.message(),
                AllOf(HasSubstr("abi is 'itanium some other library'"), HasSubstr("expected '" NIXLX_ABI_TAG "'")));
}

TEST_F(PluginManager, TurnsAThrowingInitIntoASentence) {
    auto plugin = manager_.load("THROWING");
    EXPECT_EQ(plugin.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(plugin.message(), HasSubstr("nixl_plugin_init threw: the licence server is on fire"));
    EXPECT_THAT(manager_.load("THROWING").message(), HasSubstr("on fire")) << "a failed load is no obstacle";
}

TEST_F(PluginManager, SaysThatAFileIsNoPlugin) {
    auto plugin = manager_.load("EMPTY");
    EXPECT_EQ(plugin.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(plugin.message(), HasSubstr("does not export nixl_plugin_init"));
}

TEST_F(PluginManager, ExplainsAnEngineThatWasNotCreated) {
    auto plugin = manager_.load("SILENT");
    ASSERT_TRUE(plugin.ok()) << plugin.message();
    EXPECT_EQ((*plugin)->version(), "");
    EXPECT_EQ((*plugin)->createLegacy(initParams("SILENT")), nullptr);
    EXPECT_EQ(takeBackendSentence(""),
              "backend initialization error for 'SILENT': the plugin returned no engine and "
              "gave no reason");
    params_["throw"] = "yes";
    EXPECT_EQ((*plugin)->createLegacy(initParams("SILENT")), nullptr);
    EXPECT_EQ(takeBackendSentence(""), "backend initialization error for 'SILENT': create_engine threw: no device");
}

TEST_F(PluginManager, RefusesADescriptorUnderAnotherFileName) {
    const test::TempDir folder;
    std::filesystem::copy_file(pluginFile("DESCRIBED"), folder / "libplugin_OTHER.so");
    auto plugin = Manager({folder.path().string()}).load("OTHER");
    EXPECT_EQ(plugin.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(plugin.message(), HasSubstr("name is 'DESCRIBED', expected 'OTHER' as in its file name"));
}

TEST_F(PluginManager, RefusesWhatIsNoSharedObject) {
    const test::TempDir folder;
    folder.write("libplugin_TEXT.so", "not a plugin");
    std::filesystem::create_directory(folder / "libplugin_DIR.so");
    ASSERT_EQ(::mkfifo((folder / "libplugin_PIPE.so").c_str(), 0600), 0);
    Manager manager({folder.path().string()});
    EXPECT_THAT(manager.load("TEXT").message(), HasSubstr("not a shared object"));
    EXPECT_THAT(manager.load("DIR").message(), HasSubstr("no regular file"));
    EXPECT_THAT(manager.load("PIPE").message(), HasSubstr("no regular file"));
}

TEST_F(PluginManager, RefusesFilesAndFoldersThatOthersCanWrite) {
    const test::TempDir folder;
    const auto file = folder / "libplugin_SILENT.so";
    std::filesystem::copy_file(pluginFile("SILENT"), file);
    Manager manager({folder.path().string()});

    ASSERT_EQ(::chmod(file.c_str(), 0757), 0);
    auto plugin = manager.load("SILENT");
    EXPECT_EQ(plugin.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(plugin.message(), HasSubstr("it can be written by others (mode 0757)"));

    ASSERT_EQ(::chmod(file.c_str(), 0755), 0);
    ASSERT_EQ(::chmod(folder.path().string().c_str(), 0707), 0);
    EXPECT_THAT(manager.load("SILENT").message(), HasSubstr("its folder can be written by others (mode 0707)"));

    // A link does not hide where the file really is.
    const test::TempDir trusted;
    std::filesystem::create_symlink(file, trusted / "libplugin_SILENT.so");
    EXPECT_THAT(Manager({trusted.path().string()}).load("SILENT").message(),
                HasSubstr("its folder can be written by others"));

    ASSERT_EQ(::chmod(folder.path().string().c_str(), 0700), 0);
    EXPECT_TRUE(manager.load("SILENT").ok());
}

TEST_F(PluginManager, RefusesFilesOfOtherUsersAndSharedGroups) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
    const test::TempDir folder;
    const auto file = folder / "libplugin_SILENT.so";
    std::filesystem::copy_file(pluginFile("SILENT"), file);
    Manager manager({folder.path().string()});
    ASSERT_EQ(::chown(file.c_str(), 12345, 0), 0);
    EXPECT_THAT(manager.load("SILENT").message(), HasSubstr("it belongs to user 12345"));
    ASSERT_EQ(::chown(file.c_str(), 0, 100), 0);
    ASSERT_EQ(::chmod(file.c_str(), 0775), 0);
    EXPECT_THAT(manager.load("SILENT").message(), HasSubstr("it can be written by others (mode 0775)"));
    ASSERT_EQ(::chown(file.c_str(), 0, 0), 0);
    EXPECT_TRUE(manager.load("SILENT").ok()) << "the owner's own group is nobody else";
}

TEST_F(PluginManager, LoadsAnExporterThroughTheSameLoader) {
    auto first = manager_.loadExporter("taken");
    ASSERT_TRUE(first.ok()) << first.message();
    EXPECT_EQ((*first)->object()->getName(), "taken");
    auto second = manager_.loadExporter("taken");
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(*first, *second) << "one plugin, initialised once";
    EXPECT_THAT(manager_.loaded(), IsEmpty()) << "backends only";
    EXPECT_THAT(manager_.available(), Not(Contains("taken")));
}

TEST_F(PluginManager, RefusesAnExporterOfTheOlderApi) {
    auto exporter = manager_.loadExporter("old");
    EXPECT_EQ(exporter.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(exporter.message(), AllOf(HasSubstr("api_version is 1"), HasSubstr("has 2"), HasSubstr("rebuild")));
}

TEST_F(PluginManager, SaysWhichFileOfAnExporterIsMissing) {
    auto exporter = manager_.loadExporter("TAKEN");
    EXPECT_EQ(exporter.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(exporter.message(),
                AllOf(HasSubstr("Plugin file does not exist: 'libtelemetry_exporter_TAKEN.so' is not in"),
                      HasSubstr("did you mean 'taken'?")));
    EXPECT_EQ(manager_.loadExporter("../taken").code(), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(manager_.loadExporter("DESCRIBED").code(), NIXL_ERR_NOT_FOUND) << "a backend is no exporter";
}

TEST_F(PluginManager, RefusesABackendUnderAnExportersFileName) {
    const test::TempDir folder;
    std::filesystem::copy_file(pluginFile("DESCRIBED"), folder / "libtelemetry_exporter_DESCRIBED.so");
    std::filesystem::copy_file(pluginFile("SILENT"), folder / "libtelemetry_exporter_SILENT.so");
    Manager manager({folder.path().string()});
    EXPECT_THAT(manager.loadExporter("DESCRIBED").message(), HasSubstr("kind is 'backend', expected 'exporter'"));
    EXPECT_THAT(manager.loadExporter("SILENT").message(),
                HasSubstr("does not export nixl_telemetry_plugin_init, so it is no exporter plugin"));
}

TEST_F(PluginManager, LoadsAStoreThroughTheSameLoader) {
    auto first = manager_.loadStore("plain");
    ASSERT_TRUE(first.ok()) << first.message();
    EXPECT_EQ((*first)->object()->api_version, NIXLX_DIRECTORY_API_VERSION);
    EXPECT_EQ(*first, *manager_.loadStore("plain")) << "one plugin, initialised once";
    EXPECT_THAT(manager_.available(), Not(Contains("plain"))) << "backends only";
    EXPECT_THAT(manager_.loadStore("Plain").message(), HasSubstr("did you mean 'plain'?"));
}

TEST_F(PluginManager, RefusesStoresBeforeTheirCodeRuns) {
    EXPECT_THAT(manager_.loadStore("major").message(), AllOf(HasSubstr("is refused"), HasSubstr("api_version is ")));
    EXPECT_THAT(manager_.loadStore("undescribed").message(), HasSubstr("has no descriptor, as every store must"));
}

TEST_F(PluginManager, RefusesAStoreWithAnotherInterface) {
    auto store = manager_.loadStore("older");
    EXPECT_EQ(store.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(store.message(), AllOf(HasSubstr("api_version is 0"), HasSubstr("has 1"), HasSubstr("rebuild")));
}

/// Runs `check` in a child process, where the process's manager does not exist yet.
#define EXPECT_IN_CHILD(check) EXPECT_EXIT(std::_Exit((check) ? 0 : 1), testing::ExitedWithCode(0), "")

TEST(ProcessPluginManager, UsesTheDirectoryOfTheOption) {
    EXPECT_IN_CHILD((::setenv("NIXL_PLUGIN_DIR", kFolder.c_str(), 1), Manager::instance().load("VINTAGE").ok()));
}

TEST(ProcessPluginManager, LooksBesideTheLibraryWithoutTheOption) {
    const auto message = [] {
        ::unsetenv("NIXL_PLUGIN_DIR");
        return Manager::instance().load("NOWHERE").message();
    };
    EXPECT_IN_CHILD(message().find(std::filesystem::canonical("/proc/self/exe").parent_path().string() + "/plugins") !=
                    std::string::npos);
}

TEST(ProcessPluginManager, UsesTheListOfTheOption) {
    const test::TempDir folder;
    const auto list = folder.write("list", "ALIAS = " + pluginFile("SILENT") + "\n");
    EXPECT_IN_CHILD((::setenv("NIXL_PLUGIN_LIST", list.c_str(), 1), Manager::instance().load("ALIAS").ok()));
}

TEST(ProcessPluginManager, SaysWhatIsWrongWithTheList) {
    const test::TempDir folder;
    const auto list = folder.write("list", "nonsense\n");
    EXPECT_IN_CHILD((::setenv("NIXL_PLUGIN_LIST", list.c_str(), 1),
                     Manager::instance().load("VINTAGE").message().find("line 1") != std::string::npos));
}

TEST(PluginIdentity, NamesTheFieldThatDiffersAndBothValues) {
    constexpr Kind kKind = {"backend", "", "", "", "", 1, Needs::kEither};
    const auto good = [] {
        Identity identity;
        identity.magic = NIXLX_PLUGIN_MAGIC;
        identity.struct_size = sizeof(nixlx_plugin_descriptor_t);
        identity.api_version = NIXLX_PLUGIN_API_VERSION;
        identity.kind = "backend";
        identity.name = "X";
        identity.abi = NIXLX_ABI_TAG;
        return identity;
    };
    const auto sentence = [&](auto change) {
        auto identity = good();
        change(identity);
        return checkIdentity(kKind, "X", identity).message();
    };
    EXPECT_EQ(sentence([](Identity &) {}), "");
    EXPECT_EQ(sentence([](Identity &i) { i.struct_size += 64; }), "") << "a newer descriptor has more fields";
    EXPECT_THAT(sentence([](Identity &i) { i.magic = 5; }), HasSubstr("magic is 5, expected 1481398350"));
    EXPECT_THAT(sentence([](Identity &i) { i.struct_size = 8; }), HasSubstr("struct_size is 8, expected at least"));
    EXPECT_THAT(sentence([](Identity &i) { i.api_version = 9; }),
                HasSubstr("api_version is 0.9, expected 3.2 or another with the same first number"));
    EXPECT_THAT(sentence([](Identity &i) { i.kind = "store"; }), HasSubstr("kind is 'store', expected 'backend'"));
    EXPECT_THAT(sentence([](Identity &i) { i.name = "Y"; }), HasSubstr("name is 'Y', expected 'X'"));
}

} // namespace
} // namespace nx::plugin
