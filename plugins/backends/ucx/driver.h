// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// UCX behind an interface of ours; driver.cpp is the only file that includes its headers. UCX is loaded at run time
// and never unloaded: it keeps threads' exit handlers. Compiled against the API of UCX 1.13, runs with any later 1.x.
//
// Library: immutable. Context: self-synchronised. Worker and its Endpoints: guarded by Worker::mutex(); "lock held"
// below means that one.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "kit/progress.h"
#include "ucx/chain.h"

struct ucp_context;
struct ucp_worker;
struct ucp_ep;
struct ucp_mem;
struct ucp_rkey;

namespace nx::ucx {

/// The vendor's status: 0 done, 1 still going on, negative failed.
using Code = int;
inline constexpr Code kDone = 0;
inline constexpr Code kPending = 1;
extern const Code kNotConnected;

nixl_status_t
statusOf(Code code) noexcept;

// ---- The library ---------------------------------------------------------------------------------------------------

struct LibrarySearch {
    std::string path;            ///< if not empty: this file and no other
    std::string named_by;        ///< the option that says so
    std::string expected_soname; ///< if not empty: the loaded file's path must contain it
    bool deep_bind = false;
    bool has_rdma_devices = false;
};

class Library {
public:
    struct Api;

    /// Loads UCX, or gives what is loaded already: `path`, a copy some other part of the process brought, the system's
    /// or the one of a Python package beside us (library_choice.h). BACKEND: none found or too old; the sentence lists
    /// what was tried.
    static Result<const Library *>
    load(const LibrarySearch &search);

    const Api &
    api() const noexcept {
        return *api_;
    }

    const std::string &
    version() const noexcept {
        return version_;
    }

    const std::string &
    path() const noexcept {
        return path_;
    }

    /// Why it was taken, of several that there may be: "the system's".
    const std::string &
    why() const noexcept {
        return why_;
    }

    unsigned
    minorVersion() const noexcept {
        return minor_;
    }

    /// False: it ends the process that destroys a worker which still owes a peer an answer.
    bool
    endsBusyWorkers() const noexcept {
        return minor_ >= 21;
    }

    /// The vendor's text for a code.
    std::string
    text(Code code) const;

    ~Library();

private:
    Library();
    std::unique_ptr<Api> api_;
    std::string version_;
    std::string path_;
    std::string why_;
    unsigned minor_ = 0;
};

// ---- Context: transports and registrations -------------------------------------------------------------------------

/// An option of UCX, without its prefix "UCX_".
struct Setting {
    std::string name;
    std::string value;
    bool from_user = false; ///< set even if UCX may complain about it
};

struct ContextOptions {
    std::string name;
    std::vector<Setting> settings; ///< those of ours that this UCX does not know are left out
};

class Context;

/// Operations refer to it until UCX has ended them.
struct Mapping : std::enable_shared_from_this<Mapping> {
    ucp_mem *handle = nullptr;
    const Context *context = nullptr; ///< workers of others reach the range without the handle, if they need none
    bool host_memory = true;
    std::string key; ///< what a peer needs to reach the range
};

class Context {
public:
    static Result<std::unique_ptr<Context>>
    create(const Library &library, const ContextOptions &options);
    ~Context();
    Context(const Context &) = delete;
    Context &
    operator=(const Context &) = delete;

    const Library &
    library() const noexcept {
        return library_;
    }

    Result<Mapping>
    map(void *address, size_t length);

    void
    unmap(ucp_mem *handle) noexcept;

private:
    friend class Worker;
    Context(const Library &library, ucp_context *handle) : library_(library), handle_(handle) {}

    const Library &library_;
    ucp_context *const handle_;
    Mutex mutex_; ///< serialises registrations
};

// ---- Workers and endpoints -----------------------------------------------------------------------------------------

/// Something UCX works on and will report.
class Operation {
public:
    /// From Worker::progress or from the closing of an endpoint, lock held, once for each call that said kPending.
    /// Called through UCX, and what waits for it must go on: it cannot fail.
    virtual void
    finished(Code code) noexcept = 0;

    const Library::Api *driver_api = nullptr; ///< the driver's own

protected:
    ~Operation() = default;
};

/// An operation whose end interests nobody.
class Forgotten final : public Operation {
public:
    void
    finished(Code) noexcept override {}
};

/// Something that wants to be continued each time its worker makes progress.
class Task {
public:
    /// Lock held. False: finished; the worker forgets it and does not touch it again. It runs where nobody could report
    /// a failure of it.
    virtual bool
    advance() noexcept = 0;

    Task *next = nullptr; ///< of the worker, while that knows it

protected:
    ~Task() = default;
};

class Worker;

/// Receives the active messages of workers. Called through UCX, which nothing may be thrown through: who calls catches.
class MessageSink {
public:
    /// From Worker::progress, lock held. The bytes are valid during the call.
    virtual void
    arrived(std::string_view bytes) = 0;

