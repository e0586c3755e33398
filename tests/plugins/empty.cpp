// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A shared object that is no plugin: it exports nothing of what a plugin exports.
extern "C" __attribute__((visibility("default"))) int
somethingElse() {
    return 1;
}
