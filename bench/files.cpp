// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What moving data between memory and files costs a C++ program, by the backend POSIX. Prints one JSON object:
//
//   nixl_files pieces read|write direct|buffered PIECE FILE SECONDS PLACES   requests of all pieces of the file, at
//                                                 random, to or from so many pieces of memory
//   nixl_files post FILE                          one post of 100,000 pieces of 8 KiB
//   nixl_files paths FOLDER COUNT AT_ONCE         so many files of 16 KiB, which are there: registered by path,
//                                                 written, read, deregistered, so many of them at once
//   nixl_files calls FOLDER COUNT                 the same by system calls alone, one after the other
//
// Knows nothing that NIXL 1.4 does not have, so that the same program runs on the original's library, too; but for the
// wait, which only ours has: on the original the program polls.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <numeric>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "nixl.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kKiB = 1024;
constexpr size_t kSmallFile = 16 * kKiB;

double
secondsSince(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

double
processorSeconds() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval &time) { return static_cast<double>(time.tv_sec) + time.tv_usec / 1e6; };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

template<class T>
T
must(T result, const std::string &what) {
    if (result < 0) throw std::runtime_error(what + ": " + std::strerror(errno));
    return result;
}

uint8_t *
allocate(size_t size) {
    void *const memory =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no memory");
    std::memset(memory, 1, size);
    return static_cast<uint8_t *>(memory);
}

class Engine {
public:
    explicit Engine(size_t bytes) : agent_("files", nixlAgentConfig(true)), buffer_(allocate(bytes)) {
        nixl_b_params_t params;
        nixl_mem_list_t memories;
        check(agent_.getPluginParams("POSIX", memories, params), "getPluginParams");
        params["use_uring"] = "true"; // else the original takes Linux AIO, which waits at each of buffered pieces
        if (agent_.createBackend("POSIX", params, backend_) < 0) {
            params.erase("use_uring");
            check(agent_.createBackend("POSIX", params, backend_), "createBackend");
        }
        nixl_reg_dlist_t memory(DRAM_SEG);
        memory.addDesc(nixlBlobDesc(reinterpret_cast<uintptr_t>(buffer_), bytes, 0, ""));
        check(agent_.registerMem(memory), "registerMem");
    }

    nixlAgent &
    agent() {
        return agent_;
    }

    nixlBasicDesc
    memory(size_t offset, size_t length) const {
        return {reinterpret_cast<uintptr_t>(buffer_) + offset, length, 0};
    }

    static nixl_status_t
    check(nixl_status_t status, const char *what) {
        if (status < 0) throw std::runtime_error(std::string(what) + ": " + nixlEnumStrings::statusStr(status));
        return status;
    }

    nixlXferReqH *
    request(nixl_xfer_op_t operation, const nixl_xfer_dlist_t &memory, const nixl_xfer_dlist_t &files) {
        nixlXferReqH *made = nullptr;
        check(agent_.createXferReq(operation, memory, files, "files", made), "createXferReq");
        return made;
    }

    void
    run(nixlXferReqH *request) {
        finish(request, check(agent_.postXferReq(request), "postXferReq"));
    }

    void
    finish(nixlXferReqH *request, nixl_status_t status) {
        using Wait = nixl_status_t (*)(const nixlAgent *, nixlXferReqH *, std::optional<std::chrono::microseconds>);
        static const auto wait = reinterpret_cast<Wait>(
            ::dlsym(RTLD_DEFAULT,
                    "_ZNK9nixlAgent8waitXferEP12nixlXferReqHSt8optionalINSt6chrono8durationIlSt5ratioILl1"
                    "ELl1000000EEEEE"));
        while (status == NIXL_IN_PROG) {
            status = wait ? check(wait(&agent_, request, std::chrono::seconds(60)), "waitXfer")
                          : check(agent_.getXferStatus(request), "getXferStatus");
        }
    }

private:
    nixlAgent agent_;
    uint8_t *const buffer_;
    nixlBackendH *backend_ = nullptr;
};

nixl_reg_dlist_t
byDescriptor(int fd, size_t size) {
    nixl_reg_dlist_t list(FILE_SEG);
    list.addDesc(nixlBlobDesc(0, size, static_cast<uint64_t>(fd), ""));
    return list;
}

std::vector<size_t>
shuffled(size_t count) {
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    return order;
}

size_t
sizeOf(int fd) {
    struct stat about{};
    must(::fstat(fd, &about), "fstat");
    return static_cast<size_t>(about.st_size);
}

/// Pieces of the whole file in random order, to or from as many pieces of memory as fio uses.
void
pieces(bool write, bool direct, size_t piece, const std::string &path, double seconds, size_t places_in_memory) {
    const int fd = must(::open(path.c_str(), O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0)), path);
    const size_t size = sizeOf(fd), count = size / piece;
    Engine engine(places_in_memory * piece);
    Engine::check(engine.agent().registerMem(byDescriptor(fd, size)), "registerMem");
    nixl_xfer_dlist_t memory(DRAM_SEG), places(FILE_SEG);
    const auto order = shuffled(count);
    for (size_t i = 0; i < count; ++i) {
        memory.addDesc(engine.memory(i % places_in_memory * piece, piece));
        places.addDesc(nixlBasicDesc(order[i] * piece, piece, static_cast<uint64_t>(fd)));
    }
    nixlXferReqH *const request = engine.request(write ? NIXL_WRITE : NIXL_READ, memory, places);
    engine.run(request);
    const double cpu = processorSeconds();
    const auto start = Clock::now();
    size_t rounds = 0;
    double took = 0;
    do {
        engine.run(request);
        ++rounds;
    } while ((took = secondsSince(start)) < seconds);
    const double bytes = static_cast<double>(rounds * count * piece);
    std::printf("{\"gb_s\": %.4f, \"cpu_s_per_gib\": %.4f}\n", bytes / took / 1e9,
                (processorSeconds() - cpu) / (bytes / (1 << 30)));
}

