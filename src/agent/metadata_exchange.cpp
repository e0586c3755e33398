// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "agent/metadata_exchange.h"

#include <algorithm>

#include "agent/chosen_store.h"
#include "base/config.h"
#include "base/last_error.h"
#include "plugin/manager.h"
#include "utils/common/nixl_log.h"

namespace nx::agent {

using metadata::Blob;

namespace {

// What strangers' bytes and full memory may do on the exchange's thread ends here.
template<class Body>
Status
guarded(Body body) {
    try {
        return body();
    }
    catch (const std::bad_alloc &) {
        return {NIXL_ERR_NO_MEMORY, "out of memory; nothing was changed"};
    }
    catch (const std::exception &e) {
        return {NIXL_ERR_UNKNOWN, std::string("unexpected exception: ") + e.what()};
    }
    catch (...) {
        return {NIXL_ERR_BACKEND, "a plugin threw something that is no std::exception"};
    }
}

bool
isAddressed(const nixl_opt_args_t *args) {
    return args && !args->ipAddr.empty();
}

} // namespace

metadata::Loaded
MetadataExchange::load(std::string_view blob, const std::string &expected) {
    metadata::Loaded loaded;
    loaded.status = guarded([&]() -> Status {
        auto metadata = peers_.decode(blob);
        if (!metadata.ok()) return std::move(metadata).status();
        if (!expected.empty() && metadata->agent != expected) {
            return {NIXL_ERR_MISMATCH,
                    "what is published under the name of agent " + quoted(expected) + " is the metadata of " +
                        quoted(metadata->agent)};
        }
        loaded.wants_answer = metadata->trailer && (metadata->trailer->features & wire::kFeatureAnswers);
        if (metadata->trailer) loaded.incarnation = metadata->trailer->incarnation;
        // Asked before: a backend that comes meanwhile makes the exchange look again.
        const auto backends = backends_.all();
        const bool shared = sharesBackend(*metadata, *backends);
        auto status = peers_.load(*metadata);
        if (status.ok()) loaded.agent = metadata->agent;
        loaded.too_early = !status.ok() && !shared;
        return status;
    });
    return loaded;
}

// What `make` makes starts a thread, so it is called without the mutex; of two that are made at once the later one goes
// again.
template<class T, class Make>
Result<T *>
MetadataExchange::started(std::unique_ptr<T> MetadataExchange::*slot, Make make) {
    if (auto status = credentials_.usable(); !status.ok()) return status;
    if (T *there = current(slot)) return there;
    auto made = make();
    if (!made.ok()) return std::move(made).status();
    std::unique_ptr<T> spare = *std::move(made);
    const MutexLock lock(mutex_);
    if (!(this->*slot)) this->*slot = std::move(spare);
    return (this->*slot).get();
}

Result<std::shared_ptr<nixlx::Directory>>
MetadataExchange::openDirectory() const {
    auto &plugins = plugin::Manager::instance();
    const auto chosen = chosenStore(plugins.availableStores());
    if (!chosen.ok()) return {chosen.code(), chosen.message()};
    if (!*chosen) {
        return {NIXL_ERR_NOT_SUPPORTED,
                "no address was given (ipAddr), and no directory is set (NIXL_METADATA_STORE, for example "
                "file:///run/nixl); give the address of a listening agent, set a directory, or exchange blobs through "
                "a channel of your own with getLocalMD and loadRemoteMD"};
    }
    const auto &named = (*chosen)->setting;
    auto plugin = plugins.loadStore((*chosen)->store);
    if (!plugin.ok()) return std::move(plugin).status().withContext(named);
    nixlx::DirectoryParams params;
    params.agent = agent_;
    params.incarnation = incarnation_;
    params.address = (*chosen)->address;
    clearBackendSentence();
    nixlx::Directory *opened = nullptr;
    auto status = plugin::guarded("open", [&] { opened = (*plugin)->object()->open(&params); });
    if (!status.ok()) return std::move(status).withContext(named);
    if (!opened) return {NIXL_ERR_INVALID_PARAM, named + ": " + takeBackendSentence("the store refused it")};
    return std::shared_ptr<nixlx::Directory>(opened, [plugin = *plugin](nixlx::Directory *gone) { delete gone; });
}

metadata::DirectoryService
MetadataExchange::directoryService() {
    metadata::DirectoryService service;
    service.agent = agent_;
    service.load = [this](std::string_view blob, const std::string &agent) { return load(blob, agent); };
    service.fetched = [this](const std::string &agent, const std::string &label) {
        const auto peer = peers_.find(agent);
        if (!peer) return;
        peer->origin.learn("the directory", [this, agent, label](auto done) {
            current(&MetadataExchange::directory_)->refetch(agent, label, std::move(done)); // there since the fetch
        });
    };
    service.ended = [this](const std::string &agent, const wire::Incarnation &start) {
        const auto status = guarded([&]() -> Status {
            peers_.forgetStart(agent, start);
            return {};
        });
        if (!status.ok()) NIXL_ERROR << "agent " << quoted(agent_) << ": forgetting a peer: " << status.message();
    };
    return service;
}

metadata::Service
MetadataExchange::service() {
    metadata::Service service;
    service.agent = agent_;
    service.incarnation = incarnation_;
    if (credentials_.required()) {
        service.secure = [this](bool accepts) { return credentials_.session(accepts); };
    }
    service.load = [this](std::string_view blob) { return load(blob, {}); };
    service.publish = [this]() -> Result<Blob> {
        Blob blob;
        auto status = guarded([&]() -> Status {
            auto made = local_.shared();
            if (!made.ok()) return std::move(made).status();
            blob = *std::move(made);
            return {};
        });
        if (!status.ok()) return status;
        return blob;
    };
    service.fetched = [this](const std::string &agent, const Endpoint &from) {
        const auto peer = peers_.find(agent);
        if (!peer) return;
        peer->origin.learn(from.text(), [this, agent, from](auto done) {
            current(&MetadataExchange::listeners_)->refetch(from, agent, std::move(done)); // there since the fetch
        });
    };
    service.invalidate = [this](const std::string &agent, const std::optional<wire::Incarnation> &start) {
        return guarded([&] { return peers_.withdraw(agent, start); });
    };
    return service;
}

Result<metadata::Exchange *>
MetadataExchange::listeners() {
    return started(&MetadataExchange::listeners_, [&] { return metadata::Exchange::create(service()); });
}

Result<metadata::DirectoryClient *>
MetadataExchange::directory() {
    using Client = metadata::DirectoryClient;
    return started(&MetadataExchange::directory_, [&]() -> Result<std::unique_ptr<Client>> {
        auto opened = openDirectory();
        if (!opened.ok()) return std::move(opened).status();
        auto patience = (*opened)->patience();
        if (patience.count() < 0) patience = std::chrono::ceil<std::chrono::milliseconds>(watch_timeout_);
        return Client::create(directoryService(), *std::move(opened), patience);
    });
}

Result<uint16_t>
MetadataExchange::listen(uint16_t port) {
    constexpr char kAddress[] = "NIXL_LISTEN_ADDRESS";
    const auto host = configString(kAddress);
    if (!host.ok()) return {host.code(), host.message()};
    if (*host && (*host)->empty()) return {NIXL_ERR_INVALID_PARAM, std::string(kAddress) + " is empty"};
    const auto started = listeners();
    if (!started.ok()) return {started.code(), started.message()};
    auto port_taken = (*started)->listen(host->value_or(""), port);
    if (port_taken.ok() || !*host) return port_taken;
    return std::move(port_taken).status().withContext(std::string(kAddress) + " is " + quoted(**host));
}

void
MetadataExchange::retry() {
    if (auto *there = current(&MetadataExchange::listeners_)) there->retry();
}

void
MetadataExchange::stop() {
    // Until they have gone they call into the agent, and so perhaps for the mutex.
    std::unique_ptr<metadata::Exchange> listeners;
    std::unique_ptr<metadata::DirectoryClient> directory;
    const MutexLock lock(mutex_);
    listeners.swap(listeners_);
    directory.swap(directory_);
}

// Whereto is looked at before anything is made to be sent.
template<class Make>
Status
MetadataExchange::sendTo(const char *call, const nixl_opt_args_t *args, const std::string &label, Make make) {
    const auto sent = [&](const auto &to, auto send) -> Status {
        if (!to.ok()) return {to.code(), to.message()};
        Result<Blob> blob = make();
        return blob.ok() ? send(**to, *std::move(blob)) : std::move(blob).status();
    };
    if (isAddressed(args)) {
        return sent(listeners(),
                    [&](auto &to, Blob blob) { return to.load(call, args->ipAddr, args->port, std::move(blob)); });
    }
    return sent(directory(), [&](auto &to, Blob blob) { return to.publish(call, label, std::move(blob)); });
}

Status
MetadataExchange::send(const nixl_opt_args_t *args) {
    return sendTo("sendLocalMD", args, default_metadata_label, [&] { return local_.shared(); });
}

Status
MetadataExchange::sendPart(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args) {
    const std::string label = args ? args->metadataLabel : "";
    return sendTo("sendLocalPartialMD", args, label, [&]() -> Result<Blob> {
        if (!isAddressed(args) && label.empty()) {
            // A text that programs of NIXL 1.4 look for, there with the name of its only store.
            const auto chosen = chosenStore(plugin::Manager::instance().availableStores());
            return {NIXL_ERR_INVALID_PARAM,
                    "sendLocalPartial: metadata label is required for " +
                        (chosen.ok() && *chosen ? (*chosen)->store : "") +
                        " send of local partial metadata (metadataLabel)"};
        }
        auto blob = local_.part(descs, args);
        if (!blob.ok()) return std::move(blob).status();
        return std::make_shared<const std::string>(*std::move(blob));
    });
}

Status
MetadataExchange::fetch(const std::string &agent, const nixl_opt_args_t *args) {
    constexpr char kCall[] = "fetchRemoteMD";
    if (isAddressed(args)) {
        const auto from = listeners();
        if (!from.ok()) return {from.code(), from.message()};
        return (*from)->fetch(kCall, args->ipAddr, args->port, agent);
    }
    const auto from = directory();
    if (!from.ok()) return {from.code(), from.message()};
    const bool labelled = args && !args->metadataLabel.empty();
    return (*from)->fetch(kCall, agent, labelled ? args->metadataLabel : default_metadata_label);
}

Status
MetadataExchange::withdraw(const nixl_opt_args_t *args) {
    constexpr char kCall[] = "invalidateLocalMD";
    if (isAddressed(args)) {
        const auto at = listeners();
        return at.ok() ? (*at)->invalidate(kCall, args->ipAddr, args->port) : Status(at.code(), at.message());
    }
    const auto at = directory();
    return at.ok() ? (*at)->withdraw(kCall) : Status(at.code(), at.message());
}

Status
MetadataExchange::wait(std::chrono::milliseconds timeout, const nixl_opt_args_t *args) {
    auto *listeners = current(&MetadataExchange::listeners_);
    auto *central = current(&MetadataExchange::directory_);
    const bool addressed = isAddressed(args);
    const auto begun = std::chrono::steady_clock::now();
    if (listeners) {
        auto status = listeners->wait(addressed ? args->ipAddr : "", addressed ? args->port : 0, timeout);
        if (!status.ok()) return status;
    }
    if (!central || addressed) return {};
    const auto waited = std::chrono::floor<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begun);
    return central->wait(std::max(timeout - waited, std::chrono::milliseconds(0)));
}

} // namespace nx::agent
