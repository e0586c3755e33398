// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Random programs of two peers over a simulated link, beside a model that knows what each request may do: memory, the
// order of notifications, every request ended once, and nothing written after its end or after a window is quiet.
// NIXL_TEST_PROGRAMS says how many run (1,000), NIXL_TEST_SEED where they begin.
#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "nixlx/engine.h"
#include "support/simulated_link.h"

namespace nx::kit {
namespace {

constexpr size_t kCellBytes = 512;
constexpr size_t kSmallCells = 64;
constexpr size_t kLargeCells = 1400; ///< more than two frames of payload
constexpr uint64_t kDeadAfter = 3000;
constexpr size_t kRequestsPerProgram = 40;
constexpr size_t kStepsMax = 3'000'000;
constexpr size_t kLongNoteBytes = size_t{8} << 20; ///< a few fill a share

/// Memory in cells. A cell belongs to one request at a time, or to none: then nobody may write it.
struct Arena {
    explicit Arena(size_t cell_count) : bytes(cell_count * kCellBytes, '.'), used(cell_count, false) {}

    /// The first of `count` free cells in a row from a random place on, or nothing.
    std::optional<size_t>
    take(size_t count, size_t from) {
        for (size_t tried = 0; tried < used.size(); ++tried) {
            const size_t first = (from + tried) % used.size();
            if (first + count > used.size()) continue;
            const auto begin = used.begin() + static_cast<ptrdiff_t>(first);
            if (std::find(begin, begin + static_cast<ptrdiff_t>(count), true) != begin + static_cast<ptrdiff_t>(count))
                continue;
            std::fill_n(begin, count, true);
            return first;
        }
        return {};
    }

    char *
    cell(size_t index) {
        return bytes.data() + index * kCellBytes;
    }

    void
    release(size_t first, size_t count) {
        std::fill_n(cell(first), count * kCellBytes, '.');
        std::fill_n(used.begin() + static_cast<ptrdiff_t>(first), count, false);
    }

    /// Free cells are as they were left.
    bool
    untouched() const {
        for (size_t i = 0; i < used.size(); ++i) {
            if (used[i]) continue;
            const auto cell = std::string_view(bytes).substr(i * kCellBytes, kCellBytes);
            if (cell.find_first_not_of('.') != std::string_view::npos) return false;
        }
        return true;
    }

    std::string bytes;
    std::vector<bool> used;
};

/// One request and what the model knows of it.
struct Job {
    Request request;
    size_t side;
    size_t local_cell, remote_cell, cell_count;
    std::string expected; ///< what both sides hold after success
    std::string note;
    bool legal = true; ///< its remote side is in a window that was there when it was made
    bool copy = false;
    size_t copied_cells = 0;
    bool ended = false;
    bool note_seen = false;
    bool remote_order = true; ///< the peer's cells are in the order of ours, not backwards
    bool remote_released = false;
    nixl_status_t outcome = NIXL_IN_PROG;
};

struct Side {
    Side(std::string name, size_t stream_count, size_t cells) : local(cells), window_cells(cells) {
        SessionOptions options;
        options.hello.name = std::move(name);
        options.stream_count = stream_count;
        options.dead_after = kDeadAfter;
        session = std::make_unique<Session>(std::move(options), inbox, 0);
    }

    Inbox inbox{"simulation"};
    std::unique_ptr<Session> session;
    Arena local;
    Arena window_cells;
    Window window;
    enum { kOpen, kRevoked, kQuiet } window_state = kOpen;
    std::string when_quiet;      ///< its memory at that moment
    uint64_t notes_sent = 0;     ///< plain ones
    uint64_t notes_expected = 0; ///< the number of the next one that arrives here
};

class Program {
public:
    /// `crowded`: one side has more to tell than the other has places for.
    explicit Program(uint64_t seed, bool crowded = false)
        : random_(seed),
          crowded_(crowded),
          stream_count_(below(4) + 1),
          cells_(below(5) == 0 ? kLargeCells : kSmallCells),
          sides_{Side("left", stream_count_, cells_), Side("right", stream_count_, cells_)},
          link_(*sides_[0].session, *sides_[1].session, stream_count_, seed, character()) {
        if (below(3) == 0) death_step_ = below(4000);
        for (size_t side = 0; side < 2; ++side) openWindow(side);
    }

