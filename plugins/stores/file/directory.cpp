// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "file/directory.h"

#include <algorithm>
#include <fcntl.h>
#include <random>
#include <unistd.h>

#include "file/format.h"
#include "utils/common/nixl_log.h"
#include "wire/limits.h"

namespace nx::file_store {

namespace {

constexpr char kAgentSuffix[] = ".agent";
constexpr char kLabelSuffix[] = ".md";
constexpr char kNewBlob[] = ".new";
constexpr size_t kHeadBytes = kStartDigits + 1;
constexpr size_t kSwept = 64; // of each start; it leaves one behind at most

std::string
startOf(const std::array<uint8_t, 16> &incarnation) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const auto byte : incarnation) (text += kDigits[byte >> 4]) += kDigits[byte & 15];
    return text;
}

/// What the store itself has put into an agent's folder; other people's files are left alone.
void
clear(const Fd &folder, bool lease_too) {
    for (const auto &name : namesIn(folder)) {
        const bool lease = name == kLeaseFile;
        if (lease ? lease_too : name.ends_with(kLabelSuffix)) ::unlinkat(folder.get(), name.c_str(), 0);
    }
}

} // namespace

Result<std::unique_ptr<Directory>>
Directory::open(const nixlx::DirectoryParams &params) {
    if (!params.address.starts_with('/') || params.address.find('\0') != std::string::npos) {
        return {NIXL_ERR_INVALID_PARAM,
                quoted(params.address, 300) + " is no absolute path of a folder; write file:///path/of/the/folder"};
    }
    auto folder = fileNameOf(params.agent, kAgentSuffix, "the agent's name");
    if (!folder.ok()) return std::move(folder).status();
    std::unique_ptr<Directory> made(
        new Directory(params.address, *std::move(folder), startOf(params.incarnation), params.lease));
    auto watch = Watch::create(params.address, params.lease, [raw = made.get()] {
        if (raw->lease_) raw->lease_->beat();
    });
    if (watch.ok()) {
        made->watch_ = *std::move(watch);
    } else {
        NIXL_WARN << "directory " << quoted(params.address, 300) << ": agent " << quoted(params.agent)
                  << " will not see other agents end here: " << watch.message();
    }
    return made;
}

Directory::~Directory() {
    // What stays of the files says by itself that its start has ended.
    (void)tryWithdraw(std::min(end_.load(), std::chrono::steady_clock::now() + std::chrono::seconds(1)));
}

nixl_status_t
Directory::told(Status status) const {
    if (status.ok()) return NIXL_SUCCESS;
    return nixlx::fail(status.code(), "directory " + quoted(root_, 300) + ": " + status.message());
}

nixl_status_t
Directory::publish(const std::string &label, std::string_view blob, Deadline deadline) {
    return told(tryPublish(label, blob, std::min(deadline, end_.load())));
}

Status
Directory::tryPublish(const std::string &label, std::string_view blob, Deadline deadline) {
    if (blob.empty() || blob.size() > wire::kBlobBytesMax) {
        return {NIXL_ERR_INVALID_PARAM, "metadata of " + std::to_string(blob.size()) + " bytes cannot be published"};
    }
    const auto file = fileNameOf(label, kLabelSuffix, "the label");
    if (!file.ok()) return {file.code(), file.message()};
    const auto root = openRoot(root_);
    if (!root.ok()) return {root.code(), root.message()};
    const auto folder = LockedFolder::make(*root, folder_, deadline);
    if (!folder.ok()) return {folder.code(), folder.message()};
    const auto current = readLease(*root, folder->fd(), limit_);
    const bool ours = lease_ && current.ok() && current->start == start_;
    if (has_published_ && !ours && current.ok() && current->held) {
        return {NIXL_ERR_NOT_ALLOWED,
                "another start of this agent has published since; give every agent a name of its own"};
    }
    // All that can fail comes before all that others see.
    if (const auto blob_file = createFile(folder->fd(), kNewBlob, {start_, "\n", blob}); !blob_file.ok()) {
        return {blob_file.code(), blob_file.message()};
    }
    if (!ours) {
        auto lease = Lease::take(folder->fd(), start_);
        if (!lease.ok()) {
            ::unlinkat(folder->fd().get(), kNewBlob, 0);
            return std::move(lease).status();
        }
        clear(folder->fd(), false);
        lease_ = *std::move(lease);
        if (watch_) watch_->keepTime();
    }
    if (auto status = renameFile(folder->fd(), kNewBlob, *file); !status.ok()) return status;
    if (!std::exchange(has_published_, true)) sweep(*root);
    return {};
}

