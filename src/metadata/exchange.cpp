// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "metadata/exchange.h"

#include <future>
#include <system_error>

namespace nx::metadata {

namespace {

constexpr std::chrono::milliseconds kDrainInterval{1};

} // namespace

Result<std::unique_ptr<Exchange>>
Exchange::create(Service service, const Limits &limits) {
    auto loop = Loop::create();
    if (!loop.ok()) return std::move(loop).status();
    std::unique_ptr<Exchange> exchange(new Exchange(std::move(service), limits, *std::move(loop)));
    try {
        exchange->thread_ = Thread("nixl-metadata", [raw = exchange.get()] { raw->loop_->run(); });
    }
    catch (const std::system_error &error) {
        return {NIXL_ERR_NO_MEMORY, std::string("starting the metadata thread failed: ") + error.what()};
    }
    return exchange;
}

Exchange::Exchange(Service service, const Limits &limits, std::unique_ptr<Loop> loop)
    : service_(std::move(service)),
      limits_(limits),
      client_(std::make_unique<Client>(*loop, limits_, budget_, service_, ledger_)),
      loop_(std::move(loop)) {
    budget_.max = limits_.buffered_bytes;
    budget_.exceeded = [this] {
        while (budget_.used > budget_.max) {
            if (!(listener_ && listener_->dropCostliest()) && !(client_ && client_->dropLargest())) return;
        }
    };
}

Exchange::~Exchange() {
    if (!thread_.joinable()) return;
    loop_->post([this] {
        listener_.reset();
        client_->hurry();
        end_ = Loop::Clock::now() + limits_.shutdown;
        drain();
    });
    thread_.join();
}

void
Exchange::drain() {
    if (client_->handedOver() || Loop::Clock::now() >= end_) {
        client_.reset();
        return loop_->stop();
    }
    loop_->after(kDrainInterval, [this] { drain(); });
}

Result<uint16_t>
Exchange::listen(const std::string &host, uint16_t port) {
    std::promise<Result<uint16_t>> answer;
    loop_->post([&] {
        auto listener = Listener::create(*loop_, host, port, limits_, budget_, service_);
        if (!listener.ok()) return answer.set_value(std::move(listener).status());
        listener_ = *std::move(listener);
        answer.set_value(listener_->port());
    });
    return answer.get_future().get();
}

void
Exchange::retry() {
    loop_->post([this] {
        if (listener_) listener_->retry();
    });
}

Status
Exchange::load(const std::string &name, const std::string &host, int port, Blob blob) {
    auto head = wire::encodeFrameHead(wire::Verb::kLoad, blob->size());
    return start(host, port, {Call::Kind::kLoad, name, std::move(head), std::move(blob), {}});
}

Status
Exchange::fetch(const std::string &name, const std::string &host, int port, const std::string &agent) {
    return start(host, port, {Call::Kind::kFetch, name, wire::encodeFrame(wire::Verb::kSend, {}), nullptr, agent});
}

void
Exchange::refetch(const Endpoint &from, const std::string &agent, std::function<void(const Status &)> done) {
    Call call{Call::Kind::kFetch, "", wire::encodeFrame(wire::Verb::kSend, {}), nullptr, agent, std::move(done)};
    loop_->post([this, from, call = std::move(call)] { client_->start(from, call); });
}

Status
Exchange::invalidate(const std::string &name, const std::string &host, int port) {
    const auto what = wire::encodeInvalidation(service_.agent, service_.incarnation);
    return start(host, port,
                 {Call::Kind::kInvalidate, name, wire::encodeFrame(wire::Verb::kInvalidate, what), nullptr, {}});
}

Status
Exchange::start(const std::string &host, int port, Call call) {
    auto endpoint = Endpoint::make(host, port);
    if (!endpoint.ok()) return std::move(endpoint).status();
    if (!ledger_.open(endpoint->text(), limits_.calls)) {
        return {NIXL_ERR_NO_MEMORY,
                std::to_string(limits_.calls) + " calls to " + endpoint->text() +
                    " have no outcome yet; wait for them first"};
    }
    loop_->post([this, endpoint = *endpoint, call = std::move(call)] { client_->start(endpoint, call); });
    return {};
}

Status
Exchange::wait(const std::string &host, int port, std::chrono::milliseconds timeout) {
    std::optional<std::string> address;
    if (!host.empty()) {
        auto endpoint = Endpoint::make(host, port);
        if (!endpoint.ok()) return std::move(endpoint).status();
        address = endpoint->text();
    }
    const auto limit = std::min<std::chrono::milliseconds>(timeout, kLongestWait);
    return ledger_.wait(address, Loop::Clock::now() + limit);
}

} // namespace nx::metadata