    void
    run() {
        size_t step = 0;
        bool dying = false;
        while (!finished() && !testing::Test::HasFailure()) {
            ASSERT_LT(++step, kStepsMax) << "no end: " << state();
            if (step == death_step_) dying = true;
            if (dying) die();
            link_.step();
            if (below(8) == 0) act();
            takeEnded();
            takeQuiet();
        }
        takeNotes();
        check();
    }

    /// How often there was no place for a notification.
    size_t
    refusedCount() const {
        return refused_;
    }

private:
    test::SimulatedLink::Character
    character() {
        test::SimulatedLink::Character made;
        const bool large = crowded_ || cells_ == kLargeCells;
        switch (below(3)) {
        case 0: // everything at once
            break;
        case 1: // full queues
            made.capacity = large ? 30000 : 1 + below(100);
            made.burst = made.capacity;
            break;
        case 2: // cut anywhere
            made.burst = large ? 40000 : 1 + below(200);
            made.capacity = 2 * made.burst;
        }
        made.keep_percent = below(2) ? 30 : 0;
        made.time_per_step = 1 + below(3);
        return made;
    }

    uint64_t
    below(uint64_t bound) {
        return random_() % bound;
    }

    bool
    alive() const {
        return !dead_[0] && !dead_[1];
    }

    void
    openWindow(size_t index) {
        Side &side = sides_[index];
        side.window = {.key = {1, side.window.key.generation + 1},
                       .rights = kMayRead | kMayWrite | (copies_ ? kMayCopy : 0),
                       .address = reinterpret_cast<uint64_t>(side.window_cells.bytes.data()),
                       .length = side.window_cells.bytes.size()};
        side.window_state = Side::kOpen;
        ASSERT_TRUE(side.session->announce(side.window).ok());
    }

    void
    act() {
        const size_t index = below(2);
        Side &side = sides_[index];
        switch (below(14)) {
        case 0:
        case 1:
        case 2:
        case 3: return make(index);
        case 4:
        case 5: {
            if (side.notes_sent == (isLong(index) ? 10 : 50)) return;
            const Status sent = side.session->sendNote(plainNote(index, side.notes_sent));
            if (sent.ok()) ++side.notes_sent;
            if (sent.code() == NIXL_ERR_REPOST_ACTIVE) ++refused_;
            return;
        }
        case 6:
            if (!jobs_.empty()) {
                Job &job = *jobs_[below(jobs_.size())];
                sides_[job.side].session->cancel(job.request);
            }
            return;
        case 7:
            if (below(10) == 0 && side.window_state == Side::kOpen && revocations_++ < 6) {
                ASSERT_TRUE(side.session->revoke(side.window.key).ok());
                side.window_state = Side::kRevoked;
            }
            return;
        case 8:
            checkQuiet(side);
            if (side.window_state == Side::kQuiet && side.session->state() <= Session::State::kOpen) openWindow(index);
            return;
        case 9:
            if (below(100) == 0) link_.pause(index, link_.now + below(kDeadAfter / 4));
            return;
        default:
            copySome();
            if (!crowded_ || below(40) == 0) takeNotes();
        }
    }

    bool
    isLong(size_t sender) const {
        return crowded_ && sender == 0;
    }

    std::string
    plainNote(size_t sender, uint64_t number) const {
        return "plain " + std::to_string(number) + std::string(isLong(sender) ? kLongNoteBytes : 0, '~');
    }