void
Directory::sweep(const Fd &root) const {
    std::vector<std::string> agents;
    for (auto &name : namesIn(root)) {
        if (name.ends_with(kAgentSuffix) && name != folder_) agents.push_back(std::move(name));
    }
    std::vector<std::string> some;
    std::minstd_rand random{std::random_device()()};
    std::sample(agents.begin(), agents.end(), std::back_inserter(some), kSwept, random);
    for (const auto &agent : some) {
        const auto folder = LockedFolder::open(root, agent, Deadline::min());
        if (!folder.ok()) continue;
        const auto lease = readLease(root, folder->fd(), limit_);
        if (!lease.ok() || !lease->abandoned) continue;
        clear(folder->fd(), true);
        ::unlinkat(root.get(), agent.c_str(), AT_REMOVEDIR);
    }
}

nixl_status_t
Directory::fetch(const std::string &agent, const std::string &label, std::string &blob, Deadline) {
    auto status = tryFetch(agent, label, blob);
    if (!status.ok() && watch_) watch_->foundNothing(agent);
    return told(std::move(status));
}

Status
Directory::tryFetch(const std::string &agent, const std::string &label, std::string &blob) {
    const auto name = fileNameOf(agent, kAgentSuffix, "the agent's name");
    if (!name.ok()) return {name.code(), name.message()};
    const auto file_name = fileNameOf(label, kLabelSuffix, "the label");
    if (!file_name.ok()) return {file_name.code(), file_name.message()};
    const auto root = openRoot(root_);
    if (!root.ok()) return {root.code(), root.message()};
    if (watch_) watch_->look(agent, *name);
    const auto folder = openFolder(*root, *name);
    if (folder.code() == NIXL_ERR_NOT_FOUND) {
        return {NIXL_ERR_NOT_FOUND, "agent " + quoted(agent) + " has published nothing"};
    }
    if (!folder.ok()) return {folder.code(), folder.message()};
    const auto lease = readLease(*root, *folder, limit_);
    if (!lease.ok()) return {lease.code(), lease.message()};
    if (!lease->held) {
        return {NIXL_ERR_NOT_FOUND, "agent " + quoted(agent) + " has published, but its process has ended"};
    }
    const auto nothing = [&] {
        return Status(NIXL_ERR_NOT_FOUND, "agent " + quoted(agent) + " has published nothing under " + quoted(label));
    };
    const auto file = openFile(*folder, *file_name);
    if (file.code() == NIXL_ERR_NOT_FOUND) return nothing();
    if (!file.ok()) return {file.code(), file.message()};
    auto text = readFile(*file, *file_name, wire::kBlobBytesMax + kHeadBytes);
    if (!text.ok()) return std::move(text).status();
    const auto start = startIn(*text, *file_name);
    if (!start.ok()) return {start.code(), start.message()};
    if (*start != lease->start) return nothing(); // an earlier start's
    if (text->size() == kHeadBytes) return {NIXL_ERR_MISMATCH, quoted(*file_name) + " has no metadata in it"};
    if (watch_) watch_->found(agent, *lease);
    text->erase(0, kHeadBytes);
    blob = *std::move(text);
    return {};
}

nixl_status_t
Directory::withdraw(Deadline deadline) {
    return told(tryWithdraw(std::min(deadline, end_.load())));
}

Status
Directory::tryWithdraw(Deadline deadline) {
    if (!lease_) return {};
    const auto root = openRoot(root_);
    const auto folder =
        root.ok() ? LockedFolder::open(*root, folder_, deadline) : Result<LockedFolder>(root.code(), root.message());
    if (!folder.ok() && folder.code() != NIXL_ERR_NOT_FOUND) return {folder.code(), folder.message()};
    if (folder.ok()) {
        const auto current = readLease(*root, folder->fd(), limit_);
        if (current.ok() && current->start == start_) {
            clear(folder->fd(), true);
            ::unlinkat(root->get(), folder_.c_str(), AT_REMOVEDIR);
        }
    }
    lease_.reset();
    return {};
}

void
Directory::endBy(Deadline deadline) noexcept {
    end_.store(deadline);
}

void *
Directory::ability(std::string_view name, uint32_t version) noexcept {
    const bool asked = name == nixlx::DirectoryWatch::kName && version <= nixlx::DirectoryWatch::kVersion;
    return asked && watch_ ? static_cast<nixlx::DirectoryWatch *>(&*watch_) : nullptr;
}

} // namespace nx::file_store
