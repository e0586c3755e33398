// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// UCX opens its descriptors without close-on-exec, some on a thread of its own, and marking them afterwards is too
// late for a program that is executed meanwhile. Thread-safe.
#pragma once

namespace nx::ucx {

/// From now on the libraries of UCX in the folder of the one that `symbol` is in get descriptors that are closed when
/// the process executes a program. Others of the process get what they always got. No effect the second time.
void
closeDescriptorsOnExec(const void *symbol);

} // namespace nx::ucx
