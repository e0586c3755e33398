// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
#include "obj/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <thread>

#include "kit/params.h"
#include "obj/driver.h"

namespace nx::obj {

const nixlx_option kOptions[kOptionCount] = {
    {"bucket", "string", "", "where objects are; else AWS_DEFAULT_BUCKET", ""},
    {"endpoint_override", "string", "",
     "host[:port] or URL of the server; else AWS_ENDPOINT_OVERRIDE, "
     "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the region's of AWS",
     ""},
    {"scheme", "http|https", "https", "if the endpoint does not say", ""},
    {"region", "string", "", "else AWS_REGION, AWS_DEFAULT_REGION, the profile's, us-east-1", ""},
    {"use_virtual_addressing", "bool", "false", "the bucket is part of the host's name, not of the path", ""},
    {"access_key", "string", "", "with secret_key; else environment, profile, container, instance, web identity", ""},
    {"secret_key", "string", "", "", ""},
    {"session_token", "string", "", "of temporary keys", ""},
    {"ca_bundle", "string", "", "file of certificates that are trusted; else AWS_CA_BUNDLE, the system's", ""},
    {"req_checksum", "supported|required", "supported", "supported: all that is written has one", ""},
    {"resp_checksum", "supported|required", "supported", "supported: all that has one is checked", ""},
    {"num_threads", "int", "", "event loops (1-64); by default half of the processors", "threads"},
    {"part_size", "size", "8388608", "bytes of one GET; of one part of a larger write, at least 5 MiB (64 KiB-5 GiB)",
     ""},
    {"crtMinLimit", "size", "0", "1.4's name of part_size, if that is not given", ""},
    {"throughput_target_gbps", "string", "10", "with 2.5 connections for each (8-256)", ""},
    {"stall_ms", "int", "5000", "a connection on which nothing moves for so long is given up (50-600000)", ""},
    {"retries", "int", "8", "of one part (0-100)", ""},
    {"accelerated", "bool", "false", "refused: needs a vendor's library", ""},
    {"type", "string", "", "refused: a vendor of such a library", ""},
};

namespace {

constexpr uint64_t kPartBytesMin = uint64_t{64} << 10, kPartBytesMax = uint64_t{5} << 30;

std::string
setting(std::initializer_list<const char *> names) {
    for (const char *name : names) {
        if (const auto value = nixlx::configValue(name); value && !value->empty()) return *value;
    }
    return {};
}

Status
invalid(std::string sentence) {
    return {NIXL_ERR_INVALID_PARAM, std::move(sentence)};
}

bool
isHost(std::string_view text) {
    const auto fits = [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '-' || c == '_' || c == ':'; };
    return !text.empty() && text.size() <= 253 && std::all_of(text.begin(), text.end(), fits);
}

/// "http://[::1]:9000/" and all that is shorter.
Status
readEndpoint(std::string_view text, const std::string &scheme, Options &options) {
    const std::string whole(text);
    const auto refuse = [&] {
        return invalid("the endpoint " + quoted(whole) + " is not [http://|https://]host[:port]");
    };
    options.tls = scheme != "http";
    if (const size_t at = text.find("://"); at != std::string_view::npos) {
        const std::string_view given = text.substr(0, at);
        if (given != "http" && given != "https") return refuse();
        options.tls = given == "https";
        text.remove_prefix(at + 3);
    }
    while (text.ends_with('/')) text.remove_suffix(1);
    std::string_view host = text, port;
    if (text.starts_with('[')) {
        const size_t end = text.find(']');
        if (end == std::string_view::npos) return refuse();
        host = text.substr(1, end - 1);
        port = text.substr(end + 1);
        if (!port.empty() && !port.starts_with(':')) return refuse();
        if (!port.empty()) port.remove_prefix(1);
    } else if (const size_t colon = text.rfind(':'); colon != std::string_view::npos) {
        host = text.substr(0, colon);
        port = text.substr(colon + 1);
        if (port.empty() || host.find(':') != std::string_view::npos) return refuse();
    }
    options.port = options.tls ? 443 : 80;
    if (!port.empty()) {
        const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), options.port);
        if (error != std::errc() || end != port.data() + port.size() || options.port == 0) return refuse();
    }
    if (!isHost(host)) return refuse();
    options.host = host;
    return {};
}

