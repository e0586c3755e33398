// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// The backends that take the suite, and the count of what was skipped.
#include <algorithm>
#include <iostream>
#include <map>

#include "contract/contract.h"

namespace nx::test {

namespace {

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
        skips_[reason].push_back(test.name());
    }

    void
    OnTestProgramEnd(const testing::UnitTest &program) override {
        std::cout << "contract: " << program.skipped_test_count() << " skipped" << (skips_.empty() ? "" : ":") << "\n";
        for (const auto &[reason, tests] : skips_) {
            std::cout << "  " << reason << ": " << tests.front();
            if (tests.size() > 1) std::cout << " and " << tests.size() - 1 << " more";
            std::cout << "\n";
        }
    }

    std::map<std::string, std::vector<std::string>> skips_; ///< reason -> tests
};

class InstallSkipCount : public testing::Environment {
    void
    SetUp() override {
        testing::UnitTest::GetInstance()->listeners().Append(new SkipCount);
    }
};
const auto *const installed = testing::AddGlobalTestEnvironment(new InstallSkipCount);

auto
bothModes(BackendUnderTest polled) {
    BackendUnderTest threaded = polled;
    threaded.progress_thread = true;
    return testing::Values(std::move(polled), std::move(threaded));
}

std::string
modeName(const testing::TestParamInfo<BackendUnderTest> &info) {
    return info.param.progress_thread ? "Threaded" : "Polled";
}

} // namespace

void
Contract::SetUp() {
    if (!isAvailable(GetParam().name)) GTEST_SKIP() << "no plugin " << GetParam().name << " in this build";
    const std::string test = testing::UnitTest::GetInstance()->current_test_info()->name();
    const std::string deviation = GetParam().deviation(test.substr(0, test.find('/')));
    if (!deviation.empty()) GTEST_SKIP() << deviation;
    pair = std::make_unique<AgentPair>(options());
}

INSTANTIATE_TEST_SUITE_P(Loopback,
                         Contract,
                         bothModes({.name = "LOOPBACK", .storage = {FILE_SEG, OBJ_SEG, BLK_SEG}}),
                         modeName);

// The same engine as a plugin that knows NIXL 1.4 only.
INSTANTIATE_TEST_SUITE_P(Legacy,
                         Contract,
                         bothModes({.name = "LEGACY", .storage = {FILE_SEG, OBJ_SEG, BLK_SEG}}),
                         modeName);

INSTANTIATE_TEST_SUITE_P(Ucx, Contract, bothModes({.name = "UCX"}), modeName);

} // namespace nx::test