    /// A message that cannot be taken.
    virtual void
    refused(const char *why) = 0;

    /// As arrived(): `sender` asks to be told when what it has sent before is dealt with. False: it is. True: whoever
    /// deals with it gives `question` to Worker::answer().
    virtual bool
    asked(Worker &worker, std::string_view sender, void *question) = 0;

    /// The worker ends: gives its questions that are not answered yet to Worker::answer().
    virtual void
    giveBack(Worker &worker) noexcept = 0;

protected:
    ~MessageSink() = default;
};

class Endpoint;

class Worker final : public kit::Driven {
public:
    /// More calls of progress() than it takes to work off a full queue; a peer that lives could go on filling it.
    static constexpr int kStepsPerQueue = 1000;

    /// `sink` outlives the worker.
    static Result<std::unique_ptr<Worker>>
    create(Context &context, const std::string &name, MessageSink &sink);
    /// All endpoints are closed before. UCX before 1.21 ends the process if the worker is not idle.
    ~Worker();
    Worker(const Worker &) = delete;
    Worker &
    operator=(const Worker &) = delete;

    kit::HandoverMutex &
    mutex() noexcept NX_RETURN_CAPABILITY(mutex_) {
        return mutex_;
    }

    Context &
    context() noexcept {
        return context_;
    }

    /// How peers reach this worker.
    const std::string &
    address() const noexcept {
        return address_;
    }

    /// -1 once it is retired.
    int
    descriptor() const noexcept override {
        return retired_ ? -1 : event_fd_;
    }

    /// Lock held. Works off what is there, continues tasks, closes failed endpoints. True if anything happened.
    bool
    progress() NX_REQUIRES(mutex_);

    std::optional<bool>
    tryDrive() noexcept override NX_EXCLUDES(mutex_);

    bool
    arm() noexcept override NX_EXCLUDES(mutex_);

    /// Lock held, after a progress() in vain; as arm().
    bool
    armLocked() noexcept NX_REQUIRES(mutex_);

    /// Takes the lock. Nothing that was given to it, or that a peer has asked it for, is still under way.
    bool
    idle() NX_EXCLUDES(mutex_);

    /// Lock held. What connections are open will be closed by force. From now on the worker is idle only if there are
    /// none: a peer may just be connecting back, and UCX before 1.18 ends its process if nobody listens here any more.
    void
    cutOff() noexcept NX_REQUIRES(mutex_) {
        cut_off_ = !endpoints_.empty();
    }

    /// Lock held. Works until nothing happens, a second at most; no effect once it is retired. Copies between processes
    /// are made a few per step, and thousands may be waiting; none of them waits for the peer.
    void
    endCopies() NX_REQUIRES(mutex_);

    /// Lock held. UCX is not driven any more: nothing that peers have sent or will send to this worker is taken in.
    /// Tasks are still continued.
    void
    retire() noexcept NX_REQUIRES(mutex_) {
        retired_ = true;
    }

    /// Lock held.
    bool
    retired() const noexcept {
        return retired_;
    }

    /// Lock held. The objects, which UCX may still refer to, live as long as the worker. Throws std::bad_alloc, having
    /// taken none.
    void
    keep(const std::vector<std::shared_ptr<const void>> &objects) NX_REQUIRES(mutex_) {
        kept_.insert(kept_.end(), objects.begin(), objects.end());
    }

    /// Lock held.
    void
    addTask(Task &task) noexcept NX_REQUIRES(mutex_) {
        tasks_.push(task);
    }

    /// The same without the lock, from any thread; its progress thread is to be nudged afterwards.
    void
    wake(Task &task) noexcept NX_EXCLUDES(calls_mutex_);

    /// Lock held. The task is not continued any more.
    void
    drop(Task &task) NX_REQUIRES(mutex_) NX_EXCLUDES(calls_mutex_);

    /// Without the lock, as wake(). `question` as given to the sink.
    void
    answer(void *question) noexcept NX_EXCLUDES(calls_mutex_);

    /// Lock held. Answers what is asked, now and from now on.
    void
    answerAll() NX_REQUIRES(mutex_);

private:
    friend class Endpoint;
    friend struct Callbacks;
    Worker(Context &context, ucp_worker *handle, MessageSink &sink) : context_(context), handle_(handle), sink_(sink) {}

    void
    closeFailed() NX_REQUIRES(mutex_);
    void
    takeCalls() NX_REQUIRES(mutex_) NX_EXCLUDES(calls_mutex_);
    bool
    ask(std::string_view sender, void *question) NX_REQUIRES(mutex_) NX_EXCLUDES(calls_mutex_);

