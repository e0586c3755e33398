// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// What this agent publishes, how it travels, and what peers' metadata answers.
#include "agent/agent_state.h"

#include <stdexcept>

#include "base/config.h"
#include "base/last_error.h"
#include "plugin/manager.h"
#include "utils/common/nixl_log.h"
#include "wire/limits.h"

using nx::Result;
using nx::Status;
using nx::agent::Backend;
using nx::memory::RangeIndex;
using nx::metadata::Blob;

namespace {

std::string
failure(const Backend &backend, const std::string &what, nixl_status_t status) {
    return "backend " + backend.type + ": " +
        nx::takeBackendSentence(what + " failed with " + nixlEnumStrings::statusStr(status));
}

Status
addConnection(const Backend &backend, nx::wire::Metadata &metadata) {
    std::string info;
    auto status = backend.call<nixlx::RemotePeers>("getConnInfo", [&](auto &peers) { return peers.getConnInfo(info); });
    if (status < 0) return {status, failure(backend, "getConnInfo", status)};
    metadata.connections.push_back({backend.type, std::move(info)});
    std::string peer_info;
    status = backend.call<nixlx::RemotePeers>("getPeerInfo", [&](auto &peers) { return peers.getPeerInfo(peer_info); });
    if (status < 0) return {status, failure(backend, "getPeerInfo", status)};
    if (!peer_info.empty()) metadata.trailer->peer_info.push_back({backend.type, std::move(peer_info)});
    return {};
}

nx::wire::Metadata
emptyMetadata(const nixlAgentData &data) {
    nx::wire::Metadata metadata;
    metadata.agent = data.name;
    metadata.trailer.emplace();
    metadata.trailer->incarnation = data.incarnation;
    metadata.trailer->features = nx::wire::kFeatureAnswers;
    return metadata;
}

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

// What no peer would take is refused here, where something can be done about it.
Result<std::string>
encodedForPeers(const nx::wire::Metadata &metadata) {
    auto status = nx::wire::checkLimits(metadata);
    if (!status.ok()) return status;
    auto blob = nx::wire::encodeMetadata(metadata);
    if (blob.size() > nx::wire::kBlobBytesMax) {
        return {NIXL_ERR_NOT_SUPPORTED,
                "the metadata has " + std::to_string(blob.size()) + " bytes, and peers take at most " +
                    std::to_string(nx::wire::kBlobBytesMax) +
                    "; publish it in parts (getLocalPartialMD) or register fewer, larger ranges"};
    }
    return blob;
}

/// Loads what a peer has published; only if it is of the agent `expected`, unless that is empty.
nx::metadata::Loaded
loadFor(nixlAgentData &data, std::string_view blob, const std::string &expected) {
    nx::metadata::Loaded loaded;
    loaded.status = guarded([&]() -> Status {
        auto metadata = nixlAgentData::decodeRemote(blob);
        if (!metadata.ok()) return std::move(metadata).status();
        if (!expected.empty() && metadata->agent != expected) {
            return {NIXL_ERR_MISMATCH,
                    "what is published under the name of agent " + nx::quoted(expected) + " is the metadata of " +
                        nx::quoted(metadata->agent)};
        }
        loaded.wants_answer = metadata->trailer && (metadata->trailer->features & nx::wire::kFeatureAnswers);
        if (metadata->trailer) loaded.incarnation = metadata->trailer->incarnation;
        // Asked before: a backend that comes meanwhile makes the exchange look again.
        const auto backends = data.local_state.get().part(&nx::agent::Local::backends);
        const bool shared = nx::agent::sharesBackend(*metadata, *backends);
        auto status = data.loadRemote(*metadata);
        if (status.ok()) loaded.agent = metadata->agent;
        loaded.too_early = !status.ok() && !shared;
        return status;
    });
    return loaded;
}

/// What `slot` holds, made first if it is empty. What `make` makes starts a thread, so it is called without the mutex;
/// of two that are made at once the later one goes again.
template<class T, class Make>
Result<T *>
started(nixlAgentData &data, std::unique_ptr<T> nixlAgentData::*slot, Make make) {
    {
        const nx::MutexLock lock(data.exchange_mutex);
        if (data.*slot) return (data.*slot).get();
    }
    auto made = make();
    if (!made.ok()) return std::move(made).status();
    std::unique_ptr<T> spare = *std::move(made);
    const nx::MutexLock lock(data.exchange_mutex);
    if (!(data.*slot)) data.*slot = std::move(spare);
    return (data.*slot).get();
}

bool
isAddressed(const nixl_opt_args_t *args) {
    return args && !args->ipAddr.empty();
}

/// The option NIXL_DIRECTORY, opened. NOT_SUPPORTED: it is not set.
Result<std::shared_ptr<nixlx::Directory>>
openDirectory(const nixlAgentData &data) {
    const auto option = nx::configString("NIXL_DIRECTORY");
    if (!option.ok()) return {option.code(), option.message()};
    if (!*option || (*option)->empty()) {
        return {NIXL_ERR_NOT_SUPPORTED,
                "no address was given (ipAddr), and no directory is set (NIXL_DIRECTORY, for example "
                "file:/run/nixl); give the address of a listening agent, set a directory, or exchange blobs through a "
                "channel of your own with getLocalMD and loadRemoteMD"};
    }
    const std::string &text = **option;
    const std::string named = "NIXL_DIRECTORY is " + nx::quoted(text, 300);
    const auto colon = text.find(':');
    if (colon == std::string::npos || colon == 0) {
        return {NIXL_ERR_MISMATCH, named + ", which is not <store>:<address>, for example file:/run/nixl"};
    }
    auto plugin = nx::plugin::Manager::instance().loadStore(text.substr(0, colon));
    if (!plugin.ok()) return std::move(plugin).status().withContext(named);
    nixlx::DirectoryParams params;
    params.agent = data.name;
    params.incarnation = data.incarnation;
    params.address = text.substr(colon + 1);
    nx::clearBackendSentence();
    nixlx::Directory *opened = nullptr;
    auto status = nx::plugin::guarded("open", [&] { opened = (*plugin)->object()->open(&params); });
    if (!status.ok()) return std::move(status).withContext(named);
    if (!opened) return {NIXL_ERR_INVALID_PARAM, named + ": " + nx::takeBackendSentence("the store refused it")};
    return std::shared_ptr<nixlx::Directory>(opened, [plugin = *plugin](nixlx::Directory *gone) { delete gone; });
}

nx::metadata::DirectoryService
directoryServiceOf(nixlAgentData &data) {
    nx::metadata::DirectoryService service;
    service.agent = data.name;
    service.load = [&data](std::string_view blob, const std::string &agent) { return loadFor(data, blob, agent); };
    service.fetched = [&data](const std::string &agent, const std::string &label) {
        const auto peer = data.findPeer(agent);
        if (!peer) return;
        peer->origin.learn("the directory", [&data, agent, label](auto done) {
            nx::metadata::DirectoryClient *fetcher;
            {
                const nx::MutexLock lock(data.exchange_mutex);
                fetcher = data.directory.get(); // it was there when the peer was fetched
            }
            fetcher->refetch(agent, label, std::move(done));
        });
    };
    service.ended = [&data](const std::string &agent, const nx::wire::Incarnation &start) {
        const auto status = guarded([&]() -> Status {
            data.invalidateStart(agent, start);
            return {};
        });
        if (!status.ok())
            NIXL_ERROR << "agent " << nx::quoted(data.name) << ": forgetting a peer: " << status.message();
    };
    return service;
}

nx::metadata::Service
serviceOf(nixlAgentData &data) {
    nx::metadata::Service service;
    service.agent = data.name;
    service.load = [&data](std::string_view blob) { return loadFor(data, blob, {}); };
    service.publish = [&data]() -> Result<Blob> {
        Blob blob;
        auto status = guarded([&]() -> Status {
            auto made = data.publishedMetadata();
            if (!made.ok()) return std::move(made).status();
            blob = *std::move(made);
            return {};
        });
        if (!status.ok()) return status;
        return blob;
    };
    service.fetched = [&data](const std::string &agent, const nx::metadata::Endpoint &from) {
        const auto peer = data.findPeer(agent);
        if (!peer) return;
        peer->origin.learn(from.text(), [&data, agent, from](auto done) {
            nx::metadata::Exchange *fetcher;
            {
                const nx::MutexLock lock(data.exchange_mutex);
                fetcher = data.exchange.get(); // it was there when the peer was fetched
            }
            fetcher->refetch(from, agent, std::move(done));
        });
    };
    service.invalidate = [&data](const std::string &agent) {
        return guarded([&] { return data.invalidateRemote(agent); });
    };
    return service;
}

} // namespace

