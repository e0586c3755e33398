// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What a metadata directory implements: the place where agents publish their metadata under their names and find that
// of others. It is a plugin of the kind "store", libstore_<name>.so, with the descriptor of nixlx/engine.h and
// nixlx_plugin_store_init. NIXL_METADATA_STORE=<name>://<address> chooses one, or NIXL_<NAME>_ENDPOINTS=<address>
// (docs/directory.md). What all directories have in common is the agent's: it waits for what is not there yet, judges
// and loads what is found, drops peers that have ended, and keeps the store's time off its callers.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nixlx/engine.h"

#pragma GCC visibility push(default)

namespace nixlx {

/// Who opens a directory. What is published through it belongs to this start of the agent.
struct DirectoryParams {
    std::string agent;                      ///< 1 to 4,096 bytes of any value
    std::array<uint8_t, 16> incarnation{};  ///< another one for each start of the agent
    std::string address;                    ///< of the place, in the store's own words
    std::chrono::milliseconds lease{10000}; ///< what is published outlives its process by no more than this
};

/// One start of an agent at a directory.
///
/// Rules: one thread at a time calls, but for endBy(), and holds no lock of the agent's; no other thread of the agent
/// waits for it but at the agent's end. A call may block until its deadline and returns NIXL_ERR_TIMEOUT then. Any call
/// may fail at any time, changes nothing then, and explains itself with nixlx::fail(); a later one may succeed, so that
/// a directory that was away serves again once it is back. What a function throws becomes its failure
/// (std::bad_alloc: NIXL_ERR_NO_MEMORY).
///
/// Agents and labels are bytes of any value: what they could mean to the store ("../", "/", NUL) they must not. One
/// that the store cannot hold is NIXL_ERR_INVALID_PARAM.
///
/// A name has one start at a time, the one that published first last. With that, what earlier starts published is gone,
/// and they publish no more: NIXL_ERR_NOT_ALLOWED. What they withdraw is their own only.
class Directory {
public:
    using Deadline = std::chrono::steady_clock::time_point;

    /// Withdraws what is published, within what endBy() allows.
    virtual ~Directory() = default;

    /// Makes `blob` (1 byte to 64 MiB) what others find under this agent and the label, in place of what was there.
    /// They find all of it or all of the earlier one. It stays until it is withdrawn, the directory object goes, or the
    /// lease after the end of the process.
    virtual nixl_status_t
    publish(const std::string &label, std::string_view blob, Deadline deadline) = 0;

    /// What the current start of `agent` has published under the label, as it is now: this does not wait for it.
    /// NIXL_ERR_NOT_FOUND: nothing, or its start has ended. `blob` is written on success only. The bytes may be a
    /// stranger's; more than 64 MiB are NIXL_ERR_MISMATCH.
    virtual nixl_status_t
    fetch(const std::string &agent, const std::string &label, std::string &blob, Deadline deadline) = 0;

    /// Takes back all that this start has published, under all labels. Success if there was nothing. It may publish
    /// again afterwards, unless another start of the name has.
    virtual nixl_status_t
    withdraw(Deadline deadline) = 0;

    /// The agent ends: calls under way and later ones take no longer than until `deadline`. Any thread; does not block.
    virtual void
    endBy(Deadline deadline) noexcept = 0;

    /// How long a fetch of what is not there yet goes on asking; negative: as the agent's configuration has it. The
    /// same answer for the object's life.
    virtual std::chrono::milliseconds
    patience() const noexcept {
        return std::chrono::milliseconds(-1);
    }

    /// The ability of that name, as a pointer to its class, if the store has it in that version or a newer one; else
    /// null. The same answer for the object's life.
    virtual void *
    ability(std::string_view name, uint32_t version) noexcept {
        static_cast<void>(name);
        static_cast<void>(version);
        return nullptr;
    }
};

/// A peer of whom something was fetched is not what it was any more.
struct DirectoryEnd {
    std::string agent;
    std::string why;       ///< for people: "its process has ended"
    bool replaced = false; ///< another start has published under its name
};

/// The ability to tell when that which was fetched is true no longer. Without it the agent learns of a peer's end from
/// its backends only. The rules of Directory hold.
///
/// A store that needs time of its own (to renew a lease, to read a stream) has a timer or a thread behind the
/// descriptor, and does its work in takeEnded().
class DirectoryWatch {
public:
    static constexpr std::string_view kName = "watch";
    static constexpr uint32_t kVersion = 1;

    /// Readable while takeEnded() has something to do. The same one for the object's life.
    virtual int
    descriptor() const noexcept = 0;

    /// Appends the agents of whom fetch() has returned something, and whose start that it was has been withdrawn,
    /// replaced, or has ended since. An agent is appended once and then unknown until it is fetched again. A store that
    /// has lost sight of its agents says nothing of them: they are not gone for that. Takes no longer than a call may.
    virtual nixl_status_t
    takeEnded(std::vector<DirectoryEnd> &ended) = 0;

    /// Nothing more is told of this agent until it is fetched again.
    virtual void
    forget(const std::string &agent) noexcept = 0;

protected:
    ~DirectoryWatch() = default;
};

} // namespace nixlx

/// Of the classes above, in nixlx_store_t.
#define NIXLX_DIRECTORY_API_VERSION 1u

extern "C" {

/// What a store offers. Append only.
struct nixlx_store_t {
    uint32_t api_version; ///< NIXLX_DIRECTORY_API_VERSION
    /// Judges the parameters and does nothing that can block. The caller deletes the directory. Null, with
    /// nixlx::fail(): NIXL_ERR_INVALID_PARAM for a name or an address that the store cannot use.
    nixlx::Directory *(*open)(const nixlx::DirectoryParams *params);
};

/// Exported by every store; valid for as long as it is loaded.
const struct nixlx_store_t *
nixlx_plugin_store_init();
}

#pragma GCC visibility pop