    Context &context_;
    ucp_worker *const handle_;
    MessageSink &sink_;
    std::string address_;
    int event_fd_ = -1;
    kit::HandoverMutex mutex_ NX_ACQUIRED_BEFORE(calls_mutex_);
    Chain<Task> tasks_ NX_GUARDED_BY(mutex_);
    std::vector<Endpoint *> endpoints_ NX_GUARDED_BY(mutex_); ///< open ones
    bool some_failed_ NX_GUARDED_BY(mutex_) = false;
    std::atomic<bool> retired_{false}; ///< written with mutex_ held
    std::vector<std::shared_ptr<const void>> kept_ NX_GUARDED_BY(mutex_);
    Forgotten forgotten_ NX_GUARDED_BY(mutex_);
    bool answers_at_once_ NX_GUARDED_BY(mutex_) = false;
    size_t asked_ NX_GUARDED_BY(mutex_) = 0; ///< questions that are not answered: for so many there is room below
    std::vector<void *> answering_ NX_GUARDED_BY(mutex_);
    bool cut_off_ NX_GUARDED_BY(mutex_) = false;

    std::atomic<bool> called_{false}; ///< there is something in what follows
    Mutex calls_mutex_;
    Chain<Task> woken_ NX_GUARDED_BY(calls_mutex_);
    std::vector<void *> answered_ NX_GUARDED_BY(calls_mutex_);
};

using WorkerSet = std::vector<std::unique_ptr<Worker>>;

/// One connection of a worker to a peer's worker. All calls: lock held, except the destructor.
class Endpoint {
public:
    /// `address` comes from the peer. `detect_death` off: a vanished peer is never noticed.
    static Result<std::unique_ptr<Endpoint>>
    create(Worker &worker, const std::string &address, bool detect_death);
    /// Takes the worker's lock. Closes at once if still open.
    ~Endpoint();
    Endpoint(const Endpoint &) = delete;
    Endpoint &
    operator=(const Endpoint &) = delete;

    /// Each: kDone, kPending (`operation` hears of the end), or why it could not start.
    Code
    put(const void *from, size_t length, uint64_t to, ucp_rkey *key, const Mapping &mapping, Operation &operation);
    Code
    get(void *to, size_t length, uint64_t from, ucp_rkey *key, const Mapping &mapping, Operation &operation);
    /// Ends when everything put before is visible at the peer.
    Code
    flush(Operation &operation);
    /// `bytes` stay valid until the end.
    Code
    send(std::string_view bytes, Operation &operation);

    /// Asks the peer, one of ours, to be told when it has dealt with all that was sent before. `sender` stays valid
    /// until the end, which is the answer.
    Code
    ask(std::string_view sender, Operation &operation);

    /// `key` comes from the peer.
    Result<ucp_rkey *>
    unpackKey(const std::string &key);

    /// Predicted seconds for a message.
    std::optional<double>
    estimate(size_t bytes) const;

    /// kDone, or why the peer is gone.
    Code
    failure() const noexcept {
        return failure_;
    }

    /// The peer has ended: outstanding operations end with an error. Over shared memory UCX (seen with 1.13 and 1.18)
    /// keeps those that wait for an answer until the worker goes, if the peer left its queue full.
    void
    abandon(Code reason);

    /// Nothing of this connection can arrive any more, once the worker's queue is worked off: the peer is dead, or the
    /// worker is retired.
    bool
    isSilent() const noexcept {
        return died_ || worker_.retired();
    }

    /// Ends the connection: after what was given so far when `orderly`, at once otherwise (outstanding operations end
    /// with an error). Returns immediately.
    void
    close(bool orderly);

    bool
    closed() const noexcept {
        return !handle_;
    }

private:
    friend class Worker;
    friend struct Callbacks;
    Endpoint(Worker &worker, bool detect_death) : worker_(worker), detect_death_(detect_death) {}

    /// The flush of an orderly close. It outlives the endpoint if UCX keeps it for ever.
    struct Farewell final : Operation {
        explicit Farewell(Endpoint &endpoint) : endpoint(&endpoint) {}

        void
        finished(Code code) noexcept override;

        Endpoint *endpoint; ///< null: gone
    };

    void
    closeNow();

    Code
    outcome(void *pointer) const noexcept;

    Worker &worker_;
    const bool detect_death_;
    bool created_ = false; ///< constant after create()
    ucp_ep *handle_ = nullptr;
    Code failure_ = kDone;
    bool died_ = false;
    bool flushed_ = false;
    Farewell *farewell_ = nullptr; ///< while an orderly close waits for its flush
};

/// Gives back what Endpoint::unpackKey made. Takes the lock of the worker.
void
releaseKey(Worker &worker, ucp_rkey *key) noexcept;

} // namespace nx::ucx
