// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What is registered: memory of the process, of which there is nothing to know, and files. Immutable.
#pragma once

#include <memory>

#include "backend/backend_aux.h"
#include "kit/files.h"

namespace nx::posix {

class Memory final : public nixlBackendMD {
public:
    Memory() : nixlBackendMD(true) {}
};

/// A file or block device. Those registrations that name the same file have the same kit::File.
class FileMemory final : public nixlBackendMD {
public:
    explicit FileMemory(std::shared_ptr<kit::File> file) : nixlBackendMD(true), file(std::move(file)) {}

    const std::shared_ptr<kit::File> file;
};

} // namespace nx::posix
