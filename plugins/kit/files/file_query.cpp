// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "kit/files/file_query.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>
#include <system_error>

#include "base/thread.h"
#include "kit/files/file_path.h"
#include "nixlx/engine.h"

namespace nx::kit {
namespace {

/// A server answers so many at once; more threads than processors, because they wait.
constexpr size_t kThreadsMax = 32;
/// Fewer names are not worth a thread of their own.
constexpr size_t kNamesPerThreadMin = 64;
/// Names that a thread takes at a time: few, since one of them may be slow.
constexpr size_t kNamesAtOnce = 16;

bool
isShortage(int error) noexcept {
    return error == EMFILE || error == ENFILE || error == ENOMEM;
}

/// 0, also if there is no answer; or the errno of a shortage.
int
answer(const nixl_blob_t &name, const LookAtPath &look, nixl_query_resp_t &out) {
    const auto parsed = parseFilePath(name);
    const std::string &path = parsed.ok() && *parsed ? (*parsed)->path : name;
    if (path.empty() || path.find('\0') != path.npos) return 0;
    struct stat info;
    const int error = look(path, info);
    if (error != 0) return isShortage(error) ? error : 0;
    out.emplace(nixl_b_params_t{{"size", std::to_string(info.st_size)},
                                {"mode", std::to_string(info.st_mode)},
                                {"mtime", std::to_string(info.st_mtime)}});
    return 0;
}

} // namespace

nixl_status_t
queryPaths(const nixl_reg_dlist_t &names, const LookAtPath &look, std::vector<nixl_query_resp_t> &answers) {
    const auto count = static_cast<size_t>(names.descCount());
    std::vector<nixl_query_resp_t> found(count);
    std::atomic<size_t> next = 0;
    std::atomic<int> shortage = 0;
    const auto work = [&] {
        try {
            while (shortage.load(std::memory_order_relaxed) == 0) {
                const size_t begin = next.fetch_add(kNamesAtOnce, std::memory_order_relaxed);
                if (begin >= count) return;
                for (size_t i = begin; i < std::min(begin + kNamesAtOnce, count); ++i) {
                    const int error = answer(names[static_cast<unsigned>(i)].metaInfo, look, found[i]);
                    if (error != 0) shortage.store(error, std::memory_order_relaxed);
                }
            }
        }
        catch (const std::bad_alloc &) {
            shortage.store(ENOMEM, std::memory_order_relaxed);
        }
    };
    {
        std::vector<Thread> helpers;
        helpers.reserve(kThreadsMax);
        try {
            while (helpers.size() + 1 < std::min(kThreadsMax, count / kNamesPerThreadMin)) {
                helpers.emplace_back("nixl-query", work);
            }
        }
        catch (const std::system_error &) {
            // Those that started do the work.
        }
        work();
    }
    if (shortage != 0) return nixlx::fail(NIXL_ERR_NO_MEMORY, withErrno("paths cannot be looked at", shortage));
    answers = std::move(found);
    return NIXL_SUCCESS;
}

} // namespace nx::kit
