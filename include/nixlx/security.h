// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What secures the exchange of metadata: it proves to other agents who speaks, and checks what they prove. It is a
// plugin of the kind "security", libsecurity_<name>.so, with the descriptor of nixlx/engine.h and
// nixlx_plugin_security_init. An agent with a key (NIXL_SECRET_FILE) takes the one that is installed, and exchanges
// nothing without it (docs/security.md). The agent does all input and output; the key never leaves the plugin.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "nixlx/engine.h"

#pragma GCC visibility push(default)

namespace nixlx {

/// One end of a connection whose ends prove themselves to each other before anything is said, and that nobody between
/// them can read or change unnoticed. It deals in bytes; the agent carries them. One caller at a time. What a function
/// throws becomes its failure.
///
/// A failing call explains itself with nixlx::fail(), without secrets; the connection is closed then. What it has put
/// into `out` is still sent, so that the other end may learn why.
class SecureSession {
public:
    virtual ~SecureSession() = default;

    /// Called once, before the others: appends to `out` what the connecting end says first.
    virtual nixl_status_t
    begin(std::string &out) = 0;

    /// `bytes` came from the other end, cut anywhere. Appends to `plain` what it says, nothing before it is proven, and
    /// to `out` what has to be sent. NIXL_ERR_NOT_ALLOWED: it is a stranger. NIXL_ERR_MISMATCH: the bytes were changed.
    virtual nixl_status_t
    receive(std::string_view bytes, std::string &plain, std::string &out) = 0;

    /// Both ends have proven themselves. Once true it stays so.
    virtual bool
    proven() const noexcept = 0;

    /// Appends to `out` what carries `plain` to the other end. Only when it is proven.
    virtual nixl_status_t
    send(std::string_view plain, std::string &out) = 0;
};

struct SecurityParams {
    std::string agent;       ///< who proves itself
    std::string secret_file; ///< path of the file with the key that all agents of a group share
};

/// What one agent proves itself with, and checks others by. Any thread may call.
class Security {
public:
    virtual ~Security() = default;

    /// A new end, which goes before this does. Null, with nixlx::fail(): there is none.
    virtual SecureSession *
    open(bool accepts) = 0;

    /// Appends to `signature` the proof that this agent wrote `bytes`.
    virtual nixl_status_t
    sign(std::string_view bytes, std::string &signature) = 0;

    /// Whether `agent` wrote `bytes`. NIXL_ERR_NOT_ALLOWED: it was signed by a stranger. NIXL_ERR_MISMATCH: the bytes
    /// or the signature were changed. In a time that tells nothing about the right signature.
    virtual nixl_status_t
    verify(std::string_view agent, std::string_view bytes, std::string_view signature) = 0;
};

} // namespace nixlx

/// Of the classes above, in nixlx_security_t.
#define NIXLX_SECURITY_API_VERSION 1u

extern "C" {

/// What the plugin offers. Append only.
struct nixlx_security_t {
    uint32_t api_version; ///< NIXLX_SECURITY_API_VERSION
    /// The caller deletes it. Null, with nixlx::fail(): the key cannot be used, and why.
    nixlx::Security *(*open)(const nixlx::SecurityParams *params);
};

/// Exported by every plugin of this kind; valid for as long as it is loaded.
const struct nixlx_security_t *
nixlx_plugin_security_init();
}

#pragma GCC visibility pop
