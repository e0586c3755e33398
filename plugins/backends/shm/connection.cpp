// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "shm/connection.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <new>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <system_error>
#include <thread>

#include "utils/common/nixl_log.h"

namespace nx::shm {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kMeetLimit = seconds(1);
constexpr auto kGreetingLimit = seconds(2);
constexpr auto kEndLimit = seconds(1);
constexpr auto kQuietLimit = milliseconds(150);
constexpr size_t kGuestsMax = 256;
constexpr size_t kLinksMax = 4096;
constexpr size_t kDescriptorsPerLink = 2;
constexpr size_t kShareOfDescriptors = 4; // of what the process may open: the rest is the program's
constexpr size_t kAttendedMax = 8;
constexpr uint64_t kOften = 8; // looks of callers in kConsiderAfter
constexpr auto kConsiderAfter = milliseconds(1);
constexpr auto kLeftAfter = milliseconds(10);
constexpr auto kRetryAfter = milliseconds(1);
constexpr size_t kMessagesAtOnce = 64; // of one socket, before the others' turn
constexpr auto kRelayLinger = std::chrono::microseconds(50);
constexpr auto kRelayTurn = milliseconds(1);

Result<Fd>
duplicate(int fd) {
    Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!copy) return {NIXL_ERR_BACKEND, withErrno("giving a descriptor to a peer", errno)};
    return copy;
}

Status
cannot(const std::string &why) {
    return {NIXL_ERR_NOT_SUPPORTED, "no memory can be shared with its engine: " + why};
}

} // namespace

Result<std::unique_ptr<Links>>
Links::create(const std::string &agent, Board &board, const Blocks &blocks, kit::Inbox &inbox, bool make_progress) {
    auto listener = kit::LocalListener::create(kSockets);
    if (!listener.ok()) return std::move(listener).status();
    auto loop = Loop::create();
    if (!loop.ok()) return std::move(loop).status();
    Fd bells(::epoll_create1(EPOLL_CLOEXEC));
    if (!bells) return {NIXL_ERR_BACKEND, withErrno("making a descriptor", errno)};
    return std::unique_ptr<Links>(new Links(agent, board, blocks, inbox, make_progress, *std::move(listener),
                                            *std::move(loop), std::move(bells)));
}

Links::Links(std::string agent,
             Board &board,
             const Blocks &blocks,
             kit::Inbox &inbox,
             bool make_progress,
             kit::LocalListener listener,
             std::unique_ptr<Loop> loop,
             Fd bells)
    : agent_(std::move(agent)),
      board_(board),
      blocks_(blocks),
      inbox_(inbox),
      make_progress_(make_progress),
      loop_(std::move(loop)),
      progress_(*loop_),
      bells_(std::move(bells)),
      acceptor_(*loop_, std::move(listener), owner(), [this](Fd socket) { greet(std::move(socket)); }) {
    epoll_event own{.events = EPOLLIN, .data = {.u64 = 0}};
    if (::epoll_ctl(bells_.get(), EPOLL_CTL_ADD, bell_.descriptor(), &own) != 0) {
        throw std::system_error(errno, std::generic_category(), "watching a descriptor");
    }
    acceptor_.start();
    thread_ = Thread("nixl-shm", [this] { loop_->run(); });
}

void
Links::announceEnd(Clock::time_point deadline) {
    end_by_ = deadline;
    for (const Held &link : all()) link->announceEnd();
}

Links::~Links() {
    loop_->post([this] { acceptor_.stop(); });
    const auto links = all();
    const auto deadline = std::min(end_by_, Clock::now() + kEndLimit);
    const auto waits = [](const Held &link) { return !link->ended() && !link->outbox().empty(); };
    while (Clock::now() < deadline && std::any_of(links.begin(), links.end(), waits)) {
        for (const Held &link : links) link->outbox().pump();
        std::this_thread::yield();
    }
    loop_->stop();
    thread_.join();
    for (const Held &link : all()) {
        link->announceEnd(); // before windows close: who is refused looks for the reason
        kit::endSocket(link->socket());
    }
    board_.closeAll();
    static_cast<void>(waitQuiet(std::max(deadline, Clock::now() + kQuietLimit)));
    for (const Held &link : all()) link->end();
}

// ---- Meeting -------------------------------------------------------------------------------------------------------

Message
Links::hello() const {
    Message message;
    message.type = Message::Type::kHello;
    message.listener = acceptor_.name();
    message.agent = agent_;
    return message;
}

