// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// A backend outside NIXL's tree: memory to and from files, with pread and pwrite on a few threads. It needs the
// installed headers and the kit only.
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <memory>
#include <mutex>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <kit/cursor.h>
#include <kit/nixl14.h>
#include <kit/params.h>
#include <kit/request_base.h>

namespace {

constexpr uint64_t kPieceBytes = 1 << 20; // small enough that a cancelled request ends soon

/// A registration: memory, which needs nothing, or an open file.
struct Registration final : nixlBackendMD {
    Registration() : nixlBackendMD(true) {}
    ~Registration() override {
        if (fd >= 0) ::close(fd);
    }

    int fd = -1;
    std::string name; ///< for sentences
};

/// A request. Its members are guarded by the pool's mutex.
struct Transfer final : nx::kit::RequestBase {
    explicit Transfer(const nixlx::Plan &plan) : plan(plan) {}

    bool
    hasNext() const {
        return next.blocks_left > 0 && !stopping();
    }

    const nixlx::Plan &plan;
    nx::kit::Cursor next; ///< the first piece that no thread has taken
    unsigned running = 0; ///< pieces that threads work on
};

/// The threads and the requests that wait for them. Self-synchronised.
class Pool {
public:
    explicit Pool(uint64_t thread_count) {
        for (uint64_t i = 0; i < thread_count; ++i) threads_.emplace_back([this] { run(); });
    }
    ~Pool() {
        std::lock_guard lock(mutex_);
        stopping_ = true;
        wake_.notify_all();
    }

    nixl_status_t
    post(Transfer &transfer) {
        std::lock_guard lock(mutex_);
        transfer.next = {transfer.plan.runs.data(), 0, 0, transfer.plan.block_count};
        transfer.begin();
        queue_.push_back(&transfer);
        wake_.notify_all();
        return NIXL_IN_PROG;
    }

private:
    void
    run() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
            if (stopping_) return;
            Transfer &transfer = *queue_.front();
            queue_.pop_front();
            if (transfer.hasNext()) {
                const nx::kit::Cursor piece = transfer.next;
                const uint64_t length = transfer.next.nextLength(kPieceBytes);
                transfer.next.step(length);
                queue_.push_back(&transfer); // for the next piece, or for its end
                ++transfer.running;
                lock.unlock();
                std::string error;
                const bool moved = move(transfer.plan, piece, length, error);
                lock.lock();
                --transfer.running;
                if (moved) transfer.moved(length);
                else transfer.fail(NIXL_ERR_BACKEND, std::move(error));
            }
            if (transfer.hasNext() || transfer.running > 0) continue;
            std::erase(queue_, &transfer);
            transfer.finish(transfer.next.blocks_left == 0);
        }
    }

    /// All bytes of the piece, or why not.
    static bool
    move(const nixlx::Plan &plan, const nx::kit::Cursor &at, uint64_t length, std::string &error) {
        const nixlx::Run &run = *at.run;
        const auto &file = *static_cast<Registration *>(plan.remote_segments[run.remote_segment].metadata);
        auto *memory = reinterpret_cast<char *>(run.local + at.block * run.local_stride + at.offset);
        auto place = static_cast<off_t>(run.remote + at.block * run.remote_stride + at.offset);
        while (length > 0) {
            const ssize_t count = plan.operation == NIXL_READ ? ::pread(file.fd, memory, length, place)
                                                              : ::pwrite(file.fd, memory, length, place);
            if (count < 0 && errno == EINTR) continue;
            if (count <= 0) {
                error = file.name + " at byte " + std::to_string(place) + ": " +
                    (count < 0 ? std::strerror(errno) : "it ends there, before the end of the block");
                return false;
            }
            memory += count;
            place += count;
            length -= static_cast<uint64_t>(count);
        }
        return true;
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<Transfer *> queue_;      ///< guarded by mutex_; each request once
    bool stopping_ = false;             ///< guarded by mutex_
    std::vector<std::jthread> threads_; // last: they use the others, and are joined first
};

class Engine final : public nixlx::Engine, public nixlx::Queries {
public:
    static nixlx::Engine *
    create(const nixlBackendInitParams *params) {
        nx::kit::ParamReader in(params->customParams);
        const uint64_t thread_count = in.number("num_threads", 4, {1, 64});
        if (!in.status().ok()) throw std::invalid_argument(in.status().message());
        return new Engine(thread_count);
    }

    /// A file by its path (metaInfo), made if it is not there; or by an open descriptor (devId).
    nixl_status_t
    registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) override {
        auto made = std::make_unique<Registration>();
        if (memory == FILE_SEG) {
            const std::string &path = mem.metaInfo;
            made->name = path.empty() ? "file descriptor " + std::to_string(mem.devId) : "file " + path;
            made->fd = path.empty() ? ::fcntl(static_cast<int>(mem.devId), F_DUPFD_CLOEXEC, 0)
                                    : ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
            if (made->fd < 0 && !path.empty()) made->fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
            if (made->fd < 0) return nixlx::fail(NIXL_ERR_BACKEND, made->name + ": " + std::strerror(errno));
        }
        out = made.release();
        return NIXL_SUCCESS;
    }
    nixl_status_t
    queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const override {
        for (const auto &desc : descs) {
            struct stat info;
            const bool there = ::stat(desc.metaInfo.c_str(), &info) == 0;
            resp.push_back(there ? nixl_query_resp_t({{"size", std::to_string(info.st_size)}}) : std::nullopt);
        }
        return NIXL_SUCCESS;
    }

    nixl_status_t
    prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *, nixlBackendReqH *&request) override {
        request = new Transfer(plan);
        return NIXL_SUCCESS;
    }
    nixl_status_t
    post(nixlBackendReqH *request, const std::string *) override {
        return pool_.post(*static_cast<Transfer *>(request));
    }
    nixl_status_t
    check(nixlBackendReqH *request) override {
        return static_cast<Transfer *>(request)->outcome();
    }
    void
    cancel(nixlBackendReqH *request) override {
        static_cast<Transfer *>(request)->cancel();
    }
    nixlx::RequestInfo
    describe(const nixlBackendReqH *request) const override {
        return static_cast<const Transfer *>(request)->describe("pread and pwrite");
    }
    std::optional<uint64_t>
    bytesDone(const nixlBackendReqH *request) const override {
        return static_cast<const Transfer *>(request)->bytesDone();
    }
    void *
    ability(std::string_view name, uint32_t version) noexcept override {
        return nixlx::offer<Queries>(this, name, version);
    }

private:
    explicit Engine(uint64_t thread_count) : pool_(thread_count) {}

    Pool pool_;
};

const nixlx_option kOptions[] = {{"num_threads", "int", "4", "threads that read and write (1-64)", "threads"}};
} // namespace

extern "C" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor = {
    .magic = NIXLX_PLUGIN_MAGIC,
    .struct_size = sizeof(nixlx_plugin_descriptor_t),
    .api_version = NIXLX_PLUGIN_API_VERSION,
    .capabilities = NIXLX_CAP_LOCAL,
    .kind = "backend",
    .name = "FILE",
    .version = "1.0.0",
    .abi = NIXLX_ABI_TAG,
    .build_id = "",
    .conflicts = "",
    .partners = {NIXLX_MEMORY(FILE_SEG)}, // DRAM_SEG, the first kind, to and from files
    .create = Engine::create,
    .options = kOptions,
    .option_size = sizeof(nixlx_option),
    .option_count = 1,
};

nixlBackendPlugin *
nixl_plugin_init() {
    return nx::kit::nixl14Plugin<nixlx_plugin_descriptor>({{"num_threads", "4"}});
}
