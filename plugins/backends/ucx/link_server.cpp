// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "ucx/link_server.h"

#include <future>
#include <sys/epoll.h>

#include "ucx/runtime.h"
#include "utils/common/nixl_log.h"

namespace nx::ucx {

namespace {

// Each costs shared memory, up to 2 MB. Further peers are told to use the network.
constexpr size_t kServedMax = 256;
constexpr auto kPartingLimit = std::chrono::seconds(1);
constexpr auto kPartingLook = std::chrono::milliseconds(1);

} // namespace

Result<std::unique_ptr<LinkServer>>
LinkServer::create(Runtime &runtime) {
    auto listener = kit::LocalListener::create(kLinks);
    if (!listener.ok()) return std::move(listener).status();
    auto loop = Loop::create();
    if (!loop.ok()) return std::move(loop).status();
    std::unique_ptr<LinkServer> server(new LinkServer(runtime, *std::move(listener), *std::move(loop)));
    server->acceptor_.start();
    server->thread_ = Thread("nixl-ucx-links", [&self = *server] { self.loop_->run(); });
    return server;
}

LinkServer::LinkServer(Runtime &runtime, kit::LocalListener listener, std::unique_ptr<Loop> loop)
    : runtime_(runtime),
      loop_(std::move(loop)),
      acceptor_(*loop_, std::move(listener), "ucx: agent " + quoted(runtime.agent()), [this](Fd socket) {
          meet(std::move(socket));
      }) {}

LinkServer::~LinkServer() {
    stop();
}

void
LinkServer::refuse() {
    onLoop([this] { acceptor_.stop(); });
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
LinkServer::meet(Fd socket) {
    Link link{std::move(socket), nullptr};
    Result<std::unique_ptr<LocalWorkers>> workers(
        NIXL_ERR_NOT_SUPPORTED, std::to_string(kServedMax) + " are served over shared memory already");
    if (served_ < kServedMax) {
        workers = LocalWorkers::create(runtime_, LocalWorkers::Side::kTarget, runtime_.options().num_workers);
    }
    if (workers.ok()) {
        link.workers = *std::move(workers);
    } else {
        NIXL_INFO << "ucx: a peer of this host has to use the network: " << workers.message();
    }
    const auto sent = sendOffer(link.socket, link.workers ? link.workers->addresses() : std::vector<std::string>{});
    const int fd = link.socket.get();
    const auto ended = [this, fd] {
        Link link = std::move(links_.extract(fd).mapped());
        if (!link.workers) return;
        --served_;
        addParting(std::move(link));
    };
    if (!sent.ok() || !watchHere(fd, ended)) return; // it has left already
    served_ += link.workers != nullptr;
    links_.emplace(fd, std::move(link));
}

/// On the thread. Calls `ended` once.
bool
LinkServer::watchHere(int socket, std::function<void()> ended) {
    const auto once = [this, socket, ended = std::move(ended)](uint32_t) {
        unwatchHere(socket);
        ended();
    };
    if (!loop_->watch(socket, EPOLLRDHUP, once).ok()) return false;
    Fd process = kit::processOf(socket);
    if (process && loop_->watch(process.get(), EPOLLIN, once).ok()) processes_.emplace(socket, std::move(process));
    return true;
}

void
LinkServer::unwatchHere(int socket) {
    loop_->unwatch(socket);
    const auto it = processes_.find(socket);
    if (it == processes_.end()) return;
    loop_->unwatch(it->second.get());
    processes_.erase(it);
}

void
LinkServer::watch(const Fd &link, std::function<void()> ended) {
    loop_->post([this, fd = link.get(), ended = std::move(ended)] {
        if (!watchHere(fd, ended)) ended(); // better gone than never noticed
    });
}

void
LinkServer::unwatch(const Fd &link) {
    onLoop([&] { unwatchHere(link.get()); });
}

void
LinkServer::part(Fd link, std::unique_ptr<LocalWorkers> workers) {
    ::shutdown(link.get(), SHUT_WR);
    ++parting_here_;
    onLoop([&] { addParting({std::move(link), std::move(workers)}); });
}

void
LinkServer::addParting(Link link) {
    parting_.push_back({std::move(link), Clock::now() + kPartingLimit});
    lookAtParting();
}

void
LinkServer::lookAtParting() {
    std::erase_if(parting_, [this](Parting &parting) {
        if (!isOver(parting)) return false;
        const bool here = parting.link.workers->side() == LocalWorkers::Side::kInitiator;
        parting.link.workers.reset();
        kit::endSocket(parting.link.socket);
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
    const bool alone = kit::isClosed(parting.link.socket); // looked at before the last of it is taken in
    const bool happened = workers.drive();
    if (workers.side() == LocalWorkers::Side::kInitiator) return alone;
    return !happened && (alone || workers.idle());
}

} // namespace nx::ucx
