// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Which UCX is taken where the system and a Python package have one, decided before either is loaded: a process must
// not load two. Pure functions of files.
#pragma once

#include <string>

namespace nx::ucx {

/// "1.13.1", of a libucp that is not loaded. All releases have the text once, and no other of that form; their files
/// have the same names, and each kind of package notes the version in another way. Empty: there is none, or several.
std::string
versionIn(const std::string &file);

struct LibraryChoice {
    bool package; ///< the one of the Python package
    std::string why;
};

/// The system's on a host with RDMA devices, for which the package has no modules; else the newer one, the system's if
/// they are equally new. One whose version cannot be read is taken for the older.
LibraryChoice
chooseLibrary(const std::string &of_system, const std::string &of_package, bool has_rdma_devices);

} // namespace nx::ucx
