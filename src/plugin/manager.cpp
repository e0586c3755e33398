// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "plugin/manager.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <strings.h>

#include "base/last_error.h"
#include "plugin/builtin.h"
#include "plugin/catalog.h"
#include "plugin/loader.h"
#include "utils/common/nixl_log.h"

namespace nx::plugin {

namespace {

constexpr Kind kBackend = {"backend",          "libplugin_",       ".so",
                           "nixl_plugin_init", "nixl_plugin_fini", NIXL_PLUGIN_API_VERSION};

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
           const nixlBackendPlugin &object,
           const nixlx_plugin_descriptor_t *descriptor,
           std::unique_ptr<Loaded<nixlBackendPlugin>> file) {
        auto backend = std::make_unique<Backend>(name, object, descriptor, std::move(file));
        if (!object.create_engine) return {NIXL_ERR_BACKEND, "plugin " + nx::quoted(name) + " has no create_engine"};
        auto status = guarded("plugin " + nx::quoted(name) + ": asking what it offers", [&] { backend->ask(); });
        if (!status.ok()) return status;
        return backend;
    }

    Backend(const std::string &name,
            const nixlBackendPlugin &object,
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

    nixlBackendEngine *
    create(const nixlBackendInitParams &params) const override {
        clearBackendSentence();
        nixlBackendEngine *engine = nullptr;
        const auto status = guarded("create_engine", [&] { engine = object_.create_engine(&params); });
        if (engine) return engine;
        const std::string reason =
            status.ok() ? takeBackendSentence("the plugin returned no engine and gave no reason") : status.message();
        nixlx::fail(NIXL_ERR_BACKEND, "backend initialization error for '" + name_ + "': " + reason);
        return nullptr;
    }

    void
    destroy(nixlBackendEngine *engine) const override {
        const auto status = guarded("plugin " + nx::quoted(name_) + ": destroy_engine", [&] {
            if (object_.destroy_engine) {
                object_.destroy_engine(engine);
            } else {
                delete engine;
            }
        });
        // Destruction has no caller that could be told.
        if (!status.ok()) NIXL_ERROR << status.message();
    }

    nixlx::Engine *
    extend(nixlBackendEngine *engine) const override {
        if (!descriptor_ || !descriptor_->extend) return nullptr;
        nixlx::Engine *face = nullptr;
        const auto status =
            guarded("plugin " + nx::quoted(name_) + ": extend", [&] { face = descriptor_->extend(engine); });
        if (!status.ok()) nixlx::fail(NIXL_ERR_BACKEND, status.message());
        return face;
    }

private:
    void
    ask() {
        if (object_.get_backend_options) options_ = object_.get_backend_options();
        if (object_.get_backend_mems) memories_ = object_.get_backend_mems();
        const char *version = object_.get_plugin_version ? object_.get_plugin_version() : nullptr;
        if (version) version_ = version;
        if (!descriptor_) return;
        identity_ = parseIdentity(descriptor_);
        if (version_.empty()) version_ = identity_.version;
        conflicts_ = split(identity_.conflicts);
        for (uint32_t i = 0; descriptor_->options && i < descriptor_->option_count; ++i) {
            const auto &option = descriptor_->options[i];
            if (option.name) options_.emplace(option.name, option.default_value ? option.default_value : "");
        }
    }

    const std::string name_;
    const std::unique_ptr<Loaded<nixlBackendPlugin>> file_;
    const nixlBackendPlugin &object_;
    const nixlx_plugin_descriptor_t *const descriptor_;
    // Set before anyone else sees the object:
    Identity identity_;
    std::string version_;
    nixl_b_params_t options_;
    nixl_mem_list_t memories_;
    std::vector<std::string> conflicts_;
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
    return Backend::create(builtin.name, *object, builtin.descriptor, nullptr);
}

Result<std::unique_ptr<Backend>>
fromFile(const std::string &name, std::unique_ptr<Loaded<nixlBackendPlugin>> file) {
    const nixlx_plugin_descriptor_t *descriptor = nullptr;
    if (file->library().identity()) {
        descriptor = static_cast<const nixlx_plugin_descriptor_t *>(file->library().symbol("nixlx_plugin_descriptor"));
    }
    const auto &object = file->object();
    return Backend::create(name, object, descriptor, std::move(file));
}

const BuiltinPlugin *
findBuiltin(const std::string &name) {
    for (const auto &builtin : builtinPlugins()) {
        if (name == builtin.name) return &builtin;
    }
    return nullptr;
}

} // namespace

struct Manager::State {
    State(std::vector<std::string> directories, std::map<std::string, std::string> listed)
        : catalog(kBackend, std::move(directories), std::move(listed)) {}

    /// Makes the plugin. Takes the mutex for moments only.
    Result<std::unique_ptr<Backend>>
    make(const std::string &name);