/// A peer takes descriptors: a part of what the process may have is for them, so that the program finds some left.
Status
Links::checkBudget() const {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = 1024;
    const size_t allowed = std::min<size_t>(limit.rlim_cur / kShareOfDescriptors / kDescriptorsPerLink, kLinksMax);
    const MutexLock lock(mutex_);
    if (links_.size() < allowed) return {};
    return cannot(std::to_string(links_.size()) + " engines are linked, which is as many as " +
                  std::to_string(limit.rlim_cur) + " descriptors allow (ulimit -n)");
}

Result<Links::Held>
Links::meet(const std::string &listener) {
    {
        const MutexLock lock(mutex_);
        const auto found = by_listener_.find(listener);
        if (found != by_listener_.end() && !found->second->ended()) return found->second;
    }
    if (Status budget = checkBudget(); !budget.ok()) return budget;
    auto socket = kit::connectLocal(kSockets, listener);
    if (!socket.ok()) {
        if (socket.code() == NIXL_ERR_NOT_FOUND) return cannot(socket.message());
        return std::move(socket).status();
    }
    auto region = createShared("nixl-shm-link", sizeof(Region));
    if (!region.ok()) return cannot(region.message());
    auto mapping = Mapping::map(*region, sizeof(Region), Mapping::Access::kReadWrite);
    if (!mapping.ok()) return cannot(mapping.message());
    auto board = duplicate(board_.descriptor());
    if (!board.ok()) return cannot(board.message());
    Message mine = hello();
    mine.descriptors = {*std::move(region), *std::move(board)};
    if (!send(*socket, mine)) return Status(NIXL_ERR_REMOTE_DISCONNECT, "its engine has ended");
    auto answer = await(*socket, kMeetLimit);
    if (!answer.ok()) {
        if (answer.code() == NIXL_ERR_REMOTE_DISCONNECT) return std::move(answer).status();
        return cannot(answer.message());
    }
    if (answer->type == Message::Type::kRefused) return cannot("it says: " + quoted(answer->text, 300));
    if (answer->type != Message::Type::kHello || answer->listener != listener) return cannot("it is another engine");
    auto its_board = PeerBoard::map(std::move(answer->descriptors[0]));
    if (!its_board.ok()) return cannot(its_board.message());
    return add({.socket = *std::move(socket),
                .region = *std::move(mapping),
                .connected_here = true,
                .listener = listener,
                .agent = std::move(answer->agent),
                .board = *std::move(its_board)});
}

Links::Held
Links::add(Link::Meeting meeting) {
    {
        const MutexLock lock(mutex_);
        meeting.number = ++last_number_;
    }
    Held link = Link::create(std::move(meeting), inbox_, served_, agent_);
    {
        const MutexLock lock(mutex_);
        links_.emplace(link->number(), link);
        // The one by which this agent reaches itself has two ends, of which the other is the first to come here.
        if (link->connectedHere() || link->listener() != listener()) {
            Held &known = by_listener_[link->listener()];
            if (!known || known->ended()) known = link;
        }
    }
    loop_->post([this, link] { on(link, [&] { serve(link); }); });
    return link;
}

void
Links::greet(Fd socket) {
    if (guests_.size() >= kGuestsMax) { // who means it has greeted long before
        const auto older = [](const auto &a, const auto &b) { return a.second.number < b.second.number; };
        dismiss(std::min_element(guests_.begin(), guests_.end(), older)->first);
    }
    const int fd = socket.get();
    const auto ready = [this, fd](uint32_t) {
        try {
            greeted(fd);
        }
        catch (const std::exception &error) {
            NIXL_INFO << owner() << " cannot meet a peer of this host: " << error.what();
            dismiss(fd);
        }
    };
    if (!loop_->watch(fd, EPOLLIN, ready).ok()) return;
    Guest &guest = guests_[fd];
    guest.socket = std::move(socket);
    guest.number = ++last_guest_;
    guest.timer = loop_->after(kGreetingLimit, [this, fd] { dismiss(fd); });
}

/// No effect on one that is none any more.
void
Links::dismiss(int fd) noexcept {
    const auto found = guests_.find(fd);
    if (found == guests_.end()) return;
    loop_->unwatch(fd);
    loop_->cancel(found->second.timer);
    guests_.erase(found);
}

