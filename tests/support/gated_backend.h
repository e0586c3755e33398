// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The test backend "GATED": a loopback engine that fails, waits and holds on command. Nothing in it depends on time: a
// test closes a gate, sees that a call stands before it, does what it wants to do meanwhile, and opens it.
#pragma once

#include <cstdint>
#include <string>

#include "nixl_types.h"
#include "support/plugin_control.h"

namespace nx::test {

/// The functions of an engine, of both faces alike.
enum class EngineCall : unsigned {
    kCreate,
    kRegister,
    kDeregister,
    kShutOut,
    kLetIn,
    kPublicData,
    kLoadLocal,
    kLoadRemote,
    kUnload,
    kConnectionInfo,
    kLoadPeer,
    kConnect,
    kDisconnect,
    kPeerInfo,
    kValidatePeer,
    kPredict,
    kPrepare,
    kPost,
    kCheck,
    kCancel,
    kForceQuiet,
    kRelease,
    kNotify,
    kFetchNotifications,
    kCount
};

enum class Thrown { kNothing, kBadAlloc, kForeign };

/// Applies to all engines of the process. Self-synchronised.
class GatedControl {
public:
    /// Opens everything, forgets orders and counts. Call it first in every test.
    virtual void
    reset() = 0;

    /// `count` calls end with `status` instead of being done, after `skipped` more have been done. In kCancel,
    /// kLetIn and kRelease, which return nothing, only gates and counts work; kForceQuiet answers false, whatever the
    /// status.
    virtual void
    fail(EngineCall call, nixl_status_t status, uint64_t count = 1, uint64_t skipped = 0) = 0;

    /// The next call throws std::bad_alloc, or something that is no std::exception.
    virtual void
    raise(EngineCall call, Thrown thrown) = 0;

    /// Calls wait inside the engine until open().
    virtual void
    close(EngineCall call) = 0;
    virtual void
    open(EngineCall call) = 0;

    /// Calls that wait before the gate now.
    virtual uint64_t
    waiting(EngineCall call) const = 0;

    /// Calls since reset(), with those that failed or wait.
    virtual uint64_t
    count(EngineCall call) const = 0;

    /// Posts from now on are numbered from 0 and stay in progress without touching memory until finish() or abort().
    virtual void
    holdTransfers() = 0;
    /// The held transfer of this number does its work in its next check.
    virtual void
    finish(uint64_t number) = 0;
    /// Ends in its next check with `status`.
    virtual void
    abort(uint64_t number, nixl_status_t status) = 0;
    /// All held ones, and those to come.
    virtual void
    finishAll() = 0;

    /// What held transfers say that they have moved.
    virtual void
    setBytesDone(uint64_t bytes) = 0;

    /// Something moves on the path that all transfers use, and none of those that are held.
    virtual void
    movePath() = 0;

    /// Held transfers do not settle when they are cancelled, until settleCancelled() or until they are forced, and then
    /// as if the connection had been lost.
    virtual void
    holdCancelled() = 0;
    virtual void
    settleCancelled() = 0;

    /// Shown as RequestInfo::path.
    virtual void
    setPath(const std::string &path) = 0;
    /// What predict() returns; negative: nothing.
    virtual void
    setPrediction(double micros) = 0;

protected:
    ~GatedControl() = default;
};

inline GatedControl &
gated() {
    return pluginControl<GatedControl>("libplugin_GATED.so", "nx_test_gated_control");
}

} // namespace nx::test
