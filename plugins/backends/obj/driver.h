// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The AWS CRT: event loops, connections, TLS, signatures, credentials. No other file sees its headers. What is called
// back runs on a thread of its event loops, which have all signals blocked; the rest may be called from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "obj/options.h"

namespace nx::obj {

/// Of the profile that the environment chooses; empty: it has none.
std::string
regionOfProfile();

/// Continues a CRC-32C.
uint32_t
crc32c(const void *data, size_t size, uint32_t previous) noexcept;

/// As the headers of S3 have it.
std::string
base64Of(uint32_t crc);

struct HttpRequest {
    const char *method = "";
    std::string target; ///< path and query, encoded
    std::vector<std::pair<const char *, std::string>> headers = {};
    uint64_t body_bytes = 0;
};

/// Who sends a request over a Line and gets the answer. One call at a time, onEnd() the last one.
class Receiver {
public:
    /// The next bytes of the body, from its beginning when `position` is 0: at most `size`, at least 1.
    virtual size_t
    fill(uint64_t position, char *room, size_t size) noexcept = 0;
    virtual void
    onHeader(int http, std::string_view name, std::string_view value) = 0;
    virtual void
    onBody(const char *data, size_t size) = 0;
    /// Nobody refers to the request or the receiver's memory any more. 0, or the CRT's error.
    virtual void
    onEnd(int error) noexcept = 0;

protected:
    ~Receiver() = default;
};

struct Failure {
    bool again; ///< it may do next time
    nixl_status_t status;
    std::string reason;
};

/// What an error of onEnd() means.
Failure
failureOf(int error);

class Driver;

/// Sends one request after another, over a connection that is kept between them. send() and rest() are called while
/// nothing is under way, close() at any time.
class Line {
public:
    Line(Driver &driver, Receiver &receiver);
    ~Line();
    Line(const Line &) = delete;

    /// The receiver's onEnd() follows, never from within.
    void
    send(HttpRequest request);

    /// What is under way is to end. True: nothing has been sent, nor will be; onEnd() comes all the same, when whoever
    /// connects has an answer.
    bool
    close() noexcept;

    /// A request waits for a connection.
    bool
    connects() const noexcept;

    /// Gives the connection back, for others.
    void
    rest() noexcept;

private:
    struct State;
    const std::unique_ptr<State> state_;
};

class Driver {
public:
    /// BACKEND, or INVALID_PARAM for certificates that cannot be read. Reaches nobody yet.
    static Result<std::unique_ptr<Driver>>
    open(const Options &options);

    /// Nothing connects any more: who waits for a connection does not get one.
    void
    stopConnecting() noexcept;

    /// The error of a TLS handshake since the last call; 0: there was none. It comes long before whoever waits for the
    /// connection is told: s2n keeps those that failed, for up to half a minute, so that nobody can measure why.
    int
    takeTlsFailure() noexcept;

    /// Requires that no Line exists and nothing is to run. Waits until `deadline` for what the CRT still does; what is
    /// not done by then ends by itself.
    void
    close(std::chrono::steady_clock::time_point deadline) noexcept;
    ~Driver();

    /// Calls `body` soon, or after that time, once. An exception ends the process.
    void
    run(std::function<void()> body, std::chrono::milliseconds after = {});

    /// There are credentials to sign with. If not they are looked for, and `then` is called when that has ended: with
    /// a failure, or for credentialsReady() to be asked again.
    bool
    credentialsReady(std::function<void(Status)> then);

    /// Those that are had are not good any more.
    void
    dropCredentials() noexcept;

    /// Signs with the time of this header ("Date") from now on.
    void
    setClock(const std::string &date) noexcept;

private:
    friend class Line;
    struct State;
    explicit Driver(std::shared_ptr<State> state);
    const std::shared_ptr<State> state_; ///< what the CRT calls back has it, too
};

} // namespace nx::obj
