// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "obj/client.h"

#include <algorithm>
#include <cstring>

namespace nx::obj {

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kTick{20};
constexpr milliseconds kBackoffFirst{100}, kBackoffMax{20000};
constexpr milliseconds kSlowerEvery{200}; ///< one burst of refusals is one sign
/// Until a server has put together what a multipart upload sent it.
constexpr unsigned kCompleteStalls = 12;
/// More that wait for their next attempt, for each line, and nothing new is begun: the server is in trouble.
constexpr size_t kWaitingPerLane = 8;

const char *
methodOf(Verb verb) noexcept {
    switch (verb) {
    case Verb::kGet: return "GET";
    case Verb::kHead:
    case Verb::kLook: return "HEAD";
    case Verb::kPut:
    case Verb::kPutPart: return "PUT";
    case Verb::kAbort: return "DELETE";
    default: return "POST";
    }
}

bool
sendsObject(Verb verb) noexcept {
    return verb == Verb::kPut || verb == Verb::kPutPart;
}

std::string
bytesFrom(uint64_t offset, uint64_t length) {
    return "bytes=" + std::to_string(offset) + "-" + std::to_string(offset + length - 1);
}

/// What a good answer to a GET brings; one that sends the whole object may leave it out.
std::optional<ContentRange>
rangeOf(const Answer &answer) noexcept {
    if (answer.http == 200 && answer.length.value_or(0) > 0) return ContentRange{0, *answer.length - 1, answer.length};
    return answer.range;
}

/// The bytes that come are those that were asked for.
bool
beginsRight(const Exchange &exchange) noexcept {
    const auto range = rangeOf(exchange.answer);
    return range && range->first == exchange.offset;
}

bool
holdsWholeObject(const Exchange &exchange) noexcept {
    const auto range = rangeOf(exchange.answer);
    return range && range->total && exchange.offset == 0 && *range->total == exchange.length;
}

/// It has a checksum of just what was asked for. One with a number behind it is of parts.
bool
isChecked(const Exchange &exchange) noexcept {
    const std::string &checksum = exchange.answer.checksum;
    return !checksum.empty() && checksum.find('-') == std::string::npos && holdsWholeObject(exchange);
}

Verdict
later(std::string reason, nixl_status_t status = NIXL_ERR_BACKEND) {
    return {Verdict::Next::kRetry, status, std::move(reason)};
}

/// What is wrong with an answer that is good() and came without an error.
std::optional<Verdict>
wrongWith(const Exchange &exchange) {
    const Answer &answer = exchange.answer;
    switch (exchange.verb) {
    case Verb::kGet: {
        const auto range = rangeOf(answer);
        if (!range) return later("the server does not say which bytes it sends");
        if (range->first != exchange.offset) {
            return later("the server sends bytes from " + std::to_string(range->first) + " on");
        }
        const uint64_t announced = range->last - range->first + 1;
        const uint64_t wanted = std::min(announced, exchange.length);
        if (answer.received < wanted) {
            return later("the answer ended after " + std::to_string(answer.received) + " bytes");
        }
        if (announced < exchange.length) {
            if (!range->total || *range->total != range->last + 1) {
                return later("the server sends " + std::to_string(announced) + " bytes only");
            }
            return Verdict{Verdict::Next::kFail, NIXL_ERR_BACKEND,
                           "the object ends after " + std::to_string(*range->total) + " bytes; " +
                               std::to_string(answer.received) + " were there"};
        }
        if (isChecked(exchange) && base64Of(answer.crc) != answer.checksum) {
            return later("the bytes that came have not the checksum that the server gives", NIXL_ERR_INTEGRITY);
        }
        return {};
    }
    case Verb::kBegin:
        if (xmlText(answer.text, "UploadId").empty()) return later("the server gives the upload no id");
        return {};
    case Verb::kComplete: {
        const std::string_view root = xmlRoot(answer.text);
        if (root == "CompleteMultipartUploadResult") return {};
        if (root == "Error") {
            Verdict verdict = judge(answer);
            // Begun with a success, it can only say what went wrong afterwards.
            if (xmlText(answer.text, "Code").empty()) verdict.next = Verdict::Next::kRetry;
            return verdict;
        }
        return later("the server does not say that the upload is complete");
    }
    case Verb::kPutPart:
        if (answer.etag.empty()) return later("the server gives the part no name (ETag)");
        return {};
    default: return {};
    }
}

} // namespace

