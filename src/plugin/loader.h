// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Opens one plugin file, the same way for every kind of plugin: trusted owner, descriptor read before any code runs,
// dlopen, init function, API version. A Kind says what differs. Loaded objects are immutable; the functions may be
// called from any thread (the caller sees to it that one plugin is not loaded twice at once).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/boundary.h"
#include "base/error.h"
#include "base/last_error.h"
#include "plugin/elf.h"

namespace nx::plugin {

/// What a plugin of a kind must have: an init function, as all have in NIXL 1.4, a descriptor, either or both.
enum class Needs { kInit, kBoth, kEither };

/// What tells one kind of plugin from another. Constants with static storage.
struct Kind {
    const char *name;   ///< also the descriptor's `kind`: "backend"
    const char *prefix; ///< of the file name, before the plugin's name: "libplugin_"
    const char *suffix; ///< ".so"
    const char *init;   ///< exported function that returns the plugin's object
    const char *fini;   ///< exported function without arguments; a plugin may lack it
    long api_version;   ///< what the object's api_version must be
    Needs needs;
};

/// "libplugin_UCX.so"
std::string
fileName(const Kind &kind, const std::string &name);

/// An open shared object. Closing is formal: RTLD_NODELETE keeps the code, because threads or thread-local
/// destructors of a vendor library may still run in it.
class Library {
public:
    /// Checks owner and descriptor, then opens. NOT_FOUND: no such file; BACKEND: it may not or cannot be used.
    static Result<Library>
    open(const Kind &kind, const std::string &name, const std::string &path);

    Library(Library &&other) noexcept;
    Library &
    operator=(Library &&) = delete;
    ~Library();

    /// With symbolic links resolved.
    const std::string &
    path() const noexcept {
        return path_;
    }

    /// Nothing: a plugin written for NIXL 1.4.
    const std::optional<Identity> &
    identity() const noexcept {
        return identity_;
    }

    /// Null if it is not exported.
    void *
    symbol(const char *symbol) const noexcept;

private:
    Library(void *handle, std::string path, std::optional<Identity> identity)
        : handle_(handle),
          path_(std::move(path)),
          identity_(std::move(identity)) {}

    void *handle_;
    std::string path_;
    std::optional<Identity> identity_;
};

/// BACKEND, naming the differing field and both values, unless `identity` is a descriptor that we can use.
Status
checkIdentity(const Kind &kind, const std::string &name, const Identity &identity);

/// Calls into a plugin, which may throw: nx::guarded() as a Status.
template<class Call>
Status
guarded(const std::string &what, Call &&call) {
    clearBackendSentence();
    const auto status = nx::guarded(what.c_str(), [&] { call(); });
    return status < 0 ? Status(status, takeBackendSentence(what + " failed")) : Status();
}

/// A library whose init function, if it needs one, has run. `Object` is what that returns: a class with a member
/// `api_version`. The fini function runs when this goes.
template<class Object> class Loaded {
public:
    static Result<Loaded>
    load(const Kind &kind, const std::string &name, const std::string &path) {
        auto library = Library::open(kind, name, path);
        if (!library.ok()) return std::move(library).status();
        const std::string where = "plugin " + nx::quoted(library->path(), 300);
        const auto init = reinterpret_cast<Object *(*)()>(library->symbol(kind.init));
        if (!init && kind.needs == Needs::kEither && library->identity())
            return Loaded(*std::move(library), kind.fini, nullptr);
        if (!init) {
            return {NIXL_ERR_BACKEND,
                    where + " does not export " + kind.init + ", so it is no " + kind.name + " plugin"};
        }
        const Object *object = nullptr;
        if (auto status = guarded(where + ": " + kind.init, [&] { object = init(); }); !status.ok()) return status;
        if (!object) return {NIXL_ERR_BACKEND, where + ": " + kind.init + " returned null"};
        Loaded loaded(*std::move(library), kind.fini, object);
        if (const auto found = static_cast<long>(object->api_version); found != kind.api_version) {
            return {NIXL_ERR_BACKEND,
                    where + ": api_version is " + std::to_string(found) + ", this library has " +
                        std::to_string(kind.api_version) + "; rebuild the plugin"};
        }
        return loaded;
    }

    Loaded(Loaded &&other) noexcept
        : library_(std::move(other.library_)),
          fini_(other.fini_),
          object_(std::exchange(other.object_, nullptr)) {}
    Loaded &
    operator=(Loaded &&) = delete;

    ~Loaded() {
        if (!object_) return;
        const auto fini = reinterpret_cast<void (*)()>(library_.symbol(fini_));
        // Nobody is left who could be told of an exception.
        if (fini) (void)guarded(fini_, fini);
    }

    /// Null if the library has no init function and needs none.
    const Object *
    object() const noexcept {
        return object_;
    }

    const Library &
    library() const noexcept {
        return library_;
    }

private:
    Loaded(Library library, const char *fini, const Object *object)
        : library_(std::move(library)),
          fini_(fini),
          object_(object) {}

    Library library_;
    const char *fini_;
    const Object *object_;
};

} // namespace nx::plugin
