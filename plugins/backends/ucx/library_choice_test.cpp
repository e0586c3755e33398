// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: of two UCX the right one is taken without loading either. Method: files that have what is looked at, and the
// library that these tests load.
#include "ucx/library_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/temp_dir.h"
#include "ucx/driver.h"
#include "ucx/options.h"

namespace nx::ucx {
namespace {

using testing::HasSubstr;

std::string
text(const std::string &version) {
    return version + '\0';
}

class UcxChoice : public testing::Test {
protected:
    std::string
    library(const std::string &name, const std::string &version) const {
        return folder.write(name,
                            "\x7f"
                            "ELF 1.5 A" +
                                text(version) + "more");
    }

    const test::TempDir folder;
};

TEST_F(UcxChoice, ReadsTheVersionOfALibrary) {
    EXPECT_EQ(versionIn(library("a", "1.13.1")), "1.13.1");
    EXPECT_EQ(versionIn(folder.write("twice", "x" + text("1.22.0") + text("1.22.0"))), "1.22.0");
    for (const std::string &none :
         {std::string(), std::string("1.13.1"), text("1.13"), text("1.13.1.2"), text("11.13.1"), text("1.13."),
          text("1.1234.1"), text("1..1"), text("1.13.1rc1"), text("2.13.1"), text("1.13.1") + text("1.14.0")}) {
        EXPECT_EQ(versionIn(folder.write("none", none)), "") << testing::PrintToString(none);
    }
    EXPECT_EQ(versionIn(folder / "no such file"), "");
    EXPECT_EQ(versionIn(folder.path().string()), "");
}

TEST_F(UcxChoice, ReadsTheVersionOfTheLibraryThatIsUsedHere) {
    const auto used = Library::load(Options::read(nullptr)->library);
    ASSERT_TRUE(used.ok()) << used.message();
    EXPECT_EQ(versionIn((*used)->path()), (*used)->version());
    EXPECT_FALSE((*used)->why().empty());
}

TEST_F(UcxChoice, IsTheNewer) {
    const auto choose = [&](const std::string &system, const std::string &package) {
        return chooseLibrary(library("system", system), library("package", package), false);
    };
    EXPECT_TRUE(choose("1.13.1", "1.22.0").package);
    EXPECT_EQ(choose("1.13.1", "1.22.0").why, "the Python package's, newer than the system's 1.13.1");
    EXPECT_TRUE(choose("1.9.9", "1.13.0").package) << "numbers, not letters";
    EXPECT_FALSE(choose("1.22.0", "1.13.1").package);
    EXPECT_EQ(choose("1.22.0", "1.13.1").why, "the system's, not older than the Python package's 1.13.1");
    EXPECT_FALSE(choose("1.22.0", "1.22.0").package);
}

TEST_F(UcxChoice, TakesAVersionThatItCannotReadForTheOlder) {
    EXPECT_TRUE(chooseLibrary(library("system", "?"), library("package", "1.13.0"), false).package);
    EXPECT_FALSE(chooseLibrary(library("system", "1.13.0"), library("package", "?"), false).package);
    EXPECT_FALSE(chooseLibrary(library("system", "?"), library("package", "?"), false).package);
    EXPECT_THAT(chooseLibrary(folder / "none", library("package", "1.13.0"), false).why, HasSubstr("unknown version"));
}

TEST_F(UcxChoice, IsTheSystemsWhereItHasDevicesForRdma) {
    const auto choice = chooseLibrary(library("system", "1.13.1"), library("package", "1.22.0"), true);
    EXPECT_FALSE(choice.package);
    EXPECT_THAT(choice.why, HasSubstr("RDMA devices"));
}

} // namespace
} // namespace nx::ucx
