// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is registered: memory of the process, of which there is nothing to know, and files. Immutable.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend_aux.h"
#include "base/error.h"
#include "kit/files/files.h"

namespace nx::posix {

class Memory final : public nixlBackendMD {
public:
    Memory() : nixlBackendMD(true) {}
};

/// What direct I/O with a file has to be a multiple of.
struct Alignment {
    uint64_t page = 0;   ///< offsets and lengths; 0: the file is not opened for direct I/O
    uint64_t block = 0;  ///< the parts of memory, in length
    uint64_t memory = 0; ///< and their addresses
};

/// A file or block device. Registrations that name the same file have the same kit::File.
class FileMemory final : public nixlBackendMD {
public:
    FileMemory(std::shared_ptr<kit::File> file, Alignment alignment)
        : nixlBackendMD(true),
          file(std::move(file)),
          atomic(this->file->atomic()),
          alignment(alignment) {}

    const std::shared_ptr<kit::File> file;
    const bool atomic; ///< the file's; known without a look at it
    const Alignment alignment;
};

/// Asks the file system, if it can tell.
Result<Alignment>
alignmentOf(kit::File &file);

/// The name of a file that may just have been made is on the device, too.
Status
syncFolderOf(kit::File &file);

} // namespace nx::posix
