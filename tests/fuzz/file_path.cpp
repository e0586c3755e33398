// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The metaInfo of a FILE registration: a refusal is an INVALID_PARAM with a sentence; what is taken as a path ends with
// that path, begins with a mode, and is refused with a word more; nothing with a ':' before a '/' is taken as a label.
#include "kit/files/file_path.h"

#include <fcntl.h>

#include "fuzz/invariant.h"

extern "C" int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const auto text = nx::fuzz::text(data, size);
    const auto file = nx::kit::parseFilePath(text);
    if (!file.ok()) {
        NX_INVARIANT(file.code() == NIXL_ERR_INVALID_PARAM);
        NX_INVARIANT(!file.message().empty() && file.message().size() < 1000);
        return 0;
    }
    if (!*file) {
        NX_INVARIANT(!text.starts_with("ro:") && !text.starts_with("rw,"));
        NX_INVARIANT(text.find(':') >= text.find('/'));
        return 0;
    }
    const auto &[flags, atomic, path] = **file;
    NX_INVARIANT(flags & O_CLOEXEC);
    NX_INVARIANT(!(flags & ~(O_RDWR | O_CLOEXEC | O_DIRECT | O_SYNC | O_NOATIME | O_CREAT)));
    NX_INVARIANT(!path.empty() && path.find('\0') == path.npos);
    NX_INVARIANT(text.ends_with(":" + path));
    NX_INVARIANT(text.starts_with(flags & O_RDWR ? "rw" : "ro"));
    NX_INVARIANT(!atomic || (flags & O_RDWR && text.substr(0, text.find(':')).find(",atomic") != text.npos));
    NX_INVARIANT(!nx::kit::parseFilePath(std::string(text.substr(0, 2)) + ",x" + std::string(text.substr(2))).ok());
    return 0;
}
