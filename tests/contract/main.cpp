// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The program that tests one backend: which one and with which suites comes from its build line, the rest from
// backendUnderTest().
#include <algorithm>
#include <iostream>
#include <map>

#include "contract/contract.h"

namespace nx::test {

namespace {

constexpr const char *kBackend = NX_CONTRACT_BACKEND;

bool
passes(const std::string &suite) {
    return std::string(" " NX_CONTRACT_SUITES " ").find(" " + suite + " ") != std::string::npos;
}

bool
isAvailable(const std::string &plugin) {
    nixlAgent agent("probe", nixlAgentConfig());
    std::vector<nixl_backend_t> plugins;
    require(agent.getAvailPlugins(plugins), "list plugins");
    return std::find(plugins.begin(), plugins.end(), plugin) != plugins.end();
}

/// Tells at the end what was not tested and why.
class SkipCount : public testing::EmptyTestEventListener {
    void
    OnTestEnd(const testing::TestInfo &test) override {
        const testing::TestResult &result = *test.result();
        if (!result.Skipped()) return;
        std::string reason;
        for (int i = 0; i < result.total_part_count(); ++i) reason += result.GetTestPartResult(i).message();
        skips_[reason].push_back(std::string(test.test_suite_name()) + "." + test.name());
    }

    void
    OnTestProgramEnd(const testing::UnitTest &program) override {
        std::cout << "contract: " << program.successful_test_count() << " passed, " << program.skipped_test_count()
                  << " skipped" << (skips_.empty() ? "" : ":") << "\n";
        for (const auto &[reason, tests] : skips_) {
            std::cout << "  " << reason << ": " << tests.front();
            if (tests.size() > 1) std::cout << " and " << tests.size() - 1 << " more";
            std::cout << "\n";
        }
    }

    std::map<std::string, std::vector<std::string>> skips_; ///< reason -> tests
};

std::vector<Mode>
modesOf(const std::string &suite) {
    std::vector<Mode> modes;
    if (!passes(suite)) return modes;
    for (const bool threaded : {false, true}) {
        if (suite == "Remote" || (suite == "Any" && passes("Remote"))) modes.push_back({threaded, Reach::kPeer});
        if (suite == "Storage" || (suite == "Any" && passes("Storage"))) {
            for (const StoreKind &kind : backendUnderTest().stores) {
                modes.push_back({threaded, Reach::kStore, kind});
                if (suite == "Any") break; // what differs between kinds is for Storage to find
            }
        }
        if (suite == "Any" && !passes("Remote") && !passes("Storage")) modes.push_back({threaded, Reach::kWithin});
    }
    return modes;
}

std::string
nameOf(const Mode &mode) {
    const std::string name = mode.progress_thread ? "Threaded" : "Polled";
    return mode.reach == Reach::kStore ? name + mode.store.name : name;
}

std::string
nameOfCase(const testing::TestParamInfo<Mode> &info) {
    return nameOf(info.param);
}

} // namespace

void
PrintTo(const Mode &mode, std::ostream *out) {
    *out << kBackend << " " << nameOf(mode);
}

const BackendUnderTest &
Contract::backend() {
    static const BackendUnderTest backend = backendUnderTest();
    return backend;
}

PairOptions
Contract::options() {
    return {.backend = kBackend,
            .params = backend().params,
            .progress_thread = GetParam().progress_thread,
            .notifications = passes("Remote")};
}

void
Contract::SetUp() {
    const testing::TestInfo &test = *testing::UnitTest::GetInstance()->current_test_info();
    const auto withoutPattern = [](const std::string &name) { return name.substr(0, name.find('/')); };
    const std::string claim = withoutPattern(test.test_suite_name()) + "." + withoutPattern(test.name());
    const std::string deviation = backend().deviation(claim, GetParam());
    if (!deviation.empty()) GTEST_SKIP() << deviation;
    pair = std::make_unique<AgentPair>(options());
}

void
Contract::TearDown() {
    pair.reset();
}

FarSide::FarSide(AgentPair &pair, const Mode &mode, Buffer &image, const Ranges &ranges)
    : pair_(pair),
      mode_(mode),
      image_(image),
      registered_(DRAM_SEG) {
    if (mode.reach == Reach::kStore) {
        store_.emplace(mode.store, mode.store.make(image.size()));
        registered_ = store_->registration();
        require(owner()->registerMem(registered_), "register a store");
        push();
        return;
    }
    for (const auto &[offset, length] : ranges) {
        const nixlBlobDesc range(image.desc(offset, length), "");
        nixl_reg_dlist_t alone(DRAM_SEG);
        alone.addDesc(range);
        registered_.addDesc(range);
        require(owner()->registerMem(alone), "register at " + owner().name);
    }
    if (mode.reach == Reach::kPeer) pair.exchange();
}

nixl_status_t
FarSide::deregister() const {
    return owner()->deregisterMem(registered_);
}

void
FarSide::push() const {
    if (store_) moveImage(NIXL_WRITE);
}

void
FarSide::pull() const {
    if (store_) moveImage(NIXL_READ);
}

void
FarSide::moveImage(nixl_xfer_op_t operation) const {
    const PairedAgent &a = pair_.a;
    const auto registration = registrationOf({image_.desc()});
    require(a->registerMem(registration), "register the image");
    nixlXferReqH *request = nullptr;
    require(a->createXferReq(operation, listOf({image_.desc()}), list(), a.name, request), "create for the image");
    require(pair_.run(request), "move the image");
    require(a->releaseXferReq(request), "release the image's request");
    require(a->deregisterMem(registration), "deregister the image");
}

FarSide &
Any::farSide(size_t size, const FarSide::Ranges &ranges) {
    return *far_sides_.emplace_back(std::make_unique<FarSide>(*pair, GetParam(), buffer(size), ranges));
}

// Those that the build line does not name have no tests.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Remote);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Storage);
INSTANTIATE_TEST_SUITE_P(, Any, testing::ValuesIn(modesOf("Any")), nameOfCase);
INSTANTIATE_TEST_SUITE_P(, Remote, testing::ValuesIn(modesOf("Remote")), nameOfCase);
INSTANTIATE_TEST_SUITE_P(, Storage, testing::ValuesIn(modesOf("Storage")), nameOfCase);

} // namespace nx::test

int
main(int argc, char **argv) {
    using namespace nx::test;
    testing::InitGoogleTest(&argc, argv);
    if (testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();
    const auto refuse = [](const std::string &why) {
        std::cerr << "contract: " << why << "\n";
        return 1;
    };
    if (!isAvailable(kBackend)) {
        return refuse(std::string("no plugin ") + kBackend + " in the plugin folders of this run (NIXL_PLUGIN_DIR)");
    }
    if (passes("Storage") && backendUnderTest().stores.empty()) {
        return refuse("the suite Storage has no store to test; backendUnderTest() says how one is made "
                      "(contract/contract.h)");
    }
    testing::UnitTest::GetInstance()->listeners().Append(new SkipCount);
    const int status = RUN_ALL_TESTS();
    if (testing::UnitTest::GetInstance()->test_to_run_count() > 0) return status;
    return refuse("no test ran; --gtest_list_tests lists them");
}
