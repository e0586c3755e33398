// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a vendor's library is found where it may be and used by its table; what is wrong with it is said in a sentence.
// Method: libraries of the build (vendor_double.cpp), where a Python package would have them, and where the loader
// looks.
#include "kit/vendor_library.h"

#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nixlx/engine.h"
#include "support/temp_dir.h"

namespace nx::kit {
namespace {

using testing::HasSubstr;

struct Api {
    int (*answer)();
    int (*twice)(int);
    void (*later)();
};

VendorSearch
search(std::string soname, std::string path = {}) {
    return {.name = "Vendor",
            .soname = std::move(soname),
            .path = std::move(path),
            .wheel_folders = {"nx_nowhere/lib", "nx_vendor_wheel/lib"},
            .advice = "install libvendor"};
}

TEST(VendorLibrary, IsTheNamedFileAndNoOther) {
    const auto library = VendorLibrary::load(search("libnxwheel.so.1", NX_VENDOR_DOUBLE));
    ASSERT_TRUE(library.ok()) << library.message();
    EXPECT_EQ(library->path(), NX_VENDOR_DOUBLE);
    const auto nothing = VendorLibrary::load(search("libnxwheel.so.1", "/no/such/file.so"));
    EXPECT_EQ(nothing.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(nothing.message(), HasSubstr("cannot load Vendor (/no/such/file.so"));
    EXPECT_THAT(nothing.message(), HasSubstr("; install libvendor"));
}

TEST(VendorLibrary, FillsItsTable) {
    const auto library = VendorLibrary::load(search("", NX_VENDOR_DOUBLE));
    ASSERT_TRUE(library.ok()) << library.message();
    Api api{nullptr, nullptr, reinterpret_cast<void (*)()>(1)};
    const Status resolved =
        library->resolve({vendorSymbol("nxVendorAnswer", api.answer), vendorSymbol("nxVendorDouble", api.twice),
                          vendorSymbol("nxVendorOfALaterVersion", api.later, false)},
                         "version 2");
    ASSERT_TRUE(resolved.ok()) << resolved.message();
    EXPECT_EQ(api.answer(), 42);
    EXPECT_EQ(api.twice(4), 8);
    EXPECT_EQ(api.later, nullptr);
}

TEST(VendorLibrary, SaysWhatItLacks) {
    const auto library = VendorLibrary::load(search("", NX_VENDOR_DOUBLE));
    ASSERT_TRUE(library.ok()) << library.message();
    Api api{};
    const Status resolved =
        library->resolve({vendorSymbol("nxNone", api.later), vendorSymbol("nxVendorAnswer", api.answer),
                          vendorSymbol("nxNeither", api.twice)},
                         "version 3 or later");
    EXPECT_EQ(resolved.code(), NIXL_ERR_BACKEND);
    EXPECT_EQ(resolved.message(),
              "Vendor at " NX_VENDOR_DOUBLE " lacks nxNone, nxNeither; version 3 or later is needed");
}

TEST(VendorLibrary, IsTheCopyThatTheProcessHasAlready) {
    // The double is in no folder of the loader's.
    void *const loaded = dlopen(NX_VENDOR_DOUBLE, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(loaded, nullptr) << dlerror();
    const auto library = VendorLibrary::load(search("libnxvendor.so.7"));
    ASSERT_TRUE(library.ok()) << library.message();
    EXPECT_EQ(library->handle(), loaded);
}

TEST(VendorLibrary, IsFoundInAPythonPackageBesideThePlugin) {
    const auto library = VendorLibrary::load(search("libnxwheel.so.1"));
    ASSERT_TRUE(library.ok()) << library.message();
    EXPECT_THAT(library->path(), HasSubstr("/nx_vendor_wheel/lib/libnxwheel.so.1"));
}

/// LD_LIBRARY_PATH while it exists.
class LibraryPath {
public:
    explicit LibraryPath(const std::string &folders) : before_(nixlx::configValue("LD_LIBRARY_PATH")) {
        setenv("LD_LIBRARY_PATH", folders.c_str(), 1);
    }
    ~LibraryPath() {
        before_ ? setenv("LD_LIBRARY_PATH", before_->c_str(), 1) : unsetenv("LD_LIBRARY_PATH");
    }
    LibraryPath(const LibraryPath &) = delete;
    LibraryPath &
    operator=(const LibraryPath &) = delete;

private:
    const std::optional<std::string> before_;
};

TEST(VendorLibrary, OfTheSystemAndAPackageIsTheOneThatIsPreferred) {
    if (nixlx::configValue("LD_LIBRARY_PATH") != NX_VENDOR_SYSTEM) {
        GTEST_SKIP() << "the loader has to look in " << NX_VENDOR_SYSTEM << ": ctest starts this program with that";
    }
    using Origin = VendorLibrary::Origin;
    for (const bool package : {false, true}) {
        VendorSearch both = search("libnxboth.so.1");
        std::string asked;
        both.prefers_package = [&](const std::string &of_system, const std::string &of_package) {
            asked = of_system + " " + of_package;
            return package;
        };
        const auto library = VendorLibrary::load(both);
        ASSERT_TRUE(library.ok()) << library.message();
        EXPECT_EQ(asked.find(NX_VENDOR_SYSTEM "/libnxboth.so.1 "), 0u) << asked;
        EXPECT_THAT(asked, HasSubstr("/nx_vendor_wheel/lib/libnxboth.so.1"));
        EXPECT_THAT(library->path(), HasSubstr(package ? "nx_vendor_wheel" : "nx_vendor_system"));
        EXPECT_EQ(library->origin(), package ? Origin::kPackage : Origin::kSystem);

        both.prefers_package = [](const std::string &, const std::string &) -> bool {
            ADD_FAILURE() << "asked for one that the process has already";
            return false;
        };
        const auto again = VendorLibrary::load(both);
        ASSERT_TRUE(again.ok()) << again.message();
        EXPECT_EQ(again->handle(), library->handle());
        EXPECT_EQ(again->origin(), Origin::kProcess);
        dlclose(library->handle());
        dlclose(library->handle());
    }
}

TEST(VendorLibrary, OfTheSystemIsKnownBeforeItIsLoaded) {
    const LibraryPath none("");
    const test::TempDir folder;
    const std::string library = folder.write("libx.so.1", ""), table = "a table" + std::string(3, '\0');
    const auto find = [](const std::string &file) { return fileOfSystem("libx.so.1", file); };
    EXPECT_EQ(find(folder / "none"), "");
    EXPECT_EQ(find(folder.path().string()), "");
    EXPECT_EQ(find(folder.write("empty", "")), "");
    const std::string absent = "/nonexistent/libx.so.1" + std::string(1, '\0');
    const std::string others = "libx.so.1" + std::string(1, '\0') + library + ".2" + std::string(1, '\0');
    EXPECT_EQ(find(folder.write("others", table + absent + others)), "");
    EXPECT_EQ(find(folder.write("cut", table + library)), "") << "no zero behind it";
    EXPECT_EQ(find(folder.write("table", table + absent + others + library + std::string(1, '\0'))), library);

    const test::TempDir chosen;
    const LibraryPath folders("/nonexistent:" + chosen.path().string());
    EXPECT_EQ(find(folder / "table"), library) << "those folders lack it";
    const std::string first = chosen.write("libx.so.1", "");
    EXPECT_EQ(find(folder / "table"), first);
}

TEST(VendorLibrary, OfTheSystemIsTheOneThatTheLoaderTakes) {
    const LibraryPath none("");
    const std::string file = fileOfSystem("libc.so.6");
    if (file.empty()) GTEST_SKIP() << "this system has no /etc/ld.so.cache with the C library in it";
    void *const loaded = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    Dl_info info{};
    ASSERT_TRUE(loaded && dladdr(dlsym(loaded, "malloc_trim"), &info));
    EXPECT_TRUE(std::filesystem::equivalent(file, info.dli_fname)) << file << " " << info.dli_fname;
    dlclose(loaded);
}

TEST(VendorLibrary, ThatIsNowhereIsSaidWithAllThatWasTried) {
    const auto library = VendorLibrary::load(search("libnxnowhere.so.1"));
    EXPECT_EQ(library.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(library.message(), HasSubstr("libnxnowhere.so.1"));
}

} // namespace
} // namespace nx::kit
