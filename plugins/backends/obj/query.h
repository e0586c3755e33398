// SPDX-FileCopyrightText: The nixl authors
// SPDX-License-Identifier: Apache-2.0
//
// Which of many objects are there, and how large. Guarded by the client's mutex while it is posted.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "obj/exchange.h"

namespace nx::obj {

class Query final : public Job {
public:
    explicit Query(std::vector<std::shared_ptr<const Object>> objects)
        : objects_(std::move(objects)),
          answers_(objects_.size()) {}

    void
    restart() noexcept override {
        next_ = 0;
    }

    bool
    next(Exchange &exchange) override {
        if (next_ == objects_.size()) return false;
        exchange.verb = Verb::kHead;
        exchange.object = objects_[next_].get();
        exchange.index = next_++;
        return true;
    }

    void
    done(Exchange &exchange) override {
        answers_[exchange.index] = nixl_b_params_t{{"size", std::to_string(exchange.answer.length.value_or(0))}};
    }

    bool
    accepts(Exchange &exchange) override {
        return exchange.answer.http == 404;
    }

    std::vector<nixl_query_resp_t> &
    answers() noexcept {
        return answers_;
    }

private:
    const std::vector<std::shared_ptr<const Object>> objects_;
    std::vector<nixl_query_resp_t> answers_;
    size_t next_ = 0;
};

} // namespace nx::obj