void
Links::greeted(int fd) {
    auto said = receive(guests_[fd].socket);
    if (said.ok() && !*said) return;
    loop_->unwatch(fd);
    Guest guest = std::move(guests_[fd]);
    guests_.erase(fd);
    loop_->cancel(guest.timer);
    if (!said.ok()) return;
    const auto meet = [&](Message message) -> Status {
        if (message.type != Message::Type::kHello) return {NIXL_ERR_MISMATCH, "no greeting"};
        if (Status budget = checkBudget(); !budget.ok()) return budget;
        if (Status region = checkShared(message.descriptors[0], sizeof(Region)); !region.ok()) return region;
        auto region = Mapping::map(message.descriptors[0], sizeof(Region), Mapping::Access::kReadWrite);
        if (!region.ok()) return std::move(region).status();
        auto its_board = PeerBoard::map(std::move(message.descriptors[1]));
        if (!its_board.ok()) return std::move(its_board).status();
        auto board = duplicate(board_.descriptor());
        if (!board.ok()) return std::move(board).status();
        Message answer = hello();
        answer.descriptors[0] = *std::move(board);
        // Before the answer: who has it may let this agent meet its own, which is to find this link.
        const Held link = add({.socket = std::move(guest.socket),
                               .region = *std::move(region),
                               .connected_here = false,
                               .listener = std::move(message.listener),
                               .agent = std::move(message.agent),
                               .board = *std::move(its_board)});
        send(link->socket(), answer); // if it has gone already, its end is seen
        return {};
    };
    const Status met = meet(**std::move(said));
    if (met.ok()) return;
    NIXL_INFO << owner() << " cannot meet a peer of this host: " << met.message();
    if (guest.socket) send(guest.socket, {.type = Message::Type::kRefused, .text = met.message()});
}

// ---- On the thread -------------------------------------------------------------------------------------------------

/// What is done for a link on the thread. Without memory for it the link ends: a peer that is lost is told of, one that
/// is not heard is not.
template<class Work>
void
Links::on(const Held &link, Work work) noexcept {
    try {
        work();
    }
    catch (const std::exception &error) {
        NIXL_WARN << owner() << ": the link to agent " << quoted(link->agent()) << " is given up: " << error.what();
        forget(link);
    }
}

void
Links::serve(const Held &link) {
    Status watched =
        loop_->watch(link->socket().get(), EPOLLIN, [this, link](uint32_t) { on(link, [&] { hear(link); }); });
    if (watched.ok() && link->process()) {
        watched =
            loop_->watch(link->process().get(), EPOLLIN, [this, link](uint32_t) { on(link, [&] { over(link); }); });
    }
    if (!watched.ok()) {
        NIXL_WARN << owner() << ": the link to agent " << quoted(link->agent())
                  << " is given up: " << watched.message();
        over(link);
        return;
    }
    epoll_event rung{.events = EPOLLIN | EPOLLET, .data = {.u64 = link->number()}};
    ::epoll_ctl(bells_.get(), EPOLL_CTL_ADD, link->socket().get(), &rung); // or this thread alone hears it
    drain(link);
}

void
Links::hear(const Held &held) {
    const Held link = held; // the watch may go
    bool bell = false;
    for (size_t i = 0; i < kMessagesAtOnce; ++i) {
        auto said = receive(link->socket());
        if (!said.ok()) {
            if (said.code() != NIXL_ERR_REMOTE_DISCONNECT) {
                NIXL_INFO << owner() << ": the link to agent " << quoted(link->agent()) << " ends: " << said.message();
            }
            over(link);
            return;
        }
        if (!*said) break;
        if ((*said)->type == Message::Type::kBell) {
            bell = true;
        } else {
            say(link, **std::move(said));
        }
    }
    if (bell) drain(link);
}

void
Links::say(const Held &link, Message message) {
    if (message.type == Message::Type::kWantBlock) {
        Message answer{.type = Message::Type::kNoBlock, .number = message.number};
        if (auto block = blocks_.open(message.number); block) {
            answer.type = Message::Type::kBlock;
            answer.bytes = block->bytes;
            answer.descriptors[0] = std::move(block->descriptor);
        }
        send(link->socket(), answer);
    } else if (message.type == Message::Type::kBlock || message.type == Message::Type::kNoBlock) {
        link->blockCame(std::move(message));
    } else {
        over(link);
    }
}

/// A peer that has woken this thread for a piece has more of them; so have others, whose turn comes.
void
Links::serveRelay(const Held &link) {
    RelayServer &relay = link->relayOfPeer();
    if (link->ended() || (relay.serve() == 0 && relay.arm())) return;
    const auto begun = Clock::now();
    for (auto now = begun, last = begun; now - last < kRelayLinger && now - begun < kRelayTurn; now = Clock::now()) {
        if (relay.serve() > 0) last = now;
    }
    if (!relay.arm()) loop_->post([this, link] { on(link, [&] { serveRelay(link); }); });
}