// ---- Lanes ---------------------------------------------------------------------------------------------------------

/// What is sent over one line. Its exchange is written with the client's mutex held, but for what comes back, which the
/// line's thread writes.
class Client::Lane final : public Receiver {
public:
    explicit Lane(Client &client) : line(client.driver_, *this), client_(client) {}

    /// Sends the exchange.
    void
    start(HttpRequest request);

    size_t
    fill(uint64_t position, char *room, size_t size) noexcept override;
    void
    onHeader(int http, std::string_view name, std::string_view value) override;
    void
    onBody(const char *data, size_t size) override;
    void
    onEnd(int error) noexcept override {
        client_.ended(*this, error);
    }

    bool
    stands(Time now, milliseconds stall) const noexcept {
        const unsigned patience = exchange.verb == Verb::kComplete ? kCompleteStalls : 1;
        return now - Time(Time::duration(last_move_.load(std::memory_order_relaxed))) > patience * stall;
    }

    Exchange exchange;    ///< without a job: it was given up
    bool stalled = false; ///< and was closed for it
    Line line;

private:
    void
    moves() noexcept {
        last_move_.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
        client_.mark_.fetch_add(1, std::memory_order_relaxed);
    }

    Client &client_;
    Place place_; ///< of the next byte
    std::atomic<Time::duration::rep> last_move_{0};
};

void
Client::Lane::start(HttpRequest request) {
    const Options &options = client_.options_;
    place_ = exchange.place;
    if (sendsObject(exchange.verb) && options.checks_requests) {
        Place place = exchange.place;
        uint32_t crc = 0;
        for (uint64_t left = exchange.length; left > 0;) {
            const Place::Memory memory = place.take(left);
            crc = crc32c(memory.begin, memory.length, crc);
            left -= memory.length;
        }
        exchange.checksum = base64Of(crc);
        request.headers.emplace_back("x-amz-checksum-crc32c", exchange.checksum);
    }
    moves();
    line.send(std::move(request));
    // Who cancelled meanwhile found nothing to close.
    const MutexLock lock(client_.mutex_);
    if (exchange.job && exchange.job->stopping()) line.close();
}

size_t
Client::Lane::fill(uint64_t position, char *room, size_t size) noexcept {
    moves();
    if (!sendsObject(exchange.verb)) {
        size = std::min<size_t>(size, exchange.text.size() - position);
        std::memcpy(room, exchange.text.data() + position, size);
        return size;
    }
    if (position == 0) place_ = exchange.place;
    const Place::Memory memory = place_.take(size);
    std::memcpy(room, memory.begin, memory.length);
    return memory.length;
}

void
Client::Lane::onHeader(int http, std::string_view name, std::string_view value) {
    moves();
    exchange.answer.http = http;
    exchange.answer.take(name, value);
}

void
Client::Lane::onBody(const char *data, size_t size) {
    moves();
    Answer &answer = exchange.answer;
    if (exchange.verb != Verb::kGet || !answer.good()) {
        answer.text.append(data, std::min(size, kTextBytesMax - answer.text.size()));
        return;
    }
    if (answer.received == 0 && !beginsRight(exchange)) {
        line.close();
        return;
    }
    const bool checked = client_.options_.checks_responses && isChecked(exchange);
    while (size > 0 && answer.received < exchange.length) {
        const Place::Memory memory = place_.take(std::min<uint64_t>(size, exchange.length - answer.received));
        std::memcpy(memory.begin, data, memory.length);
        if (checked) answer.crc = crc32c(data, memory.length, answer.crc);
        answer.received += memory.length;
        data += memory.length;
        size -= memory.length;
    }
}

