// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "plugin/manager.h"

#include <algorithm>
#include <map>
#include <set>
#include <strings.h>

#include "base/last_error.h"
#include "base/mutex.h"
#include "plugin/builtin.h"
#include "plugin/catalog.h"
#include "plugin/loader.h"
#include "utils/common/nixl_log.h"

namespace nx::plugin {

namespace {

constexpr Kind kBackend = {
    "backend", "libplugin_", ".so", "nixl_plugin_init", "nixl_plugin_fini", NIXL_PLUGIN_API_VERSION, Needs::kEither};

constexpr Kind kExporter = {"exporter",
                            "libtelemetry_exporter_",
                            ".so",
                            "nixl_telemetry_plugin_init",
                            "nixl_telemetry_plugin_fini",
                            static_cast<long>(nixl_telemetry_plugin_api_version::V2),
                            Needs::kInit};

constexpr Kind kStore = {
    "store",     "libstore_", ".so", "nixlx_plugin_store_init", "nixlx_plugin_store_fini", NIXLX_DIRECTORY_API_VERSION,
    Needs::kBoth};

constexpr Kind kSecurity = {"security",
                            "libsecurity_",
                            ".so",
                            "nixlx_plugin_security_init",
                            "nixlx_plugin_security_fini",
                            NIXLX_SECURITY_API_VERSION,
                            Needs::kBoth};

std::vector<std::string>
split(const std::string &text) {
    std::vector<std::string> parts;
    size_t start = 0;
    while (start <= text.size()) {
        const size_t comma = std::min(text.find(',', start), text.size());
        if (comma > start) parts.push_back(text.substr(start, comma - start));
        start = comma + 1;
    }
    return parts;
}

/// A backend plugin from a file or from this library.
class Backend final : public BackendPlugin {
public:
    /// Asks the plugin for all it advertises, so that nothing but engines calls its code later. `descriptor` is null
    /// for a plugin written for NIXL 1.4; `file` keeps what it came from, null for a built-in one.
    static Result<std::unique_ptr<Backend>>
    create(const std::string &name,
           const nixlBackendPlugin *object,
           const nixlx_plugin_descriptor_t *descriptor,
           std::unique_ptr<Loaded<nixlBackendPlugin>> file) {
        auto backend = std::make_unique<Backend>(name, object, descriptor, std::move(file));
        if (backend->isLegacy() ? !object->create_engine : !descriptor->create) {
            return {NIXL_ERR_BACKEND, "plugin " + nx::quoted(name) + " has no function that creates an engine"};
        }
        auto status = guarded("plugin " + nx::quoted(name) + ": asking what it offers", [&] { backend->ask(); });
        if (!status.ok()) return status;
        return backend;
    }

    Backend(const std::string &name,
            const nixlBackendPlugin *object,
            const nixlx_plugin_descriptor_t *descriptor,
            std::unique_ptr<Loaded<nixlBackendPlugin>> file)
        : name_(name),
          file_(std::move(file)),
          object_(object),
          descriptor_(descriptor) {}

    const std::string &
    name() const override {
        return name_;
    }

    const std::string &
    version() const override {
        return version_;
    }

    nixl_b_params_t
    options() const override {
        return options_;
    }

    std::string
    optionFor(const std::string &role) const override {
        const auto it = roles_.find(role);
        return it == roles_.end() ? "" : it->second;
    }

    nixl_mem_list_t
    memories() const override {
        return memories_;
    }

    uint32_t
    capabilities() const override {
        return identity_.capabilities;
    }

    const std::vector<std::string> &
    conflicts() const override {
        return conflicts_;
    }

    const std::string &
    companion() const override {
        return companion_;
    }

    const std::array<MemorySet, kMemoryKinds> &
    partners() const override {
        return identity_.partners;
    }

    bool
    isLegacy() const override {
        return !descriptor_;
    }

    std::unique_ptr<nixlx::Engine>
    create(const nixlBackendInitParams &params) const override {
        // What it throws is the sentence of an engine that cannot be.
        const auto create = [&]() -> nixlx::Engine * {
            try {
                return descriptor_->create(&params);
            }
            catch (const std::exception &error) {
                nixlx::fail(NIXL_ERR_BACKEND, error.what());
                return nullptr;
            }
        };
        return std::unique_ptr<nixlx::Engine>(make<nixlx::Engine>("create", create));
    }

