// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Finds, checks, loads and keeps plugins. A name is looked up among the built-ins, then the list file, then the
// plugin directories; nothing is opened before it is asked for. Self-synchronised (one mutex, never held while a
// plugin's code runs).
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend_plugin.h"
#include "base/error.h"
#include "base/memory_set.h"
#include "nixlx/directory.h"
#include "nixlx/engine.h"
#include "nixlx/security.h"
#include "plugin/loader.h"
#include "telemetry/telemetry_plugin.h"

namespace nx::plugin {

/// A loaded backend plugin. Stays loaded while anyone holds it. Immutable.
class BackendPlugin {
public:
    virtual ~BackendPlugin() = default;

    virtual const std::string &
    name() const = 0;
    virtual const std::string &
    version() const = 0;
    /// Advertised options; may be empty.
    virtual nixl_b_params_t
    options() const = 0;
    /// Name of the option that plays this role; empty: none does.
    virtual std::string
    optionFor(const std::string &role) const = 0;
    /// Advertised kinds of memory; may be empty for a plugin written for NIXL 1.4.
    virtual nixl_mem_list_t
    memories() const = 0;
    /// By the kind of local memory: the kinds it moves data to and from.
    virtual const std::array<MemorySet, kMemoryKinds> &
    partners() const = 0;
    /// NIXLX_CAP_ bits; 0 for a plugin written for NIXL 1.4.
    virtual uint32_t
    capabilities() const = 0;
    /// Names of backends that may not exist beside this one in an agent.
    virtual const std::vector<std::string> &
    conflicts() const = 0;
    /// The backend that serves peers of the same host in its stead; empty: none.
    virtual const std::string &
    companion() const = 0;
    /// Written for NIXL 1.4: createLegacy() then, else create().
    virtual bool
    isLegacy() const = 0;
    /// Null if the plugin's code refused or threw; its sentence is in takeBackendSentence().
    virtual std::unique_ptr<nixlx::Engine>
    create(const nixlBackendInitParams &params) const = 0;
    /// The same; the engine goes the way that its plugin wants.
    virtual std::shared_ptr<nixlBackendEngine>
    createLegacy(const nixlBackendInitParams &params) const = 0;
};

/// A loaded telemetry exporter plugin. Stays loaded while anyone holds it; what it creates must go before it does.
using ExporterPlugin = Loaded<nixlTelemetryPlugin>;

/// A loaded store plugin, likewise.
using StorePlugin = Loaded<const nixlx_store_t>;

/// A loaded security plugin, likewise.
using SecurityPlugin = Loaded<const nixlx_security_t>;

class Manager {
public:
    /// The process's manager, made at the first call from NIXL_PLUGIN_DIR or the folder `plugins` beside libnixl.
    static Manager &
    instance();

    /// For tests and embedders: a manager over these directories.
    explicit Manager(std::vector<std::string> directories);
    ~Manager();

    Manager(const Manager &) = delete;
    Manager &
    operator=(const Manager &) = delete;

    /// Every backend that was found or is built in, sorted.
    std::vector<std::string>
    available() const;

    /// NOT_FOUND: no such plugin (the sentence names the places searched); BACKEND: there is a file but it cannot be
    /// used (the sentence says why). Loading is remembered while somebody holds the result.
    Result<std::shared_ptr<const BackendPlugin>>
    load(const std::string &name);

    /// The same for the exporter of libtelemetry_exporter_<name>.so.
    Result<std::shared_ptr<const ExporterPlugin>>
    loadExporter(const std::string &name);

    /// Every store that was found, sorted.
    std::vector<std::string>
    availableStores() const;

    /// The same for the store of libstore_<name>.so.
    Result<std::shared_ptr<const StorePlugin>>
    loadStore(const std::string &name);

    /// The same for the one libsecurity_<name>.so that is installed. NOT_ALLOWED: there are several.
    Result<std::shared_ptr<const SecurityPlugin>>
    loadSecurity();

    /// Searches `directory` before the others. NOT_FOUND if it does not exist.
    Status
    addDirectory(const std::string &directory);

    /// Backends that are loaded now, sorted.
    std::vector<std::string>
    loaded() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace nx::plugin
