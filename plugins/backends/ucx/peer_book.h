// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The peers of an engine by name, each with its connection, and the connections that are being closed.
// Self-synchronised.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/mutex.h"

namespace nx::ucx {

class Connection;
class Runtime;

class PeerBook {
public:
    /// `runtime` outlives it.
    explicit PeerBook(Runtime &runtime) : runtime_(runtime) {}

    /// NOT_ALLOWED: known with another address. INVALID_PARAM: `address` cannot be one. BACKEND: the peer has ended, as
    /// its host says on the network (150 ms at most). Does not connect.
    Status
    add(const std::string &name, const std::string &address);

    /// Null if unknown. The own name gives the loopback connection.
    std::shared_ptr<Connection>
    find(const std::string &name);

    /// False if unknown.
    bool
    remove(const std::string &name);

    /// All connections that are, each closed or about to be. The peers are forgotten.
    std::vector<std::shared_ptr<Connection>>
    closeAll();

private:
    void
    close(std::shared_ptr<Connection> connection);

    Runtime &runtime_;
    Mutex mutex_;
    std::unordered_map<std::string, std::shared_ptr<Connection>> peers_ NX_GUARDED_BY(mutex_);
    std::vector<std::shared_ptr<Connection>> closing_ NX_GUARDED_BY(mutex_); ///< disconnected, not yet closed
};

} // namespace nx::ucx
