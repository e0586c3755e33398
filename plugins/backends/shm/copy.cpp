// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/copy.h"

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nx::shm {

namespace {

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void
stream512(std::byte *to, const std::byte *from, size_t lines) {
    for (; lines > 0; to += 64, from += 64, --lines) {
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to), _mm512_loadu_si512(from));
    }
}

__attribute__((target("avx2"))) void
stream256(std::byte *to, const std::byte *from, size_t lines) {
    for (; lines > 0; to += 64, from += 64, --lines) {
        const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
        const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + 32));
        _mm256_stream_si256(reinterpret_cast<__m256i *>(to), a);
        _mm256_stream_si256(reinterpret_cast<__m256i *>(to + 32), b);
    }
}

/// Copies whole cache lines to an aligned address; null: this processor has nothing better than memcpy.
auto
streamOfThisProcessor() noexcept -> void (*)(std::byte *, const std::byte *, size_t) {
    if (__builtin_cpu_supports("avx512f")) return stream512;
    if (__builtin_cpu_supports("avx2")) return stream256;
    return nullptr;
}
#endif

constexpr size_t kStreamBytesMin = 4096; // of one piece

/// What stands in the way where the system refuses, as far as it tells.
std::string
reason(int error) {
    if (error == EPERM) {
        char scope = '0';
        std::ifstream("/proc/sys/kernel/yama/ptrace_scope") >> scope;
        if (scope != '0') {
            const char *const whom = scope == '1' ? "parents and debuggers" : "administrators, or to nobody";
            return std::string("the system allows it only to ") + whom + " (kernel.yama.ptrace_scope is " + scope + ")";
        }
        return "the system does not allow it (the other process is not dumpable or another user's, or a container's "
               "seccomp filter, user namespace or missing CAP_SYS_PTRACE forbids it)";
    }
    if (error == ENOSYS) return "the system has no such call (a container's seccomp filter may hide it)";
    return withErrno("process_vm_readv and process_vm_writev", error);
}

/// So many bytes from the piece at `first` on are done.
void
advance(iovec *pieces, size_t &first, size_t bytes) noexcept {
    while (bytes > 0) {
        iovec &piece = pieces[first];
        const size_t count = std::min(bytes, piece.iov_len);
        piece.iov_base = static_cast<std::byte *>(piece.iov_base) + count;
        piece.iov_len -= count;
        bytes -= count;
        if (piece.iov_len == 0) ++first;
    }
}

void
append(iovec *pieces, size_t &count, uint64_t address, size_t bytes) noexcept {
    iovec &last = pieces[count];
    if (count > 0 && reinterpret_cast<uint64_t>(last.iov_base) + last.iov_len == address) {
        last.iov_len += bytes;
    } else {
        pieces[++count] = {reinterpret_cast<void *>(address), bytes};
    }
}

} // namespace

void
copyBytes(void *to, const void *from, size_t bytes, bool streaming) noexcept {
#if defined(__x86_64__)
    static const auto stream = streamOfThisProcessor();
    if (streaming && bytes >= kStreamBytesMin && stream) {
        auto *const out = static_cast<std::byte *>(to);
        const auto *const in = static_cast<const std::byte *>(from);
        const size_t ragged = -reinterpret_cast<uintptr_t>(out) % 64;
        const size_t lines = (bytes - ragged) / 64;
        const size_t done = ragged + 64 * lines;
        std::memcpy(out, in, ragged);
        stream(out + ragged, in + ragged, lines);
        std::memcpy(out + done, in + done, bytes - done);
        _mm_sfence();
        return;
    }
#endif
    std::memcpy(to, from, bytes);
}

// ---- Copies by the kernel ------------------------------------------------------------------------------------------

void
KernelCopy::Pieces::add(uint64_t local, uint64_t remote, size_t bytes) noexcept {
    if (bytes == 0) return;
    // Each side is a stream of bytes for the kernel: what joins on one need not on the other.
    append(local_.data(), local_count_, local, bytes);
    append(remote_.data(), remote_count_, remote, bytes);
}

ssize_t
KernelCopy::call(bool write, std::span<const iovec> local, std::span<const iovec> remote) const noexcept {
    return write ? ::process_vm_writev(process_, local.data(), local.size(), remote.data(), remote.size(), 0)
                 : ::process_vm_readv(process_, local.data(), local.size(), remote.data(), remote.size(), 0);
}

Status
KernelCopy::probe() const {
    const std::string number = std::to_string(process_);
    const auto refused = [&number](int error) -> Status {
        return {NIXL_ERR_NOT_SUPPORTED, "memory cannot be copied to and from process " + number + ": " + reason(error)};
    };
    if (process_ <= 0) {
        return {NIXL_ERR_NOT_SUPPORTED,
                "memory cannot be copied between processes that do not see each other (another PID namespace)"};
    }
    std::array<char, kTokenBytes> bytes{};
    const iovec here{bytes.data(), bytes.size()}, there{reinterpret_cast<void *>(board_.token), bytes.size()};
    const ssize_t copied = call(false, {&here, 1}, {&there, 1});
    if (copied < 0 && errno != ESRCH && errno != EFAULT) return refused(errno);
    if (copied != static_cast<ssize_t>(bytes.size()) || bytes != board_.token_bytes) {
        return {NIXL_ERR_MISMATCH,
                "process " + number +
                    " is not the one whose memory it should be: that has ended or runs another program"};
    }
    char byte = 0;
    const iovec own{&byte, 1}, guard{reinterpret_cast<void *>(board_.guard), 1};
    if (call(true, {&own, 1}, {&guard, 1}) < 0) return refused(errno);
    return {};
}

KernelCopy::Outcome
KernelCopy::copy(bool write, Pieces &pieces) const {
    Outcome outcome;
    char byte = 0; // what the guard holds does not matter
    for (size_t local = 1, remote = 1; remote <= pieces.remote_count_;) {
        // The guard takes the place of what is done.
        pieces.local_[local - 1] = {&byte, 1};
        pieces.remote_[remote - 1] = {reinterpret_cast<void *>(board_.guard), 1};
        const ssize_t copied = call(write, {&pieces.local_[local - 1], &pieces.local_[pieces.local_count_] + 1},
                                    {&pieces.remote_[remote - 1], &pieces.remote_[pieces.remote_count_] + 1});
        if (copied < 1) {
            const int error = copied < 0 ? errno : EFAULT;
            outcome.gone = error == ESRCH || error == EFAULT;
            outcome.refused = error == EPERM || error == ENOSYS;
            outcome.why = outcome.gone ? "the process has ended, or runs another program" : reason(error);
            return outcome;
        }
        const auto bytes = static_cast<size_t>(copied) - 1;
        outcome.bytes += bytes;
        advance(pieces.local_.data(), local, bytes);
        advance(pieces.remote_.data(), remote, bytes);
        if (bytes == 0) {
            char text[200];
            std::snprintf(text, sizeof text,
                          "0x%" PRIxPTR " here or 0x%" PRIxPTR
                          " there is no memory that can be %s, or not any more; was "
                          "it freed before it was deregistered?",
                          reinterpret_cast<uintptr_t>(pieces.local_[local].iov_base),
                          reinterpret_cast<uintptr_t>(pieces.remote_[remote].iov_base),
                          write ? "read here and written there" : "written here and read there");
            outcome.why = text;
            return outcome;
        }
    }
    return outcome;
}

} // namespace nx::shm