// ---- What is undone ------------------------------------------------------------------------------------------------

/// Takes back a multipart upload, also one whose beginning is under way. Outlives the job that it is of.
class Client::Undoing final : public Job {
public:
    explicit Undoing(const Exchange &exchange)
        : object_{exchange.object->key, exchange.object->path},
          upload_(exchange.upload) {}

    const Object &
    object() const noexcept {
        return object_;
    }

    void
    restart() noexcept override {}

    bool
    next(Exchange &exchange) override {
        if (upload_.empty()) return false;
        exchange.verb = Verb::kAbort;
        exchange.object = &object_;
        exchange.upload = std::move(upload_);
        upload_.clear();
        return true;
    }

    void
    done(Exchange &exchange) override {
        if (exchange.verb == Verb::kBegin) upload_ = xmlText(exchange.answer.text, "UploadId");
    }

    bool
    accepts(Exchange &exchange) override {
        return exchange.answer.http == 404;
    }

private:
    const Object object_;
    std::string upload_;
};

// ---- The callers' side ---------------------------------------------------------------------------------------------

struct Client::Alive {
    Mutex mutex;
    Client *client NX_GUARDED_BY(mutex);
};

Client::Client(Driver &driver, const Options &options, kit::Bell &bell)
    : driver_(driver),
      options_(options),
      bell_(bell),
      alive_(std::make_shared<Alive>()),
      lanes_wanted_(static_cast<double>(options.connection_count)) {
    {
        const MutexLock lock(alive_->mutex);
        alive_->client = this;
    }
    for (size_t i = 0; i < options.connection_count; ++i) {
        lanes_.push_back(std::make_unique<Lane>(*this));
        idle_.push_back(lanes_.back().get());
    }
}

void
Client::endBy(Time deadline) noexcept {
    const MutexLock lock(mutex_);
    end_ = deadline;
}

Client::~Client() {
    {
        const MutexLock lock(alive_->mutex);
        alive_->client = nullptr;
    }
    endUndoing();
    endLanes();
}

void
Client::endUndoing() {
    const MutexLock lock(mutex_);
    if (end_ == Time{}) end_ = Clock::now() + std::chrono::seconds(1);
    while (!undoing_.empty() && changed_.waitUntil(mutex_, end_)) {}
    std::vector<Undoing *> late;
    for (const auto &each : undoing_) late.push_back(each.get());
    for (Undoing *each : late) stopLocked(*each);
}

void
Client::endLanes() {
    driver_.stopConnecting();
    // What is closed ends soon, and ticks are few.
    const MutexLock lock(mutex_);
    while (calls_ > 0 || idle_.size() < lanes_.size()) changed_.wait(mutex_);
}

void
Client::post(Job &job) {
    job.restart();
    job.begin();
    const MutexLock lock(mutex_);
    job.in_flight = 0;
    job.left_out = job.is_active = false;
    pushLocked(job);
    pumpLaterLocked();
}

void
Client::cancel(Job &job) noexcept {
    const MutexLock lock(mutex_);
    if (job.quiet()) return;
    job.cancel();
    stopLocked(job);
}

void
Client::runToEnd(Job &job, Time deadline) {
    post(job);
    {
        const MutexLock lock(mutex_);
        while (!job.quiet() && changed_.waitUntil(mutex_, deadline)) {}
    }
    cancel(job);
    const MutexLock lock(mutex_);
    while (!job.quiet()) changed_.wait(mutex_);
}

// ---- On the driver's threads ---------------------------------------------------------------------------------------

void
Client::pumpLaterLocked() {
    if (pumping_) return;
    pumping_ = true;
    ++calls_;
    driver_.run([this] {
        {
            const MutexLock lock(mutex_);
            pumping_ = false;
        }
        pump();
        const MutexLock lock(mutex_);
        --calls_;
        changed_.notifyAll();
    });
}

