// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "plugin/loader.h"

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/ownership.h"

namespace nx::plugin {

namespace {

Status
refused(const std::string &path, const std::string &why) {
    return {NIXL_ERR_BACKEND, "plugin " + nx::quoted(path, 300) + " is refused: " + why};
}

/// Code that somebody else can replace is not loaded.
Status
checkOwner(const std::string &path, const std::string &thing, const struct stat &info) {
    const std::string problem = changeableByOthers(thing, info);
    return problem.empty() ? Status() : refused(path, problem);
}

/// "is 2, this library has 1"
Status
differs(const char *field, const std::string &theirs, const std::string &ours) {
    return {NIXL_ERR_BACKEND, "its descriptor's " + std::string(field) + " is " + theirs + ", expected " + ours};
}

} // namespace

std::string
fileName(const Kind &kind, const std::string &name) {
    return kind.prefix + name + kind.suffix;
}

Status
checkIdentity(const Kind &kind, const std::string &name, const Identity &identity) {
    const auto number = [](uint64_t value) { return std::to_string(value); };
    if (identity.magic != NIXLX_PLUGIN_MAGIC) {
        return differs("magic", number(identity.magic), number(NIXLX_PLUGIN_MAGIC));
    }
    const auto version = [](uint32_t value) {
        return std::to_string(value >> 16) + "." + std::to_string(value & 0xffff);
    };
    if (identity.api_version >> 16 != NIXLX_PLUGIN_API_MAJOR) {
        return differs("api_version", version(identity.api_version),
                       version(NIXLX_PLUGIN_API_VERSION) + " or another with the same first number");
    }
    // Fields are only ever appended, so a larger one is a newer one.
    if (identity.struct_size < kDescriptorBytesMin) {
        return differs("struct_size", number(identity.struct_size), "at least " + number(kDescriptorBytesMin));
    }
    if (identity.abi != NIXLX_ABI_TAG) return differs("abi", nx::quoted(identity.abi), nx::quoted(NIXLX_ABI_TAG));
    if (identity.kind != kind.name) return differs("kind", nx::quoted(identity.kind), nx::quoted(kind.name));
    if (identity.name != name)
        return differs("name", nx::quoted(identity.name), nx::quoted(name) + " as in its file name");
    return {};
}

Result<Library>
Library::open(const Kind &kind, const std::string &name, const std::string &path) {
    char resolved[PATH_MAX];
    if (!::realpath(path.c_str(), resolved)) {
        const auto code = errno == ENOENT || errno == ENOTDIR ? NIXL_ERR_NOT_FOUND : NIXL_ERR_BACKEND;
        return {code, "Plugin file does not exist: " + withErrno(nx::quoted(path, 300), errno)};
    }
    const std::string file = resolved;
    const std::string directory = file.substr(0, file.rfind('/') + 1);
    const Fd fd(::open(resolved, O_RDONLY | O_CLOEXEC | O_NONBLOCK)); // a FIFO must not block us
    struct stat info;
    if (!fd || ::fstat(fd.get(), &info) != 0) return refused(file, withErrno("open", errno));
    if (!S_ISREG(info.st_mode)) return refused(file, "it is no regular file");
    if (auto status = checkOwner(file, "it", info); !status.ok()) return status;
    if (::stat(directory.c_str(), &info) != 0)
        return refused(file, withErrno("stat " + nx::quoted(directory, 300), errno));
    if (auto status = checkOwner(file, "its folder", info); !status.ok()) return status;

    auto identity = readIdentity(fd.get());
    if (!identity.ok()) return refused(file, identity.message());
    if (*identity) {
        if (auto status = checkIdentity(kind, name, **identity); !status.ok()) return refused(file, status.message());
    } else if (kind.needs == Needs::kBoth) {
        return refused(file, std::string("it has no descriptor, as every ") + kind.name + " must (nixlx/engine.h)");
    }
    void *handle = ::dlopen(resolved, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle) {
        const char *why = ::dlerror();
        return {NIXL_ERR_BACKEND,
                "plugin " + nx::quoted(file, 300) + " cannot be loaded: " + (why ? why : "no reason given")};
    }
    return Library(handle, file, *std::move(identity));
}

Library::Library(Library &&other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)),
      path_(std::move(other.path_)),
      identity_(std::move(other.identity_)) {}

Library::~Library() {
    if (handle_) ::dlclose(handle_);
}

void *
Library::symbol(const char *symbol) const noexcept {
    return ::dlsym(handle_, symbol);
}

} // namespace nx::plugin
