// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "file/watch.h"

#include <cerrno>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "file/files.h"
#include "utils/common/nixl_log.h"

namespace nx::file_store {

namespace {

// IN_EXCL_UNLINK: nothing of an earlier start's lease, which has no name any more.
constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF |
    IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK;

} // namespace

Result<Watch>
Watch::create(const std::string &root, std::chrono::milliseconds lease, std::function<void()> beat) {
    Watch watch(root, lease, std::move(beat));
    watch.epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
    watch.timer_ = Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    watch.inotify_ = Fd(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!watch.inotify_) {
        NIXL_WARN << "directory " << quoted(root, 300) << ": other agents of this host will not be seen to end here: "
                  << withErrno("inotify_init1 (fs.inotify.max_user_instances)", errno);
    }
    for (const Fd *fd : {&watch.timer_, &watch.inotify_}) {
        epoll_event event{.events = EPOLLIN, .data = {}};
        if (*fd && ::epoll_ctl(watch.epoll_.get(), EPOLL_CTL_ADD, fd->get(), &event) != 0) {
            return failed("epoll_ctl", errno);
        }
    }
    if (!watch.timer_) return failed("timerfd_create", errno);
    return watch;
}

void
Watch::keepTime() {
    if (std::exchange(keeps_time_, true)) return;
    const auto period = std::chrono::nanoseconds(lease_) / 3;
    const timespec third{period.count() / 1'000'000'000, period.count() % 1'000'000'000};
    const itimerspec times{third, third};
    ::timerfd_settime(timer_.get(), 0, &times, nullptr);
}

int
Watch::descriptor() const noexcept {
    return epoll_.get();
}

void
Watch::look(const std::string &agent, const std::string &name) {
    auto &followed = followed_[agent];
    followed.name = name;
    watch(agent, followed);
}

void
Watch::watch(const std::string &agent, Followed &followed) {
    const int number = ::inotify_add_watch(inotify_.get(), (root_ + "/" + followed.name).c_str(), kEvents);
    if (number < 0) {
        if (errno == ENOSPC && !told_full_) {
            told_full_ = true;
            NIXL_WARN << "directory " << quoted(root_, 300)
                      << ": the ends of some agents will not be seen here: the system watches no more folders for this "
                         "user; raise fs.inotify.max_user_watches";
        }
        return;
    }
    // Another folder of the name than before.
    if (followed.number >= 0 && followed.number != number) {
        agents_.erase(followed.number);
        ::inotify_rm_watch(inotify_.get(), followed.number);
    }
    followed.number = number;
    agents_[number] = agent;
}

void
Watch::found(const std::string &agent, const LeaseState &lease) {
    followed_[agent].start = lease.start;
    followed_[agent].remote = lease.remote;
    if (lease.remote) keepTime();
}

void
Watch::foundNothing(const std::string &agent) {
    const auto it = followed_.find(agent);
    if (it != followed_.end() && it->second.start.empty()) forget(agent);
}

void
Watch::forget(const std::string &agent) noexcept {
    const auto it = followed_.find(agent);
    if (it == followed_.end()) return;
    if (it->second.number >= 0) {
        agents_.erase(it->second.number);
        ::inotify_rm_watch(inotify_.get(), it->second.number);
    }
    followed_.erase(it);
}

std::unordered_map<std::string, Watch::Hint>
Watch::readEvents() {
    std::unordered_map<std::string, Hint> hints;
    alignas(inotify_event) char bytes[16384];
    for (;;) {
        const ssize_t got = ::read(inotify_.get(), bytes, sizeof bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return hints;
        for (ssize_t at = 0; at < got;) {
            const auto &event = *reinterpret_cast<const inotify_event *>(bytes + at);
            at += static_cast<ssize_t>(sizeof event + event.len);
            if (event.mask & IN_Q_OVERFLOW) {
                for (const auto &[agent, followed] : followed_) hints[agent];
                continue;
            }
            const auto it = agents_.find(event.wd);
            if (it == agents_.end()) continue;
            const bool lease = event.len > 0 && std::string_view(event.name) == kLeaseFile;
            const bool gone = event.mask & (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF);
            if (!lease && !gone) continue;
            auto &hint = hints[it->second];
            hint.gone |= gone;
            hint.closed |= lease && (event.mask & IN_CLOSE_WRITE);
            if (event.mask & IN_IGNORED) {
                followed_[it->second].number = -1;
                agents_.erase(it);
            }
        }
    }
}

std::optional<nixlx::DirectoryEnd>
Watch::examine(const std::string &agent, Followed &followed, const Hint &hint) {
    if (hint.gone) watch(agent, followed);
    const auto root = openRoot(root_);
    if (!root.ok()) return {};
    const auto folder = openFolder(*root, followed.name);
    const auto lease =
        folder.ok() ? readLease(*root, *folder, lease_) : Result<LeaseState>(folder.code(), folder.message());
    if (lease.code() == NIXL_ERR_NOT_FOUND) return nixlx::DirectoryEnd{agent, "it was withdrawn", false};
    if (!lease.ok()) return {};
    if (lease->start != followed.start) {
        return nixlx::DirectoryEnd{agent, "another start of it has taken its place", true};
    }
    if ((hint.closed && !lease->remote) || !lease->held)
        return nixlx::DirectoryEnd{agent, "its process has ended", false};
    return {};
}

nixl_status_t
Watch::takeEnded(std::vector<nixlx::DirectoryEnd> &ended) {
    auto hints = readEvents();
    if (uint64_t times; ::read(timer_.get(), &times, sizeof times) > 0) {
        beat_();
        for (const auto &[agent, followed] : followed_) {
            if (followed.remote) hints[agent];
        }
    }
    for (const auto &[agent, hint] : hints) {
        const auto it = followed_.find(agent);
        if (it == followed_.end()) continue;
        auto end = examine(agent, it->second, hint);
        if (!end) continue;
        ended.push_back(*std::move(end));
        forget(agent);
    }
    return NIXL_SUCCESS;
}

} // namespace nx::file_store