    Result<std::string>
    findLocked(const std::string &name) const;

    /// `name` is neither loaded nor being loaded or unloaded any more.
    void
    forget(const std::string &name);

    // Guarded by mutex:
    std::mutex mutex;
    std::condition_variable changed;
    Status broken; ///< why the configuration is unusable
    Catalog catalog;
    /// An entry whose plugin is gone is one that is being loaded or unloaded: wait for the change.
    std::map<std::string, std::weak_ptr<const BackendPlugin>> plugins;
    std::set<std::string> noted; ///< plugins without a descriptor that were mentioned
};

Result<std::string>
Manager::State::findLocked(const std::string &name) const {
    auto path = catalog.find(name);
    if (path.ok()) return path;
    for (const auto &other : catalog.names()) {
        if (::strcasecmp(other.c_str(), name.c_str()) == 0) {
            return {path.code(),
                    path.message() + "; names are case-sensitive: did you mean " + nx::quoted(other) + "?"};
        }
    }
    return path;
}

void
Manager::State::forget(const std::string &name) {
    std::lock_guard lock(mutex);
    plugins.erase(name);
    changed.notify_all();
}

Result<std::unique_ptr<Backend>>
Manager::State::make(const std::string &name) {
    if (const auto *builtin = findBuiltin(name)) return fromTable(*builtin);
    auto path = [&] {
        std::lock_guard lock(mutex);
        return findLocked(name);
    }();
    if (!path.ok()) return std::move(path).status();
    auto loaded = Loaded<nixlBackendPlugin>::load(kBackend, name, *path);
    if (!loaded.ok()) return std::move(loaded).status();
    const bool legacy = !loaded->library().identity();
    if (legacy && [&] {
            std::lock_guard lock(mutex);
            return noted.insert(name).second;
        }()) {
        NIXL_INFO << "plugin " << nx::quoted(*path, 300) << " has no descriptor: used as one written for NIXL 1.4";
    }
    return fromFile(name, std::make_unique<Loaded<nixlBackendPlugin>>(*std::move(loaded)));
}

Manager &
Manager::instance() {
    // Never destroyed: agents of static storage may go after everything here.
    static Manager &manager = *[] {
        auto directory = defaultPluginDirectory();
        auto listed = configuredPluginList();
        auto made = std::make_unique<Manager>(std::vector<std::string>{});
        made->state_ = std::make_shared<State>(directory.ok() ? std::vector{*directory} : std::vector<std::string>{},
                                               listed.ok() ? *listed : std::map<std::string, std::string>{});
        made->state_->broken = directory.ok() ? std::move(listed).status() : std::move(directory).status();
        return made.release();
    }();
    return manager;
}

Manager::Manager(std::vector<std::string> directories)
    : state_(std::make_shared<State>(std::move(directories), std::map<std::string, std::string>{})) {}

Manager::~Manager() = default;

std::vector<std::string>
Manager::available() const {
    std::set<std::string> names;
    for (const auto &builtin : builtinPlugins()) names.insert(builtin.name);
    std::lock_guard lock(state_->mutex);
    for (auto &name : state_->catalog.names()) names.insert(std::move(name));
    for (const auto &[name, plugin] : state_->plugins) {
        if (!plugin.expired()) names.insert(name);
    }
    return {names.begin(), names.end()};
}

Result<std::shared_ptr<const BackendPlugin>>
Manager::load(const std::string &name) {
    {
        std::unique_lock lock(state_->mutex);
        if (!state_->broken.ok()) return {state_->broken.code(), state_->broken.message()};
        for (;;) {
            const auto it = state_->plugins.find(name);
            if (it == state_->plugins.end()) break;
            if (auto plugin = it->second.lock()) return plugin;
            state_->changed.wait(lock);
        }
        state_->plugins[name]; // being loaded
    }
    try {
        auto made = state_->make(name);
        if (!made.ok()) {
            state_->forget(name);
            return std::move(made).status();
        }
        // The entry goes after the plugin, so that nobody loads it again while it is being unloaded.
        std::shared_ptr<const BackendPlugin> plugin(made->release(), [state = state_, name](const BackendPlugin *gone) {
            delete gone;
            state->forget(name);
        });
        std::lock_guard lock(state_->mutex);
        state_->plugins[name] = plugin;
        state_->changed.notify_all();
        return plugin;
    }
    catch (...) {
        state_->forget(name);
        throw;
    }
}

Status
Manager::addDirectory(const std::string &directory) {
    std::lock_guard lock(state_->mutex);
    return state_->catalog.addDirectory(directory);
}

std::vector<std::string>
Manager::loaded() const {
    std::lock_guard lock(state_->mutex);
    std::vector<std::string> names;
    for (const auto &[name, plugin] : state_->plugins) {
        if (!plugin.expired()) names.push_back(name);
    }
    return names;
}

} // namespace nx::plugin
