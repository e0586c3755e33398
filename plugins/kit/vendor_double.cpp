// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A vendor's library as vendor_library_test.cpp needs it.
extern "C" int
nxVendorAnswer() {
    return 42;
}

extern "C" int
nxVendorDouble(int value) {
    return 2 * value;
}