void
Client::tickLaterLocked() {
    if (ticking_) return;
    ticking_ = true;
    ++calls_;
    driver_.run(
        [this] {
            tick();
            const MutexLock lock(mutex_);
            --calls_;
            changed_.notifyAll();
        },
        kTick);
}

void
Client::tick() {
    const Time now = Clock::now();
    bool due = false;
    {
        const MutexLock lock(mutex_);
        ticking_ = false;
        const int tls_failure = driver_.takeTlsFailure();
        for (const auto &lane : lanes_) {
            // settleLocked() may give up other lanes, too.
            if (tls_failure != 0 && lane->exchange.job && lane->line.connects() && lane->line.close()) {
                settleLocked(lane->exchange, tls_failure);
                lane->exchange.job = nullptr;
            }
            if (!lane->exchange.job || lane->stalled || !lane->stands(now, options_.stall)) continue;
            lane->stalled = true;
            lane->line.close();
        }
        due = std::any_of(waiting_.begin(), waiting_.end(), [&](const Exchange &each) { return each.due <= now; });
        if (idle_.size() < lanes_.size() || !waiting_.empty()) tickLaterLocked();
    }
    if (due) pump();
}

bool
Client::hasCredentials() {
    return driver_.credentialsReady([alive = alive_](const Status &status) {
        const MutexLock lock(alive->mutex);
        if (alive->client) alive->client->credentialsCame(status);
    });
}

void
Client::credentialsCame(const Status &status) {
    const MutexLock lock(mutex_);
    if (!status.ok()) {
        while (Job *const job = first_) {
            job->fail(status.code(), status.message());
            stopLocked(*job);
        }
        while (!waiting_.empty()) {
            Job *const job = waiting_.back().job;
            job->fail(status.code(), status.message());
            stopLocked(*job);
        }
    }
    pumpLaterLocked();
}

void
Client::pump() {
    for (;;) {
        {
            const MutexLock lock(mutex_);
            if (idle_.empty() || (!first_ && waiting_.empty())) return;
        }
        if (!hasCredentials()) return;
        Lane *lane = nullptr;
        HttpRequest request;
        {
            const MutexLock lock(mutex_);
            if (idle_.empty() || lanes_.size() - idle_.size() >= static_cast<size_t>(lanes_wanted_)) return;
            lane = idle_.back();
            if (!nextLocked(lane->exchange)) return;
            idle_.pop_back();
            request = requestFor(lane->exchange);
            tickLaterLocked();
        }
        lane->start(std::move(request));
    }
}

void
Client::ended(Lane &lane, int error) noexcept {
    HttpRequest request;
    const bool has_credentials = hasCredentials();
    {
        const MutexLock lock(mutex_);
        if (lane.exchange.job) {
            if (lane.stalled && error != 0) error = kStalled;
            settleLocked(lane.exchange, error);
        }
        lane.stalled = false;
        lane.exchange.job = nullptr;
        const bool wanted = lanes_.size() - idle_.size() <= static_cast<size_t>(lanes_wanted_);
        if (!has_credentials || !wanted || !nextLocked(lane.exchange)) {
            lane.line.rest();
            idle_.push_back(&lane);
            changed_.notifyAll();
            return;
        }
        request = requestFor(lane.exchange);
    }
    lane.start(std::move(request));
}

bool
Client::nextLocked(Exchange &exchange) {
    const Time now = Clock::now();
    const auto due =
        std::find_if(waiting_.begin(), waiting_.end(), [&](const Exchange &each) { return each.due <= now; });
    if (due != waiting_.end()) {
        exchange = std::move(*due);
        *due = std::move(waiting_.back());
        waiting_.pop_back();
        return true;
    }
    if (waiting_.size() > kWaitingPerLane * lanes_.size()) return false;
    while (Job *const job = first_) {
        removeLocked(*job);
        exchange = {};
        if (job->next(exchange)) {
            exchange.job = job;
            ++job->in_flight;
            pushLocked(*job);
            return true;
        }
        endIfQuietLocked(*job);
    }
    return false;
}

// ---- What comes of an exchange -------------------------------------------------------------------------------------

