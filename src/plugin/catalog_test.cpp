// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "plugin/catalog.h"

#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/temp_dir.h"

namespace nx::plugin {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr Kind kKind = {"exporter", "libtest_", ".so", "init", "fini", 1, Needs::kInit};

TEST(PluginList, ReadsNamesPathsAndComments) {
    const test::TempDir folder;
    const auto path = folder.write("list", "# all of them\n\n  ONE = /a/one.so  \nTWO=/b/two.so # the second\r\n");
    auto listed = readPluginList(path);
    ASSERT_TRUE(listed.ok()) << listed.message();
    EXPECT_THAT(*listed, ElementsAre(testing::Pair("ONE", "/a/one.so"), testing::Pair("TWO", "/b/two.so")));
}

TEST(PluginList, NamesTheBadLine) {
    const test::TempDir folder;
    auto listed = readPluginList(folder.write("list", "ONE=/a\nnonsense\n"));
    EXPECT_EQ(listed.code(), NIXL_ERR_MISMATCH);
    EXPECT_THAT(listed.message(), HasSubstr("line 2: expected NAME=path, found 'nonsense'"));
    EXPECT_THAT(readPluginList(folder.write("list", "=/a\n")).message(), HasSubstr("line 1"));
    EXPECT_THAT(readPluginList(folder.write("list", "A=\n")).message(), HasSubstr("line 1"));
}

TEST(PluginList, SaysThatItIsMissing) {
    const test::TempDir folder;
    auto listed = readPluginList(folder / "none");
    EXPECT_EQ(listed.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(listed.message(), HasSubstr("No such file or directory"));
    EXPECT_FALSE(readPluginList(folder.path().string()).ok()) << "a directory is no list";
}

TEST(Catalog, ListsFilesOfItsKindSorted) {
    const test::TempDir folder;
    for (const char *name : {"libtest_B.so", "libtest_A.so", "libtest_.so", "libother_C.so", "libtest_D.so.1", "x"}) {
        folder.write(name, "");
    }
    const Catalog catalog(kKind, {folder.path().string(), "/nonexistent"}, {{"LISTED", "/somewhere.so"}});
    EXPECT_THAT(catalog.names(), ElementsAre("A", "B", "LISTED"));
}

TEST(Catalog, FindsListedFilesBeforeOthers) {
    const test::TempDir folder;
    const auto listed = folder.write("elsewhere.so", "");
    folder.write("libtest_A.so", "");
    const Catalog catalog(kKind, {folder.path().string()}, {{"A", listed}, {"GONE", folder / "gone.so"}});
    EXPECT_EQ(*catalog.find("A"), listed);
    auto gone = catalog.find("GONE");
    EXPECT_EQ(gone.code(), NIXL_ERR_NOT_FOUND);
    EXPECT_THAT(gone.message(), testing::AllOf(HasSubstr("Plugin file does not exist"), HasSubstr("gone.so")));
}

TEST(Catalog, FindsAFileThatAppearedLater) {
    const test::TempDir folder;
    const Catalog catalog(kKind, {folder.path().string()}, {});
    EXPECT_THAT(catalog.names(), ElementsAre());
    folder.write("libtest_NEW.so", "");
    EXPECT_EQ(*catalog.find("NEW"), folder / "libtest_NEW.so");
}

TEST(Catalog, SearchesAnAddedDirectoryFirst) {
    const test::TempDir first, second;
    first.write("libtest_A.so", "");
    second.write("libtest_A.so", "");
    Catalog catalog(kKind, {first.path().string()}, {});
    EXPECT_EQ(*catalog.find("A"), first / "libtest_A.so");
    EXPECT_TRUE(catalog.addDirectory(second.path().string()).ok());
    EXPECT_EQ(*catalog.find("A"), second / "libtest_A.so");
    EXPECT_TRUE(catalog.addDirectory(first.path().string()).ok());
    EXPECT_EQ(*catalog.find("A"), second / "libtest_A.so") << "a known directory keeps its place";
}

TEST(Catalog, RefusesADirectoryThatIsNone) {
    const test::TempDir folder;
    Catalog catalog(kKind, {}, {});
    EXPECT_EQ(catalog.addDirectory(folder / "none").code(), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(catalog.addDirectory(folder.write("file", "")).code(), NIXL_ERR_NOT_FOUND);
}

TEST(Catalog, NamesEveryPlaceItSearched) {
    const test::TempDir folder;
    const Catalog catalog(kKind, {folder.path().string(), "/nonexistent"}, {});
    const std::string bare = "'" + folder.path().string() + "', which holds no plugins, ";
    const std::string rest = "'/nonexistent', which does not exist; NIXL_PLUGIN_DIR names the directory of plugins";
    EXPECT_EQ(catalog.find("NONE").message(), "Plugin file does not exist: 'libtest_NONE.so' is not in " + bare + rest);
    folder.write("libtest_OTHER.so", "");
    EXPECT_THAT(catalog.find("NONE").message(), HasSubstr("'" + folder.path().string() + "', '/nonexistent', which"));
}

TEST(Catalog, NeverLeavesItsDirectories) {
    const test::TempDir folder;
    std::filesystem::create_directory(folder / "libtest_x");
    std::filesystem::create_directory(folder / "inner");
    folder.write("secret.so", "");
    const Catalog catalog(kKind, {folder.path().string()}, {});
    EXPECT_EQ(catalog.find("x/../secret").code(), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(catalog.find(std::string("secret\0", 7)).code(), NIXL_ERR_NOT_FOUND);
    EXPECT_EQ(catalog.find("").code(), NIXL_ERR_NOT_FOUND);
}

} // namespace
} // namespace nx::plugin