Result<std::string>
nixlAgentData::localMetadata() const {
    auto metadata = emptyMetadata(*this);
    const auto local = local_state.get();
    for (const auto &backend : local->backends) {
        if (!backend->remote) continue;
        if (auto status = addConnection(*backend, metadata); !status.ok()) return status;
    }
    if (metadata.connections.empty()) {
        return {NIXL_ERR_INVALID_PARAM, "no backend of this agent reaches other agents; there is nothing to publish"};
    }
    for (const auto &[key, index] : local->sections) {
        const auto &backend = local->backends[key.second];
        if (!backend->remote) continue;
        nx::wire::Section section{backend->type, key.first, {}};
        section.descs.reserve(index.size());
        index.forEach([&](const RangeIndex::Entry &entry) {
            section.descs.emplace_back(entry.range, entry.window->mapping->public_data);
        });
        metadata.sections.push_back(std::move(section));
    }
    return encodedForPeers(metadata);
}

Result<Blob>
nixlAgentData::publishedMetadata() {
    // Before it is made: what changes meanwhile makes the next one.
    const auto now = local_state.get();
    {
        const nx::MutexLock lock(published_mutex);
        if (published.blob && now.is(published.made_of)) return published.blob;
    }
    auto made = localMetadata();
    if (!made.ok()) return std::move(made).status();
    auto blob = std::make_shared<const std::string>(*std::move(made));
    const nx::MutexLock lock(published_mutex);
    published = {blob, now.identity()};
    return blob;
}