    std::shared_ptr<nixlBackendEngine>
    createLegacy(const nixlBackendInitParams &params) const override {
        auto *engine = make<nixlBackendEngine>("create_engine", [&] { return object_->create_engine(&params); });
        if (!engine) return nullptr;
        std::shared_ptr<nixlBackendEngine> owned(engine, [this](nixlBackendEngine *gone) { destroy(gone); });
        if (!owned->getInitErr()) return owned;
        explain(takeBackendSentence("the engine reports that it is unusable"));
        return nullptr;
    }

private:
    template<class Engine, class Create>
    Engine *
    make(const char *function, Create create) const {
        Engine *engine = nullptr;
        const auto status = guarded(function, [&] { engine = create(); });
        if (engine) return engine;
        explain(status.ok() ? takeBackendSentence("the plugin returned no engine and gave no reason")
                            : status.message());
        return nullptr;
    }

    void
    explain(const std::string &reason) const {
        nixlx::fail(NIXL_ERR_BACKEND, "backend initialization error for '" + name_ + "': " + reason);
    }

    void
    destroy(nixlBackendEngine *engine) const {
        const auto status = guarded("plugin " + nx::quoted(name_) + ": destroy_engine", [&] {
            if (object_->destroy_engine) {
                object_->destroy_engine(engine);
            } else {
                delete engine;
            }
        });
        // Destruction has no caller that could be told.
        if (!status.ok()) NIXL_ERROR << status.message();
    }

    void
    ask() {
        if (object_ && object_->get_backend_options) options_ = object_->get_backend_options();
        if (object_ && object_->get_backend_mems) memories_ = object_->get_backend_mems();
        const char *version = object_ && object_->get_plugin_version ? object_->get_plugin_version() : nullptr;
        if (version) version_ = version;
        if (!descriptor_) return;
        identity_ = parseIdentity(descriptor_);
        if (version_.empty()) version_ = identity_.version;
        conflicts_ = split(identity_.conflicts);
        if (identity_.struct_size > kDescriptorBytesMin && descriptor_->companion) companion_ = descriptor_->companion;
        memories_ = listOf(memoriesOf(identity_.partners));
        const auto *row = reinterpret_cast<const char *>(descriptor_->options);
        for (uint32_t i = 0; row && i < descriptor_->option_count; ++i, row += descriptor_->option_size) {
            const auto &option = *reinterpret_cast<const nixlx_option *>(row);
            if (!option.name) continue;
            options_.emplace(option.name, option.default_value ? option.default_value : "");
            if (option.role && *option.role) roles_.emplace(option.role, option.name);
        }
    }

