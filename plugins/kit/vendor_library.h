// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A vendor's library, loaded when it is first needed and never unloaded: they keep threads, exit handlers and
// thread-local destructors. A backend has one table of the functions that it uses:
//
//     struct Api { decltype(&::ucp_init) ucp_init; ... } api;
//     auto library = VendorLibrary::load({.name = "UCX", .soname = "libucp.so.0", ...});
//     Status resolved = library->resolve({vendorSymbol("ucp_init", api.ucp_init), ...}, "version 1.13 or later");
//
// Immutable.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/error.h"

namespace nx::kit {

struct VendorSearch {
    std::string name;                            ///< for people: "UCX"
    std::string soname;                          ///< "libucp.so.0"
    std::string path = {};                       ///< if not empty: this file and no other
    std::vector<std::string> wheel_folders = {}; ///< of Python packages, beside ours: "libucx/lib"
    std::string advice = {}; ///< how to get it: "install libucx0, or name the file with NIXL_UCX_LIBRARY"
    bool deep_bind = false;  ///< it prefers its own symbols to the program's
    /// Asked where both the system and a Python package have it: is the package's file tried first? Neither is loaded.
    std::function<bool(const std::string &of_system, const std::string &of_package)> prefers_package = {};
};

/// The file that the system's loader would take for `soname`: of LD_LIBRARY_PATH, else of the loader's table. Empty: it
/// is in neither, which does not mean that the loader finds none.
std::string
fileOfSystem(const std::string &soname, const std::string &table = "/etc/ld.so.cache");

/// A row of the table. Whoever can do without the function leaves `required` out and looks at the pointer.
struct VendorSymbol {
    const char *name;
    void **function;
    bool required;
};

template<class Function>
VendorSymbol
vendorSymbol(const char *name, Function *&function, bool required = true) noexcept {
    return {name, reinterpret_cast<void **>(&function), required};
}

class VendorLibrary {
public:
    /// Where it was found.
    enum class Origin { kNamed, kProcess, kSystem, kPackage };

    /// Takes `path`, or else the copy that some other part of the process has loaded, the system's, that of a Python
    /// package in whose neighbourhood this plugin lies. BACKEND: none can be loaded; the sentence lists what was tried.
    static Result<VendorLibrary>
    load(const VendorSearch &search);

    Origin
    origin() const noexcept {
        return origin_;
    }

    /// The loader's name for it: equal for equal libraries.
    void *
    handle() const noexcept {
        return handle_;
    }

    /// The file that was loaded.
    const std::string &
    path() const noexcept {
        return path_;
    }

    /// Fills the table, also from what the library itself depends on; a function that is not there becomes null.
    /// BACKEND: a required one is missing; the sentence names library, file and functions, and what is `needed`.
    Status
    resolve(std::initializer_list<VendorSymbol> table, const std::string &needed) const;

private:
    VendorLibrary(std::string name, void *handle, std::string path, Origin origin)
        : name_(std::move(name)),
          handle_(handle),
          path_(std::move(path)),
          origin_(origin) {}

    std::string name_;
    void *handle_;
    std::string path_;
    Origin origin_;
};

} // namespace nx::kit