Result<std::string>
nixlAgentData::localPartialMetadata(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args) const {
    auto usable = candidates(args);
    if (!usable.ok()) return std::move(usable).status();
    const bool hinted = args && !args->backends.empty();
    const auto memory = descs.getType();
    const std::string prefix = "serialization failed: ";
    if (!hinted && !descs.isEmpty()) {
        std::erase_if(*usable, [&](const auto &backend) { return !backend->supports(memory); });
        if (usable->empty()) {
            return {NIXL_ERR_NOT_FOUND,
                    prefix + "no backend of this agent takes " + nixlEnumStrings::memTypeStr(memory)};
        }
    }
    std::erase_if(*usable, [](const auto &backend) { return !backend->remote; });
    if (usable->empty() && !descs.isEmpty()) {
        return {NIXL_ERR_BACKEND, prefix + "none of the candidate backends reaches other agents"};
    }

    auto metadata = emptyMetadata(*this);
    if (descs.isEmpty() || (args && args->includeConnInfo)) {
        for (const auto &backend : *usable) {
            if (auto status = addConnection(*backend, metadata); !status.ok()) return status;
        }
    }
    const auto sections = local_state.get().part(&nx::agent::Local::sections);
    bool found_section = descs.isEmpty();
    for (const auto &backend : *usable) {
        if (descs.isEmpty()) break;
        const auto it = sections->find({memory, backend->order});
        if (it == sections->end()) continue;
        found_section = true;
        nx::wire::Section section{backend->type, memory, {}};
        for (int i = 0; i < descs.descCount(); ++i) {
            const nixlBasicDesc &range = descs[i];
            std::vector<std::shared_ptr<nx::memory::Window>> same;
            it->second.equal(range, same);
            if (same.empty()) {
                return {NIXL_ERR_NOT_FOUND,
                        prefix + "range " + std::to_string(i) + " (address " + std::to_string(range.addr) +
                            ", length " + std::to_string(range.len) + ", device " + std::to_string(range.devId) +
                            ") is not registered exactly so with backend " + backend->type};
            }
            section.descs.emplace_back(range, same.back()->mapping->public_data);
        }
        metadata.sections.push_back(std::move(section));
    }
    if (!found_section) {
        return {NIXL_ERR_NOT_FOUND, prefix + "no " + nixlEnumStrings::memTypeStr(memory) + " is registered"};
    }
    return encodedForPeers(metadata);
}

bool
nixlAgentData::remoteResolves(const std::string &agent, const nixl_xfer_dlist_t &descs) {
    if (agent == name) {
        if (!descs.isEmpty()) return false;
        const auto local = local_state.get();
        for (const auto &[key, index] : local->sections) {
            if (local->backends[key.second]->local) return true;
        }
        return false;
    }
    const auto peer = findPeer(agent);
    if (!peer) return false;
    if (descs.isEmpty()) return true;
    const auto sections = peer->sections.get();
    for (const auto &[key, index] : *sections) {
        if (key.first != descs.getType()) continue;
        if (nx::memory::Side::resolve(index, std::span<const nixlBasicDesc>(descs.begin(), descs.end())).ok()) {
            return true;
        }
    }
    beginRefetch(peer); // programs ask until it has come
    return false;
}

void
nixlAgentData::beginRefetch(const std::shared_ptr<nx::agent::Peer> &peer) {
    if (const auto fetch = peer->origin.begin()) {
        fetch([peer](const Status &outcome) { peer->origin.finish(outcome); });
    }
}