void
Client::settleLocked(Exchange &exchange, int error) {
    mark_.fetch_add(1, std::memory_order_relaxed);
    Job &job = *exchange.job;
    const Answer &answer = exchange.answer;
    std::optional<Verdict> wrong;
    if (answer.http != 0 && !answer.good()) {
        if (!job.accepts(exchange)) wrong = judge(answer);
    } else if (error != 0 && !(exchange.verb == Verb::kGet && answer.received > 0 && !beginsRight(exchange))) {
        const Failure failure = error == kStalled
            ? Failure{true, NIXL_ERR_BACKEND, "nothing moved for " + std::to_string(options_.stall.count()) + " ms"}
            : failureOf(error);
        wrong = Verdict{failure.again ? Verdict::Next::kRetry : Verdict::Next::kFail, failure.status, failure.reason};
    } else {
        wrong = wrongWith(exchange);
        if (!wrong) job.done(exchange);
    }
    if (!wrong) {
        lanes_wanted_ = std::min(static_cast<double>(lanes_.size()), lanes_wanted_ + 1 / lanes_wanted_);
    } else if (job.stopping()) {
        job.left_out = true;
    } else {
        const Time now = Clock::now();
        if (wrong->next == Verdict::Next::kSlower && now - last_slower_ > kSlowerEvery) {
            last_slower_ = now;
            lanes_wanted_ = std::max(1.0, static_cast<double>(lanes_.size() - idle_.size()) / 2);
        }
        if (wrong->next == Verdict::Next::kClock) driver_.setClock(answer.date);
        if (wrong->next == Verdict::Next::kCredentials) driver_.dropCredentials();
        const bool once = wrong->next == Verdict::Next::kClock || wrong->next == Verdict::Next::kCredentials;
        const unsigned tries_max = once ? std::min(1u, options_.retry_count) : options_.retry_count;
        if (wrong->next != Verdict::Next::kFail && exchange.attempt < tries_max) {
            againLocked(exchange, answer.retry_after);
            return;
        }
        if (exchange.verb == Verb::kGet && answer.good()) job.moved(answer.received);
        failLocked(exchange, wrong->status, wrong->reason);
        return;
    }
    --job.in_flight;
    exchange.job = nullptr;
    if (job.stopping()) stopLocked(job); // done() may have found a failure
    else if (!job.is_active) pushLocked(job);
}

void
Client::againLocked(Exchange &exchange, milliseconds at_least) {
    const auto most = std::min<int64_t>(kBackoffMax.count(), kBackoffFirst.count() << std::min(exchange.attempt, 20u));
    const milliseconds wait(std::uniform_int_distribution<int64_t>(0, most)(random_));
    ++exchange.attempt;
    exchange.due = Clock::now() + std::max(wait, std::min(at_least, kBackoffMax));
    exchange.answer = {};
    waiting_.push_back(std::move(exchange));
    tickLaterLocked();
}

void
Client::failLocked(Exchange &exchange, nixl_status_t status, const std::string &reason) {
    Job &job = *exchange.job;
    std::string sentence = describe(exchange) + ": " + reason;
    if (exchange.attempt > 0) sentence += " (after " + std::to_string(exchange.attempt + 1) + " tries)";
    job.fail(status, std::move(sentence));
    job.left_out = true;
    exchange.job = nullptr;
    --job.in_flight;
    stopLocked(job);
}

/// Nothing of it is begun any more, and what is in flight is broken off.
void
Client::stopLocked(Job &job) noexcept {
    job.left_out = job.left_out || job.is_active; // it may have had more
    removeLocked(job);
    std::erase_if(waiting_, [&](const Exchange &each) {
        if (each.job != &job) return false;
        --job.in_flight;
        job.left_out = true;
        return true;
    });
    for (const auto &lane : lanes_) {
        Exchange &exchange = lane->exchange;
        if (exchange.job != &job) continue;
        if (exchange.verb == Verb::kBegin && !isUndoing(job)) {
            // What it begins has to be undone, so that its answer is waited for.
            Undoing &undoing = *undoing_.emplace_back(std::make_unique<Undoing>(exchange));
            undoing.begin();
            undoing.in_flight = 1;
            exchange.job = &undoing;
            exchange.object = &undoing.object();
        } else if (lane->line.close()) {
            exchange.job = nullptr;
        } else {
            continue;
        }
        --job.in_flight;
        job.left_out = true;
    }
    endIfQuietLocked(job);
}

