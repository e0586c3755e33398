// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "obj/engine.h"

#include <stdexcept>
#include <utility>

#include "obj/query.h"
#include "obj/transfer.h"
#include "utils/common/nixl_log.h"

namespace nx::obj {

namespace {

constexpr std::chrono::seconds kQueryMax{30};

Job &
jobOf(nixlBackendReqH *request) {
    return *static_cast<Job *>(request);
}

const Job &
jobOf(const nixlBackendReqH *request) {
    return *static_cast<const Job *>(request);
}

nixl_status_t
report(const Status &status) {
    return nixlx::fail(status.code(), status.message());
}

} // namespace

nixlx::Engine *
Engine::create(const nixlBackendInitParams *params) {
    Result<Options> options = readOptions(params->customParams);
    if (!options.ok()) throw std::runtime_error(options.message());
    Result<std::unique_ptr<Driver>> driver = Driver::open(*options);
    if (!driver.ok()) throw std::runtime_error(driver.message());
    return new Engine(params->localAgent, *std::move(options), *std::move(driver));
}

Engine::Engine(std::string agent, Options options, std::unique_ptr<Driver> driver)
    : agent_(std::move(agent)),
      options_(std::move(options)),
      objects_(options_.bucket_in_host ? "/" : "/" + options_.bucket + "/"),
      driver_(std::move(driver)),
      client_(*driver_, options_, bell_) {
    NIXL_INFO << "objects of agent " << quoted(agent_) << " are in bucket " << quoted(options_.bucket) << " at "
              << options_.endpoint();
}

void
Engine::endBy(std::chrono::steady_clock::time_point deadline) {
    client_.endBy(deadline);
}

// ---- Memory ------------------------------------------------------------------------------------------------------

nixl_status_t
Engine::registerMem(const nixlBlobDesc &mem, nixl_mem_t memory, nixlBackendMD *&out) {
    if (memory == DRAM_SEG) {
        out = new Memory;
        return NIXL_SUCCESS;
    }
    if (memory != OBJ_SEG) {
        return nixlx::fail(NIXL_ERR_NOT_SUPPORTED,
                           "OBJ has to do with DRAM_SEG and OBJ_SEG, not with " + nixlEnumStrings::memTypeStr(memory));
    }
    auto object = objects_.add(mem);
    if (!object.ok()) return report(object.status());
    out = new ObjectMemory(*std::move(object));
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::queryMem(const nixl_reg_dlist_t &descs, std::vector<nixl_query_resp_t> &resp) const {
    std::vector<std::shared_ptr<const Object>> objects;
    for (const nixlBlobDesc &desc : descs) {
        auto object = objects_.named(desc);
        if (!object.ok()) return report(object.status());
        objects.push_back(*std::move(object));
    }
    Query query(std::move(objects));
    client_.runToEnd(query, std::chrono::steady_clock::now() + kQueryMax);
    if (query.status() == NIXL_ERR_CANCELED) {
        return nixlx::fail(NIXL_ERR_TIMEOUT,
                           options_.endpoint() + " has not answered about all objects within " +
                               std::to_string(kQueryMax.count()) + " s");
    }
    if (query.status() != NIXL_SUCCESS) return query.outcome();
    resp = std::move(query.answers());
    return NIXL_SUCCESS;
}

// ---- Requests ----------------------------------------------------------------------------------------------------

nixl_status_t
Engine::prepare(const nixlx::Plan &plan, const nixl_opt_b_args_t *, nixlBackendReqH *&request) {
    if (plan.remote_agent != agent_) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "objects are on the side of agent " + quoted(agent_) + " itself, not of " +
                               quoted(plan.remote_agent));
    }
    if ((plan.local_memory == OBJ_SEG) == (plan.remote_memory == OBJ_SEG)) {
        return nixlx::fail(NIXL_ERR_INVALID_PARAM,
                           "one side has to be memory (DRAM_SEG), the other an object (OBJ_SEG)");
    }
    auto made = Transfer::create(plan, options_.part_bytes);
    if (!made.ok()) return report(made.status());
    request = made->release();
    return NIXL_SUCCESS;
}

nixl_status_t
Engine::post(nixlBackendReqH *request, const std::string *) {
    client_.post(jobOf(request));
    return jobOf(request).outcome();
}

nixl_status_t
Engine::check(nixlBackendReqH *request) {
    return jobOf(request).outcome();
}

void
Engine::cancel(nixlBackendReqH *request) {
    client_.cancel(jobOf(request));
}

nixlx::RequestInfo
Engine::describe(const nixlBackendReqH *request) const {
    return jobOf(request).describe("S3 at " + options_.endpoint());
}

std::optional<uint64_t>
Engine::bytesDone(const nixlBackendReqH *request) const {
    return jobOf(request).bytesDone();
}

std::optional<uint64_t>
Engine::pathMark(const nixlBackendReqH *) const {
    return client_.mark();
}

std::optional<nixlx::Cost>
Engine::cost(nixl_mem_t, nixl_mem_t, std::string_view) const {
    return nixlx::Cost{.start_us = 5000, .block_us = 500, .byte_us = 1 / 1e3}; // about a server near by
}

} // namespace nx::obj