    void
    make(size_t index) {
        if (jobs_.size() == kRequestsPerProgram || sides_[1 - index].window_state != Side::kOpen) return;
        Side &side = sides_[index];
        Side &other = sides_[1 - index];
        const size_t count = 1 + below(cells_ == kLargeCells && below(3) == 0 ? 1200 : 5);
        const auto local = side.local.take(count, below(cells_));
        if (!local) return;
        const auto remote = other.window_cells.take(count, below(cells_));
        if (!remote) return side.local.release(*local, count);
        auto made = std::make_unique<Job>();
        Job &job = *made;
        job.side = index;
        job.local_cell = *local;
        job.remote_cell = *remote;
        job.cell_count = count;
        job.request.operation = below(2) ? NIXL_WRITE : NIXL_READ;
        job.expected.resize(count * kCellBytes);
        for (char &byte : job.expected) byte = static_cast<char>('a' + below(26));
        const bool writes = job.request.operation == NIXL_WRITE;
        // Cell by cell in another order on the two sides, or in one run.
        const bool in_one = below(2);
        ASSERT_TRUE(add(job.request.local, side.local, *local, count, false, {}));
        ASSERT_TRUE(add(job.request.remote, other.window_cells, *remote, count, !in_one, other.window.key));
        std::string there = job.expected;
        if (!in_one) {
            for (size_t i = 0; i < count; ++i) {
                job.expected.copy(there.data() + (count - 1 - i) * kCellBytes, kCellBytes, i * kCellBytes);
            }
        }
        job.remote_order = in_one;
        if (writes) {
            job.expected.copy(side.local.cell(*local), job.expected.size());
        } else {
            there.copy(other.window_cells.cell(*remote), there.size());
        }
        if (below(8) == 0) { // beyond the window by some bytes
            job.request.remote.blocks()[0].address = other.window.address + other.window.length - below(kCellBytes);
            job.legal = false;
        }
        if (below(2)) job.note = "job " + std::to_string(jobs_.size()) + std::string(isLong(index) ? 1 << 20 : 0, '~');
        std::optional<std::string> note;
        if (!job.note.empty()) note = job.note;
        job.copy = copies_ && below(2);
        Status posted = job.copy ? side.session->postCopy(job.request, note) : side.session->post(job.request, note);
        if (!posted.ok()) {
            side.local.release(*local, count);
            other.window_cells.release(*remote, count);
            return;
        }
        EXPECT_TRUE(job.legal || !job.copy);
        jobs_.push_back(std::move(made));
    }

    static bool
    add(Layout &layout, Arena &arena, size_t first, size_t count, bool backwards, WindowKey window) {
        const auto address = reinterpret_cast<uint64_t>(arena.cell(backwards ? first + count - 1 : first));
        const uint64_t stride = backwards ? uint64_t{0} - kCellBytes : kCellBytes;
        return layout.add(
            {.address = address, .length = kCellBytes, .stride = stride, .count = count, .window = window});
    }

    /// What a carrier does that copies by itself: a cell at a time, until it is told to stop.
    void
    copySome() {
        for (const auto &each : jobs_) {
            Job &job = *each;
            if (!job.copy || job.ended || job.request.phase != Request::Phase::kCopying) continue;
            if (job.request.stop || !alive()) { // linkLost says that the peer cannot copy any more
                sides_[job.side].session->copied(job.request, Status(NIXL_ERR_BACKEND, "stopped"));
                continue;
            }
            if (below(2)) continue;
            std::array<Piece, 1> here, there;
            const uint64_t at = job.copied_cells * kCellBytes;
            job.request.local.pieces(at, kCellBytes, here);
            job.request.remote.pieces(at, kCellBytes, there);
            const bool writes = job.request.operation == NIXL_WRITE;
            std::memcpy(writes ? there[0].address : here[0].address, writes ? here[0].address : there[0].address,
                        kCellBytes);
            if (++job.copied_cells == job.cell_count) sides_[job.side].session->copied(job.request, Status());
        }
    }

    std::string
    remoteBytes(const Job &job) {
        Arena &arena = sides_[1 - job.side].window_cells;
        std::string found;
        for (size_t i = 0; i < job.cell_count; ++i) {
            const size_t cell = job.remote_order ? i : job.cell_count - 1 - i;
            found.append(arena.cell(job.remote_cell + cell), kCellBytes);
        }
        return found;
    }

    void
    takeEnded() {
        for (size_t index = 0; index < 2; ++index) {
            while (Request *request = sides_[index].session->nextEnded()) {
                const auto found =
                    std::find_if(jobs_.begin(), jobs_.end(), [&](const auto &job) { return &job->request == request; });
                ASSERT_NE(found, jobs_.end());
                Job &job = **found;
                EXPECT_FALSE(job.ended) << "a request ended twice";
                job.ended = true;
                job.outcome = request->outcome.code();
                checkOutcome(job);
                sides_[index].local.release(job.local_cell, job.cell_count);
                // The other side may see the note later, and its memory is quiet unless the link was lost.
                if (!awaitsNote(job)) releaseRemote(job);
            }
        }
    }