void
Client::endIfQuietLocked(Job &job) noexcept {
    if (job.in_flight > 0) return;
    for (Exchange exchange; job.undo(exchange); exchange = {}) {
        Undoing &undoing = *undoing_.emplace_back(std::make_unique<Undoing>(exchange));
        undoing.begin();
        pushLocked(undoing);
        pumpLaterLocked();
    }
    const bool is_undoing = isUndoing(job);
    job.finish(!job.left_out);
    if (is_undoing) std::erase_if(undoing_, [&](const auto &each) { return each.get() == &job; });
    changed_.notifyAll();
    bell_.ring();
}

bool
Client::isUndoing(const Job &job) const noexcept {
    return std::any_of(undoing_.begin(), undoing_.end(), [&](const auto &each) { return each.get() == &job; });
}

void
Client::pushLocked(Job &job) noexcept {
    job.is_active = true;
    job.next_active = nullptr;
    (last_ ? last_->next_active : first_) = &job;
    last_ = &job;
}

void
Client::removeLocked(Job &job) noexcept {
    if (!job.is_active) return;
    job.is_active = false;
    Job *before = nullptr;
    for (Job *each = first_; each != &job; each = each->next_active) before = each;
    (before ? before->next_active : first_) = job.next_active;
    if (last_ == &job) last_ = before;
}

// ---- What is said --------------------------------------------------------------------------------------------------

std::string
Client::describe(const Exchange &exchange) const {
    const std::string bytes = std::to_string(exchange.length) + " bytes at offset " + std::to_string(exchange.offset);
    std::string what;
    switch (exchange.verb) {
    case Verb::kGet: what = "reading " + bytes; break;
    case Verb::kPut:
    case Verb::kPutPart: what = "writing " + bytes; break;
    case Verb::kHead:
    case Verb::kLook: what = "looking at it"; break;
    case Verb::kBegin: what = "beginning to write it in parts"; break;
    case Verb::kComplete: what = "putting its parts together"; break;
    case Verb::kAbort: what = "taking its parts back"; break;
    }
    return "object " + exchange.object->name() + " in bucket " + quoted(options_.bucket) + " at " +
        options_.endpoint() + ": " + what;
}

HttpRequest
Client::requestFor(Exchange &exchange) const {
    HttpRequest request{.method = methodOf(exchange.verb), .target = exchange.object->path};
    switch (exchange.verb) {
    case Verb::kGet:
        request.headers.emplace_back("Range", bytesFrom(exchange.offset, exchange.length));
        if (!exchange.etag.empty()) request.headers.emplace_back("If-Match", exchange.etag);
        if (options_.checks_responses && exchange.offset == 0) {
            request.headers.emplace_back("x-amz-checksum-mode", "ENABLED");
        }
        break;
    case Verb::kPut: request.body_bytes = exchange.length; break;
    case Verb::kBegin:
        request.target += "?uploads=";
        if (options_.checks_requests) request.headers.emplace_back("x-amz-checksum-algorithm", "CRC32C");
        break;
    case Verb::kPutPart:
        request.target += "?partNumber=" + std::to_string(exchange.part) + "&uploadId=" + encodeQuery(exchange.upload);
        request.body_bytes = exchange.length;
        break;
    case Verb::kComplete:
        request.body_bytes = exchange.text.size();
        request.headers.emplace_back("Content-Type", "application/xml");
        [[fallthrough]];
    case Verb::kAbort: request.target += "?uploadId=" + encodeQuery(exchange.upload); break;
    default: break;
    }
    return request;
}

} // namespace nx::obj