void
Links::drain(const Held &link) {
    serveRelay(link);
    for (;;) {
        Inlet::Taken taken;
        try {
            taken = link->inlet().take();
        }
        catch (const std::bad_alloc &) {
            loop_->after(kRetryAfter, [this, link] { on(link, [&] { drain(link); }); });
            return;
        }
        handle(*link, taken);
        if (taken.broken) return;
        if (taken.stalled) {
            const MutexLock lock(stalled_mutex_);
            stalled_.push_back(link);
            any_stalled_ = true;
            return;
        }
        if (!taken.more && link->inlet().arm()) break;
    }
    if (link->ended()) return;
    if (candidates_.empty()) {
        looks_at_bell_ = looks_;
        loop_->after(kConsiderAfter, [this, link] { on(link, [&] { consider(); }); });
    }
    if (candidates_.size() < kAttendedMax &&
        std::find(candidates_.begin(), candidates_.end(), link) == candidates_.end()) {
        candidates_.push_back(link);
    }
}

/// Those that have rung lately, if callers look so often that there was no need to.
void
Links::consider() {
    const auto candidates = std::exchange(candidates_, {});
    candidates_.reserve(kAttendedMax);
    if (looks_ - looks_at_bell_ < kOften) return;
    for (const Held &link : candidates) {
        if (!link->ended()) attend(link);
    }
}

void
Links::attend(const Held &link) {
    Held leaves;
    {
        const MutexLock lock(attended_mutex_);
        if (caller_sleeps_) return; // who looked so often does not any more
        link->inlet().disarm();
        link->relayOfPeer().attend();
        if (std::find(attended_.begin(), attended_.end(), link) != attended_.end()) return;
        if (attended_.empty()) {
            looks_then_ = looks_;
            loop_->after(kLeftAfter, [this, link] { on(link, [&] { unattendIfLeft(); }); });
        }
        if (attended_.size() == kAttendedMax) {
            leaves = std::exchange(attended_[next_to_leave_++ % kAttendedMax], link);
        } else {
            attended_.push_back(link);
        }
        any_attended_ = true;
    }
    if (leaves) drain(leaves);
}

void
Links::unattendIfLeft() {
    std::vector<Held> left;
    {
        const MutexLock lock(attended_mutex_);
        if (attended_.empty()) return;
        if (looks_ != looks_then_) {
            looks_then_ = looks_;
            const Held &any = attended_.front();
            loop_->after(kLeftAfter, [this, any] { on(any, [&] { unattendIfLeft(); }); });
            return;
        }
        left.swap(attended_);
        any_attended_ = false;
    }
    for (const Held &link : left) drain(link);
}

void
Links::over(const Held &held) {
    const Held link = held;
    if (link->ended()) return;
    forget(link);
    drain(link); // what it has said before its end
}

/// No peer any more: nobody is left waiting for it.
void
Links::forget(const Held &link) noexcept {
    loop_->unwatch(link->socket().get());
    if (link->process()) loop_->unwatch(link->process().get());
    ::epoll_ctl(bells_.get(), EPOLL_CTL_DEL, link->socket().get(), nullptr);
    link->end();
    {
        const MutexLock lock(attended_mutex_);
        std::erase(attended_, link);
        any_attended_ = !attended_.empty();
    }
    {
        const MutexLock lock(mutex_);
        links_.erase(link->number());
        const auto found = by_listener_.find(link->listener());
        if (found != by_listener_.end() && found->second == link) by_listener_.erase(found);
    }
    changed();
}

void
Links::retry(const Held &link) {
    link->retry_is_due = false;
    waits(*link);
}

// ---- Any thread ----------------------------------------------------------------------------------------------------

std::vector<Links::Held>
Links::all() const {
    std::vector<Held> links;
    const MutexLock lock(mutex_);
    links.reserve(links_.size());
    for (const auto &[number, link] : links_) links.push_back(link);
    return links;
}

void
Links::handle(Link &link, const Inlet::Taken &taken) noexcept {
    if (taken.broken) {
        if (link.ended() || kit::hasEnded(link.socket())) return; // it was seen before
        NIXL_WARN << owner() << ": agent " << quoted(link.agent()) << " wrote into its ring what it must not; the link "
                  << "ends";
        kit::endSocket(link.socket());
        return;
    }
    if (taken.answer) link.outbox().answer();
    if (taken.answered) link.outbox().answered();
    if (taken.answer || taken.answered) waits(link);
    if (taken.arrived) changed();
}

