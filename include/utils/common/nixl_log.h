// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Logging macros of the NIXL API, each usable as `NIXL_ERROR << a << b;`. Lines go to stderr in the form
// "E1122 20:12:32.281878   17173 file.cpp:334] text"; NIXL_LOG_LEVEL (TRACE, DEBUG, INFO, WARN, ERROR, FATAL) selects
// the least severe level printed, WARN by default. A disabled line formats nothing.
#pragma once

#include <cerrno>
#include <sstream>
#include <string>

#pragma GCC visibility push(default)

namespace nixlx {

enum class LogLevel : int { kTrace = 0, kDebug = 1, kInfo = 2, kWarn = 3, kError = 4, kFatal = 5 };

/// True when lines of this level are printed.
bool
logEnabled(LogLevel level) noexcept;

/// One line under construction; written when it goes out of scope. A kFatal line ends the process.
class LogLine {
public:
    LogLine(LogLevel level, const char *file, int line) : level_(level), file_(file), line_(line) {}
    LogLine(const LogLine &) = delete;
    LogLine &
    operator=(const LogLine &) = delete;
    ~LogLine();

    std::ostream &
    stream() {
        return text_;
    }

private:
    LogLevel level_;
    const char *file_;
    int line_;
    std::ostringstream text_;
};

/// Turns a stream expression into void, so that it can stand in a conditional expression.
struct LogVoidify {
    void
    operator&(std::ostream &) const noexcept {}
};

} // namespace nixlx

/// Text of an errno value.
std::string
nixl_strerror(int errnum);

#define NIXLX_LOG_AT(level) \
    !::nixlx::logEnabled(level) ? (void)0 : ::nixlx::LogVoidify() & ::nixlx::LogLine(level, __FILE__, __LINE__).stream()

#define NIXL_FATAL NIXLX_LOG_AT(::nixlx::LogLevel::kFatal)
#define NIXL_ERROR NIXLX_LOG_AT(::nixlx::LogLevel::kError)
#define NIXL_WARN NIXLX_LOG_AT(::nixlx::LogLevel::kWarn)
#define NIXL_INFO NIXLX_LOG_AT(::nixlx::LogLevel::kInfo)
#define NIXL_DEBUG NIXLX_LOG_AT(::nixlx::LogLevel::kDebug)
#define NIXL_TRACE NIXLX_LOG_AT(::nixlx::LogLevel::kTrace)

#define NIXLX_PLOG_AT(level) \
    !::nixlx::logEnabled(level) ? (void)0 \
                                : ::nixlx::LogVoidify() & \
            ::nixlx::LogLine(level, __FILE__, __LINE__).stream() << "[" << nixl_strerror(errno) << "] "

#define NIXL_PFATAL NIXLX_PLOG_AT(::nixlx::LogLevel::kFatal)
#define NIXL_PERROR NIXLX_PLOG_AT(::nixlx::LogLevel::kError)
#define NIXL_PWARN NIXLX_PLOG_AT(::nixlx::LogLevel::kWarn)
#define NIXL_PINFO NIXLX_PLOG_AT(::nixlx::LogLevel::kInfo)
#define NIXL_PDEBUG NIXLX_PLOG_AT(::nixlx::LogLevel::kDebug)
#define NIXL_PTRACE NIXLX_PLOG_AT(::nixlx::LogLevel::kTrace)

#define NIXL_ERROR_FUNC NIXL_ERROR << __FUNCTION__ << ": "

#define NIXL_ASSERT_ALWAYS(condition) \
    (condition) ? (void)0 \
                : ::nixlx::LogVoidify() & \
            ::nixlx::LogLine(::nixlx::LogLevel::kFatal, __FILE__, __LINE__).stream() \
                << "check failed: " #condition " "

#ifdef NDEBUG
#define NIXL_ASSERT(condition) \
    (true || (condition)) \
        ? (void)0 \
        : ::nixlx::LogVoidify() & ::nixlx::LogLine(::nixlx::LogLevel::kFatal, __FILE__, __LINE__).stream()
#else
#define NIXL_ASSERT(condition) NIXL_ASSERT_ALWAYS(condition)
#endif

#pragma GCC visibility pop