    const std::string name_;
    const std::unique_ptr<Loaded<nixlBackendPlugin>> file_;
    const nixlBackendPlugin *const object_; ///< null: it has a descriptor only
    const nixlx_plugin_descriptor_t *const descriptor_;
    // Set before anyone else sees the object:
    Identity identity_;
    std::string version_;
    nixl_b_params_t options_;
    std::map<std::string, std::string> roles_; ///< the option that plays each
    nixl_mem_list_t memories_;
    std::vector<std::string> conflicts_;
    std::string companion_;
};

Result<std::unique_ptr<Backend>>
fromTable(const BuiltinPlugin &builtin) {
    const std::string what = "built-in plugin " + nx::quoted(builtin.name);
    if (builtin.descriptor) {
        auto status = checkIdentity(kBackend, builtin.name, parseIdentity(builtin.descriptor));
        if (!status.ok()) return std::move(status).withContext(what);
    }
    const nixlBackendPlugin *object = nullptr;
    if (auto status = guarded(what, [&] { object = builtin.init(); }); !status.ok()) return status;
    if (!object) return {NIXL_ERR_BACKEND, what + ": its init function returned null"};
    return Backend::create(builtin.name, object, builtin.descriptor, nullptr);
}

Result<std::unique_ptr<Backend>>
fromFile(const std::string &name, std::unique_ptr<Loaded<nixlBackendPlugin>> file) {
    const nixlx_plugin_descriptor_t *descriptor = nullptr;
    if (file->library().identity()) {
        descriptor = static_cast<const nixlx_plugin_descriptor_t *>(file->library().symbol("nixlx_plugin_descriptor"));
    }
    const auto *object = file->object();
    return Backend::create(name, object, descriptor, std::move(file));
}

const BuiltinPlugin *
findBuiltin(const std::string &name) {
    for (const auto &builtin : builtinPlugins()) {
        if (name == builtin.name) return &builtin;
    }
    return nullptr;
}

/// The plugins of one kind: where they are and which are loaded. Self-synchronised; its mutex is never held while a
/// plugin's code runs. Shared with the plugins that are out, which may go after their manager.
template<class Plugin> class Registry : public std::enable_shared_from_this<Registry<Plugin>> {
public:
    Registry(const Kind &kind, std::vector<std::string> directories, std::map<std::string, std::string> listed)
        : kind_(kind),
          catalog_(kind, std::move(directories), std::move(listed)) {}

    /// The plugin that is loaded already, else what `make()` gives, a Result<std::unique_ptr<Plugin>>. Never makes two
    /// at once for one name.
    template<class Make>
    Result<std::shared_ptr<const Plugin>>
    load(const std::string &name, Make make) {
        {
            const MutexLock lock(mutex_);
            for (;;) {
                const auto it = plugins_.find(name);
                if (it == plugins_.end()) break;
                if (auto plugin = it->second.lock()) return plugin;
                changed_.wait(mutex_);
            }
            plugins_[name]; // being loaded
        }
        try {
            auto made = make();
            if (!made.ok()) {
                forget(name);
                return std::move(made).status();
            }
            // The entry goes after the plugin, so that nobody loads it again while it is being unloaded.
            auto letGo = [self = this->shared_from_this(), name](const Plugin *gone) {
                delete gone;
                self->forget(name);
            };
            std::shared_ptr<const Plugin> plugin(made->release(), std::move(letGo));
            const MutexLock lock(mutex_);
            plugins_[name] = plugin;
            changed_.notifyAll();
            return plugin;
        }
        catch (...) {
            forget(name);
            throw;
        }
    }

    /// The same for a plugin that is no more than what its file gives, a Loaded<Object>.
    template<class Object>
    Result<std::shared_ptr<const Plugin>>
    loadFile(const std::string &name) {
        return load(name, [&] { return open<Object>(name); });
    }

    /// Opens the file of `name` and runs its init function.
    template<class Object>
    Result<std::unique_ptr<Loaded<Object>>>
    open(const std::string &name) {
        auto path = find(name);
        if (!path.ok()) return std::move(path).status();
        auto loaded = Loaded<Object>::load(kind_, name, *path);
        if (!loaded.ok()) return std::move(loaded).status();
        return std::make_unique<Loaded<Object>>(*std::move(loaded));
    }

    std::vector<std::string>
    found() const {
        const MutexLock lock(mutex_);
        return catalog_.names();
    }

    std::vector<std::string>
    loaded() const {
        const MutexLock lock(mutex_);
        std::vector<std::string> names;
        for (const auto &[name, plugin] : plugins_) {
            if (!plugin.expired()) names.push_back(name);
        }
        return names;
    }

    Status
    addDirectory(const std::string &directory) {
        const MutexLock lock(mutex_);
        return catalog_.addDirectory(directory);
    }

    /// True once per name.
    bool
    note(const std::string &name) {
        const MutexLock lock(mutex_);
        return noted_.insert(name).second;
    }

private:
    Result<std::string>
    find(const std::string &name) const NX_EXCLUDES(mutex_) {
        const MutexLock lock(mutex_);
        auto path = catalog_.find(name);
        if (path.ok()) return path;
        for (const auto &other : catalog_.names()) {
            if (::strcasecmp(other.c_str(), name.c_str()) == 0) {
                return {path.code(),
                        path.message() + "; names are case-sensitive: did you mean " + nx::quoted(other) + "?"};
            }
        }
        return path;
    }

    /// `name` is neither loaded nor being loaded or unloaded any more.
    void
    forget(const std::string &name) NX_EXCLUDES(mutex_) {
        const MutexLock lock(mutex_);
        plugins_.erase(name);
        changed_.notifyAll();
    }

    const Kind &kind_;

    mutable Mutex mutex_;
    CondVar changed_; ///< of plugins_
    Catalog catalog_ NX_GUARDED_BY(mutex_);
    /// An entry whose plugin is gone is one that is being loaded or unloaded: wait for the change.
    std::map<std::string, std::weak_ptr<const Plugin>> plugins_ NX_GUARDED_BY(mutex_);
    std::set<std::string> noted_ NX_GUARDED_BY(mutex_);
};

Result<std::unique_ptr<Backend>>
makeBackend(Registry<BackendPlugin> &registry, const std::string &name) {
    if (const auto *builtin = findBuiltin(name)) return fromTable(*builtin);
    auto loaded = registry.open<nixlBackendPlugin>(name);
    if (!loaded.ok()) return std::move(loaded).status();
    const auto &library = (*loaded)->library();
    if (!library.identity() && registry.note(name)) {
        NIXL_INFO << "plugin " << nx::quoted(library.path(), 300)
                  << " has no descriptor: used as one written for NIXL 1.4";
    }
    return fromFile(name, *std::move(loaded));
}

} // namespace

struct Manager::State {
    State(std::vector<std::string> directories, std::map<std::string, std::string> listed)
        : backends(std::make_shared<Registry<BackendPlugin>>(kBackend, directories, std::move(listed))),
          exporters(
              std::make_shared<Registry<ExporterPlugin>>(kExporter, directories, std::map<std::string, std::string>{})),
          stores(std::make_shared<Registry<StorePlugin>>(kStore, directories, std::map<std::string, std::string>{})),
          securities(std::make_shared<Registry<SecurityPlugin>>(kSecurity,
                                                                std::move(directories),
                                                                std::map<std::string, std::string>{})) {}