void
Links::look() {
    looks_.fetch_add(1, std::memory_order_relaxed);
    if (caller_sleeps_.load(std::memory_order_relaxed) && caller_sleeps_.exchange(false)) takeRung();
    if (!any_attended_.load(std::memory_order_relaxed) || !attended_mutex_.try_lock()) return;
    const MutexLock lock(attended_mutex_, std::adopt_lock);
    for (const Held &link : attended_) {
        link->relayOfPeer().serve();
        takeHere(link);
    }
}

/// What the bells that have woken a caller are about. The thread has heard them, too, and comes after or before.
void
Links::takeRung() {
    constexpr int kAtOnce = 16;
    epoll_event events[kAtOnce];
    const int count = ::epoll_wait(bells_.get(), events, kAtOnce, 0);
    for (int i = 0; i < count; ++i) {
        Held link;
        {
            const MutexLock lock(mutex_);
            const auto found = links_.find(events[i].data.u64);
            if (found != links_.end()) link = found->second;
        }
        if (link) takeHere(link);
    }
}

void
Links::takeHere(const Held &link) {
    if (link->inlet().empty()) return;
    const Inlet::Taken taken = link->inlet().take();
    handle(*link, taken);
    if (!taken.stalled) return;
    const MutexLock lock(stalled_mutex_);
    if (std::find(stalled_.begin(), stalled_.end(), link) == stalled_.end()) stalled_.push_back(link);
    any_stalled_ = true;
}

void
Links::emptied(const std::vector<kit::CreditReceiver::Question> &questions) {
    for (const auto number : questions) {
        Held link;
        {
            const MutexLock lock(mutex_);
            const auto found = links_.find(number);
            if (found != links_.end()) link = found->second;
        }
        if (!link) continue;
        link->outbox().answer();
        waits(*link);
    }
    if (!any_stalled_.load(std::memory_order_acquire)) return;
    std::vector<Held> stalled;
    {
        const MutexLock lock(stalled_mutex_);
        stalled.swap(stalled_);
        any_stalled_ = false;
    }
    for (const Held &link : stalled) loop_->post([this, link] { on(link, [&] { drain(link); }); });
}

bool
Links::waitQuiet(Clock::time_point deadline) const {
    const auto links = all();
    const MarkWatch &own = served_.watch();
    MarkWatch::Snapshot own_snapshot = own.snapshot();
    std::vector<MarkWatch::Snapshot> snapshots;
    snapshots.reserve(links.size());
    for (const Held &link : links) snapshots.push_back(link->marksNow());
    for (size_t i = 0, tries = 0; i <= links.size();) {
        if (i < links.size() ? links[i]->quiet(snapshots[i]) : own.quiet(own_snapshot)) {
            ++i;
        } else if (Clock::now() >= deadline) {
            return false;
        } else if (++tries > 1000) {
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
    }
    return true;
}

Status
Links::tell(Link &link, std::string_view message) {
    if (!link.inlet().empty()) handle(link, link.inlet().take()); // the peer's answer may be in it
    Status told = link.outbox().tell(message);
    if (!link.outbox().empty()) waits(link);
    return told;
}

/// Attended rings wake nobody: from now on they are armed like the others.
bool
Links::arm() noexcept {
    if (need_caller_ > 0) return false;
    {
        const MutexLock lock(attended_mutex_);
        const auto armed = [](const Held &link) { return link->relayOfPeer().arm() && link->inlet().arm(); };
        if (!std::all_of(attended_.begin(), attended_.end(), armed)) return false;
        attended_.clear();
        any_attended_ = false;
        caller_sleeps_ = true;
    }
    epoll_event heard[16];
    while (::epoll_wait(bells_.get(), heard, std::size(heard), 0) == std::size(heard)) {} // of those no more
    return bell_.arm();
}

void
Links::waits(Link &link) noexcept {
    try {
        if (!link.inlet().empty()) {
            const Inlet::Taken taken = link.inlet().take();
            if (taken.answer) link.outbox().answer();
            if (taken.answered) link.outbox().answered();
            if (taken.arrived) changed();
        }
        const Outbox::Pumped pumped = link.outbox().pump();
        if (pumped.ended) changed();
        if (pumped.waits && !link.ended() && !link.retry_is_due.exchange(true)) {
            const Held held = link.shared_from_this();
            loop_->post([this, held] { loop_->after(kRetryAfter, [this, held] { retry(held); }); });
        }
    }
    catch (const std::bad_alloc &) {
        link.retry_is_due = false;
    }
}

} // namespace nx::shm