Result<nx::metadata::Exchange *>
nixlAgentData::startedExchange() {
    return started(*this, &nixlAgentData::exchange, [&] { return nx::metadata::Exchange::create(serviceOf(*this)); });
}

Result<nx::metadata::DirectoryClient *>
nixlAgentData::startedDirectory() {
    using Client = nx::metadata::DirectoryClient;
    return started(*this, &nixlAgentData::directory, [&]() -> Result<std::unique_ptr<Client>> {
        auto opened = openDirectory(*this);
        if (!opened.ok()) return std::move(opened).status();
        return Client::create(directoryServiceOf(*this), *std::move(opened),
                              std::chrono::ceil<std::chrono::milliseconds>(config.etcdWatchTimeout));
    });
}

void
nixlAgentData::listen(uint16_t port) {
    auto started = startedExchange();
    if (!started.ok()) throw std::runtime_error("nixlAgent: MD listener: " + started.message());
    const auto bound = (*started)->listen(port);
    if (!bound.ok()) throw std::runtime_error("nixlAgent: MD listener: " + bound.message());
    listen_port = *bound;
    NIXL_INFO << "MD listener is listening on port " << listen_port;
}

Status
nixlAgentData::sendLocal(const nixl_opt_args_t *args) {
    constexpr char kCall[] = "sendLocalMD";
    if (isAddressed(args)) {
        const auto to = startedExchange();
        if (!to.ok()) return {to.code(), to.message()};
        auto blob = publishedMetadata();
        if (!blob.ok()) return std::move(blob).status();
        return (*to)->load(kCall, args->ipAddr, args->port, *std::move(blob));
    }
    const auto to = startedDirectory();
    if (!to.ok()) return {to.code(), to.message()};
    auto blob = publishedMetadata();
    if (!blob.ok()) return std::move(blob).status();
    return (*to)->publish(kCall, default_metadata_label, *std::move(blob));
}

Status
nixlAgentData::sendLocalPartial(const nixl_reg_dlist_t &descs, const nixl_opt_args_t *args) {
    constexpr char kCall[] = "sendLocalPartialMD";
    const auto made = [&]() -> Result<Blob> {
        auto blob = localPartialMetadata(descs, args);
        if (!blob.ok()) return std::move(blob).status();
        return std::make_shared<const std::string>(*std::move(blob));
    };
    if (isAddressed(args)) {
        const auto to = startedExchange();
        if (!to.ok()) return {to.code(), to.message()};
        auto blob = made();
        if (!blob.ok()) return std::move(blob).status();
        return (*to)->load(kCall, args->ipAddr, args->port, *std::move(blob));
    }
    const auto to = startedDirectory();
    if (!to.ok()) return {to.code(), to.message()};
    if (!args || args->metadataLabel.empty()) {
        return {NIXL_ERR_INVALID_PARAM,
                "a metadata label (metadataLabel) is required to send local partial metadata to a directory"};
    }
    auto blob = made();
    if (!blob.ok()) return std::move(blob).status();
    return (*to)->publish(kCall, args->metadataLabel, *std::move(blob));
}

Status
nixlAgentData::fetchRemote(const std::string &agent, const nixl_opt_args_t *args) {
    constexpr char kCall[] = "fetchRemoteMD";
    if (isAddressed(args)) {
        const auto from = startedExchange();
        if (!from.ok()) return {from.code(), from.message()};
        return (*from)->fetch(kCall, args->ipAddr, args->port, agent);
    }
    const auto from = startedDirectory();
    if (!from.ok()) return {from.code(), from.message()};
    const bool labelled = args && !args->metadataLabel.empty();
    return (*from)->fetch(kCall, agent, labelled ? args->metadataLabel : default_metadata_label);
}

Status
nixlAgentData::invalidateLocal(const nixl_opt_args_t *args) {
    constexpr char kCall[] = "invalidateLocalMD";
    if (isAddressed(args)) {
        const auto at = startedExchange();
        return at.ok() ? (*at)->invalidate(kCall, args->ipAddr, args->port) : Status(at.code(), at.message());
    }
    const auto at = startedDirectory();
    return at.ok() ? (*at)->withdraw(kCall) : Status(at.code(), at.message());
}

Status
nixlAgentData::waitMetadata(std::chrono::milliseconds timeout, const nixl_opt_args_t *args) {
    nx::metadata::Exchange *listeners;
    nx::metadata::DirectoryClient *central;
    {
        const nx::MutexLock lock(exchange_mutex);
        listeners = exchange.get();
        central = directory.get();
    }
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
