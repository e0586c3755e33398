// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// How the metadata of this agent and its peers travels: over listeners and a directory, each made when it is first
// needed. Their threads call into the agent. Self-synchronised.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "agent/local_metadata.h"
#include "agent/peers.h"
#include "metadata/directory_client.h"
#include "metadata/exchange.h"

namespace nx::agent {

class MetadataExchange {
public:
    MetadataExchange(const std::string &agent,
                     const wire::Incarnation &incarnation,
                     std::chrono::microseconds watch_timeout,
                     const Credentials &credentials,
                     const Backends &backends,
                     Peers &peers,
                     LocalMetadata &local)
        : agent_(agent),
          incarnation_(incarnation),
          watch_timeout_(watch_timeout),
          credentials_(credentials),
          backends_(backends),
          peers_(peers),
          local_(local) {}

    /// Listens for peers; the port. 0: one of the system's choice.
    Result<uint16_t>
    listen(uint16_t port);

    /// These go to the listener at the address in `args`, without one to the chosen store (chosen_store.h).
    /// NOT_SUPPORTED: there is neither.
    Status
    send(const nixl_opt_args_t *args);
    Status
    sendPart(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args);
    Status
    fetch(const std::string &agent, const nixl_opt_args_t *args);
    Status
    withdraw(const nixl_opt_args_t *args);
    Status
    wait(std::chrono::milliseconds timeout, const nixl_opt_args_t *args);

    /// A backend has come: peers that came before it may be of use now.
    void
    retry();

    /// At the agent's end. Nobody calls into the agent afterwards.
    void
    stop();

private:
    template<class Make>
    Status
    sendTo(const char *call, const nixl_opt_args_t *args, const std::string &label, Make make);
    Result<metadata::Exchange *>
    listeners();
    Result<metadata::DirectoryClient *>
    directory();
    metadata::Service
    service();
    metadata::DirectoryService
    directoryService();
    /// Loads what a peer has published; only if it is of the agent `expected`, unless that is empty.
    metadata::Loaded
    load(std::string_view blob, const std::string &expected);
    Result<std::shared_ptr<nixlx::Directory>>
    openDirectory() const;
    /// What `slot` holds now; null: not made yet.
    template<class T>
    T *
    current(std::unique_ptr<T> MetadataExchange::*slot) {
        const MutexLock lock(mutex_);
        return (this->*slot).get();
    }
    template<class T, class Make>
    Result<T *>
    started(std::unique_ptr<T> MetadataExchange::*slot, Make make);

    const std::string &agent_;
    const wire::Incarnation &incarnation_;
    const std::chrono::microseconds watch_timeout_;
    const Credentials &credentials_;
    const Backends &backends_;
    Peers &peers_;
    LocalMetadata &local_;

    Mutex mutex_; // held for a few instructions; no call out of it
    std::unique_ptr<metadata::Exchange> listeners_ NX_GUARDED_BY(mutex_);
    std::unique_ptr<metadata::DirectoryClient> directory_ NX_GUARDED_BY(mutex_);
};

} // namespace nx::agent
