// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/link_server.h"

#include <future>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "ucx/runtime.h"
#include "utils/common/nixl_log.h"

namespace nx::ucx {

namespace {

// Each costs shared memory, up to 2 MB. Further peers use the network.
constexpr size_t kLinksMax = 256;
constexpr auto kPartingLimit = std::chrono::seconds(1);
constexpr auto kPartingLook = std::chrono::milliseconds(1);

} // namespace

Result<std::unique_ptr<LinkServer>>
LinkServer::create(Runtime &runtime) {
    auto listener = LinkListener::create();
    if (!listener.ok()) return std::move(listener).status();
    auto loop = Loop::create();
    if (!loop.ok()) return std::move(loop).status();
    std::unique_ptr<LinkServer> server(new LinkServer(runtime, *std::move(listener), *std::move(loop)));
    auto status = server->loop_->watch(server->listener_.get(), EPOLLIN, [&self = *server](uint32_t) { self.meet(); });
    if (!status.ok()) return status;
    server->thread_ = Thread("nixl-ucx-links", [&self = *server] { self.loop_->run(); });
    return server;
}

LinkServer::~LinkServer() {
    stop();
}

void
LinkServer::refuse() {
    onLoop([this] { loop_->unwatch(listener_.get()); });
}

void
LinkServer::stop() {
    loop_->stop();
    thread_.join();
}

void
LinkServer::dropWorkers() {
    parting_.clear();
    for (auto &[fd, link] : links_) link.workers.reset();
}

/// Runs it on the thread and waits.
void
LinkServer::onLoop(const std::function<void()> &task) {
    if (thread_.isCurrent() || !thread_.joinable()) return task();
    std::promise<void> done;
    loop_->post([&] {
        task();
        done.set_value();
    });
    done.get_future().wait();
}

void
LinkServer::meet() {
    while (Fd socket = listener_.accept()) {
        if (links_.size() >= kLinksMax) {
            NIXL_INFO << "ucx: agent " << quoted(runtime_.agent()) << " serves " << kLinksMax
                      << " peers over shared memory; one more has to use the network";
            continue;
        }
        Link link{std::move(socket), nullptr};
        auto workers = LocalWorkers::create(runtime_, LocalWorkers::Side::kTarget, runtime_.options().num_workers);
        if (workers.ok()) {
            link.workers = *std::move(workers);
        } else {
            NIXL_INFO << "ucx: a peer of this host has to use the network: " << workers.message();
        }
        const auto sent = sendOffer(link.socket, link.workers ? link.workers->addresses() : std::vector<std::string>{});
        const int fd = link.socket.get();
        const auto ended = [this, fd](uint32_t) {
            loop_->unwatch(fd);
            addParting(std::move(links_.extract(fd).mapped()));
        };
        if (sent.ok() && loop_->watch(fd, EPOLLRDHUP, ended).ok()) links_.emplace(fd, std::move(link));
    }
}

void
LinkServer::watch(const Fd &link, std::function<void()> ended) {
    loop_->post([this, fd = link.get(), ended = std::move(ended)] {
        const auto once = [this, fd, ended](uint32_t) {
            loop_->unwatch(fd);
            ended();
        };
        if (!loop_->watch(fd, EPOLLRDHUP, once).ok()) ended(); // better gone than never noticed
    });
}

void
LinkServer::unwatch(const Fd &link) {
    onLoop([&] { loop_->unwatch(link.get()); });
}

void
LinkServer::part(Fd link, std::unique_ptr<LocalWorkers> workers) {
    ::shutdown(link.get(), SHUT_WR);
    ++parting_here_;
    onLoop([&] { addParting({std::move(link), std::move(workers)}); });
}

void
LinkServer::addParting(Link link) {
    if (!link.workers) return;
    parting_.push_back({std::move(link), Clock::now() + kPartingLimit});
    lookAtParting();
}

void
LinkServer::lookAtParting() {
    std::erase_if(parting_, [this](Parting &parting) {
        if (!isOver(parting)) return false;
        const bool here = parting.link.workers->side() == LocalWorkers::Side::kInitiator;
        parting.link.workers.reset();
        if (here) --parting_here_;
        return true;
    });
    if (waiting_ || parting_.empty() || !thread_.joinable()) return;
    waiting_ = true;
    loop_->after(kPartingLook, [this] {
        waiting_ = false;
        lookAtParting();
    });
}

bool
LinkServer::isOver(const Parting &parting) const {
    LocalWorkers &workers = *parting.link.workers;
    if (Clock::now() >= parting.deadline) return true;
    const bool alone = isClosed(parting.link.socket); // looked at before the last of it is taken in
    const bool happened = workers.drive();
    if (workers.side() == LocalWorkers::Side::kInitiator) return alone;
    return !happened && (alone || workers.idle());
}

} // namespace nx::ucx
