// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "telemetry/settings.h"

#include <algorithm>
#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nx::telemetry {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class TelemetrySettings : public testing::Test {
protected:
    void
    TearDown() override {
        for (const auto &name : set_) ::unsetenv(name.c_str());
    }

    void
    set(const std::string &name, const std::string &value) {
        ::setenv(name.c_str(), value.c_str(), 1);
        set_.push_back(name);
    }

    std::string
    problemWith(const std::string &name, const std::string &value) {
        set(name, value);
        const auto settings = readSettings();
        ::unsetenv(name.c_str());
        return settings.message();
    }

    static std::vector<std::string>
    enabled() {
        const auto settings = readSettings();
        std::vector<std::string> names;
        for (size_t i = 0; i < settings->enabled.size(); ++i) {
            const auto type = static_cast<nixl_telemetry_event_type_t>(i);
            if (settings->enabled[i]) names.push_back(nixlEnumStrings::telemetryEventTypeStr(type));
        }
        return names;
    }

    std::vector<std::string> set_;
};

TEST_F(TelemetrySettings, HaveTheDefaultsOf14) {
    const auto settings = readSettings();
    ASSERT_TRUE(settings.ok()) << settings.message();
    EXPECT_EQ(settings->exporter, "NOP");
    EXPECT_EQ(settings->queue_events, 4096u);
    EXPECT_EQ(settings->interval.count(), 100);
    EXPECT_EQ(enabled().size(), nixl_telemetry_event_type_count);
}

TEST_F(TelemetrySettings, AFolderSelectsTheRingFile) {
    set("NIXL_TELEMETRY_DIR", "/somewhere");
    EXPECT_EQ(readSettings()->exporter, "BUFFER");
    set("NIXL_TELEMETRY_EXPORTER", "other");
    EXPECT_EQ(readSettings()->exporter, "other");
}

TEST_F(TelemetrySettings, TakesNumbersInBothNotations) {
    set("NIXL_TELEMETRY_BUFFER_SIZE", "0x10");
    set("NIXL_TELEMETRY_RUN_INTERVAL", "0");
    EXPECT_EQ(readSettings()->queue_events, 16u);
    EXPECT_EQ(readSettings()->interval.count(), 0);
}

TEST_F(TelemetrySettings, NameTheOptionThatIsWrong) {
    const std::string size = "NIXL_TELEMETRY_BUFFER_SIZE", interval = "NIXL_TELEMETRY_RUN_INTERVAL";
    EXPECT_THAT(problemWith(size, "lots"), AllOf(HasSubstr(size), HasSubstr("'lots'")));
    EXPECT_THAT(problemWith(size, "-1"), HasSubstr(size));
    EXPECT_THAT(problemWith(size, ""), HasSubstr(size));
    EXPECT_THAT(problemWith(size, "0"), HasSubstr(size + " is 0; it must be from 1 to "));
    EXPECT_THAT(problemWith(size, "0xffffffffffffffff"), HasSubstr("it must be from 1 to 16777216"));
    EXPECT_THAT(problemWith(size, "99999999999999999999"), HasSubstr(size));
    EXPECT_THAT(problemWith(interval, "0.5"), HasSubstr(interval));
    EXPECT_THAT(problemWith(interval, "18446744073709551615"), HasSubstr("it must be from 0 to 3600000"));
    EXPECT_EQ(problemWith(size, "1"), "");
}

TEST_F(TelemetrySettings, MetricsAreChosenByGlobs) {
    set("NIXL_TELEMETRY_ENABLED_METRICS", "agent_tx_*, agent_err_backend,,agent_?x_bytes");
    EXPECT_THAT(enabled(),
                ElementsAre("agent_tx_bytes", "agent_rx_bytes", "agent_tx_requests_num", "agent_err_backend"));
    set("NIXL_TELEMETRY_ENABLED_METRICS", "");
    EXPECT_EQ(enabled().size(), nixl_telemetry_event_type_count) << "an empty list is none";
}

TEST_F(TelemetrySettings, AGlobThatMatchesNothingIsSaid) {
    set("NIXL_TELEMETRY_ENABLED_METRICS", "agent_tx_bytes,agent_tx_byte");
    testing::internal::CaptureStderr();
    EXPECT_THAT(enabled(), ElementsAre("agent_tx_bytes"));
    EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("no event has a name like 'agent_tx_byte'"));
}

} // namespace
} // namespace nx::telemetry
