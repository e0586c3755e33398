// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/local_workers.h"

#include <algorithm>

#include "ucx/runtime.h"

namespace nx::ucx {

Result<std::unique_ptr<LocalWorkers>>
LocalWorkers::create(Runtime &runtime, Side side, size_t count) {
    std::unique_ptr<LocalWorkers> made(new LocalWorkers(runtime, side));
    made->workers_.reserve(count);
    for (size_t i = 0; i < count; ++i) {
        auto worker = runtime.pool().createWorker(Fabric::kLocal, i);
        if (!worker.ok()) return std::move(worker).status();
        made->workers_.push_back(*std::move(worker));
        runtime.pool().enlist(*made->workers_.back(), i);
    }
    return made;
}

LocalWorkers::~LocalWorkers() {
    for (auto &worker : workers_) {
        runtime_.pool().dismiss(*worker);
        const MutexLock lock(worker->mutex());
        worker->answerAll();
    }
    drive();
    if (side_ == Side::kInitiator) return; // what is under way is ours, and ended with the endpoints
    for (auto &worker : workers_) runtime_.pool().end(std::move(worker));
}

bool
LocalWorkers::drive() {
    bool happened = false;
    for (auto &worker : workers_) {
        const MutexLock lock(worker->mutex());
        for (int i = 0; i < Worker::kStepsPerQueue && worker->progress(); ++i) happened = true;
    }
    return happened;
}

bool
LocalWorkers::idle() {
    return std::all_of(workers_.begin(), workers_.end(), [](const auto &worker) { return worker->idle(); });
}

void
LocalWorkers::retire() {
    for (auto &worker : workers_) {
        const MutexLock lock(worker->mutex());
        for (int i = 0; i < Worker::kStepsPerQueue; ++i) worker->progress();
        worker->endCopies();
        worker->retire();
    }
}

std::vector<std::string>
LocalWorkers::addresses() const {
    std::vector<std::string> addresses;
    for (const auto &worker : workers_) addresses.push_back(worker->address());
    return addresses;
}

} // namespace nx::ucx