void
post(const std::string &path) {
    constexpr size_t kCount = 100'000, kPiece = 8 * kKiB;
    const int fd = must(::open(path.c_str(), O_RDWR | O_CLOEXEC), path);
    Engine engine(kCount * kPiece);
    Engine::check(engine.agent().registerMem(byDescriptor(fd, kCount * kPiece)), "registerMem");
    nixl_xfer_dlist_t memory(DRAM_SEG), places(FILE_SEG);
    const auto order = shuffled(kCount);
    for (size_t i = 0; i < kCount; ++i) {
        memory.addDesc(engine.memory(i * kPiece, kPiece));
        places.addDesc(nixlBasicDesc(order[i] * kPiece, kPiece, static_cast<uint64_t>(fd)));
    }
    nixlXferReqH *const request = engine.request(NIXL_READ, memory, places);
    std::vector<double> posts;
    for (int i = 0; i < 5; ++i) {
        const auto start = Clock::now();
        const auto status = Engine::check(engine.agent().postXferReq(request), "postXferReq");
        posts.push_back(secondsSince(start) * 1e3);
        engine.finish(request, status);
    }
    std::sort(posts.begin(), posts.end());
    std::printf("{\"post_ms\": %.3f}\n", posts[posts.size() / 2]);
}

std::string
fileOf(const std::string &folder, size_t number) {
    return folder + "/" + std::to_string(number);
}

void
paths(const std::string &folder, size_t count, size_t at_once) {
    Engine engine(count * kSmallFile);
    double opened = 0;
    const auto start = Clock::now();
    for (size_t first = 0; first < count; first += at_once) {
        nixl_reg_dlist_t files(FILE_SEG);
        nixl_xfer_dlist_t memory(DRAM_SEG), places(FILE_SEG);
        for (size_t i = first; i < std::min(first + at_once, count); ++i) {
            files.addDesc(nixlBlobDesc(0, kSmallFile, i, "rw:" + fileOf(folder, i)));
            memory.addDesc(engine.memory(i * kSmallFile, kSmallFile));
            places.addDesc(nixlBasicDesc(0, kSmallFile, i));
        }
        const auto before = Clock::now();
        Engine::check(engine.agent().registerMem(files), "registerMem");
        opened += secondsSince(before);
        for (const auto operation : {NIXL_WRITE, NIXL_READ}) {
            nixlXferReqH *const request = engine.request(operation, memory, places);
            engine.run(request);
            Engine::check(engine.agent().releaseXferReq(request), "releaseXferReq");
        }
        Engine::check(engine.agent().deregisterMem(files), "deregisterMem");
    }
    std::printf("{\"open_s\": %.4f, \"all_s\": %.4f}\n", opened, secondsSince(start));
}

void
calls(const std::string &folder, size_t count) {
    uint8_t *const memory = allocate(count * kSmallFile);
    double opened = 0;
    const auto start = Clock::now();
    for (size_t i = 0; i < count; ++i) {
        const auto before = Clock::now();
        const int fd = must(::open(fileOf(folder, i).c_str(), O_RDWR | O_CLOEXEC), "open");
        opened += secondsSince(before);
        must(::pwrite(fd, memory + i * kSmallFile, kSmallFile, 0), "pwrite");
        must(::pread(fd, memory + i * kSmallFile, kSmallFile, 0), "pread");
        ::close(fd);
    }
    std::printf("{\"open_s\": %.4f, \"all_s\": %.4f}\n", opened, secondsSince(start));
}

} // namespace

int
main(int argc, char **argv) {
    const std::vector<std::string> words(argv + 1, argv + argc);
    try {
        if (words.size() == 7 && words[0] == "pieces") {
            pieces(words[1] == "write", words[2] == "direct", std::stoull(words[3]), words[4], std::stod(words[5]),
                   std::stoull(words[6]));
        } else if (words.size() == 2 && words[0] == "post") {
            post(words[1]);
        } else if (words.size() == 4 && words[0] == "paths") {
            paths(words[1], std::stoull(words[2]), std::stoull(words[3]));
        } else if (words.size() == 3 && words[0] == "calls") {
            calls(words[1], std::stoull(words[2]));
        } else {
            std::fprintf(stderr,
                         "usage: nixl_files pieces read|write direct|buffered PIECE FILE SECONDS PLACES | post FILE |\n"
                         "                  paths FOLDER COUNT AT_ONCE | calls FOLDER COUNT\n");
            return 2;
        }
        std::fflush(stdout);
        ::_exit(0); // the original's library crashes at times in its agents' destructors
    }
    catch (const std::exception &error) {
        std::fprintf(stderr, "nixl_files: %s\n", error.what());
        ::_exit(1);
    }
}
