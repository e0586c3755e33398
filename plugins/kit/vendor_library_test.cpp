// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Goal: a vendor's library is found where it may be and used by its table; what is wrong with it is said in a sentence.
// Method: two libraries of the build (vendor_double.cpp), one where a Python package would have it.
#include "kit/vendor_library.h"

#include <dlfcn.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

TEST(VendorLibrary, ThatIsNowhereIsSaidWithAllThatWasTried) {
    const auto library = VendorLibrary::load(search("libnxnowhere.so.1"));
    EXPECT_EQ(library.code(), NIXL_ERR_BACKEND);
    EXPECT_THAT(library.message(), HasSubstr("libnxnowhere.so.1"));
}

} // namespace
} // namespace nx::kit