Status
readAddress(kit::ParamReader &in, Options &options) {
    options.bucket = in.text("bucket");
    if (options.bucket.empty()) options.bucket = setting({"AWS_DEFAULT_BUCKET"});
    if (options.bucket.empty()) {
        return invalid("no bucket is given; set the parameter \"bucket\" or AWS_DEFAULT_BUCKET");
    }
    if (!isHost(options.bucket) || options.bucket.find(':') != std::string::npos) {
        return invalid("the bucket " + quoted(options.bucket) + " has a name that no bucket has");
    }
    options.region = in.text("region");
    if (options.region.empty()) options.region = setting({"AWS_REGION", "AWS_DEFAULT_REGION"});
    if (options.region.empty()) options.region = regionOfProfile();
    if (options.region.empty()) options.region = "us-east-1";
    if (!isHost(options.region)) return invalid("the region " + quoted(options.region) + " has a name that none has");
    std::string endpoint = in.text("endpoint_override");
    if (endpoint.empty()) endpoint = setting({"AWS_ENDPOINT_OVERRIDE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"});
    if (endpoint.empty()) {
        endpoint = "s3." + options.region + ".amazonaws.com" + (options.region.starts_with("cn-") ? ".cn" : "");
    }
    const std::string scheme = in.choice("scheme", "https", {"http", "https", ""});
    options.bucket_in_host = in.boolean("use_virtual_addressing", false);
    if (Status status = readEndpoint(endpoint, scheme, options); !status.ok()) return status;
    if (options.bucket_in_host) options.host = options.bucket + "." + options.host;
    return {};
}

Status
readCredentials(const kit::ParamReader &in, Options &options) {
    Credentials given{in.text("access_key"), in.text("secret_key"), in.text("session_token")};
    if (given.access_key.empty() != given.secret_key.empty()) {
        return invalid("access_key and secret_key are given together, or neither");
    }
    if (!given.access_key.empty()) options.credentials = std::move(given);
    else if (!given.session_token.empty()) return invalid("session_token needs access_key and secret_key");
    return {};
}

/// "required" means: only where the protocol asks for one, which it does for nothing that is done here.
bool
wantsChecksums(kit::ParamReader &in, const char *name, const char *variable) {
    const std::string given = in.choice(name, "", {"supported", "required", ""});
    if (!given.empty()) return given == "supported";
    return setting({variable}) != "WHEN_REQUIRED" && setting({variable}) != "when_required";
}

uint64_t
connectionsFor(const std::string &gbps, Status &status) {
    double target = 10;
    const auto [end, error] = std::from_chars(gbps.data(), gbps.data() + gbps.size(), target);
    if (!gbps.empty() && (error != std::errc() || end != gbps.data() + gbps.size() || !(target >= 0))) {
        status = invalid("throughput_target_gbps " + quoted(gbps) + " is no number");
        return 0;
    }
    return static_cast<uint64_t>(std::ceil(std::clamp(2.5 * target, 8.0, 256.0)));
}

} // namespace

std::string
Options::endpoint() const {
    const bool is_v6 = host.find(':') != std::string::npos;
    return (tls ? "https://" : "http://") + (is_v6 ? "[" + host + "]" : host) +
        (port == (tls ? 443 : 80) ? "" : ":" + std::to_string(port));
}

Result<Options>
readOptions(const nixl_b_params_t *params) {
    kit::ParamReader in(params);
    Options options;
    if (in.boolean("accelerated", false) || !in.text("type").empty()) {
        return {NIXL_ERR_BACKEND,
                "the accelerated engine (\"accelerated\", \"type\") is a vendor's library (cuobjclient) that this "
                "backend does not use; leave both out, and objects travel over HTTP"};
    }
    if (Status status = readAddress(in, options); !status.ok()) return status;
    if (Status status = readCredentials(in, options); !status.ok()) return status;
    options.ca_bundle = in.text("ca_bundle");
    if (options.ca_bundle.empty()) options.ca_bundle = setting({"AWS_CA_BUNDLE"});
    options.checks_requests = wantsChecksums(in, "req_checksum", "AWS_REQUEST_CHECKSUM_CALCULATION");
    options.checks_responses = wantsChecksums(in, "resp_checksum", "AWS_RESPONSE_CHECKSUM_VALIDATION");
    const unsigned processors = std::max(1u, std::thread::hardware_concurrency());
    const auto given = [&](const char *name) { return !in.text(name).empty(); };
    options.thread_count = std::min(64u, std::max(1u, processors / 2));
    if (given("num_threads")) {
        options.thread_count = static_cast<uint16_t>(in.number("num_threads", 1, {.min = 1, .max = 64}));
    }
    if (given("part_size")) {
        options.part_bytes = in.number("part_size", 0, {.min = kPartBytesMin, .max = kPartBytesMax});
    }
    if (given("crtMinLimit")) {
        const uint64_t limit = in.number("crtMinLimit", 0);
        // 1 is 1.4's word for "all objects", not a size.
        if (limit > 1 && !given("part_size")) options.part_bytes = std::clamp(limit, kPartBytesMin, kPartBytesMax);
    }
    Status status;
    options.connection_count = connectionsFor(in.text("throughput_target_gbps"), status);
    if (!status.ok()) return status;
    if (given("stall_ms")) {
        options.stall = std::chrono::milliseconds(in.number("stall_ms", 0, {.min = 50, .max = 600000}));
    }
    if (given("retries")) options.retry_count = static_cast<unsigned>(in.number("retries", 0, {.min = 0, .max = 100}));
    if (!in.status().ok()) return {in.status().code(), in.status().message()};
    return options;
}

} // namespace nx::obj
