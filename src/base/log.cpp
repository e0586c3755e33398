// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iterator>
#include <string_view>
#include <strings.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/config.h"
#include "base/error.h"
#include "utils/common/nixl_log.h"

namespace {

using nixlx::LogLevel;

struct LevelName {
    const char *name;
    LogLevel level;
};

constexpr LevelName kLevels[] = {{"TRACE", LogLevel::kTrace}, {"DEBUG", LogLevel::kDebug}, {"INFO", LogLevel::kInfo},
                                 {"WARN", LogLevel::kWarn},   {"ERROR", LogLevel::kError}, {"FATAL", LogLevel::kFatal}};

constexpr int kUnset = -1;
std::atomic<int> threshold{kUnset};

const char *
baseName(const char *path) {
    const char *slash = std::strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// Allocates nothing: it may be the lack of memory that is told.
void
writeLine(LogLevel level, const char *file, int line, std::string_view text) noexcept {
    static constexpr char kLetters[] = {'I', 'I', 'I', 'W', 'E', 'F'};
    timeval now{};
    gettimeofday(&now, nullptr);
    tm local{};
    localtime_r(&now.tv_sec, &local);
    char head[160];
    const int length = std::snprintf(head, sizeof head, "%c%02d%02d %02d:%02d:%02d.%06ld %7ld %s:%d] ",
                                     kLetters[static_cast<int>(level)], local.tm_mon + 1, local.tm_mday, local.tm_hour,
                                     local.tm_min, local.tm_sec, static_cast<long>(now.tv_usec),
                                     static_cast<long>(syscall(SYS_gettid)), baseName(file), line);
    const auto part = [](std::string_view bytes) { return iovec{const_cast<char *>(bytes.data()), bytes.size()}; };
    const iovec parts[] = {part({head, std::min(static_cast<size_t>(length), sizeof head - 1)}), part(text),
                           part(text.ends_with('\n') ? "" : "\n")};
    // One write per line, so that lines of several threads do not mix.
    [[maybe_unused]] const auto written = ::writev(STDERR_FILENO, parts, std::size(parts));
}

int
initialThreshold() {
    const auto name = nx::environment("NIXL_LOG_LEVEL");
    if (!name || name->empty()) return static_cast<int>(LogLevel::kWarn);
    for (const auto &entry : kLevels) {
        if (strcasecmp(entry.name, name->c_str()) == 0) return static_cast<int>(entry.level);
    }
    writeLine(LogLevel::kWarn, __FILE__, __LINE__,
              "NIXL_LOG_LEVEL is " + nx::quoted(*name) + ", which is none of TRACE, DEBUG, INFO, WARN, ERROR, FATAL; " +
                  "using WARN");
    return static_cast<int>(LogLevel::kWarn);
}

} // namespace

namespace nixlx {

bool
logEnabled(LogLevel level) noexcept {
    int current = threshold.load(std::memory_order_relaxed);
    if (current == kUnset) {
        const int initial = initialThreshold();
        if (threshold.compare_exchange_strong(current, initial)) current = initial;
    }
    return static_cast<int>(level) >= current;
}

LogLine::~LogLine() {
    writeLine(level_, file_, line_, text_.fail() ? "(no memory for the text of this line)" : text_.view());
    if (level_ == LogLevel::kFatal) std::abort();
}

} // namespace nixlx

std::string
nixl_strerror(int errnum) {
    char buffer[128];
    return strerror_r(errnum, buffer, sizeof buffer);
}