    bool
    awaitsNote(const Job &job) const {
        return job.outcome == NIXL_SUCCESS && !job.note.empty() && !job.note_seen &&
            job.request.operation == NIXL_WRITE;
    }

    void
    releaseRemote(Job &job) {
        // After a loss the peer may go on for a while with what has arrived: its cells stay as they are.
        if (job.outcome == NIXL_ERR_REMOTE_DISCONNECT || job.remote_released) return;
        job.remote_released = true;
        sides_[1 - job.side].window_cells.release(job.remote_cell, job.cell_count);
    }

    static std::string
    describe(const Job &job, std::string_view found) {
        const auto differs = std::mismatch(found.begin(), found.end(), job.expected.begin()).first - found.begin();
        return std::string(job.request.operation == NIXL_WRITE ? "write" : "read") + (job.copy ? ", copied" : "") +
            ", from byte " + std::to_string(differs) + " of " + std::to_string(found.size()) + " on, where '" +
            found[static_cast<size_t>(differs)] + "' is";
    }

    void
    checkOutcome(const Job &job) {
        switch (job.outcome) {
        case NIXL_SUCCESS: {
            EXPECT_TRUE(job.legal);
            const auto here = std::string_view(sides_[job.side].local.cell(job.local_cell), job.expected.size());
            EXPECT_TRUE(here == job.expected) << "wrong bytes here: " << describe(job, here);
            const std::string there = remoteBytes(job);
            EXPECT_TRUE(there == job.expected) << "wrong bytes at the peer: " << describe(job, there);
            return;
        }
        case NIXL_ERR_CANCELED: EXPECT_TRUE(job.request.cancelled); return;
        case NIXL_ERR_NOT_FOUND: EXPECT_TRUE(!job.legal || revocations_ > 0) << job.request.outcome.message(); return;
        case NIXL_ERR_REMOTE_DISCONNECT: EXPECT_FALSE(alive()) << job.request.outcome.message(); return;
        default:
            if (job.copy && !alive()) return; // as its carrier said
            ADD_FAILURE() << "a request ended with " << job.outcome << ": " << job.request.outcome.message();
        }
    }

    void
    takeQuiet() {
        for (Side &side : sides_) {
            while (const auto key = side.session->nextQuiet()) {
                EXPECT_EQ(*key, side.window.key);
                EXPECT_EQ(side.window_state, Side::kRevoked);
                side.window_state = Side::kQuiet;
                side.when_quiet = side.window_cells.bytes;
            }
        }
    }

    /// While a window is quiet nothing changes there but what the model itself does (release).
    static void
    checkQuiet(const Side &side) {
        if (side.window_state != Side::kQuiet) return;
        for (size_t at = 0; at < side.when_quiet.size(); at += kCellBytes) {
            if (!side.window_cells.used[at / kCellBytes]) continue;
            const auto then = std::string_view(side.when_quiet).substr(at, kCellBytes);
            EXPECT_TRUE(std::string_view(side.window_cells.bytes).substr(at, kCellBytes) == then)
                << "written while the window is quiet";
        }
    }

    void
    takeNotes() {
        for (size_t index = 0; index < 2; ++index) {
            Side &side = sides_[index];
            notif_list_t list;
            for (const auto question : side.inbox.takeAll(list)) {
                static_cast<void>(question);
                side.session->notesFetched();
            }
            uint64_t taken = 0;
            for (const auto &[sender, note] : list) {
                EXPECT_EQ(sender, index == 0 ? "right" : "left");
                taken += messageCost(sender, note);
                if (note.starts_with("plain ")) {
                    EXPECT_TRUE(note == plainNote(1 - index, side.notes_expected++)) << note.substr(0, 20);
                    continue;
                }
                const auto found =
                    std::find_if(jobs_.begin(), jobs_.end(), [&](const auto &job) { return job->note == note; });
                ASSERT_NE(found, jobs_.end()) << note;
                Job &job = **found;
                EXPECT_FALSE(job.note_seen) << note;
                EXPECT_EQ(job.side, 1 - index);
                job.note_seen = true;
                if (job.ended) {
                    EXPECT_TRUE(job.outcome == NIXL_SUCCESS || job.outcome == NIXL_ERR_REMOTE_DISCONNECT) << note;
                }
                if (job.request.operation == NIXL_WRITE && !job.remote_released) {
                    EXPECT_TRUE(remoteBytes(job) == job.expected) << note << " is seen before its data";
                }
                if (job.ended) releaseRemote(job);
            }
            EXPECT_LE(taken, kShareBytes) << "more than the sender had places for";
        }
    }

