// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/close_on_exec.h"

#include <array>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <link.h>
#include <span>
#include <string>
#include <string_view>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

namespace nx::ucx {

namespace {

// ---- What is called instead: the same with close-on-exec ------------------------------------------------------------

int
openIt(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    const bool creates = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
    const mode_t mode = creates ? va_arg(more, mode_t) : 0;
    va_end(more);
    return ::open(path, flags | O_CLOEXEC, mode);
}

FILE *
fopenIt(const char *path, const char *mode) {
    return std::fopen(path, (std::string(mode) + "e").c_str());
}

int
socketIt(int domain, int type, int protocol) {
    return ::socket(domain, type | SOCK_CLOEXEC, protocol);
}

int
acceptIt(int listener, sockaddr *address, socklen_t *size) {
    return ::accept4(listener, address, size, SOCK_CLOEXEC);
}

int
pipeIt(int ends[2]) {
    return ::pipe2(ends, O_CLOEXEC);
}

int
epollCreateIt(int) {
    return ::epoll_create1(EPOLL_CLOEXEC);
}

int
eventfdIt(unsigned count, int flags) {
    return ::eventfd(count, flags | EFD_CLOEXEC);
}

int
timerfdCreateIt(int clock, int flags) {
    return ::timerfd_create(clock, flags | TFD_CLOEXEC);
}

struct Replacement {
    std::string_view name;
    const void *function;
};

const std::array kReplacements{
    Replacement{"open", reinterpret_cast<const void *>(&openIt)},
    Replacement{"open64", reinterpret_cast<const void *>(&openIt)},
    Replacement{"fopen", reinterpret_cast<const void *>(&fopenIt)},
    Replacement{"fopen64", reinterpret_cast<const void *>(&fopenIt)},
    Replacement{"socket", reinterpret_cast<const void *>(&socketIt)},
    Replacement{"accept", reinterpret_cast<const void *>(&acceptIt)},
    Replacement{"pipe", reinterpret_cast<const void *>(&pipeIt)},
    Replacement{"epoll_create", reinterpret_cast<const void *>(&epollCreateIt)},
    Replacement{"eventfd", reinterpret_cast<const void *>(&eventfdIt)},
    Replacement{"timerfd_create", reinterpret_cast<const void *>(&timerfdCreateIt)},
};

// ---- Where the libraries look for them: the global offset table -----------------------------------------------------

#if defined(__x86_64__)
constexpr unsigned kJumpSlot = R_X86_64_JUMP_SLOT, kGlobalData = R_X86_64_GLOB_DAT;
#elif defined(__aarch64__)
constexpr unsigned kJumpSlot = R_AARCH64_JUMP_SLOT, kGlobalData = R_AARCH64_GLOB_DAT;
#else
#error "which relocations fill the global offset table of this machine?"
#endif

/// A library that is loaded.
class Image {
public:
    explicit Image(const dl_phdr_info &info) : base_(info.dlpi_addr) {
        for (const auto &header : std::span(info.dlpi_phdr, info.dlpi_phnum)) {
            if (header.p_type == PT_GNU_RELRO) {
                read_only_ = base_ + header.p_vaddr;
                read_only_end_ = read_only_ + header.p_memsz;
            } else if (header.p_type == PT_DYNAMIC) {
                for (auto *entry = at<const ElfW(Dyn)>(header.p_vaddr); entry->d_tag != DT_NULL; ++entry) {
                    read(*entry);
                }
            }
        }
    }

    void
    replaceCalls() const {
        if (!symbols_ || !names_) return;
        for (const auto &relocations : {calls_, others_}) {
            for (const ElfW(Rela) & each : relocations) {
                const auto type = ELF64_R_TYPE(each.r_info);
                if (type != kJumpSlot && type != kGlobalData) continue;
                const std::string_view name = names_ + symbols_[ELF64_R_SYM(each.r_info)].st_name;
                for (const Replacement &replacement : kReplacements) {
                    if (name == replacement.name) write(at<const void *>(each.r_offset), replacement.function);
                }
            }
        }
    }

private:
    template<class T>
    T *
    at(uintptr_t offset) const {
        return reinterpret_cast<T *>(base_ + offset);
    }

    void
    read(const ElfW(Dyn) & entry) {
        // The loader has made addresses of these.
        const auto *const table = reinterpret_cast<const ElfW(Rela) *>(entry.d_un.d_ptr);
        const size_t count = entry.d_un.d_val / sizeof(ElfW(Rela));
        switch (entry.d_tag) {
        case DT_SYMTAB: symbols_ = reinterpret_cast<const ElfW(Sym) *>(entry.d_un.d_ptr); break;
        case DT_STRTAB: names_ = reinterpret_cast<const char *>(entry.d_un.d_ptr); break;
        case DT_JMPREL: calls_ = {table, calls_.size()}; break;
        case DT_PLTRELSZ: calls_ = {calls_.data(), count}; break;
        case DT_RELA: others_ = {table, others_.size()}; break;
        case DT_RELASZ: others_ = {others_.data(), count}; break;
        default: break;
        }
    }

    /// One store: others may be calling through it.
    void
    write(const void **slot, const void *function) const {
        const auto address = reinterpret_cast<uintptr_t>(slot);
        const uintptr_t page_size = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
        void *const page = reinterpret_cast<void *>(address & ~(page_size - 1));
        const bool read_only = address >= read_only_ && address < read_only_end_;
        if (read_only && ::mprotect(page, page_size, PROT_READ | PROT_WRITE) != 0) return;
        __atomic_store_n(slot, function, __ATOMIC_RELEASE);
        if (read_only) ::mprotect(page, page_size, PROT_READ);
    }

    const uintptr_t base_;
    uintptr_t read_only_ = 0, read_only_end_ = 0;
    const ElfW(Sym) *symbols_ = nullptr;
    const char *names_ = nullptr;
    std::span<const ElfW(Rela)> calls_, others_;
};

bool
isOfUcx(const std::string &name) {
    for (const auto *each : {"libucp", "libuct", "libucs", "libucm"}) {
        if (name.starts_with(each)) return true;
    }
    return false;
}

} // namespace

void
closeDescriptorsOnExec(const void *symbol) {
    Dl_info info{};
    if (!dladdr(symbol, &info) || !info.dli_fname) return;
    auto folder = std::filesystem::path(info.dli_fname).parent_path();
    dl_iterate_phdr(
        [](dl_phdr_info *loaded, size_t, void *wanted) {
            const auto &folder = *static_cast<std::filesystem::path *>(wanted);
            const std::filesystem::path file = loaded->dlpi_name;
            std::error_code error; // links lead to one folder under two names
            if (isOfUcx(file.filename()) && std::filesystem::equivalent(file.parent_path(), folder, error)) {
                Image(*loaded).replaceCalls();
            }
            return 0;
        },
        &folder);
}

} // namespace nx::ucx