    const std::shared_ptr<Registry<BackendPlugin>> backends;
    const std::shared_ptr<Registry<ExporterPlugin>> exporters;
    const std::shared_ptr<Registry<StorePlugin>> stores;
    const std::shared_ptr<Registry<SecurityPlugin>> securities;
    Status broken; ///< why the configuration is unusable; set before anyone else sees it
};

Manager &
Manager::instance() {
    // Never destroyed: agents of static storage may go after everything here.
    static Manager &manager = *[] {
        auto directory = defaultPluginDirectory();
        auto listed = configuredPluginList();
        auto made = std::make_unique<Manager>(std::vector<std::string>{});
        made->state_ = std::make_unique<State>(directory.ok() ? std::vector{*directory} : std::vector<std::string>{},
                                               listed.ok() ? *listed : std::map<std::string, std::string>{});
        made->state_->broken = directory.ok() ? std::move(listed).status() : std::move(directory).status();
        return made.release();
    }();
    return manager;
}

Manager::Manager(std::vector<std::string> directories)
    : state_(std::make_unique<State>(std::move(directories), std::map<std::string, std::string>{})) {}

Manager::~Manager() = default;

std::vector<std::string>
Manager::available() const {
    std::set<std::string> names;
    for (const auto &builtin : builtinPlugins()) names.insert(builtin.name);
    for (auto &name : state_->backends->found()) names.insert(std::move(name));
    for (auto &name : state_->backends->loaded()) names.insert(std::move(name));
    return {names.begin(), names.end()};
}

Result<std::shared_ptr<const BackendPlugin>>
Manager::load(const std::string &name) {
    if (!state_->broken.ok()) return {state_->broken.code(), state_->broken.message()};
    return state_->backends->load(name, [&] { return makeBackend(*state_->backends, name); });
}

Result<std::shared_ptr<const ExporterPlugin>>
Manager::loadExporter(const std::string &name) {
    if (!state_->broken.ok()) return {state_->broken.code(), state_->broken.message()};
    return state_->exporters->loadFile<nixlTelemetryPlugin>(name);
}

std::vector<std::string>
Manager::availableStores() const {
    return state_->stores->found();
}

Result<std::shared_ptr<const StorePlugin>>
Manager::loadStore(const std::string &name) {
    if (!state_->broken.ok()) return {state_->broken.code(), state_->broken.message()};
    return state_->stores->loadFile<const nixlx_store_t>(name);
}

Result<std::shared_ptr<const SecurityPlugin>>
Manager::loadSecurity() {
    if (!state_->broken.ok()) return {state_->broken.code(), state_->broken.message()};
    const auto names = state_->securities->found();
    if (names.empty()) {
        return {
            NIXL_ERR_NOT_FOUND,
            "no security plugin (libsecurity_<name>.so) is in the folder of plugins; this library was built without "
            "one, or NIXL_PLUGIN_DIR leads elsewhere"};
    }
    if (names.size() > 1) {
        return {NIXL_ERR_NOT_ALLOWED,
                "there are several security plugins, " + nx::quoted(names[0]) + " and " + nx::quoted(names[1]) +
                    "; keep one of them in the folder of plugins"};
    }
    return state_->securities->loadFile<const nixlx_security_t>(names.front());
}

Status
Manager::addDirectory(const std::string &directory) {
    if (auto status = state_->backends->addDirectory(directory); !status.ok()) return status;
    if (auto status = state_->exporters->addDirectory(directory); !status.ok()) return status;
    if (auto status = state_->stores->addDirectory(directory); !status.ok()) return status;
    return state_->securities->addDirectory(directory);
}

std::vector<std::string>
Manager::loaded() const {
    return state_->backends->loaded();
}

} // namespace nx::plugin