    /// The link ends, for one side first.
    void
    die() {
        const size_t index = dead_[0] ? 1 : dead_[1] ? 0 : below(2);
        if (dead_[index] || (!alive() && below(50) > 0)) return;
        dead_[index] = true;
        sides_[index].session->linkLost("simulated");
    }

    bool
    finished() {
        if (!alive()) {
            if (!dead_[0] || !dead_[1]) return false;
            link_.giveBack();
            copySome();
            takeEnded();
            takeQuiet();
            return std::ranges::all_of(jobs_, [](const auto &job) { return job->ended; });
        }
        if (jobs_.size() < kRequestsPerProgram / 2) return false;
        for (const auto &job : jobs_) {
            if (!job->ended || (job->outcome == NIXL_SUCCESS && !job->note.empty() && !job->note_seen)) return false;
        }
        return sides_[0].notes_expected == sides_[1].notes_sent && sides_[1].notes_expected == sides_[0].notes_sent;
    }

    void
    check() {
        for (Side &side : sides_) {
            EXPECT_TRUE(side.local.untouched()) << "written after the end of a request, here";
            if (alive()) {
                EXPECT_EQ(side.session->state(), Session::State::kOpen) << side.session->reason().message();
                EXPECT_TRUE(side.window_cells.untouched()) << "written after the end of a request, at the peer";
            }
            checkQuiet(side);
            EXPECT_EQ(side.inbox.droppedCount(), 0u);
        }
    }

    std::string
    state() const {
        std::string text = std::to_string(jobs_.size()) + " jobs";
        for (const auto &job : jobs_) {
            if (!job->ended) text += ", phase " + std::to_string(static_cast<int>(job->request.phase));
        }
        for (const Side &side : sides_) text += "; " + side.session->reason().message();
        return text;
    }

    std::mt19937_64 random_;
    const bool crowded_;
    const size_t stream_count_;
    const size_t cells_;
    const bool copies_ = below(2);
    std::array<Side, 2> sides_;
    test::SimulatedLink link_;
    std::vector<std::unique_ptr<Job>> jobs_;
    size_t revocations_ = 0;
    size_t refused_ = 0;
    size_t death_step_ = 0;
    std::array<bool, 2> dead_{};
};

uint64_t
numberFrom(const std::string &name, uint64_t otherwise) {
    const auto text = nixlx::configValue(name);
    return text ? std::stoull(*text) : otherwise;
}

TEST(PeerSimulation, RandomProgramsDoWhatTheModelSays) {
    const uint64_t first = numberFrom("NIXL_TEST_SEED", std::random_device()());
    const uint64_t count = numberFrom("NIXL_TEST_PROGRAMS", 1000);
    for (uint64_t seed = first; seed < first + count; ++seed) {
        Program(seed).run();
        ASSERT_FALSE(HasFailure()) << "NIXL_TEST_SEED=" << seed << " NIXL_TEST_PROGRAMS=1 repeats it";
    }
}

TEST(PeerSimulation, CreditsHoldBackWhatHasNoPlaceAndLoseNothing) {
    const uint64_t first = numberFrom("NIXL_TEST_SEED", std::random_device()());
    const uint64_t count = numberFrom("NIXL_TEST_PROGRAMS", 1000) / 250 + 1;
    size_t refused = 0;
    for (uint64_t seed = first; seed < first + count; ++seed) {
        Program program(seed, true);
        program.run();
        refused += program.refusedCount();
        ASSERT_FALSE(HasFailure()) << "NIXL_TEST_SEED=" << seed << " NIXL_TEST_PROGRAMS=1 repeats it";
    }
    EXPECT_TRUE(refused > 0 || count == 1) << "no limit was met, from seed " << first << " on";
}

} // namespace
} // namespace nx::kit
